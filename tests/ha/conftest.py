"""The cloud of three controllers that is broken on purpose."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.chaos.cluster import ChaosError, Cluster
from benchmarks.chaos.results import write
from benchmarks.chaos.run import SCENARIOS

#: Seconds that all tests here may take; scripts/test-ha.sh sets the end by the same variable.
SECONDS = float(os.environ.get("HA_SECONDS", "7200"))
BEGAN = time.monotonic()
#: Where the figures of all runs are kept, as table and as data.
FIGURES = Path(__file__).resolve().parents[2] / "build/test-ha"


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The sandbox's cloud; scripts/test-ha.sh makes it."""
    try:
        return Cluster()
    except ChaosError as error:
        pytest.fail(str(error))


@pytest.fixture(autouse=True)
def in_time(request):
    """Begin nothing that might not end in time: a failure that is cut off half-way leaves a broken cloud."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    needed = SCENARIOS[name].limit if name in SCENARIOS else 300
    left = SECONDS - (time.monotonic() - BEGAN)
    if left < needed:
        pytest.skip(f"{left:.0f} s are left of HA_SECONDS={SECONDS:g}, this may take {needed:g} s")


@pytest.fixture(scope="session")
def keep():
    """Keep what came of a run, with those before it: a table of them all lies in ``build/test-ha``."""
    data = {"runs": []}

    def kept(run):
        data["runs"].append(run.record())
        write(FIGURES, data)

    return kept
