"""What the commands of the verb node share: facts about the cloud on demand, tasks one by one, one record for all."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kolla_salt import __version__, neutron, nodes, nova, outcome, progress, runs
from kolla_salt.cli import view
from kolla_salt.cli.cloud import deviating, first_failure, orchestration_error
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.cloud_api import Api


@dataclass
class Task:
    """One thing to do: in words, how, and on which hosts.

    ``do`` returns what came of it, in words or not at all.
    """

    text: str
    do: Callable[[], str | None]
    hosts: Sequence[str] = ()


@dataclass
class Job:
    """A verb about one host: facts about the cloud on demand, tasks, record."""

    args: argparse.Namespace
    began: float = field(default_factory=time.monotonic)
    done: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    record: runs.Run | None = None
    deviations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host: str = self.args.host
        self.verb = f"node-{self.args.node_command}"
        self.master = Master(self.args)
        self.cloud = Cloud(self.master.site)

    # --- facts ----------------------------------------------------------------------------------------------------

    @cached_property
    def api(self) -> Api:
        """OpenStack, as the administrator."""
        from kolla_salt import clouds
        from kolla_salt.cloud_api import connect

        try:
            return connect(clouds.access(self.cloud.resolver, self.cloud.site.passwords, "internal"))
        except LookupError as error:
            raise CliError(f"signing in: {error.args[0]}") from error

    @cached_property
    def compute(self) -> nova.Compute:
        """Nova's API."""
        return nova.Compute(self.api)

    @cached_property
    def network(self) -> neutron.Network:
        """Neutron's API."""
        return neutron.Network(self.api)

    @cached_property
    def present(self) -> list[str]:
        """The hosts of the site that answer now."""
        return self.master.present(list(dict.fromkeys([*self.cloud.hosts, self.host])))[0]

    def has(self, kind: str) -> bool:
        """Return whether the cloud has a service of that type of the catalogue."""
        resolver = self.cloud.resolver
        return any(
            entry.get("type") == kind
            for name, decl in self.cloud.declarations.items()
            if decl["keystone"] and resolver.enabled(name)
            for entry in decl["keystone"].get("services", [])
        )

    def members(self, group: str) -> list[str]:
        """Return the hosts of a group, none if the site does not know it."""
        resolver = self.cloud.resolver
        return resolver.hosts(group) if group in resolver.parents or group in resolver.topology_groups else []

    def enabled(self, service: str) -> bool:
        """Return whether a service is switched on."""
        return self.cloud.resolver.enabled(service)

    def ask_one(self, host: str, function: str, *arguments: Any, **kwargs: Any) -> Any:
        """Run an execution function on one host and return what it returns. Raises CliError with what it said."""
        answers = self.master.ask([host], function, *arguments, **kwargs)
        said = answers.get(host)
        if host not in answers or isinstance(said, str):
            raise CliError(f"{host}: {outcome.last_words(said) if said else 'no answer'}")
        return said

    def known(self) -> None:
        """Refuse a host that the site does not know."""
        from kolla_salt.declarations import nearest

        if self.host not in self.cloud.hosts:
            raise CliError(
                f"node {self.args.node_command} {self.host}: no such host in {self.cloud.directory}/topology.yml"
                f"{nearest(self.host, self.cloud.hosts)}"
            )

    # --- doing ----------------------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Tell the reader how it goes on."""
        if not self.args.json:
            print(f"           {line}", flush=True)

    def run(self, tasks: Sequence[Task], nothing: str, **more: Any) -> int:
        """Do the tasks, or with ``--plan`` say what they are; return the exit status.

        Args:
            tasks: in order.
            nothing: what there is to say if there are none.
            more: further fields of the JSON document.
        """
        if self.args.plan:
            return self._plan(tasks, nothing, more)
        if tasks:
            self.open()
            for task in tasks:
                with self.step(task):
                    task_said = task.do()
                    if task_said:
                        self.done[-1]["said"] = task_said
        return self.finish(nothing if not tasks else "", **more)

    def open(self) -> runs.Run:
        """Begin the record of this run, unless that was done."""
        if self.record is None:
            root = self.master.runs_root()
            if other := runs.running(root):
                raise CliError(
                    f"beginning {self.verb}: the run {other['id']} of {other.get('who')} is going on (process "
                    f"{other.get('pid')}); expected none, since two runs would change the same hosts. Wait for its end"
                )
            self.record = runs.create(
                self.verb,
                root,
                site=str(self.master.site),
                site_digest=runs.digest(self.master.site),
                version=__version__,
                node=self.host,
            )
        return self.record

    @contextlib.contextmanager
    def step(self, task: Task) -> Iterator[None]:
        """Time one task, tell of it and record it; an error closes the record."""
        record = self.open()
        began, started = time.monotonic(), time.time()
        entry: dict[str, Any] = {"text": task.text, "ok": False}
        self.done.append(entry)
        if not self.args.json:
            print(f"  {task.text}", flush=True)
        try:
            yield
            entry["ok"] = True
        except BaseException as error:
            words = str(error) or type(error).__name__
            record.close("failed", error=words, seconds=round(time.monotonic() - self.began, 3))
            if isinstance(error, CliError):
                raise CliError(words, error.status, **{**error.details, "run": record.id, "done": self.done}) from error
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            record.append_step(
                {
                    "id": task.text,
                    "wave": 0,
                    "role": "node",
                    "services": [],
                    "started": started,
                    "seconds": entry["seconds"],
                    "ok": entry["ok"],
                    "hosts": {
                        host: {
                            "result": entry["ok"],
                            "seconds": entry["seconds"],
                            "changed": [{"id": task.text, "function": self.verb, "changes": {}}] if entry["ok"] else [],
                            "failed": [],
                        }
                        for host in task.hosts or [self.host]
                    },
                }
            )
            if not self.args.json:
                said = "" if entry["ok"] else "FAILED "
                print(f"{entry['seconds']:7.1f} s  {said}{entry.get('said') or ''}".rstrip(), flush=True)

    def finish(self, text: str, **more: Any) -> int:
        """Close the record, print how it ended, return the exit status."""
        seconds = round(time.monotonic() - self.began, 1)
        ok = not self.problems and not self.deviations
        if self.record is not None:
            header = self.record.header()
            unknown = header.get("unknown") or []
            result = "ok" if ok else "deviated" if not self.problems else "incomplete" if unknown else "failed"
            error = {"error": "\n".join(self.problems)} if self.problems else {}
            self.record.close(result, node=self.host, seconds=seconds, **error)
        if self.args.json:
            document = {"ok": ok, "host": self.host, "done": self.done, "problems": self.problems, "seconds": seconds}
            document["deviations"] = self.deviations
            print(
                json.dumps({**document, "run": self.record.id if self.record else None, **more}, indent=1, default=str)
            )
            return 0 if ok else 1
        for line in [*self.problems, *deviating({"deviations": self.deviations})]:
            print(line)
        if text:
            print(text)
        where = f"; record: kolla-salt runs show {self.record.id}" if self.record else ""
        ending = "INCOMPLETE" if self.problems else "done, but DEVIATED" if self.deviations else "done"
        print(f"node {self.args.node_command} {self.host} {ending}: {seconds:.1f} s{where}")
        return 0 if ok else 1

    def _plan(self, tasks: Sequence[Task], nothing: str, more: Mapping[str, Any]) -> int:
        texts = [task.text for task in tasks]
        ok = not self.problems
        if self.args.json:
            print(json.dumps({"ok": ok, "host": self.host, "plan": texts, "problems": self.problems, **more}, indent=1))
            return 0 if ok else 1
        print("\n".join([f"  {text}" for text in texts] or [nothing]))
        for problem in self.problems:
            print(problem)
        print("nothing was touched; without --plan it is done")
        return 0 if ok else 1

    # --- runs -----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the site again, and let all minions that answer read it."""
        self.cloud = Cloud(self.master.site)
        hosts = [name for name in self.present if name in self.cloud.hosts]
        self.master.ask(hosts, "saltutil.refresh_pillar", wait=True)

    def deploy(self, only: Any) -> str:
        """Run the orchestration inside this run's record, restricted to ``only``; return how it went.

        Raises:
            CliError: it failed.
        """
        record = self.open()
        ask: dict[str, Any] = {"id": record.id, "verb": self.verb}
        if only is not None:
            ask["hosts"] = only
        state = progress.RunState()
        live = None if self.args.json else view.LiveView(state)
        returned = self.master.orchestrate(
            "orch.deploy",
            {"kolla_run": ask},
            live.event if live else state.feed,
            live.tick if live else lambda: None,
        )
        header, steps = record.header(), list(record.steps())
        if header["result"] == "running":
            raise CliError(orchestration_error(returned))
        if header["result"] == "failed":
            first = first_failure(steps)
            failure = view.failure(first, record.id) if first else ""
            raise CliError(str(header.get("error") or failure or "the run failed"))
        for host in header.get("unknown") or []:
            self.problems.append(
                f"{host} did not answer: what it has to know of {self.host} it does not know yet. When it is back: "
                "kolla-salt deploy"
            )
        self.deviations += header.get("deviations") or []
        deployed = [step for step in steps if step.get("role") != "node"]
        changed = sum(len(said["changed"]) for step in deployed for said in step["hosts"].values())
        touched = sorted({host for step in deployed for host, said in step["hosts"].items() if said["changed"]})
        # The record was closed by the end of the orchestration, and is gone on with.
        return f"{view.plural(changed, 'change')} on {', '.join(touched)}" if changed else "nothing had to be changed"

    def scope(self, larger: Any, smaller: Any) -> Any:
        """Return what the run of a host that comes or goes is restricted to."""
        from kolla_salt import paths

        return nodes.concerned(self.host, larger, smaller, nodes.groups_read(paths.formula_root()))
