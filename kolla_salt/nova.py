"""Which compute hosts Nova knows: what its databases say, compared with the hosts of the cloud."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Changes = dict[str, dict[str, Any]]

#: Seconds after which a service that does not report counts as down; Nova's own default of `service_down_time`.
DOWN_AFTER = 60

#: Host and age of the last report of every nova-compute, and whether it has switched itself off for lack of libvirt.
COMPUTES = """
    SELECT host, TIMESTAMPDIFF(SECOND, COALESCE(last_seen_up, updated_at, created_at), UTC_TIMESTAMP()),
        disabled AND COALESCE(disabled_reason, '') LIKE 'AUTO:%'
    FROM services WHERE `binary` = 'nova-compute' AND deleted = 0
"""
#: Hosts that a cell has; the scheduler chooses among no others.
MAPPED = "SELECT host FROM host_mappings"


def status(computes: Iterable[Sequence[Any]], mapped: Iterable[Sequence[Any]]) -> dict[str, list[str]]:
    """Return what the rows of :data:`COMPUTES` and :data:`MAPPED` mean.

    :returns: host names: ``up``, ``held`` and ``down`` (registered; those that report, those that do but have lost
        libvirt, those that do not report), ``mapped``
    """
    found: dict[str, list[str]] = {"up": [], "held": [], "down": [], "mapped": sorted(str(row[0]) for row in mapped)}
    for host, age, held in computes:
        reports = age is not None and int(age) <= DOWN_AFTER
        found["down" if not reports else "held" if held else "up"].append(str(host))
    return {key: sorted(value) for key, value in found.items()}


def missing(hosts: Sequence[str], up: Sequence[str]) -> list[str]:
    """Return the hosts of the site on which no nova-compute reports.

    Nova goes by the machine's own name, which may be longer or shorter than the one in the topology; where no names fit
    at all, as many are missing as the numbers differ by.

    :param hosts: names in the topology
    :param up: hosts that Nova sees
    """
    seen = {name.split(".")[0] for name in up}
    absent = [host for host in hosts if host.split(".")[0] not in seen]
    strangers = len(up) - (len(hosts) - len(absent))
    return absent[max(0, strangers) :]


def hosts_diff(hosts: Sequence[str], found: dict[str, list[str]]) -> Changes:
    """Compare the compute hosts of the site with those that Nova schedules to.

    :param hosts: hosts of the group compute
    :param found: as :func:`status` returns it
    :returns: ``registered`` if some have not announced themselves, ``mapped`` if some belong to no cell yet
    """
    changes: Changes = {}
    absent = missing(hosts, found["up"])
    if absent:
        changes["registered"] = {"old": found["up"], "new": sorted({*found["up"], *absent})}
    unmapped = [host for host in found["up"] if host not in found["mapped"]]
    if unmapped or absent:
        wanted = sorted({*found["mapped"], *unmapped, *absent})
        if wanted != found["mapped"]:
            changes["mapped"] = {"old": found["mapped"], "new": wanted}
    return changes
