"""The files by which people and programs find the cloud: clouds.yaml and admin-openrc.sh. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from kolla_salt.context import Resolver


def identity_entry(resolver: Resolver) -> str:
    """Return the load-balancer entry of the identity service.

    Raises:
        LookupError: no enabled service declares one.
    """
    for name, decl in resolver.declarations.items():
        for service in decl["keystone"].get("services", []) if decl["keystone"] else []:
            if service.get("type") == "identity" and resolver.enabled(name):
                return str(service["entry"])
    raise LookupError("no enabled service declares a Keystone service of type 'identity'")


def access(resolver: Resolver, passwords: Mapping[str, Any], interface: str = "public") -> dict[str, Any]:
    """Return the administrator's entry of a clouds.yaml.

    Args:
        resolver: of any host of the site.
        passwords: of the site.
        interface: ``public`` or ``internal``: which endpoints are used.

    Raises:
        LookupError: the administrator's password is not set, or there is no identity service.
    """

    def option(name: str, default: Any) -> Any:
        return resolver.value(name) if name in resolver.settings else default

    password = passwords.get("keystone_admin_password")
    if not password:
        raise LookupError("passwords.yml has no keystone_admin_password; kolla-salt genpwd makes it")
    entry: dict[str, Any] = {
        "auth": {
            "auth_url": resolver.endpoint(identity_entry(resolver), interface) + "/v3",
            "username": option("keystone_admin_user", "admin"),
            "password": str(password),
            "project_name": option("keystone_admin_project", "admin"),
            "user_domain_id": option("default_user_domain_id", "default"),
            "project_domain_id": option("default_project_domain_id", "default"),
        },
        "region_name": option("openstack_region_name", "RegionOne"),
        "interface": interface,
        "identity_api_version": 3,
    }
    authority = option("admin_openrc_cacert", "") or option("openstack_cacert", "")
    if authority:
        entry["cacert"] = authority
    return entry


def merged(text: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return a clouds.yaml with ``entry`` called ``name``; other entries of ``text`` stay.

    Raises:
        ValueError: ``text`` is not a clouds.yaml.
    """
    try:
        data = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("clouds", {}), dict):
        raise ValueError("expected a mapping with the key 'clouds'")
    data["clouds"] = {**(data.get("clouds") or {}), name: dict(entry)}
    return "# Written by kolla-salt post-deploy.\n" + yaml.safe_dump(data, sort_keys=False)


def openrc(entry: Mapping[str, Any]) -> str:
    """Return a shell script that sets the environment of OpenStack's clients."""
    auth = entry["auth"]
    values = {
        "OS_AUTH_URL": auth["auth_url"],
        "OS_USERNAME": auth["username"],
        "OS_PASSWORD": auth["password"],
        "OS_PROJECT_NAME": auth["project_name"],
        "OS_USER_DOMAIN_ID": auth["user_domain_id"],
        "OS_PROJECT_DOMAIN_ID": auth["project_domain_id"],
        "OS_REGION_NAME": entry["region_name"],
        "OS_INTERFACE": entry["interface"],
        "OS_ENDPOINT_TYPE": f"{entry['interface']}URL",
        "OS_IDENTITY_API_VERSION": "3",
        "OS_AUTH_PLUGIN": "password",
    }
    if entry.get("cacert"):
        values["OS_CACERT"] = entry["cacert"]
    lines = ["# Written by kolla-salt post-deploy. Use it with: . admin-openrc.sh", "unset ${!OS_*}"]
    return "\n".join([*lines, *(f"export {name}={shlex.quote(str(value))}" for name, value in values.items())]) + "\n"
