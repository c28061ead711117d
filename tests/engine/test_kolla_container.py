"""The life of a container against a real engine: nothing is replaced by a mock."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


def journal(minion, name) -> list[str]:
    return minion.exec(name, ["cat", "/tmp/journal"], check=False)["output"].splitlines()


def until_journal(minion, name, line) -> None:
    deadline = time.monotonic() + 10
    while line not in journal(minion, name) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert line in journal(minion, name)


def facts(minion, name) -> tuple[str, str]:
    """Identity and start of a container: what must not move when nothing is to be done."""
    found = minion.job().inspect(name)
    return found["id"], found["started_at"]


@pytest.fixture
def deployed(minion, name, spec):
    ret = minion.converge("running", name, **spec)
    assert ret["result"] is True, ret["comment"]
    return facts(minion, name)


# ---------------------------------------------------------------- running


def test_a_container_that_a_parallel_state_has_made_is_there_for_a_job_that_had_listed_all_before(minion, name, spec):
    minion.job().list()
    if not (child := os.fork()):
        try:
            minion.deploy(name, **spec)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert minion.state(name) == minion.inspect(name)["state"] == "running"
    assert minion.health(name) == "healthy"


def test_an_absent_container_is_predicted_then_created_and_then_left_alone(minion, name, spec):
    predicted = minion.converge("running", name, test=True, **spec)
    assert predicted["result"] is None
    assert minion.job().state(name) == "absent"

    real = minion.converge("running", name, **spec)
    assert real["result"] is True, real["comment"]
    assert predicted["changes"] == real["changes"]
    assert real["changes"]["state"] == {"old": "absent", "new": "created"}
    before = facts(minion, name)

    for test in (True, False):
        again = minion.converge("running", name, test=test, **spec)
        assert (again["result"], again["changes"]) == (True, {}), again
    assert facts(minion, name) == before
    assert journal(minion, name) == ["start one"]


EVERY_FIELD = {
    "tmpfs": ["/run/app:size=1m"],
    "cap_add": ["NET_ADMIN", "cap_sys_ptrace"],
    "cap_drop": ["mknod", "chown"],  # podman gives the second one only
    "security_opt": ["seccomp:unconfined"],
    "devices": ["/dev/null:/dev/app"],
    "pid_mode": "host",
    "cgroupns_mode": "host",
    "user": "0",
    "healthcheck": {"test": "true", "interval": 30, "timeout": 5, "retries": 3, "start_period": 2},
    "labels": {"owner": "test"},
    "shm_size": "80m",
    "stop_signal": "SIGINT",
    "restart_policy": "on-failure:4",
    "extra_hosts": {"db": "10.0.0.9"},
    "hostname": "app-host",
    "dimensions": {
        "cpu_shares": 512,
        "cpu_period": 50000,
        "cpu_quota": 25000,
        "cpuset_cpus": "0",
        "mem_limit": "100m",
        "mem_reservation": "64M",
        "memswap_limit": "200m",
        "pids_limit": 200,
        "ulimits": {"nofile": {"soft": 512, "hard": 1024}},
    },
}


def test_a_second_run_is_empty_with_every_setting_and_each_removal_is_noticed(minion, name, spec):
    """What was created compares as equal, and leaving out any one setting again is seen."""
    full = {**spec, **EVERY_FIELD}
    created = minion.converge("running", name, **full)
    assert created["result"] is True, created["comment"]
    minion.job()
    assert minion.diff(name, **full) == {}
    for key in EVERY_FIELD:
        without = {item: value for item, value in full.items() if item != key}
        changes = minion.diff(name, **without)
        expected = {f"dimensions.{item}" for item in EVERY_FIELD["dimensions"]} if key == "dimensions" else {key}
        found = {item for item in changes if item != "state"}
        assert found <= expected and found, (key, changes)
        for field in found:
            assert changes[field]["old"], (field, changes)


@pytest.mark.parametrize(
    ("change", "field", "old", "new"),
    [
        ({"environment": {"LEVEL": "2"}}, "environment", {"LEVEL": "1"}, {"LEVEL": "2"}),
        ({"environment": {}}, "environment", {"LEVEL": "1"}, None),
        ({"labels": {"a": "2"}}, "labels", {"a": "1"}, {"a": "2"}),
        ({"volumes": ["/tmp:/t:ro"]}, "volumes", ["/tmp:/t"], ["/tmp:/t:ro"]),
        ({"volumes": []}, "volumes", ["/tmp:/t"], None),
        ({"command": ["sleep", "2"]}, "command", ["sleep", "1000"], ["sleep", "2"]),
        ({"network_mode": "none"}, "network_mode", "host", "none"),
        ({"user": "12"}, "user", None, "12"),
        ({"cap_add": ["NET_ADMIN"]}, "cap_add", None, ["NET_ADMIN"]),
        ({"stop_timeout": 2}, "stop_timeout", 1, 2),
    ],
)
def test_one_different_setting_is_named_with_what_differs(minion, name, images, change, field, old, new):
    base = {
        "image": images[0],
        "command": ["sleep", "1000"],
        "environment": {"LEVEL": "1"},
        "labels": {"a": "1"},
        "volumes": ["/tmp:/t/"],
        "stop_timeout": 1,
    }
    minion.create(name, **base)
    minion.start(name)
    changes = minion.job().diff(name, **{**base, **change})
    assert changes[field] == {"old": old, "new": new}
    assert changes["state"] == {"old": "running", "new": "recreated"}


def test_a_privileged_container_compares_as_equal(minion, name, spec):
    spec = {**spec, "privileged": True, "pid_mode": "host", "ipc_mode": "host", "cgroupns_mode": "host"}
    minion.create(name, **spec)
    assert set(minion.job().diff(name, **spec)) == {"state"}


def test_a_limit_that_this_host_cannot_have_does_not_differ_for_ever(minion, name, spec):
    spec = {**spec, "dimensions": {"blkio_weight": 300, "kernel_memory": "64m"}}
    assert minion.converge("running", name, **spec)["result"] is True
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_different_setting_replaces_the_container(minion, name, spec, deployed):
    other = {**spec, "cap_add": ["NET_ADMIN"]}
    predicted = minion.converge("running", name, test=True, **other)
    assert facts(minion, name) == deployed
    real = minion.converge("running", name, **other)
    assert (predicted["result"], real["result"]) == (None, True)
    assert predicted["changes"] == real["changes"]
    assert set(real["changes"]) == {"state", "cap_add"}
    assert facts(minion, name)[0] != deployed[0]
    assert minion.converge("running", name, **other)["changes"] == {}


def test_another_image_replaces_the_container_and_its_own_settings_are_not_taken_for_drift(
    minion, name, spec, images, deployed
):
    changes = minion.converge("running", name, **{**spec, "image": images[1]})["changes"]
    assert set(changes) == {"state", "image"}
    assert minion.job().inspect(name)["image"] == images[1]
    assert minion.converge("running", name, **{**spec, "image": images[1]})["changes"] == {}


def test_the_restart_policy_changes_in_place(minion, name, spec, deployed, engine_kind):
    if engine_kind == "podman":
        pytest.skip("podman's Docker-compatible socket cannot change a container in place")
    other = {**spec, "restart_policy": "always", "dimensions": {"cpu_shares": 256}}
    ret = minion.converge("running", name, **other)
    assert ret["result"] is True, ret["comment"]
    assert ret["changes"]["state"]["new"] == "updated"
    assert set(ret["changes"]) == {"state", "restart_policy", "dimensions.cpu_shares"}
    assert facts(minion, name) == deployed
    assert minion.converge("running", name, **other)["changes"] == {}


@pytest.mark.parametrize(("break_it", "old"), [("stop", "exited (0)"), ("kill", "exited (137)"), ("pause", "paused")])
def test_a_container_that_does_not_run_is_started_again(minion, name, spec, deployed, engine, break_it, old):
    engine.act("break it", break_it, name)
    predicted = minion.converge("running", name, test=True, **spec)
    real = minion.converge("running", name, **spec)
    assert predicted["changes"] == real["changes"] == {"state": {"old": old, "new": "started"}}
    assert real["result"] is True, real["comment"]
    assert minion.job().state(name) == "running"
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_restart_by_somebody_else_is_adopted_if_it_read_the_present_files(minion, name, spec, deployed, engine):
    engine.act("restart", "restart", name, timeout=5)
    before = facts(minion, name)
    assert before != deployed
    ret = minion.converge("running", name, **spec)
    assert ret["changes"] == {"state": {"old": "running", "new": "adopted"}}
    assert facts(minion, name) == before
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_file_about_to_be_written_restarts_what_somebody_else_restarted(
    minion, name, spec, config_dir, deployed, engine
):
    engine.act("restart", "restart", name, timeout=5)
    for file, text in (("app.conf", "two\n"), ("policy.yaml", "rules: 2\n")):
        predicted = minion.job().diff(name, expected_files=[file], **spec)
        assert predicted["state"]["new"] == "restarted"
        (config_dir / file).write_text(text)
        assert minion.converge("running", name, **spec)["changes"]["state"] == predicted["state"]
        engine.act("restart", "restart", name, timeout=5)


def test_files_put_back_after_a_restart_by_somebody_else_are_noticed(minion, name, spec, config_dir, deployed, engine):
    """The record says what an earlier start has read; that the present one has read the same must not be assumed."""
    (config_dir / "app.conf").write_text("two\n")
    engine.act("restart", "restart", name, timeout=5)
    until_journal(minion, name, "start two")
    (config_dir / "app.conf").write_text("one\n")
    ret = minion.converge("running", name, **spec)
    assert ret["changes"]["state"]["new"] == "restarted"
    assert journal(minion, name)[-1] == "start one"


def test_a_restart_that_nobody_waits_for_any_more_is_named_until_it_is_over(minion, name, spec, config_dir, engine):
    (config_dir / "app.conf").write_text("stubborn\n")
    assert minion.converge("running", name, **spec)["result"] is True
    until_journal(minion, name, "start stubborn")
    restart = threading.Thread(target=engine.act, args=("restart", "restart", name), kwargs={"timeout": 9})
    restart.start()
    seen, before = [], facts(minion, name)
    while restart.is_alive():
        seen.append(name in minion.job().changing())
        time.sleep(0.2)
    named = seen.count(True)
    assert named >= 5 and all(seen[:named]), seen
    assert facts(minion, name) != before and name not in minion.job().changing()


def test_a_container_that_reads_its_files_anew_or_has_ended_is_not_changing(minion, name, spec, deployed, engine):
    engine.act("reload", "kill", name, signal="HUP")
    assert name not in minion.job().changing()
    engine.act("stop", "stop", name, timeout=5)
    time.sleep(2.2)
    assert name not in minion.job().changing()


def test_a_run_once_container_whose_job_died_is_waited_for_then_removed(minion, name, spec, images):
    job = os.fork()
    if job == 0:
        minion.job().run(name, image=images[0], command=["sleep", "3"])
        os._exit(0)
    until = time.monotonic() + 10
    while minion.job().remove_ended([name], dry=True) != [name] and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    assert minion.job().remove_ended([name]) == [name]
    while minion.job().remove_ended([name], dry=True):
        time.sleep(0.2)
    assert minion.job().state(name) != "absent"
    assert minion.job().remove_ended([name]) == []
    assert minion.job().state(name) == "absent"


def test_a_check_whose_job_died_is_not_waited_for(minion, name, images, engine):
    """It waits for ever where the database it wants is away, and the next run waited for it for ten minutes."""
    job = os.fork()
    if job == 0:
        minion.job().run(name, looks=True, image=images[0], command=["sleep", "600"])
        os._exit(0)
    until = time.monotonic() + 10
    while minion.job().state(name) != "running" and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    assert minion.job().remove_ended([name], dry=True) == [] and minion.job().state(name) == "running"
    assert minion.job().remove_ended([name]) == []
    assert minion.job().state(name) == "absent"


# -------------------------------------------------------------------------------------------------- configuration files


def test_a_changed_file_restarts_once(minion, name, spec, config_dir, deployed):
    (config_dir / "app.conf").write_text("two\n")
    predicted = minion.converge("running", name, test=True, **spec)
    real = minion.converge("running", name, **spec)
    assert predicted["changes"] == real["changes"]
    assert real["changes"] == {
        "state": {"old": "running", "new": "restarted"},
        "config": {"old": None, "new": ["app.conf"]},
    }
    assert "app.conf" in real["comment"]
    assert journal(minion, name) == ["start one", "start two"]
    assert facts(minion, name)[0] == deployed[0]
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_changed_mode_and_a_removed_file_count_as_changes(minion, name, spec, config_dir, deployed):
    (config_dir / "app.conf").chmod(0o600)
    (config_dir / "policy.yaml").unlink()
    assert minion.job().diff(name, **spec)["config"]["new"] == ["app.conf", "policy.yaml"]


def test_a_file_that_can_be_reloaded_is_copied_and_the_program_told(minion, name, spec, config_dir, deployed):
    (config_dir / "policy.yaml").write_text("rules: 2\n")
    ret = minion.converge("running", name, **spec)
    assert ret["result"] is True, ret["comment"]
    assert ret["changes"]["state"]["new"] == "reloaded"
    assert facts(minion, name) == deployed
    assert minion.exec(name, ["cat", "/etc/app/policy.yaml"])["output"] == "rules: 2\n"
    until_journal(minion, name, "reload one")
    assert journal(minion, name) == ["start one", "reload one"]
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_reload_by_command_runs_in_the_container(minion, name, spec, config_dir):
    spec = {**spec, "reload": {"exec": ["sh", "-c", "echo command >> /tmp/journal"]}}
    assert minion.converge("running", name, **spec)["result"] is True
    (config_dir / "policy.yaml").write_text("rules: 2\n")
    assert minion.converge("running", name, **spec)["changes"]["state"]["new"] == "reloaded"
    assert journal(minion, name) == ["start one", "command"]


def test_reloadable_together_with_other_files_is_one_restart(minion, name, spec, config_dir, deployed):
    (config_dir / "policy.yaml").write_text("rules: 2\n")
    (config_dir / "app.conf").write_text("two\n")
    assert minion.converge("running", name, **spec)["changes"]["state"]["new"] == "restarted"
    assert journal(minion, name) == ["start one", "start two"]


def test_a_file_that_its_program_watches_by_itself_changes_nothing(minion, name, spec, config_dir):
    spec = {**spec, "ignore_files": ["policy.yaml"], "reload_files": []}
    minion.converge("running", name, **spec)
    (config_dir / "policy.yaml").write_text("rules: 2\n")
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_changed_file_of_a_container_that_copies_once_needs_a_new_one(minion, name, spec, config_dir):
    spec = {**spec, "environment": {"KOLLA_CONFIG_STRATEGY": "COPY_ONCE"}}
    minion.converge("running", name, **spec)
    (config_dir / "app.conf").write_text("two\n")
    assert minion.converge("running", name, **spec)["changes"]["state"]["new"] == "recreated"


def test_a_run_that_died_between_file_and_restart_is_made_up_for(minion, name, spec, config_dir, deployed):
    """The file state says "nothing to do" the second time, so there is nothing to watch: the record tells."""
    (config_dir / "app.conf").write_text("two\n")  # ... and the run ends here
    results = minion.apply(high(name, spec, config_dir, content="two\n"))
    assert results[f"{name}/app.conf"]["changes"] == {}
    assert results[name]["changes"]["state"]["new"] == "restarted"
    assert journal(minion, name) == ["start one", "start two"]


# ---------------------------------------------------------------- watch in Salt


def high(name, spec, config_dir, content, file="app.conf", more=()):
    """A file and a container that watches it, as an SLS would have them."""
    return {
        f"{name}/{file}": {
            "file": ["managed", {"name": f"{config_dir}/{file}"}, {"contents": content}],
            "__sls__": "x",
            "__env__": "base",
        },
        **{item: {"cmd": ["run", {"name": "true"}], "__sls__": "x", "__env__": "base"} for item in more},
        name: {
            "kolla_container": [
                "running",
                *({key: value} for key, value in spec.items()),
                {"watch": [{"file": f"{name}/{file}"}, *({"cmd": item} for item in more)]},
            ],
            "__sls__": "x",
            "__env__": "base",
        },
    }


def test_watch_predicts_the_restart_and_the_real_run_restarts_once(minion, name, spec, config_dir, deployed):
    states = high(name, spec, config_dir, "two\n")
    predicted = minion.apply(states, test=True)[name]
    assert predicted["result"] is None
    assert facts(minion, name) == deployed
    real = minion.apply(states)[name]
    assert real["result"] is True, real["comment"]
    assert predicted["changes"] == real["changes"]
    assert real["changes"]["state"]["new"] == "restarted"
    assert journal(minion, name) == ["start one", "start two"]
    assert minion.apply(states)[name]["changes"] == {}


def test_watch_predicts_a_reload_as_a_reload(minion, name, spec, config_dir, deployed):
    predicted = minion.apply(high(name, spec, config_dir, "rules: 2\n", "policy.yaml"), test=True)[name]
    assert predicted["changes"] == {
        "state": {"old": "running", "new": "reloaded"},
        "config": {"old": None, "new": ["policy.yaml"]},
    }


def test_a_watched_file_that_its_program_notices_by_itself_restarts_nothing(minion, name, spec, config_dir):
    spec = {**spec, "ignore_files": ["policy.yaml"], "reload_files": []}
    minion.converge("running", name, **spec)
    before = facts(minion, name)
    for test in (True, False):
        ret = minion.apply(high(name, spec, config_dir, "rules: 2\n", "policy.yaml"), test=test)[name]
        assert (ret["result"], ret["changes"]) == (True, {})
    assert facts(minion, name) == before


def test_a_watched_change_of_something_else_restarts_once(minion, name, spec, config_dir, deployed):
    states = high(name, spec, config_dir, "one\n", more=[f"{name} certificate"])
    ret = minion.apply(states)[name]
    assert ret["result"] is True, ret["comment"]
    assert ret["changes"] == {"state": {"old": "running", "new": "restarted"}}
    assert f"{name} certificate" in ret["comment"]
    assert journal(minion, name) == ["start one", "start one"]


# ---------------------------------------------------------------- failure


def test_a_program_that_ends_at_once_fails_early_and_says_why_without_the_secret(minion, name, spec, config_dir):
    (config_dir / "app.conf").write_text("crash\n")
    began = time.monotonic()
    ret = minion.converge("running", name, **spec)
    assert ret["result"] is False
    assert time.monotonic() - began < 15
    assert "ends right after each start" in ret["comment"]
    assert "cannot start" in ret["comment"]
    assert "s3cret-of-app" not in json.dumps(ret)
    assert f"logs {name}`" in ret["comment"]

    (config_dir / "app.conf").write_text("one\n")
    repaired = minion.converge("running", name, **spec)
    assert repaired["result"] is True, repaired["comment"]
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_service_that_never_answers_fails_after_its_time(minion, name, spec):
    spec = {**spec, "ready": {"exec": ["test", "-e", "/tmp/never"], "timeout": 1}}
    ret = minion.converge("running", name, **spec)
    assert ret["result"] is False
    assert "is not ready after" in ret["comment"] and "test -e /tmp/never" in ret["comment"]
    assert "app is up" in ret["comment"]
    # It came up in the end: nothing is restarted for it.
    before = facts(minion, name)
    spec["ready"]["exec"][2] = "/tmp/ready"
    assert minion.converge("running", name, **spec)["changes"] == {"state": {"old": "running", "new": "adopted"}}
    assert facts(minion, name) == before


def test_a_container_that_the_engine_refuses_leaves_the_old_one_running(minion, name, spec, deployed):
    ret = minion.converge("running", name, **{**spec, "security_opt": ["nonsense"]})
    assert ret["result"] is False
    assert name in ret["comment"]
    assert facts(minion, name) == deployed


@pytest.mark.parametrize("test", [True, False])
def test_wrong_declarations_are_refused_in_words(minion, name, spec, test):
    for change, words in (
        ({"volumez": []}, "did you mean 'volumes'"),
        ({"privileged": "yes please"}, "expected true or false"),
        ({"ready": {"http": "x", "tcp": "y"}}, "ready: expected"),
        ({"environment": {"X": {"secret": "no_such_password"}}}, "password no_such_password is not in this minion's"),
        ({"image": ""}, "'image' is required"),
    ):
        ret = minion.converge("running", name, test=test, **{**spec, **change})
        assert ret["result"] is False
        assert words in ret["comment"]
    assert minion.job().state(name) == "absent"


def test_a_missing_host_path_is_an_error_and_not_an_empty_directory(minion, name, spec, workdir):
    missing = workdir / "not-there"
    ret = minion.converge("running", name, **{**spec, "volumes": [*spec["volumes"], f"{missing}:/x"]})
    assert ret["result"] is False
    assert str(missing) in ret["comment"] and "host_directories" in ret["comment"]
    assert not missing.exists()
    assert minion.job().state(name) == "absent"


def test_an_image_that_cannot_be_fetched_names_image_registry_and_cause_and_keeps_the_old(minion, name, spec, deployed):
    image = "127.0.0.1:1/openstack.kolla/app:9"
    predicted = minion.converge("running", name, test=True, **{**spec, "image": image})
    assert "not on this host yet" in predicted["changes"]["image"]["new"]
    ret = minion.converge("running", name, **{**spec, "image": image})
    assert ret["result"] is False
    assert image in ret["comment"] and "127.0.0.1:1" in ret["comment"] and "docker_registry" in ret["comment"]
    assert facts(minion, name) == deployed


@pytest.mark.parametrize("test", [True, False])
def test_an_engine_that_does_not_answer_is_one_sentence(minion, name, tmp_path, test):
    minion.opts["pillar"]["kolla"]["globals"]["container_engine_socket"] = str(tmp_path / "none.sock")
    for function, arguments in (
        ("running", {"image": "x:1"}),
        ("ran", {"image": "x:1"}),
        ("absent", {}),
        ("stopped", {}),
        ("executed", {"container": name, "command": ["true"]}),
        ("healthy", {}),
        ("image_present", {}),
    ):
        ret = minion.converge(function, name, test=test, **arguments)
        assert ret["result"] is False, (function, ret)
        assert ret["changes"] == {}
        assert "no answer from the container engine" in ret["comment"] and "none.sock" in ret["comment"]


# ---------------------------------------------------------------- secrets


def test_secrets_are_in_the_container_and_nowhere_else(minion, name, spec, deployed):
    assert minion.exec(name, ["sh", "-c", 'test "$APP_PASSWORD" = s3cret-of-app'])["exit_status"] == 0
    assert minion.exec(name, ["sh", "-c", "echo $APP_PASSWORD"])["output"] == "***\n"
    minion.opts["pillar"]["kolla"]["passwords"]["app_password"] = "n3w-secret"
    ret = minion.converge("running", name, test=True, **spec)
    assert ret["changes"]["environment"] == {
        "old": {"APP_PASSWORD": "*** (as created)"},
        "new": {"APP_PASSWORD": "*** (password app_password)"},
    }
    everything = json.dumps([ret, minion.inspect(name), minion.list(every=True), minion.diff(name, **spec)])
    assert "s3cret" not in everything and "n3w-secret" not in everything


# ---------------------------------------------------------------- take-over


def foreign(engine, images, name, config_dir, **more):
    """A container as Kolla-Ansible makes it: no label of ours, a time zone, no restart policy, no stop timeout."""
    body = {
        "Image": images[0],
        "Env": ["KOLLA_CONFIG_STRATEGY=COPY_ALWAYS", "APP_PASSWORD=s3cret-of-app", "TZ=UTC"],
        "HostConfig": {
            "NetworkMode": "host",
            "Binds": [f"{config_dir}/:/var/lib/kolla/config_files/:ro", f"{name}_data:/var/lib/app/:rw"],
        },
        **more,
    }
    engine.act("create", "create_container_from_config", body, name)
    engine.act("start", "start", name)


def test_an_equal_container_of_another_tool_is_taken_over_without_a_restart(
    minion, engine, images, name, spec, config_dir, engine_kind
):
    foreign(engine, images, name, config_dir)
    until_journal(minion, name, "start one")
    before = facts(minion, name)
    predicted = minion.converge("running", name, test=True, **spec)
    real = minion.converge("running", name, **spec)
    assert real["result"] is True, real["comment"]
    assert predicted["changes"] == real["changes"]
    expected = {"state": {"old": "running", "new": "adopted"}}
    if engine_kind == "docker":  # podman cannot: there the other tool's unit stays in charge
        expected["restart_policy"] = {"old": "no", "new": "unless-stopped"}
    assert real["changes"] == expected
    assert facts(minion, name) == before
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_container_of_another_tool_with_older_files_is_restarted(minion, engine, images, name, spec, config_dir):
    foreign(engine, images, name, config_dir)
    until_journal(minion, name, "start one")
    (config_dir / "app.conf").write_text("two\n")
    ret = minion.converge("running", name, **spec)
    assert ret["changes"]["state"]["new"] == "restarted"
    assert journal(minion, name)[-1] == "start two"
    assert minion.converge("running", name, **spec)["changes"] == {}


def test_a_real_difference_of_another_tools_container_is_a_difference(minion, engine, images, name, spec, config_dir):
    foreign(engine, images, name, config_dir, User="12")
    assert minion.diff(name, **spec)["user"] == {"old": "12", "new": None}


def test_the_systemd_unit_of_another_tool_is_given_up(
    minion, engine, images, name, spec, config_dir, tmp_path, engine_kind
):
    if engine_kind == "podman":
        pytest.skip("podman cannot take over restarts without a new container")
    foreign(engine, images, name, config_dir)
    until_journal(minion, name, "start one")
    unit = tmp_path / f"kolla-{name}-container.service"
    unit.write_text("[Service]\n")
    for test in (True, False):
        minion.job(test)
        minion.diff.__globals__["UNITS"] = tmp_path
        ret = minion.states["kolla_container.running"](name, **spec)
        assert ret["changes"]["systemd_unit"] == {"old": str(unit), "new": None}
        assert unit.exists() is test


# ---------------------------------------------------------------- other states


def test_ran_runs_until_it_succeeded_with_the_present_image(minion, name, images, workdir):
    note = workdir / "note"
    note.write_text("")
    spec = {
        "image": images[0],
        "command": ["sh", "-c", "echo once >> /note; echo $APP_PASSWORD"],
        "environment": {"APP_PASSWORD": {"secret": "app_password"}},
        "volumes": [f"{note}:/note"],
        "timeout": 20,
    }
    predicted = minion.converge("ran", name, test=True, **spec)
    assert predicted["result"] is None and note.read_text() == ""
    first = minion.converge("ran", name, **spec)
    assert first["result"] is True, first["comment"]
    assert first["changes"] == predicted["changes"]
    assert first["changes"]["run"]["old"] == "never"
    for test in (True, False):
        assert minion.converge("ran", name, test=test, **spec)["changes"] == {}
    assert note.read_text() == "once\n"
    assert minion.job().state(name) == "absent"

    other = minion.converge("ran", name, **{**spec, "image": images[1]})
    assert other["result"] is True and "run" in other["changes"]
    forced = minion.converge("ran", name, force=True, **{**spec, "image": images[1]})
    assert forced["result"] is True and forced["changes"]
    assert note.read_text() == "once\n" * 3


def test_ran_runs_again_when_its_task_changed(minion, name, images, workdir):
    note = workdir / "note"
    note.write_text("")
    spec = {
        "image": images[0],
        "command": ["sh", "-c", "echo $STEP >> /note"],
        "environment": {"STEP": "one"},
        "volumes": [f"{note}:/note"],
        "timeout": 20,
    }
    assert minion.converge("ran", name, **spec)["changes"]
    other = {**spec, "environment": {"STEP": "two"}}
    assert minion.converge("ran", name, test=True, **other)["changes"]
    assert minion.converge("ran", name, **other)["changes"]
    assert minion.converge("ran", name, **other)["changes"] == {}
    assert note.read_text() == "one\ntwo\n"


def test_ran_runs_again_when_what_it_watches_changed(minion, name, images, workdir):
    note = workdir / "note"
    note.write_text("")
    arguments = [{"image": images[0]}, {"command": ["sh", "-c", "echo x >> /note"]}, {"volumes": [f"{note}:/note"]}]
    states = {
        "db": {"cmd": ["run", {"name": "true"}], "__sls__": "x", "__env__": "base"},
        name: {
            "kolla_container": ["ran", *arguments, {"watch": [{"cmd": "db"}]}],
            "__sls__": "x",
            "__env__": "base",
        },
    }
    assert minion.apply(states)[name]["result"] is True
    predicted = minion.apply(states, test=True)[name]
    assert predicted["result"] is None and predicted["changes"]
    assert note.read_text() == "x\n"
    assert minion.apply(states)[name]["changes"]
    assert note.read_text() == "x\nx\n"


def test_a_failed_step_shows_its_last_lines_without_secrets_and_is_tried_again(minion, name, images):
    spec = {
        "image": images[0],
        "command": ["sh", "-c", "echo password is $APP_PASSWORD; exit 3"],
        "environment": {"APP_PASSWORD": {"secret": "app_password"}},
    }
    for _ in range(2):
        ret = minion.converge("ran", name, **spec)
        assert ret["result"] is False and ret["changes"] == {}
        assert "exit code 3" in ret["comment"] and "password is ***" in ret["comment"]
        assert "s3cret" not in json.dumps(ret)
    assert minion.job().state(name) == "absent"


def test_a_step_that_does_not_end_is_killed(minion, name, images):
    with pytest.raises(CommandExecutionError, match="did not end within 0.5 s"):
        minion.run(name, timeout=0.5, image=images[0], command=["sleep", "100"])
    assert minion.job().state(name) == "absent"


def test_absent_and_stopped(minion, name, spec, deployed):
    for function, new in (("stopped", "stopped"), ("absent", "absent")):
        predicted = minion.converge(function, name, test=True)
        assert predicted["result"] is None
        real = minion.converge(function, name)
        assert real["result"] is True, real["comment"]
        assert real["changes"] == predicted["changes"]
        assert real["changes"]["state"]["new"] == new
        for test in (True, False):
            assert minion.converge(function, name, test=test)["changes"] == {}
    assert minion.job().state(name) == "absent"
    assert minion.functions["kolla_container.list"](every=True) is not None


def test_named_volumes_are_marked_and_outlive_their_container(minion, name, spec, engine, deployed):
    assert engine.get(f"/volumes/{name}_data")["Labels"] == {"kolla_managed": "true"}
    minion.converge("absent", name)
    assert engine.get(f"/volumes/{name}_data")["Name"] == f"{name}_data"


def test_executed(minion, name, spec, deployed):
    arguments = {"container": name, "command": ["sh", "-c", "echo x >> /tmp/done"]}
    predicted = minion.converge("executed", "note it", test=True, **arguments)
    assert predicted["result"] is None
    first = minion.converge("executed", "note it", **arguments)
    assert first["result"] is True and first["changes"] == predicted["changes"]
    for condition in ({"unless_path": "/tmp/done"}, {"unless_exec": ["test", "-e", "/tmp/done"]}):
        for test in (True, False):
            assert minion.converge("executed", "note it", test=test, **arguments, **condition)["changes"] == {}
    assert minion.exec(name, ["cat", "/tmp/done"])["output"] == "x\n"
    failed = minion.converge("executed", "fail", container=name, command=["sh", "-c", "echo oops; exit 4"])
    assert failed["result"] is False and failed["changes"] == {}
    assert "status 4" in failed["comment"] and "oops" in failed["comment"]
    unmet = minion.converge("executed", "fail", unless_path="/tmp/never", **arguments)
    assert unmet["result"] is False, "what should have made it done is still not there"


def test_healthy_waits_for_the_health_check(minion, name, images, engine_kind):
    if engine_kind == "podman" and not os.path.isdir("/run/systemd/system"):
        pytest.skip("podman runs health checks by systemd timers, and systemd does not run here")
    check = {"test": ["CMD", "test", "-e", "/tmp/ok"], "interval": 1, "timeout": 5, "retries": 1}
    spec = {"image": images[0], "command": ["sleep", "100"], "healthcheck": check}
    assert minion.converge("running", name, **spec)["result"] is True
    assert minion.converge("healthy", name, test=True)["result"] is None
    later = threading.Timer(3, minion.exec, [name, ["sh", "-c", "echo > /tmp/ok"]])
    later.start()
    ret = minion.converge("healthy", name, timeout=20)
    later.join()
    assert ret["result"] is True, ret["comment"]
    assert ret["changes"]["health"]["new"] == "healthy"
    assert minion.converge("healthy", name)["changes"] == {}
    absent = minion.converge("healthy", f"{name}_other", timeout=1)
    assert absent["result"] is False and "no such container" in absent["comment"]


def test_image_present(minion, images):
    for test in (True, False):
        assert minion.converge("image_present", images[0], test=test)["changes"] == {}
    missing = "127.0.0.1:1/x/none:1"
    assert minion.converge("image_present", missing, test=True)["result"] is None
    assert minion.converge("image_present", missing)["result"] is False
    assert minion.job().images_missing([images[0], missing, missing]) == [missing]


# ---------------------------------------------------------------- verbs


def test_many_stop_in_the_time_of_the_slowest(minion, name, images, engine):
    names = [f"{name}_{index}" for index in range(6)]
    for item in names:
        minion.create(item, image=images[0], command=["sh", "-c", "trap '' TERM; sleep 100"], stop_timeout=2)
        minion.start(item)
    result = minion.job().stop_many(names)
    assert sorted(result["stopped"]) == names
    assert result["seconds"] < 8, "six containers that need 2 s each"
    assert {minion.job().state(item) for item in names} == {"exited (137)"}
    assert minion.job().stop_many(names)["stopped"] == []


def test_a_restart_by_verb_is_recorded(minion, name, spec, deployed):
    minion.restart(name)
    assert minion.job().diff(name, **spec) == {}
    minion.stop(name)
    minion.start(name)
    assert minion.job().diff(name, **spec) == {}


def test_recreate_replaces_even_an_equal_one(minion, name, spec, deployed):
    assert minion.recreate(name, **spec)["action"] == "recreate"
    assert facts(minion, name)[0] != deployed[0]
    assert minion.job().diff(name, **spec) == {}


def test_exec_takes_input_environment_and_a_user(minion, name, spec, deployed):
    assert minion.exec(name, ["cat"], stdin="one\ntwo\n")["output"] == "one\ntwo\n"
    environment = {"TOKEN": {"secret": "app_password"}, "PLAIN": 1}
    script = 'test "$TOKEN" = s3cret-of-app && echo $PLAIN'
    assert minion.exec(name, ["sh", "-c", script], environment=environment)["output"] == "1\n"
    assert minion.exec(name, ["id", "-u"], user="12")["output"] == "12\n"
    assert minion.exec(name, ["false"], check=False)["exit_status"] == 1
    with pytest.raises(CommandExecutionError, match="status 1, expected 0"):
        minion.exec(name, ["false"])
    with pytest.raises(SaltInvocationError, match="expected a list"):
        minion.exec(name, "false")
    with pytest.raises(CommandExecutionError, match="(?i)no such container"):
        minion.exec(f"{name}_other", ["true"])


def test_inspect_gives_back_what_was_declared(minion, name, spec, deployed):
    found = minion.inspect(name)
    assert found["image"] == spec["image"]
    assert found["environment"] == {"KOLLA_CONFIG_STRATEGY": "COPY_ALWAYS", "APP_PASSWORD": "***"}
    assert found["stop_timeout"] == 5
    assert found["restart_policy"] == "unless-stopped"
    assert "cap_add" not in found and "labels" not in found and "dimensions" not in found


def test_list_has_the_containers_of_kolla_images(minion, name, spec, deployed):
    entry = {item["name"]: item for item in minion.list(details=True)}[name]
    assert entry["state"] == "running" and entry["own"] is True and entry["health"] is None
    assert entry["started_at"] == deployed[1]


# ---------------------------------------------------------------- figures


def test_nothing_to_do_costs_one_list_and_two_questions_and_loads_no_client(minion, name, spec, deployed):
    minion.job()
    assert minion.diff(name, **spec) == {}
    first = minion.calls()
    assert first == 3  # list, container, image
    minion.diff(name, **spec)
    assert minion.calls() - first == 1  # the container again


def test_parallel_jobs_of_one_minion_do_not_disturb_each_other(minion, name, spec, deployed):
    minion.job()
    errors = []

    def compare():
        try:
            assert minion.diff(name, **spec) == {}
        except Exception as error:  # noqa: BLE001 - whatever it is, the main thread reports it
            errors.append(error)

    threads = [threading.Thread(target=compare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# ---------------------------------------------------------------- members of clusters


@pytest.fixture
def cluster(minion, name, tmp_path):
    """Execution functions of a service: what speaks against stopping its container, and how it lets its clients go."""
    folder = tmp_path / "extmods" / "modules"
    folder.mkdir(parents=True)
    (tmp_path / "obstacles").touch()
    (tmp_path / "left").touch()
    (folder / "kst_cluster.py").write_text(
        f"""
import pathlib

from salt.exceptions import CommandExecutionError

HERE = pathlib.Path({str(tmp_path)!r})


def obstacles():
    return (HERE / "obstacles").read_text().splitlines()


def leave():
    with open(HERE / "left", "a") as file:
        file.write(__salt__["kolla_container.state"]({name!r}) + "\\n")
    raise CommandExecutionError("nobody takes them")
"""
    )
    return tmp_path


def test_a_container_lets_its_clients_go_before_it_stops_and_stops_also_if_that_goes_wrong(
    minion, name, spec, images, cluster
):
    spec = {**spec, "guard": "kst_cluster.obstacles", "leave": "kst_cluster.leave"}
    assert minion.converge("running", name, **spec)["result"] is True
    assert minion.converge("running", name, test=True, **{**spec, "image": images[1]})["result"] is None
    assert (cluster / "left").read_text() == ""  # nothing that ran was stopped
    first = facts(minion, name)
    ret = minion.converge("running", name, **{**spec, "image": images[1]})
    assert ret["result"] is True, ret["comment"]
    assert facts(minion, name)[0] != first[0]
    assert (cluster / "left").read_text() == "running\n"
    assert minion.converge("running", name, **{**spec, "image": images[1]})["changes"] == {}
    assert (cluster / "left").read_text() == "running\n"


def test_a_container_that_must_not_be_stopped_goes_on_and_the_message_says_why(minion, name, spec, cluster):
    minion.converge("running", name, **spec)
    before = facts(minion, name)
    (cluster / "obstacles").write_text("two of three members are away\n")
    with pytest.raises(CommandExecutionError, match=f"stopping container {name}: .*\n  two of three members are away"):
        minion.job().await_permission(name, "kst_cluster.obstacles", timeout=1)
    assert facts(minion, name) == before
    (cluster / "obstacles").write_text("")
    assert minion.await_permission(name, "kst_cluster.obstacles", timeout=1) < 1
    with pytest.raises(CommandExecutionError, match="its guard kst_cluster.nothing is no execution function"):
        minion.await_permission(name, "kst_cluster.nothing")
