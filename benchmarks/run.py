"""Measure a sandbox cloud from nothing to removal and write JSON and a table.

``python -m benchmarks.run [--only NAME ...] [--out DIR]``; the sandbox must be up and, unless only later rows are
asked for, without containers. What is measured for each command: wall seconds; CPU seconds of kolla-salt itself (CLI,
salt-master, salt-minion: not of the engine nor of what runs in containers); Salt jobs; how many containers were started
or restarted; for one row the longest time Keystone's API was away.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLI = [str(ROOT / ".venv/bin/kolla-salt")]
SANDBOX = Path(os.environ.get("KOLLA_SALT_SANDBOX_DIR") or "/var/lib/kolla-salt/sandbox")
SITE = SANDBOX / "site"
TICKS = os.sysconf("SC_CLK_TCK")

#: Kolla-Ansible 22.2 on 2 cores with the same images and services, one run each. (d) derived from an aborted run and
#: its rerun; (s) with a stand-in for systemd.
PEER = {
    "first deploy": "603 s (d)", "second deploy": "443 s", "one Keystone option": "50 s with -t keystone",
    "keystone API away": "5.5 s (s)", "prechecks": "51 s", "stop": "484 s (s)", "genconfig": "131 s",
    "first deploy CPU": "172 s or more",
}  # fmt: skip
MUST = {
    "first deploy": 420, "second deploy": 15, "one Keystone option": 20, "keystone API away": 4, "prechecks": 15,
    "stop": 90, "genconfig": 15, "first deploy CPU": 60, "plan": 10, "verify": 10, "resident memory": 500,
}  # fmt: skip
AIM = {
    "first deploy": 240, "second deploy": 5, "one Keystone option": 8, "keystone API away": 0.5, "prechecks": 5,
    "stop": 25, "genconfig": 4, "first deploy CPU": 25, "plan": 3, "verify": 3, "resident memory": 300,
}  # fmt: skip


@dataclass
class Row:
    """One measured command."""

    name: str
    command: str
    wall: float
    cpu: float
    jobs: int
    states: int
    engine_calls: int
    started: int
    status: int
    extra: dict[str, Any] = field(default_factory=dict)


def salt_processes() -> list[int]:
    """Return the pids of the sandbox's salt-master and salt-minions."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        # Salt's processes rename themselves: what was a list of arguments may be one string.
        if any(part in command[:200] for part in (b"bin/salt-master", b"bin/salt-minion")):
            found.append(int(entry.name))
    return found


def cpu_seconds() -> float:
    """Return the CPU seconds of master and minions so far, those of their ended children included."""
    total = 0
    for pid in salt_processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def resident_mb() -> float:
    """Return the resident memory of master and minions in MB, shared pages counted once (PSS)."""
    total = 0
    for pid in salt_processes():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def job_count() -> int:
    """Return the number of jobs in the master's job cache."""
    return sum(1 for _ in (SANDBOX / "master/cache/jobs").rglob("jid"))


def state_functions() -> int:
    """Return how many state functions all recorded runs have called, dry runs included."""
    total = 0
    for record in (SANDBOX / "runs").glob("2*"):
        if (record / "plan.json").exists():
            for host in json.loads((record / "plan.json").read_text()).get("hosts", {}).values():
                total += host.get("total", 0)
        if (record / "steps.jsonl").exists():
            for line in (record / "steps.jsonl").read_text().splitlines():
                total += sum(host.get("total", 0) for host in json.loads(line).get("hosts", {}).values())
    return total


def watch_engine(node: str) -> None:
    """Let the node's engine log every request; it reads that option again without a restart."""
    script = (
        "import json, os, pathlib, signal, subprocess; p = pathlib.Path('/etc/docker/daemon.json');"
        "p.write_text(json.dumps({**json.loads(p.read_text()), 'debug': True}));"
        "os.kill(int(subprocess.check_output(['pidof', 'dockerd']).split()[0]), signal.SIGHUP)"
    )
    subprocess.run([*CLI, "sandbox", "exec", node, "--", "python3", "-c", script], check=True)


def engine_requests(node: str) -> int:
    """Return how many requests the node's engine has logged."""
    command = ["grep", "-rhoE", "Calling (GET|POST|PUT|DELETE|HEAD) ", "/var/log/kolla-salt"]
    out = subprocess.run([*CLI, "sandbox", "exec", node, "--", *command], capture_output=True, text=True)
    return len(out.stdout.splitlines())


def started() -> dict[str, str]:
    """Return when each container of every node was started."""
    result: dict[str, str] = {}
    listing = subprocess.run([*CLI, "sandbox", "status", "--json"], capture_output=True, text=True, check=True)
    for node in json.loads(listing.stdout)["nodes"]:
        ids = subprocess.run(
            [*CLI, "sandbox", "exec", node, "--", "docker", "ps", "-q"], capture_output=True, text=True
        )
        if ids.stdout.split():
            out = subprocess.run(
                [*CLI, "sandbox", "exec", node, "--", "docker", "inspect", "-f", "{{.Name}} {{.State.StartedAt}}",
                 *ids.stdout.split()], capture_output=True, text=True, check=True,
            )  # fmt: skip
            result |= {f"{node}{line.split()[0]}": line.split()[1] for line in out.stdout.splitlines()}
    return result


class Watch(threading.Thread):
    """Asks a URL many times a second and remembers how long it was away."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.failed, self.asked, self.longest = url, 0, 0, 0.0
        self.done = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        last_good = time.monotonic()
        while not self.done.is_set():
            self.asked += 1
            begin = time.monotonic()
            try:
                urllib.request.urlopen(self.url, timeout=5).read()
                now = time.monotonic()
                # A slow answer counts from the last good one: that is what a client feels.
                self.longest = max(self.longest, now - last_good)
                last_good = now
            except (urllib.error.URLError, OSError):
                self.failed += 1
            self.done.wait(max(0.0, 0.05 - (time.monotonic() - begin)))


def measure(name: str, *arguments: str, watch: str | None = None) -> Row:
    """Run one verb and measure it."""
    command = [*CLI, "--site", str(SITE), *arguments]
    before = started()
    jobs, cpu, states, requests = job_count(), cpu_seconds(), state_functions(), engine_requests("node1")
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    watcher = Watch(watch) if watch else None
    if watcher:
        watcher.start()
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.monotonic() - begin
    if watcher:
        time.sleep(3)
        watcher.done.set()
        watcher.join()
    after_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = (after_children.ru_utime + after_children.ru_stime) - (children.ru_utime + children.ru_stime)
    row = Row(
        name, " ".join(["kolla-salt", *arguments]), round(wall, 2), round(own + cpu_seconds() - cpu, 2),
        job_count() - jobs, state_functions() - states, engine_requests("node1") - requests, 0, done.returncode,
    )  # fmt: skip
    after = started()
    row.started = sum(1 for key, value in after.items() if before.get(key) != value)
    if watcher:
        row.extra = {"asked": watcher.asked, "failed": watcher.failed, "away": round(watcher.longest, 2)}
    print(f"{name:<20} {row.wall:>7.2f} s  cpu {row.cpu:>6.2f} s  jobs {row.jobs:>3}  states {row.states:>4}  "
          f"engine {row.engine_calls:>4}  started {row.started:>3}  "
          f"status {row.status}  {row.extra or ''}", flush=True)  # fmt: skip
    if done.returncode:
        print((done.stdout + done.stderr)[-3000:], file=sys.stderr)
    return row


def change_keystone_option(value: int | None) -> None:
    """Set ``[token] expiration`` by an override, or take it back."""
    path = SITE / "overrides/keystone.conf"
    if value is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[token]\nexpiration = {value}\n")


def vip() -> str:
    """Return the internal VIP of the sandbox's site."""
    import yaml

    return yaml.safe_load((SITE / "globals.yml").read_text())["internal_vip_address"]


def rows(only: list[str]) -> list[Row]:
    """Run the benchmark in its order."""
    result: list[Row] = []
    watch_engine("node1")

    def step(name: str, *arguments: str, watch: str | None = None) -> None:
        if not only or name in only:
            result.append(measure(name, *arguments, watch=watch))

    step("prechecks", "prechecks")
    step("plan of a bare host", "plan")
    step("first deploy", "deploy")
    step("second deploy", "deploy")
    step("plan", "plan")
    step("verify", "verify")
    step("genconfig", "genconfig")
    if not only or "one Keystone option" in only:
        change_keystone_option(7200)
        step("one Keystone option", "deploy", watch=f"http://{vip()}:5000/v3")
        change_keystone_option(None)
        measure("(taken back)", "deploy")
    step("stop", "stop", "--yes-i-really-really-mean-it")
    step("deploy after stop", "deploy")
    return result


def table(result: list[Row], memory: float) -> str:
    """Return the rows as a Markdown table beside Kolla-Ansible's figures."""
    lines = ["| measure | kolla-salt | CPU | Salt jobs | state functions | engine calls | containers started "
             "| Kolla-Ansible 22.2 | limit | goal |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in result:
        status = "" if row.status == 0 else f" (status {row.status})"
        goals = f"{PEER.get(row.name, '')} | {MUST.get(row.name, '')} | {AIM.get(row.name, '')}"
        lines.append(
            f"| {row.name} | {row.wall:.1f} s{status} | {row.cpu:.1f} s | {row.jobs} | {row.states or ''} "
            f"| {row.engine_calls} | {row.started} | {goals} |"
        )
        if "away" in row.extra:
            away = "keystone API away"
            asked = f"{row.extra['away']:.2f} s, {row.extra['failed']} of {row.extra['asked']} requests failed"
            lines.append(f"| {away} meanwhile | {asked} | | | | | | {PEER[away]} | {MUST[away]} | {AIM[away]} |")
    goals = f"{MUST['resident memory']} | {AIM['resident memory']}"
    lines.append(f"| master + minion, memory (PSS) | {memory:.0f} MB | | | | | | | {goals} |")
    lines += [
        "",
        "Kolla-Ansible 22.2 was measured on a machine of 2 cores with the same images and services, one run each.",
        "(d): derived from an aborted run and its rerun. (s): with a stand-in for systemd. Empty: no such command.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the benchmark; exit status 0 if every command succeeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of rows")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    args = parser.parse_args()
    result = rows(args.only)
    memory = resident_mb()
    args.out.mkdir(parents=True, exist_ok=True)
    data = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "cpus": os.cpu_count(), "kernel": platform.release(),
        "memory_mb": round(memory), "rows": [asdict(row) for row in result],
    }  # fmt: skip
    (args.out / "latest.json").write_text(json.dumps(data, indent=1) + "\n")
    (args.out / "latest.md").write_text(table(result, memory))
    print((args.out / "latest.md").read_text())
    return 0 if all(row.status == 0 for row in result) else 1


if __name__ == "__main__":
    sys.exit(main())
