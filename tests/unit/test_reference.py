from __future__ import annotations

from pathlib import Path

from kolla_salt import declarations, reference


def test_the_page_of_services_is_current():
    kept = (Path(__file__).resolve().parents[2] / "docs/services.md").read_text()
    assert kept == reference.page(declarations.load()), "python -m kolla_salt.reference > docs/services.md"
