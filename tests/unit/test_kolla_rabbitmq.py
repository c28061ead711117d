"""Accounts, policies and flags of RabbitMQ, against a server that speaks the used part of its management API."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import broker
from kolla_salt.modules import kolla_rabbitmq as module
from kolla_salt.states import kolla_rabbitmq as state

KOLLA = """
groups: {rabbitmq: [control]}
settings:
  rabbitmq_management_port: {default: 15672, type: int}
  rabbitmq_user: {default: openstack, type: string}
"""


def hashed(password, salt=b"salt"):
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


class FakeRabbit:
    """Objects by path, and what else the management interface answers."""

    def __init__(self):
        self.objects = {"/vhosts/%2F": {"name": "/"}}
        self.flags = {"old": ("enabled", "stable"), "new": ("disabled", "stable"), "odd": ("disabled", "experimental")}
        self.critical = []
        self.alarm = None
        self.lost, self.queues = [], []
        self.node: dict = {}
        self.requests = []
        self.busy = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *args):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, result = fake.handle(self.command, self.path, json.loads(body or b"null"), self.headers)
                content = b"" if result is None else json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def handle(self, method, url, body, headers):
        path = url.removeprefix("/api")
        self.requests.append(f"{method} {path}")
        if self.busy:
            self.busy -= 1
            return 503, {"error": "starting"}
        if headers.get("Authorization") != "Basic " + base64.b64encode(b"openstack:r4bbit").decode():
            return 401, {"error": "not_authorised", "reason": "Login failed"}
        if path == "/whoami":
            return 200, {"name": "openstack"}
        if path == "/feature-flags":
            return 200, [{"name": n, "state": s, "stability": k} for n, (s, k) in self.flags.items()]
        if path.startswith("/feature-flags/"):
            name = path.split("/")[2]
            self.flags[name] = ("enabled", self.flags[name][1])
            return 204, None
        if path == "/overview":
            return 200, {"cluster_name": "c", "rabbitmq_version": "4.0.5", "object_totals": {"queues": 7}}
        if path == "/nodes":
            lost = [{"name": name, "running": False} for name in self.lost]
            return 200, [
                {"name": "rabbit@node1", "running": True, "mem_alarm": True, "disk_free_alarm": False, **self.node},
                *lost,
            ]
        if path.split("?")[0] == "/queues":
            return 200, self.queues
        if path.endswith("node-is-quorum-critical"):
            if self.critical:
                return 503, {"status": "failed", "reason": "critical", "queues": self.critical}
            return 200, {"status": "ok"}
        if path.startswith("/health/"):
            if path.endswith("/alarms") and self.alarm:
                return 503, {"status": "failed", "reason": self.alarm}
            return 200, {"status": "ok"}
        return self.handle_object(method, path, body)

    def handle_object(self, method, path, body):
        if method == "GET":
            return (200, self.objects[path]) if path in self.objects else (404, {"error": "Object Not Found"})
        if method == "DELETE":
            return (204, None) if self.objects.pop(path, None) else (404, {"error": "Object Not Found"})
        kind, *names = path.strip("/").split("/")
        value = dict(body or {})
        if kind == "users":
            tags = [tag for tag in value["tags"].split(",") if tag]
            value = {
                "name": unquote(names[0]), "tags": tags, "password_hash": hashed(value["password"]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
            }  # fmt: skip
        if kind == "permissions" and f"/users/{names[1]}" not in self.objects:
            return 400, {"error": "bad_request", "reason": "no such user"}
        self.objects[path] = value
        return 201, None


class Host:
    """The dunders of a minion whose site has its RabbitMQ at the fake server."""

    def __init__(self, fake, tmp_path, monkeypatch):
        self.fake = fake
        (tmp_path / "formula" / "kolla").mkdir(parents=True)
        (tmp_path / "formula" / "kolla" / "service.yaml").write_text(KOLLA)
        monkeypatch.setenv("KOLLA_SALT_FORMULA", str(tmp_path / "formula"))
        monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
        self.site = {
            "globals": {"rabbitmq_management_port": fake.port},
            "topology": {"hosts": {"node1": {"addresses": {"api": "127.0.0.1"}}}, "groups": {"control": ["node1"]}},
            "passwords": {"rabbitmq_password": "r4bbit", "other_password": "0ther"},
        }
        self.opts = {"id": "node1", "test": False}
        functions = {
            f"kolla_rabbitmq.{name}": getattr(module, name)
            for name in dir(module)
            if name.endswith("_diff") or name.startswith(("set_", "create_", "enable_", "grow"))
        }
        monkeypatch.setattr(state, "__salt__", functions, raising=False)
        for loaded in (module, state):
            monkeypatch.setattr(loaded, "__opts__", self.opts, raising=False)
            monkeypatch.setattr(loaded, "__context__", {}, raising=False)
            monkeypatch.setattr(loaded, "__pillar__", {"kolla": self.site}, raising=False)

    def run(self, function, *args, test=False, **kwargs):
        self.opts["test"] = test
        return getattr(state, function)(*args, **kwargs)

    def check(self, function, *args, **kwargs):
        """Predict, apply and compare again; return the changes."""
        before = dict(self.fake.objects), dict(self.fake.flags)
        predicted = self.run(function, *args, test=True, **kwargs)
        assert predicted["result"] is None, predicted["comment"]
        assert (self.fake.objects, self.fake.flags) == before
        real = self.run(function, *args, **kwargs)
        assert real["result"] is True, real["comment"]
        assert real["changes"] == predicted["changes"]
        assert self.run(function, *args, **kwargs)["changes"] == {}
        return real["changes"]


@pytest.fixture
def fake():
    server = FakeRabbit()
    yield server
    server.stop()


@pytest.fixture
def host(fake, tmp_path, monkeypatch):
    return Host(fake, tmp_path, monkeypatch)


def test_an_account_is_created_with_tags_and_permissions(host, fake):
    changes = host.check("user_present", "monitor", "other_password", tags=["monitoring"])
    assert set(changes) == {"user", "tags", "permissions in /"}
    assert fake.objects["/users/monitor"]["tags"] == ["monitoring"]
    assert fake.objects["/permissions/%2F/monitor"] == {"configure": ".*", "write": ".*", "read": ".*"}


def test_another_password_is_found_and_set_without_being_shown(host, fake):
    host.check("user_present", "monitor", "other_password")
    host.site["passwords"]["other_password"] = "N3wer"
    module.__context__.clear()
    changes = host.check("user_present", "monitor", "other_password")
    assert set(changes) == {"password"}
    assert "N3wer" not in str(changes)
    assert fake.objects["/users/monitor"]["password_hash"] == hashed("N3wer")


def test_tags_and_permissions_are_corrected(host, fake):
    host.check("user_present", "monitor", "other_password")
    rights = {"/": {"configure": "^$", "write": "^$", "read": ".*"}}
    changes = host.check("user_present", "monitor", "other_password", tags=["management"], permissions=rights)
    assert changes["tags"] == {"old": [], "new": ["management"]}
    assert changes["permissions in /"]["new"] == rights["/"]


def test_virtual_hosts_policies_and_flags(host, fake):
    assert set(host.check("vhost_present", "a/b")) == {"vhost"}
    assert "/vhosts/a%2Fb" in fake.objects
    assert host.run("vhost_present", "/")["changes"] == {}
    policy = {"pattern": ".*", "definition": {"max-length": 5}, "apply_to": "queues"}
    assert set(host.check("policy_present", "short", **policy)) == {"pattern", "definition", "apply-to", "priority"}
    policy["definition"] = {"max-length": 6}
    assert set(host.check("policy_present", "short", **policy)) == {"definition"}
    assert set(host.check("flags_enabled", "flags")) == {"new"}
    assert fake.flags["odd"][0] == "disabled"
    module.delete_policy("short")
    with pytest.raises(CommandExecutionError, match="404"):
        module.delete_policy("short")


def test_status_health_and_quorum(host, fake):
    assert module.status() == {
        "cluster": "c",
        "version": "4.0.5",
        "nodes": {"rabbit@node1": {"running": True, "alarms": ["mem"], "partitions": [], "leaving": False}},
        "queues": 7,
    }
    assert module.health() == {}
    assert module.quorum_critical() == []
    fake.alarm, fake.critical = "memory", [{"name": "q", "virtual_host": "/"}]
    assert module.health() == {"alarms": "memory"}
    assert module.quorum_critical() == ["/:q"]


def test_a_lost_member_is_forgotten_once_and_one_that_runs_never(host, fake, monkeypatch):
    ran = []

    def run(container, command, **options):
        ran.append((container, command))
        fake.lost.remove(command[-1])

    monkeypatch.setattr(module, "__salt__", {"kolla_container.exec": run}, raising=False)
    fake.lost = ["rabbit@node2"]
    assert module.forget("node2.example.org") is True
    assert module.forget("node2.example.org") is False
    assert ran == [("rabbitmq", ["rabbitmqctl", "--quiet", "forget_cluster_node", "rabbit@node2"])]
    with pytest.raises(CommandExecutionError, match="rabbit@node1: it runs, expected one that is gone"):
        module.forget("node1")


def test_a_member_lets_its_clients_go_where_there_are_others(host, fake, monkeypatch):
    ran = []
    run = {"kolla_container.exec": lambda container, command, **options: ran.append((container, command))}
    monkeypatch.setattr(module, "__salt__", run, raising=False)
    assert module.leave() is False
    host.site["topology"]["groups"]["control"] = ["node1", "node2"]
    module.__context__.clear()
    assert ran == [] and module.leave() is True
    assert ran == [("rabbitmq", ["rabbitmqctl", "--quiet", "eval", "rabbit_maintenance:drain()."])]


def test_a_member_without_which_queues_lose_their_majority_may_stop_only_if_it_has_left_them(host, fake):
    host.site["topology"]["groups"]["control"] = ["node1", "node2"]
    fake.critical = [{"name": "q", "virtual_host": "/"}]
    assert "the group rabbitmq has 2 hosts" in module.stop_obstacles()[0]
    assert module.stop_obstacles()[1] == "without this member /:q would lose their majority"
    fake.node = {"being_drained": True}
    assert len(module.stop_obstacles()) == 1


def queue(name, kind, *members):
    return {"vhost": "/", "name": name, "type": kind, "members": [f"rabbit@{name}" for name in members]}


def test_queues_get_a_member_here_where_one_is_missing(host, fake, monkeypatch):
    fake.queues = [
        queue('fan"out', "stream", "node2", "node3"),
        queue("whole", "stream", "node1", "node2", "node3"),
        queue("elsewhere", "stream", "node2", "node3", "node4"),
        queue("work.q", "quorum", "node2", "node3"),
        queue("enough", "quorum", "node2", "node3", "node4"),
        {"vhost": "/", "name": "classic", "type": "classic"},
    ]
    host.site["topology"]["groups"]["control"] = ["node1", "node2", "node3"]
    ran = []

    def run(container, command, **options):
        ran.append((container, command))
        lacks = fake.queues[0] if command[0] == "rabbitmqctl" else fake.queues[3]
        lacks["members"].append("rabbit@node1")
        return {"exit_status": 0, "output": "[ok]"}

    monkeypatch.setattr(module, "__salt__", {"kolla_container.exec": run}, raising=False)
    found = ["/:elsewhere", "/:enough", '/:fan"out', "/:work.q"]
    assert sorted(module.lacking()) == found
    # A member on a host that is none of the site's does not count, nor does one of its queues hold the others up.
    fake.queues[2]["members"] = fake.queues[4]["members"] = [f"rabbit@node{n}" for n in (1, 2, 3)]
    changes = host.check("copies_present", "copies")
    assert changes == {"queues without a member here": {"old": ["/:work.q", '/:fan"out'], "new": []}}
    (_, streams), (_, queues) = ran
    assert streams[:3] == ["rabbitmqctl", "--quiet", "eval"]
    assert '[{<<"/">>, <<"fan\\"out">>}]' in streams[3] and "'rabbit@node1'" in streams[3]
    assert queues == ["rabbitmq-queues", "--quiet", "grow", "rabbit@node1", "all",
                      "--vhost-pattern", "^/$", "--queue-pattern", r"^(?:work\.q)$"]  # fmt: skip


def test_hosts_decide_alike_which_of_them_gets_a_member():
    members = [f"rabbit@node{number}" for number in range(1, 6)]
    queues = [queue(f"q{number}", "stream", "node1", "node9") for number in range(40)]
    got = {name: [found.name for found in broker.lacking(queues, name, members, 3)] for name in members}
    assert got["rabbit@node1"] == []
    counts = {found["name"]: sum(found["name"] in names for names in got.values()) for found in queues}
    assert set(counts.values()) == {2}
    assert all(got[name] for name in members[1:])


def test_queues_that_still_lack_a_member_are_named(host, fake, monkeypatch):
    fake.queues = [queue("fanout", "stream", "node2")]
    host.site["topology"]["groups"]["control"] = ["node1", "node2"]
    refusing = {"kolla_container.exec": lambda *a, **k: {"exit_status": 0, "output": "[{error,node_not_running}]"}}
    monkeypatch.setattr(module, "__salt__", refusing, raising=False)
    with pytest.raises(CommandExecutionError, match="1 still lack it .*fanout.*node_not_running"):
        module.grow(timeout=1)


def test_a_broker_alone_or_one_that_is_not_there_yet_lacks_nothing(host, fake):
    fake.queues = [queue("fanout", "stream", "node2")]
    assert module.lacking() == [] and module.copies_diff() == {}
    host.site["topology"]["groups"]["control"] = ["node1", "node2"]
    fake.stop()
    assert host.run("copies_present", "copies", test=True)["changes"] == {}


def test_a_prediction_does_not_need_a_broker(host, fake):
    fake.stop()
    predicted = host.run("user_present", "monitor", "other_password", test=True)
    assert predicted["result"] is None
    assert set(predicted["changes"]) == {"user", "tags", "permissions in /"}
    assert "does not answer" in predicted["changes"]["user"]["old"]


def test_a_real_run_waits_and_gives_up_in_time(host, fake):
    fake.busy = 1
    assert host.run("user_present", "monitor", "other_password")["result"] is True
    fake.stop()
    module.__context__.clear()
    ret = host.run("user_present", "monitor", "other_password", timeout=1.5)
    assert ret["result"] is False
    assert "gave up after 1.5 seconds" in ret["comment"]


def test_refusals_say_who_and_where_without_secrets(host, fake):
    host.site["passwords"]["rabbitmq_password"] = "Wr0ng"
    ret = host.run("user_present", "monitor", "other_password")
    assert ret["result"] is False
    assert f"http://127.0.0.1:{fake.port} refuses the account openstack" in ret["comment"]
    assert "Wr0ng" not in ret["comment"]


def test_a_cloud_without_brokers_says_so(host):
    host.site["topology"]["groups"]["control"] = []
    ret = host.run("vhost_present", "/")
    assert ret["result"] is False
    assert "group `rabbitmq` has no host" in ret["comment"]
