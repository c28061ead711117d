"""The verb verify: how many jobs it takes, what it says, and what of it makes the exit status bad."""

from __future__ import annotations

import json
import socket

import pytest
import yaml

from kolla_salt import __version__, declarations, freshness, runs
from kolla_salt.cli import main

HOSTS = ["ctl1", "ctl2", "cmp1"]
SURVEY = {"version": __version__, "states": [], "failed": [], "errors": [], "missing_images": []}
CLOUD = {
    "endpoints": [{"entry": "keystone", "url": "http://vip:5000", "ok": True, "said": "HTTP status 200"}],
    "agents": [],
    "strangers": [],
    "problems": [],
}


def container(service="nova", state="running", health="healthy"):
    return {"service": service, "state": state, "health": health, "image": "i", "status": "Up"}


class Cloud:
    """Hosts that answer; what was sent to them is in ``jobs``."""

    def __init__(self):
        self.jobs: list[tuple[str, list[str], dict]] = []
        self.answers: dict = {
            host: {
                "survey": dict(SURVEY),
                "look": {"containers": {"nova_api": container()}, "problems": [], "undeclared": []},
                "stopped": {},
                "members": {},
            }
            for host in HOSTS
        }
        self.silent: set[str] = set()

    def client(self, **_options):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        return None

    def cmd_iter(self, hosts, function, _arguments=(), kwarg=None, **_options):
        self.jobs.append((function, list(hosts), kwarg or {}))
        for host in hosts:
            if host in self.silent:
                continue
            if function == "kolla_node.verify":
                extra = {"cloud": CLOUD} if kwarg["cloud"] == host else {}
                yield {host: {"ret": {**self.answers[host], **extra}}}
            else:
                yield {host: {"ret": CLOUD if function == "kolla_check.cloud" else True}}


@pytest.fixture
def cloud(tmp_path, monkeypatch, capsys):
    site = tmp_path / "site"
    site.mkdir()
    addresses = {name: {"addresses": {"api": f"10.0.0.{number}"}} for number, name in enumerate(HOSTS, start=1)}
    topology = {"hosts": addresses, "groups": {"control": HOSTS[:2], "network": HOSTS[:2], "compute": HOSTS[2:]}}
    names = [name for decl in declarations.load().values() for name in decl["passwords"]]
    keys = {"private_key": "x" * 20, "public_key": "y" * 20}
    passwords = {name: keys if "ssh_key" in name else f"secret-of-{name}" for name in names}
    options = {"internal_vip_address": "10.0.0.100", "neutron_external_interface": "eth1"}
    for name, data in (("topology", topology), ("globals", options), ("passwords", passwords)):
        (site / f"{name}.yml").write_text(yaml.safe_dump(data))
    made = Cloud()
    monkeypatch.setattr("salt.client.LocalClient", made.client)
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        link.listen()
        config = {
            "ext_pillar": [{"kolla": str(site)}], "kolla_runs": f"{tmp_path}/runs", "interface": "127.0.0.1",
            "ret_port": link.getsockname()[1], "root_dir": str(tmp_path),
        }  # fmt: skip
        (tmp_path / "master").write_text(yaml.safe_dump(config))
        freshness.mark(tmp_path / "runs", runs.digest(site))

        def verify(*words):
            status = main.main(["--master-config", str(tmp_path / "master"), *words, "verify"])
            text = capsys.readouterr().out
            return status, json.loads(text) if "--json" in words else text

        made.verify = verify
        made.site = site
        yield made


def test_a_cloud_that_is_well_takes_one_job(cloud):
    status, text = cloud.verify()
    assert status == 0, text
    assert [(function, hosts) for function, hosts, _ in cloud.jobs] == [("kolla_node.verify", sorted(HOSTS))]
    assert cloud.jobs[0][2]["cloud"] == "ctl1"
    assert "3 hosts, 3 containers, 1 endpoint, 0 agents: all well, no drift" in text


def test_a_host_that_is_silent_is_named_and_the_others_are_verified(cloud):
    cloud.silent.add("cmp1")
    status, said = cloud.verify("--json")
    assert status == 1
    assert (said["unknown"], said["drift"], said["findings"], said["problems"]) == (["cmp1"], {}, [], [])
    assert len(cloud.jobs) == 1


def test_another_controller_asks_the_apis_where_the_first_is_silent(cloud):
    cloud.silent.add("ctl1")
    _, said = cloud.verify("--json")
    assert said["endpoints"] == CLOUD["endpoints"]
    assert [(function, hosts) for function, hosts, _ in cloud.jobs][1:] == [("kolla_check.cloud", ["ctl2"])]


def test_agents_are_not_called_missing_where_no_controller_could_be_asked(cloud):
    for answer in cloud.answers.values():
        answer["look"]["containers"] = {"nova_compute": container()}
    cloud.silent |= {"ctl1", "ctl2"}
    _, said = cloud.verify("--json")
    assert said["findings"] == [] and said["problems"] == ["the cloud's APIs could not be asked: no controller answers"]


def test_a_changed_site_is_read_first(cloud):
    path = cloud.site / "globals.yml"
    path.write_text(path.read_text() + "openstack_logging_debug: true\n")
    assert cloud.verify()[0] == 0
    functions = [function for function, *_ in cloud.jobs]
    assert functions == ["test.ping", "saltutil.refresh_pillar", "kolla_node.verify"]


def test_drift_is_told_with_who_should_win_and_hosts_with_the_same_together(cloud):
    change = {"state": {"old": "exited (1)", "new": "started"}}
    state = {"id": "nova_api", "sls": "nova", "function": "kolla_container.running", "changes": change}
    for host in ("ctl1", "ctl2"):
        cloud.answers[host]["survey"] = {**SURVEY, "states": [state]}
    status, text = cloud.verify()
    assert status == 1
    lines = text.splitlines()
    assert lines[0] == "ctl1, ctl2: containers: nova_api: found exited (1); expected running"
    assert lines[1] == "    the site wins: kolla-salt deploy nova: it will be started"
    _, said = cloud.verify("--json")
    assert list(said["drift"]) == ["ctl1", "ctl2"] and len(said["findings"]) == 2


def test_what_is_somebody_elses_is_told_and_no_reason_for_a_bad_status(cloud, monkeypatch):
    strangers = [{"kind": "databases", "name": "schema wiki", "found": "exists"}]
    monkeypatch.setitem(CLOUD, "strangers", strangers)
    status, text = cloud.verify()
    assert status == 0
    assert "databases: schema wiki: found exists" in text and "it stays" in text


def test_members_of_a_cluster_that_disagree_are_a_problem(cloud):
    for host, size in (("ctl1", 2), ("ctl2", 1)):
        cloud.answers[host]["members"] = {"mariadb": {"findings": [], "alike": {"number of members": size}}}
    status, said = cloud.verify("--json")
    assert status == 1
    assert [item["found"] for item in said["findings"]] == ["2 on ctl1; 1 on ctl2"]
    assert any("2 on ctl1" in problem for problem in said["problems"])


def test_a_host_with_another_version_is_not_judged(cloud):
    cloud.answers["cmp1"]["survey"] = {**SURVEY, "version": "0.0.1"}
    _, said = cloud.verify("--json")
    assert any("cmp1 has kolla-salt 0.0.1" in problem for problem in said["problems"])
