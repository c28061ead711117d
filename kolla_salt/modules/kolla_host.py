"""Kernel parameters and directories of this host."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt.declarations import write_atomically

__virtualname__ = "kolla_host"

Changes = dict[str, dict[str, Any]]

PROC_SYS = Path("/proc/sys")
#: Read at boot after the distribution's own files.
SYSCTL_FILE = Path("/etc/sysctl.d/60-kolla-salt.conf")
HEADER = "# Written by kolla-salt.\n"


def __virtual__() -> str:
    return __virtualname__


def _proc(name: str) -> Path:
    # A dot may be part of an interface's name; sysctl(8) then takes slashes between the parts.
    return PROC_SYS / (name if "/" in name else name.replace(".", "/"))


def _value(name: str) -> str | None:
    """Return the kernel's value, or None if this kernel (or network namespace) has no such parameter."""
    try:
        return " ".join(_proc(name).read_text().split())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CommandExecutionError(f"reading kernel parameter {name}: {exc}") from exc


def _kept() -> dict[str, str]:
    """Return what is set at boot: name -> value."""
    try:
        lines = SYSCTL_FILE.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith(("#", ";")))
    return {name.strip(): value.strip() for name, _, value in pairs}


def sysctl_diff(name: str, value: str) -> Changes:
    """Compare a kernel parameter, now and at boot, with its declared value.

    :param name: e.g. ``net.ipv4.ip_nonlocal_bind``. One that this kernel does not have is only kept for the next boot.
    :param value: declared value.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_host.sysctl_diff net.ipv4.ip_nonlocal_bind 1
    """
    wanted = " ".join(str(value).split())
    now, kept = _value(name), _kept().get(name)
    changes: Changes = {}
    if now is not None and now != wanted:
        changes["value"] = {"old": now, "new": wanted}
    if kept != wanted:
        changes["at boot"] = {"old": kept, "new": wanted}
    return changes


def set_sysctl(name: str, value: str) -> Changes:
    """Set a kernel parameter now and for the next boots; parameters as for :func:`sysctl_diff`.

    :returns: what was changed.
    :raises CommandExecutionError: the kernel refused the value, or the file cannot be written.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_host.set_sysctl net.ipv4.ip_nonlocal_bind 1
    """
    changes = sysctl_diff(name, value)
    wanted = " ".join(str(value).split())
    try:
        if "value" in changes:
            _proc(name).write_text(wanted)
        if "at boot" in changes:
            kept = _kept() | {name: wanted}
            lines = "".join(f"{key} = {text}\n" for key, text in sorted(kept.items()))
            SYSCTL_FILE.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(SYSCTL_FILE, (HEADER + lines).encode(), 0o644)
    except OSError as exc:
        raise CommandExecutionError(
            f"setting kernel parameter {name} to {wanted}: {exc}; set it on the host by other means, or set "
            "set_sysctl: false"
        ) from exc
    return changes


def directory_diff(path: str, mode: str = "0755") -> Changes:
    """Compare a directory of the host with its declared mode.

    :param path: absolute path.
    :param mode: four octal digits.
    :raises CommandExecutionError: something else has this name.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_host.directory_diff /var/lib/nova/mnt 0755
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return {"directory": {"old": None, "new": mode}}
    if not stat.S_ISDIR(status.st_mode):
        raise CommandExecutionError(f"directory {path}: there is something else of this name; remove it")
    present = f"{stat.S_IMODE(status.st_mode):04o}"
    return {} if int(present, 8) == int(mode, 8) else {"mode": {"old": present, "new": mode}}


def make_directory(path: str, mode: str = "0755") -> Changes:
    """Make a directory of the host, with its parents, or set its mode; parameters as for :func:`directory_diff`.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_host.make_directory /var/lib/nova/mnt
    """
    changes = directory_diff(path, mode)
    try:
        if changes:
            Path(path).mkdir(parents=True, exist_ok=True)
            os.chmod(path, int(mode, 8))
    except OSError as exc:
        raise CommandExecutionError(f"making directory {path} with mode {mode}: {exc}") from exc
    return changes
