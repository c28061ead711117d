"""How a stopped database cluster comes back: the next step from facts, and whole recoveries of simulated members.

The members here keep Galera's rules as far as they matter: a change of the membership counts as a transaction, the
member that leaves last says so, a crash loses the number of the last transaction until the server recovers it, and a
member that is ahead of the cluster cannot join it.
"""

from __future__ import annotations

import json
import time

import pytest

from kolla_salt import galera, recovery, runs

ORDER = ["ctl1", "ctl2", "ctl3"]
CLUSTER, OTHER = "11111111-e735-11f1-9846-d6daaa1e013e", "22222222-e735-11f1-9846-d6daaa1e013e"


class Member:
    """A member's host: its data, its container, and whether its minion answers."""

    def __init__(self, name: str, seqno: int = 0) -> None:
        self.name, self.seqno = name, seqno
        self.uuid: str | None = CLUSTER
        self.data = self.answers = self.engine = True
        self.container = "running"
        self.state = "down"  # down, waiting, member, zombie
        self.clean: int = -1
        self.safe = self.one_shot = self.forgotten = self.broken = False
        self.view: list[str] | None = None
        self.written = 0.0


class Cluster:
    """All members, the master's memory of them, and what is asked of them, by the names of the real functions."""

    def __init__(self) -> None:
        self.members = {name: Member(name) for name in ORDER}
        self.log: list[str] = []
        self.mine: dict[str, dict] = {}
        self.now = 1000.0
        self.heals_after: float | None = None
        self.interrupt_at: str | None = None
        self.refuses_own_data: set[str] = set()
        self.form(ORDER)

    # --- what happens to members ---

    def form(self, names):
        """Let members be a cluster."""
        top = max(self.members[name].seqno for name in names) + 1
        for name in names:
            member = self.members[name]
            member.state, member.container, member.seqno, member.clean = "member", "running", top, -1
            member.uuid, member.safe, member.view, member.data = self.uuid_of(names), len(names) == 1, list(names), True
            member.forgotten = False

    def uuid_of(self, names):
        return next(self.members[name].uuid for name in names if self.members[name].uuid)

    @property
    def running(self):
        return [name for name, member in self.members.items() if member.state == "member"]

    def write(self, count):
        for name in self.running:
            self.members[name].seqno += count

    def stop(self, name):
        """A member leaves in order."""
        member = self.members[name]
        if member.state == "member":
            member.clean, member.safe = member.seqno, len(self.running) == 1
            member.view, member.written = None, self.now
            self.now += 1
        member.state, member.container = "down", "exited (0)"
        if self.running:
            self.form(self.running)

    def kill(self, *names, container="running"):
        """Members die; the engine starts them again, and they look for each other."""
        left = [name for name in self.running if name not in names]
        for name in names:
            self.members[name].state = "waiting" if container == "running" else "down"
            self.members[name].container = container
        # Galera goes on with the majority of the last cluster.
        if left and len(left) * 2 > len(left) + len(names):
            self.form(left)
        else:
            for name in left:
                self.members[name].state = "waiting"

    def announce(self, name):
        self.mine[name] = {key: value for key, value in self.facts(name).items() if key not in ("server", "reached")}

    def restart(self, name):
        """The engine starts a member as it is: it looks for the others."""
        self.members[name].container, self.members[name].state = "running", "waiting"

    # --- what the recovery may do ---

    def facts(self, name):
        member = self.members[name]
        serving = member.state in ("member", "zombie")
        primary = member.state == "member"
        nothing = {"known": False, "data": False, "container": "absent", "running": False, "uuid": None, "seqno": -1}
        return {
            "host": name, "time": self.now, "known": True, "data": member.data, "container": member.container,
            "running": member.container.startswith(("running", "restarting")), "one_shot": member.one_shot,
            "joining": False, "written": member.written, "uuid": None if member.forgotten else member.uuid,
            "seqno": member.clean, "safe_to_bootstrap": member.safe,
            "view": {"own": name, "members": member.view} if member.view else None,
            "server": {
                "cluster": "Primary" if primary else "Disconnected", "state": "Synced" if primary else "Initialized",
                "size": len(self.running) if primary else 0, "uuid": member.uuid, "committed": member.seqno,
                "ready": primary,
            } if serving else None,
            "reached": [
                other.name for other in self.members.values() if other.name != name and other.state != "down"
            ],
        } | ({} if member.engine else nothing | {"view": None, "server": None})  # fmt: skip

    def ask(self, hosts, function, **kwargs):
        if function == "mine.get":
            return {hosts[0]: {name: self.mine[name] for name in kwargs["tgt"].split(",") if name in self.mine}}
        if function == "kolla_container.start":
            self.log += [f"start {host}" for host in hosts]
            return {host: self.restart(host) for host in hosts}
        name = function.removeprefix("kolla_mariadb.")
        answers = {}
        for host in hosts:
            assert self.members[host].answers, f"{function} was asked of {host}, which does not answer"
            if name != "examine":
                self.log.append(f"{name} {host}" + (" full" if kwargs.get("full") else ""))
            try:
                answers[host] = getattr(self, f"do_{name}")(self.members[host], **kwargs)
            except RuntimeError as error:
                answers[host] = f"ERROR: {error}"
            if self.interrupt_at == f"{name} {host}":
                self.interrupt_at = None
                raise KeyboardInterrupt
        return answers

    def present(self, hosts):
        return [host for host in hosts if self.members[host].answers]

    def do_examine(self, member):
        return self.facts(member.name)

    def do_halt(self, member):
        self.stop(member.name)
        return True

    def do_position(self, member):
        assert member.container != "running", "the server would be disturbed"
        if member.broken:
            raise RuntimeError("page 17 is corrupt")
        return {"uuid": member.uuid, "seqno": member.seqno} if member.uuid else None

    def do_discard(self, member):
        assert member.container != "running"
        member.forgotten, member.clean, member.view = True, -1, None
        return True

    def do_revive(self, member, uuid=None):
        assert not self.running, "a second cluster"
        assert uuid in (None, member.uuid)
        member.one_shot = False
        self.form([member.name])
        return "Synced"

    def do_rejoin(self, member, full=False):
        assert self.running, "there is nothing to join"
        if member.container == "absent":
            raise RuntimeError("there is no container mariadb")
        top = self.members[self.running[0]].seqno
        foreign = member.uuid != self.uuid_of(self.running)
        own = member.data and not full and not member.forgotten and not foreign
        if own and (member.seqno > top or member.name in self.refuses_own_data):
            member.state, member.container = "zombie", "running"
            raise RuntimeError("it gave up")
        member.uuid, member.seqno = self.uuid_of(self.running), top
        self.form([*self.running, member.name])
        return "Synced"

    def do_settle(self, member):
        member.one_shot = False
        return True

    def sleep(self, seconds):
        self.now += seconds
        if self.heals_after is not None and self.now >= self.heals_after:
            self.form([name for name, member in self.members.items() if member.state == "waiting"])
            self.heals_after = None


@pytest.fixture
def cluster():
    made = Cluster()
    for name in ORDER:
        made.announce(name)
    made.write(10)
    return made


def recover(cluster, **options):
    return recovery.Recovery(
        order=ORDER, ask=cluster.ask, present=cluster.present, clock=lambda: cluster.now, sleep=cluster.sleep, **options
    ).run()


def whole(result):
    return result["ok"] and result["size"] == 3 and set(result["members"].values()) == {"Synced"}


# --- everything comes back --------------------------------------------------------------------------------------------


def test_a_cluster_that_runs_is_left_alone(cluster):
    result = recover(cluster)
    assert whole(result)
    assert (cluster.log, result["bootstrapped"], result["steps"]) == ([], None, [])


def test_members_that_find_each_other_after_a_crash_are_given_the_time(cluster):
    cluster.kill(*ORDER)
    cluster.heals_after = cluster.now + 20
    result = recover(cluster)
    assert whole(result)
    assert (cluster.log, result["bootstrapped"]) == ([], None)
    assert 20 <= result["waited"] < 25


def test_members_that_do_not_find_each_other_are_stopped_read_and_started_from_the_best(cluster):
    cluster.kill(*ORDER)
    cluster.members["ctl2"].seqno += 3
    result = recover(cluster, patience=10)
    assert whole(result)
    assert result["bootstrapped"] == "ctl2"
    assert cluster.log == [
        "halt ctl1", "halt ctl2", "halt ctl3", "position ctl1", "position ctl2", "position ctl3", "revive ctl2",
        "rejoin ctl1", "rejoin ctl3",
    ]  # fmt: skip
    assert result["positions"]["ctl2"] == f"{CLUSTER}:14"
    assert result["lost"] == []


def test_there_is_no_waiting_where_members_cannot_find_each_other(cluster):
    cluster.kill(*ORDER)
    cluster.kill("ctl3", container="exited (137)")
    result = recover(cluster)
    assert whole(result)
    assert result["waited"] == 0


def test_members_that_stopped_one_after_the_other_start_from_the_one_that_left_last(cluster):
    for name in ("ctl1", "ctl3", "ctl2"):
        cluster.stop(name)
    result = recover(cluster)
    assert whole(result)
    assert cluster.log == ["revive ctl2", "rejoin ctl1", "rejoin ctl3"]


@pytest.mark.parametrize("safe", ORDER)
def test_of_equal_members_the_one_that_left_last_is_taken(cluster, safe):
    for member in cluster.members.values():
        member.state, member.container, member.clean, member.safe = "down", "exited (0)", 20, member.name == safe
    assert recover(cluster)["bootstrapped"] == safe


def test_of_equal_members_the_first_of_the_site_is_taken(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    assert recover(cluster)["bootstrapped"] == "ctl1"


def test_a_member_that_is_away_is_brought_in(cluster):
    cluster.kill("ctl1", container="exited (137)")
    result = recover(cluster)
    assert whole(result)
    assert (cluster.log, result["bootstrapped"]) == (["rejoin ctl1"], None)


def test_a_member_that_fails_with_its_own_data_gets_all_of_them_anew(cluster):
    cluster.kill("ctl3", container="exited (137)")
    cluster.write(5)
    cluster.refuses_own_data = {"ctl3"}
    result = recover(cluster)
    assert whole(result)
    assert cluster.log == ["rejoin ctl3", "halt ctl3", "position ctl3", "rejoin ctl3 full"]


def test_data_that_the_running_cluster_lacks_are_not_thrown_away(cluster):
    cluster.kill("ctl3", container="exited (137)")
    cluster.members["ctl3"].seqno += 100
    result = recover(cluster)
    assert not result["ok"] and result["size"] == 2
    assert "ctl3 has transactions that the running cluster lacks" in result["problems"][0]
    assert "--from ctl1" in result["problems"][0]
    assert "rejoin ctl3 full" not in cluster.log
    result = recover(cluster, chosen="ctl1")
    assert whole(result)
    assert result["lost"] == ["what ctl3 has and ctl1 lacks"]


def test_a_host_without_container_is_named_and_does_not_keep_the_others(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    cluster.members["ctl1"].data, cluster.members["ctl1"].container = False, "absent"
    cluster.members["ctl1"].uuid = None
    result = recover(cluster)
    assert (result["bootstrapped"], result["size"], result["ok"]) == ("ctl2", 2, False)
    assert result["problems"] == ["ctl1: there is no container mariadb"]
    assert result["error"] is None


def test_a_member_without_data_gets_them_from_the_others(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    fresh = cluster.members["ctl1"]
    fresh.data, fresh.uuid, fresh.seqno = False, None, 0
    result = recover(cluster)
    assert whole(result)
    assert result["bootstrapped"] == "ctl2"


def test_a_member_that_would_start_alone_the_next_time_does_not_any_more(cluster):
    cluster.members["ctl1"].one_shot = True
    result = recover(cluster)
    assert whole(result)
    assert cluster.log == ["settle ctl1"]


def test_a_database_that_was_never_in_a_cluster_is_started_if_it_is_the_only_one(cluster):
    for member in cluster.members.values():
        member.state, member.container, member.uuid, member.data = "down", "exited (0)", None, member.name == "ctl1"
    cluster.members["ctl1"].uuid = None
    cluster.uuid_of = lambda names: CLUSTER
    result = recover(cluster)
    assert result["bootstrapped"] == "ctl1"
    assert whole(result)


@pytest.mark.parametrize(
    "moment",
    ["halt ctl1", "halt ctl3", "position ctl2", "revive ctl2", "rejoin ctl1", "rejoin ctl3"],
)
def test_the_same_command_goes_on_after_an_interruption(cluster, moment):
    cluster.kill(*ORDER)
    cluster.members["ctl2"].seqno += 3
    cluster.interrupt_at = moment
    with pytest.raises(KeyboardInterrupt):
        recover(cluster, patience=3)
    assert cluster.interrupt_at is None, "the moment never came"
    result = recover(cluster, patience=3)
    assert whole(result)
    assert cluster.log.count("revive ctl2") == 1


# --- what is refused --------------------------------------------------------------------------------------------------


def silence(cluster, name):
    cluster.members[name].answers = False
    cluster.members[name].state = "down"


def test_a_silent_member_of_the_last_cluster_may_be_more_advanced(cluster):
    cluster.kill(*ORDER)
    silence(cluster, "ctl3")
    result = recover(cluster, patience=2)
    assert not result["ok"]
    assert "ctl3 does not answer, and may be more advanced than ctl1" in result["error"]
    assert "its database ran" in result["error"] and "--without ctl3" in result["error"]
    assert not any(entry.startswith("revive") for entry in cluster.log)


def test_so_may_one_whose_engine_does_not_answer_though_it_seems_to_have_no_data(cluster):
    cluster.kill(*ORDER)
    cluster.members["ctl3"].engine, cluster.members["ctl3"].state = False, "down"
    result = recover(cluster, patience=2)
    assert not result["ok"]
    assert "ctl3 does not answer, and may be more advanced than ctl1" in result["error"]
    assert not any(entry.startswith("revive") for entry in cluster.log)


def test_what_was_stopped_for_a_refusal_waits_for_the_silent_host_again(cluster):
    cluster.kill(*ORDER)
    silence(cluster, "ctl3")
    result = recover(cluster, patience=2)
    assert cluster.log == ["halt ctl1", "halt ctl2", "position ctl1", "position ctl2", "start ctl1", "start ctl2"]
    assert result["members"]["ctl1"] == "no answer: container running"
    cluster.members["ctl3"].answers = True
    cluster.restart("ctl3")
    cluster.heals_after = cluster.now + 5
    result = recover(cluster)
    assert whole(result)
    assert result["bootstrapped"] is None


def test_what_had_stopped_before_stays_stopped_after_a_refusal(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    silence(cluster, "ctl3")
    assert not recover(cluster)["ok"]
    assert not any(entry.startswith("start") for entry in cluster.log)


def test_it_can_be_given_up(cluster):
    cluster.kill(*ORDER)
    silence(cluster, "ctl3")
    result = recover(cluster, patience=2, without=["ctl3"])
    assert result["ok"] and result["size"] == 2
    assert result["unknown"] == ["ctl3"]
    assert "what ctl3 alone has" in result["lost"][0]


def test_a_silent_host_that_was_not_in_the_last_cluster_is_no_danger(cluster):
    cluster.kill("ctl3")
    cluster.write(5)
    silence(cluster, "ctl3")
    cluster.kill("ctl1", "ctl2")
    result = recover(cluster, patience=2)
    assert (result["size"], result["error"], result["ok"], result["lost"]) == (2, None, False, [])


def test_a_silent_host_is_no_danger_to_the_member_that_left_last(cluster):
    for name in ("ctl3", "ctl1", "ctl2"):
        cluster.stop(name)
    silence(cluster, "ctl3")
    result = recover(cluster)
    assert (result["bootstrapped"], result["size"], result["error"]) == ("ctl2", 2, None)


def test_a_silent_host_that_left_first_but_may_have_come_back_is_a_danger(cluster):
    cluster.stop("ctl3")
    cluster.announce("ctl3")
    cluster.form(ORDER)
    cluster.stop("ctl1")
    cluster.stop("ctl2")
    silence(cluster, "ctl3")
    assert "ctl3 does not answer, and may be more advanced" in recover(cluster)["error"]
    cluster.now += 10
    for member in cluster.members.values():
        member.clean = member.clean if member.name != "ctl3" else 11
    cluster.members["ctl3"].container = "exited (0)"
    cluster.announce("ctl3")
    assert recover(cluster)["bootstrapped"] == "ctl2"


def test_a_silent_host_without_data_is_no_danger(cluster):
    cluster.kill(*ORDER)
    silence(cluster, "ctl3")
    cluster.mine["ctl3"] |= {"data": False}
    assert recover(cluster, patience=2)["size"] == 2


def test_a_silent_host_of_which_nothing_is_known_is_a_danger(cluster):
    cluster.kill(*ORDER)
    silence(cluster, "ctl2")
    del cluster.mine["ctl2"]
    assert "nothing was ever heard of its database" in recover(cluster, patience=2)["error"]


def test_a_database_that_is_reached_is_not_left_behind_by_a_second_cluster(cluster):
    cluster.kill("ctl1", "ctl2")
    cluster.members["ctl3"].answers = False
    result = recover(cluster, patience=3)
    assert "ctl3 does not answer, but its database does" in result["error"]
    assert cluster.log == []
    assert recover(cluster, patience=3, without=["ctl3"])["size"] >= 2


def test_data_of_different_clusters_are_the_operators_choice(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    cluster.members["ctl2"].uuid, cluster.members["ctl2"].seqno = OTHER, 99
    result = recover(cluster)
    assert "2 different clusters" in result["error"] and f"ctl2 is at {OTHER}:99" in result["error"]
    result = recover(cluster, chosen="ctl1")
    assert whole(result)
    assert result["lost"] == [f"all that ctl2 has: it is at {OTHER}:99, which is another cluster"]


def test_a_less_advanced_member_can_be_chosen_and_what_is_lost_is_named(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    cluster.members["ctl2"].seqno += 7
    result = recover(cluster, chosen="ctl3")
    assert whole(result)
    assert result["bootstrapped"] == "ctl3"
    assert result["lost"] == [f"the last 7 transactions of ctl2, which is at {CLUSTER}:18"]
    assert cluster.log.index("discard ctl2") < cluster.log.index("revive ctl3")


def test_two_clusters_are_the_operators_choice(cluster):
    for name, other in (("ctl1", ["ctl1"]), ("ctl2", ["ctl2", "ctl3"])):
        cluster.members[name].view = other
    cluster.members["ctl3"].view = ["ctl2", "ctl3"]
    assert "there are 2 clusters of the database" in recover(cluster)["error"]
    assert cluster.log == []
    result = recover(cluster, chosen="ctl2")
    assert "halt ctl1" in cluster.log
    assert whole(result)
    assert "what ctl1 wrote by itself is lost" in result["lost"]


def test_data_that_cannot_be_read_are_not_ignored(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    cluster.members["ctl3"].broken = True
    assert "page 17 is corrupt" in recover(cluster)["error"]
    assert recover(cluster, without=["ctl3"])["size"] == 2


def test_no_data_anywhere(cluster):
    for member in cluster.members.values():
        member.data, member.state, member.container = False, "down", "absent"
    assert "nothing to recover. `kolla-salt deploy`" in recover(cluster)["error"]


def test_nobody_answers(cluster):
    for member in cluster.members.values():
        member.answers = False
    result = recover(cluster)
    assert "none of ctl1, ctl2, ctl3 answers" in result["error"]
    assert result["unknown"] == ORDER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"without": ["ctl9"]}, "ctl9 is no host of the group"),
        ({"chosen": "ctl1", "without": ["ctl1"]}, "both name ctl1"),
        ({"chosen": "ctl9"}, "ctl9 is no host of the group"),
    ],
)
def test_options_that_cannot_be_meant(cluster, options, said):
    assert said in recover(cluster, **options)["error"]


def test_a_member_without_data_cannot_be_chosen(cluster):
    cluster.kill(*ORDER, container="exited (137)")
    cluster.members["ctl2"].data = False
    assert "ctl2 has no data" in recover(cluster, chosen="ctl2")["error"]


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def recorded(cluster, tmp_path, site):
    made = recovery.Recovery(
        order=ORDER, ask=cluster.ask, present=cluster.present, clock=lambda: cluster.now, sleep=cluster.sleep
    )
    return recovery.recorded(made, tmp_path / "runs", site)


def test_a_recovery_leaves_a_record(cluster, tmp_path, site):
    cluster.kill(*ORDER, container="exited (137)")
    result = recorded(cluster, tmp_path, site)
    record = runs.load(result["run"], tmp_path / "runs")
    header, (step,) = record.header(), list(record.steps())
    assert (header["result"], header["bootstrapped"]) == ("ok", "ctl1")
    assert step["hosts"]["ctl1"]["changed"] == [
        "read positions: they did not stop in order", f"bootstrap: its data are at {CLUSTER}:11",
    ]  # fmt: skip
    assert json.dumps(result)


def test_a_refusal_is_recorded_as_failed(cluster, tmp_path, site):
    for member in cluster.members.values():
        member.answers = False
    result = recorded(cluster, tmp_path, site)
    header = runs.load(result["run"], tmp_path / "runs").header()
    assert header["result"] == "failed" and "none of ctl1" in header["error"]


def test_two_runs_do_not_change_the_same_hosts(cluster, tmp_path, site):
    runs.create("deploy", tmp_path / "runs", now=time.time())
    with pytest.raises(galera.GaleraError, match="is going on"):
        recorded(cluster, tmp_path, site)
    assert cluster.log == []
