"""The verb verify: does the cloud still match the site, and is it well?"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kolla_salt import __version__, drift, freshness, outcome
from kolla_salt.cli import view
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.prediction import summary
from kolla_salt.steps import patience

#: Kinds of findings that the dry run reports under its own name in `drift`.
_PREDICTED = {"files", "containers", "databases", "catalogue", "host"}
#: Where a command will name a host.
_LIMIT = " --limit HOST"


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("verify")
    parser.add_argument("--deep", action="store_true", help="also boot a server and reach it, as the verb smoke does")
    parser.set_defaults(handler=verify)


def gather(master: Master, cloud: Cloud) -> tuple[dict[str, Any], str, list[str]]:
    """Ask all hosts in one job; return host -> what it said, who asked the cloud's APIs, and who did not answer."""
    from kolla_salt import plan as plans
    from kolla_salt.steps import placement, service_of, sls_by_host, told

    steps = plans.steps(cloud.resolver, None)
    placed = placement(cloud.resolver, {service_of(sls) for step in steps for sls in step["sls"]})
    wanted = sls_by_host(steps, placed)
    hosts, silent = list(wanted), []
    if freshness.stale(master.site, master.runs_root()):
        # The minions read the site first, and one that is away must not hold that up.
        hosts, silent = master.present(hosts)
    control = [host for host in cloud.resolver.hosts("control") if host in hosts]
    asker = (control or hosts or [""])[0]
    arguments = {"sls": told({host: wanted[host] for host in hosts}), "cloud": asker}
    answers = master.ask(hosts, "kolla_node.verify", timeout=patience(len(hosts)), **arguments)
    answers = outcome.scrub(answers, outcome.secrets_of(cloud.site.passwords))
    silent += [host for host in hosts if host not in answers]
    if asker in silent:
        asker = next((host for host in control if host in answers), "")
        said = master.ask([asker], "kolla_check.cloud") if asker else {}
        if asker in said and isinstance(answers[asker], dict):
            answers[asker]["cloud"] = said[asker]
    return answers, asker, silent


def verify(args: argparse.Namespace) -> int:
    """Find drift, sick containers, clusters, endpoints and agents; change nothing."""
    began = time.monotonic()
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    answers, asker, silent = gather(master, cloud)
    reports, problems = _readable(answers)
    asked = reports.get(asker, {}).get("cloud")
    items = drift.judge(reports, asked if isinstance(asked, dict) else None, asker, silent, cloud.declarations)
    if isinstance(asked, dict):
        problems += asked["problems"]
    else:
        said = outcome.last_words(str(asked)) if asked else "no controller answers"
        problems.append(f"the cloud's APIs could not be asked: {said}")
        asked = {"endpoints": [], "agents": []}
    problems += _problems(reports, items)
    sums = {host: summary(report["survey"]) for host, report in reports.items()}
    drifted = {
        host: {kind: entries for kind, entries in found.items() if entries}
        for host, found in sums.items()
        if any(found.values())
    }
    seconds = round(time.monotonic() - began, 3)
    deep = None
    if args.deep and not problems:
        from kolla_salt.cli import after

        deep = after.run_smoke(args, cloud, quiet=args.json)
        problems += [] if deep["ok"] else [f"smoke: {deep['error']}"]
    ok = not (problems or drifted or silent or drift.alarming(items))
    if args.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "drift": drifted,
                    "findings": items,
                    "problems": problems,
                    "unknown": silent,
                    "endpoints": asked["endpoints"],
                    "agents": asked["agents"],
                    "smoke": deep,
                    "seconds": seconds,
                },
                indent=1,
                default=str,
            )
        )
        return 0 if ok else 1
    for line in _lines(items):
        print(line)
    shown = {drift.sentence(item) for item in items}
    for problem in problems:
        if problem not in shown:
            print(problem)
    for host in silent:
        print(f"{host} does not answer: its state is unknown")
    containers = sum(len(report["look"]["containers"]) for report in reports.values())
    counted = (
        (len(reports), "host"), (containers, "container"), (len(asked["endpoints"]), "endpoint"),
        (len(asked["agents"]), "agent"),
    )  # fmt: skip
    said = "all well, no drift" if ok else "see above"
    print(", ".join(view.plural(count, word) for count, word in counted) + f": {said}  ({seconds:.1f} s)")
    return 0 if ok else 1


def _readable(answers: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the answers that can be judged, and what is wrong with the others."""
    reports, problems = {}, []
    for host, said in answers.items():
        if not isinstance(said, dict) or "survey" not in said:
            problems.append(f"{host}: {outcome.last_words(str(said))}")
        elif said["survey"]["version"] != __version__:
            problems.append(
                f"{host} has kolla-salt {said['survey']['version']}, the master has {__version__}; "
                "install the same version on both"
            )
        else:
            survey = {**said["survey"], "states": drift.differing(said["survey"]["states"])}
            reports[host] = {**said, "survey": survey}
    return reports, problems


def _problems(reports: Mapping[str, Any], items: Sequence[drift.Finding]) -> list[str]:
    """Return what is not well, as sentences; what only differs from the site is drift."""
    problems = []
    for host, report in reports.items():
        survey = report["survey"]
        problems += [f"{host}: the dry run failed: {text}" for text in survey["errors"][:1]]
        problems += [f"{host}: {state['id']}: {state['comment'].strip()}" for state in survey["failed"]]
        problems += [f"{host}: {problem}" for problem in report["look"]["problems"]]
    return problems + [drift.sentence(item) for item in drift.alarming(items) if item["kind"] not in _PREDICTED]


def _lines(items: Sequence[drift.Finding]) -> list[str]:
    """Return findings for people: hosts that have the same together."""
    by_text: dict[tuple[str, ...], list[str]] = {}
    for item in items:
        host = item["host"]
        # What is to be done names the host; several with the same are mended together.
        mend = item["mend"].replace(f" --limit {host}", _LIMIT) if host else item["mend"]
        key = (item["kind"], item["name"], item["found"], item["expected"], item["winner"], mend)
        by_text.setdefault(key, []).append(host)
    lines = []
    for (kind, name, found, expected, winner, mend), hosts in by_text.items():
        where = view.some([host for host in hosts if host])
        mend = mend.replace(_LIMIT, f" --limit {hosts[0]}" if len(hosts) == 1 else "")
        lines.append(f"{where + ': ' if where else ''}{kind}: {name}: found {found}; expected {expected}")
        lines.append(f"    {drift.WINNERS[winner]}: {mend}")
    return lines
