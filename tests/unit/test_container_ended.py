"""When a container that is waited for counts as ended."""

from __future__ import annotations

import pytest

from kolla_salt.modules import kolla_container


def seen(policy="unless-stopped", restarts=0, **state):
    return {
        "Id": "1", "RestartCount": restarts, "HostConfig": {"RestartPolicy": {"Name": policy}},
        "State": {"Running": False, "Restarting": False, "ExitCode": 7, "Error": "", **state},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "idle", "expected"),
    [
        (seen(Running=True), 0, None),
        (seen(Restarting=True), 30, None),
        (seen(), 0.5, None),  # podman, between two starts
        (seen(), 2.5, "has ended with exit code 7"),
        (seen("no"), 0, "has ended with exit code 7"),
        (seen(Error="no such program"), 0, "has ended with exit code 7 (no such program)"),
        (seen(restarts=3), 0.5, "ends right after each start: the engine has restarted it 3 times by now"),
    ],
)
def test_only_what_nobody_starts_again_has_ended(now, idle, expected):
    assert kolla_container._has_ended(seen(), now, idle) == expected


def test_another_container_of_the_name_is_another_one():
    assert kolla_container._has_ended(seen(), {**seen(), "Id": "2"}, 0) == "was replaced by another container meanwhile"
