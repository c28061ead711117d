"""OpenStack's APIs as the administrator uses them, through the internal VIP: requests in, data out, errors in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Version of the compute API that is asked for: its errors say why (2.84), its services have UUIDs (2.53).
MICROVERSIONS = {"compute": "2.90"}
TIMEOUT = 60
_LONGEST = 400


class CloudError(Exception):
    """An API refused something or did not answer; the text says which, what was asked and what it said."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class Api:
    """Sends requests to the services of one cloud.

    Args:
        session: a ``keystoneauth1.session.Session`` with an account of an administrator.
        interface: whose endpoints are used.
        region: name of the region; None: the only one.
    """

    def __init__(self, session: Any, interface: str = "internal", region: str | None = None) -> None:
        self.session, self.interface, self.region = session, interface, region

    def request(self, method: str, kind: str, path: str, body: Any = None, **query: Any) -> Any:
        """Send one request and return the answer's JSON, None if it has none.

        Args:
            method: of HTTP.
            kind: type of the service in the catalogue.
            path: below the endpoint.
            body: sent as JSON.
            query: parameters; None is left out.

        Raises:
            CloudError: the service refused it, does not answer, or is not in the catalogue.
        """
        from keystoneauth1 import exceptions

        options: dict[str, Any] = {}
        if kind in MICROVERSIONS:
            options = {"microversion": MICROVERSIONS[kind], "microversion_service_type": kind}
        if body is not None:
            options["json"] = body
        if method == "GET":
            # Asking again does no harm; a load balancer answers for a service that is busy.
            options |= {"connect_retries": 2, "status_code_retries": 2, "retriable_status_codes": [502, 503, 504]}
        doing = f"{method} {path} of the {kind} service"
        try:
            answer = self.session.request(
                path,
                method,
                endpoint_filter={"service_type": kind, "interface": self.interface, "region_name": self.region},
                params={key: value for key, value in query.items() if value is not None},
                timeout=TIMEOUT,
                **options,
            )
        except exceptions.HttpError as error:
            said = _words(error.response) or " ".join(str(error.message or error).split())[:_LONGEST]
            raise CloudError(f"{doing}: HTTP {error.http_status}: {said}", error.http_status) from error
        except exceptions.ClientException as error:
            raise CloudError(f"{doing}: {' '.join(str(error).split())[:_LONGEST]}") from error
        return answer.json() if answer.content else None

    def get(self, kind: str, path: str, **query: Any) -> Any:
        """Return what is at ``path``."""
        return self.request("GET", kind, path, **query)

    def find(self, kind: str, path: str, **query: Any) -> Any | None:
        """Return what is at ``path``, or None if there is nothing."""
        try:
            return self.get(kind, path, **query)
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, kind: str, path: str) -> bool:
        """Delete what is at ``path``; return False if it was gone already."""
        try:
            self.request("DELETE", kind, path)
        except CloudError as error:
            if error.status == 404:
                return False
            raise
        return True


def connect(entry: Mapping[str, Any]) -> Api:
    """Return the API of the cloud that ``entry`` (as :func:`kolla_salt.clouds.access` makes it) leads to."""
    import os

    from keystoneauth1 import session
    from keystoneauth1.identity import v3

    authority = str(entry.get("cacert") or "")
    client = session.Session(
        auth=v3.Password(**entry["auth"]),
        verify=authority if authority and os.path.exists(authority) else True,
        app_name="kolla-salt",
    )
    return Api(client, entry["interface"], entry.get("region_name"))


def _words(answer: Any) -> str:
    """Return what an error's body says; each service wraps its message in another key."""
    try:
        data = answer.json()
    except (AttributeError, ValueError):
        return ""
    inner = next(iter(data.values()), None) if isinstance(data, dict) and len(data) == 1 else data
    message = inner.get("message") if isinstance(inner, dict) else inner
    return " ".join(str(message or "").split())[:_LONGEST]


def same_host(name: str, host: str) -> bool:
    """Return whether a service's own name for its machine means ``host``: one may be longer than the other."""
    short = name.split(".")[0] == host.split(".")[0]
    return name == host or short and not ("." in name and "." in host)
