"""The contract of every state function."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from kolla_salt.converge import LONGEST_VALUE, converge
from kolla_salt.outcome import cut

DIFFERENT = {"image": {"old": "a", "new": "b"}}


class Thing:
    """A thing with one field per entry that can be compared with what is wanted, and set."""

    def __init__(self, current, wanted, settable=None):
        self.current, self.wanted, self.settable = dict(current), dict(wanted), settable
        self.applied = 0

    def diff(self):
        return {
            key: {"old": self.current.get(key), "new": value}
            for key, value in self.wanted.items()
            if self.current.get(key) != value
        }

    def apply(self):
        self.applied += 1
        for key in self.settable if self.settable is not None else self.wanted:
            self.current[key] = self.wanted[key]


@pytest.mark.parametrize("test", [True, False])
def test_equal_is_true_without_changes_and_never_applied(test):
    thing = Thing({"image": "a"}, {"image": "a"})
    ret = converge("x", test, thing.diff, thing.apply)
    assert ret == {"name": "x", "result": True, "changes": {}, "comment": "x is as declared"}
    assert thing.applied == 0


def test_prediction_and_real_run_report_the_same_changes():
    thing = Thing({"image": "a", "user": "u"}, {"image": "b", "user": "u"})
    predicted = converge("x", True, thing.diff, thing.apply)
    assert thing.applied == 0
    real = converge("x", False, thing.diff, thing.apply)
    assert predicted["result"] is None
    assert real["result"] is True
    assert predicted["changes"] == real["changes"] == DIFFERENT


def test_absent_thing_reports_old_none():
    ret = converge("x", True, Thing({}, {"image": "b"}).diff, lambda: None)
    assert ret["changes"] == {"image": {"old": None, "new": "b"}}


def test_what_is_left_after_applying_is_a_failure_that_reports_only_what_moved():
    thing = Thing({"image": "a", "user": "u"}, {"image": "b", "user": "v"}, settable=["image"])
    ret = converge("x", False, thing.diff, thing.apply)
    assert ret["result"] is False
    assert ret["changes"] == DIFFERENT
    assert "user is 'u', declared is 'v'" in ret["comment"]


def test_a_field_that_moved_to_a_third_value_is_reported_as_it_is():
    states = iter([{"size": {"old": 1, "new": 3}}, {"size": {"old": 2, "new": 3}}])
    ret = converge("x", False, lambda: next(states), lambda: None)
    assert ret["result"] is False
    assert ret["changes"] == {"size": {"old": 1, "new": 2}}


@pytest.mark.parametrize("error", [CommandExecutionError, SaltInvocationError])
@pytest.mark.parametrize("test", [True, False])
def test_an_expected_error_while_comparing_becomes_the_comment(error, test):
    def diff():
        raise error("engine does not answer")

    ret = converge("x", test, diff, lambda: None)
    assert ret == {"name": "x", "result": False, "changes": {}, "comment": "engine does not answer"}


def test_an_expected_error_while_applying_keeps_what_had_moved():
    thing = Thing({"image": "a", "user": "u"}, {"image": "b", "user": "v"})

    def apply():
        thing.current["image"] = "b"
        raise CommandExecutionError("no such user v")

    ret = converge("x", False, thing.diff, apply)
    assert (ret["result"], ret["comment"], ret["changes"]) == (False, "no such user v", DIFFERENT)


def test_an_error_of_the_second_comparison_is_told_apart_from_a_failed_change():
    answers = iter([DIFFERENT])

    def diff():
        try:
            return next(answers)
        except StopIteration:
            raise CommandExecutionError("connection lost") from None

    ret = converge("x", False, diff, lambda: None)
    assert ret["result"] is False
    assert "was changed, but looking at it afterwards failed: connection lost" in ret["comment"]


def test_a_defect_keeps_its_traceback():
    def apply():
        raise KeyError("oops")

    with pytest.raises(KeyError):
        converge("x", False, lambda: DIFFERENT, apply)


def test_a_string_from_apply_is_the_comment():
    thing = Thing({}, {"image": "b"})

    def apply():
        thing.apply()
        return "created"

    assert converge("x", False, thing.diff, apply)["comment"] == "created"


def test_long_values_are_capped_and_copied():
    shared = {"file": {"old": "", "new": "x" * (LONGEST_VALUE + 5), "list": [1]}}
    result = cut(shared, LONGEST_VALUE)
    assert result["file"]["new"].endswith("[... 5 more characters]")
    assert result is not shared and result["file"]["list"] is not shared["file"]["list"]
    assert len(shared["file"]["new"]) == LONGEST_VALUE + 5
