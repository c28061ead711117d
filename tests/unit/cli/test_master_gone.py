"""A master that ends during a run: the command must not wait for ever for what nobody will tell it."""

from __future__ import annotations

import argparse
import socket
import threading
import time
from pathlib import Path

import pytest
import salt.utils.event

from kolla_salt.cli import master
from kolla_salt.cli.errors import CliError


class Bus:
    """An event bus on which nothing happens."""

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def connect_pub(self):
        return True

    def get_event(self, wait, **options):
        time.sleep(wait / 10)


@pytest.fixture
def running(monkeypatch, tmp_path):
    """A run that does not end, and the socket of its master."""
    link = socket.create_server(("127.0.0.1", 0))
    made = master.Master.__new__(master.Master)
    made.config = tmp_path / "master"
    made._opts = {"interface": "0.0.0.0", "ret_port": link.getsockname()[1], "sock_dir": str(tmp_path)}
    ended = threading.Event()
    made.runner = lambda *words, **kwargs: ended.wait(20) and {"data": "ended"}
    monkeypatch.setattr(salt.utils.event, "get_event", lambda *words, **options: Bus())
    monkeypatch.setattr(master, "AWAY", 1.0)
    monkeypatch.setattr(master, "LOOK", 0.1)
    yield made, link, ended
    ended.set()
    link.close()


def test_a_run_ends_with_what_to_do_when_its_master_is_gone(running):
    made, link, _ = running
    link.close()
    with pytest.raises(CliError, match=r"the Salt master of .*master has ended; .* give the same command again"):
        made.orchestrate("orch.deploy", {}, lambda tag, data: None, lambda: None)


def test_a_master_that_says_nothing_for_long_but_is_there_is_waited_for(running):
    made, _, ended = running
    threading.Timer(2.5, ended.set).start()
    assert made.orchestrate("orch.deploy", {}, lambda tag, data: None, lambda: None) == {"data": "ended"}


def test_nothing_listens_so_the_command_says_how_to_start_it(tmp_path):
    (tmp_path / "master").write_text(f"interface: 127.0.0.1\nret_port: 1\nroot_dir: {tmp_path}\n")
    made = master.Master(argparse.Namespace(master_config=tmp_path / "master", site=Path("/etc/kolla-salt")))
    with pytest.raises(CliError, match=r"nothing listens on 127\.0\.0\.1:1; start it: systemctl start salt-master"):
        _ = made.opts
