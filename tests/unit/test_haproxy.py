"""Servers behind HAProxy, by what HAProxy itself prints."""

from __future__ import annotations

import socket
import threading

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import haproxy
from kolla_salt.modules import kolla_haproxy as module

HEADER = "# pxname,svname,qcur,qmax,scur,smax,status,weight\n"
ROWS = {
    "keystone_back/ctl1": "UP",
    "keystone_back/ctl2": "UP 1/3",
    "glance_api_back/ctl1": "UP",
    "mariadb_back/ctl1": "UP",
    "mariadb_back/ctl2": "DOWN",
}


def stat(rows, sessions=None):
    lines = [
        f"{name.replace('/', ',')},0,0,{(sessions or {}).get(name, 0)},9,{status},1," for name, status in rows.items()
    ]
    return HEADER + "\n".join(lines) + "\n\n"


def test_statistics_are_read_by_their_header():
    text = stat(ROWS, {"keystone_back/ctl1": 3})
    found = haproxy.parse(text)
    assert found["keystone_back/ctl1"] == {"status": "UP", "sessions": 3}
    assert list(found) == list(ROWS)


WITH_ROLES = """# pxname,svname,scur,status,act,bck
mariadb_back,FRONTEND,0,OPEN,,
mariadb_back,ctl1,0,{},1,0
mariadb_back,ctl2,0,UP,0,1
mariadb_back,ctl3,0,UP,0,1
keystone_back,ctl1,0,UP,1,0
keystone_back,ctl2,0,UP,1,0
"""


@pytest.mark.parametrize(("status", "writer"), [("UP", "ctl1"), ("DOWN", "ctl2"), ("DRAIN", "ctl2")])
def test_the_one_that_alone_gets_requests_is_known(status, writer):
    assert haproxy.writers(WITH_ROLES.format(status)) == {"mariadb_back": writer}


def test_a_server_that_is_down_is_mended_and_one_that_was_taken_out_is_left_to_a_person():
    found = haproxy.findings(haproxy.parse(stat({**ROWS, "glance_api_back/ctl1": "MAINT"})), "ctl2")
    assert [(item["name"], item["found"], item["winner"]) for item in found] == [
        ("glance_api_back/ctl1 in HAProxy", "MAINT", "undecided"),
        ("mariadb_back/ctl2 in HAProxy", "DOWN", "site"),
    ]
    assert "salt ctl2 kolla_haproxy.ready '[glance_api_back/ctl1]'" in found[0]["mend"]


def test_the_last_server_of_a_backend_stays():
    servers = haproxy.parse(stat(ROWS))
    going, staying = haproxy.can_go(
        servers, ["keystone_back/ctl1", "glance_api_back/ctl1", "mariadb_back/ctl1", "gone_back/ctl1"]
    )
    assert going == ["keystone_back/ctl1"]
    assert staying == {
        "glance_api_back/ctl1": "no other server of this backend is up",
        "mariadb_back/ctl1": "no other server of this backend is up",
        "gone_back/ctl1": "HAProxy does not know it",
    }


def test_two_servers_of_one_backend_do_not_count_for_each_other():
    servers = haproxy.parse(stat(ROWS))
    assert haproxy.can_go(servers, ["keystone_back/ctl1", "keystone_back/ctl2"])[0] == []


class Fake:
    """Answers on a socket as HAProxy's runtime interface does: one command for each connection."""

    def __init__(self, path):
        self.rows, self.sessions, self.commands = dict(ROWS), {}, []
        self.well, self.out = dict(ROWS), {}
        self.link = socket.socket(socket.AF_UNIX)
        self.link.bind(str(path))
        self.link.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.link.accept()
            except OSError:
                return
            with client:
                text = client.recv(4096).decode().strip()
                self.commands.append(text)
                client.sendall(self.answer(text).encode())

    def check(self, target, status):
        """Tell of a server as HAProxy does: that it is drained is not to be seen while its checks fail."""
        self.well[target] = status
        out = self.out.get(target)
        self.rows[target] = status if not out or (out == "DRAIN" and status == "DOWN") else out

    def answer(self, text):
        words = text.split()
        if words[:2] == ["show", "stat"]:
            return stat(self.rows, self.sessions)
        if words[:2] == ["set", "server"] and words[2] in self.rows:
            self.out[words[2]] = {"drain": "DRAIN", "maint": "MAINT", "ready": ""}[words[4]]
            self.check(words[2], self.well[words[2]])
            return "\n"
        return "No such server.\n"


@pytest.fixture
def running(tmp_path, monkeypatch):
    fake = Fake(tmp_path / "haproxy.sock")
    monkeypatch.setattr(module, "__opts__", {"id": "ctl1"}, raising=False)
    monkeypatch.setattr(module, "__salt__", {"kolla_container.volume_path": lambda name: str(tmp_path)}, raising=False)
    yield fake
    fake.link.close()


def test_a_server_is_taken_out_and_put_in_again(running):
    done = module.drain({"keystone_back/ctl1": "drain", "glance_api_back/ctl1": "drain"}, timeout=1)
    assert done["out"] == ["keystone_back/ctl1"]
    assert list(done["stay"]) == ["glance_api_back/ctl1"]
    assert running.rows["keystone_back/ctl1"] == "DRAIN"
    assert running.rows["glance_api_back/ctl1"] == "UP"
    assert module.ready(["keystone_back/ctl1", "other_back/ctl1"], timeout=1) == {
        "up": ["keystone_back/ctl1"], "down": {},
    }  # fmt: skip
    assert running.rows["keystone_back/ctl1"] == "UP"


def test_what_was_out_before_is_told_apart_from_what_is_taken_out_now(running):
    target = "keystone_back/ctl1"
    assert module.drain({target: "drain"}, timeout=1)["before"] == []
    again = module.drain({target: "drain"}, timeout=1)
    assert (again["out"], again["before"]) == ([target], [target])


def test_connections_are_waited_for_and_named_when_they_do_not_end(running):
    running.sessions["keystone_back/ctl1"] = 2
    assert module.drain({"keystone_back/ctl1": "drain"}, timeout=0.3)["open"] == {"keystone_back/ctl1": 2}


def test_a_server_that_stays_down_is_named(running):
    assert module.ready(["mariadb_back/ctl2"], timeout=0.3) == {"up": [], "down": {"mariadb_back/ctl2": "DOWN"}}


def test_a_server_that_is_down_when_it_is_put_in_again_is_in_once_it_is_well(running):
    target = "keystone_back/ctl1"
    module.drain({target: "drain"}, timeout=1)
    running.check(target, "DOWN")
    assert module.ready([target], timeout=0.3)["down"] == {target: "DOWN"}
    running.check(target, "UP")
    assert running.rows[target] == "UP"


def test_no_haproxy_is_an_error_that_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__opts__", {"id": "ctl1"}, raising=False)
    monkeypatch.setattr(module, "__salt__", {"kolla_container.volume_path": lambda name: None}, raising=False)
    with pytest.raises(CommandExecutionError, match=r"asking HAProxy of ctl1 .*haproxy.sock"):
        module.servers()
