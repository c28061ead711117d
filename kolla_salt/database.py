"""Schemas and accounts of a MariaDB server: what differs from the declared, and setting it right.

No Salt here; PyMySQL is imported when the first connection is made, because it costs a tenth of a second.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kolla_salt import knock
from kolla_salt.masking import mask

Changes = dict[str, dict[str, Any]]

# Client: refused, gone, lost. Server: too many connections, shutting down, not (yet) part of its Galera cluster.
_NOT_UP_YET = {2002, 2003, 2006, 2013, 1040, 1053, 1047, 1927}
_LOST = {2006, 2013, 1927}
_ACCESS_DENIED = 1045
_NO_TLS = 2026
_NO_ACCESS_TO_SCHEMA = 1044

CONNECT_TIMEOUT = 5
QUERY_TIMEOUT = 60
RETRY_INTERVAL = 1.0

# MariaDB 10.5 renamed some privileges and understands the former names.
_RENAMED = {"REPLICATION CLIENT": "BINLOG MONITOR"}
_GRANT = re.compile(r"^GRANT (?P<privileges>.+?) ON (?P<scope>\S+) TO ")
_PRIVILEGES = re.compile(r"[A-Z]+( [A-Z]+)*(, *[A-Z]+( [A-Z]+)*)*")


class DatabaseError(Exception):
    """The server refused something; the message holds no secret."""


class Unreachable(DatabaseError):
    """No server answers (yet)."""


class Database:
    """A MariaDB server and the account that administers it; connects when first asked.

    address, port
        where clients reach it
    user, password
        account that may create schemas and accounts
    ca_file
        authorities to check the server's certificate with; without one, no TLS
    """

    def __init__(self, address: str, port: int, user: str, password: str, ca_file: str | None = None) -> None:
        self.address, self.port, self.user = address, int(port), user
        self._password, self._ca_file = password, ca_file
        self._connection: Any = None

    @property
    def where(self) -> str:
        """The server's address, for messages."""
        return f"{self.address}:{self.port}"

    def wait(self, timeout: float) -> None:
        """Connect, and try again for ``timeout`` seconds as long as nobody answers.

        Raises ``Unreachable`` after that time and ``DatabaseError`` at once when the account is refused.
        """
        if timeout <= 0 and self._connection is None and (why := knock.silent(self.address, self.port)):
            raise Unreachable(f"the database server {self.where} does not answer ({why})")
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.query("SELECT 1")
                return
            except Unreachable as err:
                if time.monotonic() + RETRY_INTERVAL > deadline:
                    if timeout <= 0:
                        raise
                    raise Unreachable(f"{err}; gave up after {timeout:g} seconds") from err
            time.sleep(RETRY_INTERVAL)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with ``%s`` for ``values`` and return its rows; connects again if the server was away."""
        import pymysql

        for attempt in (1, 2):
            reused = self._connection is not None
            try:
                with self._explained(sql, values):
                    if self._connection is None:
                        self._connection = self._connect_as_administrator()
                    with self._connection.cursor() as cursor:
                        cursor.execute(sql, tuple(values) or None)
                        return list(cursor.fetchall())
            except Unreachable as err:
                self.close()
                cause = err.__cause__
                lost = isinstance(cause, pymysql.MySQLError) and cause.args[0] in _LOST
                if not (attempt == 1 and reused and lost):
                    raise
        raise AssertionError("not reached")

    def close(self) -> None:
        """Close the connection; the next query opens another one."""
        if self._connection is not None and self._connection.open:
            self._connection.close()
        self._connection = None

    def accepts(self, user: str, password: str) -> bool:
        """Log in as ``user`` and say whether the server takes the password, which is not sent in clear."""
        import pymysql

        try:
            with self._explained(f"logging in as {user}", ()):
                self._connect(user, password).close()
        except DatabaseError as err:
            cause = err.__cause__
            code = cause.args[0] if isinstance(cause, pymysql.MySQLError) else None
            if code == _NO_ACCESS_TO_SCHEMA:
                return True
            if code == _ACCESS_DENIED:
                return False
            raise
        return True

    def schema_charset(self, name: str) -> str | None:
        """Return the character set of a schema, or None if there is no such schema."""
        rows = self.query(
            "SELECT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (name,)
        )
        return str(rows[0][0]) if rows else None

    def has_user(self, user: str, host: str) -> bool:
        """Say whether the account ``user``@``host`` exists."""
        return bool(self.query("SELECT 1 FROM mysql.user WHERE User = %s AND Host = %s", (user, host)))

    def grants(self, user: str, host: str) -> dict[str, set[str]]:
        """Return the privileges of an account by scope (``*.*``, ``glance.*``)."""
        found: dict[str, set[str]] = {}
        for (line,) in self.query("SHOW GRANTS FOR %s@%s", (user, host)):
            match = _GRANT.match(str(line))
            if match and match["privileges"] != "USAGE":
                scope = match["scope"].replace("`", "").replace("\\", "")
                found.setdefault(scope, set()).update(_privileges(match["privileges"]))
        return found

    def schema_diff(self, name: str, charset: str) -> Changes:
        """Say whether a schema has to be created. An existing one keeps its character set."""
        if self.schema_charset(name) is not None:
            return {}
        return {"schema": {"old": None, "new": f"{name} ({charset})"}}

    def user_diff(self, user: str, host: str, password: str | None, wanted: Mapping[str, str]) -> Changes:
        """Compare an account with what it should be.

        password
            None: the account has no password
        wanted
            scope -> privileges, e.g. ``{"glance.*": "ALL PRIVILEGES"}``; it may have more

        Returns some of ``user``, ``password`` (that it differs, never what it is), ``privileges``.
        """
        account = f"{user}@{host}"
        new = _describe(wanted)
        if not self.has_user(user, host):
            return {"user": {"old": None, "new": account}, "privileges": {"old": None, "new": new}}
        changes: Changes = {}
        if not self.accepts(user, password or ""):
            changes["password"] = {"old": "another one", "new": "as in the site's passwords"}
        present = self.grants(user, host)
        if any(not _covers(present, scope, text) for scope, text in wanted.items()):
            old = _describe({scope: ", ".join(sorted(names)) for scope, names in present.items()})
            changes["privileges"] = {"old": old or None, "new": new}
        return changes

    def create_schema(self, name: str, charset: str) -> None:
        """Create a schema."""
        if not re.fullmatch(r"[a-z0-9_]+", charset):
            raise DatabaseError(f"creating the schema {name}: {charset!r} is no character set")
        self.query(f"CREATE DATABASE IF NOT EXISTS {quote(name)} CHARACTER SET {charset}")

    def set_user(self, user: str, host: str, password: str | None, wanted: Mapping[str, str], diff: Changes) -> None:
        """Set right what :meth:`user_diff` found."""
        if "user" in diff:
            self.query("CREATE USER IF NOT EXISTS %s@%s IDENTIFIED BY %s", (user, host, password or ""))
        if "password" in diff:
            self.query("ALTER USER %s@%s IDENTIFIED BY %s", (user, host, password or ""))
        if "privileges" in diff:
            for scope, text in wanted.items():
                if not _PRIVILEGES.fullmatch(text):
                    raise DatabaseError(f"granting to {user}@{host}: {text!r} is no list of privileges")
                self.query(f"GRANT {text} ON {_quote_scope(scope)} TO %s@%s", (user, host))

    def _connect(self, user: str, password: str, tls: Any = None) -> Any:
        import pymysql

        if self._ca_file:
            encryption: dict[str, Any] = {"ssl": {"ca": self._ca_file}}
        else:
            # PyMySQL would read all the system's authorities for each connection, a tenth of a second, to check
            # nothing with them.
            encryption = {"ssl": tls} if tls else {"ssl_disabled": True}
        return pymysql.connect(
            host=self.address,
            port=self.port,
            user=user,
            password=password,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=QUERY_TIMEOUT,
            write_timeout=QUERY_TIMEOUT,
            autocommit=True,
            charset="utf8mb4",
            **encryption,
        )

    def _connect_as_administrator(self) -> Any:
        """Connect with TLS where the server offers it: statements that set a password hold it in clear."""
        import ssl

        import pymysql

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        try:
            return self._connect(self.user, self._password, tls)
        except pymysql.OperationalError as err:
            if err.args[0] != _NO_TLS:
                raise
        return self._connect(self.user, self._password)

    @contextmanager
    def _explained(self, tried: str, values: Sequence[Any]) -> Iterator[None]:
        """Turn the driver's errors into ours, without the secrets that a server may quote back."""
        import pymysql

        try:
            yield
        except pymysql.MySQLError as err:
            code = err.args[0] if err.args else 0
            text = err.args[1] if len(err.args) > 1 else str(err)
            secrets = [value for value in (self._password, *map(str, values)) if value and len(value) > 3]
            said = mask(f"{code}: {text}", secrets)
            if code in _NOT_UP_YET:
                raise Unreachable(f"the database server {self.where} does not answer ({said})") from err
            if code == _ACCESS_DENIED and not tried.startswith("logging in"):
                raise DatabaseError(
                    f"the database server {self.where} refuses the account {self.user}: its password is not "
                    f"`database_password` of the site's passwords ({said})"
                ) from err
            raise DatabaseError(f"the database server {self.where} refused {tried!r} ({said})") from err


def quote(name: str) -> str:
    """Quote an identifier."""
    if not name or "\0" in name:
        raise DatabaseError(f"{name!r} is no name of a schema")
    return "`" + name.replace("`", "``") + "`"


def _quote_scope(scope: str) -> str:
    schema, _, table = scope.partition(".")
    if table != "*":
        raise DatabaseError(f"{scope!r}: expected the scope of privileges as *.* or SCHEMA.*")
    # In a grant, _ and % of a schema's name are wildcards.
    return "*.*" if schema == "*" else quote(schema.replace("_", r"\_").replace("%", r"\%")) + ".*"


def _privileges(text: str) -> set[str]:
    names = {re.sub(r"\s*\(.*", "", part).strip().upper() for part in text.split(",")}
    if names & {"ALL", "ALL PRIVILEGES"}:
        return {"ALL PRIVILEGES"}
    return {_RENAMED.get(name, name) for name in names}


def _covers(present: Mapping[str, set[str]], scope: str, wanted: str) -> bool:
    found = present.get(scope, set()) | present.get("*.*", set())
    return "ALL PRIVILEGES" in found or _privileges(wanted) <= found


def _describe(wanted: Mapping[str, str]) -> str:
    return "; ".join(f"{text} on {scope}" for scope, text in sorted(wanted.items()))
