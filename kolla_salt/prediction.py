"""What a dry run says, in the operator's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What the dry run of these functions is about, in the operator's words.
_KINDS = {
    "kolla_config": "files",
    "kolla_container": "containers",
    "kolla_db": "databases",
    "kolla_keystone": "catalogue",
}
#: What kolla_container says will have been done -> what is to be done.
_ACTIONS = {
    "created": "create",
    "recreated": "recreate",
    "started": "start",
    "restarted": "restart",
    "reloaded": "reload",
    "updated": "change in place",
    "adopted": "adopt",
}


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host's dry run comes to: files, containers with action and reason, databases, catalogue, other."""
    found: dict[str, Any] = {"files": [], "containers": [], "databases": [], "catalogue": [], "other": []}
    for state in report["states"]:
        kind = _KINDS.get(state["function"].split(".")[0], "other")
        if kind == "containers":
            action, why = container_action(state)
            found[kind].append({"name": state["id"], "action": action, "why": why, "changes": state["changes"]})
        else:
            found[kind].append({"name": state["id"], "changes": state["changes"], "comment": state.get("comment", "")})
    return found


def container_action(state: Mapping[str, Any]) -> tuple[str, str]:
    """Return what will be done to a container (create, recreate, restart, reload, run, remove, ...) and why."""
    changes = state["changes"]
    name = state["function"].split(".")[-1]
    if name == "ran":
        return "run", "has to run once"
    if name == "absent":
        return "remove", "is no longer declared here"
    state_change = changes.get("state")
    done = state_change.get("new") if isinstance(state_change, Mapping) else None
    action = _ACTIONS.get(str(done), str(done) if done else "change")
    if action == "create":
        return action, ""
    fields = [field for field in changes if field not in {"state", "config"}]
    config = changes.get("config")
    files = config.get("new") if isinstance(config, Mapping) else None
    if files:
        fields.append(", ".join(files) if isinstance(files, list) else str(files))
    if not fields and isinstance(state_change, Mapping):
        return action, f"it is {state_change.get('old')}"
    return action, f"because of {', '.join(fields)}" if fields else state.get("comment", "")
