"""Which services' own checks run before an upgrade, and what is said of one that gives no answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kolla_salt import declarations, site
from kolla_salt.context import Resolver
from kolla_salt.modules import kolla_release as module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    formula = declarations.load(cache=cache)
    data = yaml.safe_load((ROOT / "tests/data/scenarios/aio.yaml").read_text())
    passwords = {name: "x" for declaration in formula.values() for name in declaration["passwords"]}
    whole = site.Site(data["globals"], data["topology"], passwords, {})
    return Resolver(formula, site.host_pillar(whole, formula, "ctl1"), "ctl1", cache=cache)


@pytest.fixture
def host(resolver, monkeypatch):
    """A host on which all runs well; ``asked`` takes what is executed in which container."""
    asked: list[tuple[str, list[str]]] = []
    answer = {"exit_status": 0, "output": ""}

    def execute(name, command, user=None, check=True):
        asked.append((name, command))
        return answer

    class Calls(dict):
        def __missing__(self, name):
            return lambda *args, **kwargs: {"findings": [], "output": ""}

    calls = Calls(
        {
            "kolla_container.state": lambda name: "running",
            "kolla_container.exec": execute,
            "kolla_container.run": lambda name, timeout, looks, **spec: asked.append((name, spec["command"])) or answer,
            "kolla_check.resources": lambda: {"disk_free": 100.0, "disk_path": "/"},
            "kolla_rabbitmq.upgrade_obstacles": lambda: asked.append(("kolla_rabbitmq.upgrade_obstacles", [])) or [],
            "kolla_db.size": lambda: asked.append(("kolla_db.size", [])) or 0,
        }
    )
    for name, value in (("__salt__", calls), ("__opts__", {"id": "ctl1"})):
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(module, "_resolver", lambda: resolver)
    monkeypatch.setattr(module.runtime, "facts", dict)
    monkeypatch.setattr(module.expand, "run_once_spec", lambda *args: {})
    return asked, answer


def checked(host, services, begun=(), ahead=()):
    asked, _ = host
    asked.clear()
    assert module.problems(services, list(begun), list(ahead)) == []
    return {name for name, _ in asked}


def test_an_upgrade_asks_the_old_release_of_each_service_about_its_schema(host):
    assert {"keystone", "glance_api", "kolla_db.size"} <= checked(host, ["keystone", "glance"])


@pytest.mark.parametrize("down", ["loadbalancer", "mariadb"])
def test_nobody_is_asked_while_what_the_database_is_reached_through_was_left_down(host, down):
    assert checked(host, ["keystone", "glance"], [down]) == set()


def test_a_service_is_not_asked_while_one_that_it_needs_was_left_down(host):
    assert checked(host, ["keystone", "glance"], ["keystone"]) == {"kolla_db.size"}
    assert checked(host, ["keystone", "glance"], ["glance"]) == {"kolla_db.size", "keystone"}


def test_an_old_release_is_not_asked_about_a_schema_that_an_upgrade_left_when_it_was_taken_back(host):
    assert checked(host, ["keystone", "glance", "nova"], ahead=["keystone", "nova"]) == {
        "kolla_db.size", "glance_api", "nova_check"
    }  # fmt: skip


@pytest.mark.parametrize("down", ["rabbitmq", "openvswitch"])
def test_a_service_is_asked_while_one_that_has_no_part_in_the_answer_was_left_down(host, down):
    assert {"nova_check", "neutron_check"} <= checked(host, ["nova", "neutron"], [down])


def test_a_check_that_gives_no_answer_is_ended_and_named(host):
    asked, answer = host
    answer.update(exit_status=module.TIMED_OUT, output="connecting\n")
    [found] = module.problems(["glance"])
    assert f"nothing within {module.CHECK_TIMEOUT} s, so it was ended; connecting" in found["found"]
    assert "kolla-salt verify" in found["mend"]
    assert asked[-1][1][:2] == ["timeout", str(module.CHECK_TIMEOUT)]
    answer["output"] = ""
    [found] = module.problems(["glance"])
    assert found["found"].endswith("so it was ended")


def test_a_broker_that_was_left_down_is_not_asked_for_its_feature_flags_again(host):
    obstacles = "kolla_rabbitmq.upgrade_obstacles"
    assert obstacles in checked(host, ["rabbitmq"])
    assert obstacles in checked(host, ["rabbitmq"], ["mariadb"])
    assert obstacles not in checked(host, ["rabbitmq"], ["rabbitmq"])
