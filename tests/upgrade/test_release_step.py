"""From one release to the next with everything running, and back. The tests build on each other, in this order."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager

import pytest
import yaml
from conftest import NEW, OLD, answer, figure, kolla_salt

from benchmarks.chaos.watch import pinging
from kolla_salt import outcome
from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(3600)]

#: Seconds that the whole may take with images present; one host after the other takes longer.
UPGRADE = 900 if os.environ.get("NODES", "1") == "1" else 1200
ROLLBACK, ONE_SERVICE = 600, 60
#: Seconds that packets may stand still while Open vSwitch's userspace datapath is replaced.
NETDEV_GAP = float(os.environ.get("NETDEV_GAP", "30"))


@contextmanager
def watched(cloud, what):
    """Ping the server meanwhile; what was lost is a figure, and a failure where the datapath can go on."""
    address = next(a["addr"] for nets in cloud.server().addresses.values() for a in nets
                   if a.get("OS-EXT-IPS:type") == "floating")  # fmt: skip
    machines, thread, began = cloud.machines(), pinging(address), time.monotonic()
    thread.start()
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        attempts = thread.stop()
    lost = [attempt for attempt in attempts if not attempt.ok]
    good = [began, *(attempt.ended for attempt in attempts if attempt.ok), began + seconds]
    gap, since = max(((late - early, early) for early, late in zip(good, good[1:], strict=False)))
    at = time.strftime("%H:%M:%S", time.gmtime(time.time() - time.monotonic() + since))
    found = {"seconds": round(seconds, 1), "pings": len(attempts), "lost": len(lost), "longest gap": round(gap, 2)}
    figure(what, {**found, "since": at})
    assert cloud.machines() == machines, "a virtual machine was started anew"
    # The userspace datapath of the sandbox is a process; it is replaced as well.
    netdev = yaml.safe_load((cloud.site / "globals.yml").read_text()).get("ovs_datapath") == "netdev"
    assert gap < NETDEV_GAP if netdev else not lost


def receipt(cloud, said, what):
    """Of each kind of request a second's worth may fail where others can answer; else an API is away while replaced.

    One whose database is restored is stopped on all hosts for that.
    """
    stopped = {step["id"].partition(":")[0] for step in said["steps"] if "restore its databases" in step["id"]}
    services = {name: item for name, item in (said["availability"] or {}).get("services", {}).items() if item["failed"]}
    figure(f"{what}: failed", {name: [item["failed"], item["outage"]] for name, item in services.items()})
    alone = sum(1 for host in cloud.hosts if any(key.startswith(f"{host}/keystone") for key in cloud.images())) < 2
    for name, item in services.items():
        assert not item["open"], f"{name} did not answer at the end"
        assert item["outage"] <= 90 or not (alone or name in stopped), f"{name} was away for {item['outage']} s"
    whole = json.loads((find_paths().state / "runs" / said["run"] / "availability.json").read_text())
    for entry in whole["entries"]:
        most = max(1, entry["requests"] / whole["seconds"])
        kind = f"{entry['entry']} ({entry['kind']})"
        assert entry["failed"] <= most or alone or entry["service"] in stopped, f"{kind}: {entry['failed']} failed"


def test_the_cloud_runs_the_old_release(cloud):
    tags = set(cloud.images().values())
    assert tags and all(tag.startswith(OLD) for tag in tags), tags
    assert answer("upgrade")["result"] == "ok"
    assert answer("verify")["ok"]


def test_a_deploy_refuses_to_change_the_release(cloud):
    cloud.name_release(NEW)
    done = kolla_salt("deploy", "--json")
    assert done.returncode == 1
    assert "kolla-salt upgrade" in json.loads(done.stdout)["error"]
    assert all(tag.startswith(OLD) for tag in cloud.images().values())


def test_the_plan_says_what_runs_and_what_comes(cloud):
    done = kolla_salt("upgrade", "--plan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{OLD} -> {NEW}" in done.stdout
    for words in ("keystone", "expand", "contract", "nova", "mariadb"):
        assert words in done.stdout
    assert all(tag.startswith(OLD) for tag in cloud.images().values())


def test_the_upgrade_keeps_servers_and_data_and_all_is_new(cloud):
    assert kolla_salt("pull").returncode == 0
    with watched(cloud, "upgrade"):
        began = time.monotonic()
        said = answer("upgrade", status=None)
        seconds = time.monotonic() - began
    assert said["ok"], json.dumps([said.get("error"), said.get("first_failure")], indent=1)
    assert all(tag.startswith(NEW) for tag in cloud.images().values())
    assert cloud.missing() == {}
    header = json.loads((find_paths().state / "runs" / said["run"] / "run.json").read_text())
    assert (header["from"], header["to"]) == (OLD, NEW)
    assert all(phases[-1] == "verified" for phases in header["phases"].values())
    assert {"keystone", "glance", "placement", "nova", "neutron", "heat"} <= set(header["snapshots"])
    assert {"expand", "contract"} <= set(header["phases"]["keystone"])
    receipt(cloud, said, "upgrade")
    assert seconds <= UPGRADE


def test_the_cloud_is_well_and_nothing_is_left_to_do(cloud):
    verified = answer("verify", status=None)
    assert verified["ok"], json.dumps(verified, indent=1)[:4000]
    assert answer("deploy")["steps"] == []
    again = answer("upgrade")
    assert again["ok"] and again["steps"] == []
    assert "upgrade --finish" in kolla_salt("status").stdout


def test_users_go_on(cloud):
    connection = cloud.connection()
    network = connection.network.create_network(name="after-upgrade")
    connection.network.delete_network(network)
    said = cloud.server()
    assert said.status == "ACTIVE"


def test_no_record_holds_a_password(cloud):
    secrets = outcome.secrets_of(yaml.safe_load((cloud.site / "passwords.yml").read_text()))
    for path in find_paths().state.rglob("runs/*/*.json*"):
        text = path.read_bytes().decode(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def upgrades():
    """Return the runs that have upgraded something and were not taken back."""
    return [item["id"] for item in answer("runs", "list")["runs"] if item["verb"] == "upgrade" and
            item.get("to") == NEW and item.get("phases") and "*" not in item.get("returned", {})]  # fmt: skip


@pytest.mark.parametrize(
    ("service", "container", "more"),
    [("placement", "placement_api", ["--restore-database"]), ("nova", "nova_api", [])],
)
def test_one_service_goes_back_and_forth(cloud, service, container, more):
    run = min(upgrades())  # the one of all services
    with watched(cloud, f"rollback of {service}"):
        began = time.monotonic()
        said = answer("rollback", run, "--service", service, *more, status=None)
        seconds = time.monotonic() - began
    assert said["ok"], json.dumps(said, indent=1, default=str)[:4000]
    assert all(tag.startswith(OLD) for tag in cloud.images(container).values())
    figure(f"rollback of {service}: seconds", round(seconds, 1))
    assert answer("upgrade", "--service", service)["ok"]
    assert all(tag.startswith(NEW) for tag in cloud.images(container).values())
    assert cloud.missing() == {}
    assert seconds <= ONE_SERVICE


def test_the_whole_goes_back_with_servers_and_data(cloud):
    with watched(cloud, "rollback"):
        began = time.monotonic()
        for run in sorted(upgrades(), reverse=True):  # of one service alone, then of the rest
            said = answer("rollback", run, "--restore-database", status=None)
            assert said["ok"], json.dumps(said, indent=1, default=str)[:4000]
        seconds = time.monotonic() - began
    figure("rollback: seconds", round(seconds, 1))
    assert all(tag.startswith(OLD) for tag in cloud.images().values())
    assert cloud.missing() == {}
    cloud.name_release(OLD)
    assert answer("verify", status=None)["ok"]
    receipt(cloud, said, "rollback")
    assert seconds <= ROLLBACK
