"""Real minions on the loopback beside the simulated ones: does the simulation tell the truth, and what do hosts pay?

Used by ``python -m benchmarks.scale --real N``. The minions run the real formula's dry run; they have an engine with
nothing in it, and nothing of this machine is touched.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks import scale

ROOT = scale.ROOT
TICKS = os.sysconf("SC_CLK_TCK")
sys.path.insert(0, str(ROOT / "tests" / "runs"))

from cluster import Cluster  # noqa: E402 - it lies beside the tests that use it


class Farm(Cluster):
    """A master with many minions, each started after the other and in one process."""

    def __init__(self, base: Path, minions: list[str]) -> None:
        super().__init__(base, ROOT / "salt", minions)
        self.environ |= {name: os.environ[name] for name in ("DOCKER_HOST", "NO_PROXY", "no_proxy")}
        master = yaml.safe_load(self.config.read_text()) | {"timeout": 60, "gather_job_timeout": 60}
        self.config.write_text(yaml.safe_dump(master))
        self.environ["PYTHONPATH"] = str(ROOT)  # the code of this very checkout
        for name in minions:
            path = base / name / "minion"
            more = {"multiprocessing": False, "grains_cache": True, "enable_gpu_grains": False,
                    "enable_fqdns_grains": False, "random_reauth_delay": 5}  # fmt: skip
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))

    def start(self) -> None:
        """Start the master, then the minions one by one; wait until all answer."""
        names, self.minions = self.minions, []
        super().start()
        for name in names:
            self._spawn(name, "salt-minion")
            time.sleep(0.5)
        self.minions = names
        self.wait_for(names, seconds=600)

    def cpu(self) -> dict[str, float]:
        """Return the seconds of CPU that the master and all minions have used so far."""
        used = {"master": 0.0, "minions": 0.0}
        sessions = {process.pid: "master" if name == "m" else "minions" for name, process in self.processes.items()}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) in sessions:
                # With what ended children of it have used.
                used[sessions[int(fields[3])]] += sum(map(int, fields[11:15])) / TICKS
        return used


def ask(config: Path, words: list[str]) -> dict[str, Any]:
    """Run a verb twice in this process; return seconds of CPU (all, Salt's client) and of the clock of the second."""
    import salt.client

    within = [0.0]

    class Clocked(salt.client.LocalClient):
        """Salt's client, with the CPU that it uses for itself counted."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            began = time.process_time()
            super().__init__(*args, **kwargs)
            within[0] += time.process_time() - began

        def cmd_iter(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            answers = super().cmd_iter(*args, **kwargs)
            while True:
                began = time.process_time()
                answer = next(answers, None)
                within[0] += time.process_time() - began
                if answer is None:
                    return
                yield answer

    salt.client.LocalClient = Clocked
    for _ in range(2):
        within[0], wall, cpu = 0.0, time.perf_counter(), time.process_time()
        # There are no containers: that is a problem for the status, not for the plan.
        text = scale.command(config, *words, status=0 if words[0] == "plan" else 1)
        measured = {"cpu": time.process_time() - cpu, "salt": within[0], "wall": time.perf_counter() - wall}
    return {**measured, "text": scale.without_seconds(text)}


def _asked(farm: Farm, words: list[str]) -> dict[str, Any]:
    """Run a verb in a process of its own; return its figures, and what master and minions used for the second time."""
    code = (
        "import json, sys; from pathlib import Path; from benchmarks import farm;"
        "print(json.dumps(farm.ask(Path(sys.argv[1]), sys.argv[2:])))"
    )
    before = farm.cpu()
    done = subprocess.run(
        [sys.executable, "-c", code, str(farm.config.parent), *words],
        cwd=ROOT, env=farm.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"asking real minions: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    after = farm.cpu()
    return {**json.loads(done.stdout.splitlines()[-1]), **{name: (after[name] - before[name]) / 2 for name in after}}


def compare(count: int, work: Path, simulated: Mapping[str, Any], large: int = 1000) -> list[dict[str, Any]]:
    """Return rows that set real minions beside simulated ones.

    :param count: how many real minions.
    :param simulated: what was measured for ``count`` simulated hosts.
    :param large: how many hosts the site has when most of them are not there.
    """
    base = work / "farm"
    base.mkdir()
    data = scale.site_data(count)
    names = list(data["topology"]["hosts"])
    farm = Farm(base, names)
    scale.write_site(data, farm.site)
    rows = []
    try:
        began = time.perf_counter()
        farm.start()
        print(f"{count} real minions answer after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        limit = ["--limit", ",".join(names)]
        for size in (count, large):
            if size != count:
                shutil.rmtree(farm.site)
                scale.write_site(scale.site_data(size), farm.site)
            for verb in ("plan", "status"):
                if verb == "status" and size != count:
                    continue
                found = _asked(farm, [verb, *(limit if size != count else [])])
                label = "kolla-salt plan, all new" if verb == "plan" else "kolla-salt status"
                rows.append(
                    {
                        "verb": f"kolla-salt {verb}",
                        "hosts of the site": size,
                        "of them asked": count,
                        "clock": f"{found['wall']:.1f} s",
                        "CPU of the command without Salt's client": f"{(found['cpu'] - found['salt']) * 1000:.0f} ms",
                        "the same simulated": f"{simulated['seconds'][label] * 1000:.0f} ms" if size == count else "",
                        "CPU of Salt's client": f"{found['salt'] * 1000:.0f} ms",
                        "CPU of the master, a host": f"{found['master'] / count * 1000:.0f} ms",
                        "CPU of a minion": f"{found['minions'] / count * 1000:.0f} ms",
                    }
                )
                if verb == "plan" and size == count and found["text"] != simulated["plan"]:
                    difference = "\n".join(
                        difflib.unified_diff(simulated["plan"].split("\n"), found["text"].split("\n"))
                    )
                    raise SystemExit(f"real hosts answer otherwise than the recorded ones:\n{difference[:3000]}")
                print(rows[-1], file=sys.stderr, flush=True)
    finally:
        farm.stop()
    return rows
