"""Which nodes a sandbox has, what each is for, and the site that describes them. Data in, data out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kolla_salt.sandbox.errors import SandboxError

API_BRIDGE, EXT_BRIDGE, TUN_BRIDGE = "ks-api", "ks-ext", "ks-tun"
API_NET, EXT_NET, TUN_NET = "10.99.0", "10.98.0", "10.97.0"
#: Bridge of this machine for each of a node's network cards eth0, eth1, ...
BRIDGES = (API_BRIDGE, EXT_BRIDGE, TUN_BRIDGE)
PREFIX_LENGTH = 24
HOST_API = f"{API_NET}.1"
HOST_EXT = f"{EXT_NET}.1"
VIP = f"{API_NET}.10"
REGISTRY = f"{HOST_API}:4000"
# Not Salt's default ports: the machine may have a salt-master of its own that listens on all addresses.
PUBLISH_PORT, RETURN_PORT = 14505, 14506
MOST_NODES = 100


@dataclass(frozen=True)
class Node:
    """One node of the sandbox.

    Attributes:
        name: host name and minion id, ``node<number>``.
        number: 1 for the first node.
    """

    name: str
    number: int

    @property
    def api_address(self) -> str:
        """Address of eth0 (API network)."""
        return f"{API_NET}.{10 + self.number}"

    @property
    def tunnel_address(self) -> str:
        """Address in the tunnel network, which a deployment gives to a bridge over eth2."""
        return f"{TUN_NET}.{10 + self.number}"

    def interface(self, nic: int) -> str:
        """Return the name of the host's end of network card ``nic`` (0, 1 or 2)."""
        return f"ks-{self.name}-{nic}"

    def mac(self, nic: int) -> str:
        """Return the hardware address of network card ``nic``: the same after every start of the node."""
        return f"02:4b:53:{nic:02x}:00:{self.number:02x}"


def nodes_for(count: int) -> list[Node]:
    """Return the nodes of a sandbox of ``count`` nodes.

    Raises:
        SandboxError: the count is out of range.
    """
    if not 1 <= count <= MOST_NODES:
        raise SandboxError(
            "lay out the sandbox", f"--nodes {count}", f"a number from 1 to {MOST_NODES}", "choose another number"
        )
    return [Node(f"node{number}", number) for number in range(1, count + 1)]


def layout(count: int) -> dict[str, list[str]]:
    """Return the top groups of a sandbox of ``count`` nodes: group name to node names.

    One node does everything; two are a controller and a compute node; three are a cluster whose members also
    compute; from four on the first three are controllers and the others compute nodes.
    """
    names = [node.name for node in nodes_for(count)]
    if count == 2:
        control, compute = names[:1], names[1:]
    elif count <= 3:
        control, compute = names, names
    else:
        control, compute = names[:3], names[3:]
    return {
        "control": list(control),
        "network": list(control),
        "compute": list(compute),
        "storage": [],
        "monitoring": [],
    }


def topology(count: int) -> dict[str, Any]:
    """Return the content of topology.yml for ``count`` nodes."""
    hosts = {
        node.name: {"addresses": {"api": node.api_address, "tunnel": node.tunnel_address}} for node in nodes_for(count)
    }
    networks = {name: {"cidr": f"{net}.0/{PREFIX_LENGTH}"} for name, net in (("api", API_NET), ("tunnel", TUN_NET))}
    return {"networks": networks, "hosts": hosts, "groups": layout(count)}


#: Where every node sees the folder that all nodes share.
NODE_SHARED = "/srv/shared"


def globals_for(count: int, release: str) -> dict[str, Any]:
    """Return the content of globals.yml for ``count`` nodes: Kolla-Ansible's option names, sizes for one machine.

    Args:
        count: number of nodes.
        release: OpenStack release.
    """
    several = len(layout(count)["control"]) > 1
    # What others rely on, or what decides within seconds who lives, goes first where processors are short.
    first = ("mariadb", "rabbitmq", "memcached", "haproxy", "keepalived")
    return {
        "openstack_release": release,
        "base_distro": "debian",
        "docker_registry": REGISTRY,
        "docker_registry_insecure": True,
        "docker_namespace": "openstack.kolla",
        "internal_vip_address": VIP,
        "network_interface": "eth0",
        "tunnel_interface": "eth2",
        "neutron_external_interface": "eth1",
        "neutron_plugin_agent": "openvswitch",
        # The kernel of the machine need not have an Open vSwitch module.
        "ovs_datapath": "netdev",
        # Emulation works on every machine, nested virtualisation does not.
        "nova_compute_virt_type": "qemu",
        "haproxy_max_connections": 4000,
        # With images on shared storage, every controller can serve them.
        **({"glance_file_datadir_volume": f"{NODE_SHARED}/glance"} if several else {}),
        # The engines' health checks of a hundred containers would take a third of a processor.
        **({"default_container_healthcheck_interval": 120} if several else {}),
        **({f"{name}_dimensions": {"cpu_shares": 8192} for name in first} if several else {}),
        "openstack_service_workers": 1 if count > 2 else 2,
        # It waits for answers over the queue: one process serves nobody while the engine that it asked is dead.
        **({"heat_api_workers": 2} if count > 2 else {}),
        "openstack_service_rpc_workers": 1,
        "keepalived_virtual_router_id": "51",
        # After a restart each process of a service logs in, all of them at once. Nobody attacks these passwords.
        "keystone_password_hash_rounds": 4,
        # A small machine: little memory and log for the database.
        "mariadb_innodb_buffer_pool_size_mb": 256,
        "mariadb_innodb_log_file_size_mb": 96,
    }


HEADER = (
    "# Written by `kolla-salt sandbox up`, and again whenever the sandbox changes, as long as nobody edits it.\n"
    "# generated: "
)


def generated_file(data: Mapping[str, Any]) -> str:
    """Render ``data`` as YAML below a header that tells later whether somebody edited the file."""
    body = "".join(
        # One line for what is innermost, but never for the whole file.
        yaml.safe_dump(
            {name: value}, sort_keys=False, default_flow_style=None if isinstance(value, dict) else False, width=110
        )
        for name, value in data.items()
    )
    return f"{HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def is_unedited(text: str) -> bool:
    """Return whether ``text`` is what :func:`generated_file` once wrote, for whatever data."""
    if not text.startswith(HEADER):
        return False
    digest, _, body = text[len(HEADER) :].partition("\n")
    return hashlib.sha256(body.encode()).hexdigest() == digest


def hosts_block(nodes: Sequence[Node]) -> str:
    """Return the lines of /etc/hosts for ``nodes``."""
    lines = ["# BEGIN kolla-salt sandbox", f"{HOST_API} salt registry"]
    lines += [f"{node.api_address} {node.name}" for node in nodes]
    return "\n".join([*lines, "# END kolla-salt sandbox", ""])


def with_hosts_block(text: str, nodes: Sequence[Node]) -> str:
    """Return the /etc/hosts content ``text`` with the sandbox's block put in or replaced; other lines stay."""
    before, found, rest = text.partition("# BEGIN kolla-salt sandbox")
    if found:
        _, _, after = rest.partition("# END kolla-salt sandbox\n")
    else:
        before = text if text.endswith("\n") or not text else text + "\n"
        after = ""
    return before + hosts_block(nodes) + after
