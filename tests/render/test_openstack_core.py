"""What keystone, glance, placement, heat and horizon become on the hosts of a cloud."""

from __future__ import annotations

import configparser
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kolla_salt import config, declarations, expand, identity
from kolla_salt import site as sites
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("keystone", "glance", "placement", "heat", "horizon")
HOSTS = ("ctl1", "ctl2", "ctl3")


@pytest.fixture(scope="module")
def formula(tmp_path_factory):
    return declarations.load(ROOT / "salt", cache=tmp_path_factory.mktemp("declarations"))


@pytest.fixture
def cloud(formula):
    """A site with three controllers, and passwords that say what they are."""
    passwords = {"database_password": "value-of-database_password"}
    for decl in formula.values():
        for name, kind in decl["passwords"].items():
            text = f"value-of-{name}"
            pair = {"private_key": f"{text}-private\nkey", "public_key": f"ssh-rsa {text}-public"}
            passwords[name] = pair if kind.get("kind") == "ssh_key" else text
    return sites.Site(
        globals={"internal_vip_address": "10.0.0.10", "external_vip_address": "192.0.2.10"},
        topology={
            "hosts": {name: {"addresses": {"api": f"10.0.0.{n}"}} for n, name in enumerate(HOSTS, start=11)},
            "groups": {"control": list(HOSTS), "network": list(HOSTS), "compute": ["ctl1"]},
        },
        passwords=passwords,
    )


@pytest.fixture
def on(cloud, formula):
    """Return a function that gives one host's resolver."""

    def resolver(host="ctl1", overrides=None, **options):
        site = copy.deepcopy(cloud)
        site.globals.update(options)
        site.overrides.update(overrides or {})
        return Resolver(formula, sites.host_pillar(site, formula, host), host)

    return resolver


def text(resolver, service, container, file):
    return config.render(resolver, service, container, file).content


def ini(resolver, service, container, file):
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    parser.read_string(text(resolver, service, container, file))
    return parser


def arguments(states, state_id):
    (listed,) = states[state_id].values()
    return {key: value for item in listed for key, value in item.items()}


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_file_of_every_container_can_be_made(on, service, host):
    resolver = on(host)
    made = 0
    for container, placed in resolver.containers(service).items():
        for file in config.files_of(resolver, service, container) if placed else []:
            content = text(resolver, service, container, file)
            if file.endswith((".conf", ".ini")):
                assert ini(resolver, service, container, file).sections()
            elif file.endswith(".json"):
                assert json.loads(content)["command"]
            elif file.endswith(".py"):
                compile(content, file, "exec")
            elif file.endswith(".sh"):
                subprocess.run(["bash", "-n"], input=content, text=True, check=True)
            made += 1
    assert made > 2 or (service, host) in {("glance", "ctl2"), ("glance", "ctl3")}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("service", SERVICES)
def test_states_hold_no_password(on, service, host):
    assert "value-of-" not in yaml.safe_dump(expand.expand(service, on(host)))


@pytest.mark.parametrize("service", ["keystone", "glance", "placement", "heat"])
def test_run_once_work_is_on_the_first_host_only(on, service):
    once = {"kolla_db.database_present", "kolla_keystone.registered", "kolla_container.ran"}

    def functions(host):
        return {function for state in expand.expand(service, on(host)).values() for function in state}

    assert once <= functions("ctl1")
    assert not once & functions("ctl2")


@pytest.mark.parametrize(
    ("service", "container", "ini_file"),
    [
        ("keystone", "keystone", "keystone-uwsgi.ini"),
        ("glance", "glance_api", "glance-api-uwsgi.ini"),
        ("placement", "placement_api", "placement-api-uwsgi.ini"),
        ("heat", "heat_api", "heat-api-uwsgi.ini"),
        ("heat", "heat_api_cfn", "heat-api-cfn-uwsgi.ini"),
        ("horizon", "horizon", "horizon-uwsgi.ini"),
    ],
)
def test_an_api_listens_where_balancer_health_check_and_readiness_look(on, service, container, ini_file):
    resolver = on()
    where = ini(resolver, service, container, ini_file)["uwsgi"]["http-socket"]
    entry = next(item for item in resolver.catalogue["load_balancer"] if item["entry"] == container)
    spec = expand.container_spec(resolver, service, container)
    assert f"{entry['members'][0]['address']}:{entry['members'][0]['port']}" == where
    assert f"http://{where}" in spec["healthcheck"]["test"][1]
    assert spec["ready"]["http"].startswith(f"http://{where}/")
    # A dashboard that starts has to make a page; what is asked every two seconds is something cheaper.
    page = "/auth/login/" if service == "horizon" else entry["check"]
    assert spec["ready"]["http"].endswith(page)


@pytest.mark.parametrize(
    ("service", "container", "options", "process"),
    [
        ("keystone", "keystone", "keystone.conf", "keystone-uwsgi.ini"),
        ("glance", "glance_api", "glance-api.conf", "glance-api-uwsgi.ini"),
        ("placement", "placement_api", "placement.conf", "placement-api-uwsgi.ini"),
        ("heat", "heat_api", "heat.conf", "heat-api-uwsgi.ini"),
        ("horizon", "horizon", "_9998-kolla-settings.py", "horizon-uwsgi.ini"),
    ],
)
def test_a_changed_option_takes_effect_without_a_restart(on, service, container, options, process):
    resolver = on()
    spec = expand.container_spec(resolver, service, container)
    assert options in spec["reload_files"]
    assert process not in spec["reload_files"]
    # The script finds the server through what the server's own configuration says.
    files = json.loads(text(resolver, service, container, "config.json"))["config_files"]
    assert {spec["reload"]["exec"][1], spec["reload"]["exec"][2]} <= {entry["dest"] for entry in files}
    assert {"master-fifo", "pidfile", "uid", "module"} <= set(ini(resolver, service, container, process)["uwsgi"])


@pytest.mark.parametrize("service", ["glance", "placement", "heat"])
def test_a_policy_of_the_operator_is_delivered_and_only_then(on, service):
    container = {"glance": "glance_api", "placement": "placement_api", "heat": "heat_engine"}[service]
    policy = {f"{service}/policy.yaml": '"rule": "role:admin"\n'}
    assert "policy.yaml" not in config.files_of(on(), service, container)
    resolver = on(overrides=policy)
    assert "policy.yaml" in config.files_of(resolver, service, container)
    assert f"/etc/{service}/policy.yaml" in text(resolver, service, container, "config.json")


def test_operators_fragments_win_over_the_options(on):
    overrides = {
        "global.conf": "[DEFAULT]\ndebug = True\n[database]\nmax_retries = 3\n",
        "heat/heat-engine.conf": "[DEFAULT]\nnum_engine_workers = 7\n",
    }
    engine = ini(on(overrides=overrides), "heat", "heat_engine", "heat.conf")
    api = ini(on(overrides=overrides), "heat", "heat_api", "heat.conf")
    assert engine["DEFAULT"]["num_engine_workers"] == "7"
    assert "num_engine_workers" not in api["DEFAULT"]
    assert api["database"]["max_retries"] == "3"


# --- keystone -------------------------------------------------------------------------------------------------------


def test_keystone_registers_itself_after_its_api_runs(on):
    states = expand.expand("keystone", on())
    assert list(states)[-1] == "keystone keystone"
    assert {"kolla_container": "keystone"} in arguments(states, "keystone keystone")["require"]
    assert identity.registration(on(), "keystone").services[0].type == "identity"


def test_keystone_bootstrap_gets_the_password_through_the_environment(on):
    states = expand.expand("keystone", on())
    step = arguments(states, "bootstrap_keystone")
    assert step["environment"]["OS_BOOTSTRAP_PASSWORD"] == {"secret": "keystone_admin_password"}
    assert step["environment"]["OS_BOOTSTRAP_INTERNAL_URL"] == "http://10.0.0.10:5000"
    assert step["environment"]["OS_BOOTSTRAP_PUBLIC_URL"] == "http://192.0.2.10:5000"
    assert "keystone_fernet_tokens:/etc/keystone/fernet-keys" in step["volumes"]
    assert {"kolla_db": "keystone database keystone"} in step["watch"]
    assert {"kolla_container": "bootstrap_keystone"} in arguments(states, "keystone")["require"]


def test_no_file_of_keystone_has_the_administrators_password(formula):
    assert "keystone_admin_password" not in formula["keystone"]["secrets"]


@pytest.mark.parametrize(
    ("expiry", "window", "interval", "keys"),
    [(86400, 172800, 259200, 3), (86400, 172800, 86400, 5), (3600, 0, 2400, 4), (3600, 0, 7200, 3)],
)
def test_as_many_keys_are_kept_as_tokens_may_need(on, expiry, window, interval, keys):
    resolver = on(
        fernet_token_expiry=expiry, fernet_token_allow_expired_window=window, fernet_key_rotation_interval=interval
    )
    assert ini(resolver, "keystone", "keystone", "keystone.conf")["fernet_tokens"]["max_active_keys"] == str(keys)


def test_keystone_hashes_passwords_as_often_as_the_site_says(on):
    plain, cheap = (
        ini(on(**options), "keystone", "keystone", "keystone.conf")["identity"]
        for options in ({}, {"keystone_password_hash_rounds": 4})
    )
    assert "password_hash_rounds" not in plain
    assert cheap["password_hash_rounds"] == "4"


def test_domains_of_the_operator_get_their_own_drivers(on):
    plain = ini(on(), "keystone", "keystone", "keystone.conf")
    assert "domain_specific_drivers_enabled" not in plain["identity"]
    resolver = on("ctl2", overrides={"keystone/domains/keystone.corp.conf": "[identity]\ndriver = ldap\n"})
    assert (
        ini(resolver, "keystone", "keystone", "keystone.conf")["identity"]["domain_specific_drivers_enabled"] == "true"
    )
    assert text(resolver, "keystone", "keystone", "domains/keystone.corp.conf") == "[identity]\ndriver = ldap\n"
    dests = [
        entry["dest"] for entry in json.loads(text(resolver, "keystone", "keystone", "config.json"))["config_files"]
    ]
    assert "/etc/keystone/domains/keystone.corp.conf" in dests
    assert "domains/keystone.corp.conf" in expand.container_spec(resolver, "keystone", "keystone")["reload_files"]


def test_authorities_of_the_operator_are_among_those_that_every_container_trusts(on, cloud, formula):
    given = {"certificates/ca/corp.crt": "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"}
    resolver = on("ctl2", overrides=given)
    placed = [
        (service, name)
        for service in resolver.enabled_services()
        for name, here in resolver.containers(service).items()
        if here
    ]
    assert {"keystone", "mariadb", "haproxy", "nova_api", "cron"} <= {name for _, name in placed}
    for service, name in placed:
        assert text(resolver, service, name, "ca-certificates/corp.crt") == given["certificates/ca/corp.crt"]
        copied = {
            entry["dest"]: entry for entry in json.loads(text(resolver, service, name, "config.json"))["config_files"]
        }
        entry = copied["/var/lib/kolla/share/ca-certificates/corp.crt"]
        assert entry["source"] == "/var/lib/kolla/config_files/ca-certificates/corp.crt"
        assert (entry["owner"], entry["perm"]) == ("root", "0644")
    cloud.overrides.update(given)
    assert not [problem for problem in sites.validate(cloud, formula) if "overrides/" in problem.path]
    without = on("ctl2", overrides=given, copy_ca_into_containers=False)
    assert "ca-certificates" not in text(without, "keystone", "keystone", "config.json")


def test_an_override_in_a_tree_is_a_known_path(cloud, formula):
    cloud.overrides["keystone/domains/keystone.corp.conf"] = "[identity]\ndriver = ldap\n"
    assert not [problem for problem in sites.validate(cloud, formula) if "overrides/" in problem.path]
    cloud.overrides["keystone/domain/keystone.corp.conf"] = ""
    assert [problem.path for problem in sites.validate(cloud, formula) if "overrides/" in problem.path] == [
        "overrides/keystone/domain/keystone.corp.conf"
    ]


def test_hosts_look_for_a_due_rotation_at_different_minutes(on):
    minutes = [text(on(host), "keystone", "keystone_fernet", "crontab").splitlines()[1].split()[0] for host in HOSTS]
    assert minutes == ["0-59/10", "1-59/10", "2-59/10"]


@pytest.mark.parametrize(
    ("distribution", "path"), [("debian", "/var/spool/cron/crontabs/root"), ("rocky", "/var/spool/cron/root")]
)
def test_cron_finds_its_table_in_images_of_each_distribution(on, distribution, path):
    files = json.loads(text(on(base_distro=distribution), "keystone", "keystone_fernet", "config.json"))
    assert path in {entry["dest"] for entry in files["config_files"]}
    assert files["command"].split()[0] == ("cron" if distribution == "debian" else "crond")


def test_hosts_that_exchange_keys_know_each_other(on):
    resolver = on("ctl2")
    key = "ssh-rsa value-of-keystone_ssh_key-public"
    assert text(resolver, "keystone", "keystone_ssh", "authorized_keys").split() == [
        'restrict,from="10.0.0.11,10.0.0.12,10.0.0.13"', *key.split(),
    ]  # fmt: skip
    assert text(resolver, "keystone", "keystone_fernet", "known_hosts").strip() == f"keystone {key}"
    ssh = text(resolver, "keystone", "keystone_fernet", "ssh_config")
    assert "StrictHostKeyChecking yes" in ssh
    assert "Host ctl1\n    HostName 10.0.0.11" in ssh
    assert "HostName 10.0.0.12" not in ssh


# --- keystone's scripts, run against a directory per host -----------------------------------------------------------


@pytest.fixture
def keys(tmp_path, on):
    """Return (directory of ctl1's keys, directories of the others, function that runs a script of ctl1)."""
    folders = {host: tmp_path / host for host in HOSTS}
    for folder in folders.values():
        folder.mkdir()
    commands = tmp_path / "bin"
    commands.mkdir()
    # What goes to another host goes to its directory here; a host `down-NAME` does not answer.
    (commands / "ssh").write_text(
        f"#!/bin/bash\nhost=$3\n[[ ! -e {tmp_path}/down-$host ]] || exit 255\nexec ls {tmp_path}/$host\n"
    )
    (commands / "rsync").write_text(f"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for side in "$@"; do
    [[ $side != *:* ]] || {{ host=${{side%%:*}}; side={tmp_path}/$host; }}
    paths+=("$side")
done
[[ ! -e {tmp_path}/down-$host ]] || exit 12
rm -f "${{paths[1]}}"/*
exec cp -p "${{paths[0]}}"/* "${{paths[1]}}/"
""")
    (commands / "keystone-manage").write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\nrm {folders["ctl1"]}/0; echo new > {folders["ctl1"]}/0\n'
        f"echo staged > {folders['ctl1']}/9\n"
    )
    (commands / "runuser").write_text('#!/bin/bash\nshift 3; exec "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    resolver = on(fernet_key_rotation_interval=3600)
    for script in ("fernet-node-sync.sh", "fernet-push.sh", "fernet-rotate.sh"):
        body = text(resolver, "keystone", "keystone_fernet", script)
        body = body.replace("/etc/keystone/fernet-keys", str(folders["ctl1"])).replace(
            "/usr/bin/fernet", f"{commands}/fernet"
        )
        (commands / script).write_text(body)
        (commands / script).chmod(0o755)

    def run(script):
        env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
        return subprocess.run([str(commands / script)], env=env, capture_output=True, text=True, timeout=60)

    return folders, run, tmp_path


def put(folder, age=0, **numbered):
    for name, content in numbered.items():
        path = folder / name.removeprefix("k")
        path.write_text(content)
        os.utime(path, (time.time() - age, time.time() - age))


def held(folder):
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_a_host_without_keys_takes_them_from_the_host_whose_are_newest(keys):
    folders, run, _ = keys
    put(folders["ctl2"], k0="a", k1="b")
    put(folders["ctl3"], k0="c", k2="d", k3="e")
    assert run("fernet-node-sync.sh").returncode == 0
    assert held(folders["ctl1"]) == {"0": "c", "2": "d", "3": "e"}


def test_a_host_that_was_away_drops_its_old_keys(keys):
    folders, run, _ = keys
    put(folders["ctl1"], k0="old0", k1="old1")
    put(folders["ctl2"], k0="x", k2="y")
    assert run("fernet-node-sync.sh").returncode == 0
    assert held(folders["ctl1"]) == {"0": "x", "2": "y"}


def test_a_host_keeps_keys_that_are_as_new_as_the_others(keys):
    folders, run, _ = keys
    put(folders["ctl1"], k0="mine", k2="mine too")
    put(folders["ctl2"], k0="x", k2="y")
    assert run("fernet-node-sync.sh").returncode == 0
    assert held(folders["ctl1"]) == {"0": "mine", "2": "mine too"}


def test_without_any_keys_the_start_fails_so_that_it_is_tried_again(keys):
    folders, run, directory = keys
    (directory / "down-ctl2").touch()
    assert run("fernet-node-sync.sh").returncode == 1
    assert held(folders["ctl1"]) == {}


def test_keys_go_to_every_host_that_can_be_reached(keys):
    folders, run, directory = keys
    put(folders["ctl1"], k0="s", k4="p")
    put(folders["ctl3"], k0="o", k1="o")
    (directory / "down-ctl2").touch()
    result = run("fernet-push.sh")
    assert result.returncode == 1
    assert "ctl2" in result.stdout
    assert held(folders["ctl3"]) == {"0": "s", "4": "p"}


def test_keys_are_rotated_when_that_is_due_and_reach_the_others(keys):
    folders, run, directory = keys
    put(folders["ctl1"], age=3800, k0="s", k4="p")
    assert run("fernet-rotate.sh").returncode == 0
    assert "fernet_rotate" in (directory / "calls").read_text()
    assert (
        held(folders["ctl2"]) == held(folders["ctl3"]) == held(folders["ctl1"]) == {"0": "new", "4": "p", "9": "staged"}
    )


def test_keys_are_not_rotated_before_that_is_due(keys):
    folders, run, directory = keys
    put(folders["ctl1"], age=3400, k0="s", k4="p")
    assert run("fernet-rotate.sh").returncode == 0
    assert not (directory / "calls").exists()


def test_a_rotation_by_another_host_is_taken_over_instead_of_repeated(keys):
    folders, run, directory = keys
    put(folders["ctl1"], age=3800, k0="s", k4="p")
    put(folders["ctl3"], age=60, k0="s2", k5="p2")
    assert run("fernet-rotate.sh").returncode == 0
    assert not (directory / "calls").exists()
    assert held(folders["ctl1"]) == {"0": "s2", "5": "p2"}


# --- the reload script ----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, on):
    """A process with one child, which a line in its pipe makes end; and the script that speaks to it."""
    (tmp_path / "reload.sh").write_text(text(on(), "keystone", "keystone", "uwsgi-reload.sh"))
    (tmp_path / "api.py").write_text(
        "import pathlib\nif pathlib.Path(__file__).with_name('bad').exists():\n    raise ValueError('nonsense')\n"
    )
    # An account that exists: as root the script changes to it, else it stays who it is.
    import pwd

    (tmp_path / "uwsgi.ini").write_text(
        f"[uwsgi]\nmodule = api:application\nuid = {pwd.getpwuid(os.getuid()).pw_name}\n"
        f"pidfile = {tmp_path}/pid\nmaster-fifo = {tmp_path}/fifo\n"
    )
    os.mkfifo(tmp_path / "fifo")
    master = subprocess.Popen(
        [
            "bash", "-c", 'echo $$ > pid; sleep 600 & old=$!; echo $old > old; read command < fifo; '
            'echo "$command" > said; sleep 0.5; kill $old; wait $old; sleep 600 & wait',
        ],
        start_new_session=True, cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "old").exists():
        time.sleep(0.02)
    yield tmp_path
    os.killpg(master.pid, 9)
    master.wait()


def reload(folder):
    return subprocess.run(
        ["bash", str(folder / "reload.sh"), str(folder / "uwsgi.ini")],
        env={**os.environ, "PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("pgrep"), reason="procps is not installed")
def test_a_reload_ends_when_no_old_process_is_left(server):
    old = Path(f"/proc/{(server / 'old').read_text().strip()}")
    assert old.exists()
    result = reload(server)
    assert result.returncode == 0, result.stderr
    assert (server / "said").read_text() == "c\n"
    assert not old.exists()


def test_a_configuration_that_does_not_load_leaves_the_server_alone(server):
    (server / "bad").touch()
    result = reload(server)
    assert result.returncode == 1
    assert "nonsense" in result.stderr
    assert "goes on with the old one" in result.stderr
    assert not (server / "said").exists()


# --- glance ---------------------------------------------------------------------------------------------------------


def glance_hosts(on, **options):
    return [host for host in HOSTS if on(host, **options).containers("glance")["glance_api"]]


def balanced(resolver, entry):
    (found,) = [item for item in resolver.catalogue["load_balancer"] if item["entry"] == entry]
    return [member["host"] for member in found["members"]]


def test_images_in_a_hosts_own_volume_are_served_by_that_host_alone(on):
    assert glance_hosts(on) == ["ctl1"]
    assert balanced(on("ctl3"), "glance_api") == ["ctl1"]
    assert "kolla_container.absent" in expand.expand("glance", on("ctl2"))["glance_api"]


@pytest.mark.parametrize("options", [{"glance_file_datadir_volume": "/srv/images"}, {"glance_backend_ceph": True}])
def test_images_in_shared_storage_are_served_by_every_host(on, options):
    assert glance_hosts(on, **options) == list(HOSTS)
    assert balanced(on("ctl3", **options), "glance_api") == list(HOSTS)


def test_ceph_is_a_store_with_its_configuration_and_keyring(on):
    overrides = {
        "glance/site1.conf": "[global]\nfsid = 1\n",
        "glance/site1.client.img.keyring": "[client.img]\nkey = K\n",
    }
    options = {"glance_backend_ceph": True, "ceph_cluster": "site1", "ceph_glance_user": "img"}
    resolver = on("ctl2", overrides=overrides, **options)
    conf = ini(resolver, "glance", "glance_api", "glance-api.conf")
    assert conf["DEFAULT"]["enabled_backends"] == "rbd:rbd, http:http"
    assert conf["glance_store"]["default_backend"] == "rbd"
    assert dict(conf["rbd"]) == {
        "rbd_store_ceph_conf": "/etc/ceph/site1.conf", "rbd_store_user": "img", "rbd_store_pool": "images",
    }  # fmt: skip
    assert "file" not in conf
    dests = {
        entry["dest"] for entry in json.loads(text(resolver, "glance", "glance_api", "config.json"))["config_files"]
    }
    assert {"/etc/ceph/site1.conf", "/etc/ceph/site1.client.img.keyring"} <= dests


def test_further_stores_are_added_with_their_options(on):
    store = {"name": "fast", "type": "file", "options": {"filesystem_store_datadir": "/ssd"}}
    conf = ini(on(glance_backends=[store]), "glance", "glance_api", "glance-api.conf")
    assert conf["DEFAULT"]["enabled_backends"] == "file:file, fast:file, http:http"
    assert conf["fast"]["filesystem_store_datadir"] == "/ssd"


def test_the_image_cache_is_off_until_it_is_asked_for(on):
    off = ini(on(), "glance", "glance_api", "glance-api.conf")
    cached = ini(on(enable_glance_image_cache=True), "glance", "glance_api", "glance-api.conf")
    assert off["paste_deploy"]["flavor"] == "keystone"
    assert "image_cache_dir" not in off["DEFAULT"]
    assert cached["paste_deploy"]["flavor"] == "keystone+cachemanagement"
    assert cached["DEFAULT"]["image_cache_max_size"] == "10737418240"


# --- heat -----------------------------------------------------------------------------------------------------------


def test_stacks_get_a_domain_with_an_administrator(on):
    registration = identity.registration(on(), "heat")
    admin = next(account for account in registration.accounts if account.project is None)
    conf = ini(on(), "heat", "heat_engine", "heat.conf")["DEFAULT"]
    assert (admin.domain, admin.name, admin.password) == (
        conf["stack_user_domain_name"], conf["stack_domain_admin"], conf["stack_domain_admin_password"],
    )  # fmt: skip
    assert {"heat_stack_owner", "heat_stack_user"} <= set(registration.roles)


def test_endpoints_of_stacks_carry_the_project(on):
    urls = {service.type: service.endpoints["public"] for service in identity.registration(on(), "heat").services}
    assert urls == {
        "orchestration": "http://192.0.2.10:8004/v1/%(tenant_id)s",
        "cloudformation": "http://192.0.2.10:8000/v1",
    }


def test_trusts_decide_about_the_project(on):
    """A project beside a trust would scope the token twice, which Keystone refuses."""
    assert "project_name" not in ini(on(), "heat", "heat_engine", "heat.conf")["trustee"]


# --- horizon --------------------------------------------------------------------------------------------------------


def settings(resolver):
    values = {}
    exec(text(resolver, "horizon", "horizon", "_9998-kolla-settings.py"), values)  # noqa: S102
    return values


def test_dashboard_settings_follow_from_the_options(on):
    found = settings(on())
    assert found["CACHES"]["default"]["LOCATION"] == ["10.0.0.11:11211", "10.0.0.12:11211", "10.0.0.13:11211"]
    assert found["SECRET_KEY"] == "value-of-horizon_secret_key"
    assert found["OPENSTACK_KEYSTONE_URL"] == "http://10.0.0.10:5000/v3"
    assert found["OPENSTACK_KEYSTONE_DOMAIN_DROPDOWN"] is False
    assert "SECURE_PROXY_SSL_HEADER" not in found


def test_several_domains_are_offered_as_a_list(on):
    found = settings(on(horizon_keystone_multidomain=True, horizon_keystone_domain_choices={"A": "a", "B's": "b"}))
    assert found["OPENSTACK_KEYSTONE_DOMAIN_DROPDOWN"] is True
    assert found["OPENSTACK_KEYSTONE_DOMAIN_CHOICES"] == (("A", "a"), ("B's", "b"))


def test_with_tls_the_dashboard_trusts_the_balancer_and_secures_its_cookies(on):
    resolver = on(enable_tls_external=True)
    assert settings(resolver)["SESSION_COOKIE_SECURE"] is True
    (entry,) = [item for item in resolver.catalogue["load_balancer"] if item["entry"] == "horizon"]
    assert (entry["port"], entry["external_port"], entry["listen_port"]) == (80, 443, 8080)


def test_pages_of_a_plugin_are_shown_when_its_service_is_on(on):
    def environment(**options):
        return expand.container_spec(on(**options), "horizon", "horizon")["environment"]

    assert environment()["ENABLE_HEAT"] == "yes"
    assert environment(enable_heat=False)["ENABLE_HEAT"] == "no"
    assert environment(enable_horizon_heat=False)["ENABLE_HEAT"] == "no"
    assert environment()["ENABLE_IRONIC"] == "no"
