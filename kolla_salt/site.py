"""A site's input: read it from its folder, check all of it, cut it down to what one host may see."""

from __future__ import annotations

import contextlib
import copy
import difflib
import ipaddress
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kolla_salt import declarations as decls
from kolla_salt import paths
from kolla_salt.context import ContextError, Resolver, to_bool
from kolla_salt.declarations import NEEDED, Declaration, nearest
from kolla_salt.expand import override_paths

DEFAULT_DIR = Path("/etc/kolla-salt")
TOP_GROUPS = ("control", "network", "compute", "storage", "monitoring", "deployment")
#: Largest override that is handed to a minion; larger data belongs into an image or a volume.
MAX_OVERRIDE = 512 * 1024


class SiteError(ValueError):
    """A file of the site cannot be read."""


@dataclass
class Site:
    """One cloud's input."""

    globals: dict[str, Any] = field(default_factory=dict)
    topology: dict[str, Any] = field(default_factory=dict)
    passwords: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)

    def as_pillar(self) -> dict[str, Any]:
        """Return the site as the content of the pillar key ``kolla``; what is in it is the site's own, not a copy."""
        return dict(vars(self))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a site."""

    path: str
    value: Any
    expected: str
    nearest: str = ""

    @property
    def text(self) -> str:
        """The problem in one sentence."""
        shown = "" if self.value is None else f" is {self.value!r}"
        return f"{self.path}{shown}: expected {self.expected}{self.nearest}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses what YAML forbids and its loaders let pass: a key that is there twice, of which the last would win."""

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        # Before anything is constructed: merge keys (<<) are expanded then, and may bring keys a second time.
        open_nodes, met = [root], set()
        while open_nodes:
            node = open_nodes.pop()
            if not isinstance(node, yaml.CollectionNode) or id(node) in met:
                continue
            met.add(id(node))
            if isinstance(node, yaml.MappingNode):
                lines: dict[str, int] = {}
                for key, value in node.value:
                    open_nodes.append(value)
                    if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                        continue
                    line = key.start_mark.line + 1
                    if key.value in lines:
                        raise yaml.YAMLError(f"'{key.value}' is there twice, in lines {lines[key.value]} and {line}")
                    lines[key.value] = line
            else:
                open_nodes += node.value
        return root


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as exc:
        raise SiteError(f"reading the site: {path} is not valid YAML: {exc}") from exc
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SiteError(
            f"reading the site: {path} holds a {type(data).__name__}, expected a mapping of names to values"
        )
    return data


def served_by(opts: Mapping[str, Any]) -> str:
    """Return the folder of the site that a master serves.

    :param opts: the master's options: ``kolla_site``, else the argument of the external pillar ``kolla``.
    """
    if opts.get("kolla_site"):
        return str(opts["kolla_site"])
    for item in opts.get("ext_pillar") or []:
        if isinstance(item.get("kolla"), str):
            return item["kolla"]
    return str(DEFAULT_DIR)


def load(directory: Path | str) -> Site:
    """Read a site from its folder (``globals.yml``, ``topology.yml``, ``passwords.yml``, ``overrides/``).

    :raises SiteError: the folder or a file cannot be read.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SiteError(
            f"reading the site: {directory} does not exist; `kolla-salt init {directory}` writes an example"
        )
    overrides: dict[str, str] = {}
    base = directory / "overrides"
    for path in sorted(base.rglob("*")) if base.is_dir() else []:
        if path.is_file():
            if path.stat().st_size > MAX_OVERRIDE:
                raise SiteError(f"reading the site: {path} has {path.stat().st_size} bytes, at most {MAX_OVERRIDE} fit")
            try:
                overrides[str(path.relative_to(base))] = path.read_text()
            except UnicodeDecodeError as exc:
                raise SiteError(f"reading the site: {path} is not text in UTF-8: {exc}") from exc
    return Site(
        globals=_read_yaml(directory / "globals.yml"),
        topology=_read_yaml(directory / "topology.yml"),
        passwords=_read_yaml(directory / "passwords.yml"),
        overrides=overrides,
    )


def needed_passwords(resolver: Resolver, host: str) -> set[str]:
    """Return the names of the passwords that the services placed on ``host`` need there.

    Any controller can be asked how the cloud is, since the first one may be what is broken: each holds the
    administrators' passwords.
    """
    needed: set[str] = set()
    control = resolver.member("control", host)
    for service in resolver.enabled_services():
        decl = resolver.declarations[service]
        if control and decl["keystone"]:
            needed.add("keystone_admin_password")
        if control and decl["database"]:
            needed.add("database_password")
        if not resolver.placed(service, host):
            continue
        names = resolver.names(service)
        for secret in decl["secrets"]:
            if not isinstance(secret, dict):
                needed.add(secret)
            elif resolver.member(secret.get("group", "all"), host) and resolver.test(secret.get("when", True), names):
                needed.add(secret["name"])
        if resolver.primary(decl["group"]) == host:
            if decl["database"]:
                needed.add("database_password")
                needed.update(db["password"] for db in decl["database"])
            if decl["keystone"]:
                needed.add("keystone_admin_password")
                if decl["keystone"]["user"]:
                    needed.add(decl["keystone"]["password"])
                needed.update(domain["password"] for domain in decl["keystone"]["domains"])
    return needed


def _files_here(resolver: Resolver) -> Iterator[tuple[str, str, str]]:
    """Yield service, container and file of everything that is configured on the resolver's host."""
    for service in resolver.enabled_services():
        for container, fields in resolver.declarations[service]["containers"].items():
            if resolver.member(fields["group"]):
                for file in fields["files"]:
                    yield service, container, file


def known_overrides(resolver: Resolver) -> dict[str, set[str]]:
    """Return every override path that is read on the resolver's host -> the services that read it."""
    known: dict[str, set[str]] = {}
    for service, container, file in _files_here(resolver):
        for path in override_paths(resolver, service, container, file):
            known.setdefault(path, set()).add(service)
    return known


class Served:
    """A site as it is handed out, host after host: what hosts have in common is worked out once.

    Hosts that are of one kind (:meth:`Resolver.kind`) share an answer, unless working it out asked for the host's own
    name or addresses.

    Attributes:
        digest: of the site's files, see :func:`kolla_salt.runs.digest`; empty: nobody has worked it out.
    """

    digest = ""

    def __init__(self, site: Site, declarations: dict[str, Declaration]) -> None:
        self.site = site
        self.hosts: dict[str, Any] = site.topology.get("hosts") or {}
        self.resolver = Resolver(declarations, site.as_pillar(), next(iter(self.hosts), ""))
        self._common = pickle.dumps((site.globals, site.topology))
        self._needed: dict[Any, set[str]] = {}
        self._overrides: dict[Any, tuple[set[str], list[tuple[str, str, str]]]] = {}

    def passwords(self, resolver: Resolver) -> set[str]:
        """Return the names of the passwords that the resolver's host needs."""
        kind = resolver.kind(resolver.host)
        if kind not in self._needed:
            resolver.personal = False
            needed = needed_passwords(resolver, resolver.host)
            if resolver.personal:
                return needed
            self._needed[kind] = needed
        return self._needed[kind]

    def overrides(self, resolver: Resolver) -> set[str]:
        """Return the override paths that are read on the resolver's host."""
        kind = resolver.kind(resolver.host)
        if kind not in self._overrides:
            resolver.personal = False
            files = list(_files_here(resolver))
            if resolver.personal:
                return set(known_overrides(resolver))
            shared: set[str] = set()
            own = []
            for file in files:
                resolver.personal = False
                read = override_paths(resolver, *file)
                if resolver.personal:
                    own.append(file)
                else:
                    shared.update(read)
            self._overrides[kind] = (shared, own)
        shared, own = self._overrides[kind]
        return shared.union(*(override_paths(resolver, *file) for file in own))

    def pillar(self, host: str) -> dict[str, Any] | None:
        """Return what minion ``host`` sees as pillar ``kolla``, a new structure; None if the topology has no such host.

        Only the passwords and overrides that the services placed on it need are in it.
        """
        if host not in self.hosts:
            return None
        resolver = self.resolver.seen_from(host)
        needed = self.passwords(resolver)
        overrides = self.overrides(resolver) if self.site.overrides else ()
        # Salt writes into what it is given.
        options, topology = pickle.loads(self._common)
        return {
            "globals": options,
            "topology": topology,
            "passwords": {name: copy.deepcopy(v) for name, v in self.site.passwords.items() if name in needed},
            "overrides": {path: text for path, text in self.site.overrides.items() if path in overrides},
        }


def host_pillar(site: Site, declarations: dict[str, Declaration], host: str) -> dict[str, Any] | None:
    """Return what minion ``host`` sees as pillar ``kolla``, or None if the topology does not know it.

    Only the passwords and overrides that the services placed on it need are in it.
    """
    return Served(site, declarations).pillar(host)


#: Folder -> what its files looked like when they were read, and what was read.
_served: dict[str, tuple[Any, Served]] = {}
#: A file that was written so short a time (seconds) before it was read may be written again without looking different.
_SETTLED = 0.1


def served(directory: Path | str) -> Served:
    """Return the site in ``directory``, read again only if a file of it, or a declaration, has changed.

    A master compiles the pillar of every minion for every job; its processes live long.

    :raises SiteError: the folder or a file cannot be read.
    """
    key, began = str(directory), time.time()
    stamps = _stamps(Path(directory))
    kept = _served.get(key)
    if kept is not None and kept[0] == stamps:
        return kept[1]
    _served.pop(key, None)
    found = Served(load(directory), decls.load())
    if max(changed for *_, changed in stamps) / 1e9 < began - _SETTLED:
        _served[key] = (stamps, found)
    return found


def _stamps(directory: Path) -> list[tuple[str, int, int, int, int]]:
    """Return path, inode, size and times of every file that a site is made from; the time of the last change last."""
    files = [str(path) for path in paths.formula_root().glob("*/service.yaml")]
    files += [str(directory / name) for name in ("globals.yml", "topology.yml", "passwords.yml")]
    folders = [str(directory / "overrides")]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.path)
    found = [(str(directory), 0, 0, 0, 0)]
    for file in files:
        with contextlib.suppress(OSError):
            stat = os.stat(file)
            found.append((file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return sorted(found)


# --- validation -----------------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "number": (int, float), "string": (str,), "list": (list,), "dict": (dict,),
}  # fmt: skip


def _check_option(path: str, name: str, value: Any, settings: dict[str, tuple[str, dict[str, Any]]],
                  services: dict[str, Declaration]) -> list[Problem]:  # fmt: skip
    if name not in settings:
        if name.startswith("enable_"):
            known = [*services, *(option[7:] for option in settings if option.startswith("enable_"))]
            close = nearest(name[7:], known).replace("mean '", "mean 'enable_")
            return [Problem(path, value, "the name of a known service after 'enable_'", close)]
        return [Problem(path, value, "a known option", nearest(name, settings))]
    setting = settings[name][1]
    if value is None:
        # YAML's way to say "as if it were not there" is only meaningful where the default says so too.
        return [] if setting["default"] is None else [Problem(path, "null", f"a value of type {setting['type']}")]
    kind = setting["type"]
    if kind == "bool" and isinstance(value, str) and value.lower() in {"yes", "no", "true", "false"}:
        return []
    if kind != "any" and (
        not isinstance(value, _TYPES[kind]) or (kind in {"int", "number"} and isinstance(value, bool))
    ):
        return [Problem(path, value, f"a value of type {kind}, found {type(value).__name__}")]
    if setting.get("choices") and value not in setting["choices"]:
        return [
            Problem(
                path, value, f"one of {', '.join(map(str, setting['choices']))}", nearest(value, setting["choices"])
            )
        ]
    if setting.get("min") is not None and value < setting["min"]:
        return [Problem(path, value, f"at least {setting['min']}")]
    if setting.get("max") is not None and value > setting["max"]:
        return [Problem(path, value, f"at most {setting['max']}")]
    return []


def _check_addresses(site: Site, problems: list[Problem]) -> None:
    networks: dict[str, Any] = {}
    for name, definition in (site.topology.get("networks") or {}).items():
        cidr = definition.get("cidr") if isinstance(definition, dict) else definition
        try:
            networks[name] = ipaddress.ip_network(str(cidr))
        except ValueError:
            problems.append(Problem(f"kolla:topology:networks:{name}", cidr, "a network such as 10.0.0.0/24"))
    owner: dict[tuple[str, str], str] = {}
    for host, data in (site.topology.get("hosts") or {}).items():
        addresses = (data or {}).get("addresses") or {}
        if "api" not in addresses:
            problems.append(Problem(f"kolla:topology:hosts:{host}:addresses:api", None, "the host's API address"))
        for network, address in addresses.items():
            path = f"kolla:topology:hosts:{host}:addresses:{network}"
            try:
                parsed = ipaddress.ip_address(str(address))
            except ValueError:
                problems.append(Problem(path, address, "an IP address"))
                continue
            if network in networks and parsed not in networks[network]:
                problems.append(
                    Problem(path, address, f"an address inside {networks[network]} (topology:networks:{network})")
                )
            other = owner.setdefault((network, str(parsed)), host)
            if other != host:
                problems.append(Problem(path, address, f"an address of its own; host {other} has the same"))
    hosts = {address for _, address in owner}
    for option in ("internal_vip_address", "external_vip_address"):
        vip = site.globals.get(option)
        if vip is None:
            continue
        path = f"kolla:globals:{option}"
        try:
            parsed = ipaddress.ip_address(str(vip))
        except ValueError:
            problems.append(Problem(path, vip, "an IP address"))
            continue
        if option == "internal_vip_address" and "api" in networks and parsed not in networks["api"]:
            problems.append(Problem(path, vip, f"an address inside {networks['api']} (topology:networks:api)"))
        keepalived = to_bool(site.globals.get("enable_keepalived", site.globals.get("enable_loadbalancer", True)))
        if keepalived and str(parsed) in hosts:
            problems.append(Problem(path, vip, "an address that no host has (or enable_keepalived: false)"))


def _check_topology(site: Site, declarations: dict[str, Declaration], problems: list[Problem]) -> None:
    hosts = site.topology.get("hosts")
    if not isinstance(hosts, dict) or not hosts:
        problems.append(Problem("kolla:topology:hosts", hosts, "at least one host with its addresses"))
        hosts = {}
    for key in site.topology.keys() - {"hosts", "groups", "networks"}:
        problems.append(Problem(f"kolla:topology:{key}", None, "hosts, groups or networks",
                                nearest(key, ["hosts", "groups", "networks"])))  # fmt: skip
    for host, data in hosts.items():
        for key in (data or {}).keys() - {"addresses", "options"}:
            problems.append(Problem(f"kolla:topology:hosts:{host}:{key}", None, "addresses or options",
                                    nearest(key, ["addresses", "options"])))  # fmt: skip
    known = [*TOP_GROUPS, *(group for decl in declarations.values() for group in decl["groups"])]
    for group, members in (site.topology.get("groups") or {}).items():
        path = f"kolla:topology:groups:{group}"
        if group not in known:
            problems.append(Problem(path, None, "a known group", nearest(group, known)))
        if not isinstance(members or [], list):
            problems.append(Problem(path, members, "a list of hosts"))
            continue
        for host in members or []:
            if host not in hosts:
                problems.append(Problem(path, host, "a host of kolla:topology:hosts", nearest(host, hosts)))
        for host, times in Counter(members or []).items():
            if times > 1:
                problems.append(Problem(path, host, "each host once"))


def validate(site: Site, declarations: dict[str, Declaration]) -> list[Problem]:
    """Return everything that is wrong with ``site``; an empty list means that it can be deployed."""
    problems: list[Problem] = []
    settings = {name: (service, s) for service, decl in declarations.items() for name, s in decl["settings"].items()}
    for name, value in site.globals.items():
        problems += _check_option(f"kolla:globals:{name}", name, value, settings, declarations)
    _check_topology(site, declarations, problems)
    for host, data in (site.topology.get("hosts") or {}).items():
        for name, value in ((data or {}).get("options") or {}).items():
            problems += _check_option(
                f"kolla:topology:hosts:{host}:options:{name}", name, value, settings, declarations
            )
    _check_addresses(site, problems)
    if problems:
        return problems  # what follows resolves expressions, which would only repeat the same problems
    read: set[str] = set()
    cloud = Served(site, declarations)
    known = {repr(problem) for problem in problems}
    clean: set[Any] = set()
    for host in site.topology["hosts"]:
        resolver = cloud.resolver.seen_from(host)
        kind = resolver.kind(host)
        try:
            if kind not in clean:
                found = _check_services(site, resolver, host)
                if not resolver.personal:
                    clean.add(kind)
                for problem in found:
                    if repr(problem) not in known:
                        known.add(repr(problem))
                        problems.append(problem)
            read |= cloud.overrides(resolver)
        except ContextError as exc:
            problems.append(Problem(f"kolla (as seen by {host})", None, f"resolvable options; {exc}"))
    if not problems:
        problems += [
            Problem(f"overrides/{path}", None, "a path that some service on some host reads", _nearest(path, cloud))
            for path in site.overrides
            if path not in read
        ]
    return problems


def _nearest(path: str, cloud: Served) -> str:
    """Return a hint for an override that nothing reads, out of the paths of hosts that stand for the others."""
    base = cloud.resolver
    # The first host of each group has every container between them; the host itself may be what is misspelt.
    names = {base.primary(group) for group in [*base.topology_groups, *base.parents]} - {None}
    for part in path.split("/")[:-1]:
        names.update(difflib.get_close_matches(part, cloud.hosts, n=1))
    return nearest(path, sorted({found for name in names for found in cloud.overrides(base.seen_from(str(name)))}))


def _check_services(site: Site, resolver: Resolver, host: str) -> list[Problem]:
    problems = []
    for service in resolver.enabled_services():
        decl = resolver.declarations[service]
        for other in decl["requires"]:
            if not resolver.enabled(other):
                problems.append(Problem(f"kolla:globals:enable_{other}", False, f"true, because {service} requires it"))
        if not resolver.service_hosts(service):
            problems.append(
                Problem(f"kolla:topology:groups:{decl['group']}", [], f"at least one host: {service} is enabled")
            )
        else:
            for container, fields in decl["containers"].items():
                if not resolver.hosts(fields["group"]) and resolver.test(
                    fields["when"], resolver.names(service, container=container)
                ):
                    path = f"kolla:topology:groups:{fields['group']}"
                    problems.append(Problem(path, [], f"at least one host for {container}: {service} is enabled"))
    for service, container, file in _files_here(resolver):
        fields = resolver.declarations[service]["containers"][container]
        entry = fields["files"][file]
        if entry["optional"] != NEEDED:
            continue
        names = resolver.names(service, container=container, component=fields["component"], file=file)
        if resolver.test(fields["when"], names) and resolver.test(entry["when"], names):
            paths = override_paths(resolver, service, container, file)
            if not any(path in site.overrides for path in paths):
                expected = f"a file: {container} of {service} needs it, and only the operator has it"
                problems.append(Problem(f"overrides/{paths[0]}", None, expected))
    for name in sorted(needed_passwords(resolver, host)):
        if site.passwords.get(name) in (None, ""):
            problems.append(Problem(f"kolla:passwords:{name}", None, "a value; `kolla-salt genpwd` makes it"))
    return problems
