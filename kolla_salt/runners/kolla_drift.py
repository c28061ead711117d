"""What the master does about containers that have stopped by themselves."""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import salt.client
from salt.exceptions import SaltRunnerError

from kolla_salt import drift, outcome, runs
from kolla_salt import site as sites
from kolla_salt.context import ContextError
from kolla_salt.declarations import write_atomically

log = logging.getLogger(__name__)
__virtualname__ = "kolla_drift"

#: Seconds that a host has for starting its containers again.
TIMEOUT = 60


def __virtual__() -> str:
    return __virtualname__


def heal(host: str, containers: dict[str, Any]) -> dict[str, Any]:
    """Start containers of a host again that have stopped by themselves; the reactor ``orch/heal.sls`` calls it.

    Nothing is done unless the option drift_heal of that host is on, while a run is going on, or for the same container
    more often than drift_heal_limit times an hour. The host itself refuses what is more than a start. What was started,
    or is not started any more because it does not stay up, gets a run record of the verb ``heal``.

    :param host: the minion.
    :param containers: name -> ``was`` and ``now``, as the event ``kolla/drift/<host>`` has it.
    :returns: ``started`` (names) and ``refused`` (name -> why).
    :raises SaltRunnerError: the site cannot be read, or has no such host.

    CLI Example:

    .. code-block:: bash

        salt-run kolla_drift.heal node1 '{memcached: {was: running, now: exited (1)}}'
    """
    directory = sites.served_by(__opts__)
    try:
        served = sites.served(directory)
        if host not in served.hosts:
            raise SaltRunnerError(f"healing on {host}: the site {directory} has no such host")
        resolver = served.resolver.seen_from(host)
        if not resolver.value("drift_heal"):
            return {"started": [], "refused": dict.fromkeys(containers, "option drift_heal is off")}
        limit = int(resolver.value("drift_heal_limit"))
    except (sites.SiteError, ContextError) as error:
        raise SaltRunnerError(f"healing on {host}: {error}") from error
    root = Path(__opts__.get("kolla_runs") or runs.ROOT)
    with _history(root, host) as history:
        began = time.time()
        going_on = (runs.running(root) or {}).get("id", "")
        may, refused = drift.to_heal(containers, going_on, history["healed"], began, limit)
        given_up = [] if going_on else [name for name in refused if name not in history["given up"]]
        said = _ask(host, may) if may else {"started": [], "refused": {}}
        history["healed"] = drift.remember(history["healed"], said["started"], began)
        left = set(history["given up"]) - set(said["started"])
        history["given up"] = sorted({*left, *given_up})
    refused |= said["refused"]
    told = outcome.scrub(refused, outcome.secrets_of(served.site.passwords))
    if said["started"] or given_up:
        runs.create(
            "heal",
            root,
            now=began,
            site=directory,
            host=host,
            result="failed" if given_up else "ok",
            finished=time.time(),
            seconds=round(time.time() - began, 3),
            started_again=said["started"],
            refused=told,
        )
    for name, why in told.items():
        log.warning("kolla: %s on %s (%s) is not started again: %s", name, host, containers[name].get("now"), why)
    for name in said["started"]:
        log.warning("kolla: %s on %s was %s and has been started again", name, host, containers[name].get("now"))
    return {"started": said["started"], "refused": told}


@contextmanager
def _history(root: Path, host: str) -> Iterator[dict[str, Any]]:
    """Give ``healed`` (container -> times) and ``given up`` (containers) of ``host``, and keep what becomes of them.

    A host is healed by one at a time.
    """
    folder = root / ".heal"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{host}.json"
    with (folder / f"{host}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            history = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            history = {"healed": {}, "given up": []}
        yield history
        write_atomically(path, json.dumps(history).encode())


def _ask(host: str, names: list[str]) -> dict[str, Any]:
    with salt.client.get_local_client(mopts=__opts__) as client:
        said = client.cmd(host, "kolla_node.heal", [names], timeout=TIMEOUT).get(host)
    if isinstance(said, dict):
        return said
    why = outcome.last_words(str(said)) if said else f"{host} does not answer"
    return {"started": [], "refused": dict.fromkeys(names, why)}
