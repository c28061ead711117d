"""Keep kernel parameters and directories of a host."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_host"


def __virtual__() -> str:
    return __virtualname__


def sysctl(name: str, value: str) -> dict[str, Any]:
    """Ensure the value of a kernel parameter, now and after a boot.

    :param name: e.g. ``net.ipv4.ip_nonlocal_bind``.
    :param value: declared value.
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_host.sysctl_diff"](name, value),
        apply=lambda: __salt__["kolla_host.set_sysctl"](name, value) and None,
    )


def directory(name: str, mode: str = "0755") -> dict[str, Any]:
    """Ensure that a directory exists with this mode; what is in it stays.

    :param name: absolute path.
    :param mode: four octal digits.
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_host.directory_diff"](name, mode),
        apply=lambda: __salt__["kolla_host.make_directory"](name, mode) and None,
    )
