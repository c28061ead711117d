from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from kolla_salt.sandbox import rootfs
from kolla_salt.sandbox.errors import SandboxError

PROJECT = {
    "name": "kolla-salt",
    "version": "1.2",
    "dependencies": ["salt>=3008.3,<3009", "docker>=7.1"],
    "optional-dependencies": {"minion": ["extra>=1"], "test": ["pytest"]},
    "scripts": {"kolla-salt": "kolla_salt.cli.main:main"},
    "entry-points": {"salt.loader": {"kolla_salt": "kolla_salt"}},
}


def test_dependencies() -> None:
    assert rootfs.dependencies(PROJECT) == ["docker>=7.1", "extra>=1", "salt>=3008.3,<3009"]
    assert any(name.startswith("salt>=") for name in rootfs.dependencies({}))


def test_names_follow_what_products_are_made_of(tmp_path: Path) -> None:
    one = rootfs.venv_dir(tmp_path, ["a", "b"])
    assert one == rootfs.venv_dir(tmp_path, ["b", "a"])
    assert one != rootfs.venv_dir(tmp_path, ["a"])
    assert rootfs.digest("a", "b") != rootfs.digest("ab", "")


def test_metadata_lets_python_find_salts_entry_point(tmp_path: Path) -> None:
    assert rootfs.write_metadata(tmp_path, PROJECT)
    assert not rootfs.write_metadata(tmp_path, PROJECT)
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == ("kolla-salt", "1.2")
    assert {(e.group, e.name, e.value) for e in found.entry_points} == {
        ("salt.loader", "kolla_salt", "kolla_salt"),
        ("console_scripts", "kolla-salt", "kolla_salt.cli.main:main"),
    }
    assert rootfs.write_metadata(tmp_path, {**PROJECT, "version": "2"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["kolla_salt-2.dist-info"]


def test_project_table(tmp_path: Path) -> None:
    assert rootfs.project_table(tmp_path) == {}
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert rootfs.project_table(tmp_path) == {"name": "x"}
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(SandboxError, match="pyproject.toml"):
        rootfs.project_table(tmp_path)


def test_pip_gets_proxies_but_no_files_of_the_machine() -> None:
    env = rootfs.pip_environment(
        {"HTTPS_PROXY": "http://proxy:1", "PIP_FIND_LINKS": "/here", "PIP_INDEX_URL": "https://pypi.example/simple",
         "SECRET": "x", "PIP_CERT": "/here/ca.crt"}
    )  # fmt: skip
    assert env["HTTPS_PROXY"] == "http://proxy:1"
    assert env["PIP_INDEX_URL"] == "https://pypi.example/simple"
    assert env["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"
    assert not {"PIP_FIND_LINKS", "SECRET"} & set(env)


def test_ca_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    assert rootfs.ca_bundle({}) is None
    assert rootfs.ca_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle
    assert rootfs.ca_bundle({"PIP_CERT": str(tmp_path / "none"), "REQUESTS_CA_BUNDLE": str(bundle)}) == bundle


def test_apt_options_take_what_a_download_needs() -> None:
    dump = 'Acquire "";\nAcquire::http::Proxy "http://proxy:1";\nAcquire::Check-Date "false";\nDir::Cache "var";\n'
    assert rootfs.apt_options(dump) == ['Acquire::http::Proxy "http://proxy:1";', 'Acquire::Check-Date "false";']


def test_remove_unused_keeps_the_last_two_and_no_half_made_ones(tmp_path: Path) -> None:
    for age, name in enumerate(["py-new", "py-used", "py-old", "py-older", "py-half.building", "other-1"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    rootfs.remove_unused(tmp_path / "py-used")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other-1", "py-new", "py-used"]


def test_ready_products_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "run", lambda *_, **__: pytest.fail("nothing is to be made"))
    rootfs.base_dir(tmp_path).mkdir(parents=True)
    rootfs.venv_dir(tmp_path, ["a"]).mkdir(parents=True)
    assert rootfs.ensure_base(tmp_path, print) == rootfs.base_dir(tmp_path)
    assert rootfs.ensure_venv(tmp_path, rootfs.base_dir(tmp_path), ["a"], print) == rootfs.venv_dir(tmp_path, ["a"])
