"""Verbs that make a site: init, genpwd, mergepwd, import. They need no Salt and no host."""

from __future__ import annotations

import argparse
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kolla_salt.cli import place, view
from kolla_salt.cli.errors import CliError

#: What of Kolla-Ansible's folder of certificates has the same place here.
CERTIFICATES = ("haproxy.pem", "haproxy-internal.pem", "ca/*.crt")


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    parser = subparsers.add_parser("init")
    parser.add_argument("directory", nargs="?", metavar="DIR", help="where to write it (default: the site's folder)")
    parser.add_argument(
        "--multinode", action="store_true", help="three controllers and two compute hosts instead of one host"
    )
    parser.set_defaults(handler=init)

    parser = subparsers.add_parser("genpwd")
    parser.add_argument("-p", "--passwords", metavar="FILE", help="the file (default: passwords.yml of the site)")
    parser.set_defaults(handler=genpwd)

    parser = subparsers.add_parser("mergepwd")
    parser.add_argument("--old", required=True, metavar="FILE", help="passwords in use; they win")
    parser.add_argument("--new", required=True, metavar="FILE", help="passwords made for a newer release")
    parser.add_argument("--final", required=True, metavar="FILE", help="where the result goes")
    parser.add_argument("--clean", action="store_true", help="drop names that the new file does not have")
    parser.set_defaults(handler=mergepwd)

    parser = subparsers.add_parser("import")
    parser.add_argument("--globals", default="/etc/kolla/globals.yml", metavar="FILE", help="(default: %(default)s)")
    parser.add_argument(
        "--passwords", default="/etc/kolla/passwords.yml", metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument("--inventory", required=True, metavar="FILE", help="the inventory, INI form")
    parser.add_argument("--config", metavar="DIR", help="folder of overrides (default: config/ beside globals.yml)")
    parser.set_defaults(handler=import_site)


def example_root() -> Path:
    """Return the folder of the example sites: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    for path in (package.parent / "pillar", package / "_example"):
        if (path / "all-in-one" / "globals.yml").is_file():
            return path
    raise CliError(
        f"looking for the example sites: neither {package.parent / 'pillar'} nor {package / '_example'} "
        "has them; reinstall kolla-salt"
    )


def _empty(directory: Path) -> None:
    there = [name for name in ("globals.yml", "topology.yml", "passwords.yml") if (directory / name).exists()]
    if there:
        raise CliError(
            f"writing a site to {directory}: {', '.join(there)} is there already and was left alone; "
            "give another folder, or remove it first"
        )


def _say(args: argparse.Namespace, data: dict[str, Any], *lines: str) -> int:
    print(json.dumps({"ok": True, **data}, indent=1) if args.json else "\n".join(lines))
    return 0


def init(args: argparse.Namespace) -> int:
    """Copy an example site."""
    directory = Path(args.directory) if args.directory else place.site(args)
    _empty(directory)
    kind = "multinode" if args.multinode else "all-in-one"
    source = example_root() / kind
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "overrides").mkdir(exist_ok=True)
    for name in ("globals.yml", "topology.yml", "passwords.yml"):
        shutil.copyfile(source / name, directory / name)
        (directory / name).chmod(0o600 if name == "passwords.yml" else 0o644)
    return _say(
        args,
        {"directory": str(directory), "example": kind},
        f"wrote an example site ({kind}) to {directory}",
        "next: edit globals.yml and topology.yml there, then",
        f"  kolla-salt genpwd --site {directory}",
        "  kolla-salt validate-config --offline" + (f" --site {directory}" if directory != place.DEFAULT_SITE else ""),
    )


def genpwd(args: argparse.Namespace) -> int:
    """Make what is missing in passwords.yml."""
    from kolla_salt import declarations, passwords

    path = Path(args.passwords) if args.passwords else place.site(args) / "passwords.yml"
    if not path.parent.is_dir():
        raise CliError(
            f"making passwords in {path}: the folder does not exist; 'kolla-salt init {path.parent}' makes a site"
        )
    try:
        report = passwords.generate(path, declarations.load())
    except passwords.PasswordError as error:
        raise CliError(str(error)) from error
    lines = [f"{path}: made {view.plural(len(report.made), 'password')}, kept {len(report.kept)}"]
    if report.open:
        lines.append(f"  only you can know: {', '.join(report.open)} (needed if their service uses them)")
    if report.undeclared:
        lines.append(f"  no service declares: {', '.join(report.undeclared)} (kept)")
    return _say(args, {"file": str(path), **vars(report)}, *lines)


def mergepwd(args: argparse.Namespace) -> int:
    """Merge two password files into a third."""
    from kolla_salt import passwords

    for path in (args.old, args.new):
        if not Path(path).is_file():
            raise CliError(f"merging passwords: {path} does not exist")
    try:
        old, new = passwords.read(Path(args.old)), passwords.read(Path(args.new))
        # An empty entry of the old file says nothing; a new value must not be lost to it.
        merged = passwords.merge(
            {name: value for name, value in old.items() if value not in (None, "")}, new, args.clean
        )
    except passwords.PasswordError as error:
        raise CliError(str(error)) from error
    passwords.write(Path(args.final), passwords.dump(merged))
    added = sorted(set(merged) - set(old))
    dropped = sorted(set(old) - set(merged))
    lines = [f"wrote {args.final}: {len(merged)} passwords, {len(added)} of them only in {args.new}"]
    if dropped:
        lines.append(f"  dropped: {', '.join(dropped)}")
    return _say(args, {"file": args.final, "added": added, "dropped": dropped, "total": len(merged)}, *lines)


def import_site(args: argparse.Namespace) -> int:
    """Write a site from Kolla-Ansible's files; exit status 1 if something was not taken over."""
    import yaml

    from kolla_salt import declarations, importer, passwords

    directory = place.site(args)
    _empty(directory)
    for path in (args.globals, args.inventory):
        if not Path(path).is_file():
            raise CliError(
                f"importing a deployment: {path} does not exist; name the file with "
                f"--{'globals' if path == args.globals else 'inventory'} FILE"
            )
    decls = declarations.load()
    try:
        settings = passwords.read(Path(args.globals))
        old = passwords.read(Path(args.passwords))
        found = importer.site(settings, Path(args.inventory).read_text(), decls)
    except passwords.PasswordError as error:
        raise CliError(str(error)) from error
    directory.mkdir(parents=True, exist_ok=True)
    head = f"# Imported from {args.globals}.\n"
    (directory / "globals.yml").write_text(head + yaml.safe_dump(found.globals, sort_keys=True))
    head = f"# Imported from {args.inventory}.\n"
    (directory / "topology.yml").write_text(head + yaml.safe_dump(found.topology, sort_keys=False))
    passwords.write(directory / "passwords.yml", passwords.dump(old))
    copied = _overrides(
        Path(args.config) if args.config else Path(args.globals).parent / "config", directory / "overrides", found.left
    )
    certificates = Path(args.globals).parent / "certificates"
    copied += [
        f"certificates/{name}"
        for name in _overrides(certificates, directory / "overrides/certificates", found.left, CERTIFICATES)
    ]
    kinds = passwords.declared(decls)
    lacking = sorted(name for name, kind in kinds.items() if name not in old and kind["kind"] != "none")
    if args.json:
        print(
            json.dumps(
                {
                    "ok": not found.left,
                    "directory": str(directory),
                    "not_taken_over": found.left,
                    "overrides": copied,
                    "passwords_to_make": lacking,
                },
                indent=1,
            )
        )
    else:
        print(
            f"wrote {directory}: {len(found.globals)} options, {len(found.topology['hosts'])} hosts, "
            f"{len(old)} passwords, {len(copied)} overrides"
        )
        if found.left:
            print(f"not taken over ({len(found.left)}):\n  " + "\n  ".join(found.left))
        print(
            "next: look at the list above, then\n"
            f"  kolla-salt genpwd --site {directory}     ({len(lacking)} passwords that Kolla-Ansible does not have)\n"
            f"  kolla-salt validate-config --offline --site {directory}\n  kolla-salt plan"
        )
    return 1 if found.left else 0


def _overrides(source: Path, target: Path, left: list[str], patterns: tuple[str, ...] = ("*",)) -> list[str]:
    """Copy configuration fragments that match, with their modes; what is not text is left, and named."""
    copied = []
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")) if source.is_dir() else []:
        name = str(path.relative_to(source))
        if not path.is_file() or not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            left.append(f"{path}: not text; configuration fragments are")
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).touch(mode=0o600)
        (target / name).write_text(text)
        shutil.copymode(path, target / name)
        copied.append(name)
    return copied
