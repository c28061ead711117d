"""Compute hosts join, are emptied, leave, die; the first controller loses its disks and is replaced. In this order."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import yaml

from benchmarks.chaos import parts, watch
from kolla_salt.ping import ping
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.ha, pytest.mark.timeout(1800)]

NEW = topo.Node("node5", 5)
#: The first of all groups: what is done once per cloud is done there. And one that is not.
FIRST, OTHER = "node1", "node3"


def kolla_salt(*arguments, status=0, timeout=900):
    """Run a command with ``--json`` and return its document."""
    command = [sys.executable, "-m", "kolla_salt.cli.main", *arguments, "--json"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=timeout, check=False)
    assert status is None or done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def started(nodes):
    """Return when each container of ``nodes`` was started: what was restarted meanwhile has another time."""
    found = {}
    for name in nodes:
        words = ["sandbox", "exec", name, "--", "sh", "-c"]
        inspect = "docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q)"
        done = subprocess.run(
            [sys.executable, "-m", "kolla_salt.cli.main", *words, inspect], text=True, capture_output=True, check=True
        )
        found[name] = dict(line.split() for line in done.stdout.splitlines())
    return found


def await_well(seconds=180):
    """Wait until nothing is wrong: a container that was just started is looked at after a while."""
    deadline = time.monotonic() + seconds
    while not (said := kolla_salt("verify", status=None))["ok"]:
        assert time.monotonic() < deadline, [said["drift"], said["problems"], said["unknown"]]
        time.sleep(5)


def reached(pings):
    """Stop pinging and return for how many seconds at most there was no answer."""
    attempts = pings.stop()
    times = [attempts[0].begun, *pings.good, attempts[-1].ended]
    return max(after - before for before, after in zip(times, times[1:], strict=False))


def queues():
    """Return the kinds and numbers of members of all queues and streams with copies."""
    asked = ["rabbitmqctl", "--quiet", "list_queues", "type", "members", "--formatter", "json"]
    words = ["sandbox", "exec", FIRST, "--", "docker", "exec", "rabbitmq", *asked]
    command = [sys.executable, "-m", "kolla_salt.cli.main", *words]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    return {(queue["type"], len(queue["members"])) for queue in json.loads(done.stdout) if queue.get("members")}


def add(*more):
    """Add the fifth machine as a compute host."""
    address = ["--address", f"api={NEW.api_address}", "--address", f"tunnel={NEW.tunnel_address}"]
    return kolla_salt("node", "add", NEW.name, "--group", "compute", *address, *more)


def empty(host):
    """Drain a host, and let it take servers again."""
    kolla_salt("node", "drain", host)
    kolla_salt("node", "undrain", host)


def topology():
    return (find_paths().site / "topology.yml").read_text()


@pytest.fixture(scope="module")
def before(cluster):
    """The topology as it was; a fifth machine stands beside the cloud."""
    text = topology()
    old = sorted(yaml.safe_load(text)["hosts"])
    assert old == ["node1", "node2", "node3", "node4"], "expected three controllers and one compute host"
    kolla_salt("sandbox", "up", "--nodes", "5", "--keep-site")
    assert topology() == text
    yield text
    kolla_salt("sandbox", "up", "--nodes", "4")


@pytest.fixture(scope="module")
def server(before):
    """A server that runs, with a floating IP."""
    import openstack

    from kolla_salt import clouds
    from kolla_salt.cli.look import Cloud

    said = kolla_salt("smoke", "--keep")
    assert said["ok"], said
    cloud = Cloud(find_paths().site)
    entry = dict(clouds.access(cloud.resolver, cloud.site.passwords, "internal"))
    link = openstack.connect(load_yaml_config=False, load_envvars=False, **entry)

    class Server:
        name, address = said["server"]["name"], said["server"]["address"]

        @staticmethod
        def host():
            return link.compute.get_server(said["server"]["id"]).compute_host

        @classmethod
        def answers(cls, seconds=90):
            """Return whether it answers within the time in which it starts."""
            deadline = time.monotonic() + seconds
            while not ping(cls.address):
                if time.monotonic() > deadline:
                    return False
                time.sleep(1)
            return True

    return Server


def test_what_a_check_left_that_was_killed_is_removed_by_the_next(cluster):
    link = cluster.connection()
    process = cluster.begin("smoke", "--json")
    deadline = time.monotonic() + 120
    while not list(link.compute.servers(name="^kolla-salt-smoke-server$")):
        assert process.poll() is None and time.monotonic() < deadline, "no server of the check was seen"
        time.sleep(1)
    cluster.end(process)
    assert list(link.network.routers(name="kolla-salt-smoke-router"))
    assert kolla_salt("smoke")["ok"]
    assert not list(link.network.routers(name="kolla-salt-smoke-router"))


def test_a_compute_host_joins_within_minutes_and_nothing_else_restarts(before, server):
    others = ["node1", "node2", "node3", "node4"]
    at_first = started(others)
    plan = add("--plan")
    assert plan["concerned"][NEW.name] is None and plan["concerned"]["node2"] == ["kolla"]
    assert topology() == before
    assert add()["seconds"] < 300, "images fetched; with them there: see below"
    assert started(others) == at_first
    again = kolla_salt("node", "add", NEW.name)
    assert again["done"][-1]["said"] == "nothing had to be changed"


def test_a_server_moves_away_from_a_drained_host_and_is_reached_meanwhile(before, server):
    source = server.host()
    target = "node4" if source == NEW.name else NEW.name
    pings = watch.pinging(server.address)
    pings.start()
    kolla_salt("node", "drain", source)
    assert reached(pings) < 15
    assert server.host() == target
    assert kolla_salt("node", "drain", source)["done"] == []
    kolla_salt("node", "undrain", source)
    assert kolla_salt("node", "undrain", source)["done"] == []


def test_a_server_is_stopped_and_moved_where_that_is_asked_for(before, server):
    source = server.host()
    kolla_salt("node", "drain", source, "--cold")
    assert server.host() == ("node4" if source == NEW.name else NEW.name)
    assert server.answers()
    kolla_salt("node", "undrain", source)


def test_a_host_is_not_removed_before_it_is_drained_and_then_without_a_trace(before, server):
    refused = kolla_salt("node", "remove", NEW.name, status=1)
    assert "Nova may place servers on it" in refused["error"]
    kolla_salt("node", "drain", NEW.name)
    kolla_salt("node", "remove", NEW.name)
    assert topology() == before
    assert kolla_salt("node", "remove", NEW.name)["done"] == []
    await_well()


def test_servers_of_a_dead_host_are_made_anew_where_that_is_asked_for(before, server):
    assert add()["seconds"] < 180, "the images are there"
    empty("node4")
    assert server.host() == NEW.name
    kolla_salt("sandbox", "kill", NEW.name)
    refused = kolla_salt("node", "remove", NEW.name, status=1)
    assert "--force" in refused["error"] and server.name in refused["error"]
    assert topology() != before
    kolla_salt("node", "remove", NEW.name, "--force")
    assert server.host() == "node4"
    assert server.answers()
    assert topology() == before
    await_well()


def test_a_controller_gives_away_what_it_does_and_takes_it_again(before, server):
    pings = watch.pinging(server.address)
    pings.start()
    kolla_salt("node", "drain", OTHER)
    assert reached(pings) < 15
    refused = kolla_salt("node", "drain", "node4", status=1)
    assert "no other compute host is up and enabled" in refused["error"]
    kolla_salt("node", "undrain", OTHER)


def test_the_first_controller_that_lost_everything_is_replaced(before, server, cluster):
    parts.make_table(cluster)
    writer, pings = parts.Writer(cluster), watch.pinging(server.address)
    pings.start()
    kolla_salt("sandbox", "replace", FIRST)
    said = kolla_salt("node", "replace", FIRST)
    assert [step["ok"] for step in said["done"]] == [True] * len(said["done"])
    assert reached(pings) < 30
    writer.stop()
    assert set(writer.acknowledged) <= set(parts.rows(cluster))
    parts.drop_table(cluster)
    assert queues() == {("quorum", 3), ("stream", 3)}
    await_well()
    assert kolla_salt("node", "replace", FIRST)["ok"]
