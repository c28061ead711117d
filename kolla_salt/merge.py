"""Merging of configuration texts: the lowest precedence comes first, the last source wins.

Pure functions: texts in, one text out. Four formats are known:

``ini``
    A later source replaces the *whole* list of values of a key it sets; keys that one source repeats
    (oslo.config's multi-valued options) keep all their values.
``yaml``
    Mappings are merged recursively, everything else is replaced. The merge works on YAML nodes, so a scalar
    is never converted: ``09:00`` or ``1.10`` leave as they came.
``json``
    Mappings are merged recursively, everything else is replaced.
``text``
    The last source replaces the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_SUFFIXES = {
    ".conf": "ini",
    ".ini": "ini",
    ".cnf": "ini",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
}

# A key's values in the order of the source; None is a key without "=" (my.cnf's flags).
_Values = list[str | None]
_Ini = dict[str, dict[str, _Values]]

_Document = TypeVar("_Document")

_DELIMITER = re.compile(r"[=:]")


class MergeError(ValueError):
    """A source cannot be parsed.

    ``source`` is its label, ``line`` the line in its text (from 1; None when unknown).
    """

    def __init__(self, source: str, line: int | None, problem: str) -> None:
        self.source, self.line, self.problem = source, line, problem
        where = source if line is None else f"{source}, line {line}"
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True)
class Source:
    """One text to merge and the name that errors give to it."""

    label: str
    text: str


def format_of(file_name: str) -> str:
    """Name the format that a file name's suffix stands for: ``ini``, ``yaml``, ``json`` or ``text``."""
    return _SUFFIXES.get(PurePosixPath(file_name).suffix, "text")


def merge(format_: str, sources: Sequence[Source], *, flags: bool = False) -> str:
    """Merge texts of one format.

    format_
        ``ini``, ``yaml``, ``json`` or ``text``.
    sources
        Lowest precedence first. A single YAML, JSON or text source is returned as it is (but is parsed, to
        refuse a broken one); INI is always normalised to ``key = value``.
    flags
        INI only: accept keys without a value and ``!include`` lines, as ``my.cnf`` has them.

    Returns the merged text, which ends in a newline unless it is empty. Raises ``MergeError`` for a source that
    cannot be parsed and ``ValueError`` for an unknown format.
    """
    if format_ == "ini":
        return _dump_ini(_merge_ini([_parse_ini(source, flags) for source in sources]))
    if format_ == "yaml":
        return _merge_documents(sources, _parse_yaml, _merge_nodes, _dump_yaml)
    if format_ == "json":
        return _merge_documents(sources, _parse_json, _merge_values, _dump_json)
    if format_ == "text":
        return _with_newline(sources[-1].text) if sources else ""
    raise ValueError(f"unknown format {format_!r}: expected ini, yaml, json or text")


def parse_ini(label: str, text: str, *, flags: bool = False) -> dict[str, dict[str, list[str | None]]]:
    """Parse an INI text into section -> key -> list of values; keys before any section are in section ``""``."""
    return _parse_ini(Source(label, text), flags)


def _parse_ini(source: Source, flags: bool) -> _Ini:
    """Parse as oslo.config does: indentation continues a value, an empty line ends it."""
    result: _Ini = {}
    section = ""
    values: _Values | None = None
    for number, raw in enumerate(source.text.splitlines(), 1):
        line = raw.rstrip()
        if not line:
            values = None
        elif line[0] in " \t":
            if values is None:
                raise MergeError(
                    source.label,
                    number,
                    f"{line.strip()!r} is indented, but there is no value above it that it could continue",
                )
            values[-1] = f"{values[-1] or ''}\n{line.lstrip()}"
        elif line[0] == "[":
            if line[-1] != "]" or len(line) < 3:
                raise MergeError(source.label, number, f"{line!r} is no section header, expected [name]")
            section, values = line[1:-1], None
            result.setdefault(section, {})
        elif line[0] in "#;":
            continue
        else:
            key, value = _split_ini(source.label, number, line, flags)
            values = result.setdefault(section, {}).setdefault(key, [])
            values.append(value)
    return result


def _split_ini(label: str, number: int, line: str, flags: bool) -> tuple[str, str | None]:
    """Split ``key = value``; quotes stay, the reader of the file takes them off."""
    if flags and line[0] == "!":
        return line, None
    # my.cnf knows no colon, and has values and flags that contain one.
    match = re.search("=", line) if flags else _DELIMITER.search(line)
    if match is None:
        if flags:
            return line, None
        raise MergeError(label, number, f"no '=' in {line!r}, expected key = value")
    key = line[: match.start()].strip()
    if not key:
        raise MergeError(label, number, f"no key before {match.group()!r} in {line!r}")
    return key, line[match.end() :].strip()


def _merge_ini(parsed: Sequence[_Ini]) -> _Ini:
    result: _Ini = {}
    for document in parsed:
        for section, keys in document.items():
            result.setdefault(section, {}).update(keys)
    return result


def _dump_ini(document: _Ini) -> str:
    # Keys before any section must stay in front, even if only a later source brought them.
    sections = sorted(document, key=lambda name: name != "")
    blocks = []
    for section in sections:
        lines = [f"[{section}]"] if section else []
        for key, values in document[section].items():
            lines.extend(_dump_value(key, value) for value in values)
        blocks.append("\n".join(lines))
    return _with_newline("\n\n".join(block for block in blocks if block))


def _dump_value(key: str, value: str | None) -> str:
    if value is None:
        return key
    indented = value.replace("\n", "\n    ")
    return f"{key} = {indented}" if value and value[0] != "\n" else f"{key} ={indented}"


def _merge_documents(
    sources: Sequence[Source],
    parse: Callable[[Source], _Document | None],
    combine: Callable[[_Document, _Document], _Document],
    dump: Callable[[_Document], str],
) -> str:
    documents = [document for source in sources if (document := parse(source)) is not None]
    if len(sources) == 1:
        return _with_newline(sources[0].text)
    if not documents:
        return ""
    result = documents[0]
    for document in documents[1:]:
        result = combine(result, document)
    return _with_newline(dump(result))


def _parse_yaml(source: Source) -> yaml.Node | None:
    try:
        node = yaml.compose(source.text, Loader=_Loader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        raise MergeError(source.label, mark.line + 1 if mark else None, f"not YAML: {err.problem}") from err
    except yaml.YAMLError as err:
        raise MergeError(source.label, None, f"not YAML: {err}") from err
    return node


def _merge_nodes(low: yaml.Node, high: yaml.Node) -> yaml.Node:
    if not (isinstance(low, yaml.MappingNode) and isinstance(high, yaml.MappingNode)):
        return high
    pairs = {_key(key): (key, value) for key, value in low.value}
    for key, value in high.value:
        known = pairs.get(_key(key))
        pairs[_key(key)] = (known[0], _merge_nodes(known[1], value)) if known else (key, value)
    return yaml.MappingNode(low.tag, list(pairs.values()), flow_style=False)


def _key(node: yaml.Node) -> tuple[str, str]:
    return node.tag, node.value if isinstance(node, yaml.ScalarNode) else yaml.serialize(node, Dumper=_Dumper)


def _dump_yaml(node: yaml.Node) -> str:
    return yaml.serialize(node, Dumper=_Dumper, width=10_000, allow_unicode=True)


def _parse_json(source: Source) -> object | None:
    if not source.text.strip():
        return None
    try:
        return json.loads(source.text)
    except json.JSONDecodeError as err:
        raise MergeError(source.label, err.lineno, f"not JSON: {err.msg} (column {err.colno})") from err


def _merge_values(low: object, high: object) -> object:
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    return {
        **low,
        **{key: _merge_values(low[key], value) if key in low else value for key, value in high.items()},
    }


def _dump_json(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
