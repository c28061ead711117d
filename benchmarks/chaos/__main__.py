"""Break the sandbox's cloud, again and again, and write what it cost.

``python -m benchmarks.chaos [--only NAME ...] [--times N] [--minutes M]``. The cloud must be deployed with three
controllers. Every run is kept in DIR/ha.json as soon as it has ended; the table is made from all that are there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.chaos import scenarios as _scenarios  # noqa: F401 registers them
from benchmarks.chaos.cluster import ChaosError, Cluster
from benchmarks.chaos.results import load, write
from benchmarks.chaos.run import SCENARIOS, NotWell, execute

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run scenarios; exit status 0 if every run was as it must be, 2 if there is no cloud to break."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(SCENARIOS), help="scenarios (default: all)")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="runs of each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no further run after that time")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that are kept of these scenarios")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", metavar="DIR")
    args = parser.parse_args()
    if args.list:
        for one in SCENARIOS.values():
            print(f"{one.name:<18} {one.title}")
        return 0
    names = args.only or list(SCENARIOS)
    data = load(args.out)
    if args.fresh:
        data["runs"] = [run for run in data["runs"] if run["scenario"] not in names]
    began, good = time.monotonic(), True
    for turn in range(args.times):
        for name in names:
            if args.minutes and time.monotonic() - began > args.minutes * 60:
                print(f"{args.minutes:g} minutes are over; what is left of the {args.times} runs is not begun")
                return 0 if good else 1
            number = sum(1 for run in data["runs"] if run["scenario"] == name)
            try:
                run = execute(SCENARIOS[name], Cluster(), number, lambda line: print(line, flush=True))
            except (ChaosError, NotWell) as error:
                print(f"run {turn + 1} of {name} could not begin: {error}", file=sys.stderr)
                return 2
            data["runs"].append(run.record())
            good = good and run.ok
            write(args.out, data)
    print(write(args.out, data))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
