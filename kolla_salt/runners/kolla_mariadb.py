"""The database's cluster as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import salt.client
from salt.exceptions import SaltRunnerError

from kolla_salt import declarations, galera, recovery, runs
from kolla_salt import site as sites
from kolla_salt.context import Resolver

__virtualname__ = "kolla_mariadb"


def __virtual__() -> str:
    return __virtualname__


def _list(value: Any) -> list[str]:
    if not value:
        return []
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)


def recover(without: Any = None, start_from: str | None = None, patience: float = recovery.PATIENCE) -> dict[str, Any]:
    """Start a stopped cluster from its most advanced member, and make all others members again.

    :param without: hosts (list or comma separated) to go on without; what they alone have is lost.
    :param start_from: the host from whose data to start, instead of the most advanced one.
    :param patience: seconds for members that could find each other by themselves.
    :returns: as :meth:`kolla_salt.recovery.Recovery.run`.
    :raises SaltRunnerError: data could be lost, or not every host is a member at the end.

    CLI Example:

    .. code-block:: bash

        salt-run kolla_mariadb.recover
        salt-run state.orchestrate orch.mariadb_recovery
    """
    site = sites.load(sites.served_by(__opts__))
    resolver = Resolver(declarations.load(), site.as_pillar(), next(iter(site.topology["hosts"])))
    order = resolver.hosts("mariadb") if resolver.enabled("mariadb") else []
    if not order:
        raise SaltRunnerError("the site has no database of its own: enable_mariadb is off, or its group is empty")
    made = recovery.Recovery(
        order=order, ask=_ask, present=_present, without=_list(without), chosen=start_from or None,
        patience=float(patience),
    )  # fmt: skip
    try:
        result = recovery.recorded(made, __opts__.get("kolla_runs") or runs.ROOT, sites.served_by(__opts__))
    except galera.GaleraError as error:
        raise SaltRunnerError(str(error)) from error
    if not result["ok"]:
        wrong = [result["error"], *result["problems"], *(f"{host} does not answer" for host in result["unknown"])]
        states = ", ".join(f"{host}: {state}" for host, state in result["members"].items())
        raise SaltRunnerError("\n".join([*filter(None, wrong), states, f"record: {result['run']}"]))
    return result


def _ask(hosts: Sequence[str], function: str, **kwargs: Any) -> dict[str, Any]:
    if not hosts:
        return {}
    answers: dict[str, Any] = {}
    with salt.client.get_local_client(mopts=__opts__) as client:
        for part in client.cmd_iter(list(hosts), function, tgt_type="list", kwarg=kwargs or None):
            for host, said in part.items():
                if isinstance(said, dict) and "ret" in said and not (said.get("failed") and not said["ret"]):
                    answers[host] = said["ret"]
            if len(answers) == len(hosts):
                break
    return answers


def _present(hosts: Sequence[str]) -> list[str]:
    with salt.client.get_local_client(mopts=__opts__) as client:
        answers = client.cmd(list(hosts), "test.ping", tgt_type="list", timeout=3, gather_job_timeout=3)
    return [host for host in hosts if answers.get(host) is True]
