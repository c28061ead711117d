"""The SLS files of the infrastructure services inside Salt itself: real loader, real state compiler, no daemon."""

from __future__ import annotations

import http.server
import socketserver
import threading
from pathlib import Path

import pytest
import salt.config
import salt.state

from kolla_salt import declarations

FORMULA = Path(__file__).resolve().parents[2] / "salt"
SERVICES = ["kolla", "common", "mariadb", "rabbitmq", "memcached", "loadbalancer"]


class Nothing(http.server.BaseHTTPRequestHandler):
    """An engine that has no container."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def address_string(self):
        return "a local client"


@pytest.fixture
def empty_engine(tmp_path):
    """The socket of an engine without containers."""
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine"), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{tmp_path}/engine"
        server.shutdown()


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

    def run(host, sls, options=(), test=True, **pillar):
        opts = salt.config.minion_config(None)
        opts.update(
            id=host, file_client="local", root_dir=str(tmp_path), cachedir=str(tmp_path / "salt"),
            file_roots={"base": [str(FORMULA)]}, pillar_roots={"base": []}, test=test,
            grains={"id": host, "os": "Debian", "os_family": "Debian", "kernel": "Linux", "init": "unknown"},
        )  # fmt: skip
        data = {"kolla": {**site, "globals": {**site["globals"], **dict(options)}}} | pillar
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


def test_the_switch_is_started_anew_by_its_own_state_when_a_setting_changes_that_it_reads_at_its_start(compile_sls):
    low = compile_sls("cmp1", ["openvswitch"], {"enable_neutron": True})
    name = "openvswitch settings for the start"
    assert {"kolla_openvswitch": name} in low["openvswitch_vswitchd"]["watch"]
    assert low[name]["require"] == [{"kolla_container": "openvswitch_db"}]
    assert {"kolla_container": "openvswitch_db"} in low["openvswitch_vswitchd"]["require"]
    assert low["openvswitch settings"]["require"] == [{"kolla_container": "openvswitch_vswitchd"}]


def test_a_switch_that_does_not_run_yet_waits_for_its_settings_and_watches_nothing(
    compile_sls, empty_engine, monkeypatch
):
    """Salt starts a parallel state twice if what it watches has changed."""
    monkeypatch.setenv("DOCKER_HOST", empty_engine)
    low = compile_sls("cmp1", ["openvswitch"], {"enable_neutron": True}, test=False)["openvswitch_vswitchd"]
    assert low["parallel"] is True and "watch" not in low
    assert {"kolla_openvswitch": "openvswitch settings for the start"} in low["require"]
