"""What the upgrade verb says can be done next."""

from __future__ import annotations

import pytest

from kolla_salt.cli.upgrade import _further

BEGUN = {"id": "1-upgrade", "verb": "upgrade", "result": "interrupted", "phases": {"glance": ["snapshot"]}}
GONE_ON = {
    "id": "2-upgrade",
    "verb": "upgrade",
    "result": "failed",
    "snapshots": {"nova": "x"},
    "continues": ["1-upgrade"],
}
REFUSED = {"id": "3-upgrade", "verb": "upgrade", "result": "failed", "continues": ["2-upgrade", "1-upgrade"]}
LOST = {"id": "1-upgrade", "verb": "upgrade", "result": "incomplete", "phases": {}, "begun": {"common": "containers"}}
ENDED = {**GONE_ON, "id": "4-upgrade", "result": "ok", "continues": ["2-upgrade", "1-upgrade"]}
NOTHING = {"id": "5-upgrade", "verb": "upgrade", "result": "ok"}
DEPLOY = {"id": "6-deploy", "verb": "deploy", "result": "failed"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([DEPLOY], []),
        ([REFUSED], []),
        ([BEGUN, DEPLOY], ["Continue: kolla-salt upgrade --service glance", "go back: kolla-salt rollback 1-upgrade"]),
        # Its only host was lost in the first step, which may be there for a part.
        ([LOST], ["Continue: kolla-salt upgrade --service glance", "go back: kolla-salt rollback 1-upgrade"]),
        # The last of them takes back those that it went on with; the first one cannot be taken back alone.
        ([BEGUN, GONE_ON], ["Continue: kolla-salt upgrade", "go back: kolla-salt rollback 2-upgrade"]),
        ([BEGUN, GONE_ON, REFUSED], ["Continue: kolla-salt upgrade", "go back: kolla-salt rollback 2-upgrade"]),
        ([BEGUN, GONE_ON, ENDED], ["The release before is kept. Back: kolla-salt rollback 4-upgrade. For good"]),
        ([ENDED, NOTHING], []),
    ],
)
def test_it_names_both_ways(headers, expected):
    said = _further(headers, ["glance"])
    assert len(said) == len(expected)
    for line, words in zip(said, expected, strict=True):
        assert words in line
