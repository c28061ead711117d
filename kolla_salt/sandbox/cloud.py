"""The sandbox as a whole: bring it up, look at it, take it down.

``up`` looks at what is there and does what is missing; interrupted anywhere, the next ``up`` goes on from there.
Nothing it asks for is remembered that could be looked up: processes, mounts and bridges speak for themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kolla_salt.images.places import load_release
from kolla_salt.sandbox import host, master, node, rootfs
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.paths import Paths

READY_SECONDS = 90


class Progress:
    """One line per step, with its duration.

    Args:
        write: takes a line; print by default.
    """

    def __init__(self, write: Callable[[str], None] = print) -> None:
        self.write = write
        self.began = time.monotonic()
        self.changes: list[str] = []

    def note(self, text: str) -> None:
        """Tell the reader something that takes time from now on."""
        self.write(f"         {text}")

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Tell that ``text`` was done, and how long it took, when the block ends without an error."""
        began = time.monotonic()
        yield
        self.done(text, began)

    def done(self, text: str, began: float) -> None:
        """Tell that ``text`` was done since ``began`` (seconds of the monotonic clock)."""
        self.changes.append(text)
        self.write(f"{time.monotonic() - began:6.1f} s  {text}")


def lock(paths: Paths, progress: Progress) -> contextlib.AbstractContextManager[None]:
    """Return the lock that keeps two commands from changing the sandbox at once, whichever clone they come from."""
    return host.locked(paths.cache, lambda: progress.note("waits for another `kolla-salt sandbox` command to end"))


def code_digest(repo: Path) -> str:
    """Return a digest of the code that Salt's daemons load once and keep: a minion or master with another restarts."""
    found = []
    for top in (repo / "kolla_salt", *sorted((repo / "salt").glob("_*"))):
        for directory, names, files in os.walk(top):
            names[:] = sorted(n for n in names if n not in ("__pycache__", "sandbox"))
            for file in sorted(files):
                if file.endswith(".py"):
                    status = os.stat(os.path.join(directory, file))
                    found.append((directory, file, status.st_mtime_ns, status.st_size))
    return rootfs.digest(found)


# --- the site -------------------------------------------------------------------------------------------------


def current_count(paths: Paths) -> int:
    """Return how many nodes the sandbox was last brought up with; 0 if it never was."""
    directory = paths.state / "nodes"
    return sum(1 for entry in directory.iterdir() if entry.name.startswith("node")) if directory.is_dir() else 0


def site_count(paths: Paths) -> int:
    """Return how many hosts the site names; 0 if it names none, or cannot be read."""
    try:
        return len((yaml.safe_load((paths.site / "topology.yml").read_text()) or {}).get("hosts") or {})
    except (FileNotFoundError, yaml.YAMLError, AttributeError):
        return 0


def site_release(paths: Paths) -> str:
    """Return the OpenStack release that the site names; empty if it names none, or cannot be read."""
    try:
        return str((yaml.safe_load((paths.site / "globals.yml").read_text()) or {}).get("openstack_release") or "")
    except (FileNotFoundError, yaml.YAMLError, AttributeError):
        return ""


def write_site(paths: Paths, count: int, progress: Progress, release: str = "") -> list[str]:
    """Write globals.yml and topology.yml of the sandbox's site; files the reader edited stay as they are.

    Args:
        paths: the sandbox's directories.
        count: number of nodes.
        progress: where is told of edited files that say something else.
        release: OpenStack release; by default the one that the site names, or the newest.

    Returns:
        The names of the files that were written.
    """
    release = release or site_release(paths) or load_release().name
    (paths.site / "overrides").mkdir(parents=True, exist_ok=True)
    paths.site.chmod(0o700)
    written = []
    for name, data in (("globals.yml", topo.globals_for(count, release)), ("topology.yml", topo.topology(count))):
        file = paths.site / name
        if file.exists() and not topo.is_unedited(file.read_text()):
            _check_edited(file, count, progress)
            if file.name == "globals.yml" and site_release(paths) != release:
                progress.note(f"{file} was edited; to have release {release}, write openstack_release there")
        elif host.write_file(file, topo.generated_file(data)):
            written.append(name)
    return written


def _check_edited(file: Path, count: int, progress: Progress) -> None:
    """Tell the reader if the topology he edited speaks of other nodes than the sandbox has."""
    if file.name != "topology.yml":
        return
    try:
        hosts = set((yaml.safe_load(file.read_text()) or {}).get("hosts", {}))
    except (yaml.YAMLError, AttributeError) as err:
        raise SandboxError(f"read {file}", str(err), "YAML with a mapping `hosts`", "mend or remove the file") from err
    nodes = {n.name for n in topo.nodes_for(count)}
    if hosts != nodes:
        progress.note(f"{file} was edited and names {sorted(hosts)}; the sandbox has {sorted(nodes)}")


# --- up -------------------------------------------------------------------------------------------------------


def up(
    paths: Paths,
    count: int | None = None,
    progress: Progress | None = None,
    *,
    wait: bool = True,
    keep_site: bool = False,
    release: str = "",
) -> dict[str, Any]:
    """Bring the sandbox up with ``count`` nodes, or find that it is.

    Args:
        paths: the sandbox's directories; ``paths.repo`` is the clone whose code the nodes run from now on.
        count: number of nodes; by default as many as there are, or one.
        progress: where the steps are told.
        wait: whether to wait until engines and minions answer.
        keep_site: whether the site goes on naming the hosts it names, which it also does without ``count``.
        release: OpenStack release; by default the one that the site names, or the newest.

    Returns:
        :func:`status`, with the steps that were needed under ``changes``.

    Raises:
        SandboxError: a step failed; the next call goes on from there.
    """
    progress = progress or Progress()
    host.require_root()
    named = site_count(paths) if keep_site or count is None else None
    count = current_count(paths) or 1 if count is None else count
    nodes = topo.nodes_for(count)
    master.salt_command("salt-master")
    with lock(paths, progress):
        if host.missing_tools(host.have_tool):
            with progress.step("installed missing tools"):
                host.ensure_tools()
        project = rootfs.project_table(paths.repo)
        wanted = rootfs.dependencies(project)
        base, venv = rootfs.base_dir(paths.cache), rootfs.venv_dir(paths.cache, wanted)
        if not base.is_dir():
            with progress.step(f"root file system {base}"):
                rootfs.ensure_base(paths.cache, progress.note)
        if not venv.is_dir():
            with progress.step(f"Python environment {venv}"):
                rootfs.ensure_venv(paths.cache, base, wanted, progress.note)
        _network(progress)
        _registry(paths, progress)
        began = time.monotonic()
        written = write_site(paths, named or count, progress, release)
        if written:
            progress.done(f"wrote {', '.join(written)} in {paths.site}", began)
        rootfs.write_metadata(paths.meta, project)
        code = rootfs.digest(code_digest(paths.repo), rootfs.metadata_files(project), venv.name)
        _master(paths, code, progress)
        _remove_superfluous(paths, nodes, progress)
        for one in nodes:
            _node(paths, one, nodes, base, venv, code, progress)
        if wait:
            _wait(paths, nodes, progress)
        rootfs.remove_unused(base, venv)
    return {**status(paths), "changes": progress.changes, "seconds": round(time.monotonic() - progress.began, 1)}


def _network(progress: Progress) -> None:
    # The machine has no part in the tunnel network.
    for bridge, address in zip(topo.BRIDGES, (topo.HOST_API, topo.HOST_EXT, None), strict=True):
        began = time.monotonic()
        if host.ensure_bridge(bridge, f"{address}/{topo.PREFIX_LENGTH}" if address else None):
            if bridge == topo.EXT_BRIDGE:
                host.checksums_in_software(bridge)
            progress.done(f"bridge {bridge}" + (f" with {address}" if address else ""), began)
        if host.pass_firewall(bridge):
            progress.done(f"this machine's firewall lets nodes reach each other over {bridge}", began)


def _registry_module() -> Any | None:
    """Return the module that runs the image registry, if this project has it."""
    try:
        return importlib.import_module("kolla_salt.images.registry")
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("kolla_salt.images"):
            return None
        raise


def _registry(paths: Paths, progress: Progress) -> None:
    registry = _registry_module()
    if registry is None or master.listens(*_registry_port()):
        return
    with progress.step(f"image registry on {topo.REGISTRY}"):
        try:
            registry.ensure_running(listen=[topo.REGISTRY])
        except registry.ImageError as err:
            raise SandboxError(f"start the image registry on {topo.REGISTRY}", str(err)) from err


def _registry_port() -> tuple[int, str]:
    address, _, port = topo.REGISTRY.partition(":")
    return int(port), address


def _master(paths: Paths, code: str, progress: Progress) -> None:
    changed = master.write_config(paths)
    running = master.find_master(paths)
    if running and not changed and master.started_with(paths) == code and master.listens():
        return
    why = ""
    if running:
        why = ", whose code or configuration changed"
        master.stop(paths)
    with progress.step(f"salt-master on {topo.HOST_API}:{topo.RETURN_PORT}{why}"):
        master.start(paths, code)


def _remove_superfluous(paths: Paths, nodes: Sequence[topo.Node], progress: Progress) -> None:
    wanted = {n.name for n in nodes}
    directory = paths.state / "nodes"
    names = set(node.find_nodes(paths))
    names |= {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
    for name in sorted(names - wanted):
        with progress.step(f"removed {name}"):
            remove_node(paths, name)


def remove_node(paths: Paths, name: str) -> None:
    """Kill node ``name`` and remove its files and its key."""
    node.kill(paths, name)
    (paths.master / "pki" / "minions" / name).unlink(missing_ok=True)
    # Renamed first: half a directory is not taken for a node.
    directory = paths.node(name)
    if directory.exists():
        gone = paths.state / f".removed-{name}"
        host.remove_tree(gone)
        directory.rename(gone)
        host.remove_tree(gone)


def decide(found: Sequence[node.Running], digest: str) -> str:
    """Return what to do about a node whose first processes are ``found``: keep, start or restart.

    Args:
        found: what :func:`node.find_nodes` has under its name.
        digest: what it should be built from.
    """
    if not found:
        return "start"
    if len(found) == 1 and found[0].ready and found[0].digest == digest:
        return "keep"
    return "restart"


def _node(
    paths: Paths, one: topo.Node, nodes: Sequence[topo.Node], base: Path, venv: Path, code: str, progress: Progress
) -> None:
    found = node.find_nodes(paths).get(one.name, [])
    what = decide(found, node.build_digest(base))
    if what != "keep":
        # Also without a first process: an interrupted start may be about to have one.
        node.kill(paths, one.name)
    running = found[0] if what == "keep" else None
    changed = node.prepare_files(paths, one, nodes, running)
    run_dir = paths.node(one.name) / "run"
    host.write_file(run_dir / "code.now", f"{code}\n")
    forgot = _forget_other_master(paths, one.name, running)
    if running is None:
        with progress.step(f"{what}ed {one.name}, {one.api_address}"):
            running = node.launch(paths, one, base, venv)
            node.connect(one, running)
        return
    node.connect(one, running)
    sources = [(venv, rootfs.NODE_VENV), (paths.repo, rootfs.NODE_SRC), (paths.meta, rootfs.NODE_META)]
    try:
        node.mount_project(running, sources)
    except OSError as err:
        with progress.step(f"restarted {one.name}: the kernel cannot replace its code while it runs ({err})"):
            node.kill(paths, one.name)
            node.connect(one, node.launch(paths, one, base, venv))
        return
    stamp = run_dir / "code.minion"
    if changed or forgot or not stamp.exists() or stamp.read_text().strip() != code:
        with progress.step(f"restarted the minion of {one.name} with the present code and configuration"):
            node.restart_minion(running)


def _forget_other_master(paths: Paths, name: str, running: node.Running | None) -> bool:
    """Remove the key of a former master that the node's minion remembers: it would refuse the present one."""
    remembered = node.file_in_node(paths, name, "etc/salt/pki/minion/minion_master.pub", running)
    present = paths.master / "pki" / "master.pub"
    try:
        if remembered.read_text().strip() == present.read_text().strip():
            return False
        remembered.unlink()
    except FileNotFoundError:
        return False
    return True


def _wait(paths: Paths, nodes: Sequence[topo.Node], progress: Progress) -> None:
    """Wait until all engines and minions answer."""
    began = time.monotonic()
    names = [n.name for n in nodes]
    engines, minions = list(names), list(names)
    waited = False
    while True:
        found = {name: all_of[0] for name, all_of in node.find_nodes(paths).items()}
        engines = [n for n in engines if n not in found or not node.engine_answers(found[n])]
        # Asking a minion that is not connected takes seconds.
        if not any(n not in found or not master.connected(found[n].pid) for n in minions):
            try:
                answered = master.ping(paths, minions)
            except SandboxError:
                # A master that has much to do answers later.
                if time.monotonic() - began > READY_SECONDS:
                    raise
                answered = []
            minions = [n for n in minions if n not in answered]
        if not engines and not minions:
            break
        waited = True
        if time.monotonic() - began > READY_SECONDS:
            logs = paths.node((engines or minions)[0]) / "upper/var/log/kolla-salt"
            raise SandboxError(
                "bring the nodes up",
                f"after {READY_SECONDS} s no answer from the engines of {engines} and the minions of {minions}",
                "answers from all",
                f"see {logs}; `kolla-salt sandbox status`",
            )
        time.sleep(0.1)
    if waited:
        progress.done(f"engines and minions of {', '.join(names)} answer", began)


# --- status ---------------------------------------------------------------------------------------------------


def status(paths: Paths, *, ask_minions: bool = True) -> dict[str, Any]:
    """Return the state of the sandbox.

    Returns:
        ``state`` (up, partial, down), ``nodes`` (per node running, pid, address, groups, engine, minion, ids of
        the daemons), ``master``, ``registry``, ``addresses`` and ``site``.
    """
    count = current_count(paths)
    table = list(host.processes())
    found = {name: all_of[0] for name, all_of in node.running_nodes(table, str(paths.state)).items()}
    groups = _groups(paths)
    nodes: dict[str, dict[str, Any]] = {}
    for one in topo.nodes_for(count) if count else []:
        running = found.get(one.name)
        entry: dict[str, Any] = {
            "running": running is not None, "pid": running.pid if running else None, "address": one.api_address,
            "groups": [group for group, members in groups.items() if one.name in (members or [])],
            "engine": bool(running and node.engine_answers(running)), "minion": False,
            "dockerd_pid": None, "minion_pid": None,
        }  # fmt: skip
        if running:
            daemons = node.daemon_pids(running, table)
            entry |= {"dockerd_pid": daemons["dockerd"], "minion_pid": daemons["minion"]}
        nodes[one.name] = entry
    pids = master.find_master(paths, table)
    if pids and ask_minions:
        candidates = [name for name in nodes if name in found and master.connected(found[name].pid)]
        for name in master.ping(paths, candidates):
            nodes[name]["minion"] = True
    good = [entry for entry in nodes.values() if entry["engine"] and (entry["minion"] or not ask_minions)]
    state = "down" if not nodes and not pids else "up" if nodes and len(good) == len(nodes) else "partial"
    return {
        "state": state,
        "nodes": nodes,
        "master": {"running": bool(pids), "pid": min(pids, default=None), "address": topo.HOST_API,
                   "return_port": topo.RETURN_PORT, "config_dir": str(paths.master_config)},
        "registry": {"address": topo.REGISTRY, "answers": master.listens(*_registry_port())},
        "addresses": {"host_api": topo.HOST_API, "host_external": topo.HOST_EXT, "vip": topo.VIP,
                      "external_network": f"{topo.EXT_NET}.0/{topo.PREFIX_LENGTH}"},
        "site": str(paths.site),
        "repo": str(paths.repo),
    }  # fmt: skip


def _groups(paths: Paths) -> Mapping[str, list[str]]:
    try:
        return (yaml.safe_load((paths.site / "topology.yml").read_text()) or {}).get("groups", {})
    except (FileNotFoundError, yaml.YAMLError, AttributeError):
        return {}


# --- single nodes ---------------------------------------------------------------------------------------------


def kill_node(paths: Paths, name: str, progress: Progress | None = None) -> bool:
    """Cut the power of node ``name``: its processes end at once, its files stay. Return whether it ran."""
    progress = progress or Progress()
    host.require_root()
    _known(paths, name)
    with lock(paths, progress), progress.step(f"killed {name}"):
        return node.kill(paths, name)


def start_node(paths: Paths, name: str, progress: Progress | None = None) -> dict[str, Any]:
    """Start node ``name`` of an existing sandbox again and wait for its engine and minion."""
    progress = progress or Progress()
    host.require_root()
    one = _known(paths, name)
    project = rootfs.project_table(paths.repo)
    wanted = rootfs.dependencies(project)
    with lock(paths, progress):
        base, venv = rootfs.base_dir(paths.cache), rootfs.venv_dir(paths.cache, wanted)
        if not base.is_dir() or not venv.is_dir():
            raise SandboxError(
                f"start {name}", "its root file system or Python environment is not there", mend="kolla-salt sandbox up"
            )
        code = rootfs.digest(code_digest(paths.repo), rootfs.metadata_files(project), venv.name)
        _node(paths, one, topo.nodes_for(current_count(paths)), base, venv, code, progress)
        _wait(paths, [one], progress)
    return status(paths)["nodes"][name]


def replace_node(paths: Paths, name: str, progress: Progress | None = None) -> dict[str, Any]:
    """Put a new, empty machine in the place of node ``name``: the same name and addresses, nothing of its files."""
    progress = progress or Progress()
    host.require_root()
    one = _known(paths, name)
    with lock(paths, progress), progress.step(f"removed {name} with all that was on it"):
        remove_node(paths, name)
        # `start_node` knows a node by its directory.
        (paths.node(name) / "upper").mkdir(parents=True)
    return start_node(paths, one.name, progress)


def _known(paths: Paths, name: str) -> topo.Node:
    nodes = {n.name: n for n in topo.nodes_for(current_count(paths) or 1)}
    if name not in nodes or not paths.node(name).is_dir():
        raise SandboxError(
            f"find node {name}",
            "the sandbox has no such node",
            f"one of {', '.join(nodes)}",
            "kolla-salt sandbox status",
        )
    return nodes[name]


# --- down -----------------------------------------------------------------------------------------------------


def down(paths: Paths, progress: Progress | None = None, *, purge: bool = False) -> dict[str, Any]:
    """Remove the sandbox: processes, mounts, bridges, files.

    Args:
        paths: the sandbox's directories.
        progress: where the steps are told.
        purge: whether the caches (root file systems, wheels, registry data, built images) go too.

    Returns:
        ``changes`` and ``kept`` (directories that stay).

    Raises:
        SandboxError: something would not go.
    """
    progress = progress or Progress()
    host.require_root()
    with lock(paths, progress):
        registry = _registry_module()
        if registry is not None and registry.running():
            with progress.step("stopped the image registry"):
                # Images that are being built are still pushed, unless the caches go.
                registry.stop(unless_building=not purge)
        if master.find_master(paths) or master.left_behind(paths):
            with progress.step("stopped salt-master"):
                master.stop(paths)
        table = list(host.processes())
        names = {mark[0] for p in table if (mark := node.marked(p, str(paths.state)))}
        for name in sorted(names):
            with progress.step(f"killed {name}"):
                node.kill(paths, name)
        left = host.remove_cgroup(host.find_cgroups(), paths.cgroup)
        if left:
            raise SandboxError(
                "remove the control groups of the nodes",
                f"{left[0]} is busy",
                mend=f"see the processes in {left[0]}/cgroup.procs",
            )
        for link in _links():
            host.remove_link(link)
        for bridge in topo.BRIDGES:
            began = time.monotonic()
            host.leave_firewall(bridge)
            if host.remove_link(bridge):
                progress.done(f"removed bridge {bridge}", began)
        if paths.state.exists():
            with progress.step(f"removed {paths.state}"):
                host.remove_tree(paths.state)
                _remove_if_empty(paths.state.parent)
        kept = [paths.cache] if paths.cache.exists() else []
        if purge:
            with progress.step(f"removed {paths.cache}"):
                host.remove_tree(paths.cache)
                kept = []
    return {"changes": progress.changes, "kept": [str(path) for path in kept]}


def _links() -> list[str]:
    """Return the machine's ends of the nodes' network cards."""
    return [
        link["ifname"]
        for link in host.ip_json(["link", "show", "type", "veth"])
        if link["ifname"].startswith("ks-node")
    ]


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
