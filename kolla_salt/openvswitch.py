"""Open vSwitch: read its database, compare it with what is declared, say which ovs-vsctl call brings it there.

Nothing here runs a program: the execution module `kolla_openvswitch` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Changes = dict[str, dict[str, Any]]

#: One call that reads all that is compared. Every ``list`` prints one JSON table on a line of its own.
READ = (
    "--format=json",
    "--", "--columns=name,ports,datapath_type", "list", "Bridge",
    "--", "--columns=_uuid,name,interfaces", "list", "Port",
    "--", "--columns=_uuid,name,type,error", "list", "Interface",
    "--", "--columns=external_ids,other_config,datapath_types", "list", "Open_vSwitch",
)  # fmt: skip

#: One call that reads which networks have a port of this host in Neutron's own bridge.
READ_TAGS = (
    "--format=json",
    "--", "--if-exists", "--columns=ports", "list", "Bridge", "br-int",
    "--", "--columns=_uuid,name,tag", "list", "Port",
)  # fmt: skip
#: The tag of ports that Neutron's agent keeps off all networks.
DEAD_VLAN = 4095
#: Bridges in which the packets of a network get its tag: Neutron's own, and that of the tunnels.
TAGGING = ("br-int", "br-tun")

#: What an empty `datapath_type` of a bridge stands for (ovs-vswitchd.conf.db(5)).
DEFAULT_DATAPATH = "system"


class OpenvswitchError(ValueError):
    """The output of ovs-vsctl is not what was asked for."""


def parse(output: str) -> dict[str, Any]:
    """Return the switch as plain data.

    :param output: what ``ovs-vsctl`` printed for :data:`READ`
    :returns: ``bridges`` (name -> datapath_type, ports), ``interfaces`` (name -> type, error),
        ``external_ids``, ``other_config`` and ``datapath_types`` (what the daemon can do; empty while it does not run)
    :raises OpenvswitchError: the output is not four JSON tables
    """
    try:
        tables = [_rows(json.loads(line)) for line in output.splitlines() if line.strip()]
        bridges, ports, interfaces, (switch, *_) = tables
    except (ValueError, KeyError, TypeError) as error:
        raise OpenvswitchError(f"expected four JSON tables from ovs-vsctl, found {output[:200]!r}") from error
    port_names = {row["_uuid"]: row["name"] for row in ports}
    return {
        "bridges": {
            row["name"]: {
                "datapath_type": row["datapath_type"] or DEFAULT_DATAPATH,
                "ports": sorted(port_names.get(port, str(port)) for port in _as_list(row["ports"])),
            }
            for row in bridges
        },
        "interfaces": {row["name"]: {"type": row["type"], "error": row["error"] or ""} for row in interfaces},
        "external_ids": switch["external_ids"],
        "other_config": switch["other_config"],
        "datapath_types": _as_list(switch["datapath_types"]),
    }


def tags(output: str) -> dict[int, list[str]]:
    """Return the networks of this host, by the tag that Neutron's agent gave them, and their ports.

    :param output: what ``ovs-vsctl`` printed for :data:`READ_TAGS`
    :returns: tag -> names of ports
    :raises OpenvswitchError: the output is not two JSON tables
    """
    try:
        bridges, ports = [_rows(json.loads(line)) for line in output.splitlines() if line.strip()]
        members = {port for row in bridges for port in _as_list(row["ports"])}
        found: dict[int, list[str]] = {}
        for row in ports:
            for tag in _as_list(row["tag"]):
                if row["_uuid"] in members and tag != DEAD_VLAN:
                    found.setdefault(int(tag), []).append(row["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise OpenvswitchError(f"expected two JSON tables from ovs-vsctl, found {output[:200]!r}") from error
    return found


def tagged(flows: str) -> set[int]:
    """Return the tags that the flows of a bridge give to packets.

    :param flows: output of ``ovs-ofctl dump-flows`` (OpenFlow 1.3, where a tag comes with the bit "there is one", 4096)
    """
    return {int(value) & 0xFFF for value in re.findall(r"set_field:(\d+)->vlan_vid", flows)}


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {heading: _value(cell) for heading, cell in zip(table["headings"], row, strict=True)} for row in table["data"]
    ]


def _value(cell: Any) -> Any:
    """Return a cell of OVSDB's JSON notation (RFC 7047, 5.1) as plain data."""
    if isinstance(cell, list) and len(cell) == 2:
        kind, value = cell
        if kind == "map":
            return {_value(key): _value(item) for key, item in value}
        if kind == "set":
            return [_value(item) for item in value] or None
        if kind == "uuid":
            return value
    return cell


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def bridge_diff(switch: Mapping[str, Any], name: str, datapath_type: str) -> Changes:
    """Compare bridge ``name`` with its declaration.

    The fail mode is nobody's business here: a new bridge switches like a plain one, and Neutron's agent changes that.

    :param switch: as :func:`parse` returns it
    :param datapath_type: ``system`` or ``netdev``
    :returns: ``{}`` if the bridge is as declared
    """
    found = switch["bridges"].get(name)
    if found is None:
        return {"bridge": {"old": None, "new": name}, "datapath_type": {"old": None, "new": datapath_type}}
    if found["datapath_type"] != datapath_type:
        return {"datapath_type": {"old": found["datapath_type"], "new": datapath_type}}
    return {}


def bridge_command(name: str, datapath_type: str) -> list[str]:
    """Return the ovs-vsctl arguments that make bridge ``name``.

    It is one transaction: the daemon must see the datapath type together with the bridge, since a bridge of type
    ``system`` cannot even be made where the kernel module is missing.
    """
    return ["--may-exist", "add-br", name, "--", "set", "Bridge", name, f"datapath_type={datapath_type}"]


def port_diff(switch: Mapping[str, Any], name: str, bridge: str) -> Changes:
    """Compare port ``name`` of ``bridge`` with its declaration.

    :returns: ``{}`` if the port is in the bridge; ``old`` is the bridge it is in now, or None
    """
    owner = next((other for other, found in switch["bridges"].items() if name in found["ports"]), None)
    return {} if owner == bridge else {"bridge": {"old": owner, "new": bridge}}


def port_command(name: str, bridge: str, old: str | None) -> list[str]:
    """Return the ovs-vsctl arguments that put port ``name`` into ``bridge``.

    :param old: the bridge that the port has to leave in the same transaction
    """
    leave = ["--if-exists", "del-port", old, name, "--"] if old else []
    return [*leave, "--may-exist", "add-port", bridge, name]


def settings_diff(
    switch: Mapping[str, Any], external_ids: Mapping[str, str], other_config: Mapping[str, Any]
) -> Changes:
    """Compare keys of the table Open_vSwitch with their declaration; other keys are left alone.

    :param other_config: a value of None means that the key must not be set
    """
    result: Changes = {}
    for column, declared in (("external_ids", external_ids), ("other_config", other_config)):
        for key, value in declared.items():
            old = switch[column].get(key)
            if old != value:
                result[f"{column}:{key}"] = {"old": old, "new": value}
    return result


def settings_command(changes: Changes) -> list[str]:
    """Return the ovs-vsctl arguments that make what :func:`settings_diff` found as declared."""
    arguments: list[str] = []
    for field, change in changes.items():
        column, key = field.split(":", 1)
        if arguments:
            arguments.append("--")
        if change["new"] is None:
            arguments += ["remove", "Open_vSwitch", ".", column, key]
        else:
            arguments += ["set", "Open_vSwitch", ".", f"{column}:{key}={json.dumps(change['new'])}"]
    return arguments


def pairs(bridges: str, interfaces: str) -> list[tuple[str, str]]:
    """Return (bridge, network card) pairs of two comma-separated options.

    :param bridges: value of ``neutron_bridge_name``
    :param interfaces: value of ``neutron_external_interface``
    :raises OpenvswitchError: the options do not have the same number of entries
    """
    names, cards = ([part.strip() for part in text.split(",") if part.strip()] for text in (bridges, interfaces))
    if len(names) != len(cards):
        raise OpenvswitchError(
            f"neutron_bridge_name has {len(names)} entries ({bridges!r}) and neutron_external_interface has "
            f"{len(cards)} ({interfaces!r}): give one network card for each bridge"
        )
    return list(zip(names, cards, strict=True))
