"""What the building machine contributes to a build: certificates, apt and pip settings.

Whatever lets this machine reach its package sources (a company's certificate authority, a proxy, a mirror) is
taken over into the builds. None of it counts as a change of an image.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
PYPI = "https://pypi.org/simple"
DEBIAN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"

# apt settings that decide whether a package source can be reached from here.
_APT_KEYS = re.compile(
    r"^Acquire::("
    r"https?::(Proxy|Proxy-Auto-Detect|Timeout|Verify-Peer|Verify-Host)(::\S*)?"
    r"|https?::Proxy::\S+|Retries|Check-Valid-Until|Check-Date|ForceIPv[46])$",
    re.IGNORECASE,
)
_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")


@dataclass
class HostSettings:
    """Settings of the building machine that builds need as well."""

    certificates: list[str] = field(default_factory=list)
    apt: list[str] = field(default_factory=list)
    pip: dict[str, str] = field(default_factory=dict)
    debian: str = DEBIAN
    security: str = SECURITY

    def pip_conf(self) -> str:
        """Return the text of a pip.conf for builds."""
        settings = dict(self.pip)
        if self.certificates:
            # pip brings its own list of authorities, which does not have the additional ones.
            settings["cert"] = "/etc/ssl/certs/ca-certificates.crt"
        return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items()))

    def apt_conf(self) -> str:
        """Return the text of an apt.conf fragment for builds."""
        return "".join(f"{line}\n" for line in self.apt)

    def debian_sources(self, suite: str) -> str | None:
        """Return the list of package sources with this machine's mirror, None for the standard one."""
        if (self.debian, self.security) == (DEBIAN, SECURITY):
            return None
        keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        suites = f"{suite} {suite}-updates {suite}-backports"
        return (
            f"Types: deb\nURIs: {self.debian}\nSuites: {suites}\nComponents: main\n{keyring}\n"
            f"Types: deb\nURIs: {self.security}\nSuites: {suite}-security\nComponents: main\n{keyring}"
        )

    def sources_list(self, suite: str) -> str:
        """Return the list of package sources for builders that know the older format alone.

        It stands for the builder's own, which may be of another suite.
        """
        return (
            f"deb {self.debian} {suite} main\ndeb {self.debian} {suite}-updates main\n"
            f"deb {self.security} {suite}-security main\n"
        )

    def index_urls(self) -> list[str]:
        """Return the package indexes in pip's order."""
        urls = self.pip.get("index-url", PYPI).split() + self.pip.get("extra-index-url", "").split()
        return list(dict.fromkeys(urls))

    def write(self, folder: Path, suite: str) -> None:
        """Write the settings into a builder's template tree (``base/build-input``, package sources)."""
        target = folder / "base" / "build-input"
        for part in ("ca", "apt"):
            (target / part).mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(self.certificates):
            (target / "ca" / f"build-{number:02}.crt").write_text(text + "\n")
        (target / "apt" / "90-build").write_text(self.apt_conf())
        (target / "pip.conf").write_text(self.pip_conf())
        (folder / "base" / "sources.list.debian").write_text(self.sources_list(suite))
        sources = self.debian_sources(suite)
        if sources:
            (folder / "base" / "debian.sources").write_text(sources)


def additional_certificates(bundle: str, known: list[str]) -> list[str]:
    """Return the certificates of a bundle that are in none of the known files.

    :param bundle: text with any number of PEM certificates.
    :param known: texts of the certificates that every machine has.
    """

    def body(pem: str) -> str:
        return "".join(pem.split("\n")[1:-1]).replace("\r", "")

    usual = {body(pem) for text in known for pem in PEM.findall(text)}
    result: dict[str, str] = {}
    for pem in PEM.findall(bundle):
        if body(pem) not in usual:
            result[body(pem)] = pem
    return list(result.values())


def parse_apt_config(dump: str) -> list[str]:
    """Return the lines of ``apt-config dump`` that a build needs.

    :param dump: lines such as ``Acquire::http::Proxy "http://proxy:3142";``.
    """
    lines = []
    for line in dump.splitlines():
        key, _, value = line.strip().partition(" ")
        if _APT_KEYS.match(key) and value not in ('"";', ""):
            lines.append(f"{key} {value}")
    return lines


def parse_pip_config(listing: str) -> dict[str, str]:
    """Return pip's settings that a build needs, from ``pip config list``.

    :param listing: lines such as ``global.index-url='https://host/simple'``; the environment's (``:env:.``)
        win.
    """
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator:
            continue
        scope, _, name = key.rpartition(".")
        name = name.removeprefix("default-")
        value = value.strip("'\"")
        if name.endswith("index-url"):
            # A folder of this machine is not there inside a build.
            value = " ".join(part for part in re.split(r"\s+|\\n", value) if part.startswith("http"))
        rank = {"global": 0, "install": 1, ":env:": 2}.get(scope, -1)
        if name in _PIP_KEYS and value and rank >= found.get(name, (-1, ""))[0]:
            found[name] = (rank, value)
    return {name: value for name, (_rank, value) in found.items()}


def parse_index_targets(text: str) -> dict[str, str]:
    """Return Debian's mirrors from ``apt-get indextargets``: ``{"Debian": url, "Debian-Security": url}``.

    :param text: lines ``<label>|<address>``.
    """
    mirrors: dict[str, str] = {}
    for line in text.splitlines():
        label, _, uri = line.strip().partition("|")
        if label in ("Debian", "Debian-Security") and uri.startswith("http"):
            mirrors.setdefault(label, uri.rstrip("/"))
    return mirrors


def _output(*command: str) -> str:
    """Return a command's output, or nothing where there is no such command: each source is optional."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _read(paths: list[Path]) -> list[str]:
    return [path.read_text(errors="replace") for path in paths if path.is_file()]


def _certificates(environment: Mapping[str, str]) -> list[str]:
    usual = sorted(Path("/usr/share/ca-certificates").rglob("*.crt"))
    if not usual:
        # Another kind of distribution: what the operator added lies apart from what the distribution ships.
        local = [Path("/usr/local/share/ca-certificates"), Path("/etc/pki/ca-trust/source/anchors")]
        files = [file for folder in local if folder.is_dir() for file in sorted(folder.iterdir())]
        return additional_certificates("\n".join(_read(files)), [])
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    bundles = [Path(environment[name]) for name in names if environment.get(name)]
    bundles.append(Path("/etc/ssl/certs/ca-certificates.crt"))
    return additional_certificates("\n".join(_read(bundles)), _read(usual))


def read(environment: Mapping[str, str] = os.environ) -> HostSettings:
    """Return the settings of this machine.

    :param environment: where the names of certificate bundles are looked up.
    """
    targets = ("apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
    mirrors = parse_index_targets(_output(*targets))
    return HostSettings(
        certificates=_certificates(environment),
        apt=parse_apt_config(_output("apt-config", "dump", "Acquire")),
        pip=parse_pip_config(_output(sys.executable, "-m", "pip", "config", "list")),
        debian=mirrors.get("Debian", DEBIAN),
        security=mirrors.get("Debian-Security", SECURITY),
    )
