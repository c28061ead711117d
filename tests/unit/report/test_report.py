"""The report of a run."""

import json
import re

import pytest
import records

from kolla_salt import report, runs


def page(tmp_path, **options):
    return report.make(records.write(tmp_path, **options))


def test_it_needs_nothing_from_the_network(tmp_path):
    html = page(tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)[^"']*""", html)
    assert "@import" not in html and "url(http" not in html
    assert "default-src 'none'" in html


def test_failures_deviations_and_what_was_left_out_come_first(tmp_path):
    html = page(tmp_path, fail="the container did not stay up", deviations=["node2: mariadb was restarted"])
    places = [html.index(text) for text in (
        "What needs attention", "the container did not stay up", "docker logs --tail 50 nova_compute",
        "node2: mariadb was restarted", "nova failed there", 'id="timeline"',
    )]  # fmt: skip
    assert places == sorted(places)


def test_a_good_run_asks_for_no_attention(tmp_path):
    html = page(tmp_path)
    assert 'id="attention"' not in html and ">done</span>" in html


def test_every_text_is_escaped(tmp_path):
    bad = records.HOSTILE
    record = records.write(tmp_path, fail=bad, deviations=[bad], who=bad, command=bad, revision={
        "commit": bad, "branch": bad, "subject": bad, "dirty": True, "changed": [bad],
    })  # fmt: skip
    steps = list(record.steps())
    steps[0]["id"] = bad
    steps[0]["services"] = [bad]
    host = steps[0]["hosts"].pop("node1")
    host["changed"][0] |= {"id": bad, "function": bad, "changes": {bad: {"old": bad, "new": f"@@ 1\n+{bad}"}}}
    host["changed"][1] |= {"id": bad, "changes": {bad: {"old": bad, "new": [bad]}}}
    steps[0]["hosts"][bad] = host
    (record.folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    receipt = record.availability()
    receipt["entries"][0] |= {"service": bad, "where": bad, "said": {bad: 1}}
    receipt["services"] = {bad: receipt["services"]["glance"], **receipt["services"]}
    record.write_availability(receipt)
    record.write_containers({"before": {bad: {bad: {"id": bad, "image": bad, "digest": bad}}}, "after": {}})
    record.update(error=bad, unknown=[bad], errors=[bad])
    html = report.make(record)
    # Nothing of it is markup, and the template language did not read it.
    assert "<img" not in html and "alert(1)</script>" not in html
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert "&lt;img src=x" in html and "{{ 7*7 }}" in html


def test_secrets_that_got_into_a_record_do_not_get_into_its_report(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "passwords.yml").write_text("admin: a-secret-of-the-site\n")
    record = records.write(tmp_path / "runs", site=site)
    steps = (record.folder / "steps.jsonl").read_text()
    (record.folder / "steps.jsonl").write_text(steps.replace("kolla was changed", "a-secret-of-the-site"))
    header = record.header() | {"error": "it said a-secret-of-the-site"}
    (record.folder / "run.json").write_text(json.dumps(header))
    html = report.make(runs.load("last", tmp_path / "runs"))
    assert "it said" in html and "a-secret-of-the-site" not in html


def test_hosts_of_which_the_same_was_predicted_are_told_together(tmp_path):
    record = records.write(tmp_path, hosts=40)
    plan = record.plan()
    plan["hosts"]["node7"]["states"].pop()
    record.write_plan(plan)
    html = report.make(record)
    table = html[html.index('<section id="plan"') : html.index('class="order"')]
    assert table.count("<tr>") == 1 + 2 and "node1, node2, node3, node4, node5 and 34 more" in table


def test_a_run_that_fared_otherwise_than_predicted_says_so(tmp_path):
    told = {"host": "node2", "container": "mariadb", "text": "node2: mariadb was restarted"}
    record = records.write(tmp_path, deviations=[told])
    record.update(result="deviated")
    html = report.make(record)
    assert ">deviated</span>" in html and "<li>node2: mariadb was restarted</li>" in html


def test_images_before_and_after_are_told_with_their_digests(tmp_path):
    html = page(tmp_path)
    assert "nova:2025.2" in html and "nova:2026.1" in html and "aaaaaaaaaaaa" in html
    assert "8 containers kept their image" in html


def test_a_report_of_many_hosts_stays_small_enough_to_open(tmp_path):
    html = page(tmp_path, hosts=1000)
    assert len(html) < 6_000_000
    assert "850 more hosts are not drawn" in html


@pytest.mark.parametrize("kept", [(), ("plan.json",), ("steps.jsonl",), ("availability.json", "plan.json")])
def test_a_run_that_was_killed_has_a_report_of_what_it_left(tmp_path, kept):
    record = records.write(tmp_path)
    for name in ("plan.json", "steps.jsonl", "availability.json", "containers.json", "site.json"):
        if name not in kept:
            (record.folder / name).unlink(missing_ok=True)
    header = {name: record.header()[name] for name in ("id", "verb", "started")} | {
        "result": "running",
        "pid": 2**22 + 1,
    }
    (record.folder / "run.json").write_text(json.dumps(header))
    assert ">interrupted</span>" in report.make(record)


def test_records_of_verbs_without_waves_have_a_report(tmp_path):
    record = runs.create("node-drain", tmp_path, now=0.0, node="n1")
    changed = ["one", {"id": "x", "function": "node-drain", "changes": {}}]
    hosts = {"n1": {"result": True, "seconds": 3.0, "changed": changed, "failed": []}}
    step = {"id": "move its servers", "wave": 0, "role": "node", "services": [], "ok": True}
    record.append_step({**step, "started": 1.0, "seconds": 3.0, "hosts": hosts})
    record.close("ok", seconds=4.0)
    html = report.make(record)
    assert "node drain" in html and "move its servers" in html
