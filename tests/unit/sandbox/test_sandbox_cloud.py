from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from kolla_salt.images.places import releases
from kolla_salt.sandbox import cloud, host, master, topology
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.host import Process
from kolla_salt.sandbox.node import Running
from kolla_salt.sandbox.paths import Paths


def quiet() -> cloud.Progress:
    return cloud.Progress(lambda _: None)


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ([], "start"),
        ([Running(1, "new", True)], "keep"),
        ([Running(1, "old", True)], "restart"),
        ([Running(1, "new", False)], "restart"),
        ([Running(1, "new", True), Running(2, "new", True)], "restart"),
    ],
)
def test_what_to_do_about_a_node(found: list[Running], what: str) -> None:
    assert cloud.decide(found, "new") == what


def test_site_is_written_and_follows_the_number_of_nodes(paths: Paths) -> None:
    assert cloud.write_site(paths, 1, quiet()) == ["globals.yml", "topology.yml"]
    assert cloud.write_site(paths, 1, quiet()) == []
    assert "topology.yml" in cloud.write_site(paths, 4, quiet())
    data = yaml.safe_load((paths.site / "topology.yml").read_text())
    assert data == topology.topology(4)
    assert paths.site.stat().st_mode & 0o077 == 0


def test_the_site_names_as_many_hosts_as_it_did_until_told_otherwise(paths: Paths) -> None:
    assert cloud.site_count(paths) == 0
    cloud.write_site(paths, 4, quiet())
    assert cloud.site_count(paths) == 4
    (paths.site / "topology.yml").write_text("hosts: [\n")
    assert cloud.site_count(paths) == 0


def test_the_site_names_the_release_it_did_until_told_otherwise(paths: Paths) -> None:
    newest = releases()[-1]
    cloud.write_site(paths, 1, quiet())
    assert cloud.site_release(paths) == newest
    assert cloud.write_site(paths, 1, quiet(), "2025.2") == ["globals.yml"]
    assert cloud.write_site(paths, 1, quiet()) == []
    assert cloud.site_release(paths) == "2025.2"
    with (paths.site / "globals.yml").open("a") as file:
        file.write("mine: 1\n")
    said: list[str] = []
    cloud.write_site(paths, 1, cloud.Progress(said.append), newest)
    assert cloud.site_release(paths) == "2025.2"
    assert any(f"to have release {newest}, write openstack_release there" in line for line in said)


def test_edited_site_stays(paths: Paths) -> None:
    cloud.write_site(paths, 1, quiet())
    for name in ("globals.yml", "topology.yml"):
        with (paths.site / name).open("a") as file:
            file.write("mine: 1\n")
    said: list[str] = []
    assert cloud.write_site(paths, 2, cloud.Progress(said.append)) == []
    assert yaml.safe_load((paths.site / "globals.yml").read_text())["mine"] == 1
    assert any("topology.yml was edited" in line for line in said)


def test_edited_topology_that_is_no_yaml(paths: Paths) -> None:
    cloud.write_site(paths, 1, quiet())
    (paths.site / "topology.yml").write_text("hosts: [\n")
    with pytest.raises(SandboxError, match="topology.yml"):
        cloud.write_site(paths, 1, quiet())


def test_code_digest_sees_what_daemons_keep(tmp_path: Path) -> None:
    for file in ("kolla_salt/a.py", "kolla_salt/sandbox/b.py", "salt/_states/c.py", "salt/nova/d.py", "docs/e.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    before = cloud.code_digest(tmp_path)
    for file in ("kolla_salt/sandbox/b.py", "salt/nova/d.py", "docs/e.md"):
        (tmp_path / file).write_text("changed")
    assert cloud.code_digest(tmp_path) == before
    (tmp_path / "salt/_states/c.py").write_text("changed")
    after = cloud.code_digest(tmp_path)
    assert after != before
    os.unlink(tmp_path / "kolla_salt/a.py")
    assert cloud.code_digest(tmp_path) not in (before, after)


def test_current_count(paths: Paths) -> None:
    assert cloud.current_count(paths) == 0
    for name in ("node1", "node2"):
        paths.node(name).mkdir(parents=True)
    assert cloud.current_count(paths) == 2


def test_status_of_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "processes", lambda: iter(()))
    monkeypatch.setattr(master, "listens", lambda *_: False)
    result = cloud.status(paths)
    assert result["state"] == "down"
    assert result["nodes"] == {}
    assert not result["master"]["running"]


def test_unknown_node_is_named(paths: Paths) -> None:
    paths.node("node1").mkdir(parents=True)
    with pytest.raises(SandboxError, match="find node node7"):
        cloud._known(paths, "node7")


def test_a_minion_forgets_a_former_master(paths: Paths) -> None:
    remembered = paths.node("node1") / "upper/etc/salt/pki/minion/minion_master.pub"
    present = paths.master / "pki/master.pub"
    assert not cloud._forget_other_master(paths, "node1", None)
    for file in (remembered, present):
        file.parent.mkdir(parents=True)
        file.write_text("key one\n")
    assert not cloud._forget_other_master(paths, "node1", None)
    present.write_text("key two\n")
    assert cloud._forget_other_master(paths, "node1", None)
    assert not remembered.exists()


def test_progress_tells_only_what_was_done() -> None:
    lines: list[str] = []
    progress = cloud.Progress(lines.append)
    with progress.step("did it"):
        pass
    with pytest.raises(ValueError, match="no"), progress.step("did not"):
        raise ValueError("no")
    assert progress.changes == ["did it"]
    assert len(lines) == 1
    assert lines[0].endswith("s  did it")


def test_master_config(paths: Paths) -> None:
    assert master.write_config(paths)
    assert not master.write_config(paths)
    config = yaml.safe_load((paths.master_config / "master").read_text())
    assert config["interface"] == topology.HOST_API
    assert config["ext_pillar"] == [{"kolla": str(paths.site)}]
    assert config["file_roots"] == {"base": [str(paths.repo / "salt")]}
    assert config["local"] is False


def test_master_is_found_under_its_rewritten_title() -> None:
    title = "/venv/bin/python3 /venv/bin/salt-master --config-dir /s/etc RequestServer MWorker-0"
    assert master.is_master(Process(5, (title,), (5,)), "/s/etc")
    assert master.is_master(Process(5, tuple(title.split()), (5,)), "/s/etc")
    assert not master.is_master(Process(5, (title,), (5,)), "/other/etc")
    assert not master.is_master(Process(5, ("grep", "/s/etc"), (5,)), "/s/etc")
