"""The machine the sandbox runs on: commands, tools, processes, mounts, control groups, bridges, the lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kolla_salt.sandbox.errors import SandboxError

#: The keys that Debian's packages are signed with: Ubuntu's apt does not know them.
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Tool on the PATH (or file): Debian and Ubuntu package that has it.
TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "pivot_root": "util-linux",
    "mount": "mount",
    "mmdebstrap": "mmdebstrap",
    "ethtool": "ethtool",
    KEYRING: "debian-archive-keyring",
}


def run(
    command: Sequence[str],
    doing: str,
    *,
    mend: str = "",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result with captured output.

    Args:
        command: argument list.
        doing: what it is for, as the object of "could not ...".
        mend: what the reader can do if it fails.
        check: whether a status other than 0 is an error.
        env: whole environment, the process's own by default.
        timeout: seconds.

    Raises:
        SandboxError: the command is missing, too slow, or (with ``check``) failed.
    """
    try:
        result = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError as err:
        raise SandboxError(doing, f"the command {command[0]} is missing", mend=mend) from err
    except subprocess.TimeoutExpired as err:
        raise SandboxError(doing, f"`{_shown(command)}` still ran after {timeout} s", mend=mend) from err
    if check and result.returncode:
        tail = (result.stderr or result.stdout).strip()[-1500:] or "no output"
        raise SandboxError(doing, f"`{_shown(command)}` ended with status {result.returncode}: {tail}", mend=mend)
    return result


def _shown(command: Sequence[str]) -> str:
    """Return ``command`` in one line that is not too long to be read."""
    return textwrap.shorten(" ".join(command), 200, placeholder=" ...")


def require_root() -> None:
    """Refuse to go on without root."""
    if os.geteuid() != 0:
        raise SandboxError("manage the sandbox", f"user id {os.geteuid()}", "root", "run the command with sudo")


def missing_tools(have: Callable[[str], bool]) -> dict[str, str]:
    """Return the tools that ``have`` denies: tool to package."""
    return {tool: package for tool, package in TOOLS.items() if not have(tool)}


def have_tool(tool: str) -> bool:
    """Return whether ``tool`` (a command or an absolute path) is on this machine."""
    if tool.startswith("/"):
        return Path(tool).exists()
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def ensure_tools() -> list[str]:
    """Install what is missing of :data:`TOOLS` with apt-get; return the installed packages.

    Raises:
        SandboxError: there is no apt-get, or it failed.
    """
    missing = missing_tools(have_tool)
    if not missing:
        return []
    packages = sorted(set(missing.values()))
    doing = f"install the tools {', '.join(missing)}"
    if not shutil.which("apt-get"):
        raise SandboxError(doing, "no apt-get on this machine", mend=f"install what Debian calls {', '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-qy", "--no-install-recommends", *packages]
    if run(command, doing, check=False, env=env, timeout=600).returncode:
        run(["apt-get", "update", "-q"], "update the package lists", env=env, timeout=600)
        run(command, doing, mend=f"install {' '.join(packages)} by hand", env=env, timeout=600)
    still = missing_tools(have_tool)
    if still:
        raise SandboxError(doing, f"{', '.join(still)} still missing after apt-get install {' '.join(packages)}")
    return packages


# --- processes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process as seen on the machine: its id, its arguments and its ids from the outer to the inner pid namespace."""

    pid: int
    argv: tuple[str, ...]
    nspids: tuple[int, ...]


def parse_nspids(status: str) -> tuple[int, ...]:
    """Return the ids of a process in all its pid namespaces, from the text of /proc/<pid>/status."""
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return tuple(int(word) for word in line.split()[1:])
    return ()


def processes(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Yield the processes that have arguments (kernel threads and zombies have none)."""
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        try:
            argv = Path(entry.path, "cmdline").read_bytes()
            if argv:
                words = tuple(os.fsdecode(word) for word in argv.rstrip(b"\0").split(b"\0"))
                yield Process(int(entry.name), words, parse_nspids(Path(entry.path, "status").read_text()))
        except OSError:
            continue  # ended meanwhile


def kill_all(find: Callable[[], Iterable[int]], doing: str, *, gentle: float = 0, timeout: float = 20) -> int:
    """Kill the processes that ``find`` returns until it returns none.

    Args:
        find: returns process ids; called again and again, because a killed process may have children.
        doing: for the error message.
        gentle: seconds to wait after SIGTERM before SIGKILL; 0 kills at once.
        timeout: seconds after which to give up.

    Returns:
        How many different processes were signalled.

    Raises:
        SandboxError: some still live after ``timeout``.
    """
    began = time.monotonic()
    seen: set[int] = set()
    pause = 0.01
    while pids := set(find()):
        age = time.monotonic() - began
        if age > timeout:
            raise SandboxError(
                doing,
                f"processes {sorted(pids)} still live after {timeout:g} s of SIGKILL",
                mend="see `ps -o pid,stat,wchan,args -p ...`; state D waits for a device",
            )
        for pid in pids:
            # SIGTERM once; a second one would interrupt an orderly end.
            if age >= gentle or pid not in seen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if age >= gentle else signal.SIGTERM)
        seen |= pids
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    return len(seen)


def wait_dead(pids: Iterable[int], doing: str, timeout: float = 30) -> None:
    """Wait until the processes ``pids`` are gone, or zombies that only wait to be noticed.

    Raises:
        SandboxError: some still live after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    for pid in pids:
        while True:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except (OSError, IndexError):
                break
            if state in "ZX":
                break
            if time.monotonic() > deadline:
                raise SandboxError(
                    doing,
                    f"process {pid} is in state {state} {timeout:g} s after SIGKILL",
                    mend=f"see /proc/{pid}/stack; state D waits for a device",
                )
            time.sleep(0.02)


# --- mounts and control groups --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    point: str
    kind: str
    options: tuple[str, ...]


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts in the text of /proc/<pid>/mountinfo, in their order (later ones lie on top)."""
    mounts = []
    for line in text.splitlines():
        left, found, right = line.partition(" - ")
        fields, after = left.split(), right.split()
        if not found or len(fields) < 5 or len(after) < 2:
            continue
        point = fields[4]
        for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, char)
        mounts.append(Mount(point, after[0], tuple(after[2].split(",")) if len(after) > 2 else ()))
    return mounts


def mounts_below(mounts: Iterable[Mount], directory: Path) -> list[str]:
    """Return the mount points at or below ``directory``, the last mounted first: the order to unmount them in."""
    top = str(directory)
    points = [mount.point for mount in mounts if mount.point == top or mount.point.startswith(f"{top}/")]
    return points[::-1]


def unmount_below(directory: Path) -> list[str]:
    """Unmount everything at or below ``directory`` in this mount namespace; return the points."""
    points = mounts_below(parse_mountinfo(Path("/proc/self/mountinfo").read_text()), directory)
    for point in points:
        run(["umount", "--lazy", point], f"unmount {point}", check=False)
    return points


@dataclass(frozen=True)
class Cgroups:
    """The control group hierarchies of the machine.

    Attributes:
        v1: (name of the directory, mount options that select the hierarchy, mount point) of each v1 hierarchy.
        v2: mount point of the v2 hierarchy, if it has any.
        pure_v2: whether there is nothing but v2.
    """

    v1: tuple[tuple[str, str, str], ...]
    v2: str | None

    @property
    def pure_v2(self) -> bool:
        """Whether there is nothing but v2."""
        return self.v2 is not None and not self.v1

    def group_dirs(self, group: str) -> list[Path]:
        """Return the directory of ``group`` in every hierarchy."""
        points = [point for _, _, point in self.v1] + ([self.v2] if self.v2 else [])
        return [Path(point, group) for point in points]


NOT_A_HIERARCHY = ("rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "nsdelegate")


def parse_cgroups(mounts: Iterable[Mount]) -> Cgroups:
    """Return the control group hierarchies among ``mounts``."""
    v1: dict[str, tuple[str, str, str]] = {}
    v2 = None
    for mount in mounts:
        if mount.kind == "cgroup2" and v2 is None:
            v2 = mount.point
        elif mount.kind == "cgroup":
            options = ",".join(
                o for o in mount.options if o not in NOT_A_HIERARCHY and not o.startswith("release_agent=")
            )
            v1.setdefault(options, (options.removeprefix("name="), options, mount.point))
    return Cgroups(tuple(v1.values()), v2)


def find_cgroups() -> Cgroups:
    """Return the control group hierarchies of this machine.

    Raises:
        SandboxError: none are mounted.
    """
    found = parse_cgroups(parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    if not found.v1 and not found.v2:
        raise SandboxError(
            "find the control groups of this machine",
            "neither cgroup nor cgroup2 is mounted",
            "/sys/fs/cgroup",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    return found


def make_cgroup(cgroups: Cgroups, group: str) -> list[Path]:
    """Create ``group`` ("a/b") in every hierarchy and return its directories."""
    for directory in cgroups.group_dirs(""):
        path = directory
        for part in group.split("/"):
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # v1 only: a new cpuset is empty and takes no process.
                file = path / name
                if cgroups.v1 and file.exists() and not file.read_text().strip():
                    file.write_text((parent / name).read_text())
            if cgroups.pure_v2:
                _delegate(parent)
    return cgroups.group_dirs(group)


def share_processors(group: str, pid: int) -> None:
    """Move a process into ``group`` as far as processor time is concerned, and with it what it starts."""
    for directory in make_cgroup(find_cgroups(), group):
        if (directory / "cpu.shares").exists() or (directory / "cpu.weight").exists():
            (directory / "cgroup.procs").write_text(str(pid))


def _delegate(directory: Path) -> None:
    """Let the children of a v2 group have all its controllers, as far as the kernel lets us."""
    for controller in (directory / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def in_cgroup(cgroups: Cgroups, group: str) -> set[int]:
    """Return the ids of the processes in ``group``, without those in groups below it."""
    found: set[int] = set()
    for directory in cgroups.group_dirs(group):
        with contextlib.suppress(OSError):
            found |= {int(line) for line in (directory / "cgroup.procs").read_text().split()}
    return found


def remove_cgroup(cgroups: Cgroups, group: str) -> list[Path]:
    """Remove ``group`` and the groups below it; return the directories that would not go."""
    left = []
    for directory in cgroups.group_dirs(group):
        if not directory.is_dir():
            continue
        for path, _, _ in os.walk(directory, topdown=False):
            for pause in (0.02, 0.1, 0.3, 0):
                try:
                    os.rmdir(path)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    # A process that was just killed stays in its group for a moment.
                    time.sleep(pause)
            else:
                left.append(Path(path))
    return left


# --- network --------------------------------------------------------------------------------------------------


def ip_json(arguments: Sequence[str], pid: int | None = None) -> list[dict[str, Any]]:
    """Return what ``ip -json ...`` prints, in the network namespace of process ``pid`` if given; [] if it fails."""
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    result = run([*enter, "ip", "-json", *arguments], "look at the network", check=False)
    if result.returncode or not result.stdout.strip():
        return []
    # `ip` prints empty objects for what a filter leaves out.
    return [item for item in json.loads(result.stdout) if item]


def ensure_bridge(name: str, address: str | None) -> bool:
    """Create bridge ``name`` with ``address`` ("10.99.0.1/24") unless it is there; return whether it was created.

    Without an address the machine only connects the nodes with each other.
    """
    doing = f"create the bridge {name}"
    links = ip_json(["-details", "address", "show", "dev", name])
    if links and links[0].get("linkinfo", {}).get("info_kind") != "bridge":
        raise SandboxError(doing, f"a network device {name} that is no bridge", mend=f"ip link delete {name}")
    has = {f"{a['local']}/{a['prefixlen']}" for link in links for a in link.get("addr_info", [])}
    if links and (address is None or address in has) and "UP" in links[0].get("flags", []):
        return False
    if not links:
        clash = [
            link["ifname"]
            for link in ip_json(["-4", "address", "show"])
            for a in link.get("addr_info", [])
            if address and a["local"].rsplit(".", 1)[0] == address.rsplit(".", 1)[0]
        ]
        if clash:
            raise SandboxError(
                doing,
                f"{clash[0]} already has an address in {address}",
                mend="remove that address; the sandbox needs 10.98.0.0/24 and 10.99.0.0/24",
            )
        run(
            [
                "ip",
                "link",
                "add",
                "name",
                name,
                "type",
                "bridge",
                "stp_state",
                "0",
                "forward_delay",
                "0",
                "mcast_snooping",
                "0",
            ],
            doing,
        )
    if address and address not in has:
        run(["ip", "address", "add", address, "dev", name], doing)
    run(["ip", "link", "set", "dev", name, "up"], doing)
    return True


def checksums_in_software(device: str, pid: int | None = None) -> None:
    """Let the kernel compute checksums of what leaves ``device``.

    Open vSwitch in user space gets packets as they are on the wire; one whose checksum a (virtual) card was to fill
    in is dropped by the receiver.
    """
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    run([*enter, "ethtool", "--offload", device, "tx", "off"], f"switch off checksum offload of {device}", check=False)


def remove_link(name: str) -> bool:
    """Remove network device ``name``; return whether it was there."""
    return run(["ip", "link", "delete", "dev", name], f"remove {name}", check=False).returncode == 0


def firewall_stops_bridges(nf_call: str, rules: str) -> bool:
    """Return whether the machine's firewall drops what nodes send each other over a bridge.

    A container engine on the machine makes that so: it lets iptables see bridged frames and drops what it did not
    allow itself.

    Args:
        nf_call: content of /proc/sys/net/bridge/bridge-nf-call-iptables, "" if there is none.
        rules: output of `iptables -S FORWARD`.
    """
    return nf_call.strip() == "1" and any(
        line == "-P FORWARD DROP" or line.startswith("-A FORWARD") for line in rules.splitlines()
    )


def _bridge_rule(bridge: str) -> list[str]:
    return ["FORWARD", "-i", bridge, "-o", bridge, "-m", "comment", "--comment", "kolla-salt sandbox", "-j", "ACCEPT"]


def _has_rule(bridge: str) -> bool:
    return run(["iptables", "-w", "-C", *_bridge_rule(bridge)], "read the firewall", check=False).returncode == 0


def pass_firewall(bridge: str) -> bool:
    """Let frames from ``bridge`` to itself pass the machine's firewall, where that stops them.

    Returns:
        Whether a rule was added. It speaks of the sandbox's bridge only, and :func:`leave_firewall` removes it.
    """
    try:
        nf_call = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text()
    except FileNotFoundError:
        return False
    if not have_tool("iptables"):
        return False
    rules = run(["iptables", "-w", "-S", "FORWARD"], "read the firewall", check=False).stdout
    if not firewall_stops_bridges(nf_call, rules) or _has_rule(bridge):
        return False
    run(["iptables", "-w", "-I", *_bridge_rule(bridge)], f"let {bridge} pass the firewall of this machine")
    return True


def leave_firewall(bridge: str) -> bool:
    """Remove the rule of :func:`pass_firewall`; return whether it was there."""
    if not have_tool("iptables") or not _has_rule(bridge):
        return False
    run(
        ["iptables", "-w", "-D", *_bridge_rule(bridge)],
        f"remove the rule of {bridge} from the firewall of this machine",
    )
    return True


# --- lock -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(directory: Path, waiting: Callable[[], None], timeout: float = 1800) -> Iterator[None]:
    """Hold the lock of ``directory`` (created if needed); the kernel drops it when the holder dies.

    Args:
        directory: what to lock. No lock file, so that nothing is left behind.
        waiting: called once if somebody else holds it.
        timeout: seconds to wait.

    Raises:
        SandboxError: somebody else still holds it after ``timeout``.
    """
    deadline = time.monotonic() + timeout
    told = False
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the directory: then this lock keeps nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(directory).st_ino == os.fstat(handle).st_ino:
                    break
        except BlockingIOError:
            if not told:
                waiting()
                told = True
            if time.monotonic() > deadline:
                os.close(handle)
                raise SandboxError(
                    f"lock {directory}",
                    f"another process still holds it after {timeout:g} s",
                    mend=f"see who: `fuser -v {directory}`",
                ) from None
            time.sleep(0.2)
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


# --- files ----------------------------------------------------------------------------------------------------


def write_file(path: Path, text: str, mode: int = 0o644) -> bool:
    """Write ``text`` to ``path`` in one step unless it is there already; return whether it changed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if path.read_text() == text:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(beside, path)
    return True


def ensure_link(link: Path, target: str) -> bool:
    """Make ``link`` a symbolic link to ``target``, instead of whatever it is; return whether it changed."""
    if link.is_symlink() and os.readlink(link) == target:
        return False
    if link.is_dir() and not link.is_symlink():
        remove_tree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.rename(link)
    return True


def remove_tree(directory: Path) -> None:
    """Remove ``directory`` with everything in it, but never what is mounted below it.

    Raises:
        SandboxError: something below it is mounted and stays so, or cannot be removed.
    """
    if not directory.exists():
        return
    unmount_below(directory)
    left = mounts_below(parse_mountinfo(Path("/proc/self/mountinfo").read_text()), directory)
    if left:
        raise SandboxError(f"remove {directory}", f"{left[0]} is still mounted", mend=f"umount {left[0]}")
    # `rm` is several times faster than shutil.rmtree on an engine's data; it stays on one file system, twice safe.
    command = ["rm", "-rf", "--one-file-system", "--", str(directory)]
    # A command that somebody still runs there may write while it is removed.
    if run(command, f"remove {directory}", timeout=900, check=False).returncode:
        run(command, f"remove {directory}", timeout=900, mend=f"end what still writes there: fuser -v {directory}")
