"""A real salt-master with real minions on the loopback, for tests. Starts in about ten seconds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
#: Where the programs of Salt are.
BIN = Path(sys.executable).parent


def short_folder() -> Path:
    """Make a folder whose path is short enough for unix sockets."""
    return Path(tempfile.mkdtemp(prefix="ks", dir="/tmp"))


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return link.getsockname()[1]


class Cluster:
    """One master, which serves a site, and its minions: the hosts of the site's ``groups``.

    All is below ``base``, a :func:`short_folder`. Each minion has folders of its own at the paths ``private``;
    ``master`` and ``minion`` are further configuration.
    """

    def __init__(
        self, formula: Path, groups: Mapping[str, list[str]], passwords: Mapping[str, str] | None = None,
        base: Path | None = None, private: Sequence[str] = (), master: dict | None = None, minion: dict | None = None,
    ) -> None:  # fmt: skip
        self.base = base = base or short_folder()
        self.minions = minions = list(dict.fromkeys(name for names in groups.values() for name in names))
        self.private = private
        self.site = base / "site"
        self.site.mkdir()
        hosts = {name: {"addresses": {"api": f"127.0.0.{number}"}} for number, name in enumerate(minions, start=2)}
        (self.site / "topology.yml").write_text(yaml.safe_dump({"hosts": hosts, "groups": dict(groups)}))
        (self.site / "passwords.yml").write_text(yaml.safe_dump(dict(passwords or {})))
        self.options()
        self.config = base / "m" / "master"
        self.processes: dict[str, subprocess.Popen] = {}
        self.publish, self.ret = free_port(), free_port()
        self.environ = {
            **os.environ,
            "KOLLA_SALT_FORMULA": str(formula),
            "KOLLA_SALT_CACHE_DIR": str(base / "cache"),
            "PYTHONWARNINGS": "ignore",
        }
        self.environ.pop("KOLLA_SALT_SITE", None)
        common = {
            "user": "root",
            "log_level": "error",
            "publish_port": self.publish,
            "pki_dir": "/pki",
            "cachedir": "/cache",
            "sock_dir": "/run",
            "pidfile": "/run/salt.pid",
            "log_file": "/log/salt",
            "extension_modules": "/cache/extmods",
        }
        self._write(
            self.config,
            {
                **common,
                "root_dir": str(base / "m"),
                "interface": "127.0.0.1",
                "ret_port": self.ret,
                "auto_accept": True,
                "open_mode": True,
                "worker_threads": 3,
                "local": False,
                "fileserver_list_cache_time": 0,
                "key_logfile": "/log/key",
                "kolla_runs": str(base / "runs"),
                "file_roots": {"base": [str(formula)]},
                "pillar_roots": {"base": []},
                "ext_pillar": [{"kolla": str(self.site)}],
                **(master or {}),
            },
        )
        for name in minions:
            self._write(
                base / name / "minion",
                {
                    **common,
                    "root_dir": str(base / name),
                    "id": name,
                    "master": "127.0.0.1",
                    "master_port": self.ret,
                    **(minion or {}),
                },
            )

    @staticmethod
    def _write(path: Path, data: dict) -> None:
        for folder in ("pki", "cache", "run", "log"):
            (path.parent / folder).mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(data))

    def options(self, **values: Any) -> None:
        """Write the site's ``globals.yml``."""
        text = yaml.safe_dump({"internal_vip_address": "127.0.0.99", **values})
        (self.site / "globals.yml").write_text(text)

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Start all, and in the end stop and remove it."""
        try:
            self.start()
            yield self
        finally:
            self.stop()
            shutil.rmtree(self.base, ignore_errors=True)

    def start(self) -> None:
        self._spawn("m", "salt-master")
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", self.ret)) != 0:
            assert time.monotonic() < deadline, "the master does not listen"
            time.sleep(0.1)
        for name in self.minions:
            self._spawn(name, "salt-minion")
        self.wait_for(self.minions)

    def wait_for(self, names: list[str], seconds: float = 90) -> None:
        # In a process of its own: Salt takes over the logging of the one that imports it.
        command = [
            str(BIN / "salt"),
            "-c",
            str(self.config.parent),
            "-t",
            "2",
            "-L",
            ",".join(names),
            "test.ping",
            "--out=json",
            "--static",
        ]
        deadline = time.monotonic() + seconds
        said = ""
        while said.count("true") < len(names):
            assert time.monotonic() < deadline, f"not all of {names} answer: {said}"
            said = subprocess.run(
                command, env=self.environ, text=True, capture_output=True, timeout=60, check=False
            ).stdout

    def _spawn(self, name: str, program: str) -> None:
        command = [str(BIN / program), "-c", str(self.base / name)]
        if self.private and program == "salt-minion":
            mounts = "".join(f"mkdir -p {path} && mount -t tmpfs tmpfs {path} && " for path in self.private)
            command = ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *command]
        log = (self.base / name / "log" / "out").open("ab")
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=self.environ
        )

    def stop_one(self, name: str) -> None:
        process = self.processes.pop(name)
        # Salt's daemons are one session each; a test has nothing to save in them.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.stop_one(name)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run ``kolla-salt`` as a user would."""
        command = [sys.executable, "-m", "kolla_salt.cli.main", "--master-config", str(self.config), *arguments]
        return subprocess.run(command, env=self.environ, text=True, capture_output=True, timeout=180, check=False)

    def run(self, *arguments: str, status: int = 0) -> Any:
        """Run ``kolla-salt`` with ``--json``; return what it says. It must end with ``status``."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == status, done.stdout[-4000:] + done.stderr[-3000:]
        return json.loads(done.stdout)
