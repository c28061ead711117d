"""Keep containers' configuration files as declared."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_config"


def __virtual__() -> str:
    return __virtualname__


def managed(name: str, service: str, container: str, file: str) -> dict[str, Any]:
    """Ensure that a file of a container's configuration directory is what the declaration and the site make of it.

    :param name: path on the host
    :param service: name of the service
    :param container: name of the container
    :param file: key of the container's ``files``, or ``config.json``
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_config.diff"](name, service, container, file),
        apply=lambda: __salt__["kolla_config.write"](name, service, container, file),
    )


def pruned(name: str, service: str, container: str, keep: list[str] | None = None) -> dict[str, Any]:
    """Ensure that a configuration directory holds nothing that is not declared.

    :param name: the directory
    :param service: name of the service
    :param container: name of the container
    :param keep: patterns of files that hand-written states put there
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_config.obsolete_diff"](name, service, container, keep),
        apply=lambda: __salt__["kolla_config.prune"](name, service, container, keep),
    )
