"""One node of the sandbox: its processes, namespaces, network cards and files.

A node has no pid file. Its first process carries the sandbox's directory, the node's name and a digest of what the
node was built from in its arguments, so the process table alone says which nodes run and whether they are as wanted;
nothing can be stale. All mounts of a node live in its own mount namespace and end with it, and so do its ends of the
virtual network cards (and with them the machine's ends).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kolla_salt.sandbox import host, rootfs
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.paths import Paths
from kolla_salt.sandbox.topology import Node

MARK = "kolla-salt-node"
NODE_PATH = "/opt/kolla-salt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Running:
    """A node's first process.

    Attributes:
        pid: its id on the machine.
        digest: of what it was started from.
        ready: whether the node's file system is complete (tini has taken over).
    """

    pid: int
    digest: str
    ready: bool


def marked(process: host.Process, state: str) -> tuple[str, str] | None:
    """Return (node name, digest) if the process belongs to the start of a node of the sandbox in ``state``."""
    if len(process.argv) >= 4 and process.argv[-4:-2] == (MARK, state):
        return process.argv[-2], process.argv[-1]
    return None


def running_nodes(processes: Iterable[host.Process], state: str) -> dict[str, list[Running]]:
    """Return the first processes of nodes among ``processes``: node name to them.

    There is one per name; two would be a node that was started twice, which the caller mends.
    """
    found: dict[str, list[Running]] = {}
    for process in processes:
        mark = marked(process, state)
        # The first process of a pid namespace that is not the one we look from.
        if mark and len(process.nspids) > 1 and process.nspids[-1] == 1:
            ready = process.argv[0].endswith("/tini")
            found.setdefault(mark[0], []).append(Running(process.pid, mark[1], ready))
    return found


def starting_pids(processes: Iterable[host.Process], state: str) -> list[int]:
    """Return the processes that are about to become, or wait for, a node of the sandbox in ``state``."""
    return [p.pid for p in processes if marked(p, state) and not (len(p.nspids) > 1 and p.nspids[-1] == 1)]


def find_nodes(paths: Paths) -> dict[str, list[Running]]:
    """Return the running nodes of the sandbox: name to first processes."""
    return running_nodes(host.processes(), str(paths.state))


def find_node(paths: Paths, name: str) -> Running:
    """Return the first process of node ``name``.

    Raises:
        SandboxError: it does not run.
    """
    found = find_nodes(paths)
    if name not in found:
        raise SandboxError(
            f"reach node {name}",
            f"it does not run; running: {', '.join(sorted(found)) or 'none'}",
            mend=f"kolla-salt sandbox start {name}" if paths.node(name).is_dir() else "kolla-salt sandbox up",
        )
    return found[name][0]


def build_digest(base: Path) -> str:
    """Return the digest of what cannot change while a node runs: another one means that it must restart."""
    scripts = [(HERE / script).read_text() for script in ("start-node.sh", "supervise.sh")]
    return rootfs.digest(str(base), scripts)


def file_in_node(paths: Paths, name: str, file: str, running: Running | None) -> Path:
    """Return where the node's ``file`` ("etc/hosts") can be read and written from outside.

    While the node runs that is through its own mounts: the kernel does not notice changes below them.
    """
    return Path(f"/proc/{running.pid}/root/{file}") if running else paths.node(name) / "upper" / file


def daemon_config() -> str:
    """Return the engine's first daemon.json."""
    config = {
        "insecure-registries": [topo.REGISTRY],
        # Containers use the node's network; a node has no other network to translate addresses for.
        "bridge": "none", "iptables": False, "ip-masq": False, "ip-forward": False,
        # Killing the engine must not stop what runs in its containers.
        "live-restore": True,
        "log-opts": {"max-file": "2", "max-size": "20m"},
        "storage-driver": "overlay2",
        "max-concurrent-downloads": 4,
    }  # fmt: skip
    return json.dumps(config, indent=2) + "\n"


def minion_config(node: Node, count: int = 1) -> str:
    """Return the /etc/salt/minion of one of ``count`` nodes."""
    # All nodes share the machine's processors: what starts at once on each of them would keep clusters from agreeing.
    at_once = f"state_max_parallel: {max(3, 12 // count)}\n" if count > 1 else ""
    return (
        at_once
        + f"""\
# Written by `kolla-salt sandbox up`.
id: {node.name}
master: {topo.HOST_API}
publish_port: {topo.PUBLISH_PORT}
master_port: {topo.RETURN_PORT}
user: root
master_tries: -1
# Making a key of Salt's usual 4096 bits takes seconds.
keysize: 2048
# Come back fast: everything is on one machine.
acceptance_wait_time: 1
random_reauth_delay: 2
recon_default: 300
recon_max: 2000
recon_randomize: False
retry_dns: 1
# Grains that ask the network or the hardware cost seconds and say nothing here.
enable_fqdns_grains: False
enable_gpu_grains: False
"""
    )


def prepare_files(paths: Paths, node: Node, nodes: Sequence[Node], running: Running | None) -> bool:
    """Write the node's own files, where they are missing or not as wanted.

    Returns:
        Whether a minion that runs has to start anew to read its configuration.
    """
    directory = paths.node(node.name)
    for part in ("upper", "work", "root", "docker", "run"):
        (directory / part).mkdir(parents=True, exist_ok=True)

    def place(file: str) -> Path:
        return file_in_node(paths, node.name, file, running)

    hosts = place("etc/hosts")
    try:
        old = hosts.read_text()
    except FileNotFoundError:
        old = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    host.write_file(hosts, topo.with_hosts_block(old, nodes))
    changed = host.write_file(place("etc/salt/minion"), minion_config(node, len(nodes)))
    for part in rootfs.READY_PYCACHE:
        host.ensure_link(place(f"{rootfs.NODE_PYCACHE.lstrip('/')}/{part}"), f"{rootfs.NODE_VENV}/pycache/{part}")
    if running is None:
        host.write_file(place("etc/hostname"), f"{node.name}\n")
        # Once: `kolla-salt bootstrap-servers` and the reader may change what they like afterwards.
        if not place("etc/docker/daemon.json").exists():
            host.write_file(place("etc/docker/daemon.json"), daemon_config())
        if not place("etc/machine-id").exists():
            host.write_file(place("etc/machine-id"), f"{uuid.uuid4().hex}\n", 0o444)
    return changed


def launch(paths: Paths, node: Node, base: Path, venv: Path) -> Running:
    """Start node ``node`` and return when its file system stands. Its network cards are :func:`connect`'s.

    Args:
        paths: the sandbox's directories.
        node: which node; :func:`prepare_files` was called for it.
        base: its root file system's lower layer.
        venv: its Python environment.

    Raises:
        SandboxError: the start script failed.
    """
    directory = paths.node(node.name)
    cgroups = host.find_cgroups()
    groups = host.make_cgroup(cgroups, f"{paths.cgroup}/{node.name}")
    shutil.copyfile(HERE / "supervise.sh", directory / "run" / "supervise")
    env = {
        "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin",
        "KS_NAME": node.name,
        "KS_BASE": str(base),
        "KS_VENV": str(venv),
        "KS_REPO": str(paths.repo),
        "KS_META": str(paths.meta),
        "KS_ROOT": str(directory / "root"),
        "KS_UPPER": str(directory / "upper"),
        "KS_WORK": str(directory / "work"),
        "KS_DOCKER": str(directory / "docker"),
        "KS_RUN": str(directory / "run"),
        "KS_SHARED": str(paths.shared),
        "KS_CGROUP_DIRS": " ".join(str(group) for group in groups),
        "KS_CGROUP1": " ".join(f"{name}={options}" for name, options, _ in cgroups.v1),
        "KS_CGROUP2_ROOT": str(groups[-1]) if cgroups.pure_v2 else "",
        "KS_CGROUP_UNIFIED": "yes" if cgroups.v1 and cgroups.v2 else "",
    }
    (paths.shared / "glance").mkdir(parents=True, exist_ok=True)
    log = directory / "start.log"
    command = ["/bin/sh", str(HERE / "start-node.sh"), "group", MARK, str(paths.state), node.name, build_digest(base)]
    doing = f"start node {node.name}"
    with log.open("wb") as output:
        # Its own session: what interrupts the caller does not interrupt the node.
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        running = find_nodes(paths).get(node.name, [])
        if running and running[0].ready:
            return running[0]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    found = log.read_text(errors="replace").strip()[-1500:] or f"{log} is empty"
    raise SandboxError(doing, found, "its first process tini", f"see {log}; root needs all capabilities")


def network_parameters(texts: Iterable[str]) -> list[str]:
    """Return what files of /etc/sysctl.d say of the network, as ``name=value``; later ones win.

    Only that: other kernel parameters are not the node's but the machine's.
    """
    found: dict[str, str] = {}
    for text in texts:
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            if equals and name.strip().startswith("net."):
                found[name.strip()] = value.strip()
    return [f"{name}={value}" for name, value in found.items()]


def boot(node: Node, running: Running) -> None:
    """Set the kernel parameters of a node's network, as a server does at its start."""
    files = sorted(Path(f"/proc/{running.pid}/root/etc/sysctl.d").glob("*.conf"))
    wanted = network_parameters(file.read_text() for file in files if file.is_file())
    if wanted:
        # -e: some exist in the machine's own network namespace alone.
        command = enter_command(running, ["sysctl", "-q", "-e", "-w", *wanted])
        host.run(command, f"set the kernel parameters of {node.name}", check=False)


def connect(node: Node, running: Running) -> None:
    """Give the node its network cards, addresses and kernel parameters, as far as it does not have them."""
    boot(node, running)
    pid, doing = running.pid, f"connect node {node.name}"
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    cards = {link["ifname"]: link for link in host.ip_json(["address", "show"], pid)}
    ends = {link["ifname"]: link for link in host.ip_json(["link", "show", "type", "veth"])}
    for nic, bridge in enumerate(topo.BRIDGES):
        device, end = f"eth{nic}", node.interface(nic)
        if device not in cards:
            if end in ends:
                host.remove_link(end)
                ends.pop(end)
            # Created inside the node at once: no moment in which it is nowhere.
            host.run(
                [
                    "ip",
                    "link",
                    "add",
                    "name",
                    end,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    device,
                    "address",
                    node.mac(nic),
                    "netns",
                    str(pid),
                ],
                doing,
            )
        if ends.get(end, {}).get("master") != bridge or "UP" not in ends.get(end, {}).get("flags", []):
            host.run(["ip", "link", "set", "dev", end, "master", bridge, "up"], doing)
        if "UP" not in cards.get(device, {}).get("flags", []):
            if bridge != topo.API_BRIDGE:
                host.checksums_in_software(device, pid)
            host.run([*enter, "ip", "link", "set", "dev", device, "up"], doing)
    # Again: those of a card exist since it does.
    boot(node, running)
    # The address may have moved to a bridge of the node's (a deployment may do that).
    addresses = {a["local"] for card in cards.values() for a in card.get("addr_info", [])}
    if node.api_address not in addresses:
        host.run([*enter, "ip", "address", "add", f"{node.api_address}/{topo.PREFIX_LENGTH}", "dev", "eth0"], doing)
    if not host.ip_json(["route", "show", "default"], pid):
        host.run([*enter, "ip", "route", "replace", "default", "via", topo.HOST_API], doing, check=False)


def unplug(*names: str) -> None:
    """Take the host's ends of the network cards of nodes ``names`` down."""
    for name in names:
        for nic in range(len(topo.BRIDGES)):
            # Gone, where the node is not there.
            card = Node(name, 0).interface(nic)
            host.run(["ip", "link", "set", "dev", card, "down"], f"unplug {name}", check=False)


def kill(paths: Paths, name: str) -> bool:
    """Kill node ``name`` as if its power were cut; return whether it ran. Its files stay.

    Its network goes first: the kernel would say goodbye to every peer of a process that is killed, which a machine that
    loses its power does not.
    """
    unplug(name)

    def pids() -> list[int]:
        table = list(host.processes())
        mine = [p for p in table if (mark := marked(p, str(paths.state))) and mark[0] == name]
        return [p.pid for p in mine]

    firsts = [running.pid for running in find_nodes(paths).get(name, [])]
    killed = host.kill_all(pids, f"kill node {name}")
    # The kernel now ends the rest of the node; its first process is dead only when all of them are.
    host.wait_dead(firsts, f"kill node {name}")
    host.remove_cgroup(host.find_cgroups(), f"{paths.cgroup}/{name}")
    return killed > 0


# --- another clone's code -------------------------------------------------------------------------------------

AT_FDCWD, AT_RECURSIVE, AT_EMPTY_PATH = -100, 0x8000, 0x1000
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, CLONE_NEWNS = 1, 4, 0x20000
MOUNT_ATTR_RDONLY = 1


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _syscall(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def mounted_project(running: Running) -> list[tuple[str, str]]:
    """Return what the node has mounted below its Python environment: (mount point, device:inode of its root)."""
    found = []
    for place in (rootfs.NODE_VENV, rootfs.NODE_SRC, rootfs.NODE_META):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"/proc/{running.pid}/root{place}")
            found.append((place, f"{status.st_dev}:{status.st_ino}"))
    return found


def wanted_project(sources: Sequence[tuple[Path, str]]) -> list[tuple[str, str]]:
    """Return what :func:`mounted_project` should return for ``sources``, (directory, place in the node)."""
    found = []
    for source, place in sources:
        status = os.stat(source)
        found.append((place, f"{status.st_dev}:{status.st_ino}"))
    return found


def mount_project(running: Running, sources: Sequence[tuple[Path, str]]) -> bool:
    """Let the running node see ``sources``, (directory of the machine, place in the node), read-only.

    A copy of each mount is taken here and moved into the node's mount namespace, so that a node whose containers run
    need not restart because another clone takes over.

    Returns:
        Whether anything changed.

    Raises:
        OSError: the kernel (before 5.12) cannot do it.
    """
    if mounted_project(running) == wanted_project(sources):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    trees = []
    for source, place in sources:
        tree = _syscall(libc, SYS_OPEN_TREE, AT_FDCWD, str(source).encode(), OPEN_TREE_CLONE)
        attr = _MountAttr(attr_set=MOUNT_ATTR_RDONLY)
        _syscall(libc, SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attr), ctypes.sizeof(attr))
        trees.append((tree, place))
    namespace = os.open(f"/proc/{running.pid}/ns/mnt", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        # A mount namespace is entered for good: a child does it. It must not return into the caller's code.
        status = 1
        try:
            if libc.setns(namespace, CLONE_NEWNS) == 0:
                for _, place in reversed(trees):
                    while libc.umount2(place.encode(), 2) == 0:
                        pass
                for tree, place in trees:
                    _syscall(libc, SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, place.encode(), MOVE_MOUNT_F_EMPTY_PATH)
                status = 0
        except OSError as err:
            status = err.errno or 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for handle in [namespace, *(tree for tree, _ in trees)]:
        os.close(handle)
    if status:
        raise OSError(status, os.strerror(status))
    return True


# --- inside ---------------------------------------------------------------------------------------------------


def enter_command(running: Running, command: Sequence[str], environ: dict[str, str] | None = None) -> list[str]:
    """Return the command that runs ``command`` inside the node.

    Args:
        running: the node.
        command: argument list.
        environ: further environment variables.
    """
    env = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": NODE_PATH, **(environ or {})}
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
    # `env` of the node looks the command up in the node's PATH.
    return [
        "nsenter",
        f"--target={running.pid}",
        *namespaces,
        "--",
        "/usr/bin/env",
        "-i",
        *(f"{name}={value}" for name, value in env.items()),
        *command,
    ]


def engine_answers(running: Running, timeout: float = 2) -> bool:
    """Return whether the node's container engine answers a ping."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        try:
            link.connect(f"/proc/{running.pid}/root/run/docker.sock")
            link.sendall(b"GET /_ping HTTP/1.0\r\nHost: node\r\n\r\n")
            return b" 200 " in link.recv(64)
        except OSError:
            return False


def processes_in(running: Running, table: Iterable[host.Process]) -> dict[int, host.Process]:
    """Return the node's processes: id in the node to process. Those of its containers are among them."""
    inside = {}
    try:
        space = os.readlink(f"/proc/{running.pid}/ns/pid")
    except FileNotFoundError:
        return inside
    for process in table:
        if len(process.nspids) > 1:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    inside[process.nspids[-1]] = process
    return inside


def daemon_pids(running: Running, table: Iterable[host.Process]) -> dict[str, int | None]:
    """Return the machine's ids of the node's dockerd and of its main salt-minion process."""
    found: dict[str, int | None] = {"dockerd": None, "minion": None}
    for _, process in sorted(processes_in(running, table).items()):
        words = process.argv[:2]
        if found["dockerd"] is None and words[0].rsplit("/", 1)[-1] == "dockerd":
            found["dockerd"] = process.pid
        if found["minion"] is None and any(word.endswith("/bin/salt-minion") for word in " ".join(words).split()):
            found["minion"] = process.pid
    return found


def restart_minion(running: Running) -> bool:
    """Kill the node's minion, which its supervisor starts again; return whether there was one."""

    def pids() -> list[int]:
        return [
            process.pid
            for process in processes_in(running, host.processes()).values()
            if any(word.endswith("/bin/salt-minion") for word in " ".join(process.argv[:2]).split())
        ]

    found = pids()
    # Not until none is left: the supervisor starts the next one within a second.
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    return bool(found)
