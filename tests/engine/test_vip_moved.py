"""A virtual address leaves a host: what was connected to it must hear of it, or it waits for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kolla_salt import config, declarations
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]
VIP, HOLDER, CLIENT = "10.213.7.9", "10.213.7.1", "10.213.7.2"
#: Accepts, and says nothing more than that.
SERVER = f"""
import socket
server = socket.create_server(("{VIP}", 4000))
print("listening", flush=True)
kept = server.accept()[0]
print(kept.recv(10), flush=True)
kept.recv(10)
"""
ASKER = f"""
import socket, time
connection = socket.create_connection(("{VIP}", 4000), 5)
connection.sendall(b"question")
print("asked", flush=True)
connection.settimeout(8)
try:
    print("answer", connection.recv(10))
except TimeoutError:
    print("nobody said anything")
except ConnectionResetError:
    print("reset")
"""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"),
]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def spaces():
    """Two hosts with a link between them; the first one has the virtual address."""
    names = [f"kst{os.getpid()}{end}" for end in "hc"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, (HOLDER, CLIENT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", names[0], "address", "add", f"{VIP}/32", "dev", "eth0")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    """What keepalived calls."""
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(ROOT / "salt"))
    site = {
        "globals": {"internal_vip_address": VIP},
        "topology": {
            "hosts": {name: {"addresses": {"api": address}} for name, address in (("a", HOLDER), ("b", CLIENT))},
            "groups": {"control": ["a", "b"], "network": ["a"]},
        },
        "passwords": {},
    }
    file = tmp_path / "moved.sh"
    file.write_text(
        config.render(Resolver(declarations.load(), site, "a"), "loadbalancer", "keepalived", "moved.sh").content
    )
    return file


def inside(name: str, text: str) -> subprocess.Popen:
    return subprocess.Popen(["ip", "netns", "exec", name, "python3", "-c", text], stdout=subprocess.PIPE, text=True)


def test_who_waits_for_an_answer_of_a_virtual_address_that_left_hears_of_it(spaces, script):
    holder, client = spaces
    server = inside(holder, SERVER)
    assert server.stdout.readline() == "listening\n"
    asker = inside(client, ASKER)
    try:
        assert asker.stdout.readline() == "asked\n"
        assert server.stdout.readline() == "b'question'\n"
        ip("-n", holder, "address", "delete", f"{VIP}/32", "dev", "eth0")
        began = time.monotonic()
        subprocess.run(["ip", "netns", "exec", holder, "bash", str(script)], check=True, capture_output=True)
        assert asker.stdout.readline() == "reset\n"
        assert time.monotonic() - began < 2
    finally:
        server.kill()
        asker.kill()
    assert VIP not in ip("-n", holder, "address", "show")
