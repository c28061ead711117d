"""A change of release: which steps are taken, in which order and phases, and what is refused."""

from __future__ import annotations

import io

import pytest

from kolla_salt import declarations, plan, progress, releases, upgrade
from kolla_salt.cli import view
from kolla_salt.context import Resolver
from kolla_salt.expand import expand
from kolla_salt.steps import Progress, disturbed, matters_to_others


def arguments(state):
    ((_, given),) = state.items()
    return {key: value for item in given for key, value in item.items()}


@pytest.fixture
def phased(decls):
    """The service web with everything that a change of release may have."""
    decls["web"]["upgrade"] = {
        "follows": [],
        "before": [{"name": "expand", "container": "web_api", "environment": {"STEP": "expand"}}],
        "again": ["web_agent"],
        "after": [{"name": "contract", "container": "web_api", "environment": {"STEP": "contract"}}],
        "finish": [],
        "checks": [],
    }
    return decls


@pytest.fixture
def on(phased, site_data, tmp_path):
    return lambda host: Resolver(phased, site_data, host, cache=tmp_path)


# --- the distance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"), [("2025.2", "2026.1"), ("2025.1", "2026.1"), ("2025.1", "2025.2"), ("2026.1", "2026.1")]
)
def test_consecutive_releases_and_those_with_long_support_are_steps(old, new):
    assert releases.obstacle(old, new) == ""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("2026.1", "2025.2", "older than"),
        ("2024.2", "2026.1", "by way of 2025.1"),
        ("2025.2", "2031.1", "2031.1 is not known"),
        ("2019.1", "2026.1", "2019.1 is not known"),
    ],
)
def test_other_steps_are_refused_with_the_way_that_leads_there(old, new, why):
    assert why in releases.obstacle(old, new)


def test_every_step_is_between_known_releases_and_upwards():
    order = list(releases.RELEASES)
    for old, news in releases.STEPS.items():
        assert all(order.index(new) > order.index(old) for new in news)


@pytest.mark.parametrize(
    ("version", "reference", "release"),
    [
        ("22.2.0", "registry:5000/openstack.kolla/glance-api:nightly", "2026.1"),
        ("21.0.1.dev4", "x", "2025.2"),
        (None, "registry:5000/openstack.kolla/glance-api:2025.1-debian-bookworm", "2025.1"),
        (None, "registry:5000/openstack.kolla/glance-api", None),
        ("1", "localhost/app:1", None),
    ],
)
def test_an_image_tells_its_release_by_label_or_tag(version, reference, release):
    assert releases.release_of(version, reference) == release


# --- what runs --------------------------------------------------------------------------------------------------------

REPORTS = {
    "ctl1": {"web": {"runs": ["2025.2", "2026.1"], "to": "2026.1"}, "base": {"runs": ["2026.1"], "to": "2026.1"}},
    "ctl2": {"web": {"runs": ["2025.2"], "to": "2026.1"}},
}


def test_a_service_half_way_runs_both_releases():
    found = upgrade.overview(REPORTS)
    assert found["web"] == {"from": ["2025.2", "2026.1"], "to": "2026.1"}
    assert upgrade.changing(found) == ["web"]


def test_a_run_that_is_no_upgrade_is_refused_while_the_release_differs():
    text = upgrade.refusal("deploy", upgrade.overview(REPORTS))
    assert "web runs release 2025.2" in text and "kolla-salt upgrade" in text and "openstack_release" in text
    done = {"ctl1": {"web": {"runs": ["2026.1"], "to": "2026.1"}, "new": {"runs": [], "to": "2026.1"}}}
    assert upgrade.refusal("deploy", upgrade.overview(done)) == ""


def test_images_without_a_known_release_hold_nothing_up():
    unknown = {"ctl1": {"web": {"runs": [], "to": None}}}
    assert upgrade.refusal("deploy", upgrade.overview(unknown)) == ""


def test_every_finding_of_the_distance_names_what_mends_it():
    found = {"web": {"from": ["2024.2"], "to": "2026.1"}, "base": {"from": ["2026.1"], "to": "2025.2"}}
    texts = [finding.text for finding in upgrade.distance(found, "2026.1")]
    assert any("release of web" in text and "openstack_release: '2025.1'" in text for text in texts)
    assert any("images of base" in text and "openstack_tag" in text for text in texts)
    assert any("a schema does not go back" in text for text in texts)


# --- the order --------------------------------------------------------------------------------------------------------


def test_each_service_has_its_steps_before_the_next_one_begins(on):
    steps = plan.steps(on("ctl1"), verb="upgrade")
    assert [(step["services"], step["role"], step["minions"], step["phases"]) for step in steps][-5:] == [
        (["web"], "primary", ["ctl1"], ["expand", "containers"]),
        (["web"], "rest", ["ctl2", "cmp1"], ["containers"]),
        (["web"], "again", ["cmp1"], ["again"]),
        (["web"], "finish", ["ctl1"], ["contract"]),
        (["web"], "verify", ["ctl1", "ctl2", "cmp1"], ["verified"]),
    ]
    assert all(len(step["services"]) == 1 for step in steps)
    assert len({step["id"] for step in steps}) == len(steps)


def test_a_service_can_follow_one_that_it_does_not_require(phased, site_data, tmp_path):
    phased["base"]["upgrade"]["follows"] = ["web"]
    phased["web"]["requires"] = []
    names = [
        step["services"][0] for step in plan.steps(Resolver(phased, site_data, "ctl1", cache=tmp_path), verb="upgrade")
    ]
    assert names.index("web") < names.index("base")


def test_schemas_are_saved_on_the_databases_first_host(cloud):
    first = next(step for step in plan.steps(cloud, ["glance"], "upgrade"))
    assert (first["role"], first["minions"]) == ("snapshot", ["ctl1"])


def test_what_is_no_state_apply_names_the_function_that_does_it(cloud):
    steps = plan.steps(cloud, ["glance"], "upgrade")
    assert {step["role"]: step["by"] for step in steps if "by" in step} == {
        "snapshot": "kolla_upgrade.snapshot",
        "verify": "kolla_upgrade.verify",
    }


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """The real services on one host."""
    site = {
        "globals": {"internal_vip_address": "10.0.0.10", "network_interface": "eth0"},
        "topology": {
            "hosts": {"ctl1": {"addresses": {"api": "10.0.0.11"}}},
            "groups": {"control": ["ctl1"], "network": ["ctl1"], "compute": ["ctl1"]},
        },
        "passwords": {},
        "overrides": {},
    }
    cache = tmp_path_factory.mktemp("cache")
    return Resolver(declarations.load(cache=cache), site, "ctl1", cache=cache)


def test_the_real_services_come_in_an_order_that_their_makers_ask_for(cloud):
    order = list(dict.fromkeys(step["services"][0] for step in plan.steps(cloud, verb="upgrade")))
    for first, second in (
        ("mariadb", "keystone"), ("rabbitmq", "keystone"), ("keystone", "glance"), ("keystone", "placement"),
        ("placement", "nova"), ("openvswitch", "neutron"), ("keystone", "horizon"),
    ):  # fmt: skip
        assert order.index(first) < order.index(second), (first, second, order)


# --- the states -------------------------------------------------------------------------------------------------------


def test_phases_before_come_before_containers_and_those_after_come_last(on):
    states = list(expand("web", on("ctl1"), facts={"upgrade": True}))
    assert states.index("web_expand") < states.index("bootstrap_web") < states.index("web_api")
    assert states[-1] == "web_contract"


def test_the_step_of_the_primary_leaves_what_comes_last_to_later_steps(on):
    states = expand("web", on("ctl1"), role="primary", facts={"upgrade": True})
    assert "web_expand" in states and "web_contract" not in states
    assert list(expand("web", on("ctl1"), role="finish", facts={"upgrade": True})) == ["web_contract"]
    assert list(expand("web", on("cmp1"), role="again", facts={"upgrade": True})) == ["web_agent again"]
    assert list(expand("web", on("ctl1"), role="again", facts={"upgrade": True})) == [
        "web has nothing to do on this host"
    ]


def test_other_runs_know_no_phases(on):
    states = expand("web", on("ctl1"))
    assert not {"web_expand", "web_contract"} & set(states)
    assert arguments(states["bootstrap_web"])["instead"] == ["web_expand"]


def test_a_phase_is_the_container_with_a_task_of_its_own(on):
    states = expand("web", on("ctl1"), facts={"upgrade": True})
    phase = arguments(states["web_expand"])
    assert phase["environment"]["STEP"] == "expand" and phase["of"] == ["bootstrap_web"]
    assert phase["image"] == arguments(states["web_api"])["image"]
    assert {"kolla_db": "web database web"} in phase["require"]
    assert {"kolla_container": "web_expand"} in arguments(states["bootstrap_web"])["require"]


def test_a_second_start_disturbs_and_is_nothing_for_others():
    change = {
        "id": "web_agent again",
        "function": "kolla_container.renewed",
        "changes": {"state": {"new": "restarted"}},
    }
    assert disturbed([change]) == {"web_agent": "restarted"}
    first = {"id": "web_agent", "function": "kolla_container.running", "changes": {"state": {"new": "recreated"}}}
    assert disturbed([first, change]) == {"web_agent": "recreated"}
    assert not matters_to_others(change)


def test_hosts_that_are_not_the_first_have_a_turn_in_the_second_start():
    progress = Progress(requires={}, primaries={"web": "ctl1"})
    step = {"role": "again", "sls": ["web"], "minions": ["ctl1", "cmp1"]}
    assert list(progress.targets(step)[0]) == ["ctl1", "cmp1"]


def test_declarations_that_name_what_there_is_not_are_refused():
    given = {
        "containers": {"web_api": {"command": "x"}},
        "upgrade": {
            "before": [{"name": "expand", "container": "web_ap"}, {"name": "x", "container": "web_api", "when_": 1}],
            "again": ["web_apo"],
            "checks": [{"name": "c", "container": "web_api", "command": ["x"], "release": "future"}],
            "afterwards": [],
        },
    }
    errors = "\n".join(declarations.normalise("web", given)[1])
    for text in ("before[0]", "unknown field 'when_'", "did you mean 'web_api'", "mend", "future", "afterwards"):
        assert text in errors


# --- going on after an interruption -----------------------------------------------------------------------------------


def run(run_id, result, **more):
    return {"id": run_id, "verb": "upgrade", "result": result, "to": "2026.1", **more}


TAKEN = {"host": "ctl1", "path": "/x", "bytes": 1}


def test_an_interrupted_upgrade_is_gone_on_with():
    headers = [
        run("1", "ok", snapshots={"web": TAKEN}),
        run("2", "interrupted", begun={"web": "expand"}, snapshots={"web": TAKEN}, phases={"web": ["snapshot"]}),
        {"id": "3", "verb": "deploy", "result": "ok"},
        run("4", "failed", begun={"base": "containers"}, phases={"base": ["containers", "verified"]}),
        run("5", "failed", to=None),
        run("6", "ok", to=None),
        run("7", "running", to=None),
    ]
    earlier = upgrade.unfinished(headers, "2026.1")
    assert [header["id"] for header in earlier] == ["4", "2"]
    assert upgrade.unverified(earlier) == {"web"}
    assert upgrade.inherited(earlier, "web") == TAKEN
    assert upgrade.inherited(earlier, "base") is None


def test_a_snapshot_of_before_nothing_was_changed_is_taken_anew():
    headers = [run("2", "failed", snapshots={"web": TAKEN}, begun={})]
    assert upgrade.inherited(upgrade.unfinished(headers, "2026.1"), "web") is None


def test_what_was_rolled_back_or_leads_elsewhere_is_not_gone_on_with():
    old = run("2", "failed", begun={"web": "expand", "base": "containers"}, snapshots={"web": TAKEN})
    assert upgrade.unfinished([old, {"id": "3", "verb": "rollback", "result": "ok", "of": "2"}], "2026.1") == []
    part = {"id": "3", "verb": "rollback", "result": "deviated", "of_part": "2", "services": ["web"]}
    assert upgrade.unverified(upgrade.unfinished([old, part], "2026.1")) == {"base"}
    assert upgrade.inherited(upgrade.unfinished([old, part], "2026.1"), "web") is None
    assert upgrade.unfinished([old], "2027.1") == []


def test_what_was_rolled_back_service_by_service_is_not_gone_on_with():
    """It was, and could then not be rolled back: nothing of before was kept any more."""
    old = run("2", "failed", begun={"web": "expand", "base": "containers"}, snapshots={"web": TAKEN})
    old["returned"] = {"web": "3", "base": "4", "*": "4"}
    parts = [
        {"id": name, "verb": "rollback", "result": "ok", "of_part": "2", "services": [service]}
        for name, service in (("3", "web"), ("4", "base"))
    ]
    assert upgrade.unfinished([old, *parts], "2026.1") == []
    again = run("5", "failed", begun={"web": "expand"})
    assert [header["id"] for header in upgrade.unfinished([old, *parts, again], "2026.1")] == ["5"]


def test_a_service_that_was_seen_well_then_taken_back_and_begun_again_has_not_been_seen_well():
    """The load balancer was left down then, and the checks of the next upgrade waited for it for minutes."""
    first = {
        "id": "1", "verb": "upgrade", "result": "failed", "to": "2026.1",
        "begun": {"web": "containers", "db": "containers"},
        "phases": {"web": ["containers", "verified"], "db": ["containers"]},
    }  # fmt: skip
    back = {"id": "2", "verb": "rollback", "result": "ok", "of_part": "1", "services": ["web"]}
    again = {
        "id": "3",
        "verb": "upgrade",
        "result": "failed",
        "to": "2026.1",
        "begun": {"web": "containers"},
        "phases": {},
    }
    assert upgrade.unverified(upgrade.unfinished([first, back], "2026.1")) == {"db"}
    assert upgrade.unverified(upgrade.unfinished([first, back, again], "2026.1")) == {"web", "db"}
    seen = {"id": "4", "verb": "upgrade", "result": "failed", "to": "2026.1", "phases": {"web": ["verified"]}}
    assert upgrade.unverified(upgrade.unfinished([first, back, again, seen], "2026.1")) == {"db"}


def test_a_schema_that_was_expanded_is_ahead_of_the_old_release_until_an_upgrade_of_it_ends_well():
    killed = run("1", "interrupted", begun={"web": "expand", "base": "containers"}, phases={"base": ["containers"]})
    back = {"id": "2", "verb": "rollback", "result": "ok", "of": "1"}
    assert upgrade.ahead([killed, back], "2026.1") == {"web"}
    assert upgrade.ahead([killed, back], "2027.1") == set()
    other = run("3", "ok", phases={"base": ["containers"]})
    assert upgrade.ahead([killed, back, other], "2026.1") == {"web"}
    # Its snapshot was of the schema as it was then: expanded.
    ended = run("4", "ok", phases={"web": ["snapshot", "containers"]})
    assert upgrade.ahead([killed, back, ended], "2026.1") == set()
    for returned in ({"*": "5"}, {"web": "5"}):
        assert upgrade.ahead([killed, back, {**ended, "returned": returned}], "2026.1") == {"web"}
    assert upgrade.ahead([killed, back, {**ended, "returned": {"base": "5"}}], "2026.1") == set()


def test_an_upgrade_waits_until_it_is_finished_or_taken_back():
    headers = [run("1", "ok", phases={"web": ["containers"]}), run("2", "ok", phases={})]
    assert upgrade.waiting(headers) == ["1"]
    assert upgrade.waiting([*headers, {"id": "3", "verb": "rollback", "result": "ok", "of": "1"}]) == []
    headers[0]["finished_upgrade"] = 12.0
    assert upgrade.waiting(headers) == []


def test_services_whose_images_or_phases_change_are_saved_before():
    states = [
        {"sls": "web", "function": "kolla_container.running", "changes": {"image": {}}},
        {"sls": "base", "function": "kolla_container.running", "changes": {"config": {}}},
        {"sls": "edge.late", "function": "kolla_container.ran", "changes": {"run": {}}},
    ]
    assert upgrade.replaced({"hosts": {"ctl1": {"states": states}}}) == {"web", "edge"}


def test_whoever_watches_sees_which_step_of_a_service_is_at_work():
    state, out = progress.RunState(), io.StringIO()
    live = view.LiveView(state, out, moving=False)
    step = {"id": "glance: expand on ctl1", "wave": 2, "role": "primary", "services": ["glance"]}
    live.event("kolla/run/begun", {"run": "r", "verb": "upgrade", "steps": [step], "hosts": ["ctl1"]})
    live.event("kolla/run/step", {"run": "r", **step, "state": "started", "hosts": ["ctl1"]})
    assert "2/2  glance: expand on ctl1\n" in out.getvalue()
