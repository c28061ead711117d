"""A real HTTP server on the loopback that behaves and misbehaves on request."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from datetime import UTC, datetime, timedelta

PASSWORD = "the-administrators-password"


class Api:
    """Answers each connection in a thread of its own, as ``mode`` says at that moment.

    ``mode`` is ``good``, ``reset``, ``silent``, ``cut``, ``deaf`` (closes without a word), ``chunked``, ``endless``
    (ends with the connection), a number (that HTTP status) or a function of the request's head that returns one.
    """

    def __init__(self, mode="good", context: ssl.SSLContext | None = None) -> None:
        self.mode = mode
        self.delay = 0.0
        self.context = context
        self.requests: list[str] = []
        self.connections = 0
        self.listener: socket.socket | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=200)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            with link:
                if self.context:
                    link = self.context.wrap_socket(link, server_side=True)
                with link:
                    self._talk(link)
        except OSError:
            pass  # the client had enough

    def _talk(self, link: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = link.recv(65536)
            if not more:
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode()
        self.requests.append(text.split("\r\n")[0])
        mode = self.mode(text) if callable(self.mode) else self.mode
        time.sleep(self.delay)
        if mode == "reset":
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif mode == "silent":
            time.sleep(5)
        elif mode == "cut":
            link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        elif mode == "chunked":
            link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhole\r\n")
            time.sleep(0.02)
            link.sendall(b"0\r\n\r\n")
        elif mode == "endless":
            link.sendall(b"HTTP/1.0 200 OK\r\n\r\nwhole")
        elif mode != "deaf":
            self.answer(link, 200 if mode == "good" else mode, text, body)

    def answer(self, link: socket.socket, status: int, head: str, body: bytes) -> None:
        self.send(link, status, {})

    @staticmethod
    def send(link: socket.socket, status: int, headers: dict, body: bytes = b"{}") -> None:
        lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        link.sendall("\r\n".join([*lines, "", ""]).encode() + body)


class Identity(Api):
    """Gives out tokens against the password and says whether one is valid."""

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.given = 0
        super().__init__()

    def answer(self, link: socket.socket, status: int, head: str, body: bytes) -> None:
        method, path = head.split()[:2]
        if status != 200:
            self.send(link, status, {})
        elif method == "POST" and path.startswith("/v3/auth/tokens"):
            length = int(next(line for line in head.split("\r\n") if line.startswith("Content-Length")).split()[1])
            while len(body) < length:
                body += link.recv(65536)
            given = json.loads(body)["auth"]["identity"]["password"]["user"]["password"]
            if given != PASSWORD:
                self.send(link, 401, {})
                return
            self.given += 1
            token = f"token-{self.given}"
            self.valid.add(token)
            expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            said = {"token": {"expires_at": expires, "project": {"id": "p1"}}}
            self.send(link, 201, {"X-Subject-Token": token}, json.dumps(said).encode())
        else:
            self.send(link, 200 if self.knows(head) else 401, {})

    def knows(self, head: str) -> bool:
        return any(f"X-Auth-Token: {token}" in head.split("\r\n") for token in self.valid)
