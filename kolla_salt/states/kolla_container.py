"""Containers in their declared state.

.. code-block:: yaml

    glance_api:
      kolla_container.running:
        - image: quay.io/openstack.kolla/glance-api:2026.1-debian-trixie
        - volumes: ["/etc/kolla/glance-api/:/var/lib/kolla/config_files/:ro", "glance:/var/lib/glance/"]
        - config_dir: /etc/kolla/glance-api
        - watch: [{kolla_config: glance_api/glance-api.conf}]
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import SaltInvocationError

from kolla_salt import converge as _converge

__virtualname__ = "kolla_container"


def __virtual__() -> str | tuple[bool, str]:
    if "kolla_container.deploy" not in __salt__:
        return False, "the execution module kolla_container is not there: install kolla-salt on this minion"
    return __virtualname__


def _arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments without what Salt adds to those of `mod_watch`."""
    return {key: value for key, value in spec.items() if not key.startswith("__") and key != "sfun"}


def running(name: str, **spec: Any) -> dict[str, Any]:
    """Have a container run exactly as declared, with the present content of its configuration directory.

    What is equal is left running. Otherwise the mildest of these is done: adopt (a running container, made by another
    tool, whose settings and files are right), change in place, reload, restart, start, recreate, create. Then it waits
    until the service answers.

    :param name: the container
    :param spec: its specification (docs/declarations.md), e.g. ``image``, ``volumes``, ``environment``, ``ready``
    """
    spec = _arguments(spec)
    # Salt tells `mod_watch` of watched files only if there is nothing else to do here.
    expected = _files_to_come(str(spec.get("config_dir") or "")) if __opts__["test"] else []
    more = {"expected_files": expected} if expected else {}
    return _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_container.diff"](name, **more, **spec),
        apply=lambda: __salt__["kolla_container.deploy"](name, **spec)["comment"],
    )


def _files_to_come(directory: str) -> list[str]:
    """Return the files of a configuration directory, relative, that a prediction says will be written."""
    found = []
    for tag, result in (globals().get("__running__") or {}).items():
        module, _, path, *_ = tag.split("_|-")
        if module == "kolla_config" and result.get("changes") and (file := _inside(directory, path)):
            found.append(file)
    return sorted(found)


def _inside(directory: str, path: str) -> str:
    """Return the part of a path below a directory, or nothing if it is not below it."""
    directory = directory.rstrip("/")
    return path.removeprefix(f"{directory}/") if directory and path.startswith(f"{directory}/") else ""


def ran(name: str, stamp: str | None = None, force: bool = False, timeout: int = 600, **spec: Any) -> dict[str, Any]:
    """Have a run-once container succeeded on this host, with its present image.

    :param name: the step; the container has this name while it runs
    :param stamp: name under which success is remembered; default: `name`
    :param force: run it in any case
    :param timeout: seconds after which it is killed
    :param spec: its specification
    """
    spec, again = _arguments(spec), [force]

    def apply() -> str:
        result = __salt__["kolla_container.run_step"](name, stamp=stamp, timeout=timeout, **spec)
        again[0] = False
        return result["comment"]

    return _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_container.ran_diff"](name, stamp=stamp, force=again[0], **spec),
        apply=apply,
    )


def renewed(name: str, container: str, **spec: Any) -> dict[str, Any]:
    """Have a container started since the last one of another image was replaced on this host.

    For programs that agree on a version with those they find when they start: applied when all hosts run the new image.

    :param name: the state's ID
    :param container: the container
    :param spec: its specification
    """
    spec = _arguments(spec)
    return _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_container.renewal"](container, **spec),
        apply=lambda: __salt__["kolla_container.renew"](container, **spec),
    )


def absent(name: str, timeout: int | None = None) -> dict[str, Any]:
    """Have no container of this name; its named volumes stay.

    :param name: the container
    :param timeout: seconds until it is killed
    """

    def diff() -> dict[str, Any]:
        state = __salt__["kolla_container.state"](name)
        return {"state": {"old": state, "new": "absent"}} if state != "absent" else {}

    return _converge.converge(
        name, __opts__["test"], diff, apply=lambda: __salt__["kolla_container.absent"](name, timeout)
    )


def stopped(name: str, timeout: int | None = None) -> dict[str, Any]:
    """Have a container not running; one that does not exist is fine.

    :param name: the container
    :param timeout: seconds until it is killed
    """

    def diff() -> dict[str, Any]:
        state = __salt__["kolla_container.state"](name)
        runs = state.split()[0] in ("running", "restarting", "paused")
        return {"state": {"old": state, "new": "stopped"}} if runs else {}

    return _converge.converge(
        name, __opts__["test"], diff, apply=lambda: __salt__["kolla_container.stop"](name, timeout)
    )


def executed(
    name: str,
    container: str,
    command: list[str],
    unless_exec: list[str] | None = None,
    unless_path: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Have run a command in a running container; for use with ``onchanges``, or with a condition.

    Salt's own ``unless`` and ``creates`` look at the host; these two look into the container.

    :param name: what it is for
    :param container: where it runs
    :param command: list of arguments
    :param unless_exec: nothing to do if this command (list of arguments) succeeds in the container
    :param unless_path: nothing to do if this path exists in the container
    :param options: ``user``, ``environment``, ``timeout`` as of :py:func:`kolla_container.exec`
    """
    options, ran_now = _arguments(options), []
    conditions = {"unless_exec": unless_exec, "unless_path": unless_path}

    def diff() -> dict[str, Any]:
        if ran_now and not any(conditions.values()):
            return {}
        return __salt__["kolla_container.exec_diff"](container, command, **conditions)

    def apply() -> str:
        ran_now.append(__salt__["kolla_container.exec"](container, command, **options))
        return f"{name}: `{command[0]}` ran in {container}"

    return _converge.converge(name, __opts__["test"], diff, apply)


def healthy(name: str, timeout: float = 120) -> dict[str, Any]:
    """Have a container pass its health check; waits for it.

    :param name: the container
    :param timeout: seconds to wait
    """

    def diff() -> dict[str, Any]:
        health = __salt__["kolla_container.health"](name)
        return {} if health == "healthy" else {"health": {"old": health, "new": "healthy"}}

    return _converge.converge(
        name, __opts__["test"], diff, apply=lambda: __salt__["kolla_container.wait_healthy"](name, timeout)
    )


def image_present(name: str) -> dict[str, Any]:
    """Have an image on this host.

    :param name: its full reference
    """

    def diff() -> dict[str, Any]:
        found = __salt__["kolla_container.image_id"](name)
        return {} if found else {"image": {"old": None, "new": name}}

    return _converge.converge(name, __opts__["test"], diff, apply=lambda: __salt__["kolla_container.pull"](name))


def mod_watch(name: str, sfun: str = "running", **kwargs: Any) -> dict[str, Any]:
    """React to a watched state that changed while the function itself had nothing to do.

    * ``running``: its own files need nothing here, since ``running`` compares them by their digest; in a prediction
      they are taken as changed, because they are not written yet. Any other watched change means a restart.
    * ``ran`` runs again; ``executed`` runs its command again. In a prediction, what could not be found out (a schema's
      database is down) is no change for ``ran``: where it has run before, there most likely is none.
    """
    if sfun == "ran":
        force = not __opts__["test"] or any(_converge.is_known(changes) for changes in _watched(kwargs).values())
        return ran(name, **{**_arguments(kwargs), "force": force})
    if sfun != "running":
        function = {"executed": executed, "absent": absent, "stopped": stopped, "healthy": healthy}.get(sfun)
        if function is None:
            raise SaltInvocationError(f"kolla_container.{sfun} does not react to `watch`")
        return function(name, **_arguments(kwargs))
    files, others = _changes_watched(kwargs)
    spec, reasons = _arguments(kwargs), list(others)
    expected = files if __opts__["test"] else []

    def apply() -> str:
        comment = __salt__["kolla_container.deploy"](name, restart_for=others, **spec)["comment"]
        reasons.clear()
        return comment

    return _converge.converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_container.diff"](name, expected_files=expected, restart_for=reasons, **spec),
        apply=apply,
    )


def _changes_watched(kwargs: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the changed files of the configuration directory, relative, and the IDs of other changed states."""
    directory = str(kwargs.get("config_dir") or "").rstrip("/")
    files, others = [], []
    for name, path in _watched(kwargs):
        if file := _inside(directory, path):
            files.append(file)
        elif path.rstrip("/") != directory:
            others.append(name)
    return files, others


def _watched(kwargs: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the changes of watched states, by the ID and the path (or name) of each."""
    results, found = globals().get("__running__") or {}, {}
    for low in (kwargs.get("__reqs__") or {}).get("watch", []):
        tag = f"{low['state']}_|-{low['__id__']}_|-{low['name']}_|-{low['fun']}"
        if changes := results.get(tag, {}).get("changes"):
            found[low["__id__"], str(low.get("path") or low["name"])] = changes
    return found
