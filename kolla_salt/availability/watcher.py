"""A probe in a process of its own, for the time of a run.

The parent hands everything over through the child's standard input, the password included; it appears in no argument
and in no environment. The child ends when it is told to, when the pipe closes and when its parent is gone, and leaves
its receipt in the run's record, which it also writes every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kolla_salt import outcome
from kolla_salt.availability.probe import SETTLE, TIMEOUT, Probe
from kolla_salt.availability.receipt import Receipt
from kolla_salt.availability.targets import Account, Target

if TYPE_CHECKING:
    from kolla_salt import runs

#: Seconds between two writings of the receipt.
FLUSH = 3.0
#: Seconds between two looks whether the parent is still there.
LOOK = 0.5


def touches_containers(surveys: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a run touches a container, going by the dry run of its hosts.

    Args:
        surveys: what the dry run says of each host. A state that cannot be predicted may touch anything.
    """
    return any(
        survey["failed"]
        or any(
            state["function"].startswith(("kolla_container.", "kolla_kept.")) and not outcome.noted(state)
            for state in survey["states"]
        )
        for survey in surveys
    )


class Watcher:
    """The parent's side. Nothing here raises: a run goes on when it cannot be watched.

    Args:
        record: the run whose record gets the receipt.
        targets: what is asked.
        account: whose token is used.
    """

    def __init__(self, record: runs.Run, targets: Iterable[Target], account: Account) -> None:
        self.record = record
        self.targets = list(targets)
        self.account = account
        self.process: subprocess.Popen[bytes] | None = None
        self.settled: bool | None = None
        self.deadline = 0.0

    def start(self) -> bool:
        """Start the child and wait until it knows who is there; False if it cannot be started."""
        return self.launch() and self.ready()

    def launch(self) -> bool:
        """Start the child; False if it cannot be started."""
        command = [sys.executable, "-m", "kolla_salt.availability", "--record", str(self.record.folder)]
        handed = {
            "parent": os.getpid(),
            "targets": [target.as_dict() for target in self.targets],
            "account": asdict(self.account),
        }
        try:
            with open(
                self.record.folder / "availability.log", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)
            ) as log:
                # A session of its own: Ctrl-C on the terminal is for the run, whose end the child waits for.
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd="/"
                )
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(handed).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return False
        self.deadline = time.monotonic() + SETTLE + 7
        return True

    def ready(self) -> bool:
        """Wait until the child knows who is there; nothing is to be disturbed before that. The first call decides."""
        if self.settled is None:
            self.settled = False
            if self.process is not None and self.process.stdout is not None:
                left = max(0.0, self.deadline - time.monotonic())
                told, _, _ = select.select([self.process.stdout], [], [], left)
                self.settled = bool(told) and self.process.stdout.readline() == b"ready\n"
        return self.settled

    def mark(self, label: str) -> None:
        """Note in the receipt that something happened now."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(json.dumps({"mark": label}).encode() + b"\n")
                self.process.stdin.flush()

    def stop(self, patience: float = 0) -> Receipt | None:
        """End the child and return what it saw; None if it left nothing.

        Args:
            patience: seconds for which it goes on as long as something that has answered does not answer any more.
        """
        process, self.process = self.process, None
        if process is None:
            return None
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps({"stop": True, "patience": patience}).encode() + b"\n")
            process.stdin.flush()
        try:
            process.wait(TIMEOUT * 3 + 5 + patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        log = self.record.folder / "availability.log"
        with contextlib.suppress(OSError):
            if not log.stat().st_size:
                log.unlink()
        data = self.record.availability()
        return Receipt(data) if data else None


def serve(folder: Path) -> int:
    """Be the child: read from standard input what to ask, ask it, and write the receipt into the record ``folder``."""
    with contextlib.suppress(OSError):
        os.nice(-5)  # on a busy machine a probe that has to wait its turn would measure its own waiting
    stdin = sys.stdin.fileno()
    lines = _Lines(stdin)
    first = lines.next(30)
    if first is None:
        return 1
    handed = json.loads(first)
    parent = int(handed["parent"])
    probe = Probe([Target.from_dict(data) for data in handed["targets"]], Account(**handed["account"]))
    probe.start()
    with contextlib.suppress(OSError):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    from kolla_salt import runs  # only now: somebody waits for the line above

    record = runs.Run(folder.parent, folder.name)
    flushed, patience = time.monotonic(), None
    while os.getppid() == parent and not lines.closed:
        line = lines.next(LOOK)
        if line is not None:
            said: dict[str, Any] = json.loads(line)
            if said.get("stop"):
                patience = time.monotonic() + float(said.get("patience") or 0)
            else:
                probe.mark(str(said.get("mark")))
        if patience is not None and (time.monotonic() >= patience or not _away(probe)):
            break
        if time.monotonic() - flushed >= FLUSH:
            with contextlib.suppress(OSError):  # the disk may be full for now
                record.write_availability(probe.snapshot().data)
            flushed = time.monotonic()
    record.write_availability(probe.stop().data)
    return 0


def _away(probe: Probe) -> list[str]:
    """Return what does not answer any more, as far as the probe still knows."""
    with contextlib.suppress(OSError):
        return probe.snapshot().away
    return []


class _Lines:
    """Lines from a pipe, with a time limit."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.buffer = b""
        self.closed = False

    def next(self, timeout: float) -> bytes | None:
        """Return the next whole line, None if there is none within ``timeout`` seconds or the pipe is closed."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if self.closed or left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                return None
            data = os.read(self.descriptor, 65536)
            self.closed = not data
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line
