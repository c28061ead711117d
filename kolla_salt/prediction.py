"""What a run will do, made of the plan and of the dry run on all hosts: in which order, and what users notice. Pure.

``kolla-salt plan`` shows it, and a run goes by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kolla_salt import haproxy, outcome
from kolla_salt.steps import (
    Disturbed,
    Only,
    Progress,
    disturbed,
    matters_to_others,
    needed_by,
    placement,
    rules,
    service_of,
    sls_by_host,
    to_do,
    within,
)

#: What the dry run of these functions is about, in the operator's words.
_KINDS = {
    "kolla_config": "files",
    "kolla_container": "containers",
    "kolla_db": "databases",
    "kolla_keystone": "catalogue",
}
#: What kolla_container says will have been done -> what is to be done.
_ACTIONS = {
    "created": "create",
    "recreated": "recreate",
    "started": "start",
    "restarted": "restart",
    "reloaded": "reload",
    "updated": "change in place",
    "adopted": "adopt",
}


def word(done: str) -> str:
    """Return what is to be done to a container, from the word for that it was done."""
    return _ACTIONS.get(done, {"removed": "remove", "stopped": "stop", "run": "run"}.get(done, done))


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host's dry run comes to: files, containers with action and reason, databases, catalogue, other.

    What is only noted (:func:`kolla_salt.outcome.noted`) is not among it.
    """
    found: dict[str, Any] = {"files": [], "containers": [], "databases": [], "catalogue": [], "other": []}
    for state in report["states"]:
        if outcome.noted(state):
            continue
        kind = _KINDS.get(state["function"].split(".")[0], "other")
        if kind == "containers":
            action, why = container_action(state)
            found[kind].append({"name": state["id"], "action": action, "why": why, "changes": state["changes"]})
        else:
            found[kind].append({"name": state["id"], "changes": state["changes"], "comment": state.get("comment", "")})
    return found


def container_action(state: Mapping[str, Any]) -> tuple[str, str]:
    """Return what will be done to a container (create, recreate, restart, reload, run, remove, ...) and why."""
    changes = state["changes"]
    name = state["function"].split(".")[-1]
    if name == "ran":
        return "run", "has to run once"
    if name == "absent":
        return "remove", "is no longer declared here"
    state_change = changes.get("state")
    done = state_change.get("new") if isinstance(state_change, Mapping) else None
    action = _ACTIONS.get(str(done), str(done) if done else "change")
    if action == "create":
        return action, ""
    fields = [field for field in changes if field not in {"state", "config"}]
    config = changes.get("config")
    files = config.get("new") if isinstance(config, Mapping) else None
    if files:
        fields.append(", ".join(files) if isinstance(files, list) else str(files))
    if not fields and action == "restart":
        return action, "because of what it watches"
    if not fields and isinstance(state_change, Mapping):
        return action, f"it is {state_change.get('old')}"
    return action, f"because of {', '.join(fields)}" if fields else state.get("comment", "")


# --- what is done to containers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """What is done to one container.

    Attributes:
        sls: of the state that does it.
        done: a word of kolla_container: created, restarted, reloaded, ...
        container: its name, if it is another than the state's ID.
        late: whether it comes in a step of its own, when all hosts are done.
    """

    sls: str
    done: str
    container: str = ""
    late: bool = False


def act(change: Mapping[str, Any]) -> Act | None:
    """Return what a predicted or real change of a state means for a container, None if it is about none."""
    module, _, function = str(change["function"]).partition(".")
    if module != "kolla_container" and change["function"] not in {"kolla_kept.returned", "kolla_kept.reread"}:
        return None
    changes = change.get("changes") or {}
    state = changes.get("state")
    sls = str(change.get("sls") or "")
    if function in {"absent", "stopped", "ran"}:
        return Act(sls, {"absent": "removed", "stopped": "stopped", "ran": "run"}[function])
    done = state.get("new") if isinstance(state, Mapping) else None
    if function == "renewed" and done:
        return Act(sls, str(done), str(change["id"]).removesuffix(" again"), True)
    # A rollback has a state of its own for what is changed back in place.
    return Act(sls, str(done), str(change["id"]).removesuffix(": settings")) if done else None


def acts(changes: Iterable[Mapping[str, Any]]) -> dict[str, Act]:
    """Return the ID of a state, which mostly is a container's name -> what it does to a container of one host.

    Args:
        changes: ``id``, ``sls``, ``function`` and ``changes`` of states.
    """
    return {change["id"]: found for change in changes if (found := act(change))}


# --- what a run comes to ----------------------------------------------------------------------------------------------


def problems(reports: Mapping[str, Any], version: str) -> list[str]:
    """Return why a run must not be begun, in sentences: what hosts answered that is no prediction.

    Args:
        reports: host -> answer of its dry run.
        version: of kolla-salt on the master.
    """
    found: list[str] = []
    for host, report in reports.items():
        if not isinstance(report, Mapping) or "states" not in report:
            found.append(f"{host}: {outcome.last_words(str(report))}")
        elif report["version"] != version:
            found.append(
                f"{host} has kolla-salt {report['version']}, the master has {version}; install the same version on both"
            )
        else:
            found += [f"{host}: {text}" for text in report["errors"]]
    return found


@dataclass
class Forecast:
    """The steps of a run, and what the dry run of its hosts makes of them.

    Attributes:
        steps: those that have hosts left.
        services: of the steps, in order.
        progress: what is to be done of each step; see :mod:`kolla_salt.steps`.
        reports: host -> its dry run.
    """

    steps: list[dict[str, Any]]
    services: list[str]
    progress: Progress
    reports: dict[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[str, list[str]]:
        """Return host -> the SLS that its dry run is made of."""
        only = self.progress.only
        found = sls_by_host(self.steps, self.progress.placed)
        found = {host: [name for name in names if within(only, host, name)] for host, names in found.items()}
        return {host: names for host, names in found.items() if names}

    @property
    def predicted(self) -> dict[str, dict[str, list[str]]]:
        """Return host -> service -> IDs of what would change, or cannot be predicted and has to be tried."""
        found: dict[str, dict[str, list[str]]] = {}
        for host, report in self.reports.items():
            mine = found.setdefault(host, {})
            for state in [*report["states"], *report["failed"]]:
                mine.setdefault(service_of(state["sls"]), []).append(state["id"])
        return found

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return host -> service -> number of its changes, without what is only noted."""
        found: dict[str, dict[str, int]] = {}
        for host, report in self.reports.items():
            mine = found.setdefault(host, {})
            for state in [*report["states"], *report["failed"]]:
                if not outcome.noted(state):
                    mine[service_of(state["sls"])] = mine.get(service_of(state["sls"]), 0) + 1
        return found

    @property
    def noted(self) -> dict[str, list[str]]:
        """Return host -> containers of which a run only notes that they run as declared."""
        return {
            host: [state["id"] for state in report["states"] if outcome.noted(state)]
            for host, report in self.reports.items()
        }

    def learn(self, reports: Mapping[str, Any], every: bool = False) -> None:
        """Take in what the hosts predict.

        Args:
            reports: host -> its dry run, without :func:`problems`.
            every: all steps are to be applied, whatever is predicted.
        """
        self.reports = dict(reports)
        self.progress.planned = {host: disturbed(report["states"]) for host, report in reports.items()}
        if every:
            return
        spreading = {
            service_of(state["sls"])
            for report in reports.values()
            for state in report["states"]
            if matters_to_others(state)
        }
        spreading |= {service_of(state["sls"]) for report in reports.values() for state in report["failed"]}
        self.progress.todo = to_do(self.predicted, self.progress.requires, self.services, spreading)


def forecast(resolver: Any, steps: Iterable[Mapping[str, Any]], only: Only | None = None) -> Forecast:
    """Return the forecast of a run before any host was asked.

    Args:
        resolver: of any host.
        steps: as :func:`kolla_salt.plan.steps` returns them.
        only: what the run is restricted to, as in :func:`kolla_salt.steps.within`.
    """
    left = [{**step, "minions": [name for name in step["minions"] if only is None or name in only]} for step in steps]
    left = [step for step in left if step["minions"]]
    services = list(dict.fromkeys(service_of(sls) for step in left for sls in step["sls"]))
    decls = resolver.declarations
    progress = Progress(
        requires={name: decls[name]["requires"] for name in decls},
        primaries={name: resolver.service_hosts(name)[0] for name in services if name in decls},
        placed=placement(resolver, services),
        only=only,
        limits=rules(resolver, services),
        together={name for name in services if name in decls and decls[name]["together"]},
    )
    return Forecast(left, services, progress)


# --- the load balancer ------------------------------------------------------------------------------------------------


def balanced_by(resolver: Any) -> list[str]:
    """Return the hosts whose load balancer decides who gets requests."""
    if not resolver.enabled("loadbalancer") or not resolver.value("enable_haproxy"):
        return []
    return resolver.hosts("loadbalancer")


def entries(resolver: Any) -> dict[str, list[dict[str, Any]]]:
    """Return container -> the load-balancer entries that it answers.

    Returns:
        of each ``entry``, ``service``, ``active_passive`` and ``hosts`` (its members).
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in resolver.catalogue["load_balancer"]:
        if entry["container"]:
            hosts = [member["host"] for member in entry["members"]]
            told = {key: entry[key] for key in ("entry", "service", "active_passive")}
            found.setdefault(entry["container"], []).append({**told, "hosts": hosts})
    return found


def taken_out(
    jobs: Iterable[tuple[Sequence[str], Sequence[str]]],
    planned: Disturbed,
    answering: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, str]:
    """Return the servers that get no requests while ``jobs`` are done: ``backend/server`` -> how they are taken out.

    Also for a reload: a server with a single process accepts requests and lets them wait while it loads. Not the one
    that alone is written to, though: what changes places for nothing would break connections.

    Args:
        jobs: hosts and the SLS that are applied there.
        planned: host -> container -> what will be done to it.
        answering: as :func:`entries` returns it.
    """
    return {
        f"{haproxy.backend(entry['entry'])}/{host}": "maint" if entry["active_passive"] else "drain"
        for hosts, sls in jobs
        for host in hosts
        for container, done in planned.get(host, {}).items()
        for entry in answering.get(container, ())
        if len(entry["hosts"]) > 1
        and entry["service"] in {service_of(name) for name in sls}
        and not (done == "reloaded" and entry["active_passive"])
    }


def order(found: Forecast, answering: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return what a run does, in order, if nothing fails.

    Returns:
        of each step that comes to something: ``wave``, ``role``, ``services`` (that are applied), ``left_out``, and
        ``batches``, one after the other: ``hosts``, ``containers`` (host -> container -> what is done to it) and
        ``out`` (servers that are out of the load balancer meanwhile).
    """
    result = []
    doing = {host: acts(report["states"]) for host, report in found.reports.items()}
    late = {
        f"{step['services'][0]}_{phase}"
        for step in found.steps
        if step["role"] == "finish"
        for phase in step.get("phases") or ()
    }
    for step in found.steps:
        todo, left_out = found.progress.targets(step)
        if step.get("by") and todo:  # it applies no states
            alone = [{"hosts": list(step["minions"]), "containers": {}, "out": []}]
            shown = {key: step[key] for key in ("wave", "role", "services")}
            result.append({**shown, "batches": alone, "left_out": {}})
            continue
        if not todo and not left_out:
            continue
        batches = []
        for hosts in found.progress.batches(todo):
            jobs = [([host], todo[host]) for host in hosts]
            done = {
                host: {
                    item.container or name: item.done
                    for name, item in doing.get(host, {}).items()
                    if item.sls in todo[host] and _in_step(step, name, item, late)
                }
                for host in hosts
            }
            batches.append(
                {
                    "hosts": hosts,
                    "containers": {host: names for host, names in done.items() if names},
                    "out": sorted(taken_out(jobs, found.progress.planned, answering)),
                }
            )
        applied = list(dict.fromkeys(service_of(name) for names in todo.values() for name in names))
        shown = {"wave": step["wave"], "role": step["role"], "services": applied}
        result.append({**shown, "batches": batches, "left_out": left_out})
    return result


def _in_step(step: Mapping[str, Any], name: str, item: Act, late: Collection[str]) -> bool:
    """Return whether a step of those that apply the same SLS is the one that does something.

    Args:
        step: of the plan.
        name: ID of the state.
        item: what it does.
        late: IDs of the phases of a change of release that come last.
    """
    if step["role"] == "finish" and "phases" in step:
        return name in late
    return name not in late and item.late == (step["role"] == "again")


#: Option that names the group of the message broker.
_RPC_GROUP = "om_rpc_group"
#: What a run does to a container that keeps requests from being answered for a while.
_AWAY = {"recreated", "restarted", "removed", "stopped"}


def effects(
    resolver: Any,
    found: Forecast,
    steps: Iterable[Mapping[str, Any]],
    answering: Mapping[str, Any],
    balancers: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what users may notice of each API, and of what other services need.

    Args:
        resolver: of any host.
        found: the forecast.
        steps: as :func:`order` returns them.
        answering: as :func:`entries` returns it.
        balancers: as :func:`balanced_by` returns it.

    Returns:
        ``service``, ``container``, ``done`` (what is done to it), ``hosts`` (where), ``one_by_one``, ``effect``
        (``none``, ``reconnect``, ``wait``, ``unavailable`` or ``new``), ``said`` (the same in words) and ``concerns``
        (services that need what is unavailable, or whose connections to the message broker break off).
    """
    places: dict[str, list[list[tuple[str, str]]]] = {}
    for step in steps:
        for batch in step["batches"]:
            here: dict[str, list[tuple[str, str]]] = {}
            for host, names in batch["containers"].items():
                for name, done in names.items():
                    here.setdefault(name, []).append((host, done))
            for name, changed in here.items():
                places.setdefault(name, []).append(changed)
    decls = resolver.declarations
    owner = {name: service for service in found.services if service in decls for name in decls[service]["containers"]}
    needing = {
        service: sorted(
            other for other in found.progress.requires if service in needed_by(other, found.progress.requires)
        )
        for service in set(owner.values())
    }
    enabled = set(resolver.enabled_services())
    brokers, clients = _messaging(resolver)
    result = []
    for name, groups in places.items():
        service = owner.get(name)
        if service is None:
            continue
        all_hosts = resolver.hosts(decls[service]["containers"][name]["group"])
        mine = list(answering.get(name, ()))
        concerns = [other for other in needing[service] if other in enabled]
        changed = [item for group in groups for item in group]
        away = any(done in _AWAY for _, done in changed)
        talking = clients if name in brokers and away else []
        if talking:
            mine = []  # they know its members themselves, whatever else of it is behind the load balancer
        if all(done == "adopted" for _, done in changed) or not mine and not ((concerns or talking) and away):
            continue  # nobody asks it, or nobody notices
        words = list(dict.fromkeys(done for _, done in changed))
        most = max(sum(done in _AWAY or done == "reloaded" for _, done in group) for group in groups)
        one_by_one = all(len(group) == 1 for group in groups)
        effect, said = _effect(mine, words, len(all_hosts), most, away, bool(balancers))
        result.append(
            {
                "service": service,
                "container": name,
                "done": words,
                "hosts": [host for host, _ in changed],
                "one_by_one": one_by_one,
                "effect": effect,
                "said": said,
                "concerns": sorted({*concerns, *talking}) if effect == "unavailable" else talking,
            }
        )
    return result


def _messaging(resolver: Any) -> tuple[set[str], list[str]]:
    """Return the containers of the message broker, and the services that are connected to it."""
    decls, services = resolver.declarations, resolver.enabled_services()
    group = resolver.value(_RPC_GROUP) if _RPC_GROUP in resolver.settings else None
    brokers = {
        name for service in services for name, item in decls[service]["containers"].items() if item["group"] == group
    }
    talking = [name for name in services if resolver.test(decls[name]["messaging"], resolver.names(name))]
    return brokers, sorted(talking)


def _effect(
    mine: Sequence[Mapping[str, Any]], words: Sequence[str], hosts: int, most: int, away: bool, balanced: bool
) -> tuple[str, str]:
    """Return how a container's users fare: in one word, and in several."""
    if not away and "reloaded" not in words:
        if "created" in words or "started" in words:
            return "new", "begins to answer"
        return "none", "goes on answering"
    one_by_one = most < hosts
    members = any(len(entry["hosts"]) > 1 for entry in mine)
    if one_by_one and members and balanced and all(entry["active_passive"] for entry in mine) and away:
        return "reconnect", "the one that has the connections hands them over: clients connect anew once"
    if one_by_one and members and balanced:
        return "none", "out of the load balancer meanwhile: no failed request expected"
    if not away:
        return "wait", "requests wait while it reads its configuration; none is expected to fail"
    if one_by_one:
        return "reconnect", "the others go on: clients of the one that is changed connect anew"
    return "unavailable", "unavailable while its container is replaced or starts again"
