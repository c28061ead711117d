"""A stopped database cluster is started again: facts from all members, one step, new facts, until it is whole.

What the next step is, :func:`kolla_salt.galera.next_step` decides; here it is done and told. Nothing knows Salt: the
command line and the runner give the functions that ask hosts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kolla_salt import __version__, galera, outcome, runs

VERB = "mariadb-recovery"
#: Seconds for which members that could find each other by themselves are given the chance.
PATIENCE = 60.0
_PAUSE = 1.5
#: No recovery takes more; one that does goes round in circles.
_MOST_STEPS = 500


class Ask(Protocol):
    """Runs an execution function on hosts at once: host -> answer; a host that says nothing is absent.

    An error is a text in place of the data.
    """

    def __call__(self, hosts: Sequence[str], function: str, **kwargs: Any) -> dict[str, Any]:
        """Run ``function``."""


@dataclass
class Recovery:
    """One recovery.

    Attributes:
        order: hosts of the group, in the site's order.
        ask: runs functions on hosts.
        present: those of some hosts that answer at all.
        without: hosts that the operator gives up.
        chosen: host to start from; None: the most advanced one.
        patience: seconds to wait for members that could find each other.
        tell: gets a line for each step.
        clock: seconds that only grow.
        sleep: waits.
    """

    order: Sequence[str]
    ask: Ask
    present: Callable[[Sequence[str]], list[str]]
    without: Sequence[str] = ()
    chosen: str | None = None
    patience: float = PATIENCE
    tell: Callable[[str], None] = lambda line: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    bootstrapped: str | None = None
    waited: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    error: str | None = None
    positions: dict[str, str] = field(default_factory=dict)
    _facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    _found: dict[str, dict[str, Any]] = field(default_factory=dict)
    _views: dict[str, Any] = field(default_factory=dict)
    _known: dict[str, Any] = field(default_factory=dict)
    _failed: dict[str, list[str]] = field(default_factory=dict)
    _halted: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``ok`` (every host of the group that was not given up is a full member), ``bootstrapped`` (host from whose
            data the cluster was started, None if it ran or came back by itself), ``members`` (host -> state), ``size``
            and ``cluster`` (of the cluster), ``waited`` and ``seconds``, ``lost`` and ``problems`` (sentences),
            ``unknown`` (hosts that do not answer), ``positions``, ``steps``, ``error`` (why nothing more was done).
        """
        began = self.clock()
        there = self.present(self.order)
        self._examine(there)
        self._known = self._last_known([host for host in self.order if host not in self._facts])
        now = self._situation(began)
        try:
            for _ in range(_MOST_STEPS):
                step = galera.next_step(now)
                if step.action == galera.DONE:
                    break
                self._do(step)
                self._examine(there)
                now = self._situation(began)
            else:
                raise galera.GaleraError(f"the cluster is not whole after {_MOST_STEPS} steps; see the members' logs")
        except galera.GaleraError as error:
            self.error = str(error)
            now = self._let_wait(there, now, began)
        return self._report(now, round(self.clock() - began, 3))

    def _let_wait(self, there: Sequence[str], now: galera.Situation, began: float) -> galera.Situation:
        """Start again what was stopped for nothing: when a missing host comes back, the members find each other."""
        idle = [host for host in self._halted if host in self._facts and not self._facts[host]["running"]]
        if not idle or self.bootstrapped:
            return now
        self.tell(f"start {', '.join(idle)} again: they wait for the others")
        self.ask(idle, "kolla_container.start", name="mariadb")
        self._found = {}
        self._examine(there)
        return self._situation(began)

    def _situation(self, began: float) -> galera.Situation:
        return galera.Situation(
            order=self.order, facts=self._facts, known=self._known, without=self.without, chosen=self.chosen,
            waited=self.clock() - began, patience=self.patience, failed=self._failed, started=self.bootstrapped,
        )  # fmt: skip

    def _examine(self, hosts: Sequence[str]) -> None:
        """Ask the hosts again; what was found out about stopped members is kept until they are started."""
        facts: dict[str, dict[str, Any]] = {}
        for host, said in self.ask(hosts, "kolla_mariadb.examine").items():
            if not isinstance(said, dict):
                raise galera.GaleraError(f"{host}: {outcome.last_words(str(said))}")
            if not said["known"]:
                continue  # without its engine nobody sees its data: as a host that does not answer
            if said["view"]:
                self._views[host] = said["view"]
            # A member that ends in order forgets its last cluster.
            facts[host] = {**said, "view": said["view"] or self._views.get(host), **self._found.get(host, {})}
        self._facts = facts

    def _last_known(self, silent: Sequence[str]) -> dict[str, Any]:
        """Return what hosts that do not answer told the master last."""
        if not silent or not self._facts:
            return {}
        first = next(iter(self._facts))
        said = self.ask(
            [first], "mine.get", tgt=",".join(silent), fun="kolla_mariadb.lookup", tgt_type="list"
        ).get(first)  # fmt: skip
        return (
            {host: facts for host, facts in said.items() if isinstance(facts, dict)} if isinstance(said, dict) else {}
        )

    def _do(self, step: galera.Step) -> None:
        where = ", ".join(step.hosts)
        if step.action == galera.WAIT:
            if not self.steps or self.steps[-1]["action"] != galera.WAIT:
                self.tell(f"waiting for up to {self.patience:g} s: {step.why}")
                self.steps.append({"action": galera.WAIT, "hosts": [], "why": step.why, "seconds": 0.0})
            self.sleep(_PAUSE)
            self.waited = self.steps[-1]["seconds"] = round(self.steps[-1]["seconds"] + _PAUSE, 1)
            return
        self.tell(f"{step.action} {where}: {step.why}")
        for sentence in step.lost:
            if sentence not in self.lost:
                self.lost.append(sentence)
                self.tell(f"  LOST: {sentence}")
        began = self.clock()
        action = {
            galera.HALT: self._halt, galera.READ: self._read, galera.DISCARD: self._discard, galera.START: self._start,
            galera.ADD: self._add, galera.SETTLE: self._settle, galera.LEAVE: self._leave,
        }[step.action]  # fmt: skip
        action(step)
        seconds = round(self.clock() - began, 1)
        self.steps.append({"action": step.action, "hosts": list(step.hosts), "why": step.why, "seconds": seconds})

    def _all(self, hosts: Sequence[str], function: str) -> dict[str, Any]:
        """Run a function that has to succeed on all hosts."""
        said = self.ask(hosts, function)
        wrong = [f"{host}: {outcome.last_words(str(said[host]))}" for host in said if isinstance(said[host], str)]
        wrong += [f"{host} was lost on the way" for host in hosts if host not in said]
        if wrong:
            raise galera.GaleraError(f"{function}: " + "\n  ".join(wrong))
        return said

    def _halt(self, step: galera.Step) -> None:
        self._all(step.hosts, "kolla_mariadb.halt")
        self._halted += [host for host in step.hosts if host not in self._halted]

    def _discard(self, step: galera.Step) -> None:
        self._all(step.hosts, "kolla_mariadb.discard")
        for host in step.hosts:
            self._found[host] = {"position_read": True, "position": None}

    def _settle(self, step: galera.Step) -> None:
        self._all(step.hosts, "kolla_mariadb.settle")

    def _read(self, step: galera.Step) -> None:
        said = self.ask(step.hosts, "kolla_mariadb.position")
        for host in step.hosts:
            answer = said.get(host, "it was lost on the way")
            found: dict[str, Any] = {"position_read": True, "position": None}
            if isinstance(answer, dict):
                found["position"] = (answer["uuid"], answer["seqno"])
                self.tell(f"  {host} is at {answer['uuid']}:{answer['seqno']}")
            elif answer:
                found["position_error"] = outcome.last_words(str(answer))
            else:
                self.tell(f"  {host} has no position: its data were never complete")
            self._found[host] = found

    def _start(self, step: galera.Step) -> None:
        (host,) = step.hosts
        uuid = (self._found.get(host, {}).get("position") or (None,))[0]
        self.positions = {
            name: "{}:{}".format(*found) for name in self._facts if (found := self._situation(0).position(name))
        }  # fmt: skip
        self._found.pop(host, None)
        said = self.ask([host], "kolla_mariadb.revive", uuid=uuid).get(host)
        if said != "Synced":
            raise galera.GaleraError(
                f"{host} did not start as the first member: "
                + (outcome.last_words(str(said)) if said else "it was lost on the way")
            )
        self.bootstrapped = host

    def _add(self, step: galera.Step) -> None:
        (host,) = step.hosts
        self._found.pop(host, None)
        said = str(self.ask([host], "kolla_mariadb.rejoin", full=step.full).get(host) or "it was lost on the way")
        if not said.startswith(("Synced", "Donor")):
            self._fail(host, outcome.last_words(said))

    def _leave(self, step: galera.Step) -> None:
        (host,) = step.hosts
        self._failed[host] = []
        self._fail(host, step.why)
        self._fail(host, step.why)

    def _fail(self, host: str, why: str) -> None:
        self.tell(f"  {host}: {why}")
        self._failed[host] = [*self._failed.get(host, []), why]

    def _report(self, now: galera.Situation, seconds: float) -> dict[str, Any]:
        servers = {host: now.server(host) for host in self.order}
        serving = [server for server in servers.values() if server and galera.is_primary(server)]
        wanted = [host for host in self.order if host not in self.without]
        problems = [f"{host}: {said[-1]}" for host, said in self._failed.items() if not galera.is_member(servers[host])]
        return {
            "ok": self.error is None and all(galera.is_member(servers[host]) for host in wanted),
            "bootstrapped": self.bootstrapped,
            "members": galera.members(now),
            "size": max((server["size"] for server in serving), default=0),
            "cluster": serving[0]["uuid"] if serving else None,
            "waited": self.waited,
            "seconds": seconds,
            "lost": self.lost,
            "problems": problems,
            "unknown": now.silent,
            "positions": self.positions,
            "steps": self.steps,
            "error": self.error,
        }  # fmt: skip


def recorded(recovery: Recovery, root: Path, site: Path | str) -> dict[str, Any]:
    """Do a recovery and keep its record.

    Raises:
        galera.GaleraError: another run is going on, or a host of the group cannot say anything of its database.
    """
    if other := runs.running(root):
        raise galera.GaleraError(
            f"beginning {VERB}: the run {other['id']} of {other.get('who')} is going on (process {other.get('pid')}); "
            "expected none, since two runs would change the same hosts. Wait for its end"
        )
    record = runs.create(VERB, root, site=str(site), site_digest=runs.digest(site), version=__version__)
    began = time.time()
    try:
        result = recovery.run()
    except galera.GaleraError as error:
        record.close("failed", error=str(error), seconds=round(time.time() - began, 3))
        raise
    failed = [problem for problem in (result["error"], *result["problems"]) if problem]
    hosts = {
        host: {"result": True, "seconds": result["seconds"], "failed": [], "changed": [
            f"{step['action']}: {step['why']}" for step in result["steps"] if host in step["hosts"]
        ]}
        for host in recovery.order if host not in result["unknown"]
    }  # fmt: skip
    record.append_step(
        {
            "id": VERB, "wave": 0, "role": VERB, "services": ["mariadb"], "started": began,
            "seconds": result["seconds"], "ok": not failed, "hosts": hosts,
        }
    )  # fmt: skip
    ending = "failed" if failed else "ok" if result["ok"] else "incomplete"
    kept = {key: result[key] for key in ("seconds", "unknown", "bootstrapped", "members", "lost", "problems")}
    record.close(ending, **kept, **({"error": result["error"]} if result["error"] else {}))
    return {**result, "run": record.id}
