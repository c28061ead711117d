from __future__ import annotations

import pytest

from kolla_salt import declarations
from kolla_salt.declarations import DeclarationError


def write(root, name, text):
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "service.yaml").write_text(text)


def test_defaults_follow_from_names(decls):
    web = decls["web"]
    assert web["containers"]["web_api"]["component"] == "web-api"
    assert web["containers"]["web_api"]["group"] == "web-api"
    assert web["containers"]["web_cache"]["group"] == "web"
    file = web["containers"]["web_api"]["files"]["web.conf"]
    assert file["template"] == "web/files/web.conf.j2"
    assert file["dest"] == "/etc/web/web.conf"
    assert file["overrides"] == ["global.conf", "web.conf", "web/web-api.conf", "web/{{ host }}/web.conf"]
    assert web["containers"]["web_api"]["files"]["policy.yaml"]["overrides"] == [
        "web/policy.yaml",
        "web/{{ host }}/policy.yaml",
    ]
    assert web["settings"]["enable_web"]["default"] is True
    assert web["database"] == [{"name": "web", "user": "web", "password": "web_database_password", "when": True}]


def test_every_problem_of_every_file_is_named_at_once(tmp_path):
    write(tmp_path, "one", "schema: 2\nrequiers: [two]\ncontainers: {one: {comand: x}}\n")
    write(tmp_path, "two", "requires: [oen]\nsettings: {a: {type: integer}}\n")
    with pytest.raises(DeclarationError) as error:
        declarations.load(tmp_path, cache=tmp_path)
    text = str(error.value)
    assert "unknown field 'requiers'; did you mean 'requires'?" in text
    assert "one.containers.one: unknown field 'comand'; did you mean 'command'?" in text
    assert "one.containers.one.command: missing" in text
    assert "two.requires: unknown service 'oen'; did you mean 'one'?" in text
    assert "two.settings.a.type: expected one of" in text


def test_a_name_declared_by_two_services_is_refused(tmp_path):
    write(tmp_path, "one", "settings: {port: {default: 1, type: int}}")
    write(tmp_path, "two", "settings: {port: {default: 2, type: int}}")
    with pytest.raises(DeclarationError, match="two.settings.port: already declared by service one"):
        declarations.load(tmp_path, cache=tmp_path)


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, "one", "doc: before")
    assert declarations.load(tmp_path, cache=tmp_path)["one"]["doc"] == "before"
    write(tmp_path, "one", "doc: afterwards")
    assert declarations.load(tmp_path, cache=tmp_path)["one"]["doc"] == "afterwards"


def test_loaded_declarations_are_not_shared(tmp_path):
    write(tmp_path, "one", "doc: one")
    first = declarations.load(tmp_path, cache=tmp_path)
    first["one"]["doc"] = "changed by a caller"
    assert declarations.load(tmp_path, cache=tmp_path)["one"]["doc"] == "one"
