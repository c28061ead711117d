"""Have the images of a release in the local registry: build what changed, or pull from upstream's namespace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kolla_salt.images import engine as engines
from kolla_salt.images import registry as registries
from kolla_salt.images.errors import ImageError
from kolla_salt.images.index import ssl_context
from kolla_salt.images.keys import ImageKey
from kolla_salt.images.places import NAMESPACE, UPSTREAM, Cache, Release, default_images, load_release
from kolla_salt.images.process import locked, tail
from kolla_salt.images.progress import Progress, Report, Result, parse_line, parse_summary
from kolla_salt.images.registry import Registry
from kolla_salt.images.workspace import Site, Workspace

Out = Callable[[str], None]
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|^[A-Z]+:kolla\.common\.utils\.[\w-]+:")


@dataclass
class Options:
    """What to have and how.

    :param release: the OpenStack release.
    :param images: names of images; empty for those that a cloud needs.
    :param extra: with the images that no deployment needs.
    :param site: the operator's site folder.
    :param threads: images built at the same time; 0 for one per processor.
    :param refresh: build anew although nothing changed, with the packages of today.
    :param keep_engine: leave the private engine running.
    """

    release: str
    images: list[str]
    extra: bool = False
    site: Path | None = None
    threads: int = 0
    refresh: bool = False
    keep_engine: bool = False

    def names(self) -> list[str]:
        """Return the names of the wanted images, each once."""
        return list(dict.fromkeys(self.images or default_images(self.release, self.extra)))


class Records:
    """What is known of finished builds: key, engine id, seconds and size per image. Kept across runs."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.rows = {}

    def put(self, name: str, **values: Any) -> None:
        """Remember values of an image; written at once, because the process may end at any time."""
        self.rows[name] = {**self.rows.get(name, {}), **values}
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.rows, indent=1, sort_keys=True))
        os.replace(partial, self.path)

    def get(self, name: str, field: str, otherwise: Any = None) -> Any:
        """Return one value of an image."""
        return self.rows.get(name, {}).get(field, otherwise)


def key_states(keys: list[ImageKey], space: Workspace, registry: Registry) -> dict[str, str]:
    """Return for each image whether the registry has what its key says.

    :returns: ``current`` (its tag stands for it), ``former`` (built once, but its tag stands for something else
        now) or ``absent``.
    """

    def check(key: ImageKey) -> tuple[str, str]:
        repository = space.repository(key.name)
        wanted = registry.digest(repository, key.tag)
        if not wanted:
            return key.name, "absent"
        return key.name, "current" if wanted == registry.digest(repository, space.release.tag) else "former"

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(check, keys))


def to_build(keys: dict[str, ImageKey], current: set[str]) -> list[str]:
    """Return the images to build, parents first: those not current, and those whose parent is built.

    :param keys: by name, parents first.
    """
    result: list[str] = []
    for name, key in keys.items():
        if name not in current or key.parent in result:
            result.append(name)
    return result


class Build:
    """One run of the builder.

    :param options: what to build.
    :param out: takes lines for people.
    """

    def __init__(self, options: Options, out: Out, cache: Cache | None = None):
        self.options, self.out = options, out
        self.cache = cache or Cache.default()
        self.release: Release = load_release(options.release)
        self.address = registries.LOCAL
        self.space = Workspace(self.release, self.cache, self.address, Site(options.site))
        self.records = Records(self.space.folder / "records.json")
        self.threads = options.threads or min(os.cpu_count() or 1, 8)

    def plan(self) -> tuple[dict[str, ImageKey], list[str], list[str]]:
        """Return all images concerned with their keys, and the names of those to build and to restore.

        All of them parents first.
        """
        keys = self.space.keys(self.options.names())
        if self.options.refresh:
            return keys, list(keys), []
        states = key_states(list(keys.values()), self.space, Registry(self.address))
        todo = to_build(keys, {name for name, state in states.items() if state != "absent"})
        return keys, todo, [name for name in keys if states[name] == "former" and name not in todo]

    def _restore(self, key: ImageKey) -> None:
        """Give an image's tag back to what was built for its key before."""
        repository = self.space.repository(key.name)
        Registry(self.address).add_tag(repository, key.tag, self.release.tag)
        # The engine may have another image of this name; without an id here it is pulled before it is built upon.
        self.records.put(key.name, key=key.key, id="")

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.cache.work / "lock", f"building images of {self.release.tag}", wait=False)

    def dry_run(self) -> Report:
        """Return what a build would do."""
        started = time.monotonic()
        # The plan renders into the work folder, which a build in another process may be using.
        with self._locked():
            registries.ensure_running(self.address, cache=self.cache)
            keys, todo, former = self.plan()
        report = self._report(keys, set(todo), {}, time.monotonic() - started)
        for row in report.images:
            if row.name in todo:
                row.state = "would build"
            elif row.name in former:
                row.state = "would restore"
        return report

    def run(self) -> Report:
        """Build what is not current, push it, and return what became of each image.

        :raises ImageError: the build could not be started at all; failed images are in the report instead.
        """
        started = time.monotonic()
        with self._locked():
            registries.ensure_running(self.address, cache=self.cache)
            keys, todo, former = self.plan()
            results: dict[str, Result] = {}
            for name in former:
                self._restore(keys[name])
                self.out(f"{name}: back to what was built for this input before")
            if todo:
                self.out(f"{len(todo)} of {len(keys)} images of {self.release.tag} are to be built")
                with engines.running(self.cache, self.options.keep_engine) as engine:
                    results |= self._build(engine, keys, todo)
                    if all(row.state in ("built", "pushed") for row in results.values()):
                        # Images that these replaced; after a failure they still serve as a cache.
                        engine.prune()
            results |= {name: Result(name, "restored") for name in former}
            return self._report(keys, set(todo), results, time.monotonic() - started)

    def _report(self, keys: dict[str, ImageKey], todo: set[str], results: dict[str, Result], seconds: float) -> Report:
        rows = []
        for name, key in keys.items():
            row = results.get(name) or Result(name, "failed" if name in todo else "current")
            row.key = key.key
            row.size = row.size or self.records.get(name, "size", 0)
            row.seconds = row.seconds or self.records.get(name, "seconds", 0.0)
            rows.append(row)
        return Report(self.release.name, self.release.tag, self.address, "built", rows, seconds)

    # -- one build ---------------------------------------------------------------------------------------------

    def _build(self, engine: engines.Engine, keys: dict[str, ImageKey], todo: list[str]) -> dict[str, Result]:
        progress = Progress(len(todo), self.out)
        results = self._push_finished(engine, keys, todo, progress)
        rest = [name for name in todo if name not in results]
        if not rest:
            return results
        self._base_image(engine, rest)
        for name in rest:
            engine.forget(self.space.image(name))
        self._fetch_parents(engine, keys, rest)
        results |= self._run_builder(engine, keys, rest, progress)
        return results

    def _push_finished(
        self, engine: engines.Engine, keys: dict[str, ImageKey], todo: list[str], progress: Progress
    ) -> dict[str, Result]:
        """Push what an earlier run built, but could not push before it ended."""
        results = {}
        for name in todo:
            made = self.records.get(name, "id")
            if self.options.refresh or not made or self.records.get(name, "key") != keys[name].key:
                continue
            if engine.image_id(self.space.image(name)) != made:
                continue
            engine.push(self.space.image(name))
            self._pushed(keys[name])
            results[name] = Result(name, "pushed")
            progress.ready(name, "pushed", note="was built before")
        return results

    def _base_image(self, engine: engines.Engine, names: list[str]) -> None:
        if not self.space.own_base or "base" not in names:
            return
        if engine.image_id(self.space.base_name) and not self.options.refresh:
            return
        self.out(f"making the base system, {self.release.supported_name}")
        engine.import_root(self.space.root_archive(self.options.refresh), self.space.base_name)

    def _fetch_parents(self, engine: engines.Engine, keys: dict[str, ImageKey], names: list[str]) -> None:
        """Have the images in the engine that are built upon, but not themselves built now."""
        parents = {keys[name].parent for name in names} - set(names) - {None}
        for parent in sorted(str(name) for name in parents):
            image = self.space.image(parent)
            if not engine.image_id(image) or engine.image_id(image) != self.records.get(parent, "id"):
                engine.pull(image)
                self.records.put(parent, id=engine.image_id(image), key=keys[parent].key)

    def _run_builder(
        self, engine: engines.Engine, keys: dict[str, ImageKey], names: list[str], progress: Progress
    ) -> dict[str, Result]:
        self.space.prepare(self.threads)
        self.space.summary.unlink(missing_ok=True)
        # What is not to be built was put into the engine before; the builder leaves it alone.
        more = ["--skip-existing", *(["--nocache"] if self.options.refresh else [])]
        command = self.space.builder_command(names, *more)
        env = {**os.environ, "DOCKER_HOST": engine.url}
        log = self.space.folder / "kolla-build.log"
        results: dict[str, Result] = {}
        with (
            log.open("w") as output,
            subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout
            try:
                for line in process.stdout:
                    output.write(line)
                    self._follow(line, engine, keys, results, progress)
            except BaseException:
                process.terminate()
                raise
        said = parse_summary(self.space.summary.read_text() if self.space.summary.exists() else "")
        if not said:
            raise ImageError(
                f"building images of {self.release.tag}",
                f"the builder ended with status {process.returncode}: {tail(log)}",
                "a summary of what it built",
                f"less {log}",
            )
        for name in names:
            if name not in results:
                results[name] = self._failure(name, said.get(name, "not built"))
                progress.ready(name, results[name].state, note=results[name].error)
                for text in failure_lines(results[name]):
                    self.out(text)
        return results

    def _follow(
        self,
        line: str,
        engine: engines.Engine,
        keys: dict[str, ImageKey],
        results: dict[str, Result],
        progress: Progress,
    ) -> None:
        event = parse_line(line)
        if not event or event.image not in keys:
            return
        name, image = event.image, self.space.image(event.image)
        if event.kind == "built":
            facts = {"id": engine.image_id(image), "size": engine.size(image), "seconds": round(event.seconds, 1)}
            self.records.put(name, key=keys[name].key, **facts)
        elif event.kind == "pushed":
            self._pushed(keys[name])
            seconds, size = self.records.get(name, "seconds", 0.0), self.records.get(name, "size", 0)
            results[name] = Result(name, "built", seconds, size)
            progress.ready(name, "built", seconds)

    def _pushed(self, key: ImageKey) -> None:
        """Record in the registry which key its image has: the registry alone says what is current."""
        Registry(self.address).add_tag(self.space.repository(key.name), self.release.tag, key.tag)

    def _failure(self, name: str, status: str) -> Result:
        log = self.space.logs / f"{name}.log"
        state = "parent failed" if status == "parent_error" else "failed"
        return Result(name, state, error=status, log=str(log) if log.exists() else "")


def failure_lines(row: Result, count: int = 15) -> list[str]:
    """Return what to tell about an image that failed: the end of its log and where the log is.

    :param count: how many lines of the log.
    """
    if row.state != "failed" or not row.log:
        return []
    with Path(row.log).open(errors="replace") as file:
        last = list(deque(readable(file), maxlen=count))
    return [*(f"    | {line}" for line in last), f"    whole log: {row.log}"]


def readable(lines: Iterable[str]) -> Iterator[str]:
    """Give the lines of an image's log without colours, the builder's prefix and its own stack traces."""
    in_trace = False
    for line in lines:
        text = _DECORATION.sub("", line).rstrip()
        if text.startswith("Traceback (most recent call last)"):
            in_trace = True
        elif in_trace and not line.startswith((" ", "\n")):
            # The line that ends a stack trace says what happened.
            in_trace = False
        if text and not in_trace:
            yield text


def build(options: Options, out: Out = print, cache: Cache | None = None) -> Report:
    """Build the images that changed since they were last built, and push them to the local registry.

    :param options: what to build.
    :param out: takes one line per image.
    :raises ImageError: nothing could be built.
    """
    return Build(options, out, cache).run()


# -- upstream --------------------------------------------------------------------------------------------------


def reachable(namespace: str = UPSTREAM, timeout: float = 2.5) -> bool:
    """Say whether a registry can be reached; any answer of it counts, also one that asks for credentials.

    :param namespace: ``host/namespace``.
    """
    request = urllib.request.Request(f"https://{namespace.split('/')[0]}/v2/")
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=ssl_context()) as answer:
            return "docker-distribution-api-version" in answer.headers
    except urllib.error.HTTPError as error:
        return "docker-distribution-api-version" in error.headers
    except (OSError, ValueError):
        return False


def pull(
    options: Options,
    out: Out = print,
    cache: Cache | None = None,
    upstream: str = UPSTREAM,
    missing_only: bool = False,
) -> Report:
    """Copy upstream's images into the local registry.

    :param upstream: ``host/namespace`` to pull from.
    :param missing_only: leave the images alone that the local registry has.
    :raises ImageError: no engine can be had.
    """
    started = time.monotonic()
    cache = cache or Cache.default()
    release = load_release(options.release)
    if upstream == UPSTREAM and not release.upstream:
        raise ImageError(
            f"pulling images of {release.tag} from {upstream}",
            "it has none of this release on this suite",
            "another place that has them (--from), or a build",
            f"kolla-salt images build --release {release.name}",
        )
    address = registries.ensure_running(registries.LOCAL, cache=cache)
    registry = Registry(address)
    names = options.names()
    report = Report(release.name, release.tag, address, upstream)
    absent = [n for n in names if not missing_only or not registry.digest(f"{NAMESPACE}/{n}", release.tag)]
    report.images = [Result(name, "current") for name in names if name not in absent]
    if absent:
        progress = Progress(len(absent), out)
        doing = f"pulling images of {release.tag}"
        with (
            locked(cache.work / "lock", doing, wait=False),
            engines.running(cache, options.keep_engine) as engine,
        ):
            for name in absent:
                report.images.append(_pull_one(engine, name, release, address, upstream, progress))
    report.seconds = time.monotonic() - started
    return report


def _pull_one(
    engine: engines.Engine, name: str, release: Release, address: str, upstream: str, progress: Progress
) -> Result:
    started = time.monotonic()
    source = f"{upstream}/{name}:{release.tag}"
    target = f"{address}/{NAMESPACE}/{name}:{release.tag}"
    try:
        engine.pull(source)
        engine.tag(source, target)
        engine.push(target)
    except ImageError as error:
        progress.ready(name, "failed", note=str(error))
        return Result(name, "failed", error=str(error))
    seconds = time.monotonic() - started
    progress.ready(name, "pulled", seconds)
    return Result(name, "pulled", seconds, engine.size(target))


def ensure(options: Options, out: Out = print, cache: Cache | None = None) -> Report:
    """Have the images in the local registry, from upstream or built.

    They come from upstream where that can be reached and has them, and the site customises no image.

    :raises ImageError: neither can be done.
    """
    customised = options.site and (options.site / "images").is_dir()
    if load_release(options.release).upstream and not customised and reachable():
        out(f"taking the images from {UPSTREAM}")
        report = pull(options, out, cache, missing_only=True)
        if not report.failed:
            return report
        out(f"{len(report.failed)} images cannot be had from {UPSTREAM}: they are built")
    return build(options, out, cache)


def push(options: Options, target: str, out: Out = print, cache: Cache | None = None) -> Report:
    """Copy the images of the local registry into another one.

    :param target: ``host:port`` or ``host/namespace`` of the other registry.
    :raises ImageError: no engine can be had.
    """
    started = time.monotonic()
    cache = cache or Cache.default()
    release = load_release(options.release)
    address = registries.ensure_running(registries.LOCAL, cache=cache)
    place = target if "/" in target else f"{target}/{NAMESPACE}"
    names = options.names()
    report, progress = Report(release.name, release.tag, place, address), Progress(len(names), out)
    with engines.running(cache, options.keep_engine) as engine:
        for name in names:
            begun = time.monotonic()
            source, goal = f"{address}/{NAMESPACE}/{name}:{release.tag}", f"{place}/{name}:{release.tag}"
            row = Result(name, "pushed")
            try:
                engine.pull(source)
                engine.tag(source, goal)
                engine.push(goal)
                row.size = engine.size(goal)
            except ImageError as error:
                row.state, row.error = "failed", str(error)
            row.seconds = time.monotonic() - begun
            report.images.append(row)
            progress.ready(name, row.state, row.seconds, row.error)
    report.seconds = time.monotonic() - started
    return report


# -- what is there ---------------------------------------------------------------------------------------------


def listing(options: Options, everything: bool = False, cache: Cache | None = None) -> list[dict[str, Any]]:
    """Return the images of a release and whether the local registry has them.

    :param everything: also the images that the registry has and that were not asked for.
    """
    cache = cache or Cache.default()
    release = load_release(options.release)
    registry = Registry(registries.ensure_running(registries.LOCAL, cache=cache))
    names = options.names()
    prefix = f"{NAMESPACE}/"
    if everything:
        found = [name.removeprefix(prefix) for name in registry.repositories() if name.startswith(prefix)]
        names = list(dict.fromkeys([*names, *found]))
    records = Records(cache.folder("images", release.name) / "records.json")

    def row(name: str) -> dict[str, Any]:
        digest = registry.digest(prefix + name, release.tag)
        return {
            "name": name,
            "image": f"{registry.address}/{prefix}{name}:{release.tag}",
            "present": bool(digest),
            "digest": digest or "",
            "compressed": (registry.size(prefix + name, release.tag) or 0) if digest else 0,
            "seconds": records.get(name, "seconds", 0.0),
        }

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(row, names))
