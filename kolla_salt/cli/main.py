"""Entry point of ``kolla-salt``.

The table below is all that is needed to print the help; a verb's module is imported when the verb is called, and Salt
only by verbs that talk to hosts. So ``kolla-salt --help`` costs what Python's start costs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from kolla_salt import __version__
from kolla_salt.cli.errors import CliError


class Verb(NamedTuple):
    """One verb: where it is implemented and what it does, in one line."""

    name: str
    module: str
    help: str


GROUPS: tuple[tuple[str, tuple[Verb, ...]], ...] = (
    (
        "the site",
        (
            Verb("init", "kolla_salt.cli.site", "write a commented example site"),
            Verb("genpwd", "kolla_salt.cli.site", "make the passwords that are missing"),
            Verb("mergepwd", "kolla_salt.cli.site", "take the passwords of an older file into a newer one"),
            Verb("import", "kolla_salt.cli.site", "make a site from the files of a Kolla-Ansible deployment"),
        ),
    ),
    (
        "before a run",
        (
            Verb("prechecks", "kolla_salt.cli.look", "ask every host whether it can be deployed to"),
            Verb("images", "kolla_salt.images.cli", "build, list and serve container images"),
            Verb("pull", "kolla_salt.cli.cloud", "fetch the images that hosts lack"),
            Verb("plan", "kolla_salt.cli.plan", "show what a run would do, file by file and container by container"),
        ),
    ),
    (
        "runs",
        (
            Verb("deploy", "kolla_salt.cli.cloud", "bring the cloud to the state that the site describes"),
            Verb("apply", "kolla_salt.cli.plan", "do exactly what a plan says, or refuse if the world has moved since"),
            Verb("reconfigure", "kolla_salt.cli.cloud", "the same as deploy, by the name Kolla-Ansible gives it"),
            Verb("upgrade", "kolla_salt.cli.upgrade", "change the release, service by service, with a way back"),
            Verb("rollback", "kolla_salt.cli.rollback", "return the cloud to what it was before a run"),
            Verb("genconfig", "kolla_salt.cli.cloud", "write configuration files only, restart nothing"),
            Verb("post-deploy", "kolla_salt.cli.after", "write clouds.yaml and admin-openrc.sh"),
            Verb("mariadb-recovery", "kolla_salt.cli.recovery", "start a stopped database cluster from its best data"),
            Verb("stop", "kolla_salt.cli.cloud", "stop all containers of the cloud"),
            Verb("destroy", "kolla_salt.cli.cloud", "remove what deploy made, data included"),
        ),
    ),
    (
        "hosts",
        (Verb("node", "kolla_salt.cli.node", "add, drain, undrain, remove or replace a host"),),
    ),
    (
        "looking",
        (
            Verb("status", "kolla_salt.cli.look", "table of hosts and containers"),
            Verb("verify", "kolla_salt.cli.verify", "find drift, sick containers, dead endpoints and agents"),
            Verb("smoke", "kolla_salt.cli.after", "boot a server, reach it, remove it again"),
            Verb(
                "validate-config",
                "kolla_salt.cli.look",
                "check the site, and the written configuration in the containers",
            ),
            Verb("runs", "kolla_salt.cli.history", "past runs: list, show one, compare two, report as HTML"),
        ),
    ),
    ("trying it out", (Verb("sandbox", "kolla_salt.sandbox.cli", "a cloud of one to several nodes on this machine"),)),
)
VERBS = {verb.name: verb for _, verbs in GROUPS for verb in verbs}


def common() -> argparse.ArgumentParser:
    """Return the parser of the options that every verb has."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--site",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder of the site (default: $KOLLA_SALT_SITE, what the master serves, /etc/kolla-salt)",
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document instead of text"
    )
    parser.add_argument(
        "--master-config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="configuration of the Salt master (default: $SALT_MASTER_CONFIG, /etc/salt/master, the sandbox's)",
    )
    return parser


def build(verb: str | None) -> argparse.ArgumentParser:
    """Return the parser; only ``verb`` has its options, the others are names with a line of help."""
    parser = argparse.ArgumentParser(
        prog="kolla-salt",
        parents=[common()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="OpenStack in containers, deployed and operated with Salt.",
        usage="kolla-salt VERB [options]",
        epilog="\n".join(
            line
            for title, verbs in GROUPS
            for line in (f"{title}:", *(f"  {item.name:<16} {item.help}" for item in verbs), "")
        )
        + "'kolla-salt VERB --help' explains a verb. Exit status is 0 only if all is well.",
    )
    parser.add_argument("--version", action="version", version=f"kolla-salt {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", help=argparse.SUPPRESS, prog="kolla-salt")
    if verb in VERBS:
        module = importlib.import_module(VERBS[verb].module)
        module.add_parser(_Only(subparsers, verb))
    return parser


class _Only:
    """Stands in for argparse's sub-parsers and lets a module that knows several verbs add just the one called for."""

    def __init__(self, subparsers: argparse._SubParsersAction, verb: str) -> None:
        self.subparsers = subparsers
        self.verb = verb

    def add_parser(self, name: str, **options: object) -> argparse.ArgumentParser:
        if name != self.verb:
            return argparse.ArgumentParser(prog=name)
        options.setdefault("help", VERBS[name].help)
        options.setdefault("description", str(options["help"])[:1].upper() + str(options["help"])[1:] + ".")
        options["parents"] = [*options.get("parents", []), common()]  # type: ignore[misc]
        return self.subparsers.add_parser(name, **options)


def _verb(argv: Sequence[str]) -> str | None:
    """Return the first argument that is no option and no option's value."""
    words = iter(argv)
    for word in words:
        if word in {"--site", "--master-config"}:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 only if all is well."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = _verb(argv)
    if verb is None and not {"-h", "--help", "--version"} & set(argv):
        build(None).print_help()
        return 2
    if verb is not None and verb not in VERBS:
        from difflib import get_close_matches

        close = get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        print(f"kolla-salt: unknown verb '{verb}'{hint or ';'} 'kolla-salt --help' lists all", file=sys.stderr)
        return 2
    # The answers of many hosts are many objects that stay; searching them for garbage again and again doubles the work.
    gc.set_threshold(50_000, 20, 20)
    args = build(verb).parse_args(argv)
    args.json = getattr(args, "json", False)
    run = getattr(args, "handler", None)
    if run is None:
        print(f"kolla-salt {verb}: say what to do; 'kolla-salt {verb} --help' lists it", file=sys.stderr)
        return 2
    try:
        return int(run(args) or 0)
    except CliError as error:
        return fail(args, verb, str(error), error.status, **error.details)
    except _expected() as error:
        return fail(args, verb, str(error), 1)
    except KeyboardInterrupt:
        return fail(args, verb, "interrupted; what was already done stays, the same command goes on from there", 130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _expected() -> tuple[type[Exception], ...]:
    """Return the errors of the library whose text is meant for the operator; evaluated only once there is one."""
    from kolla_salt.context import ContextError
    from kolla_salt.declarations import DeclarationError
    from kolla_salt.images.errors import ImageError
    from kolla_salt.runs import UnknownRun
    from kolla_salt.sandbox.errors import SandboxError
    from kolla_salt.site import SiteError

    return (ContextError, DeclarationError, ImageError, SandboxError, SiteError, UnknownRun, PermissionError)


def fail(args: argparse.Namespace, verb: str | None, text: str, status: int, **details: object) -> int:
    """Tell about a failure, on stderr, or as JSON on stdout."""
    if args.json:
        print(json.dumps({"ok": False, "error": text, **details}, indent=1, default=str))
    else:
        print(f"kolla-salt {verb}: {text}", file=sys.stderr)
    return status


def command() -> NoReturn:
    """Be the program. A run that was left has threads that wait for its hosts: they do not keep it from its end."""
    status = main()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command()
