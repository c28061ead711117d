"""Whether a run is the one that was planned."""

from __future__ import annotations

import copy
import json
import stat

import pytest

from kolla_salt import expectation, plan, prediction
from kolla_salt.context import Resolver

KEY = expectation.key_of("/nonexistent")


def report(*states, images=(), failed=()):
    return {
        "version": "1",
        "states": list(states),
        "failed": list(failed),
        "errors": [],
        "missing_images": list(images),
    }


def state(name, function, fingerprint="f", **changes):
    return {"id": name, "sls": "web", "function": function, "changes": changes, "fingerprint": fingerprint}


def restarted(fingerprint="f"):
    changed = {"state": {"old": "running", "new": "restarted"}}
    return state("web_api", "kolla_container.running", fingerprint, **changed)


@pytest.fixture
def parts(decls, site_data, tmp_path):
    """Make the parts of a plan of which hosts predict what they are given."""
    resolver = Resolver(decls, site_data, "ctl1", cache=tmp_path / "cache")

    def make(reports, services=(), limit=(), verb="deploy", site=None, version="1"):
        found = prediction.forecast(resolver, plan.steps(resolver, list(services) or None))
        found.learn(reports)
        return expectation.parts(verb, services, limit, found, site or {"globals.yml": "a"}, version)

    return make


def test_the_same_world_is_the_same_plan_whoever_answers_first(parts):
    first = parts({"ctl1": report(restarted()), "ctl2": report()})
    again = parts({"ctl2": report(), "ctl1": report(restarted())})
    assert expectation.content_hash(first) == expectation.content_hash(again)
    assert expectation.differences(first, again) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, "ctl1: web_api (restarted) is no longer to be done"),
        ({"fingerprint": "g"}, "ctl1: web_api (restarted) differs from its declaration in another way than when"),
        ({"new": "recreated"}, "ctl1: web_api (recreated), planned was: restarted"),
        ({"more": True}, "ctl1: web_api/web.conf (content) was not planned"),
        ({"images": ["web:1"]}, "ctl1: web:1 is missing now"),
        ({"host": "ctl2"}, "ctl2 answers; it did not when the plan was made"),
        ({"gone": True}, "ctl1 does not answer; it did when the plan was made"),
        ({"site": {"globals.yml": "b"}}, "globals.yml of the site was changed"),
        ({"site": {"globals.yml": "a", "overrides/web.conf": "c"}}, "overrides/web.conf of the site is new"),
        ({"version": "2"}, "kolla-salt: 2, planned was 1"),
        ({"verb": "upgrade"}, "the verb: upgrade, planned was deploy"),
        ({"services": ["web"]}, "the services: web, planned was all"),
        ({"limit": ["ctl1"]}, "the hosts it is restricted to: ctl1, planned was all"),
    ],
)
def test_what_is_another_than_planned_is_named(parts, now, said):
    planned = parts({"ctl1": report(restarted())})
    change = restarted(now.get("fingerprint", "f"))
    change["changes"]["state"]["new"] = now.get("new", "restarted")
    states = [] if now == {} else [change]
    if now.get("more"):
        states.append(state("web_api/web.conf", "kolla_config.managed", content={"old": "x", "new": "y"}))
    reports = {} if now.get("gone") else {"ctl1": report(*states, images=now.get("images", ()))}
    if "host" in now:
        reports[now["host"]] = report()
    found = parts(reports, **{k: v for k, v in now.items() if k in {"site", "version", "verb", "services", "limit"}})
    assert expectation.content_hash(planned) != expectation.content_hash(found)
    lines = expectation.differences(planned, found)
    assert any(line.startswith(said) for line in lines), lines


def test_a_plan_that_was_begun_may_be_gone_on_with_but_not_changed(parts):
    file = state("web_api/web.conf", "kolla_config.managed", content={"old": "x", "new": "y"})
    planned = parts({"ctl1": report(file, restarted(), images=["web:1"])})
    left = parts({"ctl1": report(restarted("g"))})
    assert expectation.differences(planned, left, begun=True) == []
    assert len(expectation.differences(planned, left)) == 3
    another = parts({"ctl1": report(state("web_agent", "kolla_container.absent", state={"old": "running", "new": ""}))})
    assert expectation.differences(planned, another, begun=True) == ["ctl1: web_agent (removed) was not planned"]


def test_two_secrets_have_two_fingerprints_and_none_can_be_found_without_the_key(tmp_path):
    (tmp_path / "key").write_text("private")
    key = expectation.key_of(tmp_path / "key")
    assert key == expectation.key_of(tmp_path / "key") != KEY
    one, other = (expectation.fingerprint(key, ["masked"], secret) for secret in (b"secret-1", b"secret-2"))
    assert one != other and one == expectation.fingerprint(key, ["masked"], b"secret-1")
    assert one != expectation.fingerprint(KEY, ["masked"], b"secret-1")
    assert expectation.fingerprint(key, b"a", b"bc") != expectation.fingerprint(key, b"ab", b"c")


def test_every_file_of_the_site_counts(tmp_path):
    (tmp_path / "overrides" / "web").mkdir(parents=True)
    for name in ("globals.yml", "passwords.yml", "topology.yml", "overrides/web/a.conf"):
        (tmp_path / name).write_text("hunter2")
    before = expectation.site_files(tmp_path, KEY)
    assert set(before) == {"globals.yml", "passwords.yml", "topology.yml", "overrides/web/a.conf"}
    (tmp_path / "passwords.yml").write_text("hunter3")
    after = expectation.site_files(tmp_path, KEY)
    assert {name for name in before if before[name] != after[name]} == {"passwords.yml"}
    assert "hunter" not in json.dumps(before)


def test_a_file_is_for_its_owner_alone_and_refused_once_it_was_edited(tmp_path, parts):
    content = parts({"ctl1": report(restarted())})
    path = tmp_path / "plan.json"
    whole = {"format": expectation.FORMAT, "hash": expectation.content_hash(content), "parts": content}
    expectation.write(path, whole)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["plan.json"]
    assert expectation.read(path)["parts"] == content
    edited = copy.deepcopy(whole)
    edited["parts"]["hosts"]["ctl1"]["changes"] = {}
    path.write_text(json.dumps(edited))
    with pytest.raises(expectation.PlanFileError, match="changed after it was written"):
        expectation.read(path)
    for text in ("{}", "[]", "no json"):
        path.write_text(text)
        with pytest.raises(expectation.PlanFileError, match="not the file of a plan"):
            expectation.read(path)
    with pytest.raises(expectation.PlanFileError, match="No such file"):
        expectation.read(tmp_path / "missing")
