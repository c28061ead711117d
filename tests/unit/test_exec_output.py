"""What a command in a container says, however the engine's answer comes in: a socket that answers as an engine does."""

from __future__ import annotations

import socket
import threading
import time

import docker
import pytest

from kolla_salt.engine import EngineError
from kolla_salt.modules import kolla_container

ANSWER = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


def frame(text: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


@pytest.fixture
def output(tmp_path):
    """Have an engine send these parts, with a pause between them; return what the command is taken to have said."""
    opened = []

    def run(*parts, silent=False, timeout=None):
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "engine.sock"))
        server.listen()
        opened.append(server)

        def answer():
            found, _ = server.accept()
            asked = b""
            while not asked.endswith(b"}"):  # the request and its body; what is left unread would reset the connection
                asked += found.recv(65536)
            for part in parts:
                found.sendall(part)
                time.sleep(0.1)
            if silent:
                opened.append(found)
            else:
                found.close()

        threading.Thread(target=answer, daemon=True).start()
        client = docker.APIClient(base_url=f"unix://{tmp_path}/engine.sock", version="1.44")
        return kolla_container._exec_output(client, "run `it`", "1", None, timeout)

    yield run
    for found in opened:
        found.close()


def test_what_comes_in_one_piece_with_the_answer_is_not_lost(output):
    assert output(ANSWER + frame(b"all\n")) == b"all\n"


@pytest.mark.parametrize("cut", [len(ANSWER), len(ANSWER) + 3, len(ANSWER) + 8, len(ANSWER) + 10, len(ANSWER) + 14])
def test_it_may_come_in_two_pieces_cut_anywhere(output, cut):
    sent = ANSWER + frame(b"first\n") + frame(b"second\n", stream=2)
    assert output(sent[:cut], sent[cut:]) == b"first\nsecond\n"


def test_a_command_that_says_nothing_has_said_nothing(output):
    assert output(ANSWER) == b""


def test_one_that_says_nothing_for_too_long_is_given_up(output):
    with pytest.raises(EngineError, match="it said nothing for 0.2 s"):
        output(ANSWER + frame(b"some\n"), silent=True, timeout=0.2)
