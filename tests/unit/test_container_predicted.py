"""What a container's state tells its comparison of files that the same prediction is about to write."""

from __future__ import annotations

import pytest

from kolla_salt.states import kolla_container as states

CONFIG = "/etc/kolla/web"


@pytest.fixture
def compared(monkeypatch):
    """The arguments with which the container is compared."""
    found = []

    def diff(name, **spec):
        found.append(spec)
        return {"state": {"old": "running", "new": "restarted"}} if spec.get("expected_files") else {}

    results = {
        f"kolla_config_|-web/web.conf_|-{CONFIG}/web.conf_|-managed": {
            "changes": {"content": {"old": "1", "new": "2"}}
        },
        f"kolla_config_|-web/same.conf_|-{CONFIG}/same.conf_|-managed": {"changes": {}},
        "kolla_config_|-other/web.conf_|-/etc/kolla/web-other/web.conf_|-managed": {"changes": {"content": {}}},
        f"kolla_config_|-web/others_|-{CONFIG}_|-pruned": {"changes": {"removed": {}}},
        "kolla_db_|-web_|-web_|-present": {"changes": {"state": {}}},
    }
    monkeypatch.setattr(states, "__salt__", {"kolla_container.diff": diff}, raising=False)
    monkeypatch.setattr(states, "__opts__", {"test": True}, raising=False)
    monkeypatch.setattr(states, "__running__", results, raising=False)
    return found


def test_files_that_will_be_written_count_also_where_the_container_changes_for_another_reason(compared):
    """Salt tells a state with changes of its own nothing of what it watches."""
    said = states.running("web", config_dir=CONFIG, image="i")
    assert compared == [{"expected_files": ["web.conf"], "config_dir": CONFIG, "image": "i"}]
    assert said["result"] is None and said["changes"]["state"]["new"] == "restarted"


def test_without_a_prediction_files_are_what_they_are(compared, monkeypatch):
    monkeypatch.setattr(states, "__opts__", {"test": False})
    states.running("web", config_dir=CONFIG, image="i")
    assert all("expected_files" not in spec for spec in compared)


def test_a_container_without_a_folder_of_configuration_has_no_such_files(compared):
    states.running("web", image="i")
    assert compared == [{"image": "i"}]


@pytest.mark.parametrize(
    ("test", "old", "runs"),
    [
        (True, "absent", True),
        (True, "unknown: the database server does not answer", False),
        (False, "unknown: the database server does not answer", True),
    ],
)
def test_a_step_is_not_predicted_to_run_again_for_a_database_that_could_not_be_asked(monkeypatch, test, old, runs):
    results = {"kolla_db_|-web_|-web_|-database_present": {"changes": {"schema": {"old": old, "new": "web"}}}}
    forced = []

    def diff(name, stamp=None, force=False, **spec):
        forced.append(force)
        return {}

    monkeypatch.setattr(states, "__salt__", {"kolla_container.ran_diff": diff}, raising=False)
    monkeypatch.setattr(states, "__opts__", {"test": test}, raising=False)
    monkeypatch.setattr(states, "__running__", results, raising=False)
    low = {"state": "kolla_db", "__id__": "web", "name": "web", "fun": "database_present"}
    states.mod_watch("bootstrap_web", sfun="ran", image="i", __reqs__={"watch": [low]})
    assert forced == [runs]
