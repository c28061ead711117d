"""What was here before a run; the states of a rollback, which ``kolla_kept.apply`` puts together."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_kept"


def __virtual__() -> str:
    return __virtualname__


def returned(name: str, run: str) -> dict[str, Any]:
    """Have the container that was there before a run, or none if there was none.

    :param name: the container
    :param run: id of the run
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_kept.difference"](name, run),
        apply=lambda: __salt__["kolla_kept.back"](name, run),
    )


def reread(name: str, run: str, component: str) -> dict[str, Any]:
    """Have a container run with the configuration of before a run.

    :param name: the container
    :param run: id of the run
    :param component: the configuration folder that it reads
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_kept.difference"](name, run, component=component),
        apply=lambda: __salt__["kolla_kept.reread"](name),
    )


def files_returned(name: str, run: str) -> dict[str, Any]:
    """Have a configuration folder as it was before a run.

    :param name: the folder
    :param run: id of the run
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_kept.files_diff"](name, run),
        apply=lambda: __salt__["kolla_kept.restore_files"](name, run),
    )


def stopped(name: str) -> dict[str, Any]:
    """Have a container not running, while the database of its service is restored.

    :param name: the container
    """

    def diff() -> dict[str, Any]:
        state = __salt__["kolla_container.state"](name)
        runs = state.split()[0] in ("running", "restarting", "paused")
        return {"state": {"old": state, "new": "stopped"}} if runs else {}

    return converge(name, __opts__["test"], diff, apply=lambda: __salt__["kolla_container.stop"](name))


def used_up(name: str, run: str, service: str) -> dict[str, Any]:
    """Have nothing kept of a service that is as it was before a run.

    :param name: what it is about, in words
    :param run: id of the run
    :param service: the service
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_kept.remains"](service, run),
        apply=lambda: __salt__["kolla_kept.use_up"](service, run),
    )
