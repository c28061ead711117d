"""What stands in a container's configuration directory, computed from declaration, site and host.

Pure functions over a :class:`kolla_salt.context.Resolver`; nothing here looks at ``/etc/kolla``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from kolla_salt import context, expand, merge, paths
from kolla_salt.context import ContextError, Names, Resolver
from kolla_salt.declarations import nearest

CONFIG_JSON = "config.json"
FILE_MODE = 0o660
DIRECTORY_MODE = 0o770
SOURCE_DIR = "/var/lib/kolla/config_files"

# What a defect of a template raises beside Jinja's own errors: None + 1, a missing key of a filter, 1 // 0.
_TEMPLATE_DEFECTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


class ConfigError(ValueError):
    """A configuration file cannot be made; the message names the template or override, the line and the remedy."""


@dataclass(frozen=True)
class Rendered:
    """A file of a container's configuration directory.

    ``secrets`` are the names of the passwords that were read, ``sources`` the template and the overrides that
    went into it, lowest precedence first.
    """

    content: str
    mode: int = FILE_MODE
    secrets: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)


def files_of(resolver: Resolver, service: str, container: str) -> list[str]:
    """Return the files that belong in the container's configuration directory, ``config.json`` first.

    :raises ContextError: a ``when`` cannot be evaluated.
    """
    return [CONFIG_JSON, *expand.config_files(resolver, service, container)]


def paths_of(resolver: Resolver, service: str, component: str) -> set[str]:
    """Return the declared paths below ``/etc/kolla/<component>/``, over all containers that share the directory."""
    decl = resolver.declarations[service]
    return {
        path_of(resolver, service, container, file)
        for container, fields in decl["containers"].items()
        if fields["component"] == component
        for file in files_of(resolver, service, container)
    }


def path_of(resolver: Resolver, service: str, container: str, file: str) -> str:
    """Return the file's path relative to the configuration directory."""
    if file == CONFIG_JSON:
        return file
    return resolver.declarations[service]["containers"][container]["files"][file]["source"]


def render(resolver: Resolver, service: str, container: str, file: str) -> Rendered | None:
    """Render one file and merge the operator's overrides into it.

    :param file: key of ``files`` in the declaration, or ``config.json``.
    :returns: the file, or None for an ``optional`` one that the operator gives no override for.
    :raises ConfigError: a template, an override or the merged text is broken.
    """
    fields = _container(resolver, service, container)
    if file == CONFIG_JSON:
        return Rendered(config_json(resolver, service, container), sources=[f"{service}/service.yaml"])
    if file not in fields["files"]:
        hint = nearest(file, [*fields["files"], CONFIG_JSON])
        raise ConfigError(f"{service} declares no file '{file}' for the container {container}{hint}")
    entry = fields["files"][file]
    where = {"container": container, "component": fields["component"], "file": file}
    try:
        base = resolver.names(service, **where)
        names = resolver.names(service, **{**where, **resolver.evaluate(entry["vars"], base)})
        names.secrets_used |= base.secrets_used
        overrides = _overrides(resolver, service, container, file)
    except ContextError as err:
        raise ConfigError(str(err)) from err
    format_ = entry["format"]
    env = _environment()
    sources: list[merge.Source] = []
    # A whole-file override may stand in for a template that this site cannot even render.
    if not entry["optional"] and not (format_ == "text" and overrides):
        with _explained(names, entry["template"], str(_root(env))):
            sources.append(merge.Source(entry["template"], context.render_template(env, entry["template"], names)))
    for path in overrides[-1:] if format_ == "text" else overrides:
        label = f"overrides/{path}"
        with _explained(names, label):
            sources.append(merge.Source(label, _render_override(env, resolver.overrides[path], names)))
    if not sources:
        return None
    try:
        content = merge.merge(format_, sources, flags=file.endswith(".cnf"))
    except merge.MergeError as err:
        raise ConfigError(f"making {container}/{file}: {err}") from err
    return Rendered(content, secrets=set(names.secrets_used), sources=[source.label for source in sources])


def config_json(resolver: Resolver, service: str, container: str) -> str:
    """Return ``config.json``: what the image copies where, and what it runs.

    Only what every released image understands is written: ``directories`` appears again under ``permissions``,
    because images before 22.0.0 ignore it, and special mode bits are written ``0o2775``, because images up to
    22.0.0 refuse ``2775``.

    :raises ConfigError: an expression, owner or mode of the declaration is wrong.
    """
    decl = resolver.declarations[service]
    fields = _container(resolver, service, container)
    names = resolver.names(service, container=container, component=fields["component"], file=CONFIG_JSON)
    try:
        command = " ".join(str(resolver.evaluate(fields["command"], names)).split())
        user = str(resolver.evaluate(fields["user"], names))
        config_files = [
            _config_file(resolver, names, container, fields["files"][file])
            for file in expand.config_files(resolver, service, container)
        ]
        directories = _entries(resolver, names, fields["directories"], f"{container}.directories", user)
        permissions = _entries(resolver, names, fields["permissions"], f"{container}.permissions", user)
    except ContextError as err:
        raise ConfigError(str(err)) from err
    if decl["logs"]:
        log_dir = f"/var/log/kolla/{decl['project']}"
        if not any(entry["path"] == log_dir for entry in directories):
            directories.insert(0, {"path": log_dir, "owner": f"{user}:kolla", "perm": "0o2775"})
        if not any(entry["path"] == log_dir for entry in permissions):
            # Steps that ran as root leave log files that the service could not append to.
            permissions.insert(0, {"path": log_dir, "owner": f"{user}:kolla", "recurse": True})
    result: dict[str, Any] = {"command": command, "config_files": config_files}
    if directories:
        result["directories"] = [
            {key: value for key, value in entry.items() if key != "recurse"} for entry in directories
        ]
    # Parents first, so that a recursive entry does not undo a more specific one below it.
    result["permissions"] = [*directories, *permissions]
    if not result["permissions"]:
        del result["permissions"]
    return json.dumps(result, indent=4) + "\n"


def _container(resolver: Resolver, service: str, container: str) -> dict[str, Any]:
    if service not in resolver.declarations:
        raise ConfigError(f"no declaration of a service '{service}'{nearest(service, resolver.declarations)}")
    containers = resolver.declarations[service]["containers"]
    if container not in containers:
        raise ConfigError(f"{service} declares no container '{container}'{nearest(container, containers)}")
    return containers[container]


def _overrides(resolver: Resolver, service: str, container: str, file: str) -> list[str]:
    if not resolver.overrides:
        return []
    found = expand.override_paths(resolver, service, container, file)
    return [path for path in found if path in resolver.overrides]


def _config_file(resolver: Resolver, names: Names, container: str, entry: dict[str, Any]) -> dict[str, Any]:
    where = f"{container}.files.{entry['source']}"
    return {
        "source": f"{SOURCE_DIR}/{entry['source']}",
        "dest": str(resolver.evaluate(entry["dest"], names)),
        "owner": _owner(resolver.evaluate(entry["owner"], names), where),
        "perm": _file_mode(resolver.evaluate(entry["perm"], names), where),
    }


def _entries(
    resolver: Resolver, names: Names, entries: list[dict[str, Any]], where: str, user: str
) -> list[dict[str, Any]]:
    """Evaluate ``directories`` or ``permissions``; a path may also stand alone, for the container's user."""
    result = []
    for index, declared in enumerate(entries):
        entry = {"path": declared} if isinstance(declared, str) else dict(declared)
        place = f"{where}[{index}]"
        if not resolver.test(entry.pop("when", True), names):
            continue
        unknown = entry.keys() - {"path", "owner", "perm", "recurse"}
        if unknown or not entry.get("path"):
            raise ConfigError(f"{place}: expected path, owner, perm, recurse, when; found {sorted(declared)}")
        value = {"path": str(resolver.evaluate(entry["path"], names))}
        value["owner"] = _owner(resolver.evaluate(entry.get("owner", user), names), place)
        if where.endswith(".directories") or "perm" in entry:
            value["perm"] = _mode(resolver.evaluate(entry.get("perm", "0755"), names), place)
        if "recurse" in entry:
            value["recurse"] = context.to_bool(resolver.evaluate(entry["recurse"], names))
        result.append(value)
    return result


def _owner(value: Any, where: str) -> str:
    owner = str(value)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*(:([a-z_][a-z0-9_-]*)?)?", owner):
        raise ConfigError(f"{where}.owner: expected user, user: or user:group by name, found {value!r}")
    return owner


def _file_mode(value: Any, where: str) -> str:
    # `kolla_set_configs --check` compares these four characters as a string.
    if not isinstance(value, str) or not re.fullmatch(r"0[0-7]{3}", value):
        raise ConfigError(f'{where}.perm: expected four octal digits as a string, e.g. "0600", found {value!r}')
    return value


def _mode(value: Any, where: str) -> str:
    found = re.fullmatch(r"(?:0o)?([0-7]{3,4})", value) if isinstance(value, str) else None
    if not found:
        raise ConfigError(f'{where}.perm: expected octal digits as a string, e.g. "0755", found {value!r}')
    digits = found.group(1).zfill(4)
    return digits if digits[0] == "0" else f"0o{digits}"


def _environment() -> jinja2.Environment:
    # Finding the formula costs more than rendering a short file; the environment's two variables decide where it is.
    return _environment_of(os.environ.get("KOLLA_SALT_FORMULA"), os.environ.get("KOLLA_SALT_CACHE_DIR"))


@lru_cache(maxsize=4)
def _environment_of(formula: str | None, cache: str | None) -> jinja2.Environment:
    return context.environment(paths.formula_root(), paths.cache_dir("jinja"))


def _root(env: jinja2.Environment) -> Path:
    return Path(env.loader.searchpath[0])  # type: ignore[union-attr]


@lru_cache(maxsize=256)
def _compiled(env: jinja2.Environment, text: str) -> jinja2.Template:
    return env.from_string(text)


def _render_override(env: jinja2.Environment, text: str, names: Names) -> str:
    # global.conf is part of every service's files: compile it once a job.
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    return _compiled(env, text).render({context.NAMES_KEY: names})


@contextmanager
def _explained(names: Names, label: str, root: str | None = None) -> Iterator[None]:
    """Turn what goes wrong in a template into one sentence: where, what, and the nearest name that exists."""
    try:
        yield
    except jinja2.TemplateNotFound as err:
        missing = err.name or str(err)
        rest = "" if missing == label else f" (used by {label})"
        raise ConfigError(f"rendering {names.where}: there is no template {missing}{rest}") from err
    except jinja2.TemplateSyntaxError as err:
        place = err.name or (_relative(err.filename, root) if err.filename and root else label)
        place = label if place == "<template>" else place
        raise ConfigError(f"rendering {names.where}: {place}, line {err.lineno}: {err.message}") from err
    except jinja2.UndefinedError as err:
        raise ConfigError(f"rendering {names.where}: {_place(err, label, root)}: {err}{names.hint(str(err))}") from err
    except (ContextError, *_TEMPLATE_DEFECTS) as err:
        kind = "" if isinstance(err, ContextError) else f"{type(err).__name__}: "
        raise ConfigError(f"rendering {names.where}: {_place(err, label, root)}: {kind}{err}") from err


def _place(err: BaseException, label: str, root: str | None) -> str:
    """Return template and line of the innermost template frame, as Jinja rewrites them into the traceback."""
    place, traceback = label, err.__traceback__
    while traceback:
        name = traceback.tb_frame.f_code.co_filename
        if name == "<template>":
            place = f"{label}, line {traceback.tb_lineno}"
        elif root and name.startswith(f"{root}/"):
            place = f"{_relative(name, root)}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _relative(name: str, root: str) -> str:
    return name.removeprefix(f"{root}/")
