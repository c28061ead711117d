"""Stands before a host's container engine and refuses requests when it is told to. Run in the host, by its own Python.

It takes the place of ``/run/docker.sock`` until it is ended with SIGTERM. As long as there
is a file ``ORDER``, a JSON object, requests that match its ``pattern`` (method and path) are refused after the first
``let`` of them; each refused one is a line in ``REFUSED``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

ENGINE, REAL = "/run/docker.sock", "/run/docker-real.sock"
ORDER, REFUSED = Path("/run/engine-order.json"), Path("/run/engine-refused")
MESSAGE = "no space left on device (a test has said so)"
REQUEST = re.compile(rb"^((?:GET|HEAD|POST|PUT|DELETE) \S+) HTTP/1")

lock = threading.Lock()
passed = {"order": "", "count": 0}


def refused(request: str) -> bool:
    """Return whether this request is refused, by the order there is."""
    with lock:
        try:
            text = ORDER.read_text()
            order = json.loads(text)
        except (OSError, ValueError):
            return False
        if text != passed["order"]:
            passed.update(order=text, count=0)
        if not re.search(order["pattern"], request):
            return False
        passed["count"] += 1
        if passed["count"] <= order["let"]:
            return False
        with REFUSED.open("a") as stream:
            stream.write(f"{request}\n")
        return True


def pump(source: socket.socket, target: socket.socket) -> None:
    """Hand on what comes until the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def serve(client: socket.socket) -> None:
    """Hand one connection on to the engine, or refuse what comes over it."""
    engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        engine.connect(REAL)
    except OSError:
        client.close()
        return
    answers = threading.Thread(target=pump, args=(engine, client), daemon=True)
    answers.start()
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            found = REQUEST.match(data)
            if found and refused(found[1].decode()):
                body = json.dumps({"message": MESSAGE}).encode()
                head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\n"
                client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                break
            engine.sendall(data)
        else:
            engine.shutdown(socket.SHUT_WR)
            answers.join()
    for end in (client, engine):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def end(*_: object) -> None:
    """Put the engine's own socket back."""
    os.replace(REAL, ENGINE)
    os._exit(0)


def main() -> None:
    """Take the engine's place."""
    signal.signal(signal.SIGTERM, end)
    if not os.path.exists(REAL):
        os.replace(ENGINE, REAL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(ENGINE)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(ENGINE)
    os.chmod(ENGINE, 0o660)
    listener.listen(128)
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
