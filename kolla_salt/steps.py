"""What of a planned step is still to be done, given what was predicted, what failed and who answers. Pure.

A step is ``{id, wave, role, services, sls, minions}`` as ``kolla.plan`` returns it, with ``by``, the execution function
that does it, if it is no ``state.apply``. The orchestration goes through the steps in order; nothing in it says which
step needs which, because that depends on services, not on steps. It is decided here, host by host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Step = Mapping[str, Any]
Requires = Mapping[str, Sequence[str]]


def service_of(sls: str) -> str:
    """Return the service an SLS belongs to: the folder it lies in."""
    return sls.split(".", 1)[0]


def patience(hosts: int) -> int:
    """Return how many seconds ``hosts`` hosts have for a sign of life: all answers go through one master."""
    return 3 + hosts // 100


#: host -> the SLS that a run is restricted to there; None: all of them
Only = Mapping[str, Collection[str] | None]


def within(only: Only | None, host: str, sls: str) -> bool:
    """Return whether a run that is restricted to ``only`` (None: it is not) applies ``sls`` on ``host``."""
    if only is None:
        return True
    return host in only and (only[host] is None or sls in only[host])


def needed_by(service: str, requires: Requires) -> set[str]:
    """Return every service that ``service`` needs, directly or through others."""
    found: set[str] = set()
    todo = list(requires.get(service, ()))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(requires.get(name, ()))
    return found


def placement(resolver: Any, services: Iterable[str]) -> dict[str, set[str]]:
    """Return for each host of the topology the services that have something on it.

    Args:
        resolver: of any host.
        services: those to look at. The preparation of hosts (``kolla``) is everywhere.
    """
    names = list(services)
    return {
        host: {
            name for name in names if name == "kolla" or name in resolver.declarations and resolver.placed(name, host)
        }
        for host in resolver.topology_hosts
    }


def sls_by_host(steps: Iterable[Step], placed: Mapping[str, set[str]] | None = None) -> dict[str, list[str]]:
    """Return for each host all SLS of all its steps, in order and once: what its dry run is made of.

    Args:
        steps: the plan. All hosts of a step are given for all its services.
        placed: host -> services that have something there; others are left out. Default: all have.
    """
    result: dict[str, dict[str, None]] = {}
    for step in steps:
        for host in step["minions"]:
            names = [sls for sls in step["sls"] if placed is None or service_of(sls) in placed.get(host, ())]
            if names:
                result.setdefault(host, {}).update(dict.fromkeys(names))
    return {host: list(names) for host, names in result.items()}


def told(wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what :func:`sls_by_host` gave in the form in which it is sent: SLS joined by commas -> hosts.

    Salt sends every host the whole of it, and each sends it back with its answer. So what most hosts have is there
    once, without their names; the answer for one host is :func:`own`.
    """
    alike: dict[str, list[str]] = {}
    for host, names in wanted.items():
        alike.setdefault(",".join(names), []).append(host)
    most = max(alike, key=lambda names: len(alike[names]), default="")
    return {names: [] if names == most else hosts for names, hosts in alike.items()}


def own(said: Mapping[str, Sequence[str]], host: str) -> list[str]:
    """Return the SLS of ``host`` out of what :func:`told` made."""
    found = next((names for names, hosts in said.items() if host in hosts), None)
    if found is None:
        found = next((names for names, hosts in said.items() if not hosts), "")
    return found.split(",") if found else []


#: What a run may do to a container without its dependents finding anything else than before.
_SAME_CONTAINER = {"reloaded", "restarted", "updated", "started", "adopted"}


def matters_to_others(change: Mapping[str, Any]) -> bool:
    """Return whether services that require a service may find something else after this predicted change of it.

    A file with other content, or the same container running again, is nothing they look at; a database, an account or
    another image may be.

    Args:
        change: ``function`` and ``changes`` of a state, as a dry run reports them.
    """
    if change["function"].startswith("kolla_config.") or change["function"] == "kolla_container.renewed":
        return False
    if change["function"] == "kolla_container.running":
        return (change["changes"].get("state") or {}).get("new") not in _SAME_CONTAINER
    return True


#: What a run does to a container that clients may notice. A reload is among them: a configuration that does not work
#: must not reach the next host.
_DISTURBING = {"recreated", "restarted", "reloaded", "removed"}

#: Functions whose changes say in ``state`` what is done to a container.
_RUNNING = {"kolla_container.running", "kolla_container.renewed", "kolla_kept.returned", "kolla_kept.reread"}

#: host -> container -> what the dry run says will be done to it
Disturbed = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Rule:
    """How many hosts may have a container disturbed at once.

    Attributes:
        service: that declares the container.
        limit: hosts at once; 0 for all.
        settle: seconds until its clients use it again; so long the next hosts wait.
        settled: execution function that waits on a host until all is there again that the container was away for.
        last: execution function that tells whether a host comes after the others.
    """

    service: str
    limit: int
    settle: int = 0
    settled: str = ""
    last: str = ""


def disturbed(changes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the containers that clients may notice being changed on one host -> what will be done to them.

    Args:
        changes: ``id``, ``function`` and ``changes`` of states, as a dry run reports them.
    """
    found: dict[str, str] = {}
    for change in changes:
        if change["function"] == "kolla_container.absent":
            action = "removed" if (change["changes"].get("state") or {}).get("old") == "running" else ""
        elif change["function"] in _RUNNING:
            action = str((change["changes"].get("state") or {}).get("new"))
        else:
            continue
        if action in _DISTURBING:
            found.setdefault(change["id"].removesuffix(" again"), action)
    return found


def hosts_at_once(declared: int | str, hosts: int) -> int:
    """Return how many of ``hosts`` hosts a container's field ``rolling`` lets a run change at once; 0: all.

    Args:
        declared: a number, or a part such as ``25%``, of which at least one host comes.
        hosts: how many the container is placed on.
    """
    text = str(declared).strip()
    if text.endswith("%"):
        return max(1, hosts * int(text[:-1]) // 100)
    return int(text)


def rules(resolver: Any, services: Iterable[str]) -> dict[str, Rule]:
    """Return for each container of ``services`` how many hosts may have it disturbed at once, and how they follow."""
    found: dict[str, Rule] = {}
    for service in services:
        decl = resolver.declarations.get(service)
        for name, fields in (decl["containers"] if decl else {}).items():
            names = resolver.names(service, container=name)
            declared, settle = (resolver.evaluate(fields[field], names) for field in ("rolling", "settle"))
            limit = hosts_at_once(declared, len(resolver.hosts(fields["group"])))
            found[name] = Rule(service, limit, int(settle), fields["settled"] or "", fields["last"] or "")
    return found


def batches(hosts: Sequence[str], planned: Mapping[str, Iterable[str]], limits: Mapping[str, Rule]) -> list[list[str]]:
    """Return ``hosts`` in groups that may be changed at once: one after the other where a container asks for it.

    Args:
        hosts: in the order in which they shall come.
        planned: host -> containers that will be disturbed there, see :func:`disturbed`.
        limits: see :func:`rules`.
    """
    result: list[tuple[list[str], dict[str, int]]] = []
    #: container -> the first group that has room for one more of it; what is before it is not looked at again
    room: dict[str, int] = {}
    for host in hosts:
        counted = [name for name in planned.get(host, ()) if name in limits and limits[name].limit]
        place = max((room.get(name, 0) for name in counted), default=0)
        while place < len(result) and any(result[place][1].get(n, 0) >= limits[n].limit for n in counted):
            place += 1
        if place == len(result):
            result.append(([], {}))
        members, used = result[place]
        members.append(host)
        for name in counted:
            used[name] = used.get(name, 0) + 1
            full = room.get(name, 0)
            while full < len(result) and result[full][1].get(name, 0) >= limits[name].limit:
                full += 1
            room[name] = full
    return [members for members, _ in result]


def to_do(
    predicted: Mapping[str, Iterable[str]],
    requires: Requires,
    services: Iterable[str],
    spreading: Iterable[str] | None = None,
) -> set[str]:
    """Return the services that a run has to apply.

    Args:
        predicted: host -> services in which the dry run saw something to change.
        requires: service -> services it requires.
        services: all services of the plan.
        spreading: those of the changed services whose changes matter to others; default: all.

    Services that require such a one are applied as well: what they find may only differ once it is changed.
    """
    changed = {name for names in predicted.values() for name in names}
    spread = changed if spreading is None else set(spreading)
    return {name for name in services if name in changed or spread & needed_by(name, requires)}


@dataclass
class Progress:
    """What has gone wrong so far in one run."""

    requires: Requires
    #: service -> its first host
    primaries: Mapping[str, str]
    unknown: set[str] = field(default_factory=set)
    failed: set[tuple[str, str]] = field(default_factory=set)
    todo: set[str] | None = None
    #: host -> services that have something there; None: not known
    placed: Mapping[str, set[str]] | None = None
    #: as in :func:`within`
    only: Only | None = None
    planned: Disturbed = field(default_factory=dict)
    limits: Mapping[str, Rule] = field(default_factory=dict)
    #: services whose hosts do not wait for the first one
    together: Collection[str] = ()

    def fail(self, service: str, host: str) -> None:
        """Note that ``service`` failed on ``host``."""
        self.failed.add((service, host))

    def obstacle(self, service: str, host: str) -> str:
        """Return why ``service`` cannot be applied on ``host``, or an empty string.

        A service waits for what it requires: on the primary of the required service, where run-once work is done, and
        on the same host. A failure on some other host does not concern it.
        """
        if host in self.unknown:
            return f"{host} does not answer"
        own = None if service in self.together else self.primaries.get(service)
        if own is not None and own in self.unknown:
            return f"its first host {own} does not answer"
        if own is not None and own != host and (service, own) in self.failed:
            return f"it failed on its first host {own}"
        for other in sorted(needed_by(service, self.requires)):
            first = self.primaries.get(other)
            if first is not None and first in self.unknown:
                return f"it requires {other}, whose first host {first} does not answer"
            for where in (first, host):
                if where is not None and (other, where) in self.failed:
                    return f"it requires {other}, which failed on {where}"
        return ""

    def holds(self, service: str) -> str:
        """Return why a step that concerns ``service`` as a whole must not be done, or an empty string."""
        return ""

    def batches(self, todo: Mapping[str, Sequence[str]]) -> list[list[str]]:
        """Return the hosts of a step (with their SLS) in the groups in which it is to be done."""
        return batches(list(todo), {host: self._limited(host, names) for host, names in todo.items()}, self.limits)

    def _limited(self, host: str, sls: Iterable[str]) -> list[str]:
        """Return the containers with a rule that will be disturbed by applying ``sls`` on ``host``."""
        services = {service_of(name) for name in sls}
        planned = self.planned.get(host, ())
        return [name for name in planned if name in self.limits and self.limits[name].service in services]

    def last(self, todo: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return what tells which hosts of a step (with their SLS) come last: execution function -> hosts to ask."""
        found: dict[str, dict[str, None]] = {}
        for host, rule in self._away(([host], names) for host, names in todo.items()):
            if rule.last:
                found.setdefault(rule.last, {})[host] = None
        return {function: list(hosts) for function, hosts in found.items() if len(hosts) > 1}

    def settle(self, jobs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> int:
        """Return how many seconds the next hosts wait after ``jobs`` (hosts, SLS): their clients come back first.

        A container that is only reloaded was not away.
        """
        return max((rule.settle for _, rule in self._away(jobs)), default=0)

    def settled(self, jobs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, dict[str, str]]:
        """Return what has to be waited for after ``jobs`` (hosts, SLS): execution function -> host -> service."""
        found: dict[str, dict[str, str]] = {}
        for host, rule in self._away(jobs):
            if rule.settled and host not in self.unknown and (rule.service, host) not in self.failed:
                found.setdefault(rule.settled, {})[host] = rule.service
        return found

    def _away(self, jobs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[tuple[str, Rule]]:
        """Return host and rule of each container that is away for a while when ``jobs`` are done."""
        return [
            (host, self.limits[name])
            for hosts, sls in jobs
            for host in hosts
            for name in self._limited(host, sls)
            if self.planned[host][name] not in ("reloaded", "removed")
        ]

    def going_on(
        self, batch: Mapping[str, Sequence[str]], earlier: Sequence[str], left_out: dict[str, dict[str, str]]
    ) -> list[tuple[list[str], list[str]]]:
        """Return the jobs of one batch, as ``(hosts, sls)``, after what happened on ``earlier`` hosts of the step.

        A service that is changed one host after the other, and failed on one of them, stays as it is on the next ones;
        that is added to ``left_out`` (``{service: {host: why}}``).
        """
        jobs: dict[tuple[str, ...], list[str]] = {}
        for host, sls in batch.items():
            names = []
            for name in sls:
                service = service_of(name)
                lost = f"{host} does not answer" if host in self.unknown else ""
                trouble = lost or self._rolling_stopped(service, host, earlier)
                if trouble:
                    left_out.setdefault(service, {})[host] = trouble
                else:
                    names.append(name)
            if names:
                jobs.setdefault(tuple(names), []).append(host)
        return [(hosts, list(names)) for names, hosts in jobs.items()]

    def _rolling_stopped(self, service: str, host: str, earlier: Sequence[str]) -> str:
        if not self.failed and not self.unknown:
            return ""
        mine = [name for name in self.planned.get(host, ()) if name in self.limits]
        if not any(self.limits[name].service == service and self.limits[name].limit for name in mine):
            return ""
        for other in earlier:
            if (service, other) in self.failed:
                return f"it failed on {other}, and is changed one host after the other"
            if other in self.unknown:
                return f"{other} was lost in this step, and it is changed one host after the other"
        return ""

    def targets(self, step: Step) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
        """Return what ``step`` comes to, and what is left out of it.

        Returns:
            ``{host: [sls]}`` and ``{service: {host: why}}``.
        """
        todo: dict[str, list[str]] = {}
        left_out: dict[str, dict[str, str]] = {}
        for host in step["minions"]:
            names: list[str] = []
            for sls in step["sls"]:
                service = service_of(sls)
                if self.todo is not None and service not in self.todo or not within(self.only, host, sls):
                    continue
                if self.placed is not None and service not in self.placed.get(host, ()):
                    continue
                if not self._has_turn(service, host, str(step.get("role"))):
                    continue
                why = self.obstacle(service, host)
                if not why and service != sls and (service, host) in self.failed:
                    why = f"{service} failed on {host}"
                if why:
                    left_out.setdefault(service, {})[host] = why
                else:
                    names.append(sls)
            if names:
                todo[host] = names
        return todo, left_out

    def _has_turn(self, service: str, host: str, role: str) -> bool:
        """Return whether ``service`` has states on ``host`` in a step of ``role``."""
        if role == "again":
            return True
        first = service in self.together or self.primaries.get(service, host) == host
        return first == (role != "rest")
