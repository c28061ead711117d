"""The verb verify: does the cloud still match the site, and is it well?"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from kolla_salt.cli import view
from kolla_salt.cli.look import Cloud, looks
from kolla_salt.cli.master import Master
from kolla_salt.cli.plan import survey
from kolla_salt.prediction import summary


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("verify")
    parser.add_argument("--deep", action="store_true", help="also boot a server and reach it, as the verb smoke does")
    parser.set_defaults(handler=verify)


def verify(args: argparse.Namespace) -> int:
    """Find drift, sick containers, dead endpoints and agents; change nothing."""
    began = time.monotonic()
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    first = cloud.resolver.primary("control") or cloud.hosts[0]
    reports, unknown = survey(master, cloud, cloud.hosts)
    drift = {
        host: summary(report) for host, report in reports.items() if isinstance(report, dict) and not report["errors"]
    }
    problems: list[str] = []
    for host, report in reports.items():
        if not isinstance(report, dict) or report["errors"]:
            problems.append(
                f"{host}: the dry run failed: {report['errors'][0] if isinstance(report, dict) else report}"
            )
        else:
            problems += [f"{host}: {state['id']}: {state['comment'].strip()}" for state in report["failed"]]
    drifted = {
        host: {kind: items for kind, items in found.items() if items}
        for host, found in drift.items()
        if any(found.values())
    }
    health, silent = looks(master, [host for host in cloud.hosts if host not in unknown])
    unknown += silent
    for host, report in health.items():
        problems += [f"{host}: {problem}" for problem in report["problems"]]
    endpoints: list[dict[str, Any]] = []
    agents: list[dict[str, Any]] = []
    if first in health:
        endpoints = _list_of(
            master.ask([first], "kolla_check.endpoints").get(first), problems, f"{first}: asking endpoints"
        )
        if any(decl["keystone"] and cloud.resolver.enabled(name) for name, decl in cloud.declarations.items()):
            agents = _list_of(master.ask([first], "kolla_check.agents").get(first), problems, f"{first}: asking agents")
    problems += [
        f"{item['url']} ({item['entry']}) does not answer as it should: {item['said']}"
        for item in endpoints
        if not item["ok"]
    ]
    problems += [f"{item['agent']} on {item['host']} is {item['said']}" for item in agents if not item["ok"]]
    seconds = round(time.monotonic() - began, 3)
    deep = None
    if args.deep and not problems:
        from kolla_salt.cli import after

        deep = after.run_smoke(args, cloud, quiet=args.json)
        problems += [] if deep["ok"] else [f"smoke: {deep['error']}"]
    ok = not (problems or drifted or unknown)
    if args.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "drift": drifted,
                    "problems": problems,
                    "unknown": unknown,
                    "endpoints": endpoints,
                    "agents": agents,
                    "smoke": deep,
                    "seconds": seconds,
                },
                indent=1,
                default=str,
            )
        )
        return 0 if ok else 1
    for host, found in drifted.items():
        print(f"{host} differs from the site:")
        for kind, items in found.items():
            for item in items:
                action = f"{item['action']} " if "action" in item else ""
                print(f"  {kind}: {action}{item['name']}: {', '.join(item['changes'])}")
    for problem in problems:
        print(problem)
    for host in unknown:
        print(f"{host} does not answer: its state is unknown")
    containers = sum(len(report["containers"]) for report in health.values())
    print(
        f"{view.plural(len(health), 'host')}, {view.plural(containers, 'container')}, "
        f"{view.plural(len(endpoints), 'endpoint')}, "
        f"{view.plural(len(agents), 'agent')}: {'all well, no drift' if ok else 'see above'}  ({seconds:.1f} s)"
    )
    if drifted:
        print("kolla-salt deploy brings hosts back to what the site describes")
    return 0 if ok else 1


def _list_of(answer: Any, problems: list[str], what: str) -> list[dict[str, Any]]:
    if isinstance(answer, list):
        return answer
    problems.append(f"{what}: {str(answer).strip().splitlines()[-1] if answer else 'no answer'}")
    return []
