"""What a run keeps on a host of what was there before it, so that the run can be taken back.

    <root>/<run>/containers/<name>.json    what the run did to a container, and the container that was there before
    <root>/<run>/config/<component>/       a configuration folder as it was: was.json, files/
    <root>/<run>/steps/<stamp>.json        what was remembered of a run-once step before it ran again

The replaced container itself stays in the engine: stopped, without restarts, under the name ``<name>.<run>``.
An entry is written before the engine is touched, and says by ids what it is about: whatever moment a run ends at, the
next one sees from the entry and from the engine's list how far it got.

Nothing here knows Salt or the engine. Everything is readable by root alone, since configuration holds secrets.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kolla_salt import paths
from kolla_salt.declarations import write_atomically

RUN = re.compile(r"\d{8}-\d{6}-([a-z0-9-]+)")
#: How many states of one configuration folder are kept; of a container there is one, since its image needs room.
FOLDERS = 5

#: The run is at it: a run that finds this goes on with it.
BEGUN = "begun"
#: The new container has answered.
DONE = "done"
#: A rollback is at it.
RETURNING = "returning"
#: What was there before is there again.
RETURNED = "returned"

#: Actions after which another container is there than before.
REPLACING = frozenset({"create", "recreate", "absent"})


def root() -> Path:
    """Return the folder of everything that is kept on this host."""
    return paths.STATE_DIR / "kept"


def kept_name(name: str, run: str) -> str:
    """Return the name of the container that ``run`` replaced."""
    return f"{name}.{run}"


def undone_name(name: str) -> str:
    """Return the name under which a container waits, while a rollback starts its predecessor."""
    return f"{name}.undone"


def is_kept(name: str) -> bool:
    """Return whether a container of that name is one that was replaced."""
    container, dot, run = name.partition(".")
    return bool(container and dot) and (run == "undone" or RUN.fullmatch(run) is not None)


def until_finished(run: str) -> bool:
    """Return whether what the run keeps stays until somebody says that it may go: so it is with an upgrade."""
    found = RUN.fullmatch(run)
    return bool(found) and found.group(1).split("-")[0] == "upgrade"


@dataclass
class Entry:
    """What a run did to one container.

    Attributes:
        old: what was there before (``id``, ``image``, ``image_id``, ``restart_policy``, ``running``, ``stamp``,
            ``settings``); None: there was none.
        new: id of the container that the run made; None: it made none, or did not get that far.
        component: name of its configuration folder.
    """

    run: str
    name: str
    action: str
    phase: str = BEGUN
    old: dict[str, Any] | None = None
    new: str | None = None
    component: str | None = None
    time: float = field(default_factory=time.time)

    @property
    def replaces(self) -> bool:
        """Whether the container that was there before is another one."""
        return self.action in REPLACING


@dataclass(frozen=True)
class Folder:
    """A configuration folder as a run found it.

    Attributes:
        directory: where it belongs.
        existed: False: there was none.
        path: where it is kept.
    """

    run: str
    component: str
    directory: str
    service: str | None
    existed: bool
    path: Path

    @property
    def files(self) -> Path:
        """The folder with the files as they were."""
        return self.path / "files"


@dataclass(frozen=True)
class Store:
    """Everything that is kept on this host."""

    root: Path = field(default_factory=root)

    def runs(self) -> list[str]:
        """Return the runs of which something is kept, oldest first."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if RUN.fullmatch(entry.name))
        except FileNotFoundError:
            return []

    # --- containers -----------------------------------------------------------------------------------------------

    def _entry_path(self, run: str, name: str) -> Path:
        return self.root / run / "containers" / f"{name}.json"

    def entry(self, run: str, name: str) -> Entry | None:
        """Return what ``run`` did to a container, None if it did nothing."""
        found = _read(self._entry_path(run, name))
        return Entry(**found) if found else None

    def entries(self, run: str) -> dict[str, Entry]:
        """Return what ``run`` did, by container."""
        folder = self.root / run / "containers"
        names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
        return {name: entry for name in names if (entry := self.entry(run, name))}

    def of_container(self, name: str) -> Iterator[Entry]:
        """Yield what runs did to a container, the newest first."""
        for run in reversed(self.runs()):
            if entry := self.entry(run, name):
                yield entry

    def write(self, entry: Entry) -> Entry:
        """Store an entry, in one piece."""
        self._write(self._entry_path(entry.run, entry.name), asdict(entry))
        return entry

    def forget(self, entry: Entry) -> None:
        """Remove an entry, and the run's folder if it was the last thing in it."""
        self._entry_path(entry.run, entry.name).unlink(missing_ok=True)
        self.tidy(entry.run)

    def taken_over(self, entry: Entry, run: str) -> Entry:
        """Make an entry of an unfinished run that of ``run``, which goes on with it."""
        mine = self.write(Entry(**{**asdict(entry), "run": run, "phase": BEGUN}))
        self.forget(entry)
        return mine

    # --- configuration --------------------------------------------------------------------------------------------

    def keep_folder(self, run: str, directory: str, service: str | None = None) -> bool:
        """Keep a configuration folder as it is now, unless the run has kept it before; return whether it was done."""
        source = Path(directory)
        target = self.root / run / "config" / source.name
        if target.exists():
            return False
        self._make(target.parent)
        beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{source.name}."))
        try:
            existed = source.is_dir()
            if existed:
                _copy(source, beside / "files")
            was = {"directory": str(source), "service": service, "existed": existed, "time": time.time()}
            (beside / "was.json").write_text(json.dumps(was))
            beside.rename(target)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)
            if not target.exists():  # else another state of the same job was faster
                raise
            return False
        for older in [*self.folders_of(source.name)][FOLDERS:]:
            if not until_finished(older.run):
                self.drop_folder(older)
        return True

    def folder(self, run: str, component: str) -> Folder | None:
        """Return a configuration folder as ``run`` found it, None if the run did not change it."""
        path = self.root / run / "config" / component
        was = _read(path / "was.json")
        if not was:
            return None
        return Folder(run, component, was["directory"], was.get("service"), was["existed"], path)

    def folders(self, run: str) -> dict[str, Folder]:
        """Return all configuration folders that ``run`` changed, by component."""
        base = self.root / run / "config"
        names = sorted(path.name for path in base.iterdir()) if base.is_dir() else []
        return {name: found for name in names if not name.startswith(".") and (found := self.folder(run, name))}

    def folders_of(self, component: str) -> Iterator[Folder]:
        """Yield the kept states of one configuration folder, the newest first."""
        for run in reversed(self.runs()):
            if found := self.folder(run, component):
                yield found

    def drop_folder(self, folder: Folder) -> None:
        """Remove a kept configuration folder."""
        _remove(folder.path)
        self.tidy(folder.run)

    def move_folder(self, folder: Folder, run: str) -> None:
        """Let what an earlier run kept be what ``run`` found: it is the one that acts on it."""
        target = self.root / run / "config" / folder.component
        if not target.exists():
            self._make(target.parent)
            folder.path.rename(target)
            self.tidy(folder.run)

    # --- run-once steps -------------------------------------------------------------------------------------------

    def keep_step(self, run: str, stamp: str, remembered: Mapping[str, Any]) -> None:
        """Keep what was remembered of a run-once step before ``run`` did it (again)."""
        path = self.root / run / "steps" / f"{stamp}.json"
        if not path.exists():
            self._write(path, {"remembered": dict(remembered)})

    def steps(self, run: str) -> dict[str, dict[str, Any]]:
        """Return what was remembered of the run-once steps that ``run`` did; empty: they had never been done."""
        folder = self.root / run / "steps"
        paths_ = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return {path.stem: (_read(path) or {}).get("remembered") or {} for path in paths_}

    def drop_steps(self, run: str, stamps: Iterable[str]) -> None:
        """Forget kept run-once steps."""
        for stamp in stamps:
            (self.root / run / "steps" / f"{stamp}.json").unlink(missing_ok=True)
        self.tidy(run)

    # --- tidying --------------------------------------------------------------------------------------------------

    def tidy(self, run: str) -> None:
        """Remove the folder of a run of which no container and no configuration is kept any more.

        Of an upgrade no run-once step either: a migration may have run before any container was replaced, or another
        service of the run be taken back first. If it were taken for done, the next upgrade would leave it out.
        """
        for name in ("containers", "config", *(["steps"] if until_finished(run) else [])):
            path = self.root / run / name
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return  # something is in it
        _remove(self.root / run)

    def size(self, run: str) -> int:
        """Return how many bytes a run's files take."""
        total = 0
        for folder, _, names in os.walk(self.root / run):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    continue
        return total

    def _make(self, path: Path) -> None:
        # Each level by itself: `mode` of mkdir counts for the last one only.
        for level in (self.root, *(self.root / part for part in _levels(path.relative_to(self.root)))):
            level.mkdir(mode=0o700, exist_ok=True, parents=level == self.root)

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        self._make(path.parent)
        write_atomically(path, json.dumps(content, indent=1, sort_keys=True).encode())


def restore_difference(folder: Folder) -> dict[str, str]:
    """Return how a configuration folder differs from what was kept: relative path -> changed, added or removed.

    ``added`` is there now and was not; ``removed`` was there and is not. Mode and owner count.
    """
    then, now = _facts(folder.files) if folder.existed else {}, _facts(Path(folder.directory))
    return {
        name: "added" if name not in then else "removed" if name not in now else "changed"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }


def restore(folder: Folder) -> list[str]:
    """Bring a configuration folder back to what was kept, file by file, and return what was changed.

    The folder itself stays the same one, because running containers have it mounted; a reader sees a file as it was
    or as it is to be, never a part.
    """
    changed = restore_difference(folder)
    directory = Path(folder.directory)
    if not folder.existed:
        if directory.is_dir():
            shutil.rmtree(directory)
        return list(changed)
    _like(directory, folder.files)
    for name, how in changed.items():
        path, source = directory / name, folder.files / name
        if how == "added":
            _remove(path)
            continue
        if path.is_dir() and not path.is_symlink() and (source.is_symlink() or not source.is_dir()):
            shutil.rmtree(path)
        if source.is_dir() and not source.is_symlink():
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)
            _like(path, source)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.kept")
        beside.unlink(missing_ok=True)
        shutil.copy2(source, beside, follow_symlinks=False)
        _own(beside, source)
        beside.replace(path)
    return list(changed)


def _facts(base: Path) -> dict[str, tuple[Any, ...]]:
    """Return relative path -> mode, owner and content of everything below a folder."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, directories, names in os.walk(base):
        for name in (*directories, *names):
            path = Path(folder, name)
            status = path.lstat()
            if path.is_symlink():
                content: Any = os.readlink(path)
            else:
                content = None if path.is_dir() else path.read_bytes()
            found[path.relative_to(base).as_posix()] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def _like(path: Path, source: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, source.stat().st_mode & 0o7777)
    _own(path, source)


def _own(path: Path, source: Path) -> None:
    status = source.lstat()
    if os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with modes and owners."""
    shutil.copytree(source, target, symlinks=True)
    for folder, directories, names in os.walk(source):
        for name in (".", *directories, *names):
            path = Path(folder, name)
            _own(target / path.relative_to(source), path)


def _levels(path: Path) -> list[Path]:
    return [*reversed(path.parents)][1:] + [path]


def _remove(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None
