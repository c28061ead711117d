"""The verb upgrade: change the release of the cloud, service by service."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from kolla_salt import outcome, runs
from kolla_salt import upgrade as rules
from kolla_salt.cli import view
from kolla_salt.cli.cloud import run_orchestration
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.cli.options import add_service


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("upgrade")
    add_service(parser)
    parser.add_argument("--plan", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument(
        "--finish",
        nargs="?",
        const="all",
        metavar="RUN",
        help="drop what is kept of the old release: containers, configuration, snapshots; then there is no way back",
    )
    parser.set_defaults(handler=upgrade)


def upgrade(args: argparse.Namespace) -> int:
    """Bring the cloud to the release that the site names."""
    services: list[str] = args.services
    if args.finish:
        if services or args.plan:
            raise CliError("--finish goes with nothing else: what is kept of a run goes as a whole", status=2)
        return finish(args)
    if args.plan:
        return plan(args, services)
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    if not args.json:
        print("\n".join(_way(master, cloud, services)), flush=True)
    args.orchestration, args.limit = "upgrade", None
    status = run_orchestration(args)
    if not args.json:
        print("\n".join(_further(runs.headers(master.runs_root()), services)))
    return status


def _overview(master: Master, cloud: Cloud, services: list[str]) -> dict[str, dict[str, Any]]:
    from kolla_salt.declarations import nearest

    for name in services:
        if name not in cloud.declarations:
            raise CliError(f"--service {name}: no such service{nearest(name, cloud.declarations)}")
    present, _ = master.present(cloud.hosts)
    reports = master.ask(present, "kolla_release.survey")
    found = rules.overview({host: said for host, said in reports.items() if isinstance(said, dict)})
    return {name: item for name, item in found.items() if not services or name in services}


def _way(master: Master, cloud: Cloud, services: list[str]) -> list[str]:
    """Return in lines which release each service runs and goes to."""
    wanted = str(cloud.resolver.value("openstack_release"))
    rows: dict[tuple[str, str], list[str]] = {}
    for name, item in _overview(master, cloud, services).items():
        old, new = ", ".join(item["from"]) or "does not run yet", item["to"] or wanted
        rows.setdefault((old, new), []).append(name)
    lines = []
    for (old, new), names in rows.items():
        lines.append(f"{old} -> {new}: {', '.join(names)}" if old != new else f"{old} already: {', '.join(names)}")
    return lines


def _further(headers: list[dict[str, Any]], services: list[str]) -> list[str]:
    """Return what can be done after the newest upgrade."""
    tried = [header for header in headers if header.get("verb") == rules.VERB]
    # One that was refused has changed nothing, and leaves what those before it have begun.
    last = next((header for header in reversed(tried) if rules.began(header)), None)
    ended = bool(tried) and tried[-1].get("result") == "ok"
    if last is None or (ended and last is not tried[-1]):
        return []
    back = last["id"]  # those that it went on with are taken back with it
    if ended:
        return [f"The release before is kept. Back: kolla-salt rollback {back}. For good: kolla-salt upgrade --finish"]
    asked = "".join(f" --service {name}" for name in services)
    return [
        f"The cloud goes on with what it has. Continue: kolla-salt upgrade{asked}",
        f"Or go back: kolla-salt rollback {back}",
    ]


def plan(args: argparse.Namespace, services: list[str]) -> int:
    """Show what the upgrade would do."""
    from kolla_salt.cli import plan as shown

    began = time.monotonic()
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    found = _overview(master, cloud, services)
    problems = rules.distance(found, str(cloud.resolver.value("openstack_release")))
    args.limit, args.diff = None, False
    if not args.json:
        print("\n".join([*_way(master, cloud, services), *(problem.text for problem in problems), ""]), flush=True)
    args.plan_verb = rules.VERB
    status = shown.plan(args)
    if not args.json:
        print(f"({time.monotonic() - began:.1f} s)")
    return 1 if problems else status


def finish(args: argparse.Namespace) -> int:
    """Drop what is kept of upgrades, and do what waits until there is no way back."""
    began = time.time()
    master = Master(args)
    cloud = Cloud(master.site)
    kept = rules.waiting(runs.headers(master.runs_root()))
    wanted = kept if args.finish == "all" else [runs.load(args.finish, master.runs_root()).id]
    if not wanted:
        return _said(args, [], "no upgrade waits to be finished", began, {})
    present, unknown = master.present(cloud.hosts)
    if unknown:
        raise CliError(
            f"finishing {', '.join(wanted)}: {view.some(unknown)} {'does' if len(unknown) == 1 else 'do'} not answer, "
            "so nothing was dropped; expected all hosts of the site. systemctl start salt-minion there"
        )
    if not args.json:
        for line in _goes(master, wanted):
            print(line, flush=True)
    done: dict[str, Any] = {}
    errors = _late(master, cloud)
    for run_id in wanted if not errors else []:
        for function in ("kolla_kept.finish", "kolla_db.forget_snapshots"):
            answers = master.ask(present, function, run_id)
            for host in present:
                said = answers.get(host)
                if isinstance(said, dict | list):
                    done.setdefault(run_id, {}).setdefault(host, {})[function] = said
                else:
                    errors.append(f"{function} on {host}: {outcome.last_words(str(said)) if said else 'no answer'}")
        if not errors:
            runs.load(run_id, master.runs_root()).update(finished_upgrade=time.time())
    return _said(args, errors, f"finished {', '.join(wanted)}: there is no way back from it any more", began, done)


def _goes(master: Master, wanted: list[str]) -> list[str]:
    lines = []
    for run_id in wanted:
        header = runs.load(run_id, master.runs_root()).header()
        lines.append(
            f"{run_id}: containers and configuration of release {header.get('from')} are dropped on all hosts, "
            f"and {view.plural(len(header.get('snapshots') or {}), 'snapshot')}"
        )
        for service, taken in (header.get("snapshots") or {}).items():
            lines.append(f"  {service}: {taken['bytes'] / 2**20:.1f} MiB on {taken['host']} in {taken['path']}")
    return lines


def _late(master: Master, cloud: Cloud) -> list[str]:
    """Apply what services declare for the end of an upgrade; return what went wrong."""
    errors = []
    for service in cloud.resolver.enabled_services():
        hosts = cloud.resolver.service_hosts(service)
        for sls in cloud.declarations[service]["upgrade"]["finish"] if hosts else []:
            said = master.ask(hosts[:1], "state.sls", sls).get(hosts[0])
            found = outcome.read(hosts[0], said) if said is not None else None
            if found is None or found.result is not True:
                why = found.failed[0].sentence() if found and found.failed else "no answer"
                errors.append(f"{sls} on {hosts[0]}: {why}; nothing was dropped")
    return errors


def _said(args: argparse.Namespace, errors: list[str], text: str, began: float, done: dict[str, Any]) -> int:
    seconds = round(time.time() - began, 3)
    if args.json:
        print(json.dumps({"ok": not errors, "errors": errors, "done": done, "seconds": seconds}, indent=1, default=str))
    else:
        print("\n".join(errors) if errors else f"{text} ({seconds:.1f} s)")
    return 1 if errors else 0
