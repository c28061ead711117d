"""Whole runs against a real master with three real minions and a formula of five small services."""

from __future__ import annotations

import http.server
import json
import os
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from cluster import BIN, DATA, Cluster

pytestmark = [pytest.mark.salt, pytest.mark.timeout(300)]

SECRET = "a-secret-that-must-not-show"


@pytest.fixture(scope="module")
def cluster():
    groups = {"control": ["c1"], "compute": ["k1", "k2"]}
    with Cluster(DATA / "runs_formula", groups, {"unused": SECRET}).running() as made:
        yield made


@pytest.fixture
def site(cluster):
    """Write globals.yml and give every test its own empty folder to deploy into."""
    count = len(list(cluster.base.glob("out*")))
    out = cluster.base / f"out{count}"
    out.mkdir()

    def write(**options):
        cluster.options(root=str(out), **options)
        return out

    return write


def deployed(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_a_deploy_does_everything_and_the_next_one_nothing(cluster, site):
    out = site()
    first = cluster.run("deploy")
    assert deployed(out) >= {"c1/store", "c1/side", "c1/middle", "c1/top", "k1/edge", "k2/edge"}
    assert first["result"] == "ok" and first["seconds"] > 0
    assert [step["wave"] for step in first["steps"]] == sorted(step["wave"] for step in first["steps"])
    second = cluster.run("deploy")
    assert second["steps"] == []
    assert cluster.run("plan")["changes"] == 0
    # Drift on one host: only what is wrong, and what requires it, is applied again.
    (out / "c1" / "middle").unlink()
    third = cluster.run("deploy")
    assert {
        service
        for step in third["steps"]
        for host in step["hosts"].values()
        for service in (change["id"] for change in host["changed"])
    } == {"middle file"}
    assert {name for step in third["steps"] for name in step["hosts"]} == {"c1"}


def test_a_plan_touches_nothing_and_predicts_what_deploy_does(cluster, site):
    out = site()
    plan = cluster.run("plan")
    assert deployed(out) == set()
    predicted = {
        (host, item["name"]) for host, found in plan["hosts"].items() for items in found.values() for item in items
    }
    done = cluster.run("deploy")
    changed = {
        (host, change["id"])
        for step in done["steps"]
        for host, said in step["hosts"].items()
        for change in said["changed"]
    }
    assert predicted == changed


def test_salt_run_does_the_same(cluster, site):
    out = site()
    command = [
        str(BIN / "salt-run"),
        "-c",
        str(cluster.config.parent),
        "state.orchestrate",
        "orch.deploy",
        "--out=json",
    ]
    done = subprocess.run(command, env=cluster.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "c1/top" in deployed(out)
    dry = subprocess.run(
        [*command[:5], "test=True"], env=cluster.environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert dry.returncode == 0


def test_a_failure_stops_its_dependents_only_and_is_shown_first(cluster, site):
    out = site(broken="store")
    answer = cluster.run("deploy", status=1)
    assert answer["first_failure"]["id"] == "store breaks"
    assert "c1/side" in deployed(out)
    assert not {"c1/middle", "c1/top", "k1/edge"} & deployed(out)
    left_out = {service for step in answer["steps"] for service in step["left_out"]}
    assert left_out == {"middle", "top", "edge"}
    text = cluster.cli("deploy")
    assert text.returncode == 1
    assert "First failure, on c1:" in text.stdout and "store breaks" in text.stdout and "Next:" in text.stdout
    site()
    assert cluster.run("deploy")["result"] == "ok"
    assert "c1/top" in deployed(out)


def test_a_site_with_problems_is_refused_before_anything_runs(cluster, site):
    out = site(brokn="x")
    answer = cluster.run("deploy", status=1)
    assert "did you mean 'broken'" in answer["error"]
    assert deployed(out) == set()


def test_one_service_can_be_deployed_alone(cluster, site):
    out = site()
    cluster.run("deploy", "side")
    assert {path.split("/")[1] for path in deployed(out)} == {"side"}


def test_records_tell_what_happened_and_hold_no_secret(cluster, site):
    site(openstack_tag=SECRET)
    answer = cluster.run("deploy")
    assert answer["steps"]
    record = cluster.base / "runs" / answer["run"]
    assert stat.S_IMODE(record.stat().st_mode) == 0o700
    for path in record.iterdir():
        assert SECRET not in path.read_text(), path
    shown = cluster.run("runs", "show", answer["run"])
    assert shown["result"] == "ok" and shown["site"] == str(cluster.site) and shown["plan"]["hosts"]
    assert answer["run"] in [header["id"] for header in cluster.run("runs", "list")["runs"]]


def test_a_silent_host_is_unknown_and_the_others_go_on(cluster, site):
    out = site()
    cluster.stop_one("k2")
    try:
        answer = cluster.run("deploy", status=1)
        assert answer["result"] == "incomplete" and answer["unknown"] == ["k2"]
        assert {"c1/top", "k1/edge"} <= deployed(out) and "k2/edge" not in deployed(out)
        assert cluster.run("status", status=1)["unknown"] == ["k2"]
    finally:
        cluster._spawn("k2", "salt-minion")
        cluster.wait_for(["k2"])


def test_a_host_that_says_nothing_for_a_while_is_not_given_up(cluster, site):
    out = site()
    session = cluster.processes["k2"].pid

    def pause():
        while not (out / "c1" / "middle").exists():
            time.sleep(0.1)
        os.killpg(session, signal.SIGSTOP)
        # Longer than Salt waits for it: `timeout` and `gather_job_timeout` are 5 and 10 s.
        time.sleep(22)
        os.killpg(session, signal.SIGCONT)

    paused = threading.Thread(target=pause)
    paused.start()
    answer = cluster.run("deploy")
    paused.join()
    assert answer["result"] == "ok" and not answer["unknown"]
    assert "k2/edge" in deployed(out)


def test_prechecks_name_what_mends_each_finding(cluster, site):
    site()
    answer = cluster.cli("prechecks", "--json")
    data = json.loads(answer.stdout)
    assert answer.returncode == (0 if data["ok"] else 1)
    assert all(finding["mend"] and finding["expected"] and finding["found"] for finding in data["findings"])
    assert {finding["check"] for finding in data["findings"]} >= {"names"}


class _Api(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_a_run_that_may_touch_containers_is_watched_and_keeps_what_was_seen(cluster, site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        options = {"front_port": server.server_port, "internal_vip_address": "127.0.0.1"}
        site(**options)
        # The dry run sees files only: nobody is asked.
        unwatched = cluster.run("deploy")
        assert unwatched["steps"] and unwatched["availability"] is None and _Api.asked == []
        answer = cluster.run("deploy", "--every-step")
        seen = answer["availability"]
        assert seen["finished"] and seen["failed"] == 0
        assert seen["services"]["side"]["there_before"] is True
        assert len(_Api.asked) >= seen["requests"] > 5 * seen["seconds"]
        assert cluster.run("runs", "show", answer["run"])["availability"] == seen
        text = cluster.cli("runs", "show", answer["run"]).stdout
        assert "availability: no request failed" in text and f"127.0.0.1:{server.server_port}/healthcheck" in text
        assert "availability: no request failed" in cluster.cli("deploy", "--every-step").stdout
        count = len(_Api.asked)
        time.sleep(0.5)
        assert len(_Api.asked) == count, "a probe outlived its run"
    finally:
        server.shutdown()
        server.server_close()
