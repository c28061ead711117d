"""Where kolla-salt keeps its parts on a machine."""

from __future__ import annotations

import os
from pathlib import Path

STATE_DIR = Path("/var/lib/kolla-salt")
CACHE_DIR = Path("/var/cache/kolla-salt")


def formula_root() -> Path:
    """Return the folder that holds one folder per service (the Salt file root).

    ``KOLLA_SALT_FORMULA`` overrides it; a source checkout has it beside the package, an installed package inside.

    :raises FileNotFoundError: no formula is installed.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get("KOLLA_SALT_FORMULA")
    candidates = [Path(override)] if override else [package.parent / "salt", package / "_formula"]
    for path in candidates:
        if (path / "kolla" / "service.yaml").is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise FileNotFoundError(
        f"looking for the service declarations: no kolla/service.yaml below {looked}; "
        "reinstall kolla-salt or set KOLLA_SALT_FORMULA to its salt/ folder"
    )


def cache_dir(name: str) -> Path:
    """Return a folder for derived data of the current user, made with mode 0700.

    :param name: sub-folder, e.g. ``jinja``.
    """
    base = Path(os.environ.get("KOLLA_SALT_CACHE_DIR") or CACHE_DIR)
    if os.geteuid() != 0 and "KOLLA_SALT_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kolla-salt"
    path = base / name
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
