"""What differs between the cloud and its site, who should win, and which of it may be healed without asking. Pure.

A finding is plain data: ``host``, ``kind`` (files, containers, databases, catalogue, host, cluster, vip, agents or
endpoints), ``name``, ``found``, ``expected``, ``winner``, ``mend``. The winner is

    site        the cloud is to become what the site says; ``mend`` is the command
    world       what was found is somebody's intention or work: kolla-salt leaves it alone
    undecided   only a person knows; ``mend`` names both ways
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from kolla_salt import outcome

Finding = dict[str, Any]

SITE, WORLD, UNDECIDED = "site", "world", "undecided"

#: What the dry run of these functions is about, in the operator's words.
KINDS = {
    "kolla_config": "files",
    "kolla_container": "containers",
    "kolla_db": "databases",
    "kolla_keystone": "catalogue",
}
#: Who wins, for people.
WINNERS = {SITE: "the site wins", WORLD: "it stays", UNDECIDED: "a person decides"}
_LONGEST = 300


def finding(host: str, kind: str, name: str, found: Any, expected: Any, winner: str = SITE, mend: str = "") -> Finding:
    """Return one finding."""
    return {
        "host": host, "kind": kind, "name": name, "found": _short(found), "expected": _short(expected),
        "winner": winner, "mend": mend,
    }  # fmt: skip


def sentence(item: Finding) -> str:
    """Return a finding in one line."""
    where = f"{item['host']}: " if item["host"] else ""
    return f"{where}{item['name']}: found {item['found']}, expected {item['expected']}; {item['mend']}"


def _short(value: Any) -> str:
    text = "nothing" if value in (None, "", [], {}) else value if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


# --- one host ---------------------------------------------------------------------------------------------------------


def of_states(
    host: str, states: Iterable[Mapping[str, Any]], stopped: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return a finding for each state that a dry run would change.

    :param host: where.
    :param states: ``id``, ``sls``, ``function``, ``changes`` as ``kolla_node.survey`` returns them.
    :param stopped: container -> when it was stopped through kolla-salt, for those that still stand still.
    """
    return [_of_state(host, state, stopped or {}) for state in states]


def differing(states: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the states of a dry run in which something differs, without those that would only note something."""
    return [state for state in states if not outcome.noted(state)]


def _of_state(host: str, state: Mapping[str, Any], stopped: Mapping[str, str]) -> Finding:
    module, _, function = state["function"].partition(".")
    kind = KINDS.get(module, "host")
    name, changes = state["id"], state["changes"]
    service = state["sls"].split(".")[0]
    deploy = f"kolla-salt deploy {service} --limit {host}"
    fields = ", ".join(changes) or "differs"
    if kind == "files":
        if function == "pruned":
            gone = sorted(changes)
            return finding(host, kind, name, gone, "no such file", SITE, f"{deploy} removes it")
        absent = all(_old(change) in (None, "", "absent") for change in changes.values())
        return finding(
            host, kind, name, "no such file" if absent else f"differs in {fields}", "as rendered from the site", SITE,
            f"{deploy} puts it back" + ("" if absent else "; what is to stay belongs into the site's overrides/"),
        )  # fmt: skip
    if kind == "containers":
        return _of_container(host, name, function, changes, stopped, deploy)
    if kind in {"databases", "catalogue"}:
        old = {field: _old(change) for field, change in changes.items()}
        lacking = [field for field, value in old.items() if value in (None, "", [])]
        found = f"lacks {', '.join(lacking)}" if lacking == list(changes) else f"differs in {fields}"
        return finding(host, kind, name, found, "as the services declare it", SITE, f"{deploy} sets it right")
    return finding(host, kind, name, fields, "as declared", SITE, f"{deploy} sets it right")


def _of_container(
    host: str, name: str, function: str, changes: Mapping[str, Any], stopped: Mapping[str, str], deploy: str
) -> Finding:
    state = changes.get("state") if isinstance(changes.get("state"), Mapping) else {}
    others = [field for field in changes if field != "state" and state.get("old") != "absent"]
    if function == "absent":
        return finding(
            host,
            "containers",
            name,
            state.get("old") or "exists",
            "none: it is switched off",
            SITE,
            f"{deploy} removes it",
        )
    if function == "ran":
        return finding(
            host, "containers", name, "has not run for the present image", "has run", SITE, f"{deploy} runs it"
        )
    if name in stopped and state.get("new") == "started":
        return finding(
            host, "containers", name, f"{state.get('old')}: stopped with kolla-salt at {stopped[name]}", "running",
            UNDECIDED, f"if it is to run again: {deploy}; if not, leave it, or switch it off in the site",
        )  # fmt: skip
    found = f"differs in {', '.join(others)}" if others else str(state.get("old") or "differs")
    done = state.get("new") or "changed"
    wanted = {"started": "running", "created": "running"}.get(done, "as declared")
    return finding(host, "containers", name, found, wanted, SITE, f"{deploy}: it will be {done}")


def _old(change: Any) -> Any:
    return change.get("old") if isinstance(change, Mapping) else None


def of_look(host: str, look: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the containers of a host beyond what a dry run compares: sick ones and strangers.

    :param look: as ``kolla_node.look`` returns it.
    """
    items = []
    for name, data in look["containers"].items():
        if data["service"] is None:
            items.append(
                finding(
                    host,
                    "containers",
                    name,
                    f"{data['state']}, made by kolla-salt",
                    "declared by a service of this host",
                    UNDECIDED,
                    f"if it is to go: docker rm -f {name} on {host}; if it is to stay, switch its service on",
                )  # fmt: skip
            )
        elif data["state"] == "running" and data["health"] == "unhealthy":
            items.append(
                finding(
                    host,
                    "containers",
                    name,
                    "runs, but its health check fails",
                    "healthy",
                    SITE,
                    f"docker inspect -f '{{{{json .State.Health}}}}' {name} on {host} says why",
                )  # fmt: skip
            )
    return items


# --- members of clusters ----------------------------------------------------------------------------------------------


def across(members: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what the members of clusters say of themselves, and where they disagree.

    :param members: host -> container -> what the container's ``verify`` function returned: ``findings`` (without
        ``host``), ``alike`` (what -> value that all hosts must agree on), ``once`` (what -> whether this host has it;
        exactly one must); or a text if it could not be asked.
    """
    items: list[Finding] = []
    alike: dict[tuple[str, str], dict[str, list[str]]] = {}
    once: dict[tuple[str, str], dict[str, bool]] = {}
    for host, containers in members.items():
        for container, said in containers.items():
            if not isinstance(said, Mapping):
                items.append(
                    finding(
                        host,
                        "cluster",
                        container,
                        f"cannot be asked: {said}",
                        "an answer",
                        SITE,
                        f"docker logs --tail 50 {container} on {host}",
                    )  # fmt: skip
                )
                continue
            items += [
                {**finding(host, "cluster", container, None, None), **item, "host": host}
                for item in said.get("findings", [])
            ]
            for what, value in (said.get("alike") or {}).items():
                alike.setdefault((container, what), {}).setdefault(str(value), []).append(host)
            for what, has in (said.get("once") or {}).items():
                once.setdefault((container, what), {})[host] = bool(has)
    for (container, what), values in alike.items():
        if len(values) > 1:
            text = "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in values.items())
            items.append(
                finding("", "cluster", f"{container}: {what}", text, "the same on all hosts", SITE, _MEND_ALIKE)
            )
    for (container, what), hosts in once.items():
        holders = [host for host, has in hosts.items() if has]
        if len(holders) != 1:
            items.append(
                finding(
                    "",
                    "vip",
                    what,
                    f"on {', '.join(holders)}" if holders else f"on none of {', '.join(hosts)}",
                    "on exactly one host",
                    SITE,
                    f"docker logs --tail 50 {container} on these hosts",
                )  # fmt: skip
            )
    return items


_MEND_ALIKE = "look at the members that differ before anything is restarted"


# --- the cloud's APIs -------------------------------------------------------------------------------------------------


def of_endpoints(host: str, endpoints: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the load-balancer entries that do not answer as they should, asked from ``host``."""
    return [
        finding(
            "",
            "endpoints",
            item["entry"],
            f"{item['url']}: {item['said']}",
            f"an answer, asked from {host}",
            SITE,
            "kolla-salt status shows the containers behind it",
        )  # fmt: skip
        for item in endpoints
        if not item["ok"]
    ]


def of_agents(
    agents: Iterable[Mapping[str, Any]], placed: Mapping[str, Sequence[str]], silent: Collection[str] = ()
) -> list[Finding]:
    """Return agents and workers that are down, disabled, missing, or left from a host that is none any more.

    :param agents: as ``kolla_check.agents`` returns them.
    :param placed: agent or worker (``nova-compute``) -> hosts that have its container, see :func:`reporting`.
    :param silent: hosts of which nothing is known.
    """
    items: list[Finding] = []
    seen: dict[str, set[str]] = {}
    # A service's own name for its machine may be longer or shorter than the site's.
    by_name = {
        name: host for hosts in [*placed.values(), silent] for host in hosts for name in (host.split(".")[0], host)
    }
    for agent in agents:
        name, hosts = agent["agent"], placed.get(agent["agent"], ())
        host = by_name.get(agent["host"]) or by_name.get(agent["host"].split(".")[0])
        where = host or agent["host"]
        seen.setdefault(name, set()).add(where)
        if hosts and where not in hosts and where not in silent:
            items.append(
                finding(
                    where,
                    "agents",
                    name,
                    f"{agent['said']}, where its container does not belong",
                    "no such agent",
                    UNDECIDED,
                    f"if the host is gone for good: kolla-salt node remove {where}; else add it to the site",
                )  # fmt: skip
            )
            continue
        if agent.get("disabled"):
            items.append(
                finding(
                    where,
                    "agents",
                    name,
                    f"disabled: {agent['disabled']}",
                    "enabled",
                    WORLD,
                    f"an operator's decision; kolla-salt node undrain {where} enables it again",
                )  # fmt: skip
            )
        if not agent["ok"]:
            items.append(
                finding(
                    where,
                    "agents",
                    name,
                    agent["said"],
                    "up",
                    SITE,
                    f"docker logs --tail 50 {name.replace('-', '_')} on {where}",
                )  # fmt: skip
            )
    for name, hosts in placed.items():
        for host in sorted(set(hosts) - seen.get(name, set())):
            items.append(
                finding(
                    host,
                    "agents",
                    name,
                    "does not report",
                    "up",
                    SITE,
                    f"docker logs --tail 50 {name.replace('-', '_')} on {host}",
                )  # fmt: skip
            )
    return items


def unheard(agents: Iterable[Mapping[str, Any]], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Return which of the wanted agents and workers are not up, as sentences.

    :param agents: as ``kolla_check.agents`` returns them.
    :param wanted: agent or worker -> hosts.
    """
    return [
        f"{item['name']} on {item['host']} {'is down' if item['found'] == 'down' else item['found']}: {item['mend']}"
        for item in of_agents(agents, wanted)
        if item["winner"] == SITE and item["host"] in wanted.get(item["name"], ())
    ]


def of_strangers(strangers: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return what exists in the cloud's database or catalogue and no enabled service declares: ``kind``, ``name``."""
    return [
        finding(
            "",
            item["kind"],
            item["name"],
            item.get("found", "exists"),
            "nothing: no enabled service declares it",
            WORLD,
            "somebody else's object: kolla-salt leaves it alone",
        )  # fmt: skip
        for item in strangers
    ]


def alarming(items: Iterable[Finding]) -> list[Finding]:
    """Return the findings that make a verification fail: all but the world's."""
    return [item for item in items if item["winner"] != WORLD]


def reporting(
    looks: Mapping[str, Mapping[str, Any]], declarations: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return agent or worker -> hosts that should have its container, by what the containers say they report as.

    :param looks: host -> as ``kolla_node.look`` returns it.
    """
    found: dict[str, list[str]] = {}
    for host, look in looks.items():
        for name, data in look["containers"].items():
            if data["service"] in declarations:
                agent = declarations[data["service"]]["containers"][name]["reports"]
                if agent:
                    found.setdefault(agent, []).append(host)
    return found


# --- the whole cloud --------------------------------------------------------------------------------------------------


def judge(
    reports: Mapping[str, Mapping[str, Any]],
    cloud: Mapping[str, Any] | None,
    asker: str,
    silent: Collection[str],
    declarations: Mapping[str, Mapping[str, Any]],
) -> list[Finding]:
    """Return every finding of a verification, host by host, then what concerns several of them.

    :param reports: host -> as ``kolla_node.verify`` returns it.
    :param cloud: as ``kolla_check.cloud`` returns it; None if nobody could ask.
    :param asker: who asked the cloud's APIs.
    :param silent: hosts that did not answer.
    """
    items: list[Finding] = []
    for host, report in reports.items():
        items += of_states(host, report["survey"]["states"], report["stopped"])
        items += of_look(host, report["look"])
    items += across({host: report["members"] for host, report in reports.items()})
    if cloud is not None:
        items += of_endpoints(asker, cloud["endpoints"])
        placed = reporting({host: report["look"] for host, report in reports.items()}, declarations)
        if cloud["agents"] or not cloud["problems"]:
            items += of_agents(cloud["agents"], placed, silent)
        items += of_strangers(cloud["strangers"])
    return items


# --- watching one host ------------------------------------------------------------------------------------------------

#: Looks in a row in which a state has to be seen before it counts: what a run restarts is away for a moment only.
SETTLED = 2
#: Seconds after which what stays wrong is told once more: an event may have found nobody, or a moment too early.
REPEAT = 600

_HEALTHY = ("running", "absent")
#: Stands among the containers for the engine itself: "running" if it answers.
ENGINE = "(container engine)"
#: What the beacon remembers between two looks. Salt loads a beacon's own module anew whenever the pillar is refreshed.
memories: dict[str, dict[str, Any]] = {}


def conditions(listed: Iterable[Mapping[str, Any]], label: str) -> dict[str, str]:
    """Return container -> condition: ``running``, ``unhealthy``, ``exited (128)``, ``created``, ...

    :param listed: the engine's list of containers, as its API gives it.
    :param label: what marks our own.
    """
    found = {}
    for item in listed:
        name = item["Names"][0].lstrip("/")
        # What a run makes beside a container, or keeps of it, has a dot in its name.
        if label in (item.get("Labels") or {}) and "." not in name:
            state, status = item["State"], item.get("Status") or ""
            if state == "running" and "(unhealthy)" in status:
                state = "unhealthy"
            elif state in ("exited", "dead", "restarting") and "(" in status:
                state = f"{state} ({status.partition('(')[2].partition(')')[0]})"
            found[name] = state
    return found


def changed(memory: dict[str, Any], now: Mapping[str, str], when: float) -> dict[str, dict[str, str | None]]:
    """Return what of a host's containers is to be told: name -> ``was`` and ``now``; mostly nothing.

    Told is what has become wrong, other than it was, or well again, once it has lasted; what stays wrong is told again
    every :data:`REPEAT` seconds. What is well at first is not told at all, so hosts that are well say nothing.

    :param memory: kept by the caller between two looks, ``{}`` at first; it is written to.
    :param now: as :func:`conditions` returns it.
    :param when: seconds of a clock that only goes forward.
    """
    known, pending = memory.setdefault("known", {}), memory.setdefault("pending", {})
    seen = dict(now)
    if now.get(ENGINE, "running") == "running":  # else nothing is known of the others
        seen = {**{name: "absent" for name in known if name != ENGINE}, **now}
    told: dict[str, dict[str, str | None]] = {}
    for name, state in seen.items():
        if state == known.get(name, "running"):
            known.setdefault(name, state)
            pending.pop(name, None)
            continue
        before, count = pending.get(name, (None, 0))
        count = count + 1 if before == state else 1
        pending[name] = (state, count)
        if count >= SETTLED:
            told[name] = {"was": known.get(name), "now": state}
            known[name] = state
            del pending[name]
    wrong = {name: state for name, state in known.items() if state not in _HEALTHY}
    if not wrong or told:
        memory["told"] = when
    elif when - memory.get("told", when) >= REPEAT:
        memory["told"] = when
        told = {name: {"was": state, "now": state} for name, state in wrong.items()}
    for name in [name for name, state in known.items() if state == "absent"]:
        del known[name]
    return told


def watch(interval: int, minutes: int, engine: str, socket: str | None = None) -> dict[str, Any]:
    """Return the parts of a minion's pillar by which Salt watches its host: ``beacons`` and ``schedule``.

    :param interval: seconds between two looks at the containers; 0: never.
    :param minutes: minutes between two comparisons of the whole host; 0: never.
    :param engine: ``docker`` or ``podman``.
    :param socket: where it listens; None: at its usual socket.
    """
    parts: dict[str, Any] = {}
    if interval:
        where = [{"engine": engine}, *([{"socket": socket}] if socket else [])]
        # What a run restarts is its own business.
        parts["beacons"] = {BEACON: [{"interval": interval}, *where, {"disable_during_state_run": True}]}
    if minutes:
        parts["schedule"] = {
            BEACON: {
                "function": "kolla_node.compare", "minutes": minutes, "splay": minutes * 60 // 2, "run_on_start": False,
                "maxrunning": 1, "return_job": False,
            }
        }  # fmt: skip
    return parts


#: Name of the beacon and of the schedule's job.
BEACON = "kolla_drift"


# --- healing ----------------------------------------------------------------------------------------------------------

HOUR = 3600.0
#: Conditions of a container that starting it again may mend.
_STARTABLE = ("exited", "stopped")


def to_heal(
    told: Mapping[str, Mapping[str, Any]], run: str, history: Mapping[str, Sequence[float]], now: float, limit: int
) -> tuple[list[str], dict[str, str]]:
    """Return which containers of a host may be started again as far as the master knows, and why others may not.

    :param told: as the event has it, see :func:`changed`.
    :param run: id of a run that is going on; empty: none.
    :param history: container -> when it was healed (seconds since the epoch).
    :param limit: how often one may be healed in an hour.
    """
    may, refused = [], {}
    for name, change in told.items():
        if not str(change.get("now")).startswith(_STARTABLE):
            continue
        recent = [at for at in history.get(name, ()) if now - at < HOUR]
        if run:
            refused[name] = f"the run {run} is going on"
        elif len(recent) >= limit:
            refused[name] = (
                f"it was started {len(recent)} times within an hour and does not stay up; "
                f"docker logs --tail 50 {name} says why (option drift_heal_limit)"
            )
        else:
            may.append(name)
    return may, refused


def start_refusal(
    declared: bool, stopped: str | None, changes: Mapping[str, Any] | None, files: Collection[str] | None,
    obstacles: Sequence[str],
) -> str:  # fmt: skip
    """Return why a container must not simply be started again on its host; empty: it may be.

    :param declared: a service of this host declares it.
    :param stopped: when it was stopped through kolla-salt; None: it was not.
    :param changes: what differs from its declaration, as ``kolla_container.diff`` returns it.
    :param files: configuration files that are other than at its last deployment; None: there was none that ended well.
    :param obstacles: what its declaration's ``heal`` says against it.
    """
    if not declared:
        return "no service of this host declares it"
    if stopped:
        return f"it was stopped with kolla-salt at {stopped}"
    state = (changes or {}).get("state") or {}
    others = [field for field in changes or {} if field != "state"]
    if others or (changes and state.get("new") != "started"):
        return f"it differs from the site in {', '.join(others) or 'its state'}; that is for kolla-salt deploy"
    if files is None:
        return "no deployment of it has ended well; that is for kolla-salt deploy"
    if files:
        return f"it would read changed files ({', '.join(files)}); that is for kolla-salt deploy"
    return "; ".join(obstacles)


def remember(history: Mapping[str, Sequence[float]], names: Iterable[str], now: float) -> dict[str, list[float]]:
    """Return ``history`` with ``names`` healed now, without what is older than an hour."""
    kept = {name: [at for at in times if now - at < HOUR] for name, times in history.items()}
    for name in names:
        kept.setdefault(name, []).append(now)
    return {name: times for name, times in kept.items() if times}


def healed(headers: Iterable[Mapping[str, Any]], now: float) -> list[dict[str, str]]:
    """Return what was started again, or given up, during the last day: ``host``, ``name``, ``said``, ``run``.

    :param headers: of run records, oldest first.
    :param now: seconds since the epoch.
    """
    found = []
    for header in headers:
        if header.get("verb") == "heal" and now - header["started"] < 24 * HOUR:
            said = dict.fromkeys(header.get("started_again", ()), "had stopped and was started again")
            said |= {name: f"is not started again: {why}" for name, why in (header.get("refused") or {}).items()}
            found += [
                {"host": header["host"], "name": name, "said": text, "run": header["id"]} for name, text in said.items()
            ]
    return found
