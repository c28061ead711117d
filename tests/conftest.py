"""Fixtures that every part of the test suite shares."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from kolla_salt import declarations

ROOT = Path(__file__).resolve().parent.parent
FORMULA = ROOT / "tests" / "data" / "formula"

SITE = {
    "globals": {"internal_vip_address": "10.0.0.10"},
    "topology": {
        "networks": {"api": {"cidr": "10.0.0.0/24"}},
        "hosts": {
            "ctl1": {"addresses": {"api": "10.0.0.11", "tunnel": "10.1.0.11"}},
            "ctl2": {"addresses": {"api": "10.0.0.12"}, "options": {"workers": 8}},
            "cmp1": {"addresses": {"api": "10.0.0.21"}},
        },
        "groups": {"control": ["ctl1", "ctl2"], "network": ["ctl1"], "compute": ["cmp1"]},
    },
    "passwords": {
        "database_password": "root-pw",
        "keystone_admin_password": "admin-pw",
        "web_database_password": "web/db pw",
        "web_keystone_password": "web-ks-pw",
        "other_password": "other-pw",
    },
    "overrides": {},
}


@pytest.fixture
def site_data() -> dict:
    """A site with two controllers and a compute node for the test formula."""
    return copy.deepcopy(SITE)


@pytest.fixture
def decls(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The declarations of the test formula."""
    return declarations.load(FORMULA, cache=tmp_path_factory.mktemp("declarations"))
