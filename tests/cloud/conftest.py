"""The deployed cloud of the sandbox, as its users and its operator find it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kolla_salt.sandbox.paths import find_paths


def kolla_salt(*arguments: str, timeout: int = 1800) -> subprocess.CompletedProcess:
    """Run the command as a user would."""
    command = [sys.executable, "-m", "kolla_salt.cli.main", *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=timeout, check=False)


def answer(*arguments: str, status: int | None = 0) -> dict:
    """Run a verb with ``--json`` and return what it said; its exit status has to be ``status``."""
    done = kolla_salt(*arguments, "--json")
    assert status is None or done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
    said = json.loads(done.stdout)
    as_predicted(said)
    return said


def as_predicted(said: dict) -> None:
    """Every run does to containers what was predicted, and nothing else."""
    found = said.get("deviations") or []
    assert not found, "\n".join(item["text"] for item in found)


@pytest.fixture(scope="session")
def site() -> Iterator[Path]:
    """The sandbox's site, deployed; when all tests have run, all runs were as predicted."""
    began = time.time()
    path = find_paths().site
    if not (path / "globals.yml").exists():
        pytest.skip("there is no sandbox: kolla-salt sandbox up")
    for verb in ("genpwd", "deploy", "post-deploy"):
        done = kolla_salt(verb, "--site", str(path))
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    yield path
    for header in answer("runs", "list", "-n", "0")["runs"]:
        if header["started"] >= began:
            as_predicted(header)
