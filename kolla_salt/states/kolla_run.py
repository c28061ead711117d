"""The steps of an orchestrated run, as states of ``orch/*.sls``."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kolla_run"


def __virtual__() -> str:
    return __virtualname__


def begun(
    name: str, verb: str, steps: Any, run_id: str = "", every: bool = False, hosts: Any = None, expect: str = ""
) -> dict[str, Any]:
    """Begin a run: who answers, what would change, which images are missing.

    :param verb: what the run is called; the rest as :py:func:`kolla_run.begin <kolla_salt.modules.kolla_run.begin>`.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = __salt__["kolla_run.begin"](verb, steps, run_id=run_id or "", every=every, hosts=hosts, expect=expect)
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    missing = f"; no answer from {', '.join(found['unknown'])}" if found["unknown"] else ""
    return ret | {"comment": f"run {found['run']}: {len(found['todo'])} services to apply{missing}"}


def pulled(name: str) -> dict[str, Any]:
    """Have every image on every host before a container is touched."""
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "all images are on their hosts"}
    if __opts__["test"]:
        return ret
    try:
        fetched = __salt__["kolla_run.pull"]()
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    return ret | {"changes": {host: {"old": [], "new": images} for host, images in fetched.items()}}


def applied(name: str, **step: Any) -> dict[str, Any]:
    """Apply one step of the plan on its hosts, less what needs nothing done and what is blocked by a failure.

    :param step: ``wave``, ``role``, ``services``, ``sls`` and ``minions``; ``by``: the execution function that does it.
    """
    fields = {key: step[key] for key in ("wave", "role", "services", "sls", "minions")}
    done = __salt__["kolla_run.apply"]({"id": name, "by": step.get("by"), **fields})
    return {"name": name, **done["state"]}


def ended(name: str) -> dict[str, Any]:
    """Close the run's record; fails unless all went well."""
    done = __salt__["kolla_run.end"]()
    comment = f"run {done['run']} is {done['result']} after {done['seconds']} s"
    return {"name": name, "result": done["result"] == "ok", "changes": {}, "comment": comment}
