"""The verb plan: what a run would do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from kolla_salt import outcome
from kolla_salt.cli import view
from kolla_salt.cli.cloud import selection
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.prediction import summary


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    parser = subparsers.add_parser("plan")
    selection(parser)
    parser.add_argument("--diff", action="store_true", help="show the differences of the files, secrets masked")
    parser.set_defaults(handler=plan)


def survey(
    master: Master, cloud: Cloud, hosts: list[str], services: list[str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Do the dry run on all hosts in one job; return host -> report, and the hosts that did not answer."""
    from kolla_salt import plan as plans
    from kolla_salt.steps import placement, service_of, sls_by_host, told

    steps = plans.steps(cloud.resolver, services or None)
    placed = placement(cloud.resolver, {service_of(sls) for step in steps for sls in step["sls"]})
    limit = set(hosts)
    wanted = {host: names for host, names in sls_by_host(steps, placed).items() if host in limit}
    present, unknown = master.present(list(wanted))
    reports = master.ask(present, "kolla_node.survey", sls=told(wanted))
    secrets = outcome.secrets_of(cloud.site.passwords)
    return outcome.scrub(reports, secrets), unknown + [host for host in present if host not in reports]


def plan(args: argparse.Namespace) -> int:
    """Show what deploy would do."""
    began = time.monotonic()
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    from kolla_salt import plan as plans

    hosts = cloud.limited(args.limit)
    steps = plans.steps(cloud.resolver, args.services or None)
    reports, unknown = survey(master, cloud, hosts, args.services)
    broken = {host: report for host, report in reports.items() if not isinstance(report, dict) or report["errors"]}
    sums = {host: summary(report) for host, report in reports.items() if host not in broken}
    failed = {host: report["failed"] for host, report in reports.items() if host not in broken and report["failed"]}
    missing = {host: report["missing_images"] for host, report in reports.items() if host not in broken}
    count = sum(len(items) for found in sums.values() for items in found.values())
    ok = not (broken or unknown)
    if args.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "changes": count,
                    "waves": steps,
                    "hosts": sums,
                    "unknown": unknown,
                    "missing_images": missing,
                    "errors": {h: r["errors"] if isinstance(r, dict) else [str(r)] for h, r in broken.items()},
                    "unpredictable": failed,
                    "seconds": round(time.monotonic() - began, 3),
                },
                indent=1,
                default=str,
            )
        )
        return 0 if ok else 1
    print(view.table(["wave", "services", "hosts"], _waves(steps)))
    for names, lines in view.alike({host: _host_lines(sums[host], missing[host], args.diff) for host in sums}):
        print(f"\n{view.some(names)}: " + "\n".join(lines))
    for names, lines in view.alike({host: _unpredictable(states) for host, states in failed.items()}):
        print(f"\n{view.some(names)}: " + "\n".join(lines))
    for host, report in broken.items():
        errors = report["errors"] if isinstance(report, dict) else [str(report)]
        print(f"\n{host}: the dry run failed:\n  " + "\n  ".join(errors))
    if unknown:
        verb, them = ("does", "it") if len(unknown) == 1 else ("do", "them")
        print(f"\n{view.some(unknown, most=20)} {verb} not answer: nothing is known of {them}")
    said = f"{view.plural(count, 'change')} on {view.plural(len(sums), 'host')}" if count else "nothing to change"
    print(
        f"\n{said}  ({time.monotonic() - began:.1f} s); nothing was touched. To do it: kolla-salt deploy"
        + "".join(f" {name}" for name in args.services)
    )
    return 0 if ok else 1


def _waves(steps: list[dict[str, Any]]) -> list[list[Any]]:
    rows: dict[int, list[Any]] = {}
    for step in steps:
        row = rows.setdefault(step["wave"], [step["wave"], ", ".join(step["services"]), ""])
        row[2] += (" -> " if row[2] else "") + view.some(step["minions"], separator=" ")
    return list(rows.values())


def _unpredictable(states: list[dict[str, Any]]) -> list[str]:
    lines = [f"{view.plural(len(states), 'state')} can only be known once the run is there:"]
    return lines + [
        f"  {state['id']}: {state['comment'].splitlines()[0] if state['comment'] else ''}" for state in states[:10]
    ]


def _host_lines(found: Mapping[str, Any], missing: list[str], diffs: bool) -> list[str]:
    """Return what is shown of one host after its name."""
    if not any(found.values()) and not missing:
        return ["nothing to change"]
    parts = [
        view.plural(len(items), kind.rstrip("s") if kind != "databases" else "database")
        for kind, items in found.items()
        if items and kind not in {"catalogue", "other"}
    ]
    lines = [", ".join(parts) or "other changes"]
    if missing:
        lines.append(f"  images to fetch: {len(missing)}")
    actions: dict[tuple[str, str], list[str]] = {}
    for item in found["containers"]:
        actions.setdefault((item["action"], item["why"]), []).append(item["name"])
    for (action, why), names in sorted(actions.items()):
        lines.append(f"  {action}: {', '.join(names)}" + (f"  ({why})" if why else ""))
    if found["files"]:
        new = [item for item in found["files"] if _is_new(item["changes"])]
        changed = [item for item in found["files"] if not _is_new(item["changes"])]
        if new:
            lines.append(f"  write {view.plural(len(new), 'new file')}" + ("" if diffs else " (--diff names them)"))
        lines += [f"    {item['name']}" for item in new if diffs]
        for item in changed:
            lines.append(f"  change {item['name']}: {', '.join(item['changes'])}")
            if diffs:
                lines += view.changes(item["changes"], "    ")
    for kind in ("databases", "catalogue", "other"):
        lines += [
            f"  {kind if kind != 'other' else 'also'}: {item['name']}"
            + (f" ({', '.join(item['changes'])})" if item["changes"] else "")
            for item in found[kind]
        ]
    return lines


def _is_new(changes: Mapping[str, Any]) -> bool:
    """Return whether a file does not exist yet: then nothing of it has an old value."""
    olds = [change.get("old") for change in changes.values() if isinstance(change, Mapping)]
    return bool(olds) and all(old in (None, "", "absent") for old in olds)
