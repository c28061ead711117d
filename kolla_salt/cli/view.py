"""How things look on a terminal: tables, the live view of a run, changes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from kolla_salt import outcome
from kolla_salt.progress import RunState, StepState


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> str:
    """Return a text table.

    Args:
        header: titles of the columns.
        rows: cells; None is shown as ``-``.
        right: numbers of the columns that are aligned to the right.
    """
    cells = [[str(title) for title in header], *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rightmost = set(right)
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in rightmost else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def some(names: Sequence[str], most: int = 6, separator: str = ", ") -> str:
    """Return ``names`` in a line, the first few of them if there are many."""
    if len(names) <= most:
        return separator.join(names)
    return separator.join(names[: most - 1]) + f" and {len(names) - most + 1} more"


def alike(items: Mapping[str, Any]) -> list[tuple[list[str], Any]]:
    """Return names that have an equal value together, with that value, in the order of their first ones.

    Args:
        items: name -> what is shown of it; values must have a ``repr`` of their own.
    """
    groups: dict[str, tuple[list[str], Any]] = {}
    for name, value in items.items():
        groups.setdefault(repr(value), ([], value))[0].append(name)
    return list(groups.values())


def plural(count: int, word: str) -> str:
    """Return ``1 change``, ``2 changes``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}{'es' if word.endswith(('s', 'ch')) else 's'}"


def changes(fields: Mapping[str, Any], indent: str = "      ", width: int = 160) -> list[str]:
    """Return the lines that show ``{field: {old, new}}``; diffs keep their lines."""
    lines: list[str] = []
    for field, change in fields.items():
        if isinstance(change, Mapping) and set(change) == {"old", "new"}:
            old, new = change["old"], change["new"]
            if isinstance(new, str) and "\n" in new or isinstance(old, str) and "\n" in old:
                text = new if isinstance(new, str) and new.startswith(("---", "@@")) else None
                lines.append(f"{indent}{field}:")
                if text is None:
                    body = [f"-{line}" for line in str(old or "").splitlines()] + [
                        f"+{line}" for line in str(new or "").splitlines()
                    ]
                else:
                    body = text.splitlines()
                lines += [f"{indent}  {line[:width]}" for line in body]
            else:
                lines.append(f"{indent}{field}: {_short(old)} -> {_short(new)}")
        elif isinstance(change, str) and "\n" in change:
            lines.append(f"{indent}{field}:")
            lines += [f"{indent}  {line[:width]}" for line in change.splitlines()]
        else:
            lines.append(f"{indent}{field}: {_short(change)}")
    return lines


def _short(value: Any, limit: int = 120) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[:limit] + " ..."


def failure(first: outcome.Failure, run: str = "") -> str:
    """Return the first failure with what it said and the next step to take."""
    lines = [
        "",
        f"First failure, on {first.host}:",
        f"  state     {first.id}",
        f"  function  {first.function}",
        f"  in        {first.sls}.sls",
    ]
    if not first.id:
        lines = ["", f"First failure, on {first.host}:"]
    lines += ["  said      " + first.comment.strip().replace("\n", "\n            "), "Next:"]
    for what, command in next_steps(first, run):
        lines.append(f"  {what + ':':<33} {command}" if command else f"  {what}")
    return "\n".join(lines)


def next_steps(first: outcome.Failure, run: str = "") -> list[tuple[str, str]]:
    """Return what to do about a failure: in words, and the command (empty: there is none)."""
    service = first.sls.split(".", 1)[0]
    steps = []
    if first.function.startswith("kolla_container."):
        where = f"   (on {first.host}; its log files: /var/log/kolla/{service}/)"
        steps.append(("look at what the container says", f"docker logs --tail 50 {first.id}{where}"))
    if first.sls:
        steps.append(("see the same state by itself", f"salt {first.host} state.sls {first.sls} test=True"))
    if run:
        steps.append(("everything this run did", f"kolla-salt runs show {run}"))
    steps.append(("then give the same command again: it goes on from where this run ended", ""))
    return steps


def timings(timing: Mapping[str, Any], width: int | None = None) -> str:
    """Return the table of waves and hosts and the slowest states."""
    if not timing["waves"]:
        return ""
    width = width or shutil.get_terminal_size((120, 24)).columns
    hosts = list(timing["hosts"])
    shown, rest = hosts[:8], hosts[8:]
    rows = []
    for wave in timing["waves"]:
        services = ", ".join(wave["services"]) or "images"
        services = services if len(services) <= 44 else services[:41] + "..."
        row = [wave["wave"], services, f"{wave['seconds']:.1f}"]
        row += [f"{wave['hosts'][host]:.1f}" if host in wave["hosts"] else None for host in shown]
        if rest:
            row.append(f"{max(wave['hosts'].get(host, 0.0) for host in rest):.1f}")
        rows.append(row)
    header = ["wave", "services", "seconds", *shown, *([f"slowest of {len(rest)} more"] if rest else [])]
    text = table(header, rows, right=[0, *range(2, len(header))])
    if timing["slowest"]:
        text += "\n\nslowest states\n" + table(
            ["seconds", "host", "state"],
            [[f"{entry['seconds']:.1f}", entry["host"], entry["id"]] for entry in timing["slowest"][:5]],
            right=[0],
        )
    return text


class LiveView:
    """Prints a run as it goes: one line per step and host; on a terminal also a moving line with what is running."""

    def __init__(self, state: RunState, stream: TextIO | None = None, moving: bool | None = None) -> None:
        self.state = state
        self.stream = stream or sys.stdout
        self.moving = self.stream.isatty() if moving is None else moving
        self.began = time.monotonic()
        self.step_began = self.began
        self._last = ""

    def line(self, text: str = "") -> None:
        """Print one lasting line."""
        self._wipe()
        print(text, file=self.stream, flush=True)

    def _wipe(self) -> None:
        if self._last:
            self.stream.write("\r" + " " * len(self._last) + "\r")
            self._last = ""

    def tick(self) -> None:
        """Redraw the moving line."""
        if not self.moving:
            return
        step = self.state.steps.get(self.state.current)
        seconds = int(time.monotonic() - self.step_began)
        if step is not None and step.state == "running":
            waiting = [name for name, host in step.hosts.items() if host.state == "running"]
            text = f"  {self._title(step)}: {seconds} s, waiting for {', '.join(waiting[:6])}"
            text += f" and {len(waiting) - 6} more" if len(waiting) > 6 else ""
        elif self.state.state == "asking":
            text = f"  dry run on {plural(len(self.state.hosts), 'host')}: {seconds} s"
        else:
            return
        text = text[: shutil.get_terminal_size((100, 24)).columns - 1]
        if text != self._last:
            self._wipe()
            self.stream.write(text)
            self.stream.flush()
            self._last = text

    def _title(self, step: StepState) -> str:
        last = max((other.wave for other in self.state.steps.values()), default=0)
        if step.wave and self.state.verb == "upgrade":
            # One service is one wave; which of its steps it is, the step's name says.
            return f"{step.wave}/{last}  {step.id}"
        return f"wave {step.wave}/{last}" if step.wave else step.id

    def event(self, tag: str, data: Mapping[str, Any]) -> None:
        """Take in one event and print what is new."""
        kind = self.state.feed(tag, data)
        if kind in {"begun", "started"}:
            self.step_began = time.monotonic()
        if kind == "waits":
            for host, what in data["hosts"].items():
                self.line(f"  {host} still does what {data['for']} began, waiting for it: {some(what)}")
        elif kind == "surveyed":
            self._surveyed(data)
        elif kind == "host":
            self._host(str(data.get("id")))
        elif kind == "started":
            step = self.state.steps[self.state.current]
            services = "" if self.state.verb == "upgrade" else ", ".join(step.services)
            self.line(
                f"{self._title(step)}  {services}"
                if services
                else self._title(step)
                if step.wave
                else f"{self._title(step)} on {', '.join(step.hosts)}"
            )
        elif kind == "ended":
            self._ended(self.state.steps[data["id"]])

    def _surveyed(self, data: Mapping[str, Any]) -> None:
        state = self.state
        total = sum(count for found in state.predicted.values() for count in found.values())
        seconds = sum((data.get("seconds") or {}).values())
        starts = sum(map(len, (data.get("noted") or {}).values()))
        noted = f", and {plural(starts, 'start')} to note" if starts else ""
        answer = f"{plural(len(state.hosts) - len(state.unknown), 'host')} of {len(state.hosts)} answered"
        self.line(
            f"{answer}; the dry run predicts {plural(total, 'change')}{noted} in {plural(len(state.todo), 'service')}"
            f"  ({seconds:.1f} s)"
        )
        for host in state.unknown:
            self.line(f"  {host} does not answer: nothing is known of it, the run goes on without it where it can")

    def _host(self, name: str) -> None:
        step = self.state.steps[self.state.current]
        host = step.hosts[name]
        if host.state == "failed":
            said = f"FAILED: {host.failures[0].id or 'the run'}"
        else:
            said = f"ok, {plural(host.changed, 'change')}" if host.changed else "ok, nothing to change"
        self.line(f"    {name:<12} {said}  ({time.monotonic() - self.step_began:.1f} s)")

    def _ended(self, step: StepState) -> None:
        for host in step.hosts.values():
            if host.state == "unknown":
                self.line(f"    {host.name:<12} was lost during this step: what it did is unknown")
        for service, hosts in step.left_out.items():
            for host, why in hosts.items():
                self.line(f"    {host:<12} {service} was left out: {why}")
