"""One run of one failure: the cloud is well before, something breaks, it is looked at, it is put right."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.cluster import Cluster, commit


class OutOfTime(Exception):
    """The scenario took longer than it may."""


class NotWell(Exception):
    """The cloud was not well before, so that nothing could be learnt."""


@dataclass(frozen=True)
class Scenario:
    """A failure: name, one sentence, what does it, seconds it may take, and whether the cloud must be well before."""

    name: str
    title: str
    function: Callable[[Run], None]
    limit: float
    quick: bool


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, title: str, limit: float, quick: bool = True) -> Callable[..., Callable[[Run], None]]:
    """Register a function as scenario ``name``; ``quick`` ones are part of ``make test-ha``."""

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        SCENARIOS[name] = Scenario(name, title, function, limit, quick)
        return function

    return register


@dataclass
class Run:
    """What a scenario is given, and what came of it.

    Attributes:
        cluster: the cloud.
        number: how many runs of the scenario came before; scenarios take another node each time.
        subject: what was broken.
        commit: of the checkout that did it.
        figures: name -> number, or None for what did not happen in time.
        limits: name -> must, aim, unit.
        problems: what was not as it must be, in sentences.
        notes: what else was seen.
    """

    scenario: str
    cluster: Cluster = field(repr=False)
    number: int = 0
    subject: str = ""
    when: str = ""
    commit: str = ""
    ok: bool = False
    seconds: float = 0.0
    figures: dict[str, float | None] = field(default_factory=dict)
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    say: Callable[[str], None] = field(default=print, repr=False)
    _undo: list[Callable[[], Any]] = field(default_factory=list, repr=False)

    def turn(self, names: list[str]) -> str:
        """Return another one of ``names`` in each run, and call it the subject."""
        self.subject = names[self.number % len(names)]
        return self.subject

    def figure(
        self, name: str, value: float | None, must: float | None = None, aim: float | None = None, unit: str = "s"
    ) -> None:
        """Keep a number; one that is above ``must``, or None where there is a ``must``, is a problem."""
        self.figures[name] = None if value is None else round(value, 3)
        self.limits[name] = {"must": must, "aim": aim, "unit": unit}
        shown = "never" if value is None else f"{value:.2f} {unit}"
        self.say(
            f"    {name}: {shown}" + (f" (must {must:g}, aim {aim:g})" if must is not None and aim is not None else "")
        )
        if must is not None and (value is None or value > must):
            self.problems.append(f"{name}: found {shown}, expected at most {must:g} {unit}")

    def expect(self, holds: bool, what: str, found: Any, expected: Any) -> bool:
        """Keep a problem unless ``holds``; return it."""
        if not holds:
            self.problems.append(f"{what}: found {found}, expected {expected}")
            self.say(f"    NOT AS IT MUST BE: {self.problems[-1]}")
        return holds

    def note(self, text: str) -> None:
        """Keep something that is worth knowing and neither good nor bad."""
        self.notes.append(text)
        self.say(f"    {text}")

    def undo(self, action: Callable[[], Any]) -> None:
        """Do ``action`` at the end, whatever happens; the last one first."""
        self._undo.append(action)

    def done(self, action: Callable[[], Any]) -> None:
        """Do ``action`` now, and no more at the end."""
        self._undo.remove(action)
        action()

    def record(self) -> dict[str, Any]:
        """Return this run as plain data."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in {"cluster", "say", "_undo"}}


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise OutOfTime in the block when it takes longer than ``seconds``. For the main thread."""

    def late(*_: object) -> None:
        raise OutOfTime(f"{what} took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def execute(chosen: Scenario, cluster: Cluster, number: int, say: Callable[[str], None] = print) -> Run:
    """Do one run: look, break, look, put right.

    Raises:
        NotWell: the cloud was not well before and could not be put right.
    """
    run = Run(chosen.name, cluster, number, say=say, when=time.strftime("%Y-%m-%dT%H:%M:%S%z"), commit=commit())
    seconds, ailing = cluster.await_(cluster.ails, 120)
    if seconds is None:
        ailing = cluster.put_right()
        if ailing:
            raise NotWell(f"before '{chosen.title}': {'; '.join(ailing)}")
    say(f"== {chosen.title} (run {number + 1})")
    began = time.monotonic()
    try:
        with within(chosen.limit, f"'{chosen.title}'"):
            chosen.function(run)
    except OutOfTime as error:
        run.problems.append(f"found that {error}, expected an end by then")
    except Exception as error:
        # A test that breaks is a finding of its own; what it did to the cloud is undone below all the same.
        run.problems.append(f"the test broke: {type(error).__name__}: {error}")
        say(traceback.format_exc())
    finally:
        for action in reversed(run._undo):
            try:
                with within(180, "putting things right"):
                    action()
            except Exception as error:
                run.problems.append(f"putting things right: {type(error).__name__}: {error}")
    seconds, ailing = cluster.await_(cluster.ails, 120)
    if seconds is None:
        run.problems.append(f"the cloud was not well again by itself: found {'; '.join(ailing[:6])}")
        left = cluster.put_right()
        run.note(f"put right by hand{': NOT: ' + '; '.join(left) if left else ''}")
    run.seconds = round(time.monotonic() - began, 1)
    run.ok = not run.problems
    say(f"   {'ok' if run.ok else 'FAILED'} after {run.seconds:.0f} s{': ' if run.subject else ''}{run.subject}")
    for problem in run.problems:
        say(f"   - {problem}")
    return run
