from __future__ import annotations

import json

import pytest

from kolla_salt.context import Resolver
from kolla_salt.expand import expand


def arguments(state):
    ((_, args),) = state.items()
    return {key: value for item in args for key, value in item.items()}


@pytest.fixture
def on(decls, site_data, tmp_path):
    def make(host, **changes):
        site_data["globals"].update(changes)
        return Resolver(decls, site_data, host, cache=tmp_path)

    return make


def test_the_primary_runs_the_run_once_states_in_order(on):
    states = expand("web", on("ctl1"))
    assert list(states) == [
        "web_api/config.json", "web_api/web.conf", "web_api/obsolete", "web_cache",
        "web database web", "web keystone", "bootstrap_web", "web_api",
    ]  # fmt: skip
    assert list(states["web_cache"]) == ["kolla_container.absent"]
    running = arguments(states["web_api"])
    assert running["watch"] == [{"kolla_config": "web_api/config.json"}, {"kolla_config": "web_api/web.conf"}]
    assert running["require"] == [{"kolla_container": "bootstrap_web"}]
    assert running["reload_files"] == ["web.conf"]
    assert running["ignore_files"] == ["policy.yaml"]


def test_another_host_of_the_group_only_gets_files_and_containers(on):
    assert list(expand("web", on("ctl2"))) == [
        "web_api/config.json", "web_api/web.conf", "web_api/obsolete", "web_cache", "web_api",
    ]  # fmt: skip


def test_roles_restrict_a_step_to_the_hosts_that_play_them(on):
    assert list(expand("web", on("ctl2"), role="primary").values())[0].keys() == {"test.nop"}
    assert list(expand("web", on("ctl1"), role="rest").values())[0].keys() == {"test.nop"}
    assert "web_api" in expand("web", on("ctl2"), role="rest")


def test_a_host_without_the_service_says_so(on):
    assert expand("base", on("cmp1")) == {"base is not placed on this host": {"test.nop": [{"name": "base"}]}}
    assert list(expand("web", on("cmp1", enable_web=False))) == ["web is switched off (enable_web)"]


def test_a_condition_adds_its_file_and_container(on):
    states = expand("web", on("ctl1", web_cache=True))
    assert "web_api/cache.conf" in states
    assert list(states["web_cache"]) == ["kolla_container.running"]


def test_an_optional_file_exists_only_with_an_override(on, site_data):
    site_data["overrides"]["web/policy.yaml"] = "x: y"
    assert "web_api/policy.yaml" in expand("web", on("ctl1"))


def test_no_secret_enters_a_state(on, site_data):
    text = json.dumps([expand("web", on("ctl1")), expand("base", on("ctl1"))])
    assert not [value for value in site_data["passwords"].values() if value in text]
    assert arguments(expand("base", on("ctl1"))["base"])["environment"] == {
        "KOLLA_CONFIG_STRATEGY": "COPY_ALWAYS", "KOLLA_SERVICE_NAME": "base",
        "ROOT": {"secret": "database_password"}, "KOLLA_FLAG": "",
    }  # fmt: skip


def test_what_is_new_on_a_host_starts_in_parallel(on):
    facts = {"running": {"web_api"}, "stamps": set()}
    states = expand("web", on("ctl1"), facts=facts)
    assert "parallel" not in arguments(states["web_api"])
    assert arguments(states["bootstrap_web"])["parallel"] is True


def test_volumes_depend_on_the_host(on):
    assert "/extra:/extra" in arguments(expand("base", on("ctl2"))["base"])["volumes"]
    volumes = arguments(expand("base", on("ctl1"), facts={"paths": []})["base"])["volumes"]
    assert volumes == [
        "/etc/kolla/base/:/var/lib/kolla/config_files/:ro", "kolla_logs:/var/log/kolla/", "base:/var/lib/base",
    ]  # fmt: skip


def test_each_call_returns_a_structure_of_its_own(on):
    resolver = on("ctl1")
    expand("base", resolver)["base"]["kolla_container.running"].append({"order": 1})
    assert "order" not in arguments(expand("base", resolver)["base"])


def test_a_container_waits_for_one_of_another_service_only_in_the_same_job(on, decls):
    decls["web"]["containers"]["web_api"]["after"] = ["base"]
    alone = arguments(expand("web", on("ctl1"))["web_api"])["require"]
    together = arguments(expand("web", on("ctl1"), facts={"services": ["base", "web"]})["web_api"])["require"]
    assert {"kolla_container": "base"} not in alone
    assert {"kolla_container": "base"} in together
