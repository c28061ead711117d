"""Turn a service's declaration into the ordinary Salt states of one host."""

from __future__ import annotations

from typing import Any

from kolla_salt.container import SERVING
from kolla_salt.context import Names, Resolver, to_bool

States = dict[str, dict[str, list[dict[str, Any]]]]

#: What every Kolla image does when a deployer does not say otherwise.
CONFIG_STRATEGY = "COPY_ALWAYS"
#: What every container sees of its host, where the host has it.
HOST_PATHS = ("/etc/localtime", "/etc/timezone")
ENGINE_FIELDS = (
    "privileged", "cap_add", "cap_drop", "security_opt", "devices", "pid_mode", "ipc_mode", "cgroupns_mode", "tmpfs",
    "network_mode", "shm_size", "labels", "stop_signal", "stop_timeout",
)  # fmt: skip


def _option(resolver: Resolver, name: str, default: Any) -> Any:
    """Return option ``name`` if any service declares it, else ``default``."""
    return resolver.value(name) if name in resolver.settings else default


def _environment(values: dict[str, Any], resolver: Resolver, names: Names) -> dict[str, Any]:
    """Evaluate environment values; ``{secret: NAME}`` stays a reference, so that no secret enters a state."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and "secret" in value:
            result[key] = {"secret": value["secret"]}
            continue
        evaluated = resolver.evaluate(value, names)
        if evaluated is None:
            continue
        result[key] = str(evaluated).lower() if isinstance(evaluated, bool) else str(evaluated)
    return result


def healthcheck(resolver: Resolver, declared: Any, names: Names) -> dict[str, Any] | None:
    """Return the engine's health check (seconds) for a declared string or mapping, or None."""
    if not declared or not _option(resolver, "enable_container_healthchecks", True):
        return None
    value = resolver.evaluate(declared, names)
    if not value:
        return None
    if not isinstance(value, dict):
        value = {"test": value}
    test = value["test"]
    return {
        "test": test if isinstance(test, list) else ["CMD-SHELL", str(test)],
        "interval": int(value.get("interval") or _option(resolver, "default_container_healthcheck_interval", 30)),
        "timeout": int(value.get("timeout") or _option(resolver, "default_container_healthcheck_timeout", 30)),
        "retries": int(value.get("retries") or _option(resolver, "default_container_healthcheck_retries", 3)),
        "start_period": int(
            value.get("start_period") or _option(resolver, "default_container_healthcheck_start_period", 5)
        ),
    }


def container_spec(
    resolver: Resolver, service: str, container: str, facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the specification of ``container`` as ``kolla_container`` creates and compares it.

    :param facts: what is known of the machine: ``paths``, those of :data:`HOST_PATHS` that exist (default: all).
    """
    decl = resolver.declarations[service]
    fields = decl["containers"][container]
    component = fields["component"]
    names = resolver.names(service, container=container, component=component)
    host_paths = (facts or {}).get("paths", HOST_PATHS)
    spec: dict[str, Any] = {
        "image": resolver.image(str(resolver.evaluate(fields["image"], names))),
        "volumes": list(dict.fromkeys([
            f"/etc/kolla/{component}/:/var/lib/kolla/config_files/:ro",
            *(f"{path}:{path}:ro" for path in host_paths),
            "kolla_logs:/var/log/kolla/",
            *resolver.strings(fields["volumes"], names),
        ])),
        "environment": {
            "KOLLA_CONFIG_STRATEGY": str(_option(resolver, "config_strategy", CONFIG_STRATEGY)),
            "KOLLA_SERVICE_NAME": component,
            **_environment(fields["environment"], resolver, names),
        },
        "config_dir": f"/etc/kolla/{component}",
    }  # fmt: skip
    for field in ENGINE_FIELDS:
        if fields[field] is None:
            continue
        value = resolver.evaluate(fields[field], names)
        if isinstance(value, list):
            value = resolver.strings(value, names)
        if value not in (None, "", [], {}):
            spec[field] = value
    if "privileged" in spec:
        spec["privileged"] = to_bool(spec["privileged"])
    declared = fields["dimensions"]
    if declared is None:
        declared = _option(resolver, f"{container}_dimensions", _option(resolver, "default_container_dimensions", {}))
    dimensions = resolver.evaluate(declared, names)
    if dimensions:
        spec["dimensions"] = dimensions
    check = healthcheck(resolver, fields["healthcheck"], names)
    if check:
        spec["healthcheck"] = check
    for field in ("ready", "reload", "guard", "leave"):
        if fields[field]:
            spec[field] = resolver.evaluate(fields[field], names)
    if held := resolver.strings(fields["hold"], names):
        spec["hold"] = held
    changes = {name: entry["on_change"] for name, entry in fields["files"].items()}
    for key, action in (("reload_files", "reload"), ("ignore_files", "none")):
        listed = [name for name, on_change in changes.items() if on_change == action]
        if listed:
            spec[key] = listed
    return spec


def config_files(resolver: Resolver, service: str, container: str) -> list[str]:
    """Return the declared files that exist for ``container`` on this host (without ``config.json``)."""
    fields = resolver.declarations[service]["containers"][container]
    names = resolver.names(service, container=container, component=fields["component"])
    result = []
    for file, entry in fields["files"].items():
        if not resolver.test(entry["when"], names):
            continue
        if entry["optional"] and not any(
            str(path) in resolver.overrides for path in override_paths(resolver, service, container, file)
        ):
            continue
        result.append(file)
    return result


def override_paths(resolver: Resolver, service: str, container: str, file: str) -> list[str]:
    """Return the paths below ``overrides/`` that are merged into ``file``, lowest precedence first."""
    fields = resolver.declarations[service]["containers"][container]
    names = resolver.names(service, container=container, component=fields["component"], file=file)
    return resolver.strings(fields["files"][file]["overrides"], names)


def _state(function: str, *arguments: dict[str, Any], **more: Any) -> dict[str, list[dict[str, Any]]]:
    return {function: [*arguments, *({key: value} for key, value in more.items() if value not in (None, [], {}))]}


def expand(service: str, resolver: Resolver, role: str | None = None, facts: dict[str, Any] | None = None) -> States:
    """Return the states that ``service``'s declaration implies on the resolver's host.

    :param role: ``primary`` or ``rest`` restricts to the hosts that play it in this step; None takes the host as it is.
        ``again`` and ``finish`` are steps of a change of release: what comes when all hosts run the new one.
    :param facts: ``paths`` as in :func:`container_spec`; ``running`` (containers that run on the host) and ``stamps``
        (bootstrap steps that succeeded): what is not among them is started in parallel, since nothing that runs can be
        disturbed by it and most of the time goes into waiting; ``services`` whose states are in the same job;
        ``upgrade``: the release changes in phases.
    :returns: ``{ID: {function: [arguments]}}`` in the order in which it should happen; a new structure each time,
        because Salt writes into it.
    :raises kolla_salt.context.ContextError: an expression, option or group could not be resolved.
    """
    facts = facts or {}
    decl = resolver.declarations[service]
    why_not = uninvolved(service, resolver, role)
    if why_not:
        return _nothing(service, why_not)
    primary = resolver.is_primary(service)
    names = resolver.names(service)
    states: States = {}
    if role in LATE:
        _late_states(states, decl, resolver, facts, role)
        return states or _nothing(service, f"{service} has nothing to do on this host")
    _host_states(states, decl, resolver, names)
    placed = resolver.containers(service)
    files: dict[str, list[str]] = {}
    for container, on in placed.items():
        if not on:
            states[container] = _state("kolla_container.absent", {"name": container})
            continue
        component = decl["containers"][container]["component"]
        files[container] = []
        for file in ["config.json", *config_files(resolver, service, container)]:
            state_id = f"{container}/{file}"
            states[state_id] = _state(
                "kolla_config.managed", {"name": f"/etc/kolla/{component}/{file}"}, {"service": service},
                {"container": container}, {"file": file},
            )  # fmt: skip
            files[container].append(state_id)
        states[f"{container}/obsolete"] = _state(
            "kolla_config.pruned", {"name": f"/etc/kolla/{component}"}, {"service": service}, {"container": container}
        )
    boots = _primary_states(states, decl, resolver, names, files, facts) if primary else []
    known = facts.get("running")
    together = [name for name in facts.get("services", []) if uninvolved(name, resolver, role) is None]
    beside = {name for other in together for name, on in resolver.containers(other).items() if on}
    for container, on in placed.items():
        if not on:
            continue
        spec = container_spec(resolver, service, container, facts)
        require = [{"kolla_container": step} for step in boots]
        earlier = decl["containers"][container]["after"]
        require += [{"kolla_container": other} for other in earlier if placed.get(other) or other in beside]
        states[container] = _state(
            "kolla_container.running", {"name": container}, *({key: value} for key, value in spec.items()),
            **_requisites(
                [{"kolla_config": state_id} for state_id in files[container]], require,
                known is not None and container not in known,
            ),
        )  # fmt: skip
    if primary and decl["keystone"].get("after_containers"):
        _registration(states, decl, resolver, [container for container, on in placed.items() if on])
    if role is None and facts.get("upgrade"):
        for late in LATE:
            _late_states(states, decl, resolver, facts, late)
    return states or _nothing(service, f"{service} has nothing to do on this host")


def uninvolved(service: str, resolver: Resolver, role: str | None = None) -> str | None:
    """Return why ``service`` has no states on the resolver's host, or None if it has.

    :param role: as for :func:`expand`.
    """
    if not resolver.enabled(service):
        return f"{service} is switched off (enable_{service})"
    if not resolver.placed(service):
        return f"{service} is not placed on this host"
    primary = resolver.is_primary(service)
    if role == "again":
        return None
    if role == "finish" and not primary:
        return f"{service}: nothing for this host in the step of the {role}"
    if resolver.declarations[service]["together"]:
        primary = True  # all its hosts have their turn in the step of the primary
    if (role == "primary" and not primary) or (role == "rest" and primary):
        return f"{service}: nothing for this host in the step of the {role}"
    return None


def _requisites(watch: list[dict[str, str]], require: list[dict[str, str]], parallel: bool) -> dict[str, Any]:
    """Return the requisites of a container's state.

    A state with ``parallel`` only requires. Salt 3008 starts it a second time beside the first when something that it
    watches has changed, because it takes the first for one without changes; and it forgets to wait for one kind of
    requisite when another kind is met (`State.call_chunk`, `State._check_requisites`). Watching would tell it nothing:
    what has never run here runs in any case.
    """
    if parallel:
        return {"require": [*watch, *require], "parallel": True}
    return {"watch": watch, "require": require}


def _nothing(service: str, why: str) -> States:
    # An empty SLS would count as a failure in an orchestration.
    return {why: {"test.nop": [{"name": service}]}}


def _host_states(states: States, decl: dict[str, Any], resolver: Resolver, names: Names) -> None:
    service = decl["name"]
    for item in decl["sysctls"]:
        group = item.get("group", decl["group"])
        if resolver.host in resolver.hosts(group) and resolver.test(item.get("when", True), names):
            name, value = (str(resolver.evaluate(item[key], names)) for key in ("name", "value"))
            states[f"{service} sysctl {name}"] = _state("kolla_host.sysctl", {"name": name}, {"value": value})
    for item in decl["host_directories"]:
        group = item.get("group", decl["group"])
        if resolver.host in resolver.hosts(group) and resolver.test(item.get("when", True), names):
            path = str(resolver.evaluate(item["path"], names))
            states[f"{service} directory {path}"] = _state(
                "kolla_host.directory", {"name": path}, {"mode": str(item.get("mode", "0755"))}
            )


def _registration(
    states: States, decl: dict[str, Any], resolver: Resolver, containers: list[str] | None = None
) -> str | None:
    """Add what the service registers in Keystone, after ``containers``; return the state's ID, or None."""
    service = decl["name"]
    if not decl["keystone"] or not resolver.test(decl["keystone"].get("when", True), resolver.names(service)):
        return None
    state_id = f"{service} keystone"
    states[state_id] = _state(
        "kolla_keystone.registered", {"name": state_id}, {"service": service},
        require=[{"kolla_container": container} for container in containers or []],
    )  # fmt: skip
    return state_id


def _primary_states(
    states: States, decl: dict[str, Any], resolver: Resolver, names: Names, files: dict[str, list[str]],
    facts: dict[str, Any],
) -> list[str]:  # fmt: skip
    """Add the run-once states; return the IDs of the bootstrap steps."""
    service = decl["name"]
    databases = []
    for db in decl["database"]:
        if not resolver.test(db["when"], names):
            continue
        state_id = f"{service} database {db['name']}"
        databases.append(state_id)
        states[state_id] = _state(
            "kolla_db.database_present", {"name": state_id}, {"database": db["name"]}, {"user": db["user"]},
            {"password_secret": db["password"]},
        )  # fmt: skip
    keystone = None
    if not decl["keystone"].get("after_containers"):
        keystone = _registration(states, decl, resolver)
    boots: list[str] = []
    stamps = facts.get("stamps")
    before = [phase_id(service, phase) for phase in decl["upgrade"]["before"]]
    if facts.get("upgrade"):
        boots += _phases(states, decl, resolver, facts, "before", files, [{"kolla_db": item} for item in databases])
    for step in decl["bootstrap"]:
        step_names = resolver.names(service, container=step["container"])
        if not resolver.test(step.get("when", True), step_names):
            continue
        spec = run_once_spec(resolver, service, step, facts)
        if before:
            spec["instead"] = before
        if facts.get("upgrade"):
            spec["partial"] = True
        require: list[dict[str, str]] = [{"kolla_config": state_id} for state_id in files.get(step["container"], [])]
        require += [{"kolla_container": other} for other in boots]
        if step.get("after_keystone") and keystone:
            require.append({"kolla_keystone": keystone})
        states[step["name"]] = _state(
            "kolla_container.ran", {"name": step["name"]}, *({key: value} for key, value in spec.items()),
            **_requisites(
                [{"kolla_db": state_id} for state_id in databases], require,
                stamps is not None and step["name"] not in stamps,
            ),
        )  # fmt: skip
        boots.append(step["name"])
    return boots


# --- a change of release in phases ------------------------------------------------------------------------------------

#: Roles of steps that come when every host runs the new release.
LATE = ("again", "finish")


def phase_id(service: str, phase: dict[str, Any]) -> str:
    """Return the ID of a phase's state, which is also the name of its run-once container."""
    return f"{service}_{phase['name']}"


def run_once_spec(
    resolver: Resolver, service: str, step: dict[str, Any], facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the specification of a run-once container: that of a service's container, with its own task."""
    names = resolver.names(service, container=step["container"])
    spec = container_spec(resolver, service, step["container"], facts)
    for field in ("healthcheck", "config_dir", *SERVING):
        spec.pop(field, None)
    spec["environment"].update(_environment(step.get("environment", {}), resolver, names))
    spec["volumes"] += resolver.strings(step.get("volumes", []), names)
    if step.get("command"):
        spec["command"] = resolver.strings(step["command"], names)
    for field in ("timeout", "user"):
        if step.get(field):
            spec[field] = resolver.evaluate(step[field], names)
    return spec


def phases(resolver: Resolver, service: str, kind: str) -> list[dict[str, Any]]:
    """Return the phases ``before`` or ``after`` the containers of ``service`` are replaced, of a change of release."""
    return [
        phase
        for phase in resolver.declarations[service]["upgrade"][kind]
        if resolver.test(phase.get("when", True), resolver.names(service, container=phase["container"]))
    ]


def renewed_again(resolver: Resolver, service: str) -> list[str]:
    """Return the containers of the resolver's host that start twice when the release changes."""
    placed = resolver.containers(service)
    return [name for name in resolver.declarations[service]["upgrade"]["again"] if placed.get(name)]


def _phases(
    states: States, decl: dict[str, Any], resolver: Resolver, facts: dict[str, Any], kind: str,
    files: dict[str, list[str]], require: list[dict[str, str]],
) -> list[str]:  # fmt: skip
    """Add the phases of a kind, one after the other; return their IDs."""
    service, done = decl["name"], []
    for phase in phases(resolver, service, kind):
        state_id = phase_id(service, phase)
        needs = [{"kolla_config": item} for item in files.get(phase["container"], [])]
        needs += [*require, *({"kolla_container": other} for other in done)]
        spec = run_once_spec(resolver, service, phase, facts)
        states[state_id] = _state(
            "kolla_container.ran", {"name": state_id}, *({key: value} for key, value in spec.items()),
            {"of": [step["name"] for step in decl["bootstrap"]]}, {"serves": phase["container"]}, require=needs,
        )  # fmt: skip
        done.append(state_id)
    return done


def _late_states(states: States, decl: dict[str, Any], resolver: Resolver, facts: dict[str, Any], role: str) -> None:
    """Add what a change of release does when all hosts run the new one."""
    service = decl["name"]
    if role == "again":
        for container in renewed_again(resolver, service):
            spec = container_spec(resolver, service, container, facts)
            require = [{"kolla_container": container}] if container in states else []
            # A name of its own: a requisite finds a state by its name too.
            states[f"{container} again"] = _state(
                "kolla_container.renewed", {"name": f"{container} again"}, {"container": container},
                *({key: value} for key, value in spec.items()),
                require=require,
            )  # fmt: skip
    elif resolver.is_primary(service):
        require = [{"kolla_container": name} for name, on in resolver.containers(service).items() if on]
        require = [item for item in require if item["kolla_container"] in states]
        _phases(states, decl, resolver, facts, "after", {}, require)
