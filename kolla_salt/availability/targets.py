"""What is asked: the entries of the load balancer, as the services declare them. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

#: Requests per second: of the cheap kind, and of the kind that needs the administrator's token. A new TLS connection
#: costs both sides four times what the rest of a request costs.
RATE = 10.0
TLS_RATE = 3.0
TOKEN_RATE = 1.0


@dataclass(frozen=True)
class Target:
    """One kind of request to one entry.

    Args:
        service: whose entry it is.
        entry: name of the load-balancer entry.
        kind: ``plain``, ``token`` (with the administrator's token) or ``tcp``.
        url: of the entry through its VIP, without a path.
        path: what is asked for; ``%(project_id)s`` becomes the administrator's project.
        rate: requests per second.
        talk: of a ``tcp`` entry: what is sent, and what the answer to it must hold, both in hex.
    """

    service: str
    entry: str
    kind: str
    url: str
    path: str = ""
    rate: float = RATE
    talk: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """How it is called in a receipt: the entry, and that a token is used."""
        return f"{self.entry} with token" if self.kind == "token" else self.entry

    @property
    def where(self) -> str:
        """Where the request goes, for people."""
        return f"{urlsplit(self.url).netloc}{self.path}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; :meth:`from_dict` reads that."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Target:
        """Return the target of which ``data`` is the plain form."""
        return cls(**{**data, "talk": tuple((send, expect) for send, expect in data.get("talk") or ())})


@dataclass(frozen=True)
class Account:
    """With whose token is asked, and by which authority the servers' certificates are checked."""

    url: str = ""
    user: str = ""
    project: str = ""
    user_domain: str = "default"
    project_domain: str = "default"
    password: str = field(default="", repr=False)
    #: Path of a file of certificates; without one the servers' certificates are not checked: it is asked whether
    #: somebody answers, not who.
    authority: str = ""


def targets(resolver: Any, rate: float | None = None, token_rate: float = TOKEN_RATE) -> list[Target]:
    """Return what there is to ask on this site, in the order of the services.

    An HTTP entry is asked for its ``check``, or for ``/`` where only the catalogue names it; with a token for its
    ``probe``. A TCP entry is asked where it declares a ``probe``: without knowing who speaks first, a connection says
    only that the load balancer is there.

    Args:
        resolver: of any host of the site.
        rate: requests per second of the cheap kind; default: 10, with TLS 3.
        token_rate: requests per second with a token; 0: none.
    """
    named = {
        service.get("entry")
        for name in resolver.enabled_services()
        for service in (resolver.declarations[name]["keystone"] or {}).get("services", [])
    }
    found: list[Target] = []
    for item in resolver.catalogue["load_balancer"]:
        if not (item["internal"] or item["external"]):
            continue
        url = resolver.endpoint(item["entry"], "internal" if item["internal"] else "public")
        declared = item.get("probe")
        if item["mode"] != "http":
            if declared:
                talk = tuple((str(step.get("send") or ""), str(step.get("expect") or "")) for step in declared)
                found.append(
                    Target(
                        item["service"], item["entry"], "tcp", f"tcp://{urlsplit(url).netloc}", "", rate or RATE, talk
                    )
                )
            continue
        if item["check"] or declared or item["entry"] in named:
            often = rate or (TLS_RATE if url.startswith("https:") else RATE)
            found.append(Target(item["service"], item["entry"], "plain", url, item["check"] or "/", often))
        if declared and token_rate:
            found.append(Target(item["service"], item["entry"], "token", url, str(declared), token_rate))
    return found


def account(resolver: Any, passwords: Mapping[str, Any]) -> Account:
    """Return the administrator's account; without a password or an identity service it can ask for no token.

    Args:
        resolver: of any host of the site.
        passwords: of the site.
    """
    authority = str(resolver.value("openstack_cacert") or "") if "openstack_cacert" in resolver.settings else ""
    authority = authority if os.path.isfile(authority) else ""
    from kolla_salt import clouds  # not needed by the process that asks, for which a run waits

    try:
        auth = clouds.access(resolver, passwords, "internal")["auth"]
    except LookupError:
        return Account(authority=authority)
    return Account(
        url=auth["auth_url"],
        user=str(auth["username"]),
        project=str(auth["project_name"]),
        user_domain=str(auth["user_domain_id"]),
        project_domain=str(auth["project_domain_id"]),
        password=auth["password"],
        authority=authority,
    )
