"""What a run keeps of what it replaces: files only, no engine."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace

import pytest

from kolla_salt import kept
from kolla_salt.declarations import load
from kolla_salt.modules import kolla_kept

FIRST, SECOND, UPGRADE = "20260714-100000-deploy", "20260714-110000-reconfigure", "20260714-120000-upgrade-1"


@pytest.fixture
def store(tmp_path):
    return kept.Store(tmp_path / "state" / "kept")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "web"
    (path / "conf.d").mkdir(parents=True)
    path.chmod(0o770)
    (path / "web.conf").write_text("password = S3cret\n")
    (path / "web.conf").chmod(0o660)
    (path / "conf.d" / "a.conf").write_text("a\n")
    return path


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nova_api", False),
        (f"nova_api.{FIRST}", True),
        (f"nova_api.{UPGRADE}", True),
        ("nova_api.undone", True),
        ("nova_api.new", False),
        ("my.container", False),
        (f".{FIRST}", False),
    ],
)
def test_containers_that_are_kept_are_told_by_their_names(name, expected):
    assert kept.is_kept(name) is expected


def test_only_what_an_upgrade_keeps_waits_for_its_end():
    assert [kept.until_finished(run) for run in (FIRST, SECOND, UPGRADE)] == [False, False, True]


def test_a_folder_is_kept_once_in_a_run_for_root_alone_and_comes_back_as_it_was(store, folder):
    assert store.keep_folder(FIRST, str(folder), "web") is True
    (folder / "web.conf").write_text("password = other\n")
    (folder / "web.conf").chmod(0o600)
    (folder / "new.conf").write_text("new\n")
    (folder / "conf.d" / "a.conf").unlink()
    assert store.keep_folder(FIRST, str(folder), "web") is False

    for path in (store.root, store.root / FIRST, store.root / FIRST / "config"):
        assert mode(path) == 0o700
    found = store.folder(FIRST, "web")
    assert (found.service, found.existed, found.directory) == ("web", True, str(folder))
    assert kept.restore_difference(found) == {
        "conf.d/a.conf": "removed",
        "new.conf": "added",
        "web.conf": "changed",
    }
    inode = folder.stat().st_ino
    kept.restore(found)
    assert kept.restore_difference(found) == {}
    assert sorted(path.name for path in folder.iterdir()) == ["conf.d", "web.conf"]
    assert (folder / "web.conf").read_text() == "password = S3cret\n"
    assert (mode(folder / "web.conf"), mode(folder)) == (0o660, 0o770)
    assert folder.stat().st_ino == inode  # containers have it mounted
    assert kept.restore(found) == []


def test_a_folder_that_was_not_there_is_removed_again(store, tmp_path):
    path = tmp_path / "web"
    store.keep_folder(FIRST, str(path), "web")
    path.mkdir()
    (path / "web.conf").write_text("x\n")
    found = store.folder(FIRST, "web")
    assert found.existed is False
    kept.restore(found)
    assert not path.exists()
    assert kept.restore(found) == []


def test_a_file_and_a_folder_of_the_same_name_change_places(store, folder):
    store.keep_folder(FIRST, str(folder), "web")
    (folder / "conf.d" / "a.conf").unlink()
    (folder / "conf.d").rmdir()
    (folder / "conf.d").write_text("now a file\n")
    (folder / "web.conf").unlink()
    (folder / "web.conf").mkdir()
    (folder / "web.conf" / "inside").write_text("x\n")
    kept.restore(store.folder(FIRST, "web"))
    assert (folder / "conf.d" / "a.conf").read_text() == "a\n"
    assert (folder / "web.conf").read_text() == "password = S3cret\n"


def test_a_copy_that_was_cut_off_counts_as_none(store, folder, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "web.conf")

    monkeypatch.setattr(kept.shutil, "copytree", full)
    with pytest.raises(OSError, match="No space left"):
        store.keep_folder(FIRST, str(folder), "web")
    monkeypatch.undo()
    assert store.folders(FIRST) == {}
    assert list((store.root / FIRST / "config").iterdir()) == []
    assert store.keep_folder(FIRST, str(folder), "web") is True


def test_a_handful_of_states_of_a_folder_is_kept_and_those_of_an_upgrade(store, folder):
    store.keep_folder("20260101-000000-upgrade", str(folder), "web")
    runs = [f"20260714-10000{number}-deploy" for number in range(kept.FOLDERS + 2)]
    for run in runs:
        store.keep_folder(run, str(folder), "web")
    assert store.runs() == ["20260101-000000-upgrade", *runs[2:]]


def test_an_entry_is_read_as_it_was_written_and_its_run_goes_with_the_last_thing_in_it(store):
    entry = kept.Entry(FIRST, "web_api", "recreate", old={"id": "1"}, new="2", component="web")
    store.write(entry)
    assert store.entry(FIRST, "web_api") == entry
    assert store.entries(FIRST) == {"web_api": entry}
    assert mode(store.root / FIRST / "containers" / "web_api.json") == 0o600
    store.keep_step(FIRST, "bootstrap_web", {"image_id": "x"})
    store.forget(entry)
    assert store.runs() == []


def test_a_run_that_goes_on_with_another_ones_work_has_its_entry_instead(store):
    store.write(kept.Entry(FIRST, "web_api", "recreate", phase=kept.BEGUN, old={"id": "1"}, new="2"))
    mine = store.taken_over(store.entry(FIRST, "web_api"), SECOND)
    assert (mine.run, mine.phase, mine.old) == (SECOND, kept.BEGUN, {"id": "1"})
    assert [entry.run for entry in store.of_container("web_api")] == [SECOND]
    assert store.runs() == [SECOND]


def test_the_newest_comes_first(store, folder):
    for run in (SECOND, FIRST):
        store.write(kept.Entry(run, "web_api", "recreate"))
        store.keep_folder(run, str(folder), "web")
    assert [entry.run for entry in store.of_container("web_api")] == [SECOND, FIRST]
    assert [found.run for found in store.folders_of("web")] == [SECOND, FIRST]


def test_what_a_step_remembered_is_kept_as_it_was_at_first(store):
    store.keep_step(FIRST, "bootstrap_web", {"image_id": "old"})
    store.keep_step(FIRST, "bootstrap_web", {"image_id": "between"})
    store.keep_step(FIRST, "never_run", {})
    assert store.steps(FIRST) == {"bootstrap_web": {"image_id": "old"}, "never_run": {}}


def test_a_torn_entry_counts_as_none(store):
    store.write(kept.Entry(FIRST, "web_api", "recreate"))
    (store.root / FIRST / "containers" / "web_api.json").write_text('{"run": "2026')
    assert store.entry(FIRST, "web_api") is None
    assert store.entries(FIRST) == {}


def test_nothing_kept_is_no_error(store):
    assert store.runs() == []
    assert store.entries(FIRST) == {} and store.folders(FIRST) == {} and store.steps(FIRST) == {}
    assert store.folder(FIRST, "web") is None
    store.tidy(FIRST)


def test_an_upgrades_steps_are_kept_until_their_own_service_is_taken_back(store, folder):
    store.keep_step(UPGRADE, "keystone_expand", {})  # killed before a container of this service was replaced
    store.write(kept.Entry(UPGRADE, "web_api", "recreate"))
    store.keep_folder(UPGRADE, str(folder), "web")
    store.drop_folder(store.folder(UPGRADE, "web"))
    store.forget(store.entry(UPGRADE, "web_api"))
    assert store.steps(UPGRADE) == {"keystone_expand": {}}
    store.drop_steps(UPGRADE, ["keystone_expand"])
    assert store.runs() == []


def in_order(names, slow=(), quick=()):
    """Return of states in a row: name -> (those that it waits for, whether it goes beside what follows)."""
    states = [(name, "kolla_kept", "returned", {"run": FIRST}) for name in names]
    high = kolla_kept._in_order("nova", states, set(slow), set(quick), first=3)

    def field(name, key):
        return next((part[key] for part in high[name]["kolla_kept"][1:] if key in part), None)

    assert sorted(high) == sorted(names)
    assert [field(name, "order") for name in high] == [4 + number for number in range(len(names))]
    return {
        name: ([next(iter(item.values())) for item in field(name, "require")], field(name, "parallel") is True)
        for name in high
    }


def test_what_comes_back_waits_for_what_came_before_but_slow_ones_in_a_row_go_together():
    assert in_order(["api", "compute", "scheduler", "ssh", "last"], slow=["compute", "scheduler", "last"]) == {
        "api": ([], False),
        "compute": (["api"], True),
        "scheduler": (["api"], True),
        "ssh": (["api", "compute", "scheduler"], False),
        "last": (["api", "compute", "scheduler", "ssh"], True),
    }


def test_what_users_ask_comes_back_one_after_the_other_beside_slow_ones():
    names = ["libvirt", "api", "metadata", "scheduler", "conductor", "kept"]
    found = in_order(names, slow=["scheduler", "conductor"], quick=["api", "metadata"])
    assert found == {
        "libvirt": ([], False),
        "scheduler": (["libvirt"], True),
        "conductor": (["libvirt"], True),
        "api": (["libvirt"], False),
        "metadata": (["libvirt", "api"], False),
        "kept": (["libvirt", "api", "metadata", "scheduler", "conductor"], False),
    }
    assert list(found) == ["libvirt", "scheduler", "conductor", "api", "metadata", "kept"]  # the slow ones begin first


def test_of_nova_the_workers_are_slow_and_what_the_load_balancer_asks_is_quick(monkeypatch):
    declarations = {"nova": load()["nova"]}
    monkeypatch.setattr(kolla_kept, "_resolver", lambda: SimpleNamespace(declarations=declarations))
    slow, quick = kolla_kept._slow("nova")
    assert slow == {"nova_conductor", "nova_scheduler", "nova_compute"}
    assert {"nova_api", "nova_metadata", "nova_novncproxy"} <= quick
    assert not quick & {*slow, "nova_libvirt", "nova_ssh"}


def test_a_container_comes_back_before_those_that_only_start_after_it(monkeypatch):
    declarations = {name: load()[name] for name in ("nova", "loadbalancer", "openvswitch")}
    monkeypatch.setattr(kolla_kept, "_resolver", lambda: SimpleNamespace(declarations=declarations))
    last_first = ["nova_novncproxy", "nova_api", "nova_conductor", "nova_compute", "nova_ssh", "nova_libvirt"]
    # Placement, which the conductor starts after, is another service.
    assert kolla_kept._needed_first(last_first, "nova") == [
        "nova_libvirt", "nova_novncproxy", "nova_api", "nova_conductor", "nova_compute", "nova_ssh",
    ]  # fmt: skip
    assert kolla_kept._needed_first(["nova_compute", "nova_ssh"], "nova") == ["nova_compute", "nova_ssh"]
    assert kolla_kept._needed_first(["keepalived", "haproxy"], "loadbalancer") == ["haproxy", "keepalived"]
    names = ["openvswitch_vswitchd", "openvswitch_db"]
    assert kolla_kept._needed_first(names, "openvswitch") == ["openvswitch_db", "openvswitch_vswitchd"]
    assert kolla_kept._needed_first(["gone"], "switched_off") == ["gone"]
