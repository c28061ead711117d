"""What expressions and templates can name, resolved lazily for one host of one site.

A :class:`Resolver` answers questions about the cloud from three plain inputs: the declarations, the site and a host's
name. It never looks at the machine it runs on, so the master, a minion and a test get the same answers.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import ipaddress
import json
import marshal
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

import jinja2
import yaml
from jinja2 import nativetypes
from jinja2.runtime import Context
from jinja2.utils import missing

from kolla_salt import paths
from kolla_salt.declarations import Declaration, nearest, with_trees, write_atomically

NAMES_KEY = "__names__"


class ContextError(ValueError):
    """A name, an option or a group could not be resolved."""


class LazyContext(Context):
    """A Jinja context that asks a :class:`Names` object for what is not in its dictionary.

    Rendering would otherwise need every option, address and URL of the cloud computed beforehand.
    """

    def resolve_or_missing(self, key: str) -> Any:
        """Look ``key`` up in the template's own variables, then among the lazy names."""
        if key in self.vars:
            return self.vars[key]
        if key in self.parent:
            return self.parent[key]
        names = self.parent.get(NAMES_KEY)
        return missing if names is None else names.get(key, missing)


@jinja2.pass_context
def _keep(_context: Context, value: Any) -> Any:
    """A ``finalize`` that changes nothing; since it wants the context, Jinja does not turn constants into text."""
    return value


class _LeafEnvironment(nativetypes.NativeEnvironment):
    """Expressions in leaf strings: one ``{{ }}`` alone keeps its type, text around it makes a string."""

    context_class = LazyContext

    @staticmethod
    def join(parts: Any) -> Any:
        values = list(parts)
        if len(values) == 1:
            return values[0]
        return "".join("" if value is None else str(value) for value in values)


def to_bool(value: Any) -> bool:
    """Return ``value`` as a truth value; the strings yes/no, true/false, on/off, 1/0 are understood."""
    if isinstance(value, str):
        return value.strip().lower() in {"yes", "true", "on", "1"}
    return bool(value)


def url_host(address: str) -> str:
    """Return ``address`` as it stands in a URL: IPv6 addresses get brackets (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


FILTERS: dict[str, Callable[..., Any]] = {
    "bool": to_bool,
    "to_json": lambda value, indent=None: json.dumps(value, indent=indent, sort_keys=indent is not None),
    "to_yaml": lambda value: yaml.safe_dump(value, default_flow_style=False, sort_keys=False),
    "b64encode": lambda value: base64.b64encode(str(value).encode()).decode(),
    "url_host": url_host,
    "quote": lambda value: url_quote(str(value), safe=""),
}
GLOBALS: dict[str, Callable[..., Any]] = {
    "url_host": url_host,
    "quote": FILTERS["quote"],
    "min": min, "max": max, "len": len, "int": int, "str": str, "range": range, "sorted": sorted, "zip": zip,
}  # fmt: skip


def environment(root: Path | None = None, cache: Path | None = None) -> jinja2.Environment:
    """Return the environment that renders configuration templates.

    Compiled templates are kept on disk, since every Salt job is a new process and compiling is most of the cost.

    :param root: formula root; template names are relative to it.
    :param cache: folder of the compiled templates (mode 0700); default: the user's cache folder.
    """
    root = root or paths.formula_root()
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(root)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        bytecode_cache=jinja2.FileSystemBytecodeCache(str(cache or paths.cache_dir("jinja"))),
    )
    env.context_class = LazyContext
    env.filters.update(FILTERS)
    env.globals.update(GLOBALS)
    return env


def render_template(env: jinja2.Environment, template: str, names: Names) -> str:
    """Render the template called ``template`` with ``names``.

    :raises jinja2.TemplateError: as Jinja does.
    """
    return env.get_template(template).render({NAMES_KEY: names})


def render_string(env: jinja2.Environment, text: str, names: Names) -> str:
    """Render ``text`` (an operator's override) with ``names``."""
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    return env.from_string(text).render({NAMES_KEY: names})


class Leaves:
    """Evaluates leaf strings; compiled code is kept on disk between processes."""

    def __init__(self, cache: Path | None = None) -> None:
        self.env = _LeafEnvironment(undefined=jinja2.StrictUndefined, finalize=_keep)
        self.env.filters.update(FILTERS)
        self.env.globals.update(GLOBALS)
        version = f"{sys.version_info[0]}{sys.version_info[1]}-{jinja2.__version__}"
        self.store = (cache or paths.cache_dir("jinja")) / f"leaves-{version}.bin"
        self.codes: dict[str, Any] | None = None
        self.templates: dict[str, jinja2.Template] = {}
        self.dirty = False

    def template(self, source: str) -> jinja2.Template:
        """Return the compiled form of ``source``."""
        found = self.templates.get(source)
        if found is None:
            if self.codes is None:
                try:
                    self.codes = marshal.loads(self.store.read_bytes())
                except (FileNotFoundError, ValueError, EOFError, TypeError):
                    self.codes = {}
            code = self.codes.get(source)
            if code is None:
                code = self.codes[source] = self.env.compile(source)
                self.dirty = True
            # A plain dictionary: Jinja goes through it for every evaluation, and its own chain of maps is slow at that.
            found = self.templates[source] = self.env.template_class.from_code(self.env, code, dict(self.env.globals))
        return found

    def evaluate(self, source: str, names: Names) -> Any:
        """Return the value of ``source``, a string with ``{{ }}``.

        :raises ContextError: naming the expression and the name that is missing.
        """
        try:
            template = self.template(source)
            context = template.new_context({NAMES_KEY: names})
            value = self.env.join(template.root_render_func(context))
            if isinstance(value, jinja2.Undefined):
                value._fail_with_undefined_error()
        except jinja2.UndefinedError as exc:
            raise ContextError(f"evaluating {source!r} of {names.where}: {exc}{names.hint(str(exc))}") from exc
        except jinja2.TemplateSyntaxError as exc:
            raise ContextError(f"evaluating {source!r} of {names.where}: {exc}") from exc
        return value

    def save(self) -> None:
        """Keep what was compiled for the next process."""
        if self.dirty and self.codes is not None:
            write_atomically(self.store, marshal.dumps(self.codes))
            self.dirty = False


class Names(Mapping[str, Any]):
    """The names one file or leaf may use. Records which passwords were read, so that diffs can mask them."""

    def __init__(self, resolver: Resolver, service: str | None = None, **extra: Any) -> None:
        self.resolver = resolver
        self.service = service
        self.secrets_used: set[str] = set()
        self.extra = extra
        decl = resolver.declarations.get(service or "")
        if decl:
            self.extra.setdefault("service", service)
            self.extra.setdefault("project", decl["project"])
        self.functions: dict[str, Any] = {
            "host": resolver.host,
            "hosts": resolver.hosts,
            "primary": resolver.primary,
            "in_group": resolver.member,
            "address": resolver.address,
            "prefix_length": resolver.prefix_length,
            "interface": lambda network: self[f"{network}_interface"],
            "enabled": resolver.enabled,
            "endpoint": resolver.endpoint,
            "internal_url": lambda entry: resolver.endpoint(entry, "internal"),
            "public_url": lambda entry: resolver.endpoint(entry, "public"),
            "image": resolver.image,
            "database_url": self._database_url,
            "transport_url": self._transport_url,
            "memcached_servers": self._memcached_servers,
            "secret": self._secret,
            "overrides": lambda below: sorted(path for path in resolver.overrides if path.startswith(below)),
        }

    @property
    def where(self) -> str:
        """What is being resolved, for error messages."""
        parts = [str(self.extra[key]) for key in ("service", "container", "file", "option") if self.extra.get(key)]
        return "/".join(parts) or "the site"

    def hint(self, message: str) -> str:
        """Return a suggestion for the undefined name in Jinja's ``message``."""
        name = message.split("'")[1] if message.count("'") >= 2 else ""
        known = [*self.resolver.settings, *self.functions, *self.extra, *self.resolver.password_names]
        if name in self.resolver.password_names:
            return f"; '{name}' is a password that this host's pillar does not hold: add it to the service's `secrets`"
        return nearest(name, known)

    def __getitem__(self, key: str) -> Any:
        if key in self.extra:
            return self.extra[key]
        if key in self.functions:
            if key == "host":
                self.resolver.personal = True
            return self.functions[key]
        if key == "is_primary":
            return self.resolver.is_primary(self.service)
        if key == "catalogue":
            return self.resolver.catalogue
        if key in self.resolver.settings:
            return self.resolver.value(key)
        if key in self.resolver.passwords:
            return self._secret(key)
        raise KeyError(key)

    def __iter__(self):  # noqa: ANN204 - Mapping's protocol
        yield from {
            *self.extra,
            *self.functions,
            *self.resolver.settings,
            *self.resolver.passwords,
            "catalogue",
            "is_primary",
        }

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return (key in self.extra or key in self.functions or key in {"catalogue", "is_primary"}
                or key in self.resolver.settings or key in self.resolver.passwords)  # fmt: skip

    def _secret(self, name: str) -> Any:
        if name not in self.resolver.passwords:
            raise ContextError(
                f"{self.where} needs the password '{name}', which is not in kolla:passwords of {self.resolver.host}: "
                f"run `kolla-salt genpwd`, or add it to the service's `secrets`{nearest(name, self.resolver.passwords)}"
            )
        self.secrets_used.add(name)
        return self.resolver.passwords[name]

    def _database_url(self, name: str) -> str:
        for decl in self.resolver.declarations.values():
            for db in decl["database"]:
                if db["name"] == name:
                    password = url_quote(str(self._secret(db["password"])), safe="")
                    address = url_host(str(self["database_address"]))
                    return f"mysql+pymysql://{db['user']}:{password}@{address}:{self['database_port']}/{name}"
        known = [db["name"] for decl in self.resolver.declarations.values() for db in decl["database"]]
        raise ContextError(f"{self.where}: no service declares the database '{name}'{nearest(name, known)}")

    def _transport_url(self) -> str:
        user, port = self["om_rpc_user"], self["om_rpc_port"]
        password = url_quote(str(self._secret("rabbitmq_password")), safe="")
        members = [
            f"{user}:{password}@{url_host(self.resolver.address('api', name))}:{port}"
            for name in self.resolver.hosts(self["om_rpc_group"])
        ]
        return f"rabbit://{','.join(members)}/{self['om_rpc_vhost']}"

    def _memcached_servers(self) -> list[str]:
        port = self["memcached_port"]
        return [f"{url_host(self.resolver.address('api', name))}:{port}" for name in self.resolver.hosts("memcached")]


class Resolver:
    """Options, addresses, placement and catalogue of one site, seen from one host.

    :param declarations: as :func:`kolla_salt.declarations.load` returns them.
    :param site: ``{globals, topology, passwords, overrides}``, i.e. a minion's pillar ``kolla`` or a whole site.
    :param host: name of the host in ``topology.hosts``.
    :param cache: folder for compiled expressions.
    """

    def __init__(
        self, declarations: dict[str, Declaration], site: Mapping[str, Any], host: str, cache: Path | None = None
    ) -> None:
        self.host = host
        self.globals: dict[str, Any] = dict(site.get("globals") or {})
        topology = site.get("topology") or {}
        self.topology_hosts: dict[str, dict[str, Any]] = {k: v or {} for k, v in (topology.get("hosts") or {}).items()}
        self.topology_groups: dict[str, list[str]] = {
            k: list(v or []) for k, v in (topology.get("groups") or {}).items()
        }
        self.topology_networks: dict[str, Any] = dict(topology.get("networks") or {})
        self.passwords: dict[str, Any] = dict(site.get("passwords") or {})
        self.overrides: dict[str, str] = dict(site.get("overrides") or {})
        self.declarations = with_trees(declarations, self.overrides)
        self.settings: dict[str, tuple[str, dict[str, Any]]] = {
            name: (service, setting)
            for service, decl in declarations.items()
            for name, setting in decl["settings"].items()
        }
        self.password_names = {name for decl in declarations.values() for name in decl["passwords"]}
        self.parents = {group: parents for decl in declarations.values() for group, parents in decl["groups"].items()}
        self.options = {**self.globals, **(self.topology_hosts.get(host, {}).get("options") or {})}
        self.leaves = _leaves(cache)
        #: Whether something asked for this very host's name or addresses since this was last set to False. What was
        #: answered without asking is the same for every host of the same groups and options, see :meth:`kind`.
        self.personal = False
        self._values: dict[str, Any] = {}
        self._personal_values: set[str] = set()
        self._resolving: list[str] = []
        self._hosts: dict[str, list[str]] = {}
        self._members: dict[str, frozenset[str]] = {}
        self._places: dict[str, tuple[list[str], list[str]]] = {}
        self._catalogue: dict[str, Any] | None = None

    def seen_from(self, host: str) -> Resolver:
        """Return the same site as ``host`` sees it; what is the same for all hosts is shared, not worked out again."""
        other = copy.copy(self)
        other.host = host
        other.options = {**self.globals, **(self.topology_hosts.get(host, {}).get("options") or {})}
        other.personal = False
        other._values, other._personal_values, other._resolving, other._catalogue = {}, set(), [], None
        return other

    def kind(self, host: str) -> tuple[Any, ...]:
        """Return what decides about ``host`` but for its own name and addresses.

        Hosts of one kind are in the same groups, are first in the same groups, and have the same options: every
        question that leaves :attr:`personal` False has one answer for all of them.
        """
        if not self._places:
            self._places.update((name, ([], [])) for name in self.topology_hosts)
            for group in dict.fromkeys([*self.topology_groups, *self.parents]):
                for position, name in enumerate(self.hosts(group)):
                    if name in self._places:
                        self._places[name][0].append(group)
                        if position == 0:
                            self._places[name][1].append(group)
        groups, first = self._places.get(host, ([], []))
        is_first = next(iter(self.topology_hosts), None) == host
        return (*groups, None, *first, is_first, repr(self.topology_hosts.get(host, {}).get("options")))

    # --- names and expressions -------------------------------------------------------------------------------------

    def names(self, service: str | None = None, **extra: Any) -> Names:
        """Return the names that a file or leaf of ``service`` may use; ``extra`` are added to them."""
        return Names(self, service, **extra)

    def evaluate(self, value: Any, names: Names) -> Any:
        """Return ``value`` with every ``{{ }}`` in its leaf strings replaced, recursively; always a new structure."""
        if isinstance(value, str):
            return self.leaves.evaluate(value, names) if "{{" in value else value
        if isinstance(value, Mapping):
            return {key: self.evaluate(item, names) for key, item in value.items()}
        if isinstance(value, list):
            return [self.evaluate(item, names) for item in value]
        return value

    def strings(self, value: Any, names: Names) -> list[str]:
        """Evaluate a list of strings; empty entries are dropped, lists within it are flattened."""
        result: list[str] = []
        evaluated = self.evaluate(value, names)
        for item in evaluated if isinstance(evaluated, list) else [evaluated]:
            if isinstance(item, list):
                result += [str(part) for part in item if part not in (None, "")]
            elif item not in (None, ""):
                result.append(str(item))
        return result

    def test(self, condition: Any, names: Names) -> bool:
        """Return the truth of a ``when:`` (a truth value or one expression without braces)."""
        if isinstance(condition, str):
            condition = self.leaves.evaluate("{{ " + condition + " }}", names)
        return to_bool(condition)

    def value(self, option: str) -> Any:
        """Return option ``option`` for this host: the host's ``options``, ``globals``, or the default.

        :raises ContextError: unknown option, or defaults that refer to each other in a circle.
        """
        if option in self._values:
            self.personal |= option in self._personal_values
            return self._values[option]
        if option not in self.settings:
            raise ContextError(f"unknown option '{option}'{nearest(option, self.settings)}")
        service, setting = self.settings[option]
        if option in self.options:
            result = self.options[option]
        elif option in self._resolving:
            circle = " -> ".join([*self._resolving, option])
            raise ContextError(f"the defaults of options refer to each other: {circle}; set one in kolla:globals")
        else:
            self._resolving.append(option)
            asked, self.personal = self.personal, False
            try:
                result = self.evaluate(setting["default"], self.names(service, option=option))
            finally:
                self._resolving.pop()
                if self.personal:
                    self._personal_values.add(option)
                self.personal |= asked
        if setting["type"] == "bool" and result is not None:
            result = to_bool(result)
        self._values[option] = result
        return result

    # --- placement -------------------------------------------------------------------------------------------------

    def hosts(self, group: str) -> list[str]:
        """Return the hosts of ``group`` in order.

        A group set in ``topology.groups`` has exactly those hosts; else it has the hosts of the parents its service
        declares. ``all`` is every host.
        """
        if group not in self._hosts:
            if group in self.topology_groups:
                found = self.topology_groups[group]
            elif group == "all":
                found = list(self.topology_hosts)
            elif group in self.parents:
                found = list(dict.fromkeys(name for parent in self.parents[group] for name in self.hosts(parent)))
            elif group in {"control", "network", "compute", "storage", "monitoring", "deployment"}:
                found = []
            else:
                known = [*self.topology_groups, *self.parents]
                raise ContextError(f"unknown group '{group}'{nearest(group, known)}")
            self._hosts[group] = found
        return list(self._hosts[group])

    def member(self, group: str, host: str | None = None) -> bool:
        """Return whether ``host`` (default: this one) is in ``group``."""
        if group not in self._members:
            self._members[group] = frozenset(self.hosts(group))
        return (host or self.host) in self._members[group]

    def primary(self, group: str) -> str | None:
        """Return the first host of ``group``, or None if it has none."""
        return next(iter(self.hosts(group)), None)

    def enabled(self, service: str) -> bool:
        """Return whether ``service`` is declared and switched on."""
        return service in self.declarations and (service == "kolla" or bool(self.value(f"enable_{service}")))

    def enabled_services(self) -> list[str]:
        """Return the names of all services that are switched on."""
        return [name for name in self.declarations if self.enabled(name)]

    def is_primary(self, service: str | None) -> bool:
        """Return whether this host is the primary of ``service``."""
        return bool(service) and self.primary(self.declarations[service]["group"]) == self.host

    def containers(self, service: str, host: str | None = None) -> dict[str, bool]:
        """Return the containers of ``service`` placed on ``host`` (default: this one): name -> switched on."""
        host = host or self.host
        decl = self.declarations[service]
        on = self.enabled(service)
        return {
            name: on and self.test(spec["when"], self.names(service, container=name))
            for name, spec in decl["containers"].items()
            if self.member(spec["group"], host)
        }

    def placed(self, service: str, host: str | None = None) -> bool:
        """Return whether anything of ``service`` belongs on ``host``."""
        host = host or self.host
        decl = self.declarations[service]
        return self.member(decl["group"], host) or any(
            self.member(spec["group"], host) for spec in decl["containers"].values()
        )

    def service_hosts(self, service: str) -> list[str]:
        """Return every host that has something of ``service``, the primary first."""
        decl = self.declarations[service]
        groups = [decl["group"], *(spec["group"] for spec in decl["containers"].values())]
        return list(dict.fromkeys(name for group in groups for name in self.hosts(group)))

    # --- addresses -------------------------------------------------------------------------------------------------

    def address(self, network: str = "api", host: str | None = None) -> str:
        """Return the IP address of ``host`` (default: this one) in ``network``; without one, its ``api`` address.

        :raises ContextError: the host or its ``api`` address is not in the topology.
        """
        if host is None:
            self.personal = True
        host = host or self.host
        if host not in self.topology_hosts:
            raise ContextError(f"kolla:topology:hosts has no host '{host}'{nearest(host, self.topology_hosts)}")
        addresses = self.topology_hosts[host].get("addresses") or {}
        found = addresses.get(network) or addresses.get("api")
        if not found:
            raise ContextError(f"kolla:topology:hosts:{host}:addresses has no '{network}' and no 'api' address")
        return str(found)

    def prefix_length(self, network: str) -> int:
        """Return the prefix length of ``network``, from its ``cidr`` in the topology.

        :raises ContextError: the topology does not describe the network.
        """
        definition = self.topology_networks.get(network)
        cidr = definition.get("cidr") if isinstance(definition, Mapping) else definition
        if not cidr:
            raise ContextError(
                f"kolla:topology:networks:{network}:cidr is not set: expected the network of the hosts' {network} "
                "addresses, such as 10.1.0.0/24"
            )
        return ipaddress.ip_network(str(cidr)).prefixlen

    def endpoint(self, entry: str, interface: str = "internal") -> str:
        """Return the base URL of load-balancer entry ``entry``.

        :param interface: ``internal``, or ``public``/``external`` for the external VIP.
        """
        for service, decl in self.declarations.items():
            if entry in decl["load_balancer"]:
                balancer, names = decl["load_balancer"][entry], self.names(service)
                break
        else:
            known = [name for decl in self.declarations.values() for name in decl["load_balancer"]]
            raise ContextError(f"no service declares the load-balancer entry '{entry}'{nearest(entry, known)}")
        side = "internal" if interface in {"internal", "admin"} else "external"
        port = self.evaluate(balancer["port" if side == "internal" else "external_port"], names)
        scheme = "https" if self.value(f"enable_tls_{side}") else "http"
        return f"{scheme}://{url_host(str(self.value(f'{side}_fqdn')))}:{port}"

    def image(self, name: str) -> str:
        """Return the full reference of image ``name``: ``[registry/]namespace/name:tag``."""
        parts = [self.value("docker_registry"), self.value("docker_namespace"), name]
        return "/".join(str(part) for part in parts if part) + f":{self.value('openstack_tag')}"

    # --- catalogue -------------------------------------------------------------------------------------------------

    @property
    def catalogue(self) -> dict[str, Any]:
        """What the enabled services declare for others: see ``docs/declarations.md``."""
        if self._catalogue is None:
            self._catalogue = self._make_catalogue()
        self.personal = True  # its fields may be; nothing that hosts share is made from them
        return self._catalogue

    def _make_catalogue(self) -> dict[str, Any]:
        balancers, logs, ports, databases, images = [], [], [], [], {}
        services = self.enabled_services()
        for service in services:
            decl, names = self.declarations[service], self.names(service)
            for entry, fields in decl["load_balancer"].items():
                if not self.test(fields["when"], names):
                    continue
                values = {key: self.evaluate(value, names) for key, value in fields.items()}
                values["members"] = [
                    {"host": name, "address": self.address("api", name), "port": values["listen_port"]}
                    for name in (self.hosts(values["group"]) if values["hosts"] is None else values["hosts"])
                ]
                for field in ("internal", "external", "active_passive"):
                    values[field] = to_bool(values[field])
                for field in ("frontend", "backend", "fallback"):
                    values[field] = self.strings(fields[field], names)
                if values["members"]:
                    balancers.append({"entry": entry, "service": service, **values})
                    ports.append({"service": service, "port": int(values["listen_port"]), "group": values["group"]})
            for item in decl["ports"]:
                if self.test(item.get("when", True), names):
                    ports.append({"service": service, "port": int(self.evaluate(item["port"], names)),
                                  "group": item.get("group", decl["group"])})  # fmt: skip
            if decl["logs"]:
                logs.append(
                    {"service": service, "project": decl["project"], "files": self.strings(decl["logs"], names)}
                )
            databases += [{"service": service, **db} for db in decl["database"] if self.test(db["when"], names)]
            for container, spec in decl["containers"].items():
                if self.hosts(spec["group"]) and self.test(spec["when"], self.names(service, container=container)):
                    name = str(self.evaluate(spec["image"], names))
                    images.setdefault(name, {"name": name, "reference": self.image(name), "hosts": []})
                    images[name]["hosts"] = list(dict.fromkeys([*images[name]["hosts"], *self.hosts(spec["group"])]))
        return {"services": services, "load_balancer": balancers, "logs": logs, "ports": ports,
                "databases": databases, "images": list(images.values())}  # fmt: skip


@lru_cache(maxsize=4)
def _leaves(cache: Path | None) -> Leaves:
    return Leaves(cache)


def digest(data: Any) -> str:
    """Return a SHA-256 over ``data`` in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def process_id() -> int:
    """Return the process id; what is cached across a fork must be keyed by it."""
    return os.getpid()
