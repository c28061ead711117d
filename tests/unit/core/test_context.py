from __future__ import annotations

import pytest

from kolla_salt import context
from kolla_salt.context import ContextError, Resolver


@pytest.fixture
def resolver(decls, site_data, tmp_path):
    return Resolver(decls, site_data, "ctl1", cache=tmp_path)


def test_an_option_is_the_hosts_then_the_sites_then_the_default(decls, site_data, tmp_path):
    assert Resolver(decls, site_data, "ctl1", cache=tmp_path).value("web_workers") == 2
    assert Resolver(decls, site_data, "ctl2", cache=tmp_path).value("web_workers") == 8
    site_data["globals"]["workers"] = 5
    assert Resolver(decls, site_data, "ctl1", cache=tmp_path).value("web_workers") == 5
    assert Resolver(decls, site_data, "ctl2", cache=tmp_path).value("web_workers") == 8


def test_a_lone_expression_keeps_its_type_and_text_makes_a_string(resolver):
    names = resolver.names("web")
    assert resolver.evaluate("{{ workers }}", names) == 2
    assert resolver.evaluate("n={{ workers }}", names) == "n=2"
    assert resolver.evaluate("{{ '0640' }}", names) == "0640"
    assert resolver.evaluate({"a": ["{{ [1, 2] }}"]}, names) == {"a": [[1, 2]]}


def test_empty_entries_of_string_lists_are_dropped(resolver):
    assert resolver.strings(["a", "{{ '' }}", None, "{{ ['b', ''] }}"], resolver.names("web")) == ["a", "b"]


def test_an_undefined_name_is_an_error_that_names_the_place_and_the_nearest_name(resolver):
    with pytest.raises(ContextError, match=r"of web/web_api.*'web_worker' is undefined.*did you mean 'web_workers'"):
        resolver.evaluate("{{ web_worker }}", resolver.names("web", container="web_api"))


def test_options_that_refer_to_each_other_are_named(decls, site_data, tmp_path):
    decls["web"]["settings"]["web_workers"]["default"] = "{{ workers }}"
    decls["kolla"]["settings"]["workers"]["default"] = "{{ web_workers }}"
    with pytest.raises(ContextError, match="web_workers -> workers -> web_workers"):
        Resolver(decls, site_data, "ctl1", cache=tmp_path).value("web_workers")


def test_groups_follow_their_parents_unless_the_site_sets_them(decls, site_data, tmp_path):
    resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    assert resolver.hosts("web-api") == ["ctl1", "ctl2"]
    assert resolver.hosts("all") == ["ctl1", "ctl2", "cmp1"]
    assert resolver.hosts("storage") == []
    site_data["topology"]["groups"]["web"] = ["cmp1"]
    assert Resolver(decls, site_data, "ctl1", cache=tmp_path).hosts("web-api") == ["cmp1"]
    with pytest.raises(ContextError, match="unknown group 'web-apu'; did you mean 'web-api'"):
        resolver.hosts("web-apu")


def test_placement_and_primary(decls, site_data, tmp_path):
    ctl2 = Resolver(decls, site_data, "ctl2", cache=tmp_path)
    assert not ctl2.is_primary("web")
    assert ctl2.containers("web") == {"web_api": True, "web_cache": False}
    cmp1 = Resolver(decls, site_data, "cmp1", cache=tmp_path)
    assert cmp1.containers("web") == {"web_agent": True}
    assert cmp1.placed("web")
    assert not cmp1.placed("base")
    assert cmp1.service_hosts("web") == ["ctl1", "ctl2", "cmp1"]


def test_endpoints_use_the_side_its_name_and_its_scheme(decls, site_data, tmp_path):
    site_data["globals"] |= {"external_fqdn": "cloud.example.org", "enable_tls_external": True}
    resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    assert resolver.endpoint("web_api") == "http://10.0.0.10:8080"
    assert resolver.endpoint("web_api", "public") == "https://cloud.example.org:8080"
    with pytest.raises(ContextError, match="did you mean 'web_api'"):
        resolver.endpoint("web_apis")


def test_ipv6_addresses_are_bracketed_in_urls(decls, site_data, tmp_path):
    site_data["globals"]["internal_vip_address"] = "fd00::10"
    assert Resolver(decls, site_data, "ctl1", cache=tmp_path).endpoint("web_api") == "http://[fd00::10]:8080"


def test_a_database_url_quotes_the_password_and_records_its_use(resolver):
    names = resolver.names("web")
    assert resolver.evaluate("{{ database_url('web') }}", names) == (
        "mysql+pymysql://web:web%2Fdb%20pw@10.0.0.10:3306/web"
    )
    assert names.secrets_used == {"web_database_password"}


def test_a_password_that_is_missing_from_the_pillar_says_what_to_do(decls, site_data, tmp_path):
    del site_data["passwords"]["web_keystone_password"]
    resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    with pytest.raises(ContextError, match="add it to the service's `secrets`"):
        resolver.evaluate("{{ web_keystone_password }}", resolver.names("web"))


def test_the_catalogue_lists_members_of_enabled_services(decls, site_data, tmp_path):
    catalogue = Resolver(decls, site_data, "cmp1", cache=tmp_path).catalogue
    (entry,) = catalogue["load_balancer"]
    assert entry["members"] == [
        {"host": "ctl1", "address": "10.0.0.11", "port": 8080},
        {"host": "ctl2", "address": "10.0.0.12", "port": 8080},
    ]
    assert entry["external"] is True
    assert {image["name"]: image["hosts"] for image in catalogue["images"]} == {
        "base": ["ctl1", "ctl2"], "web-api": ["ctl1", "ctl2"], "web-agent": ["cmp1"],
    }  # fmt: skip
    site_data["globals"]["enable_web"] = False
    assert Resolver(decls, site_data, "cmp1", cache=tmp_path).catalogue["load_balancer"] == []


def test_compiled_expressions_are_found_by_the_next_process(decls, site_data, tmp_path):
    context._leaves.cache_clear()
    first = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    first.evaluate("{{ workers + 1 }}", first.names("web"))
    first.leaves.save()
    context._leaves.cache_clear()
    second = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    assert second.evaluate("{{ workers + 1 }}", second.names("web")) == 3
    assert not second.leaves.dirty


def test_templates_see_names_lazily_also_in_includes(decls, site_data, tmp_path):
    (tmp_path / "part.j2").write_text("workers = {{ workers }} {{ extra }}")
    (tmp_path / "main.j2").write_text("{% for h in hosts('web') %}{% include 'part.j2' %};{% endfor %}")
    resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path)
    env = context.environment(tmp_path, cache=tmp_path)
    assert context.render_template(env, "main.j2", resolver.names("web", extra="x")) == "workers = 2 x;workers = 2 x;"
