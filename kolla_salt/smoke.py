"""Use the cloud as its users do: network, router, image, server, floating IP; reach the server; remove everything.

What is made is called by one prefix, so that leftovers of an interrupted check are found and removed by the next.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kolla_salt import guest as guests
from kolla_salt.ping import ping

Say = Callable[[str], None]
#: What Neutron calls the ports of a router in its networks: of a plain one, a distributed one, and one with standbys.
ROUTER_INTERFACES = (
    "network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface",
)  # fmt: skip


class SmokeError(Exception):
    """A step of the check did not end as it should; the text says which, with what, and where to look."""


@dataclass(frozen=True)
class Options:
    """What the check is made with.

    ``physical_network`` is the provider network of floating IPs, ``cidr`` its addresses, ``gateway`` its router and
    ``pool`` the range (first, last) that may be given away. ``timeout`` is in seconds, for each wait.
    """

    prefix: str = "kolla-salt-smoke"
    physical_network: str = "physnet1"
    cidr: str = ""
    gateway: str = ""
    pool: tuple[str, str] = ("", "")
    inner_cidr: str = "10.222.111.0/24"
    memory: int = 192
    timeout: int = 240
    keep: bool = False
    reach: bool = True


@dataclass
class Result:
    """What came of the check: seconds per step, what the server was and said."""

    ok: bool = False
    error: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Check:
    """One run of the check.

    Args:
        connection: an ``openstack.connection.Connection`` of an administrator.
        options: see :class:`Options`.
        guest: the image files.
        say: takes a line per step.
    """

    def __init__(self, connection: Any, options: Options, guest: guests.Guest, say: Say) -> None:
        self.cloud, self.options, self.guest, self.say = connection, options, guest, say
        self.result = Result()
        self.made: list[tuple[str, Callable[[], None]]] = []

    def name(self, what: str) -> str:
        """Return the name of one of our things."""
        return f"{self.options.prefix}-{what}"

    @contextmanager
    def step(self, what: str) -> Iterator[dict[str, Any]]:
        """Time one step and report it."""
        began = time.monotonic()
        entry: dict[str, Any] = {"step": what}
        self.result.steps.append(entry)
        try:
            yield entry
            entry["ok"] = True
        except BaseException:
            entry["ok"] = False
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            detail = f": {entry['detail']}" if "detail" in entry else ""
            self.say(f"{entry['seconds']:7.1f} s  {'' if entry.get('ok') else 'FAILED '}{what}{detail}")

    def run(self) -> Result:
        """Do the check and return what came of it; all is removed, also after a failure, unless it is to be kept."""
        import openstack.exceptions
        from keystoneauth1.exceptions import ClientException

        began = time.monotonic()
        expected = (openstack.exceptions.SDKException, ClientException, SmokeError)
        try:
            with self.step("sign in") as entry:
                entry["detail"] = f"{self.cloud.auth['auth_url']} as {self.cloud.auth['username']}"
                self.cloud.authorize()
            if not self.options.keep:
                self._sweep()
            self._build()
            self.result.ok = True
        except expected as error:
            self.result.error = f"{self.result.steps[-1]['step']}: {_words(error)}"
        finally:
            if not self.options.keep:
                self._remove(expected)
        self.result.seconds = round(time.monotonic() - began, 2)
        self.result.ok = self.result.ok and not self.result.leftovers
        return self.result

    # --- making -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        images = self._images()
        flavor = self._flavor()
        network = self._networks()
        group = self._security_group()
        port, address = self._floating_ip(network, group)
        self._server(images, flavor, port)
        if self.options.reach:
            self._reach(address)
        self._console()
        if self.options.reach:
            self._screen()

    def _made(self, what: str, remove: Callable[[], Any]) -> None:
        self.made.append((what, remove))

    def _images(self) -> Any:
        image = self.cloud.image
        with self.step("upload the guest's kernel, ramdisk and disk") as entry:
            parts: dict[str, Any] = {}
            for kind, data in (
                ("kernel", guests.plain_kernel(self.guest.kernel.read_bytes())),
                ("ramdisk", self.guest.ramdisk.read_bytes()),
            ):
                form = {"kernel": "aki", "ramdisk": "ari"}[kind]
                parts[kind] = self._image(kind, form, data, {})
            properties = {
                "kernel_id": parts["kernel"].id,
                "ramdisk_id": parts["ramdisk"].id,
                "os_command_line": "console=tty0 console=ttyS0 no_timer_check quiet",
                "hw_rng_model": "virtio",
            }
            disk = self._image("disk", "raw", b"\0" * 2**20, properties)
            entry["detail"] = f"Linux {self.guest.version}"
        return image.get_image(disk.id)

    def _image(self, kind: str, form: str, data: bytes, properties: dict[str, str]) -> Any:
        image = self.cloud.image
        found = image.find_image(self.name(kind))
        if found is not None and found.status == "active":
            self._made(f"image {kind}", lambda: image.delete_image(found.id, ignore_missing=True))
            return found
        if found is not None:
            image.delete_image(found.id)
        container = form if form in {"aki", "ari"} else "bare"
        new = image.create_image(
            name=self.name(kind),
            disk_format=form,
            container_format=container,
            data=data,
            validate_checksum=False,
            allow_duplicates=True,
            wait=True,
            timeout=self.options.timeout,
            meta={},
            **properties,
        )
        self._made(f"image {kind}", lambda: image.delete_image(new.id, ignore_missing=True))
        return new

    def _flavor(self) -> Any:
        compute = self.cloud.compute
        with self.step("flavor and key"):
            flavor = compute.find_flavor(self.name("flavor")) or compute.create_flavor(
                name=self.name("flavor"), ram=self.options.memory, vcpus=1, disk=1
            )
            self._made("flavor", lambda: compute.delete_flavor(flavor, ignore_missing=True))
            if compute.find_keypair(self.name("key")) is None:
                compute.create_keypair(name=self.name("key"), public_key=_public_key())
            self._made("key", lambda: compute.delete_keypair(self.name("key"), ignore_missing=True))
        return flavor

    def _networks(self) -> Any:
        network = self.cloud.network
        with self.step("networks and router") as entry:
            outer = self._outer(network)
            inner = network.find_network(self.name("net")) or network.create_network(name=self.name("net"))
            self._made("network", lambda: network.delete_network(inner, ignore_missing=True))
            subnet = network.find_subnet(self.name("subnet")) or network.create_subnet(
                name=self.name("subnet"), network_id=inner.id, ip_version=4, cidr=self.options.inner_cidr
            )
            router = network.find_router(self.name("router")) or network.create_router(
                name=self.name("router"), external_gateway_info={"network_id": outer.id}
            )
            self._made("router", lambda: network.delete_router(router, ignore_missing=True))
            ports = network.ports(device_id=router.id, network_id=inner.id)
            if next(iter(ports), None) is None:
                network.add_interface_to_router(router, subnet_id=subnet.id)
            self._made("router interface", lambda: self._detach(router, subnet))
            self.outer = outer
            entry["detail"] = f"floating IPs in {outer.name}"
        return inner

    def _outer(self, network: Any) -> Any:
        """Return the external network: one that there is, since a flat network exists once, or a new one."""
        for found in network.networks(is_router_external=True):
            if found.provider_physical_network == self.options.physical_network or not self.options.cidr:
                if found.name == self.name("external"):
                    self._made("external network", partial(network.delete_network, found, ignore_missing=True))
                return found
        if not self.options.cidr:
            raise SmokeError(
                "there is no external network; expected one, or --external-cidr, --external-gateway and "
                "--external-pool to make one"
            )
        made = network.create_network(
            name=self.name("external"),
            is_router_external=True,
            provider_network_type="flat",
            provider_physical_network=self.options.physical_network,
        )
        self._made("external network", lambda: network.delete_network(made, ignore_missing=True))
        network.create_subnet(
            name=self.name("external"),
            network_id=made.id,
            ip_version=4,
            cidr=self.options.cidr,
            gateway_ip=self.options.gateway or None,
            is_dhcp_enabled=False,
            allocation_pools=[{"start": self.options.pool[0], "end": self.options.pool[1]}],
        )
        return made

    def _detach(self, router: Any, subnet: Any) -> None:
        network = self.cloud.network
        if any(True for _ in network.ports(device_id=router.id)):
            network.remove_interface_from_router(router, subnet_id=subnet.id)

    def _security_group(self) -> Any:
        network = self.cloud.network
        with self.step("security group"):
            group = network.find_security_group(self.name("group"))
            if group is None:
                group = network.create_security_group(name=self.name("group"))
                rules: list[dict[str, Any]] = [
                    {"protocol": "icmp"},
                    {"protocol": "tcp", "port_range_min": 80, "port_range_max": 80},
                ]
                for rule in rules:
                    network.create_security_group_rule(
                        security_group_id=group.id, direction="ingress", ether_type="IPv4", **rule
                    )
            self._made("security group", lambda: network.delete_security_group(group, ignore_missing=True))
        return group

    def _floating_ip(self, inner: Any, group: Any) -> tuple[Any, str]:
        network = self.cloud.network
        with self.step("port and floating IP") as entry:
            port = network.find_port(self.name("port")) or network.create_port(
                name=self.name("port"), network_id=inner.id, security_group_ids=[group.id]
            )
            self._made("port", lambda: network.delete_port(port, ignore_missing=True))
            floating = next(iter(network.ips(port_id=port.id)), None) or network.create_ip(
                floating_network_id=self.outer.id, port_id=port.id
            )
            self._made("floating IP", lambda: network.delete_ip(floating, ignore_missing=True))
            entry["detail"] = floating.floating_ip_address
        return port, floating.floating_ip_address

    def _server(self, image: Any, flavor: Any, port: Any) -> None:
        compute = self.cloud.compute
        with self.step("server is active") as entry:
            server = compute.find_server(self.name("server")) or compute.create_server(
                name=self.name("server"),
                image_id=image.id,
                flavor_id=flavor.id,
                networks=[{"port": port.id}],
                key_name=self.name("key"),
                config_drive=False,
            )
            self._made("server", lambda: self._delete_server(server))
            self.result.server = {"id": server.id, "name": server.name}
            deadline = time.monotonic() + self.options.timeout
            while True:
                server = compute.get_server(server.id)
                if server.status == "SHUTOFF":
                    compute.start_server(server)
                elif server.status == "ACTIVE":
                    break
                if server.status == "ERROR":
                    fault = (server.to_dict().get("fault") or {}).get("message") or "no reason given"
                    raise SmokeError(
                        f"the server is in status ERROR: {fault}; look at nova-compute.log and "
                        "nova-conductor.log in /var/log/kolla/nova of the hosts"
                    )
                if time.monotonic() > deadline:
                    raise SmokeError(
                        f"the server is {server.status} ({server.task_state or 'no task'}) after "
                        f"{self.options.timeout} s, expected ACTIVE; look at nova-compute.log in "
                        "/var/log/kolla/nova of the compute host"
                    )
                time.sleep(0.5)
            where = server.to_dict().get("hypervisor_hostname") or server.to_dict().get("compute_host") or "?"
            entry["detail"] = f"on {where}"
            self.result.server["host"] = where
            self.server = server

    def _delete_server(self, server: Any) -> None:
        compute = self.cloud.compute
        compute.delete_server(server, ignore_missing=True)
        compute.wait_for_delete(server, interval=0.5, wait=self.options.timeout)

    # --- looking ----------------------------------------------------------------------------------------------------

    def _reach(self, address: str) -> None:
        self.result.server["address"] = address
        deadline = time.monotonic() + self.options.timeout
        with self.step(f"ping {address}"):
            while not ping(address):
                if time.monotonic() > deadline:
                    raise SmokeError(
                        f"{address} did not answer a ping within {self.options.timeout} s; its console says: "
                        f"{self._tail()}; look at the L3 and Open vSwitch agents' logs in "
                        "/var/log/kolla/neutron, and whether this machine has a way to the external network"
                    )
                time.sleep(0.5)
        with self.step(f"fetch http://{address}/") as entry:
            while True:
                try:
                    with urllib.request.urlopen(f"http://{address}/", timeout=3) as answer:
                        page = answer.read(2000).decode(errors="replace")
                    break
                except (OSError, urllib.error.URLError) as error:
                    if time.monotonic() > deadline:
                        raise SmokeError(
                            f"no page from http://{address}/: {error}; its console says: {self._tail()}"
                        ) from error
                    time.sleep(0.5)
            entry["detail"] = f"{len(page)} bytes"

    def _text(self) -> str:
        return str(self.cloud.compute.get_server_console_output(self.server).get("output") or "")

    def _tail(self) -> str:
        lines = [line for line in self._text().splitlines() if line.strip()]
        return " | ".join(lines[-4:]) or "nothing"

    def _console(self) -> None:
        with self.step("the guest got its metadata") as entry:
            deadline = time.monotonic() + self.options.timeout
            while guests.READY not in (text := self._text()):
                if time.monotonic() > deadline:
                    raise SmokeError(
                        f"the guest did not say '{guests.READY}' on its console within "
                        f"{self.options.timeout} s; it says: {self._tail()}"
                    )
                time.sleep(1)
            own = [
                line.split("kolla-salt guest: ", 1)[1].strip()
                for line in text.splitlines()
                if "kolla-salt guest: " in line
            ]
            self.result.server["console"] = own
            if f"metadata uuid {self.server.id}" not in own:
                failed = next((line for line in own if line.startswith("FAILED")), "it does not name itself")
                raise SmokeError(
                    f"the guest's console has no 'metadata uuid {self.server.id}': {failed}; look at "
                    "neutron-metadata-agent.log and nova-metadata.log in /var/log/kolla"
                )
            entry["detail"] = "; ".join(line for line in own if line.startswith(("metadata", "ready", "address")))

    def _screen(self) -> None:
        """Open the server's screen as a browser would: through the VIP, by a proxy, from the hypervisor."""
        import websocket
        from openstack import exceptions

        with self.step("open its screen") as entry:
            try:
                url = self.cloud.compute.create_console(self.server, "novnc")["url"]
            except exceptions.BadRequestException:
                entry["detail"] = "left out: this cloud has no noVNC consoles"
                return
            try:
                said = _greeting(url, self.cloud.config.get_requests_verify_args()[0])
            except (OSError, websocket.WebSocketException) as error:
                where = url.partition("?")[0]
                raise SmokeError(
                    f"{where} does not lead to the server's screen: {_words(error)}; look at nova-novncproxy.log in "
                    "/var/log/kolla/nova of the hosts of nova-novncproxy, and whether they reach the compute host"
                ) from error
            if not said.startswith("RFB "):
                raise SmokeError(f"the server's screen says {said!r}, expected a greeting that begins with 'RFB '")
            entry["detail"] = said

    # --- removing ---------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove what an interrupted check left, in the order that dependencies allow."""
        compute, network, image = self.cloud.compute, self.cloud.network, self.cloud.image
        servers = list(compute.servers(name=f"^{self.name('server')}$"))
        routers = list(network.routers(name=self.name("router")))
        images = [found for kind in ("disk", "kernel", "ramdisk") if (found := image.find_image(self.name(kind)))]
        networks = [found for kind in ("net", "external") for found in network.networks(name=self.name(kind))]
        ports = list(network.ports(name=self.name("port")))
        groups = list(network.security_groups(name=self.name("group")))
        if not (servers or routers or images or networks or ports or groups):
            return
        with self.step("remove what an earlier check left"):
            for server in servers:
                self._delete_server(server)
            for port in ports:
                for floating in network.ips(port_id=port.id):
                    network.delete_ip(floating)
                network.delete_port(port, ignore_missing=True)
            for router in routers:
                for port in network.ports(device_id=router.id):
                    if port.device_owner in ROUTER_INTERFACES:
                        network.remove_interface_from_router(router, port_id=port.id)
                network.delete_router(router, ignore_missing=True)
            for found in networks:
                network.delete_network(found, ignore_missing=True)
            for group in groups:
                network.delete_security_group(group, ignore_missing=True)
            for found in images:
                image.delete_image(found, ignore_missing=True)

    def _remove(self, expected: tuple[type[Exception], ...]) -> None:
        if not self.made:
            return
        with self.step("remove everything again"):
            for what, remove in reversed(self.made):
                for attempt in range(3):
                    try:
                        remove()
                        break
                    except expected as error:
                        # Neutron lets go of ports a moment after the server is gone.
                        if attempt == 2:
                            self.result.leftovers.append(f"{what}: {_words(error)}")
                        time.sleep(2)
        if self.result.leftovers and not self.result.error:
            self.result.error = "could not remove " + "; ".join(self.result.leftovers)


def _greeting(url: str, verify: bool | str, timeout: float = 15) -> str:
    """Return the first words of the VNC server behind a noVNC console: ``RFB 003.008``.

    Source: RFC 6143, 7.1.1. noVNC's page takes the path of its WebSocket from the parameter ``path``.

    :param url: of the console's page, with a token
    :param verify: whether to check a certificate, or by which authorities
    :param timeout: seconds
    :raises OSError: nobody answers
    :raises websocket.WebSocketException: it is no WebSocket, or the proxy does not reach the server
    """
    import ssl

    import websocket

    parts = urlsplit(url)
    path = parse_qs(parts.query).get("path", [f"?{parts.query}"])[0]
    scheme = "wss" if parts.scheme == "https" else "ws"
    trust = {"ca_certs": verify} if isinstance(verify, str) else {} if verify else {"cert_reqs": ssl.CERT_NONE}
    line = websocket.create_connection(
        f"{scheme}://{parts.netloc}/{path.lstrip('/')}", timeout=timeout, subprotocols=["binary"], sslopt=trust,
        # A proxy of this machine's environment is for the world outside.
        http_no_proxy=["*"],
    )  # fmt: skip
    try:
        return bytes(line.recv_frame().data).decode(errors="replace").strip()
    finally:
        line.close()


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _public_key() -> str:
    """Return the public half of a key whose private half is forgotten: nobody signs in to the guest."""
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
