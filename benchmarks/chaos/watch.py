"""Do something again and again beside a test, and remember when it went well. APIs have kolla_salt.availability."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from kolla_salt.ping import ping


class Attempt(NamedTuple):
    """One time: when it began and ended, whether it went well, what it said if not."""

    begun: float
    ended: float
    ok: bool
    said: str = ""


class Repeated(threading.Thread):
    """Does something again and again until it is stopped.

    Args:
        action: returns whether it went well, or raises one of ``errors``.
        every: seconds from one begin to the next.
        errors: exceptions that mean that it did not.
    """

    def __init__(
        self, action: Callable[[], bool], every: float, errors: tuple[type[Exception], ...] = (OSError,)
    ) -> None:
        super().__init__(daemon=True)
        self.action, self.every, self.errors = action, every, errors
        self.attempts: list[Attempt] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        """Do it until told to stop."""
        while not self._stopped.is_set():
            begun = time.monotonic()
            try:
                ok, said = bool(self.action()), ""
            except self.errors as error:
                ok, said = False, f"{type(error).__name__}: {error}"
            self.attempts.append(Attempt(begun, time.monotonic(), ok, said))
            self._stopped.wait(max(0.0, self.every - (time.monotonic() - begun)))

    def stop(self) -> list[Attempt]:
        """Stop and return all attempts."""
        self._stopped.set()
        if self.is_alive():
            self.join(90)
        return list(self.attempts)

    @property
    def good(self) -> list[float]:
        """When it went well."""
        return [attempt.ended for attempt in list(self.attempts) if attempt.ok]


def pinging(address: str, every: float = 0.1) -> Repeated:
    """Return a thread that pings ``address``."""
    return Repeated(lambda: ping(address, timeout=0.4), every)
