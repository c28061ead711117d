"""When a member of the database's cluster may be started, and how its data are made."""

from __future__ import annotations

import time
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


CLUSTER, OTHER = "6fd0308f-e735-11f1-9846-d6daaa1e013e", "7fd0308f-e735-11f1-9846-d6daaa1e013e"
VIEW = """my_uuid: d96ad9c3-e846-11f1-9fbb-6f438365f2fa
#vwbeg
view_id: 3 d8e14d34-e846-11f1-9ac3-66df2fbfd8fa 10
bootstrap: 0
member: d8e14d34-e846-11f1-9ac3-66df2fbfd8fa 0
member: d96ad9c3-e846-11f1-9fba-6f438365f2fa 0
#vwend
"""
NOW = 1_000_000.0


def own(**facts):
    return {
        "host": "ctl1", "data": False, "running": False, "one_shot": False, "safe_to_bootstrap": False, "uuid": CLUSTER,
        "seqno": 10, "written": NOW - 100,
    } | facts  # fmt: skip


def nothing(*hosts, ago=5):
    return {host: {"data": False, "time": NOW - ago} for host in hosts}


def decide(mine, others=("ctl2", "ctl3"), answering=(), known=None, primary=True, now=None):
    return galera.decide(mine, others, answering, known or {}, primary, now)


def test_the_first_host_of_a_new_cluster_makes_the_database():
    assert decide(own()) == galera.BOOTSTRAP
    assert decide(own(), others=()) == galera.BOOTSTRAP
    assert decide(own(), known={"ctl2": {"data": False}}) == galera.BOOTSTRAP


def test_a_database_is_made_only_if_all_others_have_just_said_that_there_is_none():
    assert decide(own(), known=nothing("ctl2", "ctl3"), now=NOW) == galera.BOOTSTRAP
    for known in ({}, nothing("ctl2"), nothing("ctl2", "ctl3", ago=galera.EVIDENCE + 1)):
        with pytest.raises(galera.GaleraError, match="ctl3 did not say lately that there is none"):
            decide(own(), known=known, now=NOW)


def test_other_hosts_never_make_a_database():
    assert decide(own(), primary=False, known=nothing("ctl2", "ctl3"), now=NOW) == galera.JOIN
    assert decide(own(), primary=False, answering=["ctl1"]) == galera.JOIN
    assert decide(own(joining=True), primary=False, answering=["ctl1"]) == galera.RUN


def test_a_replaced_first_host_joins_the_cluster_that_answers():
    assert decide(own(), answering=["ctl3"], known={"ctl2": {"data": True}}) == galera.JOIN


def test_a_replaced_first_host_makes_no_second_cluster_when_nobody_answers():
    with pytest.raises(galera.GaleraError, match="ctl3 had one when last heard of.*mariadb-recovery"):
        decide(own(), known={"ctl2": {"data": False}, "ctl3": {"data": True}})


def test_a_member_with_data_is_simply_started_if_there_is_a_cluster_or_it_is_alone():
    assert decide(own(data=True), answering=["ctl2"]) == galera.RUN
    assert decide(own(data=True, running=True)) == galera.RUN
    assert decide(own(data=True), others=()) == galera.RUN


def test_a_start_that_was_cut_off_is_continued():
    assert decide(own(data=True, one_shot=True, uuid=None)) == galera.RUN
    assert decide(own(data=True, one_shot=True, safe_to_bootstrap=True)) == galera.RUN


def test_a_first_start_that_is_long_past_is_not_repeated():
    assert decide(own(data=True, one_shot=True, safe_to_bootstrap=True), answering=["ctl2"]) == galera.TIDY
    assert decide(own(data=True, one_shot=True)) == galera.TIDY


def test_a_stopped_cluster_is_started_by_the_member_that_left_last_and_by_no_other():
    assert decide(own(data=True, safe_to_bootstrap=True)) == galera.REVIVE
    assert decide(own(data=True, safe_to_bootstrap=True), primary=False) == galera.REVIVE
    with pytest.raises(galera.GaleraError, match="was not the last member to leave.*mariadb-recovery"):
        decide(own(data=True))


@pytest.mark.parametrize(
    "later",
    [
        {"running": True, "uuid": CLUSTER, "seqno": -1},
        {"running": False, "uuid": CLUSTER, "seqno": 11},
        {"running": False, "uuid": OTHER, "seqno": 3},
    ],
)
def test_a_cluster_that_went_on_elsewhere_is_not_started_a_second_time(later):
    mine = own(data=True, safe_to_bootstrap=True)
    known = {"ctl2": {"data": True, "time": NOW, **later}}
    with pytest.raises(galera.GaleraError, match="ctl2 said after that.*would make a second one"):
        decide(mine, known=known)
    known["ctl2"]["time"] = NOW - 200  # before this member, the last one, left
    assert decide(mine, known=known) == galera.REVIVE


def test_what_others_said_when_they_had_stopped_is_no_obstacle():
    known = {"ctl2": {"data": True, "time": NOW, "running": False, "uuid": CLUSTER, "seqno": 9}}
    assert decide(own(data=True, safe_to_bootstrap=True), known=known) == galera.REVIVE


@pytest.mark.parametrize("action", [galera.BOOTSTRAP, galera.REVIVE, galera.JOIN, galera.TIDY])
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
    new = galera.parse_state("uuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\n")
    assert new["uuid"] is None
    made = galera.parse_state(galera.format_state(CLUSTER))
    assert made == {"uuid": CLUSTER, "seqno": -1, "safe_to_bootstrap": True}


def test_the_last_cluster_is_read_by_names_that_survive_a_start():
    view = galera.parse_view(VIEW)
    assert view["own"] == "d96ad9c3-e846-11f1-6f438365f2fa"
    assert view["own"] in view["members"] and len(view["members"]) == 2
    assert galera.parse_view("") is None
    assert galera.parse_view("my_uuid: 1-2-3-4-5\n") is None


@pytest.mark.parametrize(
    ("line", "position"),
    [
        (f"[Note] WSREP: Recovered position: {CLUSTER}:17", (CLUSTER, 17)),
        (f"[Note] WSREP: Recovered position: {CLUSTER}:17,0-1-24", (CLUSTER, 17)),
        ("[Note] WSREP: Recovered position: 00000000-0000-0000-0000-000000000000:-1", None),
    ],
)
def test_the_position_that_the_server_recovers_is_read(line, position):
    assert galera.parse_position(f"starting\n{line}\nshut down\n") == position


def test_a_server_that_recovers_no_position_is_an_error():
    with pytest.raises(galera.GaleraError, match="no recovered position"):
        galera.parse_position("InnoDB: page 17 is corrupt")


# --- when a member may be stopped -------------------------------------------------------------------------------------


def server(state="Synced", cluster="Primary", uuid=CLUSTER):
    return {"state": state, "cluster": cluster, "uuid": uuid, "size": 3, "committed": 5, "ready": True}


def obstacles(mine, **others):
    return galera.stop_obstacles("ctl1", mine, others)


def test_a_member_of_three_may_be_stopped_only_if_both_others_are_synced():
    assert obstacles(server(), ctl2=server(), ctl3=server()) == []
    (said,) = obstacles(server(), ctl2=server(), ctl3=None)
    assert "only 1 of 3" in said and "ctl3 (no answer)" in said and "mariadb-recovery" in said
    (said,) = obstacles(server(), ctl2=server(), ctl3=server("Initialized", "non-Primary"))
    assert "ctl3 (non-Primary, Initialized)" in said
    (said,) = obstacles(server(), ctl2=server(), ctl3=server(uuid=OTHER))
    assert "ctl3 (in another cluster)" in said


@pytest.mark.parametrize("state", ["Donor/Desynced", "Joiner", "Joined"])
def test_nobody_is_stopped_while_data_are_on_their_way(state):
    (said,) = obstacles(server(), ctl2=server(state), ctl3=server())
    assert f"ctl2 is {state}" in said
    assert "ctl1 is Donor/Desynced" in obstacles(server("Donor/Desynced"), ctl2=server(), ctl3=server())[0]


def test_a_member_that_serves_nobody_may_be_stopped():
    assert obstacles(None, ctl2=None, ctl3=None) == []
    assert obstacles(server("Initialized", "non-Primary"), ctl2=None, ctl3=None) == []


def test_the_only_member_may_be_stopped():
    assert obstacles(server()) == []
    assert obstacles(server("Donor/Desynced")) == []


def test_groups_of_other_sizes():
    assert obstacles(server(), ctl2=server()) == []
    assert obstacles(server(), ctl2=None)
    five = {"ctl2": server(), "ctl3": server(), "ctl4": server(), "ctl5": None}
    assert obstacles(server(), **five) == []
    assert obstacles(server(), **five | {"ctl4": None})


def test_a_servers_status_is_read():
    rows = [("WSREP_CLUSTER_STATUS", "Primary"), ("wsrep_local_state_comment", "Synced"), ("wsrep_cluster_size", "3"),
            ("wsrep_cluster_state_uuid", CLUSTER), ("wsrep_last_committed", "0"), ("wsrep_ready", "ON")]  # fmt: skip
    found = galera.read_status(rows)
    assert found == {
        "cluster": "Primary", "state": "Synced", "size": 3, "uuid": CLUSTER, "committed": 0, "ready": True,
    }  # fmt: skip
    assert galera.is_synced(found)
    assert not galera.is_primary(galera.read_status([]))


# --- the module, on a host whose engine is a directory ----------------------------------------------------------------


class Host:
    """A host of the group: its engine keeps volumes below a directory and knows how to make a database."""

    def __init__(self, directory: Path) -> None:
        self.volumes = directory / "volumes"
        self.state = "absent"
        self.mine: dict = {}
        self.runs: list[dict] = []
        self.fails = False
        self.stopped: list[int] = []
        self.output = ""

    @property
    def data(self) -> Path:
        return self.volumes / "mariadb"

    def inspect(self, name):
        return None if self.state == "absent" else {"state": self.state, "started_at": "now"}

    def stop(self, name, timeout):
        self.stopped.append(timeout)
        self.state = "exited (0)"
        return True

    def volume_path(self, name):
        return str(self.volumes / name) if (self.volumes / name).is_dir() else None

    def run(self, name, timeout, **spec):
        self.runs.append({"name": name, **spec})
        if name == "recover_mariadb":
            return {"exit_status": 0, "output": self.output}
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
        "kolla_container.inspect": found.inspect,
        "kolla_container.stop": found.stop,
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
    monkeypatch.setattr(kolla_mariadb, "JOINING", tmp_path / "lib" / "joins")
    monkeypatch.setattr(kolla_mariadb, "SEEN", tmp_path / "lib" / "seen")
    found.mine = {name: {"data": False, "time": time.time()} for name in HOSTS if name != "ctl1"}
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


@pytest.mark.parametrize("hosts", [["ctl1"], [*HOSTS]])
def test_a_host_whose_volume_of_the_database_is_gone_gets_no_empty_one_in_its_place(host, monkeypatch, hosts):
    """A disk that was not mounted after a reboot: the cloud would come up with nothing in it."""
    monkeypatch.setattr(kolla_mariadb, "_others", lambda: [name for name in hosts if name != "ctl1"])
    kolla_mariadb.prepare()
    kolla_mariadb.announce()
    gone = host.data.with_name("not-mounted")
    host.data.rename(gone)
    kolla_mariadb.announce()  # as each run does
    host.mine.pop("sent")
    with pytest.raises(CommandExecutionError, match=f"it had one in {host.data}; found none.*Mount the disk.*remove"):
        kolla_mariadb.preparation_diff()
    with pytest.raises(CommandExecutionError, match="it had one in"):
        kolla_mariadb.prepare()
    assert len(host.runs) == 1
    gone.rename(host.data)
    assert kolla_mariadb.preparation_diff() == {}
    host.data.rename(gone)
    kolla_mariadb.SEEN.unlink()
    kolla_mariadb.prepare()
    assert len(host.runs) == 2


@pytest.fixture
def silent(host, monkeypatch):
    """An engine that answers only when ``silent`` is called with True."""
    functions = dict(kolla_mariadb.__salt__)

    def refuse(*args, **kwargs):
        raise CommandExecutionError("no answer from the container engine")

    def answer(answers):
        gone = {name: refuse for name in functions if name.startswith("kolla_container.")}
        monkeypatch.setattr(kolla_mariadb, "__salt__", functions if answers else functions | gone)

    return answer


@pytest.mark.parametrize("hosts", [["ctl1"], [*HOSTS]])
def test_data_that_an_engine_does_not_tell_of_are_there_when_it_answers_again(host, silent, monkeypatch, hosts):
    """An engine that was killed during an upgrade was taken for a bare host: the next run made a new database."""
    monkeypatch.setattr(kolla_mariadb, "_others", lambda: [name for name in hosts if name != "ctl1"])
    (host.data / "mysql").mkdir(parents=True)
    silent(False)
    with pytest.raises(CommandExecutionError, match="did not answer.*a new database is only made where there are none"):
        kolla_mariadb.prepare()
    assert not kolla_mariadb.UNFINISHED.exists()
    silent(True)
    host.state = "running"
    assert kolla_mariadb.prepare() == ""
    assert host.runs == [] and (host.data / "mysql").is_dir()


def test_what_somebody_has_in_a_database_is_not_what_an_attempt_left_behind(host):
    for name in ("mysql", "sys", "keystone"):
        (host.data / name).mkdir(parents=True)
        (host.data / name / "db.opt").touch()
    kolla_mariadb.UNFINISHED.parent.mkdir()
    kolla_mariadb.UNFINISHED.touch()
    assert kolla_mariadb.lookup()["data"] is True
    with pytest.raises(CommandExecutionError, match="databases of services, expected none, so nothing was removed"):
        kolla_mariadb._bootstrap()
    kolla_mariadb.UNFINISHED.unlink()
    with pytest.raises(CommandExecutionError, match="there is one, expected none, so nothing was done"):
        kolla_mariadb._bootstrap()
    assert host.runs == [] and (host.data / "keystone" / "db.opt").exists()


def test_a_member_whose_engine_did_not_answer_has_not_said_that_it_has_no_data(host):
    host.mine["ctl2"]["known"] = False
    with pytest.raises(CommandExecutionError, match="ctl2 did not say lately that there is none either"):
        kolla_mariadb.prepare()
    host.mine["ctl2"]["known"] = True
    assert kolla_mariadb.prepare() == "a new database was made"


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
    host.mine["ctl2"]["data"] = True
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


def test_a_database_is_predicted_but_not_made_while_the_others_have_said_nothing(host):
    host.mine = {}
    assert kolla_mariadb.preparation_diff()["data"]["new"] == "a new, empty database"
    with pytest.raises(CommandExecutionError, match="ctl2, ctl3 did not say lately"):
        kolla_mariadb.prepare()
    assert host.runs == []


def test_members_on_other_hosts_get_their_data_from_the_first_one(host, monkeypatch):
    monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": "ctl2", "test": False})
    monkeypatch.setattr(kolla_mariadb, "TURN", 0.0)
    assert kolla_mariadb.preparation_diff()["data"]["new"] == "all data, from another member"
    kolla_mariadb.prepare()
    assert host.runs == []
    assert not host.data.exists()
    assert kolla_mariadb.preparation_diff() == {}


def test_a_member_waits_for_those_before_it(host, monkeypatch):
    monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": "ctl3", "test": False})
    monkeypatch.setattr(kolla_mariadb, "TURN", 1.5)
    began = time.monotonic()
    kolla_mariadb.prepare()
    assert time.monotonic() - began > 1.5


def test_a_first_start_that_is_long_past_is_tidied_up(host):
    (host.data / "mysql").mkdir(parents=True)
    (host.data / "grastate.dat").write_text(GRASTATE.format(seqno=-1, safe=0))
    (host.data / galera.ONE_SHOT).write_text(galera.ONE_SHOT_TEXT)
    assert "start" in kolla_mariadb.preparation_diff()
    kolla_mariadb.prepare()
    assert not (host.data / galera.ONE_SHOT).exists()


def test_all_that_is_known_of_a_member(host):
    (host.data / "mysql").mkdir(parents=True)
    (host.data / "grastate.dat").write_text(GRASTATE.format(seqno=-1, safe=0))
    (host.data / "gvwstate.dat").write_text(VIEW)
    host.state = "restarting (1)"
    found = kolla_mariadb.examine()
    assert (found["data"], found["running"], found["server"], found["reached"]) == (True, True, None, [])
    assert found["view"]["own"] in found["view"]["members"]
    assert abs(found["time"] - time.time()) < 5 and found["written"] > 0


def test_the_position_is_found_out_by_the_server_itself_once_it_is_stopped(host):
    host.state = "running"
    with pytest.raises(CommandExecutionError, match="container mariadb runs"):
        kolla_mariadb.position()
    assert kolla_mariadb.halt() is True
    assert host.stopped == [3], "a server that does not answer is not waited for"
    host.output = f"WSREP: Recovered position: {CLUSTER}:42"
    assert kolla_mariadb.position() == {"uuid": CLUSTER, "seqno": 42}
    (run,) = host.runs
    assert "--wsrep-recover" in run["command"][-1]
    assert "mariadb:/var/lib/mysql" in run["volumes"]
    host.output = "no such luck"
    with pytest.raises(CommandExecutionError, match="no recovered position"):
        kolla_mariadb.position()


def test_a_member_that_discards_its_data_keeps_them_until_it_gets_others(host):
    (host.data / "mysql").mkdir(parents=True)
    (host.data / "grastate.dat").write_text(GRASTATE.format(seqno=4, safe=1))
    (host.data / "gvwstate.dat").write_text(VIEW)
    assert kolla_mariadb.discard() is True
    found = kolla_mariadb.lookup()
    assert (found["uuid"], found["view"], found["data"]) == (None, None, True)
    assert (host.data / "grastate.dat.discarded").exists()
    assert kolla_mariadb.discard() is False


def test_a_cluster_is_not_revived_without_data_or_beside_a_server(host):
    with pytest.raises(CommandExecutionError, match="it has none"):
        kolla_mariadb.revive()
    (host.data / "mysql").mkdir(parents=True)
    host.state = "running"
    with pytest.raises(CommandExecutionError, match="container mariadb runs"):
        kolla_mariadb.revive()


def test_a_revived_member_is_allowed_to_be_the_first_one(host, monkeypatch):
    (host.data / "mysql").mkdir(parents=True)
    host.state = "exited (137)"
    started = {"kolla_container.start": lambda name: setattr(host, "state", "exited (1)")}
    monkeypatch.setattr(kolla_mariadb, "__salt__", kolla_mariadb.__salt__ | started)
    with pytest.raises(CommandExecutionError, match="ended before it was in the cluster"):
        kolla_mariadb.revive(uuid=CLUSTER)
    found = kolla_mariadb.lookup()
    assert (found["uuid"], found["seqno"], found["safe_to_bootstrap"], found["one_shot"]) == (CLUSTER, -1, True, True)


def test_a_member_without_container_is_the_deployments_task(host):
    with pytest.raises(CommandExecutionError, match="kolla-salt deploy --limit ctl1"):
        kolla_mariadb.rejoin()


@pytest.fixture
def leaving(host, monkeypatch):
    """Return what tells when members leave that are stopped at second 0, while the others of three go on."""
    host.state, clock = "running", [0.0]
    monkeypatch.setattr(kolla_mariadb.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(kolla_mariadb.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def leave(*names):
        left: dict[str, float] = {}

        def ask(server):
            # A member has left two seconds after it was let go.
            gone = [name for name, when in left.items() if when + 2 <= clock[0]]
            return {"cluster": "Primary", "state": "Synced", "size": len(HOSTS) - len(gone)}

        monkeypatch.setattr(kolla_mariadb, "_ask_once", ask)
        for name in reversed(names):
            monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": name, "test": False})
            clock[0] = 0.0
            kolla_mariadb.let_others_leave()
            left[name] = clock[0]
        return left

    return leave


def test_members_that_are_stopped_together_leave_one_after_the_other(leaving):
    left = leaving("ctl1", "ctl2", "ctl3")
    assert left["ctl3"] == 0 and left["ctl2"] < 3 and left["ctl2"] + 2 <= left["ctl1"] < 6


def test_members_leave_one_after_the_other_also_where_one_stays(leaving):
    left = leaving("ctl1", "ctl2")
    assert left["ctl2"] + 2 <= left["ctl1"]


def test_a_member_that_comes_and_goes_is_not_waited_for(host, leaving, monkeypatch):
    sizes = iter([3, 2] * 1000)
    monkeypatch.setattr(kolla_mariadb, "_ask_once", lambda server: {"cluster": "Primary", "size": next(sizes)})
    assert kolla_mariadb.let_others_leave() in (2, 3)
    assert kolla_mariadb.time.monotonic() < 30


def test_a_member_that_refuses_our_account_is_stopped_nevertheless(host, monkeypatch):
    host.state = "running"

    def refuse(server):
        raise kolla_mariadb.database.DatabaseError("access denied")

    monkeypatch.setattr(kolla_mariadb, "_ask_once", refuse)
    assert kolla_mariadb.let_others_leave() == 0


def test_a_stopped_or_lonely_member_has_no_obstacles_to_being_stopped(host):
    assert kolla_mariadb.stop_obstacles() == []
    host.state = "running"
    assert kolla_mariadb.stop_obstacles() == []


def test_a_bare_host_can_be_predicted(host, monkeypatch):
    def refuse(*args):
        raise CommandExecutionError("no engine")

    broken = kolla_mariadb.__salt__ | {"kolla_container.state": refuse, "kolla_container.volume_path": refuse}
    monkeypatch.setattr(kolla_mariadb, "__salt__", broken)
    assert "data" in kolla_mariadb.preparation_diff()
    assert kolla_mariadb.membership_diff() == {"state": {"old": "not running", "new": "Synced"}}


def test_members_tell_the_master_what_they_have(host, silent, monkeypatch):
    silent(False)
    assert kolla_mariadb.announce() is False
    assert "sent" not in host.mine
    silent(True)
    assert kolla_mariadb.announce() is True
    assert host.mine["sent"] == "kolla_mariadb.lookup"
    monkeypatch.setattr(kolla_mariadb, "__opts__", {"id": "cmp1", "test": False})
    assert kolla_mariadb.announce() is False


def test_a_member_that_ends_instead_of_joining_is_an_error_with_its_last_state(host):
    host.state = "exited"
    with pytest.raises(CommandExecutionError, match="ended before it was in the cluster.*no answer"):
        kolla_mariadb.join(timeout=1)
