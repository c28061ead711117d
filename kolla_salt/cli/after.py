"""Verbs for after a deployment: post-deploy, smoke."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from kolla_salt.cli import place
from kolla_salt.cli.errors import CliError


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    parser = subparsers.add_parser("post-deploy")
    parser.add_argument("--name", help="entry in clouds.yaml (default: 'sandbox' in a sandbox, else 'kolla-admin')")
    parser.add_argument("--directory", metavar="DIR", help="where both files go (default: the site's folder)")
    parser.add_argument("--internal", action="store_true", help="use the internal endpoints instead of the public ones")
    parser.set_defaults(handler=post_deploy)

    parser = subparsers.add_parser("smoke")
    parser.add_argument(
        "--keep", action="store_true", help="leave the server running, and take it if it is there already"
    )
    parser.add_argument("--no-reach", action="store_true", help="do not ping the server: this machine has no way to it")
    parser.add_argument(
        "--physical-network", metavar="NAME", help="provider network of floating IPs (default: the first)"
    )
    parser.add_argument("--external-cidr", metavar="CIDR", help="its addresses, where no external network exists yet")
    parser.add_argument("--external-gateway", metavar="ADDRESS", help="its router (default: the first address)")
    parser.add_argument("--external-pool", metavar="FIRST-LAST", help="addresses that may be given away")
    parser.add_argument(
        "--timeout", type=int, default=240, metavar="SECONDS", help="for each wait (default: %(default)s)"
    )
    parser.set_defaults(handler=smoke)


def in_sandbox(directory: Path) -> bool:
    """Return whether ``directory`` is the site of this machine's sandbox."""
    from kolla_salt.sandbox.paths import find_paths

    return directory.resolve() == find_paths().site.resolve()


def post_deploy(args: argparse.Namespace) -> int:
    """Write clouds.yaml and admin-openrc.sh, readable by their owner only."""
    from kolla_salt import clouds
    from kolla_salt.cli.look import Cloud
    from kolla_salt.declarations import write_atomically

    cloud = Cloud(place.site(args))
    cloud.check()
    directory = Path(args.directory) if args.directory else Path(cloud.directory)
    name = args.name or ("sandbox" if in_sandbox(Path(cloud.directory)) else "kolla-admin")
    path, script = directory / "clouds.yaml", directory / "admin-openrc.sh"
    try:
        entry = clouds.access(cloud.resolver, cloud.site.passwords, "internal" if args.internal else "public")
        text = clouds.merged(path.read_text() if path.exists() else "", name, entry)
    except LookupError as error:
        raise CliError(f"writing the administrator's access: {error.args[0]}") from error
    except ValueError as error:
        raise CliError(f"adding the entry '{name}' to {path}: {error}; mend the file or move it away") from error
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    write_atomically(script, clouds.openrc(entry).encode())
    dashboard = dashboard_url(cloud)
    if args.json:
        print(
            json.dumps(
                {
                    "ok": True,
                    "clouds": str(path),
                    "cloud": name,
                    "openrc": str(script),
                    "auth_url": entry["auth"]["auth_url"],
                    "dashboard": dashboard,
                },
                indent=1,
            )
        )
        return 0
    print(f"wrote {path} (entry '{name}') and {script}")
    print(f"  export OS_CLIENT_CONFIG_FILE={path} OS_CLOUD={name}     or     . {script}")
    if dashboard:
        print(
            f"dashboard: {dashboard}  user {entry['auth']['username']}, "
            "password keystone_admin_password in passwords.yml"
        )
    return 0


def dashboard_url(cloud: Any) -> str | None:
    """Return the address of the dashboard: the public entry that is for people."""
    for entry in cloud.resolver.catalogue["load_balancer"]:
        if entry["external"] and entry["page"]:
            url = cloud.resolver.endpoint(entry["entry"], "public")
            return url.removesuffix(":80") if url.startswith("http:") else url.removesuffix(":443")
    return None


def _options(args: argparse.Namespace, cloud: Any) -> Any:
    from ipaddress import ip_network

    from kolla_salt import smoke as smokes

    resolver = cloud.resolver
    names = (
        resolver.value("neutron_physical_networks") if "neutron_physical_networks" in resolver.settings else "physnet1"
    )
    cidr = getattr(args, "external_cidr", None) or ""
    pool = tuple((getattr(args, "external_pool", None) or "-").split("-", 1))
    gateway = getattr(args, "external_gateway", None) or ""
    if not cidr and in_sandbox(Path(cloud.directory)):
        from kolla_salt.sandbox import topology

        cidr, gateway = f"{topology.EXT_NET}.0/{topology.PREFIX_LENGTH}", topology.HOST_EXT
        pool = (f"{topology.EXT_NET}.100", f"{topology.EXT_NET}.199")
    if cidr and not all(pool):
        hosts = list(ip_network(cidr).hosts())
        gateway = gateway or str(hosts[0])
        pool = (str(hosts[len(hosts) // 2]), str(hosts[-1]))
    keep = getattr(args, "keep", False)
    return smokes.Options(
        prefix="kolla-salt-demo" if keep else "kolla-salt-smoke",
        keep=keep,
        cidr=cidr,
        gateway=gateway,
        pool=pool,
        inner_cidr="10.222.112.0/24" if keep else "10.222.111.0/24",
        physical_network=getattr(args, "physical_network", None) or str(names).split(",")[0].strip(),
        timeout=getattr(args, "timeout", 240),
        reach=not getattr(args, "no_reach", False),
    )


def run_smoke(args: argparse.Namespace, cloud: Any, quiet: bool = False) -> dict[str, Any]:
    """Do the smoke check and return its result as plain data."""
    try:
        import openstack
        import websocket  # noqa: F401 used at the end of the check, when it would be late to miss it
    except ImportError as error:
        raise CliError(
            f"the smoke check needs the Python package of the module {error.name}, which is not installed here; "
            "salt-pip install openstacksdk websocket-client zstandard (or the pip of this Python)"
        ) from error
    from kolla_salt import clouds, guest
    from kolla_salt import smoke as smokes

    def say(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    try:
        entry = clouds.access(cloud.resolver, cloud.site.passwords, "public")
        began = time.monotonic()
        files = guest.build()
        say(
            f"{time.monotonic() - began:7.1f} s  the guest's files: Linux {files.version}, "
            f"ramdisk {files.ramdisk.stat().st_size // 1024} KiB"
        )
    except LookupError as error:
        raise CliError(f"signing in: {error.args[0]}") from error
    except guest.GuestError as error:
        raise CliError(str(error)) from error
    entry = dict(entry)
    connection = openstack.connect(
        load_yaml_config=False, load_envvars=False, app_name="kolla-salt", verify=entry.pop("cacert", True), **entry
    )
    result = smokes.Check(connection, _options(args, cloud), files, say).run()
    return vars(result)


def smoke(args: argparse.Namespace) -> int:
    """Boot a server, reach it, remove it again."""
    from kolla_salt.cli.look import Cloud

    cloud = Cloud(place.site(args))
    cloud.check()
    result = run_smoke(args, cloud, quiet=args.json)
    if args.json:
        print(json.dumps(result, indent=1, default=str))
        return 0 if result["ok"] else 1
    if not result["ok"]:
        print(f"smoke FAILED: {result['error']}")
        for item in result["leftovers"]:
            print(f"  left behind: {item}")
        return 1
    print(f"smoke: all well  ({result['seconds']:.1f} s)")
    if args.keep:
        server = result["server"]
        print(
            f"server {server['name']} runs on {server['host']} and answers ping and HTTP: "
            f"http://{server.get('address', '?')}/"
        )
        dashboard = dashboard_url(cloud)
        if dashboard:
            print(f"dashboard: {dashboard}")
    return 0
