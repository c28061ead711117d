"""Show what a declaration becomes on a host: ``python -m kolla_salt.render SITE HOST SERVICE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from kolla_salt import declarations, expand, site
from kolla_salt.context import Resolver


def main(argv: list[str] | None = None) -> int:
    """Print the states of a service and, with --files, its rendered configuration files (secrets included)."""
    parser = argparse.ArgumentParser(prog="python -m kolla_salt.render", description=main.__doc__)
    parser.add_argument("site", type=Path, help="folder of the site")
    parser.add_argument("host", help="name of a host of its topology.yml")
    parser.add_argument("service", help="name of a folder below salt/")
    parser.add_argument("--files", action="store_true", help="print the configuration files too")
    args = parser.parse_args(argv)
    decls = declarations.load()
    if args.service not in decls:
        print(f"unknown service '{args.service}'{declarations.nearest(args.service, decls)}", file=sys.stderr)
        return 1
    try:
        data = site.host_pillar(site.load(args.site), decls, args.host)
    except site.SiteError as error:
        print(error, file=sys.stderr)
        return 1
    if data is None:
        print(f"{args.site}/topology.yml has no host {args.host}", file=sys.stderr)
        return 1
    resolver = Resolver(decls, data, args.host)
    print(yaml.safe_dump(expand.expand(args.service, resolver), sort_keys=False, width=140))
    if args.files:
        from kolla_salt import config

        for container, on in resolver.containers(args.service).items():
            if not on:
                continue
            for file in ["config.json", *expand.config_files(resolver, args.service, container)]:
                print(f"##### {container}/{file}")
                if file == "config.json":
                    print(config.config_json(resolver, args.service, container))
                else:
                    print(config.render(resolver, args.service, container, file).content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
