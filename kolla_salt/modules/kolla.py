"""What the declarations of kolla-salt say about this minion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import __version__, declarations, paths, plan, runtime
from kolla_salt import expand as _expand
from kolla_salt.context import ContextError

__virtualname__ = "kolla"
STAMPS = paths.STATE_DIR / "stamps"


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _facts() -> dict[str, Any]:
    """What expansion needs to know of the machine itself."""
    facts: dict[str, Any] = runtime.facts()
    if __opts__.get("test"):
        return facts
    try:
        listed = __salt__["kolla_container.list"]()
        facts["running"] = {item["name"] for item in listed if item["state"] == "running"}
    except CommandExecutionError:
        # No engine: the states will say so, one by one; rendering has to work on a bare host.
        return facts
    facts["stamps"] = {path.stem for path in STAMPS.glob("*.json")} if STAMPS.is_dir() else set()
    return facts


def states(service: str) -> dict[str, Any]:
    """Return the states that the declaration of ``service`` implies on this minion.

    :param service: name of the service.
    :raises CommandExecutionError: unknown service, or an option that cannot be resolved.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.states glance
    """
    resolver = _resolver()
    if service not in resolver.declarations:
        hint = declarations.nearest(service, resolver.declarations)
        raise CommandExecutionError(f"expanding service '{service}': no such declaration{hint}")
    step = runtime.pillar(__pillar__, "kolla_step") or {}
    if "kolla_salt.facts" not in __context__:
        __context__["kolla_salt.facts"] = _facts()
    try:
        upgrade = step.get("verb") == plan.UPGRADE
        facts = {**__context__["kolla_salt.facts"], "services": step.get("services") or [], "upgrade": upgrade}
        result = _expand.expand(service, resolver, role=step.get("role"), facts=facts)
    except ContextError as exc:
        raise CommandExecutionError(f"expanding service '{service}': {exc}") from exc
    resolver.leaves.save()
    return result


def involved(service: str) -> bool:
    """Return whether ``service`` has hand-written states on this minion, in the present step of a run.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.involved glance
    """
    step = runtime.pillar(__pillar__, "kolla_step") or {}
    if step.get("role") in _expand.LATE:
        return False
    try:
        return _expand.uninvolved(service, _resolver(), step.get("role")) is None
    except ContextError as exc:
        raise CommandExecutionError(f"looking for service '{service}': {exc}") from exc


def option(name: str) -> Any:
    """Return the resolved value of option ``name`` on this minion.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.option internal_vip_address
    """
    try:
        return json.loads(json.dumps(_resolver().value(name)))
    except ContextError as exc:
        raise CommandExecutionError(str(exc)) from exc


def catalogue() -> dict[str, Any]:
    """Return what the enabled services declare for others: load balancer, ports, logs, databases, images.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.catalogue
    """
    return json.loads(json.dumps(_resolver().catalogue))


def images() -> list[str]:
    """Return the references of the images that this minion's containers need.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.images
    """
    resolver = _resolver()
    return [image["reference"] for image in resolver.catalogue["images"] if resolver.host in image["hosts"]]


def containers() -> dict[str, dict[str, Any]]:
    """Return the containers that belong on this minion: name -> service and image.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.containers
    """
    resolver = _resolver()
    return {
        name: {"service": service, "image": _expand.container_spec(resolver, service, name, _facts())["image"]}
        for service in resolver.enabled_services()
        for name, on in resolver.containers(service).items()
        if on
    }


def spec(name: str) -> dict[str, Any]:
    """Return the specification of a container of this minion, as ``kolla_container`` takes it; secrets by name.

    :param name: the container.
    :raises CommandExecutionError: no service of this minion declares it, or an option cannot be resolved.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.spec glance_api
    """
    resolver = _resolver()
    try:
        for service in resolver.enabled_services():
            if resolver.containers(service).get(name):
                return _expand.container_spec(resolver, service, name, _facts())
    except ContextError as exc:
        raise CommandExecutionError(f"looking for container '{name}': {exc}") from exc
    raise CommandExecutionError(f"looking for container '{name}': no service of this host declares it")


def version() -> dict[str, str]:
    """Return the version of kolla-salt on this minion and a digest of its code and formula.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.version
    """
    return {"version": __version__, "formula": formula_digest()}


def formula_digest() -> str:
    """Return a digest over the declarations and templates that this minion would use.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla.formula_digest
    """
    import hashlib

    root = paths.formula_root()
    total = hashlib.sha256()
    for path in sorted(Path(root).rglob("*")):
        if path.is_file() and path.suffix in {".yaml", ".j2", ".sls"}:
            total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]
