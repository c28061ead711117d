"""A run's model, fed by events."""

import io

from kolla_salt import progress
from kolla_salt.cli import view

STEP = {
    "id": "wave 1: store on c1",
    "wave": 1,
    "role": "primary",
    "services": ["store"],
    "minions": ["c1"],
    "sls": ["store"],
}
BEGUN = ("kolla/run/begun", {"run": "r1", "verb": "deploy", "steps": [STEP], "hosts": ["c1", "k1"]})
SURVEYED = (
    "kolla/run/surveyed",
    {
        "run": "r1",
        "unknown": ["k1"],
        "predicted": {"c1": {"store": 2}},
        "todo": ["store"],
        "missing_images": {},
        "seconds": {"ask": 0.1},
    },
)
STARTED = ("kolla/run/step", {"run": "r1", **STEP, "state": "started", "hosts": ["c1"]})


def returned(result=True, run="r1", comment=""):
    states = {
        "test_|-a_|-a_|-nop": {
            "__sls__": "store",
            "__id__": "a",
            "__run_num__": 0,
            "result": result,
            "changes": {"x": {"old": 1, "new": 2}} if result else {},
            "comment": comment,
            "duration": 5,
        }
    }
    return (
        "salt/job/1/ret/c1",
        {
            "id": "c1",
            "fun": "state.sls",
            "return": states,
            "fun_args": ["store", {"pillar": {"kolla_step": {"run": run}}}],
        },
    )


def fed(*events):
    state = progress.RunState()
    return state, [state.feed(*event) for event in events]


def test_a_run_goes_from_asking_to_its_hosts_results():
    state, kinds = fed(BEGUN, SURVEYED, STARTED, returned())
    assert kinds == ["begun", "surveyed", "started", "host"]
    host = state.steps[STEP["id"]].hosts["c1"]
    assert (host.state, host.changed) == ("changed", 1)
    assert state.unknown == ["k1"]


def test_events_of_other_runs_and_jobs_change_nothing():
    state, _ = fed(BEGUN, SURVEYED, STARTED)
    assert state.feed("kolla/run/step", {**STARTED[1], "run": "r2"}) == ""
    assert state.feed(*returned(run="r2")) == ""
    assert state.feed("salt/job/9/ret/c1", {"id": "c1", "fun": "test.ping", "return": True}) == ""
    assert state.steps[STEP["id"]].hosts["c1"].state == "running"


def test_the_first_failure_is_kept():
    state, _ = fed(BEGUN, SURVEYED, STARTED, returned(False, comment="no such image"))
    assert state.first_failure.comment == "no such image"


def test_the_view_prints_what_is_new_and_no_moving_line_into_a_file():
    state, stream = progress.RunState(), io.StringIO()
    live = view.LiveView(state, stream, moving=False)
    for event in (BEGUN, SURVEYED, STARTED, returned()):
        live.event(*event)
        live.tick()
    text = stream.getvalue()
    assert "\r" not in text
    assert "the dry run predicts 2 changes in 1 service" in text
    assert "k1 does not answer" in text
    assert "wave 1/1" in text and "c1" in text and "ok, 1 change" in text


def test_the_view_says_for_what_a_run_waits_that_was_begun_before_it():
    stream = io.StringIO()
    live = view.LiveView(progress.RunState(), stream, moving=False)
    live.event(*BEGUN)
    live.event("kolla/run/waits", {"run": "r1", "for": "r0", "hosts": {"c1": ["job 7", "container store"]}})
    assert stream.getvalue() == "  c1 still does what r0 began, waiting for it: job 7, container store\n"


def test_a_failure_is_shown_with_the_next_step():
    state, _ = fed(BEGUN, SURVEYED, STARTED, returned(False, comment="no such image"))
    text = view.failure(state.first_failure, "r1")
    for part in (
        "no such image",
        "test.nop",
        "store.sls",
        "kolla-salt runs show r1",
        "salt c1 state.sls store test=True",
    ):
        assert part in text


def test_timings_are_summed_by_wave_and_host():
    steps = [
        {"wave": 1, "services": ["a"], "seconds": 2.0, "hosts": {"c1": {"seconds": 1.5, "slowest": [[1.4, "x"]]}}},
        {"wave": 1, "services": ["a"], "seconds": 1.0, "hosts": {"c2": {"seconds": 0.5, "slowest": [[0.4, "y"]]}}},
        {"wave": 2, "services": ["b"], "seconds": 4.0, "hosts": {"c1": {"seconds": 3.0, "slowest": [[2.9, "z"]]}}},
    ]
    table = progress.timing_table(steps)
    assert [wave["seconds"] for wave in table["waves"]] == [3.0, 4.0]
    assert [entry["id"] for entry in table["slowest"]] == ["z", "x", "y"]
    assert "slowest states" in view.timings(table, width=100)
