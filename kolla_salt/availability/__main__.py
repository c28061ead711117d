"""``python -m kolla_salt.availability --site DIR [--seconds N] [--json FILE]``: watch a cloud and print the receipt."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from kolla_salt.availability import watcher


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; status 1 if a request failed or a service never answered."""
    parser = argparse.ArgumentParser(prog="python -m kolla_salt.availability", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--site", type=Path, metavar="DIR", help="the site's folder")
    where.add_argument("--record", type=Path, help=argparse.SUPPRESS)  # of a run, which starts this
    parser.add_argument("--seconds", type=float, metavar="N", help="how long (default: until Ctrl-C)")
    parser.add_argument(
        "--rate", type=float, metavar="N", help="requests per second and entry (default: 10, with TLS 3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also store the receipt there; -: print it only")
    args = parser.parse_args(arguments)
    if args.record:
        return watcher.serve(args.record)
    return watch(args)


def watch(args: argparse.Namespace) -> int:
    """Watch the cloud of a site for a while."""
    from kolla_salt import declarations
    from kolla_salt import site as sites
    from kolla_salt.availability import Probe, account, targets
    from kolla_salt.context import Resolver

    site = sites.load(args.site)
    resolver = Resolver(declarations.load(), site.as_pillar(), next(iter(site.topology["hosts"])))
    probe = Probe(targets(resolver, args.rate), account(resolver, site.passwords))
    enough = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: enough.set())
    probe.start()
    enough.wait(args.seconds)
    receipt = probe.stop()
    text = json.dumps(receipt.data, indent=1)
    if args.json and str(args.json) == "-":
        print(text)
    else:
        if args.json:
            args.json.write_text(text + "\n")
        print(receipt.text())
    there = all(said["there_before"] is not None for said in receipt.services.values())
    return 0 if receipt.data["requests"] and there and not receipt.failed else 1


if __name__ == "__main__":
    sys.exit(main())
