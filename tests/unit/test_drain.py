"""Servers, networks and routers leave a host, against a server that speaks the used part of the APIs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from keystoneauth1 import session, token_endpoint

from kolla_salt import neutron, nova
from kolla_salt.cloud_api import Api, CloudError, same_host

sys.path.insert(0, str(Path(__file__).parent))
from openstack_server import FakeOpenStack  # noqa: E402


@pytest.fixture
def fake():
    server = FakeOpenStack()
    yield server
    server.stop()


@pytest.fixture
def api(fake):
    return Api(session.Session(auth=token_endpoint.Token(fake.url, "t0ken")))


@pytest.fixture
def compute(api):
    return nova.Compute(api)


@pytest.fixture
def network(api):
    return neutron.Network(api)


def move(compute, **options):
    job = nova.Move(compute, "cmp1", say=lambda line: None, interval=0, **options)
    job.run()
    return job


# --- servers ---


def test_running_servers_move_live_and_stopped_ones_cold(fake, compute):
    for name, status in (("web", "ACTIVE"), ("held", "PAUSED"), ("off", "SHUTOFF")):
        fake.add_server(name, "cmp1", status)
    fake.add_server("other", "cmp2")
    job = move(compute)
    assert job.moved == {"web": "cmp2", "held": "cmp2", "off": "cmp2"} and job.stuck == {}
    assert {name: server["status"] for name, server in fake.servers.items()} == {
        "web": "ACTIVE",
        "held": "PAUSED",
        "off": "SHUTOFF",
        "other": "ACTIVE",
    }
    live = '{"os-migrateLive": {"host": null, "block_migration": "auto"}}'
    assert sorted(fake.log) == [
        f"POST /servers/held/action {live}",
        'POST /servers/off/action {"confirmResize": null}',
        'POST /servers/off/action {"migrate": null}',
        f"POST /servers/web/action {live}",
    ]
    assert fake.versions == {"compute 2.90"}


def test_an_empty_host_is_left_alone(fake, compute):
    assert move(compute).moved == {}
    assert fake.log == []


def test_a_server_that_cannot_move_is_named_with_the_reason_and_what_helps(fake, compute):
    fake.add_server("web", "cmp1")
    fake.add_server("asleep", "cmp1", "SUSPENDED")
    fake.add_server("resized", "cmp1", "VERIFY_RESIZE")
    fake.fails["web"] = "No valid host was found."
    job = move(compute)
    assert job.moved == {}
    assert job.stuck["web"] == (
        "its live migration failed: No valid host was found.; kolla-salt node drain cmp1 --cold stops it and moves it"
    )
    assert "openstack server resume asleep" in job.stuck["asleep"]
    assert "openstack server resize confirm|revert resized" in job.stuck["resized"]
    assert [line for line in fake.log if "web" not in line] == []


def test_cold_stops_and_moves_what_runs(fake, compute):
    fake.add_server("web", "cmp1")
    assert move(compute, cold=True).moved == {"web": "cmp2"}
    assert fake.servers["web"]["status"] == "ACTIVE"
    assert not any("Live" in line for line in fake.log)


def test_the_servers_of_a_dead_host_are_made_anew(fake, compute):
    fake.add_server("web", "cmp1")
    fake.add_server("held", "cmp1", "PAUSED")
    job = move(compute, dead=True)
    assert job.moved == {"web": "cmp2"}
    assert "openstack server set --state error held" in job.stuck["held"]
    assert fake.log == ['POST /servers/web/action {"evacuate": {}}']


@pytest.mark.parametrize("dead", [True, False])
def test_a_server_that_is_done_but_not_yet_noted_on_its_new_host_is_waited_for(fake, compute, dead):
    fake.add_server("web", "cmp1")
    fake.unnoted = 3
    job = move(compute, dead=dead)
    assert (job.moved, job.stuck) == ({"web": "cmp2"}, {})


def test_waiting_ends_and_the_same_command_goes_on(fake, compute):
    fake.add_server("web", "cmp1")
    fake.slow = 1
    job = move(compute, timeout=0.2)
    assert "it is still migrating after 0.2 s" in job.stuck["web"]
    fake.slow = 0
    again = move(compute)
    assert again.stuck == {}
    assert fake.servers["web"]["OS-EXT-SRV-ATTR:host"] == "cmp2"
    assert sum("Live" in line for line in fake.log) == 1


def test_a_cold_move_that_was_interrupted_is_confirmed_but_not_an_owners_resize(fake, compute):
    for name, kind in (("ours", "migration"), ("theirs", "resize")):
        fake.add_server(name, "cmp2", "VERIFY_RESIZE")
        fake.servers[name]["_before"] = "ACTIVE"
        fake.migrations.append({"instance_uuid": name, "migration_type": kind, "source_compute": "cmp1",
                                "status": "finished"})  # fmt: skip
    job = move(compute)
    assert job.moved == {"ours": "cmp2"} and fake.servers["ours"]["status"] == "ACTIVE"
    assert list(job.stuck) == ["theirs"] and fake.servers["theirs"]["status"] == "VERIFY_RESIZE"


def test_a_server_that_is_busy_is_waited_for(fake, compute):
    fake.add_server("web", "cmp1")
    fake.servers["web"].update({"OS-EXT-STS:task_state": "powering-on", "_left": 2, "_action": "os-migrateLive"})
    assert move(compute).stuck == {}


def test_a_compute_service_is_found_by_its_short_or_long_name(fake, compute):
    fake.add_service("cmp1.example.org")
    fake.add_service("cmp2", status="disabled")
    fake.add_service("cmp3", state="down")
    fake.add_service("cmp4")
    assert compute.service("cmp1")["host"] == "cmp1.example.org"
    assert compute.service("cmp9") is None
    assert compute.others("cmp1") == ["cmp4"]
    assert compute.delete_service("svc-cmp4") is True
    assert compute.delete_service("svc-cmp4") is False


def test_nova_may_wait_longer_for_a_dead_host_than_we_for_nova(fake, compute):
    fake.add_service("cmp1")
    fake.dead = True
    compute.set_service("svc-cmp1", status="disabled")
    assert fake.services[0]["status"] == "disabled"
    fake.deaf = True
    with pytest.raises(CloudError, match="HTTP 504"):
        compute.set_service("svc-cmp1", status="enabled")


@pytest.mark.parametrize(
    ("name", "host", "same"),
    [
        ("a", "a", True),
        ("a.x.org", "a", True),
        ("a", "a.x.org", True),
        ("a.x.org", "a.y.org", False),
        ("ab", "a", False),
    ],
)
def test_names_of_one_machine(name, host, same):
    assert same_host(name, host) is same


def test_an_error_says_what_was_asked_and_what_was_said(compute):
    with pytest.raises(
        CloudError, match=r"PUT /os-services/x of the compute service: HTTP 404: .*no such service"
    ) as e:
        compute.set_service("x", status="disabled")
    assert e.value.status == 404


# --- networks and routers: who takes what ---


def test_a_network_keeps_as_many_agents_as_it_had():
    found, refused = neutron.moves("a", {"n1": ["a", "b"], "n2": ["a", "b"]}, {"b": 2, "c": 0, "d": 1})
    assert found == {"n1": "c", "n2": "c"} or found == {"n1": "c", "n2": "d"}
    assert refused == []


def test_the_others_are_enough_where_there_is_no_further_one():
    assert neutron.moves("a", {"n1": ["a", "b"]}, {"b": 1}) == ({"n1": None}, [])


def test_what_nobody_else_could_serve_is_refused():
    assert neutron.moves("a", {"n1": ["a"], "n2": ["a", "dead"]}, {}) == ({}, ["n1", "n2"])


def test_who_is_back_serves_what_lacks_an_agent():
    assert neutron.returns("a", {"n1": ["b"], "n2": ["b", "c"], "n3": ["a"]}, 2) == ["n1"]


@pytest.mark.parametrize(
    ("agent", "takes"),
    [
        ({}, True),
        ({"alive": False}, False),
        ({"admin_state_up": False}, False),
        ({"configurations": {"agent_mode": "dvr"}}, False),
        ({"configurations": {"agent_mode": "dvr_snat"}}, True),
        ({"agent_type": neutron.DHCP}, False),
    ],
)
def test_an_agent_takes_routers_if_it_works_and_routes_for_all(agent, takes):
    base = {"agent_type": neutron.L3, "alive": True, "admin_state_up": True, "configurations": {}}
    assert neutron.takes({**base, **agent}, neutron.L3) is takes


# --- networks and routers: handing over ---


def handover(network, kind, **options):
    return neutron.Handover(network, "net1", kind, say=lambda line: None, interval=0, **options)


def test_networks_are_served_by_another_before_they_leave(fake, network):
    own, other = fake.add_agent(neutron.DHCP, "net1"), fake.add_agent(neutron.DHCP, "net2")
    fake.bind("n1", own)
    assert handover(network, neutron.DHCP).drain() == {"n1": "net2"}
    assert fake.bound == {own: [], other: ["n1"]}
    assert fake.agents[own]["admin_state_up"] is False
    assert [line.split()[0] for line in fake.log] == ["POST", "DELETE", "PUT"]


def test_a_network_without_dhcp_is_not_waited_for(fake, network):
    own, other = fake.add_agent(neutron.DHCP, "net1"), fake.add_agent(neutron.DHCP, "net2")
    fake.bind("external", own, dhcp=False)
    assert handover(network, neutron.DHCP, timeout=0).drain() == {"external": "net2"}
    assert fake.bound == {own: [], other: ["external"]}


def test_a_network_stays_until_another_agent_serves_it(fake, network):
    own, other = fake.add_agent(neutron.DHCP, "net1"), fake.add_agent(neutron.DHCP, "net2")
    fake.bind("n1", own)
    fake.late = True
    with pytest.raises(CloudError, match="moving network n1 away from net1: no other DHCP agent serves it after 0 s"):
        handover(network, neutron.DHCP, timeout=0).drain()
    assert fake.bound == {own: ["n1"], other: ["n1"]} and fake.agents[own]["admin_state_up"] is True
    fake.late = False
    handover(network, neutron.DHCP).drain()
    assert fake.bound == {own: [], other: ["n1"]}


def test_draining_twice_changes_nothing_the_second_time(fake, network):
    fake.bind("n1", fake.add_agent(neutron.DHCP, "net1"))
    fake.add_agent(neutron.DHCP, "net2")
    handover(network, neutron.DHCP).drain()
    fake.log.clear()
    assert handover(network, neutron.DHCP).drain() == {}
    assert fake.log == []


def test_a_router_with_a_standby_fails_over_and_gets_a_new_standby(fake, network):
    agents = [fake.add_agent(neutron.L3, host) for host in ("net1", "net2", "net3")]
    fake.bind("r1", agents[0], agents[1], ha=True)
    handover(network, neutron.L3).drain()
    assert fake.bound == {agents[0]: [], agents[1]: ["r1"], agents[2]: ["r1"]}


def test_a_router_without_a_standby_is_taken_before_it_is_given(fake, network):
    own, other = fake.add_agent(neutron.L3, "net1"), fake.add_agent(neutron.L3, "net2")
    fake.bind("r1", own, ha=False)
    handover(network, neutron.L3).drain()
    assert fake.bound == {own: [], other: ["r1"]}
    assert [line.split()[0] for line in fake.log] == ["DELETE", "POST", "PUT"]


def test_a_host_keeps_what_nobody_else_can_take(fake, network):
    own = fake.add_agent(neutron.DHCP, "net1")
    fake.add_agent(neutron.DHCP, "net2", alive=False)
    fake.bind("n1", own)
    job = handover(network, neutron.DHCP)
    assert job.plan() == ({}, ["n1"])
    with pytest.raises(CloudError, match="moving n1 away from net1: no other DHCP agent is up"):
        job.drain()
    assert fake.bound[own] == ["n1"] and fake.log == []


def test_a_standby_that_does_not_come_up_keeps_the_router_where_it_is(fake, network):
    own, _ = fake.add_agent(neutron.L3, "net1"), fake.add_agent(neutron.L3, "net2")
    fake.bind("r1", own, ha=True)
    fake.standby = None
    job = handover(network, neutron.L3, timeout=0)
    with pytest.raises(CloudError, match="no other L3 agent serves it after 0 s"):
        job.drain()
    assert "r1" in fake.bound[own]


def test_a_host_that_is_back_gets_what_lacks_an_agent(fake, network):
    own = fake.add_agent(neutron.DHCP, "net1", up=False)
    others = [fake.add_agent(neutron.DHCP, host) for host in ("net2", "net3")]
    fake.bind("n1", others[0])
    fake.bind("n2", *others)
    assert handover(network, neutron.DHCP).undrain(2) == ["n1"]
    assert fake.bound[own] == ["n1"] and fake.agents[own]["admin_state_up"] is True


def test_agents_of_a_removed_host_are_forgotten_once(fake, network):
    own = fake.add_agent(neutron.DHCP, "net1")
    assert network.delete_agent(own) is True
    assert network.delete_agent(own) is False
