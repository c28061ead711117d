"""What all nodes share, made once and cached: a Debian root file system, wheels, and a Python environment.

Every product is built beside its place and renamed when it is complete, and carries in its name a digest of what it
was made from: a name that exists is complete and right.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.host import KEYRING, locked, remove_tree, run, write_file

SUITE = "trixie"
PYTHON_TAG = "cp313"
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
PACKAGES = (
    "ca-certificates", "docker-cli", "docker.io", "ethtool", "iproute2", "iptables", "iputils-ping", "kmod", "nftables",
    "openssl", "pigz", "procps", "python3", "python3-venv", "tini", "xz-utils",
)  # fmt: skip
# What only compiling wheels needs; installed in a throw-away overlay.
BUILD_PACKAGES = ("gcc", "libc6-dev", "python3-dev")
# Raise when the recipes below change what they make.
BASE_RECIPE = "1"
VENV_RECIPE = "2"

# Where the project's environment, code and metadata lie in a node.
NODE_VENV = "/opt/kolla-salt"
NODE_SRC = f"{NODE_VENV}/src"
NODE_META = f"{NODE_VENV}/meta"
# Where a minion has compiled files, and which of them come with the environment.
NODE_PYCACHE = "/var/cache/kolla-salt/pycache"
READY_PYCACHE = ("usr", "opt/kolla-salt/lib")
FALLBACK_DEPENDENCIES = ("salt>=3008.3,<3009", "docker", "PyMySQL", "keystoneauth1", "requests", "Jinja2", "PyYAML")

Say = Callable[[str], None]


def digest(*parts: object) -> str:
    """Return a short name for ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def project_table(repo: Path) -> dict[str, object]:
    """Return the `[project]` table of the clone's pyproject.toml; empty if there is none."""
    try:
        return tomllib.loads((repo / "pyproject.toml").read_text()).get("project", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as err:
        raise SandboxError(f"read {repo}/pyproject.toml", str(err), "TOML", "mend that line") from err


def dependencies(project: Mapping[str, object]) -> list[str]:
    """Return what a node's Python environment needs: the project's dependencies and those of its extra `minion`."""
    wanted = list(project.get("dependencies") or FALLBACK_DEPENDENCIES)
    extras = project.get("optional-dependencies") or {}
    return sorted({*wanted, *extras.get("minion", [])})


def metadata_files(project: Mapping[str, object]) -> dict[str, str]:
    """Return the files of a `.dist-info` directory for the project: name to content.

    Python finds Salt's entry point through them, without the project being installed.
    """
    name, version = project.get("name", "kolla-salt"), project.get("version", "0")
    lines: list[str] = []
    groups = dict(project.get("entry-points") or {"salt.loader": {"kolla_salt": "kolla_salt"}})
    if project.get("scripts"):
        groups["console_scripts"] = project["scripts"]
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "entry_points.txt": "\n".join(lines),
        "INSTALLER": "kolla-salt sandbox\n",
        "top_level.txt": "kolla_salt\n",
    }


def write_metadata(meta: Path, project: Mapping[str, object]) -> bool:
    """Write the project's metadata below ``meta``; return whether anything changed."""
    name = str(project.get("name", "kolla-salt")).replace("-", "_")
    wanted = f"{name}-{project.get('version', '0')}.dist-info"
    meta.mkdir(parents=True, exist_ok=True)
    changed = False
    for entry in list(meta.iterdir()):
        if entry.name != wanted:
            remove_tree(entry)
            changed = True
    for file, text in metadata_files(project).items():
        changed |= write_file(meta / wanted / file, text)
    return changed


def ca_bundle(environ: Mapping[str, str]) -> Path | None:
    """Return the certificates this machine trusts beyond the usual ones, if the environment names a bundle."""
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if environ.get(name) and Path(environ[name]).is_file():
            return Path(environ[name])
    return None


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for pip in a root file system: proxies and package indexes of the caller, no more.

    Options that name files of the machine are left out; they do not exist there.
    """
    keep = {
        name: value
        for name, value in environ.items()
        if name.lower() in ("http_proxy", "https_proxy", "no_proxy")
        or name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
    }
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    return {
        **keep, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
        "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "PIP_CERT": bundle, "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_CACHE_DIR": "1",
    }  # fmt: skip


def apt_options(dump: str) -> list[str]:
    """Return the machine's apt settings that a download from here needs, from the text of `apt-config dump`."""
    wanted = (
        "Acquire::http::Proxy",
        "Acquire::https::Proxy",
        "Acquire::https::CaInfo",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
        "Acquire::Retries",
    )
    return [line for line in dump.splitlines() if line.startswith(tuple(f"{name} " for name in wanted))]


def base_dir(cache: Path) -> Path:
    """Return the directory of the nodes' root file system."""
    return cache / "rootfs" / f"debian-{SUITE}-{digest(BASE_RECIPE, SUITE, PACKAGES)}"


def venv_dir(cache: Path, wanted: Sequence[str]) -> Path:
    """Return the directory of the Python environment that holds the distributions ``wanted``."""
    return cache / "venvs" / f"{PYTHON_TAG}-{digest(VENV_RECIPE, base_dir(cache).name, sorted(wanted))}"


def wheel_dir(cache: Path, python_tag: str) -> Path:
    """Return the directory of the wheels for ``python_tag`` ("cp313")."""
    return cache / "wheels" / python_tag


def ensure_base(cache: Path, say: Say) -> Path:
    """Return the nodes' root file system, made by mmdebstrap if it is not there (25 s with a near mirror)."""
    target = base_dir(cache)
    if target.is_dir():
        return target
    say(f"makes the nodes' Debian {SUITE} root file system (once)")
    beside = target.with_name(f"{target.name}.building")
    remove_tree(beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    options = apt_options(run(["apt-config", "dump"], "read apt's settings", check=False).stdout)
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={KEYRING}",
    ]
    command += [f"--aptopt={option}" for option in options]
    command += [
        f"--dpkgopt=path-exclude={path}"
        for path in ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
    ]
    command += [
        SUITE,
        str(beside),
        f"deb {MIRROR} {SUITE} main",
        f"deb {MIRROR} {SUITE}-updates main",
        f"deb {SECURITY_MIRROR} {SUITE}-security main",
    ]
    # A private mount namespace: an interrupted mmdebstrap leaves no mount on the machine.
    run(
        ["unshare", "--mount", "--propagation", "private", "--", *command],
        f"make a Debian root file system in {beside}",
        mend=f"see whether {MIRROR} can be reached from here",
        timeout=3600,
    )
    bundle = ca_bundle(os.environ)
    if bundle:
        (beside / "etc/ssl/certs/ca-certificates.crt").write_bytes(bundle.read_bytes())
    # An engine that the base's own scripts would configure is in nobody's way; names are resolved by /etc/hosts only.
    (beside / "etc/resolv.conf").unlink(missing_ok=True)
    (beside / "etc/resolv.conf").write_text("# A sandbox node knows names from /etc/hosts only.\n")
    (beside / "etc/machine-id").unlink(missing_ok=True)
    beside.rename(target)
    return target


def _in_base(
    base: Path, work: Path, binds: Mapping[Path, str], script: str, doing: str, arguments: Sequence[str]
) -> None:
    """Run a shell script as root in a throw-away overlay of ``base``.

    Args:
        base: root file system.
        work: directory for the overlay, removed afterwards.
        binds: directories of the machine to their places in the root file system.
        script: text for `sh -c`, fixed; what varies comes as ``arguments``.
        doing: for the error message.
        arguments: the script's $1, $2, ...
    """
    remove_tree(work)
    for part in ("upper", "work", "root"):
        (work / part).mkdir(parents=True)
    root = work / "root"
    lines = [
        "set -e",
        shlex.join(
            [
                "mount",
                "-t",
                "overlay",
                "overlay",
                "-o",
                f"lowerdir={base},upperdir={work}/upper,workdir={work}/work",
                str(root),
            ]
        ),
        shlex.join(["mount", "-t", "proc", "proc", f"{root}/proc"]),
        shlex.join(["mount", "--rbind", "/dev", f"{root}/dev"]),
        # The build downloads; nodes do not.
        shlex.join(["cp", "--remove-destination", "-L", "/etc/resolv.conf", f"{root}/etc/resolv.conf"]),
    ]
    for source, place in binds.items():
        lines += [
            shlex.join(["mkdir", "-p", f"{root}{place}"]),
            shlex.join(["mount", "--bind", str(source), f"{root}{place}"]),
        ]
    lines.append('exec chroot "$0" /bin/sh -e -c "$@"')
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
        "/bin/sh",
        "-c",
        "\n".join(lines),
        str(root),
        script,
        "sh",
        *arguments,
    ]
    try:
        run(
            command,
            doing,
            env=pip_environment(os.environ),
            timeout=3600,
            mend="see whether the Debian mirror and the Python package index can be reached from here",
        )
    finally:
        remove_tree(work)


# $1 is the list of packages, the rest are requirements. Only few distributions have to be compiled, and their wheels
# are kept: without them the compiler is fetched at once, else only if something turns out to need it.
BUILD_WHEELS = """
compiler() { apt-get -q update && apt-get -qy install --no-install-recommends $packages; }
build() { /tmp/venv/bin/pip -q wheel --find-links /wheels --wheel-dir /wheels "$@"; }
packages=$1; shift
python3 -m venv /tmp/venv
ls /wheels/timelib-*.whl > /dev/null 2>&1 || compiler
build "$@" || { compiler; build "$@"; }
"""

# A minion keeps compiled files of the read-only code in a directory of its own, and Python then looks there for those
# of all modules: without ready ones the first start of a minion would take several seconds longer.
# $1 is the environment, $2 the metadata, $3 the code, the rest are requirements. Metadata comes first on the path: it
# must win over a leftover of an installation inside the clone.
MAKE_VENV = """
venv=$1 meta=$2 src=$3; shift 3
python3 -m venv "$venv"
"$venv/bin/pip" -q install --no-index --find-links /wheels "$@"
mkdir "$src" "$meta"
PYTHONPYCACHEPREFIX="$venv/pycache" "$venv/bin/python3" -m compileall -q "$venv/lib" /usr/lib/python3.* || true
printf '%s\\n' "$meta" "$src" > "$(echo "$venv"/lib/python3.*/site-packages)/kolla_salt_sandbox.pth"
cat > "$venv/bin/kolla-salt" << END
#!$venv/bin/python3
import sys
from kolla_salt.cli.main import main
sys.exit(main())
END
chmod 755 "$venv/bin/kolla-salt"
"""


def ensure_venv(cache: Path, base: Path, wanted: Sequence[str], say: Say) -> Path:
    """Return the nodes' Python environment with the distributions ``wanted``, made if it is not there.

    Salt comes as source only and takes a minute to build: its wheel is kept in :func:`wheel_dir`.
    """
    target = venv_dir(cache, wanted)
    if target.is_dir():
        return target

    def build(wheels: Path) -> None:
        doing = f"build the wheels of {', '.join(wanted)}"
        _in_base(
            base, cache / "building", {wheels: "/wheels"}, BUILD_WHEELS, doing, [" ".join(BUILD_PACKAGES), *wanted]
        )

    wheels = _complete_wheels(cache, PYTHON_TAG, wanted, say, build)
    beside = target.with_name(f"{target.name}.building")
    remove_tree(beside)
    beside.mkdir(parents=True)
    say("makes the nodes' Python environment (once)")
    _in_base(
        base, cache / "building", {wheels: "/wheels", beside: NODE_VENV}, MAKE_VENV,
        f"install {', '.join(wanted)} for the nodes", [NODE_VENV, NODE_META, NODE_SRC, *wanted],
    )  # fmt: skip
    beside.rename(target)
    return target


def ensure_wheels(cache: Path, python: str, wanted: Sequence[str], say: Say) -> Path:
    """Build the wheels of ``wanted`` for the interpreter ``python`` of this machine unless they are there.

    Args:
        cache: cache directory.
        python: path of an interpreter that has pip.
        wanted: requirements ("salt>=3008.3,<3009").
        say: takes progress lines.

    Returns:
        The directory of the wheels, for `pip install --find-links`.
    """
    tag = run([python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"], f"ask {python} its version").stdout

    def build(wheels: Path) -> None:
        options = ["-q", "wheel", "--find-links", str(wheels), "--wheel-dir", str(wheels)]
        mend = "Salt needs gcc and the Python headers (python3-dev)"
        run([python, "-m", "pip", *options, *wanted], f"build wheels in {wheels}", timeout=3600, mend=mend)

    return _complete_wheels(cache, tag.strip(), wanted, say, build)


def _complete_wheels(cache: Path, tag: str, wanted: Sequence[str], say: Say, build: Callable[[Path], None]) -> Path:
    """Return the directory of the wheels for the interpreter ``tag``, after ``build`` unless ``wanted`` was built."""
    wheels = wheel_dir(cache, tag)
    stamp = wheels / f".complete-{digest(sorted(wanted))}"
    with locked(wheels, lambda: say(f"waits for another process that builds wheels in {wheels}")):
        if not stamp.exists():
            say(f"builds wheels of {len(wanted)} distributions and what they need in {wheels} (once)")
            build(wheels)
            stamp.touch()
    return wheels


def remove_unused(*used: Path, keep: int = 2) -> list[Path]:
    """Remove older siblings of the products ``used`` and half-made ones; return them.

    Called when all nodes run on ``used``. The last ``keep`` stay: two clones may take turns.
    """
    gone = []
    for product in used:
        os.utime(product)
        kind = product.name.rsplit("-", 1)[0]
        siblings = [entry for entry in product.parent.iterdir() if entry.name.startswith(f"{kind}-")]
        siblings.sort(key=lambda entry: (entry.suffix != ".building", entry.stat().st_mtime), reverse=True)
        gone += [entry for at, entry in enumerate(siblings) if at >= keep or entry.suffix == ".building"]
    for entry in gone:
        remove_tree(entry)
    return gone
