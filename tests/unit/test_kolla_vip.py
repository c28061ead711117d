"""A host gives the virtual addresses away and may have them again."""

from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import paths
from kolla_salt.modules import kolla_vip as module


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A controller; what is returned are the addresses it has."""
    addresses = ["127.0.0.1", "10.0.0.11", "10.0.0.10"]
    site = {
        "globals": {"internal_vip_address": "10.0.0.10"},
        "topology": {"hosts": {"ctl1": {"addresses": {"api": "10.0.0.11"}}}, "groups": {"control": ["ctl1"]}},
        "passwords": {},
    }
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(module, "__opts__", {"id": "ctl1", "test": False}, raising=False)
    monkeypatch.setattr(module, "__context__", {}, raising=False)
    monkeypatch.setattr(module, "__pillar__", {"kolla": site}, raising=False)
    volume = {
        "kolla_container.volume_path": lambda name: str(tmp_path / "volume") if name == "haproxy_socket" else None
    }
    monkeypatch.setattr(module, "__salt__", volume, raising=False)
    monkeypatch.setattr(module, "_addresses", lambda: list(addresses))
    return addresses


def test_what_a_host_holds_and_whether_it_may(host):
    assert module.status() == {"holds": ["10.0.0.10"], "candidate": True}


def test_who_holds_the_addresses_is_said_for_a_verification(host):
    assert module.verify() == {"findings": [], "once": {"10.0.0.10": True}}
    host.remove("10.0.0.10")
    module.give_up()
    said = module.verify()
    assert said["once"] == {"10.0.0.10": False}
    assert [item["winner"] for item in said["findings"]] == ["undecided"]
    assert "kolla_vip.stand" in said["findings"][0]["mend"]


def test_addresses_that_do_not_go_are_told_and_the_host_stays_out(host):
    with pytest.raises(
        CommandExecutionError, match=r"giving 10\.0\.0\.10 of ctl1 to another host: still here after 0 s"
    ):
        module.give_up(timeout=0)
    assert module.status()["candidate"] is False


def test_a_host_gives_them_up_and_may_have_them_again(host):
    host.remove("10.0.0.10")
    assert module.give_up() == []
    assert module.status() == {"holds": [], "candidate": False}
    assert module.stand() is True
    assert module.stand() is False
    assert module.status()["candidate"] is True


def test_the_check_that_keepalived_runs_knows_the_mark():
    text = (paths.formula_root() / "loadbalancer/files/check_alive_haproxy.sh.j2").read_text()
    assert f"/{module.MARK} " in text


def test_without_a_load_balancer_there_is_nothing_to_give_up(host, monkeypatch):
    monkeypatch.setattr(module, "__salt__", {"kolla_container.volume_path": lambda name: None})
    with pytest.raises(CommandExecutionError, match="haproxy_socket of ctl1: there is none"):
        module.give_up()
