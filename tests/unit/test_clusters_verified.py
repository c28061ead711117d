"""What members of clusters, the catalogue and the database say of themselves when the cloud is verified."""

from __future__ import annotations

import pytest

from kolla_salt import broker, galera, identity

WELL = {"cluster": "Primary", "state": "Synced", "size": 3, "uuid": "u", "committed": 7, "ready": True}


@pytest.mark.parametrize(
    ("server", "found"),
    [
        (WELL, []),
        ({**WELL, "state": "Donor/Desynced"}, []),
        (None, ["does not answer"]),
        ({**WELL, "cluster": "non-Primary"}, ["its cluster is non-Primary"]),
        ({**WELL, "state": "Joiner"}, ["Joiner"]),
        ({**WELL, "size": 2}, ["sees 2 members"]),
    ],
)
def test_members_of_the_database(server, found):
    items = galera.findings("ctl1", server, 3)
    assert [item["found"] for item in items] == found
    assert all("mariadb-recovery" in item["mend"] for item in items)


OWN = {"data": True, "joining": False, "one_shot": False}


@pytest.mark.parametrize(
    ("own", "others", "why"),
    [
        (OWN, {"ctl2": WELL, "ctl3": None}, ""),
        (OWN, {}, ""),
        (OWN, {"ctl2": None, "ctl3": None}, "no other member"),
        (OWN, {"ctl2": {**WELL, "cluster": "non-Primary"}}, "no other member"),
        ({**OWN, "data": False}, {"ctl2": WELL}, "does not have all data"),
        ({**OWN, "joining": True}, {"ctl2": WELL}, "does not have all data"),
        ({**OWN, "one_shot": True}, {"ctl2": WELL}, "first of a new cluster"),
    ],
)
def test_a_member_is_started_again_only_into_a_cluster_that_works(own, others, why):
    said = galera.start_obstacles(own, others)
    assert why in said[0] if why else said == []


HOSTS = ["ctl1", "ctl2", "ctl3"]
NODE = {"running": True, "alarms": [], "partitions": [], "leaving": False}
STATUS = {"nodes": {broker.member(host): NODE for host in HOSTS}}


def queue(name, members=3, online=3):
    names = [broker.member(host) for host in HOSTS]
    return {"vhost": "/", "name": name, "type": "quorum", "members": names[:members], "online": names[:online]}


def brokers(status=STATUS, alarms=None, queues=()):
    return [
        (item["found"], item["winner"]) for item in broker.findings("ctl1", HOSTS, status, alarms or {}, list(queues))
    ]


def test_a_cluster_of_brokers_that_is_well():
    assert brokers(queues=[queue("a"), queue("b")]) == []


def test_brokers_that_are_away_strange_or_short_of_something():
    nodes = {
        "rabbit@ctl1": {**NODE, "alarms": ["disk_free"], "leaving": True},
        "rabbit@ctl2": {**NODE, "running": False},
        "rabbit@old": NODE,
    }
    assert brokers({"nodes": nodes}) == [
        ("rabbit@ctl3 is none", "site"),
        ("in maintenance, takes no clients", "site"),
        ("alarm: disk_free", "site"),
        ("does not run", "site"),
        ("a member", "undecided"),
    ]


def test_queues_are_counted_not_listed():
    few, away = [queue(f"q{n}", members=2, online=2) for n in range(9)], [queue("s", online=2)]
    found = [text for text, _ in brokers(queues=[*few, *away, queue("well")])]
    assert found == [
        "9 with fewer than 3 members, such as /:q0, /:q1, /:q2",
        "1 with members that are not online, such as /:s",
    ]


def test_what_nobody_declares_in_the_catalogue_is_told():
    image = identity.Service("glance", "image", "", {"internal": "http://a", "public": "http://b"})
    registration = identity.Registration(services=(image,), regions=("One",))
    services = [{"id": "1", "type": "image", "name": "glance"}, {"id": "2", "type": "dns", "name": "designate"}]
    endpoints = [
        {"service_id": "1", "interface": "public", "region_id": "One", "url": "http://b"},
        {"service_id": "1", "interface": "admin", "region_id": "One", "url": "http://c"},
        {"service_id": "2", "interface": "public", "region_id": "One", "url": "http://d"},
    ]
    found = identity.strangers([registration], services, endpoints)
    assert [(item["name"], item["found"]) for item in found] == [
        ("service designate", "type dns"),
        ("endpoint image admin One", "http://c"),
    ]
