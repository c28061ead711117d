"""Taking back what a run did to a service of one host: Salt's own states over a real engine."""

from __future__ import annotations

import json

import pytest

from kolla_salt import kept, paths

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

FIRST, SECOND, THIRD = "20260714-100000-deploy", "20260714-110000-reconfigure", "20260714-120000-deploy"


@pytest.fixture
def host(minion, name, tmp_path, monkeypatch):
    """A minion whose only service `web` declares the container of the test."""
    formula = tmp_path / "formula"
    declared = f"""
containers:
  {name}: {{group: all, component: config, command: app, files: {{app.conf: {{}}, policy.yaml: {{}}}}}}
bootstrap:
  - {{name: bootstrap_web, container: {name}}}
"""
    for service, text in (("kolla", "{}"), ("web", declared)):
        (formula / service / "files").mkdir(parents=True)
        (formula / service / "service.yaml").write_text(text)
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(formula))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
    site = minion.opts["pillar"]["kolla"]
    site["topology"] = {"hosts": {"ctl1": {"addresses": {"api": "127.0.0.1"}}}, "groups": {}}
    site["overrides"] = {}
    return minion


def call(minion, function, *arguments, **options):
    minion.job()
    return minion.functions[f"kolla_kept.{function}"](*arguments, **options)


def results(returned):
    assert isinstance(returned, dict), returned
    return {state["__id__"]: state for state in returned.values()}


def deploy(minion, run, name, spec):
    minion.opts["pillar"]["kolla_step"] = {"run": run}
    ret = minion.converge("running", name, **spec)
    minion.opts["pillar"].pop("kolla_step")
    assert ret["result"] is True, ret["comment"]


def inspect(engine, name):
    engine.forget()
    found = engine.inspect(name)
    return found["Id"], found["State"]["StartedAt"]


def stamp(name, content):
    path = paths.STATE_DIR / "stamps" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_service_whose_container_was_replaced_is_what_it_was(host, engine, name, spec, images, config_dir):
    deploy(host, FIRST, name, spec)
    before = inspect(engine, name)
    done = stamp("bootstrap_web", {"image_id": "new"})
    store = kept.Store()
    store.keep_step(SECOND, "bootstrap_web", {"image_id": "old"})
    store.keep_folder(SECOND, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")
    deploy(host, SECOND, name, {**spec, "image": images[1]})

    survey = call(host, "survey", ["web", "other"], run=SECOND)
    assert (survey["failed"], survey["errors"], survey["later"]) == ([], [], {})
    predicted = {state["id"]: state["changes"] for state in survey["states"]}
    assert predicted[name]["state"] == {"old": "running", "new": "recreated"}
    assert predicted[name]["config"]["new"] == ["app.conf"]
    assert images[0] in predicted[name]["image"]["new"]

    real = results(call(host, "apply", "web", SECOND))
    assert all(state["result"] is True for state in real.values()), real
    assert {state_id: state["changes"] for state_id, state in real.items() if state["changes"]} == predicted
    assert inspect(engine, name)[0] == before[0]
    assert (config_dir / "app.conf").read_text() == "one\n"
    assert json.loads(done.read_text()) == {"image_id": "old"}
    assert kept.Store().runs() == []
    again = call(host, "survey", ["web"], run=SECOND)
    assert (again["states"], again["kept"]) == ([], {})
    assert all(not state["changes"] for state in results(call(host, "apply", "web", SECOND)).values())


def test_after_a_changed_file_only_its_readers_start_again(host, engine, name, spec, config_dir):
    deploy(host, FIRST, name, spec)
    store = kept.Store()
    store.keep_folder(SECOND, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")
    deploy(host, SECOND, name, spec)
    before = inspect(engine, name)

    survey = call(host, "survey", ["web"], run=SECOND)
    predicted = {state["id"]: state["changes"] for state in survey["states"]}
    assert predicted[name] == {
        "state": {"old": "running", "new": "restarted"},
        "config": {"old": None, "new": ["app.conf"]},
    }
    real = results(call(host, "apply", "web", SECOND))
    assert all(state["result"] is True for state in real.values()), real
    assert {state_id: state["changes"] for state_id, state in real.items() if state["changes"]} == predicted
    after = inspect(engine, name)
    assert after[0] == before[0] and after[1] != before[1]
    assert host.exec(name, ["cat", "/etc/app/app.conf"])["output"] == "one\n"


def test_a_file_that_never_took_effect_is_put_back_without_a_restart(host, engine, name, spec, config_dir):
    deploy(host, FIRST, name, spec)
    before = inspect(engine, name)
    kept.Store().keep_folder(SECOND, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")  # and the run was interrupted here
    survey = call(host, "survey", ["web"], run=SECOND)
    assert name not in {state["id"] for state in survey["states"]}
    real = results(call(host, "apply", "web", SECOND))
    assert all(state["result"] is True for state in real.values()), real
    assert inspect(engine, name) == before
    assert (config_dir / "app.conf").read_text() == "one\n"


def test_a_rollback_that_was_interrupted_after_the_files_still_restarts_their_reader(
    host, engine, name, spec, config_dir
):
    deploy(host, FIRST, name, spec)
    kept.Store().keep_folder(SECOND, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")
    deploy(host, SECOND, name, spec)
    call(host, "restore_files", str(config_dir), SECOND)
    assert name in {state["id"] for state in call(host, "survey", ["web"], run=SECOND)["states"]}
    assert all(state["result"] is True for state in results(call(host, "apply", "web", SECOND)).values())
    assert host.exec(name, ["cat", "/etc/app/app.conf"])["output"] == "one\n"


def test_files_of_an_interrupted_run_belong_to_the_run_in_which_they_took_effect(host, engine, name, spec, config_dir):
    deploy(host, FIRST, name, spec)
    kept.Store().keep_folder(SECOND, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")  # and the run was interrupted here
    deploy(host, THIRD, name, spec)
    assert call(host, "survey", ["web"], run=SECOND)["kept"] == {}
    assert all(state["result"] is True for state in results(call(host, "apply", "web", THIRD)).values())
    assert host.exec(name, ["cat", "/etc/app/app.conf"])["output"] == "one\n"


def test_a_later_run_over_the_same_files_is_named_and_what_it_replaced_again_is_not_kept(
    host, name, spec, images, config_dir
):
    store = kept.Store()
    deploy(host, FIRST, name, spec)
    store.keep_folder(SECOND, str(config_dir), "web")
    deploy(host, SECOND, name, {**spec, "image": images[1]})
    store.keep_folder(THIRD, str(config_dir), "web")
    deploy(host, THIRD, name, {**spec, "image": images[1], "user": "0"})
    earlier = call(host, "survey", ["web"], run=SECOND)
    assert earlier["later"] == {THIRD: ["web"]}
    assert earlier["kept"]["web"]["containers"] == []
    assert call(host, "survey", ["web"], run=THIRD)["later"] == {}


def test_the_containers_stop_for_a_database_that_is_restored_and_then_come_back(host, engine, name, spec, images):
    deploy(host, FIRST, name, spec)
    before = inspect(engine, name)
    deploy(host, SECOND, name, {**spec, "image": images[1]})
    stopped = results(call(host, "apply", "web", SECOND, role="stop"))
    assert stopped[name]["changes"]["state"] == {"old": "running", "new": "stopped"}
    assert all(state["result"] is True for state in results(call(host, "apply", "web", SECOND)).values())
    assert inspect(engine, name)[0] == before[0]


def test_finish_drops_containers_folders_and_images_that_nothing_uses(host, engine, name, spec, images, config_dir):
    upgrade = "20260714-130000-upgrade"
    deploy(host, FIRST, name, spec)
    kept.Store().keep_folder(upgrade, str(config_dir), "web")
    deploy(host, upgrade, name, {**spec, "image": images[1]})
    assert call(host, "list")[upgrade]["containers"] == {name: images[0]}
    assert call(host, "list")[upgrade]["until_finished"] is True
    tag = "localhost/kolla-salt-test/used:1"
    engine.act("tag", "tag", images[0], "localhost/kolla-salt-test/used", "1")
    engine.sdk.create_container(tag, name=f"{name}_other", command="app")
    engine.forget()
    done = call(host, "finish")
    assert (done["containers"], done["folders"], done["images"]) == ([name], ["config"], [])
    assert upgrade not in call(host, "list")
    engine.forget()
    assert f"{name}.{upgrade}" not in engine.containers()
    engine.act("tidy up", "remove_container", f"{name}_other", v=True)
    engine.act("tidy up", "remove_image", tag)


def test_runs_that_went_on_with_one_another_are_taken_back_at_once(host, engine, name, spec, images, config_dir):
    one, two = "20260714-130000-upgrade", "20260714-140000-upgrade"
    deploy(host, FIRST, name, spec)
    before = inspect(engine, name)
    store = kept.Store()
    store.keep_folder(one, str(config_dir), "web")
    (config_dir / "app.conf").write_text("two\n")
    deploy(host, one, name, {**spec, "image": images[1]})
    store.keep_folder(two, str(config_dir), "web")
    (config_dir / "app.conf").write_text("three\n")
    deploy(host, two, name, {**spec, "image": images[1], "user": "0"})
    real = results(call(host, "apply", "web", f"{one},{two}"))
    assert all(state["result"] is True for state in real.values()), real
    engine.forget()
    assert [found for found in engine.containers() if found.startswith(name)] == [name]
    assert inspect(engine, name)[0] == before[0]
    assert (config_dir / "app.conf").read_text() == "one\n"
    assert store.runs() == []
