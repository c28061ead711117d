"""Watch the containers of this host, and tell the master of what has changed.

One question to the engine for each look; nothing else runs here, since a beacon works in the minion's main process.
What is worth telling goes out as ``kolla/drift/<host>``, and that is nothing at all while all is well::

    beacons:
      kolla_drift:
        - interval: 30
        - engine: docker
        - disable_during_state_run: True

The options drift_* of the site put this into each minion's pillar.
"""

from __future__ import annotations

import time
from typing import Any

from kolla_salt import container as _container
from kolla_salt import drift
from kolla_salt.engine import SOCKETS, Engine, EngineError

__virtualname__ = "kolla_drift"

#: Seconds that the engine has for its list: the minion waits meanwhile.
TIMEOUT = 5.0


def __virtual__() -> str:
    return __virtualname__


def validate(config: Any) -> tuple[bool, str]:
    """Return whether the beacon's configuration can be used, and what is wrong with it."""
    if not isinstance(config, list) or not all(isinstance(item, dict) for item in config):
        return False, "expected a list of mappings"
    engine = _options(config).get("engine")
    return (
        (True, "") if engine in SOCKETS else (False, f"engine: expected one of {', '.join(SOCKETS)}, found {engine!r}")
    )


def _options(config: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for item in config for key, value in item.items()}


def beacon(config: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Look once. The events go out under kolla-salt's own tag, so Salt is given none."""
    options = _options(config)
    socket = options.get("socket") or __opts__.get("kolla_container_engine_socket") or SOCKETS[options["engine"]]
    seen = look(socket if "://" in socket else f"unix://{socket}")
    memory = drift.memories.setdefault(__opts__["id"], {})
    told = drift.changed(memory, seen, time.monotonic())
    if told:
        data = {"host": __opts__["id"], "kind": "containers", "containers": told}
        __salt__["event.fire_master"](data, f"kolla/drift/{__opts__['id']}")
    return []


def look(socket: str) -> dict[str, str]:
    """Return container -> condition of our own; the engine itself stands among them when it does not answer."""
    engine = Engine(socket, timeout=TIMEOUT)
    try:
        listed = engine.get("/containers/json", all=1)
        return {drift.ENGINE: "running", **drift.conditions(listed, _container.LABEL_FIELDS)}
    except EngineError:
        return {drift.ENGINE: "does not answer"}
    finally:
        engine.close()
