"""The asking: a thread with an event loop that sends every request on time, whether or not the last one was answered.

Each request has a connection of its own, since that is what a new client sees: a connection that was kept would go on
talking to a member that the load balancer no longer chooses.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from kolla_salt.availability.receipt import Ledger, Receipt, make
from kolla_salt.availability.targets import Account, Target

#: Seconds after which a request counts as unanswered.
TIMEOUT = 2.0
#: Seconds that :meth:`Probe.start` waits at most to learn what is there.
SETTLE = 3.0
#: Seconds between two requests to what was not there before: it has no users yet, and the machine is busy enough.
_ABSENT = 1.0
#: The next request waits for this many times the usual latency, so that asking never takes more than a tenth of a
#: worker: what costs its service much is asked less often, and a service that cannot keep up is left alone.
SPARING = 10.0
#: Seconds between the first requests with a token.
_APART = 0.03
#: Seconds between two requests at most, however slow the answers.
_SELDOM = 1.0
#: Bytes of an answer that are read at most; a longer one is as good.
_ENOUGH = 1 << 20
_AGENT = "kolla-salt-availability"

#: Called once, with what came back (None: nothing whole) and, if the request failed, with why.
Ended = Callable[["Answer | None", str], None]


@dataclass(frozen=True)
class _Place:
    address: str
    port: int
    secure: bool


class Answer:
    """An HTTP answer: status, head and body."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status, self.head, self.body = status, head, body

    def header(self, name: str) -> str:
        """Return a header's value, or an empty string."""
        prefix = name.lower().encode() + b":"
        for line in self.head.split(b"\r\n")[1:]:
            if line.lower().startswith(prefix):
                return line[len(prefix) :].strip().decode("latin-1")
        return ""


class _Wire:
    """A plain TCP connection. It costs half of what asyncio's own do, which is most of what the probe costs.

    Args:
        loop: of this thread.
        place: IP address.
        port: port there.
        protocol: told ``connection_made``, ``data_received`` and ``connection_lost``, as by asyncio.

    Raises:
        OSError: there is no way there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, place: str, port: int, protocol: _Exchange) -> None:
        self.loop, self.protocol = loop, protocol
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # By number: asyncio makes a text of what it is given here, which costs more of a socket than of a number.
        self.number = self.socket.fileno()
        self.open = True
        try:
            self.socket.connect((place, port))
        except BlockingIOError:
            pass
        except OSError:
            self.abort()
            raise
        loop.add_writer(self.number, self._connected)

    def _connected(self) -> None:
        self.loop.remove_writer(self.number)
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lost(OSError(error, os.strerror(error)))
            return
        self.loop.add_reader(self.number, self._readable)
        self.protocol.connection_made(self)

    def _readable(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self.protocol.data_received(data)
        else:
            self._lost(None)

    def _lost(self, error: OSError | None) -> None:
        self.abort()
        self.protocol.connection_lost(error)

    def write(self, data: bytes) -> None:
        """Send ``data``, which is short: an empty socket takes it at once."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            self._lost(error)

    def abort(self) -> None:
        """Close the connection."""
        if self.open:
            self.open = False
            self.loop.remove_writer(self.number)
            self.loop.remove_reader(self.number)
            self.socket.close()

    close = abort


class _Exchange(asyncio.Protocol):
    """One request on one connection. Tells its end exactly once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, ended: Ended) -> None:
        self.loop, self.timeout, self.ended = loop, timeout, ended
        self.transport: asyncio.Transport | _Wire | None = None
        self.buffer = bytearray()
        self.over = False
        self.connected = False
        self.task: asyncio.Task[None] | None = None
        self.deadline = loop.time() + timeout
        self.timer = loop.call_at(self.deadline, self.expire)

    def expire(self) -> None:
        """Give up, unless it was this process that did not get to run."""
        late = self.loop.time() - self.deadline
        if late > 0.1:
            self.deadline = self.loop.time() + min(late, self.timeout)
            self.timer = self.loop.call_at(self.deadline, self.expire)
            return
        self.end(None, f"no answer within {self.timeout:g} s")

    def end(self, answer: Answer | None, why: str) -> None:
        """Close the connection and tell how it ended."""
        if self.over:
            return
        self.over = True
        self.timer.cancel()
        if self.transport is not None:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()
        self.ended(answer, why)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connected = True
        if self.over:
            transport.abort()
        else:
            self.begin(transport)

    def begin(self, transport: asyncio.Transport | _Wire) -> None:
        """Send what is sent first."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over:
            self.end(None, reason(exc) if exc else self.closed())

    def closed(self) -> str:
        """Say what it means that the other side closed the connection now."""
        return "answer cut short" if self.buffer else "connection closed without an answer"


class _Http(_Exchange):
    """An HTTP/1.1 request that asks for the connection to be closed after the answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, ended: Ended, request: bytes) -> None:
        super().__init__(loop, timeout, ended)
        self.request = request
        self.head: bytes | None = None
        self.length: int | None = None
        self.chunked = False

    def begin(self, transport: asyncio.Transport | _Wire) -> None:
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.head is None:
            found = self.buffer.find(b"\r\n\r\n")
            if found < 0:
                return
            self.head = bytes(self.buffer[:found])
            del self.buffer[: found + 4]
            lines = self.head.lower().split(b"\r\n")
            if not lines[0].startswith(b"http/1.") or not lines[0][9:12].isdigit():
                self.end(None, "the answer is not HTTP")
                return
            for line in lines[1:]:
                if line.startswith(b"content-length:") and line[15:].strip().isdigit():
                    self.length = int(line[15:])
                elif line.startswith(b"transfer-encoding:"):
                    self.chunked = b"chunked" in line
        last = self.chunked and self.buffer.endswith(b"0\r\n\r\n")
        if last or len(self.buffer) > _ENOUGH or self.length is not None and len(self.buffer) >= self.length:
            self.whole()

    def whole(self) -> None:
        """Tell the answer, which is complete."""
        assert self.head is not None
        self.end(Answer(int(self.head[9:12]), self.head, bytes(self.buffer)), "")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over and exc is None and self.head is not None and self.length is None and not self.chunked:
            self.whole()  # its end is that of the connection
        super().connection_lost(exc)

    def closed(self) -> str:
        return "answer cut short" if self.head is not None else super().closed()


class _Talk(_Exchange):
    """A conversation over plain TCP, as a ``probe`` declares it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, ended: Ended, steps: Iterable[tuple[str, str]]
    ) -> None:
        super().__init__(loop, timeout, ended)
        self.steps = [(bytes.fromhex(send), bytes.fromhex(expect)) for send, expect in steps]
        self.expect: bytes = b""

    def begin(self, transport: asyncio.Transport | _Wire) -> None:
        self.proceed()

    def proceed(self) -> None:
        """Go on to the next step that waits for something."""
        assert self.transport is not None
        while self.steps:
            send, self.expect = self.steps.pop(0)
            self.buffer.clear()
            if send:
                self.transport.write(send)
            if self.expect:
                return
        if not self.over:
            self.over = True
            self.timer.cancel()
            self.transport.close()  # the last words are still sent
            self.ended(Answer(200, b"", b""), "")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.expect and self.expect in self.buffer:
            self.proceed()
        elif len(self.buffer) > _ENOUGH:
            self.end(None, "another answer than expected")

    def closed(self) -> str:
        return "another answer than expected" if self.buffer else super().closed()


def reason(error: BaseException) -> str:
    """Return in a few words why a connection failed."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "connection reset"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "name not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


class Probe:
    """Asks ``targets`` until it is stopped.

    Args:
        targets: what to ask.
        account: whose token is used for those of the kind ``token``; without one they are not asked.
        timeout: seconds after which a request counts as unanswered.
        sparing: for how many times its usual latency a target is left alone between two requests; 0: for no longer
            than its rate says.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        account: Account | None = None,
        timeout: float = TIMEOUT,
        sparing: float = SPARING,
    ) -> None:
        self.targets = list(targets)
        self.account = account or Account()
        self.timeout, self.sparing = timeout, sparing
        self.marks: list[dict[str, Any]] = []
        self.ledgers = [Ledger(target, memory=3 * timeout + 4) for target in self.targets]
        self.stall = 0.0
        self._offset = time.time() - time.monotonic()
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._settled = threading.Event()
        self._settled_at: float | None = None
        self._started = 0.0
        self._final: Receipt | None = None
        self._finish: asyncio.Event | None = None
        self._flying: set[_Exchange] = set()
        self._judging: set[asyncio.Task[None]] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tls: ssl.SSLContext | None = None
        self._places: dict[str, _Place] = {}
        self._requests = [b"" if target.kind != "plain" else _get(target.url, target.path) for target in self.targets]
        self._latest: list[deque[float]] = [deque(maxlen=9) for _ in self.targets]
        self._token = self._project = ""
        self._token_tried = not (self.account.password and any(t.kind == "token" for t in self.targets))

    # --- from the caller's thread ------------------------------------------------------------------------------------

    def start(self, settle: float = SETTLE) -> Probe:
        """Begin to ask, and wait until it is known who is there.

        Args:
            settle: seconds to wait at most; what has not answered a request sent until then "was not there before".
        """
        self._thread = threading.Thread(target=self._run, name="availability", daemon=True)
        self._thread.start()
        self._settled.wait(settle)
        if self._settled_at is None:
            self._settled_at = self._now()
        return self

    def mark(self, label: str) -> None:
        """Note that something happened now, for :meth:`Receipt.recovery`."""
        self.marks.append({"label": label, "at": self._now()})

    def snapshot(self) -> Receipt:
        """Return the receipt as of now, without stopping."""

        async def take() -> Receipt:
            return self._receipt(finished=False)

        return asyncio.run_coroutine_threadsafe(take(), self._loop).result(10)

    def stop(self) -> Receipt:
        """Send nothing more, wait for what is on its way, and return the receipt; a second time, the same one."""
        if self._final is not None:
            return self._final
        if self._thread is not None and self._thread.is_alive() and self._finish is not None:
            self._loop.call_soon_threadsafe(self._finish.set)
            self._thread.join(self.timeout * 3 + 5)
        self._final = self._receipt(finished=True)
        return self._final

    def _now(self) -> float:
        return time.monotonic() + self._offset

    def _receipt(self, finished: bool) -> Receipt:
        now = self._now()
        settled = now if self._settled_at is None else self._settled_at
        return make(self.ledgers, self._started, now, settled, list(self.marks), self.stall, finished)

    # --- in the loop -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        self._finish = asyncio.Event()
        self._started = self._now()
        begin = self._loop.time()
        for number, target in enumerate(self.targets):
            # Not all at once: the requests of one round are spread over it.
            self._plan(number, begin + number / len(self.targets) / target.rate)
        renewal = None if self._token_tried else asyncio.ensure_future(self._keep_token())
        await self._finish.wait()
        for timer in self._timers.values():
            timer.cancel()
        if renewal:
            renewal.cancel()
        deadline = self._loop.time() + 2 * self.timeout + 1
        while (self._flying or self._judging) and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0)

    def _plan(self, number: int, when: float) -> None:
        self._timers[number] = self._loop.call_at(when, self._tick, number, when)

    def _tick(self, number: int, planned: float) -> None:
        now = self._loop.time()
        self.stall = max(self.stall, now - planned)
        target, ledger = self.targets[number], self.ledgers[number]
        interval = max(1 / target.rate, min(_SELDOM, self.sparing * self._usual(number)))
        if ledger.asked and (ledger.first is None or self._settled_at is not None and ledger.first > self._settled_at):
            interval = max(interval, _ABSENT)
        following = planned + interval
        if following < now:  # what was missed is not made up for: that would be a burst
            following = now + interval
        self._plan(number, following)
        if target.kind != "token":
            self._ask(number, self._requests[number])
        elif self._token:
            path = target.path.replace("%(project_id)s", self._project)
            self._ask(number, _get(target.url, path, self._token), self._token)

    def _usual(self, number: int) -> float:
        """Return the median of the last latencies of a target, in seconds."""
        latest = self._latest[number]
        return sorted(latest)[len(latest) // 2] if latest else 0.0

    def _ask(self, number: int, request: bytes, token: str = "") -> None:
        target, ledger = self.targets[number], self.ledgers[number]
        sent = self._now()

        def ended(answer: Answer | None, why: str) -> None:
            self._flying.discard(exchange)
            if answer is not None or exchange.connected:
                self._latest[number].append(self._now() - sent)
            else:
                self._latest[number].clear()  # asking costs nobody anything now, and its end is to be seen at once
            # A health document may be missing; what is asked with a token was chosen because it is there.
            if answer is not None and answer.status >= (400 if token and answer.status != 401 else 500):
                why = f"HTTP status {answer.status}"
            if answer is not None and answer.status == 401 and token:
                task = asyncio.ensure_future(self._judge(ledger, sent, token))
                self._judging.add(task)
                task.add_done_callback(self._judging.discard)
            elif why:
                ledger.bad(sent, why)
            else:
                ledger.good(sent, self._now())
            if self._settled_at is None:
                self._look_settled()

        exchange: _Exchange
        if target.kind == "tcp":
            exchange = _Talk(self._loop, self.timeout, ended, target.talk)
        else:
            exchange = _Http(self._loop, self.timeout, ended, request)
        self._flying.add(exchange)
        self._connect(exchange, target.url)

    def _connect(self, exchange: _Exchange, url: str) -> None:
        place = self._places.get(url)
        if place is None or place.secure:
            exchange.task = asyncio.ensure_future(self._connect_slowly(exchange, url))
            return
        try:
            exchange.transport = _Wire(self._loop, place.address, place.port, exchange)
        except OSError as error:
            # Not from here: the caller goes on with the exchange.
            self._loop.call_soon(exchange.end, None, reason(error))

    async def _connect_slowly(self, exchange: _Exchange, url: str) -> None:
        """Connect for the first time, which includes looking up the name, or with TLS."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            place = self._places.get(url)
            if place is None:
                # Once: it is not the name service that is watched.
                found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                place = self._places[url] = _Place(str(found[0][4][0]), port, parts.scheme == "https")
            if place.secure:
                await self._loop.create_connection(
                    lambda: exchange, place.address, port, ssl=self._context(), server_hostname=host
                )
            else:
                exchange.transport = _Wire(self._loop, place.address, port, exchange)
        except OSError as error:
            exchange.end(None, reason(error))

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self.account.authority or None)
            if not self.account.authority:
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE
        return self._tls

    def _look_settled(self) -> None:
        """Notice that every target has been asked once, so that it is known who was there before."""
        for target, ledger in zip(self.targets, self.ledgers, strict=True):
            if target.kind == "token":
                if not self._token_tried or (self._token and not ledger.asked):
                    return
            elif not ledger.asked:
                return
        self._settled_at = self._now()
        self._settled.set()

    # --- the token ---------------------------------------------------------------------------------------------------

    async def _exchange(self, url: str, request: bytes, timeout: float) -> tuple[Answer | None, str]:
        done: asyncio.Future[tuple[Answer | None, str]] = self._loop.create_future()

        def ended(answer: Answer | None, why: str) -> None:
            if not done.done():
                done.set_result((answer, why))

        self._connect(_Http(self._loop, timeout, ended, request), url)
        return await done

    async def _keep_token(self) -> None:
        """Have a token as soon as there can be one, and a new one when half of its life is over or it is refused."""
        while True:
            life = await self._renew()
            if self._token and not self._token_tried:
                self._ask_soon()
            self._token_tried = True
            if self._settled_at is None:
                self._look_settled()
            deadline = self._loop.time() + (life / 2 if life else 1.0)
            while self._loop.time() < deadline and (self._token or not life):
                await asyncio.sleep(0.2)

    def _ask_soon(self) -> None:
        """Let what needs the token, which has just come, have its turn now: somebody may wait to know who is there."""
        when = self._loop.time()
        for number, target in enumerate(self.targets):
            if target.kind == "token":
                self._timers[number].cancel()
                self._plan(number, when)
                when += _APART

    async def _renew(self) -> float:
        """Ask for a token; return how many seconds it lives, 0 if there is none."""
        who = self.account
        user = {"name": who.user, "domain": {"id": who.user_domain}, "password": who.password}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": who.project, "domain": {"id": who.project_domain}}},
            }
        }
        request = _request("POST", who.url, "/auth/tokens?nocatalog", json.dumps(body).encode())
        answer, _ = await self._exchange(who.url, request, max(10.0, self.timeout))
        if answer is None or answer.status != 201:
            return 0.0
        try:
            said = json.loads(answer.body)["token"]
            expires = datetime.fromisoformat(said["expires_at"].replace("Z", "+00:00")).timestamp()
            self._project = str(said["project"]["id"])
        except (ValueError, KeyError, TypeError):
            return 0.0
        self._token = answer.header("X-Subject-Token")
        return max(1.0, expires - time.time()) if self._token else 0.0

    async def _judge(self, ledger: Ledger, sent: float, token: str) -> None:
        """A token was refused: the service's failure if Keystone still accepts it, else a reason for a new one."""
        if token != self._token:
            return  # it had been replaced
        request = _request("GET", self.account.url, "/auth/tokens?nocatalog", b"", token)
        answer, _ = await self._exchange(self.account.url, request, self.timeout)
        if answer is not None and answer.status in {401, 404}:
            if token == self._token:
                self._token = ""
            return
        ledger.bad(sent, "HTTP status 401 with a valid token")


def _get(url: str, path: str, token: str = "") -> bytes:
    parts = urlsplit(url)
    return _request("GET", f"{parts.scheme}://{parts.netloc}", path, b"", token, subject=False)


def _request(method: str, url: str, path: str, body: bytes, token: str = "", subject: bool = True) -> bytes:
    parts = urlsplit(url)
    lines = [
        f"{method} {parts.path}{path} HTTP/1.1",
        f"Host: {parts.netloc}",
        f"User-Agent: {_AGENT}",
        "Accept: */*",
        "Connection: close",
    ]
    if token:
        lines.append(f"X-Auth-Token: {token}")
        if subject:
            lines.append(f"X-Subject-Token: {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
