"""The probe of a run: a process of its own that ends with the run and keeps no secret anywhere."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from api_server import PASSWORD, Api, Identity

from kolla_salt import runs
from kolla_salt.availability import Account, Target
from kolla_salt.availability.watcher import Watcher, touches_containers

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def api():
    server = Api()
    yield server
    server.stop()


@pytest.fixture
def identity():
    server = Identity()
    yield server
    server.stop()


def wanted(api):
    return [
        Target("web", "web", "plain", api.url, "/", 20.0),
        Target("web", "web", "token", api.url, "/things", 10.0),
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, seconds: float = 8) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_a_run_is_watched_and_its_record_keeps_the_receipt(tmp_path, api):
    record = runs.create("deploy", tmp_path)
    watcher = Watcher(record, wanted(api), Account())
    assert watcher.start()
    watcher.mark("web killed")
    api.stop()
    time.sleep(0.5)
    api.start()
    time.sleep(1.0)
    receipt = watcher.stop()
    assert receipt.services["web"]["failed"] >= 2
    assert 0.4 <= receipt.recovery("web killed")["web"] < 1.2 + 2 * receipt.data["stall"]
    assert record.availability() == receipt.data and receipt.data["finished"]
    assert stat.S_IMODE((record.folder / "availability.json").stat().st_mode) == 0o600
    assert not (record.folder / "availability.log").exists()
    assert watcher.stop() is None


def test_what_is_away_at_the_end_is_waited_for(tmp_path, api):
    watcher = Watcher(runs.create("deploy", tmp_path), wanted(api), Account())
    assert watcher.start()
    time.sleep(0.3)
    api.stop()
    time.sleep(0.5)
    comes_back = threading.Timer(1.0, api.start)
    comes_back.start()
    began = time.monotonic()
    receipt = watcher.stop(patience=30)
    comes_back.join()
    assert 0.8 < time.monotonic() - began < 15
    assert receipt.away == [] and not receipt.services["web"]["open"] and receipt.services["web"]["failed"]


def test_what_does_not_come_back_is_named_after_a_while(tmp_path, api):
    watcher = Watcher(runs.create("deploy", tmp_path), wanted(api), Account())
    assert watcher.start()
    time.sleep(0.3)
    api.stop()
    time.sleep(0.3)
    began = time.monotonic()
    receipt = watcher.stop(patience=2)
    assert receipt.away == ["web"] and time.monotonic() - began >= 2


def test_what_never_answered_is_not_waited_for(tmp_path, api):
    api.stop()
    watcher = Watcher(runs.create("deploy", tmp_path), wanted(api), Account())
    assert watcher.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert watcher.stop(patience=60).away == []
    assert time.monotonic() - began < 30


def test_no_secret_lands_in_arguments_environment_or_record(tmp_path, api, identity):
    api.mode = lambda head: 200 if identity.knows(head) else 500
    record = runs.create("deploy", tmp_path)
    watcher = Watcher(record, wanted(api), Account(f"{identity.url}/v3", "admin", "admin", password=PASSWORD))
    assert watcher.start()
    pid = watcher.process.pid
    time.sleep(0.3)
    seen = {
        name: Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode() for name in ("cmdline", "environ")
    }
    receipt = watcher.stop()
    token = next(entry for entry in receipt.entries if entry["kind"] == "token")
    assert token["requests"] > 0 and token["failed"] == 0  # the secrets were there to be leaked
    stored = "".join(path.read_text() for path in record.folder.iterdir())
    for secret in (PASSWORD, *identity.valid):
        assert secret not in seen["cmdline"] + seen["environ"] + stored
    assert "kolla_salt.availability" in seen["cmdline"] and '"web"' in stored


def test_a_killed_run_leaves_its_receipt_and_no_probe(tmp_path, api):
    """The parent gets SIGKILL: nothing can be told to the probe."""
    program = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path
        from kolla_salt import runs
        from kolla_salt.availability import Account, Target
        from kolla_salt.availability.watcher import Watcher
        targets = [Target.from_dict(data) for data in json.loads(sys.argv[2])]
        watcher = Watcher(runs.Run(Path(sys.argv[1]).parent, Path(sys.argv[1]).name), targets, Account())
        print(watcher.start(), watcher.process.pid, flush=True)
        time.sleep(60)
        """
    )
    record = runs.create("deploy", tmp_path)
    targets = json.dumps([target.as_dict() for target in wanted(api)])
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(record.folder), targets], stdout=subprocess.PIPE, text=True
    )
    started, pid = parent.stdout.readline().split()
    assert started == "True" and alive(int(pid))
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    assert ends(int(pid))
    data = record.availability()
    assert data["finished"] and data["requests"] > 0 and data["failed"] == 0


def test_a_probe_whose_pipe_closes_ends(tmp_path, api):
    watcher = Watcher(runs.create("deploy", tmp_path), wanted(api), Account())
    assert watcher.start()
    watcher.process.stdin.close()
    assert ends(watcher.process.pid)
    assert watcher.stop().data["requests"] > 0


def test_a_killed_probe_leaves_what_it_had_seen(tmp_path, api):
    record = runs.create("deploy", tmp_path)
    watcher = Watcher(record, wanted(api), Account())
    assert watcher.start()
    deadline = time.monotonic() + 10
    while record.availability() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(watcher.process.pid, signal.SIGKILL)
    data = watcher.stop().data
    assert data["finished"] is None and data["requests"] >= 20


def test_ctrl_c_on_the_terminal_does_not_end_the_probe(tmp_path, api):
    watcher = Watcher(runs.create("deploy", tmp_path), wanted(api), Account())
    assert watcher.start()
    assert os.getpgid(watcher.process.pid) != os.getpgid(0)
    assert os.getsid(watcher.process.pid) != os.getsid(0)
    watcher.stop()


def test_a_run_that_cannot_be_watched_goes_on(tmp_path, api):
    watcher = Watcher(runs.Run(tmp_path, "20000101-000000-gone"), wanted(api), Account())
    assert not watcher.start()
    assert watcher.stop() is None


@pytest.mark.parametrize(
    ("states", "failed", "expected"),
    [
        ([], [], False),
        ([{"function": "kolla_config.managed"}], [], False),
        (
            [{"function": "kolla_container.running", "changes": {"state": {"old": "running", "new": "adopted"}}}],
            [],
            False,
        ),
        ([{"function": "kolla_config.managed"}, {"function": "kolla_container.running"}], [], True),
        ([], [{"function": "kolla_keystone.registered"}], True),
    ],
)
def test_only_what_touches_containers_or_cannot_be_predicted_is_watched(states, failed, expected):
    assert touches_containers([{"states": [], "failed": []}, {"states": states, "failed": failed}]) is expected


def test_the_command_watches_a_site(tmp_path):
    api = Api()
    try:
        formula = Path(__file__).resolve().parents[3] / "tests" / "data" / "runs_formula"
        (tmp_path / "topology.yml").write_text("hosts: {c1: {addresses: {api: 127.0.0.1}}}\ngroups: {control: [c1]}\n")
        (tmp_path / "globals.yml").write_text(f"internal_vip_address: 127.0.0.1\nfront_port: {api.port}\nroot: /none\n")
        (tmp_path / "passwords.yml").write_text("{}\n")
        command = [sys.executable, "-m", "kolla_salt.availability", "--site", str(tmp_path), "--json"]
        environ = {**os.environ, "KOLLA_SALT_FORMULA": str(formula), "KOLLA_SALT_CACHE_DIR": str(tmp_path / "cache")}
        out = tmp_path / "out.json"
        done = subprocess.run(
            [*command, str(out), "--seconds", "0.7"],
            env=environ,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "availability: no request failed" in done.stdout
        data = json.loads(out.read_text())
        assert data["entries"][0]["where"] == f"127.0.0.1:{api.port}/healthcheck" and data["requests"] >= 4
        # Until Ctrl-C; a failed request is status 1.
        process = subprocess.Popen([*command, "-"], env=environ, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 10
        seen = len(api.requests)
        while len(api.requests) < seen + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        api.mode = 503
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        answer = json.loads(process.communicate(timeout=20)[0])
        assert process.returncode == 1 and answer["services"]["side"]["failed"] >= 2
    finally:
        api.stop()


def test_a_run_does_not_wait_for_the_turn_of_what_is_asked_seldom(tmp_path, api, identity):
    """The first request with a token is sent when the token comes, whatever its rate."""
    targets = [Target(f"web{number}", "web", "token", api.url, "/things", 0.02) for number in range(4)]
    account = Account(f"{identity.url}/v3", "admin", "admin", password=PASSWORD)
    watcher = Watcher(runs.create("deploy", tmp_path), targets, account)
    assert watcher.launch()
    assert watcher.ready() and watcher.ready()
    receipt = watcher.stop()
    assert {said["there_before"] for said in receipt.services.values()} == {True}
