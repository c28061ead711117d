"""The SLS files of the infrastructure services inside Salt itself: real loader, real state compiler, no daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import salt.config
import salt.state

from kolla_salt import declarations

FORMULA = Path(__file__).resolve().parents[2] / "salt"
SERVICES = ["kolla", "common", "mariadb", "rabbitmq", "memcached", "loadbalancer"]


@pytest.fixture
def compile_sls(tmp_path, monkeypatch):
    """Compile SLS files on a host without an engine; returns the low chunks by ID."""
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(FORMULA))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    passwords = {name: f"value-of-{name}" for decl in declarations.load().values() for name in decl["passwords"]}
    site = {
        "globals": {"internal_vip_address": "10.0.0.10"},
        "topology": {
            "hosts": {
                name: {"addresses": {"api": address}}
                for name, address in (("ctl1", "10.0.0.11"), ("ctl2", "10.0.0.12"), ("cmp1", "10.0.0.21"))
            },
            "groups": {"control": ["ctl1", "ctl2"], "network": ["ctl1", "ctl2"], "compute": ["cmp1"]},
        },
        "passwords": passwords,
        "overrides": {},
    }

    def run(host, sls, **pillar):
        opts = salt.config.minion_config(None)
        opts.update(
            id=host, file_client="local", root_dir=str(tmp_path), cachedir=str(tmp_path / "salt"),
            file_roots={"base": [str(FORMULA)]}, pillar_roots={"base": []}, test=True,
            grains={"id": host, "os": "Debian", "os_family": "Debian", "kernel": "Linux", "init": "unknown"},
        )  # fmt: skip
        data = {"kolla": site} | pillar
        high = salt.state.HighState(opts, initial_pillar=data)
        opts["pillar"] = high.opts["pillar"] = data
        rendered, errors = high.render_highstate({"base": sls})
        assert not errors
        rendered, errors = high.state.requisite_in(rendered)
        assert not errors
        chunks, errors = high.state.compile_high_data(rendered)
        assert not errors
        return {chunk["__id__"]: chunk for chunk in chunks}

    return run


@pytest.mark.parametrize("host", ["ctl1", "ctl2", "cmp1"])
def test_a_wave_compiles_on_every_host(compile_sls, host):
    low = compile_sls(host, SERVICES)
    assert "hosts of the cloud in /etc/hosts" in low
    assert ("mariadb" in low) is (host != "cmp1")


def test_the_database_is_made_before_its_server_starts_and_both_before_it_is_asked(compile_sls):
    low = compile_sls("ctl1", SERVICES)
    assert {"kolla_config": "mariadb/galera.cnf"} in low["bootstrap_mariadb"]["require"]
    assert {"kolla_mariadb": "bootstrap_mariadb"} in low["mariadb"]["require"]
    assert {"kolla_container": "mariadb"} in low["mariadb is in its cluster"]["require"]


def test_nothing_waits_for_a_first_start_of_the_database(compile_sls):
    low = compile_sls("ctl1", SERVICES)
    assert low["bootstrap_mariadb"]["parallel"] is True
    assert low["mariadb is in its cluster"]["parallel"] is True


def test_the_database_is_left_alone_where_it_is_not_and_in_steps_of_others(compile_sls):
    assert list(compile_sls("cmp1", ["mariadb"])) == ["mariadb is not placed on this host"]
    low = compile_sls("ctl1", ["mariadb"], kolla_step={"role": "rest"})
    assert list(low) == ["mariadb: nothing for this host in the step of the rest"]
