"""What a member of the database's cluster may do before it starts. Facts in, a decision out.

A Galera cluster has one fatal mistake: to make a second cluster beside the first. So a member makes a new one only if
there is evidence that there is none, and starts a stopped one only if its own data are known to be the last.

To make the first member start without looking for others, a file is put beside its data that its configuration
includes (:data:`ONE_SHOT`); it is removed as soon as the member runs. The configuration of the member itself never
changes, so nothing has to be restarted when the others have joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Name of the included file, in the data directory, and what it says.
ONE_SHOT = "new-cluster.cnf"
ONE_SHOT_TEXT = "[mysqld]\nwsrep_cluster_address = gcomm://\n"

RUN, BOOTSTRAP, REVIVE = "run", "bootstrap", "revive"


class GaleraError(ValueError):
    """The member must not be started as things are; the message says why and what helps."""


def parse_state(text: str) -> dict[str, Any]:
    """Return ``uuid``, ``seqno`` and ``safe_to_bootstrap`` of a ``grastate.dat``.

    ``seqno`` is -1 while the member runs and after a crash. ``safe_to_bootstrap`` is true for the member that left
    last.
    """
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    seqno = found.get("seqno", "").strip()
    return {
        "uuid": found.get("uuid", "").strip() or None,
        "seqno": int(seqno) if seqno.lstrip("-").isdigit() else -1,
        "safe_to_bootstrap": found.get("safe_to_bootstrap", "").strip() == "1",
    }


def decide(
    own: Mapping[str, Any],
    others: Sequence[str],
    answering: Sequence[str],
    known: Mapping[str, Mapping[str, Any]],
    primary: bool,
) -> str:
    """Return what has to be done before this member's server is started.

    :param own: ``host``, ``data`` (it has a database), ``running``, ``one_shot`` (the file is there) and
        ``safe_to_bootstrap``.
    :param others: the other hosts of the group.
    :param answering: those of them on which a member answers now.
    :param known: what other members said last time: host -> at least ``data``.
    :param primary: this is the first host of the group.
    :returns: ``run`` (nothing), ``bootstrap`` (make a new, empty database) or ``revive`` (start the stopped cluster
        from this member's data).
    :raises GaleraError: there is a cluster, but this member must not be the one to start it.
    """
    if own["data"]:
        if not others or own["running"] or own["one_shot"] or answering:
            return RUN
        if own["safe_to_bootstrap"]:
            return REVIVE
        raise GaleraError(
            f"the database's cluster is stopped: {own['host']} has data, but was not the last member to leave, and "
            f"none of {', '.join(others)} answers; start the member that left last first, or run "
            "`kolla-salt mariadb-recovery`, which finds it"
        )
    if not primary or answering:
        return RUN
    holders = [host for host in others if (known.get(host) or {}).get("data")]
    if holders:
        raise GaleraError(
            f"{own['host']} has no database, {', '.join(holders)} had one when last heard of, and no member answers: "
            "making a new cluster would leave those data behind. Start the cluster with `kolla-salt mariadb-recovery`, "
            f"then {own['host']} joins it; or remove the data on {', '.join(holders)} if they are not wanted"
        )
    return BOOTSTRAP


def describe(action: str) -> dict[str, dict[str, Any]]:
    """Return a decision as Salt's ``changes``."""
    if action == BOOTSTRAP:
        return {"data": {"old": None, "new": "a new, empty database"}}
    if action == REVIVE:
        return {"cluster": {"old": "stopped", "new": "started from this member's data"}}
    return {}
