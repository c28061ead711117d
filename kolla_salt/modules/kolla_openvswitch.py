"""Bridges, ports and settings of this host's Open vSwitch: its daemon in one container, its database in another."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import openvswitch as _openvswitch
from kolla_salt import runtime

__virtualname__ = "kolla_openvswitch"

DATABASE = "openvswitch_db"
CONTAINER = "openvswitch_vswitchd"
AGENT = "neutron_openvswitch_agent"
CACHED = "kolla_openvswitch.switch"
#: Seconds within which the daemon must have taken over a change.
TIMEOUT = 20
#: Seconds within which Neutron's agent has to have set up the networks in a switch that started anew.
SETTLE_TIMEOUT = 120.0
INTERFACES = Path("/sys/class/net")
IFF_UP = 1
EMPTY: dict[str, Any] = {
    "bridges": {}, "interfaces": {}, "external_ids": {}, "other_config": {}, "datapath_types": [],
}  # fmt: skip


def __virtual__() -> str:
    return __virtualname__


def _vsctl(arguments: list[str] | tuple[str, ...]) -> str:
    command = ["ovs-vsctl", f"--timeout={TIMEOUT}", *arguments]
    result = __salt__["kolla_container.exec"](DATABASE, command, check=False)
    if result["exit_status"] != 0:
        why = result["output"].strip() or (
            f"no answer within {TIMEOUT} seconds; `salt {__opts__['id']} kolla_container.logs {CONTAINER}` and "
            "/var/log/kolla/openvswitch/ovs-vswitchd.log say what the daemon does"
        )
        raise CommandExecutionError(
            f"`{' '.join(command)}` in container {DATABASE} ended with status {result['exit_status']}: {why}"
        )
    return result["output"]


def _runs(container: str) -> bool:
    return __salt__["kolla_container.state"](container) == "running"


def switch(fresh: bool = True) -> dict[str, Any]:
    """Return bridges, interfaces and settings of this host's switch.

    :param fresh: False: what this job read before, if nothing was changed since
    :returns: ``bridges`` (name -> datapath_type, ports), ``interfaces`` (name -> type, error),
        ``external_ids``, ``other_config``, ``datapath_types``; in test mode all empty if the database does not run
    :raises CommandExecutionError: the database does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.switch
    """
    if fresh or CACHED not in __context__:
        # Only a prediction may find no switch.
        if __opts__["test"] and not _runs(DATABASE):
            return EMPTY
        try:
            __context__[CACHED] = _openvswitch.parse(_vsctl(_openvswitch.READ))
        except _openvswitch.OpenvswitchError as error:
            raise CommandExecutionError(f"reading the switch of {__opts__['id']}: {error}") from error
    return __context__[CACHED]


def _change(arguments: list[str]) -> None:
    __context__.pop(CACHED, None)
    _vsctl(arguments)


def declared() -> dict[str, Any]:
    """Return what this host's switch is to have, out of the options of the site.

    :returns: ``{}`` where the container is not placed (or not in this step of a run); else ``bridges`` (list of bridge,
        card, datapath_type), ``addresses`` (bridge -> address with prefix length), ``external_ids``,
        ``other_config`` (what the daemon reads only when it starts) and ``requisite``: by which of Salt's requisites
        the daemon's state learns of it
    :raises CommandExecutionError: neutron_bridge_name and neutron_external_interface do not fit together

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.declared
    """
    daemon = __salt__["kolla.states"]("openvswitch").get(CONTAINER, {}).get("kolla_container.running")
    if daemon is None:
        return {}
    resolver = runtime.resolver(__opts__, __pillar__, __context__)
    bridges: list[dict[str, str]] = []
    if resolver.host in resolver.hosts("network") or resolver.value("computes_need_external_bridge"):
        try:
            pairs = _openvswitch.pairs(
                resolver.value("neutron_bridge_name"), resolver.value("neutron_external_interface")
            )
        except _openvswitch.OpenvswitchError as error:
            raise CommandExecutionError(str(error)) from error
        bridges = [{"bridge": bridge, "card": card} for bridge, card in pairs]
    addresses: dict[str, str] = {}
    if tunnels := resolver.value("ovs_tunnel_bridge"):
        bridges.append({"bridge": tunnels, "card": resolver.value("tunnel_interface")})
        addresses[tunnels] = f"{resolver.address('tunnel')}/{resolver.prefix_length('tunnel')}"
    name = __grains__.get("nodename") or __opts__["id"]
    return {
        "bridges": [{**item, "datapath_type": resolver.value("ovs_datapath")} for item in bridges],
        "addresses": addresses,
        "external_ids": {
            "system-id": resolver.value("openvswitch_system_id") or name.split(".")[0],
            "hostname": resolver.value("openvswitch_hostname") or name,
        },
        "other_config": {
            "hw-offload": "true" if resolver.value("openvswitch_hw_offload") else None,
            "userspace-tso-enable": "true" if resolver.value("ovs_userspace_tso") else None,
        },
        # One that does not run yet reads it anyhow, and Salt starts a parallel state twice if it watches.
        "requisite": "require_in" if {"parallel": True} in daemon else "watch_in",
    }


def _unswitched() -> list[str]:
    """Return, as sentences, the networks of this host whose packets the switch drops, though Neutron's agent runs."""
    if not (_runs(AGENT) and _runs(CONTAINER) and _runs(DATABASE)):
        return []
    try:
        networks = _openvswitch.tags(_vsctl(_openvswitch.READ_TAGS))
    except _openvswitch.OpenvswitchError as error:
        raise CommandExecutionError(f"reading the ports of {__opts__['id']}: {error}") from error
    given: set[int] = set()
    for bridge in _openvswitch.TAGGING if networks else ():
        # One that is not there gives no tags.
        command = ["ovs-ofctl", "--protocols=OpenFlow13", "--timeout=5", "dump-flows", bridge]
        given |= _openvswitch.tagged(__salt__["kolla_container.exec"](CONTAINER, command, check=False)["output"])
    return [
        f"the switch of {__opts__['id']} has no flows for the network of {', '.join(sorted(ports))}"
        for tag, ports in networks.items()
        if tag not in given
    ]


def unsettled(timeout: float = SETTLE_TIMEOUT) -> list[str]:
    """Wait until Neutron's agent has set up all networks of this host in its switch.

    :param timeout: seconds to wait
    :returns: as sentences, what is still missing then
    :raises CommandExecutionError: the switch does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.unsettled timeout=5
    """
    deadline = time.monotonic() + timeout
    while missing := _unswitched():
        if time.monotonic() > deadline:
            log = "/var/log/kolla/neutron/neutron-openvswitch-agent.log"
            mend = f"`salt {__opts__['id']} kolla_container.restart {AGENT}` has its agent set it up anew"
            return [f"{text} after {timeout:g} s; {log} says why, {mend}" for text in missing]
        time.sleep(0.5)
    return []


def verify() -> dict[str, Any]:
    """Return whether all networks of this host are set up in its switch, for ``kolla-salt verify``.

    :returns: ``findings``
    :raises CommandExecutionError: the switch does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.verify
    """
    mend = f"salt {__opts__['id']} kolla_container.restart {AGENT}"
    item = {"name": "flows of the virtual switch", "expected": "flows for each network", "winner": "site", "mend": mend}
    return {"findings": [{**item, "found": text} for text in _unswitched()]}


def bridge_diff(name: str, datapath_type: str = "system") -> dict[str, Any]:
    """Compare a bridge with its declaration.

    :param name: the bridge
    :param datapath_type: ``system`` (the kernel's module) or ``netdev`` (userspace)
    :returns: ``{}`` if it is as declared
    :raises CommandExecutionError: the switch does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.bridge_diff br-ex datapath_type=netdev
    """
    return _openvswitch.bridge_diff(switch(fresh=False), name, datapath_type)


def set_bridge(name: str, datapath_type: str = "system") -> str:
    """Make a bridge, or change it to what is given.

    :param name: the bridge
    :param datapath_type: ``system`` or ``netdev``
    :raises CommandExecutionError: the switch does not answer, or does not know the datapath type

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.set_bridge br-ex datapath_type=netdev
    """
    known = switch()["datapath_types"]
    if known and datapath_type not in known:
        raise CommandExecutionError(
            f"making the bridge {name} on {__opts__['id']}: datapath type {datapath_type!r}, but this Open vSwitch has "
            f"{', '.join(sorted(known))}; load the kernel module openvswitch, or set ovs_datapath: netdev"
        )
    _change(_openvswitch.bridge_command(name, datapath_type))
    return f"bridge {name} is of type {datapath_type}"


def _is_up(card: str) -> bool | None:
    """Whether a network card of the host is switched on; None if there is no such card."""
    try:
        return bool(int((INTERFACES / card / "flags").read_text(), 16) & IFF_UP)
    except FileNotFoundError:
        return None


def port_diff(name: str, bridge: str) -> dict[str, Any]:
    """Compare a network card's place in a bridge with its declaration.

    :param name: the card
    :param bridge: the bridge
    :returns: ``{}`` if the card is switched on and in the bridge
    :raises CommandExecutionError: the switch does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.port_diff eth1 br-ex
    """
    changes = _openvswitch.port_diff(switch(fresh=False), name, bridge)
    if not _is_up(name):
        changes["up"] = {"old": _is_up(name), "new": True}
    return changes


def set_port(name: str, bridge: str) -> str:
    """Put a network card of this host into a bridge and switch it on.

    :param name: the card
    :param bridge: the bridge
    :raises CommandExecutionError: there is no such card, or the switch cannot use it

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.set_port eth1 br-ex
    """
    what = f"putting {name} into the bridge {bridge} of {__opts__['id']}"
    up = _is_up(name)
    if up is None:
        found = sorted(path.name for path in INTERFACES.iterdir())
        raise CommandExecutionError(
            f"{what}: expected a network card {name!r} (option neutron_external_interface, which a host may set for "
            f"itself in topology:hosts:{__opts__['id']}:options); this host has {', '.join(found)}"
        )
    current = _openvswitch.port_diff(switch(), name, bridge)
    if current:
        _change(_openvswitch.port_command(name, bridge, current["bridge"]["old"]))
    if not up:
        try:
            subprocess.run(
                ["ip", "link", "set", "dev", name, "up"], check=True, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            raise CommandExecutionError(f"{what}: switching it on failed: {said}") from error
    trouble = switch()["interfaces"].get(name, {}).get("error")
    if trouble:
        raise CommandExecutionError(f"{what}: Open vSwitch says: {trouble}")
    return f"{name} is in the bridge {bridge}"


def address_diff(name: str, address: str) -> dict[str, Any]:
    """Compare the address of a bridge with its declaration.

    :param name: the bridge
    :param address: with its prefix length, e.g. ``10.1.0.11/24``
    :returns: ``{}`` if the bridge is switched on and has the address

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.address_diff br-tunnel 10.1.0.11/24
    """
    found = _addresses(name)
    if address in found and _is_up(name):
        return {}
    return {"address": {"old": found, "new": address}}


def await_address(name: str, address: str) -> str:
    """Wait until a bridge has its address. The container gives it, whenever its daemon has made the bridge.

    :param name: the bridge
    :param address: with its prefix length
    :raises CommandExecutionError: the bridge has not got it in time

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.await_address br-tunnel 10.1.0.11/24
    """
    deadline = time.monotonic() + TIMEOUT
    while address_diff(name, address):
        if time.monotonic() > deadline:
            raise CommandExecutionError(
                f"giving the bridge {name} of {__opts__['id']} the address {address}: after {TIMEOUT} s it has "
                f"{', '.join(_addresses(name)) or 'none'}. The container {CONTAINER} runs switch.sh for that; "
                f"`salt {__opts__['id']} kolla_container.restart {CONTAINER}` runs it again"
            )
        time.sleep(0.1)
    return f"{name} has {address}"


def _addresses(name: str) -> list[str]:
    """Return the addresses of a network device of the host, with their prefix lengths."""
    done = subprocess.run(
        ["ip", "-json", "address", "show", "dev", name], capture_output=True, text=True, timeout=10, check=False
    )
    links = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    return [f"{item['local']}/{item['prefixlen']}" for link in links for item in link.get("addr_info", [])]


def settings_diff(
    external_ids: dict[str, str] | None = None, other_config: dict[str, Any] | None = None, for_start: bool = False
) -> dict[str, Any]:
    """Compare settings of the switch with their declaration.

    :param external_ids: key -> value
    :param other_config: key -> value, None if it must not be set
    :param for_start: the daemon reads them when it starts
    :returns: ``{}`` if they are as declared
    :raises CommandExecutionError: the database does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.settings_diff external_ids='{"system-id": "node1"}'
    """
    if for_start and __opts__["test"] and not _runs(DATABASE) and _runs(CONTAINER):
        return {}  # not known while its database is away; most likely the daemon started with them
    return _openvswitch.settings_diff(switch(fresh=False), external_ids or {}, other_config or {})


def set_settings(
    external_ids: dict[str, str] | None = None, other_config: dict[str, Any] | None = None, for_start: bool = False
) -> None:
    """Set settings of the switch; other keys are left alone.

    :param external_ids: key -> value
    :param other_config: key -> value, None to remove it
    :param for_start: the daemon reads them when it starts, so it need not run now; if it does, it has to be restarted
    :raises CommandExecutionError: the database or, without `for_start`, the daemon does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_openvswitch.set_settings external_ids='{"system-id": "node1"}'
    """
    changes = _openvswitch.settings_diff(switch(), external_ids or {}, other_config or {})
    if changes:
        _change([*(["--no-wait"] if for_start else []), *_openvswitch.settings_command(changes)])
