"""The loop: attempt after attempt, until one commits or the policy says stop.

The first attempt runs without any bookkeeping. From the first conflict on tenacity decides how long to wait and when
to give up; each further attempt fetches in its first round trip all that the last one read.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from txstate import events
from txstate._effects import Call, Exhausted, Sleep, TooLate
from txstate._engine.attempt import Attempt, State
from txstate._engine.commit import commit, interrupted
from txstate._engine.outcome import Committed, Conflict, Outage, Refused
from txstate._engine.settings import logger
from txstate.errors import ConflictError, StoreUnavailable, TxStateError
from txstate.retry import Pacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._docs import Record
    from txstate._effects import Steps
    from txstate._engine.attempt import Wanted
    from txstate._engine.settings import Settings

_NOTHING: Final[Wanted] = {}


def transact(
    settings: Settings,
    body: Callable[[Attempt], Any],
    *,
    wanted: Wanted = _NOTHING,
    finish: Callable[[Attempt, Any], Any] | None = None,
) -> Steps[Any]:
    """Run a function until an attempt of it commits.

    Args:
        settings: the store's.
        body: the function; called once per attempt.
        wanted: what the first attempt is to fetch before it calls the function.
        finish: makes the call's result of the function's, after the commit, while its documents can still be read.

    Returns:
        What `finish`, or else the function, returned in the attempt that was committed.

    Raises:
        TxStateError: as documented for each; only `CommitUnknown` leaves it open whether the write happened.
        BaseException: what the function raised, or an interruption.
    """
    call = _Call(settings)
    attempt = Attempt(settings, 1, call.deadline, None)
    try:
        while True:
            settings.counters.add(attempts=1)
            outcome, result = yield from _once(attempt, body, wanted, call)
            if isinstance(outcome, Committed):
                call.committed(attempt)
                if finish is not None:
                    result = finish(attempt, result)
                attempt.release()
                yield from _call_back(attempt)
                return result
            pause = call.pause_after(outcome, attempt)
            wanted = attempt.wanted(wanted)
            if isinstance(outcome, Conflict):
                attempt.release()
            # After an outage the place is kept, so that the next attempt connects anew: idle sockets may be as stale.
            attempt = Attempt(settings, attempt.number + 1, call.deadline, attempt.end())
            if pause > 0:
                yield Sleep(pause)
    except GeneratorExit:
        raise
    except settings.interruptions as interruption:
        yield from interrupted(attempt, interruption)
    except TxStateError as error:
        call.give_up(error, attempt)
        raise
    finally:
        attempt.release()
        attempt.end()


def _once(
    attempt: Attempt, body: Callable[[Attempt], Any], wanted: Wanted, call: _Call
) -> Steps[tuple[Committed | Conflict | Outage | Refused, Any]]:
    """One attempt, up to its outcome."""
    try:
        if wanted:
            yield from attempt.read(wanted, prefetch=True)
            call.attribute(attempt)
        result = yield Call(body, (attempt,))
        if attempt.state is State.RUNNING:
            return (yield from commit(attempt)), result
    except GeneratorExit:
        raise
    except attempt.settings.interruptions:
        raise
    except BaseException:
        # The state decides, not what comes out: a condemned attempt may have seen what never was.
        if attempt.state is not State.CONDEMNED:
            raise
    assert attempt.verdict is not None  # noqa: S101 - condemned attempts have one
    return attempt.verdict, None


def _call_back(attempt: Attempt) -> Steps[None]:
    """Call what was registered by `on_commit`, once and in order."""
    for callback, args in attempt.callbacks:
        try:
            yield Call(callback, args)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the transaction is committed
            name = getattr(callback, "__qualname__", repr(callback))
            logger.exception("the on_commit callback %s failed; the transaction is committed", name)
            attempt.settings.emit(events.CallbackFailed(callback=name, error=error))


class _Call:
    """What one call remembers of its attempts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started = settings.clock()
        self.deadline = self._started + settings.retry.deadline
        self._pacing: Pacing | None = None
        self._outage: Exception | None = None
        self._conflicts: Counter[str] = Counter()
        self._conflicted: tuple[int, dict[str, Record | None]] | None = None

    @property
    def _elapsed(self) -> float:
        return self._settings.clock() - self._started

    def committed(self, attempt: Attempt) -> None:
        """Count and report."""
        attempt.state = State.COMMITTED
        written = attempt.written
        self._settings.counters.add(**{"commits" if written else "reads": 1})
        if self._settings.on_event is not None:
            self._settings.emit(
                events.Committed(
                    keys=tuple(attempt.read_set.present),
                    written=written,
                    attempts=attempt.number,
                    elapsed=self._elapsed,
                )
            )

    def pause_after(self, outcome: Conflict | Outage | Refused, attempt: Attempt) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            TxStateError: there will be none.
        """
        if isinstance(outcome, Refused):
            raise outcome.error
        if self._pacing is None:
            self._pacing = Pacing(self._settings.retry, self._started, self._settings.clock)
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
            for key, record in before.items()
            if record is None or key not in attempt.records or attempt.records[key].raw() != record.raw()
        ]
        self._report(changed or list(before), number)

    def give_up(self, error: TxStateError, attempt: Attempt) -> None:
        """Count and report an error of the library's own that ends the call."""
        self._settings.counters.add(gave_up=1)
        self._settings.emit(events.GaveUp(error=error, attempts=attempt.number, elapsed=self._elapsed))

    def _report(self, keys: list[str], number: int) -> None:
        self._conflicts.update(keys)
        logger.debug("attempt %d met a conflict on %s", number, keys)
        self._settings.emit(events.Conflicted(keys=tuple(keys), attempt=number))

    def _after_conflict(self, attempt: Attempt, pacing: Pacing) -> float:
        self._settings.counters.add(conflicts=1)
        if self._conflicted is not None:
            self._report(list(self._conflicted[1]), self._conflicted[0])
        read = attempt.read_set.present
        self._conflicted = attempt.number, {key: attempt.records.get(key) for key in read}
        error = ConflictError(attempt.number, self._elapsed, self._conflicts)
        pause = pacing.after_conflict(error)
        if pause is None or self._settings.clock() + pause >= self.deadline:
            raise self._conflict(attempt)
        return pause

    def _after_outage(self, attempt: Attempt, outage: Outage, pacing: Pacing) -> float:
        self._settings.counters.add(disruptions=1)
        self._settings.emit(events.Disrupted(attempt=attempt.number, cause=outage.cause))
        logger.debug("attempt %d was disrupted: %s", attempt.number, outage.cause)
        pause = pacing.after_outage(outage.cause, self.deadline - self._settings.clock())
        if pause is not None and not isinstance(outage.cause, Exhausted):
            self._outage = outage.cause
            return pause
        if self._conflicts or self._conflicted:
            raise self._conflict(attempt) from outage.cause
        cause = self._outage if self._outage and isinstance(outage.cause, TooLate) else outage.cause
        raise unavailable(cause, attempt.number, self._elapsed) from cause

    def _conflict(self, attempt: Attempt) -> ConflictError:
        if self._conflicted is not None:
            self._report(list(self._conflicted[1]), self._conflicted[0])
            self._conflicted = None
        return ConflictError(attempt.number, self._elapsed, self._conflicts)


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
