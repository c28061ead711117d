"""Compute hosts of the cloud, as Nova knows them."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_nova"


def __virtual__() -> str:
    return __virtualname__


def hosts_mapped(name: str, timeout: float | None = None) -> dict[str, Any]:
    """Ensure that every compute host has announced itself to Nova and belongs to a cell.

    :param name: what it is for
    :param timeout: seconds to wait for the hosts; default: option nova_compute_registration_timeout
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_nova.hosts_diff"](),
        apply=lambda: __salt__["kolla_nova.map_hosts"](timeout),
    )
