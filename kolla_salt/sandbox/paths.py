"""Where the sandbox keeps its things."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kolla_salt.sandbox.errors import SandboxError

STATE_DIR = "/var/lib/kolla-salt/sandbox"
CACHE_DIR = "/var/cache/kolla-salt"

# A unix socket's path may have 107 characters, and Salt appends up to 40 to its socket directory.
LONGEST_STATE_DIR = 55


@dataclass(frozen=True)
class Paths:
    """The directories of the sandbox.

    Attributes:
        state: everything of the running sandbox; ``down`` removes it.
        cache: root file systems, wheels, registry data and built images; ``down`` keeps it.
        repo: the clone whose code the nodes run.
    """

    state: Path
    cache: Path
    repo: Path

    @property
    def site(self) -> Path:
        """The site directory: globals.yml, topology.yml, passwords.yml, overrides/."""
        return self.state / "site"

    @property
    def master(self) -> Path:
        """The root directory of the salt-master."""
        return self.state / "master"

    @property
    def master_config(self) -> Path:
        """The salt-master's configuration directory, as for ``salt -c``."""
        return self.master / "etc"

    @property
    def meta(self) -> Path:
        """Python metadata of the project as the nodes see it."""
        return self.state / "meta"

    @property
    def shared(self) -> Path:
        """The folder that all nodes see."""
        return self.state / "shared"

    @property
    def cgroup(self) -> str:
        """The control group of the nodes: control groups are one name space for the whole machine."""
        if str(self.state) == STATE_DIR:
            return "kolla-salt"
        return f"kolla-salt-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    def node(self, name: str) -> Path:
        """Return the directory of node ``name``."""
        return self.state / "nodes" / name


def find_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the sandbox's paths.

    Args:
        environ: environment to look up ``KOLLA_SALT_SANDBOX_DIR`` and ``KOLLA_SALT_CACHE_DIR`` in; the
            process's own by default.

    Raises:
        SandboxError: the state directory is relative or too long for unix sockets.
    """
    environ = os.environ if environ is None else environ
    state = Path(environ.get("KOLLA_SALT_SANDBOX_DIR") or STATE_DIR)
    cache = Path(environ.get("KOLLA_SALT_CACHE_DIR") or CACHE_DIR)
    for name, path in (("KOLLA_SALT_SANDBOX_DIR", state), ("KOLLA_SALT_CACHE_DIR", cache)):
        if not path.is_absolute() or any(c in str(path) for c in " ,:\\\n"):
            # Overlay mount options and Salt's process titles separate words by these characters.
            raise SandboxError(
                f"use the directory of {name}",
                f"{str(path)!r}",
                "an absolute path without blanks, commas, colons and backslashes",
                f"set {name} to another path",
            )
    if len(str(state)) > LONGEST_STATE_DIR:
        raise SandboxError(
            "use the sandbox directory",
            f"{state} has {len(str(state))} characters",
            f"at most {LONGEST_STATE_DIR}: unix sockets below it have a limit of 107",
            "set KOLLA_SALT_SANDBOX_DIR to a shorter path",
        )
    return Paths(state=state, cache=cache, repo=Path(__file__).resolve().parents[2])
