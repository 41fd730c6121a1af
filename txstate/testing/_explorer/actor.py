"""One explored transaction: a thread of its own, stores whose driver waits to be told when to move, a clock of its own.

Each actor stands for a process of its own, which shares neither connections nor time with the others; or all of them
for the threads of one process, which share a store. Which actor moves,
and what goes wrong with its step, is the business of the run (`run`).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from txstate._drivers.pool import Pool
from txstate._effects import Acquire, Connect, Park, Send, Sleep
from txstate._engine.group import Groups
from txstate.errors import UsageError
from txstate.store import AsyncStore, Store
from txstate.testing._explorer.driver import (
    Abandoned,
    AsyncSteppedDriver,
    Box,
    Channel,
    Pause,
    Step,
    SteppedDriver,
)
from txstate.testing._explorer.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._drivers.aio import AsyncDriver
    from txstate._drivers.sync import SyncDriver
    from txstate._effects import Effect
    from txstate.testing._explorer.stage import Stage

_PATIENCE: Final = 1.0
_PLACES: Final = 1000
_NOWHERE: Final = cast("Channel", None)
_WAIT: Final = 0.001
_LEASE: Final = 60.0
"""Seconds of a claim: the server's clock is the only one that can't be stepped, so none ends during a run."""


class Director(Protocol):
    """What an actor needs of the run that it plays in."""

    def exchange(self, actor: Actor, step: Step) -> list[object]:
        """Wait to be the one that moves, then send the step's commands, or see them go wrong."""

    def pause(self, actor: Actor, pause: Pause) -> bool:
        """Let others move first, until somebody has woken this actor or its time has run out."""

    def left(self) -> None:
        """The transaction of the actor that moved last has ended."""


class Process:
    """What stands for one process: its connections, its clock, and the calls that share attempts.

    Args:
        stage: where its transactions play.
        shared: whether there are several, each in a thread of its own, on one store.

    Attributes:
        groups: of calls that share attempts; None: there is only one transaction.
        pool: its connections.
        now: its clock, in seconds.
    """

    def __init__(self, stage: Stage, *, shared: bool = False) -> None:
        self._stage = stage
        self.groups = Groups(threading.Lock, Box, lambda: self.now) if shared else None
        self.begin()

    def begin(self) -> None:
        """A run begins."""
        pool: Pool[Channel, None] = Pool(_PLACES, lambda: Channel(self._stage, pool.give))
        self.pool, self.now = pool, 0.0
        if self.groups is not None:
            self.groups.forget()


class Actor:
    """One transaction, played again and again.

    Args:
        index: its place in the list.
        function: takes a store.
        stage: where it plays.
        process: that it is a part of; None: one of its own.

    Attributes:
        gate: released by whoever lets it go on.
        step: what it is about to do; None when it has ended, or not begun.
        outcome: of the last run; None if it was abandoned.
    """

    def __init__(
        self, index: int, function: Callable[[Any], Any], stage: Stage, process: Process | None = None
    ) -> None:
        process = process or Process(stage)
        self.index, self._function, self._stage = index, function, stage
        self.gate = threading.Lock()
        self.gate.acquire()
        self.step: Step | None = None
        self.outcome: Outcome | None = None
        self.process = process
        self._director: Director | None = None
        self._names = itertools.count()
        self._calls = self._depth = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = Store(stage.url)
        self._async_store = AsyncStore(stage.url)
        self._store._core.driver = cast("SyncDriver", SteppedDriver(self))  # noqa: SLF001 - the third driver of the same engine
        self._async_store._core.driver = cast("AsyncDriver", AsyncSteppedDriver(self))  # noqa: SLF001 - as above
        for store in (self._store, self._async_store):
            store._settings = replace(  # noqa: SLF001 - as above
                store._settings,  # noqa: SLF001 - as above
                clock=self._clock,
                random_id=self._random_id,
                groups=process.groups,
                patience=1,
                shortest_lease=_LEASE,
                longest_wait=_WAIT,
            )
        self._thread = threading.Thread(target=self._work, name=f"txstate-explore-{index}", daemon=True)
        self._thread.start()

    @property
    def asynchronous(self) -> bool:
        """Whether its function turned out to be a coroutine function."""
        return self._loop is not None

    @property
    def pool(self) -> Pool[Channel, Any]:
        """The connections of its process."""
        return self.process.pool

    def prepare(self, director: Director) -> None:
        """Get ready for a run; it begins when the gate is opened."""
        self._director, self.outcome, self.step = director, None, None
        self._calls = 0
        self.process.begin()

    def dismiss(self) -> None:
        """End the thread."""
        self._director = None
        self.gate.release()
        self._thread.join(_PATIENCE)

    def perform(self, effect: Effect) -> Any:
        """Perform an effect of the engine, but for calls."""
        if isinstance(effect, Send):
            return self._exchange(effect)
        if isinstance(effect, Acquire):
            return self.process.pool.take(effect.signature)
        if isinstance(effect, Connect):
            return cast("Channel", effect.channel).connect(effect.timeout)
        if isinstance(effect, Park):
            return self._pause(cast("Box", effect.mailbox), effect.timeout)
        assert isinstance(effect, Sleep)  # noqa: S101 - the drivers call
        self.process.now += effect.seconds
        return None

    def enter(self) -> None:
        """A call on the store begins, perhaps inside of another one's function."""
        if self._depth == 0:
            self._calls += 1
            if self.process.groups is not None:
                self._pause(None, 0.0)
        self._depth += 1

    def leave(self) -> None:
        """It has ended."""
        self._depth -= 1

    def _exchange(self, effect: Send) -> list[object]:
        if threading.current_thread() is not self._thread:
            raise UsageError(
                f"transaction {self.index} uses its store in a thread of its own, which can't be explored: let "
                "each thread be a transaction of its own"
            )
        assert self._director is not None  # noqa: S101 - a run is on
        step = Step(
            cast("Channel", effect.channel),
            effect.commands,
            effect.timeout,
            self._calls,
            patience=effect.patience,
        )
        return self._director.exchange(self, step)

    def _pause(self, mailbox: Box | None, seconds: float) -> bool:
        """Let others of the process come first; whether somebody has woken this one."""
        assert self._director is not None  # noqa: S101 - a run is on
        deed = "calls the store" if mailbox is None else "goes on"
        return self._director.pause(self, Pause(_NOWHERE, [(deed,)], seconds, self._calls, mailbox))

    def _clock(self) -> float:
        return self.process.now

    def _random_id(self) -> str:
        return f"{self.index}x{next(self._names)}"

    def _work(self) -> None:
        """The thread."""
        while True:
            self.gate.acquire()
            director = self._director
            if director is None:
                if self._loop is not None:
                    self._loop.close()
                return
            before = self._attempts()
            try:
                self.outcome = Outcome(self._play(), None, self._attempts() - before)
            except Abandoned:
                self.outcome = None
            except BaseException as error:  # noqa: BLE001 - whatever it raises is its outcome
                self.outcome = Outcome(None, error, self._attempts() - before)
            self.step, self._depth = None, 0
            director.left()

    def _play(self) -> Any:
        if self._loop is None:
            result = self._function(self._store)
            if not inspect.iscoroutine(result):
                return result
            # An async function, perhaps behind a lambda: nothing of it has run yet. It wants the other store.
            result.close()
            self._loop = asyncio.new_event_loop()
        try:
            value, error = self._loop.run_until_complete(_settled(self._function(self._async_store)))
        finally:
            _finish_tasks(self._loop)
        if error is not None:
            raise error
        return value

    def _attempts(self) -> int:
        return self._store.stats().attempts + self._async_store.stats().attempts


async def _settled(work: Any) -> tuple[Any, BaseException | None]:
    """The result or the error as a value: a task that raises CancelledError would lose its cause."""
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001 - handed on, to be raised where it is awaited
        return None, error


def _finish_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the transaction left running, as `asyncio.run` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
