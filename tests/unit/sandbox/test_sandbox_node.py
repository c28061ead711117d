from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kolla_salt.sandbox import node, topology
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.host import Process
from kolla_salt.sandbox.node import Running
from kolla_salt.sandbox.paths import Paths

STATE = "/var/lib/kolla-salt/sandbox"


def process(pid: int, name: str, nspids: tuple[int, ...], argv0: str = "/usr/bin/tini", state: str = STATE) -> Process:
    return Process(pid, (argv0, "--", "kolla-salt-node", state, name, "d1"), nspids)


def test_nodes_are_found_in_the_process_table() -> None:
    table = [
        process(10, "node1", (10,), "unshare"),
        process(11, "node1", (11, 1)),
        process(12, "node1", (12, 110), "/bin/sh"),
        process(13, "node2", (13, 1), "/bin/sh"),
        process(14, "node3", (14, 1), state="/srv/other"),
        Process(15, ("vi", "kolla-salt-node"), (15,)),
    ]
    assert node.running_nodes(table, STATE) == {"node1": [Running(11, "d1", True)], "node2": [Running(13, "d1", False)]}


def test_seen_from_inside_a_pid_namespace() -> None:
    # /proc shows the outermost id first; the machine itself may be a container.
    assert node.running_nodes([process(11, "node1", (4711, 11, 1))], STATE) == {"node1": [Running(11, "d1", True)]}


def test_file_is_reached_through_the_running_node(paths: Paths) -> None:
    assert node.file_in_node(paths, "node1", "etc/hosts", None) == paths.state / "nodes/node1/upper/etc/hosts"
    assert node.file_in_node(paths, "node1", "etc/hosts", Running(5, "d", True)) == Path("/proc/5/root/etc/hosts")


def test_a_node_that_does_not_run_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "find_nodes", lambda _: {"node1": [Running(5, "d", True)]})
    assert node.find_node(paths, "node1").pid == 5
    with pytest.raises(SandboxError, match="running: node1"):
        node.find_node(paths, "node2")


def test_engine_config_suits_host_networking() -> None:
    config = json.loads(node.daemon_config())
    assert config["insecure-registries"] == [topology.REGISTRY]
    assert config["bridge"] == "none"
    assert not config["iptables"]
    assert config["live-restore"]


def test_minion_config() -> None:
    config = yaml.safe_load(node.minion_config(topology.nodes_for(2)[1]))
    assert "state_max_parallel" not in config
    assert yaml.safe_load(node.minion_config(topology.nodes_for(4)[1], 4))["state_max_parallel"] == 3
    assert (config["id"], config["master"], config["publish_port"]) == ("node2", "10.99.0.1", 14505)


def test_prepare_files_leaves_the_engines_config_to_its_later_owner(paths: Paths) -> None:
    nodes = topology.nodes_for(1)
    node.prepare_files(paths, nodes[0], nodes, None)
    upper = paths.node("node1") / "upper"
    machine_id = (upper / "etc/machine-id").read_text()
    (upper / "etc/docker/daemon.json").write_text("{}")
    node.prepare_files(paths, nodes[0], topology.nodes_for(2), None)
    assert (upper / "etc/docker/daemon.json").read_text() == "{}"
    assert (upper / "etc/machine-id").read_text() == machine_id
    assert "10.99.0.12 node2" in (upper / "etc/hosts").read_text()
    assert (upper / "etc/hostname").read_text() == "node1\n"


def test_what_a_node_sets_at_its_start_is_its_network_and_not_the_machine() -> None:
    texts = [
        "# a comment\nnet.ipv4.ip_nonlocal_bind = 1\nkernel.pid_max = 99\n",
        "net.ipv4.ip_nonlocal_bind=0\nnet.core.x = a b\n",
    ]
    assert node.network_parameters(texts) == ["net.ipv4.ip_nonlocal_bind=0", "net.core.x=a b"]
    assert node.network_parameters([]) == []


def test_enter_command_joins_all_namespaces() -> None:
    command = node.enter_command(Running(5, "d", True), ["ls", "-l"], {"TERM": "dumb"})
    assert command[:2] == ["nsenter", "--target=5"]
    assert {"--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"} < set(command)
    assert command[-3:] == ["TERM=dumb", "ls", "-l"]


def test_daemons_among_the_nodes_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    minion = ("/opt/kolla-salt/bin/python3", "/opt/kolla-salt/bin/salt-minion", "-c", "/etc/salt")
    inside = {
        1: Process(100, ("/usr/bin/tini",), (100, 1)),
        20: Process(120, ("dockerd",), (120, 20)),
        30: Process(130, minion, (130, 30)),
        31: Process(131, (" ".join(minion) + " MinionProcessManager",), (131, 31)),
        40: Process(140, ("grep", "dockerd"), (140, 40)),
    }
    monkeypatch.setattr(node, "processes_in", lambda *_: inside)
    assert node.daemon_pids(Running(100, "d", True), []) == {"dockerd": 120, "minion": 130}
    monkeypatch.setattr(node, "processes_in", lambda *_: {1: inside[1]})
    assert node.daemon_pids(Running(100, "d", True), []) == {"dockerd": None, "minion": None}


def test_a_killed_node_loses_its_network_before_its_processes(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(node.host, "run", lambda command, *_, **__: done.append(" ".join(command)))
    monkeypatch.setattr(node.host, "kill_all", lambda *_, **__: done.append("killed") or 1)
    monkeypatch.setattr(node.host, "remove_cgroup", lambda *_: None)
    monkeypatch.setattr(node, "find_nodes", lambda _: {})
    assert node.kill(paths, "node2")
    cards = [f"ip link set dev ks-node2-{nic} down" for nic in range(3)]
    assert done == [*cards, "killed"]
