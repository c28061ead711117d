"""The commands `kolla-salt sandbox ...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from kolla_salt.images.places import load_release
from kolla_salt.sandbox import cloud, node, rootfs
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.paths import find_paths


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command `sandbox` to ``subparsers`` and return its parser.

    The parsed arguments carry the function to call under ``handler``; it takes them and returns the exit status.
    """
    parser = subparsers.add_parser(
        "sandbox", help="a cloud of 1..N nodes on this machine", description="A cloud of 1..N nodes on this machine."
    )
    _add_commands(parser)
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="sandbox_command", required=True, metavar="COMMAND")

    def add(name: str, handler: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler)
        if name != "exec":
            # SUPPRESS: a default here would undo a --json that stands before the command.
            command.add_argument("--json", action="store_true", default=argparse.SUPPRESS,
                                 help="print the result as JSON")  # fmt: skip
        return command

    command = add("up", up, "create and start the nodes, or find that they run")
    command.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="1: all in one; 2: controller and compute; 3: three of both; from 4: three controllers "
        "and the rest compute nodes (default: as many as there are, or 1)",
    )
    command.add_argument(
        "--keep-site", action="store_true", help="do not write new nodes into the site: `kolla-salt node add` does"
    )
    command.add_argument(
        "--release", default="", help="OpenStack release, e.g. 2025.2 (default: what the site names, or the newest)"
    )
    command.add_argument("--no-wait", action="store_true", help="do not wait until engines and minions answer")
    add("status", status, "what runs and answers")
    command = add("exec", execute, "run a command in a node")
    command.add_argument("node", metavar="NODE")
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="a shell by default")
    command = add("kill", kill, "cut the power of a node; its files stay")
    command.add_argument("node", metavar="NODE")
    command = add("start", start, "start a killed node again")
    command.add_argument("node", metavar="NODE")
    command = add("replace", replace, "put a new, empty machine in the place of a node")
    command.add_argument("node", metavar="NODE")
    command = add("down", down, "remove the nodes with everything in them; caches stay")
    command.add_argument("--purge", action="store_true", help="remove the caches too")
    command = add(
        "wheels", wheels, "build wheels of the project's dependencies for this Python and print their directory"
    )
    command.add_argument("--python", default=sys.executable, help="interpreter to build for")
    command.add_argument("--extra", action="append", default=[], help="also the dependencies of this extra")


def _progress(args: argparse.Namespace) -> cloud.Progress:
    """Return where progress goes: away from the result when that is to be parsed."""
    stream = sys.stderr if args.json else sys.stdout
    return cloud.Progress(lambda line: print(line, file=stream, flush=True))


def _print_json(result: object) -> None:
    print(json.dumps(result, indent=2))


def up(args: argparse.Namespace) -> int:
    """Handle `sandbox up`."""
    result = cloud.up(
        find_paths(),
        args.nodes,
        _progress(args),
        wait=not args.no_wait,
        keep_site=args.keep_site,
        release=args.release and load_release(args.release).name,
    )
    if args.json:
        _print_json(result)
    else:
        print(f"{result['seconds']:6.1f} s  in all; {len(result['nodes'])} node(s) up; site: {result['site']}")
    return 0


def status(args: argparse.Namespace) -> int:
    """Handle `sandbox status`: exit status 0 if all is up, 3 if not."""
    result = cloud.status(find_paths())
    if args.json:
        _print_json(result)
    else:
        _print_status(result)
    return 0 if result["state"] == "up" else 3


def _print_status(result: dict[str, Any]) -> None:
    def yes(value: object) -> str:
        return "yes" if value else "NO"

    print(f"sandbox: {result['state']}")
    if result["nodes"]:
        print(f"{'node':<8} {'running':<8} {'pid':<8} {'engine':<7} {'minion':<7} {'address':<13} groups")
    for name, one in result["nodes"].items():
        print(
            f"{name:<8} {yes(one['running']):<8} {one['pid'] or '-':<8} {yes(one['engine']):<7} "
            f"{yes(one['minion']):<7} {one['address']:<13} {','.join(one['groups'])}"
        )
    master, registry = result["master"], result["registry"]
    print(f"salt-master: {yes(master['running'])} (salt -c {master['config_dir']})")
    print(f"registry:    {yes(registry['answers'])} ({registry['address']})")
    print(f"site:        {result['site']}")


def execute(args: argparse.Namespace) -> int:
    """Handle `sandbox exec`: become the command, so that its terminal and exit status are ours."""
    command = list(args.argv)
    if command[:1] == ["--"]:
        command = command[1:]
    environ = {name: os.environ[name] for name in ("TERM", "COLUMNS", "LINES") if name in os.environ}
    words = node.enter_command(node.find_node(find_paths(), args.node), command or ["/bin/bash", "-l"], environ)
    sys.stdout.flush()
    os.execvp(words[0], words)


def kill(args: argparse.Namespace) -> int:
    """Handle `sandbox kill`."""
    ran = cloud.kill_node(find_paths(), args.node, _progress(args))
    if args.json:
        _print_json({"node": args.node, "ran": ran})
    return 0


def start(args: argparse.Namespace) -> int:
    """Handle `sandbox start`."""
    result = cloud.start_node(find_paths(), args.node, _progress(args))
    if args.json:
        _print_json(result)
    return 0


def replace(args: argparse.Namespace) -> int:
    """Handle `sandbox replace`."""
    result = cloud.replace_node(find_paths(), args.node, _progress(args))
    if args.json:
        _print_json(result)
    return 0


def down(args: argparse.Namespace) -> int:
    """Handle `sandbox down`."""
    result = cloud.down(find_paths(), _progress(args), purge=args.purge)
    if args.json:
        _print_json(result)
    else:
        for path in result["kept"]:
            print(f"caches stay in {path} (remove them with --purge)")
    return 0


def wheels(args: argparse.Namespace) -> int:
    """Handle `sandbox wheels`."""
    paths = find_paths()
    project = rootfs.project_table(paths.repo)
    extras = project.get("optional-dependencies") or {}
    wanted = list(project.get("dependencies", ()))
    for extra in args.extra:
        wanted += extras.get(extra, [])
    directory = rootfs.ensure_wheels(paths.cache, args.python, wanted, lambda line: print(line, file=sys.stderr))
    if args.json:
        _print_json({"wheels": str(directory)})
    else:
        print(directory)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sandbox command; return its exit status."""
    parser = argparse.ArgumentParser(prog="kolla-salt sandbox", description="A cloud of 1..N nodes on this machine.")
    _add_commands(parser)
    args = parser.parse_args(argv, argparse.Namespace(json=False))
    try:
        return args.handler(args)
    except SandboxError as err:
        print(f"kolla-salt sandbox: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
