"""The verb rollback: return the cloud to what it was before a run."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kolla_salt import outcome, progress, runs
from kolla_salt import rollback as rules
from kolla_salt.cli import view
from kolla_salt.cli.cloud import report
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.cli.options import add_service
from kolla_salt.prediction import summary
from kolla_salt.steps import sls_by_host, told


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("rollback")
    parser.add_argument(
        "run", nargs="?", default="", metavar="RUN", help="default: the last run that changed something"
    )
    add_service(parser)
    parser.add_argument("--plan", action="store_true", help="show what would be returned and what can not, do nothing")
    parser.add_argument(
        "--restore-database",
        action="store_true",
        help="where a schema was contracted, bring back the snapshot of before; what was written since is lost",
    )
    parser.add_argument(
        "--through", action="store_true", help="first roll back later runs that changed the same, the newest first"
    )
    parser.set_defaults(handler=rollback)


def rollback(args: argparse.Namespace) -> int:
    """Return configuration, images and containers to what they were before a run."""
    services: list[str] = args.services
    master = Master(args)
    cloud = Cloud(master.site)
    found = _chain(args, master, cloud, services) if args.through else [_look(args, master, cloud, args.run, services)]
    if args.plan:
        return _show(args, cloud, found)
    for number, (back, reports, unknown) in enumerate(found):
        again = rules.interrupted(runs.headers(master.runs_root()), back["run"], "")
        later_ones = {said["run"] for said, *_ in found[:number]}
        if problems := rules.problems(back, _without(reports, later_ones), unknown, again):
            raise CliError(f"rolling back {back['run']}: nothing was changed:\n  " + "\n  ".join(problems))
    status = 0
    for back, reports, _ in found:
        if not args.json:
            print("\n".join(_lines(back, reports)) + "\n", flush=True)
        status = _do(args, master, back)
        if status:
            break
        if not args.json:
            print(back["afterwards"])
    return status


def _look(
    args: argparse.Namespace, master: Master, cloud: Cloud, run_id: str, services: list[str]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return what a rollback is to do, what the hosts say of it, and which of them do not answer."""
    back = master.runner("kolla.back", run=run_id, services=services, restore_database=args.restore_database)
    placed: dict[str, set[str]] = {}
    for service, hosts in back["hosts"].items():
        for host in hosts:
            placed.setdefault(host, set()).add(service)
    wanted = sls_by_host(back["steps"], placed)
    present, unknown = master.present(list(wanted))
    answers = master.ask(present, "kolla_kept.survey", sls=told(wanted), run=back["runs"])
    broken = {host: said for host, said in answers.items() if not isinstance(said, dict) or said["errors"]}
    if broken:
        lines = [
            f"{host}: {outcome.last_words(str(said if isinstance(said, str) else said['errors'][0]))}"
            for host, said in broken.items()
        ]
        raise CliError(f"rolling back {back['run']}: hosts cannot say what they keep:\n  " + "\n  ".join(lines))
    reports = outcome.scrub(answers, outcome.secrets_of(cloud.site.passwords))
    return back, reports, [*unknown, *(host for host in present if host not in answers)]


def _chain(
    args: argparse.Namespace, master: Master, cloud: Cloud, services: list[str]
) -> list[tuple[dict[str, Any], dict[str, Any], list[str]]]:
    """Return the same for the run and for all later ones that changed the same, the newest first."""
    found = {}
    todo = [args.run]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        looked = _look(args, master, cloud, name, services if name == args.run else [])
        found[looked[0]["run"]] = looked
        todo += [other for other in rules.later(looked[1]) if other not in found]
    return [found[run_id] for run_id in sorted(found, reverse=True)]


def _without(reports: dict[str, Any], later: set[str]) -> dict[str, Any]:
    """Return the reports as they will be when later runs have been rolled back."""
    return {
        host: {**said, "later": {run: names for run, names in said["later"].items() if run not in later}}
        for host, said in reports.items()
    }


def _do(args: argparse.Namespace, master: Master, back: dict[str, Any]) -> int:
    ask: dict[str, Any] = {"id": runs.new_id(rules.VERB), "of": back["run"]}
    if not back["whole"]:
        ask["services"] = list(back["hosts"])
    if args.restore_database:
        ask["restore_database"] = True
    state = progress.RunState()
    live = None if args.json else view.LiveView(state)
    pillar = {"kolla_run": ask}
    if live:
        live.line(master.command("state.orchestrate", "orch.rollback", pillar=pillar))
    returned = master.orchestrate(
        "orch.rollback", pillar, live.event if live else state.feed, live.tick if live else lambda: None
    )
    return report(args, master, ask["id"], state, returned)


def _show(args: argparse.Namespace, cloud: Cloud, found: list[tuple[dict[str, Any], dict[str, Any], list[str]]]) -> int:
    """Print what would be done."""
    problems = []
    for number, (back, reports, unknown) in enumerate(found):
        later_ones = {said["run"] for said, *_ in found[:number]}
        problems += rules.problems(back, _without(reports, later_ones), unknown, again=True)
        problems += [f"{host} does not answer: nothing is known of what it keeps" for host in unknown]
    if args.json:
        shown = [
            {
                **{key: back[key] for key in ("run", "verb", "hosts", "restore", "steps", "notes", "afterwards")},
                "hosts": {host: summary(said) for host, said in reports.items()},
                "unknown": unknown,
            }
            for back, reports, unknown in found
        ]
        print(json.dumps({"ok": not problems, "problems": problems, "runs": shown}, indent=1, default=str))
        return 1 if problems else 0
    for back, reports, _ in found:
        print("\n".join(_lines(back, reports)) + "\n" + back["afterwards"] + "\n")
    print("\n".join(problems) if problems else "nothing was touched; without --plan it is done")
    return 1 if problems else 0


def _lines(back: dict[str, Any], reports: dict[str, Any]) -> list[str]:
    """Return what a rollback does, in the order in which it does it, and what it leaves."""
    lines = [f"rollback of {back['run']}: {', '.join(name for step in back['steps'] for name in _new(step))}"]
    for names, said in view.alike({host: _host(report_of) for host, report_of in reports.items()}):
        if said:
            lines += [f"{view.some(names)}:", *said]
    lines += [f"restored: the databases of {service}" for service in back["restore"] if service not in back["restored"]]
    if back["notes"]:
        lines += ["what stays as the run has left it:", *(f"  {note}" for note in back["notes"])]
    return lines


def _new(step: dict[str, Any]) -> list[str]:
    return step["services"] if step["role"] == "back" else []


def _host(said: dict[str, Any]) -> list[str]:
    lines = []
    for state in said["states"]:
        change, function = state["changes"], state["function"]
        if function == "kolla_kept.used_up":
            continue
        if function == "kolla_kept.files_returned":
            lines.append(f"  {state['id']}: {', '.join(change)}")
            continue
        action = (change.get("state") or {}).get("new")
        image = change.get("image") or {}
        files = (change.get("config") or {}).get("new") or []
        text = {"recreated": "the container of before", "created": "there again"}.get(str(action), str(action))
        if image.get("new") and image["new"] != image.get("old"):
            text += f", {image['new']}"
        shown = files if isinstance(files, str) else ", ".join(files)  # a text: left out of a large dry run
        lines.append(f"  {state['id']}: {text}" + (f" ({shown})" if shown else ""))
    return lines
