"""Make a site from the files of a Kolla-Ansible deployment: globals.yml, passwords.yml, inventory. Pure.

The options have the same names without the prefix ``kolla_``. What has no counterpart is listed, with the reason, and
not taken over: a site that is half understood is worse than one that is known to be incomplete.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kolla_salt.declarations import Declaration, nearest

TOP_GROUPS = ("control", "network", "compute", "storage", "monitoring")
#: Address options of hosts -> network of the topology.
_ADDRESSES = {
    "api_interface_address": "api",
    "ansible_host": "api",
    "tunnel_interface_address": "tunnel",
    "migration_interface_address": "migration",
    "storage_interface_address": "storage",
}
_WORDS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass
class Imported:
    """A site and what did not make it into it."""

    globals: dict[str, Any] = field(default_factory=dict)
    topology: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def options(
    values: Mapping[str, Any], declarations: Mapping[str, Declaration], where: str, left: list[str]
) -> dict[str, Any]:
    """Return the options of ``values`` under their names here; what cannot be taken over is added to ``left``.

    Args:
        values: a globals.yml, or the variables of one host.
        declarations: all services.
        where: what to call the source in ``left``.
        left: receives sentences.
    """
    settings = {name: setting for decl in declarations.values() for name, setting in decl["settings"].items()}
    taken: dict[str, Any] = {}
    for name, value in values.items():
        own = name if name in settings else name.removeprefix("kolla_")
        if own not in settings:
            left.append(f"{where}: {name}: no such option here{nearest(own, settings)}")
            continue
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            left.append(f"{where}: {name}: {value!r} is an Ansible expression; give its value")
            continue
        converted = _convert(value, settings[own]["type"])
        if converted is None and value is not None:
            left.append(f"{where}: {name}: {value!r} is not of type {settings[own]['type']}")
            continue
        if value is None and settings[own]["default"] is not None:
            left.append(f"{where}: {name}: has no value, the default is taken")
            continue
        taken[own] = converted
    return taken


def _convert(value: Any, kind: str) -> Any:
    if kind == "bool" and isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    if kind == "int" and isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind == "list" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    accepted = {"bool": bool, "int": int, "number": int | float, "string": str, "list": list, "dict": dict}.get(kind)
    return value if accepted is None or isinstance(value, accepted) else None


def inventory(text: str) -> tuple[dict[str, list[str]], dict[str, dict[str, str]], dict[str, list[str]]]:
    """Read an INI inventory.

    Returns:
        Groups (name -> hosts listed in it), hosts (name -> variables), children (group -> groups in it).
    """
    groups: dict[str, list[str]] = {}
    hosts: dict[str, dict[str, str]] = {}
    children: dict[str, list[str]] = {}
    variables: dict[str, dict[str, str]] = {}
    section, kind = "ungrouped", ""
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)[#;].*$", "", raw).strip()
        if not line:
            continue
        if match := re.fullmatch(r"\[([^\]:]+)(?::(children|vars))?\]", line):
            section, kind = match.group(1), match.group(2) or ""
            groups.setdefault(section, [])
            continue
        if kind == "children":
            children.setdefault(section, []).append(line)
        elif kind == "vars":
            name, _, value = line.partition("=")
            variables.setdefault(section, {})[name.strip()] = value.strip().strip("'\"")
        else:
            words = line.split()
            pairs = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            for name in _expand(words[0]):
                groups.setdefault(section, []).append(name)
                hosts.setdefault(name, {}).update({key: value.strip("'\"") for key, value in pairs.items()})
    for group, values in variables.items():
        for name in list(hosts) if group == "all" else members(group, groups, children):
            hosts[name] = {**values, **hosts.get(name, {})}
    return groups, hosts, children


def _expand(pattern: str) -> list[str]:
    """Return the names of a range such as ``ctl[01:03]``."""
    match = re.search(r"\[(\w+):(\w+)\]", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    if first.isdigit():
        inside = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        inside = [chr(code) for code in range(ord(first), ord(last) + 1)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for part in inside for name in _expand(f"{head}{part}{tail}")]


def members(group: str, groups: Mapping[str, list[str]], children: Mapping[str, list[str]]) -> list[str]:
    """Return the hosts of ``group`` and of the groups in it, in order and once."""
    found = list(groups.get(group, []))
    for child in children.get(group, []):
        if child != group:
            found += members(child, groups, children)
    return list(dict.fromkeys(found))


def site(settings: Mapping[str, Any], inventory_text: str, declarations: Mapping[str, Declaration]) -> Imported:
    """Return the site that a globals.yml and an inventory describe.

    Args:
        settings: content of globals.yml.
        inventory_text: the inventory (INI).
        declarations: all services.
    """
    result = Imported()
    result.globals = options(settings, declarations, "globals.yml", result.left)
    groups, hosts, children = inventory(inventory_text)
    topology: dict[str, Any] = {"hosts": {}, "groups": {}}
    known = {*TOP_GROUPS, "deployment", *(name for decl in declarations.values() for name in decl["groups"])}
    for group in groups:
        found = members(group, groups, children)
        if group in TOP_GROUPS or (group in known and groups[group]):
            topology["groups"][group] = found
        elif groups[group] and group not in {"ungrouped", "baremetal", "common", "deployment"}:
            result.left.append(f"inventory: group {group}: no service here is placed by it{nearest(group, known)}")
    used = dict.fromkeys(host for names in topology["groups"].values() for host in names)
    for name in used:
        values = hosts.get(name, {})
        addresses = {}
        for variable, network in _ADDRESSES.items():
            if variable in values and network not in addresses and _is_address(values[variable]):
                addresses[network] = values[variable]
        if "api" not in addresses and _is_address(name):
            addresses["api"] = name
        if "api" not in addresses:
            result.left.append(
                f"inventory: host {name}: its address in the API network is not in the inventory; "
                f"write it to topology.yml, hosts:{name}:addresses:api"
            )
        own = {key: value for key, value in values.items() if key not in _ADDRESSES and not key.startswith("ansible_")}
        entry: dict[str, Any] = {"addresses": addresses}
        extra = options(own, declarations, f"inventory: host {name}", result.left)
        if extra:
            entry["options"] = extra
        topology["hosts"][name] = entry
    result.topology = topology
    return result


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
