"""Where things stand on a run's time axis."""

import pytest

from kolla_salt.report import timeline

BEGIN = 1000.0


def step(number, started, seconds, hosts, wave=1, **more):
    return {"id": f"step {number}", "wave": wave, "role": "all", "services": ["a"], "started": started,
            "seconds": seconds, "ok": True, "hosts": hosts, "left_out": {}, **more}  # fmt: skip


def host(result=True, changed=(), failed=(), **more):
    return {"result": result, "changed": list(changed), "failed": list(failed), **more}


def change(name, at, seconds):
    return {"id": name, "function": "x.y", "changes": {"f": {"old": 1, "new": 2}}, "at": at, "seconds": seconds}


def picture(steps, finished=BEGIN + 100, receipt=None, **header):
    return timeline.build({"started": BEGIN, "finished": finished, **header}, steps, receipt)


def test_a_bar_stands_where_its_host_worked():
    hosts = {"n1": host(changed=[change("x", 0, 5)], at=10.0, wall=20.0, span=19.0, seconds=30.0)}
    bar = picture([step(1, BEGIN + 20, 50, hosts)])["lanes"][0]["bars"][0]
    assert (bar["x"], bar["w"], bar["kind"], bar["seconds"]) == (30.0, 20.0, "changed", 20.0)


def test_a_state_stands_after_the_time_that_its_host_needed_to_compile():
    hosts = {"n1": host(changed=[change("x", 2.0, 4.0)], at=0.0, wall=20.0, span=10.0)}
    bar = picture([step(1, BEGIN, 50, hosts)])["lanes"][0]["bars"][0]
    # 10 of 20 s went by before the first state, this one began 2 s after it.
    assert bar["rows"] == [{"id": "x", "kind": "changed", "row": 0, "x": 60.0, "w": 20.0}]


def test_states_at_the_same_time_are_in_rows_of_their_own():
    states = [change("a", 0, 5), change("b", 1, 5), change("c", 5, 1)]
    hosts = {"n1": host(changed=states, at=0.0, wall=10.0, span=10.0)}
    rows = picture([step(1, BEGIN, 50, hosts)])["lanes"][0]["bars"][0]["rows"]
    assert {row["id"]: row["row"] for row in rows} == {"a": 0, "b": 1, "c": 0}


def test_an_old_record_gets_bars_that_end_with_their_step():
    hosts = {"n1": host(changed=[{"id": "x", "function": "x.y", "changes": {}}], seconds=80.0, slowest=[[60.0, "x"]])}
    bar = picture([step(1, BEGIN + 10, 30, hosts)])["lanes"][0]["bars"][0]
    assert (bar["x"], bar["w"]) == (10.0, 30.0)
    assert bar["states"] == [{"id": "x", "seconds": 60.0, "kind": "changed"}]


def test_a_host_that_was_lost_is_unknown_until_its_step_ended():
    bar = picture([step(1, BEGIN + 10, 30, {"n1": host(result=None, seconds=0.0)})])["lanes"][0]["bars"][0]
    assert (bar["kind"], bar["w"]) == ("unknown", 30.0)


def test_a_step_around_others_does_not_hide_them():
    inner = step(1, BEGIN + 20, 10, {"n1": host(at=0, wall=10.0)})
    around = step(2, BEGIN + 10, 60, {"n1": host(seconds=60.0)}, wave=0)
    alone = step(3, BEGIN + 80, 10, {"n1": host(seconds=10.0)}, wave=0)
    found = picture([inner, around, alone])
    assert [(bar["step"], bar["x"]) for bar in found["lanes"][0]["bars"]] == [(0, 20.0), (2, 80.0)]
    assert [stage["name"] for stage in found["stages"]] == ["step 3"]


def test_hosts_are_in_the_order_of_their_numbers():
    hosts = {name: host(at=0, wall=1.0) for name in ("node10", "node2", "ctl1", "2nd")}
    assert [lane["host"] for lane in picture([step(1, BEGIN, 5, hosts)])["lanes"]] == ["2nd", "ctl1", "node2", "node10"]


def test_of_many_hosts_those_that_failed_and_the_slowest_are_drawn():
    hosts = {f"n{number}": host(at=0, wall=1.0 + number / 1000) for number in range(1000)}
    hosts["n0"] = host(result=False, at=0, wall=0.1)
    found = picture([step(1, BEGIN, 5, hosts)])
    drawn = {lane["host"] for lane in found["lanes"]}
    assert len(drawn) == timeline.MOST_HOSTS and {"n0", "n999"} <= drawn
    assert found["more_hosts"] == 1000 - timeline.MOST_HOSTS


def test_the_slowest_states_have_numbers():
    hosts = {name: host(changed=[change(f"state of {name}", 0, seconds)], at=0, wall=seconds, span=seconds)
             for name, seconds in (("n1", 3.0), ("n2", 9.0), ("n3", 6.0))}  # fmt: skip
    found = picture([step(1, BEGIN, 10, hosts)])
    assert [(rank["number"], rank["id"]) for rank in found["ranked"]] == [
        (1, "state of n2"), (2, "state of n3"), (3, "state of n1"),
    ]  # fmt: skip
    second = next(lane for lane in found["lanes"] if lane["host"] == "n2")
    assert second["bars"][0]["ranks"] == [{"number": 1, "x": 4.5}]


def test_a_host_is_out_of_the_load_balancer_from_taken_out_to_put_in():
    waits = [
        {"what": "taken out", "at": 0.0, "seconds": 2.0, "hosts": ["n1"], "targets": 1},
        {"what": "put in", "at": 10.0, "seconds": 5.0, "hosts": ["n1"], "targets": 1},
    ]
    hosts = {"n1": host(at=2.0, wall=8.0), "n2": host(at=2.0, wall=8.0)}
    lanes = picture([step(1, BEGIN + 20, 20, hosts, waits=waits)])["lanes"]
    assert lanes[0]["waits"] == [{"x": 20.0, "w": 15.0, "seconds": 15.0}] and lanes[1]["waits"] == []


def test_outages_stand_on_the_same_axis():
    service = {"failed": 3, "requests": 9, "outage": 5.0, "open": False, "there_before": True,
               "outages": [[BEGIN + 40, BEGIN + 45]]}  # fmt: skip
    late = {"failed": 0, "requests": 9, "outage": 0, "open": False, "there_before": False, "outages": []}
    receipt = {
        "started": BEGIN + 10, "finished": BEGIN + 90, "services": {"nova": service, "glance": late},
        "entries": [{"service": "nova", "first_answer": BEGIN + 10}, {"service": "glance", "first_answer": BEGIN + 60}],
    }  # fmt: skip
    nova, glance = picture([step(1, BEGIN, 5, {"n1": host(at=0, wall=1.0)})], receipt=receipt)["apis"]
    assert [(o["x"], o["w"]) for o in nova["outages"]] == [(40.0, 5.0)]
    assert nova["missing"] is None and nova["good"] == {"x": 10.0, "w": 80.0}
    assert glance["missing"] == {"x": 10.0, "w": 50.0} and glance["good"] == {"x": 60.0, "w": 30.0}


def test_waves_reach_over_their_steps_and_stages_stand_before_them():
    hosts = {"n1": host(at=0, wall=1.0)}
    steps = [step(1, BEGIN + 10, 10, hosts), step(2, BEGIN + 20, 20, hosts), step(3, BEGIN + 50, 10, hosts, wave=2)]
    found = picture(steps, stages={"ask": 2, "dry run": 5})
    assert [(wave["wave"], wave["x"], wave["w"]) for wave in found["waves"]] == [(1, 10.0, 30.0), (2, 50.0, 10.0)]
    assert [(stage["name"], stage["x"], stage["w"]) for stage in found["stages"]] == [
        ("ask", 0.0, 2.0),
        ("dry run", 2.0, 5.0),
    ]


@pytest.mark.parametrize(
    ("seconds", "first", "last"),
    [
        (0.4, "0.0 s", "0.4 s"),
        (49, "0 s", "40 s"),
        (410, "0:00", "6:00"),
        (9000, "0:00", "2:30:00"),
        (0, "0 s", "0 s"),
        (90_000_000, "0:00", "24576:00:00"),
    ],
)
def test_ticks(seconds, first, last):
    found = timeline.ticks(seconds)
    assert (found[0][1], found[-1][1]) == (first, last)
    assert len(found) <= 10


def test_a_run_without_steps_has_a_picture():
    found = picture([], finished=None)
    assert found["lanes"] == [] and found["seconds"] > 0
