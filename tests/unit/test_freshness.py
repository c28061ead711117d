from __future__ import annotations

import pytest
import yaml

from kolla_salt import freshness, site
from kolla_salt.pillar import kolla as pillar


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


@pytest.fixture
def a_site(tmp_path, site_data, monkeypatch):
    """A site that its minions have read, and the records of its master."""
    folder, records = tmp_path / "site", tmp_path / "runs"
    folder.mkdir()
    for name in ("globals", "topology", "passwords"):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(site_data[name]))
    monkeypatch.setattr(site, "_SETTLED", -1000)
    monkeypatch.setattr(pillar, "__opts__", {"kolla_runs": str(records)}, raising=False)
    freshness.mark(records, freshness.stale(folder, records))
    return folder, records


def test_a_minion_that_starts_while_the_site_is_another_makes_all_read_it_again(a_site):
    folder, records = a_site
    before = (folder / "globals.yml").read_text()
    pillar.ext_pillar("ctl1", {}, str(folder))
    assert freshness.stale(folder, records) is None, "one that is given the same site changes nothing"
    (folder / "globals.yml").write_text(before + "openstack_region_name: RegionTwo\n")
    found = pillar.ext_pillar("ctl1", {}, str(folder))
    assert found["kolla"]["globals"]["openstack_region_name"] == "RegionTwo"
    (folder / "globals.yml").write_text(before)
    digest = freshness.stale(folder, records)
    assert digest
    freshness.mark(records, digest)
    pillar.ext_pillar("ctl1", {}, str(folder))
    assert freshness.stale(folder, records) is None


def test_a_minion_that_starts_while_the_site_cannot_be_read_makes_all_read_it_again(a_site):
    folder, records = a_site
    before = (folder / "globals.yml").read_text()
    (folder / "globals.yml").write_text("a: 1\na: 2\n")
    assert "twice" in pillar.ext_pillar("ctl1", {}, str(folder))["_errors"][0]
    (folder / "globals.yml").write_text(before)
    assert freshness.stale(folder, records)
