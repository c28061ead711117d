"""The one place where Salt's dunders become the library's plain inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import declarations
from kolla_salt.context import Resolver
from kolla_salt.expand import HOST_PATHS

#: Where an orchestration keeps the run that it has begun, in its ``__context__``.
RUN = "kolla_salt.run"


def plain(value: Any) -> Any:
    """Return ``value`` without Salt 3008's masking of pillar data."""
    try:
        from salt.utils.secret import expose
    except ImportError:
        return value
    return expose(value)


def pillar(data: Mapping[str, Any], key: str) -> Any:
    """Return ``data[key]`` unmasked, or None.

    :param data: ``__pillar__`` of a loaded module.
    """
    return plain(data[key]) if key in data else None


def facts() -> dict[str, Any]:
    """Return what the specification of a container depends on of the machine itself (see ``expand.container_spec``)."""
    return {"paths": [path for path in HOST_PATHS if os.path.exists(path)]}


def run(context: Mapping[str, Any], verb: str) -> Any:
    """Return the run that the present orchestration has begun.

    :param context: ``__context__`` of a loaded module.
    :param verb: what begins one.
    :raises CommandExecutionError: none was begun.
    """
    if RUN not in context:
        raise CommandExecutionError(
            f"doing a step of a run: none was begun in this orchestration; start it with 'kolla-salt {verb}' "
            f"or 'salt-run state.orchestrate orch.{verb}'"
        )
    return context[RUN]


def resolver(opts: Mapping[str, Any], pillar_data: Mapping[str, Any], context: MutableMapping[str, Any]) -> Resolver:
    """Return this minion's :class:`~kolla_salt.context.Resolver`, made once per job.

    :raises CommandExecutionError: the pillar has no key ``kolla``, or the declarations cannot be read.
    """
    key = "kolla_salt.resolver"
    cached = context.get(key)
    source = id(pillar_data.get("kolla")) if hasattr(pillar_data, "get") else None
    if cached is not None and cached[0] == (os.getpid(), source):
        return cached[1]
    site = pillar(pillar_data, "kolla")
    if not site:
        raise CommandExecutionError(
            f"the pillar of minion {opts.get('id')} has no key `kolla`: add the ext_pillar `kolla` to the master's "
            "configuration (docs/guides/quickstart.md), check that the minion's id is a host of topology.yml, "
            "then run `salt '*' saltutil.refresh_pillar`"
        )
    try:
        found = Resolver(declarations.load(), site, str(opts["id"]))
    except (ValueError, FileNotFoundError) as exc:
        raise CommandExecutionError(str(exc)) from exc
    context[key] = ((os.getpid(), source), found)
    return found
