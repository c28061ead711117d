"""The container engine that builds: the machine's own one, or a private one that leaves no trace.

The private engine has its own data, run folder and socket below the cache folder, no bridge and no packet
filter rules (builds use the network of the machine), and ends with the build.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kolla_salt.images.errors import ImageError
from kolla_salt.images.places import Cache
from kolla_salt.images.process import Daemon, processes_mentioning
from kolla_salt.images.tools import Tools, run

SYSTEM_SOCKET = "unix:///var/run/docker.sock"
ENGINE_PROGRAMS = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2", "runc")


@dataclass(frozen=True)
class Engine:
    """A container engine that answers.

    :param url: its address, as in ``DOCKER_HOST``.
    :param private: whether it is the project's own one.
    """

    url: str
    private: bool

    def client(self) -> Any:
        """Return a client of the engine (``docker.DockerClient``)."""
        import docker

        return docker.DockerClient(base_url=self.url, version="auto", timeout=600)

    def image_id(self, name: str) -> str | None:
        """Return the id of an image, or None when the engine does not have it."""
        from docker.errors import ImageNotFound

        with contextlib.closing(self.client()) as client:
            try:
                return client.images.get(name).id
            except ImageNotFound:
                return None

    def pull(self, name: str) -> None:
        """Pull an image.

        :param name: with registry and tag.
        :raises ImageError: the registry or the image cannot be had.
        """
        from docker.errors import DockerException

        repository, tag = name.rsplit(":", 1)
        with contextlib.closing(self.client()) as client:
            try:
                client.images.pull(repository, tag=tag)
            except DockerException as error:
                raise ImageError(f"pulling {name}", str(error)) from error

    def tag(self, name: str, new: str) -> None:
        """Give an image another name."""
        repository, tag = new.rsplit(":", 1)
        with contextlib.closing(self.client()) as client:
            client.images.get(name).tag(repository, tag=tag)

    def push(self, name: str) -> None:
        """Push an image to the registry in its name.

        :raises ImageError: what the registry said.
        """
        from docker.errors import DockerException

        repository, tag = name.rsplit(":", 1)
        with contextlib.closing(self.client()) as client:
            try:
                # Newer engines refuse a push without credentials, even to a registry that has no users.
                for line in client.images.push(repository, tag=tag, stream=True, decode=True, auth_config={}):
                    if "errorDetail" in line:
                        raise ImageError(f"pushing {name}", line["errorDetail"]["message"])
            except DockerException as error:
                raise ImageError(f"pushing {name}", str(error)) from error

    def forget(self, name: str) -> None:
        """Remove the name of an image and keep its layers, from which a build may go on."""
        from docker.errors import ImageNotFound

        with contextlib.closing(self.client()) as client, contextlib.suppress(ImageNotFound):
            client.images.remove(name, force=True, noprune=True)

    def import_root(self, archive: Path, name: str) -> str:
        """Make an image from the tar archive of a root file system and return its id."""
        repository, tag = name.rsplit(":", 1)
        with contextlib.closing(self.client()) as client:
            client.api.import_image_from_file(str(archive), repository=repository, tag=tag)
            return client.images.get(name).id

    def prune(self) -> int:
        """Remove images that lost their name, on the private engine only; return the bytes that became free.

        On the machine's own engine such images may be somebody else's.
        """
        if not self.private:
            return 0
        with contextlib.closing(self.client()) as client:
            return int(client.images.prune(filters={"dangling": True}).get("SpaceReclaimed") or 0)

    def size(self, name: str) -> int:
        """Return the size of an image with all its layers, in bytes."""
        with contextlib.closing(self.client()) as client:
            return int(client.images.get(name).attrs["Size"])


def answers(url: str) -> bool:
    """Say whether an engine answers at an address."""
    import docker
    from docker.errors import DockerException

    if url.startswith("unix://") and not Path(url.removeprefix("unix://")).is_socket():
        return False
    try:
        with contextlib.closing(docker.DockerClient(base_url=url, timeout=5)) as client:
            return bool(client.ping())
    except (DockerException, OSError):
        return False


def system_engine() -> Engine | None:
    """Return the engine of ``DOCKER_HOST`` or of the usual socket, or None when none answers there."""
    for url in dict.fromkeys([os.environ.get("DOCKER_HOST") or SYSTEM_SOCKET, SYSTEM_SOCKET]):
        if answers(url):
            return Engine(url, private=False)
    return None


class PrivateEngine:
    """The project's own engine.

    :param cache: its data lies in ``docker-build`` there.
    """

    def __init__(self, cache: Cache):
        self.cache = cache
        self.folder = cache.folder("docker-build")
        self.exec_root = self.folder / "exec"
        self.data_root = self.folder / "data"
        self.url = f"unix://{self.folder / 'docker.sock'}"
        self.daemon = Daemon("the private container engine", self.folder / "docker.pid", str(self.exec_root))

    def start(self) -> Engine:
        """Return the running engine, started if need be.

        :raises ImageError: it does not start; with the end of its log.
        """
        if self.daemon.pid() and answers(self.url):
            return Engine(self.url, private=True)
        self.daemon.stop()
        self._clear()
        tools = Tools(self.cache.tools)
        program = tools.ensure("dockerd", "containerd", "runc")["dockerd"]
        self.data_root.mkdir(exist_ok=True)
        log = self.folder / "dockerd.log"
        command = [
            program,
            "--config-file=",
            f"--data-root={self.data_root}",
            f"--exec-root={self.exec_root}",
            f"--pidfile={self.daemon.pidfile}",
            f"--host={self.url}",
            "--bridge=none",
            "--iptables=false",
            "--ip-masq=false",
        ]
        self.daemon.start(command, log, lambda: answers(self.url), env=tools.env(), timeout=90, write_pid=False)
        return Engine(self.url, private=True)

    def stop(self) -> bool:
        """Stop the engine; return whether it ran. Its images stay."""
        ran = self.daemon.stop()
        self._clear()
        return ran

    def _clear(self) -> None:
        """Remove what an engine that was killed leaves: processes, mounts, sockets and pid files."""
        for _attempt in range(20):
            left = processes_mentioning(str(self.exec_root), ENGINE_PROGRAMS)
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for mount in mounts_below(Path("/proc/self/mountinfo").read_text(), str(self.folder)):
            run(["umount", "--lazy", mount], f"unmounting {mount}, left by an engine that was killed")
        shutil.rmtree(self.exec_root, ignore_errors=True)
        for name in ("docker.pid", "docker.sock"):
            (self.folder / name).unlink(missing_ok=True)


def mounts_below(mountinfo: str, folder: str) -> list[str]:
    """Return the mount points below a folder, the deepest first.

    :param mountinfo: the text of ``/proc/self/mountinfo``.
    """
    points = [line.split()[4] for line in mountinfo.splitlines() if len(line.split()) > 4]
    decoded = [point.replace("\\040", " ") for point in points]
    below = [point for point in decoded if point.startswith(folder.rstrip("/") + "/")]
    return sorted(dict.fromkeys(below), key=len, reverse=True)


@contextlib.contextmanager
def running(cache: Cache, keep: bool = False) -> Iterator[Engine]:
    """Give an engine for the time of a build: the machine's, else the private one.

    The private one is stopped afterwards.

    :param keep: leave the private engine running.
    """
    found = system_engine()
    if found:
        yield found
        return
    private = PrivateEngine(cache)
    try:
        yield private.start()
    finally:
        if not keep:
            private.stop()
