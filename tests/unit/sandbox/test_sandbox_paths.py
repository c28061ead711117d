from __future__ import annotations

import pytest

from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.paths import find_paths


def test_defaults() -> None:
    paths = find_paths({})
    assert str(paths.site) == "/var/lib/kolla-salt/sandbox/site"
    assert str(paths.master_config) == "/var/lib/kolla-salt/sandbox/master/etc"
    assert str(paths.cache) == "/var/cache/kolla-salt"
    assert (paths.repo / "kolla_salt" / "sandbox").is_dir()
    assert paths.cgroup == "kolla-salt"


def test_another_place_has_another_control_group() -> None:
    one = find_paths({"KOLLA_SALT_SANDBOX_DIR": "/srv/one", "KOLLA_SALT_CACHE_DIR": "/srv/cache"})
    two = find_paths({"KOLLA_SALT_SANDBOX_DIR": "/srv/two"})
    assert str(one.node("node1")) == "/srv/one/nodes/node1"
    assert str(one.cache) == "/srv/cache"
    assert len({"kolla-salt", one.cgroup, two.cgroup}) == 3


@pytest.mark.parametrize("path", ["relative", "/with blank", "/with,comma", "/with:colon", "/" + "long" * 20])
def test_unusable_places_are_refused(path: str) -> None:
    with pytest.raises(SandboxError, match="KOLLA_SALT_SANDBOX_DIR"):
        find_paths({"KOLLA_SALT_SANDBOX_DIR": path})
