"""The verb node: hosts join the cloud, are emptied, leave it, and are replaced."""

from __future__ import annotations

import argparse
import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from kolla_salt import __version__, neutron, nodes, nova, outcome, runs, topology_file
from kolla_salt.cli import view
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.look import Cloud
from kolla_salt.cli.node_job import Job, Task
from kolla_salt.cli.plan import survey
from kolla_salt.cloud_api import CloudError, same_host
from kolla_salt.prediction import balanced_by, summary

#: Seconds in which the parts of a cluster have to be whole again after a host came back.
WHOLE_TIMEOUT = 180


def add_parser(subparsers: Any) -> None:
    """Add the verb and what can be done with a host."""
    from kolla_salt.cli.main import common

    parser = subparsers.add_parser("node")
    commands = parser.add_subparsers(dest="node_command", required=True, metavar="COMMAND")

    def add_command(name: str, handler: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text[:1].upper() + text[1:] + ".", parents=[common()]
        )
        command.add_argument("host", metavar="HOST", help="its name in topology.yml, which is its minion's id")
        command.add_argument("--plan", action="store_true", help="say what would be done; change nothing")
        command.set_defaults(handler=handler)
        return command

    command = add_command("add", add, "write a host into topology.yml and deploy it, and what must know it")
    command.add_argument("--group", action="append", default=[], metavar="NAME", help="group it is in; may be repeated")
    command.add_argument(
        "--address", action="append", default=[], metavar="NETWORK=IP", help="api=..., tunnel=..., ..."
    )
    command.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of this host alone"
    )
    command.add_argument("--skip-prechecks", action="store_true", help="deploy it whatever they would find")
    command = add_command("drain", drain, "move servers, networks, routers and requests from a host to others")
    command.add_argument("--cold", action="store_true", help="stop running servers and move them stopped")
    command.add_argument("--refuse-servers", action="store_true", help="do nothing if there are servers on it")
    command.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="for moving servers (default: %(default)g)"
    )
    add_command("undrain", undrain, "let a drained host take servers, networks, routers and requests again")
    command = add_command("remove", remove, "take a drained or dead host out of the cloud and of topology.yml")
    _add_force(command)
    command = add_command("replace", replace, "deploy a new, empty machine in place of one of the same name")
    _add_force(command)


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--force",
        action="store_true",
        help="the host is gone for good: its servers are made anew on others, what was on its disks is lost",
    )
    command.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="for making them (default: %(default)g)"
    )


def _in_words(handler: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Let errors of the library end a verb as what they say."""

    @wraps(handler)
    def guarded(args: argparse.Namespace) -> int:
        try:
            return handler(args)
        except (CloudError, topology_file.TopologyError) as error:
            raise CliError(str(error)) from error

    return guarded


def _resolver(cloud: Cloud, topology: Mapping[str, Any], host: str | None = None) -> Any:
    """Return a resolver of the site with another topology."""
    from kolla_salt.context import Resolver

    site = {**cloud.site.as_pillar(), "topology": topology}
    return Resolver(cloud.declarations, site, host or next(iter(topology["hosts"])))


def _without(topology: Mapping[str, Any], host: str) -> dict[str, Any]:
    return {
        **topology,
        "hosts": {name: data for name, data in topology["hosts"].items() if name != host},
        "groups": {
            group: [name for name in members or [] if name != host]
            for group, members in (topology.get("groups") or {}).items()
        },
    }


def _problems(cloud: Cloud, topology: Mapping[str, Any]) -> list[str]:
    """Return what would be wrong with the site with another topology."""
    from kolla_salt import site as sites

    site = sites.Site(cloud.site.globals, dict(topology), cloud.site.passwords, cloud.site.overrides)
    return [problem.text for problem in sites.validate(site, cloud.declarations)]


def _told(only: Any, host: str) -> list[str]:
    """Return who is told of a host, in words."""
    if only is None:
        return ["all hosts: member lists change, one host after the other"]
    lines = [f"{host}: everything that belongs there"] if only.get(host, ()) is None else []
    names: dict[tuple[str, ...], list[str]] = {}
    for name, sls in only.items():
        if sls is not None:
            names.setdefault(tuple(sls), []).append(name)
    words = {nodes.NAMES: "preparation and /etc/hosts"}
    return lines + [f"{', '.join(who)}: {', '.join(words.get(n, n) for n in sls)}" for sls, who in names.items()]


def _silent(host: str) -> CliError:
    return CliError(
        f"{host} does not answer: expected its Salt minion, with the id '{host}', to answer this master; "
        "systemctl status salt-minion there, salt-key -L here (salt-key -a accepts its key)"
    )


def _doing(job: Job) -> str:
    return {"remove": "removing", "replace": "replacing"}[job.args.node_command] + f" {job.host}"


# --- add --------------------------------------------------------------------------------------------------------------


@_in_words
def add(args: argparse.Namespace) -> int:
    """Write a host into the topology and deploy it."""
    job = Job(args)
    host, cloud = job.host, job.cloud
    path = Path(cloud.directory) / "topology.yml"
    old, new, topology = _topology_with(job, path)
    problems = _problems(cloud, topology)
    if problems:
        raise CliError(
            f"adding {host}: the site would have {view.plural(len(problems), 'problem')}, nothing was changed:\n  "
            + "\n  ".join(problems)
        )
    if host not in job.present:
        raise _silent(host)
    larger = _resolver(cloud, topology)
    rest = _without(topology, host)
    only = job.scope(larger, _resolver(cloud, rest)) if rest["hosts"] else None
    lines = [
        line
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    containers = nodes.containers(_resolver(cloud, topology, host), host)
    tasks = []
    if new != old:
        shown = "".join(f"\n      {line}" for line in lines)
        tasks.append(Task(f"write {host} into {path}{shown}", lambda: _write(job, path, old, new)))
    if not args.skip_prechecks:
        tasks.append(Task(f"check that {host} can be deployed to", lambda: _checked(job, path, old, new)))
    told = "".join(f"\n      {line}" for line in _told(only, host))
    tasks.append(
        Task(
            f"deploy {host} ({view.plural(len(containers), 'container')}), and what must know it{told}",
            lambda: job.deploy(only),
            list(only) if only else cloud.hosts,
        )
    )
    return job.run(tasks, "", topology=lines, concerned=only, containers=containers)


def _topology_with(job: Job, path: Path) -> tuple[str, str, dict[str, Any]]:
    """Return the topology's text, the text with the host, and what that says."""
    import yaml

    args, host, cloud = job.args, job.host, job.cloud
    try:
        addresses = nodes.parse_pairs(args.address, "--address")
        options = {k: yaml.safe_load(v) for k, v in nodes.parse_pairs(args.option, "--option").items()}
    except (ValueError, yaml.YAMLError) as error:
        raise CliError(f"adding {host}: {error}", status=2) from error
    old = path.read_text()
    if host in cloud.hosts:
        differing = nodes.differs(cloud.site.topology["hosts"][host] or {}, addresses, options)
        groups = cloud.site.topology.get("groups") or {}
        differing += [
            f"it is not in the group {group}" for group in args.group if host not in (groups.get(group) or [])
        ]
        if differing:
            raise CliError(
                f"adding {host}: {path} has it already, otherwise than asked for: {'; '.join(differing)}. Change the "
                f"file, then give 'kolla-salt node add {host}' without further options"
            )
        return old, old, cloud.site.topology
    missing = [
        option for option, given in (("--group", args.group), ("--address api=IP", addresses.get("api"))) if not given
    ]
    if missing:
        raise CliError(f"adding {host}: {path} does not have it yet, so it needs {' and '.join(missing)}", status=2)
    new = topology_file.added(old, host, args.group, addresses, options)
    return old, new, yaml.safe_load(new)


def _write(job: Job, path: Path, old: str, new: str) -> str:
    if path.read_text() != old:
        raise CliError(f"writing {path}: it was changed meanwhile; give the same command again")
    topology_file.write(path, new)
    job.refresh()
    return "written"


def _checked(job: Job, path: Path, old: str, new: str) -> str:
    """Do the prechecks of the host; a host that fails them is taken out of the topology again."""
    from kolla_salt import prechecks as rules

    if new == old:
        job.refresh()
    sent = time.time()
    report = job.master.ask([job.host], "kolla_check.host").get(job.host)
    if isinstance(report, dict) and "findings" in report:
        found = [rules.Finding(**finding) for finding in report["findings"]]
        found += rules.across({job.host: report}, __version__, sent, {job.host: time.time()}, {})
        errors = [f"{f.check}: found {f.found}, expected {f.expected}; {f.mend}" for f in found if f.level == "error"]
    else:
        errors = [outcome.why_not(report)]
    if not errors:
        return "it can"
    back = ""
    if new != old and path.read_text() == new:
        topology_file.write(path, old)
        job.refresh()
        back = f"; it was taken out of {path.name} again"
    raise CliError(f"{job.host} cannot be deployed to{back}:\n  " + "\n  ".join(errors))


# --- drain ------------------------------------------------------------------------------------------------------------


@_in_words
def drain(args: argparse.Namespace) -> int:
    """Move everything that a host does for others to other hosts."""
    job = Job(args)
    job.known()
    refused = _quorum(job)
    if refused:
        raise CliError(f"draining {job.host}: " + "; ".join(refused) + ". Nothing was changed")
    tasks = _drain_servers(job) + _drain_agents(job) + _drain_balanced(job)
    return job.run(tasks, f"{job.host} is drained already")


def _quorum(job: Job) -> list[str]:
    """Return the clusters that would lose their majority without the host."""
    found = []
    galera = job.members("mariadb") if job.enabled("mariadb") else []
    if job.host in galera:
        others = [name for name in galera if name != job.host and name in job.present]
        states = job.master.ask(others, "kolla_mariadb.status")
        working = [name for name in others if str(states.get(name)).startswith(("Synced", "Donor"))]
        found.append(nodes.quorum("the database", job.host, galera, working))
    queues = job.members("rabbitmq") if job.enabled("rabbitmq") else []
    if job.host in queues:
        running = _broker(job, queues)
        working = [name for name in queues if running.get(_member(name))]
        found.append(nodes.quorum("the message queue", job.host, queues, working))
        if not found[-1] and job.host in job.present:
            said = job.master.ask([job.host], "kolla_rabbitmq.quorum_critical").get(job.host)
            if isinstance(said, list) and said:
                found.append(
                    f"without {job.host} {view.plural(len(said), 'queue')} would lose the majority "
                    f"({', '.join(said[:5])}); expected a third member of each: kolla-salt deploy rabbitmq"
                )
    balancers = balanced_by(job.cloud.resolver)
    if job.host in balancers:
        left = [name for name in balancers if name != job.host and name in job.present]
        if not left:
            found.append(f"no other load balancer answers ({', '.join(balancers)}); add hosts to its group first")
    return [text for text in found if text]


def _member(host: str) -> str:
    from kolla_salt import broker

    return broker.member(host)


def _broker(job: Job, hosts: Sequence[str]) -> dict[str, bool]:
    """Return the members of the message queue that another host than ours knows: name -> runs."""
    for name in hosts:
        if name != job.host and name in job.present:
            said = job.master.ask([name], "kolla_rabbitmq.status").get(name)
            if isinstance(said, dict):
                return {member: bool(data["running"]) for member, data in said["nodes"].items()}
    return {}


def _drain_servers(job: Job) -> list[Task]:
    if not job.has("compute"):
        return []
    service = job.compute.service(job.host)
    if service is None:
        return []
    name, args = service["host"], job.args
    servers = job.compute.servers(name)
    tasks = []
    if servers and args.refuse_servers:
        raise CliError(
            f"draining {job.host}: {view.plural(len(servers), 'server')} on it "
            f"({', '.join(server['name'] for server in servers[:10])}); expected none, because of --refuse-servers. "
            "Nothing was changed"
        )
    if servers and service["state"] != "up":
        raise CliError(
            f"draining {job.host}: its nova-compute is {service['state']}, so its servers "
            f"({', '.join(server['name'] for server in servers[:10])}) cannot be moved. Mend the host; or, if it is "
            f"gone for good, kolla-salt node remove {job.host} --force makes them anew on other hosts"
        )
    if servers and not job.compute.others(name):
        raise CliError(
            f"draining {job.host}: no other compute host is up and enabled, so its servers "
            f"({', '.join(server['name'] for server in servers[:10])}) have nowhere to go; add one first: kolla-salt "
            "node add. Nothing was changed"
        )
    if service["status"] != "disabled":
        tasks.append(
            Task(
                f"keep new servers away from {job.host}",
                lambda: job.compute.set_service(service["id"], status="disabled", disabled_reason=nova.DRAINED),
            )
        )
    if servers or job.compute.unconfirmed(name):
        ways = [nova.way(server, args.cold) for server in servers]
        count = {how: sum(1 for found, _ in ways if found == how) for how in (nova.LIVE, nova.COLD, nova.STUCK)}
        shown = ", ".join(f"{number} {how}" for how, number in count.items() if number)
        stuck = [
            f"\n      {s['name']} stays: {why}"
            for s, (how, why) in zip(servers, ways, strict=True)
            if how == nova.STUCK
        ]
        tasks.append(
            Task(
                f"move {view.plural(len(servers), 'server')} ({shown}){''.join(stuck)}",
                lambda: _move(job, nova.Move(job.compute, name, cold=args.cold, timeout=args.timeout, say=job.say)),
            )
        )
    return tasks


def _move(job: Job, move: nova.Move) -> str:
    move.run()
    if move.stuck:
        raise CliError(
            f"{view.plural(len(move.stuck), 'server')} of {job.host} did not move ({len(move.moved)} did):\n  "
            + "\n  ".join(f"{name}: {why}" for name, why in move.stuck.items())
            + f"\n{job.host} takes no new servers meanwhile; kolla-salt node undrain {job.host} lets it",
            moved=move.moved,
            stuck=move.stuck,
        )
    return ", ".join(f"{name} to {where}" for name, where in move.moved.items()) or "all are gone"


def _handovers(job: Job) -> list[neutron.Handover]:
    if not job.has("network"):
        return []
    found = [neutron.Handover(job.network, job.host, kind, say=job.say) for kind in (neutron.DHCP, neutron.L3)]
    return [handover for handover in found if handover.agent is not None]


def _drain_agents(job: Job) -> list[Task]:
    tasks = []
    for handover in _handovers(job):
        found, refused = handover.plan()
        if refused:
            raise CliError(
                f"draining {job.host}: the {handover.word}s {', '.join(refused)} have nowhere to go: no other "
                f"{handover.kind} is up; expected another network host. Nothing was changed"
            )
        up = bool(handover.agent and handover.agent["admin_state_up"])
        if found or up:
            tasks.append(
                Task(
                    f"hand {view.plural(len(found), handover.word)} over to others, switch the {handover.kind} off",
                    lambda handover=handover: f"{view.plural(len(handover.drain()), handover.word)} handed over",
                )
            )
    return tasks


def _own_servers(job: Job, balancers: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return load balancer -> our host's servers in it -> HAProxy's word for their status."""
    answers = job.master.ask([name for name in balancers if name in job.present], "kolla_haproxy.servers")
    return {
        name: {target: data["status"] for target, data in said.items() if target.partition("/")[2] == job.host}
        for name, said in answers.items()
        if isinstance(said, dict)
    }


def _drain_balanced(job: Job) -> list[Task]:
    from kolla_salt import haproxy

    balancers = balanced_by(job.cloud.resolver)
    tasks = []
    passive = {
        haproxy.backend(entry["entry"])
        for entry in job.cloud.resolver.catalogue["load_balancer"]
        if entry["active_passive"]
    }
    own = _own_servers(job, balancers)
    inside = {target for found in own.values() for target, status in found.items() if not haproxy.is_out(status)}
    if inside:
        # Whoever keeps a connection to the one that serves alone would keep it for hours.
        modes = {target: "maint" if target.partition("/")[0] in passive else "drain" for target in sorted(inside)}
        tasks.append(
            Task(
                f"take its {view.plural(len(inside), 'backend server')} out of the load balancers",
                lambda: _take_out(job, list(own), modes),
                list(own),
            )
        )
    if job.host in balancers and job.host in job.present and job.cloud.resolver.value("enable_keepalived"):
        status = job.ask_one(job.host, "kolla_vip.status")
        if status["holds"] or status["candidate"]:
            held = f" {', '.join(status['holds'])}" if status["holds"] else ""
            tasks.append(
                Task(
                    f"give the virtual address{held} to another controller"
                    if held
                    else "keep the virtual address away",
                    lambda: ", ".join(job.ask_one(job.host, "kolla_vip.give_up")) or "it did not have it",
                )
            )
    return tasks


def _take_out(job: Job, balancers: list[str], targets: dict[str, str]) -> str:
    answers = job.master.ask(balancers, "kolla_haproxy.drain", targets=targets)
    stay: dict[str, str] = {}
    open_ones: set[str] = set()
    for name, said in answers.items():
        if not isinstance(said, dict):
            raise CliError(f"{name}: {outcome.last_words(str(said))}")
        stay |= said["stay"]
        open_ones |= set(said["open"])
    if stay:
        raise CliError(
            f"{job.host} still answers requests: "
            + "; ".join(f"{target}: {why}" for target, why in stay.items())
            + ". Mend the others first: kolla-salt verify"
        )
    left = f"; connections are still open to {', '.join(sorted(open_ones))}" if open_ones else ""
    return f"{len(targets)} out on {', '.join(answers)}{left}"


# --- undrain ----------------------------------------------------------------------------------------------------------


@_in_words
def undrain(args: argparse.Namespace) -> int:
    """Let a host take part again."""
    from kolla_salt import haproxy

    job = Job(args)
    job.known()
    resolver, tasks = job.cloud.resolver, []
    balancers = balanced_by(job.cloud.resolver)
    own = _own_servers(job, balancers)
    out = sorted({target for found in own.values() for target, status in found.items() if haproxy.is_out(status)})
    if out:
        tasks.append(
            Task(
                f"put its {view.plural(len(out), 'backend server')} into the load balancers again",
                lambda: _put_in(job, list(own), out),
                list(own),
            )
        )
    if job.host in balancers and job.host in job.present and resolver.value("enable_keepalived"):
        status = job.ask_one(job.host, "kolla_vip.status")
        if not status["candidate"]:
            tasks.append(
                Task(
                    "let it have the virtual address when no other has it",
                    lambda: job.ask_one(job.host, "kolla_vip.stand") and None,
                )
            )
    for handover in _handovers(job):
        wanted = _wanted(resolver, handover.kind)
        if handover.agent and (not handover.agent["admin_state_up"] or _unfinished(job)):
            tasks.append(
                Task(
                    f"switch the {handover.kind} on, give it what has fewer than {wanted}",
                    lambda handover=handover, wanted=wanted: (
                        ", ".join(handover.undrain(wanted)) or "nothing lacked one"
                    ),
                )
            )
    service = job.compute.service(job.host) if job.has("compute") else None
    if service and service["status"] == "disabled":
        reason = service.get("disabled_reason") or ""
        if reason == nova.DRAINED:
            tasks.append(
                Task(
                    f"let {job.host} take new servers",
                    lambda: job.compute.set_service(service["id"], status="enabled"),
                )
            )
        else:
            job.problems.append(
                f"nova-compute of {job.host} stays disabled, for another reason than a drain: {reason or 'none given'}"
                f"; openstack compute service set --enable {service['host']} nova-compute"
            )
    return job.run(tasks, f"{job.host} is not drained")


def _wanted(resolver: Any, kind: str) -> int:
    """Return on how many hosts each network or router is to be."""
    option = "dhcp_agents_per_network" if kind == neutron.DHCP else "max_l3_agents_per_router"
    several = "enable_neutron_agent_ha" in resolver.settings and resolver.value("enable_neutron_agent_ha")
    return int(resolver.value(option)) if several and option in resolver.settings else 1


def _put_in(job: Job, balancers: list[str], targets: list[str]) -> str:
    answers = job.master.ask(balancers, "kolla_haproxy.ready", targets=targets)
    for name, said in answers.items():
        if not isinstance(said, dict):
            raise CliError(f"{name}: {outcome.last_words(str(said))}")
        if said["down"]:
            shown = ", ".join(f"{target} is {status}" for target, status in said["down"].items())
            raise CliError(f"the load balancer of {name} does not find it well: {shown}; kolla-salt status")
    return f"{len(targets)} are up"


# --- remove -----------------------------------------------------------------------------------------------------------


@_in_words
def remove(args: argparse.Namespace) -> int:
    """Take a host out of the cloud and out of the topology."""
    import yaml

    job = Job(args)
    host, cloud = job.host, job.cloud
    path = Path(cloud.directory) / "topology.yml"
    old = path.read_text()
    inside = host in cloud.hosts
    there = inside and host in job.present
    only: Any = {name: [nodes.NAMES] for name in cloud.hosts if name != host}
    new = old
    if inside:
        new = topology_file.removed(old, host)
        _refuse_removal(job, yaml.safe_load(new), there)
        smaller = _resolver(cloud, yaml.safe_load(new))
        only = job.scope(cloud.resolver, smaller)
        if only is not None:
            # What finishes a service looks for hosts that came.
            only = {name: [nodes.NAMES] for name in only if name != host}
    tasks = _give_up_servers(job) if inside and not there else []
    if there:
        tasks.append(Task(f"remove containers, volumes and configuration on {host}", lambda: _destroyed(job)))
    tasks += _forget(job)
    if inside:
        tasks.append(Task(f"take {host} out of {path}", lambda: _write(job, path, old, new)))
    if inside or tasks or _unfinished(job):
        told = "".join(f"\n      {line}" for line in _told(only, host))
        left = [name for name in cloud.hosts if name != host]
        tasks.append(Task(f"deploy what must know that it is gone{told}", lambda: job.deploy(only), left))
    from kolla_salt.declarations import nearest

    hint = "" if inside else nearest(host, cloud.hosts)
    return job.run(tasks, f"{host} is not in {path}, and nothing remembers it{hint}")


def _unfinished(job: Job) -> bool:
    """Return whether an earlier run of this verb about this host did not end well."""
    mine = [
        header
        for header in runs.headers(job.master.runs_root())
        if header.get("verb") == job.verb and header.get("node") == job.host
    ]
    return bool(mine) and mine[-1]["result"] != "ok"


def _refuse_removal(job: Job, topology: Mapping[str, Any], there: bool) -> None:
    """Refuse to remove a host that is needed or still serves. Raises CliError."""
    host, cloud = job.host, job.cloud
    problems = _problems(cloud, topology) if topology.get("hosts") else ["it is the only host"]
    problems = [text for text in problems if text not in _problems(cloud, cloud.site.topology)]
    if problems:
        raise CliError(f"removing {host}: the site needs it, nothing was changed:\n  " + "\n  ".join(problems))
    refused = _quorum(job)
    if refused:
        raise CliError(f"removing {host}: " + "; ".join(refused) + ". Nothing was changed")
    if not there:
        return
    busy = _still_serves(job)
    if busy:
        raise CliError(
            f"removing {host}: it still serves: {'; '.join(busy)}. Nothing was changed; first: "
            f"kolla-salt node drain {host}"
        )


def _still_serves(job: Job) -> list[str]:
    """Return what a host that answers does for others."""
    from kolla_salt import haproxy

    found = []
    if job.has("compute") and (service := job.compute.service(job.host)):
        servers = job.compute.servers(service["host"])
        if servers:
            found.append(f"{view.plural(len(servers), 'server')} on it ({', '.join(s['name'] for s in servers[:10])})")
        if service["status"] != "disabled":
            found.append("Nova may place servers on it")
    for handover in _handovers(job):
        serves, _ = handover.plan()
        if serves:
            found.append(f"its {handover.kind} has {view.plural(len(serves), handover.word)}")
        elif handover.agent and handover.agent["admin_state_up"] and handover.agent["alive"]:
            found.append(f"its {handover.kind} may be given {handover.word}s")
    own = _own_servers(job, [name for name in balanced_by(job.cloud.resolver) if name != job.host])
    asked = sorted({target for targets in own.values() for target, status in targets.items() if haproxy.is_up(status)})
    if asked:
        found.append(f"the load balancers send it requests ({', '.join(asked[:5])})")
    return found


def _give_up_servers(job: Job) -> list[Task]:
    """Return what to do about the servers of a host that does not answer. Raises CliError unless forced."""
    from kolla_salt.ping import ping

    address = job.cloud.resolver.address("api", job.host)
    if job.args.node_command == "remove" and ping(address):
        raise CliError(
            f"removing {job.host}: its minion does not answer, but {address} answers a ping, so it is not dead; mend "
            "its minion (systemctl status salt-minion there), or switch the machine off. Nothing was changed"
        )
    service = job.compute.service(job.host) if job.has("compute") else None
    servers = job.compute.servers(service["host"]) if service else []
    if not service or not servers:
        return []
    names = ", ".join(server["name"] for server in servers[:20])
    if not job.args.force:
        gone, keep = "it is a new machine", ""
        if job.args.node_command == "remove":
            gone, keep = "it does not answer", " Start it again to keep them."
        raise CliError(
            f"{_doing(job)}: {gone}, and {view.plural(len(servers), 'server')} had their place there: {names}. Nothing "
            f"was changed.{keep} With --force they are made anew on other hosts, from their images and volumes; what "
            "was on the disks here is lost"
        )
    if not job.compute.others(service["host"]):
        raise CliError(
            f"making {names} anew: no other compute host is up and enabled; add one first: kolla-salt node add"
        )
    move = nova.Move(job.compute, service["host"], dead=True, timeout=job.args.timeout, say=job.say)

    def make_anew() -> str:
        # Alone: to disable it as well, Nova would ask the dead host.
        job.compute.set_service(service["id"], forced_down=True)
        return _move(job, move)

    return [Task(f"make {view.plural(len(servers), 'server')} anew on other hosts: {names}", make_anew)]


def _destroyed(job: Job) -> str:
    done = job.ask_one(job.host, "kolla_node.destroy")
    return (
        ", ".join(view.plural(len(names), kind.rstrip("s")) for kind, names in done.items() if names) or "it was clean"
    )


def _forget(job: Job) -> list[Task]:
    """Return the tasks that take a host out of what the services remember."""
    tasks = []
    host = job.host
    if job.has("network"):
        agents = [agent for agent in job.network.agents() if same_host(agent["host"], host)]
        if agents:
            tasks.append(
                Task(
                    f"hand over and forget its {view.plural(len(agents), 'network agent')}",
                    lambda: _forget_agents(job),
                )
            )
    service = job.compute.service(host) if job.has("compute") else None
    if service:
        tasks.append(
            Task(
                "forget its nova-compute, resource provider and place in its cell",
                lambda: _forget_compute(job, service["id"]),
            )
        )
    return tasks + _forget_member(job)


def _forget_member(job: Job) -> list[Task]:
    """Return the task that removes the host's member of the message queue, if that does not run."""
    queues = [name for name in job.members("rabbitmq") if name != job.host] if job.enabled("rabbitmq") else []
    known = _broker(job, queues)
    if _member(job.host) not in known or not queues:
        return []
    asked = next((name for name in queues if name in job.present), None)
    if asked is None:
        return []
    return [
        Task(
            f"forget its member of the message queue, on {asked}",
            lambda: None if job.ask_one(asked, "kolla_rabbitmq.forget", job.host) else "it was forgotten",
            [asked],
        )
    ]


def _forget_agents(job: Job) -> str:
    for handover in _handovers(job):
        handover.drain()
    agents = [agent for agent in job.network.agents() if same_host(agent["host"], job.host)]
    return ", ".join(agent["agent_type"] for agent in agents if job.network.delete_agent(agent["id"]))


def _forget_compute(job: Job, service_id: str) -> str | None:
    return None if job.compute.delete_service(service_id) else "it was gone"


# --- replace ----------------------------------------------------------------------------------------------------------


@_in_words
def replace(args: argparse.Namespace) -> int:
    """Deploy a new machine in place of one of the same name."""
    job = Job(args)
    job.known()
    job.cloud.check()
    if job.host not in job.present:
        raise _silent(job.host)
    found = [item["name"] for item in job.ask_one(job.host, "kolla_container.list")]
    data = _has_data(job)
    if (found or data) and not _unfinished(job):
        return _not_empty(job, found, data)
    tasks = []
    if not found:
        tasks = _give_up_servers(job) + _forget_member(job)
        service = job.compute.service(job.host) if job.has("compute") else None
        if service:
            tasks.append(
                Task(
                    "forget the old nova-compute, which left its identity with the old disks",
                    lambda: _forget_compute(job, service["id"]),
                )
            )
    only = nodes.alone(job.cloud.resolver, job.host)
    told = "".join(f"\n      {line}" for line in _told(only, job.host))
    tasks.append(Task(f"deploy {job.host} alone{told}", lambda: job.deploy(only), list(only)))
    tasks.append(Task("wait until the clusters are whole again", lambda: _whole(job)))
    return job.run(tasks, "", concerned=only)


def _has_data(job: Job) -> bool:
    if job.host not in job.members("mariadb") or not job.enabled("mariadb"):
        return False
    return bool(job.ask_one(job.host, "kolla_mariadb.lookup")["data"])


def _not_empty(job: Job, containers: list[str], data: bool) -> int:
    """Say that a host is whole already, or refuse to replace one that is not empty."""
    reports, unknown = survey(job.master, job.cloud, [job.host])
    report = reports.get(job.host)
    whole = isinstance(report, dict) and not report["errors"] and not any(summary(report).values())
    if whole and not unknown:
        tasks = [Task("see whether the clusters are whole", lambda: _whole(job))]
        return (
            job.run(tasks, "")
            if not job.args.plan
            else job.run([], f"{job.host} is deployed, there is nothing to replace")
        )
    has = f"{view.plural(len(containers), 'container')}" + (" and a database" if data else "")
    raise CliError(
        f"replacing {job.host}: it has {has}, expected an empty machine, since what an old member remembers would meet "
        f"what the others know now. If only something is broken on it: kolla-salt deploy --limit {job.host}. To begin "
        f"anew: kolla-salt destroy --limit {job.host}, then this command again"
    )


def _whole(job: Job) -> str:
    """Wait until database, message queue and agents have the host again. Raises CliError naming what lacks."""
    deadline = time.monotonic() + WHOLE_TIMEOUT
    while True:
        lacking = _lacking(job)
        if not lacking:
            return "all have it"
        if time.monotonic() > deadline:
            raise CliError(f"after {WHOLE_TIMEOUT} s the clusters are not whole: " + "; ".join(lacking))
        time.sleep(2)


def _lacking(job: Job) -> list[str]:
    lacking = []
    galera = job.members("mariadb") if job.enabled("mariadb") else []
    if job.host in galera and len(galera) > 1:
        states = job.master.ask([name for name in galera if name in job.present], "kolla_mariadb.status")
        lacking += [f"database on {n}: {s}" for n, s in states.items() if not str(s).startswith(("Synced", "Donor"))]
    queues = job.members("rabbitmq") if job.enabled("rabbitmq") else []
    if job.host in queues and len(queues) > 1:
        known = _broker(job, queues)
        silent = [f"message queue on {n} does not run" for n in queues if not known.get(_member(n))]
        copies = [] if silent else job.ask_one(job.host, "kolla_rabbitmq.lacking")
        lacking += silent + ([f"{view.plural(len(copies), 'queue')} without a member on {job.host}"] if copies else [])
    if job.has("network"):
        agents = [agent for agent in job.network.agents() if same_host(agent["host"], job.host)]
        lacking += [f"{a['agent_type']} of {job.host} is not up" for a in agents if not a["alive"]]
    if job.has("compute") and job.host in job.members("compute"):
        service = job.compute.service(job.host)
        if not service or service["state"] != "up":
            lacking.append(f"nova-compute of {job.host} is not up")
    return lacking
