"""Content keys: what an image is made of, as one hash.

The key covers the rendered Dockerfile, every file beside it, the sources that are unpacked into it and the key of the
image it is based on; so a change rebuilds exactly the images that it reaches. It does not cover what is fetched while
building (Debian packages get newer every day): ``--refresh`` builds anew all the same.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from kolla_salt.images.errors import ImageError

# The day of the build is in a label, and what the machine contributes does not make another image.
_DATE = re.compile(rb'build-date="\d*"')
_IGNORED = {"Dockerfile.j2", "__pycache__", "build-input", "debian.sources", "sources.list.debian"}


@dataclass(frozen=True)
class ImageKey:
    """One image of a build.

    :param parent: the name of the image it is based on, None for the first one.
    """

    name: str
    parent: str | None
    key: str

    @property
    def tag(self) -> str:
        """Return the registry tag that records that this key was built."""
        return f"k-{self.key[:24]}"


def parent_of(dockerfile: str) -> str:
    """Return the image name in a Dockerfile's FROM line, without registry, namespace and tag.

    :raises ValueError: there is none.
    """
    match = re.search(r"^FROM\s+(\S+)", dockerfile, re.MULTILINE)
    if not match:
        raise ValueError("no FROM line")
    return match[1].rsplit("/", 1)[-1].split(":")[0]


def context_hash(folder: Path) -> str:
    """Return the hash of a build context: names, contents and executable bits of its files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or _IGNORED.intersection(relative.parts):
            continue
        content = path.read_bytes()
        if relative.name == "Dockerfile":
            # Empty lines come and go with the template blocks and mean nothing.
            lines = (line.rstrip() for line in _DATE.sub(b"", content).splitlines())
            content = b"\n".join(line for line in lines if line)
        executable = bool(path.stat().st_mode & 0o100)
        digest = hashlib.sha256(content).hexdigest()
        total.update(f"{relative}\0{executable}\0{digest}\n".encode())
    return total.hexdigest()


def image_keys(rendered: Path, sources: dict[str, str], root: str) -> dict[str, ImageKey]:
    """Return the key of every rendered image, parents before their children.

    :param rendered: the tree that the builder rendered; each folder with a Dockerfile is an image.
    :param sources: hash of the source of each builder section (an image's name, or ``<image>-plugin-<x>``).
    :param root: what the first image is based on, as a text that changes when it does.
    :raises ImageError: images are based on each other in a circle.
    """
    folders = {path.parent.name: path.parent for path in rendered.rglob("Dockerfile")}
    parents = {name: parent_of((folder / "Dockerfile").read_text()) for name, folder in folders.items()}
    keys: dict[str, ImageKey] = {}

    def add(name: str, children: tuple[str, ...] = ()) -> ImageKey:
        if name in keys:
            return keys[name]
        if name in children:
            raise ImageError("ordering the images", f"a circle: {' -> '.join([*children, name])}")
        parent = parents[name] if parents[name] in folders else None
        above = add(parent, (*children, name)).key if parent else root
        pattern = re.compile(rf"{re.escape(name)}(-(plugin|additions)-.+)?")
        own = sorted(f"{section} {value}" for section, value in sources.items() if pattern.fullmatch(section))
        text = "\n".join([above, context_hash(folders[name]), *own])
        keys[name] = ImageKey(name, parent, hashlib.sha256(text.encode()).hexdigest())
        return keys[name]

    for name in sorted(folders):
        add(name)
    return keys
