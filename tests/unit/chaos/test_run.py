"""What one run of a failure keeps, and that it ends."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks.chaos import scenarios  # noqa: F401 registers them
from benchmarks.chaos.run import SCENARIOS, OutOfTime, Run, within


@pytest.fixture
def run():
    return Run("kill", cluster=None, say=lambda _: None)


def test_a_figure_above_its_limit_is_a_problem(run):
    run.figure("away", 19.9, must=20, aim=8)
    assert run.problems == []
    run.figure("away again", 20.5, must=20, aim=8)
    assert run.problems == ["away again: found 20.50 s, expected at most 20 s"]


def test_what_never_happened_is_a_problem_where_it_has_to(run):
    run.figure("seen by the way", None)
    assert run.problems == [] and run.figures == {"seen by the way": None}
    run.figure("back", None, must=20)
    assert run.problems == ["back: found never, expected at most 20 s"]


def test_an_expectation_says_what_was_found_and_expected(run):
    assert run.expect(True, "members", 3, 3)
    assert not run.expect(False, "members", 2, 3)
    assert run.problems == ["members: found 2, expected 3"]


def test_each_run_takes_the_next_subject():
    subjects = []
    for number in range(4):
        run = Run("kill", cluster=None, number=number, say=lambda _: None)
        subjects.append(run.turn(["a", "b", "c"]))
        assert run.subject == subjects[-1]
    assert subjects == ["a", "b", "c", "a"]


def test_what_was_undone_on_the_way_is_not_undone_again(run):
    done = []
    first, second = (lambda: done.append("first")), (lambda: done.append("second"))
    run.undo(first)
    run.undo(second)
    run.done(first)
    assert done == ["first"] and run._undo == [second]


def test_a_record_is_plain_data(run):
    run.figure("away", 1.23456, must=20)
    said = json.loads(json.dumps(run.record()))
    assert said["figures"] == {"away": 1.235} and said["scenario"] == "kill"
    assert "cluster" not in said and "say" not in said


def test_a_scenario_that_hangs_is_ended():
    began = time.monotonic()
    with pytest.raises(OutOfTime, match="waiting took longer than 0.1 s"), within(0.1, "waiting"):
        time.sleep(5)
    assert time.monotonic() - began < 2


def test_a_limit_does_not_outlive_its_block():
    with within(0.05, "nothing"):
        pass
    time.sleep(0.1)


def test_every_scenario_has_a_sentence_and_a_limit():
    assert len(SCENARIOS) >= 10
    for one in SCENARIOS.values():
        assert one.title and one.function.__doc__
        assert 60 <= one.limit <= 600
