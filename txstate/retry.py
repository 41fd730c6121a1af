"""When to try again, and how long to wait first. tenacity decides; this module only asks it.

It holds the policy that users set (`Retry`) and the one call's record of it (`Pacing`), and does no waiting of its
own: the engine yields the sleep that is returned here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import tenacity

from txstate._effects import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

_OUTAGE_WAIT: Final = tenacity.wait_random_exponential(multiplier=0.01, max=0.5)

_MOVING: Final = frozenset({"MOVED", "ASK", "TRYAGAIN"})
"""Answers of a node that is up: the documents are elsewhere in the cluster, or on their way."""

_MOVING_WAIT: Final = tenacity.wait_random_exponential(multiplier=0.001, max=0.05)
"""So long because a slot may take minutes to move, and no longer because nothing tells when the documents are there."""

_GIVING_WAY: Final = tenacity.wait_random(0.003, 0.02)
_TOO_LATE: Final = 0.01
"""Seconds before the deadline in which nothing is begun any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long a transaction is pursued.

    Args:
        stop: a tenacity stop strategy; after how many conflicts, or how much time of them, to give up.
        wait: a tenacity wait strategy; how long to wait after a conflict.
        deadline: seconds for one whole call: connecting, waiting for a connection, retrying, resolving.

    Raises:
        TypeError: the arguments are not tenacity's strategies (redis-py's `Retry` is another thing).
        ValueError: the deadline is not a positive, finite number.
    """

    stop: StopBaseT = field(
        default_factory=lambda: tenacity.stop_before_delay(10) | tenacity.stop_after_attempt(1000)
    )
    wait: WaitBaseT = field(default_factory=lambda: tenacity.wait_random_exponential(0.0005, max=0.1))
    deadline: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what can't work now rather than at the first conflict."""
        for name in ("stop", "wait"):
            if not callable(getattr(self, name)) or isinstance(getattr(self, name), type):
                raise TypeError(f"Retry({name}=...) takes a tenacity strategy, not {getattr(self, name)!r}")
        if isinstance(self.deadline, bool) or not isinstance(self.deadline, int | float):
            raise TypeError(f"Retry(deadline=...) takes seconds, not {self.deadline!r}")
        if not (self.deadline > 0 and math.isfinite(self.deadline)):
            raise ValueError(
                f"Retry(deadline=...) takes a positive, finite number of seconds, not {self.deadline}"
            )


def checked(retry: object) -> Retry:
    """The policy itself, or the error that tells what was passed instead.

    Raises:
        TypeError: it is not a `txstate.Retry`.
    """
    if isinstance(retry, Retry):
        return retry
    if type(retry).__module__.partition(".")[0] in ("redis", "valkey"):
        raise TypeError(
            "retry= takes a txstate.Retry; redis-py's Retry sends commands again, which would apply a commit "
            "twice, so txstate never uses it"
        )
    raise TypeError(f"retry= takes a txstate.Retry, not {type(retry).__name__}")


class Pacing:
    """One call's dealings with tenacity: made at the first conflict or outage, so that a clean call pays nothing.

    Args:
        retry: the policy.
        started: when the call began, by `clock`.
        clock: monotonic seconds.
    """

    def __init__(self, retry: Retry, started: float, clock: Callable[[], float]) -> None:
        self._retry, self._clock = retry, clock
        self._conflicts = _state(retry, started)
        self._outages = _state(retry, started)
        self._moves = _state(retry, started)

    def after_conflict(self, error: BaseException) -> float | None:
        """Seconds to wait before trying again; None: give up."""
        pause = _next(self._conflicts, error, self._retry.wait, self._clock())
        if self._retry.stop(self._conflicts):
            return None
        return pause

    def giving_way(self) -> float:
        """Seconds to leave a key to whoever has claimed it, before looking again."""
        return float(_GIVING_WAY(self._conflicts))

    def after_outage(self, error: BaseException, left: float) -> float | None:
        """Seconds to wait for the server to come back, or for a slot to have moved; None: give up.

        No wait the first time, as a pooled connection may be stale, and a redirection is to be followed. Never so long
        that no time is left to try again.

        Args:
            error: what failed.
            left: seconds until the call's deadline.
        """
        moving = isinstance(error, ReplyError) and error.code in _MOVING
        state, wait = (self._moves, _MOVING_WAIT) if moving else (self._outages, _OUTAGE_WAIT)
        first = state.outcome is None
        pause = _next(state, error, wait, self._clock())
        if left < _TOO_LATE:
            return None
        return 0.0 if first else min(pause, left / 2)


def _state(retry: Retry, started: float) -> tenacity.RetryCallState:
    """Tenacity's record of one call, on the engine's clock."""
    retrying = tenacity.Retrying(stop=retry.stop, wait=retry.wait)
    state = tenacity.RetryCallState(retry_object=retrying, fn=None, args=(), kwargs={})
    state.start_time = started
    state.attempt_number = 0
    return state


def _next(state: tenacity.RetryCallState, error: BaseException, wait: WaitBaseT, now: float) -> float:
    """Enter one more failed attempt, and ask how long to wait."""
    state.attempt_number += 1
    state.outcome = tenacity.Future(state.attempt_number)
    state.outcome.set_exception(error)
    state.outcome_timestamp = now
    state.idle_for += state.upcoming_sleep
    state.upcoming_sleep = pause = float(wait(state))
    return pause
