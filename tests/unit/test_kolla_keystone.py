"""Registration in Keystone, against a server that speaks the part of its API that is used."""

import os
import stat
import threading
import time

import pytest
from keystone_server import FakeKeystone
from salt.exceptions import CommandExecutionError

from kolla_salt.modules import kolla_keystone as module
from kolla_salt.states import kolla_keystone as state

KOLLA = """
settings:
  internal_fqdn: {default: 127.0.0.1, type: string}
  external_fqdn: {default: cloud.example, type: string}
  enable_tls_internal: {default: false, type: bool}
  enable_tls_external: {default: true, type: bool}
  openstack_region_name: {default: RegionOne, type: string}
  multiple_regions_names: {default: ["{{ openstack_region_name }}"], type: list}
"""
KEYSTONE = """
settings: {keystone_port: {default: 5000, type: int}}
passwords: {keystone_admin_password: }
keystone:
  services: [{name: keystone, type: identity, description: Identity, entry: keystone}]
load_balancer: {keystone: {port: "{{ keystone_port }}"}}
"""
IMAGE = """
passwords: {image_keystone_password: , stack_admin_password: }
settings: {image_old: {default: false, type: bool}}
keystone:
  user: image
  roles: [admin, service]
  extra_roles: [image_owner]
  services:
    - {name: image, type: image, description: Images, entry: image_api, path: "/v1/%(tenant_id)s"}
    - {name: image-old, type: image-old, description: Old, entry: image_private, when: image_old}
  domains:
    - {name: stacks, admin: stack_admin, password: stack_admin_password}
load_balancer:
  image_api: {port: 9292}
  image_private: {port: 9293, external: false}
"""


class Host:
    """The dunders of a minion whose site has its Keystone at the fake server."""

    def __init__(self, fake, tmp_path, monkeypatch):
        self.monkeypatch, self.fake = monkeypatch, fake
        formula = tmp_path / "formula"
        for service, text in (("kolla", KOLLA), ("keystone", KEYSTONE), ("image", IMAGE), ("plain", "{}")):
            (formula / service).mkdir(parents=True)
            (formula / service / "service.yaml").write_text(text)
        monkeypatch.setenv("KOLLA_SALT_FORMULA", str(formula))
        monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
        self.stamps = tmp_path / "stamps"
        self.site = {
            "globals": {"keystone_port": fake.port},
            "topology": {"hosts": {"node1": {"addresses": {"api": "127.0.0.1"}}}},
            "passwords": {
                "keystone_admin_password": "adm1n-pw",
                "image_keystone_password": "1mage-pw",
                "stack_admin_password": "stack-pw",
            },
        }
        self.opts = {"id": "node1", "test": False}
        functions = {f"kolla_keystone.{name}": getattr(module, name) for name in ("diff", "register")}
        monkeypatch.setattr(state, "__salt__", functions, raising=False)
        self.new_job()

    def new_job(self):
        for loaded in (module, state):
            self.monkeypatch.setattr(loaded, "__opts__", self.opts, raising=False)
            self.monkeypatch.setattr(loaded, "__context__", {}, raising=False)
            self.monkeypatch.setattr(loaded, "__pillar__", {"kolla": self.site}, raising=False)
        self.fake.requests.clear()

    def registered(self, service="image", test=False, **kwargs):
        self.new_job()
        self.opts["test"] = test
        return state.registered(f"{service} keystone", service, **kwargs)


@pytest.fixture
def fake():
    server = FakeKeystone()
    yield server
    server.stop()


@pytest.fixture
def host(fake, tmp_path, monkeypatch):
    return Host(fake, tmp_path, monkeypatch)


ALL = {
    "role image_owner", "role service", "project service", "user image", "roles of image in project service",
    "domain stacks", "user stack_admin", "roles of stack_admin in domain stacks",
    "service image", "endpoint image internal RegionOne", "endpoint image public RegionOne",
}  # fmt: skip


def test_a_service_is_predicted_registered_and_then_left_alone(host, fake):
    predicted = host.registered(test=True)
    assert predicted["result"] is None
    assert not fake.writes()
    assert not host.stamps.exists()
    real = host.registered()
    assert real["result"] is True, real["comment"]
    assert real["changes"] == predicted["changes"]
    assert set(real["changes"]) == ALL
    again = host.registered()
    assert (again["result"], again["changes"]) == (True, {})
    assert not fake.writes()
    assert host.registered(test=True)["result"] is True


def test_what_was_registered_is_what_was_declared(host, fake):
    host.registered()
    [user] = fake.named("users", "image")
    assert (user["password"], user["domain_id"]) == ("1mage-pw", "default")
    [project] = fake.named("projects", "service")
    roles = {role["name"]: role["id"] for role in fake.data["roles"].values()}
    assert {grant[3] for grant in fake.grants if grant[:3] == (user["id"], "project", project["id"])} == {
        roles["admin"], roles["service"],
    }  # fmt: skip
    [domain] = fake.named("domains", "stacks")
    [admin] = fake.named("users", "stack_admin")
    assert admin["domain_id"] == domain["id"]
    assert (admin["id"], "domain", domain["id"], roles["admin"]) in fake.grants
    [service] = fake.named("services", "image")
    assert (service["type"], service["description"]) == ("image", "Images")
    assert {(item["interface"], item["url"], item["region_id"]) for item in fake.data["endpoints"].values()} == {
        ("internal", "http://127.0.0.1:9292/v1/%(tenant_id)s", "RegionOne"),
        ("public", "https://cloud.example:9292/v1/%(tenant_id)s", "RegionOne"),
    }


def test_a_run_without_changes_asks_little(host, fake):
    host.registered()
    host.registered("keystone")
    host.new_job()
    host.opts["test"] = False
    for service in ("keystone", "image"):
        assert state.registered(service, service)["changes"] == {}
    logins = [line for line in fake.requests if line.startswith("POST /v3/auth")]
    assert len(logins) == 1
    # services, endpoints, roles, project, domain, and the assignments in both
    assert len(fake.requests) - len(logins) == 7


def test_an_entry_without_public_side_has_an_internal_endpoint_only(host, fake):
    host.registered()
    host.site["globals"]["image_old"] = True
    real = host.registered()
    assert set(real["changes"]) == {"service image-old", "endpoint image-old internal RegionOne"}


def test_a_moved_endpoint_is_updated(host, fake):
    host.registered()
    host.site["globals"]["external_fqdn"] = "new.example"
    predicted, real = host.registered(test=True), host.registered()
    assert predicted["changes"] == real["changes"] == {
        "endpoint image public RegionOne": {
            "old": "https://cloud.example:9292/v1/%(tenant_id)s",
            "new": "https://new.example:9292/v1/%(tenant_id)s",
        }
    }  # fmt: skip
    assert len(fake.data["endpoints"]) == 2
    assert host.registered()["changes"] == {}


def test_doubles_of_an_endpoint_go_and_the_right_one_stays(host, fake):
    host.registered()
    [service] = fake.named("services", "image")
    right = next(item for item in fake.data["endpoints"].values() if item["interface"] == "public")
    fake.add("endpoints", **{**{k: v for k, v in right.items() if k != "id"}, "url": "https://old.example:9292"})
    fake.add("endpoints", service_id=service["id"], region_id="Other", interface="public", url="x", enabled=True)
    fake.add("endpoints", service_id=service["id"], region_id="RegionOne", interface="admin", url="y", enabled=True)
    real = host.registered()
    assert real["result"] is True
    assert real["changes"] == {
        "endpoint image public RegionOne, further": {"old": ["https://old.example:9292"], "new": None}
    }
    assert right["id"] in fake.data["endpoints"]
    assert len(fake.data["endpoints"]) == 4


def test_a_disabled_service_or_endpoint_is_enabled(host, fake):
    host.registered()
    for item in [*fake.named("services", "image"), *fake.data["endpoints"].values()]:
        item["enabled"] = False
    real = host.registered()
    assert real["result"] is True
    assert len(real["changes"]) == 3
    assert all(item["enabled"] for item in fake.data["endpoints"].values())


def test_a_renamed_service_is_renamed_instead_of_doubled(host, fake):
    fake.add("services", name="glance", type="image", description="Images", enabled=True)
    real = host.registered()
    assert real["changes"]["name of service image"] == {"old": "glance", "new": "image"}
    assert len([item for item in fake.data["services"].values() if item["type"] == "image"]) == 1


def test_a_missing_role_assignment_is_given_again(host, fake):
    host.registered()
    [role] = fake.named("roles", "service")
    fake.grants = {grant for grant in fake.grants if grant[3] != role["id"]}
    real = host.registered()
    assert real["changes"] == {"roles of image in project service": {"old": ["admin"], "new": ["admin", "service"]}}
    assert host.registered()["changes"] == {}


def test_a_user_without_any_role_is_found(host, fake):
    host.registered()
    [user] = fake.named("users", "image")
    fake.grants = {grant for grant in fake.grants if grant[0] != user["id"]}
    real = host.registered()
    assert set(real["changes"]) == {"roles of image in project service"}
    assert len(fake.named("users", "image")) == 1


def test_a_new_password_reaches_keystone_and_no_return_value(host, fake):
    host.registered()
    host.site["passwords"]["image_keystone_password"] = "An0ther-pw"
    predicted, real = host.registered(test=True), host.registered()
    assert predicted["changes"] == real["changes"]
    assert set(real["changes"]) == {"password of image"}
    assert "An0ther" not in str(real)
    assert fake.named("users", "image")[0]["password"] == "An0ther-pw"
    assert host.registered()["changes"] == {}


def test_passwords_are_noted_as_keyed_hashes_that_only_root_reads(host, fake):
    host.registered()
    files = sorted(host.stamps.iterdir())
    assert len(files) == 2
    for path in files:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert "-pw" not in path.read_text()


def test_a_note_is_believed_for_a_day_only_and_check_passwords_never_believes_it(host, fake, monkeypatch):
    host.registered()
    fake.named("users", "image")[0]["password"] = "changed behind our back"
    assert host.registered()["changes"] == {}
    host.new_job()
    assert module.check_passwords() == {"image": False, "stack_admin": True}
    real_time = time.time
    monkeypatch.setattr("kolla_salt.identity.time.time", lambda: real_time() + 25 * 3600)
    real = host.registered()
    assert set(real["changes"]) == {"password of image"}
    assert fake.named("users", "image")[0]["password"] == "1mage-pw"


@pytest.mark.parametrize("content", ["", "{", '{"time": "x", "mac": 1, "salt": 2}', "[]"])
def test_a_damaged_note_is_ignored(host, fake, content):
    host.registered()
    for path in host.stamps.iterdir():
        path.write_text(content)
    assert host.registered()["changes"] == {}
    assert any(line.startswith("POST /v3/auth") for line in fake.requests)


def test_keystones_own_entry_is_made_for_all_regions(host, fake):
    host.site["globals"]["multiple_regions_names"] = ["RegionOne", "RegionTwo"]
    assert host.registered("keystone")["result"] is True
    assert {item["region_id"] for item in fake.data["endpoints"].values()} == {"RegionOne", "RegionTwo"}
    assert len(fake.data["endpoints"]) == 4
    assert set(fake.data["regions"]) == {"RegionOne", "RegionTwo"}
    host.registered("image")
    assert len(fake.data["endpoints"]) == 6


def test_a_service_without_keystone_has_nothing_to_register(host):
    assert host.registered("plain")["changes"] == {}


def test_an_unknown_service_is_refused_with_the_nearest(host):
    ret = host.registered("imag")
    assert ret["result"] is False
    assert "did you mean 'image'" in ret["comment"]


def test_a_missing_password_is_named(host):
    del host.site["passwords"]["image_keystone_password"]
    ret = host.registered()
    assert ret["result"] is False
    assert "'image_keystone_password'" in ret["comment"]


def test_a_wrong_administrator_password_says_which_one(host):
    host.site["passwords"]["keystone_admin_password"] = "Wr0ng"
    for test in (True, False):
        ret = host.registered(test=test)
        assert ret["result"] is False
        assert "`keystone_admin_password`" in ret["comment"]
        assert "Wr0ng" not in ret["comment"]


def test_a_refused_request_is_reported_with_method_url_status_and_answer(host, fake):
    fake.refuse_with = ("POST", "/v3/endpoints", 403, {"error": {"message": "You are not authorized", "code": 403}})
    ret = host.registered()
    assert ret["result"] is False
    assert f"POST http://127.0.0.1:{fake.port}/v3/endpoints: HTTP 403: You are not authorized" in ret["comment"]
    assert "1mage-pw" not in str(ret)
    # What was done before stays reported.
    assert "user image" in ret["changes"]
    assert "endpoint image internal RegionOne" not in ret["changes"]
    fake.refuse_with = None
    assert host.registered()["result"] is True


def test_an_answer_that_is_no_json_is_shown_in_short(host, fake):
    fake.refuse_with = ("GET", "/v3/services", 500, "x" * 5000)
    ret = host.registered()
    assert "HTTP 500" in ret["comment"]
    assert len(ret["comment"]) < 1000


def test_a_prediction_does_not_need_keystone(host, fake):
    fake.stop()
    predicted = host.registered(test=True)
    assert predicted["result"] is None
    assert set(predicted["changes"]) == ALL - {"role service", "project service"}
    assert "does not answer" in predicted["changes"]["user image"]["old"]


def test_a_real_run_waits_while_the_load_balancer_has_no_member(host, fake):
    fake.busy = 2
    ret = host.registered()
    assert ret["result"] is True, ret["comment"]


def test_a_member_that_goes_away_in_between_is_waited_for(host, fake):
    host.registered()
    host.site["globals"]["external_fqdn"] = "new.example"
    host.new_job()
    keystone = module._keystone()
    keystone.wait(10)
    threading.Timer(0.1, lambda: setattr(fake, "busy", 0)).start()
    fake.busy = 1
    assert set(module.register("image", timeout=10)) == {"endpoint image public RegionOne"}


def test_waiting_ends(host, fake):
    fake.stop()
    ret = host.registered(timeout=1.5)
    assert ret["result"] is False
    assert "gave up after 1.5 seconds" in ret["comment"]
    assert f"http://127.0.0.1:{fake.port}" in ret["comment"]


def test_a_proxy_of_the_environment_is_not_asked(host, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert host.registered()["result"] is True


def test_reading_and_roles(host, fake):
    assert module.get("/roles")["roles"][0]["name"] == "admin"
    first = module.create_role("observer")
    assert module.create_role("observer") == first
    assert module.wait(5) == f"http://127.0.0.1:{fake.port}"
    with pytest.raises(CommandExecutionError, match="404"):
        module.get("/users/none")
