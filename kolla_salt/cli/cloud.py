"""Verbs that change hosts: deploy, reconfigure, genconfig, pull, stop, destroy."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kolla_salt import outcome, progress, runs
from kolla_salt.cli import view
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import Master


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    for verb in ("deploy", "reconfigure"):
        parser = subparsers.add_parser(verb)
        _selection(parser)
        parser.add_argument("--every-step", action="store_true",
                            help="apply every step, also where the dry run sees nothing to do")  # fmt: skip
        parser.set_defaults(handler=run_orchestration, orchestration=verb)


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services (default: all)")
    parser.add_argument("--limit", metavar="HOSTS", type=_comma, help="only these hosts, separated by commas")


def _comma(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def check_site(master: Master) -> None:
    """Refuse a site with problems before anything runs.

    Raises:
        CliError: naming each problem.
    """
    from kolla_salt import declarations
    from kolla_salt import site as sites

    found = sites.validate(sites.load(master.site), declarations.load())
    if found:
        lines = "".join(f"\n  {problem.text}" for problem in found)
        raise CliError(f"the site {master.site} has {view.plural(len(found), 'problem')}:{lines}",
                       problems=[vars(problem) | {"text": problem.text} for problem in found])  # fmt: skip


def run_orchestration(args: argparse.Namespace) -> int:
    """Run ``orch.<verb>``, show it, and say how it ended."""
    master = Master(args)
    verb = args.orchestration
    check_site(master)
    ask: dict[str, Any] = {"id": runs.new_id(verb)}
    for key, value in (("services", getattr(args, "services", None)), ("hosts", getattr(args, "limit", None)),
                       ("every", getattr(args, "every_step", False))):  # fmt: skip
        if value:
            ask[key] = value
    pillar = {"kolla_run": ask}
    state = progress.RunState()
    live = view.LiveView(state) if not args.json else None
    if live:
        live.line(master.command("state.orchestrate", f"orch.{verb}", pillar=pillar))
    returned = master.orchestrate(f"orch.{verb}", pillar, live.event if live else state.feed, live.tick if live else _nothing)
    return report(args, master, ask["id"], state, returned)


def _nothing() -> None:
    """Stand in for a view that does not move."""


def report(args: argparse.Namespace, master: Master, run_id: str, state: progress.RunState, returned: Any) -> int:
    """Print how a run ended: the first failure and what to do, timings, hosts that are unknown."""
    try:
        record = runs.load(state.run or run_id, master.runs_root())
    except runs.UnknownRun:
        raise CliError(orchestration_error(returned)) from None
    header, steps = record.header(), list(record.steps())
    if header["result"] == "running":
        # The orchestration ended without closing its record: it broke, and says why.
        record.close("failed", error=orchestration_error(returned))
        header = record.header()
    ok = header["result"] == "ok"
    timing = progress.timing_table(steps)
    first = first_failure(steps)
    if args.json:
        print(json.dumps({"ok": ok, "run": record.id, **{k: header.get(k) for k in ("result", "error", "unknown", "seconds")},
                          "first_failure": vars(first) if first else None, "steps": steps, "timing": timing},
                         indent=1, default=str))  # fmt: skip
        return 0 if ok else 1
    print()
    if header.get("error"):
        print(header["error"])
    text = view.timings(timing)
    if text:
        print(text + "\n")
    if first:
        print(view.failure(first, record.id))
    changed = sum(len(host["changed"]) for step in steps for host in step["hosts"].values())
    ending = {"ok": "done", "failed": "FAILED", "incomplete": "INCOMPLETE"}.get(header["result"], header["result"])
    said = view.plural(changed, "change") if changed else "nothing had to be changed"
    print(f"{args.verb} {ending}: {said}, {header.get('seconds', 0):.1f} s; record: kolla-salt runs show {record.id}")
    for host in header.get("unknown") or []:
        print(f"  {host} did not answer; its state is unknown. Mend it (salt-key -L, systemctl status salt-minion), "
              "then give the same command again.")  # fmt: skip
    return 0 if ok else 1


def first_failure(steps: list[dict[str, Any]]) -> outcome.Failure | None:
    """Return the first failing state of a run record."""
    for step in steps:
        for host in step["hosts"].values():
            if host.get("failed"):
                return outcome.Failure(**host["failed"][0])
    return None


def orchestration_error(returned: Any) -> str:
    """Return why an orchestration did nothing, from what it returned."""
    if isinstance(returned, dict) and isinstance(returned.get("data"), dict):
        for states in returned["data"].values():
            if isinstance(states, list):
                return "the orchestration could not be rendered:\n  " + "\n  ".join(map(str, states))
            if isinstance(states, dict):
                for state in states.values():
                    if isinstance(state, dict) and state.get("result") is False:
                        return outcome.last_words(str(state.get("comment")))
    return outcome.last_words(str(returned))
