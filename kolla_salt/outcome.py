"""Reading what a state run returned: counts, the failure that matters, the slowest states, predicted changes.

Salt's return of ``state.apply`` is a mapping of one entry per state, or a list of sentences when nothing could be
rendered. Everything that shows or stores a result goes through :func:`read`, so that a failure looks the same in the
live view, in a run record and in ``--json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# How Salt words the failure of a state that was not run because another one failed. Such a state is a consequence.
_CONSEQUENCE = "One or more requisite failed"
#: A diff longer than this many characters is cut in records; the host has the file.
DIFF_LIMIT = 4000
#: The same in what a host returns.
RETURN_LIMIT = 1_500
#: A return over 1 MB is cut by Salt; a host's dry run stays far below it.
_LARGEST = 400_000


@dataclass
class Failure:
    """One state that failed by itself."""

    host: str
    id: str
    sls: str
    function: str
    comment: str
    seconds: float = 0.0
    #: Seconds after the job's first state began.
    at: float = 0.0

    def sentence(self) -> str:
        """Return what failed, where, and what it said, in the words shown to the operator."""
        where = f"{self.host}: {self.id}" if self.id else self.host
        detail = f" ({self.function} in {self.sls}.sls)" if self.function else ""
        return f"{where}{detail}\n    " + self.comment.strip().replace("\n", "\n    ")


@dataclass
class Change:
    """One state that changed something, or would."""

    host: str
    id: str
    sls: str
    function: str
    changes: dict[str, Any]
    comment: str = ""
    seconds: float = 0.0
    #: Seconds after the job's first state began.
    at: float = 0.0


@dataclass
class Outcome:
    """What a state run did on one host."""

    host: str
    result: bool | None = True
    total: int = 0
    changed: list[Change] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    #: Seconds, ID and beginning (after the job's first state) of the slowest states.
    slowest: list[tuple[float, str, float]] = field(default_factory=list)
    #: Seconds from the beginning of the first state to the end of the last.
    span: float = 0.0

    @property
    def failed_sls(self) -> set[str]:
        """Names of the SLS files in which something failed; empty names mean the run as a whole."""
        return {failure.sls for failure in self.failed}

    @property
    def differing(self) -> list[Change]:
        """What changed something, or would, without what is only :func:`noted`."""
        return [change for change in self.changed if not noted(vars(change))]

    @property
    def notes(self) -> list[str]:
        """IDs of the states that only noted something."""
        return [change.id for change in self.changed if noted(vars(change))]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def noted(change: Mapping[str, Any]) -> bool:
    """Return whether a state only writes down that a container runs as declared, and touches nothing.

    So it is with one that its engine started again, as after a power cut, and with one that another tool has made.

    Args:
        change: ``function`` and ``changes`` of a state.
    """
    changes = change.get("changes") or {}
    state = changes.get("state")
    return (
        str(change["function"]).startswith("kolla_container.")
        and set(changes) == {"state"}
        and isinstance(state, Mapping)
        and state.get("new") == "adopted"
    )


def _function(key: str) -> str:
    parts = key.split("_|-")
    return f"{parts[0]}.{parts[-1]}" if len(parts) >= 4 else key


def read(host: str, returned: Any, slowest: int = 5) -> Outcome:
    """Return what ``returned``, the return of a ``state.apply`` on ``host``, says.

    Args:
        host: the minion's id.
        returned: a mapping of states, a list of error sentences, or anything else a broken job returns.
        slowest: how many of the slowest states are kept.
    """
    outcome = Outcome(host)
    if isinstance(returned, Mapping) and "ret" in returned and "jid" in returned:
        returned = returned["ret"]
    if not isinstance(returned, Mapping):
        sentences = [str(line) for line in returned] if isinstance(returned, list | tuple) else [str(returned)]
        outcome.result = False
        outcome.failed.append(Failure(host, "", "", "", "\n".join(sentences)))
        return outcome
    states = [(key, state) for key, state in returned.items() if isinstance(state, Mapping)]
    states.sort(key=lambda item: item[1].get("__run_num__", 0))
    if not states:
        outcome.result = False
        outcome.failed.append(Failure(host, "", "", "", "the state run returned no states"))
    timings: list[tuple[float, str, float]] = []
    clocks = (_clock(state.get("start_time")) for _, state in states)
    first = next((clock for clock in clocks if clock is not None), None)
    for key, state in states:
        function = _function(key)
        sls = str(state.get("__sls__", ""))
        name = str(state.get("__id__", state.get("name", key)))
        comment = str(state.get("comment", ""))
        seconds = _seconds(state.get("duration", 0))
        at = _since(first, _clock(state.get("start_time")))
        outcome.total += 1
        outcome.seconds += seconds
        outcome.span = max(outcome.span, round(at + seconds, 3))
        timings.append((seconds, name, at))
        if state.get("result") is False:
            outcome.result = False
            if _CONSEQUENCE in comment:
                outcome.skipped += 1
            else:
                outcome.failed.append(Failure(host, name, sls, function, comment, seconds, at))
        elif state.get("changes"):
            if state.get("result") is None and outcome.result is not False:
                outcome.result = None
            changes = state["changes"]
            outcome.changed.append(
                Change(
                    host,
                    name,
                    sls,
                    function,
                    dict(changes) if isinstance(changes, Mapping) else {"changes": changes},
                    comment,
                    seconds,
                    at,
                )
            )
        elif state.get("result") is None:
            # Salt's own states may predict a change without naming it.
            if outcome.result is not False:
                outcome.result = None
            outcome.changed.append(Change(host, name, sls, function, {}, comment, seconds, at))
    if outcome.result is False and not outcome.failed:
        # Only consequences: the cause is in another job. Name the first one rather than nothing.
        key, state = next((k, s) for k, s in states if s.get("result") is False)
        outcome.failed.append(
            Failure(
                host,
                str(state.get("__id__", "")),
                str(state.get("__sls__", "")),
                _function(key),
                str(state.get("comment", "")),
            )
        )
    outcome.slowest = sorted((t for t in timings if t[0] >= 0.05), reverse=True)[:slowest]
    return outcome


def dry_run(host: str, returned: Any, fingerprint: Callable[[Change, str], str] | None = None) -> dict[str, Any]:
    """Return what a state run with ``test=True`` on ``host`` predicts, in a size that Salt returns whole.

    Args:
        host: the minion's id.
        returned: as for :func:`read`; an empty list: there was nothing to predict.
        fingerprint: returns what tells a change, with the ``name`` of its state, from any other.

    Returns:
        ``states`` (``id``, ``sls``, ``function``, ``comment``, ``changes`` and ``fingerprint``, if one is asked for),
        ``failed``, ``errors`` (why nothing could be rendered at all), ``total`` and ``seconds``.
    """
    if not isinstance(returned, Mapping):
        errors = [str(line) for line in returned] if isinstance(returned, list) else [str(returned)]
        return {"states": [], "failed": [], "errors": errors, "total": 0, "seconds": 0.0}
    found = read(host, returned)
    names = {str(state["__id__"]): str(state.get("name")) for state in returned.values() if "__id__" in state}
    states, size = [], 0
    for change in found.changed:
        entry = {
            "id": change.id,
            "sls": change.sls,
            "function": change.function,
            "comment": change.comment[:500],
            "changes": cut(change.changes, RETURN_LIMIT),
        }
        if fingerprint:
            entry["fingerprint"] = fingerprint(change, names.get(change.id, ""))
        size += len(str(entry))
        if size > _LARGEST:
            # What is done to a container decides how the run goes on.
            entry["changes"] = {
                field: value if field == "state" else {"old": "[not shown]", "new": "[not shown]"}
                for field, value in entry["changes"].items()
            }
        states.append(entry)
    return {
        "states": states,
        "failed": [vars(failure) for failure in found.failed],
        "errors": [],
        "total": found.total,
        "seconds": round(found.seconds, 3),
    }


def of_host(began: float, failure: Failure | None = None, changed: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what a run's record keeps of a host on which a step was done that is no state run.

    Args:
        began: when it was begun, seconds since the epoch.
        failure: why it did not succeed.
        changed: what it has changed: ``id``, ``function``, ``changes``.
    """
    return {
        "result": failure is None,
        "total": 1,
        "seconds": round(time.time() - began, 3),
        "changed": list(changed),
        "failed": [vars(failure)] if failure else [],
        "skipped": 0,
        "slowest": [],
    }


def why_not(answer: Any) -> str:
    """Return why a host did not do what it was asked: the error that it answered, or that it did not answer."""
    return last_words(str(answer)) if answer else "no answer"


def last_words(text: str) -> str:
    """Return what an exception said, without the traceback that Salt puts around it."""
    for marker in ("SaltRunnerError: ", "CommandExecutionError: ", "SaltRenderError: "):
        if marker in text:
            return text.rsplit(marker, 1)[1].strip()
    lines = text.strip().splitlines()
    if "Traceback (most recent call last):" in text and lines:
        # An exception's text begins at the last line that is not indented.
        start = max(
            (number for number, line in enumerate(lines) if line and not line.startswith((" ", "\t"))), default=0
        )
        return "\n".join(lines[start:])
    # Salt puts this before what an execution function raised.
    return text.strip().removeprefix("ERROR: ")


def _seconds(duration: Any) -> float:
    """Salt gives milliseconds as a number, or as text such as ``"12.3 ms"`` in older returns."""
    try:
        return round(float(str(duration).split()[0]) / 1000, 3)
    except (ValueError, IndexError):
        return 0.0


def _clock(text: Any) -> float | None:
    """Return the seconds since midnight of Salt's ``start_time`` (``23:59:59.123456``), None if there is none."""
    try:
        hours, minutes, seconds = str(text).split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _since(first: float | None, moment: float | None) -> float:
    if first is None or moment is None:
        return 0.0
    # Less than nothing: midnight has passed. A little less: states that ran at the same time.
    return round((moment - first) % 86400, 3) if moment - first < -43200 else round(max(0.0, moment - first), 3)


def cut(value: Any, limit: int = DIFF_LIMIT) -> Any:
    """Return a copy of ``value`` with every text shortened to ``limit`` characters.

    Every mapping and list in it is copied, since Salt writes into what a state returns.
    """
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + f"\n[... {len(value) - limit} more characters]"
    if isinstance(value, Mapping):
        return {key: cut(item, limit) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cut(item, limit) for item in value]
    return value


def secrets_of(passwords: Mapping[str, Any]) -> list[str]:
    """Return every secret text in ``passwords`` that is long enough to be told from ordinary words."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, str) and len(value) >= 8:
            found.append(value)

    walk(passwords)
    return sorted(found, key=len, reverse=True)


def scrub(value: Any, secrets: Iterable[str]) -> Any:
    """Return ``value`` with every occurrence of a secret replaced; the last net before something is stored or shown."""
    secrets = list(secrets)
    shortest = min(map(len, secrets), default=0)
    clean: dict[str, str] = {}

    def text(item: str) -> str:
        for secret in secrets:
            if secret in item:
                item = item.replace(secret, "********")
        return item

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            if len(item) < shortest:
                return item
            # Hosts of one kind say the same things.
            found = clean.get(item)
            if found is None:
                found = clean[item] = text(item)
            return found
        if isinstance(item, Mapping):
            return {walk(key): walk(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [walk(entry) for entry in item]
        return item

    return walk(value)
