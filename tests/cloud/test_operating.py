"""What an operator does with a deployed cloud."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from conftest import answer, kolla_salt

from kolla_salt import outcome
from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]


def test_a_second_deploy_changes_nothing_and_is_quick(site):
    began = time.monotonic()
    said = answer("deploy")
    applied = [
        (step["id"], host, change["id"], change["changes"])
        for step in said["steps"]
        for host, did in step["hosts"].items()
        for change in did["changed"]
    ]
    assert (applied, [step["id"] for step in said["steps"]]) == ([], []), "nothing was changed, but steps were applied"
    assert time.monotonic() - began < 30


def test_every_step_applied_again_changes_nothing(site):
    """The dry run could be wrong in saying that nothing is to be done; this does not ask it."""
    said = answer("deploy", "--every-step")
    changed = [change["id"] for step in said["steps"] for host in step["hosts"].values() for change in host["changed"]]
    assert changed == []
    assert said["steps"]


def test_verify_finds_nothing_and_sees_endpoints_and_agents(site):
    said = answer("verify")
    assert said["drift"] == {} and said["problems"] == []
    assert said["endpoints"] and said["agents"]


def test_status_and_validate_config_agree(site):
    said = answer("status")
    assert all(data["state"] == "running" for host in said["hosts"].values() for data in host["containers"].values())
    assert answer("validate-config")["checked"] == sum(len(host["containers"]) for host in said["hosts"].values())


def test_prechecks_accept_a_cloud_that_runs(site):
    said = answer("prechecks")
    assert [finding for finding in said["findings"] if finding["level"] == "error"] == []


def test_a_changed_option_is_planned_then_applied_to_its_own_containers_only(site):
    path = site / "globals.yml"
    before = path.read_text()
    try:
        path.write_text(before + "\nkeystone_logging_debug: true\n")
        plan = answer("plan")
        planned = {item["name"] for found in plan["hosts"].values() for item in found["containers"]}
        assert planned
        assert all(name.startswith("keystone") for name in planned)
        done = answer("reconfigure")
        touched = {
            change["id"]
            for step in done["steps"]
            for host in step["hosts"].values()
            for change in host["changed"]
            if change["function"].startswith("kolla_container.")
        }
        assert touched == planned
    finally:
        path.write_text(before)
        answer("deploy")
    assert answer("plan")["changes"] == 0


def test_drift_is_found_and_mended(site):
    host = next(iter(yaml.safe_load((site / "topology.yml").read_text())["hosts"]))
    assert kolla_salt("sandbox", "exec", host, "--", "docker", "stop", "memcached").returncode == 0
    said = answer("verify", status=1)
    assert "memcached" in json.dumps(said["drift"]) and any("memcached" in problem for problem in said["problems"])
    answer("deploy")
    assert answer("verify")["ok"]


def test_a_switch_that_starts_anew_has_the_flows_that_it_had(site):
    """Neutron's agent, which would set it up in its own time, stays stopped meanwhile."""
    agent, switch = "neutron_openvswitch_agent", "openvswitch_vswitchd"

    def on_the_host(*words):
        done = kolla_salt("sandbox", "exec", "node1", "--", "docker", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def flows():
        command = "for bridge in $(ovs-vsctl list-br); do ovs-ofctl --no-stats --no-names dump-flows $bridge; done"
        return set(on_the_host("exec", switch, "sh", "-c", command).splitlines())

    on_the_host("stop", agent)
    try:
        before = flows()
        assert len(before) > 20
        on_the_host("restart", switch)
        deadline = time.monotonic() + 20
        while on_the_host("exec", switch, "sh", "-c", "ls /run/openvswitch").count("saved-flows"):
            assert time.monotonic() < deadline, "the saved flows are not given back"
            time.sleep(0.2)
        assert flows() == before
    finally:
        on_the_host("start", agent)
    assert answer("verify")["ok"]


def test_no_record_and_no_answer_holds_a_password(site):
    secrets = outcome.secrets_of(yaml.safe_load((site / "passwords.yml").read_text()))
    assert secrets
    kept = [path for path in find_paths().state.rglob("runs/*/*") if path.is_file()]
    assert kept
    for path in kept:
        text = path.read_text()
        assert not [secret for secret in secrets if secret in text], path
    plan = kolla_salt("plan", "--diff").stdout + kolla_salt("plan", "--json").stdout
    assert not [secret for secret in secrets if secret in plan]


def test_a_server_boots_is_reached_and_leaves_nothing_behind(site):
    said = answer("smoke")
    assert said["ok"], said["error"]
    assert said["leftovers"] == []
    assert any(line.startswith("metadata uuid") for line in said["server"]["console"])
    assert next(step["detail"] for step in said["steps"] if step["step"] == "open its screen").startswith("RFB 003.")
