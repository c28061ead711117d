"""Keep this host's member of the database's cluster."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_mariadb"


def __virtual__() -> str:
    return __virtualname__


def prepared(name: str) -> dict[str, Any]:
    """Ensure that this member may be started: there is a database, or a cluster to get it from.

    :param name: the state's ID.
    """
    return converge(
        name, __opts__["test"], diff=__salt__["kolla_mariadb.preparation_diff"], apply=__salt__["kolla_mariadb.prepare"]
    )


def joined(name: str, timeout: float = 1800) -> dict[str, Any]:
    """Ensure that this member's server is in the cluster and that health checks can look at it.

    :param name: the state's ID.
    :param timeout: seconds that a new member may take to receive all data.
    """
    return converge(
        name,
        __opts__["test"],
        diff=__salt__["kolla_mariadb.membership_diff"],
        apply=lambda: __salt__["kolla_mariadb.join"](timeout),
    )
