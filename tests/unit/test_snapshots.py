"""Where snapshots of schemas lie, and what is refused."""

from __future__ import annotations

import json

import pytest

from kolla_salt import snapshots


def test_a_folder_is_that_of_a_run_and_a_service(tmp_path):
    assert (
        snapshots.folder("20261101-101500-upgrade", "glance", tmp_path) == tmp_path / "20261101-101500-upgrade/glance"
    )
    for bad in ("../x", "", "a/b"):
        with pytest.raises(snapshots.SnapshotError, match="no name"):
            snapshots.folder(bad, "glance", tmp_path)


def test_no_password_is_in_a_command():
    text = " ".join([*snapshots.dump_command(["a"]), *snapshots.load_command()])
    assert "password" not in text.lower() and "MYSQL_PWD" not in text
    given = snapshots.environment("10.0.0.11", 3306, "root", "database_password")
    assert given["MYSQL_PWD"] == {"secret": "database_password"}


def test_too_little_space_is_told_with_numbers(tmp_path):
    snapshots.check_space("ctl1", tmp_path, 1024**2, 2 * 1024**3)
    with pytest.raises(snapshots.SnapshotError, match="100 MiB are free.*expected 612 MiB.*--finish"):
        snapshots.check_space("ctl1", tmp_path, 100 * 1024**2, 100 * 1024**2)


def test_a_snapshot_without_its_description_or_of_another_size_is_none(tmp_path):
    with pytest.raises(snapshots.SnapshotError, match="there is no snapshot"):
        snapshots.read(tmp_path)
    (tmp_path / snapshots.FILE).write_bytes(b"12345")
    (tmp_path / snapshots.ABOUT).write_text(json.dumps({"bytes": 5}))
    assert snapshots.read(tmp_path)["bytes"] == 5
    (tmp_path / snapshots.FILE).write_bytes(b"123")
    with pytest.raises(snapshots.SnapshotError, match="3 bytes, expected 5"):
        snapshots.read(tmp_path)


def test_missing_tables_are_named():
    assert snapshots.missing_tables({"a": 3, "b": 1}, {"a": 3}) == ["schema b has 0 tables, expected 1"]
