"""Errors by their code (design 4.9), retries and deadlines (4.7), all on a scripted clock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import QUEUED, Wire, error

from txstate._effects import Acquire, Connect
from txstate._engine import plain
from txstate._engine.slots import slot_of
from txstate.errors import (
    CodecError,
    CrossSlotError,
    ServerRefused,
    WrongType,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate.tx import Tx

REDIRECTING = ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381"]
PASSING = [
    *REDIRECTING,
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down",
    "READONLY You can't write against a read only replica.",
    "ERR max number of clients reached",
]
FINAL = [
    "OOM command not allowed",
    "MISCONF Errors writing",
    "NOREPLICAS Not enough",
    "NOPERM no",
    "NOAUTH no",
    "ERR odd",
]


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


def wire_of(text: str, **documents: dict[str, Any]) -> Wire:
    """To a cluster if nothing else would answer this."""
    wire = Wire(documents)
    wire.settings = replace(wire.settings, clustered=text in REDIRECTING)
    return wire


# Passing errors: a new attempt from WATCH, on a new connection


@pytest.mark.parametrize("text", PASSING)
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("connect", lambda e: e),
        ("proof", lambda e: {"CLIENT": e}),
        ("proof", lambda e: {"MULTI": e}),
        ("read", lambda e: {"HGETALL": e}),
        ("read", lambda e: {"SET": e, "EXISTS": 1}),
        ("read", lambda e: {"WATCH": e}),
        ("read", lambda e: {"CLIENT": e}),
        ("commit", lambda e: [b"OK", QUEUED, e, error("EXECABORT Transaction discarded")]),
        (
            "commit",
            lambda e: [b"OK", QUEUED, QUEUED, error(f"EXECABORT Transaction discarded because of: {e}")],
        ),
        ("commit", lambda e: [b"OK", QUEUED, QUEUED, e]),
        ("commit", lambda e: [e, e, e, e]),
    ],
    ids=[
        "connect",
        "proof",
        "MULTI proved",
        "HGETALL",
        "SET",
        "WATCH",
        "CLIENT INFO",
        "queued",
        "aborted",
        "EXEC",
        "MULTI",
    ],
)
def test_a_passing_error_leads_to_a_new_attempt_from_watch(
    kind: str, answer: Callable[[Exception], Any], text: str
) -> None:
    wire = wire_of(text, a={"n": 1})
    wire.next(kind, answer(error(text)))
    runs: list[int] = []

    def counted(tx: Tx) -> int:
        runs.append(tx.attempt)
        return add_one(tx)

    assert wire.transact(counted) == 2
    assert runs[-1] == 2
    assert wire.hashes[b"a"][b"n"] == b"2"
    connects = [effect for effect in wire.effects if isinstance(effect, Connect)]
    assert len(connects) == 2, "never again on the connection that failed"
    last_read, commit = wire.batches()[-2:]
    assert [command[0] for command in last_read[:2]] == ["SET", "WATCH"]
    assert [command[0] for command in commit] == ["MULTI", "SET", "HSET", "EXEC"]
    wire.assert_settled()


# Final errors


@pytest.mark.parametrize("text", FINAL)
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("connect", lambda e: e),
        ("read", lambda e: {"HGETALL": e}),
        ("read", lambda e: {"WATCH": e}),
        ("commit", lambda e: [b"OK", QUEUED, e, error("EXECABORT Transaction discarded")]),
        (
            "commit",
            lambda e: [b"OK", QUEUED, QUEUED, error(f"EXECABORT Transaction discarded because of: {e}")],
        ),
        ("commit", lambda e: [b"OK", QUEUED, QUEUED, e]),
    ],
    ids=["connect", "HGETALL", "WATCH", "queued", "aborted", "EXEC"],
)
def test_a_final_error_is_raised_with_its_code(
    kind: str, answer: Callable[[Exception], Any], text: str
) -> None:
    wire = Wire(a={"n": 1})
    wire.next(kind, answer(error(text)))
    with pytest.raises(ServerRefused, match="nothing was applied") as refused:
        wire.transact(add_one)
    assert refused.value.code == text.partition(" ")[0]
    assert wire.hashes[b"a"][b"n"] == b"1"
    assert len(wire.batches("commit")) == (kind == "commit")
    wire.assert_settled()


@pytest.mark.parametrize("field", ["n", "other"])
def test_a_field_that_is_no_json_is_an_error_only_where_it_is_looked_at(field: str) -> None:
    wire = Wire(a={"n": 1, "other": b"no json"})
    if field == "n":
        assert wire.transact(lambda tx: tx.get("a")["n"]) == 1
    else:
        with pytest.raises(CodecError) as refused:
            wire.transact(lambda tx: tx.get("a")["other"])
        assert (refused.value.key, refused.value.field) == ("a", "other")


@pytest.mark.parametrize("version", [b"x", b"-1", b"0", b"%d" % 2**53])
def test_a_version_that_is_none_names_the_key(version: bytes) -> None:
    wire = Wire(a={"n": 1})
    wire.hashes[b"a"][b"__version__"] = version
    with pytest.raises(CodecError) as refused:
        wire.transact(add_one)
    assert refused.value.key == "a"
    wire.assert_settled()


def test_a_document_that_cannot_be_read_spoils_no_retry_that_does_not_ask_for_it() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("commit", {"EXEC": None})
    wire.next("read", {}, {}, lambda commands: spoil_b(wire, commands))

    def change(tx: Tx) -> int:
        if tx.attempt == 1:
            tx.get("b")
        return add_one(tx)

    assert wire.transact(change) == 2
    wire.assert_settled()


def spoil_b(wire: Wire, commands: Any) -> list[object]:
    replies = wire.default(commands)
    for position, command in enumerate(commands):
        if command == ("HGETALL", b"b"):
            replies[position] = error("WRONGTYPE Operation against a key")
    return replies


def test_the_user_s_own_exception_comes_out_unchanged_with_nothing_applied() -> None:
    class InsufficientFundsError(Exception):
        pass

    mine = InsufficientFundsError("a")
    wire = Wire(a={"n": 1})

    def change(tx: Tx) -> None:
        add_one(tx)
        raise mine

    with pytest.raises(InsufficientFundsError) as raised:
        wire.transact(change)
    assert raised.value is mine
    assert mine.__cause__ is None
    assert wire.kinds() == ["read"]
    wire.assert_settled()


@pytest.mark.parametrize("text", PASSING)
def test_a_passing_error_outside_of_transactions_is_waited_out(text: str) -> None:
    keys = ["{t}a", "{t}b"]
    wire = wire_of(text, **{key: {"n": number} for number, key in enumerate(keys)})
    wire.next("plain", [b"OK", QUEUED, error(text), error("EXECABORT discarded"), [b"master", 0, []]])
    found = wire.run(plain.get_many(wire.settings, keys, None))
    assert [found[key]["n"] for key in keys] == [0, 1]  # type: ignore[index]  # both exist
    wire.assert_settled()


@pytest.mark.parametrize("text", REDIRECTING)
def test_a_store_that_knows_of_no_cluster_is_not_sent_around_in_it(text: str) -> None:
    wire = Wire(a={"n": 1})
    wire.next("plain", [error(text), [b"master", 0, []]])
    with pytest.raises(ServerRefused, match="Open the cluster") as refused:
        wire.run(plain.get_many(wire.settings, ["a"], None))
    assert refused.value.code == text.split(maxsplit=1)[0]
    wire.next("commit", [b"OK", QUEUED, error(text), error("EXECABORT discarded")])
    with pytest.raises(ServerRefused, match="nothing was applied"):
        wire.transact(add_one)
    assert wire.hashes[b"a"][b"n"] == b"1"
    wire.assert_settled()


def test_a_wrong_type_outside_of_transactions() -> None:
    wire = Wire()
    wire.next("plain", [error("WRONGTYPE Operation"), [b"master", 0, []]])
    wire.next("type", [b"zset"])
    with pytest.raises(WrongType, match="zset"):
        wire.run(plain.get_many(wire.settings, ["a"], None))
    wire.assert_settled()


def test_crossslot_while_reading() -> None:
    wire = Wire()
    wire.next("read", {"WATCH": error("CROSSSLOT Keys in request don't hash to the same slot")})
    with pytest.raises(CrossSlotError) as refused:
        wire.transact(lambda tx: tx.get_many(["a", "b"]))
    assert refused.value.keys == ("a", "b")


def test_in_a_cluster_get_takes_no_connection_of_any_node() -> None:
    """A node that only imports a slot would answer that the document is not there."""

    def take_idle(_signature: object) -> None:
        raise AssertionError

    settings = replace(Wire().settings, clustered=True, take_idle=take_idle)
    effect = next(plain.get(settings, "a", None))
    assert isinstance(effect, Acquire)
    assert effect.slot == slot_of(b"a")
