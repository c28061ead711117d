"""The steps of a rollback, as states of ``orch/rollback.sls``."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kolla_rollback"


def __virtual__() -> str:
    return __virtualname__


def begun(name: str, back: Any, run_id: str = "") -> dict[str, Any]:
    """Begin a rollback: who answers, what is kept, what stands in the way.

    :param back: as for :py:func:`kolla_rollback.begin <kolla_salt.modules.kolla_rollback.begin>`.
    :param run_id: name of the record.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = __salt__["kolla_rollback.begin"](back, run_id=run_id or "")
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    missing = f"; no answer from {', '.join(found['unknown'])}" if found["unknown"] else ""
    return ret | {"comment": f"run {found['run']}: {len(found['todo'])} services to take back{missing}"}


def ended(name: str) -> dict[str, Any]:
    """Close the run's record, and note in that of the run that was taken back what of it was."""
    done = __salt__["kolla_rollback.end"]()
    comment = f"run {done['run']} is {done['result']} after {done['seconds']} s"
    return {"name": name, "result": done["result"] == "ok", "changes": {}, "comment": comment}
