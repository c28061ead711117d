"""Which services are applied when, and where: waves and steps of a run."""

from __future__ import annotations

from typing import Any

from kolla_salt.context import Resolver

#: The verb that changes the release: service by service, each with its phases.
UPGRADE = "upgrade"
#: The database's own group: snapshots are made on its first host.
DATABASE = "mariadb"
#: What sees all others, and whether they answer.
BALANCER = "loadbalancer"


class PlanError(ValueError):
    """The declarations cannot be ordered."""


def waves(resolver: Resolver, only: list[str] | None = None, verb: str = "deploy") -> list[list[str]]:
    """Return the enabled services in waves: each needs only services of earlier waves.

    :param only: restrict to these services (their order is kept).
    :param verb: a change of release has further conditions (``upgrade.follows``).
    :raises PlanError: services wait for each other in a circle.
    """
    services = [name for name in resolver.enabled_services() if resolver.service_hosts(name)]
    before = {
        name: {
            other
            for field in ("requires", "after", *(["follows"] if verb == UPGRADE else []))
            for other in (
                resolver.declarations[name]["upgrade"] if field == "follows" else resolver.declarations[name]
            )[field]
            if other in services
        }
        for name in services
    }
    for name in services:
        # Host preparation comes before everything that uses the host.
        if name != "kolla" and "kolla" in services:
            before[name].add("kolla")
    result: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(services):
        ready = [name for name in services if name not in done and before[name] <= done]
        if not ready:
            stuck = {name: sorted(before[name] - done) for name in services if name not in done}
            raise PlanError(f"services wait for each other in `requires`/`after`: {stuck}")
        result.append(ready)
        done.update(ready)
    if only:
        result = [[name for name in wave if name in only] for wave in result]
    # The preparation of hosts shares the job of the first services: a wave is a barrier between hosts, which it is not.
    if len(result) > 1 and result[0] == ["kolla"] and not only:
        result[1:2] = [["kolla", *result[1]]]
        result.pop(0)
    return [wave for wave in result if wave]


def steps(resolver: Resolver, only: list[str] | None = None, verb: str = "deploy") -> list[dict[str, Any]]:
    """Return the steps of a run in order: one Salt job each.

    Each step: ``id`` (a sentence), ``wave`` (from 1), ``role`` (``primary``, ``rest`` or ``finish``), ``services``,
    ``sls`` and ``minions`` (in order). Services that are declared ``together`` have all their hosts in the step of the
    primary.

    A change of release goes service by service (``verb``), with the further roles ``snapshot``, ``again`` and
    ``verify`` (:func:`upgrade_steps`).
    """
    if verb == UPGRADE:
        return upgrade_steps(resolver, only)
    result: list[dict[str, Any]] = []
    for number, services in enumerate(waves(resolver, only), start=1):
        together = {name for name in services if resolver.declarations[name]["together"]}
        primaries = _union([resolver.service_hosts(name)[: None if name in together else 1] for name in services])
        rest = _union([resolver.service_hosts(name)[1:] for name in services if name not in together])
        finish = [sls for name in services for sls in resolver.declarations[name]["finish"]]
        shown = ", ".join(services)
        step = {"wave": number, "services": services}
        result.append(
            {
                **step,
                "id": f"wave {number}: {shown} on {_some(primaries)}",
                "role": "primary",
                "sls": list(services),
                "minions": primaries,
            }
        )
        if rest:
            result.append(
                {
                    **step,
                    "id": f"wave {number}: {shown} on {_some(rest)}",
                    "role": "rest",
                    "sls": list(services),
                    "minions": rest,
                }
            )
        if finish:
            # A job of its own even on a single host: what is new starts in parallel there, this comes after all of it.
            owners = _union(
                [resolver.service_hosts(name)[:1] for name in services if resolver.declarations[name]["finish"]]
            )
            result.append(
                {
                    **step,
                    "id": f"wave {number}: finish {', '.join(finish)}",
                    "role": "finish",
                    "sls": finish,
                    "minions": owners,
                }
            )
    return result


def upgrade_steps(resolver: Resolver, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the steps of a change of release: one service after the other, each in its phases.

    Roles in their order: ``snapshot`` of the service's schemas (on the database's first host); ``primary`` with the
    phases before containers are replaced; ``rest``; ``again`` for containers that have to start once more when all
    hosts run the new release; ``finish`` with the phases after that; ``verify``. Each step names its ``phases``; what
    is no ``state.apply`` names the execution function that does it (``by``).
    """
    result: list[dict[str, Any]] = []
    services = [name for wave in waves(resolver, only, UPGRADE) for name in wave]
    for number, service in enumerate(services, start=1):
        result += _upgrade_of(resolver, service, number)
    return result


def _upgrade_of(resolver: Resolver, service: str, number: int) -> list[dict[str, Any]]:
    decl = resolver.declarations[service]
    hosts = resolver.service_hosts(service)
    first, rest = (hosts, []) if decl["together"] else (hosts[:1], hosts[1:])
    before = [phase["name"] for phase in decl["upgrade"]["before"]]
    after = [phase["name"] for phase in decl["upgrade"]["after"]]
    again = decl["upgrade"]["again"]
    found: list[dict[str, Any]] = []

    def step(role: str, what: str, minions: list[str], phases: list[str], **more: Any) -> None:
        found.append(
            {
                "id": f"{service}: {what} on {_some(minions)}",
                "wave": number,
                "role": role,
                "services": [service],
                "sls": [service],
                "minions": minions,
                "phases": phases,
                **more,
            }
        )

    if decl["database"] and resolver.enabled(DATABASE):
        at = resolver.hosts(DATABASE)[:1]
        step("snapshot", "snapshot of its schemas", at, ["snapshot"], by="kolla_upgrade.snapshot")
    step("primary", ", ".join([*before, "new containers"]), first, [*before, "containers"])
    if rest:
        step("rest", "new containers", rest, ["containers"])
    if again:
        members = [host for host in hosts if any(resolver.member(decl["containers"][n]["group"], host) for n in again)]
        step("again", "start again", members, ["again"])
    if after or decl["finish"]:
        sls = [*([service] if after else []), *decl["finish"]]
        what = ", ".join(after) or f"finish {', '.join(decl['finish'])}"
        step("finish", what, hosts[:1], after or ["finish"], sls=sls)
    step("verify", "verification", hosts, ["verified"], by="kolla_upgrade.verify")
    return found


def _some(hosts: list[str], most: int = 8) -> str:
    """Return the names of ``hosts``: in a sentence, since it goes into every event and record of the step."""
    shown = hosts if len(hosts) <= most else [*hosts[: most - 1], f"{len(hosts) - most + 1} more"]
    return ", ".join(shown)


def _union(lists: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(item for items in lists for item in items))
