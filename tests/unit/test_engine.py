"""Reading from an engine, and asking services whether they are ready: real sockets, a server of the test's own."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kolla_salt.engine import Engine, EngineError, NotFound
from kolla_salt.ready import pauses, probe

ANSWERS = {
    "/containers/json?all=1": (200, [{"Id": "1", "Names": ["/web", "/other/web"], "State": "running"}]),
    "/containers/web/json": (200, {"Id": "1"}),
    "/images/quay.io/a/b%3A1/json": (200, {"Id": "sha256:7"}),
    "/images/broken/json": (500, {"message": "disk is full"}),
    "/v3": (300, {}),
    "/busy": (503, {}),
    "/login": (401, {}),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        status, content = ANSWERS.get(self.path, (404, {"message": "no such thing"}))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        # As an engine that closes idle connections.
        self.close_connection = self.server.closes

    def address_string(self):
        return "test"

    def log_message(self, *_):
        pass


class SocketServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def serve(server):
    server.asked, server.closes = [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def server(tmp_path):
    server = serve(SocketServer(str(tmp_path / "engine.sock"), Handler))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def engine(server):
    return Engine(f"unix://{server.server_address}", timeout=5)


def test_containers_are_listed_once_until_something_changed(server, engine):
    assert set(engine.containers()) == {"web", "other/web"}
    assert engine.container("web") == {"Id": "1"}
    assert engine.container("none") is None
    engine.containers()
    assert server.asked.count("/containers/json?all=1") == 1
    engine.forget()
    engine.containers()
    assert server.asked.count("/containers/json?all=1") == 2
    assert engine.calls == 3


def test_images_are_asked_for_once_and_known_by_id(server, engine):
    assert engine.image("quay.io/a/b:1") == {"Id": "sha256:7"}
    assert engine.image("sha256:7") == {"Id": "sha256:7"}
    engine.image("quay.io/a/b:1")
    assert engine.image("none") is None
    assert len(server.asked) == 2


def test_a_connection_that_the_engine_closed_is_opened_again(server, engine):
    server.closes = True
    for _ in range(3):
        assert engine.inspect("web") == {"Id": "1"}


def test_a_refusal_says_what_was_asked_and_what_was_said(engine):
    with pytest.raises(EngineError, match=r"GET /images/broken/json: disk is full \(status 500\)"):
        engine.get("/images/broken/json")
    with pytest.raises(NotFound):
        engine.get("/nothing")


@pytest.mark.parametrize("url", ["unix:///nowhere/engine.sock", "tcp://127.0.0.1:1"])
def test_no_engine(url):
    with pytest.raises(EngineError, match=f"no answer from the container engine at {url}"):
        Engine(url, timeout=1).containers()


def test_an_engine_that_hangs_is_not_waited_for_as_long_as_for_work(tmp_path):
    class Hung(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(1000))
            ended.wait(20)

    asked, ended = [], threading.Event()
    with SocketServer(str(tmp_path / "s"), Hung) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(EngineError, match=r"no answer from the container engine at .* to a ping, within 0.3 s"):
            Engine(f"unix://{tmp_path}/s", timeout=60).ping(0.3)
        assert time.monotonic() - began < 5
        engine = Engine(f"unix://{tmp_path}/s", timeout=0.3)
        engine._local.connection = engine._connect()  # as if it had been asked before
        with pytest.raises(EngineError, match="no answer"):
            engine.containers()
        # What was not answered in time is not asked again: it would only take twice as long.
        assert [text.split()[1] for text in asked] == [b"/_ping", b"/containers/json?all=1"]
        ended.set()
        server.shutdown()


def test_an_engine_that_answers_a_ping(server, engine):
    engine.ping(5)
    assert server.asked == ["/_ping"]


def test_an_address_of_another_kind():
    with pytest.raises(EngineError, match="expected unix:///path or tcp://host:port"):
        Engine("ssh://host").containers()


def test_something_else_than_an_engine(tmp_path):
    class Garbage(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with SocketServer(str(tmp_path / "s"), Garbage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EngineError, match="not an engine's answer"):
            Engine(f"unix://{tmp_path}/s").info()
        server.shutdown()


# ---------------------------------------------------------------- readiness


@pytest.fixture
def web():
    server = serve(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def never(command):
    raise AssertionError("not to be called")


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/v3", None, None),
        ("/v3", [200], "answers with status 300, expected 200"),
        ("/busy", None, "answers with status 503, expected 2xx or 3xx"),
        ("/login", [200, 401], None),
    ],
)
def test_http(web, path, status, answer):
    found = probe({"http": f"http://{web}{path}", "status": status}, never)
    assert found == (answer and f"http://{web}{path} {answer}")


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert "does not answer" in probe({"http": f"http://{address}/"}, never)
    assert f"nothing listens on {address}" in probe({"tcp": address}, never)


def test_tcp(web):
    assert probe({"tcp": web}, never) is None


def test_exec():
    assert probe({"exec": ["true"]}, lambda command: (0, "")) is None
    found = probe({"exec": ["mysqladmin", "ping"]}, lambda command: (1, "a\nno server\n"))
    assert found == "`mysqladmin ping` ended with status 1 (no server), expected 0"


def test_pauses_grow_from_twenty_to_two_per_second():
    ticks = pauses()
    assert next(ticks) == 0.05
    for _ in range(20):
        last = next(ticks)
    assert last == 0.5
