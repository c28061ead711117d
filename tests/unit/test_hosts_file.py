"""Names of the cloud's hosts in /etc/hosts."""

from __future__ import annotations

import pytest

from kolla_salt import hosts_file
from kolla_salt.modules import kolla_hosts

ADDRESSES = {"ctl1": "10.0.0.11", "ctl2.example.org": "10.0.0.12"}
INSTALLED = """127.0.0.1 localhost
127.0.1.1 ctl1.example.org ctl1
::1 localhost ip6-localhost

192.0.2.1 mirror  # mine
"""


def lines(text):
    return text.splitlines()


def test_the_hosts_are_added_and_other_lines_stay():
    text = hosts_file.with_hosts(INSTALLED, ADDRESSES, "ctl1")
    assert "10.0.0.11 ctl1" in lines(text)
    assert "10.0.0.12 ctl2.example.org ctl2" in lines(text)
    assert lines(text)[0] == "127.0.0.1 localhost"
    assert "192.0.2.1 mirror  # mine" in lines(text)


def test_writing_twice_changes_nothing():
    once = hosts_file.with_hosts(INSTALLED, ADDRESSES, "ctl1")
    assert hosts_file.with_hosts(once, ADDRESSES, "ctl1") == once


def test_the_block_follows_the_topology():
    before = hosts_file.with_hosts(INSTALLED, ADDRESSES, "ctl1")
    after = hosts_file.with_hosts(before, {"ctl1": "10.0.0.99"}, "ctl1")
    assert "10.0.0.99 ctl1" in lines(after)
    assert "10.0.0.11" not in after
    assert "ctl2" not in after
    assert after.count(hosts_file.BEGIN) == 1


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("127.0.1.1 ctl1.example.org ctl1", None),
        ("127.0.0.1 localhost ctl1", "127.0.0.1 localhost"),
        ("::1 localhost ctl1", "::1 localhost"),
        ("127.0.1.1 other", "127.0.1.1 other"),
        ("# 127.0.1.1 ctl1", "# 127.0.1.1 ctl1"),
        ("10.9.9.9 ctl1", "10.9.9.9 ctl1"),
    ],
)
def test_the_hosts_own_name_is_not_a_loopback_address(line, left):
    text = hosts_file.with_hosts(line + "\n", ADDRESSES, "ctl1")
    kept = lines(text)[: lines(text).index(hosts_file.BEGIN)]
    assert kept == ([left] if left else [])


def test_the_difference_shows_the_lines():
    wanted = hosts_file.with_hosts(INSTALLED, ADDRESSES, "ctl1")
    change = hosts_file.difference(INSTALLED, wanted)["/etc/hosts"]
    assert "127.0.1.1 ctl1.example.org ctl1" in change["old"]
    assert "10.0.0.11 ctl1" in change["new"]
    assert hosts_file.difference(wanted, wanted) == {}


@pytest.fixture
def module(tmp_path, monkeypatch, site_data):
    path = tmp_path / "hosts"
    path.write_text(INSTALLED)
    for name, value in (("__opts__", {"id": "ctl1"}), ("__pillar__", {"kolla": site_data}), ("__context__", {})):
        monkeypatch.setattr(kolla_hosts, name, value, raising=False)
    monkeypatch.setattr(kolla_hosts, "HOSTS_FILE", path)
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
    return path


def test_the_file_is_written_once(module):
    assert kolla_hosts.diff()
    assert kolla_hosts.write() is True
    assert "10.0.0.12 ctl2" in module.read_text()
    assert module.stat().st_mode & 0o777 == 0o644
    assert kolla_hosts.diff() == {}
    assert kolla_hosts.write() is False


def test_a_site_may_keep_its_own_file(module, site_data):
    site_data["globals"]["customize_etc_hosts"] = False
    assert kolla_hosts.diff() == {}
    assert module.read_text() == INSTALLED
