"""``kolla-salt images``: container images of a release, in a registry that nodes can pull from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kolla_salt.images import build as images
from kolla_salt.images import host, lock, registry
from kolla_salt.images.errors import ImageError
from kolla_salt.images.places import UPSTREAM, Cache, load_release
from kolla_salt.images.process import locked
from kolla_salt.images.progress import Report, megabytes
from kolla_salt.images.workspace import Workspace


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb ``images`` to a command line.

    The chosen function is in ``args.handler``; it takes the parsed arguments and returns the exit status.

    :param subparsers: what ``ArgumentParser.add_subparsers`` returned.
    :returns: the parser of the verb.
    """
    parser = subparsers.add_parser("images", help="build, pull, list and push container images", description=__doc__)
    verbs = parser.add_subparsers(dest="images_verb", required=True, metavar="VERB")

    def verb(name: str, handler: Any, text: str, *, engine: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.add_argument("--release", default="", help="OpenStack release, e.g. 2025.2 (default: the newest)")
        # Suppressed defaults: the option may also stand before the verb, where the main command line reads it.
        sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="write the result as JSON")
        if engine:
            names = "names of images; by default what a cloud needs"
            sub.add_argument("images", nargs="*", metavar="IMAGE", help=names)
            sub.add_argument("--extra", action="store_true", help="with the images that no deployment needs")
            sub.add_argument("--keep-engine", action="store_true", help="leave the private engine running")
        sub.set_defaults(handler=handler)
        return sub

    def building(sub: argparse.ArgumentParser) -> None:
        text = "site folder; DIR/images/ customises images"
        sub.add_argument("--site", metavar="DIR", default=argparse.SUPPRESS, help=text)
        sub.add_argument("--threads", type=int, default=0, help="images at the same time (default: one per processor)")
        sub.add_argument("--refresh", action="store_true", help="build all anew, with the packages of today")

    sub = verb("ensure", _ensure, "have the images in the local registry: from upstream if reachable, else built")
    building(sub)
    sub = verb("build", _build, "build the images that changed and push them to the local registry")
    building(sub)
    sub.add_argument("--dry-run", action="store_true", help="only say what would be built")
    sub = verb("pull", _pull, "copy upstream's images into the local registry")
    sub.add_argument("--from", dest="upstream", default=UPSTREAM, metavar="HOST/NAMESPACE", help="default: %(default)s")
    sub = verb("push", _push, "copy the images of the local registry into another one")
    sub.add_argument("--to", dest="target", required=True, metavar="HOST[:PORT][/NAMESPACE]")
    sub = verb("list", _list, "list the images and whether the local registry has them")
    sub.add_argument("--all", action="store_true", help="also what the registry has beyond the list")
    verb("lock", _lock, "resolve the lock files of a release anew", engine=False)
    sub = verb("registry", _registry, "start, stop or clean the local registry, or say where it runs", engine=False)
    sub.add_argument("action", choices=["start", "stop", "status", "clean"])
    sub.add_argument("--listen", action="append", metavar="HOST:PORT", help="may be given more than once")
    return parser


def _options(args: argparse.Namespace) -> images.Options:
    site = getattr(args, "site", None)
    return images.Options(
        release=args.release,
        images=args.images,
        extra=args.extra,
        site=Path(site) if site else None,
        threads=getattr(args, "threads", 0),
        refresh=getattr(args, "refresh", False),
        keep_engine=args.keep_engine,
    )


def _progress(args: argparse.Namespace) -> images.Out:
    """Return where progress goes: with ``--json``, standard output is the result's alone."""
    stream = sys.stderr if args.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)


def _show(args: argparse.Namespace, report: Report) -> int:
    if args.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print("\n".join(["", *report.lines()]))
    if report.failed and not args.json:
        names = ", ".join(row.name for row in report.failed if row.state == "failed")
        print(f"failed: {names}; the same command tries these again and keeps the others", file=sys.stderr)
    return 1 if report.failed else 0


def _ensure(args: argparse.Namespace) -> int:
    return _show(args, images.ensure(_options(args), _progress(args)))


def _build(args: argparse.Namespace) -> int:
    if args.dry_run:
        return _show(args, images.Build(_options(args), _progress(args)).dry_run())
    return _show(args, images.build(_options(args), _progress(args)))


def _pull(args: argparse.Namespace) -> int:
    return _show(args, images.pull(_options(args), _progress(args), upstream=args.upstream))


def _push(args: argparse.Namespace) -> int:
    return _show(args, images.push(_options(args), args.target, _progress(args)))


def _list(args: argparse.Namespace) -> int:
    rows = images.listing(_options(args), args.all)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            state = megabytes(row["compressed"]) if row["present"] else "absent"
            print(f"{row['image']:75} {state:>8}")
    return 0


def _lock(args: argparse.Namespace) -> int:
    release, cache = load_release(args.release), Cache.default()
    with locked(cache.work / "lock", f"resolving the lock files of release {release.name}", wait=False):
        counts = lock.resolve(release, Workspace(release, cache, registry.LOCAL), host.read().index_urls())
    if args.json:
        print(json.dumps({"release": release.name, "folder": str(release.folder), "entries": counts}, indent=2))
    else:
        for name, count in counts.items():
            print(f"{release.folder / name}: {count} entries")
    return 0


def _registry(args: argparse.Namespace) -> int:
    if args.action == "start":
        registry.ensure_running(args.listen)
    elif args.action == "stop":
        registry.stop()
    elif args.action == "clean":
        cache, address = Cache.default(), registry.ensure_running(registry.LOCAL)
        with locked(cache.work / "lock", "cleaning the registry", wait=False):
            freed = registry.clean(address, cache=cache)
        if not args.json:
            print(f"{megabytes(freed)} became free")
    addresses = registry.running()
    if args.json:
        print(json.dumps({"running": addresses}))
    else:
        print(f"the registry listens at {', '.join(addresses)}" if addresses else "the registry does not run")
    return 0 if addresses or args.action == "stop" else 1


def report_error(args: argparse.Namespace, error: ImageError) -> int:
    """Tell of an error in the way the caller asked for, and return the exit status."""
    if getattr(args, "json", False):
        print(json.dumps({"ok": False, "error": error.as_dict()}, indent=2))
    else:
        print(f"kolla-salt: {error}", file=sys.stderr)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run ``kolla-salt images`` alone: ``python -m kolla_salt.images VERB``."""
    parser = argparse.ArgumentParser(prog="kolla-salt")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["images", *(sys.argv[1:] if argv is None else argv)])
    args.json = getattr(args, "json", False)
    try:
        return int(args.handler(args))
    except ImageError as error:
        return report_error(args, error)
    except KeyboardInterrupt:
        print("kolla-salt: interrupted; images that are ready are kept", file=sys.stderr)
        return 130
