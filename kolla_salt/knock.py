"""A quick look whether anybody listens, for predictions, which should not wait for what a bare host cannot have yet."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import urlsplit

#: Seconds. An address that no host holds is given up by the kernel only after three.
PATIENCE = 1.0


def silent(address: str, port: int) -> str | None:
    """Return why nobody answers on ``address`` and ``port``, or None if somebody accepts connections."""
    try:
        with closing(socket.create_connection((address, port), timeout=PATIENCE)):
            return None
    except OSError as error:
        return error.strerror or f"no answer within {PATIENCE:g} s"


def silent_url(url: str) -> str | None:
    """Return why nobody answers at ``url``, or None."""
    parts = urlsplit(url)
    return silent(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
