"""An attempt (design 4.2): what a condemned one may do, its documents, and who may use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.scripted import DIRTY, Wire, error, lost

from txstate._effects import Acquire, Send
from txstate._engine.session import Session
from txstate._engine.state import Condemned
from txstate.errors import UsageError, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._documents.doc import Doc
    from txstate._effects import Command, Steps
    from txstate.tx import Tx


def names(batch: Sequence[Command]) -> list[str]:
    return [str(command[0]) for command in batch]


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


# Condemned attempts


@pytest.mark.parametrize(
    "outcome", [ValueError("torn"), BaseExceptionGroup("tasks", [Condemned(), ValueError("torn")])]
)
def test_whatever_a_condemned_function_raises_is_discarded(outcome: BaseException) -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": DIRTY})

    def stubborn(tx: Tx) -> int:
        try:
            return add_one(tx)
        except Condemned:
            raise outcome from None

    assert wire.transact(stubborn) == 2


def test_whatever_a_condemned_function_returns_is_discarded() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, {"CLIENT": DIRTY})

    def stubborn(tx: Tx) -> str:
        doc = tx.get("a")
        doc["n"] = 99 if tx.attempt == 1 else 2
        try:
            tx.get("b")
        except BaseException:  # noqa: BLE001 - as rude as it gets
            return "torn"
        return "sound"

    assert wire.transact(stubborn) == "sound"
    assert [batch[2] for batch in wire.batches("commit")] == [
        ("HSET", b"a", b"__version__", b"1700000000000000", b"n", b"2")
    ]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_a_condemned_function(interruption: type[BaseException]) -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": DIRTY})

    def interrupted(tx: Tx) -> None:
        try:
            tx.get("a")
        except Condemned:
            raise interruption from None

    with pytest.raises(interruption):
        wire.transact(interrupted)
    assert wire.kinds() == ["read"]
    wire.assert_settled()


def test_using_a_condemned_tx_again_raises_again_without_io() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, {"CLIENT": DIRTY})
    raised: list[str] = []

    def stubborn(tx: Tx) -> None:
        doc = tx.get("a")
        uses: list[Callable[[], object]] = [
            lambda: tx.get("b"),
            lambda: tx.get("c"),
            lambda: tx.get("a"),
            lambda: tx.ttl("a"),
            lambda: doc["n"],
            lambda: doc.increment("n"),
            lambda: tx.on_commit(print),
        ]
        for use in uses:
            try:
                use()
            except Condemned:
                raised.append("condemned")

    counted: list[int] = []

    def third(commands: Sequence[Command]) -> list[object]:
        counted.append(len(raised))
        return wire.default(commands)

    wire.next("read", third)
    wire.transact(stubborn)
    assert raised == ["condemned"] * 7
    assert counted == [7], "the third batch came after all of them: the next attempt's"


def test_a_tx_that_is_over_says_so() -> None:
    wire = Wire(a={"n": 1})
    kept: list[Tx] = []

    def keep(tx: Tx) -> Doc:
        kept.append(tx)
        return tx.get("a")

    doc = wire.transact(keep)
    for use in (lambda: kept[0].get("a"), lambda: doc["n"], lambda: doc.increment("n")):
        with pytest.raises(UsageError, match="has ended"):
            use()


# Documents


def test_with_fields_existence_and_version_are_read_too() -> None:
    wire = Wire(a={"n": 1, "m": 2})

    def partial(tx: Tx) -> None:
        doc = tx.get("a", fields=["n"])
        assert doc.exists
        assert doc.version == 7
        assert doc["n"] == 1

    wire.transact(partial)
    assert wire.batches("read")[0][2:4] == [("HMGET", b"a", b"__version__", b"n"), ("EXISTS", b"a")]


def test_with_fields_a_missing_document_is_told_from_one_without_these_fields() -> None:
    wire = Wire(other={"m": 1})
    found = wire.transact(lambda tx: [doc.exists for doc in tx.get_many(["other", "missing"], fields=["n"])])
    assert found == [True, False]


def test_a_document_is_fetched_once() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: [tx.get("a"), tx.get("a", fields=["n"]), tx.get_many(["a", "a"])])
    assert wire.kinds() == ["read"]


def test_a_wrong_type_names_what_the_key_holds() -> None:
    wire = Wire()
    wire.next("read", {"HGETALL": error("WRONGTYPE Operation against a key"), "EXISTS": 2})
    wire.next("type", [b"list"])
    with pytest.raises(WrongType) as wrong:
        wire.transact(lambda tx: tx.get("a"))
    assert (wrong.value.key, wrong.value.found) == ("a", "list")
    wire.assert_settled()


def leave_behind(wire: Wire, tx: Tx, key: str) -> Steps[None]:
    """A read that is in flight, as of a task or a thread that outlives the function."""
    steps = tx._attempt.read({key: None})
    assert isinstance(next(steps), Send)
    wire.channels[0].unread = True
    return steps


def test_a_commit_is_not_sent_while_a_read_is_in_flight() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    left: list[Steps[None]] = []

    def negligent(tx: Tx) -> None:
        add_one(tx)
        left.append(leave_behind(wire, tx, "b"))

    try:
        with pytest.raises(UsageError, match="one thread at a time"):
            wire.transact(negligent)
        assert wire.kinds() == ["read"]
        wire.assert_settled()
    finally:
        left[0].close()


def test_a_connection_with_a_read_in_flight_is_not_pooled() -> None:
    """`asyncio.gather` leaves its other tasks running when one of them raises."""
    wire = Wire(a={"n": 1}, b={"n": 1})
    left: list[Steps[None]] = []

    def negligent(tx: Tx) -> None:
        add_one(tx)
        left.append(leave_behind(wire, tx, "b"))
        raise ValueError

    try:
        with pytest.raises(ValueError, match=r"^$"):
            wire.transact(negligent)
        wire.assert_settled()
    finally:
        left[0].close()


@pytest.mark.parametrize("reads", [False, True])
def test_an_attempt_commits_only_on_the_session_that_it_read_on(*, reads: bool) -> None:
    """Whoever put another connection into its place (a connect that was left behind): the watches are not there."""
    wire = Wire(a={"n": 1}, b={"n": 1})

    def change(tx: Tx) -> int:
        doc = tx.get("a")
        if tx.attempt == 1:
            wire.channels[0].session = Session(b"__txstate__:token:another")
        if reads:
            tx.get("b")
        doc["n"] += 1
        return tx.attempt

    assert wire.transact(change) == 2
    assert len(wire.batches("commit")) == 1
    wire.assert_settled()


def test_two_threads_in_one_tx_are_refused() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})

    def twice(tx: Tx) -> None:
        first = tx._attempt.read({"a": None})
        assert isinstance(next(first), Acquire)
        try:
            tx.get("b")
        finally:
            first.close()

    with pytest.raises(UsageError, match="one thread at a time"):
        wire.transact(twice)


def test_a_reply_lost_while_reading_condemns_and_the_next_attempt_starts_from_watch() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, lost(b"OK"))

    def read_both(tx: Tx) -> int:
        return int(tx.get("a")["n"] + tx.get("b")["n"])

    assert wire.transact(read_both) == 2
    retry = wire.batches("read")[2]
    assert names(retry)[:2] == ["SET", "WATCH"]
    assert retry[1][2:] == (b"a", b"b")
    assert len(wire.batches("proof")) == 2
