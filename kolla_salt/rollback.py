"""Which run can be taken back, in which order, and what of it can not. Pure, but for reading records."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kolla_salt import outcome, runs, upgrade
from kolla_salt import plan as plans
from kolla_salt.declarations import nearest
from kolla_salt.steps import Progress, needed_by, service_of

VERB = "rollback"
#: Verbs whose runs can be taken back.
ABLE = frozenset({"deploy", "reconfigure", "upgrade"})
#: Phases of a change of release after which the old release does not work with the schema.
ONE_WAY = frozenset({"contract"})

_OTHER_WAYS = {
    "node-add": "'kolla-salt node remove HOST' takes a host out again",
    "node-remove": "'kolla-salt node add HOST' takes a host in again",
    "node-replace": "its old host is gone",
    "node-drain": "'kolla-salt node undrain HOST' is the way back",
    "node-undrain": "'kolla-salt node drain HOST' is the way back",
    "rollback": "to have its changes again, give the site what they came from, and 'kolla-salt deploy'",
    "genconfig": "it touched no container; 'kolla-salt genconfig' with the site set back writes the files anew",
    "stop": "'kolla-salt deploy' starts what is stopped",
    "destroy": "what it removed is gone",
}

#: service -> hosts on which a run has, or may have, changed it
Touched = Mapping[str, Sequence[str]]


class RollbackError(ValueError):
    """A run cannot be taken back; the text says why, and what can be done."""


# --- which run --------------------------------------------------------------------------------------------------------


def returned(header: Mapping[str, Any]) -> list[str]:
    """Return the services of a run that were taken back; ``*`` stands for all of them."""
    return sorted(header.get("returned") or {})


def able(header: Mapping[str, Any]) -> str:
    """Return why a run cannot be taken back, or an empty string."""
    verb, run_id = str(header.get("verb")), header.get("id")
    if verb not in ABLE:
        way = _OTHER_WAYS.get(verb, f"only runs of {', '.join(sorted(ABLE))} can")
        return f"{run_id} is a run of '{verb}', which can not be rolled back: {way}"
    if header.get("result") == "running":
        return f"{run_id} is going on (process {header.get('pid')}); wait for its end"
    if "*" in returned(header):
        return f"{run_id} was rolled back by {header['returned']['*']}"
    if header.get("continued_by"):
        return f"{run_id} was gone on with by {header['continued_by']}; both are taken back by rolling back that one"
    if header.get("finished_upgrade"):
        return f"{run_id} was finished ('upgrade --finish'): what it replaced was given up"
    return ""


def last(root: Path) -> runs.Run:
    """Return the run that a rollback without a name means: the last that changed something that is still there.

    Args:
        root: folder of the records.

    Raises:
        RollbackError: there is none.
    """
    for header in reversed(headers(root)):
        record = runs.Run(root, str(header["id"]))
        if not able(header) and touched(record.plan(), record.steps()):
            return record
    raise RollbackError(
        "looking for a run to roll back: no run of deploy, reconfigure or upgrade has changed anything that was not "
        "rolled back since; 'kolla-salt runs list' shows all runs"
    )


def touched(plan: Mapping[str, Any] | None, steps: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what a run has changed, or was about to when it was interrupted.

    Args:
        plan: of the run's record: what it was about to do.
        steps: of the run's record: what it has done.
    """
    done = list(steps)
    found: dict[str, dict[str, None]] = {}
    if not done and not plan:
        return {}
    for host, survey in ((plan or {}).get("hosts") or {}).items():
        for state in survey.get("states") or []:
            if _touches(state):
                found.setdefault(service_of(state["sls"]), {})[host] = None
    for step in done:
        for host, said in (step.get("hosts") or {}).items():
            for change in said.get("changed") or []:
                if isinstance(change, Mapping) and _touches(change):
                    names = [service_of(change["sls"])] if change.get("sls") else step.get("services") or []
                    for service in names:
                        found.setdefault(service, {})[host] = None
    return {service: list(hosts) for service, hosts in found.items()}


def _touches(change: Mapping[str, Any]) -> bool:
    """Return whether a state changes a container or its configuration."""
    return change["function"].startswith(("kolla_container.", "kolla_config.")) and not outcome.noted(change)


#: What kolla_container says it did, where a run keeps what was before.
_KEEPING = frozenset({"created", "recreated", "updated", "absent"})


def keeping(steps: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return where a run has surely kept something: service -> hosts.

    Args:
        steps: of the run's record.
    """
    found: dict[str, dict[str, None]] = {}
    for step in steps:
        for host, said in (step.get("hosts") or {}).items():
            for change in said.get("changed") or []:
                if not isinstance(change, Mapping) or not change.get("sls"):
                    continue
                state = (change.get("changes") or {}).get("state")
                done = state.get("new") if isinstance(state, Mapping) else None
                if change["function"].startswith("kolla_config.") or done in _KEEPING:
                    found.setdefault(service_of(change["sls"]), {})[host] = None
    return {service: list(hosts) for service, hosts in found.items()}


def prepare(
    resolver: Any, root: Path, run_id: str = "", services: Collection[str] = (), restore_database: bool = False
) -> dict[str, Any]:
    """Return what a rollback is to do.

    Args:
        resolver: of any host.
        root: folder of the records.
        run_id: the run that is taken back; empty or ``last``: see :func:`last`.
        services: only these; none: all that it changed.
        restore_database: bring back databases whose schemas were contracted.

    Returns:
        ``run`` and its ``verb``; ``runs``: it, and those that it went on with; ``whole``: all of it; ``hosts`` (service
        -> hosts) that are taken back; ``touched``: all that the run changed; ``keeping``: where something must be kept;
        ``restore``: services whose databases are restored -> snapshots; ``restored``: those of an interrupted rollback
        that were; ``recalled``: services with values that would keep the old release from starting -> snapshots;
        ``steps``; ``notes``: what can not be returned; ``afterwards``: what to do with the site.

    Raises:
        RollbackError: it cannot be taken back.
        runs.UnknownRun: there is no such run.
    """
    record = last(root) if run_id in ("", "last") else runs.load(run_id, root)
    header = next(item for item in headers(root) if item["id"] == record.id)
    if why := able(header):
        raise RollbackError(why)
    earlier = [runs.Run(root, name) for name in sorted(header.get("continues") or ()) if name in runs.list_ids(root)]
    header = together([*(one.header() for one in earlier), header])
    done = [step for one in (*earlier, record) for step in one.steps()]
    all_of_it: dict[str, list[str]] = {}
    for one in (*earlier, record):
        for name, there in touched(one.plan(), one.steps()).items():
            all_of_it[name] = list(dict.fromkeys([*all_of_it.get(name, ()), *there]))
    back = sorted(set(returned(header)) & set(services))
    if back:
        raise RollbackError(f"{', '.join(back)} of {record.id} was rolled back by {header['returned'][back[0]]}")
    if not all_of_it:
        raise RollbackError(f"rolling back {record.id}: it has changed no container and no configuration")
    for name in services:
        if name not in all_of_it:
            raise RollbackError(
                f"rolling back {name} of {record.id}: the run has not changed it{nearest(name, all_of_it)}; it has "
                f"changed {', '.join(sorted(all_of_it))}"
            )
    hosts = {
        name: there
        for name, there in all_of_it.items()
        if (not services or name in services) and name not in returned(header)
    }
    if not run_id and (new := created(done)):
        raise RollbackError(
            f"the last run, {record.id}, made containers that had not been there ({', '.join(new)}); rolling it back "
            f"removes them. If that is meant, name it: kolla-salt rollback {record.id}"
        )
    if why := refusal(header, hosts, restore_database):
        raise RollbackError(why)
    gone = contracted(header, hosts) if restore_database else {}
    restore = {name: dict(snapshot) for name, snapshot in gone.items() if snapshot}
    restored = {
        name: when
        for other in runs.headers(root)
        if other.get("verb") == VERB and record.id in (other.get("of"), other.get("of_part"))
        for name, when in (other.get("restored") or {}).items()
        if name in restore
    }
    waiting = {name: snapshot for name, snapshot in restore.items() if name not in restored}
    recalled = {
        name: snapshot
        for name, snapshot in (header.get("snapshots") or {}).items()
        if name in hosts and name not in restore and resolver.declarations[name]["upgrade"]["remembers"]
    }
    return {
        "run": record.id,
        "runs": ",".join([*(one.id for one in earlier), record.id]),
        "verb": header["verb"],
        "whole": set(hosts) == set(all_of_it),
        "hosts": hosts,
        "touched": all_of_it,
        "keeping": {name: there for name, there in keeping(done).items() if name in hosts},
        "restore": restore,
        "restored": restored,
        "recalled": recalled,
        "steps": steps(resolver, hosts, waiting, recalled),
        "notes": notes(header, done, hosts, bool(waiting)),
        "afterwards": afterwards(header, _site_changes(earlier[0] if earlier else record, root)),
    }


def headers(root: Path) -> list[dict[str, Any]]:
    """Return ``run.json`` of every record, oldest first, with ``continued_by`` where a later run went on with it.

    Args:
        root: folder of the records.
    """
    found = runs.headers(root)
    for header in found:
        if header.get("continues") and upgrade.began(header):
            for other in found:
                if other["id"] in header["continues"]:
                    other["continued_by"] = header["id"]
    return found


def together(chain: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the header of the last of several runs that went on with one another, with what all of them did.

    Args:
        chain: headers, oldest first.
    """
    whole = dict(chain[-1])
    for field in upgrade.PROGRESS:
        merged: dict[str, Any] = {}
        for header in chain:
            for service, value in (header.get(field) or {}).items():
                if field == "phases":
                    merged[service] = list(dict.fromkeys([*merged.get(service, ()), *value]))
                elif field == "begun" or service not in merged:
                    merged[service] = value  # of snapshots the first one counts
        whole[field] = merged
    whole["from"] = chain[0].get("from") or whole.get("from")
    return whole


def created(done: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the services of which a run made containers where there were none.

    Args:
        done: steps of the run's record.
    """
    found: dict[str, None] = {}
    for step in done:
        for said in (step.get("hosts") or {}).values():
            for change in said.get("changed") or []:
                if isinstance(change, Mapping) and change["function"] == "kolla_container.running":
                    state = (change.get("changes") or {}).get("state")
                    if isinstance(state, Mapping) and state.get("new") == "created":
                        found[service_of(str(change.get("sls") or change["id"]))] = None
    return sorted(found)


def _site_changes(record: runs.Run, root: Path) -> list[str]:
    """Return what of the site differs from that of the last good run before."""
    now = record.site()
    for other in reversed(runs.headers(root)):
        if str(other["id"]) < record.id and other.get("result") == "ok" and other.get("verb") in ABLE:
            before = runs.Run(root, str(other["id"])).site()
            return changed_options(now, before) if now and before else []
    return []


def interrupted(headers: Iterable[Mapping[str, Any]], of: str, but: str) -> bool:
    """Return whether an earlier rollback of the same run was begun and did not end well.

    Args:
        headers: of all records.
        of: the run that is taken back.
        but: the rollback that asks.
    """
    return any(
        header.get("verb") == VERB and of in (header.get("of"), header.get("of_part")) and header["id"] != but
        for header in headers
    )


def problems(
    back: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]], unknown: Collection[str], again: bool
) -> list[str]:
    """Return everything that stands in the way of a rollback, as sentences.

    Args:
        back: see :func:`prepare`.
        reports: host -> what ``kolla_kept.survey`` says.
        unknown: hosts that do not answer.
        again: an earlier rollback of the same run was begun.
    """
    run_id, found = back["run"], []
    for other, services in later(reports).items():
        found.append(
            f"{other} has changed {', '.join(services)} since; roll that back first (kolla-salt rollback {other}), or "
            f"all of them, the newest first: kolla-salt rollback {run_id} --through"
        )
    for host, said in reports.items():
        found += [f"{host}: {failure['comment']}" for failure in said.get("failed") or []]
    missing: dict[str, list[str]] = {}
    for service, hosts in back["keeping"].items():
        for host in hosts:
            if host in reports and service not in (reports[host].get("kept") or {}) and not again:
                missing.setdefault(service, []).append(host)
    for service, hosts in missing.items():
        found.append(
            f"{service}: on {_some(hosts)} nothing of before is kept any more, since a later run replaced it again; "
            "set the site back and give 'kolla-salt deploy', or name other services: --service NAME"
        )
    for service in back["restore"]:
        silent = sorted({*back["hosts"][service], back["restore"][service]["host"]} & set(unknown))
        if silent:
            found.append(
                f"{service}: its databases are restored, so all its hosts must answer; {_some(silent)} does not"
            )
    return found


def later(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the runs that have changed the same since, newest first -> services.

    Args:
        reports: host -> what ``kolla_kept.survey`` says.
    """
    found: dict[str, set[str]] = {}
    for said in reports.values():
        for run_id, services in (said.get("later") or {}).items():
            found.setdefault(run_id, set()).update(services)
    return {run_id: sorted(found[run_id]) for run_id in sorted(found, reverse=True)}


# --- what can not be returned -----------------------------------------------------------------------------------------


def contracted(header: Mapping[str, Any], services: Iterable[str]) -> dict[str, Mapping[str, Any] | None]:
    """Return the services whose schema the old release does not work with any more -> their snapshot, if there is one.

    Args:
        header: of the run's record: ``phases`` that were done, ``begun`` and ``snapshots`` of services.
        services: those to look at.
    """
    found = {}
    for service in services:
        done = {*((header.get("phases") or {}).get(service) or ()), (header.get("begun") or {}).get(service)}
        if done & ONE_WAY:
            found[service] = (header.get("snapshots") or {}).get(service)
    return found


def lost(snapshot: Mapping[str, Any], now: float | None = None) -> str:
    """Return the time span whose writes are lost when a snapshot is restored, in words."""
    taken = float(snapshot["taken"])
    until = time.time() if now is None else now
    return f"{clock(taken)} until now ({clock(until)}, {_span(until - taken)})"


def clock(moment: float) -> str:
    """Return a moment as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} hours"


def refusal(header: Mapping[str, Any], services: Iterable[str], restore: bool) -> str:
    """Return why containers alone must not be returned, or an empty string."""
    gone = contracted(header, services)
    without = sorted(name for name, snapshot in gone.items() if not snapshot)
    if without:
        return (
            f"rolling back {header['id']}: the schema of {', '.join(without)} was contracted, and no snapshot of it "
            "exists; the old release does not work with it. Go on with the new one: kolla-salt upgrade"
        )
    if gone and not restore:
        lines = [f"{name}: the writes from {lost(snapshot)}" for name, snapshot in gone.items() if snapshot]
        return (
            f"rolling back {header['id']}: the schema of {', '.join(gone)} was contracted; the old containers do not "
            "work with it. --restore-database brings back the snapshot of before; lost are then, for good:\n  "
            + "\n  ".join(lines)
            + "\nor name others: --service NAME; or go on with the new release: kolla-salt upgrade"
        )
    return ""


def notes(
    header: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], services: Collection[str], restore: bool
) -> list[str]:
    """Return as sentences what a rollback leaves as the run has made it.

    Args:
        header: of the run's record.
        steps: of the run's record.
        services: that are taken back.
        restore: databases of contracted schemas are restored.
    """
    made: dict[str, dict[str, None]] = {}
    for step in steps:
        for said in (step.get("hosts") or {}).values():
            for change in said.get("changed") or []:
                if not isinstance(change, Mapping):
                    continue
                owner = service_of(str(change.get("sls") or "")) or (step.get("services") or [""])[0]
                kind = _kind(change)
                if kind and (owner in services or not change.get("sls")):
                    made.setdefault(kind, {})[str(change["id"])] = None
    gone = contracted(header, services)
    found = [f"{kind}: {_some(list(names))}" for kind, names in made.items()]
    for service, phases in (header.get("phases") or {}).items():
        known = [name for name in phases if name not in upgrade.COMMON_PHASES]
        if service in services and service not in gone and known:
            found.append(
                f"schema and data of {service} as {', '.join(known)} left them; the old release works with them"
            )
    if restore:
        found += [
            f"{service}: whatever was written from {lost(snapshot)}: its databases are what they were in the snapshot"
            for service, snapshot in gone.items()
            if snapshot
        ]
    return found


_KINDS = {
    "kolla_db": "databases and their users",
    "kolla_keystone": "users, roles, services and endpoints in Keystone",
    "kolla_rabbitmq": "users, virtual hosts and queues of the message queue",
    "kolla_host": "kernel parameters and directories of hosts",
    "kolla_openvswitch": "bridges and ports of the switch",
    "kolla_nova": "cells and hosts known to Nova",
}


def _kind(change: Mapping[str, Any]) -> str:
    function = str(change.get("function"))
    if function in ("kolla_container.ran", "kolla_container.executed"):
        return "what run-once steps did to schemas and data"
    module = function.partition(".")[0]
    if module in ("kolla_config", "kolla_container", "kolla_kept", "kolla_upgrade"):
        return ""
    return _KINDS.get(module, "other states")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- the site afterwards ----------------------------------------------------------------------------------------------


def changed_options(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return what of the site differs between two records' ``site()``: options, hosts, passwords, overrides."""
    found = []
    for file in sorted({*(now.get("files") or {}), *(before.get("files") or {})}):
        if (now.get("files") or {}).get(file) == (before.get("files") or {}).get(file):
            continue
        old, new = (dict((side.get("keys") or {}).get(file) or {}) for side in (before, now))
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        found += [f"{name} in {file}" for name in names] or [file]
    return found


def afterwards(header: Mapping[str, Any], differs: Sequence[str]) -> str:
    """Return what to do with the site, whose files still say what was taken back.

    Args:
        header: of the run that was taken back.
        differs: see :func:`changed_options`.
    """
    text = "The site still says what was rolled back: the next deploy would do it again ('kolla-salt plan' shows it)."
    old = header.get("from")
    if header.get("verb") == "upgrade" and old:
        return f"{text} Set openstack_release: '{old}' in globals.yml."
    if differs:
        return f"{text} Set back: {_some(differs)}."
    return f"{text} Set back what was changed for {header['id']}."


# --- the order --------------------------------------------------------------------------------------------------------


def steps(
    resolver: Any,
    found: Touched,
    restored: Mapping[str, Mapping[str, Any]] | None = None,
    recalled: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return the steps of a rollback: what needs others comes before what it needs, one wave after the other.

    Args:
        resolver: of any host.
        found: what is taken back.
        restored: services whose databases are restored -> their snapshots. Their containers stop on all hosts before
            that, and the old ones start after it.
        recalled: services of whose databases single values are brought back -> their snapshots.
    """
    restored, recalled = restored or {}, recalled or {}
    waves = [[name for name in wave if name in found] for wave in plans.waves(resolver)]
    placed = {name for wave in waves for name in wave}
    waves.append([name for name in found if name not in placed])  # switched off since: nothing needs it
    order = list(resolver.topology_hosts)
    result: list[dict[str, Any]] = []

    def step(number: int, role: str, what: str, services: list[str], hosts: Iterable[str], **more: str) -> None:
        wanted = set(hosts)
        minions = [host for host in reversed(order) if host in wanted]
        if minions:
            result.append(
                {
                    "id": f"{what} on {_some(minions)}",
                    "wave": number,
                    "role": role,
                    "services": services,
                    "sls": services,
                    "minions": minions,
                    **more,
                }
            )

    for number, wave in enumerate((wave for wave in reversed(waves) if wave), start=1):
        for service in (name for name in wave if name in restored):
            at = [restored[service]["host"]]
            step(number, "stop", f"{service}: stop", [service], found[service], by="kolla_rollback.stop")
            step(number, "database", f"{service}: restore its databases", [service], at, by="kolla_rollback.database")
            step(number, "back", f"{service}: back", [service], found[service])
        names = [name for name in reversed(wave) if name not in restored]
        for service in (name for name in names if name in recalled):
            at = [recalled[service]["host"]]
            step(number, "recall", f"{service}: versions in its databases", [service], at, by="kolla_rollback.recall")
        if names:
            step(number, "back", f"back: {', '.join(names)}", names, {host for name in names for host in found[name]})
    return result


@dataclass
class Backwards(Progress):
    """What has gone wrong so far in a rollback: a service waits for those that require it, on all hosts.

    Attributes:
        restoring: services whose databases are restored: none of their containers starts unless that was done.
    """

    restoring: Collection[str] = ()

    def obstacle(self, service: str, host: str) -> str:
        """Return why ``service`` cannot be taken back on ``host``, or an empty string."""
        if host in self.unknown:
            return f"{host} does not answer"
        if service in self.restoring and any(name == service for name, _ in self.failed):
            return "its databases were not restored, or it failed on another host"
        for other in sorted(needed_by(service, self.requires)):
            for name, where in sorted(self.failed):
                if name == other:
                    return f"{other}, which requires it, failed on {where}"
        return ""

    def holds(self, service: str) -> str:
        """Return why nothing of ``service`` must be touched: what would stop would not come back on every host."""
        for host, services in self.placed.items():
            if service in services and (why := self.obstacle(service, host)):
                return why
        return ""


def progress(decls: Mapping[str, Any], back: Mapping[str, Any], **more: Any) -> Backwards:
    """Return the progress of a rollback.

    Args:
        decls: all declarations.
        back: ``hosts``: service -> hosts on which it is taken back.
        more: further fields of :class:`~kolla_salt.steps.Progress`.
    """
    requires: dict[str, list[str]] = {name: [] for name in decls}
    for name, decl in decls.items():
        for other in decl["requires"]:
            requires.setdefault(other, []).append(name)
    placed: dict[str, set[str]] = {}
    for service, hosts in back["hosts"].items():
        for host in hosts:
            placed.setdefault(host, set()).add(service)
    restoring = set(back.get("restore") or ()) - set(back.get("restored") or ())
    return Backwards(requires=requires, primaries={}, placed=placed, restoring=restoring, **more)
