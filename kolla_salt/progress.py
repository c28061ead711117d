"""What is going on in a run, built from events; how it looks is another matter (:mod:`kolla_salt.cli.view`).

Two kinds of events are read: those that a run fires itself (``kolla/run/begun|surveyed|step|ended``) and Salt's own job
returns (``salt/job/<jid>/ret/<minion>``), which tell about a host while its step is still going on elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kolla_salt import outcome

TAG = "kolla/run/"


@dataclass
class HostState:
    """One host in one step. ``state``: running, ok, changed, failed, unknown."""

    name: str
    state: str = "running"
    seconds: float = 0.0
    changed: int = 0
    failures: list[outcome.Failure] = field(default_factory=list)


@dataclass
class StepState:
    """One step. ``state``: waiting, running, ok, failed, skipped."""

    id: str
    wave: int = 0
    role: str = ""
    services: list[str] = field(default_factory=list)
    state: str = "waiting"
    seconds: float = 0.0
    hosts: dict[str, HostState] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass
class RunState:
    """One run, as far as it has told."""

    run: str = ""
    verb: str = ""
    state: str = "starting"
    steps: dict[str, StepState] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    predicted: dict[str, dict[str, int]] = field(default_factory=dict)
    missing_images: dict[str, list[str]] = field(default_factory=dict)
    todo: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    current: str = ""

    @property
    def first_failure(self) -> outcome.Failure | None:
        """The failure that came first: the one to look at."""
        for step in self.steps.values():
            for host in step.hosts.values():
                if host.failures:
                    return host.failures[0]
        return None

    def feed(self, tag: str, data: Mapping[str, Any]) -> str:
        """Take in one event and return what it was, or an empty string.

        It is one of ``begun waits surveyed started host ended closed``. Events of other runs and
        other jobs change nothing.
        """
        if tag.startswith(TAG):
            return self._own(tag[len(TAG) :], data)
        if tag.startswith("salt/job/") and "/ret/" in tag and self.run:
            return self._job_return(data)
        return ""

    def _own(self, kind: str, data: Mapping[str, Any]) -> str:
        if kind == "begun":
            if self.run and self.run != data.get("run"):
                return ""
            self.run, self.verb, self.state = data["run"], data.get("verb", ""), "asking"
            self.hosts = list(data.get("hosts", []))
            for step in data.get("steps", []):
                self.steps[step["id"]] = StepState(step["id"], step["wave"], step["role"], list(step["services"]))
            return "begun"
        if data.get("run") != self.run or not self.run:
            return ""
        if kind == "waits":
            return kind
        if kind == "surveyed":
            self.state = "running"
            for name in ("unknown", "predicted", "missing_images", "todo"):
                setattr(self, name, data.get(name) or type(getattr(self, name))())
            return "surveyed"
        if kind == "step":
            return self._step(data)
        if kind == "ended":
            self.state, self.error = data.get("result", "failed"), data.get("error", "")
            self.seconds, self.unknown = data.get("seconds", 0.0), data.get("unknown", self.unknown)
            return "closed"
        return ""

    def _step(self, data: Mapping[str, Any]) -> str:
        step = self.steps.setdefault(data["id"], StepState(data["id"], data.get("wave", 0), data.get("role", "")))
        if data["state"] == "started":
            step.state, self.current = "running", step.id
            step.hosts = {name: HostState(name) for name in data.get("hosts", [])}
            return "started"
        step.state = "ok" if data.get("ok") else "failed"
        step.seconds = data.get("seconds", 0.0)
        step.left_out = data.get("left_out") or {}
        for name, said in (data.get("hosts") or {}).items():
            host = step.hosts.setdefault(name, HostState(name))
            host.state = {True: "changed" if said["changed"] else "ok", False: "failed", None: "unknown"}[
                said["result"]
            ]
            host.seconds, host.changed = said["seconds"], said["changed"]
            host.failures = [outcome.Failure(**failure) for failure in said["failed"]]
        return "ended"

    def _job_return(self, data: Mapping[str, Any]) -> str:
        step = self.steps.get(self.current)
        if step is None or step.state != "running" or not str(data.get("fun", "")).startswith("state."):
            return ""
        name = str(data.get("id"))
        mark = _mark(data.get("fun_args"))
        if name not in step.hosts or (mark and mark.get("run") != self.run):
            return ""
        found = outcome.read(name, data.get("return"))
        host = step.hosts[name]
        host.state = "failed" if found.result is False else "changed" if found.differing else "ok"
        host.seconds, host.changed, host.failures = round(found.seconds, 3), len(found.differing), found.failed
        return "host"


def _mark(arguments: Any) -> Mapping[str, Any]:
    """Return the ``kolla_step`` that a job was given, from the arguments in its return."""
    for argument in arguments or []:
        if isinstance(argument, Mapping) and isinstance(argument.get("pillar"), Mapping):
            return argument["pillar"].get("kolla_step") or {}
    return {}


def timing_table(steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return seconds per wave and host, and the slowest states, from the steps of a run record.

    Returns:
        ``waves``: list of ``{wave, services, seconds, hosts: {host: seconds}}``; ``hosts``: names;
        ``slowest``: list of ``{seconds, host, id}``, longest first, at most ten.
    """
    waves: dict[int, dict[str, Any]] = {}
    slowest: list[dict[str, Any]] = []
    hosts: dict[str, None] = {}
    for step in steps:
        wave = waves.setdefault(
            step["wave"], {"wave": step["wave"], "services": list(step["services"]), "seconds": 0.0, "hosts": {}}
        )
        wave["seconds"] = round(wave["seconds"] + step["seconds"], 3)
        for host, said in step["hosts"].items():
            hosts[host] = None
            wave["hosts"][host] = round(wave["hosts"].get(host, 0.0) + said["seconds"], 3)
            for seconds, name, *_ in said.get("slowest") or []:
                slowest.append({"seconds": seconds, "host": host, "id": name})
    slowest.sort(key=lambda entry: -entry["seconds"])
    return {"waves": [waves[number] for number in sorted(waves)], "hosts": list(hosts), "slowest": slowest[:10]}
