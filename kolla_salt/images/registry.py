"""The local registry that nodes pull from: Debian's ``docker-registry``, run as a plain process.

One process listens at one address; further addresses are further processes on the same storage, which the
registry supports. It needs no name in DNS and no certificate: nodes are told that this registry speaks plain HTTP.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import yaml

from kolla_salt.images.errors import ImageError
from kolla_salt.images.places import Cache
from kolla_salt.images.process import Daemon, held, locked
from kolla_salt.images.tools import Tools, run

LOCAL = "127.0.0.1:4000"
BRIDGE = "10.99.0.1:4000"
MANIFESTS = ", ".join(
    [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    ]
)


def can_bind(listen: str) -> bool:
    """Say whether the host part of an address belongs to this machine."""
    host = listen.rsplit(":", 1)[0]
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def answers(listen: str, timeout: float = 2) -> bool:
    """Say whether a registry answers at an address."""
    # No proxy: the registry is on this machine, whatever the environment says about the way out.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{listen}/v2/", timeout=timeout) as answer:
            return "Docker-Distribution-Api-Version" in answer.headers
    except (OSError, ValueError):
        return False


def config(listen: str, storage: Path, secret: str) -> str:
    """Return the registry's configuration for one address.

    :param secret: shared by the processes, because an upload may meet both.
    """
    return yaml.safe_dump(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": listen, "secret": secret},
        },
        sort_keys=False,
    )


def _daemon(listen: str, folder: Path) -> Daemon:
    name = listen.replace(":", "-")
    return Daemon(f"the registry at {listen}", folder / f"{name}.pid", str(folder / f"{name}.yml"))


def ensure_running(
    listen: list[str] | str | None = None, data_dir: Path | str | None = None, *, cache: Cache | None = None
) -> str:
    """Start the registry unless it runs, and return its address (``host:port``).

    That is the first of those asked for. An address that this machine does not have (yet) is left out, as long
    as one remains: call again when it is there.

    :param listen: addresses; by default the loopback one and the sandbox bridge's.
    :param data_dir: where configuration and images are kept; by default ``registry`` in the cache folder.
    :raises ImageError: it does not start, or another program has the port.
    """
    cache = cache or Cache.default()
    folder = Path(data_dir) if data_dir else cache.folder("registry")
    wanted = [listen] if isinstance(listen, str) else list(listen or [LOCAL, BRIDGE])
    usable = [address for address in wanted if can_bind(address)]
    if not usable:
        raise ImageError("starting the registry", f"this machine has no address of {', '.join(wanted)}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", "starting the registry"):
        for address in usable:
            _ensure_one(address, folder, cache)
    return usable[0]


def _ensure_one(listen: str, folder: Path, cache: Cache) -> None:
    daemon = _daemon(listen, folder)
    if daemon.pid() and answers(listen):
        return
    daemon.stop()
    if answers(listen):
        raise ImageError(
            f"starting the registry at {listen}",
            "another registry answers there",
            f"a free port, or the one with the data in {folder}",
            f"ss -ltnp 'sport = :{listen.rsplit(':', 1)[1]}'",
        )
    secret = folder / "secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
    file = Path(daemon.marker)
    file.touch(mode=0o600)
    file.write_text(config(listen, folder / "data", secret.read_text()))
    tools = Tools(cache.tools)
    program = tools.ensure("docker-registry")["docker-registry"]
    log = folder / file.with_suffix(".log").name
    daemon.start([program, "serve", str(file)], log, lambda: answers(listen), env=tools.env())


def stale_tags(tags: dict[str, str]) -> list[str]:
    """Return the digests that only key tags of former builds stand for.

    :param tags: ``{tag: digest}`` of one repository; key tags begin with ``k-``.
    """
    used = {digest for tag, digest in tags.items() if not tag.startswith("k-")}
    return sorted({digest for tag, digest in tags.items() if tag.startswith("k-") and digest not in used})


def clean(address: str = LOCAL, *, cache: Cache | None = None) -> int:
    """Remove the images that newer builds replaced; return the bytes that became free.

    Nothing may be pushed meanwhile: hold the lock of the image work.

    :raises ImageError: the registry does not run, or its tool fails.
    """
    cache = cache or Cache.default()
    folder = cache.folder("registry")
    registry = Registry(address)
    for name, tags in registry.catalog().items():
        digests = {tag: registry.digest(name, tag) or "" for tag in tags}
        for digest in stale_tags(digests):
            registry.delete(name, digest)
    before = _disk_use(folder / "data")
    tools = Tools(cache.tools)
    program = tools.ensure("docker-registry")["docker-registry"]
    file = _daemon(address, folder).marker
    command = [program, "garbage-collect", "--delete-untagged", file]
    run(command, "removing replaced images from the registry", env=tools.env(), timeout=1800)
    return before - _disk_use(folder / "data")


def _disk_use(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def running(data_dir: Path | str | None = None, *, cache: Cache | None = None) -> list[str]:
    """Return the addresses at which the registry runs."""
    folder = Path(data_dir) if data_dir else (cache or Cache.default()).folder("registry")
    addresses = []
    for file in sorted(folder.glob("*.yml")):
        listen = yaml.safe_load(file.read_text())["http"]["addr"]
        if _daemon(listen, folder).pid():
            addresses.append(listen)
    return addresses


def stop(data_dir: Path | str | None = None, *, cache: Cache | None = None, unless_building: bool = False) -> list[str]:
    """Stop all processes of the registry; return the addresses at which it ran. Images stay.

    :param unless_building: leave the address alone to which images are being pushed now.
    """
    cache = cache or Cache.default()
    folder = Path(data_dir) if data_dir else cache.folder("registry")
    spared = LOCAL if unless_building and held(cache.work / "lock") else ""
    stopped = []
    for file in sorted(folder.glob("*.yml")):
        listen = yaml.safe_load(file.read_text())["http"]["addr"]
        if listen != spared and _daemon(listen, folder).stop():
            stopped.append(listen)
    return stopped


class Registry:
    """A registry's content.

    :param address: ``host:port``.
    """

    def __init__(self, address: str, timeout: float = 30):
        self.address, self.timeout = address, timeout
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, dict]:
        request = urllib.request.Request(
            f"http://{self.address}/v2/{path}",
            data=body,
            method=method,
            headers={key.replace("_", "-"): value for key, value in headers.items()},
        )
        with self._opener.open(request, timeout=self.timeout) as answer:
            return answer.read(), {key.lower(): value for key, value in answer.headers.items()}

    def _get(self, path: str, **headers: str) -> tuple[bytes, dict] | None:
        try:
            return self._call("GET", path, **headers)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise self._trouble(path, error) from error
        except OSError as error:
            raise self._trouble(path, error) from error

    def _trouble(self, what: str, error: OSError) -> ImageError:
        doing = f"asking the registry {self.address} for {what}"
        return ImageError(doing, str(error), "a running registry", "kolla-salt images registry start")

    def repositories(self) -> list[str]:
        """Return the names of all repositories."""
        names: list[str] = []
        path = "_catalog?n=1000"
        while path:
            body, headers = self._get(path) or (b"{}", {})
            names += json.loads(body).get("repositories") or []
            link = headers.get("link", "")
            path = link.split("/v2/", 1)[1].split(">", 1)[0] if "/v2/" in link else ""
        return names

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository; empty when there is none."""
        found = self._get(f"{repository}/tags/list")
        return sorted(json.loads(found[0]).get("tags") or []) if found else []

    def digest(self, repository: str, tag: str) -> str | None:
        """Return the digest that a tag stands for, or None."""
        try:
            _body, headers = self._call("HEAD", f"{repository}/manifests/{tag}", Accept=MANIFESTS)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise self._trouble(f"{repository}:{tag}", error) from error
        except OSError as error:
            raise self._trouble(f"{repository}:{tag}", error) from error
        return headers.get("docker-content-digest")

    def size(self, repository: str, tag: str) -> int | None:
        """Return the compressed size of an image in bytes, or None when there is none of this tag."""
        found = self._get(f"{repository}/manifests/{tag}", Accept=MANIFESTS)
        if not found:
            return None
        return sum(layer["size"] for layer in json.loads(found[0]).get("layers", []))

    def delete(self, repository: str, digest: str) -> None:
        """Remove an image with all its tags; its content goes with the next :func:`clean`."""
        try:
            self._call("DELETE", f"{repository}/manifests/{digest}")
        except OSError as error:
            raise self._trouble(f"{repository}@{digest}", error) from error

    def add_tag(self, repository: str, tag: str, new: str) -> None:
        """Let another tag stand for the same image.

        :raises ImageError: there is no image of the first tag.
        """
        found = self._get(f"{repository}/manifests/{tag}", Accept=MANIFESTS)
        if not found:
            raise ImageError(f"tagging {repository}:{tag} as {new}", "no such image in the registry")
        body, headers = found
        self._call("PUT", f"{repository}/manifests/{new}", body, Content_Type=headers["content-type"])

    def catalog(self, namespace: str = "") -> dict[str, list[str]]:
        """Return ``{repository: [tags]}`` of all repositories of a namespace."""
        names: Iterable[str] = self.repositories()
        return {name: self.tags(name) for name in names if name.startswith(namespace)}


def catalog(address: str = LOCAL) -> dict[str, list[str]]:
    """Return what a registry has: ``{repository: [tags]}``.

    :raises ImageError: it does not answer.
    """
    return Registry(address).catalog()
