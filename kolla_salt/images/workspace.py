"""The builder's input, rendered into a work folder: settings, overrides, additional files, sources."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

from kolla_salt.images import host, lock
from kolla_salt.images.errors import ImageError
from kolla_salt.images.index import Index
from kolla_salt.images.keys import ImageKey, context_hash, image_keys
from kolla_salt.images.places import NAMESPACE, Cache, Release, data_dir
from kolla_salt.images.tools import run

BASE_IMAGE = "kolla-salt/debian"
# What the base image has beyond a minimal system: without it, no source can be reached with encryption.
BASE_PACKAGES = "ca-certificates"

_BLOCK = re.compile(r"\{%-?\s*block\s+(\w+)\s*-?%\}.*?\{%-?\s*endblock(?:\s+\w+)?\s*-?%\}\n?", re.DOTALL)
_EXTENDS = re.compile(r"\{%-?\s*extends\b.*?%\}")


def without_blocks(template: str, other: str) -> str:
    """Return a template without the blocks that another one has too.

    The builder joins override files into one template, in which a block may stand only once: the operator's wins.

    :param template: the project's override file.
    :param other: the operator's.
    """
    names = {match[1] for match in _BLOCK.finditer(other)}
    return _BLOCK.sub(lambda match: "" if match[1] in names else match[0], template)


def template_data(release: Release) -> str:
    """Return what the templates need to know of a release, as assignments of the template language.

    JSON is also a literal of that language.
    """
    values: dict[str, object] = {
        "toolbox_collections": release.collections,
        "supported_distro_name": release.supported_name,
    }
    for image, change in release.packages.items():
        for what, names in change.items():
            values[f"{image.replace('-', '_')}_packages_{what}"] = names
    return "\n".join(f"{{% set {name} = {json.dumps(value)} %}}" for name, value in values.items())


def render_ini(sections: dict[str, list[tuple[str, str]]]) -> str:
    """Return a configuration file; a key may stand more than once in a section, as the builder's lists want it."""
    parts = []
    for name, rows in sections.items():
        parts.append(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in rows))
    return "\n".join(parts)


@dataclass(frozen=True)
class Site:
    """The operator's own customisation of images: ``images/`` in the site folder.

    :param folder: the site folder, None when there is none.
    """

    folder: Path | None = None

    def _path(self, name: str) -> Path | None:
        path = self.folder / "images" / name if self.folder else None
        return path if path and path.exists() else None

    @property
    def override(self) -> Path | None:
        """Return the operator's template override file."""
        return self._path("template-override.j2")

    @property
    def docker(self) -> Path | None:
        """Return the operator's additional Docker directory."""
        return self._path("docker")

    @property
    def conf(self) -> Path | None:
        """Return the operator's builder settings, which win over the project's."""
        return self._path("kolla-build.conf")


class Workspace:
    """Everything one build of a release works with.

    :param release: what is built.
    :param cache: where derived data lies.
    :param registry: ``host:port`` in the images' names.
    :param site: the operator's customisation.
    """

    def __init__(self, release: Release, cache: Cache, registry: str, site: Site | None = None):
        self.release, self.cache, self.registry, self.site = release, cache, registry, site or Site()
        self.folder = cache.folder("images", release.name)
        self.logs = self.folder / "logs"
        self.summary = self.folder / "summary.json"
        self.conf = self.folder / "kolla-build.conf"

    # -- names -------------------------------------------------------------------------------------------------

    def image(self, name: str) -> str:
        """Return the full name of an image."""
        return f"{self.registry}/{self.repository(name)}:{self.release.tag}"

    def repository(self, name: str) -> str:
        """Return the repository of an image in the registry."""
        return f"{NAMESPACE}/{name}"

    @property
    def base_name(self) -> str:
        """Return the name of the image that all others are based on."""
        return f"{BASE_IMAGE}:{self.release.suite}"

    @property
    def own_base(self) -> bool:
        """Say whether the operator's settings name another base image."""
        text = self.site.conf.read_text() if self.site.conf else ""
        return not re.search(r"^\s*base_image\s*[=:]", text, re.MULTILINE)

    # -- the builder -------------------------------------------------------------------------------------------

    def python(self) -> Path:
        """Return the interpreter of the builder's virtual environment, made from the lock file if absent.

        :raises ImageError: it cannot be made.
        """
        wanted = self.release.folder / "kolla-build.txt"
        if not wanted.is_file():
            command = f"kolla-salt images lock --release {self.release.name}"
            raise ImageError("preparing the image builder", f"no {wanted}", "the builder's lock file", command)
        text = wanted.read_text() + sys.version
        folder = self.cache.folder("kolla-venv") / f"{self.release.name}-{_short(text)}"
        python = folder / "bin" / "python"
        done = folder / ".complete"
        if not done.exists():
            # A half-made environment is of no use; making it anew takes seconds.
            shutil.rmtree(folder, ignore_errors=True)
            doing = f"preparing the image builder in {folder}"
            run([sys.executable, "-m", "venv", str(folder)], doing)
            run([str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(wanted)], doing)
            done.touch()
        return python

    def _without_plugins(self) -> list[str]:
        """Return the builder's optional sources, none of which is taken: each would need a place outside the index."""
        code = "import json; from kolla.common.sources import SOURCES; print(json.dumps(sorted(SOURCES)))"
        names = json.loads(run([str(self.python()), "-c", code], "asking the builder for its sources"))
        return [name for name in names if "-plugin-" in name or "-additions-" in name]

    def builder_command(self, images: list[str], *more: str) -> list[str]:
        """Return the command that builds (or renders) exactly these images and their parents."""
        command = [str(self.python().parent / "kolla-build"), "--config-file", str(self.conf)]
        if self.site.conf:
            command += ["--config-file", str(self.site.conf)]
        return [*command, *more, f"^({'|'.join(map(re.escape, images))})$"]

    # -- rendering ---------------------------------------------------------------------------------------------

    def sources(self) -> dict[str, tuple[Path, str]]:
        """Return the file and hash of each section's source, downloaded if absent."""
        index = Index(host.read().index_urls())
        folder = self.cache.folder("sdists")
        result = {}
        for section, source in lock.sdists(self.release).items():
            result[section] = (index.fetch(source, folder), source.sha256)
        path = self.release.folder / "upper-constraints.txt"
        if not path.is_file():
            command = f"kolla-salt images lock --release {self.release.name}"
            raise ImageError(f"reading the library versions of release {self.release.name}", f"no {path}", "", command)
        data = lock.constraints_archive(path.read_text())
        archive = self.folder / "requirements.tar"
        if not archive.is_file() or archive.read_bytes() != data:
            archive.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        # The toolbox takes the archive as well, for its own environment.
        return {**result, "openstack-base": (archive, digest), "kolla-toolbox": (archive, digest)}

    def prepare(self, threads: int) -> dict[str, str]:
        """Write all input of the builder; return the hash of each section's source.

        :param threads: how many images are built at the same time.
        """
        # The builder renders over what is there: nothing of another choice of images may be left.
        shutil.rmtree(self.folder / "render", ignore_errors=True)
        (self.folder / "render").mkdir()
        overlay = self.folder / "docker"
        shutil.rmtree(overlay, ignore_errors=True)
        shutil.copytree(data_dir() / "docker", overlay)
        host.read().write(overlay, self.release.suite)
        self.logs.mkdir(exist_ok=True)

        override = self.folder / "template-override.j2"
        text = (data_dir() / "template-override.j2").read_text()
        if self.site.override:
            text = without_blocks(text, self.site.override.read_text())
        data = template_data(self.release)
        override.write_text(_EXTENDS.sub(lambda match: f"{match[0]}\n{data}", text, count=1))

        sources = self.sources()
        rows = [
            ("base", self.release.base),
            ("base_image", BASE_IMAGE),
            ("base_tag", self.release.suite),
            ("tag", self.release.tag),
            ("openstack_release", self.release.name),
            ("registry", self.registry),
            ("namespace", NAMESPACE),
            ("pull", "false"),
            ("push", "true"),
            ("threads", str(threads)),
            ("push_threads", "1"),
            ("retries", "1"),
            ("logs_dir", str(self.logs)),
            ("summary_json_file", str(self.summary)),
            ("work_dir", str(self.folder / "render")),
            ("template_override", str(override)),
            ("docker_dir", str(overlay)),
        ]
        if self.site.override:
            rows.append(("template_override", str(self.site.override)))
        if self.site.docker:
            rows.append(("docker_dir", str(self.site.docker)))
        sections = {"DEFAULT": rows}
        for name in self._without_plugins():
            sections[name] = [("enabled", "False")]
        for name, (path, _digest) in sources.items():
            sections[name] = [("type", "local"), ("location", str(path))]
        self.conf.write_text(render_ini(sections))
        return {name: digest for name, (_path, digest) in sources.items()}

    def render(self, images: list[str]) -> Path:
        """Let the builder render the Dockerfiles of these images and their parents; return the tree.

        :meth:`prepare` comes before.

        :raises ImageError: a template does not render, or there is no image of a name.
        """
        run(self.builder_command(images, "--template-only"), "rendering the Dockerfiles")
        tree = self.folder / "render" / "docker"
        present = {path.parent.name for path in tree.rglob("Dockerfile")}
        absent = [name for name in images if name not in present]
        if absent:
            templates = self.python().parent.parent / "share" / "kolla" / "docker"
            known = {path.parent.name for path in templates.rglob("Dockerfile.j2")}
            close = sorted({near for name in absent for near in get_close_matches(name, known, 3)})
            expected = f"perhaps {', '.join(close)}" if close else "names of images"
            raise ImageError("choosing images", f"the builder has no {', '.join(absent)}", expected)
        return tree

    def keys(self, images: list[str]) -> dict[str, ImageKey]:
        """Return the keys of these images and their parents, parents first.

        Rendering takes seconds; as long as no input changed, the keys of the last time hold.
        """
        # One file per choice of images, so that they do not displace each other.
        file = self.cache.folder("images", self.release.name, "keys") / f"{_short(' '.join(images))}.json"
        inputs = self._inputs(images)
        try:
            kept = json.loads(file.read_text())
            if kept["inputs"] == inputs:
                return {row["name"]: ImageKey(**row) for row in kept["keys"]}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        hashes = self.prepare(1)
        root = f"{self.release.base} {self.release.suite} {BASE_PACKAGES}"
        if not self.own_base and self.site.conf:
            root = self.site.conf.read_text()
        keys = image_keys(self.render(images), hashes, root)
        file.write_text(json.dumps({"inputs": inputs, "keys": [asdict(key) for key in keys.values()]}))
        return keys

    def _inputs(self, images: list[str]) -> str:
        """Return a hash of everything that the keys are computed from, and of the code that does it."""
        package = Path(__file__).parent
        files = [data_dir() / "template-override.j2", package / "keys.py", package / "workspace.py"]
        files += sorted(path for path in self.release.folder.iterdir() if path.is_file())
        files += [path for path in (self.site.override, self.site.conf) if path]
        trees = [data_dir() / "docker", *([self.site.docker] if self.site.docker else [])]
        parts = [f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
        parts += [f"{tree}\0{context_hash(tree)}" for tree in trees]
        return hashlib.sha256("\n".join([self.registry, *images, *parts]).encode()).hexdigest()

    # -- the base image ----------------------------------------------------------------------------------------

    def root_archive(self, refresh: bool = False) -> Path:
        """Return the tar archive of a minimal Debian system, made if absent.

        :param refresh: make it anew, with the packages of today.
        :raises ImageError: it cannot be made.
        """
        from kolla_salt.images.tools import Tools

        path = self.cache.folder("docker-build") / f"{self.release.base}-{self.release.suite}.tar"
        if path.is_file() and not refresh:
            return path
        tools = Tools(self.cache.tools)
        program = tools.ensure("mmdebstrap")["mmdebstrap"]
        settings = host.read()
        # The ending tells the program what to make.
        partial = path.with_name(f"partial-{path.name}")
        command = [
            program,
            "--quiet",
            "--variant=minbase",
            f"--include={BASE_PACKAGES}",
            f"--keyring={tools.debian_keyring()}",
            *(f"--aptopt={line}" for line in settings.apt),
            self.release.suite,
            str(partial),
            settings.debian,
        ]
        run(command, f"making a minimal {self.release.supported_name} system", env=tools.env(), timeout=1800)
        os.replace(partial, path)
        return path


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
