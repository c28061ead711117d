"""What of a plan is still to be done."""

import pytest

from kolla_salt import steps

REQUIRES = {"store": [], "side": [], "middle": ["store"], "top": ["middle"], "edge": ["store"]}
PRIMARIES = {"store": "c1", "side": "c1", "middle": "c1", "top": "c1", "edge": "k1"}


def step(sls, minions, **more):
    return {
        "id": "s",
        "wave": 1,
        "role": "primary",
        "services": list(sls),
        "sls": list(sls),
        "minions": list(minions),
        **more,
    }


def progress(**more):
    return steps.Progress(requires=REQUIRES, primaries=PRIMARIES, **more)


def test_what_a_service_needs_includes_what_that_needs():
    assert steps.needed_by("top", REQUIRES) == {"middle", "store"}


def test_a_circle_of_requirements_ends():
    assert steps.needed_by("a", {"a": ["b"], "b": ["a"]}) == {"a", "b"}


def test_a_change_takes_its_dependents_along_and_nothing_else():
    assert steps.to_do({"c1": ["middle"]}, REQUIRES, REQUIRES) == {"middle", "top"}
    assert steps.to_do({"c1": []}, REQUIRES, REQUIRES) == set()


def test_a_change_that_others_do_not_see_does_not_make_them_run():
    assert steps.to_do({"c1": ["middle"]}, REQUIRES, REQUIRES, spreading=[]) == {"middle"}
    file = {"function": "kolla_config.managed", "changes": {"content": {"old": "a", "new": "b"}}}
    reload = {"function": "kolla_container.running", "changes": {"state": {"old": "running", "new": "reloaded"}}}
    other_image = {"function": "kolla_container.running", "changes": {"state": {"old": "running", "new": "recreated"}}}
    schema = {"function": "kolla_db.database_present", "changes": {"schema": {"old": None, "new": "present"}}}
    seen = [steps.matters_to_others(change) for change in (file, reload, other_image, schema)]
    assert seen == [False, False, True, True]


def test_each_host_is_surveyed_for_all_its_sls_once():
    plan = [step(["store"], ["c1"]), step(["middle", "top"], ["c1", "c2"]), step(["store"], ["c1"])]
    assert steps.sls_by_host(plan) == {"c1": ["store", "middle", "top"], "c2": ["middle", "top"]}


def test_a_failure_stops_dependents_and_lets_others_go_on():
    run = progress()
    run.fail("store", "c1")
    jobs, left_out = run.targets(step(["middle", "side"], ["c1"]))
    assert jobs == {"c1": ["side"]}
    assert left_out == {"middle": {"c1": "it requires store, which failed on c1"}}


def test_a_failure_on_a_later_host_stops_only_that_host():
    run = progress()
    run.fail("store", "c2")
    jobs, left_out = run.targets(step(["middle"], ["c2", "c3"], role="rest"))
    assert jobs == {"c3": ["middle"]}
    assert set(left_out["middle"]) == {"c2"}


def test_the_rest_waits_for_its_own_first_host():
    run = progress()
    run.fail("middle", "c1")
    _, left_out = run.targets(step(["middle"], ["c2"], role="rest"))
    assert left_out["middle"]["c2"] == "it failed on its first host c1"


def test_a_silent_host_that_nobody_needs_does_not_hold_up_the_others():
    run = progress(unknown={"k2"})
    jobs, left_out = run.targets(step(["edge"], ["k2", "k3"], role="rest"))
    assert jobs == {"k3": ["edge"]}
    assert left_out == {"edge": {"k2": "k2 does not answer"}}


def test_a_silent_first_host_holds_up_whoever_needs_it():
    run = progress(unknown={"c1"})
    jobs, left_out = run.targets(step(["edge"], ["k1"]))
    assert jobs == {}
    assert "whose first host c1 does not answer" in left_out["edge"]["k1"]


def test_services_without_work_are_no_obstacle_and_no_job():
    jobs, left_out = progress(todo={"top"}).targets(step(["middle", "side"], ["c1"]))
    assert (jobs, left_out) == ({}, {})


def test_finishing_is_left_out_where_its_service_failed():
    run = progress()
    run.fail("edge", "k1")
    jobs, left_out = run.targets(step(["edge.finish"], ["k1"], role="finish"))
    assert jobs == {}
    assert left_out == {"edge": {"k1": "edge failed on k1"}}


def test_the_first_host_has_its_turn_before_the_others_unless_they_come_together():
    placed = {"c1": {"store"}, "c2": {"store"}}
    both = ["c1", "c2"]
    alone = progress(placed=placed)
    assert alone.targets(step(["store"], both))[0] == {"c1": ["store"]}
    assert alone.targets(step(["store"], both, role="rest"))[0] == {"c2": ["store"]}
    together = progress(placed=placed, together={"store"})
    assert together.targets(step(["store"], both))[0] == {"c1": ["store"], "c2": ["store"]}
    assert together.targets(step(["store"], both, role="rest"))[0] == {}
    # Nobody waits for a first host that does not answer.
    assert progress(placed=placed, together={"store"}, unknown={"c1"}).targets(step(["store"], both))[0] == {
        "c2": ["store"]
    }


def test_a_host_takes_part_only_in_what_is_placed_on_it():
    placed = {"c1": {"middle"}, "k1": {"edge"}}
    jobs, left_out = progress(placed=placed).targets(step(["middle", "edge"], ["c1", "k1", "k2"]))
    assert (jobs, left_out) == ({"c1": ["middle"], "k1": ["edge"]}, {})
    assert steps.sls_by_host([step(["middle", "edge"], ["c1", "k1"])], placed) == {"c1": ["middle"], "k1": ["edge"]}


# --- one host after the other -----------------------------------------------------------------------------------------

RESTART = {"function": "kolla_container.running", "changes": {"state": {"old": "running", "new": "restarted"}}}
LIMITS = {"api": steps.Rule("web", 1), "agent": steps.Rule("net", 2), "cron": steps.Rule("common", 0)}


def test_only_what_clients_may_notice_counts_as_disturbed():
    def state(container, new, function="kolla_container.running", old="running"):
        return {"id": container, "function": function, "changes": {"state": {"old": old, "new": new}}}

    found = steps.disturbed(
        [
            state("a", "restarted"),
            state("b", "created", old="absent"),
            state("c", "reloaded"),
            state("d", "recreated"),
            state("e", "started", old="exited"),
            state("f", "absent", "kolla_container.absent"),
            state("g", "absent", "kolla_container.absent", old="exited"),
            {"id": "h/file", "function": "kolla_config.managed", "changes": {"content": {"old": 1, "new": 2}}},
            state("i", "updated"),
        ]
    )
    assert found == {"a": "restarted", "c": "reloaded", "d": "recreated", "f": "removed"}


@pytest.mark.parametrize(
    ("declared", "hosts", "expected"), [(1, 9, 1), (0, 9, 0), ("25%", 9, 2), ("25%", 3, 1), ("3", 9, 3), ("100%", 9, 9)]
)
def test_hosts_at_once_is_a_number_or_a_part(declared, hosts, expected):
    assert steps.hosts_at_once(declared, hosts) == expected


def test_hosts_that_disturb_the_same_container_come_one_after_the_other():
    planned = {host: {"api": "restarted"} for host in ("h1", "h2", "h3")}
    assert steps.batches(["h1", "h2", "h3"], planned, LIMITS) == [["h1"], ["h2"], ["h3"]]


def test_as_many_at_once_as_the_container_allows():
    planned = {host: {"agent": "restarted", "cron": "restarted"} for host in ("h1", "h2", "h3")}
    assert steps.batches(["h1", "h2", "h3"], planned, LIMITS) == [["h1", "h2"], ["h3"]]


def test_hosts_that_disturb_nothing_or_other_things_share_a_batch():
    planned = {"h1": {"api": "restarted"}, "h2": {"agent": "reloaded"}, "h3": {"cron": "restarted"}}
    assert steps.batches(["h1", "h2", "h3", "h4"], planned, LIMITS) == [["h1", "h2", "h3", "h4"]]


def test_what_a_step_does_not_apply_does_not_split_it():
    found = progress(planned={"h1": {"api": "restarted"}, "h2": {"api": "restarted"}}, limits=LIMITS)
    assert found.batches({"h1": ["web"], "h2": ["web", "net"]}) == [["h1"], ["h2"]]
    assert found.batches({"h1": ["web"], "h2": ["net"]}) == [["h1", "h2"]]


def test_a_failure_keeps_the_next_hosts_as_they_are():
    found = progress(planned={host: {"api": "restarted"} for host in ("h1", "h2", "h3")}, limits=LIMITS)
    left_out = {}
    assert found.going_on({"h1": ["web", "net"]}, [], left_out) == [(["h1"], ["web", "net"])]
    found.fail("web", "h1")
    assert found.going_on({"h2": ["web", "net"]}, ["h1"], left_out) == [(["h2"], ["net"])]
    assert left_out == {"web": {"h2": "it failed on h1, and is changed one host after the other"}}


def test_a_host_lost_on_the_way_stops_a_rolling_change_but_not_the_rest():
    found = progress(planned={"h2": {"api": "restarted"}}, limits=LIMITS, unknown={"h1"})
    left_out = {}
    assert found.going_on({"h2": ["web"], "h3": ["web"]}, ["h1"], left_out) == [(["h3"], ["web"])]
    assert list(left_out["web"]) == ["h2"]


def test_hosts_that_are_changed_one_after_the_other_are_asked_who_comes_last():
    planned = {
        "h1": {"vip": "recreated"},
        "h2": {"vip": "restarted"},
        "h3": {"vip": "reloaded"},
        "h4": {"api": "restarted"},
    }
    found = progress(planned=planned, limits={**LIMITS, "vip": steps.Rule("lb", 1, last="kolla_vip.holds")})
    assert found.last({host: ["lb", "web"] for host in planned}) == {"kolla_vip.holds": ["h1", "h2"]}
    assert found.last({"h1": ["lb"], "h2": ["web"], "h3": ["lb"]}) == {}


def test_the_next_hosts_wait_until_clients_use_what_was_away_again():
    planned = {
        "h1": {"cache": "recreated", "api": "restarted"},
        "h2": {"cache": "reloaded"},
        "h3": {"api": "restarted"},
    }
    found = progress(planned=planned, limits={**LIMITS, "cache": steps.Rule("cache", 1, settle=6)})
    assert found.settle([(["h1"], ["cache", "web"])]) == 6
    assert found.settle([(["h1"], ["web"]), (["h2"], ["cache"]), (["h3"], ["web"])]) == 0
