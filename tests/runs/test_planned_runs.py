"""A plan is made, looked at and applied, or refused; reality is compared with it: real master and minion, an engine at
its socket."""

from __future__ import annotations

import json
import stat
import threading
import time

import pytest
from engine import cluster_with_engine

from kolla_salt import runs

pytestmark = [pytest.mark.salt, pytest.mark.timeout(600)]

SECRET = "a-secret-that-must-not-show"


@pytest.fixture(scope="module")
def cluster():
    settings = ("container_engine", "container_engine_socket", "openstack_release")
    made = cluster_with_engine(settings, {"unused": SECRET})
    made.options(openstack_release="2026.1", openstack_tag="2026.1")
    with made.running():
        yield made
    made.engine.shutdown()


@pytest.fixture
def deployed(cluster):
    """Both containers run as declared."""
    done = cluster.run("deploy")
    assert done["deviations"] == []
    cluster.engine.acts.clear()
    return cluster


def test_a_plan_is_applied_as_it_is_and_once(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    plan = deployed.run("plan", "deploy", "pot", "--out", str(file))
    assert (plan["verb"], plan["services"]) == ("deploy", ["pot"])
    assert [(item["name"], item["action"]) for item in plan["hosts"]["c1"]["containers"]] == [("lid", "start")]
    assert [batch["containers"] for step in plan["order"] for batch in step["batches"]] == [{"c1": {"lid": "started"}}]
    assert deployed.engine.acts == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = deployed.run("apply", str(file))
    assert (done["result"], done["deviations"], deployed.engine.acts) == ("ok", [], ["start lid"])
    record = deployed.base / "runs" / done["run"]
    kept = json.loads((record / "containers.json").read_text())
    before, after = kept["before"]["c1"], kept["after"]["c1"]
    assert before["pot"]["started"] == after["pot"]["started"] and before["pot"]["id"] == after["pot"]["id"]
    assert before["lid"]["state"] == "exited" and before["lid"]["started"] != after["lid"]["started"]
    for path in [file, *record.iterdir()]:
        assert SECRET.encode() not in path.read_bytes(), path
    again = deployed.run("apply", str(file), status=1)
    assert "c1: lid (started) is no longer to be done" in again["error"]
    assert deployed.engine.acts == ["start lid"]


def test_the_same_plan_has_nothing_to_do_when_nothing_is_to_be_done(deployed, tmp_path):
    file = tmp_path / "plan"
    assert deployed.run("plan", "--out", str(file))["changes"] == 0
    done = deployed.run("apply", str(file))
    assert (done["result"], done["steps"], deployed.engine.acts) == ("ok", [], [])


def test_that_an_engine_started_a_container_again_is_noted_and_no_change(deployed, tmp_path):
    deployed.engine.set("pot", "running")  # as after a power cut
    file = tmp_path / "plan"
    plan = deployed.run("plan", "--out", str(file))
    assert (plan["changes"], plan["noted"], plan["effects"]) == (0, {"c1": ["pot"]}, [])
    shown = deployed.cli("plan").stdout
    assert "started by others: pot" in shown and "nothing to change, 1 start to be noted" in shown
    done = deployed.run("apply", str(file))
    assert (done["result"], done["deviations"], done["availability"], deployed.engine.acts) == ("ok", [], None, [])
    [host] = [step["hosts"]["c1"] for step in done["steps"]]
    assert (host["changed"], host["noted"]) == ([], ["pot"])
    assert "noted that it runs: pot" in deployed.cli("runs", "show", done["run"]).stdout
    assert deployed.run("plan")["noted"] == {"c1": []}
    assert deployed.run("deploy")["steps"] == []


def test_a_site_that_was_changed_since_is_refused_before_anything_is_touched(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    deployed.run("plan", "--out", str(file))
    passwords = (deployed.site / "passwords.yml").read_text()
    try:
        (deployed.site / "passwords.yml").write_text(passwords + "more: another-secret-of-the-site\n")
        refused = deployed.run("apply", str(file), status=1)
    finally:
        (deployed.site / "passwords.yml").write_text(passwords)
    assert "passwords.yml of the site was changed" in refused["error"]
    assert deployed.engine.acts == []
    assert deployed.run("apply", str(file))["result"] == "ok"


def test_another_container_of_the_same_name_is_another_plan(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    deployed.run("plan", "--out", str(file))
    deployed.engine.containers["lid"]["Id"] = "f" * 64
    assert "c1: lid (started) differs" in deployed.run("apply", str(file), status=1)["error"]


def test_an_upgrade_sees_to_what_an_interrupted_one_has_not_seen_well(deployed):
    earlier = runs.create("upgrade", deployed.base / "runs", run_id="20260101-000000-upgrade")
    earlier.close("failed", begun={"pot": "containers"}, phases={}, snapshots={}, **{"from": "2025.2", "to": "2026.1"})
    done = deployed.run("upgrade")
    assert [(step["role"], step["ok"], list(step["hosts"])) for step in done["steps"]] == [("verify", True, ["c1"])]
    header = runs.load(done["run"], deployed.base / "runs").header()
    assert (header["continues"], header["phases"]) == ([earlier.id], {"pot": ["containers", "verified"]})
    assert deployed.engine.acts == []
    assert deployed.run("upgrade")["steps"] == []


def test_a_container_that_starts_anew_during_a_run_is_a_deviation(deployed):
    deployed.engine.set("lid", "exited", 1)

    def crash():
        while "start lid" not in deployed.engine.acts:
            time.sleep(0.05)
        deployed.engine.containers["pot"]["RestartCount"] += 1
        deployed.engine.set("pot", "running")

    threading.Thread(target=crash, daemon=True).start()
    done = deployed.run("deploy", status=1)
    assert done["result"] == "deviated"
    [found] = done["deviations"]
    assert (found["host"], found["container"], found["found"]) == ("c1", "pot", "started")
    assert found["text"].startswith("c1: pot was started anew at ")
    assert found["text"].endswith("though nothing was done to it; the engine says: restarts by the engine: 1")
    shown = deployed.cli("runs", "show", done["run"])
    assert found["text"] in shown.stdout
