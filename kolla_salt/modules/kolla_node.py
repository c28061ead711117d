"""All services of one host at once: dry run, images, health, configuration, stop, removal."""

from __future__ import annotations

import contextvars
import json
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import __version__, drift, expectation, outcome, paths, plan, runtime
from kolla_salt.context import ContextError
from kolla_salt.declarations import write_atomically
from kolla_salt.engine import SOCKETS, Engine
from kolla_salt.steps import needed_by, own

__virtualname__ = "kolla_node"


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    return runtime.resolver(__opts__, __pillar__, __context__)


def services() -> list[str]:
    """Return the SLS of everything that belongs on this host, in the order of the waves.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.services
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


def survey(sls: Any, images: bool = True, containers: bool = False, verb: str = "") -> dict[str, Any]:
    """Return what a run would do on this host, all services in one dry run.

    :param sls: names of the SLS files (list), or what :func:`kolla_salt.steps.told` makes of those of several hosts.
    :param images: also look which images are missing.
    :param containers: also say which containers there are now.
    :param verb: of the run; a change of release has states of its own.
    :returns: ``version``; ``states``: what would change (``id``, ``sls``, ``function``, ``changes`` without secrets,
        ``fingerprint``: tells this change from any other, see :mod:`kolla_salt.expectation`); ``failed``: states that
        could not be predicted; ``errors``: why nothing could be rendered at all; ``total``; ``missing_images``;
        ``containers`` as :func:`kolla_container.snapshot` returns it, if there is an engine; ``releases``: as of
        :py:func:`kolla_release.survey`.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.survey '[keystone, glance]'
    """
    if isinstance(sls, dict):
        sls = own(sls, __opts__["id"])
    report = {"version": __version__, "missing_images": [], "releases": {}, **outcome.dry_run(__opts__["id"], [])}
    if not sls:
        return report
    for service in sls:
        # What a member of a cluster has must be known before another one decides whether there is a cluster.
        if f"kolla_{service}.announce" in __salt__:
            __salt__[f"kolla_{service}.announce"]()
    if containers:
        # A state run gets a copy of this job's context; an engine that is in it is asked only once about a container.
        _containers()
    told = {"pillar": {"kolla_step": {"verb": verb}}} if verb else {}
    returned = __salt__["state.sls"](",".join(sls), test=True, concurrent=True, **told)
    # A prediction that fails is an answer, not a failed job.
    __context__["retcode"] = 0
    key = expectation.key_of(Path(__opts__.get("pki_dir") or "") / "minion.pem")

    def fingerprint(change: outcome.Change, name: str) -> str:
        content = [change.function, change.id, change.changes]
        return expectation.fingerprint(key, content, *_unmasked(change, name))

    report |= outcome.dry_run(__opts__["id"], returned, fingerprint)
    if report["errors"]:
        return report
    if images:
        report["missing_images"] = missing_images()
        report["releases"] = __salt__["kolla_release.survey"]()
    if containers and (there := _snapshot()) is not None:
        report["containers"] = there
    return report


def _unmasked(change: outcome.Change, name: str) -> list[bytes]:
    """Return what a predicted change is about as it is now, secrets included: the file, or which container it is."""
    if change.function.startswith("kolla_container."):
        present = {item["name"]: item["id"] for item in _containers()}
        return [str(present.get(name)).encode()]
    path = Path(name)
    if not path.is_absolute():
        return []
    try:
        return [path.read_bytes()]
    except OSError:
        return [b""]


def _snapshot() -> dict[str, Any] | None:
    try:
        return __salt__["kolla_container.snapshot"]()
    except CommandExecutionError:
        return None  # no engine yet


def _containers() -> list[dict[str, Any]]:
    try:
        return __salt__["kolla_container.list"]()
    except CommandExecutionError:
        return []  # no engine yet, so there are none


def missing_images() -> list[str]:
    """Return the images that the containers of this host need and the engine does not have.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.missing_images
    """
    wanted = __salt__["kolla.images"]()
    try:
        return list(__salt__["kolla_container.images_missing"](wanted))
    except CommandExecutionError:
        # No engine yet: nothing is there. Whoever starts containers says what is wrong with the engine.
        return wanted


def pull(images: Any = None, threads: int | None = None, again: bool = False) -> dict[str, Any]:
    """Fetch images, where nothing runs yet several at once.

    :param images: references (list); default: those that are missing.
    :param again: without `images`: also those that are there, since a tag may have moved.
    :param threads: how many at once; default: 1 where containers run, else 2. What is unpacked takes the disk from a
        database and a broker that wait for it with each commit (benchmarks/results/pull.md).
    :returns: ``pulled`` (references) and ``failed`` (reference -> what the engine said).

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.pull
    """
    if images is None:
        images = __salt__["kolla.images"]() if again else missing_images()
    wanted = list(images)
    failed: dict[str, str] = {}
    pulled: list[str] = []

    def fetch(reference: str) -> None:
        try:
            __salt__["kolla_container.pull"](reference)
            pulled.append(reference)
        except CommandExecutionError as error:
            failed[reference] = str(error)

    if wanted:
        if threads is None:
            threads = 1 if _serves() else 2
        # The first one alone: it loads the engine's client, which is not safe to do in several threads at once.
        fetch(wanted[0])
        contexts = [contextvars.copy_context() for _ in wanted[1:]]
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            # Salt's dunders live in context variables, which a new thread does not have by itself.
            list(pool.map(lambda reference, context: context.run(fetch, reference), wanted[1:], contexts))
    return {"pulled": sorted(pulled), "failed": failed}


def _serves() -> bool:
    """Return whether containers of the cloud run on this host."""
    return any(item["state"] == "running" for item in _containers())


# --- looking --------------------------------------------------------------------------------------------------------


def unfinished(dry: bool = False) -> list[str]:
    """Return what this host still does of a run that was interrupted; run-once containers that have ended are removed.

    :param dry: remove nothing
    :returns: jobs of its minion, containers that its engine restarts, and run-once containers that run

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.unfinished dry=True
    """
    if jobs := __salt__["saltutil.is_running"]("state.*"):
        return [f"job {job['jid']}" for job in jobs]
    try:
        found = [*__salt__["kolla_container.changing"](), *__salt__["kolla_container.remove_ended"](dry=dry)]
    except CommandExecutionError:
        return []  # an engine that does not answer does nothing; the dry run says so
    return [f"container {name}" for name in found]


def look() -> dict[str, Any]:
    """Return the containers of this host, and what is wrong with them.

    :returns: ``containers`` (name -> state, health, service, image), ``problems`` (sentences with what mends them) and
        ``undeclared`` (made by kolla-salt, but no service of this host declares them).
    :raises CommandExecutionError: the engine does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.look
    """
    __salt__["kolla_container.ping"]()
    declared = __salt__["kolla.containers"]()
    present = {item["name"]: item for item in __salt__["kolla_container.list"]()}
    containers: dict[str, Any] = {}
    problems: list[str] = []
    for name, wanted in declared.items():
        found = present.get(name)
        state = found["state"] if found else "absent"
        health = found["health"] if found else None
        containers[name] = {
            "service": wanted["service"],
            "state": state,
            "health": health,
            "image": found["image"] if found else wanted["image"],
            "status": found and found["status"],
        }
        if state == "absent":
            problems.append(f"{name} does not exist; kolla-salt deploy {wanted['service']}")
        elif state != "running":
            problems.append(
                f"{name} is {found['status'] or state}, expected running; docker logs --tail 50 {name}, "
                f"then kolla-salt deploy {wanted['service']}"
            )
        elif health == "unhealthy":
            problems.append(
                f"{name} runs, but its health check fails; docker inspect -f '{{{{json .State.Health}}}}' {name}"
            )
    undeclared = sorted(name for name, item in present.items() if item["own"] and name not in declared)
    for name in undeclared:
        containers[name] = {
            "service": None,
            "state": present[name]["state"],
            "health": present[name]["health"],
            "image": present[name]["image"],
            "status": present[name]["status"],
        }
    return {"containers": containers, "problems": problems, "undeclared": undeclared}


def verify(sls: Any, cloud: str = "") -> dict[str, Any]:
    """Return all that ``kolla-salt verify`` wants to know of this host, asked side by side in one job.

    :param sls: as for :func:`survey`.
    :param cloud: the host that also asks the cloud's APIs.
    :returns: ``survey`` and ``look`` as the functions of these names return them; ``members``: container -> what its
        declaration's ``verify`` function says, or an error as text; ``stopped``: container -> when it was stopped
        through kolla-salt, if it stands still since; ``cloud`` as :func:`kolla_check.cloud` returns it, if asked here.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.verify '[keystone, glance]' cloud=node1
    """
    report: dict[str, Any] = {
        "look": look(),
        "stopped": __salt__["kolla_container.stopped_on_purpose"](),
        "members": {},
    }
    asked = {
        name: function
        for name, function in _members().items()
        if report["look"]["containers"][name]["state"] == "running"
    }
    for function in asked.values():
        function in __salt__  # noqa: B015 - loaded here, since that is not safe in several threads at once

    def ask(name: str) -> None:
        try:
            report["members"][name] = __salt__[asked[name]]()
        except CommandExecutionError as error:
            report["members"][name] = str(error)

    def ask_cloud() -> None:
        report["cloud"] = __salt__["kolla_check.cloud"]()

    tasks = [*((ask, name) for name in asked), *([(ask_cloud,)] if cloud == __opts__["id"] else [])]
    with ThreadPoolExecutor(max_workers=max(1, len(tasks))) as pool:
        # Salt's dunders live in context variables, which a new thread does not have by itself.
        futures = [pool.submit(contextvars.copy_context().run, *task) for task in tasks]
        report["survey"] = survey(sls, images=False)
        for future in futures:
            future.result()
    return report


def _members() -> dict[str, str]:
    """Return the containers of this host that are part of a cluster -> the function that says how they are."""
    resolver = _resolver()
    found = {}
    for service in resolver.enabled_services():
        for name, on in resolver.containers(service).items():
            function = resolver.declarations[service]["containers"][name]["verify"]
            if on and function:
                found[name] = function
    return found


def compare() -> dict[str, Any]:
    """Compare this host with the site and tell the master, as ``kolla/drift/<host>``, what was not told before.

    Salt's scheduler calls it (option drift_compare_minutes). While a run or another state job is at work here, it waits
    for the next time.

    :returns: ``told`` (whether), ``findings`` as :mod:`kolla_salt.drift` describes them, or ``skipped``: why.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.compare
    """
    if busy := __salt__["saltutil.is_running"]("state.*"):
        return {"told": False, "findings": [], "skipped": f"{busy[0]['fun']} is at work ({busy[0]['jid']})"}
    host = __opts__["id"]
    report = survey(services(), images=False)
    states = drift.differing(report["states"])
    findings = drift.of_states(host, states, __salt__["kolla_container.stopped_on_purpose"]())
    errors = [text[: outcome.RETURN_LIMIT] for text in report["errors"]]
    said = json.dumps({"findings": findings, "errors": errors}, sort_keys=True)
    path = Path(__opts__["cachedir"]) / "kolla_drift.json"
    before = path.read_text() if path.exists() else json.dumps({"errors": [], "findings": []}, sort_keys=True)
    if said == before:
        return {"told": False, "findings": findings}
    __salt__["event.fire_master"](
        {"host": host, "kind": "host", "findings": findings, "errors": errors}, f"kolla/drift/{host}"
    )
    write_atomically(path, said.encode())
    return {"told": True, "findings": findings}


# --- acting ---------------------------------------------------------------------------------------------------------


def heal(names: list[str]) -> dict[str, Any]:
    """Start containers again that have stopped by themselves, if nothing but their state differs from the site.

    :param names: containers of this host.
    :returns: ``started`` (names) and ``refused`` (name -> why).

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.heal '[memcached]'
    """
    if busy := __salt__["saltutil.is_running"]("state.*"):
        return {"started": [], "refused": dict.fromkeys(names, f"{busy[0]['fun']} is at work ({busy[0]['jid']})")}
    resolver = _resolver()
    stopped = __salt__["kolla_container.stopped_on_purpose"]()
    started: list[str] = []
    refused: dict[str, str] = {}
    for name in names:
        try:
            if why := _start_refusal(resolver, name, stopped.get(name)):
                refused[name] = why
            elif __salt__["kolla_container.start"](name):
                started.append(name)
        except (CommandExecutionError, ContextError) as error:
            refused[name] = str(error)
    return {"started": started, "refused": refused}


def _start_refusal(resolver: Any, name: str, stopped: str | None) -> str:
    service = __salt__["kolla.containers"]().get(name, {}).get("service")
    if service is None or stopped:
        return drift.start_refusal(service is not None, stopped, None, [], [])
    spec = __salt__["kolla.spec"](name)
    changes = __salt__["kolla_container.diff"](name, **spec)
    files = __salt__["kolla_container.changed_files"](name, **spec) if changes else []
    guard = resolver.declarations[service]["containers"][name]["heal"]
    obstacles = ["its declaration says so"] if guard is False else []
    if isinstance(guard, str):
        obstacles = __salt__[guard]()
    return drift.start_refusal(True, None, changes, files, obstacles)


def clients(names: list[str]) -> tuple[list[str], list[str]]:
    """Split containers into those of services that need others, and those of services that others need.

    A service belongs to the first kind if it has a database or an account, or requires a service that has. So the first
    kind is stopped while databases, queues and the load balancer still answer, and nobody has to wait for a time-out.

    :param names: containers of this host.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_node.clients '[nova_api, mariadb]'
    """
    resolver = _resolver()
    decls = resolver.declarations
    own = {name for name, decl in decls.items() if decl["database"] or decl["keystone"]}
    needy = {
        name for name in decls if name in own or own & needed_by(name, {s: d["requires"] for s, d in decls.items()})
    }
    owner = {container: name for name, decl in decls.items() for container in decl["containers"]}
    first = [name for name in names if owner.get(name) in needy]
    return first, [name for name in names if name not in first]


def stop(stage: str = "all", services: list[str] | None = None, timeout: int | None = None) -> dict[str, Any]:
    """Stop containers of this host, many at a time.

    :param stage: ``services`` (those that need others), ``infrastructure`` (the rest) or ``all``, one after the other.
    :param services: only these services' containers.
    :param timeout: seconds until SIGKILL; default: each container's own.
    :returns: ``stopped`` (names) and ``seconds``.
    :raises CommandExecutionError: some could not be stopped.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.stop
    """
    names = [
        item["name"]
        for item in __salt__["kolla_container.list"]()
        if item["state"] in ("running", "restarting", "paused")
    ]
    if services:
        decls = _resolver().declarations
        wanted = {container for service in services if service in decls for container in decls[service]["containers"]}
        names = [name for name in names if name in wanted]
    first, second = clients(names)
    stopped: list[str] = []
    began = time.monotonic()
    for group in {"services": [first], "infrastructure": [second], "all": [first, second]}[stage]:
        for name in group:
            # Of a cluster that has to be started from one certain member, that one is to stop last.
            if f"kolla_{name}.let_others_leave" in __salt__:
                __salt__[f"kolla_{name}.let_others_leave"]()
        if group:
            stopped += __salt__["kolla_container.stop_many"](group, timeout=timeout)["stopped"]
    return {"stopped": stopped, "seconds": round(time.monotonic() - began, 2)}


def genconfig(services: list[str] | None = None) -> dict[str, Any]:
    """Write the configuration files of this host's services; no container is touched.

    :param services: only these.
    :returns: path -> differences, secrets masked, for the files that were written.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.genconfig
    """
    if not services:
        return outcome.cut(__salt__["kolla_config.genconfig"](), outcome.RETURN_LIMIT)
    written: dict[str, Any] = {}
    for service in services:
        written.update(__salt__["kolla_config.genconfig"](service))
    return outcome.cut(written, outcome.RETURN_LIMIT)


def servers() -> list[str]:
    """Return the virtual machines that run on this host, by their libvirt names.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.servers
    """
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended meanwhile
        if "qemu" in words[0]:
            guests = [word.split(",")[0].removeprefix("guest=") for word in words if word.startswith("guest=")]
            found += guests
    return sorted(found)


def destroy(force: bool = False, images: bool = False) -> dict[str, list[str]]:
    """Remove what deploying made on this host: containers, volumes with their data, configuration, bridges, VIPs.

    :param force: also if virtual machines run here; they are killed.
    :param images: also remove the images.
    :returns: what was removed, by kind.
    :raises CommandExecutionError: virtual machines run here, or something could not be removed.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.destroy force=True
    """
    running = servers()
    if running and not force:
        raise CommandExecutionError(
            f"destroying on {__opts__['id']}: {len(running)} virtual machines run here ({', '.join(running[:5])}); "
            "expected none. Delete or move them, or give --kill-servers"
        )
    resolver = _resolver()
    engine = _engine(resolver)
    done: dict[str, list[str]] = {"bridges": _remove_bridges()}
    listed = __salt__["kolla_container.list"](replaced=True)
    full = {item["name"]: engine.inspect(item["name"]) or {} for item in listed}
    mounts = [mount for data in full.values() for mount in data.get("Mounts") or []]
    volumes = {mount["Name"] for mount in mounts if mount.get("Type") == "volume"} | _declared_volumes(resolver)
    configs = {
        Path("/etc/kolla") / decl["component"]
        for d in resolver.declarations.values()
        for decl in d["containers"].values()
    }
    configs |= {Path(mount["Source"]) for mount in mounts if str(mount.get("Source", "")).startswith("/etc/kolla/")}
    # keepalived gives up its addresses and the agents their namespaces when they are asked to end.
    __salt__["kolla_container.stop_many"]([item["name"] for item in listed], timeout=5)
    for item in listed:
        __salt__["kolla_container.remove"](item["name"], force=True)
    done["containers"] = [item["name"] for item in listed]
    done["volumes"] = _remove_volumes(engine, volumes)
    done["directories"] = []
    for path in [*sorted(configs), paths.STATE_DIR / "stamps", paths.STATE_DIR / "kept"]:
        if path.is_dir():
            shutil.rmtree(path)
            done["directories"].append(str(path))
    log = Path("/var/log/kolla")
    if log.is_symlink():
        log.unlink()
        done["directories"].append(str(log))
    done["addresses"] = _remove_vips(resolver)
    done["namespaces"] = _remove_namespaces()
    if images:
        done["images"] = _remove_images(engine, {item["image_id"] for item in listed})
    return done


def _engine(resolver: Any) -> Engine:
    settings = resolver.settings
    kind = resolver.value("container_engine") if "container_engine" in settings else "docker"
    socket = resolver.value("container_engine_socket") if "container_engine_socket" in settings else None
    socket = socket or __opts__.get("kolla_container_engine_socket") or SOCKETS[kind]
    return Engine(socket if "://" in socket else f"unix://{socket}")


def _declared_volumes(resolver: Any) -> set[str]:
    found = {"kolla_logs"}
    for service, decl in resolver.declarations.items():
        for container, fields in decl["containers"].items():
            names = resolver.names(service, container=container, component=fields["component"])
            try:
                volumes = resolver.strings(fields["volumes"], names)
            except ContextError:
                continue  # of a service that is off and whose options have no value
            found |= {volume.split(":", 1)[0] for volume in volumes if not volume.startswith("/")}
    return found


def _remove_volumes(engine: Engine, wanted: set[str]) -> list[str]:
    present = {volume["Name"] for volume in engine.sdk.volumes()["Volumes"] or []}
    gone = sorted(present & wanted)
    for name in gone:
        engine.act(f"remove volume {name}", "remove_volume", name)
    return gone


def _remove_images(engine: Engine, ids: set[str]) -> list[str]:
    gone = []
    for image in engine.sdk.images():
        if image["Id"] in ids or "kolla_version" in (image.get("Labels") or {}):
            engine.act(f"remove image {image['Id']}", "remove_image", image["Id"], force=True)
            gone += image.get("RepoTags") or [image["Id"]]
    return sorted(gone)


def _remove_bridges() -> list[str]:
    if "kolla_openvswitch.switch" not in __salt__:
        return []
    gone = []
    for bridge in __salt__["kolla_openvswitch.switch"]()["bridges"]:
        # Through the running switch: that also takes the ports out of the kernel.
        __salt__["kolla_container.exec"](
            "openvswitch_vswitchd", ["ovs-vsctl", "--timeout=10", "--if-exists", "del-br", bridge], check=False
        )
        gone.append(bridge)
    return gone


def _ip(*words: str) -> Any:
    """Run ``ip -json`` and return what it says."""
    done = subprocess.run(["ip", "-json", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise CommandExecutionError(
            f"running 'ip -json {' '.join(words)}': exit status {done.returncode}: {done.stderr.strip()}; "
            "it comes with the package iproute2"
        )
    return json.loads(done.stdout) if done.stdout.strip() else []


def _remove_vips(resolver: Any) -> list[str]:
    vips = {
        str(resolver.value(name)) for name in ("internal_vip_address", "external_vip_address") if resolver.value(name)
    }
    own = {
        str(address) for host in resolver.topology_hosts.values() for address in (host.get("addresses") or {}).values()
    }
    gone = []
    for link in _ip("address", "show"):
        for address in link.get("addr_info", []):
            if address["local"] in vips - own:
                _ip("address", "del", f"{address['local']}/{address['prefixlen']}", "dev", link["ifname"])
                gone.append(f"{address['local']} on {link['ifname']}")
    return gone


def _remove_namespaces() -> list[str]:
    gone = []
    for entry in _ip("netns", "list"):
        if entry["name"].startswith(("qrouter-", "qdhcp-", "snat-", "fip-", "ovnmeta-")):
            _ip("netns", "delete", entry["name"])
            gone.append(entry["name"])
    return gone


def validate() -> dict[str, Any]:
    """Return whether every running container has the configuration files that lie on this host, as the image sees it.

    :returns: ``checked`` (number of containers) and ``problems`` (sentences).

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_node.validate
    """
    running = {item["name"] for item in __salt__["kolla_container.list"]() if item["state"] == "running"}
    names = [name for name in __salt__["kolla.containers"]() if name in running]

    def check(name: str) -> str | None:
        done = __salt__["kolla_container.exec"](name, ["kolla_set_configs", "--check"], user="root", check=False)
        if done["exit_status"] == 0:
            return None
        last = (done["output"].strip().splitlines() or ["no output"])[-1]
        what = (
            "runs with other files than those of its configuration folder"
            if done["exit_status"] == 1
            else "cannot check its files"
        )
        return f"{name} {what}: {last}; kolla-salt deploy {__salt__['kolla.containers']()[name]['service']}"

    found = [check(name) for name in names]
    return {"checked": len(names), "problems": [text for text in found if text]}
