"""Whether a run did to containers what was predicted, and nothing else. Pure.

Two witnesses are heard: the states of the run, which say what they did, and the engine, which knows of every container
which one it is and when it was started. A container that has ended and come back by itself is only seen by the engine.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kolla_salt.prediction import Act, acts
from kolla_salt.prediction import act as act_of
from kolla_salt.steps import service_of

#: host -> container -> what was or will be done to it, in order
Doings = Mapping[str, Mapping[str, Sequence[Act]]]
#: host -> container -> what the engine says of it: ``id``, ``image``, ``digest``, ``started``, ``state``, ``restarts``
Containers = Mapping[str, Mapping[str, Mapping[str, Any]]]

_TO_DO = {
    "created": "be created",
    "recreated": "be recreated",
    "started": "be started",
    "restarted": "be restarted",
    "reloaded": "be reloaded",
    "updated": "be changed in place",
    "adopted": "be adopted",
    "removed": "be removed",
    "stopped": "be stopped",
    "run": "run once",
    "returned": "be returned",
}
#: What leaves a container another one than before.
_ANOTHER = {"created", "recreated", "returned"}
#: What leaves it the same one, started anew.
_ANEW = {"started", "restarted"}
_GONE = {"removed", "run"}
#: What interrupts what it gives others.
_INTERRUPTED = {"recreated", "restarted", "returned"}


@dataclass(frozen=True)
class Deviation:
    """One container that fared otherwise than predicted."""

    host: str
    container: str
    said: str
    #: what was predicted; empty: nothing
    predicted: str = ""
    #: what came of it: a word of kolla_container, or one of nothing, replaced, started, ended, gone, new
    found: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; ``text`` is all of it in words."""
        return asdict(self) | {"text": self.sentence()}

    def sentence(self) -> str:
        """Return it in the words shown to the operator."""
        return f"{self.host}: {self.container} {self.said}"


def _resting(did: Mapping[str, Sequence[Act]], held: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the containers of a host that were stopped and started again around the restart of others."""
    interrupted = [name for name, items in did.items() if {item.done for item in items} & _INTERRUPTED]
    return {other for name in interrupted for other in held.get(name, ())}


def of_states(
    predicted: Doings,
    done: Doings,
    settled: Collection[tuple[str, str]],
    held: Mapping[str, Iterable[str]] | None = None,
) -> list[Deviation]:
    """Compare what the states did with what the dry run predicted of them.

    Args:
        predicted: by the dry run before the run.
        done: by the states of the run.
        settled: (service, host) that were predicted as a whole and applied without a failure. For others it is not
            known what was left to do.
        held: container -> those of its host that are stopped and started again around its own restart.
    """
    found = []
    for host in dict.fromkeys([*predicted, *done]):
        before, after = predicted.get(host, {}), done.get(host, {})
        resting = _resting(after, held or {})
        for name in dict.fromkeys([*before, *after]):
            planned, real = before.get(name, ()), after.get(name, ())
            service = service_of((*planned, *real)[0].sls)
            expected, did = [item.done for item in planned], [item.done for item in real]
            if expected == did or (service, host) not in settled:
                continue
            if expected == ["adopted"] and not did and name in resting:
                continue  # that start was noted, so there was none left to note
            words = " and ".join(did)
            if not expected:
                said = f"was {words}, which was not predicted"
            elif not did:
                said = f"was to {_TO_DO.get(expected[0], expected[0])}, and nothing was done to it"
            else:
                said = f"was to {_TO_DO.get(expected[0], expected[0])}, and was {words}"
            found.append(Deviation(host, name, said, " and ".join(expected), words or "nothing"))
    return found


def of_engine(
    before: Containers,
    after: Containers,
    done: Doings,
    held: Mapping[str, Iterable[str]],
    excused: Collection[tuple[str, str]] = (),
    deaths: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] | None = None,
    declared: Collection[str] | None = None,
) -> list[Deviation]:
    """Compare what the engines say before and after a run with what its states did.

    Args:
        before: each host's containers when the run began.
        after: and when it ended.
        done: by the states of the run.
        held: container -> those of its host that are stopped and started again around its own restart.
        excused: (host, container) that are not judged: a state failed while it was at them.
        declared: containers that services declare; others are not judged, since the programs of some make more of them.
            None: judge all.
        deaths: host -> container -> when its process ended (``at``) and how (``exit``), as far as the engine knows.
    """
    found = []
    for host, then in before.items():
        if host not in after:
            continue
        now, acts = after[host], done.get(host, {})
        resting = _resting(acts, held)
        for name in dict.fromkeys([*then, *now]):
            if (host, name) in excused or declared is not None and name not in declared and name not in acts:
                continue
            did = [item.done for item in acts.get(name, ())]
            if not did and name in resting:
                did = ["restarted"]
            ended = (deaths or {}).get(host, {}).get(name, ())
            verdict = _verdict(then.get(name), now.get(name), did, ended)
            if verdict:
                found.append(Deviation(host, name, verdict[1], " and ".join(did), verdict[0]))
    return found


def _verdict(
    then: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    did: Sequence[str],
    ended: Sequence[Mapping[str, Any]],
) -> tuple[str, str] | None:
    """Return what is wrong with one container, in a word and in a sentence; None if its history is as it should be."""
    last = did[-1] if did else ""
    though = f"though it was only {last}" if last else "though nothing was done to it"
    if now is None:
        expected = then is None or last in _GONE
        return None if expected else ("gone", f"is gone, {though}")
    if then is None:
        if last in _ANOTHER | _ANEW or now["state"] != "running":
            return _restarts(None, now, ended)  # one that does not run was put there to be kept
        return "new", f"came into being at {_when(now)}, {though}"
    if last == "stopped":
        return None
    if then["id"] != now["id"]:
        if set(did) & _ANOTHER:
            return _restarts(None, now, ended)
        return "replaced", f"was replaced by another one at {_when(now)}, {though}"
    if now["state"] != "running" and then["state"] == "running":
        return "ended", f"does not run any more ({now['state']}), {though}{_why(then, now, ended)}"
    if then["started"] != now["started"] and not set(did) & _ANEW:
        return "started", f"was started anew at {_when(now)}, {though}{_why(then, now, ended)}"
    # A start by hand makes the engine count anew.
    return _restarts(None if set(did) & _ANEW else then, now, ended)


def _restarts(
    then: Mapping[str, Any] | None, now: Mapping[str, Any], ended: Sequence[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Return that a container's process ended and the engine started it again, which nobody had asked for."""
    more = (now.get("restarts") or 0) - ((then or {}).get("restarts") or 0)
    if more <= 0:
        return None
    times = "once" if more == 1 else f"{more} times"
    return "started", f"ended by itself and was started again by the engine {times}{_why(then, now, ended)}"


def _when(now: Mapping[str, Any]) -> str:
    return str(now.get("started"))[:19].replace("T", " ") + " UTC"


def _why(then: Mapping[str, Any] | None, now: Mapping[str, Any], ended: Sequence[Mapping[str, Any]]) -> str:
    """Return what the engine says about why a process ended."""
    said = []
    if ended:
        said.append("exit code " + ", ".join(str(item.get("exit")) for item in ended[-5:]))
    elif now["state"] != "running":
        said.append(f"exit code {now.get('exit')}")
    if now.get("oom"):
        said.append("the kernel ended it for want of memory")
    more = (now.get("restarts") or 0) - ((then or {}).get("restarts") or 0)
    if more > 0:
        said.append(f"restarts by the engine: {more}")
    return f"; the engine says: {', '.join(said)}" if said else "; the engine does not say why"


class Fates:
    """What happens to containers in a run: as predicted, as states did it, as the engines say."""

    def __init__(self, resolver: Any) -> None:
        self.owner: dict[str, str] = {}
        #: container -> those that are stopped and started again around its own restart
        self.held: dict[str, list[str]] = {}
        #: container -> what it reports as to its service's API
        self.reports: dict[str, str] = {}
        for service in resolver.enabled_services():
            for name, fields in resolver.declarations[service]["containers"].items():
                self.owner[name] = service
                names = resolver.names(service, container=name)
                self.held[name] = list(resolver.evaluate(fields["hold"], names) or [])
                if fields["reports"]:
                    self.reports[name] = fields["reports"]
        self.before: dict[str, Any] = {}
        self.predicted: dict[str, dict[str, list[Act]]] = {}
        self.done: dict[str, dict[str, list[Act]]] = {}
        #: (service, host)
        self.applied: set[tuple[str, str]] = set()
        self.unpredictable: set[tuple[str, str]] = set()

    def predict(self, surveys: dict[str, Any]) -> None:
        """Take in the dry run."""
        for host, said in surveys.items():
            self.predicted[host] = {name: [found] for name, found in acts(said["states"]).items()}
            self.unpredictable |= {(service_of(state["sls"]), host) for state in said["failed"]}

    def touches(self, hosts: Iterable[str]) -> bool:
        """Return whether a run touches containers of ``hosts``, as far as that could be predicted."""
        unsure = {host for _, host in self.unpredictable}
        return any(self.predicted.get(host) or host in unsure for host in hosts)

    def see(self, host: str, sls: list[str], changed: Iterable[Any]) -> None:
        """Take in what the states of one job did on a host."""
        self.applied |= {(service_of(name), host) for name in sls}
        for change in changed:
            found = act_of(vars(change))
            if found:
                self.done.setdefault(host, {}).setdefault(change.id, []).append(found)

    def deviations(self, after: dict[str, Any], failed: set[tuple[str, str]], unknown: set[str]) -> list[Deviation]:
        """Return where reality was another than predicted."""
        unsure = failed | self.unpredictable
        settled = {item for item in self.applied - unsure if item[1] not in unknown}
        excused = {(host, name) for name, service in self.owner.items() for other, host in unsure if other == service}
        deaths = {
            host: {name: said["deaths"] for name, said in names.items() if said.get("deaths")}
            for host, names in after.items()
        }
        return [
            *of_states(self.predicted, self.done, settled, self.held),
            *of_engine(self.before, after, self._by_container(), self.held, excused, deaths, self.owner),
        ]

    def newcomers(self, after: dict[str, Any], since: float | None = None) -> dict[str, list[str]]:
        """Return agent or worker -> hosts that had no container of it when the run began, and where it runs now.

        Args:
            after: host -> containers at the end.
            since: seconds since the epoch; what had been started after that counts too, such as by a run that was
                interrupted just before.
        """
        found: dict[str, list[str]] = {}
        # As the engine writes it, in UTC; texts of one form are in the order of what they say.
        young = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since)) if since is not None else None
        for host, containers in after.items():
            for name, agent in self.reports.items():
                there = self.before.get(host, {}).get(name)
                new = there is None or (young is not None and str(there.get("started") or "") > young)
                if new and containers.get(name, {}).get("state") == "running":
                    found.setdefault(agent, []).append(host)
        return found

    def _by_container(self) -> dict[str, dict[str, list[Act]]]:
        found: dict[str, dict[str, list[Act]]] = {}
        for host, ids in self.done.items():
            for name, items in ids.items():
                for item in items:
                    found.setdefault(host, {}).setdefault(item.container or name, []).append(item)
        return found
