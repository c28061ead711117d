from __future__ import annotations

from kolla_salt import freshness


def test_minions_read_a_site_again_only_after_it_changed(tmp_path):
    site, records = tmp_path / "site", tmp_path / "runs"
    site.mkdir()
    (site / "globals.yml").write_text("a: 1\n")
    first = freshness.stale(site, records)
    assert first
    assert freshness.stale(site, records) == first, "asking does not mark it as read"
    freshness.mark(records, first)
    assert freshness.stale(site, records) is None
    (site / "globals.yml").write_text("a: 2\n")
    assert freshness.stale(site, records) not in (None, first)
