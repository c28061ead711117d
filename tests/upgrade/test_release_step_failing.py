"""An upgrade each of whose steps fails, and then is gone on with or its service taken back.

What fails is the host's engine: it refuses all that changes something, from the first, third or sixth request of the
step on, as one whose disk is full does; and all that is asked of it in the first verification.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path

import pytest
from conftest import BEFORE, NEW, OLD, Upgrade, answer, figure, kolla_salt

from kolla_salt import declarations
from kolla_salt.sandbox.node import find_node
from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(0)]

FAILING = Path(__file__).with_name("failing_engine.py")
BACK = re.compile(r"Or go back: kolla-salt rollback (\S+)")
#: Requests of a step that are let through before one is refused, in turn.
LET = itertools.cycle([0, 2, 5])
CHANGING, ANY = "^(POST|DELETE|PUT)", "json"
#: Verifications that fail: it is the same for all services, and goes on for minutes before it says so.
VERIFICATIONS = 1


class Engines:
    """The engines of all hosts, which refuse when they are told to."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.folders = [Path(f"/proc/{find_node(find_paths(), host).pid}/root/run") for host in hosts]
        for host, folder in zip(hosts, self.folders, strict=True):
            (folder / FAILING.name).write_text(FAILING.read_text())
            command = "rm -f /run/engine-*; setsid python3 /run/failing_engine.py > /run/engine-log 2>&1 < /dev/null &"
            kolla_salt("sandbox", "exec", host, "--", "sh", "-c", command)
        time.sleep(2)
        for folder in self.folders:
            assert "listening" in (folder / "engine-log").read_text()

    def refuse(self, pattern, let):
        """Have requests that match refused after the first few of them, from now on."""
        for folder in self.folders:
            beside = folder / "order.new"
            beside.write_text(json.dumps({"pattern": pattern, "let": let, "since": time.time()}))
            beside.rename(folder / "engine-order.json")

    def obey(self):
        """Refuse nothing any more; return host -> the first request that was refused."""
        found = {}
        for host, folder in zip(self.hosts, self.folders, strict=True):
            (folder / "engine-order.json").unlink(missing_ok=True)
            if (folder / "engine-refused").exists():
                found[host] = (folder / "engine-refused").read_text().splitlines()[0]
                (folder / "engine-refused").unlink()
        return found

    def end(self):
        for host in self.hosts:
            kolla_salt("sandbox", "exec", host, "--", "pkill", "-f", FAILING.name)


@pytest.fixture
def engines(cloud):
    found = Engines(cloud.hosts)
    yield found
    found.end()


def silent(cloud):
    """Which APIs do not answer a user's request."""
    connection, found = cloud.connection(), []
    asked = {
        "keystone": ("identity", "projects"), "glance": ("image", "images"), "nova": ("compute", "servers"),
        "neutron": ("network", "networks"), "placement": ("placement", "resource_providers"),
        "heat": ("orchestration", "stacks"),
    }  # fmt: skip
    for name, (proxy, what) in asked.items():
        try:
            list(getattr(getattr(connection, proxy), what)())
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}")
    return found


def failed(engines, hit, missed):
    """Begin an upgrade and have the first step fail that is none of ``hit``; those that end before are ``missed``.

    Return the step and what was refused (host -> request), whether the command ended well, and its last words.
    """
    run, step = Upgrade(), ""
    while run.goes_on():
        if run.step not in (step, BEFORE):
            step = run.step
            looks_only = ": verification" in step
            if step in hit or (looks_only and sum(1 for name in hit if ": verification" in name) >= VERIFICATIONS):
                engines.obey()
            else:
                missed.add(step)
                engines.refuse(ANY if looks_only else CHANGING, 0 if ": snapshot" in step else next(LET))
        time.sleep(0.02)
    well, said = run.ended()
    missed.discard(run.step)
    return run.step, engines.obey(), well, said


def test_an_upgrade_that_fails_in_each_step_goes_on_or_its_service_goes_back(cloud, engines):
    machines, hit, missed, rows = cloud.machines(), set(), set(), []
    assert all(tag.startswith(OLD) for tag in cloud.images().values())
    cloud.name_release(NEW)
    earlier = {item["id"] for item in answer("runs", "list")["runs"]}
    well = False
    while not well:
        step, refused, well, said = failed(engines, hit, missed)
        if well:
            break
        assert refused, f"{step} failed, though nothing was refused: {said}"
        service = step.split(":")[0]
        hit.add(step)
        assert "a test has said so" in said or "verification" in step, said
        assert "Continue: kolla-salt upgrade" in said, said
        back = BACK.search(said)
        assert back, said
        row = {"step": step, "refused": refused, "silent": silent(cloud), "way": "on"}
        if len(cloud.hosts) > 1:
            assert not row["silent"], row
        if len(hit) % 2 == 0 and ": snapshot" not in step:
            began = time.monotonic()
            done = answer("rollback", back[1], "--service", service, "--restore-database", status=None)
            row |= {"way": "back", "seconds": round(time.monotonic() - began, 1)}
            if "the run has not changed it" in str(done.get("error")):
                row["way"] = "nothing to take back"  # it was the first thing of that service
            else:
                assert done["ok"], json.dumps([row, done], indent=1, default=str)[:4000]
                names = declarations.load()[service]["containers"]
                mine = {name: tag for name, tag in cloud.images().items() if name.split("/")[1] in names}
                assert mine and all(tag.startswith(OLD) for tag in mine.values()), [row, mine]
            assert silent(cloud) == [], row
        rows.append(row)
        print(f"{time.strftime('%X')} {json.dumps(row)}", flush=True)
    verified = answer("verify", status=None)
    assert verified["ok"], json.dumps(verified, indent=1)[:4000]
    assert all(tag.startswith(NEW) for tag in cloud.images().values())
    assert cloud.missing() == {}
    ways = [row["way"] for row in rows]
    figure(
        "failures of an upgrade, one in each step",
        {
            "steps": len(hit),
            "steps that ended before": sorted(missed - hit),
            "gone on with": ways.count("on"),
            "service taken back": ways.count("back"),
            "nothing had been changed": ways.count("nothing to take back"),
            "an API away until then": sum(1 for row in rows if row["silent"]),
        },
    )
    cloud.go_back(earlier, sorted(hit))
    assert cloud.machines() == machines, "a virtual machine was started anew"
    assert kolla_salt("sandbox", "status").returncode == 0
