"""Where everything of a run stands on its time axis, as shares of the run's time. Pure.

The report draws what is found here; positions are per cent from the left, rows are pixels from the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Most hosts that get a lane of their own; those in which something failed come first.
MOST_HOSTS = 150
#: Height of a lane and of the bar in it, by the number of lanes.
_SIZES = ((8, 46, 36), (24, 28, 20), (60, 18, 12), (MOST_HOSTS, 14, 9))
_TOP = 44
#: Rows of states within a bar.
_ROWS = 3
#: States that a bar shows and names.
_STATES = 14
#: Seconds between two marks on the axis.
_UNITS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
#: States that are numbered because they took longest.
_RANKED = 5


def bars(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each host did when: one bar per step and host.

    Returns:
        ``host``, ``step`` (its number), ``start`` and ``end`` (seconds since the epoch), ``kind`` (``failed``,
        ``unknown``, ``changed``, ``same``), ``states``: ``id``, ``start``, ``end``, ``kind``, those that took longest.
    """
    found = []
    around = outer(steps)
    for number, step in enumerate(steps):
        for host, said in step["hosts"].items() if number not in around else ():
            start = step["started"] + said.get("at", 0.0)
            last = step["started"] + step["seconds"]
            # Old records only have the sum of the states, which may have run at the same time.
            end = min(last, start + (said.get("wall") or said.get("seconds") or 0.0))
            if said["result"] is None and not said.get("wall"):
                end = last
            changed = [change for change in said["changed"] if isinstance(change, Mapping)]
            kind = "failed" if said["result"] is False else "unknown" if said["result"] is None else ""
            found.append(
                {
                    "host": host,
                    "step": number,
                    "start": start,
                    "end": max(end, start),
                    "kind": kind or ("changed" if said["changed"] else "same"),
                    "changed": len(said["changed"]),
                    "states": _states(said, changed, start, max(end, start)),
                }
            )
    return found


def outer(steps: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the numbers of the steps within which others took place, as when a host comes: those tell more."""
    spans = [(step["started"], step["started"] + step["seconds"]) for step in steps]
    return {
        number
        for number, step in enumerate(steps)
        if not step["wave"]
        and any(
            spans[number][0] <= start + 0.01 and end <= spans[number][1] + 0.01 and steps[other]["wave"]
            for other, (start, end) in enumerate(spans)
            if other != number
        )
    }


def _states(
    said: Mapping[str, Any], changed: Iterable[Mapping[str, Any]], start: float, end: float
) -> list[dict[str, Any]]:
    placed: dict[str, tuple[float, float | None, str]] = {}
    for entry in said.get("slowest") or []:
        seconds, name = entry[0], entry[1]
        placed[name] = (seconds, entry[2] if len(entry) > 2 else None, "same")
    for change in changed:
        if "at" in change:
            placed[change["id"]] = (change.get("seconds", 0.0), change["at"], "changed")
        elif change["id"] in placed:
            placed[change["id"]] = (*placed[change["id"]][:2], "changed")
    for failure in said.get("failed") or []:
        placed[failure["id"]] = (failure.get("seconds", 0.0), failure.get("at"), "failed")
    longest = sorted(placed.items(), key=lambda item: (item[1][2] != "failed", -item[1][0]))[:_STATES]
    # Before its first state a host compiles them all; the answer comes right after the last one.
    lead = max(0.0, end - start - said.get("span", 0.0)) if said.get("span") else 0.0
    states = []
    for name, (seconds, at, kind) in longest:
        where = (
            {} if at is None else {"start": min(start + lead + at, end), "end": min(start + lead + at + seconds, end)}
        )
        states.append({"id": name, "seconds": seconds, "kind": kind, **where})
    return states


def ticks(seconds: float, about: int = 8) -> list[tuple[float, str]]:
    """Return moments of a run of ``seconds`` that are marked on the axis, with what is written there."""
    if seconds <= 0:
        return [(0.0, "0 s")]
    size = next((unit for unit in _UNITS if seconds / unit <= about), float(_UNITS[-1]))
    while seconds / size > about:
        size *= 2
    count = int(seconds / size + 1e-9)
    return [(number * size, _moment(number * size, size)) for number in range(count + 1)]


def _moment(seconds: float, size: float) -> str:
    if size < 1:
        return f"{seconds:.1f} s"
    if size < 60 and seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def build(
    header: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], receipt: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the whole picture: axis, waves, lanes with their bars, APIs with their outages.

    Args:
        header: ``run.json``.
        steps: of the record.
        receipt: of the probe, if the run was watched.
    """
    all_bars = bars(steps)
    begin = header["started"]
    ends = [bar["end"] for bar in all_bars] + [step["started"] + step["seconds"] for step in steps]
    finish = max([header.get("finished") or begin, *ends, begin + 0.001])
    whole = finish - begin

    def x(moment: float) -> float:
        return round(min(100.0, max(0.0, (moment - begin) / whole * 100)), 4)

    def span(start: float, end: float) -> dict[str, float]:
        return {"x": x(start), "w": round(x(end) - x(start), 4)}

    hosts, more = _hosts(all_bars)
    lane, bar_height = next(((high, bar) for most, high, bar in _SIZES if len(hosts) <= most), _SIZES[-1][1:])
    rank = _ranked(all_bars)
    own: dict[str, list[dict[str, Any]]] = {host: [] for host in hosts}
    for bar in all_bars:
        own.get(bar["host"], []).append(bar)
    lanes = []
    for row, host in enumerate(hosts):
        y = _TOP + row * lane
        drawn = []
        for bar in own[host]:
            inside = [state for state in bar["states"] if "start" in state]
            drawn.append(
                {
                    **span(bar["start"], bar["end"]),
                    **{key: bar[key] for key in ("step", "kind", "changed")},
                    "seconds": round(bar["end"] - bar["start"], 3),
                    "started": bar["start"],
                    "label": ", ".join(steps[bar["step"]]["services"]) or steps[bar["step"]]["id"].split("\n")[0],
                    "states": bar["states"],
                    "rows": _rows(inside, bar["start"], bar["end"]),
                    "ranks": [
                        {
                            "number": number,
                            "x": x((state["start"] + state["end"]) / 2) if "start" in state else x(bar["end"]),
                        }
                        for state in bar["states"]
                        if (number := rank.get((host, bar["step"], state["id"])))
                    ],
                }
            )
        lanes.append({"host": host, "y": y, "bars": drawn, "waits": _waits(steps, host, span)})
    bottom = _TOP + len(hosts) * lane
    apis = _apis(receipt, span, begin, finish, bottom + 34) if receipt else []
    height = apis[-1]["y"] + 24 if apis else bottom + 6
    return {
        "begin": begin,
        "seconds": round(whole, 3),
        "ticks": [{"x": x(begin + at), "text": text} for at, text in ticks(whole)],
        "waves": _waves(steps, span),
        "stages": _stages(header, steps, span),
        "lanes": lanes,
        "waits": any(lane["waits"] for lane in lanes),
        "lane": lane,
        "bar": bar_height,
        "hosts_end": bottom,
        "more_hosts": more,
        "apis": apis,
        "apis_begin": bottom + 34,
        "height": height,
        "ranked": [
            {"number": number, "host": host, "step": steps[step]["id"], "id": name, "seconds": seconds}
            for (host, step, name), (number, seconds) in _ranking(all_bars).items()
        ],
    }


def _hosts(all_bars: Iterable[Mapping[str, Any]]) -> tuple[list[str], int]:
    hosts: dict[str, float] = {}
    bad: set[str] = set()
    for bar in all_bars:
        hosts[bar["host"]] = hosts.get(bar["host"], 0.0) + bar["end"] - bar["start"]
        if bar["kind"] in ("failed", "unknown"):
            bad.add(bar["host"])
    if len(hosts) <= MOST_HOSTS:
        return sorted(hosts, key=_natural), 0
    chosen = sorted(hosts, key=lambda host: (host not in bad, -hosts[host]))[:MOST_HOSTS]
    return sorted(chosen, key=_natural), len(hosts) - len(chosen)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts node2 before node10."""
    parts, word = [], ""
    for letter in name + "\0":
        if word and letter.isdigit() != word[-1].isdigit():
            parts.append((0, int(word), "") if word.isdecimal() else (1, 0, word))
            word = ""
        word += letter
    return parts


def _ranking(all_bars: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int, str], tuple[int, float]]:
    states = [
        (state["seconds"], bar["host"], bar["step"], state["id"])
        for bar in all_bars
        for state in bar["states"]
        if state["seconds"] >= 0.05
    ]
    states.sort(key=lambda item: -item[0])
    return {
        (host, step, name): (number, seconds)
        for number, (seconds, host, step, name) in enumerate(states[:_RANKED], start=1)
    }


def _ranked(all_bars: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int, str], int]:
    return {key: number for key, (number, _) in _ranking(all_bars).items()}


def _rows(states: Iterable[Mapping[str, Any]], start: float, end: float) -> list[dict[str, Any]]:
    """Return the states of a bar in rows, so that those that ran at the same time do not hide each other."""
    whole = max(end - start, 1e-6)
    free = [start] * _ROWS
    drawn = []
    for state in sorted(states, key=lambda item: item["start"]):
        row = next((number for number, until in enumerate(free) if until <= state["start"] + 1e-6), None)
        if row is None:
            continue
        free[row] = state["end"]
        drawn.append(
            {
                "id": state["id"],
                "kind": state["kind"],
                "row": row,
                "x": round((state["start"] - start) / whole * 100, 3),
                "w": round((state["end"] - state["start"]) / whole * 100, 3),
            }
        )
    return drawn


def _waits(steps: Iterable[Mapping[str, Any]], host: str, span: Any) -> list[dict[str, Any]]:
    """Return from when to when a host's servers were out of the load balancer: taken out, changed, put in again."""
    found = []
    for step in steps:
        begun = None
        for wait in step.get("waits") or []:
            if host not in wait["hosts"] or wait["what"] not in {"taken out", "put in"}:
                continue
            start = step["started"] + wait["at"]
            begun = start if begun is None else begun
            if wait["what"] == "put in":
                end = start + wait["seconds"]
                found.append({**span(begun, end), "seconds": round(end - begun, 3)})
                begun = None
    return found


def _waves(steps: Iterable[Mapping[str, Any]], span: Any) -> list[dict[str, Any]]:
    waves: dict[int, list[float]] = {}
    for step in steps:
        if step["wave"]:
            known = waves.setdefault(step["wave"], [step["started"], 0.0])
            known[1] = max(known[1], step["started"] + step["seconds"])
    return [
        {"wave": wave, "seconds": round(end - start, 3), **span(start, end)} for wave, (start, end) in waves.items()
    ]


def _stages(header: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], span: Any) -> list[dict[str, Any]]:
    """Return what the master did outside of the waves: asking, predicting, fetching images and the like."""
    found, moment = [], header["started"]
    for name, seconds in (header.get("stages") or {}).items():
        if isinstance(seconds, int | float):
            found.append({"name": name, "seconds": seconds, **span(moment, moment + seconds)})
            moment += seconds
    around = outer(steps)
    for number, step in enumerate(steps):
        if not step["wave"] and number not in around:
            found.append(
                {
                    "name": step["id"].split("\n")[0],
                    "seconds": step["seconds"],
                    **span(step["started"], step["started"] + step["seconds"]),
                }
            )
    return found


def _apis(receipt: Mapping[str, Any], span: Any, begin: float, finish: float, top: int) -> list[dict[str, Any]]:
    watched_from, watched_to = receipt["started"], receipt.get("finished") or finish
    found = []
    for number, (name, said) in enumerate(receipt["services"].items()):
        answers = [
            entry["first_answer"]
            for entry in receipt["entries"]
            if entry["service"] == name and entry["first_answer"] is not None
        ]
        there = min(answers, default=None)
        found.append(
            {
                "service": name,
                "y": top + number * 24,
                "failed": said["failed"],
                "requests": said["requests"],
                "outage": said["outage"] or 0.0,
                "open": said["open"],
                "missing": span(watched_from, there if there is not None else watched_to)
                if not said["there_before"]
                else None,
                "good": span(there if not said["there_before"] else watched_from, watched_to)
                if there is not None
                else None,
                "outages": [
                    {**span(start, end), "seconds": round(end - start, 3), "at": start}
                    for start, end in said["outages"]
                ],
            }
        )
    return found
