"""Snapshots of a service's database schemas: where they lie, how they are made and read back. Pure.

    <root>/<run>/<service>/schemas.sql.gz    the statements that drop, create and fill the schemas
    <root>/<run>/<service>/snapshot.json     what is in it; written last, so that without it there is no snapshot

They are made by MariaDB's own programs in a container of its image. The password is in that container's environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kolla_salt import paths

ROOT = paths.STATE_DIR / "snapshots"
FILE, ABOUT = "schemas.sql.gz", "snapshot.json"
#: Where the run-once container sees the folder.
INSIDE = "/snapshot"
#: What has to stay free on the disk, bytes.
RESERVE = 512 * 1024**2

_CLIENT = '--host="$DB_HOST" --port="$DB_PORT" --user="$DB_USER" --skip-ssl'
# One transaction sees all schemas as they were at one moment, and nobody waits for it.
_DUMP = (
    f"set -o errexit -o pipefail; umask 077; mariadb-dump {_CLIENT} --single-transaction --quick --routines --triggers "
    '--events --hex-blob --skip-add-locks --skip-disable-keys --add-drop-database --databases "$@" '
    f'| gzip -1 > "$FOLDER/{FILE}.new"; mv "$FOLDER/{FILE}.new" "$FOLDER/{FILE}"'
)
# A file that was cut off has to be found out before the first schema is dropped.
_LOAD = (
    f'set -o errexit -o pipefail; gzip --decompress --stdout "$FOLDER/{FILE}" | tail --bytes=200 '
    f'| grep --quiet "Dump completed"; gzip --decompress --stdout "$FOLDER/{FILE}" | mariadb {_CLIENT} --binary-mode'
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class SnapshotError(ValueError):
    """A snapshot that cannot be taken or used; the text says why and what mends it."""


def folder(run: str, service: str = "", root: Path | None = None) -> Path:
    """Return where the snapshots of a run (and service) lie. Raises SnapshotError for what is no name."""
    for name in (run, *([service] if service else [])):
        if not _NAME.fullmatch(str(name)):
            raise SnapshotError(f"a snapshot's folder: {name!r} is no name of a run or service")
    return (root or ROOT) / run / service if service else (root or ROOT) / run


def dump_command(schemas: Sequence[str]) -> list[str]:
    """Return the command that writes the snapshot of ``schemas``."""
    return ["bash", "-c", _DUMP, "snapshot", *schemas]


def load_command() -> list[str]:
    """Return the command that drops the schemas of a snapshot and makes them anew as they were."""
    return ["bash", "-c", _LOAD]


def environment(address: str, port: int, user: str, secret: str) -> dict[str, Any]:
    """Return the environment of both commands; the password is named, not given."""
    return {
        "DB_HOST": address,
        "DB_PORT": str(port),
        "DB_USER": user,
        "MYSQL_PWD": {"secret": secret},
        "FOLDER": INSIDE,
    }


def check_space(host: str, path: Path, needed: int, free: int) -> None:
    """Refuse a snapshot for which the disk is too small.

    Args:
        host: whose disk it is.
        path: where it would lie.
        needed: bytes that the schemas have in the database; compressed they need less.
        free: bytes free there.
    """
    if free - needed < RESERVE:
        raise SnapshotError(
            f"taking a snapshot on {host}: {free // 1024**2} MiB are free below {path}, expected "
            f"{(needed + RESERVE) // 1024**2} MiB for schemas of {needed // 1024**2} MiB; "
            "kolla-salt upgrade --finish removes those of an earlier run"
        )


def read(path: Path) -> dict[str, Any]:
    """Return what is known of the snapshot in folder ``path``. Raises SnapshotError if there is none."""
    try:
        about = json.loads((path / ABOUT).read_text())
        size = (path / FILE).stat().st_size
    except (OSError, ValueError):
        raise SnapshotError(f"there is no snapshot in {path}") from None
    if size != about["bytes"]:
        raise SnapshotError(f"{path / FILE} has {size} bytes, expected {about['bytes']}: somebody has changed it")
    return about


def in_short(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what records need to know of a snapshot: all but the values that are remembered beside the schemas."""
    return {key: value for key, value in about.items() if key != "remembered"}


def missing_tables(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return in sentences where schemas have other tables after a snapshot was loaded than when it was taken."""
    return [
        f"schema {name} has {after.get(name, 0)} tables, expected {count}"
        for name, count in before.items()
        if after.get(name, 0) != count
    ]
