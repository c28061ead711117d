"""What the declarations say is to be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kolla_salt import declarations
from kolla_salt.availability import Target, account, targets
from kolla_salt.context import Resolver
from kolla_salt.declarations import DeclarationError

ROOT = Path(__file__).resolve().parents[3]

BALANCERS = """
load_balancer:
  front: {port: 80, check: /healthcheck, probe: "/v1/%(project_id)s/things?limit=1"}
  named: {port: 81}
  quiet: {port: 82}
  hidden: {port: 83, check: /, when: "false"}
  outside: {port: 84, external_port: 85, check: /, internal: false}
  nowhere: {port: 86, check: /, internal: false, external: false}
  db: {port: 87, mode: tcp, probe: [{expect: "0a"}, {send: "01", expect: "ff"}, {send: "02"}]}
  queue: {port: 88, mode: tcp}
keystone:
  services: [{name: web, type: web, description: x, entry: named}]
"""


@pytest.fixture
def resolver(tmp_path, site_data):
    for name, text in (
        ("kolla", (ROOT / "tests/data/formula/kolla/service.yaml").read_text()),
        ("shop", "group: control\n" + BALANCERS),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "service.yaml").write_text(text)

    def make(**options):
        decls = declarations.load(tmp_path, cache=tmp_path)
        site_data["globals"].update(options)
        return Resolver(decls, site_data, "ctl1", cache=tmp_path)

    return make


def test_what_has_a_check_a_probe_or_a_place_in_the_catalogue_is_asked(resolver):
    found = targets(resolver())
    assert [(t.entry, t.kind, t.path, t.rate) for t in found] == [
        ("front", "plain", "/healthcheck", 10),
        ("front", "token", "/v1/%(project_id)s/things?limit=1", 1),
        ("named", "plain", "/", 10),
        ("outside", "plain", "/", 10),
        ("db", "tcp", "", 10),
    ]
    assert [t.url for t in found] == [
        "http://10.0.0.10:80",
        "http://10.0.0.10:80",
        "http://10.0.0.10:81",
        "http://10.0.0.10:85",
        "tcp://10.0.0.10:87",
    ]
    assert found[-1].talk == (("", "0a"), ("01", "ff"), ("02", ""))


def test_rates_can_be_chosen_and_requests_with_a_token_left_out(resolver):
    assert {t.rate for t in targets(resolver(), rate=3, token_rate=0)} == {3}
    assert "token" not in {t.kind for t in targets(resolver(), token_rate=0)}


def test_over_tls_is_asked_less_often(resolver):
    found = targets(resolver(enable_tls_internal=True))
    assert {(t.kind, t.url.split(":")[0], t.rate) for t in found if t.entry != "outside"} == {
        ("plain", "https", 3),
        ("token", "https", 1),
        ("tcp", "tcp", 10),
    }
    assert {t.rate for t in targets(resolver(enable_tls_internal=True), rate=20) if t.kind == "plain"} == {20}


def test_a_target_survives_being_handed_over(resolver):
    for target in targets(resolver()):
        assert Target.from_dict(target.as_dict()) == target


def test_without_an_identity_service_there_is_no_account(resolver, site_data):
    assert account(resolver(), site_data["passwords"]).password == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("probe: things", "expected a path that begins with /, found 'things'"),
        ("mode: tcp, probe: /things", "expected a list of {send, expect} in hex"),
        ("mode: tcp, probe: [{expect: xy}]", "expected a list of {send, expect} in hex"),
        ("mode: tcp, probe: [{answer: '00'}]", "expected a list of {send, expect} in hex"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(tmp_path, fields, expected):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "service.yaml").write_text(f"load_balancer: {{front: {{port: 80, {fields}}}}}")
    with pytest.raises(DeclarationError, match="shop.load_balancer.front.probe: ") as error:
        declarations.load(tmp_path, cache=tmp_path)
    assert expected in str(error.value)


def test_every_api_of_a_whole_cloud_is_asked_with_a_token_and_the_database_is_talked_to(tmp_path):
    formula = declarations.load(cache=tmp_path)
    data = yaml.safe_load((ROOT / "tests/data/scenarios/ha3.yaml").read_text())
    passwords = {name: f"secret-{name}" for decl in formula.values() for name in decl["passwords"]}
    resolver = Resolver(formula, {**data, "passwords": passwords}, next(iter(data["topology"]["hosts"])), tmp_path)
    found = targets(resolver)
    named = {
        service["entry"]
        for name in resolver.enabled_services()
        for service in (formula[name]["keystone"] or {}).get("services", [])
    }
    with_token = {target.entry for target in found if target.kind == "token"}
    # That of CloudFormation knows no tokens: its requests are signed.
    assert named - with_token == {"heat_api_cfn"} & named
    assert named <= {target.entry for target in found if target.kind == "plain"}
    assert {target.entry for target in found if target.kind == "tcp"} == {"mariadb"}
    who = account(resolver, passwords)
    assert who.password == "secret-keystone_admin_password" and who.url.endswith("/v3")
    assert "secret" not in repr(who)
