"""A plan is made, looked at and applied, or refused; reality is compared with it: real master and minion, an engine at
its socket."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from cluster import ROOT, Cluster
from engine import Engine

from kolla_salt import declarations, runs

pytestmark = [pytest.mark.salt, pytest.mark.timeout(600)]

SECRET = "a-secret-that-must-not-show"
SETTINGS = ("container_engine", "container_engine_socket", "openstack_release")


@pytest.fixture(scope="module")
def cluster():
    base = Path(tempfile.mkdtemp(prefix="ks", dir="/tmp"))  # short, for unix sockets
    formula = base / "formula"
    shutil.copytree(ROOT / "tests/data/runs_formula/kolla", formula / "kolla")
    shutil.copytree(ROOT / "tests/data/drift_formula", formula, dirs_exist_ok=True)
    (formula / "orch").symlink_to(ROOT / "orch")
    text = yaml.safe_load((formula / "kolla/service.yaml").read_text())
    real = declarations.load(ROOT / "salt")["kolla"]["settings"]
    text["settings"] |= {name: real[name] for name in SETTINGS}
    (formula / "kolla/service.yaml").write_text(yaml.safe_dump(text))
    engine = Engine(base / "engine.sock")
    made = Cluster(
        base, formula, ["c1"], private=["/etc/kolla", "/var/lib/kolla-salt", "/var/log/kolla"],
        master={"timeout": 30, "gather_job_timeout": 60},
        minion={"kolla_container_engine_socket": str(base / "engine.sock")},
    )  # fmt: skip
    made.engine = engine
    made.site.mkdir()
    (made.site / "topology.yml").write_text(
        yaml.safe_dump({"hosts": {"c1": {"addresses": {"api": "127.0.0.2"}}}, "groups": {"control": ["c1"]}})
    )
    (made.site / "passwords.yml").write_text(yaml.safe_dump({"unused": SECRET}))
    values = {"internal_vip_address": "127.0.0.99", "openstack_release": "2026.1", "openstack_tag": "2026.1"}
    (made.site / "globals.yml").write_text(yaml.safe_dump(values))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        engine.shutdown()
        shutil.rmtree(base, ignore_errors=True)


def run(cluster, *arguments, status=0):
    done = cluster.cli(*arguments, "--json")
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture
def deployed(cluster):
    """Both containers run as declared."""
    done = run(cluster, "deploy")
    assert done["deviations"] == []
    cluster.engine.acts.clear()
    return cluster


def test_a_plan_is_applied_as_it_is_and_once(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    plan = run(deployed, "plan", "deploy", "pot", "--out", str(file))
    assert (plan["verb"], plan["services"]) == ("deploy", ["pot"])
    assert [(item["name"], item["action"]) for item in plan["hosts"]["c1"]["containers"]] == [("lid", "start")]
    assert [batch["containers"] for step in plan["order"] for batch in step["batches"]] == [{"c1": {"lid": "started"}}]
    assert deployed.engine.acts == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = run(deployed, "apply", str(file))
    assert (done["result"], done["deviations"], deployed.engine.acts) == ("ok", [], ["start lid"])
    record = deployed.base / "runs" / done["run"]
    kept = json.loads((record / "containers.json").read_text())
    before, after = kept["before"]["c1"], kept["after"]["c1"]
    assert before["pot"]["started"] == after["pot"]["started"] and before["pot"]["id"] == after["pot"]["id"]
    assert before["lid"]["state"] == "exited" and before["lid"]["started"] != after["lid"]["started"]
    for path in [file, *record.iterdir()]:
        assert SECRET.encode() not in path.read_bytes(), path
    again = run(deployed, "apply", str(file), status=1)
    assert "c1: lid (started) is no longer to be done" in again["error"]
    assert deployed.engine.acts == ["start lid"]


def test_the_same_plan_has_nothing_to_do_when_nothing_is_to_be_done(deployed, tmp_path):
    file = tmp_path / "plan"
    assert run(deployed, "plan", "--out", str(file))["changes"] == 0
    done = run(deployed, "apply", str(file))
    assert (done["result"], done["steps"], deployed.engine.acts) == ("ok", [], [])


def test_that_an_engine_started_a_container_again_is_noted_and_no_change(deployed, tmp_path):
    deployed.engine.set("pot", "running")  # as after a power cut
    file = tmp_path / "plan"
    plan = run(deployed, "plan", "--out", str(file))
    assert (plan["changes"], plan["noted"], plan["effects"]) == (0, {"c1": ["pot"]}, [])
    shown = deployed.cli("plan").stdout
    assert "started by others: pot" in shown and "nothing to change, 1 start to be noted" in shown
    done = run(deployed, "apply", str(file))
    assert (done["result"], done["deviations"], done["availability"], deployed.engine.acts) == ("ok", [], None, [])
    [host] = [step["hosts"]["c1"] for step in done["steps"]]
    assert (host["changed"], host["noted"]) == ([], ["pot"])
    assert "noted that it runs: pot" in deployed.cli("runs", "show", done["run"]).stdout
    assert run(deployed, "plan")["noted"] == {"c1": []}
    assert run(deployed, "deploy")["steps"] == []


def test_a_site_that_was_changed_since_is_refused_before_anything_is_touched(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    run(deployed, "plan", "--out", str(file))
    passwords = (deployed.site / "passwords.yml").read_text()
    try:
        (deployed.site / "passwords.yml").write_text(passwords + "more: another-secret-of-the-site\n")
        refused = run(deployed, "apply", str(file), status=1)
    finally:
        (deployed.site / "passwords.yml").write_text(passwords)
    assert "passwords.yml of the site was changed" in refused["error"]
    assert deployed.engine.acts == []
    assert run(deployed, "apply", str(file))["result"] == "ok"


def test_another_container_of_the_same_name_is_another_plan(deployed, tmp_path):
    deployed.engine.set("lid", "exited", 1)
    file = tmp_path / "plan"
    run(deployed, "plan", "--out", str(file))
    deployed.engine.containers["lid"]["Id"] = "f" * 64
    assert "c1: lid (started) differs" in run(deployed, "apply", str(file), status=1)["error"]


def test_an_upgrade_sees_to_what_an_interrupted_one_has_not_seen_well(deployed):
    earlier = runs.create("upgrade", deployed.base / "runs", run_id="20260101-000000-upgrade")
    earlier.close("failed", begun={"pot": "containers"}, phases={}, snapshots={}, **{"from": "2025.2", "to": "2026.1"})
    done = run(deployed, "upgrade")
    assert [(step["role"], step["ok"], list(step["hosts"])) for step in done["steps"]] == [("verify", True, ["c1"])]
    header = runs.load(done["run"], deployed.base / "runs").header()
    assert (header["continues"], header["phases"]) == ([earlier.id], {"pot": ["containers", "verified"]})
    assert deployed.engine.acts == []
    assert run(deployed, "upgrade")["steps"] == []


def test_a_container_that_starts_anew_during_a_run_is_a_deviation(deployed):
    deployed.engine.set("lid", "exited", 1)

    def crash():
        while "start lid" not in deployed.engine.acts:
            time.sleep(0.05)
        deployed.engine.containers["pot"]["RestartCount"] += 1
        deployed.engine.set("pot", "running")

    threading.Thread(target=crash, daemon=True).start()
    done = run(deployed, "deploy", status=1)
    assert done["result"] == "deviated"
    [found] = done["deviations"]
    assert (found["host"], found["container"], found["found"]) == ("c1", "pot", "started")
    assert found["text"].startswith("c1: pot was started anew at ")
    assert found["text"].endswith("though nothing was done to it; the engine says: restarts by the engine: 1")
    shown = deployed.cli("runs", "show", done["run"])
    assert found["text"] in shown.stdout
