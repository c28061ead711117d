"""What a run will do: waves, steps, validation of the site. Read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import salt.client
from salt.exceptions import SaltRunnerError

from kolla_salt import declarations, rollback, runs
from kolla_salt import plan as plans
from kolla_salt import site as sites
from kolla_salt.context import ContextError, Resolver
from kolla_salt.steps import patience

__virtualname__ = "kolla"


def __virtual__() -> str:
    return __virtualname__


def _load() -> tuple[sites.Site, dict[str, Any]]:
    try:
        return sites.load(sites.served_by(__opts__)), declarations.load()
    except (sites.SiteError, declarations.DeclarationError, FileNotFoundError) as exc:
        raise SaltRunnerError(str(exc)) from exc


def validate() -> list[str]:
    """Return every problem of the site as a sentence; an empty list means that it can be deployed.

    CLI Example:

    .. code-block:: bash

        salt-run kolla.validate
    """
    site, decls = _load()
    return [problem.text for problem in sites.validate(site, decls)]


def plan(verb: str = "deploy", services: Any = None, present: Any = None) -> list[dict[str, Any]]:
    """Return the steps of ``verb``: id, wave, role, services, sls, minions.

    :param verb: the verb the plan is for.
    :param services: names (list or comma separated) to restrict the run to.
    :param present: minions that answered (list or comma separated); hosts that are not among them are left out of the
        steps. Default: all hosts.
    :raises SaltRunnerError: the site has problems, all of them named.

    CLI Example:

    .. code-block:: bash

        salt-run kolla.plan
        salt-run kolla.plan services=keystone,glance
    """
    site, decls = _load()
    problems = sites.validate(site, decls)
    if problems:
        lines = "\n  ".join(problem.text for problem in problems)
        raise SaltRunnerError(f"the site {sites.served_by(__opts__)} has {len(problems)} problems:\n  {lines}")
    only = _list(services)
    unknown = [name for name in only or [] if name not in decls]
    if unknown:
        raise SaltRunnerError(f"unknown service '{unknown[0]}'{declarations.nearest(unknown[0], decls)}")
    resolver = Resolver(decls, site.as_pillar(), next(iter(site.topology["hosts"])))
    try:
        steps = plans.steps(resolver, only, verb)
    except (plans.PlanError, ContextError) as exc:
        raise SaltRunnerError(str(exc)) from exc
    resolver.leaves.save()
    there = _list(present)
    if there is not None:
        steps = [{**step, "minions": [name for name in step["minions"] if name in there]} for step in steps]
    return [step for step in steps if step["minions"]]


def back(run: str = "", services: Any = None, restore_database: bool = False) -> dict[str, Any]:
    """Return what a rollback is to do, and what it can not return.

    :param run: the run that is taken back; default: the last one that changed something and was not taken back.
    :param services: names (list or comma separated) to restrict it to.
    :param restore_database: bring back databases whose schemas were contracted, from the run's snapshots.
    :returns: see :func:`kolla_salt.rollback.prepare`.
    :raises SaltRunnerError: it cannot be taken back.

    CLI Example:

    .. code-block:: bash

        salt-run kolla.back
        salt-run kolla.back 20260714-101500-upgrade services=glance
    """
    site, decls = _load()
    resolver = Resolver(decls, site.as_pillar(), next(iter(site.topology["hosts"])))
    root = Path(__opts__.get("kolla_runs") or runs.ROOT)
    try:
        found = rollback.prepare(resolver, root, str(run or ""), _list(services) or (), bool(restore_database))
    except (rollback.RollbackError, runs.UnknownRun, plans.PlanError, ContextError) as exc:
        raise SaltRunnerError(str(exc)) from exc
    resolver.leaves.save()
    return found


def _list(value: Any) -> list[str] | None:
    if value is None or value == "":
        return None
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)


def hosts() -> list[str]:
    """Return the hosts of the site's topology.

    CLI Example:

    .. code-block:: bash

        salt-run kolla.hosts
    """
    site, _ = _load()
    return list((site.topology.get("hosts") or {}).keys())


def who(timeout: int = 0) -> dict[str, list[str]]:
    """Return which hosts of the topology answer: ``{"present": [...], "unknown": [...]}``.

    :param timeout: seconds to wait for an answer; default: three, and one more for each hundred hosts.

    CLI Example:

    .. code-block:: bash

        salt-run kolla.who
    """
    expected = hosts()
    timeout = timeout or patience(len(expected))
    with salt.client.get_local_client(mopts=__opts__) as client:
        answers = client.cmd(expected, "test.ping", tgt_type="list", timeout=timeout, gather_job_timeout=timeout)
    present = [name for name in expected if answers.get(name) is True]
    return {"present": present, "unknown": [name for name in expected if name not in present]}
