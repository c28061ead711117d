"""What the services register in Keystone: users, roles, services and endpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import converge, identity, paths, runtime
from kolla_salt.context import ContextError, Resolver
from kolla_salt.declarations import nearest

__virtualname__ = "kolla_keystone"

#: Seconds to wait for a Keystone that was just started and a load balancer that has yet to notice.
TIMEOUT = 120
STAMPS = paths.STATE_DIR / "keystone"

Changes = dict[str, dict[str, Any]]

_KEY = "kolla_salt.keystone"


def __virtual__() -> str:
    return __virtualname__


@contextmanager
def _errors(tried: str) -> Iterator[None]:
    try:
        yield
    except (ContextError, identity.IdentityError) as err:
        raise CommandExecutionError(f"{tried}: {err}") from err


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _option(name: str, default: str) -> str:
    resolver = _resolver()
    return str(resolver.value(name)) if name in resolver.settings else default


def _keystone() -> identity.Keystone:
    """Return the cloud's Keystone; token and lists are fetched once per job."""
    cached = __context__.get(_KEY)
    # States with `parallel: True` are forked; two processes must not talk over one connection.
    if cached is None or cached["pid"] != os.getpid():
        keystone = identity.Keystone(
            _resolver().endpoint("keystone", "internal"),
            _option("keystone_admin_user", "admin"),
            str(_resolver().names()["secret"]("keystone_admin_password")),
            _option("keystone_admin_project", "admin"),
            STAMPS,
        )
        cached = __context__[_KEY] = {"pid": os.getpid(), "keystone": keystone, "silent": None}
    return cached["keystone"]


def _registration(service: str, accounts: bool = True) -> identity.Registration:
    resolver = _resolver()
    if service not in resolver.declarations:
        hint = nearest(service, resolver.declarations)
        raise CommandExecutionError(f"registering service '{service}': no such declaration{hint}")
    if not resolver.declarations[service]["keystone"]:
        return identity.Registration()
    return identity.registration(resolver, service, accounts)


def _silent() -> str | None:
    """Return why Keystone does not answer, or None; asked once per job, so that a prediction waits only once."""
    keystone = _keystone()
    if __context__[_KEY]["silent"] is None:
        try:
            keystone.wait(0)
        except identity.Unreachable as err:
            __context__[_KEY]["silent"] = str(err)
    return __context__[_KEY]["silent"]


def _predicted(wanted: identity.Registration, reason: str) -> Changes:
    """Return what would be registered in a Keystone that nobody has seen yet."""
    old = f"{converge.UNKNOWN}{reason}"
    changes: Changes = {f"role {role}": {"old": old, "new": role} for role in wanted.roles}
    for account in wanted.accounts:
        if account.domain:
            changes[account.where] = {"old": old, "new": account.domain}
        changes[f"user {account.name}"] = {"old": old, "new": account.name}
        changes[f"roles of {account.name} in {account.where}"] = {"old": old, "new": sorted(account.roles)}
    for service in wanted.services:
        changes[f"service {service.type}"] = {"old": old, "new": service.name}
        for region in wanted.regions:
            for interface, url in service.endpoints.items():
                changes[f"endpoint {service.type} {interface} {region}"] = {"old": old, "new": url}
    return changes


def diff(service: str, timeout: float = 0, remember: bool = False) -> Changes:
    """Compare what a service has registered in Keystone with what it declares.

    :param service: name of the service
    :param timeout: seconds to wait for Keystone. With 0, a Keystone that does not answer yet is no error: the result
        says what will be registered
    :param remember: note on this host, as a keyed hash, which passwords Keystone accepted: they are not asked for
        again for a day
    :returns: ``{}`` or ``{what: {old, new}}``, e.g. ``user glance``, ``endpoint image public RegionOne``
    :raises CommandExecutionError: Keystone refuses the administrator or a request, or did not answer in time

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.diff glance
    """
    with _errors(f"comparing what {service} has registered"):
        wanted = _registration(service)
        if timeout <= 0:
            reason = _silent()
            if reason:
                return _predicted(wanted, reason)
        keystone = _keystone()
        keystone.timeout = timeout
        return keystone.diff(wanted, remember)


def register(service: str, timeout: float = TIMEOUT) -> Changes:
    """Register a service in Keystone, or set right what differs.

    Users, roles, the project, services and endpoints are created and updated. Only endpoints that exist twice are
    removed.

    :param service: name of the service
    :param timeout: seconds to wait for Keystone
    :returns: what was changed, as :func:`diff` has it
    :raises CommandExecutionError: Keystone refuses a request: the message has method, URL, status and its answer

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.register glance
    """
    with _errors(f"registering {service}"):
        wanted = _registration(service)
        keystone = _keystone()
        keystone.timeout = timeout
        return keystone.register(wanted)


def strangers() -> list[dict[str, str]]:
    """Return services and endpoints of the catalogue that no enabled service declares: ``kind``, ``name``, ``found``.

    :raises CommandExecutionError: Keystone does not answer, or refuses the administrator

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.strangers
    """
    with _errors("looking for what nobody declares"):
        registrations = [_registration(name, accounts=False) for name in _resolver().enabled_services()]
        keystone = _keystone()
        services, endpoints = keystone.get("/services")["services"], keystone.get("/endpoints")["endpoints"]
        return identity.strangers(registrations, services, endpoints)


def check_passwords(service: str | None = None) -> dict[str, bool]:
    """Ask Keystone whether the services' users have the passwords that the site declares, without any memory.

    :param service: only this one's; default: every enabled service
    :returns: user -> whether it can log in

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.check_passwords
    """
    resolver = _resolver()
    result: dict[str, bool] = {}
    with _errors("checking the services' passwords"):
        for name in [service] if service else resolver.enabled_services():
            for account in _registration(name).accounts:
                result[account.name] = _keystone().check_password(account)
    return result


def wait(timeout: float = TIMEOUT) -> str:
    """Wait until the administrator can log in to Keystone.

    :param timeout: seconds
    :returns: Keystone's URL
    :raises CommandExecutionError: it does not answer in time, or refuses the administrator

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.wait timeout=60
    """
    with _errors("waiting for Keystone"):
        _keystone().wait(timeout)
        return _keystone().url


def get(path: str) -> dict[str, Any]:
    """Return what Keystone's API has at a path, as the administrator sees it.

    :param path: below ``/v3``, e.g. ``/services``

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.get /endpoints
    """
    with _errors(f"reading {path}"):
        return _keystone().get(path)


def create_role(name: str) -> str:
    """Create a role unless it exists.

    :returns: its ID

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_keystone.create_role load-balancer_member
    """
    with _errors(f"creating the role {name}"):
        keystone = _keystone()
        found = [role["id"] for role in keystone.get("/roles")["roles"] if role["name"] == name]
        return found[0] if found else keystone.create_role(name)
