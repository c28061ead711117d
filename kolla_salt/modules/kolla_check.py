"""Gather what says whether this host can be deployed to, and judge it. Changes nothing."""

from __future__ import annotations

import contextvars
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import __version__, drift, prechecks, runtime
from kolla_salt.context import to_bool
from kolla_salt.engine import SOCKETS, Engine, EngineError
from kolla_salt.ping import ping

__virtualname__ = "kolla_check"


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    return runtime.resolver(__opts__, __pillar__, __context__)


def host() -> dict[str, Any]:
    """Return every finding about this host, and what the master compares between hosts.

    :returns: ``findings`` (list of host, check, level, found, expected, mend), ``version``, ``time``, ``addresses``,
        ``answers`` (VIPs that answer a ping from here).
    :raises CommandExecutionError: the site's options cannot be resolved for this host.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_check.host
    """
    resolver = _resolver()
    name = resolver.host
    links = interfaces()
    container_ids, version, error = _engine_facts(resolver)
    findings = prechecks.engine(name, _value(resolver, "container_engine", "docker"), version, error)
    findings += prechecks.libraries(name, [lib for lib in prechecks.LIBRARIES if importlib.util.find_spec(lib) is None])
    findings += prechecks.ports(name, _wanted_ports(resolver), listening(container_ids))
    groups = [
        group for group in ("control", "network", "compute", "storage", "monitoring") if name in resolver.hosts(group)
    ]
    findings += prechecks.resources(name, groups, resources())
    wanted, addresses = _wanted_interfaces(resolver, groups)
    findings += prechecks.interfaces(name, wanted, addresses, links)
    topology = {other: resolver.address("api", other) for other in resolver.topology_hosts}
    # Many at once: each may have to wait for a name server that does not know it.
    with ThreadPoolExecutor(max_workers=16) as pool:
        resolved = dict(zip(topology, pool.map(_resolve, topology), strict=True))
    findings += prechecks.names(
        name,
        resolved,
        topology,
        to_bool(_value(resolver, "customize_etc_hosts", False)),
    )
    findings += prechecks.kernel(name, _wanted_kernel(resolver, groups), kernel())
    own = sorted(address for link in links.values() for address in link["addresses"])
    vips = (
        {str(resolver.value(option)) for option in ("internal_vip_address", "external_vip_address")}
        - set(own)
        - {"None"}
    )
    return {
        "findings": [finding.as_dict() for finding in findings],
        "version": __version__,
        "time": time.time(),
        "addresses": own,
        "answers": sorted(vip for vip in vips if ping(vip)),
    }


def _value(resolver: Any, name: str, default: Any) -> Any:
    return resolver.value(name) if name in resolver.settings else default


def _engine_facts(resolver: Any) -> tuple[dict[str, str], str | None, str]:
    """Return the ids of all containers (id -> name), the engine's version, and what went wrong."""
    kind = _value(resolver, "container_engine", "docker")
    where = (
        _value(resolver, "container_engine_socket", None)
        or __opts__.get("kolla_container_engine_socket")
        or SOCKETS[kind]
    )
    engine = Engine(where if "://" in where else f"unix://{where}", timeout=20)
    try:
        ids = {item["Id"]: name for name, item in engine.containers().items()}
        return ids, str(engine.info().get("ServerVersion") or ""), ""
    except EngineError as error:
        return {}, None, str(error)
    finally:
        engine.close()


def _wanted_ports(resolver: Any) -> list[dict[str, Any]]:
    address = resolver.address("api")
    return [
        {"port": int(entry["port"]), "service": entry["service"], "address": address}
        for entry in resolver.catalogue["ports"]
        if resolver.host in resolver.hosts(entry["group"])
    ]


def listening(container_ids: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the listening TCP sockets of this host: port, address, pid, program, container.

    :param container_ids: id -> name of containers, to tell whose process it is.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.listening
    """
    sockets: dict[str, dict[str, Any]] = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                sockets[fields[9]] = {
                    "port": int(port, 16),
                    "address": _address(address, family),
                    "pid": None,
                    "program": None,
                    "container": None,
                }
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue  # the process or descriptor is gone
        if target.startswith("socket:[") and (found := sockets.get(target[8:-1])) and not found["pid"]:
            process = link.parents[1]
            found["pid"] = int(process.name)
            try:
                found["program"] = (process / "comm").read_text().strip()
                groups = (process / "cgroup").read_text()
            except OSError:
                continue
            ids = re.findall(r"[0-9a-f]{64}", groups)
            found["container"] = (
                next((container_ids[i] for i in ids if i in container_ids), None) if container_ids else None
            )
    return sorted(sockets.values(), key=lambda entry: entry["port"])


def _address(text: str, family: int) -> str:
    """Return an address of /proc/net/tcp, which is written in words of the machine's byte order."""
    data = bytes.fromhex(text)
    data = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
    address = socket.inet_ntop(family, data)
    return address.removeprefix("::ffff:") if "." in address else address


def resources() -> dict[str, Any]:
    """Return memory and free disk in GiB, the folder that was looked at, and the number of processors.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_check.resources
    """
    total = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    path = next(p for p in ("/var/lib/docker", "/var/lib/containers", "/var/lib", "/") if os.path.isdir(p))
    return {
        "memory": int(total.group(1)) / 2**20 if total else 0.0,
        "disk_free": shutil.disk_usage(path).free / 2**30,
        "disk_path": path,
        "cpus": len(os.sched_getaffinity(0)),
    }


def interfaces() -> dict[str, dict[str, Any]]:
    """Return the network interfaces of this host: name -> ``up``, ``addresses``.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_check.interfaces
    """
    done = subprocess.run(["ip", "-json", "address", "show"], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise CommandExecutionError(
            f"running 'ip -json address show': exit status {done.returncode}: {done.stderr.strip()}; "
            "it comes with the package iproute2"
        )
    return {
        link["ifname"]: {
            "up": "UP" in link["flags"],
            "addresses": [entry["local"] for entry in link.get("addr_info", [])],
        }
        for link in json.loads(done.stdout)
    }


def _wanted_interfaces(resolver: Any, groups: list[str]) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    wanted: dict[str, str] = {}
    addresses: dict[str, tuple[str, str]] = {}
    given = (resolver.topology_hosts[resolver.host] or {}).get("addresses") or {}
    for network in ("api", "tunnel", "migration", "storage"):
        option = f"{network}_interface"
        if network in given and option in resolver.settings:
            wanted[option] = str(resolver.value(option))
            if network == "tunnel" and _value(resolver, "ovs_tunnel_bridge", ""):
                continue  # deploying gives the address to that bridge
            addresses[network] = (option, str(given[network]))
    if "neutron_external_interface" in resolver.settings and "network" in groups:
        value = resolver.value("neutron_external_interface")
        for name in value.split(",") if isinstance(value, str) else value or []:
            wanted["neutron_external_interface"] = str(name).strip()
    return wanted, addresses


def _resolve(name: str) -> list[str]:
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except socket.gaierror:
        return []


def _wanted_kernel(resolver: Any, groups: list[str]) -> dict[str, str]:
    needs = {"overlayfs": "the engine's storage", "shared mounts": "volumes that containers share"}
    if {"network", "compute"} & set(groups):
        needs |= {"tun": "network devices of servers", "network namespaces": "routers and DHCP"}
        if _value(resolver, "ovs_datapath", "") == "system":
            needs["openvswitch"] = "virtual networks"
    if "compute" in groups and _value(resolver, "nova_compute_virt_type", "") == "kvm":
        needs["kvm"] = "servers"
    return needs


def kernel() -> dict[str, bool]:
    """Return which kernel features that deploying may need are there.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_check.kernel
    """
    filesystems = Path("/proc/filesystems").read_text().split()
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    root = next((fields for fields in mounts if fields[4] == "/"), [])
    return {
        "overlayfs": "overlay" in filesystems or _module("overlay"),
        "openvswitch": Path("/sys/module/openvswitch").exists() or _module("openvswitch"),
        "kvm": os.path.exists("/dev/kvm"),
        "tun": os.path.exists("/dev/net/tun") or _module("tun"),
        "network namespaces": os.path.exists("/proc/self/ns/net"),
        "shared mounts": any(field.startswith("shared:") for field in root[6:]),
    }


def _module(name: str) -> bool:
    """Return whether the kernel's module could be loaded."""
    modprobe = shutil.which("modprobe")
    if not modprobe:
        return False
    return subprocess.run([modprobe, "-n", "-q", name], capture_output=True, timeout=10, check=False).returncode == 0


# --- a running cloud ------------------------------------------------------------------------------------------------


def cloud() -> dict[str, Any]:
    """Return how the cloud's APIs are, asked side by side from this host.

    :returns: ``endpoints`` and ``agents`` as the functions of these names return them, ``strangers``: what the
        catalogue and the database have that no enabled service declares, ``problems``: what could not be asked
        (sentences).

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.cloud
    """
    resolver = _resolver()
    asked: dict[str, list[str]] = {"endpoints": ["kolla_check.endpoints"]}
    enabled = [resolver.declarations[name] for name in resolver.enabled_services()]
    if any(decl["keystone"] for decl in enabled):
        asked |= {"agents": ["kolla_check.agents"], "strangers": ["kolla_keystone.strangers"]}
    if any(decl["database"] for decl in enabled):
        asked.setdefault("strangers", []).append("kolla_db.strangers")
    calls = [(kind, function) for kind, functions in asked.items() for function in functions]
    found: dict[str, Any] = {"endpoints": [], "agents": [], "strangers": [], "problems": []}

    def ask(call: tuple[str, str]) -> None:
        kind, function = call
        try:
            found[kind] += __salt__[function]()
        except CommandExecutionError as error:
            found["problems"].append(f"{function} on {__opts__['id']}: {error}")

    contexts = [contextvars.copy_context() for _ in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        # Salt's dunders live in context variables, which a new thread does not have by itself.
        list(pool.map(lambda call, context: context.run(ask, call), calls, contexts))
    return found


def endpoints(timeout: float = 5.0) -> list[dict[str, Any]]:
    """Return whether each load-balancer entry answers through its VIP, asked from this host.

    :param timeout: seconds per entry.
    :returns: list of entry, url, ok, said, seconds.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.endpoints
    """
    import requests

    resolver = _resolver()
    wanted: list[tuple[str, str, str]] = []
    for entry in resolver.catalogue["load_balancer"]:
        for side in ("internal", "external"):
            if not entry[side]:
                continue
            url = resolver.endpoint(entry["entry"], side if side == "internal" else "public")
            if (entry["entry"], url) not in [(name, known) for name, known, _ in wanted]:
                wanted.append((entry["entry"], url, entry["mode"]))
    authority = _value(resolver, "openstack_cacert", "") or True
    verify = authority if authority is True or os.path.exists(authority) else True

    def ask(item: tuple[str, str, str]) -> dict[str, Any]:
        name, url, mode = item
        began = time.monotonic()
        try:
            if mode == "http":
                status = requests.get(url, timeout=timeout, verify=verify, allow_redirects=False).status_code
                ok, said = status < 500, f"HTTP status {status}"
            else:
                place, port = url.split("://", 1)[1].rsplit(":", 1)
                socket.create_connection((place.strip("[]"), int(port)), timeout=timeout).close()
                ok, said = True, "connected"
        except (requests.RequestException, OSError) as error:
            ok, said = False, str(error)
        return {"entry": name, "url": url, "ok": ok, "said": said, "seconds": round(time.monotonic() - began, 3)}

    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(ask, wanted))


def agents() -> list[dict[str, Any]]:
    """Return the agents and workers that OpenStack's services report, asked with the administrator's account.

    :returns: list of service type, agent, host, ok, said, and disabled: why an operator has taken it out of use, if so.
    :raises CommandExecutionError: the identity service does not answer, or this host has not got the password.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.agents
    """
    from keystoneauth1 import exceptions, session
    from keystoneauth1.identity import v3

    resolver = _resolver()
    password = (runtime.pillar(__pillar__, "kolla") or {}).get("passwords", {}).get("keystone_admin_password")
    if not password:
        raise CommandExecutionError(
            f"asking for agents on {__opts__['id']}: its pillar has no keystone_admin_password; "
            "expected on every controller. kolla-salt genpwd makes it"
        )
    url = f"{resolver.endpoint(_identity_entry(resolver))}/v3"
    user = _value(resolver, "keystone_admin_user", "admin")
    auth = v3.Password(
        auth_url=url,
        username=user,
        password=password,
        project_name=_value(resolver, "keystone_admin_project", "admin"),
        user_domain_id="default",
        project_domain_id="default",
    )
    authority = _value(resolver, "openstack_cacert", "")
    client = session.Session(auth=auth, verify=authority if authority and os.path.exists(authority) else True)
    found: list[dict[str, Any]] = []
    queries = (
        ("compute", "/os-services", "services", lambda a: a["state"] == "up"),
        ("network", "/v2.0/agents", "agents", lambda a: a["alive"]),
        ("orchestration", "/services", "services", lambda a: a["status"] == "up"),
        ("block-storage", "/os-services", "services", lambda a: a["state"] == "up"),
    )
    try:
        catalogue = {entry["type"] for entry in auth.get_access(client).service_catalog.catalog}
        asked = [query for query in queries if query[0] in catalogue]

        def ask(query: tuple[Any, ...]) -> list[dict[str, Any]]:
            kind, path, key, alive = query
            place = {"service_type": kind, "interface": "internal"}
            return [
                {
                    "service": kind, "agent": agent["binary"], "host": agent["host"], "ok": bool(alive(agent)),
                    "said": "up" if alive(agent) else "down", "disabled": _disabled(agent),
                }
                for agent in client.get(path, endpoint_filter=place, timeout=15).json()[key]
            ]  # fmt: skip

        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            found = [agent for agents in pool.map(ask, asked) for agent in agents]
    except exceptions.ClientException as error:
        raise CommandExecutionError(f"asking OpenStack at {url} for its agents: {error}") from error
    # A worker that was restarted has a new entry; its old one stays for a while and says nothing.
    up = {(agent["agent"], agent["host"]) for agent in found if agent["ok"]}
    return [agent for agent in found if agent["ok"] or (agent["agent"], agent["host"]) not in up]


def await_agents(wanted: dict[str, list[str]], timeout: float = 120.0) -> list[str]:
    """Wait until agents and workers are listed by their services as alive, and return which are not, as sentences.

    :param wanted: name, as the services list it, -> hosts.
    :param timeout: seconds to wait at most.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.await_agents '{"nova-compute": ["node4"]}' timeout=30
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            lacking = drift.unheard(agents(), wanted)
        except CommandExecutionError as error:
            lacking = [str(error)]
        if not lacking or time.monotonic() > deadline:
            return lacking
        time.sleep(1)


def _disabled(agent: dict[str, Any]) -> str:
    """Return why an operator has taken an agent or worker out of use; empty if it is in use."""
    if agent.get("status") == "disabled":
        return str(agent.get("disabled_reason") or "no reason given")
    return "no reason given" if agent.get("admin_state_up") is False else ""


def _identity_entry(resolver: Any) -> str:
    """Return the load-balancer entry of the identity service."""
    for decl in resolver.declarations.values():
        for service in decl["keystone"].get("services", []) if decl["keystone"] else []:
            if service.get("type") == "identity":
                return str(service["entry"])
    raise CommandExecutionError("looking for the identity service: no enabled service declares one of type 'identity'")
