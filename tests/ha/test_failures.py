"""One of each failure, done to a real cloud. What is measured and expected stands in benchmarks/chaos/scenarios.py."""

from __future__ import annotations

import pytest

from benchmarks.chaos import scenarios  # noqa: F401 registers them
from benchmarks.chaos.run import SCENARIOS, execute

pytestmark = [pytest.mark.ha, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", [one.name for one in SCENARIOS.values() if one.quick])
def test_the_cloud_bears(name, cluster, keep):
    run = execute(SCENARIOS[name], cluster, 0)
    keep(run)
    assert not run.problems, f"{SCENARIOS[name].title} ({run.subject}):\n" + "\n".join(
        ["what was not as it must be:", *(f"  - {text}" for text in run.problems), *run.notes]
    )
