"""What differs, who wins, what is told and what may be healed."""

from __future__ import annotations

import pytest

from kolla_salt import drift

LABEL = "kolla_salt.fields"


def state(function, changes, name="thing", sls="glance"):
    return {"id": name, "sls": sls, "function": function, "changes": changes}


def one(function, changes, **more):
    return drift.of_states("ctl1", [state(function, changes, **more)])[0]


# --- who wins ---------------------------------------------------------------------------------------------------------


def test_a_changed_file_goes_back_unless_it_becomes_an_override():
    item = one("kolla_config.managed", {"content": {"old": "a", "new": "b"}}, name="glance_api/glance-api.conf")
    assert (item["kind"], item["winner"]) == ("files", "site")
    assert item["found"] == "differs in content"
    assert "kolla-salt deploy glance --limit ctl1" in item["mend"] and "overrides/" in item["mend"]


def test_a_file_that_is_gone_is_called_so():
    item = one("kolla_config.managed", {"content": {"old": None, "new": "b"}, "mode": {"old": None, "new": "0600"}})
    assert item["found"] == "no such file"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": {"old": "exited (137)", "new": "started"}}, "exited (137)"),
        ({"state": {"old": "absent", "new": "created"}, "image": {"old": None, "new": "x"}}, "absent"),
        ({"state": {"old": "running", "new": "recreated"}, "image": {"old": 1, "new": 2}}, "differs in image"),
    ],
)  # fmt: skip
def test_containers_become_what_the_site_says(changes, found):
    item = one("kolla_container.running", changes, name="glance_api")
    assert (item["kind"], item["winner"], item["found"]) == ("containers", "site", found)


def test_a_container_that_somebody_stopped_is_left_to_a_person():
    changes = {"state": {"old": "exited (0)", "new": "started"}}
    states = [state("kolla_container.running", changes, name="glance_api")]
    item = drift.of_states("ctl1", states, {"glance_api": "2026-11-24T20:00:00"})[0]
    assert item["winner"] == "undecided"
    assert "if it is to run again: kolla-salt deploy glance" in item["mend"]


def test_a_container_that_its_engine_started_again_is_as_declared():
    noted = state("kolla_container.running", {"state": {"old": "running", "new": "adopted"}})
    other = state(
        "kolla_container.running", {"state": {"old": "running", "new": "adopted"}, "image": {"old": 1, "new": 2}}
    )
    assert drift.differing([noted, other]) == [other]


def test_accounts_that_are_missing_or_other_are_set_right():
    lacks = one("kolla_db.database_present", {"schema": {"old": None, "new": "glance"}})
    other = one("kolla_keystone.registered", {"endpoint image public R": {"old": "http://a", "new": "http://b"}})
    assert (lacks["kind"], lacks["found"]) == ("databases", "lacks schema")
    assert (other["kind"], other["found"]) == ("catalogue", "differs in endpoint image public R")
    assert "http" not in str(other), "values may hold what is nobody's business"


def test_a_container_that_nobody_declares_names_both_ways():
    look = {"containers": {"old_api": {"service": None, "state": "running", "health": None}}}
    item = drift.of_look("ctl1", look)[0]
    assert item["winner"] == "undecided"
    assert "docker rm -f old_api" in item["mend"] and "switch its service on" in item["mend"]


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_members_that_say_the_same_are_well():
    said = {"db": {"findings": [], "alike": {"cluster": "a", "number of members": 3}}}
    assert drift.across({"c1": said, "c2": said, "c3": said}) == []


def test_members_that_disagree_are_named_with_what_they_say():
    items = drift.across(
        {host: {"db": {"alike": {"cluster": "b" if host == "c3" else "a"}}} for host in ("c1", "c2", "c3")}
    )
    assert [item["found"] for item in items] == ["a on c1, c2; b on c3"]


@pytest.mark.parametrize(("holders", "found"), [([], "on none of c1, c2"), (["c1", "c2"], "on c1, c2")])
def test_an_address_is_on_exactly_one_host(holders, found):
    items = drift.across({host: {"vip": {"once": {"10.0.0.10": host in holders}}} for host in ("c1", "c2")})
    assert [(item["name"], item["found"]) for item in items] == [("10.0.0.10", found)]
    assert drift.across({host: {"vip": {"once": {"10.0.0.10": host == "c2"}}} for host in ("c1", "c2")}) == []


def test_a_member_that_cannot_be_asked_is_a_finding():
    assert "cannot be asked: no answer" in drift.across({"c1": {"db": "no answer"}})[0]["found"]


# --- agents -----------------------------------------------------------------------------------------------------------


def agent(name, host, ok=True, disabled=""):
    return {"agent": name, "host": host, "ok": ok, "said": "up" if ok else "down", "disabled": disabled}


PLACED = {"nova-compute": ["cmp1", "cmp2"]}


def test_agents_that_are_where_they_belong_are_well():
    assert drift.of_agents([agent("nova-compute", "cmp1.example.org"), agent("nova-compute", "cmp2")], PLACED) == []


def test_agents_that_are_down_missing_or_left_behind_are_told():
    items = drift.of_agents([agent("nova-compute", "cmp1", ok=False), agent("nova-compute", "gone")], PLACED)
    assert [(item["host"], item["found"], item["winner"]) for item in items] == [
        ("cmp1", "down", "site"),
        ("gone", "up, where its container does not belong", "undecided"),
        ("cmp2", "does not report", "site"),
    ]


def test_agents_of_which_not_one_has_ever_reported_are_told():
    placed = {"neutron-dhcp-agent": ["net1", "net2"]}
    items = drift.of_agents([agent("nova-compute", "cmp1")], placed)
    assert [(item["host"], item["found"]) for item in items] == [
        ("net1", "does not report"),
        ("net2", "does not report"),
    ]


def test_only_what_containers_are_declared_to_report_is_expected():
    declarations = {"web": {"containers": {"web_agent": {"reports": "web-agent"}, "web_api": {"reports": None}}}}
    containers = {"web_agent": {"service": "web"}, "web_api": {"service": "web"}, "stray": {"service": "other"}}
    assert drift.reporting({"c1": {"containers": containers}}, declarations) == {"web-agent": ["c1"]}


def test_of_agents_that_are_waited_for_only_those_that_are_not_up_are_told():
    agents = [
        agent("nova-compute", "cmp1", ok=False),
        agent("nova-compute", "cmp3"),
        agent("heat-engine", "c1", ok=False),
    ]
    disabled = agent("nova-compute", "cmp4", disabled="new")
    wanted = {"nova-compute": ["cmp1", "cmp2", "cmp3", "cmp4"]}
    assert drift.unheard([*agents, disabled], wanted) == [
        "nova-compute on cmp1 is down: docker logs --tail 50 nova_compute on cmp1",
        "nova-compute on cmp2 does not report: docker logs --tail 50 nova_compute on cmp2",
    ]
    assert drift.unheard(agents, {"nova-compute": ["cmp3"]}) == []


@pytest.mark.parametrize(("problems", "found"), [([], ["agents"]), (["Keystone does not answer"], [])])
def test_agents_that_nobody_could_be_asked_for_are_not_called_missing(problems, found):
    look = {"containers": {"web_agent": {"service": "web", "state": "running", "health": ""}}, "problems": []}
    report = {"survey": {"states": []}, "look": look, "stopped": [], "members": {}}
    declarations = {"web": {"containers": {"web_agent": {"reports": "web-agent"}}}}
    cloud = {"endpoints": [], "agents": [], "strangers": [], "problems": problems}
    items = drift.judge({"c1": report}, cloud, "c1", [], declarations)
    assert [item["kind"] for item in items] == found


def test_nothing_is_said_of_agents_of_a_host_that_is_silent_but_that_they_are_down():
    placed = {"nova-compute": ["cmp1"]}
    items = drift.of_agents([agent("nova-compute", "cmp1"), agent("nova-compute", "cmp2")], placed, ["cmp2"])
    assert items == []


def test_what_an_operator_has_disabled_stays_and_is_no_alarm():
    items = drift.of_agents(
        [agent("nova-compute", "cmp1", disabled="broken fan"), agent("nova-compute", "cmp2")], PLACED
    )
    assert [(item["winner"], item["found"]) for item in items] == [("world", "disabled: broken fan")]
    assert drift.alarming(items) == []


# --- watching ---------------------------------------------------------------------------------------------------------


def listed(name, status="running", text="Up 1 second", label=LABEL):
    return {"Names": [f"/{name}"], "Labels": {label: ""}, "State": status, "Status": text}


def test_only_our_own_containers_count_and_not_what_a_run_has_set_aside():
    found = drift.conditions(
        [
            listed("a"),
            listed("b", "exited", "Exited (128) 2 minutes ago"),
            listed("c", text="Up 3 days (unhealthy)"),
            listed("d", label="theirs"),
            listed("a.20261124-200000-deploy", "exited", "Exited (0) 1 hour ago"),
        ],
        LABEL,
    )
    assert found == {"a": "running", "b": "exited (128)", "c": "unhealthy"}


def looks(*seen, every=30.0):
    memory: dict = {}
    return [drift.changed(memory, now, number * every) for number, now in enumerate(seen)]


WELL, STOPPED = {"a": "running"}, {"a": "exited (1)"}


def test_a_host_that_is_well_says_nothing():
    assert looks(*[WELL] * 100) == [{}] * 100


def test_what_lasts_is_told_once_and_that_it_is_well_again_too():
    told = looks(WELL, STOPPED, STOPPED, STOPPED, WELL, WELL, WELL)
    assert told == [
        {}, {}, {"a": {"was": "running", "now": "exited (1)"}},
        {}, {}, {"a": {"was": "exited (1)", "now": "running"}}, {},
    ]  # fmt: skip


def test_a_moment_is_not_told():
    assert looks(WELL, STOPPED, WELL, STOPPED, WELL) == [{}] * 5


def test_what_was_wrong_at_the_first_look_is_told():
    assert looks(STOPPED, STOPPED)[1] == {"a": {"was": None, "now": "exited (1)"}}


def test_what_stays_wrong_is_told_again_but_seldom():
    told = [bool(said) for said in looks(WELL, *[STOPPED] * 61)]  # half an hour
    assert told.count(True) == 3


def test_a_container_that_is_gone_is_told_once_and_then_forgotten():
    told = looks(WELL, {}, {}, *[{}] * 50)
    assert [said for said in told if said] == [{"a": {"was": "running", "now": "absent"}}]


def test_an_engine_that_does_not_answer_says_nothing_of_the_containers():
    up, down = {drift.ENGINE: "running", **WELL}, {drift.ENGINE: "does not answer"}
    told = looks(up, down, down, down, up, up, up)
    assert [said for said in told if said] == [
        {drift.ENGINE: {"was": "running", "now": "does not answer"}},
        {drift.ENGINE: {"was": "does not answer", "now": "running"}},
    ]


def test_what_salt_is_given_follows_the_options():
    assert drift.watch(0, 0, "docker") == {}
    both = drift.watch(30, 60, "podman", "/run/x.sock")
    assert both["beacons"]["kolla_drift"] == [
        {"interval": 30}, {"engine": "podman"}, {"socket": "/run/x.sock"}, {"disable_during_state_run": True},
    ]  # fmt: skip
    job = both["schedule"]["kolla_drift"]
    assert (job["minutes"], job["splay"], job["return_job"], job["run_on_start"]) == (60, 1800, False, False)


# --- healing ----------------------------------------------------------------------------------------------------------

TOLD = {"a": {"was": "running", "now": "exited (1)"}}


def test_what_has_stopped_may_be_started_again():
    assert drift.to_heal(TOLD, "", {}, 1000.0, 3) == (["a"], {})


@pytest.mark.parametrize("now", ["running", "unhealthy", "absent", "created", "restarting (1)", "paused"])
def test_everything_else_is_nothing_that_a_start_would_mend(now):
    assert drift.to_heal({"a": {"was": None, "now": now}}, "", {}, 1000.0, 3) == ([], {})


def test_nothing_is_healed_while_a_run_goes_on():
    may, refused = drift.to_heal(TOLD, "20261124-200000-deploy", {}, 1000.0, 3)
    assert may == [] and "20261124-200000-deploy" in refused["a"]


def test_what_does_not_stay_up_is_given_up_for_an_hour():
    history: dict = {}
    for number in range(3):
        assert drift.to_heal(TOLD, "", history, 100.0 * number, 3)[0] == ["a"]
        history = drift.remember(history, ["a"], 100.0 * number)
    may, refused = drift.to_heal(TOLD, "", history, 400.0, 3)
    assert may == [] and "does not stay up" in refused["a"]
    assert drift.to_heal(TOLD, "", history, 200.0 + drift.HOUR, 3)[0] == ["a"]
    assert drift.remember(history, [], 300.0 + drift.HOUR) == {}


STARTED = {"state": {"old": "exited (1)", "new": "started"}}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((True, None, STARTED, [], []), ""),
        ((True, None, {}, [], []), ""),
        ((False, None, None, [], []), "no service of this host declares it"),
        ((True, "2026-11-24T20:00:00", None, [], []), "stopped with kolla-salt"),
        ((True, None, {**STARTED, "image": {}}, [], []), "differs from the site in image"),
        ((True, None, {"state": {"old": "absent", "new": "created"}}, [], []), "differs from the site in its state"),
        ((True, None, STARTED, ["a.conf"], []), "changed files (a.conf)"),
        ((True, None, STARTED, None, []), "no deployment of it has ended well"),
        ((True, None, STARTED, [], ["its cluster is away"]), "its cluster is away"),
    ],
)
def test_only_the_same_container_with_the_same_files_is_started(arguments, why):
    said = drift.start_refusal(*arguments)
    assert why in said if why else said == ""


def test_what_was_healed_within_a_day_is_shown():
    def record(verb, started, **more):
        return {"id": f"{verb}-{started}", "verb": verb, "started": started, "host": "c1", **more}

    headers = [
        record("heal", 1000, started_again=["old"], refused={}),
        record("deploy", 90000),
        record("heal", 90001, started_again=["a"], refused={"b": "it does not stay up"}),
    ]
    assert [(item["name"], item["said"], item["run"]) for item in drift.healed(headers, 90002.0)] == [
        ("a", "had stopped and was started again", "heal-90001"),
        ("b", "is not started again: it does not stay up", "heal-90001"),
    ]
