"""Make and merge the passwords of a site.

Which passwords there are, and of which kind, is declared by the services (``passwords:`` in ``service.yaml``). A value
that is set is never touched; only hashes, which follow from another password, are made anew when they no longer fit it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kolla_salt.declarations import Declaration, write_atomically

Kind = Mapping[str, Any]
_LETTERS = string.ascii_letters + string.digits
LENGTH = 40
#: Kinds that are computed from another password.
DERIVED = {"bcrypt", "htpasswd"}


class PasswordError(ValueError):
    """A password file or a declaration is not usable."""


@dataclass
class Report:
    """What was done to the names of one file."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    #: kind ``none``: only the operator can know them
    open: list[str] = field(default_factory=list)
    #: in the file, but no service declares them
    undeclared: list[str] = field(default_factory=list)


def declared(declarations: Mapping[str, Declaration]) -> dict[str, Kind]:
    """Return every declared password with its kind, in the order of the declarations."""
    return {name: kind for decl in declarations.values() for name, kind in decl["passwords"].items()}


def make(kind: str) -> Any:
    """Return a new value of ``kind``: text, or for ``ssh_key`` a mapping of ``private_key`` and ``public_key``.

    Raises:
        PasswordError: the kind is unknown or needs another password (:func:`derive`).
    """
    if kind == "password":
        return "".join(secrets.choice(_LETTERS) for _ in range(LENGTH))
    if kind == "uuid":
        return str(uuid.uuid4())
    if kind == "fernet":
        return base64.urlsafe_b64encode(os.urandom(32)).decode()
    if kind == "hex32":
        return secrets.token_hex(16)
    if kind == "hmac_md5":
        # The form that rndc keys have: base64 of an MD5 HMAC.
        digest = hmac.new(uuid.uuid4().bytes, uuid.uuid4().bytes, hashlib.md5).digest()
        return base64.b64encode(digest).decode()
    if kind == "ssh_key":
        return _ssh_key()
    raise PasswordError(f"making a password of kind '{kind}': unknown kind")


def _ssh_key() -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return {"private_key": private.decode(), "public_key": public.decode() + "\n"}


def derive(name: str, kind: Kind, source: str, present: Any) -> str:
    """Return the hash that ``kind`` makes of the password ``source``; ``present`` if that already fits.

    Args:
        name: of the derived password; the default user name of a ``htpasswd`` line.
        kind: ``{kind: bcrypt|htpasswd, of: ..., user: ...}``.
        source: the password itself.
        present: the value in the file, or None.
    """
    import bcrypt

    user = f"{kind.get('user', name)}:" if kind["kind"] == "htpasswd" else ""
    if isinstance(present, str) and present.startswith(user):
        try:
            if bcrypt.checkpw(source.encode(), present[len(user) :].encode()):
                return present
        except ValueError:
            pass  # not a hash at all: made anew
    return user + bcrypt.hashpw(source.encode(), bcrypt.gensalt(rounds=10)).decode()


def fill(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> tuple[dict[str, Any], Report]:
    """Return the passwords that are to be written, and what became of all of them.

    Args:
        values: what is set now.
        kinds: every declared password.

    Raises:
        PasswordError: a derived password names another one that is not declared.
    """
    new: dict[str, Any] = {}
    report = Report(undeclared=sorted(set(values) - set(kinds)))
    order = sorted(kinds, key=lambda name: kinds[name]["kind"] in DERIVED)
    for name in order:
        kind, present = kinds[name], values.get(name)
        if kind["kind"] in DERIVED:
            source = new.get(kind.get("of"), values.get(kind.get("of")))
            if not isinstance(source, str):
                raise PasswordError(
                    f"making {name}, a {kind['kind']} hash of '{kind.get('of')}': no such password is declared"
                )
            value = derive(name, kind, source, present)
            if value == present:
                report.kept.append(name)
                continue
        elif present not in (None, "", {}):
            report.kept.append(name)
            continue
        elif kind["kind"] == "none":
            report.open.append(name)
            continue
        else:
            value = make(kind["kind"])
        new[name] = value
        report.made.append(name)
    return new, report


def read(path: Path) -> dict[str, Any]:
    """Return the content of a password file; an absent file is empty.

    Raises:
        PasswordError: it is not a mapping of names to values.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise PasswordError(f"reading {path}: not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PasswordError(f"reading {path}: expected a mapping of names to values, found a {type(data).__name__}")
    return data


def insert(text: str, new: Mapping[str, Any]) -> str:
    """Return the text of a password file with ``new`` in it: comments and order stay, new names come last.

    A line ``name:`` without a value gets one; lines with a value of another name are not touched.
    """
    lines = text.splitlines()
    for name, value in new.items():
        rendered = _entry(name, value).rstrip("\n").split("\n")
        pattern = re.compile(rf"^{re.escape(name)}\s*:(?:\s|$)")
        for number, line in enumerate(lines):
            if pattern.match(line):
                end = number + 1
                while end < len(lines) and lines[end].startswith((" ", "\t")):
                    end += 1
                lines[number:end] = rendered
                break
        else:
            lines += rendered
    return "\n".join(lines) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines, such as keys, as blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _entry(name: str, value: Any) -> str:
    return yaml.dump({name: value}, Dumper=_Dumper, default_flow_style=False, sort_keys=False, width=10_000)


def write(path: Path, text: str) -> None:
    """Replace a password file in one step; it can be read by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode(), mode=0o600)


def generate(path: Path, declarations: Mapping[str, Declaration]) -> Report:
    """Fill the file ``path`` with the passwords it lacks. A file that lacks none is not written.

    Raises:
        PasswordError: the file cannot be used.
    """
    new, report = fill(read(path), declared(declarations))
    text = path.read_text() if path.exists() else ""
    if new:
        write(path, insert(text, new))
    elif path.exists() and path.stat().st_mode & 0o777 != 0o600:
        path.chmod(0o600)
    return report


def merge(old: Mapping[str, Any], new: Mapping[str, Any], clean: bool = False) -> dict[str, Any]:
    """Return ``new`` with the values of ``old``, which win.

    Args:
        old: passwords in use.
        new: those of a newer release, made by genpwd.
        clean: drop names that ``new`` does not have.
    """
    kept = {name: value for name, value in old.items() if not clean or name in new}
    return {**new, **kept}


def dump(values: Mapping[str, Any]) -> str:
    """Return a password file with ``values``, sorted by name."""
    return "---\n" + "".join(_entry(name, values[name]) for name in sorted(values))
