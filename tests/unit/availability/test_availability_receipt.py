"""What is made of the results of requests."""

from __future__ import annotations

import random

import pytest

from kolla_salt.availability.receipt import Ledger, make, union
from kolla_salt.availability.targets import Target


def ledger(service="web", entry="web", kind="plain"):
    return Ledger(Target(service, entry, kind, "http://10.0.0.10:80", "/"))


def every(book, begin, end, step=0.1, latency=0.01, bad=None):
    """Enter the results of requests sent from ``begin`` until just before ``end``."""
    for number in range(round((end - begin) / step)):
        sent = begin + number * step
        if bad:
            book.bad(sent, bad)
        else:
            book.good(sent, sent + latency)


def receipt(*books, started=0.0, now=100.0, settled=0.5, **more):
    return make(books, started, now, settled, **more)


def test_an_outage_lasts_from_the_first_failed_request_to_the_next_good_answer():
    book = ledger()
    every(book, 0, 2)
    every(book, 2, 3, bad="connection refused")
    every(book, 3, 5)
    entry = receipt(book).entries[0]
    assert (entry["requests"], entry["failed"]) == (50, 10)
    assert entry["outages"] == [[2.0, 3.01]]
    assert entry["outage"] == 1.01
    assert entry["longest_gap"] == pytest.approx(3.01 - 1.91)
    assert entry["first_failure"] == {"at": 2.0, "said": "connection refused"}
    assert entry["said"] == {"connection refused": 10}
    assert not entry["open"]


def test_a_failure_that_is_known_late_ends_where_the_service_had_answered_again():
    book = ledger()
    every(book, 0, 3)
    book.bad(1.05, "no answer within 2 s")  # known at 3.05, when many later requests had been answered
    assert receipt(book).entries[0]["outages"] == [[1.05, 1.11]]


def test_an_answer_to_an_earlier_request_does_not_end_an_outage():
    book = ledger()
    book.good(0.0, 0.1)
    book.bad(1.0, "HTTP status 503")
    book.good(0.9, 1.5)
    book.good(1.2, 1.7)
    assert receipt(book).entries[0]["outages"] == [[1.0, 1.7]]


def test_what_goes_on_at_the_end_lasts_until_then():
    book = ledger()
    every(book, 0, 1)
    every(book, 1, 2, bad="connection refused")
    data = receipt(book, now=4.0)
    entry = data.entries[0]
    assert entry["open"] and entry["outages"] == [[1.0, 4.0]] and entry["longest_gap"] == pytest.approx(3.09)
    assert "it still did not answer at the end" in "\n".join(data.lines())


def test_overlapping_outages_are_counted_once():
    rng = random.Random(7)
    for _ in range(50):
        book, sent = ledger(), 0.0
        book.good(0.0, 0.0)
        failures = []
        for _ in range(60):
            sent += 0.1
            if rng.random() < 0.4:
                failures.append((sent + rng.choice([0.0, 1.0, 2.0]), sent))
            else:
                failures.append((sent + rng.random(), None, sent))
        good = [(item[2], item[0]) for item in failures if item[1] is None]
        for item in sorted(failures, key=lambda item: item[0]):
            if item[1] is None:
                book.good(item[2], item[0])
            else:
                book.bad(item[1], "no")
        expected = union(
            (item[1], min((done for begin, done in good if begin >= item[1]), default=50.0))
            for item in failures
            if item[1] is not None
        )
        # The definition, applied to all results at once, gives the same as entering them one by one.
        assert book.outages(50.0) == expected


def test_nothing_counts_before_the_first_good_answer():
    book = ledger()
    every(book, 0, 5, bad="connection refused")
    every(book, 5, 6)
    entry = receipt(book).entries[0]
    assert (entry["there_before"], entry["first_answer"]) == (False, 5.0)
    assert (entry["requests"], entry["failed"], entry["outages"]) == (10, 0, [])


def test_an_entry_that_was_there_before_its_token_was_there_before():
    plain, token, late = ledger(), ledger(kind="token"), ledger("db", "db", "token")
    every(plain, 0, 9)
    every(token, 4, 9)
    every(late, 4, 9)
    data = receipt(plain, token, late, now=9)
    assert [entry["there_before"] for entry in data.entries] == [True, True, False]


def test_what_never_answered_says_why_and_is_no_outage():
    silent, well = ledger("db", "db"), ledger()
    every(silent, 0, 5, bad="no route to host")
    every(well, 0, 5)
    data = receipt(silent, well)
    assert data.entries[0]["silent"] == "no route to host"
    assert data.services["db"]["there_before"] is None and data.services["web"]["there_before"] is True
    assert data.failed == 0
    assert data.lines() == [
        "availability: no request failed (50 requests to 1 APIs, longest gap 0.10 s)",
        "  never answered: db",
    ]
    assert receipt(silent).lines() == [
        "availability: no API answered this machine through the VIP (no route to host)",
    ]


def test_latencies_are_right_within_two_per_cent():
    rng = random.Random(3)
    book = ledger()
    seconds = [rng.lognormvariate(-4, 1) for _ in range(5000)]
    for number, latency in enumerate(seconds):
        book.good(number, number + latency)
    seconds.sort()
    entry = receipt(book, now=6000).entries[0]
    assert entry["p50"] == pytest.approx(seconds[2499], rel=0.02)
    assert entry["p99"] == pytest.approx(seconds[4949], rel=0.02)
    assert entry["max"] == pytest.approx(seconds[-1], abs=0.0001)


def test_seconds_in_which_two_entries_were_out_are_one_second_of_their_service():
    first, second, other = ledger(), ledger(kind="token"), ledger("db", "db")
    for book, begin, end in ((first, 1, 3), (second, 2, 4), (other, 10, 11)):
        every(book, 0, begin)
        every(book, begin, end, bad="HTTP status 503")
        every(book, end, 12)
    data = receipt(first, second, other, now=12)
    assert data.services["web"]["outages"] == [[1.0, 4.01]]
    assert data.services["web"]["outage"] == 3.01
    assert data.data["outage"] == pytest.approx(3.01 + 1.01)
    assert data.failed == 50
    first_line, web, db = data.lines()
    assert first_line.startswith("availability: 50 requests failed, 4.0 s of outage (360 requests to 2 APIs")
    assert web.startswith("  web: 40 of 240 requests failed, 3.0 s of outage (first ")
    assert web.endswith(": HTTP status 503)")
    assert db.startswith("  db: 10 of 120 requests failed, 1.0 s of outage")


def test_recovery_is_the_time_from_a_mark_until_nothing_is_missing_any_more():
    fast, slow, gone = ledger(), ledger("db", "db"), ledger("image", "image")
    for book, begin, end in ((slow, 10, 14), (gone, 11, 20)):
        every(book, 0, begin)
        every(book, begin, end, bad="connection refused")
    every(slow, 14, 20)
    every(slow, 20, 21, bad="connection refused")
    every(slow, 21, 30)
    every(fast, 0, 30)
    marks = [{"label": "killed", "at": 9.5}, {"label": "again", "at": 19.5}]
    data = receipt(fast, slow, gone, now=30, marks=marks)
    assert data.recovery("killed") == {"web": 0.0, "db": 4.51, "image": None}
    assert data.recovery("again")["db"] == 1.51
    with pytest.raises(KeyError, match="killed, again"):
        data.recovery("other")


def test_a_table_says_which_step_ran_meanwhile():
    book = ledger()
    every(book, 0, 2)
    every(book, 2, 3, bad="connection refused")
    every(book, 3, 5)
    steps = [
        {"id": "web on its first host", "started": 1.5, "seconds": 1.0},
        {"id": "web elsewhere", "started": 8, "seconds": 1},
    ]
    header, rows, notes = receipt(book).table(steps)
    assert dict(zip(header, rows[0], strict=True)) == {
        "service": "web", "asked": "10.0.0.10:80/", "requests": 50, "failed": 10, "outage s": "1.01", "gap s": "1.10",
        "p50 ms": "10", "p99 ms": "10", "max ms": "10", "": "",
    }  # fmt: skip
    assert notes[0].startswith("web: out for 1.01 s from ") and notes[0].endswith("during: web on its first host")
    assert notes[1] == "  10 times: connection refused"


def test_memory_does_not_grow_with_the_requests():
    book = ledger()
    every(book, 0, 2000)
    assert len(book._good) < 200 and len(book._classes) < 5
