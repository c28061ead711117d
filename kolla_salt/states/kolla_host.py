"""What services need of their host itself.

.. code-block:: yaml

    net.ipv4.ip_nonlocal_bind:
      kolla_host.sysctl:
        - value: 1

    /var/lib/nova:
      kolla_host.directory:
        - mode: "0755"
"""

from __future__ import annotations

from typing import Any

from kolla_salt import converge as _converge

__virtualname__ = "kolla_host"


def __virtual__() -> str | tuple[bool, str]:
    if "kolla_host.set_sysctl" not in __salt__:
        return False, "the execution module kolla_host is not there: install kolla-salt on this minion"
    return __virtualname__


def sysctl(name: str, value: Any) -> dict[str, Any]:
    """Have a kernel parameter set, now and at every boot.

    One that this kernel or network namespace does not have is written for the next boot only, and the comment says so.

    :param name: as ``net.ipv4.ip_forward``
    :param value: number or string
    """
    ret = _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_host.sysctl_diff"](name, value),
        apply=lambda: __salt__["kolla_host.set_sysctl"](name, value),
    )
    if ret["result"] is not False and __salt__["kolla_host.sysctl_value"](name) is None:
        ret["comment"] += (
            f". This host has no {name} at present (its module is not loaded, or it belongs to another network "
            "namespace): it is set at boot only"
        )
    return ret


def directory(name: str, mode: str = "0755") -> dict[str, Any]:
    """Have a directory of a certain mode.

    :param name: absolute path
    :param mode: permission bits as a string of octal digits
    """
    return _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_host.directory_diff"](name, mode),
        apply=lambda: __salt__["kolla_host.make_directory"](name, mode),
    )
