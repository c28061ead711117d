"""The sandbox's salt-master, on the machine beside the nodes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kolla_salt.sandbox import host
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.paths import Paths

#: How often the master is asked for the minions before it counts as broken.
ATTEMPTS = 3


def config(paths: Paths) -> dict[str, Any]:
    """Return the salt-master's configuration."""
    return {
        "interface": topo.HOST_API,
        "publish_port": topo.PUBLISH_PORT,
        "ret_port": topo.RETURN_PORT,
        "user": "root",
        "root_dir": str(paths.master),
        # Below root_dir:
        "pki_dir": "/pki", "cachedir": "/cache", "sock_dir": "/run", "pidfile": "/run/master.pid",
        "log_file": "/log/master", "key_logfile": "/log/key", "extension_modules": "/cache/extmods",
        "log_level": "warning", "log_level_logfile": "warning",
        # Only nodes of this sandbox reach this address; a node that was made anew has a new key.
        "auto_accept": True, "open_mode": True,
        "keysize": 2048,
        "worker_threads": 3,
        # Salt's default fires no events for the steps of an orchestration.
        "local": False,
        # Code and declarations change while the sandbox runs.
        "fileserver_list_cache_time": 0,
        "file_roots": {"base": [str(paths.repo / "salt")]},
        "pillar_roots": {"base": []},
        "ext_pillar": [{"kolla": str(paths.site)}],
        # Records of runs go when the sandbox goes.
        "kolla_runs": str(paths.state / "runs"),
        # Starts again what has stopped by itself, as soon as the site says `drift_heal: true`.
        "reactor": [{"kolla/drift/*": ["salt://orch/heal.sls"]}],
        # All nodes and the master share this machine's processors: an answer may take a while.
        "timeout": 10, "gather_job_timeout": 20,
        "keep_jobs_seconds": 86400,
    }  # fmt: skip


def client_config(paths: Paths) -> Path:
    """Return the directory for `salt -c`, `salt-run -c` and :class:`salt.client.LocalClient`."""
    return paths.master_config


def write_config(paths: Paths) -> bool:
    """Write the configuration; return whether it changed."""
    for part in ("etc", "pki", "cache", "run", "log"):
        (paths.master / part).mkdir(parents=True, exist_ok=True)
    (paths.master / "pki").chmod(0o700)
    (paths.master / "cache").chmod(0o700)
    text = "# Written by `kolla-salt sandbox up`.\n" + yaml.safe_dump(config(paths), sort_keys=False)
    return host.write_file(paths.master_config / "master", text)


def is_master(process: host.Process, config_dir: str) -> bool:
    """Return whether the process belongs to the salt-master of ``config_dir``.

    Salt's processes rewrite their arguments into one title, hence the words.
    """
    words = " ".join(process.argv).split()
    return any(word.endswith("/salt-master") for word in words[:3]) and config_dir in words


def find_master(paths: Paths, table: Iterable[host.Process] | None = None) -> list[int]:
    """Return the ids of the salt-master's processes."""
    return [p.pid for p in (host.processes() if table is None else table) if is_master(p, str(paths.master_config))]


def left_behind(paths: Paths) -> set[int]:
    """Return the ids of all processes of a salt-master: some of a killed one live on, under names of their own."""
    with contextlib.suppress(SandboxError):
        return host.in_cgroup(host.find_cgroups(), f"{paths.cgroup}/master")
    return set()


def listens(port: int = topo.RETURN_PORT, address: str = topo.HOST_API) -> bool:
    """Return whether something accepts connections there."""
    with socket.socket() as link:
        link.settimeout(1)
        return link.connect_ex((address, port)) == 0


def salt_command(name: str) -> str:
    """Return the path of Salt's command ``name`` beside the running interpreter.

    Raises:
        SandboxError: Salt is not installed there.
    """
    # Not resolve(): in a virtual environment the interpreter is a link to one without Salt.
    command = Path(sys.executable).parent / name
    if not command.exists():
        raise SandboxError(
            f"find {name}",
            f"{command} does not exist",
            f"Salt in the Python environment of {sys.executable}",
            "run `make venv`, or call this with a Python that has Salt",
        )
    return str(command)


def start(paths: Paths, code: str) -> None:
    """Start the salt-master and return when it listens.

    Args:
        paths: the sandbox's directories.
        code: digest of the code it starts with.

    Raises:
        SandboxError: it ended, or does not listen after a minute.
    """
    command = [salt_command("salt-master"), "--config-dir", str(paths.master_config)]
    doing = f"start salt-master on {topo.HOST_API}:{topo.RETURN_PORT}"
    host.kill_all(lambda: left_behind(paths), "end what a killed salt-master left")
    if listens():
        raise SandboxError(doing, "something else listens there", mend=f"end it; see `ss -ltnp src {topo.HOST_API}`")
    log = paths.master / "log" / "master.out"
    with log.open("wb") as output:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/", env=env
        )
    # Beside the nodes, which weigh more than all that is not theirs: it would not get to run while they are busy.
    host.share_processors(f"{paths.cgroup}/master", process.pid)
    host.write_file(paths.master / "run" / "started", f"{code} {process.pid}\n")
    deadline = time.monotonic() + 60
    while not listens():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip()[-1500:] or f"{log} is empty"
            raise SandboxError(doing, tail, "it listens within 60 s", f"see {log} and {paths.master}/log/master")
        time.sleep(0.05)


def started_with(paths: Paths) -> str:
    """Return the digest of the code that the running master was started with; "" if it is not known."""
    with contextlib.suppress(OSError, ValueError):
        code, pid = (paths.master / "run" / "started").read_text().split()
        if int(pid) in find_master(paths):
            return code
    return ""


def stop(paths: Paths) -> bool:
    """Stop the salt-master; return whether it ran."""
    return host.kill_all(lambda: {*find_master(paths), *left_behind(paths)}, "stop salt-master", gentle=2) > 0


def ping(paths: Paths, names: Sequence[str], timeout: int = 3) -> list[str]:
    """Return which of the minions ``names`` answer test.ping within ``timeout`` seconds."""
    if not names or not listens():
        return []
    try:
        import salt.client
        import salt.config
        from salt.exceptions import SaltException
    except ImportError as err:
        raise SandboxError(
            "ask the minions",
            f"{err}",
            f"Salt in the Python environment of {sys.executable}",
            "run `make venv`, or call this with a Python that has Salt",
        ) from err
    opts = salt.config.client_config(str(paths.master_config / "master"))
    client = salt.client.LocalClient(mopts=opts)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answers = client.cmd(list(names), "test.ping", tgt_type="list", timeout=timeout, gather_job_timeout=1)
                break
            except (SaltException, OSError) as err:
                # Beside a node that starts, the master may be too busy to take the question in time.
                if attempt == ATTEMPTS:
                    raise SandboxError(
                        "ask the minions", f"{type(err).__name__}: {err}", mend=f"see {paths.master}/log/master"
                    ) from err
    finally:
        client.destroy()
    return [name for name in names if answers.get(name) is True]


def connected(pid: int) -> bool:
    """Return whether the network namespace of process ``pid`` has a connection to the master's publish port."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return False
    wanted = f":{topo.PUBLISH_PORT:04X}"
    return any(line.split()[2].endswith(wanted) and line.split()[3] == "01" for line in lines)
