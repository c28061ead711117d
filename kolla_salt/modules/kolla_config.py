"""Configuration files of containers: render, compare, write, tidy up."""

from __future__ import annotations

import fnmatch
import os
import stat
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import config, kept, masking, runtime
from kolla_salt.context import ContextError, Resolver
from kolla_salt.declarations import nearest, write_atomically

__virtualname__ = "kolla_config"
__func_alias__ = {"list_": "list"}

CONFIG_ROOT = "/etc/kolla"

Changes = dict[str, dict[str, Any]]


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _rendered(service: str, container: str, file: str) -> config.Rendered | None:
    try:
        return config.render(_resolver(), service, container, file)
    except (config.ConfigError, ContextError) as err:
        raise CommandExecutionError(str(err)) from err


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _owner(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid}"


def _read(path: str) -> tuple[str, os.stat_result] | None:
    """Return text and status of a file; None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="surrogateescape"), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise CommandExecutionError(f"reading {path}: {err.strerror}; move away what is there") from err


def _directories(path: str, component_dir: str) -> list[str]:
    """Return the directories from the configuration directory down to the file's own."""
    found = [component_dir]
    for part in path.removeprefix(f"{component_dir}/").split("/")[:-1]:
        found.append(f"{found[-1]}/{part}")
    return found


def _component_dir(path: str, service: str, container: str, file: str) -> str:
    relative = config.path_of(_resolver(), service, container, file)
    if not path.endswith(f"/{relative}"):
        raise CommandExecutionError(
            f"{path} is not the place of {container}/{file}: expected a path that ends in /{relative}"
        )
    return path.removesuffix(f"/{relative}")


def diff(path: str, service: str, container: str, file: str) -> Changes:
    """Compare a file on this host with what declaration, site and overrides make of it.

    :param path: absolute path on the host
    :param service: name of the service
    :param container: name of the container
    :param file: key of the container's ``files``, or ``config.json``
    :returns: ``{}`` if all is as it should be, else some of ``content`` (unified difference without secrets),
        ``mode``, ``owner``, ``directory`` (mode and owner of its directories), ``file`` (an optional one that has
        to go)
    :raises CommandExecutionError: a template, an override or an option is wrong

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.diff /etc/kolla/glance-api/glance-api.conf glance glance_api glance-api.conf
    """
    rendered = _rendered(service, container, file)
    found = _read(path)
    if rendered is None:
        return {} if found is None else {"file": {"old": "present", "new": None}}
    changes: Changes = {}
    for directory in _directories(path, _component_dir(path, service, container, file)):
        changes.update(_directory_diff(directory))
    owner = f"{os.geteuid()}:{os.getegid()}"
    mode = f"{rendered.mode:04o}"
    if found is None:
        summary = f"{rendered.content.count(chr(10))} lines from {', '.join(rendered.sources)}"
        changes["content"] = {"old": None, "new": summary}
        changes["mode"] = {"old": None, "new": mode}
        return changes
    text, status = found
    if text != rendered.content:
        secrets = masking.secret_values(_resolver().passwords)
        changes["content"] = {
            "old": f"{text.count(chr(10))} lines",
            "new": masking.diff(text, rendered.content, secrets, rendered.secrets),
        }
    if _mode(status) != mode:
        changes["mode"] = {"old": _mode(status), "new": mode}
    if _owner(status) != owner:
        changes["owner"] = {"old": _owner(status), "new": owner}
    return changes


def _directory_diff(directory: str) -> Changes:
    wanted = f"{config.DIRECTORY_MODE:04o} {os.geteuid()}:{os.getegid()}"
    try:
        status = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return {"directory": {"old": None, "new": wanted}}
    found = f"{_mode(status)} {_owner(status)}"
    return {} if found == wanted else {"directory": {"old": found, "new": wanted}}


def write(path: str, service: str, container: str, file: str) -> str:
    """Write a file of a container's configuration directory, or remove an optional one without override.

    A reader sees the old file or the new one, never a part.

    :returns: what was done, as a sentence
    :raises CommandExecutionError: it cannot be rendered or written

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.write /etc/kolla/glance-api/glance-api.conf glance glance_api glance-api.conf
    """
    rendered = _rendered(service, container, file)
    _keep(_component_dir(path, service, container, file), service)
    try:
        if rendered is None:
            Path(path).unlink(missing_ok=True)
            return f"{path} removed: there is no override for it any more"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for directory in _directories(path, _component_dir(path, service, container, file)):
            os.chmod(directory, config.DIRECTORY_MODE)
            os.chown(directory, os.geteuid(), os.getegid())
        write_atomically(Path(path), rendered.content.encode(errors="surrogateescape"), rendered.mode)
    except OSError as err:
        raise CommandExecutionError(f"writing {path}: {err.strerror} ({err.filename})") from err
    return f"{path} written from {', '.join(rendered.sources)}"


def _keep(directory: str, service: str) -> None:
    """Keep the folder as it is, once in a run, before the run changes it."""
    run = (runtime.pillar(__pillar__, "kolla_step") or {}).get("run")
    if not run:
        return
    try:
        kept.Store().keep_folder(run, directory, service)
    except OSError as err:
        raise CommandExecutionError(
            f"keeping {directory} as it is, before it is changed: {err.strerror} ({err.filename}); nothing was changed"
        ) from err


def obsolete(path: str, service: str, container: str, keep: list[str] | None = None) -> list[str]:
    """List the files in a configuration directory that nothing declares.

    :param path: the configuration directory
    :param keep: patterns (``fnmatch``, relative to ``path``) of files that hand-written states put there
    :returns: paths relative to ``path``, sorted

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.obsolete /etc/kolla/glance-api glance glance_api
    """
    try:
        declared = config.paths_of(_resolver(), service, os.path.basename(path.rstrip("/")))
    except (config.ConfigError, ContextError) as err:
        raise CommandExecutionError(str(err)) from err
    if not declared:
        raise CommandExecutionError(f"{service} declares no container with the configuration directory {path}")
    patterns = keep or []
    found = []
    for folder, _, files in os.walk(path):
        for file in files:
            relative = os.path.relpath(f"{folder}/{file}", path)
            if relative not in declared and not any(fnmatch.fnmatch(relative, pattern) for pattern in patterns):
                found.append(relative)
    return sorted(found)


def obsolete_diff(path: str, service: str, container: str, keep: list[str] | None = None) -> Changes:
    """Return the files of :func:`obsolete` as differences: each is present and should not be.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.obsolete_diff /etc/kolla/glance-api glance glance_api
    """
    return {file: {"old": "present", "new": None} for file in obsolete(path, service, container, keep)}


def prune(path: str, service: str, container: str, keep: list[str] | None = None) -> list[str]:
    """Remove the files of a configuration directory that nothing declares, and directories left empty.

    :returns: what was removed, relative to ``path``

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.prune /etc/kolla/glance-api glance glance_api
    """
    removed = obsolete(path, service, container, keep)
    if removed:
        _keep(path.rstrip("/"), service)
    try:
        for file in removed:
            os.unlink(f"{path}/{file}")
            parent = os.path.dirname(file)
            while parent and not os.listdir(f"{path}/{parent}"):
                os.rmdir(f"{path}/{parent}")
                parent = os.path.dirname(parent)
    except OSError as err:
        raise CommandExecutionError(f"removing {err.filename}: {err.strerror}") from err
    return removed


def render(service: str, container: str, file: str) -> str | None:
    """Show a configuration file as it would be written, with secrets masked.

    :returns: the text; None for an optional file without override

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.render glance glance_api glance-api.conf
    """
    rendered = _rendered(service, container, file)
    if rendered is None:
        return None
    return masking.mask(rendered.content, masking.secret_values(_resolver().passwords))


def sources(service: str, container: str, file: str) -> dict[str, list[str]]:
    """Say what a configuration file is made of.

    :returns: ``used`` (template and overrides that went into it, lowest precedence first) and ``looked_up`` (all
        paths below ``overrides/`` at which an override would be found)

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.sources glance glance_api glance-api.conf
    """
    from kolla_salt import expand

    rendered = _rendered(service, container, file)
    looked_up = [] if file == config.CONFIG_JSON else expand.override_paths(_resolver(), service, container, file)
    return {"used": rendered.sources if rendered else [], "looked_up": looked_up}


def list_(service: str | None = None) -> list[dict[str, str]]:
    """List the configuration files that belong on this host.

    :param service: only this one's; default: every enabled service
    :returns: ``path``, ``service``, ``container``, ``file`` of each

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_config.list glance
    """
    resolver = _resolver()
    if service is not None and service not in resolver.declarations:
        hint = nearest(service, resolver.declarations)
        raise CommandExecutionError(f"listing files of service '{service}': no such declaration{hint}")
    result = []
    try:
        for name in [service] if service else resolver.enabled_services():
            for container, on in resolver.containers(name).items():
                if not on:
                    continue
                component = resolver.declarations[name]["containers"][container]["component"]
                for file in config.files_of(resolver, name, container):
                    relative = config.path_of(resolver, name, container, file)
                    path = f"{CONFIG_ROOT}/{component}/{relative}"
                    result.append({"path": path, "service": name, "container": container, "file": file})
    except ContextError as err:
        raise CommandExecutionError(str(err)) from err
    return result


def diff_all(service: str | None = None) -> dict[str, Changes]:
    """Compare all configuration files that belong on this host with what they should be.

    :param service: only this one's; default: every enabled service
    :returns: path -> differences, for the files that differ

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_config.diff_all
    """
    return {file["path"]: changes for file in list_(service) if (changes := diff(**file))}


def genconfig(service: str | None = None) -> dict[str, Changes]:
    """Write all configuration files that belong on this host; no container is touched.

    :param service: only this one's; default: every enabled service
    :returns: path -> differences, for the files that were written

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_config.genconfig
    """
    written = {}
    for file in list_(service):
        changes = diff(**file)
        if changes:
            write(**file)
            written[file["path"]] = changes
    return written
