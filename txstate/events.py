"""What a store reports while it works: events for `on_event`, and counters for `stats()`.

Events are frozen dataclasses, handed to `on_event` in the thread or task where they happen. This module knows
nothing of how transactions work.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate.errors import TxStateError
    from txstate.resolution import Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A transaction was applied, or a read-only one found to be consistent.

    Attributes:
        keys: what it read.
        written: what it wrote; empty for a read-only one.
        attempts: how many it took.
        elapsed: seconds since the call.
    """

    keys: tuple[str, ...]
    written: tuple[str, ...]
    attempts: int
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FellShort:
    """A commit was applied, but reached fewer replicas or disks in time than asked: the caller gets `NotDurable`.

    Attributes:
        keys: what it wrote.
        replicas: how many replicas confirmed it; None if there was no answer.
        local: whether the server's own disk has it; None if there was no answer, or it was not asked.
    """

    keys: tuple[str, ...]
    replicas: int | None
    local: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflicted:
    """An attempt met another writer, was not applied, and will be tried again if the policy allows.

    Attributes:
        keys: those found changed where that is known, else everything that the attempt had read.
        attempt: its number, from 1.
    """

    keys: tuple[str, ...]
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disrupted:
    """A passing failure (a lost connection, a loading server) ended an attempt before it could be applied.

    Attributes:
        attempt: its number, from 1.
        cause: the failure.
    """

    attempt: int
    cause: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """EXEC was sent and no answer came.

    Attributes:
        token: what `store.resolve` would take.
        attempt: the number of the attempt, from 1.
    """

    token: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What became of a commit that was in doubt.

    Attributes:
        token: as in `InDoubt`.
        resolution: what was found out.
    """

    token: str
    resolution: Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """A transaction ended with a `TxStateError`.

    Attributes:
        error: what the caller gets.
        attempts: how many were made.
        elapsed: seconds since the call.
    """

    error: TxStateError
    attempts: int
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFailed:
    """A callback of `on_commit` raised. The transaction is committed all the same.

    Attributes:
        callback: its name.
        error: what it raised.
    """

    callback: str
    error: Exception


Event: TypeAlias = (
    Committed | FellShort | Conflicted | Disrupted | InDoubt | Resolved | GaveUp | CallbackFailed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts since the store was opened; views made by `options()` share them.

    Attributes:
        commits: writing transactions that were applied.
        not_durable: of those, less durable than asked: `NotDurable`.
        reads: read-only transactions, and reads outside of transactions, that completed.
        attempts: runs of a transaction, the first ones included.
        conflicts: attempts that met another writer.
        disruptions: attempts ended by a passing failure.
        in_doubt: commits whose reply was lost.
        resolved_committed: of those, found to be applied.
        resolved_aborted: of those, found not to be applied.
        unknown: of those, not found out: `CommitUnknown`.
        gave_up: transactions that ended with a `TxStateError`.
        round_trips: batches sent to the server.
        connections: connections made.
    """

    commits: int = 0
    not_durable: int = 0
    reads: int = 0
    attempts: int = 0
    conflicts: int = 0
    disruptions: int = 0
    in_doubt: int = 0
    resolved_committed: int = 0
    resolved_aborted: int = 0
    unknown: int = 0
    gave_up: int = 0
    round_trips: int = 0
    connections: int = 0


_counting: Final = Lock()
"""Guards all counters, and is held during a fork: a child never inherits it locked by a thread that it lacks."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_counting.acquire, after_in_parent=_counting.release, after_in_child=_counting.release
    )


class Counters:
    """The running counts behind `Stats`, safe to add to from any thread."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
        self._attempts: defaultdict[tuple[int, str | None], int] = defaultdict(int)
        self._repeats, self._gets, self._read = count(), count(), 0
        self.add_repeat: Callable[[], object] = self._repeats.__next__
        """The same as `add_attempt` for the commonest of them: a commit of one round trip."""
        self.add_get: Callable[[], object] = self._gets.__next__
        """The same for a read outside of a transaction, of one round trip."""

    def add(self, **counts: int) -> None:
        """Add to the counters named."""
        totals = self._counts
        with _counting:
            for name, number in counts.items():
                totals[name] += number

    def add_attempt(self, round_trips: int, completed: str | None) -> None:
        """The same for one attempt, without the cost of keywords.

        Args:
            round_trips: what it took.
            completed: what it came to: ``"commits"`` or ``"reads"``; None: to nothing.
        """
        with _counting:
            self._attempts[round_trips, completed] += 1

    def stats(self) -> Stats:
        """The counts as of now, all of the same moment."""
        with _counting:
            repeated, got = next(self._repeats) - self._read, next(self._gets) - self._read
            self._read += 1  # to read them is to add to them
            totals = self._counts.copy()
            attempts = [*self._attempts.items(), ((1, "commits"), repeated)]
        for (round_trips, completed), number in attempts:
            totals["attempts"] += number
            totals["round_trips"] += round_trips * number
            if completed is not None:
                totals[completed] += number
        totals["reads"] += got
        totals["round_trips"] += got
        return Stats(**totals)
