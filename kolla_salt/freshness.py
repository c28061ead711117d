"""Whether the minions have read the site as it is now.

State jobs compile their pillar anew; an execution function sees what its minion read last. So the master remembers
which site it last told the minions to read, and tells them again when that is no longer the one on disk.
"""

from __future__ import annotations

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
