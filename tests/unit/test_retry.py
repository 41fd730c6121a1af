"""The retry policy: what it refuses, and what tenacity is asked."""

from __future__ import annotations

import math
import pickle
from typing import Any, NoReturn

import pytest
import redis.backoff
import redis.retry
import tenacity

from txstate import ConflictError, Retry
from txstate._effects import ReplyError
from txstate.retry import Pacing, checked


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def conflict() -> ConflictError:
    return ConflictError(1, 0.0, {})


def test_the_defaults_are_the_documented_ones() -> None:
    retry = Retry()
    assert retry.deadline == 10.0
    assert isinstance(retry.stop, tenacity.stop_any)
    assert isinstance(retry.wait, tenacity.wait_random_exponential)


@pytest.mark.parametrize("deadline", [0.001, 5, 86400.0])
def test_a_deadline_is_any_positive_number(deadline: float) -> None:
    assert Retry(deadline=deadline).deadline == deadline


@pytest.mark.parametrize("deadline", [0, -1, math.inf, -math.inf, math.nan])
def test_a_deadline_that_bounds_nothing_is_refused(deadline: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        Retry(deadline=deadline)


@pytest.mark.parametrize("deadline", ["5", None, True, [5]])
def test_a_deadline_that_is_no_number_is_a_type_error(deadline: Any) -> None:
    with pytest.raises(TypeError, match="takes seconds"):
        Retry(deadline=deadline)


@pytest.mark.parametrize("name", ["stop", "wait"])
@pytest.mark.parametrize("strategy", [3, None, "never", tenacity.stop_after_attempt])
def test_what_is_no_strategy_is_a_type_error_at_once(name: str, strategy: Any) -> None:
    with pytest.raises(TypeError, match=rf"Retry\({name}=...\) takes a tenacity strategy"):
        Retry(**{name: strategy})


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        Retry(tenacity.stop_after_attempt(3))  # type: ignore[call-arg]  # what is tested


def test_a_policy_is_checked_by_identity() -> None:
    retry = Retry()
    assert checked(retry) is retry


def test_redis_py_s_retry_by_mistake_is_explained() -> None:
    with pytest.raises(TypeError, match="redis-py's Retry sends commands again"):
        checked(redis.retry.Retry(redis.backoff.NoBackoff(), 3))


@pytest.mark.parametrize("retry", [None, 3, tenacity.stop_after_attempt(3)])
def test_anything_else_is_a_type_error(retry: object) -> None:
    with pytest.raises(TypeError, match=r"takes a txstate\.Retry, not"):
        checked(retry)


def test_a_policy_of_plain_strategies_can_be_pickled() -> None:
    retry = Retry(stop=tenacity.stop_after_attempt(7), wait=tenacity.wait_fixed(3), deadline=2.0)
    again = pickle.loads(pickle.dumps(retry))  # noqa: S301 - our own bytes
    assert again.deadline == 2.0
    assert again.stop.max_attempt_number == 7


def test_pacing_stops_as_tenacity_says() -> None:
    clock = Clock()
    pacing = Pacing(
        Retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.5)), clock.now, clock
    )
    assert [pacing.after_conflict(conflict()) for _ in range(3)] == [0.5, 0.5, None]


def test_pacing_measures_delays_on_the_clock_it_was_given() -> None:
    clock = Clock()
    pacing = Pacing(Retry(stop=tenacity.stop_after_delay(1.0), wait=tenacity.wait_none()), clock.now, clock)
    clock.now += 0.9
    assert pacing.after_conflict(conflict()) == 0.0
    clock.now += 0.2
    assert pacing.after_conflict(conflict()) is None


def test_stop_before_delay_looks_at_the_pause_to_come() -> None:
    clock = Clock()
    pacing = Pacing(
        Retry(stop=tenacity.stop_before_delay(1.0), wait=tenacity.wait_fixed(0.6)), clock.now, clock
    )
    clock.now += 0.3
    assert pacing.after_conflict(conflict()) == 0.6
    clock.now += 0.2
    assert pacing.after_conflict(conflict()) is None


def test_the_wait_grows_with_the_attempts() -> None:
    pacing = Pacing(Retry(wait=tenacity.wait_exponential(1, max=4)), 100.0, Clock())
    assert [pacing.after_conflict(conflict()) for _ in range(4)] == [1, 2, 4, 4]


def test_the_default_wait_stays_within_its_bounds() -> None:
    retry = Retry()
    for _ in range(20):
        pacing = Pacing(retry, 100.0, Clock())
        pauses = [pacing.after_conflict(conflict()) for _ in range(30)]
        assert all(pause is not None and 0 <= pause <= 0.1 for pause in pauses)
        assert pauses[0] is not None
        assert pauses[0] <= 0.0005


def test_the_state_shown_to_strategies_has_tenacity_s_contents() -> None:
    shown: list[tenacity.RetryCallState] = []
    clock = Clock()

    def stop(state: tenacity.RetryCallState) -> bool:
        shown.append(state)
        return False

    error = conflict()
    pacing = Pacing(Retry(stop=stop, wait=tenacity.wait_fixed(0.5)), clock.now, clock)
    for _ in range(2):
        clock.now += 1
        pacing.after_conflict(error)
    state = shown[-1]
    assert state.attempt_number == 2
    assert state.seconds_since_start == 2.0
    assert state.outcome is not None
    assert state.outcome.failed
    assert state.outcome.exception() is error
    assert state.idle_for == 0.5
    assert state.upcoming_sleep == 0.5


def test_the_first_outage_is_met_without_a_pause_and_later_ones_are_waited_out() -> None:
    pacing = Pacing(Retry(), 100.0, Clock())
    pauses = [pacing.after_outage(ConnectionError(), 100.0) for _ in range(30)]
    assert pauses[0] == 0.0
    assert all(pause is not None and 0 <= pause <= 0.5 for pause in pauses)
    assert any(pauses)


@pytest.mark.parametrize("code", ["MOVED 7 127.0.0.1:7001", "ASK 7 127.0.0.1:7001", "TRYAGAIN Multiple keys"])
def test_a_slot_that_moves_is_followed_at_once_and_then_looked_after_often(code: str) -> None:
    pacing = Pacing(Retry(), 100.0, Clock())
    pauses = [pacing.after_outage(ReplyError(code), 100.0) for _ in range(30)]
    assert pauses[0] == 0.0
    assert all(pause is not None and 0 <= pause <= 0.05 for pause in pauses)
    assert any(pauses)
    assert pacing.after_outage(ConnectionError(), 100.0) == 0.0  # that is another matter


def test_outages_ask_neither_stop_nor_wait() -> None:
    def refuse(_state: tenacity.RetryCallState) -> NoReturn:
        raise AssertionError("asked")

    pacing = Pacing(Retry(stop=refuse, wait=refuse), 100.0, Clock())
    for _ in range(3):
        assert pacing.after_outage(ConnectionError(), 5.0) is not None


def test_an_outage_leaves_time_to_try_again_or_gives_up() -> None:
    pacing = Pacing(Retry(), 100.0, Clock())
    for left in (1.0, 0.1, 0.02):
        for _ in range(20):
            pause = pacing.after_outage(ConnectionError(), left)
            assert pause is not None
            assert pause <= left / 2
    assert pacing.after_outage(ConnectionError(), 0.0) is None
    assert pacing.after_outage(ConnectionError(), -1.0) is None
