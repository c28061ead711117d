"""The sandbox's cloud as its tormentor sees it: nodes, links, engines, databases, brokers, addresses.

Nothing here goes through kolla-salt's own view of hosts: what a test believes is asked of the thing itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kolla_salt import clouds
from kolla_salt.availability import Probe, account, targets
from kolla_salt.cli.look import Cloud
from kolla_salt.sandbox import cloud as sandbox
from kolla_salt.sandbox import host, node
from kolla_salt.sandbox import topology as topo
from kolla_salt.sandbox.paths import find_paths

CLONE_NEWNET = 0x40000000


class ChaosError(Exception):
    """The cloud cannot be used for a test: there is none, or what is looked at does not answer at all."""


@dataclass(frozen=True)
class Done:
    """A command that ended: exit status, what it printed, how long it took."""

    status: int
    out: str
    err: str
    seconds: float

    def json(self) -> dict[str, Any]:
        """Return the JSON document that was printed, {} if it was none."""
        try:
            found = json.loads(self.out)
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def words(self) -> str:
        """The end of what was printed, in one line."""
        return " ".join((self.err.strip() or self.out.strip())[-400:].split())


def run(command: Sequence[str], timeout: float, text: str | None = None) -> Done:
    """Run a command for at most ``timeout`` seconds; one that takes longer is killed and has status 124."""
    began = time.monotonic()
    # A session of its own, so that what it started ends with it.
    process = subprocess.Popen(
        list(command), text=True, errors="replace", start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, err = process.communicate(text, timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        _kill_session(process)
        out, err = process.communicate()
        status, err = 124, f"{err}\nstill ran after {timeout:g} s and was killed"
    except BaseException:
        _kill_session(process)
        raise
    return Done(status, out, err, time.monotonic() - began)


def _kill_session(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def commit() -> str:
    """Return the commit of the checkout that breaks and mends, with ``-dirty`` where files differ from it."""
    described = run(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"], 30)
    return described.out.strip() or "unknown"


class Cluster:
    """The deployed cloud of this machine's sandbox.

    Raises:
        ChaosError: there is none, or it has no three controllers.
    """

    def __init__(self) -> None:
        self.paths = find_paths()
        if not (self.paths.site / "topology.yml").exists():
            raise ChaosError("there is no sandbox; expected a deployed one of four nodes: make test-ha makes it")
        self.cloud = Cloud(self.paths.site)
        self.resolver = self.cloud.resolver
        self.controllers = list(self.resolver.hosts("mariadb"))
        self.names = list(self.cloud.hosts)
        if len(self.controllers) < 3:
            raise ChaosError(
                f"the sandbox has {len(self.controllers)} controllers, expected three; "
                "kolla-salt sandbox up --nodes 4, then kolla-salt deploy"
            )
        self.passwords = self.cloud.site.passwords
        self.vip = str(self.resolver.value("internal_vip_address"))
        self.links: dict[str, Any] = {}

    # --- commands -------------------------------------------------------------------------------------------------

    def kolla_salt(self, *arguments: str, timeout: float = 600) -> Done:
        """Run the command as an operator would."""
        command = [sys.executable, "-m", "kolla_salt.cli.main", "--site", str(self.paths.site), *arguments]
        return run(command, timeout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command and return at once."""
        command = [sys.executable, "-m", "kolla_salt.cli.main", "--site", str(self.paths.site), *arguments]
        return subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def end(self, process: subprocess.Popen[str]) -> None:
        """End what :meth:`begin` began, and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def inside(self, name: str, *command: str, timeout: float = 30, text: str | None = None) -> Done:
        """Run a command in a node."""
        running = node.find_nodes(self.paths).get(name)
        if not running:
            return Done(125, "", f"{name} does not run", 0.0)
        return run(node.enter_command(running[0], list(command)), timeout, text)

    # --- nodes ----------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """Return the nodes that run."""
        return sorted(set(node.find_nodes(self.paths)) & set(self.names))

    def kill(self, name: str) -> float:
        """Cut the power of a node; return the moment at which that began."""
        moment = time.monotonic()
        sandbox.kill_node(self.paths, name, sandbox.Progress(lambda _: None))
        return moment

    def kill_together(self, names: Sequence[str]) -> float:
        """Cut the power of several nodes in the same moment."""
        firsts = [one.pid for name in names for one in node.find_nodes(self.paths).get(name, [])]
        moment = time.monotonic()
        node.unplug(*names)
        for pid in firsts:
            os.kill(pid, signal.SIGKILL)
        for name in names:
            sandbox.kill_node(self.paths, name, sandbox.Progress(lambda _: None))
        return moment

    def start(self, name: str) -> None:
        """Start a node that was killed; its engine and minion answer when this returns."""
        sandbox.start_node(self.paths, name, sandbox.Progress(lambda _: None))

    def pids(self, name: str, *programs: str) -> list[int]:
        """Return the machine's ids of a node's processes that run one of ``programs``, those in containers included."""
        group = re.compile(rf":/{re.escape(self.paths.cgroup)}/{re.escape(name)}(/|$)", re.MULTILINE)
        found = []
        for process in host.processes():
            if process.argv[0].rsplit("/", 1)[-1] in programs:
                with contextlib.suppress(OSError):
                    if group.search(Path(f"/proc/{process.pid}/cgroup").read_text()):
                        found.append(process.pid)
        return found

    def signal(self, pids: Sequence[int], number: int) -> float:
        """Send a signal to processes by their ids; return the moment."""
        moment = time.monotonic()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return moment

    # --- links ----------------------------------------------------------------------------------------------------

    def _card(self, name: str) -> str:
        return topo.Node(name, int(name.removeprefix("node"))).interface(0)

    def cut(self, name: str, silently: bool = False) -> float:
        """Cut a node off the API network; ``silently``: its network card still sees a carrier."""
        card = self._card(name)
        moment = time.monotonic()
        if silently:
            host.run(["ip", "link", "set", "dev", card, "nomaster", "arp", "off"], f"cut {card} off its bridge")
        else:
            host.run(["ip", "link", "set", "dev", card, "down"], f"take {card} down")
        return moment

    def join(self, name: str) -> float:
        """Undo :meth:`cut`."""
        moment = time.monotonic()
        host.run(
            ["ip", "link", "set", "dev", self._card(name), "master", topo.API_BRIDGE, "arp", "on", "up"],
            f"connect {name} to {topo.API_BRIDGE}",
        )
        return moment

    @contextlib.contextmanager
    def bad_link(self, name: str, loss: float = 0.0, delay: float = 0.0) -> Iterator[None]:
        """Let a node's API network lose packets (share of 1) and delay them (seconds) in both directions."""
        card = self._card(name)
        command = [sys.executable, "-m", "benchmarks.chaos.link", card, topo.API_BRIDGE, str(loss), str(delay)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.paths.repo
        )
        try:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise ChaosError(f"making the link of {name} bad: {process.communicate(timeout=10)[1][-400:]}")
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            if name in self.running():
                self.join(name)

    # --- from a node's own network ----------------------------------------------------------------------------------

    def connect(self, name: str | None, address: str, port: int, timeout: float) -> socket.socket:
        """Return a connection that leaves from a node's network (None: from the machine's)."""
        if name is None:
            return socket.create_connection((address, port), timeout)
        running = node.find_nodes(self.paths).get(name)
        if not running:
            raise OSError(f"{name} does not run")
        link = _socket_in(running[0].pid)
        try:
            link.settimeout(timeout)
            link.connect((address, port))
        except OSError:
            link.close()
            raise
        return link

    # --- the database -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def database(self, address: str, timeout: float = 5, origin: str | None = None, **more: Any) -> Iterator[Any]:
        """Yield a cursor on the server at ``address`` (a node's, or the VIP), each statement its own transaction."""
        import pymysql

        port = int(self.resolver.value("database_port" if address == self.vip else "mariadb_port"))
        connection = pymysql.connect(
            host=address, port=port, user=str(self.resolver.value("database_user")), autocommit=True,
            password=str(self.passwords["database_password"]), connect_timeout=int(timeout) or 1,
            read_timeout=timeout, write_timeout=timeout, defer_connect=True, **more,
        )  # fmt: skip
        connection.connect(self.connect(origin, address, port, timeout))
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.close()

    def galera(self, name: str, origin: str | None = None) -> dict[str, str]:
        """Return what a member says of its cluster (names without ``wsrep_``); {} if it does not answer."""
        import pymysql

        try:
            with self.database(self.address(name), timeout=3, origin=origin) as cursor:
                cursor.execute(
                    "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state_comment', 'wsrep_cluster_status', "
                    "'wsrep_cluster_size', 'wsrep_ready', 'wsrep_cluster_state_uuid', 'wsrep_last_committed')"
                )
                return {str(key).removeprefix("wsrep_"): str(value) for key, value in cursor.fetchall()}
        except (pymysql.MySQLError, OSError):
            return {}

    def address(self, name: str) -> str:
        """Return a node's address in the API network."""
        return str(self.resolver.address("api", name))

    # --- the broker -------------------------------------------------------------------------------------------------

    def broker(self, name: str) -> dict[str, bool] | None:
        """Return which members run, as the broker of a node sees it; None if that one does not answer."""
        import requests

        account = (
            str(self.resolver.value("rabbitmq_monitoring_user")),
            str(self.passwords["rabbitmq_monitoring_password"]),
        )
        url = f"http://{self.address(name)}:{self.resolver.value('rabbitmq_management_port')}/api/nodes"
        try:
            answer = requests.get(url, auth=account, timeout=5)
            members = answer.json() if answer.status_code == 200 else None
        except (requests.RequestException, ValueError):
            return None
        return {one["name"].split("@")[-1]: bool(one["running"]) for one in members} if members is not None else None

    # --- addresses, APIs, agents ------------------------------------------------------------------------------------

    def holders(self) -> list[str]:
        """Return the nodes that have the VIP."""
        found = []
        for name, running in node.find_nodes(self.paths).items():
            with contextlib.suppress(Exception):
                links = host.ip_json(["address", "show"], running[0].pid)
                if any(self.vip == entry.get("local") for link in links for entry in link.get("addr_info", [])):
                    found.append(name)
        return sorted(found)

    def access(self) -> dict[str, Any]:
        """Return the administrator's entry of clouds.yaml, by internal endpoints."""
        return clouds.access(self.resolver, self.passwords, "internal")

    def connection(self) -> Any:
        """Return an openstacksdk connection of the administrator."""
        import openstack

        entry = dict(self.access())
        return openstack.connect(
            load_yaml_config=False, load_envvars=False, app_name="kolla-salt", api_timeout=60, **entry
        )

    def probe(self, rate: float = 5, token_rate: float = 1, services: Sequence[str] = (), timeout: float = 2) -> Probe:
        """Return a probe, not started, of what is served through the VIP."""
        wanted = [one for one in targets(self.resolver, rate, token_rate) if not services or one.service in services]
        return Probe(wanted, account(self.resolver, self.passwords), timeout)

    def agents(self, since: float | None = None) -> dict[str, bool]:
        """Return "agent on host" -> whether it is up and has said so after ``since`` (seconds since the epoch)."""
        from datetime import UTC, datetime

        import keystoneauth1.exceptions
        import openstack.exceptions

        def seen(text: str | None) -> float:
            moment = datetime.fromisoformat((text or "1970-01-01").replace(" ", "T").rstrip("Z"))
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()

        found: dict[str, bool] = {}
        try:
            cloud = self.connection()
            for agent in cloud.network.get("/agents", timeout=10).json()["agents"]:
                fresh = since is None or seen(agent["heartbeat_timestamp"]) >= since
                found[f"{agent['binary']} on {agent['host']}"] = bool(agent["alive"] and fresh)
            for service in cloud.compute.get("/os-services", timeout=10).json()["services"]:
                fresh = since is None or seen(service["updated_at"]) >= since
                found[f"{service['binary']} on {service['host']}"] = service["state"] == "up" and fresh
        except (
            openstack.exceptions.SDKException,
            keystoneauth1.exceptions.ClientException,
            KeyError,
            ValueError,
        ) as error:
            return {f"asking for agents: {type(error).__name__}: {error}": False}
        return found

    # --- health -----------------------------------------------------------------------------------------------------

    def members_ail(self) -> list[str]:
        """Return what is wrong with the database's cluster."""
        said = {name: self.galera(name) for name in self.controllers}
        found = []
        for name, status in said.items():
            state = status.get("local_state_comment", "no answer")
            if state != "Synced" or status.get("ready") != "ON" or status.get("cluster_status") != "Primary":
                found.append(f"the database of {name} is {state} in a cluster that is {status.get('cluster_status')}")
            elif status.get("cluster_size") != str(len(self.controllers)):
                found.append(f"the database of {name} sees {status['cluster_size']} members")
        if len({status["cluster_state_uuid"] for status in said.values() if status.get("cluster_state_uuid")}) > 1:
            found.append("there are two database clusters")
        return found

    def brokers_ail(self) -> list[str]:
        """Return what is wrong with the broker's cluster."""
        found = []
        for name in self.controllers:
            members = self.broker(name)
            up = sum(members.values()) if members else 0
            if up != len(self.controllers):
                found.append(f"the broker of {name} {'does not answer' if members is None else f'sees {up} members'}")
        return found

    def apis_ail(self) -> list[str]:
        """Return which APIs do not answer through the VIP, without and with a token."""
        receipt = self.probe(rate=1, token_rate=1, timeout=8).start(settle=8).stop()
        return [
            f"{entry['where']} ({entry['entry']}) does not answer: {entry['silent'] or '; '.join(entry['said'])}"
            for entry in receipt.entries
            if entry["first_answer"] is None or entry["failed"]
        ]

    def agents_ail(self, since: float | None = None) -> list[str]:
        """Return which agents are down or have not been heard of since."""
        return sorted(f"{name} is down" for name, up in self.agents(since).items() if not up)

    def ails(self) -> list[str]:
        """Return everything that is wrong with the cloud, as far as that can be seen in a few seconds."""
        down = sorted(set(self.names) - set(self.running()))
        found = [f"{name} does not run" for name in down]
        holders = self.holders()
        if len(holders) != 1:
            found.append(f"{', '.join(holders) or 'no node'} has the VIP, expected one node")
        found += self.members_ail() + self.brokers_ail() + self.apis_ail()
        return found or self.agents_ail()

    def await_(
        self, look: Callable[[], list[str]], timeout: float, every: float = 1.0
    ) -> tuple[float | None, list[str]]:
        """Look until nothing is wrong; return the seconds until then, None after ``timeout``, and what is wrong."""
        began = time.monotonic()
        while True:
            begun = time.monotonic()
            ailing = look()
            if not ailing:
                return begun - began, []
            if time.monotonic() - began > timeout:
                return None, ailing
            time.sleep(every)

    def put_right(self, timeout: float = 600) -> list[str]:
        """Make the cloud whole again by all means, deploying included; return what could not be put right."""
        for name in self.names:
            if name not in self.running():
                self.start(name)
            self.join(name)
        seconds, _ = self.await_(self.ails, 60)
        if seconds is None and self.members_ail():
            self.kolla_salt("mariadb-recovery", timeout=timeout)
        if self.ails():
            self.kolla_salt("deploy", timeout=timeout)
        seconds, ailing = self.await_(self.ails, 30)
        for one in ailing:
            # What hangs is of no use to anybody, and a deploy does not see that it does.
            binary, _, name = one.removesuffix(" is down").partition(" on ")
            if one.endswith(" is down") and name in self.names:
                self.inside(name, "docker", "restart", binary.replace("-", "_"), timeout=90)
        return self.await_(self.ails, 90)[1]


def _socket_in(pid: int) -> socket.socket:
    """Return a TCP socket of the network namespace of process ``pid``.

    A socket belongs for good to the namespace of the thread that made it; the thread goes there and comes back.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(other, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"entering the network of process {pid}")
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            if libc.setns(own, CLONE_NEWNET) != 0:
                # Whatever this thread did next would be done from the wrong network.
                raise SystemError("could not come back from the network of a node")
    finally:
        os.close(own)
        os.close(other)
