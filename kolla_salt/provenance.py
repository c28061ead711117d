"""Where a run comes from: the person who gave the command, the command, and the revision of the site.

Nothing here raises: a record without a revision is better than no run.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import os
import pwd
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kolla_salt import masking

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: The files of a site beside its overrides.
FILES = ("globals.yml", "topology.yml", "passwords.yml")
#: What the kernel calls a process that no login has led to.
_NO_LOGIN = 2**32 - 1
#: Option values longer than this are told apart by their digest only.
_LONGEST = 200
#: Files that a revision names as changed.
_NAMED = 20


# --- the person and the command -------------------------------------------------------------------------------------


def person(proc: Path | str = "/proc", pid: int | None = None) -> dict[str, str]:
    """Return who stands behind this process.

    Args:
        proc: where the kernel tells about processes.
        pid: the process; default: this one.

    Returns:
        ``who``: the one who logged in, also behind ``sudo`` and ``su``; ``as``: the user that the command runs as;
        ``from``: the address an SSH session came from, where there is one.
    """
    base, current = Path(proc), os.getpid() if pid is None else pid
    running_as = _user()
    behind, address = "", ""
    login = _login(base / str(current) / "loginuid")
    for _ in range(40):
        environ = _environ(base / str(current) / "environ")
        named = environ.get("SUDO_USER") or environ.get("DOAS_USER") or ""
        # The outermost one counts: root may have become somebody else in between.
        behind = named if named not in ("", "root") else behind
        address = (environ.get("SSH_CONNECTION") or environ.get("SSH_CLIENT") or address).split(" ")[0]
        parent = _parent(base / str(current) / "stat")
        if parent <= 1:
            break
        current = parent
    who = login if login not in ("", "root") else behind or login or running_as
    return {"who": who, "as": running_as, **({"from": address} if address else {})}


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except (KeyError, OSError):
        with contextlib.suppress(KeyError, OSError, ImportError):
            return getpass.getuser()
        return str(os.geteuid())


def _login(path: Path) -> str:
    try:
        number = int(path.read_text())
        return "" if number == _NO_LOGIN else pwd.getpwuid(number).pw_name
    except (OSError, ValueError, KeyError):
        return ""


def _environ(path: Path) -> dict[str, str]:
    try:
        entries = path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _parent(path: Path) -> int:
    try:
        # The name of the program, in parentheses, may hold anything.
        return int(path.read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def program(argv: Sequence[str] | None = None) -> str:
    """Return what the command was given to: ``kolla-salt``, ``salt-run``, ``salt-master`` (an event or Salt's API)."""
    first = Path((sys.argv if argv is None else argv)[0] or "python")
    inside = "kolla_salt" in first.parts and first.name in {"main.py", "__main__.py"}
    return "kolla-salt" if inside else first.name


def command(argv: Sequence[str] | None = None) -> str:
    """Return the command as it was typed, on one line, with what looks like a secret masked."""
    words = list(sys.argv if argv is None else argv)
    name = program(words)
    return masking.mask(shlex.join([name, *words[1:]]), ()) if name.startswith(("kolla-salt", "salt")) else name


def equivalent(
    verb: str, services: Iterable[str] | None = None, hosts: Iterable[str] | None = None, every: bool = False
) -> str:
    """Return the command that does the same: what a colleague would type."""
    words = ["kolla-salt", *verb.split("-", 1)] if verb.startswith("node-") else ["kolla-salt", verb]
    words += list(services or [])
    if hosts:
        words += ["--limit", ",".join(hosts)]
    return shlex.join([*words, "--every-step"] if every else words)


# --- the site -------------------------------------------------------------------------------------------------------


def revision(directory: Path | str, timeout: float = 10) -> dict[str, Any] | None:
    """Return the revision of a folder in a git work tree, None outside of one.

    Returns:
        ``commit``, ``branch`` (empty: none is checked out), ``subject``, ``dirty`` (files of the folder differ from the
        commit, or are not in it), ``changed``: names of such files.

    Git runs as the folder's owner, with no hook and no file system monitor: what is configured in a repository
    must not be run as root.
    """
    folder = Path(directory)
    try:
        head = _git(folder, timeout, "log", "-1", "--no-show-signature", "--format=%H%n%D%n%s").split("\n")
        status = _git(
            folder, timeout, "status", "--porcelain=v1", "-z", "--no-renames", "--ignore-submodules=all",
            "--untracked-files=all", "--", ".",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"HEAD -> ([^,]+)", head[1])
    prefix = _prefix(folder, timeout)
    changed = [entry[3:].removeprefix(prefix) for entry in status.split("\0") if entry]
    return {
        "commit": head[0],
        "branch": found.group(1) if found else "",
        "subject": head[2][:200],
        "dirty": bool(changed),
        "changed": changed[:_NAMED],
    }


def _prefix(folder: Path, timeout: float) -> str:
    try:
        return _git(folder, timeout, "rev-parse", "--show-prefix").strip("\n")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, timeout: float, *arguments: str) -> str:
    owner = folder.stat()
    other = os.geteuid() == 0 and owner.st_uid != 0
    return subprocess.run(
        [
            "git", "--no-optional-locks", "--no-pager", "-C", str(folder),
            "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false",
            *arguments,
        ],
        capture_output=True, text=True, errors="replace", timeout=timeout, check=True, stdin=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
        **({"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if other else {}),
    ).stdout  # fmt: skip


def key(root: Path) -> bytes:
    """Return the key with which digests in the records of ``root`` are made; a new one where there is none.

    Without it nobody can try guesses at a short value against the digest of it.
    """
    path = root / ".key"
    with contextlib.suppress(OSError, ValueError):
        found = bytes.fromhex(path.read_text())
        if len(found) == 32:
            return found
    made = secrets.token_bytes(32)
    temporary = path.with_suffix(f".{os.getpid()}")
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(made.hex())
    os.replace(temporary, path)
    return made


def describe(directory: Path | str, digest_key: bytes, data: Any = None) -> dict[str, Any]:
    """Return what a record keeps of a site, so that two runs can be compared: names and digests, no secret.

    Args:
        directory: the site's folder.
        digest_key: see :func:`key`.
        data: the site, if it has been read: an object with ``globals``, ``topology`` and ``passwords``.

    Returns:
        ``files``: name -> digest; ``keys``: file -> name of an option, host or password -> digest; ``options``: those
        of ``globals.yml`` with their values, what looks like a secret masked.
    """
    base = Path(directory)
    parts: dict[str, Mapping[str, Any]] = {
        name: getattr(data, name.partition(".")[0]) if data is not None else _yaml(base / name) for name in FILES
    }
    values = masking.secret_values(parts["passwords.yml"])
    paths = [base / name for name in FILES]
    if (base / "overrides").is_dir():
        paths += sorted((base / "overrides").rglob("*"))
    told: dict[str, Any] = {"files": {}, "keys": {}, "options": {}}
    for path in paths:
        with contextlib.suppress(OSError):
            told["files"][str(path.relative_to(base))] = _digest(digest_key, path.read_bytes())
    for name, part in parts.items():
        flat = dict(part)
        if name == "topology.yml":
            hosts = flat.pop("hosts", None)
            flat |= {f"hosts.{host}": said for host, said in hosts.items()} if isinstance(hosts, Mapping) else {}
        told["keys"][name] = {str(key): _digest(digest_key, repr(value).encode()) for key, value in flat.items()}
    for option, value in parts["globals.yml"].items():
        text = masking.mask(f"{option}: {value}", values).removeprefix(f"{option}: ")
        told["options"][str(option)] = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    return told


def secret_texts(directory: Path | str) -> list[str]:
    """Return every secret text of the site in ``directory``, longest first; none if it cannot be read."""
    from kolla_salt import outcome

    return outcome.secrets_of(_yaml(Path(directory) / "passwords.yml"))


def _digest(digest_key: bytes, content: bytes) -> str:
    return hmac.new(digest_key, content, hashlib.sha256).hexdigest()[:12]


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(), Loader=_LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
