"""Compute hosts as Nova's databases know them, and the program that prepares Nova."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import nova
from kolla_salt.modules import kolla_nova as module

TEMPLATE = Path(__file__).resolve().parents[2] / "salt/nova/files/bootstrap.py.j2"


def test_a_service_is_up_while_it_reports():
    found = nova.status([("cmp2", 12, 0), ("cmp1", 60, 0), ("cmp3", 61, 0), ("cmp4", None, 0)], [("cmp1",)])
    assert found == {"up": ["cmp1", "cmp2"], "held": [], "down": ["cmp3", "cmp4"], "gone": [], "mapped": ["cmp1"]}


def test_a_service_without_libvirt_is_waited_for():
    found = nova.status([("cmp1", 3, 0), ("cmp2", 3, 1)], [("cmp1",), ("cmp2",)])
    assert found["held"] == ["cmp2"]
    assert nova.hosts_diff(["cmp1", "cmp2"], found) == {"registered": {"old": ["cmp1"], "new": ["cmp1", "cmp2"]}}


@pytest.mark.parametrize(
    ("hosts", "up", "expected"),
    [
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a"], ["b"]),
        (["a", "b"], [], ["a", "b"]),
        (["a", "b"], ["a.example.org", "b.example.org"], []),
        (["a.example.org"], ["a"], []),
        (["a", "b"], ["rack1-x", "rack1-y"], []),
        (["a", "b"], ["rack1-x"], ["b"]),
    ],
)
def test_missing_hosts_are_told_by_name_or_else_by_number(hosts, up, expected):
    assert nova.missing(hosts, up) == expected


def test_nothing_is_to_be_done_when_each_host_reports_and_is_mapped():
    found = {"up": ["a", "b"], "down": ["gone"], "gone": [], "mapped": ["a", "b", "gone"]}
    assert nova.hosts_diff(["a", "b"], found) == {}


def test_a_host_that_has_not_announced_itself_is_a_difference():
    changes = nova.hosts_diff(["a", "b"], {"up": ["a"], "down": [], "gone": [], "mapped": ["a"]})
    assert changes == {
        "registered": {"old": ["a"], "new": ["a", "b"]},
        "mapped": {"old": ["a"], "new": ["a", "b"]},
    }


def test_a_host_without_a_cell_is_a_difference():
    assert nova.hosts_diff(["a"], {"up": ["a"], "gone": [], "mapped": []}) == {"mapped": {"old": [], "new": ["a"]}}


def test_a_host_that_was_there_and_has_died_is_not_waited_for():
    rows = [("a", 3, 0), ("dead", 181, 0), ("restarts", 180, 0), ("strange", 999, 0)]
    found = nova.status(rows, [("a",), ("dead",), ("restarts",)])
    assert found["gone"] == ["dead"]
    assert nova.awaited(["a", "dead", "restarts", "strange"], found) == ["restarts", "strange"]
    assert nova.hosts_diff(["a", "dead"], found) == {}


# --- the module, with databases that answer -----------------------------------------------------------------


class Resolver:
    def __init__(self, hosts):
        self._hosts = hosts

    def hosts(self, group):
        return {"compute": self._hosts}[group]

    def value(self, option):
        return {"nova_compute_registration_timeout": 0.2}[option]


@pytest.fixture
def load(monkeypatch):
    """Return a function that loads the module for a cloud whose databases give one answer after the other."""

    def loader(hosts, *answers, exit_status=0):
        said, commands = list(answers), []

        def execute(name, command, check=True):
            commands.append((name, command))
            return {"exit_status": exit_status, "output": "why not"}

        monkeypatch.setattr(module, "compute_hosts", lambda: said.pop(0) if len(said) > 1 else said[0])
        monkeypatch.setattr(module.runtime, "resolver", lambda *_: Resolver(hosts))
        monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
        for dunder, value in (("__salt__", {"kolla_container.exec": execute}), ("__opts__", {}), ("__pillar__", {}),
                              ("__context__", {})):  # fmt: skip
            monkeypatch.setattr(module, dunder, value, raising=False)
        return commands

    return loader


def found(up, mapped):
    return {"up": up, "held": [], "down": [], "gone": [], "mapped": mapped}


def test_hosts_are_waited_for_and_then_mapped(load):
    commands = load(["a", "b"], found([], []), found(["a"], []), found(["a", "b"], []))
    assert module.map_hosts(timeout=30) == "mapped a, b"
    assert commands == [("nova_conductor", ["nova-manage", "cell_v2", "discover_hosts", "--by-service"])]


def test_mapped_hosts_are_not_mapped_again(load):
    commands = load(["a"], found(["a"], ["a"]))
    assert module.map_hosts() == "all compute hosts have announced themselves"
    assert commands == []


def test_a_host_that_stays_away_fails_the_step_but_not_the_others(load):
    commands = load(["a", "b"], found(["a"], []))
    with pytest.raises(CommandExecutionError, match="nova-compute on b: Nova sees a.*nova-compute.log"):
        module.map_hosts()
    assert len(commands) == 1


def test_what_nova_said_is_in_the_error(load):
    load(["a"], found(["a"], []), exit_status=1)
    with pytest.raises(CommandExecutionError, match="(?s)mapping the compute hosts a: .*status 1.*why not"):
        module.map_hosts()


# --- the program that prepares Nova -------------------------------------------------------------------------

# Stands for nova.cmd.manage: it notes its arguments, keeps cells in a file and prints tables as Nova does.
FAKE = """
import json, pathlib, sys
here = pathlib.Path(__file__).resolve().parents[2]

def main():
    state = json.loads((here / "state.json").read_text())
    arguments = sys.argv[sys.argv.index("--log-file") + 2:]
    state["calls"].append(arguments)
    option = lambda name: arguments[arguments.index(name) + 1] if name in arguments else None
    fail = state.get("fail") == arguments[1]
    if arguments[1] == "create_cell":
        state["cells"]["c" * 36] = option("--name") or ""
    if arguments[1] == "list_cells":
        print("+---+---+---+---+---+")
        print("| Name | UUID | Transport URL | Database Connection | Disabled |")
        for uuid, name in state["cells"].items():
            print(f"| {name} | {uuid} | rabbit://****@h | mysql://****@h | False |")
    (here / "state.json").write_text(json.dumps(state))
    return 3 if fail else None
"""
CELL0 = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def bootstrap(tmp_path):
    """Return a function that runs the program beside a stand-in for Nova and returns its calls."""
    import json

    package = tmp_path / "nova" / "cmd"
    package.mkdir(parents=True)
    for path in (tmp_path / "nova/__init__.py", package / "__init__.py"):
        path.write_text("")
    (package / "manage.py").write_text(FAKE)

    def run(database, queue, cells=(), name="", fail=None):
        (tmp_path / "nova.conf").write_text(
            f"[DEFAULT]\ntransport_url = {queue}\n[database]\nconnection = {database}\n"
            "[pci]\ndevice_spec = 1\ndevice_spec = 2\n"
        )
        state = {"calls": [], "cells": {CELL0: "cell0", **dict(cells)}, "fail": fail}
        (tmp_path / "state.json").write_text(json.dumps(state))
        env = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        env.filters["to_json"] = json.dumps
        text = env.from_string(TEMPLATE.read_text()).render(nova_cell_name=name)
        text = text.replace("/var/lib/kolla/config_files/nova.conf", str(tmp_path / "nova.conf"))
        text = text.replace("/var/log/kolla/nova", str(tmp_path / "log"))
        (tmp_path / "program.py").write_text(text)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, cwd=tmp_path
        )
        return done, json.loads((tmp_path / "state.json").read_text())["calls"]

    return run


DATABASE = "mysql+pymysql://nova:p%40ss%2Fword@10.0.0.10:3306/nova"
QUEUE = "rabbit://openstack:secret@10.0.0.11:5672//"


def test_schemas_come_before_cells_and_no_password_is_on_a_command_line(bootstrap):
    done, calls = bootstrap(DATABASE, QUEUE)
    assert done.returncode == 0, done.stderr
    assert [call[:2] for call in calls] == [
        ["api_db", "sync"], ["cell_v2", "map_cell0"], ["db", "sync"], ["cell_v2", "update_cell"],
        ["cell_v2", "list_cells"], ["cell_v2", "create_cell"],
    ]  # fmt: skip
    everything = f"{calls} {done.stdout} {done.stderr}"
    assert "p%40ss" not in everything
    assert "secret" not in everything
    assert calls[1][-1] == "mysql+pymysql://{username}:{password}@10.0.0.10:3306/nova_cell0"
    assert calls[5][2:] == [
        "--transport-url", "rabbit://{username}:{password}@10.0.0.11:5672//",
        "--database_connection", "mysql+pymysql://{username}:{password}@10.0.0.10:3306/nova",
    ]  # fmt: skip


def test_accounts_of_several_queue_hosts_are_numbered(bootstrap):
    queue = "rabbit://openstack:secret@10.0.0.11:5672,openstack:secret@[fd00::12]:5672/vhost"
    _done, calls = bootstrap(DATABASE + "?ssl_ca=/etc/ca.pem", queue)
    assert calls[-1][3] == (
        "rabbit://{username1}:{password1}@10.0.0.11:5672,{username2}:{password2}@[fd00::12]:5672/vhost"
    )
    assert calls[1][-1].endswith("/nova_cell0?ssl_ca=/etc/ca.pem")


def test_the_cell_of_an_older_deployment_is_kept_and_updated(bootstrap):
    _done, calls = bootstrap(DATABASE, QUEUE, cells=[("a" * 36, "")])
    assert calls[-1][1:4] == ["update_cell", "--cell_uuid", "a" * 36]
    assert not any(call[1] == "create_cell" for call in calls)


def test_a_named_cell_is_made_beside_others(bootstrap):
    _done, calls = bootstrap(DATABASE, QUEUE, cells=[("a" * 36, "elsewhere")], name="cell1")
    assert calls[-1][1:4] == ["create_cell", "--name", "cell1"]


def test_the_first_failure_ends_it(bootstrap):
    done, calls = bootstrap(DATABASE, QUEUE, fail="map_cell0")
    assert done.returncode == 1
    assert "nova-manage cell_v2 map_cell0" in done.stderr
    assert "ended with 3" in done.stderr
    assert len(calls) == 2
