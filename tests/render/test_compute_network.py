"""What Open vSwitch, Neutron and Nova become on the hosts of a cloud."""

from __future__ import annotations

import configparser
import copy
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from kolla_salt import config, declarations, expand, identity
from kolla_salt import site as sites
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("openvswitch", "neutron", "nova")
CONTROLLERS = ("ctl1", "ctl2", "ctl3")
HOSTS = (*CONTROLLERS, "cmp1", "cmp2")


@pytest.fixture(scope="module")
def formula(tmp_path_factory):
    return declarations.load(ROOT / "salt", cache=tmp_path_factory.mktemp("declarations"))


@pytest.fixture
def cloud(formula):
    """A site with three controllers that also route, two compute hosts, and passwords that say what they are."""
    passwords = {}
    for decl in formula.values():
        for name, kind in decl["passwords"].items():
            text = f"value-of-{name}"
            pair = {"private_key": f"{text}-private\nkey\n", "public_key": f"ssh-rsa {text}-public\n"}
            passwords[name] = pair if kind.get("kind") == "ssh_key" else text
    return sites.Site(
        globals={"internal_vip_address": "10.0.0.10", "external_vip_address": "192.0.2.10"},
        topology={
            "hosts": {
                name: {"addresses": {"api": f"10.0.0.{n}", "tunnel": f"10.1.0.{n}", "migration": f"10.2.0.{n}"}}
                for n, name in enumerate(HOSTS, start=11)
            },
            "groups": {"control": list(CONTROLLERS), "network": list(CONTROLLERS), "compute": ["cmp1", "cmp2"]},
        },
        passwords=passwords,
    )


@pytest.fixture
def on(cloud, formula):
    """Return a function that gives one host's resolver."""

    def resolver(host="ctl1", overrides=None, groups=None, **options):
        site = copy.deepcopy(cloud)
        site.globals.update(options)
        site.topology["groups"].update(groups or {})
        site.overrides.update(overrides or {})
        return Resolver(formula, sites.host_pillar(site, formula, host), host)

    return resolver


def text(resolver, service, container, file):
    return config.render(resolver, service, container, file).content


def ini(resolver, service, container, file):
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    parser.read_string(text(resolver, service, container, file))
    return parser


def running(resolver, service):
    return {name for name, on in resolver.containers(service).items() if on}


def arguments(states, state_id):
    (listed,) = states[state_id].values()
    return {key: value for item in listed for key, value in item.items()}


# --- all of them ----------------------------------------------------------------------------------------------


def test_any_controller_can_be_asked_how_the_cloud_is_and_no_other_host(cloud, formula, on):
    administrators = {"keystone_admin_password", "database_password"}
    held = {host: administrators & set(sites.host_pillar(cloud, formula, host)["passwords"]) for host in HOSTS}
    assert held == {host: administrators if host in CONTROLLERS else set() for host in HOSTS}
    # What the catalogue should hold is known without the passwords of the services' accounts.
    second = on("ctl2")
    for service in (name for name in second.enabled_services() if formula[name]["keystone"]):
        assert not identity.registration(second, service, accounts=False).accounts


@pytest.mark.parametrize("options", [
    {},
    {"ovs_datapath": "netdev", "nova_compute_virt_type": "qemu", "neutron_agents_wrappers": False},
    {"enable_neutron_dvr": True, "enable_neutron_qos": True, "enable_neutron_sriov": True,
     "enable_neutron_metering": True, "neutron_sriov_physnet_mappings": {"sriovnet1": "ens1f0", "sriovnet2": "ens1f1"},
     "enable_neutron_trunk": True,
     "nova_pci_passthrough_whitelist": [{"devname": "ens1f0", "physical_network": "sriovnet1"}]},
    {"nova_console": "spice", "enable_nova_serialconsole_proxy": True, "nova_backend_ceph": True, "libvirt_tls": True,
     "container_engine": "podman", "nova_notification_topics": ["notifications"]},
    {"nova_console": "none", "libvirt_enable_sasl": False, "enable_nova_swtpm": True,
     "neutron_firewall_driver": "noop"},
], ids=["plain", "netdev", "network features", "other consoles and disks", "less"])  # fmt: skip
@pytest.mark.parametrize("host", ["ctl1", "ctl2", "cmp1"])
def test_every_file_of_every_container_can_be_made(on, host, options):
    resolver = on(host, **options)
    for service in SERVICES:
        for container in running(resolver, service):
            for file in config.files_of(resolver, service, container):
                content = text(resolver, service, container, file)
                if file == "config.json":
                    assert json.loads(content)["command"]
                elif file == "nova.conf" or file.endswith(".ini"):
                    assert ini(resolver, service, container, file).sections()
                elif file.endswith(".py"):
                    compile(content, file, "exec")
                elif content.startswith("#!/bin/bash"):
                    subprocess.run(["bash", "-n"], input=content, text=True, check=True)
            names = [line.rsplit(":", 2)[0] for line in expand.container_spec(resolver, service, container)["volumes"]]
            assert all(name.strip("/") and "None" not in name for name in names)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("service", SERVICES)
def test_states_hold_no_password(on, service, host):
    assert "value-of-" not in yaml.safe_dump(expand.expand(service, on(host)))


@pytest.mark.parametrize("service", ["neutron", "nova"])
def test_run_once_work_is_on_the_first_controller_only(on, service):
    once = {"kolla_db.database_present", "kolla_keystone.registered", "kolla_container.ran"}

    def functions(host):
        return {function for state in expand.expand(service, on(host)).values() for function in state}

    assert once <= functions("ctl1")
    assert not once & (functions("ctl2") | functions("cmp1"))


# --- where what runs ---------------------------------------------------------------------------------------------


def test_each_kind_of_host_has_its_containers(on):
    switch = {"openvswitch_db", "openvswitch_vswitchd"}
    assert running(on("ctl2"), "openvswitch") == running(on("cmp1"), "openvswitch") == switch
    assert running(on("ctl2"), "neutron") == {
        "neutron_server", "neutron_rpc_server", "neutron_periodic_worker", "neutron_openvswitch_agent",
        "neutron_dhcp_agent", "neutron_l3_agent", "neutron_metadata_agent",
    }  # fmt: skip
    assert running(on("cmp1"), "neutron") == {"neutron_openvswitch_agent"}
    assert running(on("ctl2"), "nova") == {
        "nova_api", "nova_metadata", "nova_scheduler", "nova_conductor", "nova_novncproxy",
    }  # fmt: skip
    assert running(on("cmp1"), "nova") == {"nova_libvirt", "nova_ssh", "nova_compute"}


def test_distributed_routers_put_agents_on_compute_hosts_and_take_them_away_again(on):
    agents = {"neutron_l3_agent", "neutron_metadata_agent"}
    assert agents <= running(on("cmp1", enable_neutron_dvr=True), "neutron")
    states = expand.expand("neutron", on("cmp1"))
    assert {next(iter(states[agent])) for agent in agents} == {"kolla_container.absent"}


def test_without_network_services_there_is_no_switch(on):
    assert running(on("ctl1", enable_neutron=False), "openvswitch") == set()


# --- Open vSwitch ------------------------------------------------------------------------------------------------


def test_the_userspace_datapath_asks_for_no_kernel_module(on):
    def environment(**options):
        return expand.container_spec(on(**options), "openvswitch", "openvswitch_vswitchd")["environment"]

    assert environment(ovs_datapath="netdev")["KOLLA_SKIP_EXTEND_START"] == ""
    assert "KOLLA_SKIP_EXTEND_START" not in environment()
    assert on(ovs_datapath="netdev").value("ovs_userspace_tso") is True
    assert on().value("ovs_userspace_tso") is False


def test_compute_hosts_get_provider_bridges_only_where_they_need_them(on):
    assert on("cmp1").value("computes_need_external_bridge") is False
    assert on("cmp1", enable_neutron_provider_networks=True).value("computes_need_external_bridge") is True
    assert on("cmp1", enable_neutron_dvr=True).value("computes_need_external_bridge") is True
    no_external = {"enable_neutron_dvr": True, "neutron_compute_dvr_mode": "dvr_no_external"}
    assert on("cmp1", **no_external).value("computes_need_external_bridge") is False


# --- Neutron -----------------------------------------------------------------------------------------------------


def test_agents_are_not_told_the_passwords_of_database_and_keystone(on):
    for host, container in (("ctl1", "neutron_dhcp_agent"), ("cmp1", "neutron_openvswitch_agent")):
        content = text(on(host), "neutron", container, "neutron.conf")
        assert "value-of-rabbitmq_password" in content
        assert "value-of-neutron" not in content
    assert "value-of-neutron_database_password" in text(on(), "neutron", "neutron_rpc_server", "neutron.conf")


def test_provider_networks_are_paired_with_bridges(on):
    options = {"neutron_bridge_name": "br-ex,br-vlan", "neutron_external_interface": "eth1,eth2"}
    agent = ini(on(**options), "neutron", "neutron_openvswitch_agent", "openvswitch_agent.ini")
    assert agent["ovs"]["bridge_mappings"] == "physnet1:br-ex,physnet2:br-vlan"
    assert agent["ovs"]["local_ip"] == "10.1.0.11"
    ml2 = ini(on(**options), "neutron", "neutron_server", "ml2_conf.ini")
    assert ml2["ml2_type_flat"]["flat_networks"] == "physnet1,physnet2"
    compute = ini(on("cmp1", **options), "neutron", "neutron_openvswitch_agent", "openvswitch_agent.ini")
    assert "bridge_mappings" not in compute["ovs"]


def test_a_userspace_switch_takes_over_the_tunnel_network_card(on, cloud):
    cloud.topology["networks"] = {"tunnel": {"cidr": "10.1.0.0/20"}}
    resolver = on(ovs_datapath="netdev", tunnel_interface="eth2")
    script = text(resolver, "openvswitch", "openvswitch_vswitchd", "switch.sh")
    assert "ip address replace 10.1.0.11/20 dev br-tunnel" in script
    assert "ip address flush dev eth2 to 10.1.0.11" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    made = json.loads(text(resolver, "openvswitch", "openvswitch_vswitchd", "config.json"))
    command, (file,) = made["command"], made["config_files"]
    assert file["dest"] == "/etc/openvswitch/switch.sh"
    assert command.startswith("bash /etc/openvswitch/switch.sh ovs_wrapper ovs-vswitchd ")
    for other in (on(), on(ovs_datapath="netdev")):
        assert "ip address" not in text(other, "openvswitch", "openvswitch_vswitchd", "switch.sh")


def test_routers_have_a_standby_where_there_is_more_than_one_network_host(on):
    assert ini(on(), "neutron", "neutron_server", "neutron.conf")["DEFAULT"]["l3_ha"] == "true"
    alone = ini(on(groups={"network": ["ctl1"]}), "neutron", "neutron_server", "neutron.conf")
    assert "l3_ha" not in alone["DEFAULT"]
    assert "dhcp_agents_per_network" not in alone["DEFAULT"]


def test_features_reach_server_and_agents(on):
    resolver = on(enable_neutron_qos=True, enable_neutron_trunk=True)
    assert (
        ini(resolver, "neutron", "neutron_server", "neutron.conf")["DEFAULT"]["service_plugins"] == "router,qos,trunk"
    )
    ml2 = ini(resolver, "neutron", "neutron_server", "ml2_conf.ini")
    assert ml2["ml2"]["extension_drivers"] == "port_security,qos"
    agent = ini(resolver, "neutron", "neutron_openvswitch_agent", "openvswitch_agent.ini")
    assert agent["agent"]["extensions"] == "qos"


def test_side_containers_are_made_through_the_engine_or_not_at_all(on):
    spec = expand.container_spec(on(), "neutron", "neutron_dhcp_agent")
    assert "/var/run/docker.sock:/var/run/docker.sock:ro" in spec["volumes"]
    assert (spec["pid_mode"], spec["cgroupns_mode"]) == ("host", "host")
    assert spec["environment"]["KOLLA_NEUTRON_WRAPPERS"] == "true"
    assert spec["environment"]["KOLLA_IMAGE"] == spec["image"]
    without = expand.container_spec(on(neutron_agents_wrappers=False), "neutron", "neutron_l3_agent")
    assert not any(".sock" in volume for volume in without["volumes"])
    assert "pid_mode" not in without
    assert without["environment"]["KOLLA_NEUTRON_WRAPPERS"] == "false"


def test_ports_survive_a_new_daemon_with_the_userspace_datapath(on):
    for container, file in (("neutron_dhcp_agent", "dhcp_agent.ini"), ("neutron_l3_agent", "l3_agent.ini")):
        assert ini(on(ovs_datapath="netdev"), "neutron", container, file)["DEFAULT"]["ovs_use_veth"] == "true"
        assert "ovs_use_veth" not in text(on(), "neutron", container, file)


def test_the_metadata_agent_shares_its_secret_with_nova(on):
    agent = ini(on(), "neutron", "neutron_metadata_agent", "metadata_agent.ini")["DEFAULT"]
    assert (agent["nova_metadata_host"], agent["nova_metadata_port"]) == ("10.0.0.10", "8775")
    nova = ini(on(), "nova", "nova_metadata", "nova.conf")["neutron"]
    assert nova["metadata_proxy_shared_secret"] == agent["metadata_proxy_shared_secret"] == "value-of-metadata_secret"


# --- Nova ----------------------------------------------------------------------------------------------------------


def test_a_compute_host_knows_no_database(on):
    for container in running(on("cmp1"), "nova"):
        for file in config.files_of(on("cmp1"), "nova", container):
            assert "database_password" not in text(on("cmp1"), "nova", container, file), f"{container}/{file}"


def test_nova_calls_the_others_in_its_own_name(on):
    conf = ini(on("cmp1"), "nova", "nova_compute", "nova.conf")
    for section in ("neutron", "placement", "service_user"):
        assert (conf[section]["username"], conf[section]["password"]) == ("nova", "value-of-nova_keystone_password")
    assert all(conf[section]["valid_interfaces"] == "internal" for section in ("neutron", "placement", "glance"))


def test_each_program_has_the_databases_that_it_needs(on):
    def databases(container):
        conf = ini(on(), "nova", container, "nova.conf")
        return {
            name: conf[name]["connection"].rsplit("/", 1)[1] for name in ("database", "api_database") if name in conf
        }

    both = {"database": "nova", "api_database": "nova_api"}
    assert databases("nova_api") == databases("nova_conductor") == databases("nova_scheduler") == both
    assert databases("nova_novncproxy") == {"database": "nova"}


def test_consoles_lead_to_the_public_address(on):
    vnc = ini(on("cmp1"), "nova", "nova_compute", "nova.conf")["vnc"]
    assert vnc["novncproxy_base_url"] == "http://192.0.2.10:6080/vnc_lite.html"
    assert vnc["server_listen"] == "10.0.0.14"
    assert ini(on("ctl2"), "nova", "nova_novncproxy", "nova.conf")["vnc"]["novncproxy_host"] == "10.0.0.12"
    spice = on("cmp1", nova_console="spice")
    assert ini(spice, "nova", "nova_compute", "nova.conf")["vnc"]["enabled"] == "False"
    assert running(on("ctl1", nova_console="spice"), "nova") >= {"nova_spicehtml5proxy"}


def test_libvirt_listens_on_the_migration_network_and_asks_for_a_password(on):
    resolver = on("cmp1")
    conf = ini(resolver, "nova", "nova_compute", "nova.conf")["libvirt"]
    assert conf["connection_uri"] == "qemu+tcp://10.2.0.14/system"
    assert conf["live_migration_inbound_addr"] == "10.2.0.14"
    daemon = text(resolver, "nova", "nova_libvirt", "libvirtd.conf")
    assert 'listen_addr = "10.2.0.14"' in daemon
    assert 'auth_tcp = "sasl"' in daemon
    for container in ("nova_libvirt", "nova_compute"):
        assert "password=value-of-libvirt_sasl_password" in text(resolver, "nova", container, "auth.conf")
    start = text(resolver, "nova", "nova_libvirt", "nova_libvirt_start")
    assert "saslpasswd2" in start
    assert "value-of" not in start
    open_door = on("cmp1", libvirt_enable_sasl=False)
    assert "auth.conf" not in config.files_of(open_door, "nova", "nova_libvirt")


def test_libvirt_certificates_come_from_the_operator(on):
    given = {"nova/nova-libvirt/cacert.pem": "CA", "nova/nova-libvirt/cmp1/servercert.pem": "CERT OF cmp1"}
    files = config.files_of(on("cmp1", overrides=given, libvirt_tls=True), "nova", "nova_libvirt")
    assert {"cacert.pem", "servercert.pem"} <= set(files)
    assert "serverkey.pem" not in files
    assert "cacert.pem" not in config.files_of(on("cmp1", overrides=given), "nova", "nova_libvirt")


def test_ceph_needs_the_cluster_and_the_account(on):
    given = {"nova/ceph.conf": "[global]\n", "nova/cmp1/ceph.client.cinder.keyring": "[client.cinder]\nkey = abc==\n"}
    resolver = on("cmp1", overrides=given, nova_backend_ceph=True)
    conf = ini(resolver, "nova", "nova_compute", "nova.conf")["libvirt"]
    assert (conf["images_type"], conf["rbd_secret_uuid"]) == ("rbd", "value-of-rbd_secret_uuid")
    for container in ("nova_libvirt", "nova_compute"):
        assert {"ceph.conf", "ceph.keyring"} <= set(config.files_of(resolver, "nova", container))
    assert "value-of-rbd_secret_uuid.base64" in text(resolver, "nova", "nova_libvirt", "nova_libvirt_start")


def test_qemu_limits_beyond_those_of_the_host_are_left_out(on, tmp_path):
    """The start script is run with another place for its files and programs that do nothing."""
    declared = text(on("cmp1"), "nova", "nova_libvirt", "qemu.conf")
    (tmp_path / "qemu.conf.declared").write_text(declared)
    script = text(on("cmp1", libvirt_enable_sasl=False), "nova", "nova_libvirt",
                  "nova_libvirt_start")  # fmt: skip
    script = (
        script.replace("/dev/kvm", "/dev/none")
        .replace("/etc/libvirt", str(tmp_path))
        .replace("exec /usr/sbin/libvirtd", "exit 0 #")
    )
    script = script.replace("ulimit -H", "fake_limit")
    stub = "fake_limit() { [[ $# == 1 ]] && { echo 1024; return; }; [[ $1 == -n ]]; }\n"
    done = subprocess.run(["bash", "-c", stub + script], capture_output=True, text=True, check=True)
    result = (tmp_path / "qemu.conf").read_text()
    assert "max_files = 32768" in result
    assert "max_processes" not in result
    assert "max_processes = 131072 is beyond what this host allows" in done.stdout


def test_ssh_keys_are_the_same_everywhere_and_reach_the_right_files(on):
    for host in ("cmp1", "cmp2"):
        assert text(on(host), "nova", "nova_ssh", "id_rsa").startswith("value-of-nova_ssh_key-private\nkey")
        assert text(on(host), "nova", "nova_ssh", "id_rsa.pub").strip() == "ssh-rsa value-of-nova_ssh_key-public"
    listen = [
        line for line in text(on("cmp1"), "nova", "nova_ssh", "sshd_config").splitlines() if "ListenAddress" in line
    ]
    assert listen == ["ListenAddress 10.0.0.14", "ListenAddress 10.2.0.14"]


def test_libvirt_leaves_the_logs_of_nova_to_nova(on):
    entries = json.loads(text(on("cmp1"), "nova", "nova_libvirt", "config.json"))["permissions"]
    owners = {entry["path"]: entry["owner"] for entry in entries}
    assert owners["/var/log/kolla/nova"] == "nova:kolla"


def test_one_run_prepares_nova_and_everything_waits_for_it(on):
    states = expand.expand("nova", on())
    (listed,) = states["bootstrap_nova"].values()
    step = {key: value for item in listed for key, value in item.items()}
    assert step["command"] == ["python3", "/var/lib/kolla/config_files/bootstrap.py"]
    assert step["user"] == "root"
    for container in ("nova_api", "nova_scheduler", "nova_conductor"):
        assert {"kolla_container": "bootstrap_nova"} in arguments(states, container)["require"]


def test_apis_read_a_changed_configuration_without_a_restart(on):
    for service, container, ini_file in (
        ("nova", "nova_api", "nova-api-uwsgi.ini"), ("nova", "nova_metadata", "nova-metadata-uwsgi.ini"),
        ("neutron", "neutron_server", "neutron-server-uwsgi.ini"),
    ):  # fmt: skip
        spec = expand.container_spec(on(), service, container)
        assert f"{service}.conf" in spec["reload_files"]
        assert spec["reload"]["exec"] == ["bash", f"/etc/{service}/uwsgi-reload.sh", f"/etc/{service}/{ini_file}"]
        assert ini_file not in spec["reload_files"]
