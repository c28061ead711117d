"""The kolla_config execution and state functions on a real file system."""

import os
import stat
import time

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import declarations
from kolla_salt.modules import kolla_config as module
from kolla_salt.states import kolla_config as state

SERVICE = """
settings: {web_port: {default: 80, type: int}}
secrets: [web_password]
passwords: {web_password: }
containers:
  web_api:
    group: all
    command: web-api
    files:
      web.conf: {}
      policy.yaml: {optional: true}
      nested: {source: conf.d/nested.conf, template: files/web.conf.j2, format: ini}
"""
TEMPLATE = "[DEFAULT]\nport = {{ web_port }}\npassword = {{ web_password }}\n"


class Host:
    """The dunders of a minion whose /etc/kolla is a temporary directory."""

    def __init__(self, tmp_path, monkeypatch):
        self.monkeypatch = monkeypatch
        self.root = tmp_path / "etc-kolla"
        formula = tmp_path / "formula"
        for service, text in (("kolla", "{}"), ("web", SERVICE)):
            (formula / service / "files").mkdir(parents=True)
            (formula / service / "service.yaml").write_text(text)
        (formula / "web" / "files" / "web.conf.j2").write_text(TEMPLATE)
        monkeypatch.setenv("KOLLA_SALT_FORMULA", str(formula))
        monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))
        self.site = {
            "globals": {},
            "topology": {"hosts": {"node1": {"addresses": {"api": "10.0.0.1"}}}, "groups": {}},
            "passwords": {"web_password": "S3cretValue"},
            "overrides": {},
        }
        self.opts = {"id": "node1", "test": False}
        self.refresh()
        monkeypatch.setattr(module, "CONFIG_ROOT", str(self.root))
        functions = {
            f"kolla_config.{name}": getattr(module, name) for name in ("diff", "write", "obsolete_diff", "prune")
        }
        monkeypatch.setattr(state, "__salt__", functions, raising=False)

    def refresh(self):
        for loaded in (module, state):
            self.monkeypatch.setattr(loaded, "__opts__", self.opts, raising=False)
            self.monkeypatch.setattr(loaded, "__context__", {}, raising=False)
            self.monkeypatch.setattr(loaded, "__pillar__", {"kolla": self.site}, raising=False)

    def path(self, name):
        return str(self.root / "web-api" / name)

    def managed(self, file="web.conf", path=None, test=False):
        self.opts["test"] = test
        return state.managed(self.path(path or file), "web", "web_api", file)

    def pruned(self, test=False, **kwargs):
        self.opts["test"] = test
        return state.pruned(self.path("").rstrip("/"), "web", "web_api", **kwargs)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_file_is_predicted_written_and_then_left_alone(host):
    predicted = host.managed(test=True)
    assert predicted["result"] is None
    assert not host.root.exists()
    real = host.managed()
    assert real["result"] is True
    assert real["changes"] == predicted["changes"]
    assert set(real["changes"]) == {"directory", "content", "mode"}
    with open(host.path("web.conf")) as file:
        assert file.read() == "[DEFAULT]\nport = 80\npassword = S3cretValue\n"
    assert mode(host.path("web.conf")) == 0o660
    assert mode(host.root / "web-api") == 0o770
    again = host.managed()
    assert (again["result"], again["changes"]) == (True, {})


def test_a_changed_option_is_a_readable_difference(host):
    host.managed()
    host.site["globals"]["web_port"] = 8080
    host.refresh()
    predicted, real = host.managed(test=True), host.managed()
    assert predicted["changes"] == real["changes"]
    assert "-port = 80\n+port = 8080" in real["changes"]["content"]["new"]
    assert "S3cret" not in str(real)


def test_a_changed_secret_is_named_and_never_shown(host):
    host.managed()
    host.site["passwords"]["web_password"] = "An0therValue"
    host.refresh()
    real = host.managed()
    assert real["changes"]["content"]["new"] == "secret web_password changed"
    assert "S3cret" not in str(real)
    assert "An0ther" not in str(real)
    with open(host.path("web.conf")) as file:
        assert "An0therValue" in file.read()


def test_wrong_modes_are_mended_without_touching_the_content(host):
    host.managed()
    os.chmod(host.path("web.conf"), 0o644)
    os.chmod(host.root / "web-api", 0o755)
    real = host.managed()
    assert set(real["changes"]) == {"mode", "directory"}
    assert real["changes"]["mode"] == {"old": "0644", "new": "0660"}
    assert mode(host.path("web.conf")) == 0o660
    assert host.managed()["changes"] == {}


def test_config_json_and_files_in_sub_directories_are_written(host):
    assert host.managed("config.json")["result"] is True
    assert host.managed("nested", "conf.d/nested.conf")["result"] is True
    assert mode(host.root / "web-api" / "conf.d") == 0o770
    assert host.managed("nested", "conf.d/nested.conf")["changes"] == {}


def test_an_optional_file_goes_with_its_override(host):
    host.site["overrides"]["web/policy.yaml"] = "a: b\n"
    host.refresh()
    assert host.managed("policy.yaml")["result"] is True
    assert os.path.exists(host.path("policy.yaml"))
    host.site["overrides"].clear()
    host.refresh()
    assert host.managed("policy.yaml", test=True)["changes"] == {"file": {"old": "present", "new": None}}
    assert host.managed("policy.yaml")["result"] is True
    assert not os.path.exists(host.path("policy.yaml"))
    assert host.managed("policy.yaml")["changes"] == {}


def test_a_broken_override_fails_the_state_with_its_place(host):
    host.site["overrides"]["web/web.conf"] = "[a]\nx = {{ web_prot }}\n"
    host.refresh()
    for test in (True, False):
        ret = host.managed(test=test)
        assert ret["result"] is False
        assert "overrides/web/web.conf, line 2" in ret["comment"]
        assert "web_port" in ret["comment"]
    assert not host.root.exists()


def test_a_file_that_is_a_directory_is_an_error_that_says_so(host):
    os.makedirs(host.path("web.conf"))
    ret = host.managed()
    assert ret["result"] is False
    assert host.path("web.conf") in ret["comment"]


def test_what_nothing_declares_is_removed(host):
    host.managed()
    host.managed("config.json")
    host.managed("nested", "conf.d/nested.conf")
    for name in ("old.conf", "conf.d/more/old.conf", "certs/ca.pem"):
        os.makedirs(os.path.dirname(host.path(name)), exist_ok=True)
        with open(host.path(name), "w") as file:
            file.write("x")
    predicted = host.pruned(test=True, keep=["certs/*"])
    assert os.path.exists(host.path("old.conf"))
    real = host.pruned(keep=["certs/*"])
    assert predicted["changes"] == real["changes"]
    assert set(real["changes"]) == {"old.conf", "conf.d/more/old.conf"}
    assert sorted(os.listdir(host.path(""))) == ["certs", "conf.d", "config.json", "web.conf"]
    assert os.listdir(host.path("conf.d")) == ["nested.conf"]
    assert host.pruned(keep=["certs/*"])["changes"] == {}


def test_pruning_a_directory_that_is_not_there_does_nothing(host):
    assert host.pruned(test=True)["result"] is True


def test_genconfig_writes_all_files_and_diff_all_sees_them(host):
    assert set(module.diff_all("web")) == {
        host.path(name) for name in ("config.json", "web.conf", "conf.d/nested.conf")
    }
    assert set(module.genconfig()) == set(map(host.path, ("config.json", "web.conf", "conf.d/nested.conf")))
    assert module.diff_all() == {}
    assert module.genconfig("web") == {}
    with pytest.raises(CommandExecutionError, match="did you mean 'web'"):
        module.diff_all("wep")


def test_render_shows_no_secret_and_sources_say_where_to_override(host):
    assert module.render("web", "web_api", "web.conf") == "[DEFAULT]\nport = 80\npassword = ***\n"
    assert module.sources("web", "web_api", "web.conf") == {
        "used": ["web/files/web.conf.j2"],
        "looked_up": ["web/web.conf", "web/node1/web.conf"],
    }


def test_a_minion_without_pillar_is_told_what_to_do(host, monkeypatch):
    monkeypatch.setattr(module, "__pillar__", {}, raising=False)
    assert "ext_pillar" in host.managed()["comment"]


def test_the_old_file_stays_whole_when_writing_fails(host, monkeypatch):
    host.managed()
    host.site["globals"]["web_port"] = 8080
    host.refresh()

    def no_space(*args):
        raise OSError(28, "No space left on device", host.path("web.conf"))

    monkeypatch.setattr(declarations.os, "replace", no_space)
    ret = host.managed()
    assert ret["result"] is False
    assert "No space left" in ret["comment"]
    assert os.listdir(host.path("")) == ["web.conf"]


def test_comparing_costs_about_a_millisecond(host):
    host.managed()
    host.managed()
    start = time.perf_counter()
    for _ in range(100):
        assert host.managed()["changes"] == {}
    assert (time.perf_counter() - start) / 100 < 0.01


RUN = "20260714-101500-deploy"


def test_a_run_keeps_the_folder_as_it_was_before_its_first_change(host, tmp_path, monkeypatch):
    from kolla_salt import kept, paths

    monkeypatch.setattr(paths, "STATE_DIR", tmp_path / "state")
    store = kept.Store()
    host.managed()
    assert store.runs() == []  # no run, nothing to take back
    host.site["globals"]["web_port"] = 81
    host.refresh()
    monkeypatch.setattr(module, "__pillar__", {"kolla": host.site, "kolla_step": {"run": RUN}}, raising=False)
    assert host.managed(test=True)["result"] is None
    assert store.runs() == []
    assert host.managed()["result"] is True
    assert host.managed("nested", "conf.d/nested.conf")["result"] is True
    folder = store.folder(RUN, "web-api")
    assert (folder.service, folder.directory) == ("web", str(host.root / "web-api"))
    assert [path.name for path in folder.files.rglob("*")] == ["web.conf"]
    assert "port = 80" in (folder.files / "web.conf").read_text()


def test_a_run_keeps_the_folder_before_it_removes_files(host, tmp_path, monkeypatch):
    from kolla_salt import kept, paths

    monkeypatch.setattr(paths, "STATE_DIR", tmp_path / "state")
    host.managed()
    (host.root / "web-api" / "old.conf").write_text("old\n")
    monkeypatch.setattr(module, "__pillar__", {"kolla": host.site, "kolla_step": {"run": RUN}}, raising=False)
    assert host.pruned()["result"] is True
    assert (kept.Store().folder(RUN, "web-api").files / "old.conf").read_text() == "old\n"
