"""Programs that the image build needs and the machine may lack.

They come from the machine's own package source, but are only extracted into the cache folder: no package is
installed, no service is configured or started, and removing the folder removes every trace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

from kolla_salt.images.errors import ImageError

# program -> Debian package that has it
PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "mmdebstrap": "mmdebstrap",
}


def run(
    command: list[str],
    doing: str,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command and return what it wrote to standard output.

    :param command: the argument list.
    :param doing: what this is good for, for the error message.
    :raises ImageError: it could not be started, took too long or ended with a status other than 0.
    """
    try:
        done = subprocess.run(command, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(doing, str(error), "the command to run", " ".join(command)) from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = " | ".join(lines[-5:])
        raise ImageError(doing, f"status {done.returncode}: {said}", "status 0", " ".join(command))
    return done.stdout


def parse_print_uris(text: str) -> list[str]:
    """Return ``package=version`` for each line of ``apt-get install --print-uris``.

    :param text: lines ``'http://host/p/tini_0.19.0-1_amd64.deb' tini_0.19.0-1_amd64.deb 255 SHA256:...``.
    """
    result = []
    for line in text.splitlines():
        parts = line.split()
        if len(parts) < 3 or not parts[1].endswith(".deb"):
            continue
        name, version, _arch = unquote(parts[1])[: -len(".deb")].split("_")
        result.append(f"{name}={version}")
    return result


class Tools:
    """Find programs on the machine or extract their packages.

    :param folder: where packages are extracted to.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def _bin_dirs(self) -> list[Path]:
        return [self.folder / part for part in ("usr/bin", "usr/sbin", "bin", "sbin")]

    def env(self) -> dict[str, str]:
        """Return an environment in which the extracted programs and their libraries are found."""
        env = dict(os.environ)
        system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        path = env.get("PATH", "").split(os.pathsep)
        # The machine's own programs come first: what is installed is what the operator maintains.
        ordered = [*path, *system, *map(str, self._bin_dirs())]
        env["PATH"] = os.pathsep.join(dict.fromkeys(part for part in ordered if part))
        libraries = [str(p) for p in (self.folder / "usr/lib").glob("*-linux-*") if p.is_dir()]
        if libraries:
            known = [part for part in env.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]
            env["LD_LIBRARY_PATH"] = os.pathsep.join([*known, *libraries])
        if (self.folder / "usr/share/perl5").is_dir():
            env["PERL5LIB"] = str(self.folder / "usr/share/perl5")
        return env

    def find(self, program: str) -> str | None:
        """Return the path of a program, or None when neither the machine nor the folder has it."""
        return shutil.which(program, path=self.env()["PATH"])

    def ensure(self, *programs: str) -> dict[str, str]:
        """Return ``{program: path}``, extracting the packages of those that are missing.

        :raises ImageError: a package cannot be had.
        """
        missing = [name for name in programs if not self.find(name)]
        if missing:
            self._extract([PACKAGES[name] for name in missing])
        found = {name: self.find(name) for name in programs}
        absent = [name for name, path in found.items() if not path]
        if absent:
            packages = " ".join(PACKAGES[name] for name in absent)
            raise ImageError(
                f"looking for {', '.join(absent)}",
                f"neither on the machine nor in {self.folder}",
                f"the programs of the packages {packages}",
                f"apt-get install {packages}",
            )
        return {name: str(path) for name, path in found.items()}

    def debian_keyring(self) -> Path:
        """Return Debian's archive keyring, extracted from its package where the machine has none."""
        relative = Path("usr/share/keyrings/debian-archive-keyring.gpg")
        for root in (Path("/"), self.folder):
            if (root / relative).exists():
                return root / relative
        self._extract(["debian-archive-keyring"])
        return self.folder / relative

    def _extract(self, packages: list[str]) -> None:
        doing = f"fetching the packages {' '.join(packages)}"
        if not shutil.which("apt-get"):
            raise ImageError(doing, "no apt-get on this machine", "Debian, Ubuntu or installed programs")
        query = ["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", *packages]
        try:
            wanted = parse_print_uris(run(query, doing))
        except ImageError:
            # A machine that has never been updated knows no packages at all.
            run(["apt-get", "update", "-qq"], doing)
            wanted = parse_print_uris(run(query, doing))
        store = self.folder.parent / "packages"
        store.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        # The sandboxed user of apt may not write here, which is only a warning for root.
        run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *wanted], doing, cwd=store)
        for spec in wanted:
            name = spec.split("=")[0]
            for archive in store.glob(f"{name}_*.deb"):
                run(["dpkg", "-x", str(archive), str(self.folder)], f"extracting {archive.name}")
                archive.unlink()
