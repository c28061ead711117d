"""How many images a host fetches at once."""

from __future__ import annotations

import threading
import time

import pytest

from kolla_salt.modules import kolla_node

IMAGES = [f"registry/image-{number}" for number in range(7)]


@pytest.fixture
def most(monkeypatch):
    """Return how many fetches overlapped at most, given the states of the host's containers."""

    def pulled(states, **options):
        lock, now, seen = threading.Lock(), [0], []

        def fetch(reference):
            with lock:
                now[0] += 1
                seen.append(now[0])
            time.sleep(0.05)
            with lock:
                now[0] -= 1

        listed = [{"name": f"c{number}", "state": state} for number, state in enumerate(states)]
        salt = {"kolla_container.list": lambda: listed, "kolla_container.pull": fetch}
        monkeypatch.setattr(kolla_node, "__salt__", salt, raising=False)
        assert kolla_node.pull(IMAGES, **options) == {"pulled": IMAGES, "failed": {}}
        return max(seen)

    return pulled


def test_a_host_that_serves_fetches_one_image_at_a_time(most):
    assert most(["exited", "running"]) == 1


def test_a_host_on_which_nothing_runs_fetches_two_at_once(most):
    assert most([]) == most(["exited"]) == 2


def test_how_many_is_said_by_who_asks(most):
    assert most(["running"], threads=4) == 4
