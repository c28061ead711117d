"""Keep this host's member of the database's cluster."""

from __future__ import annotations

from typing import Any

from kolla_salt import outcome
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


def recovered(name: str, without: list[str] | None = None, start_from: str | None = None) -> dict[str, Any]:
    """Ensure that the cluster of all hosts runs; for orchestrations, see ``orch/mariadb_recovery.sls``.

    :param without: hosts to go on without; what they alone have is lost.
    :param start_from: the host from whose data to start, instead of the most advanced one.
    """
    ret: dict[str, Any] = {"name": name, "result": None, "changes": {}, "comment": "a stopped cluster would be started"}
    if __opts__["test"]:
        return ret
    asked = {"without": without, "start_from": start_from}
    said = __salt__["saltutil.runner"]("kolla_mariadb.recover", kwarg=asked)
    if not isinstance(said, dict):
        return ret | {"result": False, "comment": outcome.last_words(str(said))}
    if said["bootstrapped"]:
        ret["changes"] = {"cluster": {"old": "stopped", "new": f"started from {said['bootstrapped']}"}}
    return ret | {
        "result": True,
        "comment": f"a cluster of {said['size']} after {said['seconds']} s; run {said['run']}",
    }
