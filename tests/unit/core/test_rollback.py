"""Which run is taken back, in which order, and what of it can not."""

from __future__ import annotations

import pytest

from kolla_salt import rollback, runs
from kolla_salt.context import Resolver

OLD, RUN = "20260714-100000-deploy", "20260714-110000-deploy"


def change(state_id, sls, function="kolla_config.managed", **changes):
    return {"id": state_id, "sls": sls, "function": function, "changes": changes or {"content": {"old": 1, "new": 2}}}


def replaced(name, sls, new="recreated"):
    return change(name, sls, "kolla_container.running", state={"old": "running", "new": new})


def step(*hosts, services=("web",), **changed):
    return {
        "id": "wave 1",
        "wave": 1,
        "role": "primary",
        "services": list(services),
        "seconds": 1,
        "started": 1,
        "ok": True,
        "hosts": {host: {"result": True, "seconds": 1, "changed": changed["changed"], "failed": []} for host in hosts},
    }


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def record(root):
    """Write the record of a run that replaced the container of a service on two hosts."""

    def make(run_id=RUN, result="ok", changed=None, **fields):
        run = runs.create(run_id.split("-", 2)[2], root, run_id=run_id)
        changed = [change("web_api/web.conf", "web"), replaced("web_api", "web")] if changed is None else changed
        states = [{**item, "sls": item["sls"]} for item in changed]
        run.write_plan({"steps": [], "hosts": {host: {"states": states} for host in ("ctl1", "ctl2")}, "unknown": []})
        if changed:
            run.append_step(step("ctl1", "ctl2", changed=changed))
        run.close(result, **fields)
        return run

    return make


@pytest.fixture
def resolver(decls, site_data, tmp_path):
    return Resolver(decls, site_data, "ctl1", cache=tmp_path / "cache")


def test_without_a_name_the_last_run_that_changed_something_is_meant(resolver, root, record):
    record(OLD)
    record(RUN)
    record("20260714-120000-deploy", changed=[])
    record("20260714-130000-genconfig")
    assert rollback.prepare(resolver, root)["run"] == RUN


def test_what_was_rolled_back_is_passed_over_and_refused_by_name(resolver, root, record):
    record(OLD)
    record(RUN, returned={"web": "20260714-120000-rollback", "*": "20260714-120000-rollback"})
    assert rollback.prepare(resolver, root)["run"] == OLD
    with pytest.raises(rollback.RollbackError, match="was rolled back by 20260714-120000-rollback"):
        rollback.prepare(resolver, root, RUN)


def test_a_run_that_made_containers_anew_has_to_be_named(resolver, root, record):
    record(RUN, changed=[replaced("web_api", "web", "created")])
    with pytest.raises(rollback.RollbackError, match=f"removes them. If that is meant, name it: .* {RUN}"):
        rollback.prepare(resolver, root)
    assert rollback.prepare(resolver, root, RUN)["hosts"] == {"web": ["ctl1", "ctl2"]}


@pytest.mark.parametrize(
    ("run_id", "hint"),
    [
        ("20260714-110000-node-add", "node remove"),
        ("20260714-110000-genconfig", "touched no container"),
        ("20260714-110000-rollback", "kolla-salt deploy"),
        ("20260714-110000-mariadb-recovery", "only runs of deploy, reconfigure, upgrade can"),
    ],
)
def test_other_verbs_name_the_way_back(resolver, root, record, run_id, hint):
    record(run_id)
    with pytest.raises(rollback.RollbackError, match=hint):
        rollback.prepare(resolver, root, run_id)


def test_a_run_that_only_noted_what_runs_changed_nothing(root, record):
    record(OLD)
    record(RUN, changed=[replaced("web_api", "web", "adopted")])
    assert rollback.last(root).id == OLD


def test_a_finished_upgrade_has_no_way_back(resolver, root, record):
    record("20260714-110000-upgrade", finished_upgrade=1.0)
    with pytest.raises(rollback.RollbackError, match="upgrade --finish"):
        rollback.prepare(resolver, root, "20260714-110000-upgrade")


def test_an_interrupted_run_may_have_changed_whatever_it_was_about_to(resolver, root, record):
    run = record(RUN, result="interrupted")
    (run.folder / "steps.jsonl").unlink()
    found = rollback.prepare(resolver, root, RUN)
    assert found["hosts"] == {"web": ["ctl1", "ctl2"]}
    assert found["keeping"] == {}


def test_an_unknown_service_is_refused_with_those_that_the_run_changed(resolver, root, record):
    record(RUN)
    with pytest.raises(rollback.RollbackError, match="has not changed it.*it has changed web"):
        rollback.prepare(resolver, root, RUN, ["wob"])


def test_what_needs_others_comes_first_and_the_first_hosts_come_last(resolver, root, record):
    changed = [replaced("web_api", "web"), replaced("base_api", "base")]
    record(RUN, changed=changed)
    found = rollback.prepare(resolver, root, RUN)
    assert [(step["services"], step["minions"], step["role"]) for step in found["steps"]] == [
        (["web"], ["ctl2", "ctl1"], "back"),
        (["base"], ["ctl2", "ctl1"], "back"),
    ]
    alone = rollback.prepare(resolver, root, RUN, ["base"])
    assert [step["services"] for step in alone["steps"]] == [["base"]]
    assert (found["whole"], alone["whole"]) == (True, False)


SNAPSHOT = {"host": "ctl1", "path": "/var/lib/kolla-salt/snapshots/x/web", "taken": 1_000_000_000.0}


def test_a_contracted_schema_is_refused_naming_the_span_whose_writes_would_be_lost(resolver, root, record):
    upgrade = "20260714-110000-upgrade"
    record(upgrade, phases={"web": ["expand", "containers", "contract"]}, snapshots={"web": SNAPSHOT})
    with pytest.raises(rollback.RollbackError) as caught:
        rollback.prepare(resolver, root, upgrade)
    assert "schema of web was contracted" in str(caught.value)
    assert "--restore-database" in str(caught.value)
    assert "2001-09-09 01:46:40 UTC until now" in str(caught.value)
    found = rollback.prepare(resolver, root, upgrade, restore_database=True)
    assert found["restore"] == {"web": SNAPSHOT}
    assert [(step["role"], step["minions"], step.get("by")) for step in found["steps"]] == [
        ("stop", ["ctl2", "ctl1"], "kolla_rollback.stop"),
        ("database", ["ctl1"], "kolla_rollback.database"),
        ("back", ["ctl2", "ctl1"], None),
    ]
    assert any("2001-09-09" in note and "web" in note for note in found["notes"])


def test_a_contraction_that_was_begun_counts(resolver, root, record):
    upgrade = "20260714-110000-upgrade"
    record(upgrade, phases={"web": ["containers"]}, begun={"web": "contract"}, snapshots={"web": SNAPSHOT})
    with pytest.raises(rollback.RollbackError, match="contracted"):
        rollback.prepare(resolver, root, upgrade)


def test_a_contracted_schema_without_a_snapshot_has_no_way_back(resolver, root, record):
    upgrade = "20260714-110000-upgrade"
    record(upgrade, phases={"web": ["contract"]})
    with pytest.raises(rollback.RollbackError, match="no snapshot"):
        rollback.prepare(resolver, root, upgrade, restore_database=True)


def test_an_expanded_schema_stays_and_is_named(resolver, root, record):
    upgrade = "20260714-110000-upgrade"
    record(upgrade, phases={"web": ["expand", "migrate", "containers"]}, snapshots={"web": SNAPSHOT})
    found = rollback.prepare(resolver, root, upgrade, restore_database=True)
    assert found["restore"] == {}
    assert found["notes"] == ["schema and data of web as expand, migrate left them; the old release works with them"]


def test_a_database_that_an_interrupted_rollback_restored_is_not_restored_again(resolver, root, record):
    upgrade, earlier = "20260714-110000-upgrade", "20260714-120000-rollback"
    record(upgrade, phases={"web": ["contract"]}, snapshots={"web": SNAPSHOT})
    runs.create("rollback", root, run_id=earlier).close("failed", of=upgrade, restored={"web": 5.0})
    found = rollback.prepare(resolver, root, upgrade, restore_database=True)
    assert found["restored"] == {"web": 5.0}
    assert [step["role"] for step in found["steps"]] == ["back"]
    assert rollback.interrupted(runs.headers(root), upgrade, "")


def test_what_can_not_be_returned_is_told(resolver, root, record):
    record(
        RUN,
        changed=[
            replaced("web_api", "web"),
            change("web database", "web", "kolla_db.database_present"),
            change("web keystone", "web", "kolla_keystone.registered"),
            change("bootstrap_web", "web", "kolla_container.ran"),
        ],
    )
    assert rollback.prepare(resolver, root, RUN)["notes"] == [
        "databases and their users: web database",
        "users, roles, services and endpoints in Keystone: web keystone",
        "what run-once steps did to schemas and data: bootstrap_web",
    ]


def back(**fields):
    return {"run": RUN, "hosts": {"web": ["ctl1", "ctl2"]}, "keeping": {"web": ["ctl1"]}, "restore": {}, **fields}


def test_later_runs_over_the_same_are_named_and_the_way_through(root):
    later = {"kept": {"web": {}}, "later": {"20260714-120000-deploy": ["web"]}, "failed": []}
    found = rollback.problems(back(), {"ctl1": later}, [], again=False)
    assert len(found) == 1
    assert "20260714-120000-deploy has changed web since" in found[0] and "--through" in found[0]


def test_what_a_later_run_replaced_again_can_not_be_returned():
    nothing = {"kept": {}, "later": {}, "failed": []}
    assert "nothing of before is kept" in rollback.problems(back(), {"ctl1": nothing}, [], again=False)[0]
    # A rollback that goes on has used it up.
    assert rollback.problems(back(), {"ctl1": nothing}, [], again=True) == []


def test_a_container_that_is_gone_and_a_silent_host_of_a_database_stand_in_the_way():
    gone = {"kept": {"web": {}}, "later": {}, "failed": [{"comment": "web_api: is gone"}]}
    assert rollback.problems(back(), {"ctl1": gone}, [], again=False) == ["ctl1: web_api: is gone"]
    restored = back(restore={"web": SNAPSHOT})
    assert "all its hosts must answer; ctl2" in rollback.problems(restored, {}, ["ctl2"], again=True)[0]
    assert rollback.problems(back(), {}, ["ctl2"], again=True) == []


def test_a_service_waits_for_those_that_require_it_on_all_hosts(decls):
    progress = rollback.progress(decls, {"hosts": {"web": ["ctl1"], "base": ["ctl1", "ctl2"]}})
    assert progress.obstacle("base", "ctl2") == ""
    progress.fail("web", "ctl1")
    assert progress.obstacle("base", "ctl2") == "web, which requires it, failed on ctl1"
    progress.unknown = {"ctl2"}
    assert progress.obstacle("web", "ctl2") == "ctl2 does not answer"


def test_the_site_that_still_says_it_is_told_with_what_to_set_back():
    header = {"id": RUN, "verb": "deploy"}
    now = {"files": {"globals.yml": "1"}, "keys": {"globals.yml": {"web_port": "a", "other": "b"}}}
    before = {"files": {"globals.yml": "2"}, "keys": {"globals.yml": {"web_port": "c", "other": "b"}}}
    differs = rollback.changed_options(now, before)
    assert differs == ["web_port in globals.yml"]
    assert "the next deploy would do it again" in rollback.afterwards(header, differs)
    assert "Set back: web_port in globals.yml" in rollback.afterwards(header, differs)
    upgrade = {"id": "20260714-110000-upgrade", "verb": "upgrade", "from": "2025.2"}
    assert "openstack_release: '2025.2'" in rollback.afterwards(upgrade, [])


FIRST_PART, SECOND_PART = "20260714-110000-upgrade", "20260714-120000-upgrade"


def test_an_upgrade_that_went_on_with_another_is_taken_back_with_it(resolver, root, record):
    record(
        FIRST_PART, result="failed", changed=[replaced("web_api", "web")],
        phases={"web": ["expand", "containers"]}, snapshots={"web": SNAPSHOT}, **{"from": "2025.2"},
    )  # fmt: skip
    record(
        SECOND_PART, changed=[replaced("base_api", "base"), change("web_contract", "web", "kolla_container.ran")],
        phases={"web": ["contract"], "base": ["containers"]}, continues=[FIRST_PART],
        snapshots={"web": {**SNAPSHOT, "taken": 2e9}}, **{"from": "2025.2, 2026.1"},
    )  # fmt: skip
    with pytest.raises(rollback.RollbackError, match=f"gone on with by {SECOND_PART}"):
        rollback.prepare(resolver, root, FIRST_PART)
    with pytest.raises(rollback.RollbackError, match="schema of web was contracted"):
        rollback.prepare(resolver, root)
    found = rollback.prepare(resolver, root, restore_database=True)
    assert found["runs"] == f"{FIRST_PART},{SECOND_PART}"
    assert set(found["hosts"]) == {"web", "base"} and found["whole"]
    assert found["restore"] == {"web": SNAPSHOT}  # that of before both
    assert "openstack_release: '2025.2'" in found["afterwards"]


def test_an_upgrade_that_was_given_again_and_did_nothing_leaves_the_first_one_alone(resolver, root, record):
    record(FIRST_PART, result="failed", phases={"web": ["containers"]})
    record(SECOND_PART, result="failed", changed=[], continues=[FIRST_PART], phases={}, begun={}, snapshots={})
    assert rollback.prepare(resolver, root)["run"] == FIRST_PART


def test_no_old_container_starts_on_a_database_that_was_not_restored(decls):
    back = {"hosts": {"web": ["ctl1", "ctl2"]}, "restore": {"web": SNAPSHOT}, "restored": {}}
    progress = rollback.progress(decls, back)
    assert progress.obstacle("web", "ctl2") == ""
    progress.fail("web", "ctl1")
    assert "databases were not restored" in progress.obstacle("web", "ctl2")


def test_nothing_stops_and_no_database_is_restored_where_the_old_containers_would_not_start(decls):
    back = {"hosts": {"web": ["ctl1"], "base": ["ctl1", "ctl2"]}, "restore": {"base": SNAPSHOT}, "restored": {}}
    progress = rollback.progress(decls, back)
    assert progress.holds("base") == ""
    progress.fail("web", "ctl1")
    assert progress.holds("base") == "web, which requires it, failed on ctl1"
    progress.failed.clear()
    progress.unknown = {"ctl2"}
    assert progress.holds("base") == "ctl2 does not answer" and progress.holds("web") == ""


def test_values_of_before_are_recalled_before_the_old_release_starts(resolver, root, record):
    resolver.declarations["web"]["upgrade"]["remembers"] = [{"table": "services", "key": "id", "columns": ["version"]}]
    record(snapshots={"web": SNAPSHOT})
    back = rollback.prepare(resolver, root, RUN)
    assert [(step["role"], step["minions"], step.get("by")) for step in back["steps"]] == [
        ("recall", [SNAPSHOT["host"]], "kolla_rollback.recall"), ("back", ["ctl2", "ctl1"], None)
    ]  # fmt: skip
    assert back["recalled"] == {"web": SNAPSHOT}
