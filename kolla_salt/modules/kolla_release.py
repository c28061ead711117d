"""Which release this host runs, whether its services can leave it, and whether one has arrived at the next."""

from __future__ import annotations

import shutil
import time
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import expand, plan, prechecks, releases, runtime, snapshots
from kolla_salt.context import ContextError
from kolla_salt.steps import needed_by

__virtualname__ = "kolla_release"
#: Seconds that a check of a service, in a container of its own, may take.
CHECK_TIMEOUT = 180
#: Exit status of coreutils' `timeout`.
TIMED_OUT = 124
#: Seconds until a service that was just changed has to be well.
PATIENCE = 180
#: GiB that have to be free where the engine keeps images and containers.
LEAST_FREE = 3


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Any:
    return runtime.resolver(__opts__, __pillar__, __context__)


def survey() -> dict[str, dict[str, Any]]:
    """Return the releases of this host's services: ``runs`` (of its containers) and ``to`` (of the site's images).

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_release.survey
    """
    declared = __salt__["kolla.containers"]()
    try:
        found = __salt__["kolla_container.versions"](sorted({item["image"] for item in declared.values()}))
    except CommandExecutionError:
        return {}  # no engine yet: nothing runs
    result: dict[str, dict[str, Any]] = {}
    for name, wanted in declared.items():
        entry = result.setdefault(wanted["service"], {"runs": [], "to": None})
        entry["to"] = releases.release_of(found["images"].get(wanted["image"]), wanted["image"])
        running = found["containers"].get(name)
        release = releases.release_of(running["version"], running["image"]) if running else None
        if release and release not in entry["runs"]:
            entry["runs"] = sorted([*entry["runs"], release])
    return result


def problems(
    services: list[str], begun: list[str] | None = None, ahead: list[str] | None = None
) -> list[dict[str, str]]:
    """Return what speaks against changing the release of ``services``, as far as this host can tell; changes nothing.

    Members of clusters are asked how they are, and each service's own checks run: those of the old release in its
    container, those of the new one in a container for that alone.

    :param services: those that are to change.
    :param begun: those that an unfinished upgrade has begun to change and not seen well again: they may be down, and
        their schemas are of neither release. Nobody is to mend that but the upgrade that goes on with them.
    :param ahead: those whose schemas an upgrade that was taken back has left for the new release; the old one's check
        does not know them.
    :returns: findings as of :py:func:`kolla_check.host`.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_release.problems '[glance]'
    """
    resolver, host = _resolver(), __opts__["id"]
    amid = set(begun or ())
    found = _space(resolver, host, asks=not amid & {plan.BALANCER, plan.DATABASE})
    # What is down behind the load balancer waits for those, or is one of them.
    unasked = {*amid, plan.BALANCER} if amid else set()
    requires = {name: declaration["requires"] for name, declaration in resolver.declarations.items()}
    # Others, such as a broker, no check asks.
    stores = {plan.DATABASE, *(name for name, declaration in resolver.declarations.items() if declaration["database"])}
    for service in resolver.enabled_services():
        for name, on in resolver.containers(service).items():
            function = resolver.declarations[service]["containers"][name].get("verify")
            if on and function and service not in unasked and __salt__["kolla_container.state"](name) != "absent":
                found += _of_member(host, name, function)
        obstacles = f"kolla_{service}.upgrade_obstacles"
        if service in services and service not in unasked and resolver.placed(service) and obstacles in __salt__:
            found += [
                prechecks.Finding(host, service, "error", text, "nothing that speaks against it", "see above")
                for text in _asked(obstacles)
            ]
        if service in services and resolver.is_primary(service):
            if amid & {plan.BALANCER, *(needed_by(service, requires) & stores)}:
                continue  # its programs would find no database
            for check in resolver.declarations[service]["upgrade"]["checks"]:
                if check["release"] == "old" and service in amid.union(ahead or ()):
                    continue
                if resolver.test(check["when"], resolver.names(service, container=check["container"])):
                    found += _check(resolver, host, service, check)
    return [finding.as_dict() for finding in found]


def _asked(function: str) -> list[str]:
    try:
        return list(__salt__[function]())
    except CommandExecutionError as error:
        return [str(error)]


def _of_member(host: str, name: str, function: str) -> list[prechecks.Finding]:
    try:
        said = __salt__[function]()["findings"]
    except CommandExecutionError as error:
        said = [{"name": name, "found": str(error), "expected": "an answer", "mend": f"docker logs --tail 50 {name}"}]
    return [
        prechecks.Finding(host, item["name"], "error", str(item["found"]), str(item["expected"]), str(item["mend"]))
        for item in said
    ]


def _space(resolver: Any, host: str, asks: bool) -> list[prechecks.Finding]:
    """Return what speaks against the room on this host; the database is only asked how large it is if it can answer."""
    facts = __salt__["kolla_check.resources"]()
    found = []
    if facts["disk_free"] < LEAST_FREE:
        found.append(
            prechecks.Finding(
                host, "disk", "error", f"{facts['disk_free']:.1f} GiB free below {facts['disk_path']}",
                f"{LEAST_FREE} GiB, for what the containers of both releases write",
                "kolla-salt upgrade --finish drops those of an earlier upgrade; docker image prune",
            )
        )  # fmt: skip
    if not (asks and resolver.enabled(plan.DATABASE) and resolver.hosts(plan.DATABASE)[:1] == [host]):
        return found
    path = next(p for p in (snapshots.ROOT, *snapshots.ROOT.parents) if p.exists())
    try:
        needed = __salt__["kolla_db.size"]()
        snapshots.check_space(host, path, needed, shutil.disk_usage(path).free)
    except (CommandExecutionError, snapshots.SnapshotError) as error:
        found.append(
            prechecks.Finding(host, "snapshots", "error", str(error), "room for a snapshot of every schema",
                              "a larger disk, or kolla-salt upgrade --finish for an earlier upgrade")
        )  # fmt: skip
    return found


def _check(resolver: Any, host: str, service: str, check: dict[str, Any]) -> list[prechecks.Finding]:
    """Run a service's own check; its last lines are what was found."""
    names = resolver.names(service, container=check["container"])
    command = resolver.strings(check["command"], names)
    shown = f"{service}: {check['name']}"
    try:
        if check["release"] == "old":
            if __salt__["kolla_container.state"](check["container"]) != "running":
                return []  # who looks at containers says so
            # Without a database many of them wait for ever.
            limited = ["timeout", str(CHECK_TIMEOUT), *command]
            done = __salt__["kolla_container.exec"](check["container"], limited, user=check["user"], check=False)
            status, output = done["exit_status"], done["output"]
        else:
            spec = expand.run_once_spec(resolver, service, {"container": check["container"]}, runtime.facts())
            accepted = " ".join(str(number) for number in check["accept"])
            # The program's own exit status is the answer; whether it could be run at all is the container's.
            wrapper = (
                'sudo -E kolla_set_configs; "$@" && status=0 || status=$?; echo "exit status $status"; '
                f"for good in {accepted}; do [ $status = $good ] && exit 0; done; exit 1"
            )
            spec["command"] = ["sh", "-c", wrapper, "check", *command]
            ran = __salt__["kolla_container.run"](f"{service}_check", timeout=CHECK_TIMEOUT, looks=True, **spec)
            output = ran["output"]
            status = check["accept"][0]
    except (CommandExecutionError, ContextError) as error:
        status, output = -1, str(error)
    if status in check["accept"]:
        return []
    last, mend = " / ".join(line.strip() for line in output.strip().splitlines()[-6:]), check["mend"]
    if status == TIMED_OUT:
        last = f"nothing within {CHECK_TIMEOUT} s, so it was ended" + (f"; {last}" if last else "")
        mend = "kolla-salt verify names what it may have waited for, such as its database"
    return [
        prechecks.Finding(
            host, shown, "error", f"`{' '.join(command)}` says: {last or f'exit status {status}'}",
            f"exit status {' or '.join(map(str, check['accept']))}", mend,
        )
    ]  # fmt: skip


def verify(service: str, release: str | None = None, timeout: float = PATIENCE) -> list[str]:
    """Return what is not well with this host's containers of ``service`` within ``timeout`` seconds, as sentences.

    Their health checks are run at once instead of waiting for the engine to do it.

    :param service: its name.
    :param release: that the containers have to be of.
    :param timeout: seconds.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_release.verify glance 2026.1
    """
    resolver = _resolver()
    names = [name for name, on in resolver.containers(service).items() if on]
    deadline = time.monotonic() + timeout
    wrong: dict[str, str] = {}
    while True:
        wrong = {name: why for name in (wrong or names) if (why := _unwell(name))}
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(2)
    found = [f"{name} {why}" for name, why in wrong.items()]
    if release:
        running = __salt__["kolla_container.versions"]()["containers"]
        for name in names:
            item = running.get(name)
            now = releases.release_of(item["version"], item["image"]) if item else None
            if now and now != release:
                found.append(f"{name} runs release {now}, expected {release}")
    return found


def _unwell(name: str) -> str:
    """Return what is wrong with a container now, or an empty string."""
    try:
        found = __salt__["kolla_container.inspect"](name)
        if found is None or found["state"] != "running":
            return f"is {found['state'] if found else 'absent'}, expected running"
        test = (found.get("healthcheck") or {}).get("test") or ["NONE"]
        if test[0] == "NONE":
            return ""
        command = ["/bin/sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]
        done = __salt__["kolla_container.exec"](name, command, check=False, timeout=30)
    except CommandExecutionError as error:
        return f"could not be asked: {error}"
    said = done["output"].strip().splitlines()
    return f"fails its health check: {said[-1][:200] if said else 'no output'}" if done["exit_status"] else ""


def endpoints(services: list[str]) -> list[str]:
    """Return which entries of ``services`` do not answer through the VIP, as sentences; asked from this host.

    :param services: their names.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_release.endpoints '[glance]'
    """
    owner = {entry["entry"]: entry["service"] for entry in _resolver().catalogue["load_balancer"]}
    deadline = time.monotonic() + 30
    while True:
        bad = [
            item
            for item in __salt__["kolla_check.endpoints"]()
            if owner.get(item["entry"]) in services and not item["ok"]
        ]
        if not bad or time.monotonic() > deadline:
            return [f"{item['entry']} at {item['url']} does not answer: {item['said']}" for item in bad]
        time.sleep(1)
