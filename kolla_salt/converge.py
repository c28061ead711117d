"""What every state function does: compare, predict or act, compare again.

A state module gives two functions and gets Salt's return value::

    from kolla_salt.converge import converge

    def running(name, **spec):
        return converge(
            name,
            __opts__["test"],
            diff=lambda: __salt__["kolla_container.diff"](name, **spec),
            apply=lambda: __salt__["kolla_container.deploy"](name, **spec),
        )
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

from kolla_salt.outcome import cut

Changes = dict[str, dict[str, Any]]

#: What the old value of a change begins with where a prediction could not find it out: its server is down, say.
UNKNOWN = "unknown: "
#: Salt replaces the changes of a job whose return is larger than 1 MB; values in `changes` are for people.
LONGEST_VALUE = 16_000

# What an execution function raises when the world is not as expected; all else is a defect with a traceback.
EXPECTED_ERRORS = (CommandExecutionError, SaltInvocationError)


def converge(name: str, test: bool, diff: Callable[[], Changes], apply: Callable[[], Any]) -> dict[str, Any]:
    """Bring one thing to its declared state and report it as a Salt state return.

    :param name: the state's name, as Salt gave it
    :param test: ``__opts__['test']``: only predict
    :param diff: compares and returns ``{field: {"old": ..., "new": ...}}``; ``{}`` means nothing is to be done.
        It must not change anything and must work on a bare host
    :param apply: acts on the difference. When it returns a string, that becomes the comment ("restarted,
        because nova.conf changed")
    :returns: ``name``, ``result`` (``True``; ``None`` for a prediction; ``False``), ``changes``, ``comment``

    After `apply` the difference is taken again: what is left makes the state fail, and ``changes`` then holds
    only what really moved. ``CommandExecutionError`` and ``SaltInvocationError`` become the comment with result
    ``False``.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        before = diff()
    except EXPECTED_ERRORS as error:
        return ret | {"result": False, "comment": str(error)}
    if not before:
        return ret | {"comment": f"{name} is as declared"}
    if test:
        comment = f"{name} would change: {_fields(before)}"
        return ret | {"result": None, "changes": cut(before, LONGEST_VALUE), "comment": comment}
    try:
        said = apply()
    except EXPECTED_ERRORS as error:
        changes = cut(_moved_despite_error(before, diff), LONGEST_VALUE)
        return ret | {"result": False, "changes": changes, "comment": str(error)}
    try:
        after = diff()
    except EXPECTED_ERRORS as error:
        return ret | {
            "result": False,
            "changes": cut(before, LONGEST_VALUE),
            "comment": f"{name} was changed, but looking at it afterwards failed: {error}",
        }
    if after:
        return ret | {
            "result": False,
            "changes": cut(moved(before, after), LONGEST_VALUE),
            "comment": f"{name} was changed, but still differs in: {_details(after)}",
        }
    comment = said if isinstance(said, str) and said else f"{name} changed: {_fields(before)}"
    return ret | {"changes": cut(before, LONGEST_VALUE), "comment": comment}


def moved(before: Changes, after: Changes) -> Changes:
    """Return what changed between two differences taken before and after an attempt.

    :param before: the difference at first
    :param after: the difference that is left
    :returns: fields that are now right, and fields whose value is another one but still not the declared one
    """
    changes: Changes = {}
    for field, value in before.items():
        if field not in after:
            changes[field] = value
        elif after[field].get("old") != value.get("old"):
            changes[field] = {"old": value.get("old"), "new": after[field].get("old")}
    return changes


def _moved_despite_error(before: Changes, diff: Callable[[], Changes]) -> Changes:
    try:
        return moved(before, diff())
    except EXPECTED_ERRORS:
        return {}


def _fields(changes: Changes) -> str:
    return ", ".join(changes)


def _details(changes: Changes) -> str:
    parts = [f"{field} is {value.get('old')!r}, declared is {value.get('new')!r}" for field, value in changes.items()]
    text = "; ".join(parts)
    return text if len(text) <= 2000 else text[:2000] + " ..."


def is_known(changes: Changes) -> bool:
    """Return whether any of a state's changes is one that was found out, not only supposed."""
    return any(
        not (isinstance(change, dict) and str(change.get("old")).startswith(UNKNOWN)) for change in changes.values()
    )
