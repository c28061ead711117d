"""What came of the requests: who did not answer, from when to when. Pure.

A failed request opens an outage at the moment it was sent; the first good answer to a request that was sent no earlier
closes it. Outages of several entries are added up as a union: a second in which two were missing is one second.
"""

from __future__ import annotations

import bisect
import json
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kolla_salt.availability.targets import Target

Interval = tuple[float, float]

#: Latencies are counted in classes that are 2 % wide.
_CLASS = math.log(1.02)
#: Outages that a receipt names per entry; further ones are only added up.
_NAMED = 500
#: Outages per entry that are shown.
_SHOWN = 3


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return ``intervals`` in order, those that touch made one."""
    result: list[Interval] = []
    for begin, end in sorted(intervals):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def total(intervals: Iterable[Interval]) -> float:
    """Return how many seconds ``intervals``, which do not overlap, come to."""
    return sum(end - begin for begin, end in intervals)


@dataclass
class Ledger:
    """Takes in the results of one target's requests in the order in which they end. Its memory does not grow with them.

    Args:
        target: what is asked.
        memory: seconds for which good answers are remembered: longer than any request may take.
    """

    target: Target
    memory: float = 10.0
    requests: int = 0
    failed: int = 0
    #: When the first request was sent that got a good answer; nothing counts before it.
    first: float | None = None
    #: When it last answered.
    last: float | None = None
    gap: float = 0.0
    slowest: float = 0.0
    first_failure: tuple[float, str] | None = None
    said: dict[str, int] = field(default_factory=dict)
    #: What the first good answer had to wait for: the last failure before it.
    before: str = ""
    asked: int = 0
    _outages: list[Interval] = field(default_factory=list)
    _waiting: list[float] = field(default_factory=list)
    _good: deque[Interval] = field(default_factory=deque)
    _classes: dict[int, int] = field(default_factory=dict)

    def good(self, sent: float, done: float) -> None:
        """Count a request sent at ``sent`` that was answered at ``done``."""
        self.asked += 1
        if self.first is None:
            self.first = sent
        elif sent < self.first:
            return  # it was slower than a later one; what was sent before the first good answer does not count
        self.requests += 1
        if self.last is not None:
            self.gap = max(self.gap, done - self.last)
        self.last = done
        seconds = done - sent
        self.slowest = max(self.slowest, seconds)
        number = math.floor(math.log(max(seconds, 1e-6)) / _CLASS)
        self._classes[number] = self._classes.get(number, 0) + 1
        self._good.append((sent, done))
        while self._good[0][1] < done - self.memory:
            self._good.popleft()
        if self._waiting:
            over = [begin for begin in self._waiting if begin <= sent]
            if over:
                self._add(min(over), done)
                self._waiting = [begin for begin in self._waiting if begin > sent]

    def bad(self, sent: float, said: str) -> None:
        """Count a request sent at ``sent`` that failed; ``said`` is why."""
        self.asked += 1
        if self.first is None or sent < self.first:
            self.before = said
            return
        self.requests += 1
        self.failed += 1
        self.said[said] = self.said.get(said, 0) + 1
        if self.first_failure is None or sent < self.first_failure[0]:
            self.first_failure = (sent, said)
        # It may end after later ones did: then the outage is over already.
        done = min((done for begin, done in self._good if begin >= sent), default=None)
        if done is None:
            self._waiting.append(sent)
        else:
            self._add(sent, done)

    def _add(self, begin: float, end: float) -> None:
        found = self._outages
        left = bisect.bisect_left(found, begin, key=lambda item: item[1])
        right = bisect.bisect_right(found, end, key=lambda item: item[0])
        if left < right:
            begin, end = min(begin, found[left][0]), max(end, found[right - 1][1])
        found[left:right] = [(begin, end)]

    def outages(self, now: float) -> list[Interval]:
        """Return the outages; one that goes on lasts until ``now``."""
        if not self._waiting:
            return list(self._outages)
        return union([*self._outages, (min(self._waiting), now)])

    def latency(self, share: float) -> float | None:
        """Return the seconds within which ``share`` of the good answers came, None if there was none."""
        count = sum(self._classes.values())
        if not count:
            return None
        rank, seen = math.ceil(share * count), 0
        for number in sorted(self._classes):
            seen += self._classes[number]
            if seen >= rank:
                return min(math.exp((number + 0.5) * _CLASS), self.slowest)
        return self.slowest

    def entry(self, now: float, settled: float) -> dict[str, Any]:
        """Return what a receipt says of this target.

        Args:
            now: until when it was watched.
            settled: what answered a request sent until then was there before.
        """
        outages = self.outages(now)
        gap = max(self.gap, now - self.last) if self._waiting and self.last is not None else self.gap
        return {
            "service": self.target.service,
            "entry": self.target.entry,
            "kind": self.target.kind,
            "where": self.target.where,
            "there_before": self.first is not None and self.first <= settled,
            "first_answer": _round(self.first),
            "requests": self.requests,
            "failed": self.failed,
            "outage": _round(total(outages)),
            "open": bool(self._waiting),
            "longest_gap": _round(gap),
            "p50": _round(self.latency(0.5), 4),
            "p99": _round(self.latency(0.99), 4),
            "max": _round(self.slowest, 4) if self.requests > self.failed else None,
            "first_failure": {"at": _round(self.first_failure[0]), "said": self.first_failure[1]}
            if self.first_failure
            else None,
            "said": dict(self.said),
            "silent": (self.before or "there was no token to ask with") if self.first is None else "",
            "outages": [[_round(begin), _round(end)] for begin, end in outages],
        }


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


class Receipt:
    """What a probe saw, as data that can be stored (:attr:`data`) and in words.

    Args:
        data: as :func:`make` returns it or ``availability.json`` holds it.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data: dict[str, Any] = dict(data)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One mapping per target."""
        return self.data["entries"]

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Service -> ``requests``, ``failed``, ``outage``, ``outages``, ``there_before``, ``open``, ``first_failure``.

        ``there_before`` is None of a service that never answered.
        """
        return self.data["services"]

    @property
    def failed(self) -> int:
        """How many requests failed, of all."""
        return self.data["failed"]

    @property
    def away(self) -> list[str]:
        """The services that have answered and did not any more at the end."""
        return [name for name, said in self.services.items() if said["open"] and said["there_before"] is not None]

    def recovery(self, label: str) -> dict[str, float | None]:
        """Return for each target how many seconds after the mark ``label`` it was all there again.

        0.0 where nothing failed, None where it was still missing at the end. Only outages that were not over at the
        mark and began before the next mark count.

        Raises:
            KeyError: there is no such mark.
        """
        marks = self.data["marks"]
        at = [mark["at"] for mark in marks if mark["label"] == label]
        if not at:
            raise KeyError(f"no mark {label!r}; there are: {', '.join(mark['label'] for mark in marks) or 'none'}")
        begin = at[-1]
        end = min((mark["at"] for mark in marks if mark["at"] > begin), default=math.inf)
        result: dict[str, float | None] = {}
        for entry in self.entries:
            touched = [item for item in entry["outages"] if item[1] > begin and item[0] < end]
            key = f"{entry['entry']} with token" if entry["kind"] == "token" else entry["entry"]
            if touched and entry["open"] and touched[-1] == entry["outages"][-1]:
                result[key] = None
            else:
                result[key] = round(max((item[1] for item in touched), default=begin) - begin, 3)
        return result

    def brief(self) -> dict[str, Any]:
        """Return the figures without the single outages: what an event or a header may carry."""
        return {
            **{key: self.data[key] for key in ("requests", "failed", "outage", "longest_gap")},
            "services": {
                name: {key: said[key] for key in ("requests", "failed", "outage", "there_before", "open")}
                for name, said in self.services.items()
            },
        }

    def lines(self) -> list[str]:
        """Return the sentences for the end of a run: one per service with an outage, or that no request failed."""
        data = self.data
        counted = [entry for entry in self.entries if entry["first_answer"] is not None]
        if not counted:
            silent = self.entries[0]["silent"] if self.entries else "the site has no API"
            return [f"availability: no API answered this machine through the VIP ({silent})"]
        lines = []
        for name, said in self.services.items():
            if said["failed"]:
                first = said["first_failure"]
                line = f"  {name}: {said['failed']} of {said['requests']} requests failed"
                line += f", {said['outage']:.1f} s of outage"
                line += f" (first {_clock(first['at'])}: {first['said']})"
                lines.append(line + ("; it still did not answer at the end" if said["open"] else ""))
        apis = len({entry["entry"] for entry in counted})
        asked = f"{data['requests']} requests to {apis} APIs, longest gap {data['longest_gap']:.2f} s"
        if lines:
            head = f"availability: {data['failed']} requests failed, {data['outage']:.1f} s of outage ({asked})"
        else:
            head = f"availability: no request failed ({asked})"
        new = [name for name, said in self.services.items() if said["there_before"] is False]
        if new:
            lines.append(f"  not there before: {', '.join(new)}; counted from the first answer on")
        silent = [name for name, said in self.services.items() if said["there_before"] is None]
        if silent:
            lines.append(f"  never answered: {', '.join(silent)}")
        if data["stall"] >= 1:
            lines.append(f"  the probe itself stood still for up to {data['stall']:.1f} s: this machine is overloaded")
        return [head, *lines]

    def table(self, steps: Iterable[Mapping[str, Any]] = ()) -> tuple[list[str], list[list[Any]], list[str]]:
        """Return header, rows and notes of the whole receipt.

        Args:
            steps: those of the run's record; with them a note tells which one ran when an outage began.
        """
        header = ["service", "asked", "requests", "failed", "outage s", "gap s", "p50 ms", "p99 ms", "max ms", ""]
        rows, notes = [], []
        done = list(steps)
        for entry in self.entries:
            remark = "" if entry["there_before"] else "not there before"
            if entry["first_answer"] is None:
                remark = "never answered"
            elif entry["open"]:
                remark = "missing at the end"
            what = {"token": " (token)", "tcp": " (TCP)"}.get(entry["kind"], "")
            rows.append(
                [
                    entry["service"],
                    entry["where"] + what,
                    entry["requests"],
                    entry["failed"],
                    f"{entry['outage']:.2f}" if entry["failed"] else "0",
                    f"{entry['longest_gap']:.2f}",
                    *(_ms(entry[key]) for key in ("p50", "p99", "max")),
                    remark,
                ]
            )
            name = f"{entry['entry']} with token" if entry["kind"] == "token" else entry["entry"]
            longest = sorted(entry["outages"], key=lambda item: item[0] - item[1])[:_SHOWN]
            for begin, end in sorted(longest):
                notes.append(f"{name}: out for {end - begin:.2f} s from {_clock(begin)}{_during(begin, end, done)}")
            more = len(entry["outages"]) + entry.get("outages_left_out", 0) - len(longest)
            if more:
                notes.append(f"  and {more} shorter ones")
            for said, count in entry["said"].items():
                notes.append(f"  {count} times: {said}")
        return header, rows, notes

    def text(self) -> str:
        """Return the receipt as a table with its notes."""
        from kolla_salt.cli import view

        header, rows, notes = self.table()
        return "\n".join([view.table(header, rows, right=range(2, 9)), *notes, *self.lines()])


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 10) % 10}"


def _during(begin: float, end: float, steps: list[Mapping[str, Any]]) -> str:
    names = [s["id"] for s in steps if s["started"] < end and s["started"] + s["seconds"] > begin]
    return f", during: {'; '.join(names)}" if names else ""


def make(
    ledgers: Iterable[Ledger],
    started: float,
    now: float,
    settled: float,
    marks: Iterable[Mapping[str, Any]] = (),
    stall: float = 0.0,
    finished: bool = True,
) -> Receipt:
    """Return the receipt over ``ledgers``.

    Args:
        ledgers: one per target.
        started: when watching began.
        now: until when it goes.
        settled: what answered a request sent until then was there before.
        marks: ``label`` and ``at``.
        stall: longest time for which the probe itself did not get to run.
        finished: False: it was written on the way, and a probe that was killed left it.
    """
    entries = [ledger.entry(now, settled) for ledger in ledgers]
    before = {entry["entry"] for entry in entries if entry["there_before"]}
    for entry in entries:
        # Its token may only have come later.
        entry["there_before"] = entry["first_answer"] is not None and entry["entry"] in before
    services: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(entry["service"] for entry in entries):
        own = [entry for entry in entries if entry["service"] == name]
        outages = union((begin, end) for entry in own for begin, end in entry["outages"])
        failures = [entry["first_failure"] for entry in own if entry["first_failure"]]
        answered = [entry for entry in own if entry["first_answer"] is not None]
        services[name] = {
            "requests": sum(entry["requests"] for entry in own),
            "failed": sum(entry["failed"] for entry in own),
            "outage": _round(total(outages)),
            "open": any(entry["open"] for entry in own),
            "there_before": all(entry["there_before"] for entry in answered) if answered else None,
            "first_failure": min(failures, key=lambda failure: failure["at"], default=None),
            "outages": [list(item) for item in outages],
        }
    every = union((begin, end) for entry in entries for begin, end in entry["outages"])
    for part in [*entries, *services.values()]:
        part["outages_left_out"] = max(0, len(part["outages"]) - _NAMED)
        part["outages"] = part["outages"][-_NAMED:]
    return Receipt(
        {
            "schema": 1,
            "started": _round(started),
            "finished": _round(now) if finished else None,
            "seconds": _round(now - started),
            "requests": sum(entry["requests"] for entry in entries),
            "failed": sum(entry["failed"] for entry in entries),
            "outage": _round(total(every)),
            "longest_gap": max((entry["longest_gap"] for entry in entries), default=0.0),
            "stall": _round(stall),
            "marks": [{"label": mark["label"], "at": _round(mark["at"])} for mark in marks],
            "services": services,
            "entries": entries,
        }
    )


def loads(text: str) -> Receipt:
    """Return the receipt of which ``text`` is the stored form.

    Raises:
        ValueError: it is none.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
        raise ValueError("expected an availability receipt: a mapping with 'entries'")
    return Receipt(data)
