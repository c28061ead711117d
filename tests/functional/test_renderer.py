"""The renderer inside Salt itself: real loader, real state compiler, no daemon."""

from __future__ import annotations

import pytest
import salt.config
import salt.state

from tests.conftest import FORMULA


@pytest.fixture
def compile_sls(tmp_path, monkeypatch, site_data):
    """Compile SLS files on a minion of the given id; returns (low chunks by ID, errors)."""
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(FORMULA))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))

    def run(minion_id, sls, extra=None, pillar=None):
        opts = salt.config.minion_config(None)
        roots = [str(FORMULA)]
        if extra:
            (tmp_path / "extra").mkdir(exist_ok=True)
            for name, text in extra.items():
                path = tmp_path / "extra" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            roots.insert(0, str(tmp_path / "extra"))
        opts.update(
            id=minion_id,
            file_client="local",
            root_dir=str(tmp_path),
            cachedir=str(tmp_path / "salt"),
            file_roots={"base": roots},
            pillar_roots={"base": []},
            grains={"id": minion_id, "os": "Debian", "os_family": "Debian", "kernel": "Linux", "init": "unknown"},
            test=True,
        )
        data = {"kolla": site_data} | (pillar or {})
        high = salt.state.HighState(opts, initial_pillar=data)
        opts["pillar"] = data
        high.opts["pillar"] = data
        rendered, errors = high.render_highstate({"base": sls})
        if errors:
            return {}, errors
        chunks, errors = high.state.compile_high_data(rendered)
        return {chunk["__id__"]: chunk for chunk in chunks}, errors

    return run


def test_an_sls_of_one_line_becomes_ordinary_states(compile_sls):
    low, errors = compile_sls("ctl1", ["web"])
    assert not errors
    assert low["web_api"]["state"] == "kolla_container"
    assert low["web_api"]["fun"] == "running"
    assert low["web database web"]["password_secret"] == "web_database_password"


def test_requisites_resolve_across_the_services_of_a_wave(compile_sls):
    low, errors = compile_sls("ctl1", ["base", "web"])
    assert not errors
    ids = list(low)
    assert ids.index("base") < ids.index("bootstrap_web") < ids.index("web_api")


def test_a_hand_written_state_replaces_and_requires_generated_ones(compile_sls):
    extra = {
        "web/init.sls": "#!yaml|kolla\nweb keystone:\n  test.nop: []\nafterwards:\n  test.nop:\n"
        "    - require:\n      - kolla_container: web_api\n"
    }
    low, errors = compile_sls("ctl1", ["web"], extra)
    assert not errors
    assert low["web keystone"]["state"] == "test"
    assert list(low).index("afterwards") > list(low).index("web_api")


def test_the_step_in_the_pillar_restricts_the_role(compile_sls):
    low, errors = compile_sls("ctl2", ["web"], pillar={"kolla_step": {"role": "primary"}})
    assert not errors
    assert list(low) == ["web: nothing for this host in the step of the primary"]


@pytest.mark.parametrize(
    ("minion", "service", "pillar"), [("cmp1", "base", None), ("ctl2", "web", {"kolla_step": {"role": "primary"}})]
)
def test_hand_written_states_are_left_out_where_the_service_has_none(compile_sls, minion, service, pillar):
    container = {"base": "base", "web": "web_api"}[service]
    extra = {
        f"{service}/init.sls": "#!yaml|kolla\nafterwards:\n  test.nop:\n    - require:\n"
        f"      - kolla_container: {container}\n"
    }
    low, errors = compile_sls(minion, [service], extra, pillar)
    assert not errors
    assert [chunk["fun"] for chunk in low.values()] == ["nop"]
    assert "afterwards" not in low


def test_a_service_that_cannot_be_expanded_is_a_render_error_with_the_reason(compile_sls, site_data):
    del site_data["globals"]["internal_vip_address"]
    site_data["topology"]["groups"]["web-api"] = ["nowhere"]
    _, errors = compile_sls("nowhere", ["web"])
    assert any("kolla:topology:hosts has no host 'nowhere'" in error for error in errors), errors
