"""One call's pursuit of its commit (design 4.7): deadlines, tenacity, reports and callbacks, on a scripted clock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from support.scripted import DIRTY, QUEUED, TIME, Wire, error, lost

from txstate import events
from txstate._effects import Acquire, Connect, Exhausted, Send, Unreachable
from txstate._engine import plain
from txstate.errors import (
    CodecError,
    CommitUnknown,
    ConflictError,
    ServerRefused,
    StoreUnavailable,
    TxStateError,
    UsageError,
)
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate.tx import Tx


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


# Deadlines: every loop ends, with the right error


def forever(wire: Wire, kind: str, answer: Any) -> None:
    wire.next(kind, *[answer] * 5000)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("connect", Unreachable("refused")),
        ("connect", error("LOADING Redis is loading")),
        ("proof", lost()),
        ("read", lost()),
        ("read", {"HGETALL": error("BUSY script")}),
        ("read", {"ROLE": [b"slave", b"h", 1, b"connected", 1]}),
        ("commit", [error("READONLY replica")] * 4),
        ("commit", lost(sent=False)),
    ],
)
def test_an_outage_ends_at_the_deadline(kind: str, answer: Any) -> None:
    wire = Wire(a={"n": 1}, deadline=3.0)
    forever(wire, kind, answer)
    with pytest.raises(StoreUnavailable) as unavailable:
        wire.transact(add_one)
    assert unavailable.value.__cause__ is not None
    assert 2.5 < wire.now <= 3.05
    assert isinstance(wire.events[-1], events.GaveUp)
    wire.assert_settled()


def test_no_reply_may_take_longer_than_what_is_left() -> None:
    wire = Wire(a={"n": 1}, deadline=3.0, latency=0.4)
    forever(wire, "read", {"CLIENT": DIRTY})
    with pytest.raises(ConflictError):
        wire.transact(add_one)
    spent = 0.0
    for effect in wire.effects:
        if isinstance(effect, Send | Connect | Acquire):
            assert 0 < effect.timeout <= max(3.0 - spent, 0.0)
            if not isinstance(effect, Acquire):
                assert effect.timeout <= wire.settings.timeout
            spent += 0.4
    assert spent <= 3.0 + 0.4


@pytest.mark.parametrize("writes", [True, False])
def test_a_function_that_outlives_the_deadline_does_not_commit_any_more(*, writes: bool) -> None:
    wire = Wire(a={"n": 1}, deadline=1.0)

    def slow(tx: Tx) -> int:
        doc = tx.get("a")
        wire.now += 2.0
        if writes:
            doc["n"] += 1
        return int(doc["n"])

    if writes:
        with pytest.raises(StoreUnavailable, match="deadline"):
            wire.transact(slow)
    else:
        assert wire.transact(slow) == 1
    assert wire.kinds() == ["read"]
    wire.assert_settled()


def test_a_function_that_reads_after_the_deadline() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1}, deadline=1.0)

    def slow(tx: Tx) -> None:
        tx.get("a")
        wire.now += 2.0
        tx.get("b")

    with pytest.raises(StoreUnavailable):
        wire.transact(slow)
    assert wire.kinds() == ["read"]


def test_no_free_connection_names_the_limit() -> None:
    wire = Wire(a={"n": 1}, deadline=1.0)
    wire.next("acquire", Exhausted("no connection was free"))
    with pytest.raises(StoreUnavailable, match="max_connections"):
        wire.transact(add_one)
    wire.next("acquire", Exhausted("no connection was free"))
    with pytest.raises(StoreUnavailable, match="max_connections"):
        wire.run(plain.get_many(wire.settings, ["a"], None))


def test_a_commit_lost_again_and_again_is_never_doubled() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", *[lost(b"OK")] * 20)
    wire.next("ask", *[[1, b"0"]] * 20)
    assert wire.transact(add_one) == 2
    assert wire.hashes[b"a"][b"n"] == b"2"
    assert wire.settings.counters.stats().resolved_aborted == 20
    wire.assert_settled()


# tenacity decides


class Watching:
    """A stop and a wait that record what they are shown."""

    def __init__(self, give_up_at: int) -> None:
        self.give_up_at = give_up_at
        self.seen: list[tuple[int, float, str]] = []

    def stop(self, state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        assert state.seconds_since_start is not None
        failure = state.outcome.exception()
        self.seen.append((state.attempt_number, state.seconds_since_start, type(failure).__name__))
        return state.attempt_number >= self.give_up_at

    def wait(self, state: tenacity.RetryCallState) -> float:
        return 0.25 * state.attempt_number


def test_stop_and_wait_see_tenacity_s_call_state() -> None:
    watching = Watching(give_up_at=3)
    wire = Wire(a={"n": 1})
    wire.settings = replace(wire.settings, retry=Retry(stop=watching.stop, wait=watching.wait))
    wire.now = 100.0
    forever(wire, "commit", {"EXEC": None})
    with pytest.raises(ConflictError) as conflict:
        wire.transact(add_one)
    assert [(number, name) for number, _, name in watching.seen] == [(n, "ConflictError") for n in (1, 2, 3)]
    assert [round(seconds, 1) for _, seconds, _ in watching.seen] == [0.0, 0.3, 0.8]
    assert wire.slept() == [0.25, 0.5]
    assert conflict.value.attempts == 3
    given_back = wire.latency  # what it had claimed, behind the error
    assert conflict.value.elapsed == pytest.approx(wire.now - given_back - 100.0)
    wire.assert_settled()


def test_a_clean_call_does_not_ask_tenacity() -> None:
    watching = Watching(give_up_at=1)
    wire = Wire(a={"n": 1})
    wire.settings = replace(wire.settings, retry=Retry(stop=watching.stop, wait=watching.wait))
    wire.transact(add_one)
    assert watching.seen == []


def test_outages_do_not_use_up_the_attempts_that_stop_allows_for_conflicts() -> None:
    wire = Wire(a={"n": 1})
    wire.settings = replace(
        wire.settings, retry=Retry(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none())
    )
    wire.next("read", *[lost()] * 5)
    assert wire.transact(add_one) == 2


def test_a_pause_that_would_end_after_the_deadline_is_not_made() -> None:
    wire = Wire(a={"n": 1}, deadline=1.0)
    wire.settings = replace(wire.settings, retry=Retry(wait=tenacity.wait_fixed(60), deadline=1.0))
    forever(wire, "commit", {"EXEC": None})
    with pytest.raises(ConflictError):
        wire.transact(add_one)
    assert wire.slept() == []


def test_tenacity_s_own_combinations_work() -> None:
    wire = Wire(a={"n": 1})
    retry = Retry(
        stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(5),
        wait=tenacity.wait_fixed(0.5) + tenacity.wait_fixed(0.5),
    )
    wire.settings = replace(wire.settings, retry=retry)
    forever(wire, "commit", {"EXEC": None})
    with pytest.raises(ConflictError):
        wire.transact(add_one)
    assert wire.slept() == [1.0, 1.0]


# Saying which key


def test_a_conflict_names_the_keys_that_were_found_changed() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.settings = replace(
        wire.settings, retry=Retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    )
    forever(wire, "commit", {"EXEC": None})

    def change(tx: Tx) -> None:
        a, b = tx.get_many(["a", "b"])
        a["n"] += b["n"]
        wire.hashes[b"b"] = {b"__version__": b"%d" % (TIME + tx.attempt), b"n": b"1"}

    with pytest.raises(ConflictError) as conflict:
        wire.transact(change)
    assert conflict.value.keys["b"] >= 2
    assert conflict.value.keys.get("a", 0) <= 1, "only the last conflict could not be attributed"
    conflicted = [event for event in wire.events if isinstance(event, events.Conflicted)]
    assert [event.attempt for event in conflicted] == [1, 2, 3]
    assert conflicted[0].keys == ("b",)


def test_a_conflict_met_by_the_very_first_read_names_the_key_too() -> None:
    wire = Wire(a={"n": 1})
    wire.settings = replace(
        wire.settings, retry=Retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    )
    forever(wire, "read", {"CLIENT": DIRTY})
    with pytest.raises(ConflictError) as conflict:
        wire.transact(add_one)
    assert conflict.value.keys == {"a": 3}
    conflicted = [event for event in wire.events if isinstance(event, events.Conflicted)]
    assert [(event.keys, event.attempt) for event in conflicted] == [(("a",), 1), (("a",), 2), (("a",), 3)]


def test_events_and_stats_add_up() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {}, lost())
    wire.next("commit", {"EXEC": None}, lost())
    wire.next("ask", [1, b"1"])
    assert wire.transact(add_one) == 2
    assert [type(event) for event in wire.events] == [
        events.Disrupted,
        events.Conflicted,  # once the next reads show who caused it
        events.InDoubt,
        events.Resolved,
        events.Committed,
    ]
    stats = wire.settings.counters.stats()
    assert (stats.attempts, stats.conflicts, stats.disruptions) == (3, 1, 1)
    assert (stats.in_doubt, stats.resolved_committed, stats.commits) == (1, 1, 1)
    committed = wire.events[-1]
    assert isinstance(committed, events.Committed)
    assert (committed.keys, committed.written, committed.attempts) == (("a",), ("a",), 3)
    sends = [effect for effect in wire.effects if isinstance(effect, Send)]
    assert stats.round_trips == len(sends)


@pytest.mark.parametrize(
    ("arrange", "kind"),
    [
        (lambda wire: forever(wire, "commit", {"EXEC": None}), ConflictError),
        (lambda wire: forever(wire, "connect", Unreachable("refused")), StoreUnavailable),
        (lambda wire: wire.next("read", {"WATCH": error("NOPERM no")}), ServerRefused),
        (lambda wire: wire.next("commit", [b"OK", error("OOM"), QUEUED, error("EXECABORT")]), ServerRefused),
        (lambda wire: wire.next("commit", [b"OK", QUEUED, QUEUED, [error("OOM"), 1]]), CommitUnknown),
    ],
    ids=["conflict", "outage", "refused read", "refused commit", "applied in part"],
)
def test_a_call_that_ends_with_an_error_of_the_library_s_says_gave_up_once(
    arrange: Callable[[Wire], None], kind: type[TxStateError]
) -> None:
    wire = Wire(a={"n": 1}, deadline=1.0)
    arrange(wire)
    with pytest.raises(kind) as raised:
        wire.transact(add_one)
    gave_up = [event for event in wire.events if isinstance(event, events.GaveUp)]
    assert [event.error for event in gave_up] == [raised.value]
    assert wire.settings.counters.stats().gave_up == 1


# Callbacks


def test_a_failing_callback_does_not_make_a_commit_look_failed(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(a={"n": 1})
    called: list[int] = []

    def fail() -> None:
        raise ValueError("mine")

    def change(tx: Tx) -> int:
        tx.on_commit(called.append, 1)
        tx.on_commit(fail)
        tx.on_commit(called.append, 2)
        return add_one(tx)

    assert wire.transact(change) == 2
    assert called == [1, 2]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    failed = wire.events[-1]
    assert isinstance(failed, events.CallbackFailed)
    assert isinstance(failed.error, ValueError)


def test_the_connection_is_free_again_before_callbacks_run() -> None:
    wire = Wire(a={"n": 1})
    free: list[int] = []

    def change(tx: Tx) -> None:
        add_one(tx)
        tx.on_commit(lambda: free.append(len(wire.idle)))

    wire.transact(change)
    assert free == [1]


def test_a_listener_that_fails_does_not_decide_a_transaction_s_fate(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(a={"n": 1})

    def listener(_event: object) -> None:
        raise UsageError("mine")

    wire.settings = replace(wire.settings, on_event=listener)
    wire.next("commit", lost())
    wire.next("ask", [1, b"1"])
    assert wire.transact(add_one) == 2
    assert all("on_event failed" in record.message for record in caplog.records)


@pytest.mark.parametrize("ask", [("b", ["__version__"]), ("__txstate__:x", None), ("b", "n"), (5, None)])
def test_what_a_function_asked_for_in_vain_does_not_fail_its_retry(ask: tuple[Any, Any]) -> None:
    """The function caught the error, so a retry that fetches what was asked for must not raise it outside."""
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("commit", {"EXEC": None})

    def change(tx: Tx) -> int:
        with pytest.raises((CodecError, UsageError)):
            tx.get(*ask)
        return add_one(tx)

    assert wire.transact(change) == 2
    assert wire.kinds() == ["read", "commit", "read", "commit"]
