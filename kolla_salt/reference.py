"""The generated page of all services: ``python -m kolla_salt.reference > docs/services.md``."""

from __future__ import annotations

import json
import sys
from typing import Any

from kolla_salt import declarations


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ").strip()


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows), ""]


def _service(name: str, decl: declarations.Declaration) -> list[str]:
    lines = [f"## {name}", "", decl["doc"], ""]
    for field, title in (("requires", "Requires"), ("after", "Comes after")):
        if decl[field]:
            lines += [f"{title}: {', '.join(decl[field])}.", ""]
    if decl["containers"]:
        rows = [
            [
                f"`{container}`",
                fields["image"],
                fields["group"],
                "" if fields["when"] is True else f"`{fields['when']}`",
            ]
            for container, fields in decl["containers"].items()
        ]
        lines += _table(["container", "image", "group", "when"], rows)
    if decl["load_balancer"]:
        rows = [
            [f"`{entry}`", f"`{fields['port']}`", fields["mode"], fields["check"] or "TCP connect"]
            for entry, fields in decl["load_balancer"].items()
        ]
        lines += _table(["load-balancer entry", "port", "mode", "health check"], rows)
    if decl["settings"]:
        rows = [
            [f"`{option}`", s["type"], f"`{_cell(s['default'])}`", s["doc"]] for option, s in decl["settings"].items()
        ]
        lines += _table(["option", "type", "default", ""], rows)
    if decl["passwords"]:
        listed = ", ".join(f"`{password}` ({kind['kind']})" for password, kind in decl["passwords"].items())
        lines += [f"Passwords: {listed}.", ""]
    return lines


def page(services: dict[str, declarations.Declaration]) -> str:
    """Return the page in Markdown: the options of the whole cloud first, then service by service."""
    lines = [
        "# Services and options",
        "",
        "Generated from the declarations by `python -m kolla_salt.reference`. Options belong into `globals.yml`,",
        "or into the `options` of a host in `topology.yml`.",
        "",
    ]
    for name in sorted(services, key=lambda service: (service != "kolla", service)):
        lines += _service(name, services[name])
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(declarations.load()))
