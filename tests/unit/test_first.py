"""An API that has started anew is asked before users ask it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kolla_salt import declarations, first
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]

SHOP = """
group: control
containers:
  shop_api: {image: shop, command: run}
  shop_worker: {image: shop, command: run}
load_balancer:
  shop_api: {port: 80, listen_port: 8080, probe: "/v1/%(project_id)s/things", container: shop_api}
  quiet: {port: 82, container: shop_worker}
passwords:
  web_keystone_password: {doc: Password of the user.}
keystone:
  user: shop
  password: web_keystone_password
  services: [{name: shop, type: shop, description: x, entry: shop_api}]
"""


class Service:
    """Keystone and an API in one, whose first requests are slow."""

    def __init__(self, cold: int) -> None:
        self.cold, self.seen, self.tokens, self.lock = cold, [], [], threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):  # noqa: N802
                service.tokens.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                body = json.dumps({"token": {"project": {"id": "p1"}}}).encode()
                self.send_response(201)
                self.send_header("X-Subject-Token", "t1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):  # noqa: N802
                with service.lock:
                    service.seen.append((self.path, self.headers["X-Auth-Token"]))
                    cold = len(service.seen) <= service.cold
                if cold:
                    time.sleep(first.QUICK + 0.1)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def api(self) -> first.Api:
        return first.Api(f"{self.url}/v1/%(project_id)s/things", self.url, "shop", "service", "pw", at_once=2)


@pytest.fixture
def service():
    made = []

    def make(cold: int) -> Service:
        made.append(Service(cold))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_it_is_asked_until_it_answers_quickly(service):
    cold = service(cold=3)
    slowest = first.ask(cold.api())
    assert [seconds > first.QUICK for seconds in slowest] == [True, True, False]
    assert cold.seen == [("/v1/p1/things", "t1")] * 6
    assert cold.tokens[0]["auth"]["identity"]["password"]["user"]["name"] == "shop"


def test_one_that_stays_slow_is_left_alone_after_some_rounds(service):
    assert len(first.ask(service(cold=1000).api())) == first.ROUNDS


def test_one_that_does_not_answer_harms_nothing(service):
    gone = service(cold=0)
    gone.server.shutdown()
    gone.server.server_close()
    assert first.ask(gone.api()) == [first.TIMEOUT] * first.ROUNDS


@pytest.fixture
def resolver(tmp_path, site_data):
    for name in ("kolla", "keystone"):
        (tmp_path / name).mkdir()
    base = ROOT / "tests/data/formula/kolla/service.yaml"
    (tmp_path / "kolla/service.yaml").write_text(
        base.read_text().replace(
            "settings:\n",
            "settings:\n  openstack_region_name: {default: RegionOne, type: string, doc: x}\n"
            "  openstack_service_workers: {default: 3, type: int, doc: x}\n",
            1,
        )
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/service.yaml").write_text(SHOP)
    (tmp_path / "keystone/service.yaml").write_text(
        "group: control\ncontainers: {keystone: {image: keystone, command: run}}\n"
        "load_balancer: {keystone: {port: 5000, listen_port: 5001, probe: /v3/auth/projects, container: keystone}}\n"
        "passwords: {keystone_admin_password: {doc: x}}\n"
        "keystone: {services: [{name: keystone, type: identity, description: x, entry: keystone}]}\n"
    )
    return Resolver(declarations.load(tmp_path, cache=tmp_path), site_data, "ctl2", cache=tmp_path)


def test_the_own_hosts_process_is_asked_as_the_services_user(resolver):
    (api,) = first.apis(resolver, "shop_api")
    assert (api.url, api.keystone) == ("http://10.0.0.12:8080/v1/%(project_id)s/things", "http://10.0.0.10:5000")
    assert (api.user, api.password, api.at_once) == ("shop", "web-ks-pw", 6)
    assert "web-ks-pw" not in repr(api)


def test_keystone_itself_makes_the_token(resolver):
    (api,) = first.apis(resolver, "keystone")
    assert (api.url, api.keystone, api.user) == (
        "http://10.0.0.12:5001/v3/auth/projects", "http://10.0.0.12:5001", "admin",
    )  # fmt: skip


def test_what_answers_no_entry_with_a_probe_is_not_asked(resolver):
    assert first.apis(resolver, "shop_worker") == []


def test_without_the_password_on_this_host_nothing_is_asked(resolver):
    del resolver.passwords["web_keystone_password"]
    assert first.apis(resolver, "shop_api") == []
