"""Reading what state runs return."""

import json

from kolla_salt import outcome


def state(
    sls, name, number, result=True, changes=None, comment="", function="kolla_container_|-{0}_|-{0}_|-running", ms=10
):
    return function.format(name), {
        "__sls__": sls,
        "__id__": name,
        "__run_num__": number,
        "result": result,
        "changes": changes or {},
        "comment": comment,
        "duration": ms,
    }


def test_the_cause_is_told_from_its_consequences():
    found = outcome.read(
        "ctl1",
        dict(
            [
                state(
                    "glance", "glance_api", 1, False, comment="One or more requisite failed: glance.bootstrap_glance"
                ),
                state("glance", "bootstrap_glance", 0, False, comment="exit status 1"),
            ]
        ),
    )
    assert found.result is False
    assert [failure.id for failure in found.failed] == ["bootstrap_glance"]
    assert found.skipped == 1
    assert found.failed[0].function == "kolla_container.running"
    assert found.failed_sls == {"glance"}


def test_when_only_consequences_are_there_the_first_is_named():
    found = outcome.read("ctl1", dict([state("a", "x", 0, False, comment="One or more requisite failed: b.y")]))
    assert [failure.id for failure in found.failed] == ["x"]


def test_predictions_and_changes_are_counted_with_their_fields():
    found = outcome.read(
        "h",
        dict(
            [
                state("a", "x", 0, None, {"image": {"old": 1, "new": 2}}),
                state("a", "y", 1),
                state("a", "z", 2, None),
            ]
        ),
    )
    assert found.result is None
    assert [change.id for change in found.changed] == ["x", "z"]
    assert found.changed[0].changes == {"image": {"old": 1, "new": 2}}
    assert found.total == 3


def test_what_is_only_noted_is_told_apart_from_what_differs():
    state = {
        "__id__": "a",
        "__sls__": "web",
        "result": True,
        "changes": {"state": {"old": "running", "new": "adopted"}},
    }
    updated = {**state, "__id__": "b", "changes": {**state["changes"], "image": {"old": "1", "new": "2"}}}
    tag = "kolla_container_|-{0}_|-{0}_|-running"
    found = outcome.read("c1", {tag.format("a"): state, tag.format("b"): updated})
    assert [change.id for change in found.changed] == ["a", "b"]
    assert ([change.id for change in found.differing], found.notes) == (["b"], ["a"])


def test_a_render_error_is_a_failure_with_its_sentences():
    found = outcome.read("h", ["Rendering SLS 'base:glance' failed: no such option"])
    assert found.result is False
    assert "no such option" in found.failed[0].comment


def test_the_slowest_states_come_first_and_short_ones_are_left_out():
    found = outcome.read(
        "h", dict([state("a", "fast", 0, ms=1), state("a", "slow", 1, ms=9000), state("a", "mid", 2, ms=500)])
    )
    assert found.slowest == [(9.0, "slow", 0.0), (0.5, "mid", 0.0)]


def test_an_empty_return_is_a_failure():
    assert outcome.read("h", {}).result is False


def test_secrets_are_replaced_everywhere_and_short_words_are_not_secrets():
    secrets = outcome.secrets_of({"a": "longsecret1", "key": {"private_key": "PRIVATE KEY TEXT"}, "s": "short"})
    data = outcome.scrub(
        {"x": ["uses longsecret1 here"], "longsecret1": 1, "k": "PRIVATE KEY TEXT", "s": "short"}, secrets
    )
    assert data == {"x": ["uses ******** here"], "********": 1, "k": "********", "s": "short"}


def test_long_texts_are_cut_and_say_so():
    assert outcome.cut({"diff": "x" * 50}, 10)["diff"] == "x" * 10 + "\n[... 40 more characters]"


def test_a_dry_run_says_what_would_change_and_marks_it():
    returned = dict([
        state("glance", "glance_api", 1, None, {"state": {"old": None, "new": "created"}}, "c" * 900),
        state("glance", "same", 2),
        state("glance", "broken", 3, False, comment="no engine", ms=20),
    ])  # fmt: skip
    returned["kolla_container_|-glance_api_|-glance_api_|-running"]["name"] = "of the state"
    found = outcome.dry_run("ctl1", returned, lambda change, name: f"{change.id} {name}")
    assert found["states"] == [
        {
            "id": "glance_api", "sls": "glance", "function": "kolla_container.running", "comment": "c" * 500,
            "changes": {"state": {"old": None, "new": "created"}}, "fingerprint": "glance_api of the state",
        }
    ]  # fmt: skip
    assert [failure["id"] for failure in found["failed"]] == ["broken"]
    assert (found["errors"], found["total"], found["seconds"]) == ([], 3, 0.04)
    assert "fingerprint" not in outcome.dry_run("ctl1", returned)["states"][0]


def test_a_dry_run_of_much_is_returned_whole_with_what_is_done_to_containers():
    change = {"state": {"old": "running", "new": "recreated"}, "config": {"old": None, "new": "d" * 9000}}
    found = outcome.dry_run("ctl1", dict(state("a", f"c{number}", number, None, change) for number in range(1000)))
    assert len(json.dumps(found)) < 900_000
    assert [entry["id"] for entry in found["states"]] == [f"c{number}" for number in range(1000)]
    assert {entry["changes"]["state"]["new"] for entry in found["states"]} == {"recreated"}
    first, last = found["states"][0]["changes"]["config"], found["states"][-1]["changes"]["config"]
    assert first["new"].startswith("d" * 1500 + "\n[... 7500 more") and last["new"] == "[not shown]"


def test_a_dry_run_that_could_not_be_rendered_has_errors_and_one_of_nothing_has_none():
    assert outcome.dry_run("ctl1", ["no such option"])["errors"] == ["no such option"]
    assert outcome.dry_run("ctl1", "ERROR: no engine")["errors"] == ["ERROR: no engine"]
    nothing = outcome.dry_run("ctl1", [])
    assert (nothing["states"], nothing["failed"], nothing["errors"], nothing["total"]) == ([], [], [], 0)


def test_last_words_drop_the_traceback():
    text = (
        "Exception occurred in runner kolla.plan: Traceback (most recent call last):\n  File x\n"
        "salt.exceptions.SaltRunnerError: the site has problems:\n  one"
    )
    assert outcome.last_words(text) == "the site has problems:\n  one"
    assert outcome.last_words("Traceback (most recent call last):\n  File x\nKeyError: 'a'") == "KeyError: 'a'"
    assert outcome.last_words("ERROR: no engine") == "no engine"


def test_states_are_placed_after_the_first_one_also_across_midnight():
    def state(number, clock, milliseconds):
        return {"result": True, "changes": {"a": 1}, "__id__": f"s{number}", "__run_num__": number,
                "start_time": clock, "duration": milliseconds}  # fmt: skip

    read = outcome.read(
        "h",
        {
            "m_|-a_|-a_|-x": state(0, "23:59:58.500000", 500),
            "m_|-b_|-b_|-x": state(1, "23:59:59.000000", 250),
            "m_|-c_|-c_|-x": state(2, "00:00:01.250000", 1000),
        },
    )
    assert [(change.id, change.at, change.seconds) for change in read.changed] == [
        ("s0", 0.0, 0.5),
        ("s1", 0.5, 0.25),
        ("s2", 2.75, 1.0),
    ]
    assert read.span == 3.75
