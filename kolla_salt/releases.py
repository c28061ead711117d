"""OpenStack releases: what tells them apart, and which step from one to another is supported. Data, and its readers."""

from __future__ import annotations

import re

#: Release -> first number of the version of Kolla that built its images (the label ``kolla_version`` of each image).
RELEASES = {"2024.2": 19, "2025.1": 20, "2025.2": 21, "2026.1": 22}
#: From -> to: from each release to the next one, and from one with long support to the next such one.
STEPS = {
    "2024.2": ("2025.1",),
    "2025.1": ("2025.2", "2026.1"),
    "2025.2": ("2026.1",),
}
_TAG = re.compile(r"\d{4}\.\d")


def release_of(version: str | None, reference: str = "") -> str | None:
    """Return the release of an image, or None if nothing tells.

    Args:
        version: its label ``kolla_version``.
        reference: its name; the tag counts where there is no label.
    """
    number = str(version or "").split(".")[0]
    for release, kolla in RELEASES.items():
        if number == str(kolla):
            return release
    tag = reference.rpartition(":")[2]
    found = _TAG.match(tag)
    return found[0] if found else None


def obstacle(old: str, new: str) -> str:
    """Return why the step from release ``old`` to ``new`` is not taken, or an empty string."""
    if old == new or new in STEPS.get(old, ()):
        return ""
    order = list(RELEASES)
    for name in (old, new):
        if name not in order:
            return f"release {name} is not known; known are {', '.join(order)}"
    if order.index(new) < order.index(old):
        return f"{new} is older than {old}: a schema does not go back; kolla-salt rollback undoes an upgrade"
    way = path(old, new)
    return f"from {old} no step leads to {new}" + (f"; go by way of {', '.join(way[1:-1])}" if way else "")


def path(old: str, new: str) -> list[str]:
    """Return the releases on the shortest way from ``old`` to ``new``, both included; empty if there is none."""
    ways = [[old]]
    while ways:
        way = ways.pop(0)
        if way[-1] == new:
            return way
        ways += [[*way, following] for following in STEPS.get(way[-1], ())]
    return []
