"""Lock files: what exactly the images of a release are built from.

``sdists.txt``              the projects' source distributions, with hashes
``upper-constraints.txt``   the version of every library
``kolla-build.txt``         the builder and its libraries, with hashes
"""

from __future__ import annotations

import re
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kolla_salt.images.errors import ImageError
from kolla_salt.images.index import Index, Sdist, newest
from kolla_salt.images.places import Cache, Release, default_images
from kolla_salt.images.tools import run

if TYPE_CHECKING:
    from kolla_salt.images.workspace import Workspace

_HEADER = "# Resolved by `kolla-salt images lock`; not to be edited.\n"


def parse_sdists(text: str) -> dict[str, Sdist]:
    """Return the locked source distributions by project.

    :param text: lines ``name==version --hash=sha256:...``.
    """
    result = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})", line.strip())
        if match:
            project, version, digest = match.groups()
            filename = f"{canonicalize_name(project).replace('-', '_')}-{version}.tar.gz"
            result[project] = Sdist(project, version, filename, digest)
    return result


def sdists(release: Release) -> dict[str, Sdist]:
    """Return a release's locked source distribution of each builder section.

    :raises ImageError: the lock file is absent or lacks one.
    """
    path = release.folder / "sdists.txt"
    doing = f"reading the locked sources of release {release.name}"
    if not path.is_file():
        raise ImageError(doing, f"no {path}", "", f"kolla-salt images lock --release {release.name}")
    locked = parse_sdists(path.read_text())
    lacking = [row["project"] for row in release.projects.values() if row["project"] not in locked]
    if lacking:
        command = f"kolla-salt images lock --release {release.name}"
        raise ImageError(doing, f"{path} lacks {', '.join(lacking)}", "a line for each project", command)
    return {section: locked[row["project"]] for section, row in release.projects.items()}


def constraints_archive(text: str) -> bytes:
    """Return the archive of library versions as the builder wants it, the same bytes for the same text.

    :param text: lines ``name===version``.
    """
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("requirements")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        file = tarfile.TarInfo("requirements/upper-constraints.txt")
        data = text.encode()
        file.size, file.mode = len(data), 0o644
        archive.addfile(file, BytesIO(data))
    return content.getvalue()


def pip_requirements(dockerfiles: list[str]) -> list[str]:
    """Return what rendered Dockerfiles install with pip under the constraints, without local folders.

    :param dockerfiles: their texts.
    """
    found = set()
    for text in dockerfiles:
        joined = re.sub(r"\\\n", " ", text)
        for arguments in re.findall(r"-c /requirements/upper-constraints\.txt ([^&;|\n]*)", joined):
            for word in arguments.split():
                try:
                    found.add(str(Requirement(word)))
                except InvalidRequirement:
                    continue
    return sorted(found, key=str.lower)


def local_extras(dockerfiles: list[str]) -> dict[str, str]:
    """Return the extras with which rendered Dockerfiles install local folders: ``{"keystone": "[ldap]"}``."""
    found: dict[str, str] = {}
    for text in dockerfiles:
        found.update(re.findall(r"\s/([a-z][\w-]*)(\[[\w,-]+\])", text))
    return found


def constraints(resolved: str, projects: set[str]) -> str:
    """Return the builder's constraints from a resolver's output.

    :param resolved: lines ``name==version``, possibly with extras and markers.
    :param projects: names that are installed from their own source and must not be constrained.
    """
    lines = []
    for line in resolved.splitlines():
        match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", line.strip())
        if match and canonicalize_name(match[1]) not in projects:
            lines.append(f"{match[1]}==={match[2]}")
    return _HEADER + "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def resolve_sdists(release: Release, index: Index) -> str:
    """Return the text of ``sdists.txt``: the newest source of each project within the release's versions.

    :raises ImageError: a project has none.
    """
    lines = []
    for row in release.projects.values():
        candidates = index.sdists(row["project"])
        best = newest(candidates, row["versions"])
        if not best:
            last = ", ".join(c.version for c in candidates[-5:])
            raise ImageError(f"choosing a version of {row['project']}", f"only {last}", row["versions"])
        lines.append(best.line())
    return _HEADER + "".join(f"{line}\n" for line in sorted(lines))


def resolver_input(release: Release, requirements: list[str], extras: dict[str, str], folder: Path) -> str:
    """Return the requirements file from which the library versions of a release are resolved.

    :param requirements: what the images install from the index.
    :param extras: extras of the projects, by project name.
    :param folder: where the projects' sources lie.
    """
    lines = list(requirements)
    for source in sdists(release).values():
        extra = extras.get(source.project, "")
        lines.append(f"{source.project}{extra} @ {(folder / source.filename).as_uri()}")
    return "".join(f"{line}\n" for line in lines)


def caps_text(release: Release) -> str:
    """Return the constraints file of the release's caps."""
    return "".join(f"{name}{row['versions']}\n" for name, row in sorted(release.caps.items()))


def _resolver(cache: Cache) -> str:
    """Return the path of the resolver, installed into its own virtual environment."""
    folder = cache.folder("kolla-venv") / "resolver"
    program = folder / "bin" / "uv"
    if not program.exists():
        doing = f"preparing the resolver in {folder}"
        run([sys.executable, "-m", "venv", "--clear", str(folder)], doing)
        run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "uv"], doing)
    return str(program)


def _compile(program: str, indexes: list[str], given: Path, *more: str) -> str:
    command = [program, "pip", "compile", "--no-config", "--no-header", "--no-annotate", "-q"]
    command += ["--index-url", indexes[0]]
    for url in indexes[1:]:
        command += ["--extra-index-url", url]
    return run([*command, *more, str(given)], f"resolving {given.name}", timeout=1800)


def resolve(release: Release, space: Workspace, indexes: list[str]) -> dict[str, int]:
    """Resolve all lock files of a release anew; return the number of entries of each.

    What to resolve comes from the rendered Dockerfiles, that is from the builder itself.

    :param space: the work folder of the release.
    :param indexes: package indexes in the order of preference.
    :raises ImageError: a version cannot be found; the files written so far stay.
    """
    program = _resolver(space.cache)
    folder = space.folder
    given = folder / "kolla-build.in"
    given.write_text(f"kolla{release.kolla}\ndocker\nsetuptools<81\n")
    universal = ["--universal", "--python-version", "3.11", "--generate-hashes"]
    builder = release.folder / "kolla-build.txt"
    builder.write_text(_HEADER + _compile(program, indexes, given, *universal))

    index = Index(indexes)
    (release.folder / "sdists.txt").write_text(resolve_sdists(release, index))
    sources = sdists(release)
    for source in sources.values():
        index.fetch(source, space.cache.folder("sdists"))

    versions = release.folder / "upper-constraints.txt"
    if not versions.exists():
        # The builder renders nothing without the file.
        versions.write_text(_HEADER)
    space.prepare(1)
    tree = space.render(default_images(release.name, extra=True))
    dockerfiles = [path.read_text() for path in sorted(tree.rglob("Dockerfile"))]
    by_folder = {section.removesuffix("-base"): source.project for section, source in sources.items()}
    extras = {by_folder[name]: extra for name, extra in local_extras(dockerfiles).items() if name in by_folder}
    given, caps = folder / "libraries.in", folder / "caps.in"
    caps.write_text(caps_text(release))
    wanted = pip_requirements(dockerfiles)
    given.write_text(resolver_input(release, wanted, extras, space.cache.folder("sdists")))
    target = ["--python-version", release.python, "--python-platform", "x86_64-manylinux_2_40"]
    target += ["--exclude-newer", release.libraries_until, "--constraint", str(caps)]
    text = _compile(program, indexes, given, *target)
    projects = {canonicalize_name(source.project) for source in sources.values()}
    versions.write_text(constraints(text, projects))
    return {
        builder.name: builder.read_text().count("=="),
        "sdists.txt": len(sources),
        versions.name: versions.read_text().count("==="),
    }
