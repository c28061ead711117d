"""The steps of an upgrade, as states of ``orch/upgrade.sls``."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kolla_upgrade"


def __virtual__() -> str:
    return __virtualname__


def checked(name: str) -> dict[str, Any]:
    """Refuse what cannot end well, before anything is changed."""
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        services = __salt__["kolla_upgrade.check"]()
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    return ret | {"comment": ", ".join(services) or "every service runs what the site says"}


def applied(name: str, **step: Any) -> dict[str, Any]:
    """Apply one step of the plan.

    :param step: ``wave``, ``role``, ``services``, ``sls``, ``minions`` and ``phases``; ``by``: the execution function
        that does it.
    """
    fields = {key: step[key] for key in ("wave", "role", "services", "sls", "minions", "phases")}
    done = __salt__["kolla_upgrade.apply"]({"id": name, "by": step.get("by"), **fields})
    return {"name": name, **done["state"]}
