"""What services register in Keystone: what differs from the declared, and setting it right.

No Salt here. keystoneauth1 speaks to Keystone; it is imported with the first request, because it costs two tenths of
a second. Everything is fetched once and kept as long as the object lives; what is changed is fetched again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kolla_salt import knock
from kolla_salt.context import ContextError, Resolver, to_bool
from kolla_salt.declarations import write_atomically

Changes = dict[str, dict[str, Any]]

REQUEST_TIMEOUT = 30
RETRY_INTERVAL = 1.0
DEFAULT_DOMAIN = "default"
#: Seconds for which a password that Keystone accepted is believed to be still its user's.
STAMP_AGE = 24 * 3600

# The load balancer has no member yet, or loads a new configuration.
_NOT_UP_YET = {503}
_NOT_UP_YET_READING = {502, 503, 504}
_LONGEST_BODY = 400
_SYSTEM_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class IdentityError(Exception):
    """Keystone refused something; the message holds no secret."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class Unreachable(IdentityError):
    """Keystone does not answer (yet)."""


@dataclass(frozen=True)
class Account:
    """A user with roles in a project, or in its own domain if ``project`` is None."""

    name: str
    password: str = field(repr=False)
    roles: tuple[str, ...]
    project: str | None = None
    domain: str | None = None

    @property
    def where(self) -> str:
        """Where it has its roles, for messages."""
        return f"project {self.project}" if self.project else f"domain {self.domain}"


@dataclass(frozen=True)
class Service:
    """An entry of the catalogue; ``endpoints`` is interface -> URL."""

    name: str
    type: str
    description: str
    endpoints: dict[str, str]


@dataclass(frozen=True)
class Registration:
    """All that one service declares for Keystone."""

    accounts: tuple[Account, ...] = ()
    roles: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()
    regions: tuple[str, ...] = ()


def registration(resolver: Resolver, service: str, accounts: bool = True) -> Registration:
    """Return what ``service`` declares for Keystone on this site.

    :param accounts: whether to include its accounts, whose passwords only the host that registers them holds.
    :raises ContextError: an expression cannot be resolved, or a password is missing.
    """
    declared = resolver.declarations[service]["keystone"]
    names = resolver.names(service)

    def text(value: Any) -> str:
        return str(resolver.evaluate(value, names))

    def secret(name: str) -> str:
        return str(names["secret"](name))

    owners = []
    if accounts and declared.get("user"):
        owners.append(
            Account(
                text(declared["user"]),
                secret(declared["password"]),
                tuple(resolver.strings(declared["roles"], names)),
                project=text(declared["project"]),
            )
        )
    owners += [
        Account(text(item["admin"]), secret(item["password"]), ("admin",), domain=text(item["name"]))
        for item in (declared["domains"] if accounts else ())
    ]
    services = [
        Service(
            text(item["name"]),
            text(item["type"]),
            text(item.get("description") or ""),
            _endpoints(resolver, item, text(item.get("path") or "")),
        )
        for item in declared["services"]
        if resolver.test(item.get("when", True), names)
    ]
    region = str(resolver.value("openstack_region_name"))
    regions = [region]
    if any(item.type == "identity" for item in services) and "multiple_regions_names" in resolver.settings:
        # One Keystone serves all regions; each needs its own way to it.
        regions += map(str, resolver.value("multiple_regions_names") or [])
    return Registration(
        tuple(owners),
        tuple(resolver.strings(declared["extra_roles"], names)),
        tuple(services),
        tuple(dict.fromkeys(regions)),
    )


def strangers(
    registrations: Iterable[Registration], services: Iterable[dict[str, Any]], endpoints: Iterable[dict[str, Any]]
) -> list[dict[str, str]]:
    """Return what Keystone's catalogue has and nobody declares: ``kind``, ``name``, ``found`` each.

    :param registrations: of all enabled services.
    :param services: Keystone's list.
    :param endpoints: Keystone's list.
    """
    wanted = {
        service.type: {(interface, region) for interface in service.endpoints for region in registration.regions}
        for registration in registrations
        for service in registration.services
    }
    known = {item["id"]: item for item in services}
    found = [
        {"kind": "catalogue", "name": f"service {item.get('name') or item['id']}", "found": f"type {item['type']}"}
        for item in known.values()
        if item["type"] not in wanted
    ]
    for item in endpoints:
        owner = known.get(item["service_id"], {"type": None})
        if owner["type"] in wanted:
            place = (item["interface"], item.get("region_id") or item.get("region"))
            if place not in wanted[owner["type"]]:
                name = f"endpoint {owner['type']} {place[0]} {place[1]}"
                found.append({"kind": "catalogue", "name": name, "found": item["url"]})
    return found


def _endpoints(resolver: Resolver, item: dict[str, Any], path: str) -> dict[str, str]:
    entry = item.get("entry")
    if not entry:
        return {}
    for service, decl in resolver.declarations.items():
        if entry in decl["load_balancer"]:
            balancer, names = decl["load_balancer"][entry], resolver.names(service)
            break
    else:
        raise ContextError(f"registering {item['name']}: no service declares the load-balancer entry '{entry}'")
    if not resolver.test(balancer["when"], names):
        return {}
    sides = (("internal", "internal"), ("public", "external"))
    return {
        interface: resolver.endpoint(entry, interface) + path
        for interface, side in sides
        if to_bool(resolver.evaluate(balancer[side], names))
    }


class Keystone:
    """Keystone's API as an administrator sees it.

    url
        internal endpoint, without version
    user, password, project
        account of the administrator, in the default domain
    stamps
        folder that remembers which passwords Keystone has accepted; None: ask each time
    """

    def __init__(self, url: str, user: str, password: str, project: str, stamps: Path | None = None) -> None:
        self.url, self.user, self.stamps = url.rstrip("/"), user, stamps
        self._password, self._project = password, project
        self._session: Any = None
        self._cache: dict[str, Any] = {}
        self.timeout: float = 0

    # --- talking -------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Log in, and try again for ``timeout`` seconds as long as nobody answers.

        The same patience holds for the requests that follow.
        """
        self.timeout = timeout
        if timeout <= 0 and self._session is None and (why := knock.silent_url(self.url)):
            raise Unreachable(f"Keystone at {self.url} does not answer ({why})")
        self._patiently(self._log_in, _NOT_UP_YET_READING)

    def get(self, path: str) -> dict[str, Any]:
        """Return what Keystone has at ``path`` (below ``/v3``)."""
        return self._request("GET", path)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        def send() -> dict[str, Any]:
            self._log_in()
            response = self._send(method, path, body, authenticated=True)
            if response.status_code >= 400:
                said = f"HTTP {response.status_code}: {_excerpt(response)}"
                raise IdentityError(f"{method} {self.url}/v3{path}: {said}", response.status_code)
            return response.json() if response.content else {}

        return self._patiently(send, _NOT_UP_YET_READING if method == "GET" else _NOT_UP_YET)

    def _patiently(self, attempt: Callable[[], Any], statuses: set[int]) -> Any:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return attempt()
            except IdentityError as err:
                if not isinstance(err, Unreachable) and err.status not in statuses:
                    raise
                if time.monotonic() + RETRY_INTERVAL > deadline:
                    waited = f"; gave up after {self.timeout:g} seconds" if self.timeout else ""
                    raise Unreachable(f"{err}{waited}", err.status) from err
            time.sleep(RETRY_INTERVAL)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, authenticated: bool) -> Any:
        from keystoneauth1 import exceptions

        try:
            return self._made_session().request(
                f"{self.url}/v3{path}",
                method,
                json=body,
                authenticated=authenticated,
                raise_exc=False,
                # Bodies hold passwords.
                log=False,
            )
        except (exceptions.ConnectFailure, exceptions.ConnectTimeout, exceptions.UnknownConnectionError) as err:
            raise Unreachable(f"Keystone at {self.url} does not answer ({_reason(err)})") from err
        except exceptions.ClientException as err:
            raise IdentityError(f"{method} {self.url}/v3{path}: {_reason(err)}") from err

    def _made_session(self) -> Any:
        if self._session is None:
            import requests
            from keystoneauth1 import session
            from keystoneauth1.identity import v3

            auth = v3.Password(
                auth_url=f"{self.url}/v3",
                username=self.user,
                password=self._password,
                user_domain_id=DEFAULT_DOMAIN,
                project_name=self._project,
                project_domain_id=DEFAULT_DOMAIN,
                include_catalog=False,
            )
            transport = requests.Session()
            # A proxy of the host's environment is for the world outside, not for the cloud's own addresses.
            transport.trust_env = False
            verify = authorities() or True
            self._session = session.Session(auth=auth, session=transport, verify=verify, timeout=REQUEST_TIMEOUT)
        return self._session

    def _log_in(self) -> None:
        from keystoneauth1 import exceptions

        try:
            self._made_session().get_token()
        except (exceptions.ConnectFailure, exceptions.ConnectTimeout, exceptions.UnknownConnectionError) as err:
            raise Unreachable(f"Keystone at {self.url} does not answer ({_reason(err)})") from err
        except exceptions.Unauthorized as err:
            raise IdentityError(
                f"Keystone at {self.url} refuses the administrator {self.user}: expected the password "
                "`keystone_admin_password` of the site's passwords and a role in the project "
                f"{self._project} ({_reason(err)})",
                401,
            ) from err
        except exceptions.HttpError as err:
            raise IdentityError(f"logging in to Keystone at {self.url}: {_reason(err)}", err.http_status) from err
        except exceptions.ClientException as err:
            raise IdentityError(f"logging in to Keystone at {self.url}: {_reason(err)}") from err

    def accepts(self, user_id: str, password: str) -> bool:
        """Ask Keystone whether ``password`` is the user's."""
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": {"id": user_id, "password": password}}},
                "scope": "unscoped",
            }
        }

        def send() -> bool:
            response = self._send("POST", "/auth/tokens", body, authenticated=False)
            if response.status_code in (200, 201):
                return True
            if response.status_code == 401:
                return False
            said = f"HTTP {response.status_code}: {_excerpt(response)}"
            raise IdentityError(f"logging in as user {user_id} at {self.url}: {said}", response.status_code)

        return self._patiently(send, _NOT_UP_YET)

    # --- what is there -------------------------------------------------------------------------------------------

    def fetch_all(self) -> None:
        """Fetch what every registration is compared with, at once."""
        wanted = [path for path in ("/services", "/endpoints", "/roles") if path not in self._cache]
        project = "/projects?name=service&domain_id=default"
        if project not in self._cache:
            wanted.append(project)
        if not wanted:
            return
        self._patiently(self._log_in, _NOT_UP_YET_READING)
        with ThreadPoolExecutor(len(wanted)) as pool:
            self._cache.update(zip(wanted, pool.map(self.get, wanted), strict=True))

    def _list(self, path: str) -> list[dict[str, Any]]:
        """Return the members of a collection, from memory if it was fetched already."""
        if path not in self._cache:
            self._cache[path] = self.get(path)
        collection = path.strip("/").partition("?")[0]
        return self._cache[path][collection]

    def _changed(self, collection: str) -> None:
        for path in [path for path in self._cache if path.strip("/").partition("?")[0] == collection]:
            del self._cache[path]

    def _find(self, collection: str, name: str, domain: str | None = None) -> dict[str, Any] | None:
        filters = f"?name={_quote(name)}" + (f"&domain_id={domain}" if domain else "")
        return next((item for item in self._list(f"/{collection}{filters}") if item["name"] == name), None)

    def _role(self, name: str) -> dict[str, Any] | None:
        return next((role for role in self._list("/roles") if role["name"] == name and not role.get("domain_id")), None)

    def _assignments(self, project: str | None, domain: str | None) -> list[dict[str, Any]]:
        scope = f"scope.project.id={project}" if project else f"scope.domain.id={domain}"
        return [item for item in self._list(f"/role_assignments?include_names=true&{scope}") if "user" in item]

    # --- comparing -----------------------------------------------------------------------------------------------

    def diff(self, wanted: Registration, remember: bool = True) -> Changes:
        """Compare what a service has registered with what it declares.

        remember
            note that a password was accepted, so that the next comparison need not ask

        Returns ``{what: {old, new}}``; passwords appear by saying that they differ.
        """
        self.fetch_all()
        changes: Changes = {}
        for role in wanted.roles:
            if not self._role(role):
                changes[f"role {role}"] = {"old": None, "new": role}
        for account in wanted.accounts:
            changes.update(self._account_diff(account, remember))
        for service in wanted.services:
            changes.update(self._service_diff(service, wanted.regions))
        return changes

    def _scope(self, account: Account) -> dict[str, Any] | None:
        if account.project:
            return self._find("projects", account.project, DEFAULT_DOMAIN)
        return self._find("domains", str(account.domain))

    def _user_id(self, account: Account, scope: dict[str, Any]) -> str | None:
        """Find the user among those with a role in the scope; only if it is not there, ask for it."""
        domain = DEFAULT_DOMAIN if account.project else scope["id"]
        project, own = (scope["id"], None) if account.project else (None, scope["id"])
        for item in self._assignments(project, own):
            if item["user"]["name"] == account.name and item["user"]["domain"]["id"] == domain:
                return item["user"]["id"]
        user = self._find("users", account.name, domain)
        return user["id"] if user else None

    def _granted(self, account: Account, scope: dict[str, Any], user_id: str) -> set[str]:
        project, domain = (scope["id"], None) if account.project else (None, scope["id"])
        items = self._assignments(project, domain)
        return {item["role"]["name"] for item in items if item["user"]["id"] == user_id}

    def _account_diff(self, account: Account, remember: bool) -> Changes:
        changes: Changes = {}
        for role in account.roles:
            if not self._role(role):
                changes[f"role {role}"] = {"old": None, "new": role}
        scope = self._scope(account)
        if scope is None:
            changes[account.where] = {"old": None, "new": account.project or account.domain}
            # A user of the default domain may be there before the project is.
            user = self._find("users", account.name, DEFAULT_DOMAIN) if account.project else None
            user_id = user["id"] if user else None
            granted: set[str] = set()
        else:
            user_id = self._user_id(account, scope)
            granted = self._granted(account, scope, user_id) if user_id else set()
        if user_id is None:
            changes[f"user {account.name}"] = {"old": None, "new": account.name}
        elif not self._knows_password(account, user_id, remember):
            changes[f"password of {account.name}"] = {"old": "another one", "new": "as in the site's passwords"}
        if missing := [role for role in account.roles if role not in granted]:
            key = f"roles of {account.name} in {account.where}"
            changes[key] = {"old": sorted(granted) or None, "new": sorted({*granted, *missing})}
        return changes

    def _service_diff(self, wanted: Service, regions: tuple[str, ...]) -> Changes:
        changes: Changes = {}
        present = self._service(wanted)
        if present is None:
            changes[f"service {wanted.type}"] = {"old": None, "new": wanted.name}
        else:
            for key in ("name", "description"):
                found = present.get(key) or ""
                if found != getattr(wanted, key):
                    changes[f"{key} of service {wanted.type}"] = {"old": found, "new": getattr(wanted, key)}
            if not present.get("enabled", True):
                changes[f"service {wanted.type} enabled"] = {"old": False, "new": True}
        for region in regions:
            for interface, url in wanted.endpoints.items():
                found = self._endpoints_of(present, region, interface)
                key = f"endpoint {wanted.type} {interface} {region}"
                if not found:
                    changes[key] = {"old": None, "new": url}
                    continue
                kept, *doubles = _best_first(found, url)
                if kept["url"] != url or not kept.get("enabled", True):
                    off = "" if kept.get("enabled", True) else " (disabled)"
                    changes[key] = {"old": kept["url"] + off, "new": url}
                if doubles:
                    changes[f"{key}, further"] = {"old": sorted(item["url"] for item in doubles), "new": None}
        return changes

    def _service(self, wanted: Service) -> dict[str, Any] | None:
        """Find a service's entry: same type and name; else the only one of its type, which was renamed."""
        same_type = [item for item in self._list("/services") if item["type"] == wanted.type]
        exact = [item for item in same_type if item.get("name") == wanted.name]
        if exact:
            return min(exact, key=lambda item: item["id"])
        return same_type[0] if len(same_type) == 1 else None

    def _endpoints_of(self, service: dict[str, Any] | None, region: str, interface: str) -> list[dict[str, Any]]:
        if service is None:
            return []
        return [
            item
            for item in self._list("/endpoints")
            if item["service_id"] == service["id"]
            and item["interface"] == interface
            and (item.get("region_id") or item.get("region")) == region
        ]

    # --- changing ------------------------------------------------------------------------------------------------

    def register(self, wanted: Registration) -> Changes:
        """Set right what :meth:`diff` finds, and return it. Nothing but doubles of endpoints is removed."""
        changes = self.diff(wanted)
        for key in changes:
            if key.startswith("role "):
                self.create_role(key.removeprefix("role "))
        for account in wanted.accounts:
            self._set_account(account, changes)
        for service in wanted.services:
            self._set_service(service, wanted.regions, changes)
        return changes

    def create_role(self, name: str) -> str:
        """Create a role and return its ID."""
        role = self._request("POST", "/roles", {"role": {"name": name}})["role"]
        self._changed("roles")
        return role["id"]

    def _create_scope(self, account: Account) -> dict[str, Any]:
        kind, name = ("project", account.project) if account.project else ("domain", account.domain)
        body: dict[str, Any] = {"name": name, "enabled": True}
        if account.project:
            body["domain_id"] = DEFAULT_DOMAIN
        created = self._request("POST", f"/{kind}s", {kind: body})[kind]
        self._changed(f"{kind}s")
        return created

    def _set_account(self, account: Account, changes: Changes) -> None:
        roles = f"roles of {account.name} in {account.where}"
        if not {account.where, f"user {account.name}", f"password of {account.name}", roles} & changes.keys():
            return
        scope = self._scope(account) or self._create_scope(account)
        user_id = self._user_id(account, scope)
        if user_id is None:
            domain = DEFAULT_DOMAIN if account.project else scope["id"]
            user = {"name": account.name, "domain_id": domain, "password": account.password, "enabled": True}
            user_id = self._request("POST", "/users", {"user": user})["user"]["id"]
            self._changed("users")
            # Keystone has just been told the password: no need to ask it.
            self._remember(account, user_id)
        elif f"password of {account.name}" in changes:
            user = {"password": account.password, "enabled": True}
            self._request("PATCH", f"/users/{user_id}", {"user": user})
            self._changed("users")
        if roles in changes:
            granted = self._granted(account, scope, user_id)
            kind = "projects" if account.project else "domains"
            for name in account.roles:
                if name not in granted:
                    role = self._role(name)
                    role_id = role["id"] if role else self.create_role(name)
                    self._request("PUT", f"/{kind}/{scope['id']}/users/{user_id}/roles/{role_id}")
            self._changed("role_assignments")

    def _set_service(self, wanted: Service, regions: tuple[str, ...], changes: Changes) -> None:
        present = self._service(wanted)
        body = {"name": wanted.name, "type": wanted.type, "description": wanted.description, "enabled": True}
        if present is None:
            present = self._request("POST", "/services", {"service": body})["service"]
            self._changed("services")
        elif any(key.endswith((f"service {wanted.type}", f"service {wanted.type} enabled")) for key in changes):
            self._request("PATCH", f"/services/{present['id']}", {"service": body})
            self._changed("services")
        for region in regions:
            for interface, url in wanted.endpoints.items():
                self._set_endpoint(present, region, interface, url)

    def _set_endpoint(self, service: dict[str, Any], region: str, interface: str, url: str) -> None:
        found = self._endpoints_of(service, region, interface)
        if not found:
            self._ensure_region(region)
            body = {"service_id": service["id"], "region_id": region, "interface": interface, "url": url}
            self._request("POST", "/endpoints", {"endpoint": {**body, "enabled": True}})
            self._changed("endpoints")
            return
        kept, *doubles = _best_first(found, url)
        if kept["url"] != url or not kept.get("enabled", True):
            self._request("PATCH", f"/endpoints/{kept['id']}", {"endpoint": {"url": url, "enabled": True}})
            self._changed("endpoints")
        for item in doubles:
            self._request("DELETE", f"/endpoints/{item['id']}")
            self._changed("endpoints")

    def _ensure_region(self, region: str) -> None:
        if not any(item["id"] == region for item in self._list("/regions")):
            self._request("POST", "/regions", {"region": {"id": region}})
            self._changed("regions")

    # --- passwords -----------------------------------------------------------------------------------------------

    def check_password(self, account: Account) -> bool:
        """Ask Keystone whether the account's user has its password; False too if there is no such user."""
        scope = self._scope(account)
        user_id = self._user_id(account, scope) if scope else None
        return bool(user_id) and self.accepts(str(user_id), account.password)

    def _knows_password(self, account: Account, user_id: str, remember: bool) -> bool:
        """Say whether the user's password is as declared.

        Checking a password is slow by design (a quarter of a second each), so what was accepted within a day is
        believed. The note holds a keyed hash only; it says nothing to someone who does not know the password.
        """
        if self._remembered(account, user_id):
            return True
        if not self.accepts(user_id, account.password):
            return False
        if remember:
            self._remember(account, user_id)
        return True

    def _stamp(self, account: Account) -> Path:
        digest = hashlib.sha256(f"{self.url} {account.domain or ''} {account.name}".encode()).hexdigest()[:16]
        return Path(str(self.stamps)) / f"{account.name}-{digest}.json"

    def _mac(self, account: Account, user_id: str, salt: str) -> str:
        return hmac.new(account.password.encode(), f"{salt} {self.url} {user_id}".encode(), "sha256").hexdigest()

    def _remembered(self, account: Account, user_id: str) -> bool:
        if self.stamps is None:
            return False
        try:
            stamp = json.loads(self._stamp(account).read_text())
            fresh = 0 <= time.time() - stamp["time"] < STAMP_AGE
            return fresh and hmac.compare_digest(stamp["mac"], self._mac(account, user_id, stamp["salt"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _remember(self, account: Account, user_id: str) -> None:
        if self.stamps is None:
            return
        self.stamps.mkdir(parents=True, exist_ok=True, mode=0o700)
        salt = secrets.token_hex(16)
        stamp = {"time": time.time(), "salt": salt, "mac": self._mac(account, user_id, salt)}
        write_atomically(self._stamp(account), json.dumps(stamp).encode())


def authorities() -> str | None:
    """Return the file of the certificate authorities that this host trusts, None if it is where no system has it."""
    return next((path for path in _SYSTEM_AUTHORITIES if os.path.exists(path)), None)


def _best_first(endpoints: list[dict[str, Any]], url: str) -> list[dict[str, Any]]:
    """Sort endpoints of one kind so that the one to keep is first: the right one, else the oldest by ID."""
    return sorted(endpoints, key=lambda item: (item["url"] != url, not item.get("enabled", True), item["id"]))


def _quote(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _excerpt(response: Any) -> str:
    """Return what the other side said, in one line; Keystone wraps it into ``{"error": {"message": ...}}``."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = response.content.decode(errors="replace")
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_BODY else line[:_LONGEST_BODY] + " ..."


def _reason(err: Exception) -> str:
    line = " ".join(str(err).split())
    return line if len(line) <= _LONGEST_BODY else line[:_LONGEST_BODY] + " ..."
