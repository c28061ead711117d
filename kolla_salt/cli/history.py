"""``runs list``, ``show``, ``diff``, ``report`` and ``prune``: what was done to the cloud, by whom, what came of it."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kolla_salt import progress, runs
from kolla_salt.cli import place, view
from kolla_salt.cli.cloud import first_failure
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import master_option, runs_root

#: Lines of a list in ``runs diff``.
_MOST = 40


def add_parser(subparsers: Any) -> None:
    """Add the verb ``runs``."""
    parser = subparsers.add_parser("runs")
    commands = parser.add_subparsers(dest="command", metavar="list|show|diff|report|prune", required=True)

    def add(name: str, handler: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        made.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        made.set_defaults(handler=handler)
        return made

    listing = add("list", show_list, "all runs, newest last")
    listing.add_argument("--verb", help="only runs of this verb, such as deploy or node-add")
    listing.add_argument("--failed", action="store_true", help="only runs that did not end well")
    listing.add_argument(
        "-n", "--last", type=int, default=20, metavar="N", dest="n", help="at most the last N (default: 20; 0: all)"
    )
    show = add("show", show_one, "one run: plan, results, timings")
    show.add_argument("id", nargs="?", default="last", help="its id (default: the last run)")
    show.add_argument("--changes", action="store_true", help="also every change with its old and new value")
    show.add_argument("--plan", action="store_true", help="also what the dry run predicted")
    diff = add("diff", show_difference, "what differs between two runs")
    diff.add_argument("id", nargs="?", default="last", metavar="A", help="a run (default: the last one)")
    diff.add_argument(
        "other", nargs="?", metavar="B", help="a later run (default: A itself, against the one before it)"
    )
    report = add("report", write_report, "one run as a single HTML file, with a timeline")
    report.add_argument("id", nargs="?", default="last", help="its id (default: the last run)")
    report.add_argument("--out", metavar="FILE", help="where to write it (default: ID.html here; -: standard output)")
    prune = add("prune", prune_records, "remove old records, as every deploy does")
    prune.add_argument("--keep", type=int, metavar="N", help="the newest N stay (default: option kolla_runs_keep, 200)")
    prune.add_argument(
        "--days", type=float, metavar="D", help="older ones go (default: option kolla_runs_keep_days, 365)"
    )


def _root(args: argparse.Namespace) -> Any:
    try:
        return runs_root(place.master_config(args))
    except CliError:
        return runs.ROOT


def _when(seconds: float | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else None


def show_list(args: argparse.Namespace) -> int:
    """Print the last runs."""
    headers = [
        header
        for header in runs.headers(_root(args))
        if (not args.verb or header["verb"] == args.verb)
        and (not args.failed or header["result"] not in ("ok", "running"))
    ]
    headers = headers[-args.n :] if args.n else headers
    if args.json:
        print(json.dumps({"ok": True, "runs": headers}, indent=1, default=str))
        return 0
    if not headers:
        print(f"no such run in {_root(args)}" if args.verb or args.failed else f"no runs yet in {_root(args)}")
        return 0
    print(
        view.table(
            ["run", "started", "who", "result", "seconds", "failed requests", "site"],
            [
                [
                    h["id"],
                    _when(h["started"]),
                    h.get("who"),
                    h["result"],
                    f"{h['seconds']:.1f}" if "seconds" in h else None,
                    (h.get("availability") or {}).get("failed"),
                    _revision(h.get("revision")) or str(h.get("site_digest", ""))[:12],
                ]
                for h in headers
            ],
            right=[4, 5],
        )
    )
    return 0


def _revision(revision: Mapping[str, Any] | None) -> str:
    if not revision:
        return ""
    return f"{revision['commit'][:10]}{' + changes' if revision['dirty'] else ''}"


def show_one(args: argparse.Namespace) -> int:
    """Print one run."""
    record = runs.load(args.id, _root(args))
    header, steps = runs.told(record), list(record.steps())
    timing = progress.timing_table(steps)
    seen = record.availability()
    if args.json:
        told = {**header, "plan": record.plan(), "steps": steps, "timing": timing, "availability": seen}
        told |= {"containers": record.containers(), "site_content": record.site()}
        print(json.dumps({"ok": True, **told}, indent=1, default=str))
        return 0
    revision = header.get("revision")
    behind = f", {_revision(revision)} ({revision['subject']})" if revision else ""
    origin = f" from {header['from']}" if header.get("from") else ""
    print(
        f"{header['verb']} of {header.get('site')} (digest {header.get('site_digest')}{behind}, "
        f"kolla-salt {header.get('version')})\n"
        f"by {header.get('who')}{origin} on {header.get('where')}, {_when(header['started'])} to "
        f"{_when(header.get('finished')) or '?'}: "
        f"{header['result']}"
    )
    for name in ("command", "equivalent"):
        if header.get(name):
            print(f"{name + ':':<12}{header[name]}")
    if revision and revision["dirty"]:
        print(f"not committed: {view.some(revision['changed'])}")
    if header.get("error"):
        print(header["error"])
    for deviation in header.get("deviations") or []:
        print(f"not as predicted: {_words(deviation)}")
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
            noted = f", noted that it runs: {view.some(said['noted'])}" if said.get("noted") else ""
            print(f"  {host}: {ending}, {view.plural(len(said['changed']), 'change')}{noted}")
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


def _words(deviation: Any) -> str:
    from kolla_salt.report.model import sentence

    return sentence(deviation)


# --- two runs -------------------------------------------------------------------------------------------------------


def show_difference(args: argparse.Namespace) -> int:
    """Print what differs between two runs."""
    from kolla_salt.report import difference

    root = _root(args)
    record = runs.load(args.id, root)
    old, new = (record, runs.load(args.other, root)) if args.other else (runs.before(record.id, root), record)
    found = difference.compare(difference.parts(old), difference.parts(new))
    if args.json:
        print(json.dumps({"ok": True, **found}, indent=1, default=str))
        return 0
    print(f"{found['old']} -> {found['new']}")
    for lines in _difference(found):
        print("\n" + "\n".join(lines))
    if difference.empty(found):
        print("\nthey did the same, with the same site")
    return 0


def _difference(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the parts of a comparison as paragraphs."""
    parts: list[list[str]] = []
    if found["fields"]:
        parts.append([f"{name}: {_one(pair['old'])} -> {_one(pair['new'])}" for name, pair in found["fields"].items()])
    if found["revision"]:
        old, new = (_revision(found["revision"][side]) or "not in git" for side in ("old", "new"))
        parts.append([f"revision of the site: {old} -> {new}"])
        if "command" in found["revision"]:
            parts[-1].append(f"  {found['revision']['command']}")
    site = found["site"]
    if site:
        lines = [f"file {kind}: {name}" for kind, names in site.get("files", {}).items() for name in names]
        lines += [f"option {name}: {_one(p['old'])} -> {_one(p['new'])}" for name, p in site.get("options", {}).items()]
        for file, kinds in site.get("keys", {}).items():
            shown = set(site.get("options", {})) if file == "globals.yml" else set()
            lines += [f"{file}: {name} {kind}" for kind, names in kinds.items() for name in names if name not in shown]
        parts.append(["the site"] + [f"  {line}" for line in _first(lines)])
    for kind, title in (("predicted", "predicted"), ("real", "done")):
        for side in ("old", "new"):
            rows = found[kind].get(side)
            if rows:
                alike: dict[tuple[str, ...], list[str]] = {}
                for row in rows:
                    alike.setdefault((row["action"], *row["hosts"]), []).append(row["id"])
                lines = [f"  {a} on {view.some(hosts)}: {view.some(ids, 12)}" for (a, *hosts), ids in alike.items()]
                parts.append([f"only {title} in {found[side]}", *_first(lines)])
    for kind, title in (("images", "images, after each of the runs"), ("between", "between the two runs")):
        if found[kind]:
            lines = [
                f"  {row['container']} on {view.some(row['hosts'])}: {row.get('what') or ''}"
                + ("" if row.get("what") else f"{_one(row['old'])} -> {_one(row['new'])}")
                for row in found[kind]
            ]
            parts.append([title, *_first(lines)])
    if found["seconds"]:
        rows = [
            [row["id"], *(None if row[side] is None else f"{row[side]:.1f}" for side in ("old", "new"))]
            for row in found["seconds"]
        ]
        parts.append([view.table(["seconds", "before", "after"], rows, right=[1, 2])])
    if found["availability"]:
        parts.append(["availability"])
        for name, pair in found["availability"].items():
            parts[-1].append(f"  {name}: {_noticed(pair['old'])} -> {_noticed(pair['new'])}")
    return parts


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"  and {len(lines) - _MOST} more (--json has all)"]


def _one(value: Any) -> str:
    if value in (None, "", []):
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _noticed(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return "not watched"
    return f"{said['failed']} failed, {said['outage']:.1f} s" if said["failed"] else "no request failed"


# --- the report and old records -------------------------------------------------------------------------------------


def write_report(args: argparse.Namespace) -> int:
    """Write one run's report."""
    from kolla_salt import report

    record = runs.load(args.id, _root(args))
    text = report.make(record)
    if args.out == "-" and not args.json:
        print(text)
        return 0
    path = Path(f"{record.id}.html" if args.out in (None, "-") else args.out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise CliError(
            f"writing the report of {record.id} to {path}: {error.strerror}; another place: --out FILE"
        ) from error
    if args.json:
        print(json.dumps({"ok": True, "run": record.id, "file": str(path.resolve()), "bytes": len(text.encode())}))
    else:
        print(f"{path.resolve()} ({len(text.encode()) / 1e3:,.0f} kB); any browser shows it, it needs no network")
    return 0


def prune_records(args: argparse.Namespace) -> int:
    """Remove old records."""
    config = None
    try:
        config = place.master_config(args)
    except CliError:
        pass
    keep, days = args.keep, args.days
    try:
        keep = int(master_option(config, "kolla_runs_keep", runs.KEEP)) if keep is None else keep
        days = float(master_option(config, "kolla_runs_keep_days", runs.KEEP_DAYS)) if days is None else days
    except ValueError as error:
        raise CliError(
            f"removing old records: kolla_runs_keep or kolla_runs_keep_days in {config} is not a number ({error})"
        ) from error
    gone = runs.prune(_root(args), keep, days)
    if args.json:
        print(json.dumps({"ok": True, "removed": gone}, indent=1))
    else:
        print("\n".join([*(f"removed {name}" for name in gone), f"{view.plural(len(gone), 'record')} removed"]))
    return 0
