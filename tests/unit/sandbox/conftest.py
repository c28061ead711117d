from __future__ import annotations

from pathlib import Path

import pytest

from kolla_salt.sandbox.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Directories of a sandbox that does not exist."""
    return Paths(state=tmp_path / "state", cache=tmp_path / "cache", repo=tmp_path / "repo")
