"""Schemas and accounts in the cloud's database."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import converge, database, expand, runtime, snapshots
from kolla_salt.context import ContextError, Resolver
from kolla_salt.declarations import write_atomically

__virtualname__ = "kolla_db"

#: Seconds to wait for a server that was just started and a load balancer that has yet to notice.
TIMEOUT = 120
#: What upstream's services are tested with; some have indexes that are too long for four bytes a character.
CHARSET = "utf8mb3"

Changes = dict[str, dict[str, Any]]


def __virtual__() -> str:
    return __virtualname__


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ContextError, database.DatabaseError, snapshots.SnapshotError) as err:
        raise CommandExecutionError(str(err)) from err


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _secret(name: str) -> str:
    return str(_resolver().names()["secret"](name))


def _server() -> database.Database:
    """Return the database server of the cloud, with one connection per job."""
    key = "kolla_salt.database"
    cached = __context__.get(key)
    # States with `parallel: True` are forked; two processes must not talk over one connection.
    if cached is None or cached[0] != os.getpid():
        resolver = _resolver()
        server = database.Database(
            str(resolver.value("database_address")),
            int(resolver.value("database_port")),
            str(resolver.value("database_user")) if "database_user" in resolver.settings else "root",
            _secret("database_password"),
        )
        cached = __context__[key] = (os.getpid(), server, None)
    return cached[1]


def _unreachable(err: database.Unreachable | None = None) -> database.Unreachable | None:
    """Remember for the rest of the job that nobody answers, so that a prediction waits only once."""
    cached = __context__["kolla_salt.database"]
    if err is not None:
        __context__["kolla_salt.database"] = (cached[0], cached[1], err)
    return __context__["kolla_salt.database"][2]


def _answers(timeout: float) -> str | None:
    """Wait for the server; with ``timeout`` 0 return why it does not answer instead of failing."""
    server = _server()
    if timeout > 0:
        server.wait(timeout)
        return None
    known = _unreachable()
    if known is None:
        try:
            server.wait(0)
        except database.Unreachable as err:
            known = _unreachable(err)
    return None if known is None else f"{converge.UNKNOWN}{known}"


def wait(timeout: float = TIMEOUT) -> str:
    """Wait until the database server answers a query.

    :param timeout: seconds
    :returns: the server's version
    :raises CommandExecutionError: it does not answer in time, or refuses the account

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.wait timeout=60
    """
    with _errors():
        _server().wait(timeout)
        return str(_server().query("SELECT VERSION()")[0][0])


def databases() -> list[str]:
    """List the schemas on the server, without its own.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.databases
    """
    own = {"information_schema", "mysql", "performance_schema", "sys"}
    with _errors():
        return sorted({str(row[0]) for row in _server().query("SHOW DATABASES")} - own)


def strangers() -> list[dict[str, str]]:
    """Return the schemas on the server that no enabled service declares: ``kind``, ``name``, ``found``.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.strangers
    """
    resolver = _resolver()
    declared = {db["name"] for name in resolver.enabled_services() for db in resolver.declarations[name]["database"]}
    return [
        {"kind": "databases", "name": f"schema {name}", "found": "exists"}
        for name in databases()
        if name not in declared
    ]


def status(pattern: str = "wsrep_%") -> dict[str, str]:
    """Return status variables of the server.

    :param pattern: SQL pattern of their names

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.status
    """
    with _errors():
        return {str(name): str(value) for name, value in _server().query("SHOW GLOBAL STATUS LIKE %s", (pattern,))}


def diff(
    database: str,
    user: str,
    password_secret: str,
    host: str = "%",
    charset: str = CHARSET,
    timeout: float = 0,
) -> Changes:
    """Compare a service's schema and its account with what they should be.

    :param database: name of the schema
    :param user: name of the account
    :param password_secret: name of its password in the site's passwords
    :param host: hosts the account may come from
    :param charset: character set, if the schema has to be created
    :param timeout: seconds to wait for the server. With 0, a server that does not answer yet is no error: the result
        says what will be created
    :returns: ``{}`` or some of ``schema``, ``user``, ``password``, ``privileges``
    :raises CommandExecutionError: the server refuses the account, or did not answer in time

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.diff glance glance glance_database_password
    """
    wanted = {f"{database}.*": "ALL PRIVILEGES"}
    with _errors():
        unknown = _answers(timeout)
        if unknown:
            return {
                "schema": {"old": unknown, "new": f"{database} ({charset})"},
                "user": {"old": unknown, "new": f"{user}@{host}"},
                "privileges": {"old": unknown, "new": f"ALL PRIVILEGES on {database}.*"},
            }
        server = _server()
        return {
            **server.schema_diff(database, charset),
            **server.user_diff(user, host, _secret(password_secret), wanted),
        }


def create(
    database: str,
    user: str,
    password_secret: str,
    host: str = "%",
    charset: str = CHARSET,
    timeout: float = TIMEOUT,
) -> Changes:
    """Create a service's schema and account, or set right what differs. Data are never removed.

    Parameters as for :func:`diff`.

    :returns: what was changed

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.create glance glance glance_database_password
    """
    changes = diff(database, user, password_secret, host, charset, timeout)
    with _errors():
        server = _server()
        if "schema" in changes:
            server.create_schema(database, charset)
        server.set_user(user, host, _secret(password_secret), {f"{database}.*": "ALL PRIVILEGES"}, changes)
    return changes


def user_diff(
    user: str,
    grants: Mapping[str, str],
    password_secret: str | None = None,
    host: str = "%",
    timeout: float = 0,
) -> Changes:
    """Compare an account that has no schema of its own with what it should be.

    :param grants: scope -> privileges, e.g. ``{"*.*": "PROCESS, REPLICATION CLIENT"}``; the account may have more
    :param password_secret: name of its password in the site's passwords; None: it has no password

    Other parameters and result as for :func:`diff`, without ``schema``.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.user_diff monitor '{"*.*": "REPLICATION CLIENT"}' mariadb_monitor_password
    """
    with _errors():
        unknown = _answers(timeout)
        if unknown:
            new = "; ".join(f"{text} on {scope}" for scope, text in sorted(grants.items()))
            return {
                "user": {"old": unknown, "new": f"{user}@{host}"},
                "privileges": {"old": unknown, "new": new},
            }
        password = _secret(password_secret) if password_secret else None
        return _server().user_diff(user, host, password, grants)


def set_user(
    user: str,
    grants: Mapping[str, str],
    password_secret: str | None = None,
    host: str = "%",
    timeout: float = TIMEOUT,
) -> Changes:
    """Create an account, or set right what differs. Parameters as for :func:`user_diff`.

    :returns: what was changed

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.set_user monitor '{"*.*": "REPLICATION CLIENT"}' mariadb_monitor_password
    """
    changes = user_diff(user, grants, password_secret, host, timeout)
    with _errors():
        password = _secret(password_secret) if password_secret else None
        _server().set_user(user, host, password, grants, changes)
    return changes


# --- snapshots --------------------------------------------------------------------------------------------------------

#: The database's container and service.
SERVER = "mariadb"
#: Seconds that a snapshot, or loading one, may take.
LONGEST = 4 * 3600


def _schemas(service: str) -> list[str]:
    """Return the schemas that a service declares here."""
    resolver = _resolver()
    if service not in resolver.declarations:
        raise CommandExecutionError(f"a snapshot of service {service!r}: no such service is declared")
    names = resolver.names(service)
    found = [db["name"] for db in resolver.declarations[service]["database"] if resolver.test(db["when"], names)]
    if not found:
        raise CommandExecutionError(f"a snapshot of service {service}: it declares no database")
    return found


def _sizes(schemas: list[str]) -> tuple[int, dict[str, int]]:
    """Return the bytes of all schemas, and schema -> number of its tables."""
    places = ", ".join("%s" for _ in schemas)
    rows = _server().query(
        "SELECT table_schema, COUNT(*), COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables "
        f"WHERE table_schema IN ({places}) GROUP BY table_schema",
        schemas,
    )
    return sum(int(row[2]) for row in rows), {str(row[0]): int(row[1]) for row in rows}


def _run_client(name: str, path: Any, command: list[str]) -> dict[str, Any]:
    """Run a command of MariaDB's client programs in a container of the database's image."""
    resolver = _resolver()
    running = __salt__["kolla_container.inspect"](SERVER)
    image = running["image_id"] if running else expand.container_spec(resolver, SERVER, SERVER)["image"]
    own = resolver.enabled(SERVER) and __opts__["id"] in resolver.hosts(SERVER)
    # A member's own address: what is done over the virtual one ends when that moves.
    address = resolver.address() if own else str(resolver.value("database_address"))
    port = int(resolver.value("mariadb_port" if own else "database_port"))
    user = str(resolver.value("database_user")) if "database_user" in resolver.settings else "root"
    return __salt__["kolla_container.run"](
        name, timeout=LONGEST, image=image, user="0", command=command, volumes=[f"{path}:{snapshots.INSIDE}"],
        environment=snapshots.environment(address, port, user, "database_password"),
    )  # fmt: skip


def size() -> int:
    """Return how many bytes all schemas that services declare have in the database.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.size
    """
    with _errors():
        resolver = _resolver()
        schemas = [db["name"] for name in resolver.enabled_services() for db in resolver.declarations[name]["database"]]
        return _sizes(schemas)[0] if schemas else 0


def snapshot(run: str, service: str) -> dict[str, Any]:
    """Write a service's schemas, as they are at one moment, into a file on this host.

    :param run: the run that it belongs to
    :param service: whose schemas
    :returns: ``host``, ``path``, ``taken`` (seconds since the epoch), ``bytes``, ``seconds``, ``schemas``, ``tables``
    :raises CommandExecutionError: too little space, or the database refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.snapshot 20261101-101500-upgrade glance
    """
    with _errors():
        path = snapshots.folder(run, service)
        schemas = _schemas(service)
        needed, tables = _sizes(schemas)
        there = [name for name in schemas if name in databases()]
        if not there:
            raise CommandExecutionError(
                f"taking a snapshot of {service}: its schemas do not exist: {', '.join(schemas)}"
            )
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        snapshots.check_space(__opts__["id"], path, needed, shutil.disk_usage(path).free)
    for old in path.iterdir():
        old.unlink()
    taken = time.time()
    _run_client(f"snapshot_{service}", path, snapshots.dump_command(there))
    file = path / snapshots.FILE
    file.chmod(0o600)
    whole = {
        "run": run,
        "service": service,
        "host": __opts__["id"],
        "path": str(path),
        "taken": round(taken, 3),
        "seconds": round(time.time() - taken, 3),
        "bytes": file.stat().st_size,
        "schemas": there,
        "tables": tables,
    }
    with _errors():
        whole["remembered"] = _remembered(service, there)
    write_atomically(path / snapshots.ABOUT, json.dumps(whole, indent=1).encode())
    return snapshots.in_short(whole)


def _remembered(service: str, schemas: list[str]) -> list[dict[str, Any]]:
    """Return the values that a service declares as to be remembered in a change of release."""
    server, found = _server(), []
    for item in _resolver().declarations[service]["upgrade"]["remembers"]:
        fields = ", ".join(map(database.quote, [item["key"], *item["columns"]]))
        for schema in schemas:
            if server.query(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
                (schema, item["table"]),
            ):
                table = f"{database.quote(schema)}.{database.quote(item['table'])}"
                rows = [list(row) for row in server.query(f"SELECT {fields} FROM {table}")]
                found.append({"schema": schema, **item, "rows": rows})
    return found


def _forgotten(run: str, service: str) -> Iterator[tuple[str, str, tuple[Any, ...], Any]]:
    """Yield column, statement, its values and the present value of what differs from what a snapshot remembers."""
    server = _server()
    for item in snapshots.read(snapshots.folder(run, service)).get("remembered", []):
        table = f"{database.quote(item['schema'])}.{database.quote(item['table'])}"
        key, columns = database.quote(item["key"]), [database.quote(name) for name in item["columns"]]
        now = {row[0]: row[1:] for row in server.query(f"SELECT {key}, {', '.join(columns)} FROM {table}")}
        for row_key, *values in item["rows"]:
            for name, column, value, present in zip(
                item["columns"], columns, values, now.get(row_key, values), strict=True
            ):
                if present != value:
                    where = f"{item['schema']}.{item['table']}.{name}"
                    yield where, f"UPDATE {table} SET {column} = %s WHERE {key} = %s", (value, row_key), present


def recall(run: str, service: str) -> dict[str, dict[str, Any]]:
    """Give a service's databases the values that keep an older release from starting, as they were in a snapshot.

    Nothing else is brought back. Services that were registered since are left alone.

    :param run: the run that the snapshot belongs to
    :param service: whose databases
    :returns: ``schema.table.column`` -> ``old`` and ``new``: the values that were there and are, in order of size
    :raises CommandExecutionError: there is no such snapshot here, or the database refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.recall 20261101-101500-upgrade nova
    """
    changes: dict[str, dict[str, Any]] = {}
    with _errors():
        for column, statement, values, present in list(_forgotten(run, service)):
            _server().query(statement, values)
            change = changes.setdefault(column, {"old": [], "new": []})
            change["old"] = sorted({*change["old"], present})
            change["new"] = sorted({*change["new"], values[0]})
    return changes


def take_over(run: str, service: str, of: str) -> dict[str, Any]:
    """Let the snapshot of an earlier run be that of ``run`` too, which goes on with it.

    :param run: the run that goes on
    :param service: whose schemas
    :param of: the run that took the snapshot
    :returns: as :func:`snapshot`
    :raises CommandExecutionError: there is no such snapshot here

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.take_over 20261101-111500-upgrade glance 20261101-101500-upgrade
    """
    with _errors():
        old, path = snapshots.folder(of, service), snapshots.folder(run, service)
        whole = {**snapshots.read(old), "run": run, "path": str(path)}
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    (path / snapshots.FILE).unlink(missing_ok=True)
    os.link(old / snapshots.FILE, path / snapshots.FILE)
    write_atomically(path / snapshots.ABOUT, json.dumps(whole, indent=1).encode())
    return snapshots.in_short(whole)


def restore(run: str, service: str) -> dict[str, Any]:
    """Drop a service's schemas and make them anew as they were in a snapshot of this host.

    What was written since then is lost. The service's containers should not run meanwhile.

    :param run: the run that the snapshot belongs to
    :param service: whose schemas
    :returns: what :func:`snapshot` returned, with the ``seconds`` that loading it took
    :raises CommandExecutionError: there is no such snapshot here, it is damaged, or the database refused

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_db.restore 20261101-101500-upgrade glance
    """
    with _errors():
        path = snapshots.folder(run, service)
        try:
            about = snapshots.read(path)
        except snapshots.SnapshotError as err:
            raise CommandExecutionError(
                f"restoring the schemas of {service} on {__opts__['id']}: {err}; nothing was changed. "
                f"'kolla-salt runs show {run}' names the host that has the snapshots of the run"
            ) from err
        foreign = set(about["schemas"]) - set(_schemas(service))
        if foreign:
            raise CommandExecutionError(
                f"restoring the schemas of {service}: the snapshot in {path} has {', '.join(sorted(foreign))}, "
                "which the service does not declare; nothing was changed"
            )
    began = time.time()
    _run_client(f"restore_{service}", path, snapshots.load_command())
    with _errors():
        wrong = snapshots.missing_tables(about["tables"], _sizes(about["schemas"])[1])
    if wrong:
        raise CommandExecutionError(f"restoring the schemas of {service} from {path}: " + "; ".join(wrong))
    return {**snapshots.in_short(about), "seconds": round(time.time() - began, 3)}


def forget_snapshots(run: str) -> list[str]:
    """Remove the snapshots of a run from this host; return the services that they were of.

    CLI Example:

    .. code-block:: bash

        salt '*' kolla_db.forget_snapshots 20261101-101500-upgrade
    """
    with _errors():
        path = snapshots.folder(run)
    found = sorted(item.name for item in path.iterdir()) if path.is_dir() else []
    if path.is_dir():
        shutil.rmtree(path)
    return found
