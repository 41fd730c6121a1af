"""One call's pursuit of its commit: what its attempts met, when the next one is due, and when to give up.

The first attempt costs no bookkeeping. From the first conflict on tenacity decides how long to wait and when to stop;
from the second on the keys are claimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txstate import events
from txstate._effects import Exhausted, Unreachable
from txstate._engine.attempt import Attempt
from txstate._engine.claims import CONFLICTS_BEFORE_CLAIM, Claim, Line, Turn
from txstate._engine.outcome import Apart, Conflict, GiveWay, Outage, Refused, misnamed
from txstate._engine.settings import logger
from txstate._engine.shared import is_carried, leads
from txstate._engine.state import COMMITTED
from txstate.errors import ConflictError, StoreUnavailable
from txstate.retry import Pacing

if TYPE_CHECKING:
    from txstate._documents.doc import Record
    from txstate._engine.confirm import Shortfall
    from txstate._engine.settings import Settings
    from txstate.errors import TxStateError


class Pursuit:
    """What one call remembers of its attempts.

    Args:
        settings: the store's.
        started: when the call began, by the settings' clock.
    """

    # What calls come to have that don't commit at once.
    _pacing: Pacing | None = None
    _outage: Exception | None = None
    # By what can be compared, and not by the documents: whoever waits to try again would keep them.
    _conflicted: tuple[int, dict[str, int | None]] | None = None
    _claim: Claim | None = None
    _line: Line | None = None
    _gave_way = 0
    _apart = False

    def __init__(self, settings: Settings, started: float) -> None:
        self._settings, self._started = settings, started
        self.deadline = started + settings.retry.deadline
        self._conflicts: dict[str, int] = {}

    def following(self, attempt: Attempt) -> Attempt:
        """The attempt after one that came to nothing; giving way, or to be set apart, doesn't count as one.

        After an outage the place in the pool is kept, so that the next attempt connects anew: other idle sockets may
        be as stale as this one was.
        """
        counts = not isinstance(attempt.verdict, GiveWay | Apart)
        following = Attempt(
            self._settings,
            attempt.number + counts,
            self.deadline,
            attempt.end(),
            slot=attempt.slot,
            signature=attempt.signature,
            began=self._settings.clock(),
            turn=None if self._claim is None else Turn(self._claim, self._line, attempt.read_set.turn.held),
            gives_way=self._gave_way < self._settings.patience
            and self._elapsed < self._settings.retry.deadline / 2,
        )
        following.member, following.apart = attempt.member if leads(attempt) else None, self._apart
        return following

    @property
    def _elapsed(self) -> float:
        return self._settings.clock() - self._started

    def committed(self, attempt: Attempt, shortfall: Shortfall | None) -> None:
        """Report."""
        attempt.state = COMMITTED
        if self._settings.on_event is not None:
            self._settings.emit(
                events.Committed(
                    keys=tuple(attempt.read_set.present),
                    written=attempt.written,
                    attempts=attempt.number,
                    elapsed=self._elapsed,
                )
            )
        if shortfall is not None:
            self._settings.counters.add(not_durable=1)
            self._settings.emit(
                events.FellShort(keys=attempt.written, replicas=shortfall.replicas, local=shortfall.local)
            )

    def pause_after(self, outcome: Conflict | GiveWay | Outage | Apart | Refused, attempt: Attempt) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            TxStateError: there will be none.
        """
        if isinstance(outcome, Refused):
            raise outcome.error
        if isinstance(outcome, Apart):
            self._apart = self._apart or outcome.for_good
            return 0.0
        if self._pacing is None:
            self._pacing = Pacing(self._settings.retry, self._started, self._settings.clock)
        if isinstance(outcome, GiveWay):
            return self._stand_in_line(attempt, self._pacing)
        self._line = None
        # Whatever came in between: under another name it would wait for itself.
        self._claim = attempt.read_set.turn.claim or self._claim
        if isinstance(outcome, Conflict):
            return self._after_conflict(attempt, self._pacing)
        return self._after_outage(attempt, outcome, self._pacing)

    def attribute(self, attempt: Attempt) -> None:
        """Tell which keys caused the last conflict: those that read differently now."""
        if self._conflicted is None:
            return
        number, before = self._conflicted
        self._conflicted = None
        changed = [
            key
            for key, seen in before.items()
            if seen is None or _looks(attempt.documents.latest(key)) != seen
        ]
        self._report(changed or list(before), number)

    def give_up(self, error: TxStateError, attempt: Attempt) -> None:
        """Count and report an error of the library's own that ends the call."""
        self._settings.counters.add(gave_up=1)
        self._settings.emit(events.GaveUp(error=error, attempts=attempt.number, elapsed=self._elapsed))

    def _report(self, keys: list[str], number: int) -> None:
        for key in keys:
            self._conflicts[key] = self._conflicts.get(key, 0) + 1
        logger.debug("attempt %d met a conflict on %s", number, keys)
        self._settings.emit(events.Conflicted(keys=tuple(keys), attempt=number))

    def _after_conflict(self, attempt: Attempt, pacing: Pacing) -> float:
        self._settings.counters.add(conflicts=1)
        if self._conflicted is not None:
            self._report(list(self._conflicted[1]), self._conflicted[0])
        read = attempt.read_set.present
        self._conflicted = attempt.number, {key: _looks(attempt.documents.latest(key)) for key in read}
        error = ConflictError(attempt.number, self._elapsed, self._conflicts)
        self._stake(attempt)
        pause = pacing.after_conflict(error)
        if pause is None or self._settings.clock() + pause >= self.deadline:
            raise self._conflict(attempt)
        return 0.0 if is_carried(attempt) else pause  # to wait for the next turn is no contention

    def _stake(self, attempt: Attempt) -> None:
        """From some conflicts on, claim the keys; the lease suits the time that the last attempt took."""
        if self._claim is not None or attempt.number >= CONFLICTS_BEFORE_CLAIM:
            took = self._settings.clock() - attempt.began
            self._claim = Claim.suiting(self._settings, took, self._claim)

    def _stand_in_line(self, attempt: Attempt, pacing: Pacing) -> float:
        """Wait for another's turn to end, on the server; who did so in vain waits a moment here first."""
        self._gave_way += 1
        turn = attempt.read_set.turn
        self._claim = turn.claim or Claim.suiting(self._settings)
        left = max(0.0, self.deadline - self._settings.clock())
        self._line = turn.queue(
            self._settings,
            attempt.waited,
            min(self._settings.longest_wait, self._settings.timeout / 2, left / 2),
        )
        return min(pacing.giving_way(), left) if turn.vain else 0.0

    def _after_outage(self, attempt: Attempt, outage: Outage, pacing: Pacing) -> float:
        self._settings.counters.add(disruptions=1)
        self._settings.emit(events.Disrupted(attempt=attempt.number, cause=outage.cause))
        logger.debug("attempt %d was disrupted: %s", attempt.number, outage.cause)
        if not self._settings.clustered and (error := misnamed(outage.cause)):
            raise error from outage.cause
        pause = pacing.after_outage(outage.cause, self.deadline - self._settings.clock())
        self._outage = telling(outage.cause, self._outage)
        if pause is not None and not isinstance(outage.cause, Exhausted):
            return pause
        if self._conflicts or self._conflicted:
            raise self._conflict(attempt) from outage.cause
        raise unavailable(self._outage, attempt.number, self._elapsed) from self._outage

    def _conflict(self, attempt: Attempt) -> ConflictError:
        if self._conflicted is not None:
            self._report(list(self._conflicted[1]), self._conflicted[0])
            self._conflicted = None
        return ConflictError(attempt.number, self._elapsed, self._conflicts)


def first_attempt(settings: Settings, began: float) -> Attempt:
    """The first attempt of a call that began then, by the settings' clock."""
    deadline = began + settings.retry.deadline
    return Attempt(settings, 1, deadline, None, began=began, gives_way=settings.patience > 0)


def _looks(record: Record | None) -> int | None:
    """What tells two states of a document apart; None: it is not known."""
    return None if record is None else sum(map(hash, record.raw().items()))


def telling(last: Exception, before: Exception | None) -> Exception:
    """The failure that tells more: just before the deadline everything looks like a time-out."""
    timed_out = isinstance(getattr(last, "cause", last.__cause__), TimeoutError)
    timed_out = timed_out or (isinstance(last, Unreachable) and last.timed_out)
    return before if timed_out and before is not None else last


def unavailable(cause: BaseException, attempts: int, elapsed: float) -> StoreUnavailable:
    """The error for a server, or a connection, that was not to be had."""
    if isinstance(cause, Exhausted):
        what = "all connections were busy (max_connections allows no more)"
    else:
        what = f"the server could not be used ({cause})"
    return StoreUnavailable(
        f"{what} for {elapsed:.2f} s and {attempts} attempts; nothing was applied. "
        "Trying again later is safe; Retry(deadline=...) sets how long to wait"
    )
