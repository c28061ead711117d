"""Hosts that come and go: who else has to know, and when it must not be. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kolla_salt.context import ContextError, Resolver
from kolla_salt.steps import Only

#: The SLS by which every host knows the names of all.
NAMES = "kolla"
#: What a template or a declaration says when it depends on who is in a group.
_GROUP = re.compile(r"(?:hosts|primary)\(\s*['\"]([\w-]+)['\"]\s*\)")


def groups_read(root: Path) -> set[str]:
    """Return the groups whose members are read in declarations and templates below ``root``.

    Placement does not count: it concerns the placed host alone.
    """
    files = [*root.glob("*/service.yaml"), *root.glob("*/files/**/*")]
    return {name for path in files if path.is_file() for name in _GROUP.findall(path.read_text())}


def _members(resolver: Resolver) -> dict[str, list[str]]:
    found = {}
    for group in {*resolver.parents, *resolver.topology_groups, "control", "network", "compute", "storage"}:
        try:
            found[group] = resolver.hosts(group)
        except ContextError:
            continue  # a group that only exists where its service is
    return found


def _balanced(resolver: Resolver) -> list[Any]:
    return [entry["members"] for entry in resolver.catalogue["load_balancer"]]


def concerned(host: str, larger: Resolver, smaller: Resolver, read: set[str]) -> Only | None:
    """Return what a run has to be restricted to when ``host`` comes or goes; None: the whole cloud is concerned.

    Most hosts are known to others by name alone, and to the finishing step of their services. Where a list of members
    changes (load balancer, database, message queue, caches), everybody who reads it is concerned.

    Args:
        host: it.
        larger: the site with it.
        smaller: the site without it.
        read: groups whose members others read.
    """
    before, after = _members(smaller), _members(larger)
    changed = {group for group in after if after[group] != before.get(group)}
    listed = set(read)
    for option in ("om_rpc_group",):
        if option in larger.settings:
            listed.add(str(larger.value(option)))
    # Clients are given every member of these, by functions instead of by name.
    listed |= {"memcached", "rabbitmq"}
    if changed & listed or _balanced(larger) != _balanced(smaller):
        return None
    finish = alone(larger, host)
    return {name: None if name == host else [NAMES, *(finish.get(name) or [])] for name in larger.topology_hosts}


def containers(resolver: Resolver, host: str) -> list[str]:
    """Return the containers that belong on ``host``."""
    return [
        name for service in resolver.enabled_services() for name, on in resolver.containers(service, host).items() if on
    ]


def quorum(what: str, host: str, members: Sequence[str], working: Sequence[str]) -> str:
    """Return why a cluster cannot do without ``host``, or an empty string.

    Args:
        what: the cluster, in words.
        host: that is to go.
        members: all its hosts.
        working: those on which it works now.
    """
    if host not in members:
        return ""
    left = [name for name in members if name != host and name in working]
    if 2 * len(left) > len(members):
        return ""
    broken = [name for name in members if name != host and name not in working]
    found = f"{len(left)} of {len(members)} members would work ({', '.join(left) or 'none'})"
    helps = f"mend {', '.join(broken)} first" if broken else "add hosts to its group first"
    return f"{what} would lose its majority without {host}: {found}, expected more than half; {helps}"


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Return ``name=value`` words as a mapping.

    :raises ValueError: a word has no ``=``.
    """
    found = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name.strip() or not value.strip():
            raise ValueError(f"{option} {pair}: expected NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def differs(known: Mapping[str, Any], addresses: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    """Return where a host of the topology is not as it is asked for.

    Args:
        known: the host's entry.
        addresses: asked for.
        options: asked for.
    """
    found = []
    for field, wanted in (("addresses", addresses), ("options", options)):
        present = known.get(field) or {}
        found += [
            f"{field}:{name} is {present.get(name)!r}, {value!r} was asked for"
            for name, value in wanted.items()
            if present.get(name) != value
        ]
    return found


def alone(resolver: Resolver, host: str) -> dict[str, list[str] | None]:
    """Return what a run is restricted to that deploys ``host`` and the finishing steps of its services."""
    only: dict[str, list[str] | None] = {host: None}
    for service in resolver.enabled_services():
        decl = resolver.declarations[service]
        first = resolver.primary(decl["group"])
        if decl["finish"] and first and first != host and resolver.placed(service, host):
            only[first] = [*(only.get(first) or []), *decl["finish"]]
    return only
