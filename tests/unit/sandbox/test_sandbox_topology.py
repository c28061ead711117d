from __future__ import annotations

import pytest
import yaml

from kolla_salt.sandbox import topology
from kolla_salt.sandbox.errors import SandboxError


@pytest.mark.parametrize(
    ("count", "control", "compute"),
    [
        (1, ["node1"], ["node1"]),
        (2, ["node1"], ["node2"]),
        (3, ["node1", "node2", "node3"], ["node1", "node2", "node3"]),
        (4, ["node1", "node2", "node3"], ["node4"]),
        (6, ["node1", "node2", "node3"], ["node4", "node5", "node6"]),
    ],
)
def test_layout(count: int, control: list[str], compute: list[str]) -> None:
    groups = topology.layout(count)
    assert groups["control"] == groups["network"] == control
    assert groups["compute"] == compute
    assert groups["storage"] == groups["monitoring"] == []


@pytest.mark.parametrize("count", [0, -1, 101])
def test_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(SandboxError, match=f"--nodes {count}"):
        topology.nodes_for(count)


def test_addresses_and_names_are_unique_and_fit() -> None:
    nodes = topology.nodes_for(topology.MOST_NODES)
    addresses = {node.api_address for node in nodes}
    assert len(addresses) == len(nodes)
    assert not addresses & {topology.HOST_API, topology.VIP}
    assert all(int(address.rsplit(".", 1)[1]) < 255 for address in addresses)
    assert len({node.mac(nic) for node in nodes for nic in range(3)}) == 3 * len(nodes)
    # The kernel's limit for names of network devices.
    assert all(len(node.interface(1)) <= 15 for node in nodes)


def test_topology_names_every_node_once() -> None:
    data = topology.topology(4)
    assert list(data["hosts"]) == ["node1", "node2", "node3", "node4"]
    assert data["hosts"]["node4"]["addresses"] == {"api": "10.99.0.14", "tunnel": "10.97.0.14"}


def test_globals_use_the_sandbox_registry_and_names_without_prefix() -> None:
    options = topology.globals_for(1, "2025.2")
    assert options["openstack_release"] == "2025.2"
    assert options["docker_registry"] == "10.99.0.1:4000"
    assert options["internal_vip_address"] == "10.99.0.10"
    assert not [name for name in options if name.startswith("kolla_")]


def test_generated_file_is_recognised_until_edited() -> None:
    text = topology.generated_file(topology.topology(2))
    assert yaml.safe_load(text) == topology.topology(2)
    assert topology.is_unedited(text)
    assert not topology.is_unedited(text + "extra: 1\n")
    assert not topology.is_unedited(text.replace("node2", "node9"))
    assert not topology.is_unedited("hosts: {}\n")
    assert not topology.is_unedited("")


def test_generated_yaml_has_no_aliases() -> None:
    # control and network are the same list: `&id001` would puzzle whoever edits the file.
    assert "&" not in topology.generated_file(topology.topology(4))


def test_hosts_block_is_put_in_once_and_leaves_the_rest() -> None:
    text = "127.0.0.1 localhost\n"
    one = topology.with_hosts_block(text, topology.nodes_for(1))
    three = topology.with_hosts_block(one + "192.0.2.1 other\n", topology.nodes_for(3))
    assert three.count("BEGIN") == 1
    assert three.startswith(text)
    assert three.endswith("192.0.2.1 other\n")
    assert "10.99.0.13 node3\n" in three
    assert topology.with_hosts_block(three, topology.nodes_for(3)) == three


def test_hosts_block_after_a_line_without_end() -> None:
    assert topology.with_hosts_block("127.0.0.1 localhost", topology.nodes_for(1)).startswith("127.0.0.1 localhost\n#")
