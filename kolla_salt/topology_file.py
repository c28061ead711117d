"""Put a host into the text of a ``topology.yml``, or take it out. Text in, text out.

The file is the operator's: nothing is dumped anew. YAML's own marks say where a host's lines are, only those change,
and the result is read again and compared with what it should say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kolla_salt.declarations import write_atomically

Edit = tuple[int, int, str]


class TopologyError(ValueError):
    """The file cannot be edited by a program; the message says what to write by hand."""


def added(
    text: str,
    host: str,
    groups: Sequence[str],
    addresses: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> str:
    """Return ``text`` with ``host`` at the end of the hosts and of each of ``groups``, in the style of its neighbours.

    :raises TopologyError: the file is not built as expected.
    """
    fields: dict[str, Any] = {"addresses": dict(addresses)}
    if options:
        fields["options"] = dict(options)
    what = f"adding {host} to the topology"
    root = _root(text, what)
    wanted = _data(text, what)
    wanted.setdefault("hosts", {})[host] = fields
    top = _mapping(root)
    hosts = top.get("hosts")
    if hosts is None or not isinstance(hosts[1], yaml.MappingNode) or not hosts[1].value:
        raise TopologyError(f"{what}: the file has no host yet, expected at least one below 'hosts:' to go by")
    edits = [_new_host(text, hosts[1], host, fields)]
    known = _mapping(top["groups"][1]) if "groups" in top else {}
    listed = wanted["groups"] = wanted.get("groups") or {}
    new: list[str] = []
    for group in dict.fromkeys(groups):
        members = listed[group] = list(listed.get(group) or [])
        if host in members:
            continue
        members.append(host)
        if group in known:
            edits.append(_new_member(text, *known[group], host))
        else:
            new.append(group)
    if new:
        edits.append(_new_groups(text, top.get("groups"), dict.fromkeys(new, host)))
    return _checked(text, edits, wanted, what)


def removed(text: str, host: str) -> str:
    """Return ``text`` without ``host``, neither among the hosts nor in a group; comments stay, but for its own.

    :raises TopologyError: the file is not built as expected.
    """
    what = f"taking {host} out of the topology"
    root = _root(text, what)
    wanted = _data(text, what)
    (wanted.get("hosts") or {}).pop(host, None)
    top = _mapping(root)
    edits: list[Edit] = []
    hosts = _mapping(top["hosts"][1]) if "hosts" in top else {}
    if host in hosts:
        edits.append(_without_key(text, top["hosts"][1], host))
    for group, (key, node) in (_mapping(top["groups"][1]) if "groups" in top else {}).items():
        members = [item.value for item in node.value] if isinstance(node, yaml.SequenceNode) else []
        if host in members:
            wanted["groups"][group] = [name for name in wanted["groups"][group] if name != host]
            edits.append(_without_member(text, key, node, host))
    return _checked(text, edits, wanted, what)


def write(path: Path, text: str) -> None:
    """Replace the file in one step; it keeps its mode."""
    write_atomically(path, text.encode(), path.stat().st_mode & 0o7777)


# --- reading --------------------------------------------------------------------------------------------------------


def _root(text: str, what: str) -> yaml.MappingNode:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise TopologyError(f"{what}: the file is not valid YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise TopologyError(f"{what}: the file holds no mapping, expected 'hosts:' and 'groups:'")
    return root


def _data(text: str, what: str) -> dict[str, Any]:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TopologyError(f"{what}: the file is not valid YAML: {error}") from error


def _mapping(node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    return {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _end(text: str, node: yaml.Node) -> int:
    """Return where the last character of ``node`` is; a block's own mark stands behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index
    while isinstance(node, yaml.ScalarNode) and end > node.start_mark.index and text[end - 1] in "\n ":
        end -= 1
    return end


def _line_end(text: str, position: int) -> int:
    """Return where the line of ``position`` ends, its line break included."""
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1


def _block_end(text: str, node: yaml.Node, column: int) -> int:
    """Return the end of the lines of a block's last entry, with the comments indented deeper than ``column``."""
    end = _line_end(text, _end(text, node))
    while True:
        after = _line_end(text, end)
        line = text[end:after]
        if not line.strip().startswith("#") or len(line) - len(line.lstrip()) <= column:
            return end
        end = after


def _checked(text: str, edits: Sequence[Edit], wanted: Mapping[str, Any], what: str) -> str:
    """Apply ``edits`` (from, to, new text) and make sure that the result says what is wanted."""
    new = text
    for start, end, piece in sorted(edits, reverse=True):
        new = new[:start] + piece + new[end:]
    try:
        found = yaml.safe_load(new)
    except yaml.YAMLError:
        found = None
    if found != wanted:
        shown = yaml.safe_dump(dict(wanted), sort_keys=False, default_flow_style=None, width=110)
        raise TopologyError(
            f"{what}: the file is written in a way that can only be changed by hand (anchors, for instance); nothing "
            f"was written. It has to say what this says:\n{shown}"
        )
    return new


# --- adding ---------------------------------------------------------------------------------------------------------


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip().removesuffix("\n...")


def _break_before(text: str, position: int) -> str:
    """Return a line break where the text before ``position`` has none."""
    return "" if position == 0 or text[position - 1] == "\n" else "\n"


def _new_host(text: str, hosts: yaml.MappingNode, host: str, fields: Mapping[str, Any]) -> Edit:
    key, last = hosts.value[-1]
    if hosts.flow_style:
        return (_end(text, last),) * 2 + (f", {_flow(host)}: {_flow(fields)}",)
    column = key.start_mark.column
    place = _block_end(text, last, column)
    indent = " " * column
    if isinstance(last, yaml.MappingNode) and not last.flow_style and last.value:
        inner = " " * last.value[0][0].start_mark.column
        lines = [f"{indent}{_flow(host)}:", *(f"{inner}{name}: {_flow(value)}" for name, value in fields.items())]
    else:
        lines = [f"{indent}{_flow(host)}: {_flow(fields)}"]
    return place, place, _break_before(text, place) + "\n".join(lines) + "\n"


def _new_member(text: str, key: yaml.Node, node: yaml.Node, host: str) -> Edit:
    if isinstance(node, yaml.SequenceNode) and node.value:
        last = node.value[-1]
        if node.flow_style:
            return (_end(text, last),) * 2 + (f", {_flow(host)}",)
        place = _block_end(text, last, node.start_mark.column)
        line = f"{' ' * node.start_mark.column}- {_flow(host)}\n"
        return place, place, _break_before(text, place) + line
    if isinstance(node, yaml.SequenceNode):
        return node.start_mark.index, node.end_mark.index, f"[{_flow(host)}]"
    colon = text.index(":", key.end_mark.index) + 1
    return colon, max(colon, _end(text, node)), f" [{_flow(host)}]"


def _new_groups(text: str, groups: tuple[yaml.Node, yaml.Node] | None, new: Mapping[str, str]) -> Edit:
    node = groups[1] if groups else None
    entries = [f"{_flow(group)}: [{_flow(host)}]" for group, host in new.items()]
    if isinstance(node, yaml.MappingNode) and node.value:
        key, last = node.value[-1]
        if node.flow_style:
            return (_end(text, last),) * 2 + ("".join(f", {entry}" for entry in entries),)
        place = _block_end(text, last, key.start_mark.column)
        indent = " " * key.start_mark.column
        return place, place, _break_before(text, place) + "".join(f"{indent}{entry}\n" for entry in entries)
    if groups:
        colon = text.index(":", groups[0].end_mark.index) + 1
        return colon, max(colon, groups[1].end_mark.index), f" {{{', '.join(entries)}}}"
    return len(text), len(text), _break_before(text, len(text)) + "groups:\n" + "".join(f"  {e}\n" for e in entries)


# --- removing -------------------------------------------------------------------------------------------------------


def _without_key(text: str, node: yaml.MappingNode, name: str) -> Edit:
    keys = [key.value for key, _ in node.value]
    place = keys.index(name)
    key, value = node.value[place]
    if not node.flow_style:
        start = text.rfind("\n", 0, key.start_mark.index) + 1
        return start, _block_end(text, value, key.start_mark.column), ""
    if place + 1 < len(node.value):
        return key.start_mark.index, node.value[place + 1][0].start_mark.index, ""
    start = _end(text, node.value[place - 1][1]) if place else key.start_mark.index
    return start, _end(text, value), ""


def _without_member(text: str, key: yaml.Node, node: yaml.SequenceNode, host: str) -> Edit:
    names = [item.value for item in node.value]
    place = names.index(host)
    item = node.value[place]
    if node.flow_style:
        if place + 1 < len(names):
            return item.start_mark.index, node.value[place + 1].start_mark.index, ""
        return (_end(text, node.value[place - 1]) if place else item.start_mark.index), _end(text, item), ""
    if len(names) == 1:
        return text.index(":", key.end_mark.index) + 1, _end(text, item), " []"
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    return start, _block_end(text, item, node.start_mark.column), ""
