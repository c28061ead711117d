"""Reading and changing Open vSwitch. The JSON below is what ovs-vsctl 3.5.0 printed."""

from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import openvswitch
from kolla_salt.modules import kolla_openvswitch as module
from kolla_salt.states import kolla_openvswitch as states

EMPTY = """\
{"data":[],"headings":["name","ports","datapath_type"]}
{"data":[],"headings":["_uuid","name","interfaces"]}
{"data":[],"headings":["_uuid","name","type","error"]}
{"data":[[["map",[]],["map",[]],["set",[]]]],"headings":["external_ids","other_config","datapath_types"]}
"""
TWO_BRIDGES = """\
{"data":[["br-ex",["set",[["uuid","3f9a"],["uuid","674f"]]],"netdev"],["br-int",["uuid","8b71"],""]],\
"headings":["name","ports","datapath_type"]}
{"data":[[["uuid","8b71"],"br-int",["uuid","76bd"]],[["uuid","3f9a"],"br-ex",["uuid","f8d1"]],\
[["uuid","674f"],"eth1",["uuid","b845"]]],"headings":["_uuid","name","interfaces"]}
{"data":[[["uuid","f8d1"],"br-ex","internal",["set",[]]],[["uuid","b845"],"eth1","",["set",[]]],\
[["uuid","76bd"],"br-int","internal",["set",[]]]],"headings":["_uuid","name","type","error"]}
{"data":[[["map",[["system-id","node1"]]],["map",[["userspace-tso-enable","true"]]],["set",["netdev","system"]]]],\
"headings":["external_ids","other_config","datapath_types"]}
"""
BROKEN_CARD = TWO_BRIDGES.replace(
    '"eth1","",["set",[]]', '"eth1","","could not open network device eth1 (No such device)"'
)


@pytest.fixture
def switch():
    return openvswitch.parse(TWO_BRIDGES)


def test_the_database_is_read(switch):
    assert switch["bridges"] == {
        "br-ex": {"datapath_type": "netdev", "ports": ["br-ex", "eth1"]},
        "br-int": {"datapath_type": "system", "ports": ["br-int"]},
    }
    assert switch["external_ids"] == {"system-id": "node1"}
    assert switch["other_config"] == {"userspace-tso-enable": "true"}
    assert switch["datapath_types"] == ["netdev", "system"]


def test_a_new_database_is_read():
    assert openvswitch.parse(EMPTY) == {
        "bridges": {}, "interfaces": {}, "external_ids": {}, "other_config": {}, "datapath_types": [],
    }  # fmt: skip


@pytest.mark.parametrize("output", ["", "ovs-vsctl: unix:db.sock: database connection failed\n", EMPTY[:60]])
def test_other_output_is_refused(output):
    with pytest.raises(openvswitch.OpenvswitchError, match="four JSON tables"):
        openvswitch.parse(output)


def test_a_bridge_as_declared_needs_nothing(switch):
    assert openvswitch.bridge_diff(switch, "br-ex", "netdev") == {}
    assert openvswitch.bridge_diff(switch, "br-int", "system") == {}


def test_a_missing_bridge_and_a_wrong_datapath_are_differences(switch):
    assert openvswitch.bridge_diff(switch, "br-vlan", "netdev")["bridge"] == {"old": None, "new": "br-vlan"}
    assert openvswitch.bridge_diff(switch, "br-ex", "system") == {"datapath_type": {"old": "netdev", "new": "system"}}


def test_a_bridge_gets_its_datapath_type_in_the_transaction_that_makes_it():
    command = openvswitch.bridge_command("br-ex", "netdev")
    assert command[:3] == ["--may-exist", "add-br", "br-ex"]
    assert command[3:] == ["--", "set", "Bridge", "br-ex", "datapath_type=netdev"]


def test_a_port_is_found_in_its_bridge_and_in_another_one(switch):
    assert openvswitch.port_diff(switch, "eth1", "br-ex") == {}
    assert openvswitch.port_diff(switch, "eth1", "br-int") == {"bridge": {"old": "br-ex", "new": "br-int"}}
    assert openvswitch.port_diff(switch, "eth2", "br-ex") == {"bridge": {"old": None, "new": "br-ex"}}


def test_a_port_moves_in_one_transaction():
    assert openvswitch.port_command("eth1", "br-int", "br-ex") == [
        "--if-exists", "del-port", "br-ex", "eth1", "--", "--may-exist", "add-port", "br-int", "eth1",
    ]  # fmt: skip


def test_settings_are_set_and_removed_and_others_left_alone(switch):
    wanted = {"system-id": "node1", "hostname": "node1.example"}
    changes = openvswitch.settings_diff(switch, wanted, {"userspace-tso-enable": None})
    assert changes == {
        "external_ids:hostname": {"old": None, "new": "node1.example"},
        "other_config:userspace-tso-enable": {"old": "true", "new": None},
    }
    assert openvswitch.settings_command(changes) == [
        "set", "Open_vSwitch", ".", 'external_ids:hostname="node1.example"',
        "--", "remove", "Open_vSwitch", ".", "other_config", "userspace-tso-enable",
    ]  # fmt: skip


def test_bridges_and_cards_are_paired():
    assert openvswitch.pairs("br-ex, br-vlan", "eth1,eth2") == [("br-ex", "eth1"), ("br-vlan", "eth2")]
    with pytest.raises(openvswitch.OpenvswitchError, match="has 1 entries .*has 2.*one network card for each"):
        openvswitch.pairs("br-ex", "eth1,eth2")


# --- the modules, with a switch that answers ----------------------------------------------------------------


class Container:
    """Stands for the container of the database: answers reads with what was recorded, and notes the other calls."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.calls: list[list[str]] = []
        self.status = 0
        #: those of the two containers that run
        self.running = {"openvswitch_db", "openvswitch_vswitchd"} if answers != ("",) else set()

    def exec(self, name: str, command: list[str], check: bool = True) -> dict[str, object]:
        assert name == "openvswitch_db" and name in self.running
        arguments = command[2:]
        if arguments == list(openvswitch.READ):
            return {"exit_status": 0, "output": self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]}
        self.calls.append(arguments)
        return {"exit_status": self.status, "output": "" if not self.status else "ovs-vsctl: it said no"}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function that loads both modules with a container and the host's network cards."""

    def loader(container, cards=("eth1",), test=False):
        for card in cards:
            (tmp_path / card).mkdir()
            (tmp_path / card / "flags").write_text("0x1103\n")
        monkeypatch.setattr(module, "INTERFACES", tmp_path)
        functions = {
            "kolla_container.exec": container.exec,
            "kolla_container.state": lambda name: "running" if name in container.running else "exited",
        }
        for name in ("bridge_diff", "set_bridge", "port_diff", "set_port", "settings_diff", "set_settings"):
            functions[f"kolla_openvswitch.{name}"] = getattr(module, name)
        for part in (module, states):
            for dunder, value in (("__salt__", functions), ("__opts__", {"id": "node1", "test": test})):
                monkeypatch.setattr(part, dunder, value, raising=False)
        monkeypatch.setattr(module, "__context__", {}, raising=False)

    return loader


def test_a_bridge_is_made_and_looked_at_again(load):
    container = Container(EMPTY, EMPTY, TWO_BRIDGES)
    load(container)
    result = states.bridge_present("br-ex", datapath_type="netdev")
    assert result["result"] is True
    assert result["changes"]["bridge"] == {"old": None, "new": "br-ex"}
    assert container.calls == [openvswitch.bridge_command("br-ex", "netdev")]


def test_what_is_right_is_not_touched_and_read_once(load):
    container = Container(TWO_BRIDGES)
    load(container)
    assert states.bridge_present("br-ex", datapath_type="netdev")["changes"] == {}
    container.answers = ["no second look"]
    assert states.port_present("eth1", bridge="br-ex")["changes"] == {}
    assert container.calls == []


def test_a_prediction_needs_no_switch(load):
    container = Container("")
    load(container, cards=(), test=True)
    result = states.port_present("eth1", bridge="br-ex")
    assert result["result"] is None
    assert result["changes"] == {"bridge": {"old": None, "new": "br-ex"}, "up": {"old": None, "new": True}}
    assert container.calls == []


def test_a_missing_card_is_named_with_those_there_are(load):
    load(Container(EMPTY), cards=("eth0", "enp3s0"))
    result = states.port_present("eth1", bridge="br-ex")
    assert result["result"] is False
    assert "neutron_external_interface" in result["comment"]
    assert "this host has enp3s0, eth0" in result["comment"]


def test_a_card_that_the_switch_cannot_use_is_a_failure(load):
    load(Container(EMPTY, EMPTY, BROKEN_CARD))
    result = states.port_present("eth1", bridge="br-ex")
    assert result["result"] is False
    assert "could not open network device eth1" in result["comment"]


def test_a_datapath_that_the_switch_does_not_have_is_refused_with_the_remedy(load):
    container = Container(TWO_BRIDGES.replace('["netdev","system"]', '["netdev"]'))
    load(container)
    with pytest.raises(CommandExecutionError, match="this Open vSwitch has netdev; load the kernel module"):
        module.set_bridge("br-new", "system")
    assert container.calls == []


TSO = {"userspace-tso-enable": "true", "hw-offload": None}


def test_what_the_daemon_reads_when_it_starts_is_set_without_it_and_nothing_is_restarted_beside_the_states(load):
    container = Container(EMPTY, EMPTY, TWO_BRIDGES)
    load(container)
    container.running = {"openvswitch_db"}
    result = states.settings_present("for the start", other_config=TSO, for_start=True)
    assert result["result"] is True, result["comment"]
    assert result["changes"] == {"other_config:userspace-tso-enable": {"old": None, "new": "true"}}
    assert container.calls == [
        ["--no-wait", "set", "Open_vSwitch", ".", 'other_config:userspace-tso-enable="true"'],
    ]  # fmt: skip


def test_other_settings_wait_until_the_daemon_has_taken_them_over(load):
    container = Container(TWO_BRIDGES)
    load(container)
    module.set_settings(external_ids={"hostname": "node1"})
    module.set_settings(external_ids={"system-id": "node1"})
    assert container.calls == [["set", "Open_vSwitch", ".", 'external_ids:hostname="node1"']]


@pytest.mark.parametrize(
    ("running", "predicted"),
    [
        ({"openvswitch_db", "openvswitch_vswitchd"}, True),
        ({"openvswitch_db"}, True),
        (set(), True),
        ({"openvswitch_vswitchd"}, False),
    ],
)
def test_a_prediction_takes_a_daemon_without_its_database_for_one_that_read_its_settings(load, running, predicted):
    container = Container(EMPTY)
    load(container, test=True)
    container.running = running
    result = states.settings_present("for the start", other_config=TSO, for_start=True)
    assert bool(result["changes"]) is predicted
    assert container.calls == []


def test_what_the_switch_said_is_in_the_error(load):
    container = Container(TWO_BRIDGES)
    container.status = 1
    load(container)
    with pytest.raises(CommandExecutionError, match="ended with status 1: ovs-vsctl: it said no"):
        module.set_bridge("br-new", "netdev")


# --- the networks of Neutron's agent ----------------------------------------------------------------------------------

#: A tunnel network of two ports, a provider network, a port kept off all, and a tag in a bridge that is not Neutron's.
PORTS = """\
{"data":[[["set",[["uuid","a1"],["uuid","a2"],["uuid","a3"],["uuid","a4"],["uuid","a5"]]]]],"headings":["ports"]}
{"data":[[["uuid","a1"],"br-int",["set",[]]],[["uuid","a2"],"tap1",1],[["uuid","a3"],"qr-2",1],\
[["uuid","a4"],"qg-3",3],[["uuid","a5"],"tap4",4095],[["uuid","b1"],"own",7]],"headings":["_uuid","name","tag"]}
"""
TUNNEL_FLOWS = (
    " cookie=0xa5, table=4, n_packets=0, priority=1,tun_id=0x31d actions=push_vlan:0x8100,set_field:4097->vlan_vid,"
    "goto_table:10\n cookie=0xa5, table=22, priority=1,dl_vlan=1 actions=pop_vlan,set_field:0x31d->tun_id,output:2\n"
)
PROVIDER_FLOWS = (
    " cookie=0x59, priority=3,in_port=1,vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4099->vlan_vid,"
    "goto_table:58\n"
)


class Agent:
    """Of ``flows`` (bridge -> what is dumped) one after the other is what the switch has."""

    def __init__(self, *flows, running=(module.AGENT, module.CONTAINER, module.DATABASE)):
        self.flows, self.running = list(flows), running

    def exec(self, container, command, check=True):
        if command[0] == "ovs-vsctl":
            return {"exit_status": 0, "output": PORTS}
        bridge = command[-1]
        now = self.flows[0] if len(self.flows) == 1 or bridge != "br-tun" else self.flows.pop(0)
        return {"exit_status": 0 if bridge in now else 1, "output": now.get(bridge, "ovs-ofctl: is not a bridge")}


def test_networks_are_the_tags_of_ports_in_neutrons_own_bridge():
    assert openvswitch.tags(PORTS) == {1: ["tap1", "qr-2"], 3: ["qg-3"]}
    assert openvswitch.tags('{"data":[],"headings":["ports"]}\n{"data":[],"headings":["_uuid","name","tag"]}\n') == {}
    with pytest.raises(openvswitch.OpenvswitchError, match="two JSON tables"):
        openvswitch.tags("nothing")


def test_flows_say_which_tags_packets_get():
    assert openvswitch.tagged(TUNNEL_FLOWS + PROVIDER_FLOWS) == {1, 3}


def test_a_switch_without_flows_for_a_network_is_found(load):
    load(Agent({"br-int": PROVIDER_FLOWS}))
    found = module.verify()["findings"]
    assert [item["found"] for item in found] == ["the switch of node1 has no flows for the network of qr-2, tap1"]
    assert module.AGENT in found[0]["mend"]
    said = module.unsettled(timeout=0)
    assert len(said) == 1 and "qr-2" in said[0] and "kolla_container.restart" in said[0]


def test_a_switch_with_all_flows_and_one_without_an_agent_are_well(load):
    load(Agent({"br-int": PROVIDER_FLOWS, "br-tun": TUNNEL_FLOWS}))
    assert module.verify() == {"findings": []}
    load(Agent({}, running=(module.CONTAINER, module.DATABASE)), cards=())
    assert module.verify() == {"findings": []} and module.unsettled(timeout=0) == []


def test_it_is_waited_until_the_agent_has_set_up_all_networks(load):
    agent = Agent({}, {"br-int": PROVIDER_FLOWS}, {"br-int": PROVIDER_FLOWS, "br-tun": TUNNEL_FLOWS})
    load(agent)
    assert module.unsettled(timeout=30) == []
    assert len(agent.flows) == 1
