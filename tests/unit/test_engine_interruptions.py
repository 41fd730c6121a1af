"""Interruptions and abandoned calls, at every single effect: what is raised, what is applied, what is still sent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tenacity
from support.scripted import QUEUED, Wire, error, lost

from txstate._effects import Call, Connect, Lost, Send, Sleep, Unreachable
from txstate._engine import plain, straight
from txstate._running import Change, Running
from txstate.errors import CommitUnknown, UsageError
from txstate.resolution import Resolution
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._documents.doc import Doc
    from txstate.tx import Tx

INTERRUPTIONS = [KeyboardInterrupt, SystemExit]
RESOLVING = {"ask", "fence"}


def workload(*, arms: bool = False) -> Wire:
    """Two reads, a conflict, a lost commit that was not applied, a commit, a callback: every kind of effect."""
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.arms = arms
    wire.settings = replace(wire.settings, retry=Retry(wait=tenacity.wait_fixed(0.01)))
    wire.next("commit", {"EXEC": None}, lost(b"OK"))
    return wire


def change(tx: Tx) -> None:
    tx.get("a")["n"] += tx.get("b")["n"]
    tx.on_commit(lambda: None)


def effects_of(wire: Wire) -> int:
    wire.transact(change)
    assert {type(effect) for effect in wire.effects} >= {Call, Connect, Send, Sleep}
    return len(wire.effects)


each_effect = pytest.mark.parametrize(
    ("number", "arms"),
    [(number, arms) for arms in (False, True) for number in range(effects_of(workload(arms=arms)))],
)


def applied(wire: Wire) -> bool:
    return wire.hashes[b"a"][b"n"] == b"2"


def sent_after(wire: Wire, number: int) -> set[str]:
    """The kinds of the batches sent after an effect."""
    wire.effects = wire.effects[number + 1 :]
    return set(wire.kinds())


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("delivers", [False, True])
@each_effect
def test_an_interruption_comes_out_as_itself_and_tells_the_truth(
    number: int,
    *,
    arms: bool,
    delivers: bool,
    interruption: type[BaseException],
) -> None:
    wire = workload(arms=arms)
    wire.interruptions[number] = interruption()
    wire.delivers = delivers
    with pytest.raises(interruption) as raised:
        wire.transact(change)
    assert raised.value is wire.interruptions[number]
    cause = raised.value.__cause__
    if cause is None:
        assert not applied(wire)
    else:
        assert isinstance(cause, CommitUnknown)
        assert cause.known is Resolution.COMMITTED
        assert applied(wire)
    wire.assert_settled()
    assert sent_after(wire, number) <= RESOLVING


@pytest.mark.parametrize("second", range(1, 4))
@pytest.mark.parametrize("delivers", [False, True])
@each_effect
def test_a_second_interruption_ends_the_resolution(
    number: int, second: int, *, arms: bool, delivers: bool
) -> None:
    wire = workload(arms=arms)
    first, later = KeyboardInterrupt("first"), KeyboardInterrupt("later")
    wire.interruptions = {number: first, number + second: later}
    wire.delivers = delivers
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(change)
    cause = raised.value.__cause__
    if cause is None:
        assert not applied(wire)
    else:
        assert isinstance(cause, CommitUnknown)
        assert cause.known is Resolution.UNKNOWN or (cause.known is Resolution.COMMITTED and applied(wire))
        assert cause.token is not None
    wire.assert_settled()
    assert sent_after(wire, number) <= RESOLVING


@pytest.mark.parametrize("delivers", [False, True])
@pytest.mark.parametrize("later", range(1, 5))
def test_an_interruption_while_a_lost_commit_is_resolved(later: int, *, delivers: bool) -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("commit", lambda commands: give_or_lose(wire, commands, delivers=delivers))
    number = next(
        i
        for i, effect in enumerate(plain_run())
        if isinstance(effect, Send) and effect.commands[1][0] == "SET"
    )
    wire.next("connect", {}, Unreachable("refused"))
    wire.interruptions[number + later] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(change)
    assert (raised.value.__cause__ is None) == (not applied(wire))
    assert applied(wire) == delivers
    wire.assert_settled()
    assert sent_after(wire, number + later) <= RESOLVING


def plain_run() -> list[object]:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.transact(change)
    return list(wire.effects)


def give_or_lose(wire: Wire, commands: object, *, delivers: bool) -> list[object]:
    if delivers:
        wire.default(commands)  # type: ignore[arg-type]  # a batch
    raise lost()


def test_an_interruption_whose_commit_cannot_be_resolved_says_unknown_in_time() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1}, deadline=100.0)
    wire.next("commit", Lost([b"OK"], sent=True, cause=KeyboardInterrupt()))
    wire.next("connect", {}, *[Unreachable("refused")] * 1000)
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(change)
    assert isinstance(raised.value.__cause__, CommitUnknown)
    assert raised.value.__cause__.known is Resolution.UNKNOWN
    assert wire.now < 2, "an interrupted call takes one more timeout, not its whole deadline"
    wire.assert_settled()


def test_an_interruption_before_anything_was_sent_needs_no_resolution() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("commit", Lost([], sent=False, cause=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(change)
    assert raised.value.__cause__ is None
    assert wire.kinds() == ["read", "read", "commit"]


@pytest.mark.parametrize(
    ("answer", "known"),
    [([b"OK", 1], Resolution.COMMITTED), (None, None), (error("EXECABORT because of: OOM x"), None)],
    ids=["committed", "conflict", "refused"],
)
def test_an_interruption_after_the_reply_to_exec_was_read_leaves_no_doubt(
    answer: object, known: Resolution | None
) -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    replies = [b"OK", QUEUED, QUEUED, answer]
    wire.next("commit", Lost(replies, sent=True, cause=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(change)
    cause = raised.value.__cause__
    assert (None if cause is None else cause.known) is known  # type: ignore[attr-defined]  # a CommitUnknown
    assert wire.kinds() == ["read", "read", "commit"]
    wire.assert_settled()


def test_a_function_that_swallows_an_interruption_of_a_read_does_not_commit_without_its_watches() -> None:
    """`asyncio.timeout` inside of a function does that."""
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, Lost([], sent=True, cause=KeyboardInterrupt()))

    def swallow(tx: Tx) -> int:
        tx.get("a")["n"] += 1
        try:
            tx.get("b")
        except KeyboardInterrupt:
            return tx.attempt
        return tx.attempt

    assert wire.transact(swallow) == 2
    assert wire.kinds() == ["read", "read", "read", "commit"]
    wire.assert_settled()


@each_effect
def test_an_abandoned_call_lets_go_without_io(number: int, *, arms: bool) -> None:
    wire = workload(arms=arms)
    wire.interruptions[number] = GeneratorExit()
    with pytest.raises(GeneratorExit):
        wire.transact(change)
    wire.assert_settled()
    assert len(wire.effects) == number + 1


def test_an_abandoned_update_leaves_no_document_that_could_be_used() -> None:
    """A repeated one goes the straight way, and is abandoned there."""
    wire = Wire(a={"n": 1})
    wire.arms = True
    settings = replace(wire.settings, on_event=None)
    kept: list[Doc] = []

    def add_one(doc: Doc) -> None:
        kept.append(doc)
        doc["n"] += 1

    def update() -> None:
        call = Change(Running(), 0, add_one, (), "a")
        wire.run(straight.change(settings, call, None, lambda _record, _result: None))

    update()
    wire.interruptions[len(wire.effects)] = GeneratorExit()
    with pytest.raises(GeneratorExit):
        update()
    assert isinstance(wire.effects[-1], Send)
    assert len(kept) == 2
    for doc in kept:
        with pytest.raises(UsageError, match="this transaction has ended"):
            doc["n"] = 2
    wire.assert_settled()


OUTSIDE: list[Callable[[Wire], object]] = [
    lambda wire: wire.run(plain.get_many(wire.settings, ["a", "b"], None)),
    lambda wire: wire.run(plain.ttl(wire.settings, "a")),
    lambda wire: wire.run(plain.resolve_token(wire.settings, "1@__txstate__:token:x")),
]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("operation", OUTSIDE, ids=["get_many", "ttl", "resolve"])
def test_reading_outside_of_transactions_leaks_nothing_either(
    operation: Callable[[Wire], object], interruption: BaseException
) -> None:
    quiet = Wire(a={"n": 1}, b={"n": 1})
    operation(quiet)
    for number in range(len(quiet.effects)):
        wire = Wire(a={"n": 1}, b={"n": 1})
        wire.interruptions[number] = interruption
        with pytest.raises(type(interruption)):
            operation(wire)
        wire.assert_settled()
