"""This host's member of the database's cluster."""

from __future__ import annotations

import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import database, expand, galera, paths, runtime
from kolla_salt.context import ContextError, Resolver

__virtualname__ = "kolla_mariadb"

Changes = dict[str, dict[str, Any]]

CONTAINER = "mariadb"
#: Exists while the database is made: what it leaves behind when it is cut off must not be taken for a database.
UNFINISHED = paths.STATE_DIR / "mariadb-bootstrap-unfinished"
CONNECT_TIMEOUT = 1.5
#: A new member receives all data before it answers.
JOIN_TIMEOUT = 1800
#: Account with which the load balancer looks at a member; its name stands in the check of salt/mariadb/service.yaml.
BALANCER_USER = "haproxy"


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _data_dir() -> Path | None:
    """Return the host's directory with the data, or None if there is none (or no engine that would know)."""
    volume = str(_resolver().value("mariadb_datadir_volume"))
    if volume.startswith("/"):
        return Path(volume)
    try:
        path = __salt__["kolla_container.volume_path"](volume)
    except CommandExecutionError:
        return None
    return Path(path) if path else None


def _running() -> bool:
    try:
        return __salt__["kolla_container.state"](CONTAINER) == "running"
    except CommandExecutionError:
        # No engine yet; whoever starts containers says what is wrong with it.
        return False


def lookup() -> dict[str, Any]:
    """Return what is known of this member without asking its server.

    :returns: ``host``; ``data``: it has a database; ``running``; ``one_shot``: it starts as the first of a new cluster;
        ``uuid``, ``seqno`` and ``safe_to_bootstrap`` as Galera wrote them at its last stop.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.lookup
    """
    directory = _data_dir()
    found: dict[str, Any] = {"host": __opts__["id"], "data": False, "running": _running(), "one_shot": False}
    found |= galera.parse_state("")
    if directory is not None:
        found["data"] = (directory / "mysql").is_dir() and not UNFINISHED.exists()
        found["one_shot"] = (directory / galera.ONE_SHOT).exists()
        if (directory / "grastate.dat").exists():
            found |= galera.parse_state((directory / "grastate.dat").read_text())
    return found


def announce() -> bool:
    """Tell the master what this member has, so that the others know it even when this host is gone.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.announce
    """
    if __opts__["id"] not in _resolver().hosts("mariadb"):
        return False
    return bool(__salt__["mine.send"]("kolla_mariadb.lookup"))


def _others() -> list[str]:
    return [host for host in _resolver().hosts("mariadb") if host != __opts__["id"]]


def _answers(address: str, ports: list[int]) -> bool:
    """Whether a member listens there. Runs in a thread, where Salt's dunders are not at hand."""
    for port in ports:
        try:
            with closing(socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)):
                return True
        except OSError:
            continue
    return False


def _decision() -> str:
    resolver = _resolver()
    own, others = lookup(), _others()
    answering: list[str] = []
    known: dict[str, Any] = {}
    primary = resolver.is_primary("mariadb")
    if others and not own["running"] and (own["data"] or primary):
        ports = [int(resolver.value(option)) for option in ("mariadb_port", "mariadb_wsrep_port")]
        addresses = [resolver.address("api", host) for host in others]
        with ThreadPoolExecutor(len(others)) as pool:
            found = pool.map(lambda address: _answers(address, ports), addresses)
            answering = [host for host, up in zip(others, found, strict=True) if up]
        if not own["data"] and not answering:
            known = __salt__["mine.get"](",".join(others), "kolla_mariadb.lookup", tgt_type="list") or {}
    try:
        return galera.decide(own, others, answering, known, primary)
    except galera.GaleraError as exc:
        raise CommandExecutionError(str(exc)) from exc


def preparation_diff() -> Changes:
    """Return what has to be done before this member's server is started; ``{}`` if nothing.

    :raises CommandExecutionError: there is a cluster that this member must not start.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.preparation_diff
    """
    try:
        return galera.describe(_decision())
    except ContextError as exc:
        raise CommandExecutionError(str(exc)) from exc


def prepare() -> str:
    """Make a new database on the first member of a new cluster, or let the last member start a stopped one.

    :returns: what was done.
    :raises CommandExecutionError: there is a cluster that this member must not start, or making the database failed.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.prepare
    """
    action = _decision()
    if action == galera.RUN:
        return ""
    if action == galera.BOOTSTRAP:
        _bootstrap()
    directory = _data_dir()
    if _others() and directory is not None:
        path = directory / galera.ONE_SHOT
        path.write_text(galera.ONE_SHOT_TEXT)
        owner = (directory / "mysql").stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    return "a new database was made" if action == galera.BOOTSTRAP else "the cluster starts from this member's data"


def _bootstrap() -> None:
    resolver = _resolver()
    try:
        spec = expand.container_spec(resolver, "mariadb", CONTAINER, {"paths": ["/etc/localtime"]})
        seconds = int(resolver.value("database_max_timeout"))
    except ContextError as exc:
        raise CommandExecutionError(str(exc)) from exc
    directory = _data_dir()
    if UNFINISHED.exists() and directory is not None and directory.is_dir():
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    UNFINISHED.parent.mkdir(parents=True, exist_ok=True)
    UNFINISHED.touch()
    environment = {
        **spec["environment"], "KOLLA_BOOTSTRAP": "", "DB_MAX_TIMEOUT": str(seconds),
        "DB_ROOT_PASSWORD": {"secret": "database_password"},
    }  # fmt: skip
    kept = {key: spec[key] for key in ("image", "volumes", "dimensions", "network_mode") if key in spec}
    # The script in the image waits that long twice, for the server and for its answers.
    __salt__["kolla_container.run"]("bootstrap_mariadb", timeout=2 * seconds + 60, environment=environment, **kept)
    directory = _data_dir()
    if directory is None or not (directory / "mysql").is_dir():
        raise CommandExecutionError(
            f"making the database in {directory} with container bootstrap_mariadb: it succeeded, but there is no "
            "database; see /var/log/kolla/mariadb/mariadb-bootstrap.log in the volume kolla_logs"
        )
    UNFINISHED.unlink()


def _server() -> database.Database:
    """Return this member's own server, not the one behind the load balancer."""
    resolver = _resolver()
    return database.Database(
        resolver.address(),
        int(resolver.value("mariadb_port")),
        str(resolver.value("database_user")),
        str(resolver.names("mariadb")["secret"]("database_password")),
    )


def _state(server: database.Database) -> str:
    try:
        rows = server.query("SHOW GLOBAL STATUS LIKE 'wsrep_local_state_comment'")
    except database.Unreachable as exc:
        return f"no answer: {exc}"
    return str(rows[0][1]) if rows else "without Galera"


def status() -> str:
    """Return the state of this member's server in Galera's words, e.g. ``Synced``, or why it does not answer.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.status
    """
    try:
        return _state(_server())
    except database.DatabaseError as exc:
        raise CommandExecutionError(str(exc)) from exc


def _balancers() -> list[str]:
    resolver = _resolver()
    if not resolver.enabled("loadbalancer"):
        return []
    return [resolver.address("api", host) for host in resolver.hosts("loadbalancer")]


def _account_changes(server: database.Database) -> dict[str, Changes]:
    """Return what differs in the accounts of health checks: ``user@host`` -> changes."""
    resolver = _resolver()
    monitor = str(resolver.value("mariadb_monitor_user"))
    password = str(resolver.names("mariadb")["secret"]("mariadb_monitor_password"))
    found = {f"{monitor}@%": server.user_diff(monitor, "%", password, {"*.*": "REPLICATION CLIENT"})}
    for address in _balancers():
        if not server.has_user(BALANCER_USER, address):
            found[f"{BALANCER_USER}@{address}"] = {"user": {"old": None, "new": "without password and rights"}}
    return {account: changes for account, changes in found.items() if changes}


def membership_diff() -> Changes:
    """Return what is missing until this member's server is in the cluster and can be watched.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.membership_diff
    """
    try:
        server = _server()
        state = _state(server) if _running() else "not running"
        # A donor serves queries as well while it gives its data to another member.
        if not state.startswith(("Synced", "Donor")):
            return {"state": {"old": state, "new": "Synced"}}
        found: Changes = {}
        if lookup()["one_shot"]:
            found["start"] = {"old": "as the first of a new cluster", "new": "as a member"}
        if _resolver().is_primary("mariadb"):
            for account, changes in _account_changes(server).items():
                found |= {f"account {account}, {field}": value for field, value in changes.items()}
        return found
    except (ContextError, database.DatabaseError) as exc:
        raise CommandExecutionError(str(exc)) from exc


def join(timeout: float = JOIN_TIMEOUT) -> str:
    """Wait until this member's server is in the cluster, then set up the accounts of health checks (first member).

    :param timeout: seconds; a new member receives all data first.
    :returns: what was done.
    :raises CommandExecutionError: the server did not become a member in time.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.join timeout=600
    """
    resolver = _resolver()
    try:
        server = _server()
        _await_member(server, timeout)
        directory = _data_dir()
        if directory is not None:
            (directory / galera.ONE_SHOT).unlink(missing_ok=True)
        if resolver.is_primary("mariadb"):
            monitor = str(resolver.value("mariadb_monitor_user"))
            password = str(resolver.names("mariadb")["secret"]("mariadb_monitor_password"))
            for account, changes in _account_changes(server).items():
                user, _, host = account.partition("@")
                if user == monitor:
                    server.set_user(user, host, password, {"*.*": "REPLICATION CLIENT"}, changes)
                else:
                    server.set_user(user, host, None, {}, changes)
    except (ContextError, database.DatabaseError) as exc:
        raise CommandExecutionError(str(exc)) from exc
    announce()
    return f"{__opts__['id']} is in the cluster"


def _await_member(server: database.Database, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        state = _state(server)
        if state.startswith(("Synced", "Donor")):
            return
        if not _running():
            raise CommandExecutionError(
                f"the database server {server.where} ended before it was in the cluster (last state: {state}); see "
                "`kolla_container.logs mariadb` and mariadb/mariadb.log in the volume kolla_logs"
            )
        if time.monotonic() > deadline:
            raise CommandExecutionError(
                f"the database server {server.where} is not in the cluster after {timeout:g} s: its state is "
                f"{state!r}, expected 'Synced'; if no member is, `kolla-salt mariadb-recovery` starts the cluster"
            )
        time.sleep(0.3)
