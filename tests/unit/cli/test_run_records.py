"""Run records."""

import json
import os
import stat
import subprocess

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


def test_a_run_whose_process_was_killed_and_whose_parent_has_not_noticed_is_interrupted(tmp_path):
    run = runs.create("deploy", tmp_path)
    process = subprocess.Popen(["sleep", "60"])
    (run.folder / "run.json").write_text(json.dumps(run.header() | {"pid": process.pid}))
    assert runs.running(tmp_path)["id"] == run.id
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert runs.running(tmp_path) is None and runs.headers(tmp_path)[0]["result"] == "interrupted"
    process.wait()


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


def site(folder):
    folder.mkdir()
    (folder / "globals.yml").write_text("openstack_release: '2026.1'\n")
    (folder / "passwords.yml").write_text("admin_password: a-secret-of-the-site\n")
    return folder


def test_whatever_is_written_is_searched_for_the_secrets_of_the_site(tmp_path):
    root = tmp_path / "runs"
    run = runs.create("deploy", root, site=str(site(tmp_path / "site")))
    said = "the server said a-secret-of-the-site"
    run.write_plan({"hosts": {"h": {"states": [{"id": "x", "changes": {"f": said}}]}}})
    run.append_step({"id": said, "hosts": {"h": {"changed": [], "failed": [{"comment": said}]}}})
    run.update(errors=[said])
    # Also by somebody who goes on with the record.
    runs.load("last", root).close("failed", error=said)
    assert runs.load("last", root).site()["options"] == {"openstack_release": "2026.1"}
    for path in root.rglob("*"):
        assert not path.is_file() or b"a-secret-of-the-site" not in path.read_bytes(), path


def test_a_record_of_a_thousand_hosts_is_bounded_and_tells_every_change(tmp_path):
    run = runs.create("deploy", tmp_path)
    text = "+ a line of a configuration file\n" * 60
    states = [{"id": f"file {n}", "sls": "nova", "function": "kolla_config.written", "comment": "c" * 100,
               "changes": {"diff": {"old": "", "new": text}, "state": {"old": None, "new": "created"}}}
              for n in range(30)]  # fmt: skip
    run.write_plan({"steps": [], "hosts": {f"h{n}": {"states": states} for n in range(1000)}, "unknown": []})
    for wave in range(5):
        hosts = {f"h{n}": {"result": True, "seconds": 1.0, "changed": states[:10], "failed": []} for n in range(1000)}
        run.append_step({"id": f"wave {wave}", "wave": wave, "services": [], "hosts": hosts, "seconds": 1.0})
    size = sum(path.stat().st_size for path in run.folder.iterdir())
    assert size < 40_000_000, size
    plan = run.plan()
    assert len(plan["hosts"]) == 1000
    assert all(len(said["states"]) == 30 for said in plan["hosts"].values())
    assert all(state["changes"]["state"]["new"] == "created" for state in plan["hosts"]["h999"]["states"])
    assert plan["hosts"]["h0"]["states"][0]["changes"]["diff"]["new"] == text
    last = list(run.steps())[-1]
    assert len(last["hosts"]) == 1000 and len(last["hosts"]["h999"]["changed"]) == 10


def test_old_records_go_and_what_is_still_needed_stays(tmp_path):
    day = 86400
    for number in range(10):
        runs.create("deploy", tmp_path, now=number * day).close("ok")
    upgrade = runs.create("upgrade", tmp_path, now=0.0)
    upgrade.close("ok")
    held = runs.load("19700102-000000-deploy", tmp_path)
    held.update(keep="its containers can still be taken back")
    runs.create("deploy", tmp_path, now=1.0)  # it still runs
    assert runs.prune(tmp_path, keep=4, days=0, now=10 * day) == [
        "19700101-000000-deploy",
        "19700103-000000-deploy",
        "19700104-000000-deploy",
        "19700105-000000-deploy",
        "19700106-000000-deploy",
    ]
    left = runs.list_ids(tmp_path)
    assert upgrade.id in left and held.id in left and "19700101-000001-deploy" in left
    rollback = runs.create("rollback", tmp_path, now=9 * day)
    rollback.update(of=upgrade.id)
    rollback.close("failed")
    assert upgrade.id not in runs.prune(tmp_path, keep=0, days=5, now=10 * day)
    rollback.close("ok")
    held.update(keep=None)
    assert runs.prune(tmp_path, keep=0, days=2, now=10 * day) == [
        "19700101-000000-upgrade",
        "19700102-000000-deploy",
        "19700107-000000-deploy",
        "19700108-000000-deploy",
    ]
    assert runs.prune(tmp_path, keep=0, days=0, now=1000 * day) == []
    # The last one stays, whatever its age.
    assert runs.prune(tmp_path, keep=0, days=1, now=1000 * day)
    assert rollback.id in runs.list_ids(tmp_path)


def test_the_run_before_is_the_last_one_of_the_same_verb(tmp_path):
    for verb, now in (("deploy", 0), ("stop", 1), ("deploy", 2)):
        runs.create(verb, tmp_path, now=now)
    assert runs.before("19700101-000002-deploy", tmp_path).id == "19700101-000000-deploy"
    with pytest.raises(runs.UnknownRun, match="no stop before it"):
        runs.before("19700101-000001-stop", tmp_path)
