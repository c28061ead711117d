"""Take servers out of this host's HAProxy and put them in again, while it runs."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import haproxy as _haproxy

__virtualname__ = "kolla_haproxy"

VOLUME, SOCKET = "haproxy_socket", "haproxy.sock"
#: Seconds in which requests under way may end.
DRAIN_TIMEOUT = 10.0
#: Seconds in which a server that was put in again has to pass its checks.
READY_TIMEOUT = 60.0


def __virtual__() -> str:
    return __virtualname__


def _command(text: str) -> str:
    directory = __salt__["kolla_container.volume_path"](VOLUME)
    path = Path(directory or "/nonexistent") / SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(5)
            link.connect(str(path))
            link.sendall(f"{text}\n".encode())
            parts = []
            while part := link.recv(65536):
                parts.append(part)
    except OSError as error:
        raise CommandExecutionError(
            f"asking HAProxy of {__opts__['id']} for '{text}' at {path}: {error}; expected it to listen there: "
            "`kolla-salt status` shows whether the container haproxy runs"
        ) from error
    return b"".join(parts).decode()


def servers() -> dict[str, dict[str, Any]]:
    """Return the servers behind this host's HAProxy.

    :returns: ``backend/server`` -> ``status`` (HAProxy's word) and ``sessions`` (present number)
    :raises CommandExecutionError: HAProxy does not answer

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_haproxy.servers
    """
    return _haproxy.parse(_command("show stat -1 4 -1"))


def verify() -> dict[str, Any]:
    """Return how the servers behind this host's HAProxy are, for ``kolla-salt verify``.

    :returns: ``findings``, and ``alike``: what the HAProxy of every host must say the same of
    :raises CommandExecutionError: HAProxy does not answer

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_haproxy.verify
    """
    text = _command("show stat -1 4 -1")
    alike = {
        f"the server that alone gets requests of {name}": server for name, server in _haproxy.writers(text).items()
    }
    return {"findings": _haproxy.findings(_haproxy.parse(text), __opts__["id"]), "alike": alike}


def _set(target: str, mode: str) -> None:
    answer = _command(f"set server {target} state {mode}").strip()
    if answer:
        raise CommandExecutionError(f"setting {target} to '{mode}' in HAProxy of {__opts__['id']}: it said: {answer}")


def drain(targets: dict[str, str], timeout: float = DRAIN_TIMEOUT) -> dict[str, Any]:
    """Take servers out, and wait until what they were asked for is answered. The last one of a backend stays in.

    :param targets: ``backend/server`` -> ``drain`` (connections may end) or ``maint`` (they are cut)
    :param timeout: seconds to wait for connections to end; afterwards they are left as they are
    :returns: ``out``: those that are out; ``before``: those of them that were out before; ``stay``: target -> why not;
        ``open``: target -> connections left
    :raises CommandExecutionError: HAProxy does not answer, or refused

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_haproxy.drain '{keystone_back/ctl2: drain}'
    """
    known = servers()
    going, stay = _haproxy.can_go(known, targets)
    before = [target for target in going if _haproxy.is_out(known[target]["status"])]
    for target in going:
        _set(target, targets[target])
    deadline = time.monotonic() + timeout
    left: dict[str, int] = {}
    while going:
        found = servers()
        left = {target: found[target]["sessions"] for target in going if found[target]["sessions"]}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return {"out": going, "before": before, "stay": stay, "open": left}


def ready(
    targets: list[str], timeout: float = READY_TIMEOUT, keep: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    """Put servers in again, and wait until HAProxy's own checks have found them well.

    :param targets: ``backend/server`` each; those that HAProxy does not know are left out
    :param keep: host -> those of them that stay as they are in its HAProxy: an operator had taken them out there
    :param timeout: seconds to wait
    :returns: ``up``: those that get requests; ``down``: target -> HAProxy's word for what it is
    :raises CommandExecutionError: HAProxy does not answer, or refused

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_haproxy.ready '[keystone_back/ctl2]'
    """
    known = servers()
    kept = (keep or {}).get(__opts__["id"], ())
    wanted = [target for target in targets if target in known and target not in kept]
    for target in wanted:
        # Whatever its status: of one whose checks fail it does not tell that it was taken out as well.
        _set(target, "ready")
    deadline = time.monotonic() + timeout
    while True:
        found = servers()
        down = {target: found[target]["status"] for target in wanted if not _haproxy.is_up(found[target]["status"])}
        if not down or time.monotonic() > deadline:
            return {"up": [target for target in wanted if target not in down], "down": down}
        time.sleep(0.2)
