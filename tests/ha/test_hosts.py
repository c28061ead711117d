"""A compute host joins, is emptied and leaves; a controller is lost with all its disks and replaced. In this order."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import yaml

from kolla_salt.ping import ping
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.ha, pytest.mark.timeout(1800)]

NEW, LOST = "node5", "node2"


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
        address = said["server"]["address"]

        @staticmethod
        def host():
            return link.compute.get_server(said["server"]["id"]).compute_host

    return Server


def test_a_compute_host_joins_within_minutes_and_nothing_else_restarts(before, server):
    others = ["node1", "node2", "node3", "node4"]
    at_first = started(others)
    number = topo.Node(NEW, 5)
    address = ["--address", f"api={number.api_address}", "--address", f"tunnel={number.tunnel_address}"]
    plan = kolla_salt("node", "add", NEW, "--group", "compute", *address, "--plan")
    assert plan["concerned"][NEW] is None and plan["concerned"]["node2"] == ["kolla"]
    assert topology() == before
    said = kolla_salt("node", "add", NEW, "--group", "compute", *address)
    assert said["seconds"] < 180
    assert started(others) == at_first
    again = kolla_salt("node", "add", NEW)
    assert again["done"][-1]["said"] == "nothing had to be changed"


def test_a_server_moves_away_from_a_drained_host_and_is_reached_all_the_time(before, server):
    source = server.host()
    target = "node4" if source == NEW else NEW
    assert ping(server.address)
    kolla_salt("node", "drain", source)
    assert server.host() == target
    assert ping(server.address, timeout=5)
    assert kolla_salt("node", "drain", source)["done"] == []
    kolla_salt("node", "undrain", source)
    assert kolla_salt("node", "undrain", source)["done"] == []


def test_a_host_is_not_removed_before_it_is_drained_and_then_without_a_trace(before, server):
    refused = kolla_salt("node", "remove", NEW, status=1)
    assert "Nova may place servers on it" in refused["error"]
    kolla_salt("node", "drain", NEW)
    kolla_salt("node", "remove", NEW)
    assert topology() == before
    assert kolla_salt("node", "remove", NEW)["done"] == []
    await_well()


def test_a_controller_gives_away_what_it_does_and_takes_it_again(before, server):
    kolla_salt("node", "drain", LOST)
    refused = kolla_salt("node", "drain", "node4", status=1)
    assert "no other compute host is up and enabled" in refused["error"]
    assert ping(server.address, timeout=5)
    kolla_salt("node", "undrain", LOST)


def test_a_controller_that_lost_everything_is_replaced(before, server):
    kolla_salt("sandbox", "replace", LOST)
    said = kolla_salt("node", "replace", LOST)
    assert [step["ok"] for step in said["done"]] == [True] * len(said["done"])
    assert ping(server.address, timeout=5)
    await_well()
    assert kolla_salt("node", "replace", LOST)["ok"]
