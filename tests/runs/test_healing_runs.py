"""A host is watched, and what has stopped by itself is healed: real master and minion, an engine at its socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time

import pytest
from cluster import BIN, ROOT
from engine import cluster_with_engine

from kolla_salt import declarations

pytestmark = [pytest.mark.salt, pytest.mark.timeout(900)]

OPTIONS = (
    "drift_watch_interval", "drift_compare_minutes", "drift_heal", "drift_heal_limit", "container_engine",
    "container_engine_socket",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    healing = {"reactor": [{"kolla/drift/*": ["salt://orch/heal.sls"]}]}
    made = cluster_with_engine(OPTIONS, master=healing, minion={"loop_interval": 1})
    configure(made)
    with made.running():
        yield made
    made.engine.shutdown()


def configure(cluster, **options):
    cluster.options(**{"drift_watch_interval": 1, "drift_compare_minutes": 0, "drift_heal": True, **options})


def salt(cluster, *words):
    command = [str(BIN / "salt"), "-c", str(cluster.config.parent), "c1", *words, "--out=json", "--static"]
    done = subprocess.run(command, env=cluster.environ, capture_output=True, text=True, timeout=90, check=False)
    return json.loads(done.stdout)["c1"]


def reconfigure(cluster, **options):
    configure(cluster, **options)
    salt(cluster, "saltutil.refresh_pillar", "wait=True")


@pytest.fixture
def deployed(cluster):
    """The two containers run as declared, and nobody remembers a healing."""
    shutil.rmtree(cluster.base / "runs" / ".heal", ignore_errors=True)
    reconfigure(cluster)
    cluster.run("deploy")
    cluster.engine.fails.clear()
    cluster.engine.acts.clear()
    looked(cluster)  # the beacon has seen them well
    return cluster


class Bus:
    """The events kolla/drift/* of the master's bus."""

    def __init__(self, cluster):
        words = [str(BIN / "salt-run"), "-c", str(cluster.config.parent), "state.event", "kolla/drift/*"]
        self.process = subprocess.Popen(
            words, env=cluster.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.events = []
        threading.Thread(target=self._read, daemon=True).start()
        time.sleep(15)  # until it listens, also on a machine with much to do

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("kolla/drift/"):
                self.events.append(json.loads(line.split("\t", 1)[1]))

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.kill()
        self.process.wait()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.3)


def looked(cluster, times=3):
    """Wait until the beacon has looked that often; nobody else looks at the engine meanwhile."""
    seen = cluster.engine.looks
    until(lambda: cluster.engine.looks >= seen + times, 60)


def heals(cluster):
    listed = json.loads(cluster.cli("runs", "list", "--json").stdout)
    return [run for run in (listed["runs"] if isinstance(listed, dict) else listed) if run["verb"] == "heal"]


def state(cluster, name):
    return cluster.engine.containers[name]["State"]["Status"]


def test_what_is_well_is_not_told_and_what_stops_is_told_once_and_healed(deployed):
    with Bus(deployed) as bus:
        looked(deployed)
        assert bus.events == []
        before = len(heals(deployed))
        deployed.engine.set("pot", "exited", 128)
        until(lambda: state(deployed, "pot") == "running")
        until(lambda: len(bus.events) == 2)
    told = [event["data"]["containers"] for event in bus.events]
    assert told == [
        {"pot": {"was": "running", "now": "exited (128)"}},
        {"pot": {"was": "exited (128)", "now": "running"}},
    ]
    assert deployed.engine.acts == ["start pot"]
    record = heals(deployed)[-1]
    assert len(heals(deployed)) == before + 1
    assert (record["result"], record["host"], record["started_again"]) == ("ok", "c1", ["pot"])
    assert json.loads(deployed.cli("plan", "--json").stdout)["changes"] == 0


def test_what_was_stopped_with_kolla_salt_stays_stopped_and_verify_leaves_it_to_a_person(deployed):
    assert salt(deployed, "kolla_container.stop", "pot") is True
    looked(deployed, 6)
    assert state(deployed, "pot") == "exited"
    said = json.loads(deployed.cli("verify", "--json").stdout)
    assert said["ok"] is False
    found = [item for item in said["findings"] if item["name"] == "pot"]
    assert [item["winner"] for item in found] == ["undecided"]
    assert "stopped with kolla-salt at" in found[0]["found"]
    assert json.loads(deployed.cli("deploy", "--json").stdout)["ok"]
    assert json.loads(deployed.cli("verify", "--json").stdout)["findings"] == []


def test_what_would_be_more_than_a_start_is_not_healed(deployed):
    reconfigure(deployed, pot_size="2")
    deployed.engine.set("pot", "exited", 1)
    deployed.engine.set("lid", "exited", 1)
    until(lambda: state(deployed, "lid") == "running")
    looked(deployed)
    assert state(deployed, "pot") == "exited"
    assert deployed.engine.acts == ["start lid"]


def test_nothing_is_healed_while_a_run_goes_on(deployed):
    folder = deployed.base / "runs" / "20990101-000000-deploy"
    folder.mkdir(mode=0o700)
    # This test is the process of the run.
    (folder / "run.json").write_text(
        json.dumps({"id": folder.name, "verb": "deploy", "result": "running", "pid": __import__("os").getpid()})
    )
    try:
        deployed.engine.set("lid", "exited", 1)
        looked(deployed, 6)
        assert state(deployed, "lid") == "exited"
    finally:
        shutil.rmtree(folder)


def test_what_does_not_stay_up_is_given_up_and_said(deployed):
    reconfigure(deployed, drift_heal_limit=1)
    deployed.engine.set("lid", "exited", 1)
    until(lambda: state(deployed, "lid") == "running")
    looked(deployed)
    deployed.engine.set("lid", "exited", 1)
    until(lambda: heals(deployed)[-1]["result"] == "failed")
    assert deployed.engine.acts == ["start lid"]
    assert "does not stay up" in heals(deployed)[-1]["refused"]["lid"]


def test_the_switch_is_off_unless_the_site_says_otherwise(deployed):
    assert declarations.load(ROOT / "salt")["kolla"]["settings"]["drift_heal"]["default"] is False
    reconfigure(deployed, drift_heal=False)
    deployed.engine.set("lid", "exited", 1)
    looked(deployed, 6)
    assert state(deployed, "lid") == "exited"


def test_a_whole_host_is_compared_and_told_when_it_differs_and_only_then(deployed):
    reconfigure(deployed, pot_size="3")
    with Bus(deployed) as bus:
        said = salt(deployed, "kolla_node.compare")
        assert said["told"] is True
        assert [item["name"] for item in said["findings"]] == ["pot"]
        assert salt(deployed, "kolla_node.compare")["told"] is False
        until(lambda: len(bus.events) == 1)
    assert bus.events[0]["data"]["findings"] == said["findings"]


def test_the_scheduler_compares(deployed):
    reconfigure(deployed, drift_compare_minutes=60)
    jobs = salt(deployed, "schedule.list", "return_yaml=False", "where=pillar")
    assert jobs["kolla_drift"]["function"] == "kolla_node.compare"
    assert jobs["kolla_drift"]["return_job"] is False
