"""Whether the minions have read the site as it is now.

State jobs compile their pillar anew; an execution function sees what its minion read last. So the master remembers
which site it last told the minions to read, and tells them again when that is no longer the one on disk, or when one of
them was given another one since: a minion reads the site when it starts, too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from kolla_salt import runs
from kolla_salt.declarations import write_atomically

_NAME = "pillar-read"


def stale(site: Path | str, records: Path | str) -> str | None:
    """Return the digest of ``site`` if the minions have to read it again, else None.

    :param site: the site's folder.
    :param records: the folder of the run records, in which the last digest is kept.
    """
    digest = runs.digest(site)
    try:
        return None if (Path(records) / f".{_NAME}").read_text() == digest else digest
    except OSError:
        return digest


def mark(records: Path | str, digest: str) -> None:
    """Remember that the minions have read the site of this digest."""
    Path(records).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(records) / f".{_NAME}", digest.encode())


def given(records: Path | str, digest: str) -> None:
    """Forget which site the minions have read if one of them is now given another one.

    :param records: the folder of the run records. One that the master may not write to stays as it is.
    :param digest: of what the minion is given; empty: nothing, since the site could not be read.
    """
    path = Path(records) / f".{_NAME}"
    with contextlib.suppress(OSError):
        if path.read_text() != digest:
            path.unlink()
