"""What runs keep of what was here before them, and bringing it back, on one host."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import __version__, expand, kept, outcome, paths, runtime
from kolla_salt.context import ContextError
from kolla_salt.converge import Changes
from kolla_salt.declarations import write_atomically
from kolla_salt.steps import own

__virtualname__ = "kolla_kept"
__func_alias__ = {"list_": "list"}

#: What is applied in a step of a rollback; `stop` and `database` only where a database is restored.
_ROLES = ("stop", "back")


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _declared(name: str) -> dict[str, Any] | None:
    """Return the specification that the site gives a container today, if it has one."""
    resolver = _resolver()
    with contextlib.suppress(ContextError):
        for service in resolver.enabled_services():
            if resolver.containers(service).get(name):
                return expand.container_spec(resolver, service, name, runtime.facts())
    return None


def _owners() -> tuple[dict[str, str], dict[str, str]]:
    """Return container -> service, and run-once step -> service, of all declarations."""
    decls = _resolver().declarations
    containers = {name: service for service, decl in decls.items() for name in decl["containers"]}
    steps = {
        step.get("stamp") or step["name"]: service for service, decl in decls.items() for step in decl["bootstrap"]
    }
    for service, decl in decls.items():
        for kind in ("before", "after"):
            steps |= {f"{service}_{phase['name']}": service for phase in decl["upgrade"].get(kind) or []}
    return containers, steps


def _of_services(run: str) -> dict[str, dict[str, Any]]:
    """Return what is kept of a run, by service: ``containers``, ``folders`` and ``steps``.

    :param run: id of the run, or of several that went on with one another, separated by commas: the oldest one counts
    """
    store = kept.Store()
    containers, steps = _owners()
    found: dict[str, dict[str, Any]] = {}

    def add(service: str | None, kind: str, name: str, item: Any) -> None:
        parts = found.setdefault(service or "", {"containers": {}, "folders": {}, "steps": {}})
        parts[kind].setdefault(name, item)

    for one in sorted(run.split(",")):
        folders = store.folders(one)
        for component, folder in folders.items():
            add(folder.service, "folders", component, folder)
        for name, entry in store.entries(one).items():
            folder = folders.get(entry.component or "")
            add(containers.get(name) or (folder.service if folder else None), "containers", name, entry)
        for stamp, remembered in store.steps(one).items():
            add(steps.get(stamp), "steps", stamp, remembered)
    return found


# --- looking ----------------------------------------------------------------------------------------------------------


def list_() -> dict[str, dict[str, Any]]:
    """Return what is kept on this host, by run.

    :returns: run -> ``containers`` (name -> image of the one before, null: there was none), ``folders`` (names of
        configuration folders), ``bytes`` (of the files; images are shared), ``until_finished`` (it stays until
        ``kolla-salt upgrade --finish``)

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_kept.list
    """
    store = kept.Store()
    return {
        run: {
            "containers": {name: entry.old and entry.old["image"] for name, entry in store.entries(run).items()},
            "folders": list(store.folders(run)),
            "bytes": store.size(run),
            "until_finished": kept.until_finished(run),
        }
        for run in store.runs()
    }


def survey(sls: Any, run: str, containers: bool = False) -> dict[str, Any]:
    """Return what taking back a run would do on this host; nothing is touched.

    :param sls: services (list), or what :func:`kolla_salt.steps.told` makes of those of several hosts
    :param run: id of the run
    :param containers: also which containers run here
    :returns: as :py:func:`kolla_node.survey`, with ``kept`` (service -> ``containers``, ``folders``, ``steps``: names)
        and ``later`` (run -> services): runs that have changed the same things since

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.survey '[keystone]' run=20260714-101500-reconfigure
    """
    wanted = own(sls, __opts__["id"]) if isinstance(sls, dict) else list(sls)
    found = {service: parts for service, parts in _of_services(run).items() if service in wanted}
    returned = apply(list(found), run, test=True) if found else []
    __context__["retcode"] = 0  # a prediction that fails is an answer, not a failed job
    report = {
        "version": __version__,
        "missing_images": [],
        "kept": {s: {kind: sorted(items) for kind, items in parts.items()} for s, parts in found.items()},
        "later": _later(run, found),
        **outcome.dry_run(__opts__["id"], returned),
    }
    if containers:
        report["containers"] = __salt__["kolla_container.snapshot"]()
    return report


def _later(run: str, found: dict[str, Any]) -> dict[str, list[str]]:
    """Return the runs that have changed since what ``run`` has changed."""
    store, later = kept.Store(), {}
    for other in store.runs():
        if other <= max(run.split(",")):
            continue
        entries, folders = store.entries(other), store.folders(other)
        same = [
            service
            for service, parts in found.items()
            if set(parts["containers"]) & set(entries) or set(parts["folders"]) & set(folders)
        ]
        if same:
            later[other] = sorted(same)
    return later


# --- bringing back ----------------------------------------------------------------------------------------------------


def apply(services: Any, run: str, role: str = "back", test: bool = False, pillar: Any = None) -> Any:
    """Take back what a run did to services of this host.

    The result is that of a state run: one state per container and configuration folder, in reverse order.

    :param services: names (list, or separated by commas)
    :param run: id of the run, or of several that went on with one another, separated by commas
    :param role: ``back``, or ``stop`` to stop the containers that will be exchanged
    :param test: only predict
    :param pillar: what the job is a part of; for who watches it

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.apply keystone 20260714-101500-reconfigure test=True
    """
    names = [name for name in services.split(",") if name] if isinstance(services, str) else list(services)
    if role not in _ROLES:
        raise CommandExecutionError(f"taking back {run}: no role {role!r}; expected one of {', '.join(_ROLES)}")
    found = _of_services(run)
    high: dict[str, Any] = {}
    for service in names:
        parts = found.get(service)
        states = _states(service, parts, run, role) if parts else []
        if not states:
            states = [(f"{service} is what it was before {run}", "test", "nop", {})]
        slow: set[str] = set()
        quick: set[str] = set()
        if role == "stop":
            slow = {state[0] for state in states}
        elif not test:
            slow, quick = _slow(service)
        high |= _in_order(service, states, slow, quick, len(high))
    return __salt__["state.high"](high, test=test, concurrent=test)


def _in_order(
    service: str, states: list[tuple[str, str, str, dict[str, Any]]], slow: set[str], quick: set[str], first: int
) -> dict[str, Any]:
    """Return the states of a service as Salt's high data: one after the other, but slow ones beside others.

    :param slow: IDs of those that go at the same time where they follow each other
    :param quick: IDs of those that need not wait for slow ones beside them, and which slow ones do not wait for
    :param first: how many states come before
    """
    high: dict[str, Any] = {}
    before: list[dict[str, str]] = []
    beside: list[dict[str, str]] = []
    for _, in_a_row in itertools.groupby(states, lambda state: state[0] in slow | quick):
        before, beside = before + beside, []
        for state_id, module, function, arguments in sorted(in_a_row, key=lambda state: state[0] not in slow):
            parts = [{key: value} for key, value in arguments.items()]
            order = {"order": first + len(high) + 1}
            parts += [order, {"require": list(before)}, *([{"parallel": True}] if state_id in slow else [])]
            high[state_id] = {"__sls__": service, "__env__": "base", module: [function, *parts]}
            (beside if state_id in slow else before).append({module: state_id})
    return high


def _slow(service: str) -> tuple[set[str], set[str]]:
    """Return containers of a service that can be exchanged beside each other: those that take long, and quick ones.

    The slow ones are agents and workers that end what they are at before they stop; no user asks them. The others are
    what users ask through the load balancer; there one after the other is taken out.
    """
    decl = _resolver().declarations[service]
    slow = {name for name, fields in decl["containers"].items() if fields["reports"] and fields["stop_timeout"]}
    return slow, {entry["container"] for entry in decl["load_balancer"].values()} - slow


def _states(service: str, parts: dict[str, Any], run: str, role: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return the states of one service as (ID, module, function, arguments), in the order in which they come."""
    entries: dict[str, kept.Entry] = parts["containers"]
    last_first = sorted(entries.values(), key=lambda entry: -entry.time)
    exchanged = _needed_first([entry.name for entry in last_first if entry.replaces], service)
    if role == "stop":
        return [(name, "kolla_kept", "stopped", {}) for name in exchanged]
    states = [(name, "kolla_kept", "returned", {"run": entries[name].run}) for name in exchanged]
    states += [
        (f"{entry.name}: settings", "kolla_kept", "returned", {"name": entry.name, "run": entry.run})
        for entry in last_first
        if not entry.replaces
    ]
    by_exchange = {entry.component for entry in entries.values() if entry.replaces}
    for component, folder in parts["folders"].items():
        if component not in by_exchange:
            states.append((folder.directory, "kolla_kept", "files_returned", {"run": folder.run}))
        for name in _readers(folder):
            if name not in exchanged:
                states.append((name, "kolla_kept", "reread", {"run": folder.run, "component": component}))
    states.append((f"{service}: what was kept", "kolla_kept", "used_up", {"run": run, "service": service}))
    return states


def _needed_first(names: list[str], service: str) -> list[str]:
    """Return containers of a service in the same order, but those first that others only start after."""
    decl = _resolver().declarations.get(service)
    after = {name: fields["after"] or () for name, fields in decl["containers"].items()} if decl else {}
    first: list[str] = []

    def need(name: str) -> None:
        for other in after.get(name, ()):
            if other in names and other not in first:
                need(other)
                first.append(other)

    for name in names:
        need(name)
    return [*first, *(name for name in names if name not in first)]


def _readers(folder: kept.Folder) -> list[str]:
    """Return the containers of this host that read a configuration folder."""
    decls = _resolver().declarations
    return [
        name
        for decl in decls.values()
        for name, fields in decl["containers"].items()
        if fields["component"] == folder.component and __salt__["kolla_container.state"](name) == "running"
    ]


def difference(name: str, run: str, component: str | None = None) -> Changes:
    """Return what taking back a run would do to one container of this host.

    :param name: the container
    :param run: id of the run
    :param component: for one that was not exchanged: the configuration folder that it reads

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.difference keystone 20260714-101500-reconfigure
    """
    store = kept.Store()
    entry = None if component else store.entry(run, name)
    if entry is None:
        folder = store.folder(run, component) if component else None
        files = str(folder.files) if folder and folder.existed and kept.restore_difference(folder) else None
        return __salt__["kolla_container.reread_diff"](name, declared=_declared(name), instead=files)
    changes = __salt__["kolla_container.take_back_diff"](name, run)
    folder = store.folder(run, entry.component) if entry.component and entry.replaces else None
    files = kept.restore_difference(folder) if folder else {}
    if files and changes:
        changes["config"] = {"old": None, "new": sorted(files)}
    return changes


def back(name: str, run: str) -> str:
    """Have one container that was exchanged or changed as it was before a run.

    :param name: the container
    :param run: id of the run
    :returns: what was done, as a sentence
    :raises CommandExecutionError: see :py:func:`kolla_container.take_back`

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.back keystone 20260714-101500-reconfigure
    """
    return __salt__["kolla_container.take_back"](name, run, declared=_declared(name))["comment"]


def reread(name: str) -> str:
    """Have one container read the files of its configuration folder.

    :param name: the container
    :returns: what was done, as a sentence
    :raises CommandExecutionError: see :py:func:`kolla_container.reread`

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.reread keystone
    """
    return __salt__["kolla_container.reread"](name, declared=_declared(name))["comment"]


def files_diff(directory: str, run: str) -> Changes:
    """Return how a configuration folder differs from what it was before a run; names of files, no content.

    :param directory: the folder
    :param run: id of the run

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.files_diff /etc/kolla/keystone 20260714-101500-reconfigure
    """
    folder = kept.Store().folder(run, Path(directory).name)
    found = kept.restore_difference(folder) if folder else {}
    then = {"changed": "as it was", "added": "removed", "removed": "there again"}
    return {name: {"old": "as it is", "new": then[how]} for name, how in found.items()}


def restore_files(directory: str, run: str) -> str:
    """Bring a configuration folder back to what it was before a run.

    :param directory: the folder
    :param run: id of the run
    :returns: what was done, as a sentence
    :raises CommandExecutionError: nothing of it is kept, or it cannot be written

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.restore_files /etc/kolla/keystone 20260714-101500-reconfigure
    """
    folder = kept.Store().folder(run, Path(directory).name)
    if folder is None:
        raise CommandExecutionError(f"bringing back {directory}: nothing of it is kept of {run} on {__opts__['id']}")
    try:
        changed = kept.restore(folder)
    except OSError as error:
        raise CommandExecutionError(f"bringing back {directory}: {error.strerror} ({error.filename})") from error
    return f"{directory} is as it was before {run}: {', '.join(changed) or 'nothing differed'}"


def remains(service: str, run: str) -> Changes:
    """Return what is still kept of a service, as differences: after a rollback nothing is.

    :param service: the service
    :param run: id of the run

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.remains keystone 20260714-101500-reconfigure
    """
    parts = _of_services(run).get(service) or {}
    names = sorted([*parts.get("folders", ()), *parts.get("steps", ())])
    return {"kept": {"old": names, "new": []}} if names else {}


def use_up(service: str, run: str) -> str:
    """Remember of run-once steps what was remembered before a run, and give up what else was kept of a service.

    :param service: the service
    :param run: id of the run
    :returns: what was done, as a sentence

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_kept.use_up keystone 20260714-101500-reconfigure
    """
    store, parts = kept.Store(), _of_services(run).get(service) or {}
    for stamp, remembered in parts.get("steps", {}).items():
        path = paths.STATE_DIR / "stamps" / f"{stamp}.json"
        if remembered:
            write_atomically(path, json.dumps(remembered, indent=1, sort_keys=True).encode())
        else:
            path.unlink(missing_ok=True)
    for one in run.split(","):
        mine = _of_services(one).get(service) or {}
        # What is left of containers is between the two: what an earlier run made, and a later one replaced.
        __salt__["kolla_container.drop"](one, list(mine.get("containers", ())))
        for folder in mine.get("folders", {}).values():
            store.drop_folder(folder)
        store.drop_steps(one, mine.get("steps", ()))
        store.tidy(one)
    return f"{service} is what it was before {run}"


# --- giving up --------------------------------------------------------------------------------------------------------


def finish(run: str | None = None) -> dict[str, Any]:
    """Give up what upgrades keep here: containers, configuration, and images that no container uses any more.

    :param run: only this run, whatever it was; default: all upgrades
    :returns: ``containers``, ``folders`` (names), ``images`` (what was removed)
    :raises CommandExecutionError: the engine does not answer

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_kept.finish 20260714-101500-upgrade
    """
    store, began = kept.Store(), time.monotonic()
    done: dict[str, Any] = {"containers": [], "folders": [], "images": []}
    images: set[str] = set()
    for name in [run] if run else [name for name in store.runs() if kept.until_finished(name)]:
        dropped = __salt__["kolla_container.drop"](name)
        done["containers"] += dropped["containers"]
        images |= set(dropped["images"])
        for component, folder in store.folders(name).items():
            store.drop_folder(folder)
            done["folders"].append(component)
        store.drop_steps(name, store.steps(name))
    done["images"] = __salt__["kolla_container.remove_unused_images"](sorted(images)) if images else []
    return {**done, "seconds": round(time.monotonic() - began, 2)}
