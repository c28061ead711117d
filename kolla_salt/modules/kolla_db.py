"""Schemas and accounts in the cloud's database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import database, runtime
from kolla_salt.context import ContextError, Resolver

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
    except (ContextError, database.DatabaseError) as err:
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
    return None if known is None else f"unknown: {known}"


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
