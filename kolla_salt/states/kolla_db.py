"""Keep the services' schemas and accounts in the database as declared."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_db"

#: Seconds to wait for a server that was just started.
TIMEOUT = 120


def __virtual__() -> str:
    return __virtualname__


def database_present(
    name: str,
    database: str,
    user: str,
    password_secret: str,
    host: str = "%",
    charset: str = "utf8mb3",
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Ensure that a schema exists and that its account can log in and has all privileges on it.

    :param name: the state's ID
    :param database: name of the schema
    :param user: name of the account
    :param password_secret: name of its password in the site's passwords
    :param host: hosts the account may come from
    :param charset: character set, if the schema has to be created
    :param timeout: seconds to wait for the server; a prediction does not wait
    """
    spec = {"password_secret": password_secret, "host": host, "charset": charset}
    spec["timeout"] = 0 if __opts__["test"] else timeout
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_db.diff"](database, user, **spec),
        apply=lambda: __salt__["kolla_db.create"](database, user, **spec) and None,
    )


def user_present(
    name: str,
    grants: dict[str, str],
    user: str | None = None,
    password_secret: str | None = None,
    host: str = "%",
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Ensure that an account exists, can log in and has privileges.

    :param name: the account, or the state's ID if ``user`` is given
    :param grants: scope -> privileges, e.g. ``{"*.*": "REPLICATION CLIENT"}``
    :param user: the account
    :param password_secret: name of its password in the site's passwords; None: it has no password
    :param host: hosts the account may come from
    :param timeout: seconds to wait for the server; a prediction does not wait
    """
    spec = {"password_secret": password_secret, "host": host, "timeout": 0 if __opts__["test"] else timeout}
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_db.user_diff"](user or name, grants, **spec),
        apply=lambda: __salt__["kolla_db.set_user"](user or name, grants, **spec) and None,
    )
