"""An upgrade in each of whose steps the master, a minion, an engine or the command is killed, and then goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pytest
from conftest import BEFORE, NEW, OLD, Upgrade, answer, figure, kolla_salt

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(0)]

#: How often something is killed in all; an upgrade takes as many of them as fit into it, then it is rolled back.
KILLS = int(os.environ.get("KILLS", "6"))
#: Seconds into a step, at most; many take less than one.
SECONDS = (0.0, 0.5, 2.0, 8.0)
#: After so many kills it is taken back from where it is, instead of ended.
RETURN = 12
SEED = int(os.environ.get("SEED", "0")) or random.randrange(10**6)


def master(host):
    """The master with all its processes; a service manager would start it again."""
    pattern = "^[^ ]*python[^ ]* [^ ]*salt-master "
    subprocess.run(["pkill", "--signal", "KILL", "--full", pattern], check=False)


def minion(host):
    """A minion with all that its jobs have started."""
    kolla_salt("sandbox", "exec", host, "--", "pkill", "-9", "-f", "salt-minion")  # it may be dead already


def engine(host):
    """A host's engine; its containers go on or come back, as it is set up."""
    kolla_salt("sandbox", "exec", host, "--", "pkill", "-9", "-x", "dockerd")


def command(host):
    """The command itself, as a closed terminal or an operator does; its process group gets the signal."""


def killed(chance, host, most, hit):
    """Begin an upgrade and kill something in each step that is none of ``hit``, as long as it goes on.

    Return what was killed and when, whether the command ended well, and its last words.
    """
    kills, run = [], Upgrade()
    while len(kills) < most and run.goes_on():
        if run.step in hit:
            time.sleep(0.05)
            continue
        try:
            run.process.wait(chance.uniform(0, chance.choice(SECONDS)))
            break
        except subprocess.TimeoutExpired:
            pass
        hit.add(run.step)
        what = chance.choice([master, minion, engine, command])
        kills.append(f"{what.__name__} of {host} in {run.step}")
        print(f"{time.strftime('%X')} {kills[-1]}", flush=True)
        what(host)
        if what is command:
            os.killpg(run.process.pid, signal.SIGKILL)
        if what is master:  # the command notices by itself
            run.process.wait(90)
    well, said = run.ended()
    if not well and kills and kills[-1].startswith(("minion", "engine")) and run.step != BEFORE:
        assert "Continue: kolla-salt upgrade" in said and "Or go back: kolla-salt rollback" in said, said
    kolla_salt("sandbox", "up", timeout=300)
    return kills, well, said


def test_an_upgrade_that_is_killed_at_random_moments_is_ended_or_taken_back_by_one_command(cloud):
    chance, kills, ended, returned, machines = random.Random(SEED), [], 0, 0, cloud.machines()
    hit, upgraded = set(), set()
    print(f"seed {SEED}", flush=True)
    while len(kills) < KILLS:
        assert all(tag.startswith(OLD) for tag in cloud.images().values())
        cloud.name_release(NEW)
        earlier = {item["id"] for item in answer("runs", "list")["runs"]}
        through, limit = False, len(kills) + RETURN
        while len(kills) < min(KILLS, limit) and not through:
            new, well, said = killed(chance, chance.choice(cloud.hosts), min(KILLS, limit) - len(kills), hit)
            kills += new
            through = not new or well
            print(f"{len(kills)} kills: {said}", flush=True)
        if not through and len(kills) < KILLS:
            cloud.go_back(earlier, kills)
            returned += 1
            continue
        said = answer("upgrade", status=None)
        assert said["ok"], json.dumps([kills, said.get("error"), said.get("first_failure")], indent=1)
        verified = answer("verify", status=None)
        assert verified["ok"], json.dumps([kills, verified], indent=1)[:4000]
        assert all(tag.startswith(NEW) for tag in cloud.images().values()), kills
        assert cloud.missing() == {}, kills
        ended += 1
        upgraded |= hit
        hit.clear()  # all steps again
        cloud.go_back(earlier, kills)
    figure(
        "kills of an upgrade, all ended well",
        {"seed": SEED, "kills": kills, "steps": len(upgraded | hit), "ended": ended, "returned": returned},
    )
    assert cloud.machines() == machines, "a virtual machine was started anew"
