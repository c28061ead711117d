"""What many runs of one failure come to: gaps, losses, distributions, a table. Data in, data out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return ``n``, ``min``, ``median``, ``p95`` and ``max`` of ``values``; percentiles are values that occurred.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a distribution of no values; expected at least one run")
    ordered = sorted(values)
    count = len(ordered)

    def rank(share: float) -> float:
        return ordered[max(1, math.ceil(share * count)) - 1]

    middle = count // 2
    median = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {"n": count, "min": ordered[0], "median": median, "p95": rank(0.95), "max": ordered[-1]}


def gap(times: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time without an answer between ``began`` and ``ended``; ``times`` are those of answers."""
    inside = sorted(time for time in times if began <= time <= ended)
    edges = [began, *inside, ended]
    return max(late - early for early, late in zip(edges, edges[1:], strict=False))


def lost(acknowledged: Mapping[int, float], found: Iterable[int], moment: float) -> dict[str, Any]:
    """Return which acknowledged rows are missing, and how old the oldest of them was when the failure was done.

    Args:
        acknowledged: row -> when the database said that it is committed.
        found: the rows that are there afterwards.
        moment: when the failure was done.
    """
    missing = sorted(set(acknowledged) - set(found))
    ages = [moment - acknowledged[row] for row in missing]
    return {"written": len(acknowledged), "lost": len(missing), "oldest": max(ages, default=0.0)}


# --- runs -------------------------------------------------------------------------------------------------------


def distributions(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (scenario, figure) -> its distribution over ``runs``, in the order in which they first occur.

    A run is ``scenario``, ``ok``, ``figures`` (name -> number or None), ``limits`` (name -> {must, aim, unit}). A
    figure that is None was never reached: it counts in ``never`` and in no other number.
    """
    values: dict[tuple[str, str], list[float | None]] = {}
    limits: dict[tuple[str, str], Mapping[str, Any]] = {}
    for run in runs:
        for name, value in run["figures"].items():
            key = (run["scenario"], name)
            values.setdefault(key, []).append(value)
            limits[key] = (run.get("limits") or {}).get(name) or limits.get(key) or {}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for key, all_of in values.items():
        reached = [value for value in all_of if value is not None]
        must = limits[key].get("must")
        within = sum(1 for value in reached if must is None or value <= must)
        found[key] = {
            **(summary(reached) if reached else dict.fromkeys(("min", "median", "p95", "max"))),
            "n": len(all_of), "never": len(all_of) - len(reached), "within": within, **limits[key],
        }  # fmt: skip
    return found


def totals(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return scenario -> how many runs there were, and how many of them were as they must be."""
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        entry = found.setdefault(run["scenario"], {"runs": 0, "good": 0})
        entry["runs"] += 1
        entry["good"] += bool(run["ok"])
    return found


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "never"
    if unit == "s":
        return f"{value:.1f}" if value else "0"
    return f"{value:g}"


def table(runs: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Return Markdown: how many runs of each scenario were good, then the distributions of their figures."""
    lines = ["| failure | runs | as it must be |", "|---|---|---|"]
    for scenario, count in totals(runs).items():
        lines.append(f"| {titles.get(scenario, scenario)} | {count['runs']} | {count['good']} |")
    lines += [
        "",
        "| failure | measured | unit | runs | min | median | p95 | max | must | aim | within must |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (scenario, name), found in distributions(runs).items():
        unit = str(found.get("unit", "s"))
        row = [_number(found[key], unit) for key in ("min", "median", "p95", "max")]
        must, aim = (("" if found.get(key) is None else f"{found[key]:g}") for key in ("must", "aim"))
        within = (
            f"{found['within']} of {found['n']}" if must else (f"never: {found['never']}" if found["never"] else "")
        )
        lines.append(
            f"| {titles.get(scenario, scenario)} | {name} | {unit} | {found['n']} | {' | '.join(row)} "
            f"| {must} | {aim} | {within} |"
        )
    problems = [(run, problem) for run in runs for problem in run.get("problems", [])]
    if problems:
        lines += ["", "What was not as it must be:", ""]
        lines += [
            f"- {titles.get(run['scenario'], run['scenario'])}, {run.get('subject') or run.get('when', '')}: {problem}"
            for run, problem in problems
        ]
    return "\n".join(lines) + "\n"
