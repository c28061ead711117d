"""Who has to know that a host comes or goes, and when it must not go."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kolla_salt import declarations, nodes, paths, steps
from kolla_salt.context import Resolver

SCENARIO = yaml.safe_load((Path(__file__).parents[2] / "data/scenarios/ha3.yaml").read_text())


@pytest.fixture(scope="module")
def decls():
    return declarations.load()


@pytest.fixture(scope="module")
def read():
    return nodes.groups_read(paths.formula_root())


def resolver(decls, hosts=None, groups=None):
    site = {key: SCENARIO[key] for key in ("globals", "topology", "passwords") if key in SCENARIO}
    known = dict(site["topology"]["hosts"])
    known.update(hosts or {})
    members = {name: list(names or []) for name, names in site["topology"]["groups"].items()}
    for group, name in (groups or {}).items():
        members.setdefault(group, []).append(name)
    return Resolver(decls, {**site, "topology": {"hosts": known, "groups": members}}, next(iter(known)))


NEW = {"new1": {"addresses": {"api": "192.0.2.99", "tunnel": "198.51.100.99"}}}


def test_a_compute_node_concerns_others_by_its_name_and_the_finishing_step_alone(decls, read):
    small, large = resolver(decls), resolver(decls, NEW, {"compute": "new1"})
    only = nodes.concerned("new1", large, small, read)
    first, *others = list(small.topology_hosts)
    assert only["new1"] is None
    assert only[first] == ["kolla", "nova.compute_hosts"]
    assert {name: only[name] for name in others} == {name: ["kolla"] for name in others}


def test_nothing_on_a_controller_is_applied_for_a_compute_node_but_names_and_finish(decls, read):
    from kolla_salt import plan

    small, large = resolver(decls), resolver(decls, NEW, {"compute": "new1"})
    only = nodes.concerned("new1", large, small, read)
    applied = {
        (host, sls)
        for step in plan.steps(large)
        for host in step["minions"]
        for sls in step["sls"]
        if host != "new1" and steps.within(only, host, sls)
    }
    assert {sls for _, sls in applied} == {"kolla", "nova.compute_hosts"}
    assert {host for host, sls in applied if sls == "kolla"} == set(small.topology_hosts)


@pytest.mark.parametrize("group", ["control", "network", "rabbitmq", "memcached", "mariadb"])
def test_a_member_of_a_list_that_others_read_concerns_the_whole_cloud(decls, read, group):
    members = {group: "new1"}
    small = resolver(decls)
    large = resolver(decls, NEW, members)
    if group not in SCENARIO["topology"]["groups"]:
        large.topology_groups[group] = [*small.hosts(group), "new1"]
    assert nodes.concerned("new1", large, small, read) is None


def test_groups_are_found_where_templates_and_declarations_read_their_members(tmp_path):
    (tmp_path / "a/files").mkdir(parents=True)
    (tmp_path / "a/service.yaml").write_text("settings: {x: {default: \"{{ len(hosts('ring')) > 1 }}\"}}\n")
    (tmp_path / "a/files/b.j2").write_text("{{ primary(\"head\") }} {% if in_group('alone') %}x{% endif %}")
    assert nodes.groups_read(tmp_path) == {"ring", "head"}


def test_a_restricted_run_leaves_everything_else_alone():
    progress = steps.Progress(requires={"web": []}, primaries={"web": "c1"}, only={"c1": ["web.finish"], "c2": None})
    step = {"role": "rest", "sls": ["web"], "minions": ["c1", "c2", "c3"]}
    assert progress.targets(step) == ({"c2": ["web"]}, {})
    finish = {"role": "finish", "sls": ["web.finish"], "minions": ["c1"]}
    assert progress.targets(finish) == ({"c1": ["web.finish"]}, {})


@pytest.mark.parametrize(
    ("members", "working", "said"),
    [
        (["c1", "c2", "c3"], ["c1", "c2", "c3"], ""),
        (["c1", "c2", "c3"], ["c2", "c3"], ""),
        (["c1", "c2", "c3"], ["c1", "c3"], "1 of 3 members would work (c3)"),
        (["c1", "c2"], ["c1", "c2"], "1 of 2 members would work (c2)"),
        (["c1"], ["c1"], "0 of 1 members would work (none)"),
        (["c2", "c3"], ["c2"], ""),
    ],
)
def test_a_host_stays_where_a_cluster_would_lose_its_majority(members, working, said):
    why = nodes.quorum("the database", "c1", members, working)
    assert (said in why) if said else why == ""
    if said and len(working) < len(members):
        assert "mend c2 first" in why


def test_words_of_the_command_line_become_a_mapping():
    assert nodes.parse_pairs(["api=10.0.0.5", "tunnel = 10.1.0.5"], "--address") == {
        "api": "10.0.0.5",
        "tunnel": "10.1.0.5",
    }
    with pytest.raises(ValueError, match=r"--address 10\.0\.0\.5: expected NAME=VALUE"):
        nodes.parse_pairs(["10.0.0.5"], "--address")


def test_a_host_that_is_there_already_is_compared_with_what_is_asked_for():
    known = {"addresses": {"api": "10.0.0.5"}}
    assert nodes.differs(known, {"api": "10.0.0.5"}, {}) == []
    assert nodes.differs(known, {"api": "10.0.0.6"}, {"network_interface": "bond0"}) == [
        "addresses:api is '10.0.0.5', '10.0.0.6' was asked for",
        "options:network_interface is None, 'bond0' was asked for",
    ]
