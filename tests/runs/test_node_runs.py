"""Hosts come and go: the verb node against a real master with real minions, on a cloud without OpenStack."""

from __future__ import annotations

import pytest
import yaml
from cluster import DATA, Cluster

pytestmark = [pytest.mark.salt, pytest.mark.timeout(300)]

TOPOLOGY = """\
# Who is who.
hosts:
  c1: {addresses: {api: 127.0.0.2}}  # the first
  k1: {addresses: {api: 127.0.0.3}}

groups:
  control: [c1]
  # these do the work
  compute: [k1]
"""


@pytest.fixture(scope="module")
def cluster():
    # No prechecks pass without an engine.
    without = {"kolla_container_engine_socket": "/nonexistent"}
    made = Cluster(DATA / "runs_formula", {"control": ["c1"], "compute": ["k1", "k2"]}, minion=without)
    (made.base / "out").mkdir()
    made.options(root=str(made.base / "out"))
    (made.site / "topology.yml").write_text(TOPOLOGY)
    with made.running():
        made.run("deploy")
        yield made


ADD = ("node", "add", "k2", "--group", "compute", "--address", "api=192.0.2.77")


def topology(cluster):
    return (cluster.site / "topology.yml").read_text()


def files(cluster):
    out = cluster.base / "out"
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_plan_says_who_is_concerned_and_touches_nothing(cluster):
    before = files(cluster), sorted((cluster.base / "runs").iterdir())
    plan = cluster.run(*ADD, "--plan")
    assert plan["ok"] is True
    assert plan["concerned"] == {"c1": ["kolla"], "k1": ["kolla"], "k2": None}
    assert [line for line in plan["topology"] if line.startswith("+")] == [
        "+  k2: {addresses: {api: 192.0.2.77}}",
        "+  compute: [k1, k2]",
    ]
    assert topology(cluster) == TOPOLOGY
    assert (files(cluster), sorted((cluster.base / "runs").iterdir())) == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["k2"], "it needs --group and --address api=IP"),
        (["k2", "--group", "compute", "--address", "api:192.0.2.77"], "expected NAME=VALUE"),
        (["k2", "--group", "compte", "--address", "api=192.0.2.77"], "did you mean 'compute'?"),
        (["k2", "--group", "compute", "--address", "api=127.0.0.3"], "host k1 has the same"),
        (["k9", "--group", "compute", "--address", "api=192.0.2.79"], "k9 does not answer"),
        (["k1", "--group", "control"], "it is not in the group control"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(cluster, arguments, text):
    done = cluster.cli("node", "add", *arguments)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert topology(cluster) == TOPOLOGY


def test_a_host_that_fails_its_prechecks_is_taken_out_again(cluster):
    answer = cluster.run(*ADD, status=1)
    assert "k2 cannot be deployed to; it was taken out of topology.yml again" in answer["error"]
    assert topology(cluster) == TOPOLOGY
    shown = cluster.run("runs", "show")
    assert (shown["verb"], shown["node"], shown["result"]) == ("node-add", "k2", "failed")


def test_a_host_is_added_and_only_it_and_what_must_know_it_is_touched(cluster):
    drift = cluster.base / "out" / "c1" / "store"
    drift.unlink()
    before = files(cluster)
    added = cluster.run(*ADD, "--skip-prechecks")
    assert added["ok"] is True
    new = {name: time for name, time in files(cluster).items() if before.get(name) != time}
    assert {name.split("/")[0] for name in new} == {"k2"}
    assert not drift.exists(), "what differs elsewhere is another run's business"
    assert yaml.safe_load(topology(cluster))["groups"]["compute"] == ["k1", "k2"]
    assert [line for line in TOPOLOGY.splitlines() if "#" in line] == [
        line for line in topology(cluster).splitlines() if "#" in line
    ]
    shown = cluster.run("runs", "show")
    assert (shown["verb"], shown["node"], shown["result"]) == ("node-add", "k2", "ok")
    assert shown["id"] == added["run"]
    assert cluster.cli("deploy").returncode == 0


def test_adding_it_again_finds_nothing_to_do(cluster):
    before = files(cluster), topology(cluster)
    again = cluster.run("node", "add", "k2", "--skip-prechecks")
    assert [step["said"] for step in again["done"]] == ["nothing had to be changed"]
    assert (files(cluster), topology(cluster)) == before


def test_the_last_host_of_a_group_stays(cluster):
    done = cluster.cli("node", "remove", "c1")
    assert done.returncode == 1
    assert "removing c1: the site needs it" in done.stderr and "kolla:topology:groups:store" in done.stderr


def test_a_dead_host_is_removed_and_the_file_is_as_it_was(cluster):
    cluster.stop_one("k2")
    plan = cluster.run("node", "remove", "k2", "--plan")
    assert [text.split("\n")[0] for text in plan["plan"]] == [
        f"take k2 out of {cluster.site}/topology.yml",
        "deploy what must know that it is gone",
    ]
    assert cluster.run("node", "remove", "k2")["ok"] is True
    assert topology(cluster) == TOPOLOGY


def test_removing_it_again_finds_nothing_to_do(cluster):
    done = cluster.cli("node", "remove", "k2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing remembers it" in done.stdout


def test_a_host_that_only_lost_its_minion_is_not_taken_for_dead(cluster):
    text = TOPOLOGY.replace("  k1:", "  k3: {addresses: {api: 127.0.0.4}}\n  k1:").replace("[k1]", "[k1, k3]")
    (cluster.site / "topology.yml").write_text(text)
    try:
        done = cluster.cli("node", "remove", "k3")
        assert done.returncode == 1
        assert "127.0.0.4 answers a ping, so it is not dead" in done.stderr
        assert topology(cluster) == text
    finally:
        (cluster.site / "topology.yml").write_text(TOPOLOGY)


def test_a_host_nobody_knows_is_named_with_the_nearest(cluster):
    for command in ("drain", "undrain", "replace"):
        done = cluster.cli("node", command, "k11")
        assert done.returncode == 1
        assert "no such host" in done.stderr and "did you mean 'k1'?" in done.stderr
