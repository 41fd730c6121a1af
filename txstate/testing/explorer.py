"""`explore`: runs transactions in every order of their round trips, on a real server, with faults in between.

The server runs one batch at a time, so the order in which requests reach it is the only thing that chance decides.
Here it is chosen instead: schedule after schedule, depth first, or as drawn by Hypothesis. What a schedule is stands in
`_explorer.schedule`, how one is played in `run`, what can go wrong in `mishaps`, and what is reported in `report`.
"""

from __future__ import annotations

import inspect
import random
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from txstate._checks import check_count
from txstate.errors import UsageError
from txstate.testing._explorer.actor import Actor, Process
from txstate.testing._explorer.coverage import Coverage
from txstate.testing._explorer.mishaps import INSIDE, MISHAPS, Mishap, outsider
from txstate.testing._explorer.report import Report, Violation
from txstate.testing._explorer.run import Bounds, Endless, Run
from txstate.testing._explorer.schedule import (
    DELIVER,
    ByNumbers,
    Drawn,
    Exhaustive,
    Schedule,
    ScheduleDiverged,
    Scripted,
)
from txstate.testing._explorer.stage import HasUrl, NotYet, Stage
from txstate.testing._explorer.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from txstate.store import Store
    from txstate.testing._explorer.schedule import Guide

    Transaction: TypeAlias = Callable[[Any], Any]
    Setup: TypeAlias = Callable[[Store], object]
    Invariant: TypeAlias = Callable[..., object]
    Fault: TypeAlias = str | Callable[[Store], object]

FAULTS: Final = tuple(MISHAPS)
"""The names of all faults that `explore` can inject."""

_NO_LIMIT: Final = 1_000_000


def explore(
    transactions: Sequence[Transaction],
    *,
    invariant: Invariant,
    setup: Setup | None = None,
    faults: Sequence[Fault] = (),
    max_faults: int = 1,
    preemptions: int | None = None,
    limit: int | None = None,
    violations: int = 100,
    server: str | HasUrl | None = None,
    shared: bool = False,
) -> Report:
    """Try all schedules of these transactions.

    Each transaction is a function that is called with a store: a `Store`, or an `AsyncStore` if it returns a
    coroutine. It may use the store as it likes, within transactions or without, and is played once per schedule, in a
    thread of its own, as if it were a process of its own. It must be deterministic: do the same when it reads the same.
    Time, for the store, is virtual: waiting costs nothing.

    Args:
        transactions: the functions. What one raises is its outcome.
        invariant: called after each schedule with a store, or with a store and the `Outcome` of each transaction.
            It fails by raising, or by returning something false; None, the result of a function without a return, is
            not a failure.
        setup: called before each schedule with a store, on an empty database.
        faults: what may go wrong, out of `FAULTS`: ``drop_reply``, ``drop_request``, ``cut`` (between two requests),
            ``interrupt`` (`KeyboardInterrupt`, or `CancelledError`), ``impatience`` (a call stops waiting for others of its
            process), ``late_exec`` (a commit arrives any time after its
            sender gave it up), ``late_request`` (any other request does), ``foreign_write``, ``expiry`` (of a key in
            use), ``restart`` (the server is killed). A function stands for another client: it is called with a store,
            before any step.
        max_faults: how many faults may happen in one schedule.
        preemptions: how often at most a transaction that could go on has to give way to another one; None: no limit.
        limit: how many schedules to try at most.
        violations: stop after having found so many.
        server: a running server with an empty database, or its address; by default a private one is started.
        shared: the transactions are threads of one process, on one store, instead of processes of their own: those that
            want the same documents at once share commits.

    Raises:
        UsageError: an argument can't be used, or a transaction uses its store from other threads.
        ScheduleDiverged: a transaction is not deterministic.
        StoreUnavailable: there is no server to explore on, or it is gone.
        ServerRefused: it lets nobody in.
        BaseException: what `setup`, or a function among the faults, raised.
    """
    check_count("max_faults=", max_faults, 0)
    check_count("limit=", 1 if limit is None else limit, 1)
    check_count("violations=", violations, 1)
    check_count("preemptions=", preemptions or 0, 0)
    bounds = Bounds(_mishaps(faults), max_faults, preemptions)
    guide = Exhaustive()
    found: list[Violation] = []
    coverage = Coverage(bounds.mishaps)
    schedules = steps = 0
    cut, more = False, True
    with _Explorer(transactions, setup, invariant, bounds, server, shared=shared) as explorer:
        returned = [0] * len(transactions)
        while more:
            violation, run = explorer.play(guide, schedules + 1)
            schedules += 1
            steps += len(run.record)
            cut = cut or run.cut
            coverage.add(run.record)
            for index, actor in enumerate(explorer.actors):
                returned[index] += actor.outcome is not None and actor.outcome.ok
            if violation is not None:
                found.append(violation)
            more = guide.advance()
            if schedules == limit or len(found) == violations:
                break
    return Report(
        schedules=schedules,
        steps=steps,
        violations=tuple(found),
        complete=not cut and not more,
        stopped=more,
        returned=tuple(returned),
        fired=coverage.fired,
        reached=coverage.reached,
    )


def replay(
    schedule: str | Schedule | Drawn,
    transactions: Sequence[Transaction],
    *,
    invariant: Invariant,
    setup: Setup | None = None,
    faults: Sequence[Fault] = (),
    max_faults: int = 1,
    server: str | HasUrl | None = None,
    shared: bool = False,
) -> Schedule:
    """Play one schedule: a failure that was found becomes a regression test.

    Args:
        schedule: a text, as reports print it; or what `schedules` drew.
        transactions: as for `explore`, as are the others.
        invariant: as there.
        setup: as there.
        faults: the functions that stand for other clients; all other faults are there in any case, unless the schedule
            was drawn: then only these are.
        max_faults: for a drawn schedule: how many faults may happen.
        server: as for `explore`.
        shared: as there.

    Returns:
        The schedule that was played, to its end.

    Raises:
        InvariantViolated: the schedule breaks the invariant.
        ScheduleDiverged: the transactions can't follow the schedule.
        UsageError, StoreUnavailable: as `explore`.
    """
    guide: Guide
    check_count("max_faults=", max_faults, 0)
    if isinstance(schedule, Drawn):
        bounds = Bounds(_mishaps(faults), max_faults, None)
        guide = ByNumbers(schedule)
    else:
        script = Schedule.parse(schedule) if isinstance(schedule, str) else schedule
        if not isinstance(script, Schedule):
            raise UsageError(
                f"replay takes a schedule, or its text, such as report.first.schedule, not {type(script).__name__}"
            )
        events = [choice.event for choice in script.choices if choice.event not in ("", DELIVER, INSIDE)]
        wanted = [name for name in dict.fromkeys(events) if name in MISHAPS]
        bounds = Bounds(_mishaps([*wanted, *(fault for fault in faults if callable(fault))]), _NO_LIMIT, None)
        guide = Scripted(script)
    with _Explorer(transactions, setup, invariant, bounds, server, shared=shared) as explorer:
        violation, run = explorer.play(guide, 1)
        if isinstance(guide, Scripted):
            guide.end()
    if violation is not None:
        raise violation.exception() from violation.error
    return run.schedule


def schedules(max_steps: int = 60) -> SearchStrategy[Drawn]:
    """A Hypothesis strategy of schedules for `replay`; a failing one shrinks to few and plain steps.

    Args:
        max_steps: how many choices are drawn at most; after them each transaction runs on to its end.
    """
    check_count("max_steps=", max_steps, 0)
    from hypothesis import strategies  # noqa: PLC0415 - optional, and slow to import

    # Mostly 0, so that long schedules don't drown in switches and faults; any other number picks one of the rest.
    number = strategies.one_of(strategies.just(0), strategies.integers(0, 1), strategies.integers(0, 63))
    return strategies.lists(number, max_size=max_steps).map(lambda numbers: Drawn(tuple(numbers)))


class _Explorer:
    """The server and the actors of one exploration, and the way from an empty database to a verdict."""

    def __init__(
        self,
        transactions: Sequence[Transaction],
        setup: Setup | None,
        invariant: Invariant,
        bounds: Bounds,
        server: str | HasUrl | None,
        *,
        shared: bool,
    ) -> None:
        _check(transactions, setup, invariant)
        self._setup, self._invariant, self._bounds = setup, invariant, bounds
        self._takes_outcomes = _takes_two(invariant)
        self._names = [f"{index}:{_name(function)}" for index, function in enumerate(transactions)]
        self._stage = Stage(server, mortal="restart" in bounds.mishaps)
        self._shared = shared
        process = Process(self._stage, shared=True) if shared else None
        self.actors = [
            Actor(index, function, self._stage, process) for index, function in enumerate(transactions)
        ]
        self._randomness = random.getstate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        random.setstate(self._randomness)
        for actor in self.actors:
            actor.dismiss()
        self._stage.close()

    def play(self, guide: Guide, number: int) -> tuple[Violation | None, Run]:
        """Play one schedule, from setup to the invariant."""
        self._stage.forget_expiries()
        while True:
            run = Run(self._stage, self.actors, guide, self._bounds)
            try:
                if not self._played(run):
                    continue
            except Endless as endless:
                self._stage.distrust()
                return self._violation(run, number, endless), run
            problem = self._judge()
            return None if problem is None else self._violation(run, number, problem), run

    def _played(self, run: Run) -> bool:
        """Whether that was the run that was asked for: else a key did not expire when it should, so play it again."""
        try:
            self._prepare()
            run.play()
        except NotYet:
            played = False
        except ScheduleDiverged:
            if not self._stage.ran_out_early():
                raise
            played = False
        else:
            played = not self._stage.ran_out_early()
        if not played:
            self._stage.distrust()
        return played

    def _prepare(self) -> None:
        self._stage.clear()
        random.seed(0)  # tenacity draws its pauses from here
        if self._setup is not None:
            _plain(self._setup(self._stage.store), "setup")
        self._stage.lease()

    def _judge(self) -> BaseException | None:
        """What is wrong, as an exception."""
        outcomes = [actor.outcome for actor in self.actors]
        try:
            arguments = (self._stage.store, outcomes) if self._takes_outcomes else (self._stage.store,)
            verdict = self._invariant(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - that is how an invariant fails; pytest.fail is no Exception
            return error
        _plain(verdict, "invariant")
        name = _name(self._invariant).replace("<lambda>", "the invariant")
        return None if verdict is None or verdict else _False(f"{name} returned {verdict!r}")

    def _violation(self, run: Run, number: int, problem: BaseException) -> Violation:
        outcomes = tuple(actor.outcome for actor in self.actors)
        timeline = Timeline(
            run.record,
            self._names,
            self._bounds.mishaps,
            outcomes,
            self._stage.documents(),
            str(problem) if isinstance(problem, _False | Endless) else _told(problem),
        )
        error = None if isinstance(problem, _False) else problem
        return Violation(run.schedule, number, outcomes, error, timeline, self._recipe(run.schedule))

    def _recipe(self, schedule: Schedule) -> str:
        events = dict.fromkeys(choice.event for choice in schedule.choices)
        functions = [name for name in events if name in self._bounds.mishaps and name not in MISHAPS]
        faults = f", faults=[{', '.join(functions)}]" if functions else ""
        return f"replay({str(schedule)!r}, ...{faults}{', shared=True' if self._shared else ''})"


class _False(Exception):  # noqa: N818 - a finding, not an error
    """The invariant returned what is false."""


def _mishaps(faults: Iterable[Fault]) -> dict[str, Mishap]:
    mishaps: dict[str, Mishap] = {}
    if isinstance(faults, str) or not isinstance(faults, Iterable):
        raise UsageError(f"faults= takes a list of names and functions, not {faults!r}")
    for fault in faults:
        if isinstance(fault, str):
            if fault not in MISHAPS:
                raise UsageError(f"there is no fault {fault!r}; there are {', '.join(FAULTS)}")
            mishaps[fault] = MISHAPS[fault]
            continue
        if not callable(fault):
            raise UsageError(
                f"a fault is one of {', '.join(FAULTS)}, or a function that is called with a store, not {fault!r}"
            )
        name = _name(fault)
        if name in MISHAPS or name in mishaps or name in (DELIVER, INSIDE):
            raise UsageError(
                f"two faults are called {name!r}, which schedules couldn't tell apart: rename one"
            )
        mishaps[name] = outsider(fault)
    return mishaps


def _check(transactions: Any, setup: Any, invariant: Any) -> None:
    """Refuse what could only fail later, and would then look like a finding."""
    if not isinstance(transactions, Sequence) or not transactions or not all(map(callable, transactions)):
        raise UsageError("explore takes a list of functions, each of which is called with a store")
    if not callable(invariant):
        raise UsageError(f"invariant= takes a function that is called with a store, not {invariant!r}")
    if setup is not None and not callable(setup):
        raise UsageError(f"setup= takes a function that is called with a store, not {setup!r}")


def _takes_two(invariant: Invariant) -> bool:
    """Whether it takes the outcomes as well."""
    try:
        inspect.signature(invariant).bind(None, None)
    except TypeError:
        return False
    return True


def _plain(result: object, what: str) -> None:
    """Refuse a coroutine, which would pass for an invariant that holds."""
    if inspect.iscoroutine(result):
        result.close()
        raise UsageError(f"{what} must be a plain function: it gets a Store, even beside async transactions")


def _told(problem: BaseException) -> str:
    """An error in words; a bare assertion is told by its source."""
    said = f"{type(problem).__name__}: {problem}"
    if not str(problem) and (frames := traceback.extract_tb(problem.__traceback__)):
        said += f"{frames[-1].line} (line {frames[-1].lineno} of {frames[-1].name})"
    return said


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
