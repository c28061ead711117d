"""Runs that are killed, and the same command given again. Last in order, since the cloud is removed and made anew."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from conftest import answer, kolla_salt

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]


def kill_minion(node):
    """Kill the node's minion with everything that its jobs started, without warning; its supervisor starts it again."""
    kolla_salt("sandbox", "exec", node, "--", "pkill", "-9", "-f", "salt-minion")


def interrupted(seconds, *arguments, minion=None):
    """Start a verb and kill it without warning after ``seconds``; returns whether it was still going on."""
    run = subprocess.Popen(
        [sys.executable, "-m", "kolla_salt.cli.main", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    alive = run.poll() is None
    run.kill()
    print(run.communicate()[0][-4000:])
    if minion:
        kill_minion(minion)
        deadline = time.monotonic() + 60
        while answer("sandbox", "status", status=None)["state"] != "up" and time.monotonic() < deadline:
            time.sleep(1)
    return alive


def started(node):
    """When each container of a node was started."""
    lines = kolla_salt(
        "sandbox", "exec", node, "--", "sh", "-c", "docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q)"
    ).stdout.splitlines()
    return dict(line.split() for line in lines)


def test_a_cloud_is_removed_and_what_deploy_made_is_gone(site):
    assert kolla_salt("destroy").returncode != 0, "destroy asks for a confirmation"
    done = kolla_salt("destroy", "--yes-i-really-really-mean-it")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    left = kolla_salt("sandbox", "exec", "node1", "--", "docker", "ps", "-aq").stdout.split()
    assert left == []
    volumes = kolla_salt("sandbox", "exec", "node1", "--", "docker", "volume", "ls", "-q").stdout.split()
    assert volumes == []
    assert kolla_salt("sandbox", "exec", "node1", "--", "ls", "/etc/kolla").stdout.split() == []


@pytest.mark.parametrize("seconds", [20, 45])
def test_a_first_deploy_that_is_killed_goes_on(site, seconds):
    """Killed while the infrastructure starts, then again among the OpenStack services; the next run ends it."""
    assert interrupted(seconds, "deploy", minion="node1")


def test_the_interrupted_cloud_is_whole(site):
    done = kolla_salt("deploy")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    said = answer("verify")
    assert said["drift"] == {} and said["problems"] == []
    before = started("node1")
    assert answer("deploy")["steps"] == []
    assert started("node1") == before


def test_a_change_that_is_killed_half_way_again_and_again_is_finished_by_the_next_run(site):
    files = [site / "overrides" / f"{service}.conf" for service in ("keystone", "placement")]
    files[0].parent.mkdir(exist_ok=True)
    try:
        for seconds in (4, 8):
            for path in files:
                path.write_text(f"[DEFAULT]\nmax_logfile_count = {30 + seconds}\n")
            interrupted(seconds, "deploy", minion="node1")
        done = kolla_salt("deploy")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        said = answer("verify")
        assert said["drift"] == {} and said["problems"] == []
        checked = answer("validate-config")
        assert checked["ok"], checked
    finally:
        for path in files:
            path.unlink(missing_ok=True)
    assert kolla_salt("deploy").returncode == 0
