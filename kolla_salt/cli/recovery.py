"""``mariadb-recovery``: the database's cluster runs again after all its members have stopped or lost power."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kolla_salt import galera, recovery
from kolla_salt.cli import view
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import Master


def add_parser(subparsers: Any) -> None:
    """Add the verb of this module."""
    parser = subparsers.add_parser("mariadb-recovery")
    parser.add_argument(
        "--without", metavar="HOST", action="append", default=[],
        help="go on without a host that does not answer; what it alone has is lost (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--from", metavar="HOST", dest="chosen",
        help="start from this host's data instead of the most advanced ones; what others have beyond them is lost",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=float, metavar="SECONDS", default=recovery.PATIENCE,
        help="wait so long for members that could find each other by themselves (default: %(default)g)",
    )  # fmt: skip
    parser.set_defaults(handler=recover)


def recover(args: argparse.Namespace) -> int:
    """Find the most advanced member, start the cluster from it, and bring the others in."""
    from kolla_salt.cli.look import Cloud

    master = Master(args)
    cloud = Cloud(master.site)
    order = cloud.resolver.hosts("mariadb") if cloud.resolver.enabled("mariadb") else []
    if not order:
        raise CliError("the site has no database of its own: enable_mariadb is off, or the group `mariadb` is empty")
    made = recovery.Recovery(
        order=order,
        ask=master.ask,
        present=lambda hosts: master.present(hosts)[0],
        without=args.without,
        chosen=args.chosen,
        patience=args.patience,
        tell=_nothing if args.json else _tell,
    )
    if not args.json:
        print(master.command("state.orchestrate", "orch.mariadb_recovery", **_pillar(args)))
    try:
        result = recovery.recorded(made, master.runs_root(), master.site)
    except galera.GaleraError as error:
        raise CliError(str(error), bootstrapped=None, members={}) from error
    if args.json:
        print(json.dumps(result, indent=1, default=str))
    else:
        print("\n".join(_ending(result)))
    return 0 if result["ok"] else 1


def _nothing(line: str) -> None:
    """Tell nobody."""


def _tell(line: str) -> None:
    print(line, flush=True)


def _pillar(args: argparse.Namespace) -> dict[str, Any]:
    asked = {
        key: value for key, value in (("without", args.without), ("from", args.chosen)) if value
    }  # fmt: skip
    return {"pillar": {"kolla_recovery": asked}} if asked else {}


def _ending(result: dict[str, Any]) -> list[str]:
    lines = ["", view.table(["host", "state"], result["members"].items())]
    lines += [*result["problems"], *([result["error"]] if result["error"] else [])]
    size = result["size"]
    if not size:
        how = "no cluster runs"
    elif result["bootstrapped"]:
        how = f"a cluster of {size}, started from {result['bootstrapped']}"
    else:
        how = f"a cluster of {size}, which {'came back by itself' if result['waited'] else 'was running'}"
    ending = "done" if result["ok"] else "FAILED" if not size else "INCOMPLETE"
    lines.append(
        f"mariadb-recovery {ending}: {how}, {result['seconds']:.1f} s; record: kolla-salt runs show {result['run']}"
    )
    return lines
