"""An upgrade whose master, minion, engine or own process is killed, again and again; then the same command again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import NEW, OLD, answer, figure, kolla_salt

from kolla_salt.sandbox.paths import find_paths

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(0)]

#: How often something is killed in all; an upgrade takes as many of them as fit into it, then it is rolled back.
KILLS = int(os.environ.get("KILLS", "6"))
#: An attempt gets so many steps on, and so many seconds into the next one: all steps are hit, at any point of them.
STEPS, SECONDS = (0, 6), (0, 8)
#: After so many kills it is taken back from where it is, instead of ended.
RETURN = 12
RUNS = find_paths().state / "runs"
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


def done(earlier):
    """How many steps the run that is not one of ``earlier`` has ended; -1: it has not begun."""
    begun = [path for path in RUNS.glob("*-upgrade") if path.name not in earlier]
    file = max(begun, default=RUNS) / "steps.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0 if begun else -1


def killed(chance, host, most):
    """Begin an upgrade and kill something in the middle, and again as long as it goes on.

    Return what was killed and when, and what the command said at last.
    """
    earlier, kills, before = {path.name for path in RUNS.glob("*-upgrade")}, [], 0
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "kolla_salt.cli.main", "upgrade", "--json"], stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        while len(kills) < most and run.poll() is None:
            wanted = before + chance.randint(*STEPS)
            while run.poll() is None and done(earlier) < wanted:
                time.sleep(0.1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(chance.uniform(*SECONDS))
                break
            what, before = chance.choice([master, minion, engine, command]), max(done(earlier), 0)
            what(host)
            kills.append(f"{what.__name__} of {host} after {before} steps")
            print(f"{time.strftime('%X')} {kills[-1]}", flush=True)
            if what is command:
                os.killpg(run.pid, signal.SIGKILL)
            if what is master:  # the command notices by itself
                run.wait(90)
        run.wait(1800)
        output.seek(0)
        said = output.read()
    kolla_salt("sandbox", "up", timeout=300)
    return kills, said


def back(cloud, earlier, kills):
    """Roll back what was begun since ``earlier`` runs: the last one, with all that it has gone on with."""
    runs = [item["id"] for item in answer("runs", "list")["runs"] if item["id"] not in earlier and item.get("phases")]
    if runs:
        said = answer("rollback", max(runs), "--restore-database", status=None)
        assert said["ok"], json.dumps([kills, said], indent=1, default=str)[:4000]
    cloud.name_release(OLD)
    verified = answer("verify", status=None)
    assert verified["ok"], json.dumps([kills, verified], indent=1)[:4000]
    assert all(tag.startswith(OLD) for tag in cloud.images().values()), kills
    assert cloud.missing() == {}, kills


def test_an_upgrade_that_is_killed_at_random_moments_is_ended_or_taken_back_by_one_command(cloud):
    chance, kills, ended, returned, machines = random.Random(SEED), [], 0, 0, cloud.machines()
    print(f"seed {SEED}", flush=True)
    while len(kills) < KILLS:
        assert all(tag.startswith(OLD) for tag in cloud.images().values())
        cloud.name_release(NEW)
        earlier = {item["id"] for item in answer("runs", "list")["runs"]}
        through, limit = False, len(kills) + RETURN
        while len(kills) < min(KILLS, limit) and not through:
            new, said = killed(chance, chance.choice(cloud.hosts), min(KILLS, limit) - len(kills))
            kills += new
            through = not new or '"result": "ok"' in said
            print(f"{len(kills)} kills: {said[:400]}", flush=True)
        if not through and len(kills) < KILLS:
            back(cloud, earlier, kills)
            returned += 1
            continue
        said = answer("upgrade", status=None)
        assert said["ok"], json.dumps([kills, said.get("error"), said.get("first_failure")], indent=1)
        verified = answer("verify", status=None)
        assert verified["ok"], json.dumps([kills, verified], indent=1)[:4000]
        assert all(tag.startswith(NEW) for tag in cloud.images().values()), kills
        assert cloud.missing() == {}, kills
        ended += 1
        back(cloud, earlier, kills)
    figure("kills of an upgrade, all ended well", {"seed": SEED, "kills": kills, "ended": ended, "returned": returned})
    assert cloud.machines() == machines, "a virtual machine was started anew"
