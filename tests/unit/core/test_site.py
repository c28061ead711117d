from __future__ import annotations

import pytest

from kolla_salt import site as sites
from kolla_salt.site import Site, SiteError


def problems(site_data, decls):
    return [p.text for p in sites.validate(Site(**site_data), decls)]


def test_a_good_site_has_no_problem(site_data, decls):
    assert problems(site_data, decls) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"web_worker": 3}, "kolla:globals:web_worker is 3: expected a known option; did you mean 'web_workers'?"),
        ({"web_workers": "3"}, "kolla:globals:web_workers is '3': expected a value of type int, found str"),
        ({"web_workers": True}, "kolla:globals:web_workers is True: expected a value of type int, found bool"),
        ({"workers": 65}, "kolla:globals:workers is 65: expected at most 64"),
        ({"flavour": "swet"}, "expected one of plain, sweet; did you mean 'sweet'?"),
        ({"enable_wbe": True}, "the name of a known service after 'enable_'; did you mean 'enable_web'?"),
        ({"internal_vip_address": "10.9.0.10"}, "expected an address inside 10.0.0.0/24 (topology:networks:api)"),
        ({"internal_vip_address": "10.0.0.11"}, "expected an address that no host has"),
        ({"internal_vip_address": "ten"}, "kolla:globals:internal_vip_address is 'ten': expected an IP address"),
        ({"enable_base": False}, "kolla:globals:enable_base is False: expected true, because web requires it"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(site_data, decls, change, expected):
    site_data["globals"].update(change)
    assert any(expected in text for text in problems(site_data, decls)), problems(site_data, decls)


def test_topology_problems_are_all_in_one_report(site_data, decls):
    hosts = site_data["topology"]["hosts"]
    hosts["ctl2"]["addresses"]["api"] = "10.0.0.11"
    hosts["cmp1"]["addresses"]["api"] = "10.7.0.21"
    hosts["ctl1"]["adresses"] = {}
    site_data["topology"]["groups"]["contol"] = ["ctl1"]
    site_data["topology"]["groups"]["control"] = ["ctl1", "ctl1", "ctl3"]
    found = "\n".join(problems(site_data, decls))
    assert "an address of its own; host ctl1 has the same" in found
    assert "is '10.7.0.21': expected an address inside 10.0.0.0/24" in found
    assert "kolla:topology:hosts:ctl1:adresses: expected addresses or options; did you mean 'addresses'?" in found
    assert "kolla:topology:groups:contol: expected a known group; did you mean 'control'?" in found
    assert "kolla:topology:groups:control is 'ctl3': expected a host of kolla:topology:hosts; did you mean" in found
    assert "is 'ctl1': expected each host once" in found


def test_a_file_that_only_the_operator_has_is_asked_for_where_it_is_needed(site_data, decls):
    def added(**more):
        entry = decls["web"]["containers"]["web_api"]["files"]["web.conf"]
        return (
            entry | {"optional": "needed", "overrides": ["certificates/web.pem", "certificates/{{ host }}.pem"]} | more
        )

    files = decls["web"]["containers"]["web_api"]["files"]
    files["web.pem"] = added()
    expected = "overrides/certificates/web.pem: expected a file: web_api of web needs it, and only the operator has it"
    assert problems(site_data, decls) == [expected]
    site_data["overrides"] = {"certificates/ctl1.pem": "x"}
    assert problems(site_data, decls) == [expected]  # the other controller has none
    site_data["overrides"] = {"certificates/web.pem": "x"}
    assert problems(site_data, decls) == []
    files["web.pem"] = added(when="workers == 0")
    site_data["overrides"] = {}
    assert problems(site_data, decls) == []


def test_a_group_without_hosts_is_refused(site_data, decls):
    site_data["topology"]["groups"]["control"] = []
    assert any(
        "kolla:topology:groups:base is []: expected at least one host: base is enabled" in t
        for t in problems(site_data, decls)
    )


def test_a_missing_password_names_the_command_that_makes_it(site_data, decls):
    del site_data["passwords"]["web_database_password"]
    assert "kolla:passwords:web_database_password: expected a value; `kolla-salt genpwd` makes it" in problems(
        site_data, decls
    )


def test_an_override_that_nobody_reads_is_named(site_data, decls):
    site_data["overrides"] = {"web/web-apii.conf": "", "web/web-api.conf": "", "web/ctl1/web.conf": ""}
    assert problems(site_data, decls) == [
        "overrides/web/web-apii.conf: expected a path that some service on some host reads; "
        "did you mean 'web/web-api.conf'?"
    ]


def test_a_host_gets_only_the_secrets_and_overrides_of_its_services(site_data, decls):
    site_data["overrides"] = {"web.conf": "[a]\n", "web/ctl1/web.conf": "[b]\n"}
    site = Site(**site_data)
    ctl2 = sites.host_pillar(site, decls, "ctl2")
    # Of what only the first controller registers, the administrators': any controller is asked how the cloud is.
    administrators = {"database_password", "keystone_admin_password"}
    assert set(ctl2["passwords"]) == {*administrators, "web_database_password", "web_keystone_password"}
    assert set(ctl2["overrides"]) == {"web.conf"}
    cmp1 = sites.host_pillar(site, decls, "cmp1")
    assert set(cmp1["passwords"]) == {"web_database_password", "web_keystone_password"}
    assert sites.host_pillar(site, decls, "stranger") is None


def test_a_folder_is_read_with_its_overrides(tmp_path, site_data):
    (tmp_path / "globals.yml").write_text("workers: 3\n")
    (tmp_path / "overrides/web").mkdir(parents=True)
    (tmp_path / "overrides/web/web-api.conf").write_text("[DEFAULT]\n")
    site = sites.load(tmp_path)
    assert site.globals == {"workers": 3}
    assert site.overrides == {"web/web-api.conf": "[DEFAULT]\n"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("a: 1\nb: {c: 1, d: 2,\n  c: 3}\n", "'c' is there twice, in lines 2 and 3"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, text, expected):
    (tmp_path / "globals.yml").write_text(text)
    with pytest.raises(SiteError, match=f"globals.yml.*{expected}"):
        sites.load(tmp_path)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(SiteError, match="kolla-salt init"):
        sites.load(tmp_path / "nowhere")


def test_a_secret_may_be_for_a_group_or_a_condition_only(site_data, decls):
    decls["web"]["secrets"] = [
        {"name": "other_password", "group": "web-agent"},
        {"name": "web_keystone_password", "when": "workers > 4"},
    ]
    decls["web"]["database"], decls["web"]["keystone"] = [], {}
    held = {
        host: set(sites.host_pillar(Site(**site_data), decls, host)["passwords"]) for host in ("ctl1", "ctl2", "cmp1")
    }
    assert held["cmp1"] == {"other_password"}
    assert "other_password" not in held["ctl1"]
    assert "web_keystone_password" not in held["ctl1"], "two workers"


def test_a_container_without_a_host_is_refused(site_data, decls):
    site_data["topology"]["groups"]["compute"] = []
    found = problems(site_data, decls)
    assert "kolla:topology:groups:web-agent is []: expected at least one host for web_agent: web is enabled" in found
