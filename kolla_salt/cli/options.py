"""Options that several verbs have."""

from __future__ import annotations

import argparse


def names(text: str) -> list[str]:
    """Return names that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add ``--limit``; ``args.limit`` is a list, or None."""
    parser.add_argument("--limit", metavar="HOSTS", type=names, help="only these hosts, separated by commas")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that restrict a verb to services and hosts."""
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services (default: all)")
    add_limit(parser)


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add ``--service``, which can be repeated; ``args.services`` is a list."""
    parser.add_argument(
        "--service", dest="services", metavar="NAMES", action="extend", type=names, default=[],
        help="only these services, separated by commas",
    )  # fmt: skip
