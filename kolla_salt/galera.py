"""What a member of the database's cluster may do, and how a stopped cluster comes back. Facts in, a decision out.

A Galera cluster has one fatal mistake: to make a second cluster beside the first. So a member makes a new one only if
there is evidence that there is none, and starts a stopped one only if its own data are known to be the last.

To make the first member start without looking for others, a file is put beside its data that its configuration
includes (:data:`ONE_SHOT`); it is removed as soon as the member runs. The configuration of the member itself never
changes, so nothing has to be restarted when the others have joined.

A position is a pair: the cluster's UUID, and the number of the last transaction (Galera's `seqno`), in which every
change of the membership counts as one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Facts = Mapping[str, Any]
Position = tuple[str, int]

#: Name of the included file, in the data directory, and what it says.
ONE_SHOT = "new-cluster.cnf"
ONE_SHOT_TEXT = "[mysqld]\nwsrep_cluster_address = gcomm://\n"

RUN, BOOTSTRAP, REVIVE, JOIN, TIDY = "run", "bootstrap", "revive", "join", "tidy"

#: Seconds for which "I have no database" counts as evidence that a host has none.
EVIDENCE = 7200

_NONE = "00000000-0000-0000-0000-000000000000"


class GaleraError(ValueError):
    """The member must not be started as things are; the message says why and what helps."""


def parse_state(text: str) -> dict[str, Any]:
    """Return ``uuid``, ``seqno`` and ``safe_to_bootstrap`` of a ``grastate.dat``.

    ``seqno`` is -1 while the member runs and after a crash. ``safe_to_bootstrap`` is true for the member that left
    last. ``uuid`` is None where the member has not got its data yet.
    """
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    seqno, uuid = found.get("seqno", "").strip(), found.get("uuid", "").strip()
    return {
        "uuid": uuid if uuid and uuid != _NONE else None,
        "seqno": int(seqno) if seqno.lstrip("-").isdigit() else -1,
        "safe_to_bootstrap": found.get("safe_to_bootstrap", "").strip() == "1",
    }


def format_state(uuid: str, seqno: int = -1) -> str:
    """Return a ``grastate.dat`` with which a member may be the first one of its cluster."""
    return f"# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 1\n"


def parse_view(text: str) -> dict[str, Any] | None:
    """Return ``own`` and ``members`` of a ``gvwstate.dat``, the last cluster that this member was part of; else None.

    Names are those parts of Galera's identifiers that stay the same when a member starts again.
    """
    own, members = None, []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "my_uuid:":
            own = _lasting(words[1])
        elif len(words) >= 2 and words[0] == "member:":
            members.append(_lasting(words[1]))
    return {"own": own, "members": sorted(members)} if own and members else None


def _lasting(identifier: str) -> str:
    """Leave out the fourth group, which Galera counts up with each start."""
    groups = identifier.split("-")
    return "-".join(groups[:3] + groups[4:])


def parse_position(text: str) -> Position | None:
    """Return the position that ``mariadbd --wsrep-recover`` printed; None if the data have none.

    :raises GaleraError: there is no such line.
    """
    for line in reversed(text.splitlines()):
        _, found, rest = line.partition("Recovered position:")
        if found:
            uuid, _, seqno = rest.strip().split(",")[0].partition(":")
            return None if uuid == _NONE or int(seqno) < 0 else (uuid, int(seqno))
    raise GaleraError("the server printed no recovered position")


def decide(
    own: Facts,
    others: Sequence[str],
    answering: Sequence[str],
    known: Mapping[str, Facts],
    primary: bool,
    now: float | None = None,
) -> str:
    """Return what has to be done before this member's server is started.

    :param own: what :func:`kolla_salt.modules.kolla_mariadb.lookup` returns.
    :param others: the other hosts of the group.
    :param answering: those of them on which a member answers now.
    :param known: what other members said last time: host -> the same as ``own``.
    :param primary: this is the first host of the group.
    :param now: seconds since the epoch; None: every host that has said nothing is believed to have no data, which is
        for predictions only.
    :returns: ``run`` (nothing), ``bootstrap`` (make a new, empty database), ``revive`` (start the stopped cluster
        from this member's data), ``join`` (get all data from another member) or ``tidy`` (start as one of several,
        though this member was once to be the first).
    :raises GaleraError: there is, or may be, a cluster, and this member must not be the one to start it.
    """
    if own["data"]:
        if own["running"] or not others:
            return RUN
        return _decide_with_data(own, others, answering, known)
    if answering or not primary:
        return RUN if own.get("joining") else JOIN
    holders = [host for host in others if (known.get(host) or {}).get("data")]
    if holders:
        raise GaleraError(
            f"{own['host']} has no database, {', '.join(holders)} had one when last heard of, and no member answers: "
            "making a new cluster would leave those data behind. Start the cluster with `kolla-salt mariadb-recovery`, "
            f"then {own['host']} joins it; or remove the data on {', '.join(holders)} if they are not wanted"
        )
    if now is not None:
        mute = [host for host in others if now - (known.get(host) or {}).get("time", 0) > EVIDENCE]
        if mute:
            raise GaleraError(
                f"{own['host']} has no database, and {', '.join(mute)} did not say lately that there is none either: "
                f"a new cluster could be a second one. See that {', '.join(mute)} answers (`salt {mute[0]} "
                "kolla_mariadb.announce`) and deploy again without --limit; a host that is gone for good is removed "
                "from the group `mariadb` in topology.yml"
            )
    return BOOTSTRAP


def _decide_with_data(own: Facts, others: Sequence[str], answering: Sequence[str], known: Mapping[str, Facts]) -> str:
    if own["one_shot"] and (answering or (own["uuid"] and not own["safe_to_bootstrap"])):
        return TIDY
    if answering or own["one_shot"]:
        return RUN
    if not own["safe_to_bootstrap"]:
        raise GaleraError(
            f"the database's cluster is stopped: {own['host']} has data, but was not the last member to leave, and "
            f"none of {', '.join(others)} answers; start the member that left last first, or run "
            "`kolla-salt mariadb-recovery`, which finds it"
        )
    later = [host for host in others if _went_on(known.get(host) or {}, own)]
    if later:
        raise GaleraError(
            f"{own['host']} was the last member to leave the database's cluster, but {', '.join(later)} said after "
            f"that to have a running or more advanced one, and does not answer {own['host']} now: starting a cluster "
            "here would make a second one. See that they reach each other, or run `kolla-salt mariadb-recovery`"
        )
    return REVIVE


def _went_on(other: Facts, own: Facts) -> bool:
    """Return whether another member is known to have gone on after this one stopped."""
    if not other.get("data") or other.get("time", 0) <= own.get("written", 0):
        return False
    if other.get("running"):
        return True
    return bool(other.get("uuid")) and (other["uuid"] != own["uuid"] or other.get("seqno", -1) > own["seqno"])


def describe(action: str) -> dict[str, dict[str, Any]]:
    """Return a decision as Salt's ``changes``."""
    if action == BOOTSTRAP:
        return {"data": {"old": None, "new": "a new, empty database"}}
    if action == JOIN:
        return {"data": {"old": None, "new": "all data, from another member"}}
    if action == REVIVE:
        return {"cluster": {"old": "stopped", "new": "started from this member's data"}}
    if action == TIDY:
        return {"start": {"old": "as the first of a new cluster", "new": "as a member"}}
    return {}


# --- what a running member says ---------------------------------------------------------------------------------------

STATUS = (
    "wsrep_cluster_status", "wsrep_local_state_comment", "wsrep_cluster_size", "wsrep_cluster_state_uuid",
    "wsrep_last_committed", "wsrep_ready",
)  # fmt: skip


def read_status(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return ``cluster``, ``state``, ``size``, ``uuid``, ``committed`` and ``ready`` of a server's :data:`STATUS`."""
    found = {str(name).lower(): str(value) for name, value in rows}
    return {
        "cluster": found.get("wsrep_cluster_status", "without Galera"),
        "state": found.get("wsrep_local_state_comment", "without Galera"),
        "size": int(found.get("wsrep_cluster_size") or 0),
        "uuid": found.get("wsrep_cluster_state_uuid"),
        "committed": int(found.get("wsrep_last_committed") or -1),
        "ready": found.get("wsrep_ready") == "ON",
    }


def is_primary(server: Facts | None) -> bool:
    """Return whether a server is part of a cluster that may write."""
    return bool(server) and server["cluster"] == "Primary"  # type: ignore[index]


def is_synced(server: Facts | None) -> bool:
    """Return whether a server is a full member: it has all data, and gives them to nobody at the moment."""
    return is_primary(server) and server["state"] == "Synced"  # type: ignore[index]


def is_member(server: Facts | None) -> bool:
    """Return whether a server has all data. A donor serves queries as well while it gives its data to another one."""
    return is_primary(server) and str(server["state"]).startswith(("Synced", "Donor"))  # type: ignore[index]


def findings(host: str, server: Facts | None, size: int) -> list[dict[str, Any]]:
    """Return what is wrong with the member of ``host``, for ``kolla-salt verify``.

    :param server: its server's :func:`read_status`; None if it does not answer.
    :param size: how many members the cluster should have.
    """
    item = {"winner": "site", "mend": "kolla-salt mariadb-recovery brings in members that are away"}
    if server is None:
        return [{**item, "name": "member of the cluster", "found": "does not answer", "expected": "Synced"}]
    if server["cluster"] == "without Galera" or server["cluster"] != "Primary":
        return [
            {
                **item,
                "name": "member of the cluster",
                "found": f"its cluster is {server['cluster']}",
                "expected": "Primary",
            }
        ]
    found = []
    if not is_member(server):
        found.append({**item, "name": "member of the cluster", "found": server["state"], "expected": "Synced"})
    if server["size"] != size:
        text = f"sees {server['size']} members"
        found.append({**item, "name": "size of the cluster", "found": text, "expected": f"{size}"})
    return found


def start_obstacles(own: Facts, others: Mapping[str, Facts | None]) -> list[str]:
    """Return why a stopped member must not simply be started again; empty: it may be.

    :param own: what is known of it without its server.
    :param others: host -> its server's :func:`read_status`, of all other hosts of the group.
    """
    if not own["data"] or own["joining"]:
        return ["it does not have all data yet; kolla-salt deploy goes on with that"]
    if own["one_shot"]:
        return ["it would start as the first of a new cluster; kolla-salt mariadb-recovery decides about that"]
    if others and not any(is_member(server) for server in others.values()):
        return ["no other member is in a cluster that works; kolla-salt mariadb-recovery brings it back"]
    return []


def stop_obstacles(host: str, own: Facts | None, others: Mapping[str, Facts | None]) -> list[str]:
    """Return why a member must not be stopped now; empty: it may be.

    :param host: its host.
    :param own: its server's :func:`read_status`; None if it does not answer.
    :param others: host -> the same, of all other hosts of the group.
    """
    if not others or not is_primary(own):
        return []
    assert own is not None
    found = []
    if own["state"] != "Synced":
        found.append(f"the database on {host} is {own['state']}, expected Synced: another member gets its data from it")
    busy = [name for name, server in others.items() if is_primary(server) and not is_synced(server)]
    found += [
        f"the database on {name} is {others[name]['state']}, expected Synced: its data are on their way"  # type: ignore[index]
        for name in busy
    ]
    strangers = [
        name
        for name, server in others.items()
        if is_synced(server) and server["uuid"] != own["uuid"]  # type: ignore[index]
    ]
    synced = [name for name, server in others.items() if is_synced(server) and name not in strangers]
    needed = min(len(others), (len(others) + 1) // 2 + 1)
    if len(synced) < needed:
        missing = [
            f"{name} ({_how(server)})" for name, server in others.items() if name not in synced and name not in busy
        ]
        if missing:
            found.append(
                f"without {host} only {len(synced)} of {len(others) + 1} members of the database's cluster would be "
                f"left, expected at least {needed}; missing: {', '.join(missing)}. `kolla-salt mariadb-recovery` "
                "brings them back"
            )
    return found


def _how(server: Facts | None) -> str:
    if not server:
        return "no answer"
    if is_synced(server):
        return "in another cluster"
    return f"{server['cluster']}, {server['state']}"


# --- recovery ---------------------------------------------------------------------------------------------------------

DONE, WAIT, HALT, READ, DISCARD, START, ADD, SETTLE, LEAVE = (
    "done", "wait", "stop", "read positions", "discard", "bootstrap", "join", "settle", "leave out",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """The next thing to do.

    Attributes:
        action: one of the constants above.
        hosts: where.
        why: one sentence for the operator.
        lost: what is given up by it, as sentences.
        full: the members that join get all data anew.
    """

    action: str
    hosts: tuple[str, ...] = ()
    why: str = ""
    lost: tuple[str, ...] = ()
    full: bool = False


@dataclass
class Situation:
    """All that the next step is decided from.

    Attributes:
        order: hosts of the group, in the site's order.
        facts: host -> what :func:`kolla_salt.modules.kolla_mariadb.examine` returned; hosts that are not there are
            silent.
        known: what silent hosts told the master last.
        without: hosts that the operator gives up.
        chosen: host from which the operator wants to start; None: the most advanced one.
        waited: seconds spent waiting for the members to find each other.
        patience: seconds for which that is worth while.
        failed: host -> why it could not be made a member; after the first time all its data are transferred.
        started: host from which the cluster was started a moment ago.
    """

    order: Sequence[str]
    facts: Mapping[str, Facts]
    known: Mapping[str, Facts] = field(default_factory=dict)
    without: Collection[str] = ()
    chosen: str | None = None
    waited: float = 0.0
    patience: float = 60.0
    failed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    started: str | None = None

    @property
    def silent(self) -> list[str]:
        """Hosts of the group that do not answer."""
        return [host for host in self.order if host not in self.facts]

    @property
    def present(self) -> list[str]:
        """Hosts that answer and are not given up."""
        return [host for host in self.order if host in self.facts and host not in self.without]

    def server(self, host: str) -> Facts | None:
        """Return what the server on a host says of itself, None if it does not answer."""
        return self.facts.get(host, {}).get("server")

    def position(self, host: str) -> Position | None:
        """Return the position of a host's data if it is known."""
        facts = self.facts[host]
        if facts.get("position"):
            return tuple(facts["position"])
        if facts["uuid"] and facts["seqno"] >= 0:
            return facts["uuid"], facts["seqno"]
        return None


def next_step(now: Situation) -> Step:
    """Return what brings the cluster one step closer to running; called again with new facts after each step.

    Since nothing but facts is looked at, a recovery that was interrupted goes on where it was.

    :raises GaleraError: data would be lost, or there is nothing to start from.
    """
    _check_options(now)
    if not now.present:
        raise GaleraError(
            f"none of {', '.join(now.order)} answers: nothing can be done. Start their salt-minion; "
            "`salt-run manage.status` shows who is there"
        )
    serving = [host for host in now.order if host in now.facts and is_primary(now.server(host))]
    if serving:
        return _with_cluster(now, serving)
    return _without_cluster(now)


def _check_options(now: Situation) -> None:
    for host in [*now.without, *([now.chosen] if now.chosen else [])]:
        if host not in now.order:
            raise GaleraError(f"{host} is no host of the group `mariadb`, which has {', '.join(now.order)}")
    if now.chosen in now.without:
        raise GaleraError(f"--from and --without both name {now.chosen}")
    if now.chosen and now.chosen not in now.facts:
        raise GaleraError(f"{now.chosen} does not answer, so the cluster cannot be started from it")


def _components(now: Situation, serving: Sequence[str]) -> list[list[str]]:
    """Return the clusters that hosts are part of; more than one is a disaster."""
    found: list[tuple[str, set[str], list[str]]] = []
    for host in serving:
        uuid = str(now.facts[host]["server"]["uuid"])
        members = set((now.facts[host].get("view") or {}).get("members") or ())
        for other, seen, hosts in found:
            if other == uuid and (not members or not seen or members & seen):
                seen |= members
                hosts.append(host)
                break
        else:
            found.append((uuid, members, [host]))
    return [hosts for _, _, hosts in found]


def _with_cluster(now: Situation, serving: Sequence[str]) -> Step:
    components = _components(now, serving)
    if len(components) > 1:
        keep = next((hosts for hosts in components if now.chosen in hosts), None)
        said = "; ".join(f"{', '.join(hosts)} at {_at(now, hosts[0])}" for hosts in components)
        if keep is None:
            raise GaleraError(
                f"there are {len(components)} clusters of the database: {said}. Each may have transactions that the "
                "other lacks; name a host of the one that is to stay with --from HOST, what the others wrote is lost"
            )
        others = [host for hosts in components if hosts is not keep for host in hosts]
        away = tuple(host for host in others if host not in now.without)
        return Step(HALT, away, "they are a second cluster", tuple(f"what {h} wrote by itself is lost" for h in away))
    settle = tuple(host for host in serving if now.facts[host]["one_shot"] and is_member(now.server(host)))
    if settle:
        return Step(SETTLE, settle, "it runs, and must not start as the first one again")
    for host in now.present:
        if not is_member(now.server(host)) and len(now.failed.get(host, ())) < 2:
            return _add(now, serving, host)
    return Step(DONE)


def _add(now: Situation, serving: Sequence[str], host: str) -> Step:
    """Return what makes a host a member of the cluster that runs."""
    facts, leader = now.facts[host], now.facts[serving[0]]["server"]
    # Right after a start, those that were ahead have been dealt with.
    if now.chosen in serving and not now.started and facts["data"] and facts["uuid"]:
        why = f"{now.chosen} was chosen: {host} gets its data"
        if facts["running"]:
            return Step(HALT, (host,), why)
        return Step(DISCARD, (host,), why, (f"what {host} has and {now.chosen} lacks",))
    if host not in now.failed:
        return Step(ADD, (host,), f"{', '.join(serving)} runs")
    if facts["container"] == "absent":
        return Step(LEAVE, (host,), now.failed[host][0])
    if facts["running"]:
        return Step(HALT, (host,), "it did not become a member")
    if facts["data"] and facts["uuid"] and not now.position(host) and not facts.get("position_read"):
        return Step(READ, (host,), "its data may be replaced only if the cluster has them all")
    position = now.position(host)
    if position and position[0] == leader["uuid"] and position[1] > leader["committed"]:
        why = (
            f"{host} has transactions that the running cluster lacks: its data are at {_text(position)}, "
            f"{serving[0]} is at {leader['committed']}. Save them if they are wanted; `kolla-salt mariadb-recovery "
            f"--from {serving[0]}` drops them and makes {host} a member again"
        )
        return Step(LEAVE, (host,), why)
    return Step(ADD, (host,), "it did not become a member with its own data", full=True)


def _without_cluster(now: Situation) -> Step:
    hope = _hope(now)
    if hope and now.waited < now.patience:
        return Step(WAIT, (), hope)
    for host in now.silent:
        by = [name for name in now.present if host in now.facts[name].get("reached", ())]
        if by and host not in now.without:
            raise GaleraError(
                f"{host} does not answer, but its database does ({by[0]} reaches it): it may be part of a cluster that "
                f"works, and a second one must not be made. Start salt-minion and container engine "
                f"of {host}; if its database is known to be dead or useless: --without {host}"
            )
    active = tuple(host for host in now.present if now.facts[host]["running"])
    if active:
        return Step(HALT, active, "no member is in a cluster that works, and they did not find each other")
    unread = tuple(
        host for host in now.present
        if now.facts[host]["data"] and not now.position(host) and not now.facts[host].get("position_read")
    )  # fmt: skip
    if unread:
        return Step(READ, unread, "they did not stop in order")
    host, lost, ahead = choose(now)
    ahead = tuple(name for name in ahead if now.facts[name]["uuid"])
    if ahead:
        return Step(DISCARD, ahead, f"{host} was chosen: they get its data", lost)
    position = now.position(host)
    return Step(START, (host,), f"its data are at {_text(position)}" if position else "it alone has data", lost)


def _hope(now: Situation) -> str:
    """Return why members may find each other by themselves; empty: they cannot."""
    first = [host for host in now.present if now.facts[host]["running"] and now.facts[host]["one_shot"]]
    if first:
        return f"{first[0]} is starting as the first member"
    # After a crash Galera makes the same cluster again as soon as all members of the last one are there.
    there = {(now.facts[h].get("view") or {}).get("own") for h in now.present if now.facts[h]["running"]}
    for host in now.present:
        view = now.facts[host].get("view")
        if now.facts[host]["running"] and view and set(view["members"]) <= there:
            return "all members of the last cluster run, and should find each other"
    reached = [host for host in now.silent if any(host in now.facts[h].get("reached", ()) for h in now.present)]
    if reached and any(now.facts[host]["running"] for host in now.present):
        return f"the database on {reached[0]} is reached"
    return ""


def choose(now: Situation) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the host to start from, what is lost by that, and the hosts whose data must be dropped for it.

    :raises GaleraError: data would be lost and the operator has not agreed, or nobody has any.
    """
    holders = [host for host in now.present if now.facts[host]["data"]]
    positions = {host: position for host in holders if (position := now.position(host))}
    if now.chosen:
        if now.chosen not in holders:
            raise GaleraError(f"{now.chosen} has no data of the database to start from")
        return _as_chosen(now, now.chosen, positions)
    problems = _unreadable(now, holders)
    if not positions:
        problems += [_suspicion(now, host, None) for host in now.silent if host not in now.without]
        if problems := [problem for problem in problems if problem]:
            raise _refusal(problems)
        if len(holders) == 1:
            return holders[0], _given_up(now), ()
        if holders:
            raise GaleraError(
                f"{', '.join(holders)} have a database that never was part of a cluster: choose one with --from HOST, "
                "what the others have is lost"
            )
        raise GaleraError(
            f"none of {', '.join(now.present)} has data of the database: there is nothing to recover. "
            "`kolla-salt deploy` makes a new, empty one"
        )
    clusters = {position[0] for position in positions.values()}
    if len(clusters) > 1:
        said = "; ".join(f"{host} is at {_text(position)}" for host, position in positions.items())
        problems.append(
            f"the hosts have data of {len(clusters)} different clusters: {said}. Name the one that counts with "
            "--from HOST; what the others have is lost"
        )
    best = max(
        positions,
        key=lambda host: (positions[host][1], now.facts[host]["safe_to_bootstrap"], -list(now.order).index(host)),
    )
    problems += [_suspicion(now, host, best) for host in now.silent if host not in now.without]
    if problems := [problem for problem in problems if problem]:
        raise _refusal(problems)
    return best, _given_up(now), ()


def _refusal(problems: Sequence[str]) -> GaleraError:
    return GaleraError("the cluster is not started, since data could be lost:\n  " + "\n  ".join(problems))


def _unreadable(now: Situation, holders: Sequence[str]) -> list[str]:
    return [
        f"how far the data of {host} got cannot be found out ({now.facts[host]['position_error']}); "
        f"if they can be given up: --without {host}"
        for host in holders
        if now.facts[host].get("position_error") and not now.position(host)
    ]


def _given_up(now: Situation) -> tuple[str, ...]:
    return tuple(
        f"what {host} alone has ({_last_words(now.known.get(host))}); before its database starts again, its data "
        "must be removed"
        for host in now.without
    )


def _as_chosen(
    now: Situation, chosen: str, positions: Mapping[str, Position]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    own = positions.get(chosen)
    lost, ahead = list(_given_up(now)), []
    for host, position in positions.items():
        if host == chosen:
            continue
        if not own or position[0] != own[0]:
            lost.append(f"all that {host} has: it is at {_text(position)}, which is another cluster")
            ahead.append(host)
        elif position[1] > own[1]:
            lost.append(f"the last {position[1] - own[1]} transactions of {host}, which is at {_text(position)}")
            ahead.append(host)
    lost += [
        f"what {host} alone has ({_last_words(now.known.get(host))}), which does not answer"
        for host in now.silent
        if host not in now.without
    ]
    return chosen, tuple(lost), tuple(ahead)


def _suspicion(now: Situation, host: str, best: str | None) -> str:
    """Return why a silent host may have data that no other one has; empty: it cannot."""
    known = now.known.get(host)
    if known and not known.get("data"):
        return ""
    if best is not None:
        facts, position = now.facts[best], now.position(best)
        assert position is not None
        if facts["safe_to_bootstrap"]:
            return ""  # by Galera's own record it left last
        view = facts.get("view")
        owns = {(now.facts[name].get("view") or {}).get("own") for name in now.present}
        if view and set(view["members"]) <= owns:
            return ""  # the last cluster had no other members than those that answer
        if (
            known and not known.get("running") and known.get("uuid") == position[0]
            and 0 <= known.get("seqno", -1) <= position[1] and known.get("time", 0) > facts.get("written", 0)
        ):  # fmt: skip
            return ""  # it had stopped already when this one stopped
    than = f" than {best}, which is at {_text(now.position(best))}" if best else ""
    return (
        f"{host} does not answer, and may be more advanced{than}: {_last_words(known)}. Start {host}; if it is gone "
        f"for good, or its last transactions can be given up: --without {host}"
    )


def _last_words(known: Facts | None) -> str:
    if not known:
        return "nothing was ever heard of its database"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.get("time", 0)))
    if not known.get("data"):
        return f"at {when} it had no database"
    how = "ran" if known.get("running") else "had stopped"
    where = f" at {known['uuid']}:{known['seqno']}" if known.get("seqno", -1) >= 0 else ""
    return f"at {when} its database {how}{where}"


def _at(now: Situation, host: str) -> str:
    server = now.facts[host]["server"]
    return f"{server['uuid']}:{server['committed']}"


def _text(position: Position | None) -> str:
    return f"{position[0]}:{position[1]}" if position else "an unknown position"


def members(now: Situation) -> dict[str, str]:
    """Return host -> the state of its member in Galera's words, or what is known instead."""
    found = {}
    for host in now.order:
        server = now.server(host)
        if host not in now.facts:
            found[host] = "unknown: the host does not answer"
        elif server:
            found[host] = str(server["state"] if is_primary(server) else f"{server['cluster']}: {server['state']}")
        else:
            found[host] = f"no answer: container {now.facts[host]['container']}"
    return found
