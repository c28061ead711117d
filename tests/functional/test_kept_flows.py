"""The script that hands the flows of a switch to the next one, with programs that note what they are asked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "salt/openvswitch/files/keep-flows.sh.j2"
PROGRAMS = {
    "ovs-vsctl": """case "$*" in *list-br) echo br-int ;; *) echo "vsctl $*" >> journal ;; esac""",
    # The bridge answers once the daemon has been there for a moment.
    "ovs-ofctl": """case "$*" in *show*) test -e bridges ;; *) echo "ofctl $*" >> journal ;; esac""",
    "ovs-save": """mkdir "$TMPDIR/save" && cd "$TMPDIR/save" || exit 1
        printf ' table=0, actions=NORMAL\\n table=23, actions=drop\\n' > br-int.flows.dump
        echo "ovs-ofctl replace-flows br-int $TMPDIR/save/br-int.flows.dump" """,
    "daemon": """trap 'echo ended >> journal; exit 0' TERM; echo daemon >> journal; sleep 0.3; touch bridges
        while :; do sleep 0.05; done""",
}
WAITS = "other_config:flow-restore-wait=true"


@pytest.fixture
def switch(tmp_path):
    """Return a function that starts a switch; it says what was noted until all is done that comes after its start."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = (
        SCRIPT.read_text().replace("/run/openvswitch", str(tmp_path)).replace("/usr/share/openvswitch/scripts/", "")
    )
    (tmp_path / "keep-flows.sh").write_text(script)
    running: list[subprocess.Popen] = []

    def start():
        (tmp_path / "journal").unlink(missing_ok=True)
        (tmp_path / "bridges").unlink(missing_ok=True)
        environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        running.append(
            subprocess.Popen(["bash", "keep-flows.sh", "daemon"], cwd=tmp_path, env=environ, start_new_session=True)
        )
        until = time.monotonic() + 20
        while time.monotonic() < until and not ("daemon" in noted() and any("remove" in line for line in noted())):
            time.sleep(0.05)
        return running[-1], noted()

    def noted():
        try:
            return (tmp_path / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def end(process):
    process.terminate()
    assert process.wait(20) == 0


def until_gone(path):
    until = time.monotonic() + 10
    while path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not path.exists()


def test_the_next_switch_forwards_nothing_before_it_has_the_flows_of_the_last_one(switch, tmp_path):
    kept = tmp_path / "kept-flows"
    first, noted = switch()
    assert not any(WAITS in line or "replace-flows" in line for line in noted)
    until_gone(kept)
    end(first)
    # The agent is to see that the switch started anew.
    assert (kept / "save/br-int.flows.dump").read_text() == " table=0, actions=NORMAL\n"
    assert kept.stat().st_mode & 0o777 == 0o700
    second, noted = switch()
    words = [next(w for w in ("true", "daemon", "replace-flows", "remove") if w in line) for line in noted]
    assert words == ["true", "daemon", "replace-flows", "remove"]
    until_gone(kept)
    end(second)


def test_one_that_was_killed_leaves_nothing_to_the_next_one_and_does_not_hold_it_up(switch, tmp_path):
    first, _ = switch()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    _, noted = switch()
    assert sorted(line.split()[0] for line in noted) == ["daemon", "vsctl"]
    assert not (tmp_path / "kept-flows").exists()


def test_what_was_kept_too_long_ago_is_not_used(switch, tmp_path):
    first, _ = switch()
    until_gone(tmp_path / "kept-flows")
    end(first)
    os.utime(tmp_path / "kept-flows/restore", (time.time() - 600,) * 2)
    _, noted = switch()
    assert not any("replace-flows" in line or WAITS in line for line in noted)
    until_gone(tmp_path / "kept-flows")


def test_how_a_daemon_ends_by_itself_is_told(switch, tmp_path):
    (tmp_path / "daemon").write_text("#!/bin/bash\necho daemon >> journal; exit 7\n")
    process, _ = switch()
    assert process.wait(20) == 7
