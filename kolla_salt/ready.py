"""Whether a service answers, asked once."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
PROBE_TIMEOUT = 3.0


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between two questions: short at first, since most services are there at once."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE)


def probe(ready: dict[str, Any], execute: Callable[[list[str]], tuple[int, str]]) -> str | None:
    """Ask once whether a service is ready.

    :param ready: ``{http: URL, status: [...]}``, ``{tcp: "address:port"}`` or ``{exec: [...]}``
    :param execute: runs a command inside the container and returns its exit status and output
    :returns: ``None`` when it is ready, else what was found and what is expected
    """
    if ready.get("http"):
        return _http(str(ready["http"]), [int(status) for status in ready.get("status") or []])
    if ready.get("tcp"):
        return _tcp(str(ready["tcp"]))
    command = [str(item) for item in ready["exec"]]
    status, output = execute(command)
    if status == 0:
        return None
    last = output.strip().splitlines()[-1:] or ["no output"]
    return f"`{' '.join(command)}` ended with status {status} ({last[0]}), expected 0"


def _http(url: str, accepted: list[int]) -> str | None:
    parts = urlsplit(url)
    options: dict[str, Any] = {"timeout": PROBE_TIMEOUT}
    if parts.scheme == "https":
        # Readiness only: whether the certificate is a good one is a matter of verification, not of starting.
        options["context"] = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.hostname, parts.port, **options)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, **options)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", target, headers={"Connection": "close", "User-Agent": "kolla-salt"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
    if status in accepted or (not accepted and 200 <= status < 400):
        return None
    expected = " or ".join(str(item) for item in accepted) or "2xx or 3xx"
    return f"{url} answers with status {status}, expected {expected}"


def _tcp(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT).close()
    except OSError as error:
        return f"nothing listens on {address}: {error}"
    return None
