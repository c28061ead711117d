"""Verbs that only look: prechecks, status, validate-config."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from kolla_salt import __version__, drift, outcome, runs, upgrade
from kolla_salt.cli import place, view
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import Master
from kolla_salt.cli.options import add_limit


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    parser = subparsers.add_parser("prechecks")
    add_limit(parser)
    parser.set_defaults(handler=prechecks)

    parser = subparsers.add_parser("status")
    add_limit(parser)
    parser.set_defaults(handler=status)

    parser = subparsers.add_parser("validate-config")
    parser.add_argument("--offline", action="store_true", help="only the site's files; no host is asked")
    parser.set_defaults(handler=validate_config)


class Cloud:
    """The site as a resolver sees it: who is where. Needs no Salt."""

    def __init__(self, directory: Any) -> None:
        from kolla_salt import declarations
        from kolla_salt import site as sites
        from kolla_salt.context import Resolver

        self.directory = directory
        self.site = sites.load(directory)
        self.declarations = declarations.load()
        self.hosts: list[str] = list(self.site.topology.get("hosts") or {})
        if not self.hosts:
            raise CliError(
                f"reading the site {directory}: topology.yml names no host; expected at least one below 'hosts:'"
            )
        self.resolver = Resolver(self.declarations, self.site.as_pillar(), self.hosts[0])

    def check(self) -> None:
        """Refuse a site with problems. Raises CliError naming each."""
        from kolla_salt import site as sites

        problems = sites.validate(self.site, self.declarations)
        if problems:
            prefix = "kolla:passwords:"
            unset = [
                problem.path.removeprefix(prefix)
                for problem in problems
                if problem.path.startswith(prefix) and problem.value is None
            ]
            lines = [problem.text for problem in problems if problem.path.removeprefix(prefix) not in unset]
            if unset:
                lines.append(
                    f"{view.plural(len(unset), 'password')} not set: {', '.join(unset)}; kolla-salt genpwd makes them"
                )
            raise CliError(
                f"the site {self.directory} has {view.plural(len(problems), 'problem')}:"
                + "".join(f"\n  {line}" for line in lines),
                problems=[{**vars(problem), "text": problem.text} for problem in problems],
            )

    def limited(self, limit: list[str] | None) -> list[str]:
        """Return the hosts that an option ``--limit`` leaves. Raises CliError for an unknown one."""
        if not limit:
            return self.hosts
        from kolla_salt.declarations import nearest

        for name in limit:
            if name not in self.hosts:
                raise CliError(
                    f"--limit {name}: no such host in {self.directory}/topology.yml{nearest(name, self.hosts)}"
                )
        return [name for name in self.hosts if name in limit]


def prechecks(args: argparse.Namespace) -> int:
    """Ask every host whether it can be deployed to."""
    from kolla_salt import prechecks as rules

    began = time.monotonic()
    master = Master(args)
    cloud = Cloud(master.site)
    cloud.check()
    hosts = cloud.limited(args.limit)
    present, unknown = master.present(hosts)
    received: dict[str, float] = {}
    sent = time.time()
    reports = master.ask(present, "kolla_check.host", progress=lambda host, _: received.setdefault(host, time.time()))
    findings = []
    good = {}
    for host, report in reports.items():
        if isinstance(report, dict) and "findings" in report:
            good[host] = report
            findings += [rules.Finding(**finding) for finding in report["findings"]]
        else:
            findings.append(
                rules.Finding(
                    host,
                    "survey",
                    "error",
                    str(report).strip().splitlines()[-1],
                    "an answer",
                    f"salt {host} saltutil.refresh_pillar; salt {host} kolla_check.host",
                )
            )
    unknown += [host for host in present if host not in reports]
    networks = cloud.site.topology.get("networks") or {}
    network = networks.get("api", {}).get("cidr") if isinstance(networks.get("api"), dict) else networks.get("api")
    vips = {"internal_vip_address": {"address": cloud.resolver.value("internal_vip_address"), "network": network}}
    external = cloud.resolver.value("external_vip_address")
    if external and external != vips["internal_vip_address"]["address"]:
        vips["external_vip_address"] = {"address": external, "network": None}
    vips = {option: vip for option, vip in vips.items() if vip["address"]}
    findings += rules.across(good, __version__, sent, received, vips)
    errors = [finding for finding in findings if finding.level == "error"]
    ok = not errors and not unknown
    if args.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "hosts": hosts,
                    "unknown": unknown,
                    "findings": [f.as_dict() for f in findings],
                    "seconds": round(time.monotonic() - began, 3),
                },
                indent=1,
            )
        )
        return 0 if ok else 1
    for finding in sorted(findings, key=lambda f: (f.level, f.host)):
        print(
            f"{finding.level.upper():<8} {finding.host}: {finding.check}\n"
            f"         found     {finding.found}\n         expected  {finding.expected}\n"
            f"         mend      {finding.mend}"
        )
    for host in unknown:
        print(f"UNKNOWN  {host} does not answer in time: systemctl status salt-minion there; salt-key -L here")
    warnings = len(findings) - len(errors)
    said = (
        "all well"
        if ok and not warnings
        else f"{view.plural(len(errors), 'error')}, {view.plural(warnings, 'warning')}"
    )
    print(f"prechecks of {view.plural(len(good), 'host')}: {said}  ({time.monotonic() - began:.1f} s)")
    return 0 if ok else 1


def looks(master: Master, hosts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return host -> its containers and problems, and the hosts that did not answer. An error becomes a problem."""
    present, unknown = master.present(hosts)
    reports = master.ask(present, "kolla_node.look")
    for host, report in reports.items():
        if not isinstance(report, dict) or "containers" not in report:
            reports[host] = {"containers": {}, "problems": [outcome.last_words(str(report))], "undeclared": []}
    return reports, unknown + [host for host in present if host not in reports]


def status(args: argparse.Namespace) -> int:
    """Print a table of containers and hosts."""
    master = Master(args)
    cloud = Cloud(master.site)
    reports, unknown = looks(master, cloud.limited(args.limit))
    ok = not unknown and not any(report["problems"] for report in reports.values())
    headers = runs.headers(master.runs_root())
    waiting, heals = upgrade.waiting(headers), drift.healed(headers, time.time())
    if args.json:
        told = {"ok": ok, "hosts": reports, "unknown": unknown, "unfinished": waiting, "healed": heals}
        print(json.dumps(told, indent=1))
        return 0 if ok else 1
    names: dict[str, str] = {}
    for report in reports.values():
        for name, data in report["containers"].items():
            names.setdefault(name, data["service"] or "(not declared)")
    ordered = sorted(names.items(), key=lambda item: (item[1], item[0]))
    columns = {host: [_cell(report["containers"].get(name)) for name, _ in ordered] for host, report in reports.items()}
    # A column for each host, as long as a line can hold them.
    shown = view.alike(columns) if len(columns) > 8 else [([host], cells) for host, cells in columns.items()]
    rows = [[service, name, *(cells[row] for _, cells in shown)] for row, (name, service) in enumerate(ordered)]
    print(view.table(["service", "container", *(view.some(hosts, most=2) for hosts, _ in shown)], rows))
    print()
    for host, report in reports.items():
        for problem in report["problems"]:
            print(f"{host}: {problem}")
        for name in report["undeclared"]:
            print(f"{host}: {name} is declared by no service of this host; docker rm -f {name} removes it")
    for heal in heals:
        print(f"{heal['host']}: {heal['name']} {heal['said']} ({heal['run']})")
    for host in unknown:
        print(f"{host} does not answer: its state is unknown")
    for run_id in waiting:
        print(f"what {run_id} replaced is kept: 'kolla-salt upgrade --finish {run_id}' drops it")
    total = sum(len(report["containers"]) for report in reports.values())
    print(
        f"{view.plural(total, 'container')} on {view.plural(len(reports), 'host')}: {'all well' if ok else 'see above'}"
    )
    return 0 if ok else 1


def _cell(data: Mapping[str, Any] | None) -> str | None:
    if data is None:
        return None
    if data["state"] == "running":
        return {None: "running", "healthy": "healthy", "starting": "starting"}.get(
            data["health"], str(data["health"]).upper()
        )
    return str(data["state"]).upper()


def validate_config(args: argparse.Namespace) -> int:
    """Check the site; then that every container runs with the files that lie on its host."""
    cloud = Cloud(place.site(args))
    cloud.check()
    if args.offline:
        if args.json:
            print(json.dumps({"ok": True, "site": str(cloud.directory), "problems": []}))
        else:
            print(
                f"the site {cloud.directory} is valid: {view.plural(len(cloud.hosts), 'host')}, "
                f"{view.plural(len(cloud.resolver.enabled_services()), 'service')}"
            )
        return 0
    master = Master(args)
    present, unknown = master.present(cloud.hosts)
    answers = master.ask(present, "kolla_node.validate")
    unknown += [host for host in present if host not in answers]
    problems = [
        f"{host}: {text}"
        for host, said in answers.items()
        for text in (said["problems"] if isinstance(said, dict) else [str(said)])
    ]
    checked = sum(said["checked"] for said in answers.values() if isinstance(said, dict))
    ok = not problems and not unknown
    if args.json:
        print(
            json.dumps(
                {"ok": ok, "site": str(cloud.directory), "problems": problems, "unknown": unknown, "checked": checked},
                indent=1,
            )
        )
        return 0 if ok else 1
    print(
        "\n".join([*problems, *(f"{host} does not answer: its state is unknown" for host in unknown)])
        or f"the site is valid, {view.plural(checked, 'container')} run with its configuration"
    )
    return 0 if ok else 1
