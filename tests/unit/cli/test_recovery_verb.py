"""What ``mariadb-recovery`` takes and how it ends."""

from __future__ import annotations

import pytest

from kolla_salt.cli import main, recovery

RESULT = {
    "ok": True, "bootstrapped": None, "members": {"ctl1": "Synced", "ctl2": "Synced"}, "size": 2, "waited": 0.0,
    "seconds": 1.25, "problems": [], "error": None, "run": "20260101-000000-mariadb-recovery",
}  # fmt: skip


def ending(**found):
    return "\n".join(recovery._ending(RESULT | found))


def test_options():
    args = main.build("mariadb-recovery").parse_args(["mariadb-recovery", "--without", "a", "--without", "b"])
    assert (args.without, args.chosen, args.patience) == (["a", "b"], None, 60)
    assert recovery._pillar(args) == {"pillar": {"kolla_recovery": {"without": ["a", "b"]}}}
    args = main.build("mariadb-recovery").parse_args(["mariadb-recovery", "--from", "c", "--patience", "5"])
    assert (args.chosen, args.patience) == ("c", 5)
    assert recovery._pillar(args) == {"pillar": {"kolla_recovery": {"from": "c"}}}
    assert recovery._pillar(main.build("mariadb-recovery").parse_args(["mariadb-recovery"])) == {}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "mariadb-recovery done: a cluster of 2, which was running, 1.2 s"),
        ({"waited": 4.5}, "done: a cluster of 2, which came back by itself"),
        ({"bootstrapped": "ctl2"}, "done: a cluster of 2, started from ctl2"),
        ({"ok": False, "problems": ["ctl2: it is full"]}, "INCOMPLETE: a cluster of 2"),
        ({"ok": False, "size": 0, "error": "data could be lost"}, "FAILED: no cluster runs"),
    ],
)
def test_the_last_line_says_what_runs_and_how_it_came_to_that(found, said):
    lines = ending(**found).splitlines()
    assert said in lines[-1]
    assert "kolla-salt runs show 20260101-000000-mariadb-recovery" in lines[-1]
    assert all(sentence in lines for sentence in [*found.get("problems", []), *filter(None, [found.get("error")])])
