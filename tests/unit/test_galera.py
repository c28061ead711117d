"""When a member of the database's cluster may be started, and how its data are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import declarations, galera
from kolla_salt.modules import kolla_mariadb

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"ctl1": "10.0.0.11", "ctl2": "10.0.0.12", "ctl3": "10.0.0.13"}
CLOSED = "127.0.0.1"

GRASTATE = """# GALERA saved state
version: 2.1
uuid:    6fd0308f-e735-11f1-9846-d6daaa1e013e
seqno:   {seqno}
safe_to_bootstrap: {safe}
"""


def own(**facts):
    return {"host": "ctl1", "data": False, "running": False, "one_shot": False, "safe_to_bootstrap": False} | facts


def decide(mine, others=("ctl2", "ctl3"), answering=(), known=None, primary=True):
    return galera.decide(mine, others, answering, known or {}, primary)


def test_the_first_host_of_a_new_cluster_makes_the_database():
    assert decide(own()) == galera.BOOTSTRAP
    assert decide(own(), others=()) == galera.BOOTSTRAP
    assert decide(own(), known={"ctl2": {"data": False}}) == galera.BOOTSTRAP


def test_other_hosts_never_make_a_database():
    assert decide(own(), primary=False) == galera.RUN
    assert decide(own(), primary=False, answering=["ctl1"]) == galera.RUN


def test_a_replaced_first_host_joins_the_cluster_that_answers():
    assert decide(own(), answering=["ctl3"], known={"ctl2": {"data": True}}) == galera.RUN


def test_a_replaced_first_host_makes_no_second_cluster_when_nobody_answers():
    with pytest.raises(galera.GaleraError, match="ctl3 had one when last heard of.*mariadb-recovery"):
        decide(own(), known={"ctl2": {"data": False}, "ctl3": {"data": True}})


def test_a_member_with_data_is_simply_started_if_there_is_a_cluster_or_it_is_alone():
    assert decide(own(data=True), answering=["ctl2"]) == galera.RUN
    assert decide(own(data=True, running=True)) == galera.RUN
    assert decide(own(data=True), others=()) == galera.RUN


def test_a_start_that_was_cut_off_is_continued():
    assert decide(own(data=True, one_shot=True)) == galera.RUN


def test_a_stopped_cluster_is_started_by_the_member_that_left_last_and_by_no_other():
    assert decide(own(data=True, safe_to_bootstrap=True)) == galera.REVIVE
    assert decide(own(data=True, safe_to_bootstrap=True), primary=False) == galera.REVIVE
    with pytest.raises(galera.GaleraError, match="was not the last member to leave.*mariadb-recovery"):
        decide(own(data=True))


@pytest.mark.parametrize("action", [galera.BOOTSTRAP, galera.REVIVE])
def test_what_is_to_be_done_is_a_change(action):
    (change,) = galera.describe(action).values()
    assert set(change) == {"old", "new"}
    assert galera.describe(galera.RUN) == {}


def test_galeras_own_record_is_read():
    assert galera.parse_state(GRASTATE.format(seqno=17, safe=1)) == {
        "uuid": "6fd0308f-e735-11f1-9846-d6daaa1e013e", "seqno": 17, "safe_to_bootstrap": True,
    }  # fmt: skip
    assert galera.parse_state(GRASTATE.format(seqno=-1, safe=0))["safe_to_bootstrap"] is False
    assert galera.parse_state("") == {"uuid": None, "seqno": -1, "safe_to_bootstrap": False}


# --- the module, on a host whose engine is a directory ----------------------------------------------------------------


class Host:
    """A host of the group: its engine keeps volumes below a directory and knows how to make a database."""

    def __init__(self, directory: Path) -> None:
        self.volumes = directory / "volumes"
        self.state = "absent"
        self.mine: dict = {}
        self.runs: list[dict] = []
        self.fails = False

    @property
    def data(self) -> Path:
        return self.volumes / "mariadb"

    def volume_path(self, name):
        return str(self.volumes / name) if (self.volumes / name).is_dir() else None

    def run(self, name, timeout, **spec):
        self.runs.append({"name": name, **spec})
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "ibdata1").write_text("half a database")
        if self.fails:
            raise CommandExecutionError("ended with exit code 1")
        (self.data / "mysql").mkdir()
        return {"exit_status": 0}


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(ROOT / "salt"))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
    declarations.load()
    found = Host(tmp_path)
    passwords = {"database_password": "root-pw", "mariadb_monitor_password": "monitor-pw"}
    # Ports on which nobody listens: the other members do not answer.
    hosts = {name: {"addresses": {"api": CLOSED}} for name in HOSTS}
    site = {
        "globals": {"internal_vip_address": "10.0.0.10", "mariadb_port": 1, "mariadb_wsrep_port": 2},
        "topology": {"hosts": hosts, "groups": {"control": list(HOSTS), "network": list(HOSTS)}},
        "passwords": passwords,
    }
    functions = {
        "kolla_container.state": lambda name: found.state,
        "kolla_container.volume_path": found.volume_path,
        "kolla_container.run": found.run,
        "mine.get": lambda *args, **kwargs: found.mine,
        "mine.send": lambda name: found.mine.setdefault("sent", name) == name,
    }
    for name, value in (
        ("__salt__", functions), ("__opts__", {"id": "ctl1", "test": False}), ("__pillar__", {"kolla": site}),
        ("__context__", {}),
    ):  # fmt: skip
        monkeypatch.setattr(kolla_mariadb, name, value, raising=False)
    monkeypatch.setattr(kolla_mariadb, "UNFINISHED", tmp_path / "lib" / "unfinished")
    # Only root may give files to the database's user.
    monkeypatch.setattr(kolla_mariadb.os, "chown", lambda path, uid, gid: None)
    return found


def test_a_new_cluster_gets_a_database_and_a_first_member(host):
    assert kolla_mariadb.preparation_diff() == {"data": {"old": None, "new": "a new, empty database"}}
    assert host.runs == []
    kolla_mariadb.prepare()
    (run,) = host.runs
    assert run["environment"]["KOLLA_BOOTSTRAP"] == ""
    assert run["environment"]["DB_ROOT_PASSWORD"] == {"secret": "database_password"}
    assert "mariadb:/var/lib/mysql" in run["volumes"]
    assert "root-pw" not in repr(run)
    assert (host.data / galera.ONE_SHOT).read_text() == galera.ONE_SHOT_TEXT
    assert kolla_mariadb.preparation_diff() == {}


def test_a_database_that_was_made_is_never_made_again(host):
    (host.data / "mysql").mkdir(parents=True)
    host.state = "running"
    assert kolla_mariadb.preparation_diff() == {}
    assert kolla_mariadb.prepare() == ""
    assert host.runs == []


def test_what_a_failed_attempt_left_behind_is_no_database(host):
    host.fails = True
    with pytest.raises(CommandExecutionError):
        kolla_mariadb.prepare()
    (host.data / "mysql").mkdir()
    assert kolla_mariadb.lookup()["data"] is False
    host.fails = False
    (host.data / "left-over").write_text("x")
    kolla_mariadb.prepare()
    assert kolla_mariadb.lookup()["data"] is True
    assert not (host.data / "left-over").exists()


def test_the_data_that_other_members_told_the_master_of_forbid_a_new_cluster(host):
    host.mine = {"ctl2": {"data": True}}
    with pytest.raises(CommandExecutionError, match="ctl2 had one"):
        kolla_mariadb.preparation_diff()
    with pytest.raises(CommandExecutionError, match="ctl2 had one"):
        kolla_mariadb.prepare()
    assert host.runs == []


def test_a_stopped_cluster_is_started_from_the_last_members_data(host):
    (host.data / "mysql").mkdir(parents=True)
    (host.data / "grastate.dat").write_text(GRASTATE.format(seqno=4, safe=1))
    assert kolla_mariadb.preparation_diff()["cluster"]["old"] == "stopped"
    kolla_mariadb.prepare()
    assert (host.data / galera.ONE_SHOT).exists()
    assert host.runs == []
    assert (host.data / "mysql").is_dir()


def test_members_on_other_hosts_are_left_to_the_first_one(host, monkeypatch):
    monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": "ctl2", "test": False})
    assert kolla_mariadb.preparation_diff() == {}


def test_a_bare_host_can_be_predicted(host, monkeypatch):
    def refuse(*args):
        raise CommandExecutionError("no engine")

    broken = kolla_mariadb.__salt__ | {"kolla_container.state": refuse, "kolla_container.volume_path": refuse}
    monkeypatch.setattr(kolla_mariadb, "__salt__", broken)
    assert "data" in kolla_mariadb.preparation_diff()
    assert kolla_mariadb.membership_diff() == {"state": {"old": "not running", "new": "Synced"}}


def test_members_tell_the_master_what_they_have(host, monkeypatch):
    assert kolla_mariadb.announce() is True
    assert host.mine["sent"] == "kolla_mariadb.lookup"
    monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": "cmp1", "test": False})
    assert kolla_mariadb.announce() is False


def test_a_member_that_ends_instead_of_joining_is_an_error_with_its_last_state(host):
    host.state = "exited"
    with pytest.raises(CommandExecutionError, match="ended before it was in the cluster.*no answer"):
        kolla_mariadb.join(timeout=1)
