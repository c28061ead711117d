"""Keep the names of the cloud's hosts in ``/etc/hosts``."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_hosts"


def __virtual__() -> str:
    return __virtualname__


def present(name: str) -> dict[str, Any]:
    """Ensure that ``/etc/hosts`` has every host of the topology with its API address.

    :param name: the state's ID.
    """
    return converge(name, __opts__["test"], diff=__salt__["kolla_hosts.diff"], apply=__salt__["kolla_hosts.write"])
