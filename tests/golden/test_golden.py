"""Plans, expanded states and rendered files of whole sites, kept as text that is reviewed like code.

``UPDATE_GOLDEN=1 pytest tests/golden`` writes them anew; read the difference before committing it. The first site is
kept whole, the others as their difference from the first, which is what a reviewer wants to see of them.
"""

from __future__ import annotations

import configparser
import difflib
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from kolla_salt import config, declarations, expand, plan, site
from kolla_salt.context import Resolver

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path.stem for path in (ROOT / "tests/data/scenarios").glob("*.yaml"))
BASE = "aio"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def formula(cache):
    return declarations.load(cache=cache)


def password(name, kind):
    """A value that is the same in every run and of the right form."""
    if kind == "ssh_key":
        return {"private_key": f"PRIVATE-{name}\n", "public_key": f"ssh-rsa {name}"}
    return "secret-" + hashlib.sha256(name.encode()).hexdigest()[:12]


def load(scenario, formula):
    data = yaml.safe_load((ROOT / f"tests/data/scenarios/{scenario}.yaml").read_text())
    passwords = {n: password(n, k["kind"]) for decl in formula.values() for n, k in decl["passwords"].items()}
    return site.Site(data["globals"], data["topology"], passwords, data.get("overrides") or {})


def resolvers(scenario, formula, cache):
    data = load(scenario, formula)
    for host in data.topology["hosts"]:
        yield host, Resolver(formula, site.host_pillar(data, formula, host), host, cache=cache)


def rendered(scenario, formula, cache):
    """Every file of every host: path -> text."""
    files = {}
    for host, resolver in resolvers(scenario, formula, cache):
        for service in resolver.enabled_services():
            for container, on in resolver.containers(service).items():
                if not on:
                    continue
                component = formula[service]["containers"][container]["component"]
                files[f"{host}/{component}/config.json"] = config.config_json(resolver, service, container)
                for file in expand.config_files(resolver, service, container):
                    text = config.render(resolver, service, container, file).content
                    files[f"{host}/{component}/{file}"] = text
    return files


def states(scenario, formula, cache):
    """The states of every host as YAML: path -> text."""
    return {
        f"{host}/{service}.yaml": yaml.safe_dump(expand.expand(service, resolver), sort_keys=False, width=120)
        for host, resolver in resolvers(scenario, formula, cache)
        for service in resolver.enabled_services()
        if resolver.placed(service)
    }


def check(path, text):
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    assert path.exists(), f"{path} is missing: UPDATE_GOLDEN=1 pytest tests/golden"
    difference = "\n".join(
        difflib.unified_diff(path.read_text().splitlines(), text.splitlines(), "kept", "now", lineterm="")
    )
    assert not difference, difference[:4000]


def joined(files):
    return "".join(f"##### {name}\n{text.rstrip()}\n\n" for name, text in sorted(files.items()))


def difference(files, base, first):
    """What is different from the base scenario's host of the same kind, without hunks' line numbers."""
    parts = []
    for name, text in sorted(files.items()):
        before = base.get(f"{first}/{name.split('/', 1)[1]}", "")
        lines = list(difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=1))[2:]
        lines = ["@@" if line.startswith("@@") else line for line in lines]
        if lines:
            parts.append(f"##### {name}\n" + "\n".join(lines) + "\n\n")
    return "".join(parts)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_site_is_valid(scenario, formula):
    assert [problem.text for problem in site.validate(load(scenario, formula), formula)] == []


@pytest.mark.parametrize(
    ("scenario", "expected"), [("tls", ["haproxy-internal", "haproxy"]), ("aio", ["haproxy-internal"])]
)
def test_certificates_are_asked_for_where_they_are_used(scenario, expected, formula):
    found = load(scenario, formula)
    found.globals["enable_tls_internal"] = True
    found.overrides.clear()
    problems = [problem.path for problem in site.validate(found, formula)]
    assert sorted(problems) == sorted(f"overrides/certificates/{name}.pem" for name in expected)


@pytest.mark.parametrize("scenario", ["aio", "ha3"])
def test_the_plan_of_an_upgrade_is_as_reviewed(scenario, formula, cache):
    _, resolver = next(resolvers(scenario, formula, cache))
    lines = [
        f"{step['wave']} {step['id']}\n    {step['role']}: {' '.join(step['sls'])} ({', '.join(step['phases'])})\n"
        for step in plan.steps(resolver, verb="upgrade")
    ]
    check(ROOT / f"tests/golden/{scenario}/upgrade.txt", "".join(lines))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_plan_is_as_reviewed(scenario, formula, cache):
    _, resolver = next(resolvers(scenario, formula, cache))
    lines = [f"{step['id']}\n    {step['role']}: {' '.join(step['sls'])}\n" for step in plan.steps(resolver)]
    check(ROOT / f"tests/golden/{scenario}/plan.txt", "".join(lines))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", [rendered, states], ids=["files", "states"])
def test_what_hosts_get_is_as_reviewed(scenario, kind, formula, cache):
    files = kind(scenario, formula, cache)
    if scenario == BASE:
        text = joined(files)
    else:
        text = difference(files, kind(BASE, formula, cache), "ctl1")
    check(ROOT / f"tests/golden/{scenario}/{kind.__name__}.txt", text)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_secret_is_in_a_state(scenario, formula, cache):
    text = json.dumps(states(scenario, formula, cache))
    secrets = [v for v in load(scenario, formula).passwords.values() if isinstance(v, str)]
    assert secrets
    assert [value for value in secrets if value in text] == []
    assert "PRIVATE-" not in text


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_file_is_well_formed(scenario, formula, cache):
    for name, text in rendered(scenario, formula, cache).items():
        assert text.strip(), f"{name} is empty"
        if not name.endswith((".py", ".sh")):
            assert not re.search(r"(=|:)\s*None\s*$", text, re.MULTILINE), f"{name} has a value None"
        suffix = name.rsplit(".", 1)[-1]
        if suffix == "json":
            json.loads(text)
        elif suffix in {"yaml", "yml"}:
            yaml.safe_load(text)
        elif suffix == "ini" or name.endswith(
            ("nova.conf", "neutron.conf", "keystone.conf", "glance-api.conf", "heat.conf")
        ):
            parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
            parser.read_string(text)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_host_holds_only_the_passwords_that_its_files_and_containers_use(scenario, formula, cache):
    """What a host's services never read does not belong into its pillar."""
    for host, resolver in resolvers(scenario, formula, cache):
        needed = site.needed_passwords(resolver, host)
        assert set(resolver.passwords) <= needed
