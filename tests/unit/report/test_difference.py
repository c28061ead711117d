"""What differs between two runs."""

import json

import pytest
import records

from kolla_salt import runs
from kolla_salt.cli import main
from kolla_salt.report import difference


@pytest.fixture
def two(tmp_path):
    site = tmp_path / "site"
    (site / "overrides").mkdir(parents=True)
    (site / "globals.yml").write_text("openstack_release: '2025.2'\nenable_heat: true\n")
    (site / "topology.yml").write_text("hosts: {node1: {a: 1}}\n")
    (site / "passwords.yml").write_text("admin: first-secret-text\nnova: same-secret-text\n")
    root = tmp_path / "runs"
    first = records.write(root, site=site)
    (site / "globals.yml").write_text("openstack_release: '2026.1'\nenable_heat: true\n")
    (site / "passwords.yml").write_text("admin: second-secret-text\nnova: same-secret-text\n")
    (site / "overrides" / "nova.conf").write_text("[x]\n")
    second = records.write(root, site=site, fail="it broke", hosts=5)
    return first, second


def compared(two):
    return difference.compare(*(difference.parts(record) for record in two))


def test_files_options_and_passwords_are_told_by_name(two):
    site = compared(two)["site"]
    assert site["files"] == {"changed": ["globals.yml", "passwords.yml"], "added": ["overrides/nova.conf"]}
    assert site["options"] == {"openstack_release": {"old": "2025.2", "new": "2026.1"}}
    assert site["keys"]["passwords.yml"] == {"changed": ["admin"]}
    assert "secret-text" not in json.dumps(compared(two))


def test_changes_that_only_one_run_has_are_told_with_their_hosts(two):
    real = compared(two)["real"]
    assert "old" not in real
    assert {"id": "nova", "action": "recreate", "hosts": ["node5"]} in real["new"]


def test_images_seconds_and_availability(two):
    two[1].update(seconds=100.0)
    found = compared(two)
    assert found["seconds"] == [{"id": "the whole run", "old": two[0].header()["seconds"], "new": 100.0}]
    assert {"container": "nova", "old": None, "new": "quay.io/openstack.kolla/nova:2026.1 (bbbbbbbbbbbb)",
            "hosts": ["node5"]} in found["images"]  # fmt: skip
    assert any(row["container"] == "nova" and row["old"].startswith("quay.io") for row in found["between"])
    assert found["availability"]["nova"] == {"old": {"failed": 0, "outage": 0}, "new": {"failed": 7, "outage": 1.6}}
    assert found["fields"]["result"] == {"old": "ok", "new": "failed"}


def test_a_run_does_not_differ_from_itself(two):
    found = difference.compare(*[difference.parts(two[0])] * 2)
    assert found["between"] and not found["seconds"]  # its containers were others before it than after it
    assert difference.empty({**found, "between": []})


def test_two_clean_revisions_name_the_command_that_shows_their_difference(two):
    for record, commit in zip(two, ("a" * 40, "b" * 40), strict=True):
        record.update(revision={"commit": commit, "branch": "", "subject": "x", "dirty": False, "changed": []})
    assert compared(two)["revision"]["command"].endswith(f"diff {'a' * 12} {'b' * 12} -- .")
    two[1].update(revision={"commit": "b" * 40, "branch": "", "subject": "x", "dirty": True, "changed": ["g"]})
    assert "command" not in compared(two)["revision"]


# --- the verb -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(two, tmp_path, capsys):
    config = tmp_path / "master"
    config.write_text(f"kolla_runs: {tmp_path}/runs\nkolla_runs_keep: 1\n")

    def call(*words):
        status = main.main(["--master-config", str(config), "runs", *words])
        return status, capsys.readouterr().out

    return call


def test_runs_are_listed_by_verb_and_by_failure(two, cli, tmp_path):
    runs.create("stop", tmp_path / "runs", now=0).close("ok")
    assert [run["id"] for run in json.loads(cli("list", "--failed", "--json")[1])["runs"]] == [two[1].id]
    assert len(json.loads(cli("list", "--verb", "deploy", "--json")[1])["runs"]) == 2
    assert [run["verb"] for run in json.loads(cli("list", "--last", "1", "--json")[1])["runs"]] == ["deploy"]
    assert "no such run" in cli("list", "--verb", "destroy")[1]


def test_a_run_is_compared_with_the_one_before_it(two, cli):
    status, text = cli("diff")
    assert status == 0
    assert text.startswith(f"{two[0].id} -> {two[1].id}")
    for said in ("option openstack_release: 2025.2 -> 2026.1", "passwords.yml: admin changed", "result: ok -> failed",
                 "nova: no request failed -> 7 failed, 1.6 s"):  # fmt: skip
        assert said in text
    assert json.loads(cli("diff", two[0].id, two[1].id, "--json")[1])["new"] == two[1].id
    assert cli("diff", two[0].id)[0] == 1  # there is none before it


def test_a_report_is_written_to_a_file(two, cli, tmp_path):
    out = tmp_path / "out.html"
    status, text = cli("report", two[1].id, "--out", str(out), "--json")
    assert status == 0 and json.loads(text)["bytes"] == out.stat().st_size
    assert out.read_text().startswith("<!doctype html>")
    assert cli("report", "--out", str(tmp_path / "none" / "out.html"))[0] == 1


def test_old_records_are_removed_as_the_option_says(two, cli, tmp_path):
    assert json.loads(cli("prune", "--keep", "5", "--days", "0", "--json")[1])["removed"] == []
    assert json.loads(cli("prune", "--days", "0", "--json")[1])["removed"] == [two[0].id]
    assert runs.list_ids(tmp_path / "runs") == [two[1].id]
