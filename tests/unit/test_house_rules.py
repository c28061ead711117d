"""Rules that hold for the whole project (docs/contributing.md)."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from kolla_salt import declarations

ROOT = Path(__file__).resolve().parents[2]
FORMULA = ROOT / "salt"
SERVICES = sorted(path.parent.name for path in FORMULA.glob("*/service.yaml") if path.parent.name != "kolla")
MODULES = sorted((ROOT / "kolla_salt/modules").glob("kolla*.py"))
STATES = sorted((ROOT / "kolla_salt/states").glob("kolla*.py"))

#: (folder, service it may name) -> why. Names in `requires`/`after` of a declaration are not counted.
ALLOWED = yaml.safe_load((ROOT / "tests/data/couplings.yaml").read_text()) or {}

#: What a service's name also means in ordinary configuration, e.g. the section [keystone_authtoken] or a cache backend.
COMMON = {"keystone", "rabbitmq", "memcached", "mariadb", "loadbalancer", "common", "openvswitch"}


def functions(path):
    tree = ast.parse(path.read_text())
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def test_there_are_services_to_check():
    assert len(SERVICES) >= 12


@pytest.mark.parametrize("service", SERVICES)
def test_no_folder_names_another_service(service):
    others = [name for name in SERVICES if name != service and name not in COMMON]
    found = {}
    for path in sorted((FORMULA / service).rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text()
        if path.name == "service.yaml":
            data = yaml.safe_load(text)
            for field in ("requires", "after"):
                data.pop(field, None)
            text = yaml.safe_dump(data)
        for other in others:
            if re.search(rf"(?<![a-z]){other}(?![a-z])", text):
                found.setdefault(other, []).append(str(path.relative_to(FORMULA)))
    excused = ALLOWED.get(service, {})
    unexcused = {other: files for other, files in found.items() if other not in excused}
    assert not unexcused, "name no other service, or add the coupling and its reason to tests/data/couplings.yaml"
    assert set(excused) <= set(found), "a coupling in tests/data/couplings.yaml is no longer needed"


@pytest.mark.parametrize("service", SERVICES)
def test_no_file_outside_a_services_folder_names_it(service):
    """The generic parts know services from declarations only."""
    if service in COMMON:
        pytest.skip("its name is that of the technology, which generic parts speak to")
    hits = []
    for path in (ROOT / "kolla_salt").rglob("*.py"):
        # Parts that speak to one technology carry its name.
        own = path.stem in {service, f"kolla_{service}"}
        if own or path.parts[-2] in {"sandbox", "images"} or path.name in {"smoke.py", "render.py"}:
            continue
        tree = ast.parse(path.read_text())
        docs = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        hits += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node not in docs and node.value == service
        ]
    excused = ALLOWED.get("kolla_salt", {}).get(service, {}).get("files", [])
    assert [hit for hit in hits if hit.split(":")[0] not in excused] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_execution_function_has_a_cli_example(path):
    missing = [node.name for node in functions(path) if "CLI Example" not in (ast.get_docstring(node) or "")]
    assert missing == []


@pytest.mark.parametrize("path", STATES, ids=lambda p: p.stem)
def test_state_functions_are_thin(path):
    for node in functions(path):
        if node.name in {"mod_watch"}:
            continue
        body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 15, f"{node.name} has {lines} lines: move the logic into the execution module or the library"


@pytest.mark.parametrize("path", STATES, ids=lambda p: p.stem)
def test_states_do_no_io_of_their_own(path):
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not imported & {"subprocess", "requests", "socket", "time", "urllib", "http", "docker"}


def test_nothing_catches_every_exception():
    bad = []
    for path in (ROOT / "kolla_salt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            ):
                bad.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert bad == []


def test_no_command_goes_through_a_shell():
    bad = []
    for path in (ROOT / "kolla_salt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", None) is True:
                bad.append(f"{path.relative_to(ROOT)}:{node.value.lineno}")
    assert bad == []


def test_every_option_is_documented():
    missing = [
        f"{service}: {name}"
        for service, decl in declarations.load().items()
        for name, setting in decl["settings"].items()
        if not setting["doc"]
    ]
    assert missing == []


@pytest.mark.parametrize("service", ["kolla", *SERVICES])
def test_a_declaration_says_what_the_service_is(service):
    assert declarations.load()[service]["doc"]


def test_the_project_speaks_of_itself_alone():
    """No path of a developer's machine, no host of a package mirror."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    words = re.compile("/" + "work/|/root/" + r"\.pyenv|\.libr" + "ary|find-" + "links /opt")
    bad = [
        name for name in listed if (ROOT / name).is_file() and words.search((ROOT / name).read_text(errors="replace"))
    ]
    assert bad == []
