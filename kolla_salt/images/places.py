"""Folders, names and the data of one release."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.version import Version

from kolla_salt.images.errors import ImageError
from kolla_salt.paths import cache_dir
from kolla_salt.releases import RELEASES

NAMESPACE = "openstack.kolla"
UPSTREAM = "quay.io/openstack.kolla"


def data_dir() -> Path:
    """Return the project's ``images/`` folder (overrides, lock files, additional Docker directories).

    ``KOLLA_SALT_IMAGES`` overrides it; a source checkout has it beside the package, an installed package
    inside.

    :raises ImageError: no such folder.
    """
    package = Path(__file__).resolve().parent.parent
    override = os.environ.get("KOLLA_SALT_IMAGES")
    candidates = [Path(override)] if override else [package.parent / "images", package / "_images"]
    for path in candidates:
        if (path / "template-override.j2").is_file():
            return path
    raise ImageError(
        "looking for the image build data",
        f"no template-override.j2 in {', '.join(map(str, candidates))}",
        "the folder images/ of kolla-salt",
        "reinstall kolla-salt or set KOLLA_SALT_IMAGES",
    )


@dataclass(frozen=True)
class Release:
    """What the project knows about a release's images (``images/locks/<name>/release.yml``).

    :param kolla: versions of the builder.
    :param upstream: whether upstream has images of this release on this suite.
    :param packages: what to ``remove`` from and ``append`` to the Debian packages of an image's template.
    """

    name: str
    base: str
    suite: str
    supported_name: str
    kolla: str
    python: str
    libraries_until: str
    upstream: bool
    packages: dict[str, dict[str, list[str]]]
    projects: dict[str, dict[str, str]]
    caps: dict[str, dict[str, str]]
    collections: dict[str, list[str]]
    folder: Path

    @property
    def tag(self) -> str:
        """Return the image tag, the same as upstream's."""
        return f"{self.name}-{self.base}-{self.suite}"


def releases() -> list[str]:
    """Return the names of the supported releases, the newest last.

    They are the folders of ``images/locks``; nothing else lists them.
    """
    return sorted((path.parent.name for path in (data_dir() / "locks").glob("*/release.yml")), key=Version)


def load_release(name: str = "") -> Release:
    """Read a release's data.

    :param name: e.g. ``2026.1``; by default the newest release.
    :raises ImageError: the release is not known; the message names the known ones.
    """
    name = name or releases()[-1]
    path = data_dir() / "locks" / name / "release.yml"
    if not path.is_file():
        raise ImageError(f"reading the image data of release {name}", f"no {path}", f"one of: {', '.join(releases())}")
    if name not in RELEASES:
        raise ImageError(
            f"reading the image data of release {name}",
            "it is not in kolla_salt/releases.py",
            f"the version of Kolla that builds its images; known are {', '.join(RELEASES)}",
        )
    data = yaml.safe_load(path.read_text())
    return Release(
        name=name,
        base=data["base"],
        suite=data["suite"],
        supported_name=data["supported_name"],
        kolla=f">={RELEASES[name]},<{RELEASES[name] + 1}",
        python=str(data["python"]),
        libraries_until=str(data["libraries_until"]),
        upstream=bool(data.get("upstream", True)),
        packages=data.get("packages") or {},
        projects=data["projects"],
        caps=data.get("caps") or {},
        collections=data.get("collections") or {},
        folder=path.parent,
    )


def default_images(release: str, extra: bool = False) -> list[str]:
    """Return the names of the images a cloud of the declared services needs, in the order of the file.

    :param release: e.g. ``2026.1``.
    :param extra: with the images that can be built, but that no deployment of ours needs.
    """
    data = yaml.safe_load((data_dir() / "default.yml").read_text())
    wanted = data["images"] + (data["extra"] if extra else [])
    return [str(name) for name in wanted]


@dataclass(frozen=True)
class Cache:
    """Folders of derived data; everything below can be deleted and is made again."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """Return the folders below the cache folder of the current user."""
        return cls(cache_dir("."))

    def folder(self, *parts: str) -> Path:
        """Return a sub-folder, made if absent."""
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def work(self) -> Path:
        """Return the folder of rendered build files, logs and states."""
        return self.folder("images")

    @property
    def tools(self) -> Path:
        """Return the folder into which Debian packages are extracted."""
        return self.folder("docker-build", "tools")
