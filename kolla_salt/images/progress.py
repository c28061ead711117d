"""What the builder says while it works, as events; and the summary at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

_LINE = re.compile(r"^[A-Z]+:kolla\.common\.utils\.([\w-]+):(.*)$")
_EVENTS = (
    ("building", re.compile(r"^Building started at")),
    ("built", re.compile(r"^Built at .*\(took ([\d:.]+)\)")),
    ("pushed", re.compile(r"^Pushed successfully")),
    ("error", re.compile(r"^Error'd with the following message")),
    ("error", re.compile(r"^Unknown (container engine )?error when building")),
    ("push-error", re.compile(r"^Unknown error when pushing")),
)


@dataclass(frozen=True)
class Event:
    """Something that happened to one image: building, built, pushed, error or push-error."""

    image: str
    kind: str
    seconds: float = 0.0


def took(text: str) -> float:
    """Return the seconds of a duration such as ``0:01:02.5``."""
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def parse_line(line: str) -> Event | None:
    """Return the event in a line of the builder's output, or None."""
    match = _LINE.match(line)
    if not match:
        return None
    for kind, pattern in _EVENTS:
        found = pattern.match(match[2])
        if found:
            return Event(match[1], kind, took(found[1]) if found.groups() and kind == "built" else 0.0)
    return None


def parse_summary(text: str) -> dict[str, str]:
    """Return ``{image: status}`` of the builder's JSON summary, without the images that were not asked for.

    :param text: the JSON text; empty when the builder did not get as far as writing it.
    """
    if not text.strip():
        return {}
    data = json.loads(text)
    result = {row["name"]: "built" for row in data.get("built", [])}
    result |= {row["name"]: "skipped" for row in data.get("skipped", [])}
    result |= {row["name"]: "unbuildable" for row in data.get("unbuildable", [])}
    result |= {row["name"]: row["status"] for row in data.get("failed", [])}
    return result


@dataclass
class Result:
    """What became of one image.

    :param state: current (nothing to do), built, pushed (was built before), restored (its tag was given back to
        an earlier build), pulled, failed, parent failed, would build or would restore.
    """

    name: str
    state: str
    seconds: float = 0.0
    size: int = 0
    key: str = ""
    error: str = ""
    log: str = ""


@dataclass
class Report:
    """What became of all images."""

    release: str
    tag: str
    registry: str
    source: str
    images: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Result]:
        """Return the images that could not be had."""
        return [row for row in self.images if row.state in ("failed", "parent failed")]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for ``--json``."""
        return {**asdict(self), "ok": not self.failed}

    def lines(self) -> list[str]:
        """Return the report as a table and a closing line."""
        width = max((len(row.name) for row in self.images), default=5)
        lines = [f"{'image':{width}}  {'state':13}  {'seconds':>7}  {'size':>8}"]
        for row in self.images:
            seconds = f"{row.seconds:.0f}" if row.seconds else "-"
            lines.append(f"{row.name:{width}}  {row.state:13}  {seconds:>7}  {megabytes(row.size):>8}")
        counts: dict[str, int] = {}
        for row in self.images:
            counts[row.state] = counts.get(row.state, 0) + 1
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        lines.append(f"{len(self.images)} images of {self.tag} in {self.seconds:.0f} s: {said}")
        return lines


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 1e6:.0f} MB" if size else "-"


class Progress:
    """One line per image as it is ready, numbered ``[N/M]``.

    :param total: how many images there are to do.
    :param out: takes each line.
    """

    def __init__(self, total: int, out: Callable[[str], None]):
        self.total, self.done, self.out = total, 0, out
        self.width = len(str(total))

    def ready(self, name: str, state: str, seconds: float = 0.0, note: str = "") -> None:
        """Report an image as ready, whatever its state."""
        self.done += 1
        time = f"{seconds:5.0f} s" if seconds else "       "
        self.out(f"[{self.done:{self.width}}/{self.total}] {name:28} {state:13} {time}  {note}".rstrip())
