"""Keep what the services register in Keystone as declared."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_keystone"

#: Seconds to wait for a Keystone that was just started.
TIMEOUT = 120


def __virtual__() -> str:
    return __virtualname__


def registered(name: str, service: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Ensure that a service's users, roles, catalogue entries and endpoints are in Keystone as it declares them.

    :param name: the state's ID
    :param service: name of the service
    :param timeout: seconds to wait for Keystone; a prediction does not wait
    """
    test = __opts__["test"]
    return converge(
        name,
        test,
        diff=lambda: __salt__["kolla_keystone.diff"](service, timeout=0 if test else timeout, remember=not test),
        apply=lambda: __salt__["kolla_keystone.register"](service, timeout=timeout) and None,
    )
