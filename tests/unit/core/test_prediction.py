"""What a run will do, and what its users notice."""

from __future__ import annotations

import pytest

from kolla_salt import plan, prediction
from kolla_salt.cli import plan as cli_plan
from kolla_salt.context import Resolver


def running(name, done, old="running", sls="web"):
    changes = {"state": {"old": old, "new": done}}
    return {"id": name, "sls": sls, "function": "kolla_container.running", "changes": changes}


def report(*states, failed=()):
    return {"version": "1", "states": list(states), "failed": list(failed), "errors": [], "missing_images": []}


@pytest.fixture
def foreseen(decls, site_data, tmp_path):
    """Return order and effects of a run in which hosts predict what they are given."""

    def make(reports, balancers=("ctl1", "ctl2"), unknown=(), **change):
        decls["web"]["load_balancer"]["web_api"].update(change)
        resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path / "cache")
        found = prediction.forecast(resolver, plan.steps(resolver))
        found.progress.unknown = set(unknown)
        answering = prediction.entries(resolver)
        found.learn({host: report(*states) for host, states in reports.items()})
        order = prediction.order(found, answering)
        return order, prediction.effects(resolver, found, order, answering, balancers)

    return make


def test_hosts_come_one_after_the_other_and_out_of_the_load_balancer(foreseen):
    reports = {"ctl1": [running("web_api", "restarted")], "ctl2": [running("web_api", "restarted")]}
    order, [effect] = foreseen(reports)
    assert [(step["role"], [batch["hosts"] for batch in step["batches"]]) for step in order] == [
        ("primary", [["ctl1"]]),
        ("rest", [["ctl2", "cmp1"]]),
    ]
    first, second = order[0]["batches"][0], order[1]["batches"][0]
    assert first["containers"] == {"ctl1": {"web_api": "restarted"}}
    assert (first["out"], second["out"]) == (["web_api_back/ctl1"], ["web_api_back/ctl2"])
    assert effect["effect"] == "none" and effect["said"].endswith("no failed request expected")
    assert (effect["container"], effect["done"], effect["hosts"]) == ("web_api", ["restarted"], ["ctl1", "ctl2"])


def test_without_a_load_balancer_users_of_the_one_that_restarts_notice(foreseen):
    _, [effect] = foreseen({"ctl1": [running("web_api", "restarted")]}, balancers=())
    assert effect["effect"] == "reconnect"


def test_one_that_alone_has_the_connections_hands_them_over(foreseen):
    order, [effect] = foreseen({"ctl1": [running("web_api", "recreated")]}, active_passive=True)
    assert effect["effect"] == "reconnect" and "connect anew once" in effect["said"]
    assert order[0]["batches"][0]["out"] == ["web_api_back/ctl1"]


def test_a_service_on_a_single_host_is_away_and_who_needs_it_is_named(foreseen, site_data):
    site_data["topology"]["groups"]["control"] = ["ctl1"]
    _, [effect] = foreseen({"ctl1": [running("web_api", "recreated")]})
    assert effect["effect"] == "unavailable"
    _, [effect] = foreseen({"ctl1": [running("web_api", "reloaded")]})
    assert effect["effect"] == "wait"


def test_what_comes_into_being_is_new_and_disturbs_nobody(foreseen):
    order, [effect] = foreseen({host: [running("web_api", "created", "absent")] for host in ("ctl1", "ctl2")})
    assert effect["effect"] == "new"
    assert all(batch["out"] == [] for step in order for batch in step["batches"])


@pytest.fixture
def broker(decls):
    """Have the container `base` be the message broker, with an API that is balanced, and `web` its client."""
    setting = {"default": "base", "type": "string", "doc": "Broker."}
    decls["kolla"]["settings"]["om_rpc_group"] = setting
    decls["base"]["load_balancer"]["base_console"] = {
        **decls["web"]["load_balancer"]["web_api"], "group": "base", "container": "base",
    }  # fmt: skip
    decls["web"] |= {"messaging": "web_workers > 0", "requires": []}


def test_who_is_connected_to_the_message_broker_notices_although_its_console_is_balanced(foreseen, broker, decls):
    def effect(done):
        _, [found] = foreseen({host: [running("base", done, sls="base")] for host in ("ctl1", "ctl2")})
        return found["effect"], found["concerns"]

    assert effect("restarted") == ("reconnect", ["web"])
    assert effect("reloaded") == ("none", [])
    decls["web"]["messaging"] = "web_workers > 99"
    assert effect("restarted") == ("none", [])


def test_they_are_named_in_the_operators_words(foreseen, broker, site_data):
    reports = {host: [running("base", "restarted", sls="base")] for host in ("ctl1", "ctl2")}
    _, effects = foreseen(reports)
    assert cli_plan._effects(effects)[0].endswith("connect anew (these are web)")
    site_data["topology"]["groups"]["control"] = ["ctl1"]
    _, effects = foreseen({"ctl1": reports["ctl1"]})
    assert cli_plan._effects(effects)[0].endswith("starts again (needed by web)")


def test_a_broker_on_a_single_host_is_away_for_who_only_talks_over_it(foreseen, broker, site_data):
    site_data["topology"]["groups"]["control"] = ["ctl1"]
    _, [effect] = foreseen({"ctl1": [running("base", "recreated", sls="base")]})
    assert (effect["effect"], effect["concerns"]) == ("unavailable", ["web"])


def test_nothing_to_do_is_no_order(foreseen):
    assert foreseen({"ctl1": [], "ctl2": [], "cmp1": []}) == ([], [])


def test_a_silent_first_host_leaves_its_service_out(foreseen):
    order, _ = foreseen({"ctl2": [running("web_api", "restarted")]}, unknown={"ctl1"})
    assert {service for step in order for service in step["left_out"]} >= {"web"}
    assert all(not batch["containers"] for step in order for batch in step["batches"])


def test_no_prediction_is_a_reason_not_to_begin():
    reports = {"a": "Traceback\nKeyError: 'x'", "b": {**report(), "version": "0"}, "c": report()}
    reports["d"] = {**report(), "errors": ["cannot be rendered"]}
    found = prediction.problems(reports, "1")
    assert [line.split(":")[0].split(" ")[0] for line in found] == ["a", "b", "d"]
    assert "install the same version on both" in found[1]


def test_what_a_state_does_to_a_container():
    def done(function, **changes):
        found = prediction.act({"id": "a", "sls": "web", "function": function, "changes": changes})
        return found and found.done

    state = {"old": "running", "new": "reloaded"}
    assert done("kolla_container.running", state=state) == "reloaded"
    assert done("kolla_container.absent", state={"old": "running", "new": "absent"}) == "removed"
    assert done("kolla_container.ran", stamp={"old": None, "new": "x"}) == "run"
    assert done("kolla_container.executed", command={"old": None, "new": "x"}) is None
    assert done("kolla_config.managed", state=state) is None
    assert done("kolla_kept.returned", state={"old": "running", "new": "returned"}) == "returned"
    assert done("kolla_kept.used_up", kept={"old": ["x"], "new": []}) is None


def test_why_something_is_done_to_a_container():
    def why(done, old="running", **changes):
        state = {"state": {"old": old, "new": done}, **changes}
        return prediction.container_action({**running("a", done), "changes": state, "comment": ""})

    files = {"old": None, "new": ["a.conf", "b.conf"]}
    assert why("restarted", config=files) == ("restart", "because of a.conf, b.conf")
    assert why("restarted") == ("restart", "because of what it watches")
    assert why("started", "exited (1)") == ("start", "it is exited (1)")
