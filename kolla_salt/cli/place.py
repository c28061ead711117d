"""Where the site and the Salt master's configuration are, found without importing Salt."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kolla_salt.cli.errors import CliError

DEFAULT_SITE = Path("/etc/kolla-salt")
DEFAULT_MASTER = Path("/etc/salt/master")
SANDBOX_MASTER = "master/etc/master"


def master_config(args: argparse.Namespace) -> Path:
    """Return the master's configuration file: as given, else the machine's, else that of the sandbox.

    Raises:
        CliError: there is none.
    """
    given = getattr(args, "master_config", None) or os.environ.get("SALT_MASTER_CONFIG")
    sandbox = Path(os.environ.get("KOLLA_SALT_SANDBOX_DIR") or "/var/lib/kolla-salt/sandbox") / SANDBOX_MASTER
    for path in [Path(given)] if given else [DEFAULT_MASTER, sandbox]:
        path = path / "master" if path.is_dir() else path
        if path.is_file():
            return path
    looked = given or f"{DEFAULT_MASTER} and {sandbox}"
    raise CliError(
        f"looking for the configuration of the Salt master: no file {looked}; run this on the master, "
        "name the file with --master-config FILE, or start a sandbox: kolla-salt sandbox up"
    )


def _site_of_master(path: Path) -> Path | None:
    """Return the folder that a master's configuration gives to the ext_pillar ``kolla``."""
    import yaml

    texts = [path, *sorted((path.parent / "master.d").glob("*.conf"))]
    found = None
    for file in texts:
        try:
            data = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, yaml.YAMLError):
            continue
        for item in (data or {}).get("ext_pillar") or [] if isinstance(data, dict) else []:
            if isinstance(item, dict) and isinstance(item.get("kolla"), str):
                found = Path(item["kolla"])
        if isinstance(data, dict) and data.get("kolla_site"):
            found = Path(str(data["kolla_site"]))
    return found


def site(args: argparse.Namespace) -> Path:
    """Return the site's folder: ``--site``, ``$KOLLA_SALT_SITE``, what the master serves, ``/etc/kolla-salt``."""
    given = getattr(args, "site", None) or os.environ.get("KOLLA_SALT_SITE")
    if given:
        return Path(given)
    try:
        served = _site_of_master(master_config(args))
    except CliError:
        served = None
    return served or DEFAULT_SITE


def served_site(args: argparse.Namespace) -> Path:
    """Return the site's folder for verbs that go through the master, which must serve the very same one.

    Raises:
        CliError: another one was asked for than the master serves.
    """
    config = master_config(args)
    served = _site_of_master(config) or DEFAULT_SITE
    wanted = site(args)
    if wanted.resolve() != served.resolve():
        raise CliError(
            f"the master of {config} serves the site {served}, but {wanted} was asked for; set "
            f"'ext_pillar: [{{kolla: {wanted}}}]' in {config} and restart the master, or leave --site away"
        )
    return served
