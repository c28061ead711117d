"""The Python package index, as far as source distributions are concerned.

pip itself is not used for this: to download a source distribution it runs the project's build system.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_sdist_filename
from packaging.version import Version

from kolla_salt.images.errors import ImageError

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Sdist:
    """One source distribution."""

    project: str
    version: str
    filename: str
    sha256: str
    url: str = ""

    def line(self) -> str:
        """Return it as a line of the lock file, which is a valid requirements file."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"


def parse_page(text: str, base: str, project: str) -> list[Sdist]:
    """Return the source distributions that an index page lists, JSON or HTML.

    :param text: the page.
    :param base: its address, to which its links are relative.
    :param project: the project's name.
    """
    if text.lstrip().startswith("{"):
        rows = [
            (item["filename"], item["url"], item.get("hashes", {}).get("sha256", ""))
            for item in json.loads(text)["files"]
            if not item.get("yanked")
        ]
    else:
        rows = []
        for anchor in re.findall(r"<a\s[^>]*>", text):
            link = re.search(r'href="([^"]+)"', anchor)
            if not link or "data-yanked" in anchor:
                continue
            url, fragment = urldefrag(html.unescape(link.group(1)))
            rows.append((url.rsplit("/", 1)[-1], url, fragment.removeprefix("sha256=")))
    result = []
    for filename, url, sha256 in rows:
        if not filename.endswith(".tar.gz"):
            continue
        try:
            name, version = parse_sdist_filename(filename)
        except ValueError:
            continue
        if canonicalize_name(name) == canonicalize_name(project):
            result.append(Sdist(project, str(version), filename, sha256, urljoin(base, url)))
    return result


def newest(candidates: list[Sdist], versions: str) -> Sdist | None:
    """Return the newest final version within a range, or None.

    :param versions: a specifier, e.g. ``>=29,<30``.
    """
    allowed = SpecifierSet(versions)
    fitting = [c for c in candidates if allowed.contains(c.version, prereleases=False)]
    return max(fitting, key=lambda c: Version(c.version), default=None)


def ssl_context() -> ssl.SSLContext:
    """Return a context that trusts what the machine's tools are told to trust."""
    for variable in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and Path(path).is_file():
            return ssl.create_default_context(cafile=path)
    return ssl.create_default_context()


class Index:
    """Package indexes in the order of preference.

    :param urls: addresses of simple indexes.
    """

    def __init__(self, urls: list[str], timeout: float = 60):
        self.urls, self.timeout = urls, timeout

    def _get(self, url: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=self.timeout, context=ssl_context()) as answer:
            return answer.read()

    def sdists(self, project: str) -> list[Sdist]:
        """Return the source distributions of a project from the first index that has any.

        :raises ImageError: no index has one.
        """
        errors = []
        for url in self.urls:
            page = f"{url.rstrip('/')}/{canonicalize_name(project)}/"
            try:
                text = self._get(page, f"{JSON}, text/html;q=0.5").decode()
            except (OSError, ValueError) as error:
                errors.append(f"{page}: {error}")
                continue
            found = parse_page(text, page, project)
            if found:
                return found
            errors.append(f"{page}: no source distribution")
        raise ImageError(
            f"looking for the source distributions of {project}",
            "; ".join(errors),
            "a package index that has it",
            "pip config list",
        )

    def fetch(self, wanted: Sdist, folder: Path) -> Path:
        """Return the file of a source distribution, downloaded unless the folder has it already.

        :param wanted: project, version and hash of the lock file.
        :raises ImageError: not on the index, or another content than the lock file says.
        """
        doing = f"fetching the source of {wanted.project} {wanted.version}"
        path = folder / wanted.filename
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
            return path
        matches = [s for s in self.sdists(wanted.project) if Version(s.version) == Version(wanted.version)]
        if not matches:
            found = f"no such version on {', '.join(self.urls)}"
            raise ImageError(doing, found, "", "kolla-salt images lock")
        content = b""
        last: Exception | None = None
        for _attempt in range(3):
            try:
                content, last = self._get(matches[0].url), None
                break
            except OSError as error:
                last = error
        if last:
            raise ImageError(doing, f"{matches[0].url}: {last}") from last
        digest = hashlib.sha256(content).hexdigest()
        if digest != wanted.sha256:
            raise ImageError(doing, f"sha256 {digest}", f"sha256 {wanted.sha256}", "kolla-salt images lock")
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_bytes(content)
        partial.rename(path)
        return path
