"""Containers of this host: compare with what is declared, act on the difference, wait until they work.

What a container is to be (its specification) is described in docs/declarations.md; `kolla_salt.container` holds the
table of its settings. The engine is docker, or podman through its Docker-compatible socket; nothing else of
kolla-salt talks to it.
"""

from __future__ import annotations

import datetime
import hmac
import json
import logging
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

from kolla_salt import container as _container
from kolla_salt import first as _first
from kolla_salt import kept, masking, paths, runtime
from kolla_salt import ready as _ready
from kolla_salt.context import ContextError
from kolla_salt.engine import SOCKETS, Engine, EngineError, NotFound
from kolla_salt.engine import call as _call

log = logging.getLogger(__name__)

__virtualname__ = "kolla_container"
__func_alias__ = {"exec_": "exec", "list_": "list"}

STAMPS = paths.STATE_DIR / "stamps"
#: A file for each container (by id) that was stopped through kolla-salt; its time is when.
STOPPED = paths.STATE_DIR / "stopped"
#: The same for those that stand still while another one is exchanged (`hold`): they are to run again after it.
HELD = paths.STATE_DIR / "held"
_RUNS = ("running", "restarting", "paused")
UNITS = Path("/etc/systemd/system")
LOG_LINES = 20
READY_TIMEOUT = 120.0
#: Seconds that a container's guard may speak against stopping it before the run gives up.
GUARD_TIMEOUT = 120
RUN_TIMEOUT = 600.0
# A service may end once because something it needs is a moment late; more often than this is a loop.
RESTARTS_ALLOWED = 3
# Podman calls a container that it is about to start again "exited", Docker "restarting".
RESTART_PAUSE = 2.0
#: Seconds of the engine's events that tell what it is doing.
CHANGING = 120.0
# HUP, USR1 and USR2 have a process read its files anew; any other signal is to end it.
_RELOADS = {"1", "10", "12"}
STOP_THREADS = 16
ROOT = "0"  # by number: known in every image
SHORTEST_SECRET = 4  # shorter ones would hide half of every text


def __virtual__() -> str:
    return __virtualname__


# --------------------------------------------------------------------------------------------------- pillar and engine


def _globals() -> dict[str, Any]:
    site = runtime.pillar(__pillar__, "kolla") or {}
    host = ((site.get("topology") or {}).get("hosts") or {}).get(__opts__.get("id")) or {}
    return {**(site.get("globals") or {}), **(host.get("options") or {})}


def _passwords() -> dict[str, Any]:
    return (runtime.pillar(__pillar__, "kolla") or {}).get("passwords") or {}


def _secret(name: str) -> str:
    value = _passwords().get(name)
    if not isinstance(value, str | int | float) or value == "":
        raise SaltInvocationError(
            f"password {name} is not in this minion's pillar (kolla:passwords): the service that uses it must list "
            "it under `secrets`, and passwords.yml must have it (kolla-salt genpwd); then "
            f"`salt {__opts__.get('id', '*')} saltutil.refresh_pillar`"
        )
    return str(value)


def _secret_values() -> list[str]:
    key = "kolla_container.secrets"
    if key not in __context__:
        values = masking.secret_values(_passwords())
        __context__[key] = [value for value in values if len(value) >= SHORTEST_SECRET]
    return __context__[key]


def _url() -> str:
    options = _globals()
    engine = options.get("container_engine") or "docker"
    if engine not in SOCKETS:
        raise SaltInvocationError(f"option container_engine is {engine!r}: expected docker or podman")
    socket = options.get("container_engine_socket") or __opts__.get("kolla_container_engine_socket")
    if not socket and engine == "docker":
        socket = os.environ.get("DOCKER_HOST")
    if not socket:
        return SOCKETS[engine]
    return socket if "://" in socket else f"unix://{socket}"


def _engine() -> Engine:
    # A state with `parallel: True` runs in a child process, which must not share its parent's connection.
    key = "kolla_container.engine"
    url = _url()
    cached = __context__.get(key)
    if cached is None or cached[0] != (os.getpid(), url):
        cached = ((os.getpid(), url), Engine(url, float(_globals().get("docker_client_timeout") or 120)))
        __context__[key] = cached
    return cached[1]


def ping(timeout: float = 10) -> bool:
    """Return true if the engine answers; it is not waited for as long as for an answer with work in it.

    :param timeout: seconds
    :raises CommandExecutionError: it does not

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.ping
    """
    try:
        _engine().ping(timeout)
    except EngineError as error:
        raise _failure(error, "asking the container engine for a sign of life") from error
    return True


def _is_podman() -> bool:
    """podman's Docker-compatible socket has no call to change a container in place."""
    return _globals().get("container_engine") == "podman"


def _failure(error: EngineError, what: str) -> CommandExecutionError:
    hint = ""
    if "no answer from the container engine" in str(error):
        hint = (
            "; is the engine running on this host? Options container_engine and container_engine_socket say where "
            "it is looked for"
        )
    return CommandExecutionError(_container.scrub(f"{what}: {error}{hint}", _secret_values()))


def calls() -> int:
    """Return how many requests this job has sent to the engine so far (for measurements).

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.calls
    """
    cached = __context__.get("kolla_container.engine")
    return cached[1].calls if cached else 0


def _spec(name: str, spec: dict[str, Any]) -> _container.Spec:
    declared = {key: value for key, value in spec.items() if not key.startswith("__") and key != "name"}
    options = _globals()
    # Options of the whole site that hold unless the container says otherwise.
    for key, option in (("restart_policy", "docker_restart_policy"), ("stop_timeout", "docker_graceful_timeout")):
        if declared.get(key) is None and options.get(option) is not None:
            declared[key] = options[option]
    try:
        return _container.normalise(name, declared, _secret)
    except _container.SpecError as error:
        raise SaltInvocationError(str(error)) from error


# -------------------------------------------------------------------------------------------------------------- stamps


def _stamp_path(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@:-]*", name):
        raise SaltInvocationError(f"{name!r} cannot be the name of a container or a stamp: letters, digits, _ . - only")
    return STAMPS / f"{name}.json"


def _read_stamp(name: str) -> dict[str, Any]:
    try:
        stamp = json.loads(_stamp_path(name).read_text())
    except (FileNotFoundError, ValueError):
        return {}  # a torn file is as good as none: the container is asked instead
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(name: str, content: dict[str, Any]) -> None:
    path = _stamp_path(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
    temporary.replace(path)


def _remove_stamp(name: str) -> None:
    _stamp_path(name).unlink(missing_ok=True)


def _stamp_container(
    spec: _container.Spec, inspect: dict[str, Any], files: dict[str, str], before: dict[str, Any] | None = None
) -> None:
    stamp = {
        "container_id": inspect["Id"],
        "image_id": inspect["Image"],
        "started_at": inspect["State"]["StartedAt"],
        "config_dir": spec.config_dir,
        "files": files,
        "manner": _container.manner(spec),
    }
    if before and before["Image"] != inspect["Image"]:
        # This start may have met others that still ran the earlier image; `renew` is for those that remember it.
        stamp["from_image"] = before["Image"]
    _write_stamp(spec.name, stamp)


# ----------------------------------------------------------------------------------- what is to be done, and its doing


class _Verdict:
    """What differs, and the one action that mends it.

    Not a dataclass: Salt's loader does not put modules where `dataclasses` looks for them.
    """

    def __init__(self, spec: _container.Spec, inspect: dict[str, Any] | None) -> None:
        self.spec = spec
        self.inspect = inspect
        self.action: str | None = None
        self.changes: _container.Changes = {}
        self.live: tuple[str, ...] = ()
        #: why, for the comment
        self.reasons: list[str] = []
        self.unit: Path | None = None


#: `state.new` in the changes, by action
DONE = {
    "create": "created",
    "recreate": "recreated",
    "start": "started",
    "restart": "restarted",
    "reload": "reloaded",
    "adopt": "adopted",
    "update": "updated",
}


def _judge(
    name: str, spec: dict[str, Any], expected_files: Iterable[str] = (), restart_for: Iterable[str] = ()
) -> _Verdict:
    """Compare and decide, once: `diff` shows the result and `deploy` acts on it."""
    wanted = _spec(name, spec)
    engine = _engine()
    try:
        return _judged(engine, wanted, set(expected_files), list(restart_for))
    except EngineError as error:
        raise _failure(error, f"comparing container {name} with its declaration") from error


def _judged(engine: Engine, wanted: _container.Spec, expected_files: set[str], restart_for: list[str]) -> _Verdict:
    inspect = engine.container(wanted.name)
    image = engine.image(wanted.image)
    verdict = _Verdict(wanted, inspect)
    if inspect is None:
        verdict.action = "create"
        verdict.reasons.append("there was none")
        verdict.changes = {
            "state": {"old": "absent", "new": DONE["create"]},
            "image": {"old": None, "new": _image_name(wanted.image, image)},
        }
        return verdict

    state = _container.state_of(inspect)
    replace = []
    if image is None or image["Id"] != inspect["Image"]:
        replace.append("image")
        old = engine.image(inspect["Image"]) or {"Id": inspect["Image"]}
        verdict.changes["image"] = {
            "old": _image_name(inspect["Config"]["Image"], old),
            "new": _image_name(wanted.image, image),
        }
    base = engine.image(inspect["Image"])
    config = base["Config"] if base else None
    updates = not _is_podman()
    comparison = _container.compare(wanted, inspect, config, secrets=_secret_values(), updates=updates)
    if any(item.startswith("dimensions.") for item in comparison.changes):
        # Only now, since asking costs as much as five inspects.
        unsupported = _container.unsupported_settings(engine.info())
        comparison = _container.compare(wanted, inspect, config, unsupported, _secret_values(), updates)
    replace += comparison.replace
    verdict.live = comparison.live
    verdict.changes.update(comparison.changes)
    # podman cannot take the restarts over in place: there the unit goes when the container is replaced.
    verdict.unit = _foreign_unit(wanted.name) if updates or replace else None
    if verdict.unit:
        verdict.changes["systemd_unit"] = {"old": str(verdict.unit), "new": None}

    action, files = _action_for_config(wanted, inspect, expected_files)
    if files:
        verdict.changes["config"] = {"old": None, "new": files}
    if replace or action == "recreate":
        verdict.action = "recreate"
        verdict.reasons += replace or files
    elif not _container.in_declared_state(wanted, inspect):
        verdict.action = "start"
        verdict.reasons.append(f"it was {state}")
    elif restart_for:
        verdict.action = "restart"
        verdict.reasons += restart_for
    elif action:
        verdict.action = action
        verdict.reasons += files or ["it was running already"]
    elif verdict.changes:
        verdict.action = "update"
    if verdict.action:
        verdict.reasons += [item for item in verdict.live if verdict.action != "recreate"]
        if verdict.unit and verdict.action != "recreate":
            verdict.reasons.append("its restarts are the engine's now")
        verdict.changes = {"state": {"old": state, "new": DONE[verdict.action]}, **verdict.changes}
    return verdict


def _image_name(reference: str, image: dict[str, Any] | None) -> str:
    if image is None:
        return f"{reference} (not on this host yet)"
    return f"{reference} ({image['Id'].removeprefix('sha256:')[:12]})"


def _action_for_config(
    spec: _container.Spec, inspect: dict[str, Any], expected_files: set[str]
) -> tuple[str | None, list[str]]:
    """Return what the state of the configuration directory asks for, and the files that it is about."""
    if not spec.config_dir or _container.state_of(inspect) != "running":
        return None, []
    stamp = _read_stamp(spec.name)
    current = _container.digest(spec.config_dir, spec.ignore_files)
    if stamp.get("container_id") == inspect["Id"] and stamp.get("started_at") == inspect["State"]["StartedAt"]:
        before = {name: value for name, value in stamp.get("files", {}).items() if name not in spec.ignore_files}
        changed = set(_container.changed_files(before, current)) | expected_files
        return _container.action_for_files(spec, changed), sorted(changed - spec.ignore_files)
    # Nobody recorded what this start of the container has read: another tool made it, the engine or an operator
    # restarted it, or a run ended between start and record. The container itself knows.
    expected = sorted(expected_files - spec.ignore_files)
    if expected:
        return "restart", expected
    if not current:
        return None, []
    return ("adopt", []) if _reads_the_same(spec) else ("restart", ["(other than what it runs with)"])


def _reads_the_same(spec: _container.Spec) -> bool:
    result = exec_(spec.name, ["kolla_set_configs", "--check"], user=ROOT, check=False)
    if result["exit_status"] in (126, 127):
        if "not found" in result["output"]:
            return True  # the image has no such program, so there is nothing to compare with
        raise CommandExecutionError(
            f"container {spec.name}: asking it whether it runs with the present files failed with status "
            f"{result['exit_status']}: {_tail(result['output'], 3)}"
        )
    return result["exit_status"] == 0


def _foreign_unit(name: str) -> Path | None:
    """The systemd unit by which Kolla-Ansible restarts a container, if there is one."""
    unit = UNITS / f"kolla-{name}-container.service"
    return unit if unit.exists() else None


def diff(
    name: str, expected_files: list[str] | None = None, restart_for: list[str] | None = None, **spec: Any
) -> _container.Changes:
    """Compare a declared container with the one on this host.

    :param name: the container
    :param expected_files: names in its configuration directory to be taken as changed (a prediction knows of files
        that are not written yet)
    :param restart_for: reasons to restart it even if nothing differs
    :param spec: its specification
    :returns: ``{}`` if it runs as declared with its present configuration; else ``state`` (``new`` is what would be
        done: created, recreated, started, restarted, reloaded, updated, adopted) and whatever of ``image``,
        ``config`` (names of files) and the settings differs, as ``{field: {"old": ..., "new": ...}}``, without secrets
    :raises SaltInvocationError: the specification is wrong
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.diff glance_api image=quay.io/openstack.kolla/glance-api:2026.1-debian-trixie
    """
    return _judge(name, spec, expected_files or (), restart_for or ()).changes


def deploy(
    name: str, expected_files: list[str] | None = None, restart_for: list[str] | None = None, **spec: Any
) -> dict[str, Any]:
    """Act on what :py:func:`diff` finds: create, recreate, start, restart, reload, change in place, or nothing.

    A new image is fetched, and a container that replaces another one is created, before the old one is stopped.
    Returns when the service answers (``ready``).

    :param name: the container
    :param expected_files: only for :py:func:`diff`
    :param restart_for: reasons to restart it even if nothing differs
    :param spec: its specification
    :returns: ``action`` (or ``None``), ``changes`` as :py:func:`diff` returns them, ``comment``, ``seconds``
    :raises SaltInvocationError: the specification is wrong
    :raises CommandExecutionError: the engine refused, an image or a host path is missing, or the service did not
        become ready; then the message has the container's last lines

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.deploy cron image=quay.io/openstack.kolla/cron:2026.1-debian-trixie
    """
    verdict = _judge(name, spec, (), restart_for or ())
    if verdict.action is None:
        return {"action": None, "changes": {}, "comment": f"{name} is as declared", "seconds": 0.0}
    started = time.monotonic()
    _perform(verdict)
    seconds = time.monotonic() - started
    why = ", ".join(dict.fromkeys(verdict.reasons))
    comment = f"{name} {DONE[verdict.action]} in {seconds:.1f} s" + (f" because of: {why}" if why else "")
    return {"action": verdict.action, "changes": verdict.changes, "comment": comment, "seconds": round(seconds, 2)}


def _perform(verdict: _Verdict, keep: bool = True) -> None:
    spec, engine = verdict.spec, _engine()
    # Taken before the start: what is written meanwhile was perhaps not read.
    files = _container.digest(spec.config_dir) if spec.config_dir else {}
    interrupts = verdict.action in ("restart", "recreate") and _container.state_of(verdict.inspect) == "running"
    if interrupts and spec.guard:
        await_permission(spec.name, spec.guard)
    entry = _noted(verdict) if keep else None
    held = _hold(spec.hold, interrupts)
    try:
        if verdict.unit:
            _release_from_systemd(verdict.unit)
        if verdict.action in ("create", "recreate"):
            _create(engine, spec, verdict.inspect, entry)
        elif verdict.live:
            engine.act(f"change {spec.name} in place", "update_container", spec.name, **_update_options(verdict))
        if verdict.action == "start":
            _unpause_or_start(engine, spec, verdict.inspect or {})
        elif verdict.action == "restart":
            if interrupts:
                _leave(spec)
            _remove_stamp(spec.name)
            engine.act(f"restart {spec.name}", "restart", spec.name, timeout=spec.stop_timeout)
        elif verdict.action == "reload":
            _reload(engine, spec)
        if verdict.action == "update":
            return
        _await(spec)
        if interrupts:
            _ask_first(spec.name)
        inspect = engine.inspect(spec.name)
    except EngineError as error:
        raise _failure(error, f"container {spec.name}") from error
    for name in held:
        start(name)
    if inspect and spec.config_dir:
        _stamp_container(spec, inspect, files, verdict.inspect if verdict.action == "recreate" else None)
    if entry:
        _settle(entry)


def _hold(names: Iterable[str], interrupts: bool) -> list[str]:
    """Stop those of the containers that run; return them, for starting them again.

    :param interrupts: if not, they may go on; what an attempt that was interrupted has stopped is to be started as well
    """
    if not names:
        return []
    running = [name for name in names if state(name) == "running"] if interrupts else []
    if running:
        _mark(HELD, [_required(name, "holding")["Id"] for name in running])
        stop_many(running)
    return [name for name in names if name in running or name in _standing(HELD)]


def await_permission(name: str, guard: str, timeout: float = GUARD_TIMEOUT) -> float:
    """Wait until nothing speaks against stopping a container.

    :param name: the container
    :param guard: execution function that returns what speaks against it, as sentences; none: it may be stopped
    :param timeout: seconds to wait
    :returns: seconds it took
    :raises CommandExecutionError: something still speaks against it; the container goes on as it is

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.await_permission rabbitmq kolla_rabbitmq.stop_obstacles timeout=10
    """
    if guard not in __salt__:
        raise CommandExecutionError(
            f"stopping container {name}: its guard {guard} is no execution function of this minion; "
            "install the same version of kolla-salt on master and minions"
        )
    began = time.monotonic()
    while obstacles := __salt__[guard]():
        if time.monotonic() - began > timeout:
            raise CommandExecutionError(
                f"stopping container {name}: after {timeout:g} s it still must not be stopped, and goes on running:\n  "
                + "\n  ".join(obstacles)
            )
        time.sleep(0.5)
    return round(time.monotonic() - began, 2)


def _leave(spec: _container.Spec) -> None:
    """Let the clients of a container go that is about to be stopped; it is stopped even if that goes wrong."""
    if not spec.leave:
        return
    try:
        __salt__[spec.leave]()
    except CommandExecutionError as error:
        log.warning("%s before container %s is stopped: %s", spec.leave, spec.name, error)


def _update_options(verdict: _Verdict) -> dict[str, Any]:
    body = _container.update_body(verdict.live, verdict.spec)
    options = {item.removeprefix("dimensions."): verdict.spec.settings[item] for item in verdict.live}
    if "RestartPolicy" in body:
        options["restart_policy"] = body["RestartPolicy"]
    return options


def _unpause_or_start(engine: Engine, spec: _container.Spec, inspect: dict[str, Any]) -> None:
    if inspect["State"].get("Paused"):
        engine.act(f"unpause {spec.name}", "unpause", spec.name)
        return
    _remove_stamp(spec.name)
    if inspect["State"].get("Restarting"):
        # It is between two attempts of the engine, or in one; this one shall count.
        engine.act(f"restart {spec.name}", "restart", spec.name, timeout=spec.stop_timeout)
    else:
        engine.act(f"start {spec.name}", "start", spec.name)


def _successor(name: str) -> str:
    """Return the name that a container has until the one it replaces has stopped."""
    return f"{name}.new"


def _create(
    engine: Engine, spec: _container.Spec, replaces: dict[str, Any] | None, entry: kept.Entry | None = None
) -> None:
    _ensure_image(engine, spec)
    _check_sources(spec)
    _ensure_volumes(engine, spec)
    # Created under another name first: what the engine refuses is known while the old one still serves.
    temporary = _successor(spec.name)
    if temporary in engine.containers():
        engine.act(f"remove {temporary}", "remove_container", temporary, force=True, v=True)
    first = temporary if replaces else spec.name
    created = engine.act(f"create {spec.name}", "create_container_from_config", _container.create_body(spec), first)
    if entry and entry.old:
        entry.new = created["Id"]
        kept.Store().write(entry)
    _remove_stamp(spec.name)
    if replaces:
        if _container.state_of(replaces) == "running":
            _leave(spec)
        engine.act(f"stop {spec.name}", "stop", spec.name, timeout=spec.stop_timeout)
        if entry and entry.old and entry.old["id"] == replaces["Id"]:
            _set_aside(engine, spec.name, kept.kept_name(spec.name, entry.run))
        else:
            engine.act(f"remove {spec.name}", "remove_container", spec.name, force=True, v=True)
        engine.act(f"rename {temporary}", "rename", temporary, spec.name)
    engine.act(f"start {spec.name}", "start", spec.name)


def _ensure_image(engine: Engine, spec: _container.Spec) -> None:
    if engine.image(spec.image) is None:
        if spec.pull == "never":
            raise CommandExecutionError(
                f"container {spec.name}: image {spec.image} is not on this host, and `pull: never` forbids to fetch it"
            )
        pull(spec.image)


def _check_sources(spec: _container.Spec) -> None:
    """Refuse bind mounts of host paths that do not exist: the engine would make empty directories of them."""
    for volume in spec.settings.get("volumes", []):
        source, target = volume.split(":")[:2]
        if source.startswith("/") and not os.path.lexists(source) and not source.startswith("/etc/kolla/"):
            raise CommandExecutionError(
                f"container {spec.name}: {source}, which it needs as {target}, does not exist on this host; declare it "
                "under host_directories of the service, or mount what brings it"
            )


def _ensure_volumes(engine: Engine, spec: _container.Spec) -> None:
    for volume in spec.settings.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("/"):
            continue
        try:
            engine.get(f"/volumes/{source}")
        except NotFound:
            engine.act(f"create volume {source}", "create_volume", source, labels={"kolla_managed": "true"})


def _reload(engine: Engine, spec: _container.Spec) -> None:
    copied = exec_(spec.name, ["kolla_set_configs"], user=ROOT, check=False)
    if copied["exit_status"]:
        raise CommandExecutionError(
            f"container {spec.name}: copying changed files into it failed with status {copied['exit_status']}: "
            f"{_tail(copied['output'], 5)}"
        )
    reload = spec.reload or {}
    if reload.get("signal"):
        signal = str(reload["signal"]).upper()
        engine.act(f"send {signal} to {spec.name}", "kill", spec.name, signal=signal.removeprefix("SIG"))
    else:
        exec_(spec.name, [str(item) for item in reload["exec"]])


def _release_from_systemd(unit: Path) -> None:
    """Hand restarts over from a unit to the engine; the container itself keeps running."""
    systemd = Path("/run/systemd/system").is_dir()
    if systemd:
        subprocess.run(["systemctl", "disable", unit.name], check=False, capture_output=True)
    unit.unlink(missing_ok=True)
    if systemd:
        subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)


# ------------------------------------------------------------------------------------ what a run keeps, and taking back


def _run_id() -> str | None:
    """Return the id of the run that this job is a part of, if there is one."""
    return (runtime.pillar(__pillar__, "kolla_step") or {}).get("run")


def _noted(verdict: _Verdict) -> kept.Entry | None:
    """Note what the run is about to do to a container and what is there now; None: nothing to be taken back.

    What an earlier run began and did not end is gone on with: what counts as before is then what was there before it.
    """
    run, spec, inspect = _run_id(), verdict.spec, verdict.inspect
    if not run:
        return None
    store = kept.Store()
    try:
        entry = store.entry(run, spec.name) or _left_unfinished(store, run, spec.name, inspect)
        _keep_what_it_runs_with(store, run, spec, inspect)
        replaces = verdict.action in kept.REPLACING
        if entry is None or (replaces and not entry.replaces):
            if not replaces and not verdict.live:
                return None
            old = _before(inspect, () if replaces else verdict.live) if inspect else None
            entry = kept.Entry(run, spec.name, str(verdict.action) if replaces else "update", old=old)
            entry.component = Path(spec.config_dir).name if spec.config_dir else None
        entry.phase = kept.BEGUN if entry.replaces else kept.DONE
        return store.write(entry)
    except OSError as error:
        raise CommandExecutionError(
            f"container {spec.name}: writing down what is there before it is changed: {error.strerror} "
            f"({error.filename}); it was left as it is"
        ) from error


def _before(inspect: dict[str, Any], live: Iterable[str] = ()) -> dict[str, Any]:
    policy, name = inspect["HostConfig"].get("RestartPolicy") or {}, inspect["Name"].lstrip("/")
    stamp = _read_stamp(name)
    return {
        "id": inspect["Id"],
        "image": inspect["Config"]["Image"],
        "image_id": inspect["Image"],
        "running": _container.state_of(inspect) == "running" or name in _standing(HELD),
        "restart_policy": {key: value for key, value in policy.items() if value not in (None, "")},
        "stamp": stamp if stamp.get("container_id") == inspect["Id"] else {},
        "settings": {item: _container.FIELDS[item].current(inspect, {}) for item in live},
    }


def _left_unfinished(store: kept.Store, run: str, name: str, inspect: dict[str, Any] | None) -> kept.Entry | None:
    """Take over what the last run, or a rollback, that was at this container has not ended."""
    entry = next(store.of_container(name), None)
    if entry is None or entry.phase == kept.DONE or _came_through(entry, inspect):
        return None
    mine = store.taken_over(entry, run)
    folder = store.folder(entry.run, entry.component) if entry.component else None
    if folder:
        # What this run found is what the other one made. The old container ran with what that one found.
        if later := store.folder(run, folder.component):
            store.drop_folder(later)
        store.move_folder(folder, run)
    return mine


def _came_through(entry: kept.Entry, inspect: dict[str, Any] | None) -> bool:
    """Return whether a run that did not say so has ended what it began, or somebody else has made it meaningless."""
    if entry.action == "absent" or inspect is None:
        return entry.action == "absent" and inspect is None
    if inspect["Id"] == (entry.old or {}).get("id"):
        return False
    if entry.new and inspect["Id"] != entry.new:
        return True
    stamp = _read_stamp(entry.name)
    return stamp.get("container_id") == inspect["Id"] and stamp.get("started_at") == inspect["State"]["StartedAt"]


def _keep_what_it_runs_with(store: kept.Store, run: str, spec: _container.Spec, inspect: dict[str, Any] | None) -> None:
    """Have the files with which a container runs among what this run keeps.

    A run that was interrupted may have written other ones, which take effect only now.
    """
    if not spec.config_dir or not inspect:
        return
    component, stamp = Path(spec.config_dir).name, _read_stamp(spec.name)
    if stamp.get("container_id") != inspect["Id"] or store.folder(run, component):
        return
    if _container.digest(spec.config_dir) == stamp.get("files"):
        return
    for folder in store.folders_of(component):
        if folder.existed and _container.digest(folder.files) == stamp.get("files"):
            store.move_folder(folder, run)
            return


def _set_aside(engine: Engine, name: str, aside: str) -> None:
    """Give a stopped container another name, under which neither a restart of the engine nor anybody else starts it."""
    _set_policy(engine, name, {"Name": "no"})
    engine.act(f"rename {name}", "rename", name, aside)


def _set_policy(engine: Engine, name: str, policy: dict[str, Any]) -> None:
    # podman starts again only what was not stopped by somebody.
    if policy and not _is_podman():
        engine.act(f"change the restart policy of {name}", "update_container", name, restart_policy=policy)


def _settle(entry: kept.Entry) -> None:
    """Note that the container is what it was to become; what is older than its predecessor may go."""
    if entry.phase == kept.DONE:
        return
    store, engine = kept.Store(), _engine()
    entry.phase = kept.DONE
    store.write(entry)
    for older in list(store.of_container(entry.name)):
        if older.run != entry.run and older.replaces and not kept.until_finished(older.run):
            _drop(engine, store, older)
    if entry.old:
        _remove_if_there(engine, kept.undone_name(entry.name))


def _drop(engine: Engine, store: kept.Store, entry: kept.Entry) -> str | None:
    """Give up what an entry keeps; return the id of its image."""
    old = entry.old or {}
    found = next((name for name, item in engine.containers().items() if old and item["Id"] == old["id"]), None)
    if found and kept.is_kept(found):
        _remove_if_there(engine, found)
    store.forget(entry)
    return old.get("image_id")


def _remove_if_there(engine: Engine, name: str) -> None:
    if name in engine.containers():
        try:
            engine.act(f"remove {name}", "remove_container", name, force=True, v=True)
        except NotFound:
            return


def _in_the_manner(
    name: str, stamp: dict[str, Any], image: str, component: str | None, declared: dict[str, Any] | None
) -> _container.Spec:
    """Return how an existing container is waited for, reloaded and stopped: as when it was started, else as declared.

    :param declared: its specification today
    """
    known = declared or {}
    manner = stamp.get("manner") or {key: known[key] for key in _container.MANNER if known.get(key) is not None}
    folder = stamp.get("config_dir") or known.get("config_dir") or (f"/etc/kolla/{component}" if component else None)
    return _spec(name, {**manner, "image": image, "config_dir": folder})


def take_back_diff(name: str, run: str) -> _container.Changes:
    """Return what taking back a run would do to a container: ``{}`` if it is what it was before.

    :param name: the container
    :param run: id of the run
    :raises CommandExecutionError: the engine does not answer, or what was there before is gone

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.take_back_diff glance_api 20260714-101500-deploy
    """
    entry = kept.Store().entry(run, name)
    if entry is None:
        return {}
    engine, old = _engine(), entry.old
    try:
        present = engine.container(name)
        was = engine.inspect(old["id"]) if old else None
    except EngineError as error:
        raise _failure(error, f"comparing container {name} with what was there before {run}") from error
    if old and was is None:
        raise CommandExecutionError(
            f"container {name}: the one that was there before {run} ({old['id'][:12]} of {old['image']}) is gone; "
            "somebody has removed it. Set the site back to that image and give `kolla-salt deploy`"
        )
    state = _container.state_of(present) if present else "absent"
    if old and not entry.replaces:
        return {"state": {"old": state, "new": "updated"}, "settings": {"old": None, "new": sorted(old["settings"])}}
    if old and present and present["Id"] == old["id"]:
        # The run came no further than to stop it, or not even that; or an earlier rollback has started it in vain.
        if not old["running"] or state == "running" and entry.phase != kept.RETURNING:
            done = "updated"
        else:
            done = "restarted" if present["State"].get("Restarting") or state == "running" else "started"
        return {"state": {"old": state, "new": done}}
    done = ("recreated" if present else "created") if old else "removed"
    changes: _container.Changes = {"state": {"old": state, "new": done}}
    changes["image"] = {
        "old": _image_name(present["Config"]["Image"], {"Id": present["Image"]}) if present else None,
        "new": _image_name(old["image"], {"Id": old["image_id"]}) if old else None,
    }
    return changes


def take_back(name: str, run: str, declared: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have the container that was there before a run, with the configuration folder that it ran with.

    The present one is stopped and waits under the name ``<name>.undone`` until the other one answers; then it is
    removed. The same call goes on after an interruption.

    :param name: the container
    :param run: id of the run
    :param declared: its specification today, for what is not known of how the old one was started
    :returns: ``action`` (``recreated``, ``created``, ``removed``, ``started``, ``restarted``, ``updated`` or ``None``),
        ``comment``, ``seconds``
    :raises CommandExecutionError: what was there before is gone, must not be stopped, or does not come up

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.take_back glance_api 20260714-101500-deploy
    """
    store, began = kept.Store(), time.monotonic()
    entry = store.entry(run, name)
    changes = take_back_diff(name, run)  # refuses if what was there before is gone
    if entry is None:
        return {"action": None, "comment": f"{name} is what it was before {run}", "seconds": 0.0}
    try:
        if entry.replaces:
            _take_back(_engine(), store, entry, declared)
        else:
            _change_back(_engine(), entry)
            store.forget(entry)
    except EngineError as error:
        raise _failure(error, f"taking back {run} for container {name}") from error
    except OSError as error:
        raise CommandExecutionError(
            f"taking back {run} for container {name}: {error.strerror} ({error.filename}); give the same command again"
        ) from error
    action, seconds = changes["state"]["new"], round(time.monotonic() - began, 2)
    comment = f"{name} is what it was before {run}: {action} in {seconds:.1f} s"
    return {"action": action, "comment": comment, "seconds": seconds}


def _change_back(engine: Engine, entry: kept.Entry) -> None:
    old = entry.old or {}
    settings = {item: value for item, value in old["settings"].items() if value is not None}
    options = {item.removeprefix("dimensions."): value for item, value in settings.items()}
    if "restart_policy" in options:
        options["restart_policy"] = old["restart_policy"]
    if options and entry.name in engine.containers():
        engine.act(f"change {entry.name} in place", "update_container", entry.name, **options)


def _take_back(engine: Engine, store: kept.Store, entry: kept.Entry, declared: dict[str, Any] | None) -> None:
    name, old = entry.name, entry.old
    again = entry.phase == kept.RETURNING
    entry.phase = kept.RETURNING
    store.write(entry)
    present = engine.inspect(name)
    replaced = present is not None and not (old and present["Id"] == old["id"])
    image = present["Config"]["Image"] if present else old["image"] if old else ""
    stamp = _read_stamp(name) or (old["stamp"] if old else {})  # there is none while a start is not ended
    spec = _in_the_manner(name, stamp, image, entry.component, declared) if image else None
    interrupts = replaced and _container.state_of(present) == "running"
    if spec and spec.guard and interrupts:
        await_permission(name, spec.guard)
    held = _hold(spec.hold, interrupts) if spec else []
    if replaced:
        if spec and interrupts:
            _leave(spec)
        stop(name)
        _remove_stamp(name)
        if old:
            _remove_if_there(engine, kept.undone_name(name))
            _set_aside(engine, name, kept.undone_name(name))
        else:
            _remove_if_there(engine, name)
    folder = store.folder(entry.run, entry.component) if entry.component else None
    if folder:
        kept.restore(folder)
    if old:
        _start_again(engine, entry, old, declared, anew=again and not replaced)
    for other in held:
        start(other)
    for left in (kept.undone_name(name), _successor(name)):
        _remove_if_there(engine, left)
    store.forget(entry)


def _start_again(
    engine: Engine, entry: kept.Entry, old: dict[str, Any], declared: dict[str, Any] | None, anew: bool
) -> None:
    """Start the container that was there before under its name, and wait until it answers.

    :param anew: an earlier attempt has started it in vain, and what it needs may be there by now
    """
    name = entry.name
    if (engine.inspect(old["id"]) or {"Name": name})["Name"].lstrip("/") != name:
        engine.act(f"rename {name}", "rename", old["id"], name)
    _set_policy(engine, name, old["restart_policy"])
    if not old["running"]:
        return
    spec = _in_the_manner(name, old["stamp"], old["image"], entry.component, declared)
    files = _container.digest(spec.config_dir) if spec.config_dir else {}
    found = engine.inspect(name)
    if found and _container.state_of(found) != "running":
        _unpause_or_start(engine, spec, found)
    elif anew:
        engine.act(f"restart {name}", "restart", name, timeout=spec.stop_timeout)
    _await(spec)
    _ask_first(name)
    inspect = engine.inspect(name)
    if inspect and spec.config_dir:
        _stamp_container(spec, inspect, files)


def reread_diff(name: str, declared: dict[str, Any] | None = None, instead: str | None = None) -> _container.Changes:
    """Return whether a running container has read other files than those that are in its configuration folder.

    :param name: the container
    :param declared: its specification today, for what is not known of how it was started
    :param instead: the folder with which its configuration folder is about to be replaced
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.reread_diff glance_api
    """
    verdict, files = _to_reread(name, declared, instead)
    if verdict is None:
        return {}
    return {"state": {"old": "running", "new": DONE[str(verdict.action)]}, "config": {"old": None, "new": files}}


def reread(name: str, declared: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have a container read the files in its configuration folder, by a reload if that is enough, else by a restart.

    :param name: the container
    :param declared: its specification today, for what is not known of how it was started
    :returns: ``action`` (``reload``, ``restart`` or ``None``), ``comment``, ``seconds``
    :raises CommandExecutionError: it must not be stopped, or does not come up

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.reread glance_api
    """
    began = time.monotonic()
    verdict, files = _to_reread(name, declared)
    if verdict is None:
        return {"action": None, "comment": f"{name} runs with the files in its folder", "seconds": 0.0}
    _perform(verdict, keep=False)
    seconds = round(time.monotonic() - began, 2)
    comment = f"{name} {DONE[str(verdict.action)]} in {seconds:.1f} s because of: {', '.join(files)}"
    return {"action": verdict.action, "comment": comment, "seconds": seconds}


def _to_reread(
    name: str, declared: dict[str, Any] | None, instead: str | None = None
) -> tuple[_Verdict | None, list[str]]:
    try:
        inspect = _engine().container(name)
        if inspect is None:
            return None, []
        stamp = _read_stamp(name)
        spec = _in_the_manner(name, stamp, inspect["Config"]["Image"], None, declared)
        verdict, expected = _Verdict(spec, inspect), set()
        if instead and stamp.get("container_id") == inspect["Id"]:
            # Compared with what it was started with: it may run with these files still.
            changed = _container.changed_files(stamp.get("files", {}), _container.digest(instead))
            verdict.action, files = _container.action_for_files(spec, changed), sorted(changed)
        else:
            if instead and spec.config_dir:
                now = _container.digest(spec.config_dir)
                expected = set(_container.changed_files(now, _container.digest(instead)))
            verdict.action, files = _action_for_config(spec, inspect, expected)
    except EngineError as error:
        raise _failure(error, f"comparing container {name} with its files") from error
    if verdict.action not in ("reload", "restart"):
        return None, []
    return verdict, files or ["(other than what it runs with)"]


def drop(run: str, names: list[str] | None = None) -> dict[str, Any]:
    """Give up the containers that a run replaced: they can not be returned afterwards.

    :param run: id of the run
    :param names: only of these containers; default: all
    :returns: ``containers`` (names), ``images`` (ids of what they were made of)
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.drop 20260714-101500-upgrade
    """
    store, images, dropped = kept.Store(), set(), []
    try:
        for name, entry in store.entries(run).items():
            if names is None or name in names:
                images.add(_drop(_engine(), store, entry))
                dropped.append(name)
    except EngineError as error:
        raise _failure(error, f"removing what {run} replaced") from error
    return {"containers": dropped, "images": sorted(image for image in images if image)}


def remove_unused_images(images: list[str]) -> list[str]:
    """Remove those images that no container of this host was made of.

    :param images: ids
    :returns: names of the images that were removed
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.remove_unused_images '["sha256:0123456789ab"]'
    """
    engine, removed = _engine(), []
    try:
        used = {item["ImageID"] for item in engine.containers().values()}
        for image in images:
            found = engine.image(image) if image not in used else None
            if found is None:
                continue
            names = found.get("RepoTags") or [image]
            for name in names:
                # By name: without `force` an image that has become part of another one stays.
                engine.act(f"remove image {name}", "remove_image", name)
            removed += names
    except EngineError as error:
        raise _failure(error, "removing images that nothing uses") from error
    return removed


# ------------------------------------------------------------------------------------------------------------- waiting


def _await(spec: _container.Spec) -> None:
    if spec.ready:
        wait_ready(spec.name, spec.ready, log_dir=spec.log_dir)


def _ask_first(name: str) -> None:
    """Send an API that users had before and will have again its first requests; see :mod:`kolla_salt.first`."""
    if "kolla" not in __pillar__:
        return
    try:
        apis = _first.apis(runtime.resolver(__opts__, __pillar__, __context__), name)
    except (ContextError, CommandExecutionError) as error:
        # A host without a whole site, so without a load balancer.
        log.info("%s gets no first requests: %s", name, error)
        return
    for api in apis:
        log.info("%s: seconds of its first requests: %s", name, _first.ask(api))


def wait_ready(name: str, ready: dict[str, Any], timeout: float | None = None, log_dir: str | None = None) -> float:
    """Wait until a container's service answers.

    :param name: the container
    :param ready: ``{http: URL, status: [200, 300]}`` (default: any 2xx or 3xx), ``{tcp: "address:port"}`` or
        ``{exec: [command, ...]}`` (inside the container), with an optional ``timeout``
    :param timeout: seconds; default: that of `ready`, else 120
    :param log_dir: the service's folder below ``/var/log/kolla``, for the error message
    :returns: seconds it took
    :raises SaltInvocationError: `ready` is wrong
    :raises CommandExecutionError: it did not answer in time, ended, or ends and restarts again and again; the message
        has its last lines

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.wait_ready keystone '{http: "http://10.0.0.11:5000/v3"}'
    """
    try:
        _container.check_ready(ready)
    except _container.SpecError as error:
        raise SaltInvocationError(f"container {name}: {error}") from error

    def execute(command: list[str]) -> tuple[int, str]:
        result = exec_(name, command, check=False, timeout=limit)
        return result["exit_status"], result["output"]

    limit = float(timeout or ready.get("timeout") or READY_TIMEOUT)
    return _wait(name, limit, log_dir, lambda inspect: _ready.probe(ready, execute))


def wait_healthy(name: str, timeout: float = READY_TIMEOUT) -> float:
    """Wait until the engine's health check of a container succeeds; one without a check has to run.

    :param name: the container
    :param timeout: seconds
    :returns: seconds it took
    :raises CommandExecutionError: as :py:func:`wait_ready`

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.wait_healthy mariadb timeout=60
    """

    def check(inspect: dict[str, Any]) -> str | None:
        health = (inspect["State"].get("Health") or {}).get("Status")
        if health in (None, "", "none", "healthy"):
            return None
        log = (inspect["State"]["Health"].get("Log") or [{}])[-1]
        said = str(log.get("Output") or "").strip()[:300]
        return f"its health is {health!r}, expected 'healthy'" + (f" (the check said: {said})" if said else "")

    return _wait(name, timeout, None, check)


def _wait(name: str, timeout: float, log_dir: str | None, check: Callable[[dict[str, Any]], str | None]) -> float:
    engine = _engine()
    began = time.monotonic()
    first = None
    seen_running = began
    for pause in _ready.pauses():
        try:
            inspect = engine.inspect(name)
        except EngineError as error:
            raise _failure(error, f"waiting for container {name}") from error
        if inspect is None:
            raise CommandExecutionError(f"waiting for container {name}: there is no such container on this host")
        first = first or inspect
        if inspect["State"].get("Running"):
            seen_running = time.monotonic()
        ended = _has_ended(first, inspect, time.monotonic() - seen_running)
        reason = None
        if not ended:
            try:
                running = _container.state_of(inspect) == "running"
                reason = check(inspect) if running else "it is between two attempts to start"
            except CommandExecutionError as error:
                reason = str(error)  # an exec into a container that is just ending
            if reason is None:
                return round(time.monotonic() - began, 2)
        waited = time.monotonic() - began
        if ended or waited >= timeout:
            what = ended or f"is not ready after {waited:.0f} s: {reason}"
            trouble = _trouble(engine, name, what, inspect, log_dir)
            raise CommandExecutionError(_container.scrub(trouble, _secret_values()))
        time.sleep(min(pause, max(timeout - waited, 0.01)))
    raise AssertionError("unreachable: pauses() does not end")


def _has_ended(first: dict[str, Any], inspect: dict[str, Any], idle: float) -> str | None:
    state = inspect["State"]
    if inspect["Id"] != first["Id"]:
        return "was replaced by another container meanwhile"
    policy = (inspect["HostConfig"].get("RestartPolicy") or {}).get("Name")
    comes_again = policy in ("always", "unless-stopped", "on-failure") and not state.get("Error")
    if not state.get("Running") and not state.get("Restarting") and not (comes_again and idle < RESTART_PAUSE):
        cause = f" ({state['Error']})" if state.get("Error") else ""
        return f"has ended with exit code {state.get('ExitCode')}{cause}"
    restarts = inspect.get("RestartCount", 0) - first.get("RestartCount", 0)
    if restarts >= RESTARTS_ALLOWED:
        return f"ends right after each start: the engine has restarted it {restarts} times by now"
    return None


def _trouble(engine: Engine, name: str, what: str, inspect: dict[str, Any], log_dir: str | None) -> str:
    lines = [f"container {name} {what}"]
    output = _tail(logs(name, LOG_LINES), LOG_LINES)
    lines.append(f"Last lines of its output:\n{output}" if output else "It printed nothing.")
    log = _service_log(name, inspect, log_dir)
    if log:
        lines.append(f"Last lines of {log[0]}:\n{log[1]}")
    lines.append(f"Look further: `{_globals().get('container_engine') or 'docker'} logs {name}`, /var/log/kolla/")
    return "\n".join(lines)


def _service_log(name: str, inspect: dict[str, Any], log_dir: str | None) -> tuple[str, str] | None:
    """The newest log file that a service wrote for itself: few of them write to their standard output."""
    root = next((m["Source"] for m in inspect.get("Mounts") or [] if m.get("Destination") == "/var/log/kolla"), None)
    if root is None:
        return None
    pattern = f"{Path(log_dir).name}/*.log" if log_dir else f"*/{name.replace('_', '-')}*.log"
    found = [(path.stat().st_mtime, path) for path in Path(root).glob(pattern) if path.is_file()]
    if not found:
        return None
    newest = max(found)[1]
    with newest.open("rb") as file:
        file.seek(max(newest.stat().st_size - 16384, 0))
        text = file.read().decode(errors="replace")
    return f"/var/log/kolla/{newest.relative_to(root)}", _tail(text, LOG_LINES)


def _tail(text: str, count: int) -> str:
    return "\n".join(f"  {line[:500]}" for line in text.splitlines()[-count:] if line.strip())


# -------------------------------------------------------------------------------------------------------------- images


def pull(image: str) -> dict[str, Any]:
    """Fetch an image from its registry.

    :param image: full reference
    :returns: ``image``, ``old`` and ``new`` (image ids, ``old`` is ``None`` if there was none), ``changed``
    :raises CommandExecutionError: names image, registry and cause

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.pull quay.io/openstack.kolla/cron:2026.1-debian-trixie
    """
    engine = _engine()
    registry = _registry_of(image)
    name, separator, tag = image.rpartition(":")
    if not separator or "/" in tag:
        name, tag = image, "latest"
    if "@" in image:
        name, tag = image, None
    try:
        before = engine.image(image)
        # A client of its own, so that several threads can pull.
        answer = _call(
            engine.new_sdk(), f"pull {image}", "pull", name, tag=tag, stream=True, decode=True,
            auth_config=_registry_auth(registry),
        )  # fmt: skip
        trouble = [line["error"] for line in answer if line.get("error")]
        engine.forget()
        after = engine.image(image)
    except EngineError as error:
        trouble, after = [str(error)], None
    if trouble or after is None:
        cause = trouble[0] if trouble else "the engine reported success, but the image is not there"
        raise CommandExecutionError(
            _container.scrub(
                f"pulling image {image} from {registry}: {cause}. Options docker_registry, docker_namespace and "
                "openstack_tag make the name; option docker_registry_username and password docker_registry_password "
                "log in",
                _secret_values(),
            )
        )
    old = before["Id"] if before else None
    return {"image": image, "old": old, "new": after["Id"], "changed": old != after["Id"]}


def _registry_of(image: str) -> str:
    first = image.split("/")[0]
    return first if "/" in image and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _registry_auth(registry: str) -> dict[str, str] | None:
    options = _globals()
    user = options.get("docker_registry_username")
    if not user or (options.get("docker_registry") or registry).split("/")[0] != registry:
        return None
    return {"username": str(user), "password": _secret("docker_registry_password")}


def image_id(image: str) -> str | None:
    """Return the id of a local image, or ``None`` if it is not on this host.

    :param image: full reference

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.image_id quay.io/openstack.kolla/cron:2026.1-debian-trixie
    """
    try:
        found = _engine().image(image)
    except EngineError as error:
        raise _failure(error, f"looking for image {image}") from error
    return found["Id"] if found else None


def images_missing(images: list[str]) -> list[str]:
    """Return those images that are not on this host.

    :param images: full references

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.images_missing '["quay.io/openstack.kolla/cron:2026.1-debian-trixie"]'
    """
    return [image for image in dict.fromkeys(images) if image_id(image) is None]


# ------------------------------------------------------------------------------------------------------ single actions


def _required(name: str, what: str) -> dict[str, Any]:
    try:
        inspect = _engine().inspect(name)
    except EngineError as error:
        raise _failure(error, f"{what} container {name}") from error
    if inspect is None:
        raise CommandExecutionError(
            f"{what} container {name}: there is none on this host; `kolla_container.list` shows what there is"
        )
    return inspect


def create(name: str, **spec: Any) -> str:
    """Create a container without starting it.

    :param name: the container
    :param spec: its specification
    :returns: its id
    :raises CommandExecutionError: it exists already, or the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.create cron image=quay.io/openstack.kolla/cron:2026.1-debian-trixie
    """
    wanted = _spec(name, spec)
    engine = _engine()
    try:
        if name in engine.containers():
            raise CommandExecutionError(f"creating container {name}: it exists already; use kolla_container.deploy")
        _ensure_image(engine, wanted)
        _check_sources(wanted)
        _ensure_volumes(engine, wanted)
        body = _container.create_body(wanted)
        return engine.act(f"create {name}", "create_container_from_config", body, name)["Id"]
    except EngineError as error:
        raise _failure(error, f"creating container {name}") from error


def start(name: str) -> bool:
    """Start a container.

    :param name: the container
    :returns: whether it was not running before
    :raises CommandExecutionError: there is none, or the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.start glance_api
    """
    inspect = _required(name, "starting")
    if _container.state_of(inspect) == "running":
        return False
    files = _recorded_files(name)
    try:
        _engine().act(f"start {name}", "unpause" if inspect["State"].get("Paused") else "start", name)
    except EngineError as error:
        raise _failure(error, f"starting container {name}") from error
    _record_again(name, files)
    return True


def stop(name: str, timeout: int | None = None) -> bool:
    """Stop a container gracefully.

    :param name: the container
    :param timeout: seconds until it is killed; default: its own, else option docker_graceful_timeout
    :returns: whether it was running; ``False`` also if there is none
    :raises CommandExecutionError: the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.stop glance_api
    """
    failed, stopped = _stop([name], timeout)
    if failed:
        raise CommandExecutionError(f"stopping container {name}: {failed[name]}")
    return bool(stopped)


def stop_many(names: list[str] | None = None, timeout: int | None = None) -> dict[str, Any]:
    """Stop several containers at the same time.

    :param names: the containers; default: all Kolla containers of this host
    :param timeout: as in :py:func:`stop`
    :returns: ``stopped`` (names), ``seconds``
    :raises CommandExecutionError: some could not be stopped; names them

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.stop_many
    """
    began = time.monotonic()
    wanted = names if names is not None else [item["name"] for item in list_()]
    failed, stopped = _stop(wanted, timeout)
    if failed:
        details = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise CommandExecutionError(f"stopping {len(failed)} of {len(wanted)} containers failed: {details}")
    return {"stopped": stopped, "seconds": round(time.monotonic() - began, 2)}


def _stop(names: list[str], timeout: int | None) -> tuple[dict[str, str], list[str]]:
    engine = _engine()
    default = int(_globals().get("docker_graceful_timeout") or _container.DEFAULTS["stop_timeout"])
    engine.forget()  # a parallel state may have made one of them
    try:
        present = engine.containers()
        running = []
        for name in dict.fromkeys(names):
            if present.get(name, {}).get("State") in ("running", "restarting", "paused"):
                own = (engine.inspect(name) or {}).get("Config", {}).get("StopTimeout")
                running.append((name, timeout if timeout is not None else own or default))
        if not running:
            return {}, []
        for name, _ in running:
            unit = _foreign_unit(name)
            if unit:
                _release_from_systemd(unit)
        engine.sdk  # noqa: B018 - imported here, since that is not safe in several threads at once
    except EngineError as error:
        raise _failure(error, f"stopping {', '.join(names)}") from error

    def one(item: tuple[str, int]) -> tuple[str, str | None]:
        name, seconds = item
        try:
            client = engine.new_sdk(engine.timeout + seconds)
            if present[name]["State"] == "paused":
                _call(client, f"unpause {name}", "unpause", name)
            _call(client, f"stop {name}", "stop", name, timeout=seconds)
        except NotFound:
            return name, None
        except EngineError as error:
            return name, str(error)
        return name, None

    _mark(STOPPED, [present[name]["Id"] for name, _ in running])
    with ThreadPoolExecutor(min(STOP_THREADS, len(running))) as pool:
        results = list(pool.map(one, running))
    engine.forget()
    return {name: error for name, error in results if error}, [name for name, error in results if not error]


def changed_files(name: str, **spec: Any) -> list[str] | None:
    """Return which files of a container's configuration directory are other than at its last deployment.

    :param name: the container
    :param spec: its specification
    :returns: names; ``None`` if no deployment of the present container has been recorded

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.changed_files glance_api config_dir=/etc/kolla/glance-api image=glance-api:1
    """
    wanted, inspect, stamp = _spec(name, spec), _required(name, "comparing"), _read_stamp(name)
    if stamp.get("container_id") != inspect["Id"]:
        return None
    if not wanted.config_dir:
        return []
    before = {file: value for file, value in stamp.get("files", {}).items() if file not in wanted.ignore_files}
    return sorted(_container.changed_files(before, _container.digest(wanted.config_dir, wanted.ignore_files)))


def _mark(directory: Path, ids: list[str]) -> None:
    """Remember why these containers are stopped.

    It holds as long as the same container has not been started since, so nothing has to be cleared when it is.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for identity in ids:
        (directory / identity).touch()


def _standing(directory: Path) -> dict[str, str]:
    """Return the containers that were marked and stand still since: name -> when (UTC)."""
    marks = {path.name: path for path in directory.iterdir()} if directory.is_dir() else {}
    if not marks:
        return {}
    found = {}
    engine = _engine()
    try:
        still = {item["Id"]: name for name, item in engine.containers().items() if item["State"] not in _RUNS}
        for identity, path in marks.items():
            inspect = engine.inspect(identity) if identity in still else None
            when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
            if inspect and inspect["State"]["StartedAt"][:19] <= when:
                found[still[identity]] = when
            else:
                path.unlink(missing_ok=True)  # it was started, or replaced
    except EngineError as error:
        raise _failure(error, "looking for containers that were stopped on purpose") from error
    return found


def stopped_on_purpose() -> dict[str, str]:
    """Return the containers that were stopped through kolla-salt and stand still since: name -> when (UTC).

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.stopped_on_purpose
    """
    held = _standing(HELD)
    return {name: when for name, when in _standing(STOPPED).items() if name not in held}


def restart(name: str, timeout: int | None = None) -> bool:
    """Restart a container, whatever its state.

    :param name: the container
    :param timeout: as in :py:func:`stop`
    :returns: ``True``
    :raises CommandExecutionError: there is none, or the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.restart glance_api
    """
    inspect = _required(name, "restarting")
    files = _recorded_files(name)
    default = int(_globals().get("docker_graceful_timeout") or _container.DEFAULTS["stop_timeout"])
    limit = timeout if timeout is not None else inspect["Config"].get("StopTimeout") or default
    try:
        _engine().act(f"restart {name}", "restart", name, timeout=limit)
    except EngineError as error:
        raise _failure(error, f"restarting container {name}") from error
    _record_again(name, files)
    return True


def _recorded_files(name: str) -> dict[str, str] | None:
    directory = _read_stamp(name).get("config_dir")
    return _container.digest(directory) if directory else None


def _record_again(name: str, files: dict[str, str] | None) -> None:
    """Record what a container was started with by a verb that does not know its specification."""
    stamp, inspect = _read_stamp(name), _engine().inspect(name)
    if files is None or not inspect or stamp.get("container_id") != inspect["Id"]:
        return
    stamp.pop("from_image", None)
    _write_stamp(name, {**stamp, "started_at": inspect["State"]["StartedAt"], "files": files})


def reload(name: str, **spec: Any) -> bool:
    """Copy changed configuration files into a running container and have its program read them.

    :param name: the container
    :param spec: its specification; it needs ``reload``
    :returns: ``True``
    :raises SaltInvocationError: the specification has no ``reload``
    :raises CommandExecutionError: there is no such container, or a step failed

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.reload haproxy image=... config_dir=/etc/kolla/haproxy reload='{signal: USR2}'
    """
    wanted = _spec(name, spec)
    if not wanted.reload:
        raise SaltInvocationError(f"reloading container {name}: its declaration has no `reload`; restart it instead")
    inspect = _required(name, "reloading")
    verdict = _Verdict(wanted, inspect)
    verdict.action = "reload"
    _perform(verdict)
    return True


def recreate(name: str, **spec: Any) -> dict[str, Any]:
    """Replace a container by a new one of the same specification, even if nothing differs.

    :param name: the container
    :param spec: its specification
    :returns: as :py:func:`deploy`
    :raises CommandExecutionError: as :py:func:`deploy`

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.recreate cron image=quay.io/openstack.kolla/cron:2026.1-debian-trixie
    """
    verdict = _judge(name, spec)
    verdict.action = "create" if verdict.inspect is None else "recreate"
    began = time.monotonic()
    _perform(verdict)
    old = _container.state_of(verdict.inspect) if verdict.inspect else "absent"
    changes = {**verdict.changes, "state": {"old": old, "new": DONE[verdict.action]}}
    seconds = round(time.monotonic() - began, 2)
    comment = f"{name} {DONE[verdict.action]} in {seconds} s, as asked"
    return {"action": verdict.action, "changes": changes, "comment": comment, "seconds": seconds}


def renewal(name: str, **spec: Any) -> _container.Changes:
    """Return whether a container has to start once more, since its last start replaced one of another image.

    Programs that agree on a version with those they find when they start find the new one everywhere only then.

    :param name: the container
    :param spec: its specification
    :returns: ``{}``, or ``state`` with what is to be done: ``reloaded`` or ``restarted``
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.renewal nova_conductor image=quay.io/openstack.kolla/nova-conductor:2026.1
    """
    wanted = _spec(name, spec)
    try:
        inspect, image = _engine().container(name), _engine().image(wanted.image)
    except EngineError as error:
        raise _failure(error, f"looking at container {name}") from error
    if inspect is None:
        return {}
    stamp = _read_stamp(name)
    replaced = stamp.get("container_id") == inspect["Id"] and stamp.get("from_image")
    if image is not None and image["Id"] == inspect["Image"] and not replaced:
        return {}
    return {"state": {"old": _container.state_of(inspect), "new": DONE["reload" if wanted.reload else "restart"]}}


def renew(name: str, **spec: Any) -> str:
    """Have the program of a container start once more, by its `reload` if it has one; waits until it answers.

    :param name: the container
    :param spec: its specification
    :returns: what was done
    :raises CommandExecutionError: as :py:func:`deploy`

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.renew nova_conductor image=quay.io/openstack.kolla/nova-conductor:2026.1
    """
    wanted = _spec(name, spec)
    verdict = _Verdict(wanted, _required(name, "renewing"))
    verdict.action = "reload" if wanted.reload else "restart"
    began = time.monotonic()
    _perform(verdict)
    return f"{name} {DONE[verdict.action]} in {time.monotonic() - began:.1f} s: now all hosts run the new release"


def remove(name: str, force: bool = False) -> bool:
    """Remove a container; named volumes stay.

    :param name: the container
    :param force: also if it runs (it is killed)
    :returns: whether there was one
    :raises CommandExecutionError: it runs and `force` is not set, or the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.remove glance_api force=True
    """
    engine = _engine()
    try:
        if name not in engine.containers():
            _remove_stamp(name)
            return False
        engine.act(f"remove {name}", "remove_container", name, force=force, v=True)
    except NotFound:
        return False
    except EngineError as error:
        raise _failure(error, f"removing container {name}") from error
    _remove_stamp(name)
    return True


def absent(name: str, timeout: int | None = None) -> bool:
    """Stop a container gracefully and remove it; named volumes stay.

    :param name: the container
    :param timeout: as in :py:func:`stop`
    :returns: whether there was one
    :raises CommandExecutionError: the engine refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.absent glance_api
    """
    run, engine = _run_id(), _engine()
    try:
        inspect = engine.container(name) if run else None
        entry = _noted_removal(str(run), inspect) if inspect else None
        stop(name, timeout)
        if entry is None or (entry.old or {}).get("id") != (inspect or {})["Id"]:
            return remove(name, force=True)
        _set_aside(engine, name, kept.kept_name(name, entry.run))
        _remove_stamp(name)
        _settle(entry)
    except EngineError as error:
        raise _failure(error, f"removing container {name}") from error
    return True


def _noted_removal(run: str, inspect: dict[str, Any]) -> kept.Entry:
    name, store = inspect["Name"].lstrip("/"), kept.Store()
    entry = store.entry(run, name) or _left_unfinished(store, run, name, inspect)
    if entry is None or not entry.replaces:
        entry = kept.Entry(run, name, "absent", old=_before(inspect))
        directory = _read_stamp(name).get("config_dir")
        entry.component = Path(directory).name if directory else None
    entry.phase = kept.BEGUN
    return store.write(entry)


# ------------------------------------------------------------------------------------------------ run once, exec, logs


def run(name: str, timeout: float = RUN_TIMEOUT, looks: bool = False, **spec: Any) -> dict[str, Any]:
    """Run a container until its process ends, and remove it.

    :param name: name for the time it exists
    :param timeout: seconds after which it is killed and the run counts as failed
    :param looks: it changes nothing, so that nobody has to wait for it when the job that runs it was cut off
    :param spec: its specification; restart policy, readiness and reload do not apply
    :returns: ``exit_status`` (0), ``output`` without secrets, ``seconds``, ``image_id``
    :raises SaltInvocationError: the specification is wrong
    :raises CommandExecutionError: it ended with another status or not in time; the message has its last lines

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.run bootstrap_glance image=quay.io/openstack.kolla/glance-api:2026.1-debian-trixie
    """
    wanted = _spec(name, {**spec, "restart_policy": "no", "ready": None, "reload": None})
    engine = _engine()
    secrets = _secret_values()
    began = time.monotonic()
    try:
        _ensure_image(engine, wanted)
        _check_sources(wanted)
        _ensure_volumes(engine, wanted)
        if name in engine.containers():  # an earlier run was cut off
            engine.act(f"remove {name}", "remove_container", name, force=True, v=True)
        body = _container.create_body(wanted)
        body["Labels"][_container.LABEL_ONCE] = _container.LOOKS if looks else "true"
        created = engine.act(f"create {name}", "create_container_from_config", body, name)["Id"]
        try:
            engine.act(f"start {name}", "start", created)
            status = _await_end(engine, created, timeout)
            inspect = engine.inspect(created) or {}
            output = _container.scrub(_output(engine, created), secrets)
        finally:
            engine.act(f"remove {name}", "remove_container", created, force=True, v=True)
    except EngineError as error:
        raise _failure(error, f"running container {name} ({wanted.image})") from error
    seconds = round(time.monotonic() - began, 2)
    if status != 0:
        what = f"ended with exit code {status}" if status is not None else f"did not end within {timeout:g} s; killed"
        last = _tail(output, LOG_LINES)
        raise CommandExecutionError(
            f"run-once container {name} ({wanted.image}) {what} after {seconds} s\n"
            + (f"Last lines of its output:\n{last}" if last else "It printed nothing; see /var/log/kolla/")
        )
    return {"exit_status": 0, "output": output, "seconds": seconds, "image_id": inspect.get("Image")}


def _await_end(engine: Engine, container: str, timeout: float) -> int | None:
    """Return a container's exit status, or ``None`` if it still runs after `timeout` seconds."""
    began = time.monotonic()
    for pause in _ready.pauses():
        inspect = engine.inspect(container)
        if inspect is None:
            raise EngineError("somebody removed it while it ran")
        if not inspect["State"].get("Running") and inspect["State"].get("Status") != "created":
            return int(inspect["State"]["ExitCode"])
        if time.monotonic() - began > timeout:
            return None
        time.sleep(pause)
    raise AssertionError("unreachable: pauses() does not end")


def _output(engine: Engine, container: str, tail: int | str = 2000) -> str:
    raw = _call(engine.sdk, f"read the output of {container}", "logs", container, stdout=True, stderr=True, tail=tail)
    return raw.decode(errors="replace")


def exec_(
    name: str,
    command: list[str],
    user: str | None = None,
    environment: dict[str, Any] | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Run a command inside a running container.

    :param name: the container
    :param command: list of arguments
    :param user: default: the container's
    :param environment: values, or ``{secret: NAME}``; never in the argument list
    :param stdin: text for the command's standard input
    :param check: raise if it ends with another status than 0
    :param timeout: seconds without any output after which it is given up, though it goes on in there; default: never
    :returns: ``exit_status``, ``output`` (both streams, without secrets)
    :raises SaltInvocationError: `command` is not a list
    :raises CommandExecutionError: no such running container; it was given up; with `check`, the command failed

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.exec mariadb '["mariadb", "--version"]'
    """
    if isinstance(command, str) or not command:
        raise SaltInvocationError(f"command for container {name}: expected a list of arguments, got {command!r}")
    arguments = [str(item) for item in command]
    secrets = _secret_values()
    shown = _container.scrub(" ".join(arguments), secrets)
    what = f"run `{shown[:200]}` in container {name}"
    values = {
        key: _secret(value["secret"]) if isinstance(value, dict) else _container.plain(value)
        for key, value in (environment or {}).items()
    }
    try:
        client = _engine().sdk
        created = _call(
            client, what, "exec_create", name, arguments, user=user or "", environment=values, stdin=stdin is not None
        )["Id"]
        raw = _exec_output(client, what, created, stdin, timeout)
        status = _call(client, what, "exec_inspect", created)["ExitCode"]
    except EngineError as error:
        raise _failure(error, f"container {name}") from error
    output = _container.scrub(raw.decode(errors="replace"), secrets)
    if check and status != 0:
        raise CommandExecutionError(
            f"`{shown[:200]}` in container {name} ended with status {status}, expected 0:\n{_tail(output, LOG_LINES)}"
        )
    return {"exit_status": status, "output": output}


def _exec_output(client: Any, what: str, created: str, stdin: str | None, timeout: float | None) -> bytes:
    """Start a command and return what it says; give it up when it says nothing for `timeout` seconds.

    The SDK reads from the socket below its own buffer, and so loses what came in one piece with the engine's answer:
    the whole output of a short command on a busy host (https://github.com/docker/docker-py/issues/2042).
    """
    import select
    import socket as _socket

    stream = _call(client, what, "exec_start", created, socket=True)
    raw = getattr(stream, "_sock", stream)
    poll = select.poll()
    try:
        said = _came_with_the_answer(stream, raw)
        poll.register(raw, select.POLLIN)
        if stdin is not None:
            raw.sendall(stdin.encode())
            raw.shutdown(_socket.SHUT_WR)
        while poll.poll(None if timeout is None else timeout * 1000):
            part = raw.recv(65536)
            if not part:
                return _text_of_frames(said)
            said += part
    except OSError as error:
        raise EngineError(f"cannot {what}: {error}") from error
    finally:
        stream.close()
        raw.close()
    raise EngineError(f"cannot {what}: it said nothing for {timeout:g} s, so it is not waited for any longer")


def _came_with_the_answer(stream: Any, raw: Any) -> bytes:
    """Return what the HTTP client has read beyond the engine's answer."""
    response = getattr(stream, "_response", None)
    if response is None:
        return b""
    waits = raw.gettimeout()
    raw.settimeout(0)
    try:
        return bytes(response.raw._fp.fp.peek())
    finally:
        raw.settimeout(waits)


def _text_of_frames(said: bytes) -> bytes:
    """Return what is in the frames of both streams: each has a header of 8 bytes that ends with its length."""
    found, at = [], 0
    while at + 8 <= len(said):
        end = at + 8 + int.from_bytes(said[at + 4 : at + 8], "big")
        found.append(said[at + 8 : end])
        at = end
    return b"".join(found)


def logs(name: str, tail: int = 100) -> str:
    """Return the last lines of a container's output, without secrets.

    :param name: the container
    :param tail: number of lines
    :raises CommandExecutionError: there is no such container

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.logs keystone tail=20
    """
    try:
        return _container.scrub(_output(_engine(), name, tail), _secret_values())
    except EngineError as error:
        raise _failure(error, f"reading the output of container {name}") from error


# ------------------------------------------------------------------------------------------------------------- looking


def inspect(name: str) -> dict[str, Any] | None:
    """Return a container as a specification: what it has beyond image and engine defaults, without secrets.

    :param name: the container
    :returns: the specification, with ``state``, ``id``, ``image_id`` and ``started_at``; ``None`` if there is none

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.inspect glance_api
    """
    engine = _engine()
    try:
        found = engine.inspect(name)
        if found is None:
            return None
        image = engine.image(found["Image"])
    except EngineError as error:
        raise _failure(error, f"looking at container {name}") from error
    spec = _container.to_spec(found, image["Config"] if image else None, _secret_values())
    return spec | {
        "state": _container.state_of(found),
        "id": found["Id"],
        "image_id": found["Image"],
        "started_at": found["State"]["StartedAt"],
        "health": (found["State"].get("Health") or {}).get("Status"),
    }


def state(name: str) -> str:
    """Return a container's state: ``running``, ``paused``, ``exited (1)``, ``restarting (1)``, ``created``, ``absent``.

    :param name: the container
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.state keystone
    """
    try:
        found = _engine().inspect(name)
    except EngineError as error:
        raise _failure(error, f"looking at container {name}") from error
    return _container.state_of(found) if found else "absent"


def health(name: str) -> str:
    """Return a container's health: that of its health check; without one, ``healthy`` if it runs, else its state.

    :param name: the container
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.health keystone
    """
    try:
        found = _engine().inspect(name)
    except EngineError as error:
        raise _failure(error, f"looking at container {name}") from error
    if found is None:
        return "absent"
    if _container.state_of(found) != "running":
        return _container.state_of(found)
    status = (found["State"].get("Health") or {}).get("Status")
    return "healthy" if status in (None, "", "none") else status


def exec_diff(
    name: str, command: list[str], unless_exec: list[str] | None = None, unless_path: str | None = None
) -> _container.Changes:
    """Return whether a command has to run in a container: ``{}`` if a condition says that it is done.

    :param name: the container
    :param command: list of arguments
    :param unless_exec: a command (list of arguments) whose success means done
    :param unless_path: a path inside the container whose existence means done
    :raises SaltInvocationError: a command is not a list
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.exec_diff horizon '["touch", "/tmp/x"]' unless_path=/tmp/x
    """
    if isinstance(command, str) or not command:
        raise SaltInvocationError(f"command for container {name}: expected a list of arguments, got {command!r}")
    if state(name) == "running":  # in a prediction it may not be there yet
        checks = [unless_exec] if unless_exec else []
        checks += [["test", "-e", unless_path]] if unless_path else []
        if any(exec_(name, check, check=False)["exit_status"] == 0 for check in checks):
            return {}
    shown = _container.scrub(" ".join(str(item) for item in command), _secret_values())
    return {"command": {"old": None, "new": f"{shown} (in {name})"}}


def volume_path(name: str) -> str | None:
    """Return the directory of a named volume on this host, or ``None`` if there is no such volume.

    :param name: the volume
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.volume_path mariadb
    """
    try:
        return str(_engine().get(f"/volumes/{name}")["Mountpoint"])
    except NotFound:
        return None
    except EngineError as error:
        raise _failure(error, f"looking at volume {name}") from error


_HEALTH = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)")


def list_(details: bool = False, every: bool = False, replaced: bool = False) -> list[dict[str, Any]]:
    """Return the Kolla containers of this host.

    :param details: also ``started_at`` and ``restarts``, which costs the engine one more question per container
    :param every: all containers, not only those of Kolla images
    :param replaced: also those that a run replaced and keeps, see :py:func:`kolla_kept.list`
    :returns: by name: ``name``, ``id``, ``image``, ``image_id``, ``state``, ``status``, ``health`` (or ``None``),
        ``own`` (made by kolla-salt)
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.list details=True
    """
    engine = _engine()
    found = []
    try:
        for name, item in sorted(engine.containers().items()):
            labels = item.get("Labels") or {}
            own = _container.LABEL_FIELDS in labels
            if kept.is_kept(name) and not replaced:
                continue
            if not (every or own or "kolla_version" in labels):
                continue
            health = _HEALTH.search(item.get("Status") or "")
            entry = {
                "name": name,
                "id": item["Id"],
                "image": item["Image"],
                "image_id": item["ImageID"],
                "state": item["State"],
                "status": item.get("Status"),
                "health": health.group(1) if health else None,
                "own": own,
            }
            if details:
                full = engine.inspect(name) or {"State": {}}
                entry |= {"started_at": full["State"].get("StartedAt"), "restarts": full.get("RestartCount")}
            found.append(entry)
    except EngineError as error:
        raise _failure(error, "listing containers") from error
    return found


def versions(images: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the version of Kolla that built what runs here, and what images here were built by.

    :param images: full references
    :returns: ``containers``: name -> ``version`` and ``image``; ``images``: reference -> version, ``None`` for one
        without the label or that is not on this host
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.versions
    """
    engine = _engine()
    try:
        containers = {
            name: {"version": (item.get("Labels") or {}).get("kolla_version"), "image": item["Image"]}
            for name, item in engine.containers().items()
        }
        labels = {name: ((engine.image(name) or {}).get("Config") or {}).get("Labels") or {} for name in images or []}
    except EngineError as error:
        raise _failure(error, "reading the labels of containers and images") from error
    return {"containers": containers, "images": {name: found.get("kolla_version") for name, found in labels.items()}}


def snapshot(since: float | None = None) -> dict[str, dict[str, Any]]:
    """Return what tells of each Kolla container of this host whether it is still the same, and since when it runs.

    :param since: also say how they fared since then (seconds since the epoch)
    :returns: name -> ``id``, ``image``, ``digest`` (the image's id), ``started``, ``state``, ``restarts`` (by itself);
        with `since` also ``exit`` (exit code), ``oom``, and ``deaths``: when its process ended (``at``) and how
        (``exit``), as far as the engine remembers
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.snapshot
    """
    engine = _engine()
    found: dict[str, dict[str, Any]] = {}
    try:
        for item in list_():
            # A dry run has just looked at most of them.
            full = engine.recent(item["name"]) if since is None else engine.inspect(item["name"])
            if full is None:
                continue  # it has gone meanwhile
            found[item["name"]] = _container.moment(full, since is not None)
        for name, deaths in _deaths(engine, since).items() if since is not None else ():
            if name in found:
                found[name]["deaths"] = deaths
    except EngineError as error:
        raise _failure(error, "looking at containers") from error
    return found


def _deaths(engine: Engine, since: float) -> dict[str, list[dict[str, Any]]]:
    """Return the ends of containers' processes of which the engine still knows."""
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        events = engine.events(since, ["die"])
    except EngineError:
        return {}  # it only explains
    for event in events:
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        code = attributes.get("exitCode", attributes.get("containerExitCode"))
        found.setdefault(str(attributes.get("name")), []).append({"at": event.get("time"), "exit": code})
    return found


def changing(within: float = CHANGING) -> list[str]:
    """Return the containers that the engine is stopping or restarting; it goes on when who asked for it is gone.

    :param within: seconds of the engine's memory to look at; no stop takes longer
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.changing
    """
    last: dict[str, tuple[str, float]] = {}
    now, engine = time.time(), _engine()
    try:
        found = {name for name, item in engine.containers().items() if item["State"] == "stopping"}  # podman says so
        events = engine.events(now - within, ["kill", "die", "stop", "start"])
    except EngineError as error:
        raise _failure(error, "looking at what containers are doing") from error
    for event in events:
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        what = str(event.get("Action") or event.get("status"))
        if what != "kill" or str(attributes.get("signal")) not in _RELOADS:
            last[str(attributes.get("name"))] = (what, float(event.get("time") or 0))
    for name, (what, at) in last.items():
        # What has ended is started a moment later, if it is.
        if what == "kill" or (what != "start" and at > now - RESTART_PAUSE):
            found.add(name)
    return sorted(found)


def remove_ended(names: list[str] | None = None, dry: bool = False) -> list[str]:
    """Remove run-once containers that have ended and that nobody waits for any more; no job may run one meanwhile.

    :param names: look at these only
    :param dry: remove nothing
    :returns: those that still run; not those that only look at something, which are removed as well
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_container.remove_ended
    """
    engine, running = _engine(), []
    try:
        for name, item in sorted(engine.containers().items()):
            if _container.LABEL_ONCE not in (item.get("Labels") or {}) or (names is not None and name not in names):
                continue
            if item["State"] in _RUNS and item["Labels"][_container.LABEL_ONCE] != _container.LOOKS:
                running.append(name)
            elif not dry:
                engine.act(f"remove {name}", "remove_container", name, force=True, v=True)
    except EngineError as error:
        raise _failure(error, "removing run-once containers that have ended") from error
    return running


# ---------------------------------------------------------------------------------------- what run-once steps remember


def ran_diff(
    name: str,
    stamp: str | None = None,
    force: bool = False,
    instead: list[str] | None = None,
    of: list[str] | None = None,
    serves: str | None = None,
    partial: bool = False,
    **spec: Any,
) -> _container.Changes:
    """Return whether a run-once container has to run: ``{}``, or ``run`` with when it ran before.

    :param name: the step
    :param stamp: name under which success is remembered; default: `name`
    :param force: run in any case
    :param instead: steps which together do the same for a new image: where all have, this one need not
    :param of: for a phase of a change of release: the steps that do all of it at once. There is nothing to do where
        none of them has run yet, or where they have done all of it with this image
    :param serves: for a phase without such steps: the container it is for. There is nothing to do where it has always
        run with this image
    :param partial: phases follow, or those of `instead` come before it
    :param spec: specification of its container
    :raises SaltInvocationError: the specification is wrong
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.ran_diff bootstrap_glance image=quay.io/openstack.kolla/glance-api:2026.1
    """
    wanted = _spec(name, {**spec, "restart_policy": "no"})
    before = _read_stamp(stamp or name)
    image = image_id(wanted.image)
    same = before.get("task") in (None, _task(spec, before.get("salt", "")))
    if not force and before.get("image_id") and before["image_id"] == image and same:
        return {}
    if not force and before and instead and partial and same:
        return {}  # the phases have their turn before it
    others = [_read_stamp(other).get("image_id") for other in instead or []]
    if not force and before and image and others and set(others) == {image}:
        return {}
    if not force and of is not None and not _phase_due(image, [_read_stamp(step) for step in of], serves):
        return {}
    if not before:
        old = "never"
    else:
        old = f"{before.get('finished_at')} with {str(before.get('image_id')).removeprefix('sha256:')[:12]}"
    new = _image_name(wanted.image, {"Id": image} if image else None)
    return {"run": {"old": old, "new": f"with {new}"}}


def _phase_due(image: str | None, whole: list[dict[str, Any]], serves: str | None) -> bool:
    """Return whether a phase has anything to do for `image`.

    :param whole: stamps of the steps that do all phases at once
    :param serves: a container of the service
    """
    if whole:
        return any(image is None or stamp.get("whole", stamp.get("image_id")) != image for stamp in whole if stamp)
    try:
        inspect = _engine().container(serves) if serves else None
    except EngineError as error:
        raise _failure(error, f"looking at container {serves}") from error
    if inspect is None:
        return False
    stamp = _read_stamp(serves or "")
    return inspect["Image"] != image or bool(stamp.get("from_image") and stamp.get("container_id") == inspect["Id"])


def _task(spec: dict[str, Any], salt: str) -> str:
    """Return what a run-once container is to do as a keyed digest: changed passwords show, none can be guessed."""
    environment = {
        key: _secret(value["secret"]) if isinstance(value, dict) else str(value)
        for key, value in (spec.get("environment") or {}).items()
    }
    task = json.dumps([spec.get("command"), environment], sort_keys=True, default=str)
    return hmac.new(salt.encode(), task.encode(), "sha256").hexdigest()


def run_step(
    name: str,
    stamp: str | None = None,
    timeout: float = RUN_TIMEOUT,
    partial: bool = False,
    instead: list[str] | None = None,
    of: list[str] | None = None,
    serves: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Run a run-once container as :py:func:`run` does and remember its success.

    :param name: the step
    :param stamp: name under which success is remembered; default: `name`
    :param timeout: seconds
    :param partial: phases that follow do the rest for this image
    :param instead: only for :py:func:`ran_diff`, as ``of`` and ``serves``
    :param spec: specification of its container
    :returns: as :py:func:`run`, with ``comment``
    :raises CommandExecutionError: as :py:func:`run`; then nothing is remembered

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_container.run_step bootstrap_glance image=quay.io/openstack.kolla/glance-api:2026.1
    """
    before = _read_stamp(stamp or name)
    result = run(name, timeout, **spec)
    if run_id := _run_id():
        kept.Store().keep_step(run_id, stamp or name, before)
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    salt = secrets.token_hex(16)
    _write_stamp(
        stamp or name,
        {
            "image_id": result["image_id"],
            "finished_at": finished,
            "image": spec.get("image"),
            "salt": salt,
            "task": _task(spec, salt),
            "whole": before.get("whole", before["image_id"])
            if partial and before.get("image_id")
            else result["image_id"],
        },
    )
    return result | {"comment": f"{name} ran in {result['seconds']} s"}
