from __future__ import annotations

import argparse
import json

import pytest

from kolla_salt.sandbox import cli, cloud, node
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.node import Running


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["sandbox", *argv], argparse.Namespace(json=False))


def test_arguments() -> None:
    args = parse("up", "--nodes", "4", "--json")
    assert (args.handler, args.nodes, args.json) == (cli.up, 4, True)
    assert parse("up").nodes is None
    assert parse("exec", "node1", "--", "ls", "--json").argv[-2:] == ["ls", "--json"]
    assert parse("down", "--purge").purge


@pytest.mark.parametrize(("state", "code"), [("up", 0), ("partial", 3), ("down", 3)])
def test_status_code(state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    result = {
        "state": state, "site": "/s", "registry": {"answers": False, "address": "a"},
        "master": {"running": True, "config_dir": "/m"},
        "nodes": {"node1": {"running": False, "pid": None, "engine": False, "minion": False, "address": "a",
                            "groups": ["control"]}},
    }  # fmt: skip
    monkeypatch.setattr(cloud, "status", lambda _: result)
    assert cli.main(["status", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main(["status"]) == code
    assert "node1" in capsys.readouterr().out


def test_progress_does_not_mix_with_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def down(_paths: object, progress: cloud.Progress, *, purge: bool) -> dict[str, object]:
        progress.note("works")
        return {"changes": [], "kept": ["/cache"]}

    monkeypatch.setattr(cloud, "down", down)
    assert cli.main(["down", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["kept"] == ["/cache"]
    assert "works" in err
    assert cli.main(["down"]) == 0
    assert "caches stay in /cache" in capsys.readouterr().out


def test_errors_are_told_in_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SandboxError("do it", "nothing", "something", "do that")

    monkeypatch.setattr(cloud, "up", fail)
    assert cli.main(["up"]) == 1
    err = capsys.readouterr().err
    assert all(word in err for word in ("could not do it", "nothing", "something", "do that"))


def test_exec_becomes_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(node, "find_node", lambda *_: Running(5, "d", True))
    monkeypatch.setattr(cli.os, "execvp", lambda _, words: called.append(words))
    cli.main(["exec", "node1", "--", "ls", "--", "x"])
    assert called[0][-3:] == ["ls", "--", "x"]
    cli.main(["exec", "node1"])
    assert called[1][-2:] == ["/bin/bash", "-l"]
