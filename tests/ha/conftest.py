"""The cloud of three controllers that is broken on purpose."""

from __future__ import annotations

import pytest

from benchmarks.chaos.cluster import ChaosError, Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The sandbox's cloud; scripts/test-ha.sh makes it."""
    try:
        return Cluster()
    except ChaosError as error:
        pytest.fail(str(error))
