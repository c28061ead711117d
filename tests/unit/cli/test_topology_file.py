"""Hosts come into a topology.yml and go again; everything else in it stays as it was typed."""

from __future__ import annotations

import stat

import pytest
import yaml

from kolla_salt import topology_file

ADDRESSES = {"api": "192.0.2.23", "tunnel": "198.51.100.23"}

FLOW = """\
# Which hosts there are.

hosts:
  # controllers
  ctl1: {addresses: {api: 192.0.2.11, tunnel: 198.51.100.11}}   # rack 1
  "ctl2": {addresses: {api: 192.0.2.12}}

# Who does what; the first host of a group comes first.
groups:
  control: [ctl1, ctl2]     # two for now
  compute: [ctl1]
  storage: []
  monitoring:
  # more to come
"""
BLOCK = """\
groups:
    compute:
        - cmp1   # the old one
        - cmp2
    control:
    - ctl1
hosts:
    ctl1:
        addresses:
            api: 192.0.2.11
    cmp1:
        addresses: {api: 192.0.2.21}
        # Options that differ on this host:
        # options: {network_interface: bond0}
    cmp2:
        addresses: {api: 192.0.2.22}
        options:
            network_interface: bond0
            # the second card is broken
# the end"""
ONE_LINE = (
    "{hosts: {a: {addresses: {api: 192.0.2.1}}, b: {addresses: {api: 192.0.2.2}}}, "
    "groups: {control: [a, b], compute: [b]}}\n"
)


def lines_added(before: str, after: str) -> list[str]:
    old = before.splitlines()
    return [line for line in after.splitlines() if line not in old]


def test_a_new_host_is_written_like_its_neighbours_and_nothing_else_changes():
    new = topology_file.added(
        FLOW, "cmp9", ["compute", "storage", "monitoring"], ADDRESSES, {"network_interface": "bond1"}
    )
    assert lines_added(FLOW, new) == [
        "  cmp9: {addresses: {api: 192.0.2.23, tunnel: 198.51.100.23}, options: {network_interface: bond1}}",
        "  compute: [ctl1, cmp9]",
        "  storage: [cmp9]",
        "  monitoring: [cmp9]",
    ]
    # It stands with the hosts, not below the comment of what comes next.
    assert new.index("cmp9: {") < new.index("# Who does what")
    assert [line for line in FLOW.splitlines() if "#" in line] == [line for line in new.splitlines() if "#" in line]


def test_a_new_host_in_blocks_keeps_their_indentation():
    new = topology_file.added(BLOCK, "cmp3", ["compute", "control"], ADDRESSES)
    assert lines_added(BLOCK, new) == [
        "        - cmp3",
        "    - cmp3",
        "    cmp3:",
        "        addresses: {api: 192.0.2.23, tunnel: 198.51.100.23}",
    ]
    # A comment that is indented like a host's fields belongs to that host.
    assert new.index("# the second card is broken") < new.index("cmp3:\n") < new.index("# the end")


@pytest.mark.parametrize("text", [FLOW, BLOCK, ONE_LINE], ids=["flow", "block", "one line"])
def test_what_was_added_is_removed_again_without_a_trace(text):
    new = topology_file.added(text, "new.example.org", ["compute", "control"], ADDRESSES)
    assert topology_file.removed(new, "new.example.org") == text
    assert yaml.safe_load(new)["hosts"]["new.example.org"] == {"addresses": ADDRESSES}


def test_groups_that_are_not_there_are_made():
    new = topology_file.added(FLOW, "net1", ["network", "nova-compute-ironic"], ADDRESSES)
    assert yaml.safe_load(new)["groups"]["network"] == ["net1"]
    only_hosts = "hosts:\n  a: {addresses: {api: 192.0.2.1}}"
    new = topology_file.added(only_hosts, "b", ["compute"], ADDRESSES)
    assert new.endswith("groups:\n  compute: [b]\n")


def test_a_member_is_not_listed_twice():
    listed = FLOW.replace("compute: [ctl1]", "compute: [ctl1, cmp9]")
    new = topology_file.added(listed, "cmp9", ["compute"], ADDRESSES)
    assert yaml.safe_load(new)["groups"]["compute"] == ["ctl1", "cmp9"]


def test_removing_a_host_takes_its_lines_out_of_hosts_and_groups():
    new = topology_file.removed(BLOCK, "cmp1")
    assert (
        new
        == """\
groups:
    compute:
        - cmp2
    control:
    - ctl1
hosts:
    ctl1:
        addresses:
            api: 192.0.2.11
    cmp2:
        addresses: {api: 192.0.2.22}
        options:
            network_interface: bond0
            # the second card is broken
# the end"""
    )


def test_a_group_whose_last_member_goes_is_empty_not_gone():
    assert yaml.safe_load(topology_file.removed(BLOCK, "ctl1"))["groups"]["control"] == []
    assert "control: []" in topology_file.removed(BLOCK, "ctl1")
    assert "compute: []" in topology_file.removed(FLOW, "ctl1")


def test_removing_a_host_that_is_not_there_changes_nothing():
    assert topology_file.removed(FLOW, "cmp9") == FLOW


def test_groups_that_share_a_list_are_left_to_the_operator():
    shared = FLOW.replace("control: [ctl1, ctl2]", "control: &ctl [ctl1, ctl2]").replace(
        "compute: [ctl1]", "compute: *ctl"
    )
    with pytest.raises(topology_file.TopologyError, match="by hand") as refused:
        topology_file.added(shared, "cmp9", ["compute"], ADDRESSES)
    assert "cmp9" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"), [("hosts: [", "not valid YAML"), ("- a\n", "no mapping"), ("groups: {}\n", "no host yet")]
)
def test_what_is_no_topology_is_refused(text, said):
    with pytest.raises(topology_file.TopologyError, match=said):
        topology_file.added(text, "cmp9", ["compute"], ADDRESSES)


def test_the_file_keeps_its_mode(tmp_path):
    path = tmp_path / "topology.yml"
    path.write_text(FLOW)
    path.chmod(0o640)
    topology_file.write(path, topology_file.removed(FLOW, "ctl2"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "ctl2" not in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["topology.yml"]
