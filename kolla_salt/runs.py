"""Run records: one folder per run on the master, written as the run goes, so that a run that dies leaves its trace.

    <root>/<id>/run.json       who, when, what, with which site and version, and how it ended
    <root>/<id>/plan.json      the steps and the changes that were predicted before anything was done
    <root>/<id>/steps.jsonl    one line per finished step: hosts, results, seconds, failures, slowest states
    <root>/<id>/availability.json   who did not answer meanwhile, if containers were touched (kolla_salt.availability)

Nothing here knows Salt. Callers pass data that is already free of secrets (see :func:`kolla_salt.outcome.scrub`).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where records lie unless the caller says otherwise.
ROOT = Path("/var/lib/kolla-salt/runs")
_ID = re.compile(r"^[0-9]{8}-[0-9]{6}-[a-z0-9-]+$")


class UnknownRun(LookupError):
    """There is no record of that name."""


@dataclass(frozen=True)
class Run:
    """One record, open for reading and appending."""

    root: Path
    id: str

    @property
    def folder(self) -> Path:
        """The record's folder."""
        return self.root / self.id

    def append_step(self, step: dict[str, Any]) -> None:
        """Add one finished step."""
        with _open(self.folder / "steps.jsonl", "a") as stream:
            stream.write(json.dumps(step, default=str) + "\n")

    def write_plan(self, plan: Any) -> None:
        """Store what the run was about to do."""
        _write(self.folder / "plan.json", plan, indent=None)

    def write_availability(self, receipt: Any) -> None:
        """Store what a probe has seen so far."""
        _write(self.folder / "availability.json", receipt)

    def availability(self) -> dict[str, Any] | None:
        """Return what a probe saw during the run, None if nothing was watched."""
        try:
            return json.loads((self.folder / "availability.json").read_text())
        except FileNotFoundError:
            return None

    def close(self, result: str, **more: Any) -> None:
        """Store how the run ended.

        Args:
            result: ``ok``, ``failed``, ``incomplete`` (hosts did not answer) or ``interrupted``.
            more: further fields of ``run.json``.
        """
        header = self.header()
        header.update(finished=time.time(), result=result, **more)
        _write(self.folder / "run.json", header)

    def header(self) -> dict[str, Any]:
        """Return the content of ``run.json``."""
        return json.loads((self.folder / "run.json").read_text())

    def plan(self) -> Any:
        """Return what was planned, None if the run ended before that."""
        path = self.folder / "plan.json"
        return json.loads(path.read_text()) if path.exists() else None

    def steps(self) -> Iterator[dict[str, Any]]:
        """Yield the finished steps in order."""
        path = self.folder / "steps.jsonl"
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    return  # the last line of a run that was killed while writing


def new_id(verb: str, now: float | None = None) -> str:
    """Return an id for a run of ``verb`` that starts now: UTC time and verb, so that names sort by time."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() if now is None else now)) + f"-{verb}"


def create(verb: str, root: Path | str = ROOT, now: float | None = None, run_id: str = "", **fields: Any) -> Run:
    """Start a record and return it.

    Args:
        verb: what is being done, such as ``deploy``.
        root: folder of all records; made with mode 0700 when missing.
        now: seconds since the epoch, for tests.
        run_id: the id to use; a number is appended when it is taken.
        fields: further fields of ``run.json`` (site, site_digest, version, command, ...).

    Raises:
        ValueError: ``run_id`` is not the name of a run.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    started = time.time() if now is None else now
    run_id = run_id or new_id(verb, started)
    if not _ID.match(run_id):
        raise ValueError(f"the run id {run_id!r} is not of the form YYYYMMDD-HHMMSS-verb")
    for attempt in range(1000):
        run = Run(root, run_id + (f"-{attempt}" if attempt else ""))
        try:
            run.folder.mkdir(mode=0o700)
            break
        except FileExistsError:
            continue
    else:
        raise FileExistsError(f"{root}: a thousand runs of {verb} started in one second")
    _write(
        run.folder / "run.json",
        {
            "id": run.id,
            "verb": verb,
            "started": started,
            "result": "running",
            "pid": os.getpid(),
            "who": os.environ.get("SUDO_USER") or _user(),
            "where": socket.gethostname(),
            **fields,
        },
    )
    return run


def load(run_id: str, root: Path | str = ROOT) -> Run:
    """Return the record ``run_id``; ``last`` is the newest one.

    Raises:
        UnknownRun: there is none.
    """
    root = Path(root)
    ids = list_ids(root)
    if run_id == "last" and ids:
        return Run(root, ids[-1])
    if run_id not in ids:
        newest = ", ".join(ids[-3:]) or "none at all"
        raise UnknownRun(
            f"no run {run_id!r} in {root}; the newest records are: {newest}. 'kolla-salt runs list' shows all."
        )
    return Run(root, run_id)


def list_ids(root: Path | str = ROOT) -> list[str]:
    """Return the ids of all records, oldest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if _ID.match(entry.name) and (entry / "run.json").exists())


def headers(root: Path | str = ROOT) -> list[dict[str, Any]]:
    """Return ``run.json`` of every record, oldest first; a run whose process is gone is called interrupted."""
    found = []
    for run_id in list_ids(root):
        header = Run(Path(root), run_id).header()
        if header.get("result") == "running" and not _alive(header.get("pid")):
            header["result"] = "interrupted"
        found.append(header)
    return found


def running(root: Path | str = ROOT, newest: int = 5) -> dict[str, Any] | None:
    """Return ``run.json`` of a run whose process is alive, or None.

    Args:
        root: folder of all records.
        newest: how many of the last records are looked at; a run does not outlive many others.
    """
    for run_id in reversed(list_ids(root)[-newest:]):
        header = Run(Path(root), run_id).header()
        if header.get("result") == "running" and _alive(header.get("pid")):
            return header
    return None


def digest(directory: Path | str) -> str:
    """Return a short digest over the files of a site, so that two runs of the same site can be told.

    Passwords go into the digest as everything else; it is a SHA-256, nothing can be read back from it.
    """
    total = hashlib.sha256()
    base = Path(directory)
    files = [base / name for name in ("globals.yml", "topology.yml", "passwords.yml")]
    for path in sorted(p for p in [*files, *(base / "overrides").rglob("*")] if p.is_file()):
        total.update(str(path.relative_to(base)).encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (TypeError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _open(path: Path, mode: str) -> Any:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _write(path: Path, data: Any, indent: int | None = 1) -> None:
    temporary = path.with_suffix(".tmp")
    with _open(temporary, "w") as stream:
        # In one piece and without an indent, Python's encoder is ten times as fast; that counts with many hosts.
        stream.write(json.dumps(data, indent=indent, default=str) + "\n")
    os.replace(temporary, path)
