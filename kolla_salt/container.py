"""A container's specification: read it, write it for the engine, compare it with what the engine has.

Every setting is one entry of `FIELDS`, used for creation and for comparison alike, so that what was just created
compares as equal. A setting that is absent means the default of the image or of the engine: what a container has from
its image (environment, labels, command, health check, user) is subtracted before the comparison.

Nothing here talks to an engine: inspect data in, plain data out.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import signal
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Changes = dict[str, dict[str, Any]]

#: Label with the names of the settings that were not left to the engine's default when the container was made. It
#: marks our own containers, and it is how a setting that was removed since then is noticed where the engine does not
#: tell its default.
LABEL_FIELDS = "kolla_salt.fields"
OWN_LABELS = "kolla_salt."
#: On what runs once and is removed when it has ended.
LABEL_ONCE = "kolla_salt.once"
#: Its value for what changes nothing.
LOOKS = "looks"

#: Variables that podman adds to every container, and those that other deployment tools add: no reason to replace one.
ENGINE_ENVIRONMENT = frozenset({"container", "HOME", "HOSTNAME", "TERM", "PATH"})
FOREIGN_ENVIRONMENT = ENGINE_ENVIRONMENT | {"TZ"}

SECRET_WORDS = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "COOKIE", "CREDENTIAL", "PRIVATE_KEY")
MASK = "***"

RESTART_POLICIES = ("no", "oneshot", "on-failure", "always", "unless-stopped")
NANOSECONDS = 1_000_000_000
DEFAULT_SHM_SIZES = (0, 67_108_864, 65_536_000)
BEHAVIOUR = frozenset(
    {
        "image",
        "config_dir",
        "ready",
        "reload",
        "reload_files",
        "ignore_files",
        "pull",
        "log_dir",
        "dimensions",
        "guard",
        "leave",
        "hold",
    }  # fmt: skip
)
READY_KINDS = ("http", "tcp", "exec")


class SpecError(ValueError):
    """A specification that cannot be meant: the message says which field of which container, and what is expected."""


# ---------------------------------------------------------------------------------------------------- normal forms


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool) or value is None:
        return value or None
    raise SpecError(f"expected true or false, got {value!r}")


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        raise SpecError(f"expected a number, got {value!r}")
    try:
        return int(value) or None
    except (TypeError, ValueError):
        raise SpecError(f"expected a number, got {value!r}") from None


def _size(value: Any) -> int | None:
    """Bytes of ``512m``, ``1g``, ``64MiB``, ``1024``; ``-1`` stays (no limit)."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) or None
    text = str(value).strip().lower().removesuffix("ib").removesuffix("b")
    factor = 1
    if text and text[-1] in "kmgt":
        factor = 1024 ** ("kmgt".index(text[-1]) + 1)
        text = text[:-1]
    try:
        return int(float(text) * factor) or None
    except ValueError:
        raise SpecError(f"expected a size such as 512m or 1g, got {value!r}") from None


def _items(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        raise SpecError(f"expected a list, got {value!r}")
    return [str(item) for item in value if item is not None and item != ""]


def _set(value: Any) -> list[str] | None:
    return sorted(set(_items(value))) or None


def _signal(value: Any) -> str | None:
    """``SIGTERM`` of ``15``, ``TERM`` or ``sigterm``."""
    text = str(value or "").upper()
    if text.isdigit():
        try:
            return signal.Signals(int(text)).name
        except ValueError:
            raise SpecError(f"expected a signal, got {value!r}") from None
    return f"SIG{text.removeprefix('SIG')}" if text else None


def _argv(value: Any) -> list[str] | None:
    if isinstance(value, str):
        raise SpecError(f"expected a list of arguments, got the string {value!r}")
    return [str(item) for item in value] if value else None


def _capabilities(value: Any) -> list[str] | None:
    return sorted({item.upper().removeprefix("CAP_") for item in _items(value)}) or None


def _security(value: Any) -> list[str] | None:
    names = ("seccomp", "label", "apparmor", "systempaths")
    found = set()
    for item in _items(value):
        key, separator, rest = item.partition(":")
        found.add(f"{key}={rest}" if separator and key in names else item)
    return sorted(found) or None


def _path(path: str) -> str:
    return path.rstrip("/") or "/"


#: What podman gives a container (containers.conf(5), default_capabilities, 4.0 and later).
PODMAN_CAPABILITIES = frozenset(
    {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }  # fmt: skip
)
# Options which mean the default. podman adds some of them to each mount on its own.
_DEFAULT_MOUNT_OPTIONS = frozenset({"", "rw", "rprivate", "rbind", "nosuid", "nodev", "exec"})


def _volume(item: str) -> str:
    source, separator, rest = item.partition(":")
    target, _, options = rest.partition(":")
    if not separator or not source or not target.startswith("/"):
        raise SpecError(f"expected 'source:/target' or 'source:/target:options', got {item!r}")
    kept = sorted(set(options.split(",")) - _DEFAULT_MOUNT_OPTIONS)
    source = _path(source) if source.startswith("/") else source
    return ":".join([source, _path(target), *([",".join(kept)] if kept else [])])


def _volumes(value: Any) -> list[str] | None:
    return sorted({_volume(item) for item in _items(value)}) or None


def _tmpfs(value: Any) -> dict[str, str] | None:
    pairs = value.items() if isinstance(value, dict) else (item.partition(":")[::2] for item in _items(value))
    default = _DEFAULT_MOUNT_OPTIONS | {"tmpcopyup"}
    return {
        _path(str(target)): ",".join(sorted(set(str(options or "").split(",")) - default)) for target, options in pairs
    } or None


def _device(item: str) -> str:
    parts = item.split(":")
    if not parts[0].startswith("/") or len(parts) > 3:
        raise SpecError(f"expected '/dev/x', '/dev/x:/dev/y' or '/dev/x:/dev/y:rwm', got {item!r}")
    inside = parts[1] if len(parts) > 1 else parts[0]
    return f"{parts[0]}:{inside}:{parts[2] if len(parts) > 2 else 'rwm'}"


def _devices(value: Any) -> list[str] | None:
    return sorted({_device(item) for item in _items(value)}) or None


def _strings(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise SpecError(f"expected a mapping, got {value!r}")
    return {str(key): plain(item) for key, item in value.items()} or None


def plain(value: Any) -> str:
    """Return a YAML scalar as the string a program reads: ``null`` is empty, booleans are lower case."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise SpecError(f"expected a string, got {value!r}")
    return str(value)


def _hosts(value: Any) -> list[str] | None:
    if isinstance(value, dict):
        value = [f"{name}:{address}" for name, address in value.items()]
    return _set(value)


def _network(value: Any) -> str | None:
    # The engine's own default is a bridge; Kolla's services share the host's network, so that is the default here.
    return _text(value) or "host"


def _policy(value: Any) -> str | None:
    text = "no" if value in (False, "oneshot", "") else str(value)
    name, _, retries = text.partition(":")
    if name not in RESTART_POLICIES or (retries and not retries.isdigit()):
        raise SpecError(f"expected one of {', '.join(RESTART_POLICIES)}, got {value!r}")
    return f"{name}:{int(retries)}" if int(retries or 0) else name


def _seconds(value: Any, name: str) -> float:
    try:
        return float(str(value).removesuffix("s"))
    except ValueError:
        raise SpecError(f"{name}: expected seconds, got {value!r}") from None


def _healthcheck(value: Any) -> dict[str, Any] | None:
    if not value:
        return None
    if isinstance(value, str):
        value = {"test": value}
    unknown = set(value) - {"test", "interval", "timeout", "retries", "start_period"}
    if unknown:
        raise SpecError(
            f"unknown {', '.join(sorted(unknown))}; expected test, interval, timeout, retries, start_period"
        )
    test = value.get("test")
    if isinstance(test, str):
        test = ["NONE"] if test.upper() == "NONE" else ["CMD-SHELL", test]
    if not test:
        raise SpecError("a health check needs a test")
    test = [str(item) for item in test]
    if test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        test = ["CMD", *test]
    result: dict[str, Any] = {"test": test}
    if test != ["NONE"]:
        for name in ("interval", "timeout", "start_period"):
            if value.get(name):
                result[name] = _seconds(value[name], name)
        if value.get("retries"):
            result["retries"] = int(value["retries"])
    return result


def _ulimits(value: Any) -> dict[str, list[int]] | None:
    if not value:
        return None
    if isinstance(value, list):
        value = {item["name"]: item for item in value}
    limits = {}
    for name, limit in value.items():
        if isinstance(limit, dict):
            soft = limit.get("soft", limit.get("hard"))
            hard = limit.get("hard", soft)
        else:
            soft = hard = limit
        if soft is None:
            raise SpecError(f"{name}: expected a number or {{soft: number, hard: number}}, got {limit!r}")
        limits[str(name).lower().removeprefix("rlimit_")] = [int(soft), int(hard)]
    return limits


# ------------------------------------------------------------------------------------------- access to engine data


def _get(data: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        data = (data or {}).get(key)
    return data


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        body = body.setdefault(key, {})
    body[last] = value


def environment_of(config: dict[str, Any]) -> dict[str, str]:
    """Return the environment in an engine's ``Config`` (of a container or an image) as a mapping."""
    pairs = (item.partition("=") for item in (config or {}).get("Env") or [])
    return {key: value for key, _, value in pairs}


def _beyond(current: dict[str, str], base: dict[str, str]) -> dict[str, str] | None:
    return {key: value for key, value in current.items() if base.get(key) != value} or None


def _current_healthcheck(inspect: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | None:
    return _engine_healthcheck(_get(inspect, "Config.Healthcheck"))


def _engine_healthcheck(check: dict[str, Any] | None) -> dict[str, Any] | None:
    if not check or not check.get("Test"):
        return None
    result: dict[str, Any] = {"test": list(check["Test"])}
    if result["test"] == ["NONE"]:
        return result
    for name, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")):
        if check.get(key):
            result[name] = check[key] / NANOSECONDS
    if check.get("Retries"):
        result["retries"] = check["Retries"]
    return result


def _write_healthcheck(body: dict[str, Any], value: dict[str, Any]) -> None:
    check: dict[str, Any] = {"Test": value["test"]}
    for name, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")):
        if name in value:
            check[key] = int(value[name] * NANOSECONDS)
    if "retries" in value:
        check["Retries"] = value["retries"]
    body["Healthcheck"] = check


_NAMELESS = re.compile(r"[0-9a-f]{64}:")


def _current_volumes(inspect: dict[str, Any], image: dict[str, Any]) -> list[str] | None:
    host = inspect.get("HostConfig") or {}
    # podman lists the nameless volumes of an image's VOLUME here as well.
    volumes = {item for item in _volumes(host.get("Binds")) or [] if not _NAMELESS.match(item)}
    for mount in host.get("Mounts") or []:
        if mount.get("Type") in ("bind", "volume") and mount.get("Source"):
            volumes.add(_volume(f"{mount['Source']}:{mount['Target']}:{'ro' if mount.get('ReadOnly') else ''}"))
    return sorted(volumes) or None


def _current_security(inspect: dict[str, Any], image: dict[str, Any]) -> list[str] | None:
    host = inspect.get("HostConfig") or {}
    options = set(_security(host.get("SecurityOpt")) or [])
    if host.get("Privileged") or host.get("PidMode") == "host" or host.get("IpcMode") == "host":
        options.discard("label=disable")  # the engine adds it by itself in these cases
    if host.get("Privileged"):
        options.discard("unmask=all")  # as podman says it
    return sorted(options) or None


def _current_devices(inspect: dict[str, Any], image: dict[str, Any]) -> list[str] | None:
    devices = _get(inspect, "HostConfig.Devices") or []
    return (
        sorted(f"{d['PathOnHost']}:{d['PathInContainer']}:{d.get('CgroupPermissions') or 'rwm'}" for d in devices)
        or None
    )


def _write_devices(body: dict[str, Any], value: list[str]) -> None:
    keys = ("PathOnHost", "PathInContainer", "CgroupPermissions")
    _put(body, "HostConfig.Devices", [dict(zip(keys, item.split(":"), strict=True)) for item in value])


def _current_mode(path: str, defaults: Iterable[str]) -> Callable[[dict[str, Any], dict[str, Any]], str | None]:
    def current(inspect: dict[str, Any], image: dict[str, Any]) -> str | None:
        value = _get(inspect, path) or ""
        return None if value in defaults else value

    return current


def _current_policy(inspect: dict[str, Any], image: dict[str, Any]) -> str:
    policy = _get(inspect, "HostConfig.RestartPolicy") or {}
    name, retries = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    return f"{name}:{retries}" if retries and name == "on-failure" else name


def _engine_policy(value: str) -> dict[str, Any]:
    name, _, retries = value.partition(":")
    return {"Name": name, "MaximumRetryCount": int(retries or 0)}


def _current_ulimits(inspect: dict[str, Any], image: dict[str, Any]) -> dict[str, list[int]] | None:
    limits = _get(inspect, "HostConfig.Ulimits") or []
    return {str(item["Name"]).lower().removeprefix("rlimit_"): [item["Soft"], item["Hard"]] for item in limits} or None


def _write_ulimits(body: dict[str, Any], value: dict[str, list[int]]) -> None:
    limits = [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in value.items()]
    _put(body, "HostConfig.Ulimits", limits)


# ------------------------------------------------------------------------------------------------ the table of fields


@dataclass(frozen=True)
class Field:
    """One setting of a container.

    `normal` turns what is declared into the normal form; `current` reads the normal form from inspect data (``None``:
    not beyond image and engine default); `write` puts it into the body of the engine's create call.
    """

    name: str
    normal: Callable[[Any], Any]
    current: Callable[[dict[str, Any], dict[str, Any]], Any]
    write: Callable[[dict[str, Any], Any], None]
    #: can be changed in a running container
    live: bool = False
    #: the engine does not tell whether its value is the default: compared only if declared, now or at creation
    opaque: bool = False


def _simple(name: str, normal: Callable[[Any], Any], path: str, **flags: bool) -> Field:
    return Field(
        name,
        normal,
        lambda inspect, image: normal(_get(inspect, path)),
        lambda body, value: _put(body, path, value),
        **flags,
    )


def _image_default(name: str, normal: Callable[[Any], Any], key: str, **flags: bool) -> Field:
    def current(inspect: dict[str, Any], image: dict[str, Any]) -> Any:
        value = normal(_get(inspect, f"Config.{key}"))
        return None if value == normal(image.get(key)) else value

    return Field(name, normal, current, lambda body, value: _put(body, key, value), **flags)


def _mode(name: str, key: str, defaults: tuple[str, ...], **flags: bool) -> Field:
    path = f"HostConfig.{key}"
    return Field(
        name, _text, _current_mode(path, ("", *defaults)), lambda body, value: _put(body, path, value), **flags
    )


def _dimension(name: str, normal: Callable[[Any], Any], key: str, **flags: bool) -> Field:
    return _simple(f"dimensions.{name}", normal, f"HostConfig.{key}", **flags)


_ALL_FIELDS = (
    _image_default("command", _argv, "Cmd"),
    Field(
        "environment",
        _strings,
        lambda inspect, image: _beyond(environment_of(inspect["Config"]), environment_of(image)),
        lambda body, value: _put(body, "Env", [f"{key}={text}" for key, text in value.items()]),
    ),
    Field("volumes", _volumes, _current_volumes, lambda body, value: _put(body, "HostConfig.Binds", list(value))),
    _simple("tmpfs", _tmpfs, "HostConfig.Tmpfs"),
    _simple("privileged", _flag, "HostConfig.Privileged"),
    _simple("cap_add", _capabilities, "HostConfig.CapAdd"),
    _simple("cap_drop", _capabilities, "HostConfig.CapDrop"),
    Field(
        "security_opt",
        _security,
        _current_security,
        lambda body, value: _put(body, "HostConfig.SecurityOpt", list(value)),
    ),
    Field("devices", _devices, _current_devices, _write_devices),
    Field(
        "network_mode",
        _network,
        lambda inspect, image: _get(inspect, "HostConfig.NetworkMode"),
        lambda body, value: _put(body, "HostConfig.NetworkMode", value),
    ),
    _mode("pid_mode", "PidMode", ("private",)),
    _mode("ipc_mode", "IpcMode", ("private", "shareable")),
    Field(
        "cgroupns_mode",
        _text,
        lambda inspect, image: _get(inspect, "HostConfig.CgroupnsMode") or "host",  # older engines know only this
        lambda body, value: _put(body, "HostConfig.CgroupnsMode", value),
        opaque=True,
    ),
    _image_default("user", _text, "User"),
    Field(
        "healthcheck",
        _healthcheck,
        lambda inspect, image: (
            None
            if _current_healthcheck(inspect, image) == _engine_healthcheck(image.get("Healthcheck"))
            else _current_healthcheck(inspect, image)
        ),
        _write_healthcheck,
    ),
    Field(
        "labels",
        _strings,
        lambda inspect, image: _beyond(_get(inspect, "Config.Labels") or {}, image.get("Labels") or {}),
        lambda body, value: _put(body, "Labels", dict(value)),
    ),
    Field(
        "shm_size",
        lambda value: None if _size(value) in DEFAULT_SHM_SIZES else _size(value),
        lambda inspect, image: (
            None
            if _get(inspect, "HostConfig.ShmSize") in (None, *DEFAULT_SHM_SIZES)
            else _get(inspect, "HostConfig.ShmSize")
        ),
        lambda body, value: _put(body, "HostConfig.ShmSize", value),
    ),
    Field(
        "stop_signal",
        _signal,
        lambda inspect, image: (
            None
            if (_signal(_get(inspect, "Config.StopSignal")) or "SIGTERM")
            == (_signal(image.get("StopSignal")) or "SIGTERM")
            else _signal(_get(inspect, "Config.StopSignal"))
        ),
        lambda body, value: _put(body, "StopSignal", value),
    ),
    _image_default("stop_timeout", _number, "StopTimeout"),
    Field(
        "restart_policy",
        _policy,
        _current_policy,
        lambda body, value: _put(body, "HostConfig.RestartPolicy", _engine_policy(value)),
        live=True,
    ),
    Field(
        "hostname",
        _text,
        lambda inspect, image: _get(inspect, "Config.Hostname"),
        lambda body, value: _put(body, "Hostname", value),
        opaque=True,
    ),
    _simple("extra_hosts", _hosts, "HostConfig.ExtraHosts"),
    _simple("sysctls", _strings, "HostConfig.Sysctls"),
    _dimension("cpu_period", _number, "CpuPeriod", live=True),
    _dimension("cpu_quota", _number, "CpuQuota", live=True),
    _dimension("cpu_shares", _number, "CpuShares", live=True),
    _dimension("cpuset_cpus", _text, "CpusetCpus", live=True),
    _dimension("cpuset_mems", _text, "CpusetMems", live=True),
    _dimension("blkio_weight", _number, "BlkioWeight"),
    _dimension("pids_limit", _number, "PidsLimit", opaque=True),  # podman has a default of its own
    _dimension("mem_limit", _size, "Memory"),
    _dimension("mem_reservation", _size, "MemoryReservation"),
    _dimension("memswap_limit", _size, "MemorySwap", opaque=True),  # twice mem_limit unless it is given
    _dimension("kernel_memory", _size, "KernelMemory"),
    Field("dimensions.ulimits", _ulimits, _current_ulimits, _write_ulimits, opaque=True),
)

#: name of a setting -> how it is read, written and compared
FIELDS: dict[str, Field] = {item.name: item for item in _ALL_FIELDS}

#: What other tools keep elsewhere (in a systemd unit), by whether the engine can change it in place.
ELSEWHERE = {True: ("stop_timeout",), False: ("stop_timeout", "restart_policy")}

DEFAULTS: dict[str, Any] = {"network_mode": "host", "restart_policy": "unless-stopped", "stop_timeout": 60}


@dataclass(frozen=True)
class Spec:
    """A declared container in normal form. `settings` may hold secrets; nothing here is to be shown unmasked."""

    name: str
    image: str
    settings: dict[str, Any]
    secret_environment: dict[str, str] = field(default_factory=dict)
    config_dir: str | None = None
    ready: dict[str, Any] | None = None
    reload: dict[str, Any] | None = None
    reload_files: frozenset[str] = frozenset()
    ignore_files: frozenset[str] = frozenset()
    pull: str = "if-missing"
    log_dir: str | None = None
    guard: str | None = None
    leave: str | None = None
    hold: tuple[str, ...] = ()

    @property
    def stop_timeout(self) -> int:
        """Seconds between the stop signal and SIGKILL."""
        return self.settings.get("stop_timeout") or DEFAULTS["stop_timeout"]

    @property
    def copies_once(self) -> bool:
        """Whether files are copied into the container only at its first start, so that a change needs a new one."""
        return self.settings.get("environment", {}).get("KOLLA_CONFIG_STRATEGY") == "COPY_ONCE"

    @property
    def runs_once(self) -> bool:
        """Whether the container's process is expected to end."""
        return self.settings["restart_policy"] == "no"


def normalise(name: str, spec: dict[str, Any], secret: Callable[[str], str]) -> Spec:
    """Check a declared specification and bring it into normal form.

    :param name: the container's name
    :param spec: fields as `FIELDS` (dimensions nested below ``dimensions``) and `BEHAVIOUR` name them
    :param secret: returns the value of a password by its name
    :raises SpecError: an unknown field or a value of the wrong kind; the message names field, value and expectation
    """
    known = BEHAVIOUR | {item for item in FIELDS if "." not in item}
    for key in spec:
        if key not in known:
            raise SpecError(f"container {name}: unknown field {key!r}{_nearest(key, known)}")
    if not spec.get("image"):
        raise SpecError(f"container {name}: 'image' is required")
    given = {key: value for key, value in spec.items() if key in FIELDS}
    dimensions = spec.get("dimensions") or {}
    if not isinstance(dimensions, dict):
        raise SpecError(f"container {name}: dimensions: expected a mapping, got {dimensions!r}")
    for key, value in dimensions.items():
        if f"dimensions.{key}" not in FIELDS:
            names = {item.removeprefix("dimensions.") for item in FIELDS if item.startswith("dimensions.")}
            raise SpecError(f"container {name}: dimensions: unknown {key!r}{_nearest(key, names)}")
        given[f"dimensions.{key}"] = value
    settings: dict[str, Any] = {}
    secret_environment: dict[str, str] = {}
    for key, value in {**DEFAULTS, **{k: v for k, v in given.items() if v is not None}}.items():
        try:
            if key == "environment":
                value, secret_environment = _resolve(value, secret)
            normal = FIELDS[key].normal(value)
        except SpecError as error:
            raise SpecError(f"container {name}: {key}: {error}") from None
        if normal is not None:
            settings[key] = normal
    try:
        behaviour = _behaviour(spec)
    except SpecError as error:
        raise SpecError(f"container {name}: {error}") from None
    return Spec(name, str(spec["image"]), settings, secret_environment, **behaviour)


def _resolve(environment: Any, secret: Callable[[str], str]) -> tuple[dict[str, str], dict[str, str]]:
    if not isinstance(environment, dict):
        raise SpecError(f"expected a mapping, got {type(environment).__name__}")
    values, secret_names = {}, {}
    for key, value in environment.items():
        if isinstance(value, dict):
            if set(value) != {"secret"}:
                raise SpecError(f"{key}: expected a string or {{secret: NAME}}")
            secret_names[str(key)] = str(value["secret"])
            value = secret(str(value["secret"]))
        values[str(key)] = plain(value)
    return values, secret_names


def _behaviour(spec: dict[str, Any]) -> dict[str, Any]:
    pull = spec.get("pull") or "if-missing"
    if pull not in ("if-missing", "always", "never"):
        raise SpecError(f"pull: expected if-missing, always or never, got {pull!r}")
    ready = spec.get("ready")
    if ready:
        check_ready(ready)
    reload = spec.get("reload")
    if reload and (not isinstance(reload, dict) or len(set(reload) & {"exec", "signal"}) != 1 or len(reload) != 1):
        raise SpecError(f"reload: expected {{exec: [command, ...]}} or {{signal: NAME}}, got {reload!r}")
    if reload and "exec" in reload:
        _argv(reload["exec"])
    return {
        "config_dir": _text(spec.get("config_dir")),
        "ready": dict(ready) if ready else None,
        "reload": dict(reload) if reload else None,
        "reload_files": frozenset(_items(spec.get("reload_files"))),
        "ignore_files": frozenset(_items(spec.get("ignore_files"))),
        "pull": pull,
        "log_dir": _text(spec.get("log_dir")),
        "guard": _text(spec.get("guard")),
        "leave": _text(spec.get("leave")),
        "hold": tuple(_items(spec.get("hold"))),
    }


#: How a container that serves is waited for, reloaded and stopped; one that runs once has none of it.
SERVING = ("ready", "reload", "reload_files", "ignore_files", "guard", "leave", "hold")
#: The same and what else is remembered with its start, since it holds no secrets.
MANNER = (*SERVING, "log_dir", "stop_timeout")


def manner(spec: Spec) -> dict[str, Any]:
    """Return the fields of `MANNER` that a container has, as they are declared."""
    found = {}
    for key in MANNER:
        value = getattr(spec, key)
        if value:
            found[key] = sorted(value) if isinstance(value, frozenset) else value
    return found


def check_ready(ready: Any) -> None:
    """Refuse a `ready` that is not exactly one of http, tcp, exec.

    :raises SpecError: says what is expected
    """
    kinds = [kind for kind in READY_KINDS if isinstance(ready, dict) and ready.get(kind)]
    unknown = set(ready) - {*READY_KINDS, "status", "timeout"} if isinstance(ready, dict) else set()
    if len(kinds) != 1 or unknown:
        raise SpecError(
            f"ready: expected {{http: URL, status: [200]}}, {{tcp: 'address:port'}} or {{exec: [command, ...]}}, "
            f"each with an optional timeout in seconds, got {ready!r}"
        )


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"


# --------------------------------------------------------------------------------------------- creation and comparison


def create_body(spec: Spec) -> dict[str, Any]:
    """Return the body of the engine's "create container" call."""
    body: dict[str, Any] = {"Image": spec.image, "HostConfig": {}}
    for name, value in spec.settings.items():
        FIELDS[name].write(body, value)
    labels = body.setdefault("Labels", {})
    labels[LABEL_FIELDS] = ",".join(sorted(declared_fields(spec)))
    return body


def declared_fields(spec: Spec) -> set[str]:
    """Return the names of the settings that `spec` does not leave to image or engine."""
    return {name for name in spec.settings if name not in DEFAULTS}


def update_body(names: Iterable[str], spec: Spec) -> dict[str, Any]:
    """Return the body of the engine's "update container" call for settings that can change while it runs."""
    body: dict[str, Any] = {}
    for name in names:
        FIELDS[name].write(body, spec.settings[name])
    return body.get("HostConfig", {})


def is_own(inspect: dict[str, Any]) -> bool:
    """Whether this project created the container (it carries our label)."""
    return LABEL_FIELDS in (_get(inspect, "Config.Labels") or {})


@dataclass(frozen=True)
class Comparison:
    """What differs between a declared and an existing container, and whether a running one can take it over."""

    changes: Changes
    #: names of settings that need a new container
    replace: tuple[str, ...]
    #: names of settings that the engine can change in place
    live: tuple[str, ...]


def compare(
    spec: Spec,
    inspect: dict[str, Any],
    image: dict[str, Any] | None,
    unsupported: frozenset[str] = frozenset(),
    secrets: Iterable[str] = (),
    updates: bool = True,
) -> Comparison:
    """Compare every setting of a declared container with an existing one.

    :param spec: what is declared
    :param inspect: the engine's inspect data of the container
    :param image: ``Config`` of the image the container was made from; ``None`` when that image is gone: then what
        the container has beyond the declaration is not judged
    :param unsupported: settings that this host cannot have (no swap accounting, ...): not compared
    :param secrets: values to mask wherever they occur
    :param updates: whether the engine can change settings of an existing container; if not, the restart policy of
        another tool's container is not judged, because that tool restarts it in its own way
    """
    own = is_own(inspect)
    labels = _get(inspect, "Config.Labels") or {}
    set_before = set(labels.get(LABEL_FIELDS, "").split(",")) if own else set()
    base = image or {}
    changes: Changes = {}
    replace, live = [], []
    for name, item in FIELDS.items():
        if name in unsupported or (not own and name in ELSEWHERE[updates]):
            continue
        wanted = _wanted(item, spec, base)
        if name in ("cap_add", "cap_drop") and wanted is None and spec.settings.get("privileged"):
            continue  # it has all of them; podman lists what it had to do without
        if wanted is None and item.opaque and name not in set_before:
            continue
        current = item.current(inspect, base)
        if name == "environment":
            current = _relevant_environment(current, wanted, own, image)
        elif name == "labels":
            current = _relevant_labels(current, wanted, own, image)
        elif name == "dimensions.ulimits" and wanted:
            # Limits that nobody declared come from the engine's own defaults.
            current = {key: value for key, value in (current or {}).items() if key in wanted} or None
        elif wanted is None and image is None and name in ("command", "user", "healthcheck", "stop_signal"):
            continue
        elif name in ("cap_add", "cap_drop") and not updates:
            current, wanted = (_beyond_default(name, value) for value in (current, wanted))
        if current == wanted:
            continue
        if current is None and name in set_before and name.startswith(("dimensions.", "ipc_mode")):
            # It was asked for at creation: this host cannot have the limit. podman shows the host's IPC namespace as
            # its default one (4.3; to be looked at again with podman 5).
            continue
        changes[name] = _shown(name, current, wanted, spec, secrets)
        (live if updates and item.live and wanted is not None else replace).append(name)
    return Comparison(changes, tuple(replace), tuple(live))


def _beyond_default(name: str, capabilities: list[str] | None) -> list[str] | None:
    """Return what of a list makes a difference to what podman gives by default; it shows nothing else."""
    return [one for one in capabilities or [] if (one in PODMAN_CAPABILITIES) == (name == "cap_drop")] or None


def _wanted(item: Field, spec: Spec, image: dict[str, Any]) -> Any:
    """The declared value without what says the same as the image does."""
    wanted = spec.settings.get(item.name)
    if wanted is None:
        return None
    if item.name == "environment":
        return _beyond(wanted, environment_of(image))
    if item.name == "labels":
        return _beyond(wanted, image.get("Labels") or {})
    if item.name == "healthcheck":
        base = _engine_healthcheck(image.get("Healthcheck"))
        merged = wanted if wanted["test"] == ["NONE"] else {**(base or {}), **wanted}
        return None if merged == base else merged
    for name, key in (("command", "Cmd"), ("user", "User")):
        if item.name == name and wanted == item.normal(image.get(key)):
            return None
    if item.name == "stop_signal" and wanted == (_signal(image.get("StopSignal")) or "SIGTERM"):
        return None
    return wanted


def _relevant_environment(
    current: dict[str, str] | None, wanted: dict[str, str] | None, own: bool, image: dict[str, Any] | None
) -> dict[str, str] | None:
    ignored = ENGINE_ENVIRONMENT if own else FOREIGN_ENVIRONMENT
    kept = {
        key: value
        for key, value in (current or {}).items()
        if key in (wanted or {}) or (image is not None and key not in ignored)
    }
    return kept or None


def _relevant_labels(
    current: dict[str, str] | None, wanted: dict[str, str] | None, own: bool, image: dict[str, Any] | None
) -> dict[str, str] | None:
    kept = {
        key: value
        for key, value in (current or {}).items()
        if not key.startswith(OWN_LABELS) and (key in (wanted or {}) or (own and image is not None))
    }
    return kept or None


# --------------------------------------------------------------------------------------------------- showing, masking


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every secret value in it replaced by asterisks."""
    for value in sorted(secrets, key=len, reverse=True):
        if value and value in text:
            text = text.replace(value, MASK)
    return text


def _shown(name: str, old: Any, new: Any, spec: Spec, secrets: Iterable[str]) -> dict[str, Any]:
    """An entry of `changes`: of mappings and lists only what differs, and nothing secret."""
    if name == "environment":
        return _shown_environment(old or {}, new or {}, spec, secrets)
    if isinstance(old or new, dict) and name != "healthcheck":
        keys = [key for key in {**(old or {}), **(new or {})} if (old or {}).get(key) != (new or {}).get(key)]
        old = {key: old[key] for key in keys if key in (old or {})} or None
        new = {key: new[key] for key in keys if key in (new or {})} or None
    elif isinstance(old or new, list) and name != "command":
        old, new = (
            [item for item in old or [] if item not in (new or [])] or None,
            [item for item in new or [] if item not in (old or [])] or None,
        )
    return {"old": _scrubbed(old, secrets), "new": _scrubbed(new, secrets)}


def _scrubbed(value: Any, secrets: Iterable[str]) -> Any:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, list):
        return [_scrubbed(item, secrets) for item in value]
    if isinstance(value, dict):
        return {key: _scrubbed(item, secrets) for key, item in value.items()}
    return value


def _shown_environment(old: dict[str, str], new: dict[str, str], spec: Spec, secrets: Iterable[str]) -> dict[str, Any]:
    shown_old, shown_new = {}, {}
    for key in sorted({**old, **new}):
        if old.get(key) == new.get(key):
            continue
        hidden = (
            key in spec.secret_environment
            or any(word in key.upper() for word in SECRET_WORDS)
            or any(scrub(side.get(key, ""), secrets) != side.get(key, "") for side in (old, new))
        )
        if key in old:
            shown_old[key] = f"{MASK} (as created)" if hidden else old[key]
        if key in new:
            source = f"password {spec.secret_environment[key]}" if key in spec.secret_environment else "as declared"
            shown_new[key] = f"{MASK} ({source})" if hidden else new[key]
    return {"old": shown_old or None, "new": shown_new or None}


def to_spec(inspect: dict[str, Any], image: dict[str, Any] | None, secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return an existing container as a specification: only what image and engine do not give by default.

    :param inspect: the engine's inspect data
    :param image: ``Config`` of its image, or ``None``
    :param secrets: values to mask
    """
    labels = _get(inspect, "Config.Labels") or {}
    set_before = set(labels.get(LABEL_FIELDS, "").split(","))
    spec: dict[str, Any] = {
        "name": inspect["Name"].lstrip("/"),
        "image": _get(inspect, "Config.Image"),
    }
    for name, item in FIELDS.items():
        if item.opaque and name not in set_before:
            continue
        value = item.current(inspect, image or {})
        if name == "labels":
            value = {key: text for key, text in (value or {}).items() if not key.startswith(OWN_LABELS)}
        elif name == "environment":
            value = {
                key: MASK if any(word in key.upper() for word in SECRET_WORDS) else text
                for key, text in (value or {}).items()
                if key not in ENGINE_ENVIRONMENT
            }
        if value in (None, {}, []):
            continue
        value = _scrubbed(value, secrets)
        if name.startswith("dimensions."):
            spec.setdefault("dimensions", {})[name.removeprefix("dimensions.")] = value
        else:
            spec[name] = value
    return spec


# ------------------------------------------------------------------------------------ state of a container, and actions


def state_of(inspect: dict[str, Any]) -> str:
    """Return ``running``, ``paused``, ``restarting (1)``, ``exited (137)``, ``created`` or ``dead``."""
    state = inspect["State"]
    status = state.get("Status") or ("running" if state.get("Running") else "exited")
    if status in ("exited", "restarting", "dead"):
        return f"{status} ({state.get('ExitCode')})"
    return {"configured": "created", "initialized": "created", "stopped": "exited"}.get(status, status)


def moment(inspect: dict[str, Any], ended: bool = False) -> dict[str, Any]:
    """Return what tells whether a container is still the same one, and since when it runs.

    :param ended: also how it ended, if it did
    """
    state = inspect["State"]
    found = {
        "id": inspect["Id"],
        "image": inspect["Config"].get("Image"),
        "digest": inspect["Image"],
        "started": state.get("StartedAt"),
        "state": state.get("Status") or ("running" if state.get("Running") else "exited"),
        "restarts": inspect.get("RestartCount") or 0,
    }
    return found | {"exit": state.get("ExitCode"), "oom": bool(state.get("OOMKilled"))} if ended else found


def in_declared_state(spec: Spec, inspect: dict[str, Any]) -> bool:
    """Whether the container runs, or, if its process is expected to end, ended well."""
    state = state_of(inspect)
    return state == "running" or (spec.runs_once and state == "exited (0)")


def unsupported_settings(info: dict[str, Any]) -> frozenset[str]:
    """Return the settings that a host cannot have, from the engine's ``info``.

    The engine only warns about them at creation and then shows another value, which would differ for ever.
    """
    flags = {
        "MemoryLimit": ("mem_limit", "mem_reservation", "memswap_limit"),
        "SwapLimit": ("memswap_limit",),
        "KernelMemory": ("kernel_memory",),
        "CpuCfsPeriod": ("cpu_period",),
        "CpuCfsQuota": ("cpu_quota",),
        "CPUShares": ("cpu_shares",),
        "CPUSet": ("cpuset_cpus", "cpuset_mems"),
        "PidsLimit": ("pids_limit",),
    }
    missing = {name for flag, names in flags.items() if not info.get(flag) for name in names}
    return frozenset(f"dimensions.{name}" for name in missing)


# -------------------------------------------------------------------------------------------------- configuration files


def digest(directory: str | os.PathLike[str], ignore: Iterable[str] = ()) -> dict[str, str]:
    """Return the digests of the files below a container's configuration directory.

    :param directory: host directory; a missing one has no files
    :param ignore: relative names to leave out
    :returns: relative file name -> SHA-256 over its permission bits and content
    """
    root = Path(directory)
    skipped = set(ignore)
    digests = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if relative in skipped or name.endswith("~"):
                continue
            try:
                mode, content = path.stat().st_mode, path.read_bytes()
            except FileNotFoundError:
                mode, content = 0, b""  # a dangling link is a fact as well
            value = hashlib.sha256(f"{stat.S_IMODE(mode):04o}\n".encode())
            value.update(content)
            digests[relative] = value.hexdigest()
    return dict(sorted(digests.items()))


def changed_files(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Return ``{file name: "changed" | "added" | "removed"}`` between two results of `digest`."""
    result = {}
    for name in sorted({**before, **now}):
        if name not in before:
            result[name] = "added"
        elif name not in now:
            result[name] = "removed"
        elif before[name] != now[name]:
            result[name] = "changed"
    return result


def action_for_files(spec: Spec, names: Iterable[str]) -> str | None:
    """Return how changed files take effect: ``recreate``, ``restart``, ``reload`` or ``None``."""
    names = set(names) - spec.ignore_files
    if not names:
        return None
    if spec.copies_once:
        return "recreate"
    return "reload" if spec.reload and names <= spec.reload_files else "restart"
