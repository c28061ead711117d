"""The failures. Each breaks something real, measures, and leaves it to its caller to look whether all is well again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from typing import Any

from benchmarks.chaos import figures, parts, watch
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.run import Run, scenario
from kolla_salt.availability import Receipt

#: Service -> options that, when set, make its API's container a new one.
API_CONTAINERS = {
    "keystone": ("keystone_dimensions",),
    "glance": ("glance_api_dimensions",),
    "placement": ("placement_api_dimensions",),
    "nova": ("nova_api_dimensions",),
    "neutron": ("neutron_server_dimensions",),
    "heat": ("heat_api_dimensions", "heat_api_cfn_dimensions"),
}


def _alive(cluster: Cluster, name: str) -> None:
    if name not in cluster.running():
        cluster.start(name)


def _remembers(run: Run, project: str) -> None:
    run.expect(
        parts.project_is_there(run.cluster, project), f"project {project}, made before", "it is gone", "it is there"
    )


# --- nodes ------------------------------------------------------------------------------------------------------------


@scenario("vip-holder", "the controller that holds the VIP is killed", limit=480)
def vip_holder(run: Run) -> None:
    """Measure until every API answers; then the node starts and everything on it has to come back by itself."""
    cluster = run.cluster
    run.subject = cluster.holders()[0]
    project = parts.make_project(cluster)
    run.undo(lambda: parts.remove_projects(cluster))
    probe = parts.watched(run)
    run.undo(lambda: _alive(cluster, run.subject))
    probe.mark("killed")
    cluster.kill(run.subject)
    parts.settle(probe, 60)
    parts.apis_back(run, probe.snapshot(), "killed", "every API answers again")
    holders = cluster.holders()
    run.expect(
        len(holders) == 1 and run.subject not in holders, "who has the VIP", holders or "nobody", "one other node"
    )
    _remembers(run, project)
    probe.stop()
    probe = parts.watched(run)
    wall, began = time.time(), time.monotonic()
    cluster.start(run.subject)
    run.figure("its engine and minion answer", time.monotonic() - began)
    parts.comes_back(run, began, wall)
    _no_loss(run, probe.stop(), "while it comes back")
    parts.verified(run)


def _no_loss(run: Run, receipt: Receipt, when: str, must: float | None = None, aim: float | None = None) -> None:
    """Keep how many requests failed and for how long a service was away."""
    away = {name: said["outage"] for name, said in receipt.services.items() if said["failed"]}
    run.figure(f"failed requests {when}", receipt.failed, must=must, aim=aim, unit="requests")
    run.figure(f"longest outage of a service {when}", max(away.values(), default=0.0))
    run.note(f"{receipt.data['requests']} requests, failed: {parts.said(receipt)}; away: {away or 'none'}")
    run.expect(receipt.data["requests"] > 50, "requests asked meanwhile", receipt.data["requests"], "more than 50")
    if receipt.data["stall"] >= 1:
        run.note(f"the probe itself stood still for up to {receipt.data['stall']:.1f} s")


@scenario("any-node", "one node is killed", limit=540)
def any_node(run: Run) -> None:
    """Kill each node in turn, the one with the active router first; a server, its address and the data have to stay."""
    cluster = run.cluster
    guest = parts.server(cluster)
    active = next((hosts[0] for hosts in parts.routers(cluster).values() if hosts), cluster.controllers[0])
    order = [active, *(name for name in cluster.names if name != active)]
    name = run.turn(order)
    carries = name == guest["host"]
    role = "its host" if carries else "the active router's node" if name == active else "another node"
    run.note(f"the server is on {guest['host']}, its router is active on {active}")
    project = parts.make_project(cluster)
    run.undo(lambda: parts.remove_projects(cluster))
    before = parts.routers(cluster)
    probe = parts.watched(run)
    pings = watch.pinging(guest["address"])
    pings.start()
    run.undo(pings.stop)
    time.sleep(2)
    run.undo(lambda: _alive(cluster, name))
    probe.mark("killed")
    moment = cluster.kill(name)
    parts.settle(probe, 60, calm=20)
    parts.apis_back(run, probe.stop(), "killed", "every API answers again")
    ended = time.monotonic()
    if not carries:
        silent = not any(good > ended - 3 for good in pings.good)
        gap = None if silent else figures.gap(pings.good, moment, ended)
        run.figure(
            f"floating IP silent when {role} dies",
            gap,
            must=20 if name == active else 3,
            aim=8 if name == active else 1,
        )
    _remembers(run, project)
    found = {item.id: item.status for item in cluster.connection().compute.servers()}
    run.expect(guest["id"] in found, f"server {guest['id']}", "it is gone", "it is there")
    run.expect(parts.routers(cluster).keys() == before.keys(), "routers", list(parts.routers(cluster)), list(before))
    wall, began = time.time(), time.monotonic()
    cluster.start(name)
    parts.comes_back(run, began, wall)
    if carries:
        _server_returns(run, guest, pings, began)
    reached = [good for good in pings.good if good > began]
    run.expect(bool(reached), "the floating IP after the node came back", "no answer", "an answer")
    parts.verified(run)


def _server_returns(run: Run, guest: dict[str, Any], pings: watch.Repeated, began: float) -> None:
    """A server whose host lost its power comes back with it, or can be started again."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not any(good > began for good in pings.good):
        time.sleep(1)
    reached = [good for good in pings.good if good > began]
    run.figure("its server answers again by itself", reached[0] - began if reached else None)
    if not reached:
        compute = run.cluster.connection().compute
        status = compute.get_server(guest["id"]).status
        run.note(f"the server is {status} after its host came back; it is started by hand")
        run.expect(status in {"SHUTOFF", "ACTIVE"}, "the server after its host came back", status, "SHUTOFF or ACTIVE")
        (compute.start_server if status == "SHUTOFF" else lambda one: compute.reboot_server(one, "HARD"))(guest["id"])
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not any(good > deadline - 90 for good in pings.good):
            time.sleep(1)


# --- databases --------------------------------------------------------------------------------------------------------


@scenario("databases", "all three databases are killed at once", limit=480)
def databases(run: Run) -> None:
    """SIGKILL of the three servers; in every other run of what starts them again too, so that containers end."""
    programs = ("mariadbd",) if run.number % 2 == 0 else ("mariadbd", "mariadbd-safe", "mysqld_safe")
    run.subject = "servers" if run.number % 2 == 0 else "containers"
    cluster = run.cluster

    def kill() -> float:
        pids = [pid for name in cluster.controllers for pid in cluster.pids(name, *programs)]
        run.expect(len(pids) >= len(cluster.controllers), "processes to kill", len(pids), "at least three")
        return cluster.signal(pids, signal.SIGKILL)

    _all_databases(run, kill)


@scenario("controllers", "all three controllers lose power at once", limit=560, quick=False)
def controllers(run: Run) -> None:
    """SIGKILL of the three nodes, which are then started together."""
    cluster = run.cluster
    run.subject = ", ".join(cluster.controllers)

    def kill() -> float:
        moment = cluster.kill_together(cluster.controllers)
        run.undo(lambda: [_alive(cluster, name) for name in cluster.controllers])
        for name in cluster.controllers:
            cluster.start(name)
        return moment

    _all_databases(run, kill)


def _all_databases(run: Run, kill: Any) -> None:
    cluster = run.cluster
    parts.make_table(cluster)
    run.undo(lambda: parts.drop_table(cluster))
    writer = parts.Writer(cluster)
    run.undo(writer.stop)
    time.sleep(4)
    moment = kill()
    wall = time.time()
    writer.stop()
    run.expect(len(writer.acknowledged) > 20, "rows written before", len(writer.acknowledged), "more than 20")
    seconds, ailing = cluster.await_(cluster.members_ail, 75, every=0.5)
    how = "by itself"
    if seconds is None:
        how = "with mariadb-recovery"
        run.note(f"not back by itself after 75 s: {'; '.join(ailing)}")
        done = cluster.kolla_salt("mariadb-recovery", "--json", timeout=200)
        run.expect(
            done.status == 0,
            "mariadb-recovery",
            f"status {done.status}: {done.json().get('error') or done.words}",
            "status 0",
        )
        seconds, ailing = cluster.await_(cluster.members_ail, 60, every=0.5)
    run.note(f"recovered {how}" if seconds is not None else "NOT recovered")
    run.figure(
        "three members are Synced again", None if seconds is None else time.monotonic() - moment, must=240, aim=60
    )
    run.figure("recovered with mariadb-recovery", float(how != "by itself"), unit="of 1")
    if seconds is None:
        run.expect(False, "the database's cluster", "; ".join(ailing), "three Synced members, unattended")
        return
    found = parts.rows(cluster)
    run.figure("the database answers through the VIP again", time.monotonic() - moment, must=240, aim=60)
    said = figures.lost(writer.acknowledged, found, moment)
    run.note(
        f"{said['written']} rows were acknowledged, {said['lost']} are lost, the oldest {said['oldest']:.2f} s before"
    )
    run.figure("acknowledged rows lost", said["lost"], unit="rows")
    # Logs are written to disks once a second: what is older must not be lost, not even when all lose their power.
    run.figure("age of the oldest lost row", said["oldest"], must=2, aim=0)
    seconds, ailing = cluster.await_(cluster.apis_ail, 90)
    run.figure("every API answers again", None if seconds is None else time.monotonic() - moment)
    run.expect(seconds is not None, "APIs", "; ".join(ailing[:3]), "answers within 90 s after the databases")
    if run.scenario == "controllers":
        parts.comes_back(run, moment, wall, limit=300)
        parts.verified(run)


# --- changes ----------------------------------------------------------------------------------------------------------


@scenario("keystone-option", "one Keystone option is changed", limit=540)
def keystone_option(run: Run) -> None:
    """Deploy a changed option and take it back, while Keystone is asked ten times a second with a token."""
    cluster = run.cluster
    probe = parts.watched(run, rate=5, token_rate=10, services=("keystone",))
    value = 80000 + int(time.time()) % 1000
    with parts.override(cluster, "keystone.conf", f"[token]\nexpiration = {value}\n"):
        done = parts.deploy(run, "keystone")
        time.sleep(3)
    parts.deploy(run, "keystone")
    time.sleep(3)
    _no_loss(run, probe.stop(), "meanwhile", must=0, aim=0)
    run.figure("deploy keystone", done.seconds)


@scenario("rolling", "the API of a service is restarted on all hosts", limit=560)
def rolling(run: Run) -> None:
    """A limit of the container changes, so that each API container is made anew; another service in each run."""
    enabled = [name for name in API_CONTAINERS if run.cluster.resolver.enabled(name)]
    _restarted(run, [run.turn(enabled)])


@scenario("rolling-all", "the API of every service is restarted on all hosts, in one run", limit=600, quick=False)
def rolling_all(run: Run) -> None:
    """As ``rolling``, with one deploy for all services."""
    _restarted(run, [name for name in API_CONTAINERS if run.cluster.resolver.enabled(name)])


def _restarted(run: Run, services: list[str]) -> None:
    cluster = run.cluster
    before = {name: parts.started(cluster, name) for name in cluster.controllers}
    # Each deploy asks five times a second itself; more of it would take a good part of two processors.
    probe = parts.watched(run, rate=2, token_rate=1)
    options = [option for service in services for option in API_CONTAINERS[service]]
    with parts.options(cluster, **dict.fromkeys(options, {"pids_limit": 4000 + run.number})):
        done = parts.deploy(run, *services)
        time.sleep(3)
        after = {name: parts.started(cluster, name) for name in cluster.controllers}
    parts.deploy(run, *services)
    time.sleep(3)
    receipt = probe.stop()
    for container in (option.removesuffix("_dimensions") for option in options):
        kept = [name for name in cluster.controllers if before[name].get(container) == after[name].get(container)]
        run.expect(not kept, f"container {container}", f"not restarted on {', '.join(kept)}", "restarted on all")
    _no_loss(run, receipt, "meanwhile, all services")
    for service in services:
        own = receipt.services[service]
        # The same containers are made anew twice: there and back.
        run.figure(f"{service} was away, two restarts", own["outage"], must=1, aim=0)
        run.figure(f"{service}: failed requests", own["failed"], aim=0, unit="requests")
    run.figure(f"{services[0] if len(services) == 1 else 'all'}: deploy", done.seconds)


# --- links ------------------------------------------------------------------------------------------------------------


PUBLISH = """
import amqp, json, sys
said = {}
try:
    link = amqp.Connection(host=%(host)r, userid=%(user)r, password=%(password)r, connect_timeout=6, read_timeout=8,
                           write_timeout=8, confirm_publish=True, heartbeat=0)
    link.connect()
    channel = link.channel()
    if %(declare)r:
        channel.queue_declare(%(queue)r, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    channel.basic_publish(amqp.Message("x", delivery_mode=2), routing_key=%(queue)r, timeout=8, confirm_timeout=8)
    said = {"confirmed": True}
    if %(remove)r:
        channel.queue_delete(%(queue)r)
    link.close()
except Exception as error:
    said.setdefault("confirmed", False)
    said["why"] = type(error).__name__ + ": " + str(error)[:200]
print(json.dumps(said))
"""


def publish(cluster: Cluster, name: str, declare: bool = False, remove: bool = False) -> dict[str, Any]:
    """Publish to a quorum queue through the broker of a node, from that node: ``confirmed`` and ``why`` not."""
    text = PUBLISH % {
        "host": f"{cluster.address(name)}:{cluster.resolver.value('rabbitmq_port')}",
        "user": str(cluster.resolver.value("rabbitmq_user")), "password": str(cluster.passwords["rabbitmq_password"]),
        "queue": "chaos", "declare": declare, "remove": remove,
    }  # fmt: skip
    done = cluster.inside(name, "docker", "exec", "-i", "nova_conductor", "python3", "-", timeout=60, text=text)
    return done.json() or {"confirmed": None, "why": done.words}


@scenario("partition", "a controller is cut off the API network", limit=540)
def partition(run: Run) -> None:
    """The minority must not accept writes nor messages; the VIP is where the cloud is served; then it rejoins."""
    cluster = run.cluster
    silently = run.number % 2 == 1
    # The holder of the VIP first: the worst case.
    holder = cluster.holders()[0]
    name = run.turn([holder, holder, *(other for other in cluster.controllers if other != holder)])
    run.subject = f"{name}, {'without losing carrier' if silently else 'cable cut'}"
    seconds_cut = 30 if run.number % 4 < 2 else 100
    others = [other for other in cluster.controllers if other != name]
    parts.make_table(cluster)
    run.undo(lambda: parts.drop_table(cluster))
    made = publish(cluster, name, declare=True)
    run.expect(made["confirmed"] is True, "a message before", made, "confirmed")
    run.undo(lambda: publish(cluster, others[0], declare=True, remove=True))
    probe = parts.watched(run)
    inner = parts.Writer(cluster, cluster.address(name), origin=name, first=10**9, every=0.3, timeout=4)
    run.undo(inner.stop)
    outer = parts.Writer(cluster, every=0.2)
    run.undo(outer.stop)
    time.sleep(2)
    run.undo(lambda: cluster.join(name))
    # A row that the cluster has ordered may be acknowledged in the moment of the cut: a tenth of a second is not held
    # against the minority.
    probe.mark("cut")
    moment = began = cluster.cut(name, silently)
    cut_off = time.monotonic()
    said = publish(cluster, name)
    run.expect(said["confirmed"] is False, "a message to the broker that was cut off", said, "not confirmed")
    parts.settle(probe, 60, calm=5)
    while time.monotonic() - began < seconds_cut:
        time.sleep(1)
    said = publish(cluster, name)
    run.expect(said["confirmed"] is False, "a message to the broker, later", said, "not confirmed")
    run.note(f"the broker that was cut off says: {said.get('why')}")
    parts.apis_back(run, probe.stop(), "cut", "every API answers again")
    inside = [number for number, when in list(inner.acknowledged.items()) if when > cut_off + 0.1]
    run.expect(not inside, "rows that the minority acknowledged", len(inside), "none")
    outside = [when for when in list(outer.acknowledged.values()) if when > moment]
    run.figure("the majority writes again", min(outside) - moment if outside else None, must=20, aim=8)
    holders = cluster.holders()
    run.expect(len(set(holders) - {name}) == 1, "who of the majority has the VIP", holders, f"one of {others}")
    if name in holders:
        served = _minority_serves(cluster, name)
        run.expect(not served, "Keystone on the VIP of the minority", "it wrote a project", "nothing is served there")
    inner.stop()
    outer.stop()
    probe = parts.watched(run)
    wall, began = time.time(), cluster.join(name)
    parts.comes_back(run, began, wall, limit=150)
    _no_loss(run, probe.stop(), "while it rejoins")
    found = set(parts.rows(cluster))
    gone = figures.lost(outer.acknowledged, found, moment)
    run.figure("rows lost that the majority acknowledged", gone["lost"], must=0, aim=0, unit="rows")
    holders = cluster.holders()
    run.expect(len(holders) == 1, "who has the VIP at the end", holders, "one node")
    parts.verified(run)


def _minority_serves(cluster: Cluster, name: str) -> bool:
    """Return whether a write through the VIP succeeds inside the network of a node that was cut off."""
    import http.client

    auth = cluster.access()["auth"]
    port = int(auth["auth_url"].split("/v3")[0].rsplit(":", 1)[1])
    token = cluster.connection().auth_token
    body = json.dumps({"project": {"name": f"chaos-minority-{time.time():.0f}", "domain_id": "default"}})
    link = http.client.HTTPConnection(cluster.vip, port, timeout=15)
    try:
        link.sock = cluster.connect(name, cluster.vip, port, 10)
        link.request("POST", "/v3/projects", body, {"X-Auth-Token": token, "Content-Type": "application/json"})
        return link.getresponse().status == 201
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


@scenario("bad-link", "the link of a controller loses half of its packets for 20 s", limit=360)
def bad_link(run: Run) -> None:
    """Half of the packets lost each way, in every other run all of them 100 ms late; in turn on each controller."""
    cluster = run.cluster
    late = run.number % 2 == 1
    holder = cluster.holders()[0]
    name = run.turn([holder, holder, *(one for one in cluster.controllers if one != holder)])
    run.subject = f"{name}{' (VIP)' if name == holder else ''}, {'100 ms late' if late else 'half lost'}"
    probe = parts.watched(run)
    run.undo(lambda: cluster.join(name))
    with cluster.bad_link(name, 0.0 if late else 0.5, 0.1 if late else 0.0):
        time.sleep(20)
    wall, began = time.time(), time.monotonic()
    _no_loss(run, probe.snapshot(), f"while packets are {'late' if late else 'lost'}")
    probe.mark("good again")
    parts.settle(probe, 60)
    parts.apis_back(run, probe.stop(), "good again", "every API answers again after the link is good", aim=1)
    # Two brokers may have lost each other one after the other; RabbitMQ then heals one a minute after the other.
    parts.comes_back(run, began, wall, limit=180)
    parts.verified(run)


# --- runs -------------------------------------------------------------------------------------------------------------


@scenario("killed-in-deploy", "a node dies in the middle of a deploy", limit=600)
def killed_in_deploy(run: Run) -> None:
    """The run ends with that host unknown and the others finished; the same command goes on when it is back."""
    cluster = run.cluster
    name = cluster.controllers[-1]
    after = random.uniform(4, 40)
    run.subject = f"{name} after {after:.1f} s"
    with parts.options(cluster, keystone_logging_debug=True, glance_logging_debug=True, placement_logging_debug=True):
        process = cluster.begin("deploy", "--json")
        run.undo(lambda: cluster.end(process))
        time.sleep(after)
        going = process.poll() is None
        run.undo(lambda: _alive(cluster, name))
        moment = cluster.kill(name)
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            run.expect(False, "the run", "going on 300 s after the node died", "its end")
            return
        run.figure("the run ends after the node died", time.monotonic() - moment, must=240, aim=60)
        said = json.loads(out) if out.strip().startswith("{") else {}
        if not going:
            run.note("the run had ended before the node was killed")
        else:
            run.expect(process.returncode != 0, "exit status of the run", process.returncode, "not 0")
            run.expect(name in (said.get("unknown") or []), "unknown hosts", said.get("unknown") or err[-300:], [name])
            others = {
                f"{host}: {state.get('id')}: {str(state.get('comment'))[:200]}"
                for step in said.get("steps") or []
                for host, one in step["hosts"].items()
                if host != name
                for state in one.get("failed") or []
            }
            run.expect(not others, "failures on other hosts", "; ".join(sorted(others)), "none")
            run.note(f"it ended as {said.get('result')}: {str(said.get('error') or '')[:300]}")
        cluster.start(name)
        seconds, ailing = cluster.await_(cluster.ails, 150)
        run.expect(seconds is not None, "the cloud after the node came back", "; ".join(ailing[:3]), "well, by itself")
        done = parts.deploy(run)
        run.figure("the same command ends", done.seconds)
        parts.verified(run)
    parts.deploy(run)


@scenario("late-minion", "a minion hangs through a deploy and wakes up afterwards", limit=600)
def late_minion(run: Run) -> None:
    """SIGSTOP of a minion in the middle of a run, SIGCONT after its end: no container may be started twice."""
    cluster = run.cluster
    name = run.turn(list(reversed(cluster.controllers)))
    after = random.uniform(4, 14)
    with parts.options(
        cluster, keystone_logging_debug=True, placement_api_dimensions={"pids_limit": 4100 + run.number}
    ):
        process = cluster.begin("deploy", "--json", "keystone", "placement")
        run.undo(lambda: cluster.end(process))
        time.sleep(after)
        pids = _minion(cluster, name)
        run.undo(lambda: cluster.signal(pids, signal.SIGCONT))
        since = time.time()
        moment = cluster.signal(pids, signal.SIGSTOP)
        out, err = process.communicate(timeout=360)
        run.figure("the run ends after the minion hung", time.monotonic() - moment, must=300, aim=60)
        said = json.loads(out) if out.strip().startswith("{") else {}
        run.note(f"it ended with status {process.returncode} as {said.get('result')}, unknown {said.get('unknown')}")
        cluster.signal(pids, signal.SIGCONT)
        time.sleep(20)
        seconds, ailing = cluster.await_(cluster.ails, 120)
        run.expect(seconds is not None, "the cloud after the minion woke up", "; ".join(ailing[:3]), "well, by itself")
        parts.deploy(run, "keystone", "placement")
        twice = {one: count for one, count in _starts(cluster, name, since).items() if count > 1}
        run.expect(not twice, f"containers of {name} that were started more than once", twice, "none")
        parts.verified(run)
    parts.deploy(run, "keystone", "placement")


def _minion(cluster: Cluster, name: str) -> list[int]:
    from kolla_salt.sandbox import host, node

    running = node.find_nodes(cluster.paths)[name][0]
    return [
        process.pid
        for process in node.processes_in(running, host.processes()).values()
        if any(word.endswith("/bin/salt-minion") for word in " ".join(process.argv[:2]).split())
    ]


def _starts(cluster: Cluster, name: str, since: float) -> dict[str, int]:
    """Return how often each container of a node was started since then, as its engine says."""
    done = cluster.inside(
        name, "docker", "events", "--since", str(int(since)), "--until", str(int(time.time()) + 1),
        "--filter", "type=container", "--filter", "event=start", "--format", "{{.Actor.Attributes.name}}",
    )  # fmt: skip
    count: dict[str, int] = {}
    for one in done.out.split():
        count[one] = count.get(one, 0) + 1
    return {one: number for one, number in count.items() if not one.startswith("bootstrap")}


# --- the broker, the engine, the disk ---------------------------------------------------------------------------------


@scenario("broker", "one message broker is killed", limit=540)
def broker(run: Run) -> None:
    """Calls over the queue go on, networks and servers can be made while it is down; in every other run it returns."""
    cluster = run.cluster
    name = run.turn(cluster.controllers)
    stays_down = run.number % 2 == 0
    run.subject = f"{name}, {'down until started' if stays_down else 'started again by the engine'}"
    guest = parts.server(cluster)
    import keystoneauth1.exceptions
    import openstack.exceptions

    calls = watch.Repeated(
        lambda: parts.console_works(cluster, guest["id"]), 0.5,
        (openstack.exceptions.SDKException, keystoneauth1.exceptions.ClientException),
    )  # fmt: skip
    calls.start()
    run.undo(calls.stop)
    time.sleep(3)
    run.undo(lambda: cluster.inside(name, "docker", "start", "rabbitmq"))
    moment = time.monotonic()
    if stays_down:
        done = cluster.inside(name, "docker", "kill", "rabbitmq")
        run.expect(done.status == 0, "docker kill rabbitmq", done.words, "status 0")
    else:
        cluster.signal(cluster.pids(name, "beam.smp"), signal.SIGKILL)
    done = cluster.kolla_salt("smoke", "--json", timeout=300)
    said = done.json()
    run.expect(
        bool(said.get("ok")), "a network and a server made meanwhile", said.get("error") or done.words, "they work"
    )
    run.figure("smoke with a broker down" if stays_down else "smoke with a broker restarted", said.get("seconds"))
    answers = calls.stop()
    lost = [answer for answer in answers if answer.begun >= moment - 1 and not answer.ok]
    run.figure("failed calls over the queue", len(lost), must=0, aim=0, unit="calls")
    run.figure("longest call over the queue", max(answer.ended - answer.begun for answer in answers), must=60, aim=10)
    for answer in lost[:2]:
        run.note(f"failed: {answer.said[:300]}")
    began, wall = time.monotonic(), time.time()
    if stays_down:
        cluster.inside(name, "docker", "start", "rabbitmq")
    parts.comes_back(run, began, wall, limit=150)
    parts.verified(run)


@scenario("engine", "the container engine of a controller hangs or dies", limit=420)
def engine(run: Run) -> None:
    """SIGSTOP of the engine for 30 s (nobody starts it again), in every other run SIGKILL: containers go on."""
    cluster = run.cluster
    name = run.turn(cluster.controllers)
    hangs = run.number % 2 == 0
    run.subject = f"{name}, {'hangs' if hangs else 'killed'}"
    before = parts.started(cluster, name)
    probe = parts.watched(run)
    pids = cluster.pids(name, "dockerd")
    run.expect(len(pids) == 1, "engines", len(pids), "one")
    if hangs:
        run.undo(lambda: cluster.signal(pids, signal.SIGCONT))
        moment = cluster.signal(pids, signal.SIGSTOP)
        done = cluster.kolla_salt("status", "--json", timeout=240)
        run.figure("status ends while an engine hangs", done.seconds, must=120, aim=15)
        run.expect(done.status == 1, "exit status of status", done.status, "1")
        run.expect(name in done.out, "what status says", done.words, f"something about {name}")
        time.sleep(max(0.0, 30 - (time.monotonic() - moment)))
        cluster.signal(pids, signal.SIGCONT)
    else:
        cluster.signal(pids, signal.SIGKILL)
        time.sleep(15)
    time.sleep(3)
    _no_loss(run, probe.stop(), "meanwhile", must=0, aim=0)
    parts.verified(run)
    after = parts.started(cluster, name)
    moved = sorted(one for one in before if after.get(one) != before[one])
    run.expect(not moved, "containers that were started again", moved, "none")


@scenario("full-disk", "the disk of a database member is full", limit=560)
def full_disk(run: Run) -> None:
    """A member's data move to a small file system of their own, which is filled. The others have to go on."""
    cluster = run.cluster
    name = run.turn(list(reversed(cluster.controllers)))
    spare = "/mnt/chaos-disk"
    where = cluster.inside(name, "docker", "volume", "inspect", "-f", "{{.Mountpoint}}", "mariadb").out.strip()
    run.expect(where.startswith("/"), "the volume of the data", where, "a path")

    def steps(*commands: tuple[str, ...]) -> None:
        for command in commands:
            done = cluster.inside(name, *command, timeout=150)
            if done.status != 0:
                raise OSError(f"{' '.join(command)} in {name}: {done.words}")

    def moved_back() -> None:
        for command in (
            ("docker", "stop", "-t", "60", "mariadb"),
            ("umount", where),
            ("umount", spare),
            ("rm", "-rf", spare),
            ("docker", "start", "mariadb"),
        ):
            cluster.inside(name, *command, timeout=100)

    run.undo(moved_back)
    used = int(cluster.inside(name, "du", "-sm", where).out.split()[0])
    # In memory, so that no node needs tools for a file system; what is written takes that much of this machine.
    size = used + 220
    steps(
        ("docker", "stop", "-t", "120", "mariadb"),
        ("mkdir", "-p", spare),
        ("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", spare),
        ("cp", "-a", f"{where}/.", spare),
        ("chown", f"--reference={where}", spare),
        ("mount", "--bind", spare, where),
        ("docker", "start", "mariadb"),
    )
    seconds, ailing = cluster.await_(cluster.members_ail, 120)
    if not run.expect(seconds is not None, "the member on its small disk", "; ".join(ailing), "Synced"):
        return
    parts.make_table(cluster)
    run.undo(lambda: parts.drop_table(cluster))
    probe = parts.watched(run)
    writer = parts.Writer(cluster, every=0.5, filler=2**19, timeout=15)
    run.undo(writer.stop)
    time.sleep(2)
    free = int(cluster.inside(name, "stat", "-f", "-c", "%a %S", where).out.split()[0])
    block = int(cluster.inside(name, "stat", "-f", "-c", "%a %S", where).out.split()[1])
    steps(("fallocate", "-l", str(max(block, free * block - 2**22)), f"{where}/filler"))
    moment = time.monotonic()
    time.sleep(60)
    left = cluster.inside(name, "stat", "-f", "-c", "%a", where).out.strip()
    run.note(
        f"{left} blocks are free after 60 s; the member is {cluster.galera(name).get('local_state_comment', 'away')}"
    )
    run.figure(
        "longest time without a written row",
        figures.gap([*writer.acknowledged.values()], moment, time.monotonic()),
        must=20,
        aim=8,
    )
    _no_loss(run, probe.stop(), "meanwhile")
    writer.stop()
    gone = figures.lost(writer.acknowledged, parts.rows(cluster), moment)
    run.figure("acknowledged rows lost", gone["lost"], must=0, aim=0, unit="rows")
    began = time.monotonic()
    steps(("rm", "-f", f"{where}/filler"))
    seconds, ailing = cluster.await_(cluster.members_ail, 150)
    run.figure(
        "the member is back when there is space again",
        None if seconds is None else time.monotonic() - began,
        must=120,
        aim=30,
    )
    run.done(moved_back)
    seconds, ailing = cluster.await_(cluster.members_ail, 120)
    run.expect(seconds is not None, "the member on its own disk again", "; ".join(ailing), "Synced")
