"""One ICMP echo request. Minimal systems have no program ``ping``; as root none is needed."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import struct
import time


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of ``data``."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(address: str, timeout: float = 1.0) -> bool:
    """Return whether ``address`` answers an echo request within ``timeout`` seconds.

    Args:
        address: IPv4 or IPv6 address.
        timeout: seconds.

    Raises:
        PermissionError: not root, and the kernel lets ordinary users send none.
        ValueError: ``address`` is not an IP address.
    """
    six = ipaddress.ip_address(address).version == 6
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, reply = (128, 129) if six else (8, 0)
    kind = socket.SOCK_RAW if os.geteuid() == 0 else socket.SOCK_DGRAM
    mark = secrets.token_bytes(8)
    number = os.getpid() & 0xFFFF
    body = struct.pack("!BBHHH", request, 0, 0, number, 1) + mark
    if not six:  # the kernel computes that of ICMPv6 itself
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    with socket.socket(family, kind, protocol) as link:
        try:
            link.sendto(body, (address, 0))
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                link.settimeout(left)
                data = link.recv(2048)
                if not six and kind == socket.SOCK_RAW:
                    data = data[(data[0] & 0x0F) * 4 :]
                if data[:1] == bytes([reply]) and data[8:16] == mark:
                    return True
        except PermissionError:
            raise
        except OSError:
            return False  # no answer in time, or no way there
    return False
