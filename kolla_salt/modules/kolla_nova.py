"""Compute hosts of the cloud, as Nova's databases know them."""

from __future__ import annotations

import time
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import database, runtime
from kolla_salt import nova as _nova

__virtualname__ = "kolla_nova"

CONDUCTOR = "nova_conductor"


def __virtual__() -> str:
    return __virtualname__


def _rows(account: str, schema: str, sql: str) -> list[tuple[Any, ...]]:
    resolver = runtime.resolver(__opts__, __pillar__, __context__)
    password = str(resolver.names("nova")["secret"](f"{account}_database_password"))
    server = database.Database(
        str(resolver.value("database_address")), int(resolver.value("database_port")), account, password
    )
    try:
        return server.query(sql.replace(" FROM ", f" FROM {schema}.", 1))
    finally:
        server.close()


def compute_hosts() -> dict[str, list[str]]:
    """Return the compute hosts that Nova knows.

    :returns: host names: ``up``, ``held`` and ``down`` (registered; those that report, those that do but have lost
        libvirt, those that do not report), ``mapped`` (they belong to a cell, so that instances are scheduled to them)
    :raises CommandExecutionError: the database does not answer, or has no schema of Nova

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_nova.compute_hosts
    """
    try:
        return _nova.status(_rows("nova", "nova", _nova.COMPUTES), _rows("nova_api", "nova_api", _nova.MAPPED))
    except (ValueError, database.DatabaseError) as error:
        raise CommandExecutionError(f"reading the compute hosts from Nova's databases: {error}") from error


def _expected() -> list[str]:
    return runtime.resolver(__opts__, __pillar__, __context__).hosts("compute")


def hosts_diff() -> dict[str, Any]:
    """Compare the compute hosts of the site with those that Nova schedules to.

    :returns: ``{}`` if each has announced itself and belongs to a cell
    :raises CommandExecutionError: the database does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_nova.hosts_diff
    """
    if __opts__["test"] and __salt__["kolla_container.state"](CONDUCTOR) != "running":
        # Nova is only about to be deployed, so its schemas need not be there.
        return _nova.hosts_diff(_expected(), _nova.status([], []))
    return _nova.hosts_diff(_expected(), compute_hosts())


def map_hosts(timeout: float | None = None) -> str:
    """Wait until the compute hosts have announced themselves, and map those that belong to no cell.

    One that has been mapped before and is silent for long is dead, and not waited for.

    :param timeout: seconds to wait; default: option nova_compute_registration_timeout
    :raises CommandExecutionError: some host has not announced itself in time; those that have are mapped all the same

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_nova.map_hosts
    """
    resolver = runtime.resolver(__opts__, __pillar__, __context__)
    timeout = float(resolver.value("nova_compute_registration_timeout") if timeout is None else timeout)
    deadline = time.monotonic() + timeout
    while True:
        found = compute_hosts()
        absent = _nova.awaited(_expected(), found)
        if not absent or time.monotonic() > deadline:
            break
        time.sleep(1)
    new = [host for host in found["up"] if host not in found["mapped"]]
    if new:
        # Another one may map the same host at the same moment: what counts is the comparison afterwards.
        command = ["nova-manage", "cell_v2", "discover_hosts", "--by-service"]
        result = __salt__["kolla_container.exec"](CONDUCTOR, command, check=False)
        if result["exit_status"] not in (0, 2):
            raise CommandExecutionError(
                f"mapping the compute hosts {', '.join(new)}: `{' '.join(command)}` in container {CONDUCTOR} ended "
                f"with status {result['exit_status']}, expected 0:\n{result['output']}"
            )
    if absent:
        held = f" ({', '.join(found['held'])} without libvirt)" if found["held"] else ""
        raise CommandExecutionError(
            f"waiting {timeout:g} seconds for nova-compute on {', '.join(absent)}{held}: Nova sees "
            f"{', '.join(found['up']) or 'none'}. /var/log/kolla/nova/nova-compute.log on the host says why; if it "
            "only needs longer, raise nova_compute_registration_timeout"
        )
    return f"mapped {', '.join(new)}" if new else "all compute hosts have announced themselves"
