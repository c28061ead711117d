"""What a host says about itself before something is done to it: dry run, images, prechecks. Changes nothing but images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import __version__, outcome, plan, runtime

__virtualname__ = "kolla_check"
#: A return over 1 MB is cut by Salt; a host's dry run stays far below it.
_LARGEST = 400_000
_LONGEST = 1_500


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    try:
        return runtime.resolver(__opts__, __pillar__, __context__)
    except (ValueError, FileNotFoundError) as exc:
        raise CommandExecutionError(str(exc)) from exc


def services() -> list[str]:
    """Return the SLS of everything that belongs on this host, in the order of the waves.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.services
    """
    if "kolla" not in __pillar__:
        return []
    resolver = _resolver()
    found: list[str] = []
    for wave in plan.waves(resolver):
        here = [name for name in wave if name == "kolla" or resolver.placed(name)]
        found += here
        found += [sls for name in here if resolver.is_primary(name) for sls in resolver.declarations[name]["finish"]]
    return found


def survey(sls: Any, images: bool = True) -> dict[str, Any]:
    """Return what a run would do on this host, all services in one dry run.

    :param sls: names of the SLS files (list), or a mapping host -> names of which this host takes its own.
    :param images: also look which images are missing.
    :returns: ``version``; ``states``: what would change (``id``, ``sls``, ``function``, ``changes``, secrets masked);
        ``failed``: states that could not be predicted; ``errors``: why nothing could be rendered at all; ``total``;
        ``missing_images``.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.survey '[keystone, glance]'
    """
    if isinstance(sls, dict):
        sls = sls.get(__opts__["id"], [])
    report: dict[str, Any] = {"version": __version__, "states": [], "failed": [], "errors": [], "total": 0,
                              "missing_images": [], "seconds": 0.0}
    if not sls:
        return report
    for service in sls:
        # What a member of a cluster has must be known before another one decides whether there is a cluster.
        if f"kolla_{service}.announce" in __salt__:
            __salt__[f"kolla_{service}.announce"]()
    returned = __salt__["state.sls"](",".join(sls), test=True, concurrent=True)
    # A prediction that fails is an answer, not a failed job.
    __context__["retcode"] = 0
    if not isinstance(returned, dict):
        report["errors"] = [str(line) for line in returned] if isinstance(returned, list) else [str(returned)]
        return report
    found = outcome.read(__opts__["id"], returned)
    size = 0
    for change in found.changed:
        entry = {"id": change.id, "sls": change.sls, "function": change.function, "comment": change.comment[:500],
                 "changes": outcome.cut(change.changes, _LONGEST)}
        size += len(str(entry))
        if size > _LARGEST:
            entry["changes"] = {field: {"old": "[not shown]", "new": "[not shown]"} for field in change.changes}
        report["states"].append(entry)
    report["failed"] = [vars(failure) for failure in found.failed]
    report["total"], report["seconds"] = found.total, round(found.seconds, 3)
    if images:
        report["missing_images"] = missing_images()
    return report


def missing_images() -> list[str]:
    """Return the images that the containers of this host need and the engine does not have.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_check.missing_images
    """
    wanted = __salt__["kolla.images"]()
    try:
        return list(__salt__["kolla_container.images_missing"](wanted))
    except CommandExecutionError:
        # No engine yet: nothing is there. Whoever starts containers says what is wrong with the engine.
        return wanted


def pull(images: Any = None, threads: int = 4) -> dict[str, Any]:
    """Fetch images, several at once.

    :param images: references (list), or a mapping host -> references of which this host takes its own; default: those
        that are missing.
    :param threads: how many at once; layers come one after the other within an image, so four keep a link busy.
    :returns: ``pulled`` (references) and ``failed`` (reference -> what the engine said).

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_check.pull
    """
    if isinstance(images, dict):
        images = images.get(__opts__["id"], [])
    wanted = missing_images() if images is None else list(images)
    failed: dict[str, str] = {}
    pulled: list[str] = []

    def fetch(reference: str) -> None:
        try:
            __salt__["kolla_container.pull"](reference)
            pulled.append(reference)
        except CommandExecutionError as error:
            failed[reference] = str(error)

    if wanted:
        # The first one alone: it loads the engine's client, which is not safe to do in several threads at once.
        fetch(wanted[0])
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            list(pool.map(fetch, wanted[1:]))
    return {"pulled": sorted(pulled), "failed": failed}
