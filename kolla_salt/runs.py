"""Run records: one folder per run on the master, written as the run goes, so that a run that dies leaves its trace.

    <root>/<id>/run.json            who, when, what, with which site and version, and how it ended
    <root>/<id>/site.json           names and digests of the site's files and options, its revision: no secret
    <root>/<id>/plan.json           the steps and the changes that were predicted before anything was done
    <root>/<id>/steps.jsonl         one line per finished step: hosts, results, seconds, failures, slowest states
    <root>/<id>/containers.json     what the containers were before and after
    <root>/<id>/availability.json   who did not answer meanwhile, if containers were touched (kolla_salt.availability)

Large files are compressed (``plan.json.gz``). Nothing here knows Salt. Whatever is written goes through
:func:`kolla_salt.outcome.scrub` with the passwords of the site.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kolla_salt import outcome, provenance

#: Where records lie unless the caller says otherwise.
ROOT = Path("/var/lib/kolla-salt/runs")
_ID = re.compile(r"^[0-9]{8}-[0-9]{6}-[a-z0-9-]+$")
#: How many records are kept, and for how many days, unless the master's options say otherwise.
KEEP, KEEP_DAYS = 200, 365
#: A file of more characters than this is compressed.
_COMPRESS = 1_000_000
#: Characters that plan.json and all of steps.jsonl may have; beyond them differences of alike states are left out.
_LARGEST_PLAN, _LARGEST_STEPS = 12_000_000, 32_000_000
#: A text in a change that is longer than this can be left out.
_SHORT = 120
_LEFT_OUT = "[not kept: the record has this difference of other hosts]"


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

    @cached_property
    def secrets(self) -> list[str]:
        """Every secret text of the run's site; what is written is searched for them."""
        site = self.header().get("site")
        return provenance.secret_texts(site) if site else []

    def append_step(self, step: dict[str, Any], clean: bool = False) -> None:
        """Add one finished step.

        Args:
            step: ``id``, ``wave``, ``role``, ``services``, ``started``, ``seconds``, ``ok``, ``hosts``.
            clean: it is free of secrets already.
        """
        path = self.folder / "steps.jsonl"
        taken = path.stat().st_size if path.exists() else 0
        text = _fitting(
            step if clean else outcome.scrub(step, self.secrets),
            [said.get("changed") or [] for said in (step.get("hosts") or {}).values()],
            "changed",
            max(500_000, (_LARGEST_STEPS - taken) // 4),
        )
        with _open(path, "a") as stream:
            stream.write(text + "\n")

    def write_plan(self, plan: Any, clean: bool = False) -> None:
        """Store what the run was about to do.

        Args:
            plan: ``steps``, ``hosts`` (what the dry run said on each), ``unknown``.
            clean: it is free of secrets already.
        """
        plan = plan if clean else outcome.scrub(plan, self.secrets)
        hosts = plan.get("hosts") or {} if isinstance(plan, Mapping) else {}
        changes = [said.get("states") or [] for said in hosts.values()]
        _write_text(self.folder / "plan.json", _fitting(plan, changes, "states", _LARGEST_PLAN))

    def write_availability(self, receipt: Any) -> None:
        """Store what a probe has seen so far."""
        _write(self.folder / "availability.json", receipt)

    def availability(self) -> dict[str, Any] | None:
        """Return what a probe saw during the run, None if nothing was watched."""
        return _read(self.folder / "availability.json")

    def write_containers(self, containers: Mapping[str, Any]) -> None:
        """Store what the containers were.

        Args:
            containers: ``before`` and ``after`` -> host -> name -> ``id``, ``image``, ``digest``, ``started``.
        """
        _write(self.folder / "containers.json", containers, indent=None)

    def containers(self) -> dict[str, Any] | None:
        """Return what the containers were before and after, None if nobody looked."""
        return _read(self.folder / "containers.json")

    def site(self) -> dict[str, Any]:
        """Return what is known of the site as it was: ``files``, ``keys``, ``options``; empty in old records."""
        return _read(self.folder / "site.json") or {}

    def update(self, **fields: Any) -> None:
        """Store further fields of ``run.json``; None removes one."""
        header = self.header() | outcome.scrub(fields, self.secrets)
        _write(self.folder / "run.json", {name: value for name, value in header.items() if value is not None})

    def close(self, result: str, **more: Any) -> None:
        """Store how the run ended.

        Args:
            result: ``ok``, ``failed``, ``incomplete`` (hosts did not answer) or ``interrupted``.
            more: further fields of ``run.json``.
        """
        self.update(finished=time.time(), result=result, **more)

    def header(self) -> dict[str, Any]:
        """Return the content of ``run.json``."""
        return json.loads((self.folder / "run.json").read_text())

    def plan(self) -> Any:
        """Return what was planned, None if the run ended before that."""
        return _read(self.folder / "plan.json")

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


def create(
    verb: str, root: Path | str = ROOT, now: float | None = None, run_id: str = "", data: Any = None, **fields: Any
) -> Run:
    """Start a record and return it. Who gave the command, the command and the site's revision are found out here.

    Args:
        verb: what is being done, such as ``deploy``.
        root: folder of all records; made with mode 0700 when missing.
        now: seconds since the epoch, for tests.
        run_id: the id to use; a number is appended when it is taken.
        data: the site, if it has been read (:class:`kolla_salt.site.Site`).
        fields: further fields of ``run.json`` (site, site_digest, version, services, limit, ...).

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
    header = {
        "id": run.id,
        "verb": verb,
        "started": started,
        "result": "running",
        "pid": os.getpid(),
        **provenance.person(),
        "where": socket.gethostname(),
        "via": provenance.program(),
        "command": provenance.command(),
        "equivalent": provenance.equivalent(
            verb, fields.get("services") or [fields[name] for name in ("node",) if name in fields], fields.get("limit")
        ),
        **fields,
    }
    _write(run.folder / "run.json", header)  # from now on a run that dies has left its trace
    site = fields.get("site")
    if site:
        if data is not None:
            run.__dict__["secrets"] = outcome.secrets_of(data.passwords)
        revision = provenance.revision(site)
        told = provenance.describe(site, provenance.key(root), data)
        _write(run.folder / "site.json", outcome.scrub({**told, "revision": revision}, run.secrets), indent=None)
        run.update(command=header["command"], revision=revision)
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
    return [told(Run(Path(root), run_id)) for run_id in list_ids(root)]


def told(run: Run) -> dict[str, Any]:
    """Return ``run.json`` of one record; a run whose process is gone is called interrupted."""
    header = run.header()
    if header.get("result") == "running" and not _alive(header.get("pid")):
        header["result"] = "interrupted"
    return header


def before(run_id: str, root: Path | str = ROOT) -> Run:
    """Return the last run of the same verb before ``run_id``.

    Raises:
        UnknownRun: there is none.
    """
    root = Path(root)
    verb = Run(root, run_id).header()["verb"]
    for other in reversed([found for found in list_ids(root) if found < run_id]):
        if Run(root, other).header()["verb"] == verb:
            return Run(root, other)
    raise UnknownRun(f"comparing {run_id}: no {verb} before it in {root}; name the run to compare it with")


def prune(root: Path | str = ROOT, keep: int = KEEP, days: float = KEEP_DAYS, now: float | None = None) -> list[str]:
    """Remove the records that are not among the newest ``keep``, or are older than ``days``; return their ids.

    The last one stays, and so do: what still runs, an upgrade that was neither finished (``finished_upgrade`` in
    ``run.json``) nor taken back as a whole (``of`` in that of a rollback), and whatever has the field ``keep``.

    Args:
        root: folder of all records.
        keep: how many of the newest stay; 0: all.
        days: how old a record may become; 0: any age.
        now: seconds since the epoch, for tests.
    """
    root, moment = Path(root), time.time() if now is None else now
    ids = list_ids(root)
    removed = []
    back: set[str] | None = None
    newest = set(ids[-keep:]) if keep else set(ids)
    for run_id in ids[:-1]:
        try:
            header = Run(root, run_id).header()
        except (OSError, ValueError):
            continue
        old = bool(days) and header.get("started", moment) < moment - days * 86400
        if run_id in newest and not old:
            continue
        unfinished = header.get("verb") == "upgrade" and not header.get("finished_upgrade")
        if unfinished:
            back = back if back is not None else _taken_back(root, ids)
            unfinished = run_id not in back
        if header.get("keep") or unfinished or (header.get("result") == "running" and _alive(header.get("pid"))):
            continue
        # Renamed first: what is being removed is no record any more, also after a crash.
        gone = root / f".removed-{run_id}"
        os.replace(root / run_id, gone)
        removed.append(run_id)
    for gone in root.glob(".removed-*") if root.is_dir() else []:
        shutil.rmtree(gone, ignore_errors=True)
    return removed


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


def _taken_back(root: Path, ids: list[str]) -> set[str]:
    """Return the runs that a rollback has taken back as a whole."""
    found = set()
    for run_id in ids:
        if "-rollback" in run_id:
            header = _read(root / run_id / "run.json") or {}
            if header.get("result") == "ok" and header.get("of"):
                found.add(str(header["of"]))
    return found


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (TypeError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    # One that was killed keeps its number until its parent has asked how it ended, which some never do.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return True


def _open(path: Path, mode: str) -> Any:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _write(path: Path, data: Any, indent: int | None = 1) -> None:
    # In one piece and without an indent, Python's encoder is ten times as fast; that counts with many hosts.
    _write_text(path, json.dumps(data, indent=indent, default=str))


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    packed = path.with_name(path.name + ".gz")
    if len(text) > _COMPRESS:
        path, packed = packed, path
        with _open(temporary, "wb") as stream:
            stream.write(gzip.compress(text.encode() + b"\n", compresslevel=3, mtime=0))
    else:
        with _open(temporary, "w") as stream:
            stream.write(text + "\n")
    os.replace(temporary, path)
    packed.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        pass
    try:
        return json.loads(gzip.decompress(path.with_name(path.name + ".gz").read_bytes()))
    except FileNotFoundError:
        return None


def _fitting(data: Any, changes: list[list[Any]], field: str, limit: int) -> str:
    """Return ``data`` as JSON of about ``limit`` characters at most.

    Which states changed is always told. Long differences are told of as many hosts for each state as there is room for.

    Args:
        data: a mapping with ``hosts``: host -> a mapping with a list of changes.
        changes: those lists.
        field: what the list is called.
        limit: in characters.
    """
    text = json.dumps(data, default=str)
    if len(text) <= limit or not changes:
        return text
    for hosts in (50, 10, 2):
        met: dict[str, int] = {}
        shorter: dict[str, Any] = {}
        for host, said in data["hosts"].items():
            shorter[host] = {**said, field: [_shortened(change, met, hosts) for change in said.get(field) or []]}
        text = json.dumps({**data, "hosts": shorter}, default=str)
        if len(text) <= limit:
            break
    return text


def _shortened(change: Any, met: dict[str, int], hosts: int) -> Any:
    if not isinstance(change, Mapping):
        return change
    count = met[change["id"]] = met.get(change["id"], 0) + 1
    if count <= hosts:
        return change
    return {**change, "comment": "", "changes": _without_texts(change.get("changes"))}


def _without_texts(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _SHORT else _LEFT_OUT
    if isinstance(value, Mapping):
        return {name: _without_texts(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return value if len(str(value)) <= _SHORT else [_LEFT_OUT]
    return value
