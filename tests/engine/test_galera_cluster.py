"""Real MariaDB servers with Galera as three members on the loopback: how they start, join, crash and come back.

Here a container is a process, which is started again when it ends, as a container engine does it. Needs the packages
mariadb-server-core and galera-4, and Galera's script for rsync (mariadb-server).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pymysql
import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import config, database, declarations, galera, recovery
from kolla_salt.context import Resolver
from kolla_salt.modules import kolla_mariadb

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path("/usr/lib/galera/libgalera_smm.so")
NEEDED = ("mariadbd", "mariadb-install-db", "wsrep_sst_rsync", "rsync")
PASSWORD = "r00t-pw"
PREFIX = "/tmp/ksg-"  # short, for unix sockets
HOSTS = {"ctl1": "127.0.0.31", "ctl2": "127.0.0.32", "ctl3": "127.0.0.33"}
PORTS = {"mariadb_port": 33306, "mariadb_wsrep_port": 34567, "mariadb_ist_port": 34568, "mariadb_sst_port": 34444}

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or not LIBRARY.exists() or not all(map(shutil.which, NEEDED)),
        reason=f"needs root, galera-4 and {', '.join(NEEDED)}",
    ),
]


def _user() -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("mysql").pw_name
    return "nobody"


class Host:
    """A host with an engine that knows one container."""

    def __init__(self, base: Path, name: str, site: dict) -> None:
        self.name, self.base = name, base / name
        self.data = self.base / "mariadb"
        self.base.mkdir()
        shutil.chown(self.base, _user())
        self.options = self.base / "my.cnf"
        self.log = self.base / "log"
        self.errors = (self.base / "errors").open("ab")
        resolver = Resolver(declarations.load(), site, name)
        text = config.render(resolver, "mariadb", "mariadb", "galera.cnf").content
        text = text.replace("/var/lib/mysql/", f"{self.data}/").replace(
            "/var/log/kolla/mariadb/mariadb.log", str(self.log)
        )
        self.options.write_text(
            f"{text}\n[mysqld]\nuser = {_user()}\nsocket = {self.base}/s\nlog_error = {self.log}\n"
            'wsrep_provider_options = "gmcast.listen_addr=tcp://{0}:{1};ist.recv_addr={0}:{2};gcache.size=16M"\n'
            f"!include {self.data}/{galera.ONE_SHOT}\n".replace("{0}", HOSTS[name])
            .replace("{1}", str(PORTS["mariadb_wsrep_port"]))
            .replace("{2}", str(PORTS["mariadb_ist_port"]))
        )
        self.pillar, self.context = {"kolla": site}, {}
        self.thread: threading.Thread | None = None
        self.process: subprocess.Popen | None = None
        self.turn = threading.Lock()  # a start and a stop do not meet
        self.wanted = self.exists = False
        self.starts = 0
        self.powered = True

    # --- the engine ---

    def state(self, name):
        if not self.exists:
            return "absent"
        return "running" if self.wanted else "exited (0)"

    def inspect(self, name):
        return {"state": self.state(name), "started_at": str(self.starts)} if self.exists else None

    def volume_path(self, name):
        return str(self.data) if self.data.is_dir() else None

    def start(self, name):
        self.exists = self.wanted = True
        self.data.mkdir(exist_ok=True)
        shutil.chown(self.data, _user())
        self.log.touch()
        shutil.chown(self.log, _user())
        self.thread = threading.Thread(target=self._keep_running, daemon=True)
        self.thread.start()
        return True

    def _keep_running(self):
        while self.wanted:
            self.starts += 1
            command = ["mariadbd", f"--defaults-file={self.options}"]
            position = self._position() if (self.data / "mysql").is_dir() else None
            if position:
                command.append(f"--wsrep_start_position={position[0]}:{position[1]}")
            with self.turn:
                if not self.wanted:
                    return
                self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors)
            self.process.wait()
            time.sleep(0.2)

    def _recover(self):
        command = ["mariadbd", f"--defaults-file={self.options}", "--wsrep-recover", "--disable-log-error"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    def _position(self):
        with contextlib.suppress(galera.GaleraError):
            return galera.parse_position(self._recover())

    def stop(self, name, timeout=60):
        with self.turn:
            was, self.wanted = self.wanted, False
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.thread:
            self.thread.join(30)
        return was

    def run(self, name, timeout, environment, **spec):
        if name == "recover_mariadb":
            assert "--wsrep-recover" in spec["command"][-1]
            return {"exit_status": 0, "output": self._recover()}
        self.data.mkdir(exist_ok=True)
        shutil.chown(self.data, _user())
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", f"--user={_user()}", "--skip-test-db",
             "--auth-root-authentication-method=normal", "--force"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        sql = "FLUSH PRIVILEGES;\nDROP USER IF EXISTS root@'127.0.0.1';\n"
        sql += f"CREATE USER root@'%' IDENTIFIED BY '{PASSWORD}';"
        sql += "\nGRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n"
        subprocess.run(
            ["mariadbd", "--no-defaults", f"--datadir={self.data}", f"--user={_user()}", "--bootstrap"],
            input=sql, text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return {"exit_status": 0, "output": ""}

    # --- what happens to it ---

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)

    def lose_power(self):
        with self.turn:
            self.powered = self.wanted = False
        self.kill()
        if self.thread:
            self.thread.join(30)

    def query(self, sql):
        connection = pymysql.connect(
            host=HOSTS[self.name], port=PORTS["mariadb_port"], user="root", password=PASSWORD, autocommit=True
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


class Cloud:
    """Three hosts, the master's memory of them, and its jobs."""

    def __init__(self, base: Path, site: dict, monkeypatch) -> None:
        self.hosts = {name: Host(base, name, site) for name in HOSTS}
        self.mine: dict[str, dict] = {}
        self.monkeypatch = monkeypatch
        self.told: list[str] = []

    def on(self, name):
        """Be on a host, as far as the module can tell."""
        host = self.hosts[name]
        functions = {
            "kolla_container.state": host.state, "kolla_container.inspect": host.inspect,
            "kolla_container.volume_path": host.volume_path, "kolla_container.start": host.start,
            "kolla_container.stop": host.stop, "kolla_container.run": host.run,
            "mine.get": lambda tgt, fun, tgt_type: {n: self.mine[n] for n in tgt.split(",") if n in self.mine},
            "mine.send": lambda fun: self.mine.update({name: kolla_mariadb.lookup()}) is None,
        }  # fmt: skip
        for key, value in (
            ("__salt__", functions), ("__opts__", {"id": name, "test": False}), ("__pillar__", host.pillar),
            ("__context__", host.context), ("UNFINISHED", host.base / "unfinished"), ("JOINING", host.base / "joins"),
            ("SEEN", host.base / "seen"),
        ):  # fmt: skip
            self.monkeypatch.setattr(kolla_mariadb, key, value, raising=False)
        return host

    def ask(self, hosts, function, **kwargs):
        answers = {}
        for name in hosts:
            host = self.on(name)
            if not host.powered:
                continue
            try:
                if function in ("mine.get", "kolla_container.start"):
                    answers[name] = kolla_mariadb.__salt__[function](**kwargs)
                else:
                    answers[name] = getattr(kolla_mariadb, function.split(".")[1])(**kwargs)
            except CommandExecutionError as error:
                answers[name] = f"ERROR: {error}"
        return answers

    def deploy(self, *names):
        """The states of salt/mariadb, in the order of a run: the first host, then the others."""
        for name in names or HOSTS:
            self.on(name)
            kolla_mariadb.announce()
        for name in names or HOSTS:
            host = self.on(name)
            if kolla_mariadb.preparation_diff():
                kolla_mariadb.prepare()
                assert kolla_mariadb.preparation_diff() == {}
            if host.state("mariadb") != "running":
                host.start("mariadb")
            if kolla_mariadb.membership_diff():
                kolla_mariadb.join(timeout=60)
                assert kolla_mariadb.membership_diff() == {}

    def recover(self, **options):
        self.told = []
        return recovery.Recovery(
            order=list(HOSTS), ask=self.ask, present=lambda hosts: [h for h in hosts if self.hosts[h].powered],
            tell=self.told.append, **options,
        ).run()  # fmt: skip

    def states(self):
        found = {}
        for name in HOSTS:
            self.on(name)
            found[name] = kolla_mariadb.status()
        return found

    def settled(self, seconds=60):
        """Wait until all are members."""
        deadline = time.monotonic() + seconds
        while set(self.states().values()) != {"Synced"}:
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.5)
        return True

    def rows(self):
        return {name: host.query("SELECT COUNT(*) FROM t.a")[0][0] for name, host in self.hosts.items()}


@pytest.fixture(scope="module")
def base():
    # Databases outlive a killed run of the tests and hold the ports.
    subprocess.run(["pkill", "--signal", "KILL", "--full", f"^mariadbd --defaults-file={PREFIX}"], check=False)
    found = Path(tempfile.mkdtemp(prefix=Path(PREFIX).name, dir="/tmp"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture(scope="module")
def cloud(base):
    patch = pytest.MonkeyPatch()
    patch.setenv("KOLLA_SALT_FORMULA", str(ROOT / "salt"))
    patch.setenv("KOLLA_SALT_CACHE_DIR", str(base / "cache"))
    site = {
        "globals": {
            "internal_vip_address": "127.0.0.30", "mariadb_wsrep_sst_method": "rsync",
            "mariadb_innodb_buffer_pool_size_mb": 32, "mariadb_innodb_log_file_size_mb": 16, **PORTS,
        },
        "topology": {
            "hosts": {name: {"addresses": {"api": address}} for name, address in HOSTS.items()},
            "groups": {"control": list(HOSTS), "network": list(HOSTS)},
        },
        "passwords": {
            "database_password": PASSWORD, "mariadb_monitor_password": "monitor", "haproxy_password": "stats",
        },
    }  # fmt: skip
    made = Cloud(base, site, patch)
    try:
        made.deploy()
        made.hosts["ctl1"].query("CREATE DATABASE t")
        made.hosts["ctl1"].query("CREATE TABLE t.a (i INT PRIMARY KEY AUTO_INCREMENT)")
        yield made
    finally:
        for host in made.hosts.values():
            host.stop("mariadb", 5)
        patch.undo()


@pytest.fixture(autouse=True)
def _write(cloud):
    """Each test begins with a whole cluster and one more row."""
    cloud.settled()
    cloud.hosts["ctl1"].query("INSERT INTO t.a VALUES ()")


def test_three_members_are_one_cluster_and_a_second_deployment_finds_nothing_to_do(cloud):
    sizes = {host.query("SHOW STATUS LIKE 'wsrep_cluster_size'")[0][1] for host in cloud.hosts.values()}
    assert sizes == {"3"}
    starts = [host.starts for host in cloud.hosts.values()]
    cloud.deploy()
    assert [host.starts for host in cloud.hosts.values()] == starts
    assert not any((host.data / galera.ONE_SHOT).exists() for host in cloud.hosts.values())
    assert {name: facts["data"] for name, facts in cloud.mine.items()} == dict.fromkeys(HOSTS, True)


def test_one_member_may_be_stopped_and_then_no_other(cloud):
    cloud.on("ctl2")
    assert kolla_mariadb.stop_obstacles() == []
    cloud.hosts["ctl3"].stop("mariadb")
    cloud.on("ctl2")
    assert "ctl3 (no answer)" in kolla_mariadb.stop_obstacles()[0]
    result = cloud.recover()
    assert result["ok"], result
    assert result["bootstrapped"] is None
    assert len(set(cloud.rows().values())) == 1


def test_all_servers_killed_find_each_other(cloud):
    rows = cloud.rows()
    for host in cloud.hosts.values():
        host.kill()
    time.sleep(0.3)
    result = cloud.recover()
    assert result["ok"], (result, cloud.told)
    assert result["bootstrapped"] is None
    assert cloud.rows() == rows


def test_all_stopped_in_order_start_from_the_last_one(cloud):
    rows = cloud.rows()
    for name in ("ctl1", "ctl3", "ctl2"):
        cloud.hosts[name].stop("mariadb")
    with pytest.raises(CommandExecutionError, match="was not the last member to leave"):
        cloud.deploy("ctl1")
    result = cloud.recover()
    assert result["ok"], (result, cloud.told)
    assert result["bootstrapped"] == "ctl2"
    assert result["waited"] == 0
    assert cloud.rows() == rows


def test_members_leave_one_after_the_other_so_that_a_deployment_starts_the_cluster_again_on_the_first_host(cloud):
    rows = cloud.rows()

    def leaves(name):
        thread = threading.Thread(target=lambda: (time.sleep(1), cloud.hosts[name].stop("mariadb")))
        thread.start()
        return thread

    cloud.on("ctl3")
    assert kolla_mariadb.let_others_leave() == 3
    leaving = [leaves("ctl3")]
    cloud.on("ctl2")
    assert kolla_mariadb.let_others_leave() == 2
    leaving.append(leaves("ctl2"))
    cloud.on("ctl1")
    assert kolla_mariadb.let_others_leave() == 1
    cloud.hosts["ctl1"].stop("mariadb")
    for thread in leaving:
        thread.join()
    cloud.deploy()
    assert cloud.settled()
    assert cloud.rows() == rows
    cloud.on("ctl1")
    assert kolla_mariadb.let_others_leave(patience=1) == 3


def test_power_lost_everywhere_and_one_host_does_not_come_back(cloud):
    rows = cloud.rows()
    for name in HOSTS:
        cloud.on(name)
        kolla_mariadb.announce()
    for host in cloud.hosts.values():
        host.lose_power()
    for name in ("ctl2", "ctl3"):
        cloud.hosts[name].powered = True
        cloud.hosts[name].start("mariadb")
    time.sleep(3)
    result = cloud.recover(patience=5)
    assert not result["ok"]
    assert "ctl1 does not answer, and may be more advanced" in result["error"]
    result = cloud.recover(without=["ctl1"])
    assert result["ok"], (result, cloud.told)
    assert result["size"] == 2
    cloud.hosts["ctl1"].powered = True
    result = cloud.recover(chosen=result["bootstrapped"])
    assert result["ok"], (result, cloud.told)
    assert result["size"] == 3
    assert cloud.rows() == rows


def test_a_new_first_host_gets_its_data_from_the_others(cloud):
    rows = cloud.rows()
    first = cloud.hosts["ctl1"]
    first.stop("mariadb")
    shutil.rmtree(first.data)
    first.exists = False
    cloud.deploy()
    assert cloud.settled()
    assert cloud.rows() == rows
    assert first.query("SHOW STATUS LIKE 'wsrep_cluster_size'")[0][1] == "3"


def test_a_new_first_host_makes_no_second_cluster_while_the_others_are_down(cloud):
    first = cloud.hosts["ctl1"]
    for name in ("ctl1", "ctl2", "ctl3"):
        cloud.hosts[name].stop("mariadb")
    shutil.rmtree(first.data)
    first.exists = False
    with pytest.raises(CommandExecutionError, match="ctl2, ctl3 had one when last heard of"):
        cloud.deploy("ctl1")
    result = cloud.recover()
    assert result["bootstrapped"] == "ctl3"
    assert result["size"] == 2
    assert "kolla-salt deploy --limit ctl1" in result["problems"][0]
    cloud.deploy()
    assert cloud.settled()
    assert len(set(cloud.rows().values())) == 1


def test_an_account_without_rights_can_see_whether_a_member_works(cloud):
    cloud.on("ctl1")
    assert database.Database(HOSTS["ctl1"], PORTS["mariadb_port"], "monitor", "monitor").query(
        "SHOW STATUS LIKE 'wsrep_local_state'"
    ) == [("wsrep_local_state", "4")]


# --- behind the load balancer -----------------------------------------------------------------------------------------


class Balancer:
    """HAProxy with what the site says of the database, asked through the virtual address."""

    def __init__(self, base: Path, site: dict) -> None:
        resolver = Resolver(declarations.load(), site, "ctl1")
        text = config.render(resolver, "loadbalancer", "haproxy", "services.cfg").content
        own, keep = [], False
        for line in text.splitlines():
            if line and not line.startswith((" ", "#")):
                keep = line.split()[1].startswith("mariadb_")
            own += [line] if keep else []
        main = config.render(resolver, "loadbalancer", "haproxy", "haproxy.cfg").content
        peers = main[main.index("peers hosts") : main.index("frontend status")]
        defaults = main[main.index("defaults\n") : main.index("# Tables")]
        self.file = base / "haproxy.cfg"
        self.file.write_text("\n".join(["global", "    localpeer ctl1", "", defaults, peers, *own, ""]))
        self.start()

    def start(self):
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(self.file)])

    def writer(self, seconds=10):
        """Return the member to which a new connection goes."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                connection = pymysql.connect(host="127.0.0.30", port=3306, user="root", password=PASSWORD)
                with connection, connection.cursor() as cursor:
                    cursor.execute("SELECT @@wsrep_node_name")
                    return cursor.fetchone()[0]
            except pymysql.MySQLError:
                assert time.monotonic() < deadline, "nobody serves"
                time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def balancer(cloud, base):
    if not shutil.which("haproxy"):
        pytest.skip("needs haproxy")
    cloud.hosts["ctl1"].query("CREATE USER IF NOT EXISTS haproxy@'127.0.0.1'")
    made = Balancer(base, cloud.hosts["ctl1"].pillar["kolla"])
    yield made
    made.stop()
    for host in cloud.hosts.values():
        host.query("SET GLOBAL wsrep_desync = OFF")


def moved(balancer, away_from, seconds=15):
    """Wait until new connections go to another member; return it."""
    deadline = time.monotonic() + seconds
    while (now := balancer.writer()) == away_from:
        assert time.monotonic() < deadline, f"still {now}"
        time.sleep(0.2)
    return now


def test_writers_go_to_one_member_and_stay_there_when_the_first_one_comes_back(cloud, balancer):
    time.sleep(3)
    assert {balancer.writer() for _ in range(5)} == {"ctl1"}
    cloud.hosts["ctl1"].stop("mariadb")
    second = moved(balancer, "ctl1")
    cloud.hosts["ctl1"].start("mariadb")
    cloud.settled()
    time.sleep(5)
    assert {balancer.writer() for _ in range(5)} == {second}
    cloud.hosts[second].stop("mariadb")
    third = moved(balancer, second)
    cloud.hosts[second].start("mariadb")
    cloud.settled()
    assert third != second


def test_a_member_that_gives_data_away_is_left_alone_unless_there_is_no_other(cloud, balancer):
    time.sleep(3)
    first = balancer.writer()
    cloud.hosts[first].query("SET GLOBAL wsrep_desync = ON")
    moved(balancer, first)
    for host in cloud.hosts.values():
        host.query("SET GLOBAL wsrep_desync = ON")
    time.sleep(8)
    assert balancer.writer() in HOSTS
    cloud.hosts[first].query("SET GLOBAL wsrep_desync = OFF")
    time.sleep(5)
    assert balancer.writer() == first
