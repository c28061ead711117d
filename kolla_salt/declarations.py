"""Read and check the services' declarations (``<service>/service.yaml``).

The format is documented in ``docs/declarations.md``.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import marshal
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from kolla_salt import paths

Declaration = dict[str, Any]

#: Field -> (accepted types, default). ``None`` as default means "absent unless declared".
TOP_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "schema": ((int,), 1),
    "doc": ((str,), ""),
    "enabled": ((bool, str), True),
    "project": ((str,), None),
    "requires": ((list,), []),
    "after": ((list,), []),
    "groups": ((dict,), {}),
    "group": ((str,), None),
    "together": ((bool,), False),
    "settings": ((dict,), {}),
    "secrets": ((list,), []),
    "passwords": ((dict,), {}),
    "database": ((list,), []),
    "messaging": ((bool, str), False),
    "keystone": ((dict,), {}),
    "load_balancer": ((dict,), {}),
    "ports": ((list,), []),
    "bootstrap": ((list,), []),
    "upgrade": ((dict,), {}),
    "logs": ((list,), []),
    "sysctls": ((list,), []),
    "host_directories": ((list,), []),
    "containers": ((dict,), {}),
    "finish": ((list,), []),
}

CONTAINER_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "group": ((str,), None),
    "when": ((bool, str), True),
    "image": ((str,), None),
    "component": ((str,), None),
    "user": ((str,), None),
    "command": ((str,), None),
    "volumes": ((list, str), []),
    "environment": ((dict,), {}),
    "privileged": ((bool, str), None),
    "cap_add": ((list, str), None),
    "cap_drop": ((list, str), None),
    "security_opt": ((list, str), None),
    "devices": ((list, str), None),
    "pid_mode": ((str,), None),
    "ipc_mode": ((str,), None),
    "cgroupns_mode": ((str,), None),
    "tmpfs": ((list, str), None),
    "network_mode": ((str,), None),
    "shm_size": ((str, int), None),
    "labels": ((dict,), None),
    "stop_signal": ((str,), None),
    "stop_timeout": ((int, str), None),
    "dimensions": ((dict, str), None),
    "healthcheck": ((str, dict), None),
    "ready": ((dict,), None),
    "reload": ((dict,), None),
    "files": ((dict,), {}),
    "directories": ((list,), []),
    "permissions": ((list,), []),
    "after": ((list,), []),
    "rolling": ((int, str), 1),
    "last": ((str,), None),
    "settle": ((int, str), 0),
    "settled": ((str,), None),
    "guard": ((str,), None),
    "leave": ((str,), None),
    "verify": ((str,), None),
    "heal": ((str, bool), True),
    "reports": ((str,), None),
    "hold": ((list, str), []),
}

#: A file without a template that its container cannot do without: the operator gives it.
NEEDED = "needed"
#: Every container trusts the authorities whose certificates the operator gives: the images' start script puts what is
#: there into the system's store, and takes out what has left (`kolla_copy_cacerts`, images of 2025.1 and later).
AUTHORITIES = {
    "ca-certificates/": {
        "tree": "certificates/ca",
        "dest": "/var/lib/kolla/share/ca-certificates",
        "owner": "root",
        "perm": "0644",
        "when": "copy_ca_into_containers",
    }
}
FILE_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "template": ((str,), None),
    "source": ((str,), None),
    "dest": ((str,), None),
    "owner": ((str,), None),
    "perm": ((str,), "0600"),
    "format": ((str,), None),
    "oslo": ((bool,), False),
    "overrides": ((list,), None),
    "tree": ((str,), None),
    "optional": ((bool, str), False),
    "when": ((bool, str), True),
    "on_change": ((str,), "restart"),
    "vars": ((dict,), {}),
}

BALANCER_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "port": ((int, str), None),
    "listen_port": ((int, str), None),
    "group": ((str,), None),
    "hosts": ((list, str), None),
    "mode": ((str,), "http"),
    "check": ((str,), None),
    "page": ((bool,), False),
    "probe": ((str, list), None),
    "internal": ((bool, str), True),
    "external": ((bool, str), None),
    "external_port": ((int, str), None),
    "active_passive": ((bool, str), False),
    "frontend": ((list, str), []),
    "backend": ((list, str), []),
    "fallback": ((list, str), []),
    "when": ((bool, str), True),
    "container": ((str,), None),
}

KEYSTONE_FIELDS = {
    "user", "password", "roles", "extra_roles", "services", "project", "domains", "after_containers", "when",
}  # fmt: skip
BOOTSTRAP_FIELDS = {
    "name", "container", "environment", "command", "volumes", "when", "after_keystone", "timeout", "user",
}  # fmt: skip
UPGRADE_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "follows": ((list,), []),
    "before": ((list,), []),
    "again": ((list,), []),
    "after": ((list,), []),
    "finish": ((list,), []),
    "checks": ((list,), []),
    "remembers": ((list,), []),
}
#: Of values in a database that the new release raises and that keep the old one from starting.
REMEMBERED_FIELDS = {"table", "key", "columns"}
PHASE_FIELDS = BOOTSTRAP_FIELDS - {"after_keystone"}
CHECK_FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "name": ((str,), None),
    "container": ((str,), None),
    "command": ((list,), None),
    "release": ((str,), "old"),
    "accept": ((list,), [0]),
    "user": ((str,), None),
    "mend": ((str,), None),
    "when": ((bool, str), True),
}
SETTING_TYPES = {"bool", "int", "number", "string", "list", "dict", "any"}
PASSWORD_KINDS = {"password", "uuid", "fernet", "ssh_key", "hex32", "bcrypt", "htpasswd", "hmac_md5", "none"}
FORMATS = {"ini", "yaml", "json", "text"}
SUFFIX_FORMATS = {
    ".conf": "ini", ".ini": "ini", ".cnf": "ini", ".yaml": "yaml", ".yml": "yaml", ".json": "json",
}  # fmt: skip


class DeclarationError(ValueError):
    """A ``service.yaml`` is not what ``docs/declarations.md`` describes."""


def nearest(name: str, names: Any) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _fill(where: str, data: Any, fields: dict[str, tuple[tuple[type, ...], Any]], errors: list[str]) -> dict[str, Any]:
    """Return ``data`` with defaults; unknown fields and wrong types are added to ``errors``."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        errors.append(f"{where}: expected a mapping, found {type(data).__name__}")
        return {name: copy.copy(default) for name, (_, default) in fields.items()}
    for key, value in data.items():
        if key not in fields:
            errors.append(f"{where}: unknown field '{key}'{nearest(key, fields)}")
        elif value is not None and not isinstance(value, fields[key][0]):
            expected = " or ".join(t.__name__ for t in fields[key][0])
            errors.append(f"{where}.{key}: expected {expected}, found {type(value).__name__} {value!r}")
    return {
        name: data[name] if data.get(name) is not None else copy.copy(default) for name, (_, default) in fields.items()
    }


def normalise(name: str, data: Any) -> tuple[Declaration, list[str]]:
    """Return the declaration ``data`` of service ``name`` with every default filled in, and what is wrong with it.

    :param name: the service, i.e. the folder's name.
    :param data: the parsed ``service.yaml``.
    """
    errors: list[str] = []
    decl = _fill(name, data, TOP_FIELDS, errors)
    decl["name"] = name
    if decl["schema"] != 1:
        errors.append(f"{name}.schema: expected 1, found {decl['schema']!r}")
    decl["project"] = decl["project"] or name
    if decl["group"] is None:
        decl["group"] = name if name in decl["groups"] else "all"
    for option, setting in list(decl["settings"].items()):
        if not isinstance(setting, dict):
            errors.append(f"{name}.settings.{option}: expected a mapping with default, type and doc")
            decl["settings"][option] = {"default": setting, "type": "any", "doc": ""}
            continue
        unknown = setting.keys() - {"default", "type", "doc", "choices", "min", "max"}
        if unknown:
            errors.append(f"{name}.settings.{option}: unknown field '{sorted(unknown)[0]}'")
        setting.setdefault("default", None)
        setting.setdefault("doc", "")
        setting.setdefault("type", "any")
        if setting["type"] not in SETTING_TYPES:
            errors.append(f"{name}.settings.{option}.type: expected one of {sorted(SETTING_TYPES)}, "
                          f"found {setting['type']!r}")  # fmt: skip
    if name != "kolla":
        decl["settings"].setdefault(
            f"enable_{name}",
            {"default": decl["enabled"] if isinstance(decl["enabled"], bool) else "{{ " + decl["enabled"] + " }}",
             "type": "bool", "doc": f"Whether the service {name} is part of the cloud."},
        )  # fmt: skip
    for password, kind in list(decl["passwords"].items()):
        if kind is None or isinstance(kind, str):
            decl["passwords"][password] = kind = {"kind": kind or "password"}
        if not isinstance(kind, dict) or kind.get("kind", "password") not in PASSWORD_KINDS:
            errors.append(
                f"{name}.passwords.{password}: expected a kind out of {sorted(PASSWORD_KINDS)}, found {kind!r}"
            )
    for secret in decl["secrets"]:
        if not isinstance(secret, str) and (
            not isinstance(secret, dict) or "name" not in secret or secret.keys() - {"name", "group", "when"}
        ):
            errors.append(f"{name}.secrets: expected a name, or name with group and when; found {secret!r}")
    for index, db in enumerate(decl["database"]):
        if not isinstance(db, dict) or "name" not in db or db.keys() - {"name", "user", "password", "when"}:
            errors.append(f"{name}.database[{index}]: expected name, user, password, when; found {db!r}")
            continue
        db.setdefault("user", db["name"])
        db.setdefault("password", f"{db['user']}_database_password")
        db.setdefault("when", True)
    if decl["together"] and (decl["database"] or decl["bootstrap"]):
        errors.append(
            f"{name}.together: true, but its run-once work has to be done on the first host before the others"
        )
    keystone = decl["keystone"]
    if keystone:
        for key in keystone.keys() - KEYSTONE_FIELDS:
            errors.append(f"{name}.keystone: unknown field '{key}'{nearest(key, KEYSTONE_FIELDS)}")
        keystone.setdefault("user", None)
        keystone.setdefault("password", f"{keystone['user']}_keystone_password")
        keystone.setdefault("project", "service")
        keystone.setdefault("roles", ["admin"])
        keystone.setdefault("extra_roles", [])
        keystone.setdefault("services", [])
        keystone.setdefault("domains", [])
        keystone.setdefault("after_containers", False)
        for index, domain in enumerate(keystone["domains"]):
            if not isinstance(domain, dict) or domain.keys() != {"name", "admin", "password"}:
                errors.append(f"{name}.keystone.domains[{index}]: expected name, admin, password; found {domain!r}")
    for entry, fields in list(decl["load_balancer"].items()):
        decl["load_balancer"][entry] = balancer = _fill(
            f"{name}.load_balancer.{entry}", fields, BALANCER_FIELDS, errors
        )
        if balancer["port"] is None:
            errors.append(f"{name}.load_balancer.{entry}.port: missing")
        errors += _probe(f"{name}.load_balancer.{entry}.probe", balancer["mode"], balancer["probe"])
        for field, default in (("listen_port", balancer["port"]), ("external_port", balancer["port"]),
                               ("group", decl["group"]), ("external", balancer["mode"] == "http")):  # fmt: skip
            if balancer[field] is None:
                balancer[field] = default
        if balancer["container"] is None and entry in decl["containers"]:
            balancer["container"] = entry
        if balancer["container"] is not None and balancer["container"] not in decl["containers"]:
            errors.append(f"{name}.load_balancer.{entry}.container: unknown '{balancer['container']}'"
                          f"{nearest(balancer['container'], decl['containers'])}")  # fmt: skip
    for container, fields in list(decl["containers"].items()):
        decl["containers"][container] = _container(decl, container, fields, errors)
    for index, step in enumerate(decl["bootstrap"]):
        where = f"{name}.bootstrap[{index}]"
        if not isinstance(step, dict) or "name" not in step or step.get("container") not in decl["containers"]:
            errors.append(f"{where}: expected at least name and container (one of {sorted(decl['containers'])})")
            continue
        for key in step.keys() - BOOTSTRAP_FIELDS:
            errors.append(f"{where}: unknown field '{key}'{nearest(key, BOOTSTRAP_FIELDS)}")
    decl["upgrade"] = _upgrade(decl, errors)
    return decl, errors


def _upgrade(decl: Declaration, errors: list[str]) -> dict[str, Any]:
    """Return the field ``upgrade`` with defaults: phases are run-once steps named by what they do."""
    where = f"{decl['name']}.upgrade"
    known = decl["containers"]
    result = _fill(where, decl["upgrade"], UPGRADE_FIELDS, errors)
    for kind in ("before", "after"):
        for index, phase in enumerate(result[kind]):
            at = f"{where}.{kind}[{index}]"
            if not isinstance(phase, dict) or "name" not in phase or phase.get("container") not in known:
                errors.append(f"{at}: expected at least name and container (one of {sorted(known)}); found {phase!r}")
                continue
            for key in phase.keys() - PHASE_FIELDS:
                errors.append(f"{at}: unknown field '{key}'{nearest(key, PHASE_FIELDS)}")
    for name in result["again"]:
        if name not in known:
            errors.append(f"{where}.again: unknown container '{name}'{nearest(name, known)}")
    for index, item in enumerate(result["remembers"]):
        if not isinstance(item, dict) or set(item) != REMEMBERED_FIELDS or not isinstance(item["columns"], list):
            errors.append(f"{where}.remembers[{index}]: expected table, key and columns (a list); found {item!r}")
    for index, check in enumerate(result["checks"]):
        at = f"{where}.checks[{index}]"
        result["checks"][index] = check = _fill(at, check, CHECK_FIELDS, errors)
        if check["container"] not in known or not check["name"] or not check["command"] or not check["mend"]:
            errors.append(f"{at}: expected name, container (one of {sorted(known)}), command and mend")
        if check["release"] not in {"old", "new"}:
            errors.append(f"{at}.release: expected old or new, found {check['release']!r}")
    return result


def _probe(where: str, mode: str, probe: Any) -> list[str]:
    """Return what is wrong with the declared request of the availability probe."""
    if probe is None:
        return []
    if mode == "http":
        return [] if str(probe).startswith("/") else [f"{where}: expected a path that begins with /, found {probe!r}"]
    try:
        steps = [step.keys() - {"send", "expect"} or bytes.fromhex("".join(step.values())) for step in probe]
    except (AttributeError, TypeError, ValueError):
        steps = []
    if not steps or any(isinstance(step, set) for step in steps):
        return [f"{where}: expected a list of {{send, expect}} in hex, found {probe!r}"]
    return []


def _container(decl: Declaration, container: str, fields: Any, errors: list[str]) -> dict[str, Any]:
    where = f"{decl['name']}.containers.{container}"
    spec = _fill(where, fields, CONTAINER_FIELDS, errors)
    component = spec["component"] = spec["component"] or container.replace("_", "-")
    spec["image"] = spec["image"] or container.replace("_", "-")
    spec["user"] = spec["user"] or decl["project"]
    if spec["group"] is None:
        own = container.replace("_", "-")
        spec["group"] = own if own in decl["groups"] else decl["group"]
    if spec["command"] is None:
        errors.append(f"{where}.command: missing")
    spec["files"] = {**spec["files"], **AUTHORITIES}
    for file, options in list(spec["files"].items()):
        spec["files"][file] = entry = _fill(f"{where}.files.{file}", options, FILE_FIELDS, errors)
        entry["source"] = entry["source"] or file
        entry["template"] = entry["template"] or f"files/{file}.j2"
        # Templates are named from the formula root; those of the service's own folder may be written short.
        if entry["template"].startswith("files/"):
            entry["template"] = f"{decl['name']}/{entry['template']}"
        entry["dest"] = entry["dest"] or f"/etc/{decl['project']}/{file}"
        entry["owner"] = entry["owner"] or spec["user"]
        entry["format"] = entry["format"] or SUFFIX_FORMATS.get(Path(file).suffix, "text")
        if entry["format"] not in FORMATS:
            errors.append(f"{where}.files.{file}.format: expected one of {sorted(FORMATS)}, found {entry['format']!r}")
        if entry["on_change"] not in {"restart", "reload", "none"}:
            errors.append(f"{where}.files.{file}.on_change: expected restart, reload or none")
        if entry["optional"] not in {True, False, NEEDED}:
            errors.append(f"{where}.files.{file}.optional: expected true, false or {NEEDED}")
        if entry["on_change"] == "reload" and not spec["reload"]:
            errors.append(f"{where}.files.{file}.on_change: reload, but {container} declares no `reload`")
        if entry["tree"]:
            entry["optional"], entry["overrides"] = True, []
        elif entry["overrides"] is None:
            project = decl["project"]
            entry["overrides"] = (
                ["global.conf", f"{project}.conf", f"{project}/{component}.conf", f"{project}/{{{{ host }}}}/{file}"]
                if entry["oslo"]
                else [f"{project}/{file}", f"{project}/{{{{ host }}}}/{file}"]
            )
    return spec


def with_trees(declarations: dict[str, Declaration], overrides: Iterable[str]) -> dict[str, Declaration]:
    """Return ``declarations`` in which each ``tree`` has become the files that the operator gives below it.

    :param overrides: the paths below ``overrides/``.
    """
    result = dict(declarations)
    for service, decl in declarations.items():
        for container, spec in decl["containers"].items():
            if not any(entry["tree"] for entry in spec["files"].values()):
                continue
            files: dict[str, Any] = {}
            for name, entry in spec["files"].items():
                base = f"{entry['tree']}/" if entry["tree"] else None
                if base is None:
                    files[name] = entry
                    continue
                for path in sorted(path for path in overrides if path.startswith(base)):
                    below = path.removeprefix(base)
                    file = f"{name.rstrip('/')}/{below}"
                    files[file] = {
                        **entry, "tree": None, "source": file, "dest": f"{entry['dest'].rstrip('/')}/{below}",
                        "overrides": [path], "format": SUFFIX_FORMATS.get(Path(file).suffix, "text"),
                    }  # fmt: skip
            containers = {**result[service]["containers"], container: {**spec, "files": files}}
            result[service] = {**result[service], "containers": containers}
    return result


def _signature(files: list[Path]) -> str:
    stats = [(str(path), (st := path.stat()).st_mtime_ns, st.st_size) for path in files]
    own = Path(__file__).stat()
    return hashlib.sha256(repr((stats, own.st_mtime_ns, own.st_size)).encode()).hexdigest()


def load(root: Path | None = None, cache: Path | None = None) -> dict[str, Declaration]:
    """Return every service's declaration with defaults filled in, by service name.

    Parsing forty YAML files costs a tenth of a second, so the result is kept beside the other derived data and used
    again as long as no file's size or time has changed.

    :param root: folder with one folder per service; default: :func:`kolla_salt.paths.formula_root`.
    :param cache: folder for the parsed form; default: the user's cache folder. Tests pass their own.
    :raises DeclarationError: naming every problem in every file.
    """
    root = root or paths.formula_root()
    files = sorted(root.glob("*/service.yaml"))
    store = (cache or paths.cache_dir("declarations")) / f"{_signature(files)}.bin"
    try:
        return marshal.loads(store.read_bytes())
    except (FileNotFoundError, ValueError, EOFError, TypeError):
        pass
    declarations: dict[str, Declaration] = {}
    errors: list[str] = []
    for path in files:
        try:
            data = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as exc:
            errors.append(f"{path}: {exc}")
            continue
        declarations[path.parent.name], problems = normalise(path.parent.name, data)
        errors += problems
    errors += _cross_check(declarations)
    if errors:
        raise DeclarationError("the service declarations have problems:\n  " + "\n  ".join(errors))
    write_atomically(store, marshal.dumps(declarations))
    for old in store.parent.glob("*.bin"):
        if old != store and len(list(store.parent.glob("*.bin"))) > 8:
            old.unlink(missing_ok=True)
    return declarations


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write ``content`` beside ``path`` and rename it, so that a reader never sees half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _cross_check(declarations: dict[str, Declaration]) -> list[str]:
    """Return what is wrong between declarations: names used twice, unknown services."""
    errors: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for service, decl in declarations.items():
        for kind in ("settings", "passwords", "containers", "load_balancer", "groups"):
            for name in decl[kind]:
                other = seen.setdefault((kind, name), service)
                if other != service:
                    errors.append(f"{service}.{kind}.{name}: already declared by service {other}")
    for service, decl in declarations.items():
        for field, listed in (*((f, decl[f]) for f in ("requires", "after")), ("follows", decl["upgrade"]["follows"])):
            for name in listed:
                if name not in declarations:
                    errors.append(f"{service}.{field}: unknown service '{name}'{nearest(name, declarations)}")
        for container, fields in decl["containers"].items():
            for name in fields["after"]:
                if ("containers", name) not in seen:
                    known = [other for kind, other in seen if kind == "containers"]
                    errors.append(f"{service}.containers.{container}.after: unknown '{name}'{nearest(name, known)}")
    return errors
