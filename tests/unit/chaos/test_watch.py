"""Doing something beside a test."""

from __future__ import annotations

import time

from benchmarks.chaos.watch import Repeated


def test_attempts_are_remembered_good_and_bad():
    answers = iter([True, OSError("gone"), True])

    def action():
        found = next(answers, False)
        if isinstance(found, Exception):
            raise found
        return found

    thread = Repeated(action, every=0.01)
    thread.start()
    deadline = time.monotonic() + 5
    while len(thread.attempts) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    attempts = thread.stop()
    assert [attempt.ok for attempt in attempts[:4]] == [True, False, True, False]
    assert attempts[1].said == "OSError: gone"
    assert thread.good == [attempts[0].ended, attempts[2].ended]


def test_stopping_what_was_never_started_says_that_nothing_was_seen():
    assert Repeated(lambda: True, 1).stop() == []
