"""What HAProxy's statistics say about the servers behind it, and what that means for taking one out.

Format: HAProxy's management guide, 9.1 ("CSV format") and 9.3 ("set server", "show stat").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

#: How a server is taken out: `drain` lets connections end and takes no new ones; `maint` ends them.
MODES = ("drain", "maint")


def backend(entry: str) -> str:
    """Return the name of a load-balancer entry's backend in HAProxy's configuration."""
    return f"{entry}_back"


def parse(text: str) -> dict[str, dict[str, Any]]:
    """Return the servers in the output of ``show stat``.

    :returns: ``backend/server`` -> ``status`` (HAProxy's word: ``UP``, ``DOWN``, ``DRAIN``, ``MAINT``, ...) and
        ``sessions`` (present number)
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {
        f"{row['pxname']}/{row['svname']}": {"status": row["status"], "sessions": int(row["scur"] or 0)}
        for row in rows
        if row.get("svname") not in (None, "", "FRONTEND", "BACKEND")
    }


def writers(text: str) -> dict[str, str]:
    """Return backend -> the one server that gets its requests, for backends whose other servers are only in reserve.

    :param text: the output of ``show stat``
    """
    rows = [row for row in csv.DictReader(io.StringIO(text.removeprefix("# "))) if row.get("svname")]
    reserve = {row["pxname"] for row in rows if row.get("bck") == "1"}
    found: dict[str, str] = {}
    for wanted in ("1", "0"):  # a backup gets requests only when no other server is up
        for row in rows:
            usable = row["svname"] not in ("FRONTEND", "BACKEND") and is_up(row["status"])
            if row["pxname"] in reserve and usable and (row.get("act") == "1") == (wanted == "1"):
                found.setdefault(row["pxname"], row["svname"])
    return found


def findings(servers: Mapping[str, Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return what is wrong with the servers behind the HAProxy of ``host``, for ``kolla-salt verify``."""
    found = []
    for name, data in servers.items():
        status = str(data["status"])
        item = {"name": f"{name} in HAProxy", "found": status, "expected": "UP"}
        if is_out(status):
            put_in = f"salt {host} kolla_haproxy.ready '[{name}]'"
            mend = (
                f"if nobody works on it: {put_in}; a run that was interrupted puts in what it took out when it goes on"
            )
            found.append({**item, "winner": "undecided", "mend": mend})
        elif not is_up(status):
            found.append(
                {**item, "winner": "site", "mend": f"kolla-salt status: what runs on {name.partition('/')[2]}"}
            )
    return found


def is_up(status: str) -> bool:
    """Return whether a server of that status gets requests. ``UP 1/3`` is up, and has failed a check."""
    return status.startswith(("UP", "no check"))


def is_out(status: str) -> bool:
    """Return whether a server of that status was taken out by somebody."""
    return status.startswith(("DRAIN", "MAINT"))


def can_go(servers: Mapping[str, Mapping[str, Any]], targets: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return which of ``targets`` may be taken out, and why the others may not.

    One stays if no other server of its backend would be left to answer.

    :param servers: as :func:`parse` returns them
    :param targets: ``backend/server`` each
    """
    wanted = list(targets)
    going, staying = [], {}
    for target in wanted:
        own, _, _ = target.partition("/")
        if target not in servers:
            staying[target] = "HAProxy does not know it"
        elif not any(
            name.startswith(f"{own}/") and name not in wanted and is_up(data["status"])
            for name, data in servers.items()
        ):
            staying[target] = "no other server of this backend is up"
        else:
            going.append(target)
    return going, staying
