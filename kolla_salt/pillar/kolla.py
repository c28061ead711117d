"""External pillar that gives each minion its part of the site.

Master configuration::

    ext_pillar:
      - kolla: /etc/kolla-salt
"""

from __future__ import annotations

import logging
from typing import Any

from kolla_salt import declarations, drift, freshness, runs
from kolla_salt import site as sites
from kolla_salt.context import ContextError, Resolver

log = logging.getLogger(__name__)
__virtualname__ = "kolla"


def __virtual__() -> str:
    return __virtualname__


def ext_pillar(minion_id: str, _pillar: dict[str, Any], directory: str = str(sites.DEFAULT_DIR)) -> dict[str, Any]:
    """Return ``{"kolla": ...}`` for a host of the site's topology, else nothing; and what watches it for drift.

    What is wrong with the site is returned as ``_errors``: Salt then refuses to run states on that pillar.

    :param minion_id: the minion's id, i.e. the host's name in ``topology.yml``.
    :param directory: the site's folder on the master.
    """
    records = __opts__.get("kolla_runs") or runs.ROOT
    try:
        served = sites.served(directory)
        served.digest = served.digest or runs.digest(directory)
        data = served.pillar(minion_id)
        watched = {} if data is None else _watch(served.resolver.seen_from(minion_id))
    except (sites.SiteError, declarations.DeclarationError, ContextError, FileNotFoundError) as exc:
        freshness.given(records, "")
        return {"_errors": [str(exc)]}
    freshness.given(records, served.digest)
    if data is None:
        log.debug("kolla: minion %s is not in the topology of %s", minion_id, directory)
        return {}
    return {"kolla": data, **watched}


def _watch(resolver: Resolver) -> dict[str, Any]:
    """Return by what Salt watches this host for drift; nothing if the formula has no such options."""
    if "drift_watch_interval" not in resolver.settings:
        return {}
    names = ("drift_watch_interval", "drift_compare_minutes", "container_engine", "container_engine_socket")
    return drift.watch(*(resolver.value(name) for name in names))
