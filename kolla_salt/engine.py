"""The container engine of this host: one seam for docker and podman.

Reading (list, inspect) is plain JSON over the engine's socket, acting goes through the docker SDK, which podman's
Docker-compatible socket understands as well. The SDK takes a quarter of a second to import and four times as long
for an inspect, so a job that finds everything in order never loads it.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    import docker

SOCKETS = {"docker": "unix:///var/run/docker.sock", "podman": "unix:///run/podman/podman.sock"}


#: Seconds for which a list or a tag's image is believed: within a job nobody else is expected to act, while a minion
#: without processes of its own for jobs keeps this object for ever.
FRESH = 5.0


class EngineError(Exception):
    """The engine refused, or could not be asked. The message says what was tried and what it answered."""


class NotFound(EngineError):
    """There is no such container, image or volume."""


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One engine, with what was read from it in this job.

    :param url: ``unix:///path`` or ``tcp://host:port``
    :param timeout: seconds to wait for an answer
    """

    def __init__(self, url: str, timeout: float = 120) -> None:
        self.url = url
        self.timeout = timeout
        self.calls = 0
        self._local = threading.local()
        self._sdk: docker.APIClient | None = None
        self._containers: tuple[float, dict[str, dict[str, Any]]] | None = None
        self._inspected: dict[str, tuple[float, dict[str, Any]]] = {}
        self._references: dict[str, tuple[float, dict[str, Any] | None]] = {}
        self._images: dict[str, dict[str, Any]] = {}
        self._info: dict[str, Any] | None = None

    # ------------------------------------------------------------------------------------------------------- reading

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the engine's list of all containers, by name; read once until something was changed."""
        if self._containers is None or time.monotonic() - self._containers[0] > FRESH:
            listed = self.get("/containers/json", all=1)
            names = {name.lstrip("/"): item for item in listed for name in item["Names"]}
            self._containers = (time.monotonic(), names)
        return self._containers[1]

    def container(self, name: str) -> dict[str, Any] | None:
        """Return the inspect data of a container, or ``None`` if there is none."""
        if name not in self.containers():
            return None
        return self.inspect(name)

    def inspect(self, name: str) -> dict[str, Any] | None:
        """Return the inspect data of a container as it is right now, or ``None`` if there is none."""
        try:
            found = self.get(f"/containers/{quote(name)}/json")
        except NotFound:
            self._inspected.pop(name, None)
            return None
        self._inspected[name] = (time.monotonic(), found)
        return found

    def recent(self, name: str) -> dict[str, Any] | None:
        """Return the inspect data of a container, which may be as old as `FRESH` if nothing was changed since."""
        read, found = self._inspected.get(name, (0.0, None))
        if found is not None and time.monotonic() - read <= FRESH:
            return found
        return self.inspect(name)

    def image(self, reference: str) -> dict[str, Any] | None:
        """Return the inspect data of a local image by name or id, or ``None`` if it is not on this host."""
        if reference in self._images:
            return self._images[reference]
        read, found = self._references.get(reference, (0.0, None))
        if time.monotonic() - read > FRESH:
            try:
                found = self.get(f"/images/{quote(reference)}/json")
            except NotFound:
                found = None
            self._references[reference] = (time.monotonic(), found)
            if found:
                self._images[found["Id"]] = found  # an id never means another image
        return found

    def info(self) -> dict[str, Any]:
        """Return what the engine says about itself and its host."""
        if self._info is None:
            self._info = self.get("/info")
        return self._info

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the decoded JSON of one GET.

        :raises NotFound: the engine answered 404
        :raises EngineError: any other refusal, or no connection
        """
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        for attempt in (1, 2):
            self.calls += 1
            connection = getattr(self._local, "connection", None)
            reused = connection is not None
            try:
                if connection is None:
                    connection = self._local.connection = self._connect()
                connection.request("GET", target)
                response = connection.getresponse()
                body = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # The engine closes connections that were idle; a fresh one tells whether it really does not answer.
                # One that let the time pass would do so again.
                if attempt == 2 or not reused or isinstance(error, TimeoutError):
                    raise EngineError(f"no answer from the container engine at {self.url}: {error}") from error
        if response.status >= 400:
            raise _refusal(response.status, body, f"GET {path}")
        try:
            return json.loads(body)
        except ValueError as error:
            raise EngineError(f"GET {path} at {self.url}: not an engine's answer: {body[:200]!r}") from error

    def ping(self, timeout: float) -> None:
        """Find out whether the engine answers at all.

        :param timeout: seconds it may take, which can be far less than what a request with work in it may take
        :raises EngineError: it does not
        """
        connection = self._connect()
        connection.timeout = timeout
        self.calls += 1
        try:
            connection.request("GET", "/_ping")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                f"no answer from the container engine at {self.url} to a ping, within {timeout:g} s: {error}"
            ) from error
        finally:
            connection.close()

    def events(self, since: float, kinds: list[str]) -> list[dict[str, Any]]:
        """Return what the engine remembers of its containers from ``since`` until now; it forgets, and soon.

        :param since: seconds since the epoch
        :param kinds: of events, such as ``die``
        """
        filters = json.dumps({"type": ["container"], "event": kinds})
        connection = self._connect()
        self.calls += 1
        try:
            target = (
                f"/events?{urlencode({'since': f'{since:.6f}', 'until': f'{time.time():.6f}', 'filters': filters})}"
            )
            connection.request("GET", target)
            response = connection.getresponse()
            lines = response.read().decode(errors="replace").splitlines()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"no answer from the container engine at {self.url}: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, "\n".join(lines).encode(), "GET /events")
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self.url)
        if url.scheme == "unix":
            return _SocketConnection(url.path, self.timeout)
        if url.scheme in ("tcp", "http"):
            return http.client.HTTPConnection(url.hostname or "localhost", url.port or 2375, timeout=self.timeout)
        raise EngineError(f"container engine address {self.url!r}: expected unix:///path or tcp://host:port")

    # -------------------------------------------------------------------------------------------------------- acting

    @property
    def sdk(self) -> docker.APIClient:
        """The docker SDK's client of the same engine, loaded at first use."""
        if self._sdk is None:
            self._sdk = self.new_sdk()
        return self._sdk

    def new_sdk(self, timeout: float | None = None) -> docker.APIClient:
        """Return a client of its own, for a thread or for another limit of time (seconds)."""
        import docker

        engine = self

        class CountingClient(docker.APIClient):
            def send(self, request: Any, **options: Any) -> Any:
                engine.calls += 1
                return super().send(request, **options)

        try:
            return CountingClient(base_url=self.url, version="auto", timeout=timeout or self.timeout)
        except docker.errors.DockerException as error:
            raise EngineError(f"no answer from the container engine at {self.url}: {error}") from error

    def act(self, what: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the docker SDK's low-level client and forget what was read before.

        :param what: for the error message, as in "cannot <what>: <cause>"
        :param name: the method
        :raises NotFound: no such container, image or volume
        :raises EngineError: the engine refused or did not answer
        """
        self.forget()
        return call(self.sdk, what, name, *arguments, **options)

    def forget(self) -> None:
        """Drop what was read and may be another thing now."""
        self._containers = None
        self._inspected.clear()
        self._references.clear()

    def close(self) -> None:
        """Close this thread's connection for reading."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def call(client: docker.APIClient, what: str, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the SDK, with its errors as ours."""
    import docker
    import requests

    try:
        return getattr(client, name)(*arguments, **options)
    except docker.errors.NotFound as error:
        raise NotFound(f"cannot {what}: {error.explanation}") from error
    except docker.errors.APIError as error:
        raise EngineError(f"cannot {what}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineError(f"cannot {what}: {error}") from error


def _refusal(status: int, body: bytes, what: str) -> EngineError:
    try:
        message = json.loads(body).get("message")
    except (ValueError, AttributeError):
        message = body.decode(errors="replace")[:300]
    return (NotFound if status == 404 else EngineError)(f"{what}: {message} (status {status})")
