"""Run records."""

import json
import os
import stat

import pytest

from kolla_salt import runs


def test_a_run_is_written_as_it_goes(tmp_path):
    run = runs.create("deploy", tmp_path / "runs", now=0, site="/s")
    run.write_plan({"steps": []})
    run.append_step({"id": "one"})
    run.append_step({"id": "two"})
    run.close("ok", seconds=3)
    again = runs.load("last", tmp_path / "runs")
    assert again.id == "19700101-000000-deploy"
    assert [step["id"] for step in again.steps()] == ["one", "two"]
    assert again.header()["result"] == "ok" and again.header()["site"] == "/s"
    assert again.plan() == {"steps": []}


def test_records_are_private(tmp_path):
    run = runs.create("deploy", tmp_path / "runs")
    run.append_step({})
    assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in run.folder.iterdir())


def test_two_runs_of_one_second_have_two_names(tmp_path):
    first, second = (runs.create("deploy", tmp_path, now=0) for _ in range(2))
    assert first.id != second.id
    assert runs.list_ids(tmp_path) == [first.id, second.id]


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path):
    run = runs.create("deploy", tmp_path)
    assert runs.headers(tmp_path)[0]["result"] == "running"
    header = run.header() | {"pid": 2**22 + 1}
    (run.folder / "run.json").write_text(json.dumps(header))
    assert runs.headers(tmp_path)[0]["result"] == "interrupted"


def test_a_run_that_goes_on_is_found_and_an_ended_one_is_not(tmp_path):
    assert runs.running(tmp_path) is None
    run = runs.create("deploy", tmp_path)
    assert runs.running(tmp_path)["id"] == run.id
    run.close("ok")
    assert runs.running(tmp_path) is None


def test_a_half_written_line_ends_the_steps(tmp_path):
    run = runs.create("deploy", tmp_path)
    run.append_step({"id": "one"})
    with open(run.folder / "steps.jsonl", "a") as stream:
        stream.write('{"id": "tw')
    assert [step["id"] for step in run.steps()] == ["one"]


def test_an_unknown_run_names_those_that_there_are(tmp_path):
    runs.create("deploy", tmp_path, now=0)
    with pytest.raises(runs.UnknownRun, match="19700101-000000-deploy"):
        runs.load("nope", tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError):
        runs.create("deploy", tmp_path, run_id="../../etc")


def test_the_digest_sees_the_site_and_nothing_else(tmp_path):
    (tmp_path / "globals.yml").write_text("a: 1\n")
    before = runs.digest(tmp_path)
    (tmp_path / "clouds.yaml").write_text("x")
    assert runs.digest(tmp_path) == before
    (tmp_path / "globals.yml").write_text("a: 2\n")
    assert runs.digest(tmp_path) != before
    os.makedirs(tmp_path / "overrides")
    second = runs.digest(tmp_path)
    (tmp_path / "overrides" / "nova.conf").write_text("[x]\n")
    assert runs.digest(tmp_path) != second
