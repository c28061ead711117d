from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from kolla_salt.sandbox import host
from kolla_salt.sandbox.errors import SandboxError

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 27 0:50 / /var/lib/x rw - tmpfs tmpfs rw
51 50 0:51 / /var/lib/x/y\\040z rw - tmpfs tmpfs rw
52 27 0:52 / /var/lib/xx rw - tmpfs tmpfs rw
rubbish
"""
PURE_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_mounts_below_in_the_order_to_unmount() -> None:
    mounts = host.parse_mountinfo(MOUNTINFO)
    assert host.mounts_below(mounts, Path("/var/lib/x")) == ["/var/lib/x/y z", "/var/lib/x"]
    assert host.mounts_below(mounts, Path("/var/lib/none")) == []


def test_cgroup_hierarchies_v1_with_v2_beside() -> None:
    found = host.parse_cgroups(host.parse_mountinfo(MOUNTINFO))
    assert found.v1 == (
        ("cpu,cpuacct", "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
        ("cpuset", "cpuset", "/sys/fs/cgroup/cpuset"),
        ("systemd", "name=systemd", "/sys/fs/cgroup/systemd"),
    )
    assert found.v2 == "/sys/fs/cgroup/unified"
    assert not found.pure_v2
    assert found.group_dirs("a/b")[-1] == Path("/sys/fs/cgroup/unified/a/b")


def test_cgroup_hierarchies_v2_alone() -> None:
    found = host.parse_cgroups(host.parse_mountinfo(PURE_V2))
    assert found.pure_v2
    assert found.group_dirs("a") == [Path("/sys/fs/cgroup/a")]


def test_nspids() -> None:
    assert host.parse_nspids("Name:\tx\nNSpid:\t4711\t1\nNSsid:\t1\n") == (4711, 1)
    assert host.parse_nspids("Name:\tx\n") == ()


def test_processes_reads_arguments(tmp_path: Path) -> None:
    for pid, argv in (("7", b"/usr/bin/tini\0--\0a b\0"), ("8", b"")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(argv)
        (tmp_path / pid / "status").write_text(f"NSpid:\t{pid}\t1\n")
    (tmp_path / "9").mkdir()  # ended while we looked
    (tmp_path / "self").mkdir()
    assert list(host.processes(tmp_path)) == [host.Process(7, ("/usr/bin/tini", "--", "a b"), (7, 1))]


def test_missing_tools_names_packages() -> None:
    assert host.missing_tools(lambda _: True) == {}
    assert host.missing_tools(lambda tool: tool != "ip") == {"ip": "iproute2"}


def test_a_failed_command_says_what_it_was_for() -> None:
    with pytest.raises(SandboxError) as caught:
        host.run(["sh", "-c", "echo no luck >&2; exit 3"], "do the thing", mend="try again")
    text = str(caught.value)
    assert text.startswith("could not do the thing\n")
    assert "status 3: no luck" in text
    assert text.endswith("to mend:  try again")
    with pytest.raises(SandboxError, match="no-such-command is missing"):
        host.run(["no-such-command"], "do it")


def test_write_file_only_when_needed(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b"
    assert host.write_file(file, "x", 0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not host.write_file(file, "x", 0o600)
    assert host.write_file(file, "y")
    assert os.listdir(file.parent) == ["b"]


def test_ensure_link_replaces_what_is_there(tmp_path: Path) -> None:
    link = tmp_path / "a" / "link"
    link.mkdir(parents=True)
    (link / "file").touch()
    assert host.ensure_link(link, "/one")
    assert not host.ensure_link(link, "/one")
    assert host.ensure_link(link, "/two")
    assert os.readlink(link) == "/two"
    assert os.listdir(link.parent) == ["link"]


def test_kill_all_until_none_is_left() -> None:
    # One that ignores SIGTERM.
    child = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    killed = host.kill_all(lambda: [] if child.poll() is not None else [child.pid], "end it", gentle=0.1)
    assert killed == 1
    assert child.returncode == -9
    child.stdout.close()


def test_kill_all_gives_up_with_a_reason() -> None:
    # Signals to a process that is dead already are no error; one that is never gone is.
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(SandboxError, match=f"processes \\[{child.pid}\\] still live"):
        host.kill_all(lambda: [child.pid], "end it", timeout=0.1)


def test_wait_dead_takes_zombies_for_dead() -> None:
    child = subprocess.Popen(["true"])
    host.wait_dead([child.pid], "end it")
    child.wait()
    host.wait_dead([child.pid], "end it")
    with pytest.raises(SandboxError, match="SIGKILL"):
        host.wait_dead([os.getpid()], "end me", timeout=0.05)


def test_lock_waits_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    with host.locked(tmp_path / "cache", lambda: said.append("waits")):
        assert not said
        with (
            pytest.raises(SandboxError, match="still holds it"),
            host.locked(tmp_path / "cache", lambda: said.append("waits"), timeout=0.1),
        ):
            pass
    assert said == ["waits"]
    with host.locked(tmp_path / "cache", lambda: said.append("again")):
        pass
    assert said == ["waits"]


def test_lock_of_a_directory_that_its_holder_removed(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    old = os.open(directory, os.O_RDONLY)
    fcntl.flock(old, fcntl.LOCK_EX)
    directory.rmdir()
    with host.locked(directory, lambda: pytest.fail("the old directory's lock is nobody's")):
        assert directory.is_dir()
    os.close(old)


def test_make_and_remove_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuset").mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    groups = host.Cgroups((("cpuset", "cpuset", str(tmp_path / "cpuset")),), None)
    made = host.make_cgroup(groups, "top/node1")
    assert made == [tmp_path / "cpuset" / "top" / "node1"]
    assert host.make_cgroup(groups, "top/node1") == made
    (made[0] / "docker").mkdir()
    assert host.remove_cgroup(groups, "top") == []
    assert not (tmp_path / "cpuset" / "top").exists()
    assert host.remove_cgroup(groups, "top") == []


def test_remove_cgroup_reports_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.time, "sleep", lambda _: None)
    (tmp_path / "x" / "top").mkdir(parents=True)
    (tmp_path / "x" / "top" / "busy").touch()
    groups = host.Cgroups((("x", "x", str(tmp_path / "x")),), None)
    assert host.remove_cgroup(groups, "top") == [tmp_path / "x" / "top"]


@pytest.mark.parametrize(
    ("nf_call", "rules", "stops"),
    [
        ("1\n", "-P FORWARD DROP\n", True),
        ("1\n", "-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-USER\n", True),
        ("1\n", "-P FORWARD ACCEPT\n", False),
        ("0\n", "-P FORWARD DROP\n", False),
        ("", "-P FORWARD DROP\n", False),
        ("1\n", "", False),
    ],
)
def test_when_the_firewall_needs_a_rule(nf_call: str, rules: str, stops: bool) -> None:
    assert host.firewall_stops_bridges(nf_call, rules) is stops
