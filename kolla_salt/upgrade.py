"""What a change of release needs to be true, and how far one has got. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kolla_salt import releases
from kolla_salt.prechecks import Finding

VERB = "upgrade"
#: Phases of every service; the others are its own, and change its schema or its data.
COMMON_PHASES = frozenset({"snapshot", "containers", "again", "finish", "verified"})
#: Results of runs that did all that they were to do; a container fared otherwise than predicted in the second.
DONE = frozenset({"ok", "deviated"})
#: What the record of an upgrade notes of each service that it has begun to change.
PROGRESS = ("phases", "begun", "snapshots")
#: service -> {"from": [releases that run], "to": release}
Overview = Mapping[str, Mapping[str, Any]]


def overview(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return which releases each service runs over all hosts, and which one it is to run.

    Args:
        reports: host -> service -> ``runs`` (releases) and ``to`` (of the images that the site names; None: unknown).
    """
    found: dict[str, dict[str, Any]] = {}
    for services in reports.values():
        for service, said in services.items():
            entry = found.setdefault(service, {"from": [], "to": None})
            entry["from"] = sorted({*entry["from"], *said["runs"]})
            entry["to"] = said["to"] or entry["to"]
    return found


def changing(found: Overview) -> list[str]:
    """Return the services that run another release than they are to run."""
    return [name for name, item in found.items() if item["to"] and any(r != item["to"] for r in item["from"])]


def refusal(verb: str, found: Overview) -> str:
    """Return why a run that is no upgrade must not be made, or an empty string."""
    names = changing(found)
    if not names:
        return ""
    old = ", ".join(sorted({release for name in names for release in found[name]["from"]} - {found[names[0]]["to"]}))
    new = found[names[0]]["to"]
    return (
        f"beginning {verb}: {', '.join(names)} {'runs' if len(names) == 1 else 'run'} release {old}, the site says "
        f"{new} (openstack_release in globals.yml); {verb} does not change the release. "
        "'kolla-salt upgrade' does, service by service and with a way back; or set openstack_release to what runs"
    )


def distance(found: Overview, wanted: str) -> list[Finding]:
    """Find services whose step is not supported, and images that are of another release than the site's.

    Args:
        found: see :func:`overview`.
        wanted: ``openstack_release`` of the site.
    """
    problems = []
    for service, item in found.items():
        new = item["to"] or wanted
        if new != wanted:
            problems.append(
                Finding(
                    "site", f"images of {service}", "error", f"they are of release {new}", wanted,
                    "correct openstack_release or openstack_tag in globals.yml",
                )
            )  # fmt: skip
        for old in item["from"]:
            if why := releases.obstacle(old, new):
                problems.append(
                    Finding(
                        "site", f"release of {service}", "error", f"it runs {old}; {why}",
                        f"a step that is supported: {steps()}", _mend(old, new),
                    )
                )  # fmt: skip
    return problems


def steps() -> str:
    """Return the supported steps in words."""
    return ", ".join(f"{old} to {' or '.join(news)}" for old, news in releases.STEPS.items())


def _mend(old: str, new: str) -> str:
    way = releases.path(old, new)
    return f"set openstack_release: '{way[1] if len(way) > 1 else old}' in globals.yml"


def absent(unknown: Iterable[str]) -> list[Finding]:
    """Find hosts that do not answer: an old release that comes back later finds schemas that it does not know."""
    return [
        Finding(host, "sign of life", "error", "no answer", "all hosts of the site answer",
                f"systemctl start salt-minion on {host}; or take it out of the cloud: kolla-salt node remove {host}")
        for host in unknown
    ]  # fmt: skip


def report(findings: Sequence[Finding]) -> str:
    """Return the findings as the text of one error."""
    lines = "\n  ".join(finding.text for finding in findings)
    return f"the cloud is not ready for the upgrade, nothing was changed; {len(findings)} findings:\n  {lines}"


def replaced(plan: Mapping[str, Any]) -> set[str]:
    """Return the services for which a dry run says that containers get another image, or phases are due.

    Args:
        plan: the plan of a run's record.
    """
    found = set()
    for survey in (plan.get("hosts") or {}).values():
        for state in survey.get("states") or []:
            kind = state["function"]
            if kind == "kolla_container.ran" or (kind == "kolla_container.running" and "image" in state["changes"]):
                found.add(state["sls"].split(".")[0])
    return found


def unfinished(headers: Sequence[Mapping[str, Any]], to: str) -> list[Mapping[str, Any]]:
    """Return the upgrades to ``to`` that were begun and not ended, newest first: the next one goes on with them.

    Args:
        headers: of all run records, oldest first.
        to: a release.
    """
    found: list[Mapping[str, Any]] = []
    back: set[str] = set()
    for header in reversed(headers):
        if header.get("verb") == "rollback" and header.get("result") in DONE:
            if header.get("of"):
                break
            back |= set(header.get("services") or ())
        # One that was refused, or found nothing to do, does not say where it led.
        if header.get("verb") != VERB or not header.get("to") or header.get("result") == "running":
            continue
        # The last service that was taken back by itself can have been the last one of all.
        if header.get("result") == "ok" or header.get("to") != to or "*" in (header.get("returned") or {}):
            break
        begun = {name: phase for name, phase in (header.get("begun") or {}).items() if name not in back}
        found.append({**header, "begun": begun})
    return found


def unverified(earlier: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the services that unfinished upgrades have changed without seeing at last that they are well.

    Args:
        earlier: see :func:`unfinished`.
    """
    begun: set[str] = set()
    well: dict[str, bool] = {}
    for header in earlier:
        phases = header.get("phases") or {}
        begun |= set(header.get("begun") or ())
        # The newest one decides: what was seen well may have been taken back since, and begun again.
        for service in {*(header.get("begun") or ()), *phases}:
            well.setdefault(service, "verified" in phases.get(service, ()))
    return {service for service in begun if not well[service]}


def ahead(headers: Sequence[Mapping[str, Any]], to: str) -> set[str]:
    """Return the services whose schemas may be further than the release before ``to`` knows.

    An upgrade that was taken back after its first phases leaves them: the old release works with such a schema, but its
    own check of it does not know it, and there is nothing to mend.

    Args:
        headers: of all run records, oldest first.
        to: a release.
    """
    found: set[str] = set()
    settled: set[str] = set()
    for header in reversed(headers):
        if header.get("verb") != VERB or not header.get("to") or header.get("result") == "running":
            continue
        if header["to"] != to:
            break
        phases, begun = header.get("phases") or {}, header.get("begun") or {}
        for service in {*phases, *begun} - settled:
            if {*phases.get(service, ()), *([begun[service]] if service in begun else [])} - COMMON_PHASES:
                found.add(service)
        returned = header.get("returned") or {}
        if header.get("result") == "ok" and "*" not in returned:  # what was before it is over
            settled |= {*phases} - {*returned}
    return found


def inherited(earlier: Sequence[Mapping[str, Any]], service: str) -> Mapping[str, Any] | None:
    """Return the snapshot of ``service`` that an unfinished upgrade took before it changed anything of the service.

    Args:
        earlier: see :func:`unfinished`.
        service: a service whose schemas may have been changed since.
    """
    for header in earlier:
        taken = (header.get("snapshots") or {}).get(service)
        if taken and service in (header.get("begun") or {}):
            return taken
    return None


def began(header: Mapping[str, Any]) -> bool:
    """Return whether an upgrade has begun to change a service; what was refused, or killed before, has not.

    Args:
        header: of its run record.
    """
    return any(header.get(field) for field in PROGRESS)


def waiting(headers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the upgrades of which containers, configuration or snapshots of before are still kept."""
    found: list[str] = []
    for header in headers:
        if header.get("verb") == VERB and began(header):
            found.append(str(header["id"]))
        if header.get("verb") == "rollback" and header.get("result") in DONE and header.get("of") in found:
            found.remove(header["of"])
        if header.get("finished_upgrade") and header["id"] in found:
            found.remove(header["id"])
    return found
