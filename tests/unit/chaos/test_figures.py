"""Distributions, gaps and lost rows from what was seen."""

from __future__ import annotations

import pytest

from benchmarks.chaos import figures


def test_a_summary_names_values_that_occurred():
    said = figures.summary([9, 1, 5, 7, 3])
    assert said == {"n": 5, "min": 1, "median": 5, "p95": 9, "max": 9}
    assert figures.summary(range(1, 101))["p95"] == 95
    assert figures.summary([1, 2])["median"] == 1.5
    with pytest.raises(ValueError, match="no values"):
        figures.summary([])


def test_a_gap_counts_silence_at_both_edges():
    assert figures.gap([1, 2, 3], 0, 10) == 7
    assert figures.gap([], 5, 8) == 3
    assert figures.gap([4, 5, 6, 99], 3, 7) == 1


def test_rows_that_were_acknowledged_and_are_gone_are_lost():
    said = figures.lost({1: 10.0, 2: 11.0, 3: 11.9}, found=[1, 77], moment=12.0)
    assert said["written"] == 3 and said["lost"] == 2
    assert said["oldest"] == pytest.approx(1.0)
    assert figures.lost({1: 10.0}, [1], 12.0) == {"written": 1, "lost": 0, "oldest": 0.0}


def run(scenario, ok=True, must=20, **values):
    limits = {name: {"must": must, "aim": 8, "unit": "s"} for name in values}
    return {"scenario": scenario, "ok": ok, "figures": values, "limits": limits, "problems": []}


def test_distributions_count_runs_that_never_came_back():
    found = figures.distributions([run("kill", away=4.0), run("kill", ok=False, away=None), run("kill", away=30.0)])
    away = found["kill", "away"]
    assert (away["n"], away["never"], away["within"]) == (3, 1, 1)
    assert (away["min"], away["max"], away["must"]) == (4.0, 30.0, 20)
    assert figures.distributions([run("kill", away=None)])["kill", "away"]["max"] is None


def test_totals_tell_good_runs_from_all():
    assert figures.totals([run("a"), run("a", ok=False), run("b")]) == {
        "a": {"runs": 2, "good": 1},
        "b": {"runs": 1, "good": 1},
    }


def test_the_table_has_counts_distributions_and_what_went_wrong():
    bad = run("kill", ok=False, away=None) | {"problems": ["expected 3 members, found 2"], "subject": "node1"}
    text = figures.table([run("kill", away=4.25), bad], {"kill": "a node is killed"})
    assert "| a node is killed | 2 | 1 |" in text
    assert "| a node is killed | away | s | 2 | 4.2 | 4.2 | 4.2 | 4.2 | 20 | 8 | 1 of 2 |" in text
    assert "- a node is killed, node1: expected 3 members, found 2" in text


def test_the_table_of_something_that_never_came_back_says_never():
    assert "| never | never | never | never | 20 |" in figures.table([run("kill", away=None)], {})
