"""Judge whether hosts can be deployed to, from facts that were gathered elsewhere. Pure.

Every finding says what was looked at, what was found, what was expected and the command that mends it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Oldest engine that runs the images and knows every field of a container's specification.
OLDEST_ENGINE = {"docker": (20, 10), "podman": (4, 7)}
#: What a host of a group needs at least: GiB of memory, and what is comfortable.
MEMORY = {"control": (6, 12), "compute": (2, 6), "network": (1, 2)}
DISK = (5, 20)
#: Clocks further apart than this break tokens and Galera's and RabbitMQ's time-outs are hard to read, seconds.
CLOCK_LIMIT = 2.0
LIBRARIES = {
    "docker": "docker",
    "pymysql": "PyMySQL",
    "keystoneauth1": "keystoneauth1",
    "requests": "requests",
    "bcrypt": "bcrypt",
    "jinja2": "Jinja2",
    "yaml": "PyYAML",
}


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way (``error``) or will hurt later (``warning``)."""

    host: str
    check: str
    level: str
    found: str
    expected: str
    mend: str

    @property
    def text(self) -> str:
        """The finding in words."""
        return f"{self.host}: {self.check}: found {self.found}; expected {self.expected}. To mend: {self.mend}"

    def as_dict(self) -> dict[str, str]:
        """Return plain data."""
        return asdict(self)


def ports(host: str, wanted: Sequence[Mapping[str, Any]], listening: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find ports that a service needs and some other program has.

    Args:
        host: its name.
        wanted: ``{port, service, address}``; an empty address stands for any.
        listening: ``{port, address, program, pid, container}``; ``container`` is set for our own containers.
    """
    found = []
    for want in wanted:
        for taken in listening:
            if taken["port"] != want["port"] or taken.get("container"):
                continue
            anywhere = {"0.0.0.0", "::"}
            if taken["address"] not in anywhere and want.get("address") and taken["address"] != want["address"]:
                continue
            who = f"{taken.get('program') or 'a program'} (pid {taken.get('pid') or '?'})"
            mend = (
                f"kill {taken['pid']}, or disable its service"
                if taken.get("pid")
                else f"ss -ltnp sport = :{want['port']}"
            )
            found.append(
                Finding(
                    host,
                    "ports",
                    "error",
                    f"port {want['port']} is taken by {who} at {taken['address']}",
                    f"free for {want['service']}",
                    f"{mend}; or change the service's port in globals.yml",
                )
            )
            break
    return found


def resources(host: str, groups: Sequence[str], facts: Mapping[str, Any]) -> list[Finding]:
    """Find too little memory, disk or processors.

    Args:
        host: its name.
        groups: top groups it is in.
        facts: ``memory`` and ``disk_free`` in GiB, ``disk_path``, ``cpus``.
    """
    found = []
    least = sum(MEMORY[group][0] for group in groups if group in MEMORY)
    good = sum(MEMORY[group][1] for group in groups if group in MEMORY)
    why = f"for a host of {', '.join(groups) or 'no group'}"
    if facts["memory"] < least:
        found.append(
            Finding(
                host,
                "memory",
                "error",
                f"{facts['memory']:.1f} GiB",
                f"at least {least} GiB {why}",
                "add memory, or move it to fewer groups in topology.yml",
            )
        )
    elif facts["memory"] < good:
        found.append(
            Finding(
                host,
                "memory",
                "warning",
                f"{facts['memory']:.1f} GiB",
                f"{good} GiB {why}",
                "add memory, or lower openstack_service_workers in globals.yml",
            )
        )
    if facts["disk_free"] < DISK[1]:
        level = "error" if facts["disk_free"] < DISK[0] else "warning"
        found.append(
            Finding(
                host,
                "disk",
                level,
                f"{facts['disk_free']:.1f} GiB free below {facts['disk_path']}",
                f"{DISK[0 if level == 'error' else 1]} GiB",
                "docker image prune -a, or a larger disk",
            )
        )
    if facts["cpus"] < 2:
        found.append(Finding(host, "processors", "warning", str(facts["cpus"]), "at least 2", "add processors"))
    return found


def engine(host: str, kind: str, version: str | None, error: str = "") -> list[Finding]:
    """Find an engine that does not run or is too old.

    Args:
        host: its name.
        kind: ``docker`` or ``podman``.
        version: of the engine; None if it did not answer.
        error: what asking it ended with.
    """
    oldest = OLDEST_ENGINE[kind]
    expected = f"{kind} {'.'.join(map(str, oldest))} or newer, running"
    if version is None:
        return [
            Finding(
                host,
                "engine",
                "error",
                error or "no answer",
                expected,
                f"apt-get install {'docker.io' if kind == 'docker' else 'podman'}; systemctl enable --now {kind}",
            )
        ]
    numbers = tuple(int(part) for part in version.split("-")[0].split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < oldest:
        return [
            Finding(
                host,
                "engine",
                "error",
                f"{kind} {version}",
                expected,
                f"apt-get install --only-upgrade {'docker.io' if kind == 'docker' else 'podman'}",
            )
        ]
    return []


def names(
    host: str, resolved: Mapping[str, Sequence[str]], topology: Mapping[str, str], managed: bool
) -> list[Finding]:
    """Find host names that do not lead to the host's API address.

    Args:
        host: who asked.
        resolved: host name -> addresses the system resolver gave.
        topology: host name -> its API address.
        managed: deploying writes /etc/hosts, so a name that is unknown now will be known then.
    """
    found = []
    for name, address in topology.items():
        addresses = list(resolved.get(name, []))
        if addresses == [address] or (not addresses and managed):
            continue
        if managed and address in addresses:
            continue
        level = "warning" if managed else "error"
        found.append(
            Finding(
                host,
                "names",
                level,
                f"{name} -> {', '.join(addresses) or 'unknown'}",
                f"{name} -> {address}",
                f"sed -i '/[[:space:]]{name}$/d' /etc/hosts && echo '{address} {name}' >> /etc/hosts",
            )
        )
    return found


def interfaces(
    host: str,
    wanted: Mapping[str, str],
    addresses: Mapping[str, tuple[str, str]],
    links: Mapping[str, Mapping[str, Any]],
) -> list[Finding]:
    """Find network interfaces that are missing, down, or do not have the address the topology gives.

    Args:
        host: its name.
        wanted: option -> interface name.
        addresses: network -> (option of its interface, address of this host in it).
        links: interface -> ``{up, addresses}``.
    """
    found = []
    there = ", ".join(sorted(name for name in links if name != "lo"))
    for option, name in wanted.items():
        if name not in links:
            found.append(
                Finding(
                    host,
                    "interfaces",
                    "error",
                    f"no interface {name} ({option}); there are {there}",
                    f"{name} exists",
                    f"set {option} in topology.yml: hosts:{host}:options",
                )
            )
    for network, (option, address) in addresses.items():
        name = wanted.get(option)
        holders = [link for link, data in links.items() if address in data["addresses"]]
        if not holders:
            found.append(
                Finding(
                    host,
                    "interfaces",
                    "error",
                    f"no interface has {address}",
                    f"{name or 'an interface'} has it: topology.yml gives it as the {network} address of {host}",
                    f"ip address add {address}/24 dev {name}, for good in the system's network configuration; "
                    f"or correct hosts:{host}:addresses:{network}",
                )
            )
        elif name in links and name not in holders:
            found.append(
                Finding(
                    host,
                    "interfaces",
                    "error",
                    f"{address} is on {', '.join(holders)}",
                    f"on {name} ({option})",
                    f"set {option}: {holders[0]} in topology.yml: hosts:{host}:options",
                )
            )
    for option, name in wanted.items():
        if name in links and not links[name]["up"] and option in {used for used, _ in addresses.values()}:
            found.append(Finding(host, "interfaces", "error", f"{name} is down", "up", f"ip link set {name} up"))
    return found


def kernel(host: str, needs: Mapping[str, str], features: Mapping[str, bool]) -> list[Finding]:
    """Find kernel features that are missing.

    Args:
        host: its name.
        needs: feature -> what for.
        features: feature -> present.
    """
    mend = {
        "overlayfs": "modprobe overlay",
        "openvswitch": "modprobe openvswitch, or set ovs_datapath: netdev in globals.yml",
        "kvm": "enable hardware virtualisation in the firmware, or set nova_compute_virt_type: qemu in globals.yml",
        "shared mounts": "mount --make-rshared /",
        "tun": "modprobe tun",
        "bridge": "modprobe bridge",
        "network namespaces": "a kernel with CONFIG_NET_NS",
    }
    return [
        Finding(
            host, "kernel", "error", f"no {feature}", f"{feature}, for {why}", mend.get(feature, f"modprobe {feature}")
        )
        for feature, why in needs.items()
        if not features.get(feature)
    ]


def libraries(host: str, missing: Sequence[str]) -> list[Finding]:
    """Find Python libraries that the minion's Python lacks.

    Args:
        host: its name.
        missing: import names.
    """
    packages = " ".join(LIBRARIES.get(name, name) for name in missing)
    return (
        [
            Finding(
                host,
                "libraries",
                "error",
                f"the minion's Python has no {', '.join(missing)}",
                "all that kolla-salt needs",
                f"salt-pip install {packages} (or the pip of the minion's Python)",
            )
        ]
        if missing
        else []
    )


def across(
    reports: Mapping[str, Mapping[str, Any]],
    own_version: str,
    sent: float,
    received: Mapping[str, float],
    vips: Mapping[str, Mapping[str, Any]],
) -> list[Finding]:
    """Find what only shows when hosts are compared.

    Args:
        reports: host -> ``{version, time, addresses, answers}``: its clock (seconds since the epoch) when it ran, the
            addresses of its interfaces, and VIPs that answered its ping.
        own_version: kolla-salt's version here.
        sent: this machine's clock when hosts were asked.
        received: host -> this machine's clock when its answer came.
        vips: option -> ``{address, network}``; ``network`` is the CIDR it must lie in, or None.
    """
    found = []
    for host, report in reports.items():
        if report["version"] != own_version:
            found.append(
                Finding(
                    host,
                    "version",
                    "error",
                    f"kolla-salt {report['version']}",
                    f"{own_version}, as on the master",
                    f"salt-pip install --no-deps --upgrade . on {host}, in the master's checkout (or the pip of the "
                    "minion's Python), then restart salt-minion",
                )
            )
        early, late = report["time"] - received[host], report["time"] - sent
        # The host's clock was read somewhere between asking and answering: only what lies outside is certain.
        offset = early if early > 0 else late if late < 0 else 0.0
        if abs(offset) > CLOCK_LIMIT:
            found.append(
                Finding(
                    host,
                    "clock",
                    "error",
                    f"{offset:+.1f} s from the master's",
                    f"within {CLOCK_LIMIT:.0f} s",
                    "apt-get install chrony; chronyc makestep",
                )
            )
    for option, vip in vips.items():
        address, network = str(vip["address"]), vip.get("network")
        holders = [host for host, report in reports.items() if address in report["addresses"]]
        if network and ipaddress.ip_address(address) not in ipaddress.ip_network(network):
            found.append(
                Finding(
                    "site",
                    "VIP",
                    "error",
                    f"{option} {address}",
                    f"an address in {network}, the API network",
                    f"change {option} in globals.yml, or networks:api in topology.yml",
                )
            )
        answering = [host for host, report in reports.items() if address in report.get("answers", [])]
        if answering and not holders:
            found.append(
                Finding(
                    "site",
                    "VIP",
                    "error",
                    f"{option} {address} answers {answering[0]}'s ping, but no host of the site holds it",
                    "an address that no other machine uses",
                    f"ip neigh show {address} on {answering[0]} names the machine; choose another {option}",
                )
            )
        if len(holders) > 1:
            found.append(
                Finding(
                    "site",
                    "VIP",
                    "error",
                    f"{option} {address} is on {', '.join(holders)} at once",
                    "on one host",
                    f"docker restart keepalived on {holders[-1]}; the hosts must reach each other by VRRP",
                )
            )
    return found
