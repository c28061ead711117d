"""``runs list`` and ``runs show``: what was done to the cloud, by whom, and what came of it."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from kolla_salt import progress, runs
from kolla_salt.cli import place, view
from kolla_salt.cli.cloud import first_failure
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import runs_root


def add_parser(subparsers: Any) -> None:
    """Add the verb ``runs``."""
    parser = subparsers.add_parser("runs")
    commands = parser.add_subparsers(dest="command", metavar="list|show", required=True)
    listing = commands.add_parser("list", help="all runs, newest last")
    listing.add_argument("-n", type=int, default=20, metavar="N", help="at most the last N (default: 20; 0: all)")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    listing.set_defaults(handler=show_list)
    show = commands.add_parser("show", help="one run: plan, results, timings")
    show.add_argument("id", nargs="?", default="last", help="its id (default: the last run)")
    show.add_argument("--changes", action="store_true", help="also every change with its old and new value")
    show.add_argument("--plan", action="store_true", help="also what the dry run predicted")
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    show.set_defaults(handler=show_one)


def _root(args: argparse.Namespace) -> Any:
    try:
        return runs_root(place.master_config(args))
    except CliError:
        return runs.ROOT


def _when(seconds: float | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else None


def show_list(args: argparse.Namespace) -> int:
    """Print the last runs."""
    headers = runs.headers(_root(args))
    headers = headers[-args.n :] if args.n else headers
    if args.json:
        print(json.dumps({"ok": True, "runs": headers}, indent=1, default=str))
        return 0
    if not headers:
        print(f"no runs yet in {_root(args)}")
        return 0
    print(
        view.table(
            ["run", "started", "who", "result", "seconds", "failed requests"],
            [
                [
                    h["id"],
                    _when(h["started"]),
                    h.get("who"),
                    h["result"],
                    f"{h['seconds']:.1f}" if "seconds" in h else None,
                    (h.get("availability") or {}).get("failed"),
                ]
                for h in headers
            ],
            right=[4, 5],
        )
    )
    return 0


def show_one(args: argparse.Namespace) -> int:
    """Print one run."""
    record = runs.load(args.id, _root(args))
    header, steps = record.header(), list(record.steps())
    timing = progress.timing_table(steps)
    seen = record.availability()
    if args.json:
        told = {**header, "plan": record.plan(), "steps": steps, "timing": timing, "availability": seen}
        print(json.dumps({"ok": True, **told}, indent=1, default=str))
        return 0
    print(
        f"{header['verb']} of {header.get('site')} (digest {header.get('site_digest')}, "
        f"kolla-salt {header.get('version')})\n"
        f"by {header.get('who')} on {header.get('where')}, {_when(header['started'])} to "
        f"{_when(header.get('finished')) or '?'}: "
        f"{header['result']}"
    )
    if header.get("error"):
        print(header["error"])
    plan = record.plan()
    if args.plan and plan:
        for host, survey in plan["hosts"].items():
            print(f"\npredicted on {host}:")
            for state in survey["states"]:
                print(f"  {state['id']}")
                print("\n".join(view.changes(state["changes"])))
    for step in steps:
        print(f"\n{step['id']}  ({step['seconds']:.1f} s)")
        for host, said in step["hosts"].items():
            ending = {True: "ok", False: "FAILED", None: "unknown"}[said["result"]]
            print(f"  {host}: {ending}, {view.plural(len(said['changed']), 'change')}")
            for change in said["changed"]:
                if isinstance(change, str):
                    print(f"    {change}")
                    continue
                print(f"    {change['id']}: {', '.join(change['changes'])}")
                if args.changes:
                    print("\n".join(view.changes(change["changes"])))
        for service, hosts in (step.get("left_out") or {}).items():
            for host, why in hosts.items():
                print(f"  {service} left out on {host}: {why}")
    text = view.timings(timing)
    if text:
        print("\n" + text)
    if seen:
        from kolla_salt.availability import Receipt

        receipt = Receipt(seen)
        header_of, rows, notes = receipt.table(steps)
        print("\n" + "\n".join([view.table(header_of, rows, right=range(2, 9)), *notes, *receipt.lines()]))
    first = first_failure(steps)
    if first:
        print(view.failure(first))
    return 0
