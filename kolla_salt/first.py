"""The first requests to an API that has started anew, before the load balancer gives it users' requests.

A process that answers its health check has not yet logged in to Keystone, read its policies or connected to its
database: it does so at its first real request, which on a busy host takes seconds. That request is ours. The account is
the service's own, whose password its host has anyway.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kolla_salt import clouds, identity
from kolla_salt.context import ContextError, Resolver, url_host

#: Seconds for one request, and for all that is asked of one API.
TIMEOUT, PATIENCE = 5.0, 10.0
#: A round of requests that were all answered within so many seconds is the last one.
QUICK = 0.3
ROUNDS = 4


@dataclass(frozen=True)
class Api:
    """What is asked of the API of this host, and as whom.

    Args:
        url: of the API on this host, with the path that is asked for; ``%(project_id)s`` becomes the account's project.
        keystone: URL to log in at, without ``/v3``.
        user: of the service.
        project: of that user.
        password: of that user.
        at_once: requests at the same time: enough of them reach each of its processes.
    """

    url: str
    keystone: str
    user: str
    project: str
    password: str = field(repr=False)
    at_once: int = 2


def apis(resolver: Resolver, container: str) -> list[Api]:
    """Return what there is to ask of ``container`` on this host.

    Nothing of one that answers no entry with a ``probe`` over HTTP, or where this host holds no account's password.
    """
    found = []
    for entry in resolver.catalogue["load_balancer"]:
        own = next((item for item in entry["members"] if item["host"] == resolver.host), None)
        if entry["container"] != container or entry["mode"] != "http" or not entry["probe"] or own is None:
            continue
        base = f"http://{url_host(own['address'])}:{own['port']}"
        try:
            identity_at = clouds.identity_entry(resolver)
            who = _account(resolver, entry["service"])
        except (ContextError, LookupError):
            continue  # no Keystone, or no password here
        # Keystone itself is asked for the token as well: to make one is what its processes are there for.
        keystone = base if entry["entry"] == identity_at else resolver.endpoint(identity_at, "internal")
        workers = int(resolver.value("openstack_service_workers"))
        found.append(Api(base + str(entry["probe"]), keystone, *who, at_once=2 * workers))
    return found


def _account(resolver: Resolver, service: str) -> tuple[str, str, str]:
    for account in identity.registration(resolver, service).accounts:
        if account.project:
            return account.name, account.project, account.password
    auth = clouds.access(resolver, resolver.passwords, "internal")["auth"]
    return str(auth["username"]), str(auth["project_name"]), auth["password"]


def ask(api: Api) -> list[float]:
    """Send rounds of requests until one of them is answered quickly, or there were enough.

    What is answered does not matter, nor whether: that the API works was found out before, by its health check.

    :returns: seconds of the slowest request of each round
    """
    end, slowest = time.monotonic() + PATIENCE, []
    token, project = _log_in(api)
    headers = {"X-Auth-Token": token} if token else {}
    url = api.url.replace("%(project_id)s", project or "none")
    with ThreadPoolExecutor(max_workers=api.at_once) as pool:
        while len(slowest) < ROUNDS and time.monotonic() < end:
            slowest.append(max(pool.map(lambda _: _timed(url, headers), range(api.at_once))))
            if slowest[-1] < QUICK:
                break
    return slowest


def _timed(url: str, headers: Mapping[str, str]) -> float:
    began = time.monotonic()
    if _exchange("GET", url, headers) is None:
        return TIMEOUT
    return time.monotonic() - began


def _log_in(api: Api) -> tuple[str, str]:
    """Return a token and the project it is for; both are empty if there is none to be had."""
    domain = {"id": identity.DEFAULT_DOMAIN}
    user = {"name": api.user, "domain": domain, "password": api.password}
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": api.project, "domain": domain}},
        }
    }
    said = _exchange(
        "POST", f"{api.keystone}/v3/auth/tokens?nocatalog", {"Content-Type": "application/json"}, json.dumps(body)
    )
    if said is None or said[0] != http.client.CREATED:
        return "", ""
    try:
        return said[1].get("X-Subject-Token") or "", str(json.loads(said[2])["token"]["project"]["id"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _exchange(
    method: str, url: str, headers: Mapping[str, str], body: str | None = None
) -> tuple[int, Any, bytes] | None:
    """Return status, headers and body of the answer; None if there is none in time."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        trusted = ssl.create_default_context(cafile=identity.authorities())
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT, context=trusted
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            method, target, body, {"Connection": "close", "User-Agent": "kolla-salt", "Accept": "*/*", **headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
