"""A bad link's packets: which arrive, when, and in which order."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.chaos.link import Queue


def test_packets_arrive_late_and_in_their_order():
    queue = Queue(loss=0, delay=0.1, dice=lambda: 0.5)
    queue.put(1.0, 0, b"a")
    queue.put(1.0, 1, b"b")
    queue.put(1.05, 0, b"c")
    assert queue.due(1.09) == []
    assert queue.due(1.11) == [(0, b"a"), (1, b"b")]
    assert queue.due(2.0) == [(0, b"c")]


def test_the_share_that_is_lost_never_arrives():
    dice = itertools.cycle([0.1, 0.9])
    queue = Queue(loss=0.5, delay=0, dice=lambda: next(dice))
    for number in range(10):
        queue.put(0, 0, bytes([number]))
    assert [packet[0] for _, packet in queue.due(0)] == [1, 3, 5, 7, 9]


def test_a_link_without_loss_loses_nothing():
    queue = Queue(loss=0.0, delay=0, dice=lambda: 0.0)
    queue.put(0, 1, b"a")
    assert queue.due(0) == [(1, b"a")]


def test_waiting_ends_when_the_next_packet_is_due():
    queue = Queue(loss=0, delay=0.05, dice=lambda: 1)
    assert queue.wait(0) == 0.1
    queue.put(1.0, 0, b"a")
    assert queue.wait(1.0) == pytest.approx(0.05)
    assert queue.wait(3.0) == 0
