"""What a run replaces is kept and can be returned, whatever moment it was interrupted at; with a real engine."""

from __future__ import annotations

import itertools
import time

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import kept
from kolla_salt.engine import Engine, EngineError

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD, UPGRADE = (
    "20260714-100000-deploy",
    "20260714-110000-deploy",
    "20260714-120000-reconfigure",
    "20260714-130000-upgrade",
)


class Killed(BaseException):
    """As if the process had been killed: nothing handles it."""


@pytest.fixture
def run(minion):
    """Do the jobs that follow as a part of this run."""

    def begin(run_id: str | None):
        minion.opts["pillar"].pop("kolla_step", None)
        if run_id:
            minion.opts["pillar"]["kolla_step"] = {"run": run_id}
        return minion.job()

    return begin


@pytest.fixture
def cut(monkeypatch):
    """Kill whoever does the nth thing from now on that changes something: in the engine, or of what is written down."""
    left = [None]

    def before(owner, method):
        original = getattr(owner, method)

        def counted(*arguments, **options):
            if left[0] is not None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, counted)

    before(Engine, "act")
    for method in ("write", "forget", "move_folder"):
        before(kept.Store, method)

    def after(count):
        left[0] = count

    return after


def present(engine, name):
    """Return the containers of a test by what follows their name: id, whether they run, restart policy."""
    engine.forget()
    found = {}
    for other in engine.containers():
        if other.startswith(name):
            inspect = engine.inspect(other)
            policy = inspect["HostConfig"]["RestartPolicy"]["Name"]
            found[other.removeprefix(name)] = (inspect["Id"], inspect["State"]["Running"], policy)
    return found


def deployed(minion, name, **spec):
    ret = minion.converge("running", name, **spec)
    assert ret["result"] is True, ret["comment"]
    return ret


@pytest.fixture
def before(run, name, spec, engine):
    """A container that a first run has made."""
    deployed(run(FIRST), name, **spec)
    return present(engine, name)[""]


def test_what_a_run_made_anew_leaves_nothing_behind_and_is_removed_when_it_is_taken_back(
    run, name, spec, engine, before
):
    assert set(present(engine, name)) == {""}
    predicted = run(None).take_back_diff(name, FIRST)
    assert predicted["state"] == {"old": "running", "new": "removed"}
    assert run(None).take_back(name, FIRST)["action"] == "removed"
    assert present(engine, name) == {}
    assert run(None).take_back_diff(name, FIRST) == {}


def test_a_replaced_container_is_kept_stopped_without_restarts_and_returned_as_it_was(
    run, name, spec, images, engine, before
):
    new = {**spec, "image": images[1]}
    deployed(run(SECOND), name, **new)
    now = present(engine, name)
    assert set(now) == {"", f".{SECOND}"}
    assert now[f".{SECOND}"] == (before[0], False, "no")
    assert now[""][1:] == (True, "unless-stopped")
    assert [item["name"] for item in run(None).list() if item["name"].startswith(name)] == [name]

    done = run(None).take_back(name, SECOND)
    assert done["action"] == "recreated"
    assert present(engine, name) == {"": before}
    # The site of that time has nothing to do.
    assert deployed(run(None), name, **spec)["changes"] == {}


def test_what_a_failed_run_has_only_stopped_is_started_and_not_called_another_one(
    run, name, spec, images, engine, before, monkeypatch
):
    """The engine refused something between the old container's stop and the new one's start."""
    original = Engine.act

    def refuse(self, what, function, *arguments, **options):
        if function == "update_container":
            raise EngineError("no space left on device")
        return original(self, what, function, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "act", refuse)
        ret = run(SECOND).converge("running", name, **{**spec, "image": images[1]})
    assert ret["result"] is False and "no space left" in ret["comment"]
    assert present(engine, name)[""][:2] == (before[0], False)
    assert run(None).take_back_diff(name, SECOND)["state"]["new"] == "started"
    assert run(None).take_back(name, SECOND)["action"] == "started"
    assert present(engine, name) == {"": before}
    assert run(None).take_back_diff(name, SECOND) == {}


def test_without_a_run_nothing_is_kept(run, name, spec, images, engine, before):
    deployed(run(None), name, **{**spec, "image": images[1]})
    assert set(present(engine, name)) == {""}


def test_of_ordinary_runs_the_last_replaced_container_is_kept_of_an_upgrade_until_it_is_finished(
    run, name, spec, images, engine, before
):
    deployed(run(SECOND), name, **{**spec, "image": images[1]})
    deployed(run(THIRD), name, **spec)
    assert set(present(engine, name)) == {"", f".{THIRD}"}
    deployed(run(UPGRADE), name, **{**spec, "image": images[1]})
    assert set(present(engine, name)) == {"", f".{UPGRADE}"}
    later = "20260714-140000-deploy"
    deployed(run(later), name, **spec)
    assert set(present(engine, name)) == {"", f".{UPGRADE}", f".{later}"}
    assert run(None).drop(UPGRADE)["containers"] == [name]
    assert set(present(engine, name)) == {"", f".{later}"}
    assert kept.Store().runs() == [later]


def test_a_removed_container_comes_back(run, name, spec, engine, before):
    assert run(SECOND).absent(name) is True
    assert set(present(engine, name)) == {f".{SECOND}"}
    assert run(None).state(name) == "absent"
    assert run(None).take_back(name, SECOND)["action"] == "created"
    assert present(engine, name) == {"": before}


def test_a_setting_changed_in_place_is_set_back(run, name, spec, engine, before, engine_kind):
    if engine_kind == "podman":
        pytest.skip("podman has no call to change a container in place")
    deployed(run(SECOND), name, **{**spec, "restart_policy": "always"})
    assert present(engine, name) == {"": (before[0], True, "always")}
    assert run(None).take_back(name, SECOND)["action"] == "updated"
    assert present(engine, name) == {"": before}


def test_the_old_container_starts_with_the_configuration_that_it_ran_with(
    run, minion, name, spec, images, config_dir, engine, before
):
    kept.Store().keep_folder(SECOND, str(config_dir), "app")
    (config_dir / "app.conf").write_text("two\n")
    (config_dir / "extra.conf").write_text("new\n")
    deployed(run(SECOND), name, **{**spec, "image": images[1]})
    run(None).take_back(name, SECOND)
    assert sorted(path.name for path in config_dir.iterdir()) == ["app.conf", "policy.yaml"]
    assert minion.exec(name, ["cat", "/etc/app/app.conf"])["output"] == "one\n"


@pytest.mark.parametrize(("file", "action"), [("app.conf", "restart"), ("policy.yaml", "reload")])
def test_a_container_that_only_read_other_files_reads_the_old_ones_again(
    run, minion, name, spec, config_dir, engine, before, file, action
):
    store, was = kept.Store(), (config_dir / file).read_text()
    store.keep_folder(SECOND, str(config_dir), "app")
    (config_dir / file).write_text("two\n")
    deployed(run(SECOND), name, **spec)
    assert run(None).reread_diff(name) == {}
    kept.restore(store.folder(SECOND, config_dir.name))
    assert run(None).reread_diff(name)["config"]["new"] == [file]
    assert run(THIRD).reread(name)["action"] == action
    assert run(None).reread_diff(name) == {}
    # Who reloads copies the file when it gets round to it.
    deadline = time.monotonic() + 10
    while minion.exec(name, ["cat", f"/etc/app/{file}"])["output"] != was and time.monotonic() < deadline:
        time.sleep(0.2)
    assert minion.exec(name, ["cat", f"/etc/app/{file}"])["output"] == was
    assert present(engine, name) == {"": before}


def test_what_somebody_removed_can_not_be_returned_and_the_present_one_goes_on(run, name, spec, images, engine, before):
    deployed(run(SECOND), name, **{**spec, "image": images[1]})
    engine.act("be tidy", "remove_container", f"{name}.{SECOND}", v=True)
    now = present(engine, name)
    with pytest.raises(CommandExecutionError, match=f"{images[0]}.* is gone.*kolla-salt deploy"):
        run(None).take_back(name, SECOND)
    assert present(engine, name) == now


def test_an_old_container_that_does_not_come_up_leaves_both_and_the_same_command_goes_on(
    run, name, spec, images, config_dir, engine, before
):
    deployed(run(SECOND), name, **{**spec, "image": images[1]})
    (config_dir / "app.conf").write_text("crash\n")
    with pytest.raises(
        CommandExecutionError, match="ended with exit code 7|has ended with exit code 7|ends right after"
    ):
        run(None).take_back(name, SECOND)
    assert set(present(engine, name)) == {"", ".undone"}
    (config_dir / "app.conf").write_text("one\n")
    # Between two attempts of the engine, or in one, it is started anew; where the engine has given up, it is started.
    assert run(None).take_back(name, SECOND)["action"] in ("started", "restarted")
    assert present(engine, name) == {"": before}


def test_an_old_container_that_runs_without_answering_starts_once_more_when_the_command_is_given_again(
    run, name, spec, images, config_dir, engine
):
    spec["ready"]["timeout"] = 4
    deployed(run(FIRST), name, **spec)
    before = present(engine, name)[""]
    deployed(run(SECOND), name, **{**spec, "image": images[1]})
    (config_dir / "app.conf").write_text("mute\n")
    with pytest.raises(CommandExecutionError, match="is not ready after 4 s"):
        run(None).take_back(name, SECOND)
    assert present(engine, name)[""] == before  # running
    (config_dir / "app.conf").write_text("one\n")
    assert run(None).take_back(name, SECOND)["action"] == "restarted"
    assert present(engine, name) == {"": before}


def test_an_engine_that_starts_anew_leaves_what_is_kept_stopped(run, name, spec, images, engine, before):
    """A policy of `no` is what keeps an engine from starting a container; `always` would, even a stopped one."""
    spec = {**spec, "restart_policy": "always"}
    deployed(run(SECOND), name, **spec)
    deployed(run(THIRD), name, **{**spec, "image": images[1]})
    assert present(engine, name)[f".{THIRD}"][1:] == (False, "no")
    run(None).take_back(name, THIRD)
    assert present(engine, name) == {"": (before[0], True, "always")}


def test_a_run_killed_at_any_moment_is_ended_by_the_next_and_taking_that_back_returns_what_was_before_both(
    run, name, spec, images, config_dir, engine, cut
):
    store = kept.Store()
    for moment in itertools.count():
        mine = f"{name}_{moment}"
        (config_dir / "app.conf").write_text("one\n")
        deployed(run(FIRST), mine, **spec)
        before = present(engine, mine)[""]
        new = {**spec, "image": images[1]}
        store.keep_folder(SECOND, str(config_dir), "app")
        (config_dir / "app.conf").write_text("two\n")
        minion = run(SECOND)
        cut(moment)
        killed = True
        try:
            deployed(minion, mine, **new)
            killed = False
        except Killed:
            pass
        cut(None)
        deployed(run(THIRD), mine, **new)
        assert deployed(run(THIRD), mine, **new)["changes"] == {}, moment
        now = present(engine, mine)
        holder = next(entry for entry in store.of_container(mine) if entry.run != FIRST)
        assert holder.phase == kept.DONE or not killed or holder.run == SECOND, (moment, holder)
        assert set(now) == {"", f".{holder.run}"} or now[""][0] != before[0], (moment, now)
        aside = [suffix for suffix in now if suffix]
        assert len(aside) == 1 and now[aside[0]] == (before[0], False, "no"), (moment, now)
        assert now[""][1:] == (True, "unless-stopped")

        assert run(None).take_back(mine, holder.run)["action"] == "recreated"
        assert present(engine, mine) == {"": before}, moment
        assert (config_dir / "app.conf").read_text() == "one\n", moment
        assert deployed(run(None), mine, **spec)["changes"] == {}, moment
        engine.act("tidy up", "remove_container", mine, force=True, v=True)
        for left in store.runs():
            for folder in store.folders(left).values():
                store.drop_folder(folder)
        if not killed:
            break
    assert moment >= 8  # it was killed at more than a few moments


@pytest.mark.parametrize("way", ["again", "back", "forth and back"])
def test_what_stood_still_while_another_one_was_exchanged_runs_again_whatever_moment_that_was_killed_at(
    run, name, spec, images, engine, cut, way
):
    for moment in itertools.count():
        mine = f"{name}_{moment}"
        switch, agent = f"{mine}_switch", f"{mine}_agent"
        of_switch = {**spec, "hold": [agent]}
        deployed(run(FIRST), switch, **of_switch)
        deployed(run(FIRST), agent, **spec)
        before = present(engine, mine)
        minion = run(SECOND)
        cut(moment)
        killed = True
        try:
            deployed(minion, switch, **{**of_switch, "image": images[1]})
            killed = False
        except Killed:
            pass
        cut(None)
        if way == "forth and back":
            deployed(run(THIRD), agent, **{**spec, "image": images[1]})
            run(None).take_back(agent, THIRD)
        if way == "again":
            deployed(run(THIRD), switch, **{**of_switch, "image": images[1]})
        else:
            run(None).take_back(switch, SECOND)
        now = present(engine, mine)
        assert now["_agent"][1:] == before["_agent"][1:], (moment, now)
        assert now["_switch"][1:] == before["_switch"][1:], (moment, now)
        assert now == before or way == "again"
        assert run(None).stopped_on_purpose() == {}
        for other in now:
            engine.act("tidy up", "remove_container", f"{mine}{other}", force=True, v=True)
        if not killed:
            break
    assert moment >= 6


def test_a_rollback_killed_at_any_moment_goes_on_when_it_is_given_again(
    run, name, spec, images, config_dir, engine, cut
):
    store = kept.Store()
    for moment in itertools.count():
        mine = f"{name}_{moment}"
        deployed(run(FIRST), mine, **spec)
        before = present(engine, mine)[""]
        store.keep_folder(SECOND, str(config_dir), "app")
        (config_dir / "app.conf").write_text("two\n")
        deployed(run(SECOND), mine, **{**spec, "image": images[1]})
        minion = run(None)
        cut(moment)
        killed = True
        try:
            minion.take_back(mine, SECOND)
            killed = False
        except Killed:
            pass
        cut(None)
        run(None).take_back(mine, SECOND)
        assert present(engine, mine) == {"": before}, moment
        assert (config_dir / "app.conf").read_text() == "one\n"
        assert deployed(run(None), mine, **spec)["changes"] == {}, moment
        engine.act("tidy up", "remove_container", mine, force=True, v=True)
        store.drop_folder(store.folder(SECOND, config_dir.name))
        if not killed:
            break
    assert moment >= 7


def test_a_forward_run_after_an_interrupted_rollback_ends_as_declared_and_without_leftovers(
    run, name, spec, images, config_dir, engine, cut
):
    for moment in itertools.count():
        mine = f"{name}_{moment}"
        new = {**spec, "image": images[1]}
        deployed(run(FIRST), mine, **spec)
        deployed(run(SECOND), mine, **new)
        minion = run(None)
        cut(moment)
        killed = True
        try:
            minion.take_back(mine, SECOND)
            killed = False
        except Killed:
            pass
        cut(None)
        deployed(run(THIRD), mine, **new)
        assert deployed(run(THIRD), mine, **new)["changes"] == {}, moment
        now = present(engine, mine)
        assert now[""][1:] == (True, "unless-stopped"), (moment, now)
        assert set(now) <= {"", f".{SECOND}", f".{THIRD}"}, (moment, now)
        for suffix in now:
            engine.act("tidy up", "remove_container", mine + suffix, force=True, v=True)
        if not killed:
            break
