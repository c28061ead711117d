"""What services need of their host itself: kernel parameters and directories."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "kolla_host"

PROC = Path("/proc/sys")
SYSCTL_FILE = Path("/etc/sysctl.d/kolla-salt.conf")
HEADER = "# Written by kolla-salt; a changed value comes back with the next deployment.\n"

Changes = dict[str, dict[str, Any]]


def __virtual__() -> str:
    return __virtualname__


def _parameter(name: str) -> Path:
    """The file of a kernel parameter. A dot in an interface's name is written as a slash, as sysctl(8) has it."""
    if not re.fullmatch(r"[\w@/.-]+", name) or ".." in name or name.startswith(("/", ".")):
        raise SaltInvocationError(f"{name!r} is not the name of a kernel parameter such as net.ipv4.ip_forward")
    first = re.search(r"[./]", name)
    if first and first.group() == "/":
        return PROC / name
    return PROC / name.translate(str.maketrans("./", "/."))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        value = int(value)
    return " ".join(str(value).split())


def _persisted() -> dict[str, str]:
    try:
        lines = SYSCTL_FILE.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith(("#", ";")))
    return {key.strip(): _words(value) for key, _, value in pairs}


def sysctl_value(name: str) -> str | None:
    """Return the present value of a kernel parameter, or ``None`` if this host's kernel does not have it.

    :param name: as ``net.ipv4.ip_forward``

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_host.sysctl_value net.ipv4.ip_nonlocal_bind
    """
    try:
        return _words(_parameter(name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandExecutionError(f"reading kernel parameter {name}: {error.strerror}") from error


def sysctl_diff(name: str, value: Any) -> Changes:
    """Compare a kernel parameter with what it should be, now and after a reboot.

    A parameter that does not exist here is compared in the file only: some belong to a kernel module that is not
    loaded yet, others exist in the first network namespace alone.

    :param name: as ``net.ipv4.ip_forward``
    :param value: number or string; words separated by any blanks
    :returns: ``{}``, or some of ``value`` (the kernel's) and ``file`` (what is set at boot)

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_host.sysctl_diff net.ipv4.ip_nonlocal_bind 1
    """
    wanted, current, persisted = _words(value), sysctl_value(name), _persisted().get(name)
    changes: Changes = {}
    if current not in (None, wanted):
        changes["value"] = {"old": current, "new": wanted}
    if persisted != wanted:
        changes["file"] = {"old": persisted, "new": wanted}
    return changes


def set_sysctl(name: str, value: Any) -> Changes:
    """Set a kernel parameter now and for every boot.

    :param name: as ``net.ipv4.ip_forward``
    :param value: number or string
    :returns: what was changed, as :py:func:`sysctl_diff`
    :raises CommandExecutionError: the kernel refused the value, or the file cannot be written

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_host.set_sysctl net.ipv4.ip_nonlocal_bind 1
    """
    changes, wanted = sysctl_diff(name, value), _words(value)
    if "value" in changes:
        path = _parameter(name)
        try:
            # One write: the kernel takes what a single call brings. It must not create a file elsewhere.
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.write(descriptor, f"{wanted}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise CommandExecutionError(
                f"setting kernel parameter {name} to {wanted!r}: {error.strerror} ({path}, now "
                f"{sysctl_value(name)!r}); inside a container or namespace the host itself has to set it"
            ) from error
    if "file" in changes:
        content = _persisted() | {name: wanted}
        text = HEADER + "".join(f"{key} = {item}\n" for key, item in sorted(content.items()))
        _write(SYSCTL_FILE, text)
    return changes


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise CommandExecutionError(f"writing {path}: {error.strerror}") from error


def _mode(mode: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3,4}", str(mode)):
        raise SaltInvocationError(f"mode {mode!r} of a directory: expected octal digits as a string, such as '0755'")
    return int(str(mode), 8)


def directory_diff(path: str, mode: str = "0755") -> Changes:
    """Compare a directory with what it should be.

    :param path: absolute path
    :param mode: permission bits as a string of octal digits
    :returns: ``{}``, or some of ``directory`` (it is missing) and ``mode``
    :raises CommandExecutionError: something else is at that path

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_host.directory_diff /var/lib/nova 0755
    """
    if not path.startswith("/"):
        raise SaltInvocationError(f"directory {path!r}: expected an absolute path")
    wanted = _mode(mode)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"directory": {"old": None, "new": path}, "mode": {"old": None, "new": f"{wanted:04o}"}}
    if not stat.S_ISDIR(status.st_mode):
        raise CommandExecutionError(f"{path} has to be a directory, but is a file; move it away")
    current = stat.S_IMODE(status.st_mode)
    return {} if current == wanted else {"mode": {"old": f"{current:04o}", "new": f"{wanted:04o}"}}


def make_directory(path: str, mode: str = "0755") -> Changes:
    """Make a directory with its parents, or set its mode.

    :param path: absolute path
    :param mode: permission bits as a string of octal digits; parents get 0755
    :returns: what was changed, as :py:func:`directory_diff`
    :raises CommandExecutionError: it cannot be made

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_host.make_directory /var/lib/nova 0755
    """
    changes = directory_diff(path, mode)
    try:
        if "directory" in changes:
            os.makedirs(path, exist_ok=True)
        if changes:
            os.chmod(path, _mode(mode))
    except OSError as error:
        raise CommandExecutionError(f"making directory {path}: {error.strerror}") from error
    return changes
