"""Names of the cloud's hosts in ``/etc/hosts``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import hosts_file, runtime
from kolla_salt.context import ContextError
from kolla_salt.declarations import write_atomically

__virtualname__ = "kolla_hosts"

HOSTS_FILE = Path("/etc/hosts")


def __virtual__() -> str:
    return __virtualname__


def _texts() -> tuple[str, str]:
    """Return the file as it is and as it should be."""
    try:
        present = HOSTS_FILE.read_text() if HOSTS_FILE.exists() else ""
    except OSError as exc:
        raise CommandExecutionError(f"reading {HOSTS_FILE}: {exc}") from exc
    try:
        resolver = runtime.resolver(__opts__, __pillar__, __context__)
        addresses = {name: resolver.address("api", name) for name in resolver.topology_hosts}
        if not resolver.value("customize_etc_hosts"):
            return present, present
    except (ValueError, FileNotFoundError, ContextError) as exc:
        raise CommandExecutionError(str(exc)) from exc
    return present, hosts_file.with_hosts(present, addresses, resolver.host)


def diff() -> dict[str, dict[str, Any]]:
    """Return the lines of ``/etc/hosts`` that differ from the topology; ``{}`` if none does.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_hosts.diff
    """
    present, wanted = _texts()
    return hosts_file.difference(present, wanted)


def write() -> bool:
    """Write the cloud's hosts into ``/etc/hosts``; other lines stay. Return whether something changed.

    :raises CommandExecutionError: the file cannot be written.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_hosts.write
    """
    present, wanted = _texts()
    if present == wanted:
        return False
    try:
        if HOSTS_FILE.exists() and os.path.ismount(HOSTS_FILE):
            # A container's own /etc/hosts is a mount, which cannot be replaced.
            HOSTS_FILE.write_text(wanted)
        else:
            write_atomically(HOSTS_FILE, wanted.encode(), 0o644)
    except OSError as exc:
        raise CommandExecutionError(
            f"writing the hosts of the cloud into {HOSTS_FILE}: {exc}; make it writable, or set customize_etc_hosts: "
            "false and see to it that every host knows the others' names"
        ) from exc
    return True
