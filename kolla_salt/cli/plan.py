"""The verbs plan and apply: what a run would do, and a run that does exactly that."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kolla_salt import __version__, expectation, outcome, prediction
from kolla_salt.cli import view
from kolla_salt.cli.cloud import run_orchestration
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.master import Master
from kolla_salt.cli.options import add_selection
from kolla_salt.prediction import summary

#: What a plan can be made for.
VERBS = ("deploy", "reconfigure", "upgrade")


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    parser = subparsers.add_parser("plan", usage="kolla-salt plan [deploy|reconfigure|upgrade] [SERVICE ...] [options]")
    add_selection(parser)
    parser.add_argument("--diff", action="store_true", help="show the differences of the files, secrets masked")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the plan there, for kolla-salt apply FILE")
    parser.set_defaults(handler=plan)

    parser = subparsers.add_parser("apply")
    parser.add_argument("file", type=Path, metavar="FILE", help="as kolla-salt plan --out FILE wrote it")
    parser.set_defaults(handler=apply)


def survey(
    master: Master, cloud: Cloud, hosts: list[str], services: list[str] | None = None, verb: str = "deploy"
) -> tuple[dict[str, Any], list[str]]:
    """Do the dry run on all hosts in one job; return host -> report, and the hosts that did not answer."""
    from kolla_salt import plan as plans

    found = prediction.forecast(cloud.resolver, plans.steps(cloud.resolver, services or None, verb))
    return _ask(master, cloud, found, hosts, verb)


def _ask(
    master: Master, cloud: Cloud, found: prediction.Forecast, hosts: Sequence[str], verb: str
) -> tuple[dict[str, Any], list[str]]:
    from kolla_salt import plan as plans
    from kolla_salt.steps import told

    wanted = {host: names for host, names in found.wanted.items() if host in set(hosts)}
    present, unknown = master.present(list(wanted))
    reports = master.ask(
        present, "kolla_node.survey", sls=told(wanted), **({"verb": verb} if verb == plans.UPGRADE else {})
    )
    secrets = outcome.secrets_of(cloud.site.passwords)
    return outcome.scrub(reports, secrets), unknown + [host for host in present if host not in reports]


def _steps(master: Master, cloud: Cloud, verb: str, services: list[str]) -> list[dict[str, Any]]:
    """Return the steps of a verb, as the run itself will ask for them."""
    from kolla_salt import plan as plans

    for name in services:
        if name not in cloud.declarations:
            from kolla_salt.declarations import nearest

            raise CliError(f"unknown service '{name}'{nearest(name, cloud.declarations)}")
    return plans.steps(cloud.resolver, services or None, verb)


def plan(args: argparse.Namespace) -> int:
    """Show what a run would do."""
    began = time.monotonic()
    verb, services = getattr(args, "plan_verb", "deploy"), list(args.services)
    if services and services[0] in VERBS:
        verb = services.pop(0)
    if verb == "upgrade" and args.limit:
        raise CliError(
            f"planning upgrade: found --limit {','.join(args.limit)}, expected none, since an upgrade is of all hosts "
            "of a service; name services instead: kolla-salt plan upgrade SERVICE ...",
            status=2,
        )
    out: Path | None = getattr(args, "out", None)
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    hosts = cloud.limited(args.limit)
    only = dict.fromkeys(hosts) if args.limit else None
    found = prediction.forecast(cloud.resolver, _steps(master, cloud, verb, services), only)
    if not found.steps:
        raise CliError(f"planning {verb}: no enabled service is placed on {view.some(hosts)}")
    reports, unknown = _ask(master, cloud, found, hosts, verb)
    broken = {host: report for host, report in reports.items() if prediction.problems({host: report}, __version__)}
    found.progress.unknown = set(unknown) | set(broken)
    found.learn({host: report for host, report in reports.items() if host not in broken})
    answering = prediction.entries(cloud.resolver)
    order = prediction.order(found, answering)
    told = {
        "changes": 0,
        "verb": verb,
        "services": services,
        "limit": args.limit or [],
        "waves": found.steps,
        "order": order,
        "effects": prediction.effects(cloud.resolver, found, order, answering, prediction.balanced_by(cloud.resolver)),
        "hosts": {host: summary(report) for host, report in found.reports.items()},
        "noted": found.noted,
        "unknown": unknown,
        "missing_images": {host: report["missing_images"] for host, report in found.reports.items()},
        "errors": {host: prediction.problems({host: report}, __version__) for host, report in broken.items()},
        "unpredictable": {host: report["failed"] for host, report in found.reports.items() if report["failed"]},
    }
    told["changes"] = sum(len(items) for said in told["hosts"].values() for items in said.values())
    key = expectation.key_of(Path(master.opts["pki_dir"]) / "master.pem")
    parts = expectation.parts(
        verb, services, args.limit, found, expectation.site_files(cloud.directory, key), __version__
    )
    told["hash"] = expectation.content_hash(parts)
    ok = not (broken or unknown)
    if out and broken:
        raise CliError(
            f"writing the plan to {out}: a host could not say what would change, so it cannot be planned:\n  "
            + "\n  ".join(text for texts in told["errors"].values() for text in texts)
        )
    if out:
        _write(out, cloud, told, parts)
    told["seconds"] = round(time.monotonic() - began, 3)
    if args.json:
        print(json.dumps({"ok": ok, **told, "file": str(out) if out else None}, indent=1, default=str))
    else:
        _show(told, args.diff, out)
    return 0 if ok else 1


def _write(path: Path, cloud: Cloud, told: Mapping[str, Any], parts: expectation.Parts) -> None:
    from kolla_salt import runs

    document = {
        "format": expectation.FORMAT,
        "hash": told["hash"],
        "made": time.time(),
        "site": str(cloud.directory),
        "site_digest": runs.digest(cloud.directory),
        "parts": parts,
        "shown": told,
    }
    try:
        expectation.write(path, document)
    except expectation.PlanFileError as error:
        raise CliError(str(error)) from error


def _show(told: Mapping[str, Any], diffs: bool, out: Path | None) -> None:
    """Print a plan: hosts, order, what users may notice."""
    on = f" on {view.some(told['limit'])}" if told["limit"] else ""
    parts = [f"{told['verb']} of {view.some(told['services']) or 'all services'}{on}"]
    sums, missing = told["hosts"], told["missing_images"]
    for names, lines in view.alike(
        {host: _host_lines(sums[host], missing[host], told["noted"][host], diffs) for host in sums}
    ):
        parts.append(f"{view.some(names)}: " + "\n".join(lines))
    for names, lines in view.alike({host: _unpredictable(states) for host, states in told["unpredictable"].items()}):
        parts.append(f"{view.some(names)}: " + "\n".join(lines))
    for host, errors in told["errors"].items():
        parts.append(f"{host}: the dry run failed:\n  " + "\n  ".join(errors))
    if told["order"]:
        parts.append("order:\n" + "\n".join(_order(told["order"])))
    if told["effects"]:
        parts.append("users meanwhile:\n" + "\n".join(_effects(told["effects"])))
    unknown = told["unknown"]
    if unknown:
        verb, them = ("does", "it") if len(unknown) == 1 else ("do", "them")
        parts.append(f"{view.some(unknown, most=20)} {verb} not answer: nothing is known of {them}")
    count = told["changes"]
    said = f"{view.plural(count, 'change')} on {view.plural(len(sums), 'host')}" if count else "nothing to change"
    noted = sum(map(len, told["noted"].values()))
    said += f", {view.plural(noted, 'start')} to be noted" if noted else ""
    option = ["--service"] if told["verb"] == "upgrade" else []
    how = [
        told["verb"],
        *(word for name in told["services"] for word in (*option, name)),
        *(["--limit", ",".join(told["limit"])] if told["limit"] else []),
    ]
    command = f"apply {out}" if out else " ".join(how)
    parts.append(f"{said}  ({told['seconds']:.1f} s); nothing was touched. To do it: kolla-salt {command}")
    print("\n\n".join(parts))


def _order(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each step and batch; hosts of a batch are at it at once."""
    lines = []
    for step in steps:
        services = ", ".join(step["services"]) or "nothing"
        role = {"primary": "", "rest": "", "finish": ", finish"}.get(step["role"], f", {step['role']}")
        title = f"  {step['wave']:>2}  {services}{role}: "
        if all(not batch["containers"] for batch in step["batches"]):
            lines.append(title + view.some([host for batch in step["batches"] for host in batch["hosts"]]))
            continue
        lines.append(title.rstrip())
        for batch in step["batches"]:
            for hosts, words in view.alike(
                {host: _doing(batch["containers"].get(host, {})) for host in batch["hosts"]}
            ):
                lines.append(f"        {view.some(hosts)}: {words or 'no container is touched'}")
            if batch["out"]:
                lines.append(f"          out of the load balancer meanwhile: {view.some(batch['out'])}")
        for service, hosts in step["left_out"].items():
            lines += [f"        {service} is left out on {host}: {why}" for host, why in hosts.items()]
    return lines


def _doing(containers: Mapping[str, str]) -> str:
    """Return what is done to the containers of one host, in words."""
    found: dict[str, list[str]] = {}
    for name, done in containers.items():
        found.setdefault(done, []).append(name)
    return "; ".join(f"{prediction.word(done)} {view.some(names)}" for done, names in found.items())


def _effects(effects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each service whose users may notice something, with those of one kind together."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    new: list[str] = []
    for effect in effects:
        if effect["effect"] == "new":
            new.append(effect["service"])
            continue
        hosts, words = effect["hosts"], " and ".join(prediction.word(done) for done in effect["done"])
        where = f"on {hosts[0]}" if len(hosts) == 1 else f"on {view.plural(len(hosts), 'host')}"
        where += ", one after the other" if len(hosts) > 1 and effect["one_by_one"] else ""
        how = "needed by" if effect["effect"] == "unavailable" else "these are"
        whom = f" ({how} {view.some(effect['concerns'])})" if effect["concerns"] else ""
        alike.setdefault((words, where, effect["said"] + whom), []).append(effect["container"])
    lines = [f"  {', '.join(names)}: {words} {where}: {said}" for (words, where, said), names in alike.items()]
    return lines + ([f"  {view.some(list(dict.fromkeys(new)), most=12)}: new, begins to answer"] if new else [])


def apply(args: argparse.Namespace) -> int:
    """Do what a plan says, or nothing if anything is another than when it was made."""
    try:
        found = expectation.read(args.file)
    except expectation.PlanFileError as error:
        raise CliError(str(error)) from error
    parts = found["parts"]
    args.orchestration, args.every_step = parts["verb"], False
    args.services, args.limit = parts["services"], parts["limit"]
    return run_orchestration(args, expect=str(args.file.resolve()))


def _unpredictable(states: list[dict[str, Any]]) -> list[str]:
    lines = [f"{view.plural(len(states), 'state')} can only be known once the run is there:"]
    return lines + [
        f"  {state['id']}: {state['comment'].splitlines()[0] if state['comment'] else ''}" for state in states[:10]
    ]


def _host_lines(found: Mapping[str, Any], missing: list[str], noted: list[str], diffs: bool) -> list[str]:
    """Return what is shown of one host after its name."""
    notes = [f"  note that it runs as declared since it was started by others: {view.some(noted)}"] if noted else []
    if not any(found.values()) and not missing:
        return ["nothing to change", *notes]
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
    return lines + notes


def _is_new(changes: Mapping[str, Any]) -> bool:
    """Return whether a file does not exist yet: then nothing of it has an old value."""
    olds = [change.get("old") for change in changes.values() if isinstance(change, Mapping)]
    return bool(olds) and all(old in (None, "", "absent") for old in olds)
