"""What is done to containers, against a server that speaks the used part of an engine's API."""

from __future__ import annotations

import json
import socketserver
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from kolla_salt.modules import kolla_container as module

SILENT, TALKING = ["sleep", "infinity"], ["echo", "well"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "test"

    def log_message(self, *_):
        pass

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        name = path.split("/")[-2]
        if path.endswith("/containers/json"):
            listed = [{"Id": name, "Names": [f"/{name}"], "State": "running"} for name in self.server.containers]
            self.answer(200, listed)
        elif path.endswith("/version"):
            self.answer(200, {"ApiVersion": "1.41"})
        elif "/exec/" in path:
            self.answer(200, {"ExitCode": 3})
        elif name in self.server.containers:
            state = {"Status": "running", "Running": True}
            self.answer(200, {"Id": name, "State": state, "Config": {}, "HostConfig": {}})
        else:
            self.answer(404, {"message": "no such container"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.split("?")[0]
        self.server.done.append(path.split("/", 2)[-1])
        if path.endswith("/exec"):
            self.server.command = asked["Cmd"]
            self.answer(201, {"Id": "e1"})
        elif "/exec/" in path:
            self.send_response(101)
            self.send_header("Content-Type", "application/vnd.docker.raw-stream")
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "tcp")
            self.end_headers()
            if self.server.command == SILENT:
                self.server.over.wait(20)
            else:
                for text in (b"we", b"ll\n"):
                    time.sleep(0.1)
                    self.wfile.write(struct.pack(">BxxxL", 1, len(text)) + text)
            self.close_connection = True
        else:
            self.answer(204, None)


class SocketServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = SocketServer(str(tmp_path / "engine.sock"), Handler)
    server.containers, server.done, server.over = ["web"], [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = {"globals": {"container_engine_socket": str(tmp_path / "engine.sock")}}
    for name, value in (
        ("__opts__", {"id": "ctl1"}), ("__pillar__", {"kolla": site}), ("__context__", {}), ("__salt__", {}),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value, raising=False)
    for name in ("STAMPS", "STOPPED", "HELD"):
        monkeypatch.setattr(module, name, tmp_path / name)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("timeout", [None, 5])
def test_what_a_command_says_and_how_it_ended(server, timeout):
    assert module.exec_("web", TALKING, check=False, timeout=timeout) == {"exit_status": 3, "output": "well\n"}


@pytest.mark.timeout(15)
def test_a_command_that_says_nothing_is_given_up(server):
    with pytest.raises(module.CommandExecutionError, match="`sleep infinity` in container web: .* nothing for 0.5 s"):
        module.exec_("web", SILENT, timeout=0.5)


@pytest.mark.timeout(15)
def test_a_probe_that_hangs_does_not_keep_the_wait_for_a_container_from_ending(server, monkeypatch):
    monkeypatch.setattr(module, "_trouble", lambda engine, name, what, *_: what)
    with pytest.raises(module.CommandExecutionError, match="is not ready after . s: .*nothing for 1 s"):
        module.wait_ready("web", {"exec": SILENT}, timeout=1)


def test_a_container_that_somebody_has_made_since_all_were_listed_is_held_for_another_one(server):
    module.list_()
    server.containers.append("agent")
    assert module._hold(["agent"], interrupts=True) == ["agent"]
    assert [path for path in server.done if path.endswith("/stop")] == ["containers/agent/stop"]
