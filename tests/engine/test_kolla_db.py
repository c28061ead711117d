"""The kolla_db functions against a real MariaDB server that runs as a plain process.

The server is looked for on the PATH; KOLLA_SALT_TEST_MARIADB may name a folder with unpacked packages instead.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pymysql
import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt.modules import kolla_db as module
from kolla_salt.states import kolla_db as state

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

ROOT_PASSWORD = "r00t pw'%s"
ACCOUNT = {"database": "image_api", "user": "image", "password_secret": "image_database_password"}
KOLLA = """
settings:
  database_address: {default: 127.0.0.1, type: string}
  database_port: {default: 3306, type: int}
"""


class Server:
    """A MariaDB server in a temporary directory that can be stopped and started."""

    def __init__(self, folder: Path):
        prefix = os.environ.get("KOLLA_SALT_TEST_MARIADB", "")
        path = f"{prefix}/usr/sbin:{prefix}/usr/bin:{os.environ['PATH']}:/usr/sbin"
        self.mariadbd, self.install = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
        if not self.mariadbd or not self.install:
            pytest.skip("no MariaDB server here (package mariadb-server-core)")
        self.basedir = str(Path(self.mariadbd).parent.parent)
        libraries = f"{prefix}/usr/lib/x86_64-linux-gnu" if prefix else ""
        self.env = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}
        self.data, self.log = folder / "data", folder / "log"
        self.socket = folder / "s"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def prepare(self):
        subprocess.run(
            [
                self.install, "--no-defaults", f"--basedir={self.basedir}", f"--datadir={self.data}", "--user=root",
                "--auth-root-authentication-method=normal", "--skip-test-db", "--force",
            ],
            env=self.env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    self.mariadbd, "--no-defaults", f"--basedir={self.basedir}", f"--datadir={self.data}",
                    "--user=root", f"--socket={self.socket}", "--bind-address=127.0.0.1", f"--port={self.port}",
                    "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--skip-name-resolve",
                    "--character-set-server=utf8mb4",
                ],
                env=self.env, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def root(self, sql, *values, password=ROOT_PASSWORD):
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", password=password, autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall()

    def login(self, user, password, database=None):
        pymysql.connect(host="127.0.0.1", port=self.port, user=user, password=password, database=database).close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("db"))
    server.prepare()
    server.start()
    try:
        for _ in range(100):
            try:
                server.root("ALTER USER root@localhost IDENTIFIED BY %s", ROOT_PASSWORD, password="")
                break
            except pymysql.OperationalError:
                time.sleep(0.2)
        server.root("CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY %s", ROOT_PASSWORD)
        server.root("GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION")
        yield server
    finally:
        server.stop()


class Host:
    """The dunders of a minion whose site uses the server."""

    def __init__(self, server, folder, monkeypatch):
        self.monkeypatch = monkeypatch
        (folder / "kolla").mkdir()
        (folder / "kolla" / "service.yaml").write_text(KOLLA)
        monkeypatch.setenv("KOLLA_SALT_FORMULA", str(folder))
        monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(folder / "cache"))
        self.site = {
            "globals": {"database_port": server.port},
            "topology": {"hosts": {"node1": {"addresses": {"api": "127.0.0.1"}}}},
            "passwords": {
                "database_password": ROOT_PASSWORD,
                "image_database_password": "image 'pw' %s \\",
                "monitor_password": "m0nitor",
            },
        }
        functions = {f"kolla_db.{name}": getattr(module, name) for name in ("diff", "create", "user_diff", "set_user")}
        monkeypatch.setattr(state, "__salt__", functions, raising=False)
        self.opts = {"id": "node1", "test": False}
        self.new_job()

    def new_job(self):
        self.context = {}
        for loaded in (module, state):
            self.monkeypatch.setattr(loaded, "__opts__", self.opts, raising=False)
            self.monkeypatch.setattr(loaded, "__context__", self.context, raising=False)
            self.monkeypatch.setattr(loaded, "__pillar__", {"kolla": self.site}, raising=False)

    def present(self, test=False, **changes):
        self.opts["test"] = test
        return state.database_present("image database", **{**ACCOUNT, **changes})


@pytest.fixture
def host(server, tmp_path, monkeypatch):
    yield Host(server, tmp_path, monkeypatch)
    if server.process is None:
        server.start()
        for _ in range(100):
            try:
                server.root("SELECT 1")
                break
            except pymysql.OperationalError:
                time.sleep(0.2)
    server.root("DROP DATABASE IF EXISTS image_api")
    for user in ("image", "monitor", "haproxy"):
        server.root("DROP USER IF EXISTS %s@'%%'", user)


def test_a_database_is_predicted_created_and_then_left_alone(host, server):
    predicted = host.present(test=True)
    assert predicted["result"] is None
    assert "image_api" not in module.databases()
    real = host.present()
    assert real["result"] is True, real["comment"]
    assert real["changes"] == predicted["changes"]
    assert set(real["changes"]) == {"schema", "user", "privileges"}
    server.login("image", host.site["passwords"]["image_database_password"], "image_api")
    assert server.root(
        "SELECT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'image_api'"
    ) == (("utf8mb3",),)
    assert host.present() == {
        "name": "image database", "result": True, "changes": {}, "comment": "image database is as declared",
    }  # fmt: skip


def test_the_account_cannot_see_schemas_with_a_similar_name(host, server):
    host.present()
    server.root("CREATE DATABASE imageXapi")
    with pytest.raises(pymysql.OperationalError, match="1044"):
        server.login("image", host.site["passwords"]["image_database_password"], "imageXapi")
    server.root("DROP DATABASE imageXapi")


def test_another_password_is_found_and_set_without_being_shown(host, server):
    host.present()
    host.site["passwords"]["image_database_password"] = "N3wPassword"
    host.new_job()
    predicted, real = host.present(test=True), host.present()
    assert real["result"] is True
    assert predicted["changes"] == real["changes"]
    assert set(real["changes"]) == {"password"}
    assert "N3wPassword" not in str(real)
    server.login("image", "N3wPassword", "image_api")


def test_missing_privileges_are_given_again(host, server):
    host.present()
    server.root("REVOKE ALL PRIVILEGES, GRANT OPTION FROM image@'%'")
    server.root("GRANT SELECT ON image_api.* TO image@'%'")
    real = host.present()
    assert real["result"] is True
    assert set(real["changes"]) == {"privileges"}
    assert "SELECT" in real["changes"]["privileges"]["old"]
    assert host.present()["changes"] == {}


def test_grants_that_another_tool_made_are_good_enough(host, server):
    """Such as `GRANT ALL ON image_api.*`, where the underscore is a wildcard."""
    password = host.site["passwords"]["image_database_password"]
    server.root("CREATE DATABASE image_api CHARACTER SET utf8mb4")
    server.root("CREATE USER image@'%%' IDENTIFIED BY %s", password)
    server.root("GRANT ALL PRIVILEGES ON image_api.* TO image@'%'")
    assert host.present()["changes"] == {}


def test_one_account_may_have_several_databases(host, server):
    host.present()
    other = host.present(database="image_cache")
    assert set(other["changes"]) == {"schema", "privileges"}
    assert host.present()["changes"] == {}
    server.root("DROP DATABASE image_cache")


def test_accounts_without_schema(host, server):
    grants = {"*.*": "PROCESS, REPLICATION CLIENT"}
    arguments = {"user": "monitor", "password_secret": "monitor_password", "grants": grants}
    host.opts["test"] = True
    predicted = state.user_present("monitor account", **arguments)
    host.opts["test"] = False
    real = state.user_present("monitor account", **arguments)
    assert real["result"] is True, real["comment"]
    assert predicted["changes"] == real["changes"]
    server.login("monitor", "m0nitor")
    assert state.user_present("monitor account", **arguments)["changes"] == {}
    nothing = state.user_present("haproxy", {})
    assert nothing["result"] is True, nothing["comment"]
    server.login("haproxy", "")
    assert state.user_present("haproxy", {})["changes"] == {}


def test_a_wrong_administrator_password_says_which_one(host, server):
    host.site["passwords"]["database_password"] = "Wr0ngPassword"
    host.new_job()
    for test in (True, False):
        ret = host.present(test=test)
        assert ret["result"] is False
        assert "`database_password`" in ret["comment"]
        assert "Wr0ngPassword" not in ret["comment"]


def test_a_missing_secret_is_named(host):
    ret = host.present(password_secret="image_database_pasword")
    assert ret["result"] is False
    assert "image_database_pasword" in ret["comment"]
    assert "did you mean 'image_database_password'" in ret["comment"]


def test_a_prediction_does_not_need_a_server(host, server):
    server.stop()
    predicted = host.present(test=True)
    assert predicted["result"] is None
    assert set(predicted["changes"]) == {"schema", "user", "privileges"}
    assert "does not answer" in predicted["changes"]["schema"]["old"]


def test_a_real_run_waits_for_the_server(host, server):
    server.stop()
    timer = threading.Timer(2, server.start)
    timer.start()
    ret = host.present()
    timer.join()
    assert ret["result"] is True, ret["comment"]
    assert set(ret["changes"]) == {"schema", "user", "privileges"}


def test_waiting_ends(host, server):
    server.stop()
    ret = host.present(timeout=2)
    assert ret["result"] is False
    assert "gave up after 2 seconds" in ret["comment"]
    assert f"127.0.0.1:{server.port}" in ret["comment"]


def test_a_connection_that_was_lost_within_a_job_is_made_again(host, server):
    host.present()
    for (thread,) in server.root("SELECT ID FROM information_schema.PROCESSLIST WHERE HOST LIKE '127.%'"):
        server.root("KILL %s", thread)
    assert host.present()["result"] is True


def test_a_refused_statement_is_an_error_without_secrets(host):
    with pytest.raises(CommandExecutionError, match="no list of privileges"):
        module.set_user("monitor", {"*.*": "ALL; DROP DATABASE mysql"}, "monitor_password")
    with pytest.raises(CommandExecutionError, match="1064|1149") as caught:
        module.set_user("monitor", {"*.*": "NONSENSE PRIVILEGE"}, "monitor_password")
    assert "m0nitor" not in str(caught.value)


def test_version_and_status(host):
    assert module.wait()[0].isdigit()
    assert int(module.status("Uptime")["Uptime"]) >= 0


def test_comparing_costs_a_few_milliseconds(host):
    host.present()
    start = time.perf_counter()
    for _ in range(20):
        host.present()
    assert (time.perf_counter() - start) / 20 < 0.1


# --- snapshots --------------------------------------------------------------------------------------------------------


class Client:
    """Runs what the database's client programs are asked to do as a process, where an engine would use a container."""

    def __init__(self, server, secret):
        self.server, self.secret = server, secret
        self.commands: list[list[str]] = []

    def inspect(self, name):
        return {"image_id": "sha256:x", "image": "x", "state": "running"}

    def run(self, name, timeout, image, user, command, volumes, environment):
        (folder,) = [item.removesuffix(":/snapshot") for item in volumes]
        values = {
            key: self.secret if isinstance(value, dict) else folder if value == "/snapshot" else value
            for key, value in environment.items()
        }
        self.commands.append(command)
        done = subprocess.run(
            command, env={**self.server.env, **values}, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise CommandExecutionError(f"run-once container {name} ended with {done.returncode}: {done.stderr}")
        return {"exit_status": 0, "output": done.stdout}


IMAGE = """
schema: 1
doc: Images.
database: [{name: image_api, user: image}]
upgrade: {remembers: [{table: services, key: id, columns: [version, topic]}]}
"""


@pytest.fixture
def saved(host, server, tmp_path, monkeypatch):
    """A host whose service `image` has a schema with data."""
    if not shutil.which("mariadb-dump", path=server.env["PATH"]):
        pytest.skip("no mariadb-dump here (package mariadb-client)")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "service.yaml").write_text(IMAGE)
    host.new_job()
    client = Client(server, ROOT_PASSWORD)
    functions = {"kolla_container.run": client.run, "kolla_container.inspect": client.inspect}
    monkeypatch.setattr(module, "__salt__", functions, raising=False)
    monkeypatch.setattr(module.snapshots, "ROOT", tmp_path / "snapshots")
    monkeypatch.setattr(module.snapshots, "RESERVE", 1024**2)
    host.client = client
    host.present()
    server.root("CREATE TABLE image_api.images (id INT PRIMARY KEY, name VARCHAR(40), data BLOB)")
    server.root("INSERT INTO image_api.images VALUES (1, 'it''s; \\\\ ünï', %s), (2, NULL, NULL)", bytes(range(256)))
    server.root("CREATE VIEW image_api.named AS SELECT name FROM image_api.images WHERE name IS NOT NULL")
    server.root(
        "CREATE TRIGGER image_api.t BEFORE INSERT ON image_api.images FOR EACH ROW SET NEW.name = 'from trigger'"
    )
    yield host
    server.root("DROP DATABASE IF EXISTS bystander")


RUN = "20261101-101500-upgrade"


def test_schemas_come_back_exactly_as_they_were(saved, server, tmp_path):
    before = server.root("SELECT * FROM image_api.images ORDER BY id")
    taken = module.snapshot(RUN, "image")
    assert taken["schemas"] == ["image_api"] and taken["tables"] == {"image_api": 2} and taken["host"] == "node1"
    assert Path(taken["path"]) == tmp_path / "snapshots" / RUN / "image"
    # What a later release does to it, and what happens to others meanwhile.
    server.root("CREATE DATABASE bystander")
    server.root("CREATE TABLE bystander.kept (id INT)")
    server.root("ALTER TABLE image_api.images DROP COLUMN name, ADD COLUMN title TEXT")
    server.root("CREATE TABLE image_api.new_in_release (id INT)")
    restored = module.restore(RUN, "image")
    assert restored["taken"] == taken["taken"]
    assert server.root("SELECT * FROM image_api.images ORDER BY id") == before
    assert {row[0] for row in server.root("SHOW TABLES FROM image_api")} == {"images", "named"}
    server.root("INSERT INTO image_api.images (id) VALUES (3)")
    assert server.root("SELECT name FROM image_api.images WHERE id = 3") == (("from trigger",),)
    assert server.root("SHOW TABLES FROM bystander") == (("kept",),)
    server.login("image", saved.site["passwords"]["image_database_password"], "image_api")


def test_values_that_keep_an_older_release_from_starting_come_back_and_nothing_else(saved, server):
    server.root("CREATE TABLE image_api.services (id INT PRIMARY KEY, version INT, topic VARCHAR(9), reports INT)")
    server.root("INSERT INTO image_api.services VALUES (1, 70, 'api', 1), (2, 70, NULL, 1), (3, 69, 'gone', 1)")
    taken = module.snapshot(RUN, "image")
    assert "remembered" not in taken
    assert module.recall(RUN, "image") == {}
    server.root("UPDATE image_api.services SET version = 72, reports = 9")
    server.root("DELETE FROM image_api.services WHERE id = 3")
    server.root("INSERT INTO image_api.services VALUES (4, 72, 'new', 1)")
    assert module.recall(RUN, "image") == {"image_api.services.version": {"old": [72], "new": [70]}}
    assert server.root("SELECT * FROM image_api.services ORDER BY id") == (
        (1, 70, "api", 9), (2, 70, None, 9), (4, 72, "new", 1)
    )  # fmt: skip
    assert module.recall(RUN, "image") == {}
    with pytest.raises(CommandExecutionError, match="there is no snapshot"):
        module.recall("20260101-000000-upgrade", "image")


def test_a_snapshot_is_for_root_alone_and_holds_no_password_in_its_commands(saved):
    taken = module.snapshot(RUN, "image")
    files = list(Path(taken["path"]).iterdir())
    assert {file.name for file in files} == {"schemas.sql.gz", "snapshot.json"}
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
    module.restore(RUN, "image")
    assert ROOT_PASSWORD not in str(saved.client.commands)


def test_nothing_is_dropped_without_a_whole_snapshot(saved, server):
    with pytest.raises(CommandExecutionError, match="there is no snapshot.*nothing was changed.*runs show"):
        module.restore(RUN, "image")
    taken = module.snapshot(RUN, "image")
    file = Path(taken["path"]) / "schemas.sql.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CommandExecutionError, match="somebody has changed it"):
        module.restore(RUN, "image")
    # As long as it says, and damaged all the same.
    file.write_bytes(whole[:-10] + b"0123456789")
    with pytest.raises(CommandExecutionError, match="ended with"):
        module.restore(RUN, "image")
    assert len(server.root("SELECT * FROM image_api.images")) == 2


def test_a_failed_dump_leaves_no_snapshot(saved, server):
    saved.client.secret = "wrong"
    with pytest.raises(CommandExecutionError, match="Access denied"):
        module.snapshot(RUN, "image")
    saved.client.secret = ROOT_PASSWORD
    with pytest.raises(CommandExecutionError, match="there is no snapshot"):
        module.restore(RUN, "image")


def test_snapshots_need_room_and_a_service_with_a_database(saved, monkeypatch):
    monkeypatch.setattr(module.snapshots, "RESERVE", 10**18)
    with pytest.raises(CommandExecutionError, match="MiB are free"):
        module.snapshot(RUN, "image")
    with pytest.raises(CommandExecutionError, match="it declares no database"):
        module.snapshot(RUN, "kolla")


def test_snapshots_of_a_run_are_forgotten(saved):
    taken = module.snapshot(RUN, "image")
    assert module.forget_snapshots(RUN) == ["image"]
    assert not Path(taken["path"]).exists()
    assert module.forget_snapshots(RUN) == []


def test_a_run_that_goes_on_takes_over_the_snapshot_of_the_one_before(saved, server):
    taken = module.snapshot(RUN, "image")
    server.root("DROP TABLE image_api.images")
    later = RUN.replace("101500", "111500")
    got = module.take_over(later, "image", RUN)
    assert (got["taken"], got["bytes"], got["run"]) == (taken["taken"], taken["bytes"], later)
    assert module.take_over(later, "image", RUN) == got
    module.forget_snapshots(RUN)
    module.restore(later, "image")
    assert len(server.root("SELECT * FROM image_api.images")) == 2
    with pytest.raises(CommandExecutionError, match="there is no snapshot"):
        module.take_over(later, "image", "20260101-000000-upgrade")
