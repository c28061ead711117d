"""Whether containers fared as predicted."""

from __future__ import annotations

import pytest

from kolla_salt import reality
from kolla_salt.context import Resolver
from kolla_salt.prediction import Act


def container(number=1, started="2026-01-01T00:00:00.5Z", state="running", restarts=0, **more):
    return {"id": f"id{number}", "started": started, "state": state, "restarts": restarts, **more}


LATER = "2026-01-01T00:05:09.5Z"


def judge(then, now, done=(), **more):
    """Return what is said of container ``a`` on ``h1``."""
    before = {"h1": {"a": then} if then else {}}
    after = {"h1": {"a": now} if now else {}}
    acts = {"h1": {"a": [Act("web", word) for word in done]}} if done else {}
    return [(found.found, found.said) for found in reality.of_engine(before, after, acts, {}, **more)]


@pytest.mark.parametrize(
    ("then", "now", "done"),
    [
        (container(), container(), ()),
        (container(), container(), ("reloaded",)),
        (container(), container(), ("updated",)),
        (container(), container(started=LATER), ("restarted",)),
        (container(state="exited"), container(started=LATER), ("started",)),
        (container(), container(2, LATER), ("recreated",)),
        (container(), container(2, LATER), ("recreated", "restarted")),
        (None, container(), ("created",)),
        (container(2, LATER), container(1, LATER), ("returned",)),
        (container(), None, ("removed",)),
        (container(), container(state="exited"), ("stopped",)),
        # Put aside by a run, or an attempt that did not come to anything.
        (None, container(state="exited"), ()),
        # The engine counts anew after a start by hand.
        (container(restarts=3), container(started=LATER), ("restarted",)),
    ],
)
def test_what_was_done_explains_what_the_engine_says(then, now, done):
    assert judge(then, now, done) == []


@pytest.mark.parametrize(
    ("then", "now", "done", "found", "said"),
    [
        (container(), container(started=LATER), (), "started", "was started anew at 2026-01-01 00:05:09 UTC, though"),
        (container(), container(started=LATER), ("reloaded",), "started", "though it was only reloaded"),
        (container(), container(2, LATER), (), "replaced", "though nothing was done to it"),
        (container(), container(2, LATER), ("restarted",), "replaced", "though it was only restarted"),
        (container(), None, (), "gone", "is gone, though nothing was done to it"),
        (container(), None, ("restarted",), "gone", "though it was only restarted"),
        (None, container(), (), "new", "came into being at 2026-01-01 00:00:00 UTC"),
        (container(), container(state="exited", exit=137, oom=True), (), "ended", "exit code 137, the kernel ended it"),
        (None, container(restarts=2), ("created",), "started", "again by the engine 2 times"),
        (container(), container(2, LATER, restarts=1), ("recreated",), "started", "again by the engine once"),
        (container(), container(started=LATER, restarts=1), ("restarted",), "started", "restarts by the engine: 1"),
    ],
)
def test_what_nobody_did_is_a_deviation(then, now, done, found, said):
    [(word, sentence)] = judge(then, now, done)
    assert word == found
    assert said in sentence


def test_what_the_engine_knows_of_an_end_is_told():
    deaths = {"h1": {"a": [{"at": 1, "exit": "137"}, {"at": 2, "exit": "1"}]}}
    [(_, said)] = judge(container(), container(started=LATER, restarts=2), deaths=deaths)
    assert said.endswith("; the engine says: exit code 137, 1, restarts by the engine: 2")
    [(_, said)] = judge(container(), container(started=LATER))
    assert said.endswith("; the engine does not say why")


def test_one_that_is_held_while_another_restarts_may_start_anew():
    before = {"h1": {"lb": container(), "vip": container(2)}}
    after = {"h1": {"lb": container(started=LATER), "vip": container(2, LATER)}}
    held = {"lb": ["vip"]}
    assert reality.of_engine(before, after, {"h1": {"lb": [Act("lb", "restarted")]}}, held) == []
    found = reality.of_engine(before, after, {"h1": {"lb": [Act("lb", "reloaded")]}}, held)
    assert [item.container for item in found] == ["lb", "vip"]


def test_a_host_that_was_not_asked_again_and_what_failed_is_not_judged():
    before = {"h1": {"a": container()}, "h2": {"a": container()}}
    after = {"h1": {"a": container(started=LATER)}}
    assert reality.of_engine(before, after, {}, {}, excused={("h1", "a")}) == []


@pytest.mark.parametrize(
    ("predicted", "done", "said"),
    [
        (["restarted"], ["restarted"], None),
        ([], ["restarted"], "was restarted, which was not predicted"),
        (["reloaded"], ["restarted"], "was to be reloaded, and was restarted"),
        (["recreated"], [], "was to be recreated, and nothing was done to it"),
        (["restarted"], ["restarted", "restarted"], "was to be restarted, and was restarted and restarted"),
        (["run"], [], "was to run once, and nothing was done to it"),
    ],
)
def test_states_do_what_was_predicted_of_them(predicted, done, said):
    def of(words):
        return {"h1": {"a": [Act("web.cells", word) for word in words]}} if words else {}

    found = reality.of_states(of(predicted), of(done), {("web", "h1")})
    assert [item.said for item in found] == ([said] if said else [])
    # Where the service failed, or was left out, it is not known what was left to do.
    assert reality.of_states(of(predicted), of(done), {("web", "h2")}) == []


def test_a_start_that_is_noted_while_another_restarts_need_not_be_noted():
    predicted = {"h1": {"switch": [Act("switch", "restarted")], "agent": [Act("net", "adopted")]}}
    done, settled = {"h1": {"switch": [Act("switch", "restarted")]}}, {("switch", "h1"), ("net", "h1")}
    assert reality.of_states(predicted, done, settled, {"switch": ["agent"]}) == []
    [found] = reality.of_states(predicted, done, settled)
    assert found.said == "was to be adopted, and nothing was done to it"


class Change:
    def __init__(self, name, function, done, sls="web"):
        self.id, self.function, self.sls = name, function, sls
        self.changes = {"state": {"old": "running", "new": done}}


def test_a_second_start_of_its_own_step_is_the_same_containers(decls, site_data, tmp_path):
    fates = reality.Fates(Resolver(decls, site_data, "ctl1", cache=tmp_path))
    fates.before = {"ctl1": {"web_api": container()}}
    first = {"id": "web_api", "sls": "web", "function": "kolla_container.running"}
    again = {"id": "web_api again", "sls": "web", "function": "kolla_container.renewed"}
    words = (first, "recreated"), (again, "restarted")
    states = [state | {"changes": {"state": {"old": "running", "new": word}}} for state, word in words]
    fates.predict({"ctl1": {"states": states, "failed": []}})
    fates.see("ctl1", ["web"], [Change("web_api", "kolla_container.running", "recreated")])
    fates.see("ctl1", ["web"], [Change("web_api again", "kolla_container.renewed", "restarted")])
    assert fates.deviations({"ctl1": {"web_api": container(2, LATER)}}, set(), set()) == []
    assert len(fates.deviations({"ctl1": {"web_api": container(2, LATER, restarts=1)}}, set(), set())) == 1


def test_a_run_is_judged_by_both_witnesses(decls, site_data, tmp_path):
    fates = reality.Fates(Resolver(decls, site_data, "ctl1", cache=tmp_path))
    names = [name for name, service in fates.owner.items() if service == "web"]
    assert names
    name = names[0]
    state = {"id": name, "sls": "web", "function": "kolla_container.running"}
    change = {"changes": {"state": {"old": "running", "new": "reloaded"}}}
    fates.before = {"ctl1": {name: container(), "other": container(2)}}
    fates.predict({"ctl1": {"states": [state | change], "failed": []}})
    fates.see("ctl1", ["web"], [Change(name, "kolla_container.running", "reloaded")])
    fates.owner["other"] = "web"
    same = {"ctl1": {name: container(), "other": container(2), "made by a program of another": container(3)}}
    assert fates.deviations(same, set(), set()) == []
    moved = {"ctl1": {name: container(), "other": container(2, LATER)}}
    assert [item.container for item in fates.deviations(moved, set(), set())] == ["other"]
    failed = {"ctl1": {name: container(started=LATER), "other": container(2)}}
    assert [item.container for item in fates.deviations(failed, set(), set())] == [name]
    assert fates.deviations(failed, {("web", "ctl1")}, set()) == []


def test_agents_of_containers_that_a_run_made_new_are_newcomers(decls, site_data, tmp_path):
    fates = reality.Fates(Resolver(decls, site_data, "ctl1", cache=tmp_path))
    fates.reports = {"web_agent": "web-agent"}
    fates.before = {"ctl1": {"web_agent": container()}, "ctl2": {}, "ctl3": {}}
    after = {
        "ctl1": {"web_agent": container(2, LATER)}, "ctl2": {"web_agent": container(3), "web_api": container(4)},
        "ctl3": {"web_agent": container(5) | {"state": "exited"}},
    }  # fmt: skip
    assert fates.newcomers(after) == {"web-agent": ["ctl2"]}
