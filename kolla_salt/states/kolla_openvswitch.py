"""Bridges, ports and settings of this host's Open vSwitch.

.. code-block:: yaml

    br-ex:
      kolla_openvswitch.bridge_present:
        - datapath_type: netdev
    eth1:
      kolla_openvswitch.port_present:
        - bridge: br-ex
"""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_openvswitch"


def __virtual__() -> str:
    return __virtualname__


def bridge_present(name: str, datapath_type: str = "system") -> dict[str, Any]:
    """Ensure that a bridge exists and is of the given type.

    :param name: the bridge
    :param datapath_type: ``system`` (the kernel's module) or ``netdev`` (userspace)
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_openvswitch.bridge_diff"](name, datapath_type),
        apply=lambda: __salt__["kolla_openvswitch.set_bridge"](name, datapath_type),
    )


def port_present(name: str, bridge: str) -> dict[str, Any]:
    """Ensure that a network card of the host is switched on and belongs to a bridge.

    :param name: the card
    :param bridge: the bridge
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_openvswitch.port_diff"](name, bridge),
        apply=lambda: __salt__["kolla_openvswitch.set_port"](name, bridge),
    )


def address_present(name: str, address: str) -> dict[str, Any]:
    """Ensure that a bridge has an address, which the switch's container gives it.

    :param name: the bridge
    :param address: with its prefix length
    """
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_openvswitch.address_diff"](name, address),
        apply=lambda: __salt__["kolla_openvswitch.await_address"](name, address),
    )


def settings_present(
    name: str,
    external_ids: dict[str, str] | None = None,
    other_config: dict[str, Any] | None = None,
    for_start: bool = False,
) -> dict[str, Any]:
    """Ensure settings of the switch as a whole; keys that are not given are left alone.

    :param name: what it is for
    :param external_ids: key -> value
    :param other_config: key -> value, None if it must not be set
    :param for_start: the daemon reads them only when it starts: its database is enough, and its container watches this
    """
    arguments = (external_ids, other_config, for_start)
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_openvswitch.settings_diff"](*arguments),
        apply=lambda: __salt__["kolla_openvswitch.set_settings"](*arguments),
    )
