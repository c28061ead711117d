"""The virtual addresses: whether this host holds them, and whether it may."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import runtime

__virtualname__ = "kolla_vip"

#: keepalived's check fails while this file lies beside HAProxy's socket; salt/loadbalancer/files has the other half.
VOLUME, MARK = "haproxy_socket", "gives-up-vip"
#: Seconds until keepalived has noticed, and another host has the addresses.
TIMEOUT = 20.0


def __virtual__() -> str:
    return __virtualname__


def _mark() -> Path:
    directory = __salt__["kolla_container.volume_path"](VOLUME)
    if not directory:
        raise CommandExecutionError(
            f"looking for the volume {VOLUME} of {__opts__['id']}: there is none, expected that of the container "
            "haproxy; `kolla-salt status` shows whether it runs here"
        )
    return Path(directory) / MARK


def _addresses() -> list[str]:
    done = subprocess.run(["ip", "-json", "address", "show"], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise CommandExecutionError(
            f"running 'ip -json address show': exit status {done.returncode}: {done.stderr.strip()}; "
            "it comes with the package iproute2"
        )
    return [entry["local"] for link in json.loads(done.stdout) for entry in link.get("addr_info", [])]


def status() -> dict[str, Any]:
    """Return ``holds`` (the virtual addresses that this host has) and ``candidate`` (whether it may have them).

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_vip.status
    """
    resolver = runtime.resolver(__opts__, __pillar__, __context__)
    own = {str(resolver.value(name)) for name in ("internal_vip_address", "external_vip_address")}
    held = sorted(own & set(_addresses()))
    return {"holds": held, "candidate": not _mark().exists()}


def holds() -> bool:
    """Return whether this host has virtual addresses.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_vip.holds
    """
    return bool(status()["holds"])


def verify() -> dict[str, Any]:
    """Return whether this host holds the virtual addresses and may do so, for ``kolla-salt verify``.

    :returns: ``findings``, and ``once``: address -> whether it is here; exactly one host must have it

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_vip.verify
    """
    resolver = runtime.resolver(__opts__, __pillar__, __context__)
    held = set(_addresses())
    names = ("internal_vip_address", "external_vip_address")
    once = {str(value): str(value) in held for name in names if (value := resolver.value(name))}
    item = {"name": "virtual addresses", "found": "this host does not take them", "expected": "it may have them"}
    mend = f"if nobody works on it: salt {__opts__['id']} kolla_vip.stand, or kolla-salt node undrain {__opts__['id']}"
    findings = [{**item, "kind": "vip", "winner": "undecided", "mend": mend}] if _mark().exists() else []
    return {"findings": findings, "once": once}


def give_up(timeout: float = TIMEOUT) -> list[str]:
    """Give the virtual addresses to another host, and do not take them again until :func:`stand`.

    :param timeout: seconds to wait until they are gone
    :returns: the addresses that this host had
    :raises CommandExecutionError: they are still here

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_vip.give_up
    """
    had = status()["holds"]
    _mark().touch()
    deadline = time.monotonic() + timeout
    while held := status()["holds"]:
        if time.monotonic() > deadline:
            raise CommandExecutionError(
                f"giving {', '.join(held)} of {__opts__['id']} to another host: still here after {timeout:g} s; "
                "expected keepalived to notice that its check fails (option keepalived_track_script_enabled); "
                "docker logs keepalived"
            )
        time.sleep(0.2)
    return had


def stand() -> bool:
    """Let this host have the virtual addresses again, when no other has them. Return whether it was kept from it.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_vip.stand
    """
    mark = _mark()
    there = mark.exists()
    mark.unlink(missing_ok=True)
    return there
