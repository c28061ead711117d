"""Echo requests without a program."""

import os

import pytest

from kolla_salt import ping


def test_the_checksum_of_a_message_with_its_checksum_is_zero():
    data = b"\x08\x00\x00\x00\x12\x34\x00\x01abcdefg"
    value = ping.checksum(data)
    assert ping.checksum(data[:2] + value.to_bytes(2, "big") + data[4:]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets are root's")
def test_this_machine_answers_and_an_address_that_nobody_has_does_not():
    assert ping.ping("127.0.0.1")
    assert not ping.ping("203.0.113.1", timeout=0.3)
