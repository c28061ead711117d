"""Judging hosts by their facts."""

from kolla_salt import prechecks


def test_a_foreign_program_on_a_port_is_named_with_its_pid():
    wanted = [{"port": 3306, "service": "mariadb", "address": "10.0.0.1"}]
    taken = [{"port": 3306, "address": "0.0.0.0", "program": "mysqld", "pid": 42, "container": None}]
    (finding,) = prechecks.ports("h", wanted, taken)
    assert "mysqld (pid 42)" in finding.found and "kill 42" in finding.mend


def test_our_own_containers_and_other_addresses_do_not_matter():
    wanted = [{"port": 3306, "service": "mariadb", "address": "10.0.0.1"}]
    own = [{"port": 3306, "address": "10.0.0.1", "program": "mariadbd", "pid": 1, "container": "mariadb"}]
    other = [{"port": 3306, "address": "127.0.0.1", "program": "x", "pid": 1, "container": None}]
    assert prechecks.ports("h", wanted, own) == []
    assert prechecks.ports("h", wanted, other) == []


def test_too_little_is_an_error_and_tight_is_a_warning():
    facts = {"memory": 4.0, "disk_free": 2.0, "disk_path": "/var/lib/docker", "cpus": 4}
    assert {(f.check, f.level) for f in prechecks.resources("h", ["control"], facts)} == {
        ("memory", "error"),
        ("disk", "error"),
    }
    facts |= {"memory": 8.0, "disk_free": 15.0}
    assert {(f.check, f.level) for f in prechecks.resources("h", ["control"], facts)} == {
        ("memory", "warning"),
        ("disk", "warning"),
    }
    facts |= {"memory": 64.0, "disk_free": 200.0}
    assert prechecks.resources("h", ["control"], facts) == []


def test_engines_are_compared_by_number():
    assert prechecks.engine("h", "docker", "26.1.5+dfsg1") == []
    assert prechecks.engine("h", "docker", "20.10.24") == []
    assert prechecks.engine("h", "docker", "19.03.1")[0].found == "docker 19.03.1"
    assert "connection refused" in prechecks.engine("h", "docker", None, "connection refused")[0].found


def test_names_must_lead_to_the_api_address():
    topology = {"a": "10.0.0.1", "b": "10.0.0.2"}
    assert prechecks.names("h", {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, topology, False) == []
    assert [f.level for f in prechecks.names("h", {"a": ["127.0.1.1"], "b": []}, topology, False)] == ["error", "error"]
    # Deploying writes /etc/hosts: what is unknown now will be known then.
    assert prechecks.names("h", {"a": ["10.0.0.1"], "b": []}, topology, True) == []


def test_a_missing_interface_names_those_that_there_are():
    links = {"lo": {"up": True, "addresses": []}, "ens3": {"up": True, "addresses": ["10.0.0.1"]}}
    found = prechecks.interfaces("h", {"api_interface": "eth0"}, {"api": ("api_interface", "10.0.0.1")}, links)
    assert "there are ens3" in found[0].found
    assert prechecks.interfaces("h", {"api_interface": "ens3"}, {"api": ("api_interface", "10.0.0.1")}, links) == []
    (wrong,) = prechecks.interfaces("h", {"api_interface": "ens3"}, {"api": ("api_interface", "10.0.0.9")}, links)
    assert "no interface has 10.0.0.9" in wrong.found


def test_only_needed_kernel_features_are_asked_for():
    found = prechecks.kernel("h", {"kvm": "servers"}, {"kvm": False, "openvswitch": False})
    assert [f.found for f in found] == ["no kvm"]
    assert "nova_compute_virt_type: qemu" in found[0].mend


def report(**more):
    return {"version": "1", "time": 100.0, "addresses": [], "answers": [], **more}


VIP = {"internal_vip_address": {"address": "10.0.0.10", "network": "10.0.0.0/24"}}


def across(reports, vips=VIP, sent=99.5, received=100.5):
    return prechecks.across(reports, "1", sent, dict.fromkeys(reports, received), vips)


def test_a_clock_is_wrong_only_by_more_than_the_way_may_have_taken():
    assert across({"a": report(time=100.0)}) == []
    assert across({"a": report(time=102.0)}) == []
    (finding,) = across({"a": report(time=90.0)})
    assert finding.check == "clock" and finding.found.startswith("-9.5 s")


def test_a_vip_of_somebody_else_is_found_and_our_own_is_fine():
    (finding,) = across({"a": report(answers=["10.0.0.10"])})
    assert "no host of the site holds it" in finding.found
    assert across({"a": report(addresses=["10.0.0.10"]), "b": report(answers=["10.0.0.10"])}) == []
    (both,) = across({"a": report(addresses=["10.0.0.10"]), "b": report(addresses=["10.0.0.10"])})
    assert "on a, b at once" in both.found


def test_a_vip_outside_its_network_is_found():
    (finding,) = across({"a": report()}, {"internal_vip_address": {"address": "10.9.0.1", "network": "10.0.0.0/24"}})
    assert "an address in 10.0.0.0/24" in finding.expected


def test_another_version_is_refused_with_the_command_that_mends_it():
    (finding,) = across({"a": report(version="0.9")})
    assert "salt-pip install --no-deps --upgrade ." in finding.mend
