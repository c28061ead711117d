"""Large sites: how much work there is, counted, and that sharing it changes no answer."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import time

import jinja2
import pytest
import yaml

from benchmarks import scale
from kolla_salt import __version__, declarations, freshness, outcome, plan, runs, steps
from kolla_salt import site as sites
from kolla_salt.cli import main
from kolla_salt.context import ContextError, Resolver
from kolla_salt.modules import kolla_run
from kolla_salt.site import Site
from tests.conftest import FORMULA, ROOT


@pytest.fixture
def large(site_data):
    """A site with two controllers and sixty compute hosts of four kinds; two have files of their own."""

    def make(computes=60):
        data = copy.deepcopy(site_data)
        topology = data["topology"]
        names = [f"cmp{number}" for number in range(1, computes + 1)]
        for number, name in enumerate(names, start=1):
            topology["hosts"][name] = {"addresses": {"api": f"10.0.{1 + number // 200}.{number % 200 + 1}"}}
            if number % 3 == 0:
                topology["hosts"][name]["options"] = {"workers": 2 + number % 2}
        topology["networks"]["api"]["cidr"] = "10.0.0.0/16"
        topology["groups"]["compute"] = names
        data["overrides"] = {"web.conf": "[a]\n", "web/cmp2/web.conf": "[b]\n", "web/ctl1/web.conf": "[c]\n"}
        return Site(**data)

    return make


def alone(site, decls, host):
    """What a host gets when nothing is shared between hosts."""
    resolver = Resolver(decls, site.as_pillar(), host)
    needed, read = sites.needed_passwords(resolver, host), sites.known_overrides(resolver)
    return {
        "globals": site.globals,
        "topology": site.topology,
        "passwords": {name: value for name, value in site.passwords.items() if name in needed},
        "overrides": {path: text for path, text in site.overrides.items() if path in read},
    }


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of a function of the library: name -> arguments of each call."""

    def count(module, name):
        calls = []
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: (calls.append(args), real(*args, **kwargs))[1])
        return calls

    return count


@pytest.mark.parametrize(
    "secrets",
    [
        ["web_keystone_password"],
        [{"name": "other_password", "when": "host == 'cmp4'"}],
        [{"name": "other_password", "when": "address() == '10.0.1.5'"}],
        [{"name": "other_password", "when": "workers == 3"}],
        [{"name": "other_password", "when": "is_primary"}],
        [{"name": "other_password", "when": "odd"}],
        [{"name": "other_password", "group": "web-agent"}],
    ],
)
def test_each_host_gets_exactly_what_it_would_get_alone(large, decls, secrets):
    site = large()
    decls["web"]["secrets"] = secrets
    decls["web"]["settings"]["odd"] = {"default": "{{ host in ['cmp5', 'ctl1'] }}", "type": "bool", "doc": ""}
    cloud = sites.Served(site, decls)
    for host in site.topology["hosts"]:
        assert cloud.pillar(host) == alone(site, decls, host), host
    given = {host for host in site.topology["hosts"] if "other_password" in cloud.pillar(host)["passwords"]}
    assert secrets == ["web_keystone_password"] or 0 < len(given) < 64


def test_what_one_host_needs_is_worked_out_once_for_its_kind(large, decls, counted):
    site, calls = large(), counted(sites, "needed_passwords")
    cloud = sites.Served(site, decls)
    for host in site.topology["hosts"]:
        cloud.pillar(host)
    kinds = {cloud.resolver.kind(host) for host in site.topology["hosts"]}
    assert len(calls) == len(kinds) < 8


def test_no_host_can_write_into_what_another_gets(large, decls):
    cloud = sites.Served(large(), decls)
    first = cloud.pillar("cmp1")
    before = copy.deepcopy(first)
    first["topology"]["hosts"].clear()
    first["globals"]["workers"] = 60
    first["passwords"].clear()
    assert cloud.pillar("cmp1") == before


@pytest.mark.parametrize("computes", [60, 240])
def test_a_site_is_checked_once_for_each_kind_of_host(large, decls, counted, computes):
    calls = counted(sites, "_check_services")
    assert sites.validate(large(computes), decls) == []
    assert len(calls) < 8


def test_hosts_of_one_kind_are_each_checked_where_the_answer_depends_on_the_host(large, decls):
    site = large()
    decls["web"]["secrets"] = [{"name": "other_password", "when": "host == 'cmp40'"}]
    del site.passwords["other_password"]
    assert [problem.path for problem in sites.validate(site, decls)] == ["kolla:passwords:other_password"]


def test_each_host_on_which_an_option_cannot_be_resolved_is_named(large, decls):
    site = large()
    decls["web"]["secrets"] = [{"name": "other_password", "when": "address('api', host ~ 'x')"}]
    found = [problem.path for problem in sites.validate(site, decls)]
    assert found == [f"kolla (as seen by {host})" for host in site.topology["hosts"]]


def test_every_override_that_nobody_reads_is_named_with_the_nearest(large, decls):
    site = large()
    site.overrides = {"web/cmp2/wbe.conf": "", "web/cpm40/web.conf": "", "web/cmp60/web.conf": ""}
    assert [problem.text for problem in sites.validate(site, decls)] == [
        "overrides/web/cmp2/wbe.conf: expected a path that some service on some host reads; "
        "did you mean 'web/cmp2/web.conf'?",
        "overrides/web/cpm40/web.conf: expected a path that some service on some host reads; "
        "did you mean 'web/cmp40/web.conf'?",
    ]


@pytest.mark.parametrize("question", ["host", "address('tunnel')", "kind", "{'a': [other]}"])
def test_a_resolver_notes_when_it_was_asked_about_the_host_itself(large, decls, question):
    settings = decls["web"]["settings"]
    settings["kind"] = {"default": "{{ host[:3] }}", "type": "string", "doc": ""}
    settings["other"] = {"default": "{{ kind }}", "type": "string", "doc": ""}
    resolver = Resolver(decls, large().as_pillar(), "cmp1")
    resolver.test("workers > 1 and in_group('compute') and address('api', primary('control'))", resolver.names("web"))
    assert not resolver.personal
    for _ in range(2):  # the second time from what was kept
        resolver.personal = False
        resolver.evaluate("{{ " + question + " }}", resolver.names("web"))
        assert resolver.personal


def test_a_site_seen_from_another_host_is_that_hosts(large, decls):
    site = large()
    first = Resolver(decls, site.as_pillar(), "ctl1")
    assert (first.value("workers"), first.is_primary("web")) == (2, True)
    for host, workers in (("cmp3", 3), ("cmp1", 2), ("ctl2", 8)):
        other = first.seen_from(host)
        fresh = Resolver(decls, site.as_pillar(), host)
        assert (other.host, other.value("workers"), other.is_primary("web")) == (host, workers, False)
        assert other.containers("web") == fresh.containers("web")
        assert other.address("tunnel") == fresh.address("tunnel")
    assert first.value("workers") == 2


# --- the master's processes live long ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch, site_data):
    """A site's folder whose files are old enough to be trusted, with a formula of its own."""
    shutil.copytree(FORMULA, tmp_path / "formula")
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(tmp_path / "formula"))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sites, "_served", {})
    monkeypatch.setattr(sites, "_SETTLED", -60)  # as if a minute had passed since the files were written
    base = tmp_path / "site"
    (base / "overrides/web/cmp1").mkdir(parents=True)
    for name in ("globals", "topology", "passwords"):
        (base / f"{name}.yml").write_text(yaml.safe_dump(site_data[name]))
    (base / "overrides/web/cmp1/web.conf").write_text("[a]\n")
    return base


def test_a_second_pillar_reads_no_file_of_the_site(folder, counted):
    loads = [counted(sites, "load"), counted(declarations, "load")]
    for host in ("ctl1", "ctl2", "cmp1", "ctl1"):
        assert sites.served(folder).pillar(host)["globals"]["internal_vip_address"] == "10.0.0.10"
    assert [len(calls) for calls in loads] == [1, 1]


def change_globals(folder):
    (folder / "globals.yml").write_text("internal_vip_address: 10.0.0.99\n")


def change_an_override_in_place_with_the_same_size_and_time(folder):
    path = folder / "overrides/web/cmp1/web.conf"
    stat = path.stat()
    path.write_text("[z]\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def remove_an_override(folder):
    (folder / "overrides/web/cmp1/web.conf").unlink()


def add_an_override(folder):
    (folder / "overrides/web.conf").write_text("[b]\n")


def replace_the_topology(folder):
    text = (folder / "topology.yml").read_text().replace("10.0.0.21", "10.0.0.22")
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "topology.yml")


def change_a_declaration(folder):
    path = folder.parent / "formula/web/service.yaml"
    data = yaml.safe_load(path.read_text())
    data["secrets"] = ["other_password"]
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize(
    "change",
    [
        change_globals,
        change_an_override_in_place_with_the_same_size_and_time,
        remove_an_override,
        add_an_override,
        replace_the_topology,
        change_a_declaration,
    ],
)
def test_whatever_changes_in_a_site_the_next_pillar_has_it(folder, change):
    before = sites.served(folder).pillar("cmp1")
    change(folder)
    after = sites.served(folder).pillar("cmp1")
    assert after != before
    assert after == alone(sites.load(folder), declarations.load(), "cmp1")


def test_a_file_that_was_written_this_very_moment_is_read_again(folder, monkeypatch, counted):
    monkeypatch.setattr(sites, "_SETTLED", 60)
    loads = counted(sites, "load")
    sites.served(folder)
    sites.served(folder)
    assert len(loads) == 2


def test_a_site_that_cannot_be_read_is_not_taken_from_memory(folder):
    sites.served(folder)
    (folder / "globals.yml").write_text("a: [")
    for _ in range(2):
        with pytest.raises(sites.SiteError, match="globals.yml"):
            sites.served(folder)


def test_an_unresolvable_option_is_an_error_for_every_host_of_the_kind(large, decls):
    decls["web"]["secrets"] = [{"name": "other_password", "when": "nothing_of_that_name"}]
    cloud = sites.Served(large(), decls)
    for host in ("cmp1", "cmp2", "cmp1"):
        with pytest.raises(ContextError, match="nothing_of_that_name"):
            cloud.pillar(host)


# --- what is sent and kept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("computes", [3, 300])
def test_what_every_host_is_sent_for_its_dry_run_does_not_grow_with_the_others(computes):
    wanted = {"ctl1": ["kolla", "web", "web.finish"], "ctl2": ["kolla", "web"], "ctl3": ["kolla", "web"]}
    wanted |= {f"cmp{number}": ["kolla", "agent"] for number in range(computes)}
    said = steps.told(wanted)
    assert len(json.dumps(said)) < 100
    assert {host: steps.own(said, host) for host in wanted} == wanted


def test_a_host_that_nothing_is_said_about_has_nothing_to_do():
    assert steps.own(steps.told({}), "ctl1") == []


@pytest.mark.parametrize("computes", [60, 240])
def test_a_step_of_many_hosts_has_a_short_name_of_its_own(large, decls, computes):
    site = large(computes)
    found = plan.steps(Resolver(decls, site.as_pillar(), "ctl1"))
    names = [step["id"] for step in found]
    assert max(map(len, names)) < 120
    assert len(set(names)) == len(names)
    assert names[1].endswith(f"cmp6, {computes - 6} more")
    assert len(found[1]["minions"]) == computes + 1


def test_many_hosts_have_longer_for_a_sign_of_life():
    assert [steps.patience(hosts) for hosts in (1, 4, 100, 1000)] == [3, 3, 4, 13]


def test_an_orchestration_of_many_hosts_can_be_rendered(large, decls):
    """A key of YAML has at most 1,024 characters."""
    site = large(1000)
    planned = plan.steps(Resolver(decls, site.as_pillar(), "ctl1"))
    salt = {"pillar.get": lambda key, default: default, "saltutil.runner": lambda *_, **__: planned}
    text = jinja2.Environment().from_string((ROOT / "orch/deploy.sls").read_text()).render(salt=salt)
    assert [step["id"] for step in planned] == [key for key in yaml.safe_load(text) if key.startswith("wave")]


def test_a_secret_is_masked_wherever_it_is_said_again():
    said = {
        "a": ["key secret-one", "secret-one"],
        "secret-one": {"b": "secret-one", "c": "secret"},
        "d": "key secret-one",
    }
    masked = {"a": ["key ********", "********"], "********": {"b": "********", "c": "secret"}, "d": "key ********"}
    assert outcome.scrub(said, ["secret-one", "other-one"]) == masked


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_a_rolling_change_are_those_of_a_search_from_the_first_one(seed):
    draw = random.Random(seed)
    limits = {name: steps.Rule("web", draw.choice([0, 1, 2, 5])) for name in "abcd"}
    hosts = [f"h{number}" for number in range(60)]
    planned = {host: draw.sample("abcde", draw.randint(0, 4)) for host in hosts}
    expected: list[list[str]] = []
    for host in hosts:
        counted = [name for name in planned[host] if name in limits and limits[name].limit]
        for group in expected:
            if all(sum(name in planned[other] for other in group) < limits[name].limit for name in counted):
                group.append(host)
                break
        else:
            expected.append([host])
    assert steps.batches(hosts, planned, limits) == expected


def test_a_rolling_change_of_many_hosts_does_not_look_at_every_group_for_every_host():
    class Limits(dict):
        looked = 0

        def __getitem__(self, name):
            Limits.looked += 1
            return super().__getitem__(name)

    for count in (200, 2000):
        Limits.looked = 0
        limits = Limits(web_agent=steps.Rule("web", 1), other=steps.Rule("web", 3))
        hosts = [f"h{number}" for number in range(count)]
        found = steps.batches(hosts, dict.fromkeys(hosts, ["web_agent", "other"]), limits)
        assert [len(group) for group in found] == [1] * count
        assert Limits.looked < 20 * count


def test_a_step_returns_the_states_of_some_hosts_those_that_failed_first(monkeypatch):
    monkeypatch.setattr(kolla_run, "__opts__", {}, raising=False)
    names = [f"h{number}" for number in range(500)]
    hosts = {name: {"result": name != "h499", "changed": ["x"]} for name in names}
    report = {"hosts": hosts, "left_out": {}, "ok": False}
    state = kolla_run._as_state(report, {name: {"states of": name} for name in names})
    assert list(state["changes"]["ret"])[:2] == ["h499", "h0"]
    assert len(state["changes"]["ret"]) == 20
    assert state["comment"] == "failed on h499\n480 more hosts are in the run's record"
    few = kolla_run._as_state({"hosts": {"h1": hosts["h1"]}, "left_out": {}, "ok": True}, {"h1": {"states of": "h1"}})
    assert few == {
        "result": True,
        "changes": {"out": "highstate", "ret": {"h1": {"states of": "h1"}}},
        "comment": "applied",
    }


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.fixture
def printed(large, decls, monkeypatch, capsys, tmp_path):
    """Run a verb of the command line with hosts that give the answers of ``answer(host)``; returns what it printed."""

    def run(verb, site, answer):
        class Client:
            def __init__(self, **_options):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_error):
                pass

            def cmd_iter(self, hosts, function, *_arguments, **options):
                assert function != "test.ping" or options["timeout"] == steps.patience(len(hosts))
                for host in hosts:
                    yield {host: {"ret": True if function == "test.ping" else answer(host)}}

        monkeypatch.setattr("salt.client.LocalClient", Client)
        monkeypatch.setattr("kolla_salt.declarations.load", lambda: decls)
        monkeypatch.setattr("kolla_salt.site.load", lambda _directory: site)
        (tmp_path / "master").write_text(f"ext_pillar:\n  - kolla: {tmp_path}\nkolla_runs: {tmp_path}/runs\n")
        freshness.mark(tmp_path / "runs", runs.digest(tmp_path))
        with socket.socket() as link:
            link.bind(("127.0.0.1", 0))
            link.listen()
            text = f"interface: 127.0.0.1\nret_port: {link.getsockname()[1]}\nroot_dir: {tmp_path}\n"
            (tmp_path / "master").write_text((tmp_path / "master").read_text() + text)
            status = main.main(["--master-config", str(tmp_path / "master"), verb])
        return status, capsys.readouterr().out

    return run


def survey(host):
    """What a host without anything says, and one compute host that has a file of its own."""
    changes = {"content": {"old": None, "new": "x"}}
    states = [{"id": "web_agent/web.conf", "sls": "web", "function": "kolla_config.managed", "changes": changes}]
    if host == "cmp7":
        changes["content"]["old"] = "y"
    return {"version": __version__, "states": states, "failed": [], "errors": [], "missing_images": []}


def test_a_plan_shows_hosts_together_that_have_the_same_ahead(printed, large):
    for computes in (60, 240):
        status, text = printed("plan", large(computes), survey)
        assert status == 0
        assert f"\nctl1, ctl2, cmp1, cmp2, cmp3 and {computes - 4} more: 1 file\n  write 1 new file" in text
        assert "\ncmp7: 1 file\n  change web_agent/web.conf: content\n" in text
        assert f"{computes + 2} changes on {computes + 2} hosts" in text
        assert len(text) < 1500


def test_the_status_of_many_hosts_fits_on_a_screen(printed, large):
    def look(host):
        container = {"service": "web", "state": "running", "health": "healthy", "image": "i", "status": "Up"}
        names = ["web_api", "web_agent"] if host.startswith("ctl") else ["web_agent"]
        containers = {name: dict(container) for name in names}
        if host == "cmp9":
            containers["web_agent"]["health"] = "unhealthy"
        return {"containers": containers, "problems": [], "undeclared": []}

    status, text = printed("status", large(60), look)
    assert status == 0
    lines = text.splitlines()
    assert lines[0].split("  ")[:2] == ["service", "container"]
    assert [part.strip() for part in lines[0].split("  ") if part.strip()][2:] == [
        "ctl1, ctl2", "cmp1 and 58 more", "cmp9",
    ]  # fmt: skip
    assert lines[1].split() == ["web", "web_agent", "healthy", "healthy", "UNHEALTHY"]
    assert lines[2].split() == ["web", "web_api", "healthy", "-", "-"]
    assert max(map(len, lines)) < 100


# --- the real formula -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["control", "network"])
def test_the_synthetic_sites_of_the_benchmark_are_whole(layout):
    data = scale.site_data(200, layout)
    site, formula = Site(**data), declarations.load()
    assert sites.validate(site, formula) == []
    resolver = Resolver(formula, site.as_pillar(), "ctl1")
    assert set(steps.placement(resolver, formula)) == set(data["topology"]["hosts"])
    assert len({resolver.kind(host) for host in data["topology"]["hosts"]}) > 5


def test_a_site_of_a_thousand_hosts_is_checked_and_handed_out_well_within_its_limits(counted):
    """The limits are a minute for a plan and a second for a pillar; here all of it takes seconds of CPU."""
    site, formula = Site(**scale.site_data(1000)), declarations.load()
    checked, needed = counted(sites, "_check_services"), counted(sites, "needed_passwords")
    began = time.process_time()
    assert sites.validate(site, formula) == []
    assert len(checked) < 15
    cloud = sites.Served(site, formula)
    for host in list(site.topology["hosts"])[::10]:
        pillar = cloud.pillar(host)
        assert set(pillar["passwords"]) >= {"nova_keystone_password" if host.startswith("cmp") else "database_password"}
    assert len(needed) < 2 * 15
    assert time.process_time() - began < 20


def test_a_cost_that_grows_faster_than_the_hosts_is_told():
    assert scale.slope([(10, 0.1), (100, 1.0), (1000, 10.0)]) == pytest.approx(1)
    assert scale.slope([(100, 0.1), (1000, 10.0)]) == pytest.approx(2)
    assert scale.slope([(100, 0.1), (300, 0.1), (1000, 0.1)]) == pytest.approx(0)
