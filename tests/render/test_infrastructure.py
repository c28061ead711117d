"""What the infrastructure services become on the hosts of a cloud."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kolla_salt import config, declarations, expand, merge, plan, prediction
from kolla_salt import site as sites
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("kolla", "common", "mariadb", "rabbitmq", "memcached", "loadbalancer")
CONTROLLERS = ("ctl1", "ctl2", "ctl3")


@pytest.fixture(scope="module")
def formula(tmp_path_factory):
    return declarations.load(ROOT / "salt", cache=tmp_path_factory.mktemp("declarations"))


@pytest.fixture
def on(formula):
    """Return a function that gives the resolver of a host: three controllers, or one alone (``alone=True``)."""
    passwords = {name: f"value-of-{name}" for decl in formula.values() for name in decl["passwords"]}

    def resolver(host="ctl1", alone=False, ipv6=False, overrides=None, **options):
        controllers = CONTROLLERS[:1] if alone else CONTROLLERS
        prefix, vip = ("2001:db8::", "2001:db8::10") if ipv6 else ("10.0.0.", "10.0.0.10")
        hosts = {name: {"addresses": {"api": f"{prefix}{n}"}} for n, name in enumerate(controllers, start=11)}
        if not alone:
            hosts["cmp1"] = {"addresses": {"api": f"{prefix}21"}}
        site = sites.Site(
            globals={"internal_vip_address": vip, **options},
            topology={
                "hosts": hosts,
                "groups": {"control": list(controllers), "network": list(controllers), "compute": [list(hosts)[-1]]},
            },
            passwords=passwords,
            overrides=overrides or {},
        )
        return Resolver(formula, sites.host_pillar(site, formula, host), host)

    return resolver


def rendered(resolver, service, container, file):
    return config.render(resolver, service, container, file).content


def container_config(resolver, service, container):
    return json.loads(config.config_json(resolver, service, container))


def ini(resolver, service, container, file):
    parsed = merge.parse_ini(file, rendered(resolver, service, container, file), flags=True)
    return {section: {key: values[-1] for key, values in keys.items()} for section, keys in parsed.items()}


def blocks(text):
    """Return HAProxy's sections: "frontend name" -> lines."""
    found, lines = {}, []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith(" "):
            lines = found.setdefault(line.strip(), [])
        else:
            lines.append(line.strip())
    return found


def balanced(resolver):
    return blocks(rendered(resolver, "loadbalancer", "haproxy", "services.cfg"))


# --- all services -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("ipv6", [True, False])
@pytest.mark.parametrize("service", SERVICES)
def test_everything_renders(on, service, alone, ipv6):
    resolver = on(alone=alone, ipv6=ipv6)
    for container, placed in resolver.containers(service).items():
        if placed:
            files = config.files_of(resolver, service, container)
            assert all(config.render(resolver, service, container, file).content for file in files)


def test_they_start_together_before_everything_else(on):
    first = plan.waves(on())[0]
    assert {"kolla", "common"} <= set(first)
    position = {name: number for number, wave in enumerate(plan.waves(on())) for name in wave}
    others = [number for name, number in position.items() if name not in SERVICES and name != "openvswitch"]
    assert max(position[name] for name in SERVICES) < min(others)


def test_who_gets_the_brokers_password_says_whether_it_talks_over_it(on, formula):
    resolver = on(keystone_notification_topics=["notifications"])
    talking = {
        name
        for name in formula
        if name != "rabbitmq" and resolver.test(formula[name]["messaging"], resolver.names(name))
    }
    assert talking == {name for name in formula if "rabbitmq" in formula[name]["requires"]} | {"keystone"}
    named = {
        name: [item if isinstance(item, str) else item["name"] for item in formula[name]["secrets"]] for name in formula
    }
    assert {name for name in formula if formula[name]["messaging"] is not False} == {
        name for name in formula if name != "rabbitmq" and "rabbitmq_password" in named[name]
    }


def test_a_plan_names_who_is_connected_to_the_broker(on):
    resolver = on()
    found = prediction.forecast(resolver, plan.steps(resolver))
    change = {"id": "rabbitmq", "sls": "rabbitmq", "function": "kolla_container.running"}
    restart = {"states": [{**change, "changes": {"state": {"old": "running", "new": "restarted"}}}], "failed": []}
    found.learn(dict.fromkeys(CONTROLLERS, restart))
    answering = prediction.entries(resolver)
    order = prediction.order(found, answering)
    [effect] = prediction.effects(resolver, found, order, answering, CONTROLLERS)
    assert (effect["effect"], effect["concerns"]) == ("reconnect", ["heat", "neutron", "nova"])


def test_every_option_says_what_it_is_for(formula):
    for service in SERVICES:
        for name, setting in formula[service]["settings"].items():
            assert setting["doc"].endswith((".", ")")), f"{service}: {name}"
            assert setting["type"] != "any" or name == "keepalived_virtual_router_id", f"{service}: {name}"


def test_a_compute_host_gets_log_rotation_and_no_secret(on):
    resolver = on("cmp1")
    states = {service: expand.expand(service, resolver) for service in SERVICES}
    assert "cron" in states["common"]
    for service in ("mariadb", "rabbitmq", "memcached", "loadbalancer"):
        assert list(states[service]) == [f"{service} is not placed on this host"]
    assert not {"database_password", "rabbitmq_cluster_cookie", "haproxy_password"} & resolver.passwords.keys()


def test_no_state_holds_a_secret(on):
    for service in SERVICES:
        assert "value-of-" not in repr(expand.expand(service, on()))


def test_limits_come_from_the_containers_own_option_or_the_default(on):
    limits = {"ulimits": {"nofile": {"soft": 1024, "hard": 4096}}}
    resolver = on(default_container_dimensions=limits, rabbitmq_dimensions={"mem_limit": "2g"})
    assert expand.container_spec(resolver, "mariadb", "mariadb")["dimensions"] == limits
    assert expand.container_spec(resolver, "rabbitmq", "rabbitmq")["dimensions"] == {"mem_limit": "2g"}
    assert "dimensions" not in expand.container_spec(on(), "mariadb", "mariadb")


# --- options of the whole cloud ---------------------------------------------------------------------------------------


def test_one_controller_needs_neither_a_virtual_address_nor_a_load_balancer(formula):
    site = {
        "topology": {
            "hosts": {"aio": {"addresses": {"api": "10.0.0.11"}}},
            "groups": {"control": ["aio"], "network": ["aio"]},
        },
    }
    resolver = Resolver(formula, site, "aio")
    assert resolver.value("internal_vip_address") == "10.0.0.11"
    assert resolver.value("database_address") == "10.0.0.11"
    assert not resolver.enabled("loadbalancer")


def test_images_are_named_as_upstream_names_them(on):
    assert on().image("cron") == "quay.io/openstack.kolla/cron:2026.1-debian-trixie"
    named = on(base_distro="ubuntu", docker_registry="registry.example:5000", openstack_tag_suffix="-aarch64")
    assert named.image("cron") == "registry.example:5000/openstack.kolla/cron:2026.1-ubuntu-noble-aarch64"
    assert on(docker_registry="").image("cron") == "openstack.kolla/cron:2026.1-debian-trixie"


def test_public_endpoints_follow_the_internal_ones_until_they_have_an_address(on):
    resolver = on(internal_fqdn="cloud.example.org")
    assert resolver.value("external_fqdn") == "cloud.example.org"
    assert resolver.value("haproxy_enable_external_vip") is False
    resolver = on(internal_fqdn="cloud.example.org", external_vip_address="192.0.2.10")
    assert resolver.value("external_fqdn") == "192.0.2.10"
    assert resolver.value("haproxy_enable_external_vip") is True


# --- log rotation -----------------------------------------------------------------------------------------------------


def test_the_logs_of_every_service_are_rotated(on):
    text = rendered(on(), "common", "cron", "logrotate.conf")
    assert text.count("{") == text.count("}") == len(on().catalogue["logs"]) > 2
    assert "/var/log/kolla/mariadb/*.log\n{" in text
    assert "/var/log/kolla/rabbitmq/*.log\n{" in text


@pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")
def test_logrotate_accepts_its_configuration(on, tmp_path):
    path = tmp_path / "logrotate.conf"
    path.write_text(rendered(on(), "common", "cron", "logrotate.conf").replace("su root kolla", ""))
    path.chmod(0o600)
    done = subprocess.run(["logrotate", "--debug", "--state", tmp_path / "state", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.replace("/var/log", "")


@pytest.mark.parametrize(("distro", "command"), [("debian", "cron -f"), ("rocky", "crond -s -n")])
def test_cron_is_started_as_its_distribution_does(on, distro, command):
    assert container_config(on(base_distro=distro), "common", "cron")["command"] == command


def test_the_toolbox_is_off_unless_wanted(on):
    assert on().containers("common") == {"cron": True, "kolla_toolbox": False}
    assert on(enable_kolla_toolbox=True).containers("common")["kolla_toolbox"] is True


# --- memcached --------------------------------------------------------------------------------------------------------


def test_memcached_listens_on_its_hosts_address_only(on):
    command = container_config(on("ctl2"), "memcached", "memcached")["command"].split()
    assert command[command.index("-l") + 1] == "10.0.0.12"
    assert command[command.index("-U") + 1] == "0"


# --- MariaDB ----------------------------------------------------------------------------------------------------------


def test_members_of_the_cluster_know_each_other(on):
    options = ini(on("ctl2"), "mariadb", "mariadb", "galera.cnf")["mysqld"]
    assert options["wsrep_cluster_address"] == "gcomm://10.0.0.11:4567,10.0.0.12:4567,10.0.0.13:4567"
    assert options["wsrep_node_address"] == "10.0.0.12:4567"
    assert options["bind-address"] == "10.0.0.12"
    provider = dict(pair.split("=", 1) for pair in options["wsrep_provider_options"].split(";"))
    assert provider == {"gmcast.listen_addr": "tcp://10.0.0.12:4567", "ist.recv_addr": "10.0.0.12:4568"}


def test_a_cluster_of_one_starts_by_itself_and_writes_what_it_commits(on):
    options = ini(on(alone=True), "mariadb", "mariadb", "galera.cnf")["mysqld"]
    assert options["wsrep_cluster_address"] == "gcomm://"
    assert options["innodb_flush_log_at_trx_commit"] == "1"


def test_what_makes_a_member_the_first_one_is_not_part_of_its_configuration(on):
    sections = ini(on(), "mariadb", "mariadb", "galera.cnf")
    assert "!include /var/lib/mysql/new-cluster.cnf" in list(sections.values())[-1]
    spec = expand.container_spec(on(), "mariadb", "mariadb")
    assert set(spec["environment"]) == {"KOLLA_CONFIG_STRATEGY", "KOLLA_SERVICE_NAME"}


def test_ipv6_addresses_have_brackets_where_a_port_follows(on):
    options = ini(on(ipv6=True), "mariadb", "mariadb", "galera.cnf")
    assert options["mysqld"]["bind-address"] == "2001:db8::11"
    assert options["mysqld"]["wsrep_cluster_address"].startswith("gcomm://[2001:db8::11]:4567,[2001:db8::12]:4567")
    assert options["sst"]["sockopt"] == ",pf=ip6"


def test_an_operator_may_change_single_options_of_the_database(on):
    overrides = {
        "galera.cnf": "[mysqld]\nmax_connections = 77\n",
        "mariadb/ctl1/galera.cnf": "[mysqld]\nwait_timeout = 5\nskip-log-bin\n",
    }
    options = ini(on(overrides=overrides), "mariadb", "mariadb", "galera.cnf")["mysqld"]
    assert options["max_connections"] == "77"
    assert options["wait_timeout"] == "5"
    assert options["skip-log-bin"] is None
    assert options["wsrep_on"] == "ON"


def test_the_databases_configuration_is_where_the_distribution_looks_for_it(on):
    def places(distro):
        files = container_config(on(base_distro=distro), "mariadb", "mariadb")["config_files"]
        return [entry["dest"] for entry in files]

    assert places("debian") == ["/etc/mysql/my.cnf", "/etc/mysql/healthcheck.cnf"]
    assert places("rocky") == ["/etc/my.cnf", "/etc/healthcheck.cnf"]
    assert "/usr/lib64/galera/" in rendered(on(base_distro="rocky"), "mariadb", "mariadb", "galera.cnf")


def test_one_member_of_the_database_serves_and_the_others_stand_by(on):
    backend = balanced(on())["backend mariadb_back"]
    servers = [line.split() for line in backend if line.startswith("server ")]
    assert [(words[1], words[2], "backup" in words) for words in servers] == [
        ("ctl1", "10.0.0.11:3306", False), ("ctl2", "10.0.0.12:3306", True), ("ctl3", "10.0.0.13:3306", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "asked", "good", "bad"),
    [
        ("mariadb_back", b"wsrep_local_state", (b"4",), (b"2", b"0")),
        ("mariadb_fallback_back", b"wsrep_ready", (b"ON",), (b"OFF",)),
    ],
)
def test_the_checks_of_the_database_log_in_and_ask_for_the_members_state(on, backend, asked, good, bad):
    lines = balanced(on())[f"backend {backend}"]
    login, query, _ = [bytes.fromhex(line.split()[-1]) for line in lines if line.startswith("tcp-check send-binary")]
    for packet, number in ((login, 1), (query, 0)):
        assert int.from_bytes(packet[:3], "little") == len(packet) - 4
        assert packet[3] == number
    assert login.endswith(b"haproxy\0\0")
    assert query[4:] == b"\x03SHOW STATUS LIKE '" + asked + b"'"
    greeting, accepted = [line.split()[-1] for line in lines if line.startswith("tcp-check expect rbinary")]
    # HAProxy matches these against upper-case hexadecimal digits.
    assert re.search(greeting, "6C0000000A31312E382E392D4D617269614442")
    assert re.search(accepted, "0700000200000002000000")
    assert not re.search(accepted, "17000002FF150423323830303041636365737320")
    (answer,) = [bytes.fromhex(line.split()[-1]) for line in lines if line.startswith("tcp-check expect binary")]

    def row(value):
        cells = b"".join(bytes([len(cell)]) + cell for cell in (asked, value))
        return len(cells).to_bytes(3, "little") + b"\x05" + cells

    assert all(answer in row(value) for value in good)
    assert not any(answer in row(value) for value in bad)


def test_a_member_that_gives_data_away_serves_only_if_no_other_does(on):
    sections = balanced(on())
    assert "use_backend mariadb_fallback_back if { nbsrv(mariadb_back) eq 0 }" in sections["frontend mariadb_front"]
    servers = [
        [line for line in sections[f"backend {name}"] if line.startswith("server ")]
        for name in ("mariadb_back", "mariadb_fallback_back")
    ]
    assert servers[0] == servers[1] and len(servers[0]) == 3
    assert not any("fallback" in name for name in sections if "mariadb" not in name)


@pytest.mark.parametrize(("ipv6", "kind"), [(False, "ip"), (True, "ipv6")])
def test_writers_stay_at_their_member_on_whichever_host_the_address_is(on, ipv6, kind):
    resolver = on(ipv6=ipv6)
    assert f"stick-table type {kind} size 1 peers hosts" in balanced(resolver)["backend mariadb_back"]
    main = blocks(rendered(resolver, "loadbalancer", "haproxy", "haproxy.cfg"))
    assert [line.split()[1] for line in main["peers hosts"]] == ["ctl1", "ctl2", "ctl3"]
    assert "localpeer ctl1" in main["global"]


@pytest.mark.parametrize(("alone", "wanted"), [(True, "1"), (False, "2")])
def test_a_killed_server_has_lost_no_transaction(on, alone, wanted):
    options = ini(on(alone=alone), "mariadb", "mariadb", "galera.cnf")["mysqld"]
    assert options["innodb_flush_log_at_trx_commit"] == wanted


def test_new_members_get_their_data_from_one_that_serves_nobody(on):
    donors = {
        host: ini(on(host), "mariadb", "mariadb", "galera.cnf")["mysqld"]["wsrep_sst_donor"] for host in CONTROLLERS
    }
    assert donors == {"ctl1": "ctl3,ctl2,", "ctl2": "ctl3,ctl1,", "ctl3": "ctl2,ctl1,"}
    assert "wsrep_sst_donor" not in ini(on(alone=True), "mariadb", "mariadb", "galera.cnf")["mysqld"]


def test_a_member_of_the_database_is_guarded(on):
    assert expand.container_spec(on(), "mariadb", "mariadb")["guard"] == "kolla_mariadb.stop_obstacles"


# --- RabbitMQ ---------------------------------------------------------------------------------------------------------


def test_members_of_the_broker_know_each_other_without_a_name_server(on):
    resolver = on("ctl3")
    lines = rendered(resolver, "rabbitmq", "rabbitmq", "rabbitmq.conf").splitlines()
    nodes = [line.split(" = ")[1] for line in lines if line.startswith("cluster_formation.classic_config.nodes.")]
    assert nodes == ["rabbit@ctl1", "rabbit@ctl2", "rabbit@ctl3"]
    inetrc = rendered(resolver, "rabbitmq", "rabbitmq", "erl_inetrc")
    assert re.findall(r'^\{host, \{(.*)\}, \["(.*)"\]\}\.$', inetrc, re.M) == [
        ("10,0,0,11", "ctl1"), ("10,0,0,12", "ctl2"), ("10,0,0,13", "ctl3"),
    ]  # fmt: skip
    assert "NODENAME=rabbit@ctl3\n" in rendered(resolver, "rabbitmq", "rabbitmq", "rabbitmq-env.conf")


def test_every_line_of_the_brokers_configuration_is_a_setting(on):
    text = rendered(on(rabbitmq_extra_config={"heartbeat": 30}), "rabbitmq", "rabbitmq", "rabbitmq.conf")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_.]+ = \S+", line) for line in lines), lines
    assert "heartbeat = 30" in lines
    assert "listeners.tcp.1 = 10.0.0.11:5672" in lines


@pytest.mark.parametrize("streams", [True, False])
def test_the_brokers_accounts_and_policies(on, streams):
    resolver = on(om_enable_rabbitmq_stream_fanout=streams)
    data = json.loads(rendered(resolver, "rabbitmq", "rabbitmq", "definitions.json"))
    assert {user["name"]: (user["password"], user["tags"]) for user in data["users"]} == {
        "openstack": ("value-of-rabbitmq_password", "administrator"),
        "openstack-monitoring": ("value-of-rabbitmq_monitoring_password", "monitoring"),
    }
    rights = {entry["user"]: (entry["configure"], entry["write"], entry["read"]) for entry in data["permissions"]}
    assert rights == {"openstack": (".*", ".*", ".*"), "openstack-monitoring": ("^$", "^$", ".*")}
    assert len(data["policies"]) == streams


def test_the_members_share_a_cookie_that_only_the_broker_can_read(on):
    assert rendered(on(), "rabbitmq", "rabbitmq", "erlang.cookie").strip() == "value-of-rabbitmq_cluster_cookie"
    files = {entry["dest"]: entry for entry in container_config(on(), "rabbitmq", "rabbitmq")["config_files"]}
    cookie = files["/var/lib/rabbitmq/.erlang.cookie"]
    assert (cookie["owner"], cookie["perm"]) == ("rabbitmq", "0400")


def test_metrics_of_the_broker_are_off_unless_wanted(on):
    assert rendered(on(), "rabbitmq", "rabbitmq", "enabled_plugins") == "[rabbitmq_management].\n"
    wanted = on(rabbitmq_enable_prometheus_plugin=True)
    assert rendered(wanted, "rabbitmq", "rabbitmq", "enabled_plugins") == "[rabbitmq_management,rabbitmq_prometheus].\n"
    assert "prometheus.tcp.ip = 10.0.0.11" in rendered(wanted, "rabbitmq", "rabbitmq", "rabbitmq.conf")


def test_accounts_of_the_broker_change_without_a_restart(on):
    assert expand.container_spec(on(), "rabbitmq", "rabbitmq")["reload_files"] == ["definitions.json"]


# --- load balancer ----------------------------------------------------------------------------------------------------


def test_every_entry_of_the_catalogue_has_a_front_and_a_back(on):
    resolver = on()
    found = balanced(resolver)
    entries = [entry["entry"] for entry in resolver.catalogue["load_balancer"]]
    assert len(entries) > 6
    sections = [name for name in found if not name.endswith("_fallback_back")]
    assert sections == [name for entry in entries for name in (f"frontend {entry}_front", f"backend {entry}_back")]
    for entry in resolver.catalogue["load_balancer"]:
        front = found[f"frontend {entry['entry']}_front"]
        assert f"bind 10.0.0.10:{entry['port']}" in front
        assert f"default_backend {entry['entry']}_back" in front
        back = found[f"backend {entry['entry']}_back"]
        assert len([line for line in back if line.startswith("server ")]) == len(entry["members"])


def test_no_two_fronts_listen_on_the_same_address(on):
    for options in ({}, {"external_vip_address": "192.0.2.10"}):
        every = [line for lines in balanced(on(**options)).values() for line in lines]
        places = [line.split()[1] for line in every if line.startswith("bind ")]
        assert len(places) == len(set(places))


def test_a_public_address_of_its_own_gets_fronts_for_public_entries_only(on):
    found = balanced(on(external_vip_address="192.0.2.10", keystone_public_port=15000))
    assert found["frontend keystone_front"][1] == "bind 10.0.0.10:5000"
    assert found["frontend keystone_external_front"][1] == "bind 192.0.2.10:15000"
    assert not [name for name in found if name.startswith(("frontend mariadb_ext", "frontend rabbitmq_management_ext"))]


def test_another_public_port_on_the_same_address_is_one_more_place_to_listen(on):
    front = balanced(on(keystone_public_port=15000))["frontend keystone_front"]
    assert [line for line in front if line.startswith("bind ")] == ["bind 10.0.0.10:5000", "bind 10.0.0.10:15000"]


def test_tls_ends_in_the_load_balancer(on):
    pem = {"certificates/haproxy-internal.pem": "PEM", "certificates/haproxy.pem": "PEM"}
    resolver = on(enable_tls_internal=True, overrides=pem)
    front = balanced(resolver)["frontend keystone_front"]
    secure = "ssl crt /etc/haproxy/certificates/haproxy-internal.pem alpn h2,http/1.1"
    assert f"bind 10.0.0.10:5000 {secure}" in front
    assert "http-request del-header X-Forwarded-Proto" in front
    assert not [line for line in balanced(resolver)["frontend mariadb_front"] if " ssl " in line]
    assert resolver.endpoint("keystone") == "https://10.0.0.10:5000"
    files = [entry["dest"] for entry in container_config(resolver, "loadbalancer", "haproxy")["config_files"]]
    assert "/etc/haproxy/certificates/haproxy-internal.pem" in files
    assert "ssl-min-ver TLSv1.3" in rendered(resolver, "loadbalancer", "haproxy", "haproxy.cfg")


def test_haproxy_answers_on_the_hosts_address_and_the_virtual_one(on):
    sections = blocks(rendered(on("ctl2"), "loadbalancer", "haproxy", "haproxy.cfg"))
    listens = [line for line in sections["frontend status"] if line.startswith("bind ")]
    assert listens == ["bind 10.0.0.12:61313", "bind 10.0.0.10:61313"]
    assert "stats auth openstack:value-of-haproxy_password" in sections["listen stats"]


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
@pytest.mark.parametrize("options", [{}, {"external_vip_address": "192.0.2.10"}])
def test_haproxy_accepts_its_configuration(on, tmp_path, options):
    for file in ("haproxy.cfg", "services.cfg"):
        text = rendered(on(**options), "loadbalancer", "haproxy", file)
        (tmp_path / file).write_text(re.sub(r"^ *(user|group|chroot|stats socket) .*\n", "", text, flags=re.M))
    command = ["haproxy", "-c", "-f", tmp_path / "haproxy.cfg", "-f", tmp_path / "services.cfg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_changed_front_is_taken_without_ending_connections(on):
    spec = expand.container_spec(on(), "loadbalancer", "haproxy")
    assert {"haproxy.cfg", "services.cfg"} <= set(spec["reload_files"])
    assert spec["reload"] == {"exec": ["bash", "/etc/haproxy/reload.sh"]}
    assert " -W " in container_config(on(), "loadbalancer", "haproxy")["command"]
    assert "privileged" not in spec


@pytest.mark.parametrize("script", ["reload.sh", "check_alive_haproxy.sh"])
def test_scripts_are_bash(on, tmp_path, script):
    container = "haproxy" if script == "reload.sh" else "keepalived"
    path = tmp_path / script
    path.write_text(rendered(on(), "loadbalancer", container, script))
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def keepalived(resolver):
    return [line.strip() for line in rendered(resolver, "loadbalancer", "keepalived", "keepalived.conf").splitlines()]


def test_the_first_host_holds_the_virtual_address_and_it_stays_where_it_moved(on):
    lines = {host: keepalived(on(host)) for host in CONTROLLERS}
    priority = {}
    for host, text in lines.items():
        priority[host] = int(next(line for line in text if line.startswith("priority")).split()[1])
    assert sorted(priority, key=priority.get, reverse=True) == list(CONTROLLERS)
    assert all("nopreempt" in text and "state BACKUP" in text for text in lines.values())
    assert all("10.0.0.10 dev eth0" in text for text in lines.values())


def test_a_host_alone_takes_the_virtual_address_at_once(on):
    lines = keepalived(on(alone=True))
    assert "state MASTER" in lines
    assert "nopreempt" not in lines
    assert "auth_type PASS" not in lines


def test_hosts_may_tell_each_other_directly_that_they_live(on):
    lines = keepalived(on("ctl2", keepalived_traffic_mode="unicast", keepalived_virtual_router_id="77"))
    peers = lines[lines.index("unicast_peer {") + 1 :]
    assert peers[:3] == ["10.0.0.11", "10.0.0.13", "}"]
    assert "unicast_src_ip 10.0.0.12" in lines
    assert "virtual_router_id 77" in lines


def test_both_virtual_addresses_are_held_together(on):
    lines = keepalived(on(external_vip_address="192.0.2.10", external_vip_interface="eth2"))
    held = lines[lines.index("virtual_ipaddress {") + 1 :]
    assert held[:3] == ["10.0.0.10 dev eth0", "192.0.2.10 dev eth2", "}"]
    assert lines[lines.index("track_interface {") + 1] == "eth2"


def test_braces_of_keepaliveds_configuration_close(on):
    for options in ({}, {"keepalived_traffic_mode": "unicast"}, {"keepalived_track_script_enabled": False}):
        lines = keepalived(on(**options))
        depth = 0
        for line in lines:
            depth += line.count("{") - line.count("}")
            assert depth >= 0
        assert depth == 0


def test_hosts_of_the_load_balancer_let_programs_listen_on_foreign_addresses(on):
    states = expand.expand("loadbalancer", on())
    assert "loadbalancer sysctl net.ipv4.ip_nonlocal_bind" in states
    assert not [name for name in states if "ipv6" in name]
    assert {"value": "6"} in states["loadbalancer sysctl net.ipv4.tcp_retries2"]["kolla_host.sysctl"]
    assert "loadbalancer sysctl net.ipv6.ip_nonlocal_bind" in expand.expand("loadbalancer", on(ipv6=True))
    assert not [name for name in expand.expand("loadbalancer", on(set_sysctl=False)) if "sysctl" in name]
    tuned = expand.expand("loadbalancer", on(haproxy_host_ipv4_tcp_retries2=8))
    assert {"value": "8"} in tuned["loadbalancer sysctl net.ipv4.tcp_retries2"]["kolla_host.sysctl"]
    left = expand.expand("loadbalancer", on(haproxy_host_ipv4_tcp_retries2=None))
    assert "loadbalancer sysctl net.ipv4.tcp_retries2" not in left


def test_without_keepalived_somebody_else_holds_the_address(on):
    assert on(enable_keepalived=False).containers("loadbalancer") == {"haproxy": True, "keepalived": False}
    assert "kolla_container.absent" in expand.expand("loadbalancer", on(enable_keepalived=False))["keepalived"]


def test_a_site_may_replace_a_file_of_the_load_balancer_and_add_entries(on):
    overrides = {
        "haproxy/haproxy_main.cfg": "global\n    maxconn 5\n",
        "haproxy/services.d/custom.cfg": "frontend mine\n    bind 10.0.0.10:8888\n",
        "keepalived/ctl1/keepalived.conf": "# mine\n",
    }
    resolver = on(overrides=copy.deepcopy(overrides))
    assert rendered(resolver, "loadbalancer", "haproxy", "haproxy.cfg") == overrides["haproxy/haproxy_main.cfg"]
    assert rendered(resolver, "loadbalancer", "keepalived", "keepalived.conf") == "# mine\n"
    entries = container_config(resolver, "loadbalancer", "haproxy")["config_files"]
    assert "/etc/haproxy/services.d/custom.cfg" in [entry["dest"] for entry in entries]
    assert "custom.cfg" not in config.files_of(on(), "loadbalancer", "haproxy")
