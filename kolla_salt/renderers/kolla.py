"""Renderer that adds to an SLS the states its folder's ``service.yaml`` declares.

An ``init.sls`` of a service begins with ``#!yaml|kolla`` and may be otherwise empty::

    #!yaml|kolla
    # everything is declared in service.yaml; see it with: salt-call state.show_sls glance

Hand-written states below it may require generated IDs (``docs/declarations.md``) or replace one by giving the same ID.
They are left out where the service has no states: on hosts it is not placed on, and in steps of another role.
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError, SaltRenderError

__virtualname__ = "kolla"


def __virtual__() -> str:
    return __virtualname__


def render(data: Any, saltenv: str = "base", sls: str = "", argline: str = "", **_kwargs: Any) -> dict[str, Any]:
    """Return the generated states of the service followed by the hand-written ones in ``data``.

    :param data: what the YAML stage made of the SLS; None for an SLS of comments.
    :param argline: name of the service; default: the first part of the SLS's name.
    :raises SaltRenderError: the declaration cannot be expanded.
    """
    service = argline.strip() or sls.split(".")[0]
    try:
        generated = __salt__["kolla.states"](service)
        written = dict(data or {}) if data and __salt__["kolla.involved"](service) else {}
    except CommandExecutionError as exc:
        raise SaltRenderError(str(exc)) from exc
    return {**{key: value for key, value in generated.items() if key not in written}, **written}
