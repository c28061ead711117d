"""A bad link: takes a network card off its bridge and hands packets on, some of them, some time later.

``python -m benchmarks.chaos.link CARD BRIDGE LOSS DELAY`` until it is terminated; prints ``ready`` when packets flow.
The kernel's own means (netem) is a module that many machines lack; this needs nothing but raw sockets. Both ends keep
what network cards leave to others (unfinished checksums, packets of many kilobytes), so nothing is cut into pieces.
"""

from __future__ import annotations

import heapq
import itertools
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 1, 15, 23
PACKET_MR_PROMISC = 1
ETH_P_ALL = 0x0003
MOST = 70000


class Queue:
    """Packets on their way: which of them arrive, and when. The clock and the dice are the caller's.

    Args:
        loss: share of packets that are lost, 0 to 1.
        delay: seconds that the others take.
        dice: returns a number from 0 to 1.
    """

    def __init__(self, loss: float, delay: float, dice: Callable[[], float]) -> None:
        self.loss, self.delay, self.dice = loss, delay, dice
        self._heap: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()

    def put(self, now: float, way: int, packet: bytes) -> None:
        """Take a packet that goes ``way`` (0 or 1)."""
        if self.dice() >= self.loss:
            heapq.heappush(self._heap, (now + self.delay, next(self._count), way, packet))

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Return the packets that have arrived by ``now``, in the order in which they were sent."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, _, way, packet = heapq.heappop(self._heap)
            found.append((way, packet))
        return found

    def wait(self, now: float) -> float:
        """Return the seconds until the next packet arrives, at most a tenth."""
        return min(0.1, max(0.0, self._heap[0][0] - now)) if self._heap else 0.1


def _open(card: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
    link.bind((card, ETH_P_ALL))
    membership = struct.pack("iHH8s", socket.if_nametoindex(card), PACKET_MR_PROMISC, 0, b"")
    link.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
    link.setblocking(False)
    return link


def _ip(*words: str) -> None:
    subprocess.run(["ip", "link", *words], check=True, capture_output=True, timeout=10)


def hand_on(card: str, end: str, queue: Queue) -> None:
    """Hand packets on between two network cards until SIGTERM."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    links = [_open(card), _open(end)]
    print("ready", flush=True)
    while not stopped:
        ready, _, _ = select.select(links, [], [], queue.wait(time.monotonic()))
        for link in ready:
            for _ in range(64):
                try:
                    packet = link.recv(MOST)
                except (BlockingIOError, OSError):
                    break
                queue.put(time.monotonic(), 1 - links.index(link), packet)
        for way, packet in queue.due(time.monotonic()):
            try:
                links[way].send(packet)
            except OSError:
                continue  # a full queue loses packets, as a link does


def main(card: str, bridge: str, loss: str, delay: str) -> None:
    """Put the bad link between ``card`` and ``bridge``, and take it away at the end."""
    inner, outer = f"{card[:12]}-b", f"{card[:12]}-c"
    subprocess.run(["ip", "link", "delete", inner], capture_output=True, timeout=10, check=False)
    _ip("add", "name", inner, "type", "veth", "peer", "name", outer)
    try:
        # Without an answer to ARP this machine does not take part in what passes.
        for name in (inner, outer, card):
            _ip("set", "dev", name, "arp", "off")
        _ip("set", "dev", card, "nomaster")
        _ip("set", "dev", outer, "master", bridge)
        for name in (inner, outer):
            _ip("set", "dev", name, "up")
        hand_on(card, inner, Queue(float(loss), float(delay), random.random))
    finally:
        subprocess.run(["ip", "link", "delete", inner], capture_output=True, timeout=10, check=False)
        subprocess.run(
            ["ip", "link", "set", "dev", card, "arp", "on", "master", bridge],
            capture_output=True,
            timeout=10,
            check=False,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
