"""Specifications of containers: normal form, creation, comparison with inspect data."""

from __future__ import annotations

import copy

import pytest

from kolla_salt.container import (
    LABEL_FIELDS,
    SpecError,
    action_for_files,
    changed_files,
    compare,
    create_body,
    digest,
    in_declared_state,
    normalise,
    scrub,
    state_of,
    to_spec,
    unsupported_settings,
)

IMAGE_CONFIG = {
    "Env": ["PATH=/bin", "LANG=en_US.UTF-8", "KOLLA_BASE_DISTRO=debian"],
    "Labels": {"kolla_version": "22.0.0", "name": "glance-api"},
    "Cmd": ["kolla_start"],
    "User": "glance",
    "Healthcheck": None,
}

SPEC = {
    "image": "quay.io/openstack.kolla/glance-api:2026.1",
    "environment": {"KOLLA_CONFIG_STRATEGY": "COPY_ALWAYS", "PW": {"secret": "glance_password"}},
    "volumes": ["/etc/kolla/glance-api/:/var/lib/kolla/config_files/:ro", "glance:/var/lib/glance/"],
    "privileged": True,
    "healthcheck": {"test": "healthcheck_curl http://10.0.0.1:9292", "interval": 30, "timeout": 30, "retries": 3},
    "dimensions": {"mem_limit": "1g", "ulimits": {"nofile": {"soft": 1024, "hard": 4096}}},
}
SECRETS = {"glance_password": "gl4nce-pw"}


def spec(**changes):
    return normalise("glance_api", {**SPEC, **changes}, SECRETS.__getitem__)


def inspected(wanted, image=IMAGE_CONFIG):
    """What an engine shows of a container that was created from a specification."""
    body = copy.deepcopy(create_body(wanted))
    host = {
        "Privileged": False,
        "ShmSize": 67108864,
        "IpcMode": "private",
        "PidMode": "",
        "CgroupnsMode": "host",
        "MemorySwap": 2 * body["HostConfig"].get("Memory", 0),
        "Binds": None,
        "SecurityOpt": None,
        "Devices": [],
        **body.pop("HostConfig"),
    }
    own = {item.partition("=")[0] for item in body.get("Env", [])}
    body["Env"] = body.get("Env", []) + [item for item in image["Env"] if item.partition("=")[0] not in own]
    body["Labels"] = {**image["Labels"], **body.get("Labels", {})}
    config = {**image, "Hostname": "ctl1", "StopSignal": "", **body}
    state = {"Status": "running", "Running": True, "ExitCode": 0}
    return {
        "Id": "c1",
        "Name": "/glance_api",
        "Image": "sha256:1",
        "Config": config,
        "HostConfig": host,
        "State": state,
    }


def changes(wanted, inspect, image=IMAGE_CONFIG, **more):
    return compare(wanted, inspect, image, **more).changes


# ---------------------------------------------------------------- normal form


@pytest.mark.parametrize(
    ("field", "given", "normal"),
    [
        ("volumes", ["/a/:/b/:ro", "v:/c", "/d:/e:rw,z", None, ""], ["/a:/b:ro", "/d:/e:z", "v:/c"]),
        ("volumes", ["/run:/run:shared", "/:/host:ro,rprivate,rbind"], ["/:/host:ro", "/run:/run:shared"]),
        ("tmpfs", ["/run", "/tmp:size=1m"], {"/run": "", "/tmp": "size=1m"}),
        ("cap_add", ["CAP_NET_ADMIN", "sys_admin"], ["NET_ADMIN", "SYS_ADMIN"]),
        ("security_opt", ["seccomp:unconfined", "no-new-privileges"], ["no-new-privileges", "seccomp=unconfined"]),
        ("devices", ["/dev/fuse", "/dev/a:/dev/b", "/dev/c:/dev/d:r"],
         ["/dev/a:/dev/b:rwm", "/dev/c:/dev/d:r", "/dev/fuse:/dev/fuse:rwm"]),
        ("shm_size", "1g", 1073741824),
        ("stop_signal", "int", "SIGINT"),
        ("stop_signal", 3, "SIGQUIT"),
        ("restart_policy", "oneshot", "no"),
        ("restart_policy", "on-failure:0", "on-failure"),
        ("extra_hosts", {"a": "1.2.3.4"}, ["a:1.2.3.4"]),
        ("healthcheck", "true", {"test": ["CMD-SHELL", "true"]}),
        ("healthcheck", {"test": ["check", "-x"], "retries": "3"}, {"test": ["CMD", "check", "-x"], "retries": 3}),
        ("healthcheck", {"test": "NONE", "interval": 3}, {"test": ["NONE"]}),
        ("environment", {"A": None, "B": 1, "C": True}, {"A": "", "B": "1", "C": "true"}),
    ],
)  # fmt: skip
def test_settings_have_one_normal_form(field, given, normal):
    assert spec(**{field: given}).settings[field] == normal


@pytest.mark.parametrize(
    ("given", "bytes_"), [("512m", 536870912), ("1g", 1073741824), ("1.5GiB", 1610612736), ("64KB", 65536), (7, 7)]
)
def test_sizes(given, bytes_):
    assert spec(dimensions={"mem_limit": given}).settings["dimensions.mem_limit"] == bytes_


@pytest.mark.parametrize("given", [{"nofile": 5}, {"nofile": {"soft": 5}}, [{"name": "NOFILE", "soft": 5, "hard": 5}]])
def test_ulimits(given):
    assert spec(dimensions={"ulimits": given}).settings["dimensions.ulimits"] == {"nofile": [5, 5]}


@pytest.mark.parametrize(
    "nothing", [{"privileged": False}, {"cap_add": []}, {"user": ""}, {"tmpfs": None}, {"shm_size": "64m"}]
)
def test_a_default_is_no_setting(nothing):
    (name,) = nothing
    assert name not in spec(**nothing).settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volume": []}, "container glance_api: unknown field 'volume'; did you mean 'volumes'"),
        ({"volumes": ["/a"]}, "volumes: expected 'source:/target'"),
        ({"volumes": "a:/b"}, "volumes: expected a list"),
        ({"privileged": "true"}, "privileged: expected true or false, got 'true'"),
        ({"dimensions": {"mem_limits": 1}}, "dimensions: unknown 'mem_limits'; did you mean 'mem_limit'"),
        ({"dimensions": {"mem_limit": "lots"}}, "expected a size such as 512m"),
        ({"restart_policy": "sometimes"}, "expected one of no, oneshot"),
        ({"command": "sleep 3"}, "command: expected a list of arguments"),
        ({"healthcheck": {"tests": "x"}}, "healthcheck: unknown tests"),
        ({"environment": {"A": {"password": "x"}}}, "environment: A: expected a string or {secret: NAME}"),
        ({"environment": {"A": [1]}}, "environment: expected a string"),
        ({"ready": {"http": "x", "tcp": "y"}}, "ready: expected"),
        ({"ready": {"http": "x", "retries": 1}}, "ready: expected"),
        ({"reload": {"signal": "HUP", "exec": ["x"]}}, "reload: expected"),
        ({"pull": "sometimes"}, "pull: expected if-missing"),
        ({"image": None}, "'image' is required"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change, words):
    with pytest.raises(SpecError) as error:
        spec(**change)
    assert words in str(error.value)


# ---------------------------------------------------------------- comparison


def test_what_was_created_compares_as_equal():
    assert changes(spec(), inspected(spec())) == {}


def test_what_comes_from_the_image_is_not_a_difference_even_if_it_is_declared_as_well():
    wanted = spec(
        command=["kolla_start"],
        user="glance",
        environment={**SPEC["environment"], "LANG": "en_US.UTF-8"},
        labels={"name": "glance-api"},
    )
    assert changes(wanted, inspected(spec())) == {}
    assert changes(wanted, inspected(wanted)) == {}


def test_health_checks_of_the_image():
    image = {**IMAGE_CONFIG, "Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 1_000_000_000}}
    without = spec(healthcheck=None)
    assert changes(without, inspected(without, image), image) == {}
    off = spec(healthcheck={"test": "NONE"})
    assert set(changes(off, inspected(without, image), image)) == {"healthcheck"}
    merged = inspected(without, image)
    merged["Config"]["Healthcheck"] = {"Test": ["CMD-SHELL", "y"], "Interval": 1_000_000_000}
    assert changes(spec(healthcheck="y"), merged, image) == {}


@pytest.mark.parametrize("auto", [{"Privileged": True}, {"PidMode": "host"}, {"IpcMode": "host"}])
def test_the_label_option_that_the_engine_adds_by_itself_is_no_difference(auto):
    wanted = spec(
        privileged="Privileged" in auto,
        pid_mode=auto.get("PidMode"),
        ipc_mode=auto.get("IpcMode"),
    )
    found = inspected(wanted)
    found["HostConfig"]["SecurityOpt"] = ["label=disable"]
    assert changes(wanted, found) == {}


def test_of_mappings_and_lists_only_what_differs_is_shown():
    wanted = spec(environment={**SPEC["environment"], "A": "2", "B": "1"}, volumes=SPEC["volumes"][:1])
    found = inspected(spec(environment={**SPEC["environment"], "A": "1", "B": "1"}))
    assert changes(wanted, found) == {
        "environment": {"old": {"A": "1"}, "new": {"A": "2"}},
        "volumes": {"old": ["glance:/var/lib/glance"], "new": None},
    }


def test_a_removed_variable_is_noticed_on_our_own_containers():
    found = inspected(spec(environment={**SPEC["environment"], "GONE": "1", "TZ": "UTC"}))
    assert changes(spec(), found) == {"environment": {"old": {"GONE": "1", "TZ": "UTC"}, "new": None}}


def test_settings_whose_default_the_engine_does_not_tell_are_noticed_when_they_go():
    assert set(changes(spec(), inspected(spec(cgroupns_mode="host")))) == {"cgroupns_mode"}
    assert set(changes(spec(), inspected(spec(hostname="other")))) == {"hostname"}
    assert changes(spec(), inspected(spec())) == {}


def foreign(wanted):
    """The same container as Kolla-Ansible makes it on docker."""
    found = inspected(wanted)
    del found["Config"]["Labels"][LABEL_FIELDS]
    found["Config"]["Env"].append("TZ=Europe/Berlin")
    found["Config"].pop("StopTimeout")
    found["HostConfig"]["RestartPolicy"] = {"Name": "no", "MaximumRetryCount": 0}
    binds = found["HostConfig"]["Binds"]
    found["HostConfig"]["Binds"] = [item if item.endswith(":ro") else f"{item}:rw" for item in binds]
    return found


def test_an_equal_container_of_another_tool_needs_no_new_one():
    result = compare(spec(), foreign(spec()), IMAGE_CONFIG)
    assert result.replace == ()
    assert result.live == ("restart_policy",)


def test_a_container_of_another_tool_with_another_variable_needs_a_new_one():
    found = foreign(spec())
    found["Config"]["Env"].append("OTHER=1")
    assert compare(spec(), found, IMAGE_CONFIG).replace == ("environment",)


def test_a_container_made_by_podman_has_other_defaults():
    found = inspected(spec(privileged=None))
    found["HostConfig"] |= {"ShmSize": 65536000, "PidMode": "private", "IpcMode": "shareable"}
    found["HostConfig"]["Binds"] = [f"{item.removesuffix(':ro')}:rw,rprivate,rbind" if not item.endswith(":ro")
                                    else f"{item},rprivate,rbind" for item in found["HostConfig"]["Binds"]]  # fmt: skip
    found["HostConfig"]["Ulimits"] = [
        {"Name": "RLIMIT_NOFILE", "Soft": 1024, "Hard": 4096},
        {"Name": "RLIMIT_NPROC", "Soft": 9, "Hard": 9},
    ]
    found["HostConfig"]["Binds"].append(f"{'0a' * 32}:/var/scratch:nosuid,exec,nodev,rbind")
    found["HostConfig"]["PidsLimit"] = 2048
    found["Config"]["StopSignal"] = "15"
    found["Config"]["Env"] += ["container=podman", "HOME=/root", "TERM=xterm", "HOSTNAME=ctl1"]
    assert changes(spec(privileged=None), found) == {}


def test_when_the_image_is_gone_only_declared_settings_are_judged():
    assert compare(spec(), inspected(spec()), None).changes == {}
    other = spec(environment={**SPEC["environment"], "A": "1"})
    assert set(compare(other, inspected(spec()), None).changes) == {"environment"}


def test_limits_that_the_host_cannot_have_are_not_compared():
    wanted = spec(dimensions={"mem_limit": "1g", "memswap_limit": "2g"})
    found = inspected(wanted)
    found["HostConfig"]["MemorySwap"] = -1
    assert set(changes(wanted, found)) == {"dimensions.memswap_limit"}
    unsupported = unsupported_settings({"MemoryLimit": True, "SwapLimit": False})
    assert changes(wanted, found, unsupported=unsupported) == {}


def test_only_settings_that_can_change_in_place_are_live():
    base = spec(dimensions={"cpu_shares": 100})
    result = compare(spec(dimensions={"cpu_shares": 200}), inspected(base), IMAGE_CONFIG)
    assert (result.live, result.replace) == (("dimensions.cpu_shares",), ())
    # The engine takes "no limit" in place for none of them.
    result = compare(spec(dimensions={}), inspected(base), IMAGE_CONFIG)
    assert (result.live, result.replace) == ((), ("dimensions.cpu_shares",))


# ---------------------------------------------------------------- secrets


def test_a_changed_secret_shows_that_it_changed_and_nothing_else():
    found = inspected(normalise("glance_api", SPEC, lambda name: "0ld-pw"))
    shown = changes(spec(), found, secrets=SECRETS.values())
    assert shown == {
        "environment": {"old": {"PW": "*** (as created)"}, "new": {"PW": "*** (password glance_password)"}}
    }


@pytest.mark.parametrize("name", ["DB_ROOT_PASSWORD", "RABBITMQ_CLUSTER_COOKIE", "API_TOKEN"])
def test_a_variable_that_sounds_secret_is_masked_even_if_it_is_only_removed(name):
    found = inspected(spec(environment={**SPEC["environment"], name: "hunter2"}))
    assert "hunter2" not in str(changes(spec(), found))


def test_a_secret_inside_another_value_is_masked_on_both_sides():
    found = inspected(spec(environment={**SPEC["environment"], "URL": "mysql://g:0ld-pw@db"}))
    wanted = spec(environment={**SPEC["environment"], "URL": "mysql://g:gl4nce-pw@db"})
    shown = str(changes(wanted, found, secrets=SECRETS.values()))
    assert "0ld-pw" not in shown and "gl4nce-pw" not in shown
    assert "URL" in shown


def test_scrub_takes_the_longest_first():
    assert scrub("abcdef abc", ["abc", "abcdef", ""]) == "*** ***"


def test_no_secret_in_labels():
    assert "gl4nce" not in str(create_body(spec())["Labels"])


def test_an_existing_container_as_a_specification():
    found = to_spec(inspected(spec()), IMAGE_CONFIG, SECRETS.values())
    assert found["environment"] == {"KOLLA_CONFIG_STRATEGY": "COPY_ALWAYS", "PW": "***"}
    assert found["dimensions"] == {"mem_limit": 1073741824, "ulimits": {"nofile": [1024, 4096]}}
    assert found["privileged"] is True
    assert "labels" not in found and "shm_size" not in found


# ---------------------------------------------------------------- state and files


@pytest.mark.parametrize(
    ("state", "name", "runs_once_ok", "service_ok"),
    [
        ({"Status": "running", "Running": True}, "running", True, True),
        ({"Status": "exited", "ExitCode": 0}, "exited (0)", True, False),
        ({"Status": "exited", "ExitCode": 137}, "exited (137)", False, False),
        ({"Status": "restarting", "Running": True, "Restarting": True, "ExitCode": 1}, "restarting (1)", False, False),
        ({"Status": "paused", "Running": True, "Paused": True}, "paused", False, False),
        ({"Status": "configured"}, "created", False, False),
    ],
)
def test_states(state, name, runs_once_ok, service_ok):
    inspect = {"State": state}
    assert state_of(inspect) == name
    assert in_declared_state(spec(restart_policy="oneshot"), inspect) is runs_once_ok
    assert in_declared_state(spec(), inspect) is service_ok


def test_digests_see_content_mode_and_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c", "ignored"):
        (tmp_path / name).write_text(name)
    before = digest(tmp_path, ["ignored"])
    assert set(before) == {"a", "b", "sub/c"}
    (tmp_path / "a").write_text("other")
    (tmp_path / "sub/c").chmod(0o600)
    (tmp_path / "b").unlink()
    (tmp_path / "d").symlink_to("nowhere")
    (tmp_path / "ignored").write_text("other")
    assert changed_files(before, digest(tmp_path, ["ignored"])) == {
        "a": "changed", "b": "removed", "d": "added", "sub/c": "changed",
    }  # fmt: skip
    assert digest(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("files", "change", "action"),
    [
        ([], {}, None),
        (["a.conf"], {}, "restart"),
        (["policy.yaml"], {"reload": {"signal": "HUP"}, "reload_files": ["policy.yaml"]}, "reload"),
        (["policy.yaml", "a.conf"], {"reload": {"signal": "HUP"}, "reload_files": ["policy.yaml"]}, "restart"),
        (["policy.yaml"], {"reload_files": ["policy.yaml"]}, "restart"),
        (["rules"], {"ignore_files": ["rules"]}, None),
        (["rules", "a.conf"], {"ignore_files": ["rules"]}, "restart"),
        (["a.conf"], {"environment": {"KOLLA_CONFIG_STRATEGY": "COPY_ONCE"}}, "recreate"),
    ],
)
def test_how_changed_files_take_effect(files, change, action):
    assert action_for_files(spec(**change), files) == action
