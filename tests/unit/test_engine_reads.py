"""Connections and reads (design 4.1, 4.2): what is watched, how it is validated, and what a condemned attempt may do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.scripted import CLEAN, DIRTY, QUEUED, Wire, error, kind_of

from txstate._effects import Send
from txstate._engine.session import client_flags, role_of
from txstate.errors import ServerRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.scripted import Fields

    from txstate._effects import Command
    from txstate.tx import Tx

TOKEN = b"__txstate__:token:id1"


def names(batch: Sequence[Command]) -> list[str]:
    return [str(command[0]) for command in batch]


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


# Connections: design 4.1


def test_the_rights_are_proved_on_each_new_connection_before_anything_else() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(add_one)
    (proof,) = wire.batches("proof")
    first = next(effect for effect in wire.effects if isinstance(effect, Send))
    assert kind_of(first.commands) == "proof"
    assert proof[:2] == [("MULTI",), ("EXEC",)]
    assert ("WATCH", TOKEN) in proof


@pytest.mark.parametrize("at", range(4))
def test_a_server_that_refuses_to_prove_the_rights_gets_no_transaction(at: int) -> None:
    wire = Wire(a={"n": 1})
    replies: list[object] = [b"OK", [], b"OK", b"OK", CLEAN, [-2], b"", [b"master"], {}, 0, [1, 0], [1, 0]]
    replies[at] = error("NOPERM no permissions to run this command")
    wire.next("proof", replies)
    with pytest.raises(ServerRefused) as refused:
        wire.transact(add_one)
    assert refused.value.code == "NOPERM"
    assert wire.kinds() == []
    assert not wire.channels[0].connected
    wire.assert_settled()


@pytest.mark.parametrize("answer", [None, b"OK", QUEUED, [b"OK"]])
def test_an_exec_that_is_no_exec_is_refused(answer: object) -> None:
    wire = Wire()
    wire.next("proof", {"EXEC": answer})
    with pytest.raises(ServerRefused, match="does not pass transactions"):
        wire.transact(add_one)


def test_the_token_is_set_before_the_watch_and_only_once_on_a_connection() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(add_one)
    wire.transact(add_one)
    first, second = wire.batches("read")
    assert first[0] == ("SET", TOKEN, b"0", "NX", "EX", b"3600")
    assert first[1] == ("WATCH", TOKEN, b"a")
    assert names(second) == ["WATCH", "HGETALL", "TIME", "ROLE", "MGET", "INFO", "EXISTS", "CLIENT"]
    assert second[0] == ("WATCH", TOKEN, b"a")


def test_a_token_belongs_to_one_connection() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(add_one)
    wire.channels[0].drop()
    wire.transact(add_one)
    first, second = wire.batches("read")
    assert first[0][1] == TOKEN
    assert second[0][:2] == ("SET", b"__txstate__:token:id2")


def test_the_token_outlives_ten_deadlines() -> None:
    wire = Wire(a={"n": 1}, deadline=1000.0)
    wire.transact(add_one)
    assert wire.batches("read")[0][0][-1] == b"10000"
    assert wire.batches("commit")[0][1][-1] == b"10000"


def test_keys_and_tokens_live_in_the_namespace() -> None:
    wire = Wire()
    wire.transact(add_one_anywhere, settings=replace(wire.settings, namespace="app:"))
    assert wire.batches("read")[0][1] == ("WATCH", b"app:__txstate__:token:id1", b"app:a")


def add_one_anywhere(tx: Tx) -> None:
    tx.get("a").increment("n")


def test_the_library_s_own_keys_are_refused() -> None:
    wire = Wire()
    with pytest.raises(UsageError, match="library's own"):
        wire.transact(lambda tx: tx.get("__txstate__:token:id1"))
    assert wire.effects[1:] == []


# UNWATCH: whenever the last attempt on the connection did not end in EXEC


def test_unwatch_after_a_read_only_transaction() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: tx.get("a"))
    wire.transact(add_one)
    wire.transact(add_one)
    _, second, third = wire.batches("read")
    assert names(second)[:2] == ["UNWATCH", "WATCH"]
    assert names(third)[0] == "WATCH"


def test_unwatch_after_a_function_that_raised() -> None:
    wire = Wire(a={"n": 1})
    with pytest.raises(KeyError):
        wire.transact(lambda tx: tx.get("a")["missing"])
    wire.transact(add_one)
    assert names(wire.batches("read")[1])[:2] == ["UNWATCH", "WATCH"]


def test_unwatch_after_a_condemned_attempt_on_the_same_connection() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": DIRTY})
    assert wire.transact(add_one) == 2
    assert names(wire.batches("read")[1])[:2] == ["UNWATCH", "WATCH"]
    assert len(wire.batches("proof")) == 1


def test_no_unwatch_after_exec_answered_nil() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {"EXEC": None})
    wire.transact(add_one)
    assert names(wire.batches("read")[1])[0] == "WATCH"


# Validation: design 4.2


def test_a_dirty_flag_condemns_before_the_function_sees_the_value() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": DIRTY})
    seen: list[tuple[int, int]] = []
    wire.transact(lambda tx: seen.append((tx.get("a")["n"], tx.attempt)))
    assert seen == [(1, 2)]
    assert len(wire.batches("read")) == 2


@pytest.mark.parametrize("exists", [1, 2, 4])
def test_an_expired_key_condemns_and_gives_the_socket_up(exists: int) -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, {"EXISTS": exists})
    seen: list[tuple[int, int]] = []

    def read_both(tx: Tx) -> None:
        tx.get("a")
        seen.append((tx.get("b")["n"], tx.attempt))

    wire.transact(read_both)
    assert seen == [(1, 2)]
    assert len(wire.batches("proof")) == 2
    wire.assert_settled()


def test_later_batches_watch_only_new_keys_and_look_at_all_of_them() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: [tx.get("a"), tx.get("missing"), tx.get("a")])
    _, second = wire.batches("read")
    assert second == [
        ("WATCH", b"missing"),
        ("HGETALL", b"missing"),
        ("MGET", b"__txstate__:claim:missing"),
        ("INFO", "keyspace"),
        ("EXISTS", TOKEN, b"a", b"missing"),
        ("CLIENT", "INFO"),
    ]


def test_a_key_that_appears_after_it_was_found_missing_condemns() -> None:
    wire = Wire(b={"n": 1})
    wire.next("read", {}, {"EXISTS": 3})
    runs: list[int] = []

    def read_both(tx: Tx) -> None:
        runs.append(tx.attempt)
        tx.get("a")
        tx.get("b")

    wire.transact(read_both)
    assert runs == [1, 2]


def test_exists_goes_before_client_info_and_both_behind_the_reads() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: tx.get_many(["a", "b"]))
    (batch,) = wire.batches("read")
    assert names(batch)[-2:] == ["EXISTS", "CLIENT"]
    assert names(batch).index("WATCH") < names(batch).index("HGETALL")


@pytest.mark.parametrize(
    ("info", "flags"),
    [
        (b"id=1 name=flags=N flags=xd db=0", b"xd"),
        (b"id=1 name=flags=d flags=N db=0", b"N"),
        (b"id=1 lib-name=flags=d flags=N", b"N"),
        (b"id=1 name=d flags=N\n", b"N"),
        (b"id=1 name=x flags=d\n", b"d"),
        (b"id=1 name=x", None),
        (error("NOPERM"), None),
        (None, None),
    ],
)
def test_the_flags_of_client_info_are_matched_exactly(info: object, flags: bytes | None) -> None:
    assert client_flags(info) == flags


def test_a_client_named_flags_n_does_not_hide_the_dirty_flag() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": b"id=1 name=flags=N flags=xd"})
    wire.transact(lambda tx: tx.get("a"))
    assert len(wire.batches("read")) == 2


@pytest.mark.parametrize(
    ("reply", "role"),
    [
        ([b"master", 3, []], b"master"),
        ([b"slave", b"host", 1, b"connected", 3], b"slave"),
        ({b"server": b"redis", b"role": b"master"}, b"master"),
        ([b"server", b"redis", b"role", b"replica"], b"replica"),
        (error("NOPERM"), None),
        ([], None),
    ],
)
def test_the_role_is_read_from_role_or_hello(reply: object, role: bytes | None) -> None:
    assert role_of(reply) == role


def test_reads_from_a_demoted_primary_are_not_used() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"ROLE": [b"slave", b"host", 1, b"connected", 3]})
    seen: list[tuple[int, int]] = []
    wire.transact(lambda tx: seen.append((tx.get("a")["n"], tx.attempt)))
    assert seen == [(1, 2)]
    assert len(wire.batches("proof")) == 2


# Without the flags of CLIENT INFO


def without_flags(**documents: Fields) -> Wire:
    wire = Wire(documents)
    wire.next("proof", *[{"CLIENT": error("NOPERM client|info")}] * 3)
    return wire


def test_without_flags_reads_are_validated_by_multi_exec_and_watched_anew() -> None:
    wire = without_flags(a={"n": 1})
    assert wire.transact(add_one) == 2
    (batch,) = wire.batches("read")
    assert names(batch)[:7] == ["SET", "MULTI", "HGETALL", "EXISTS", "EXEC", "WATCH", "HGETALL"]
    assert "CLIENT" not in names(batch)
    assert wire.kinds() == ["read", "commit"]


def test_without_flags_a_nil_condemns_before_the_function_sees_the_value() -> None:
    wire = without_flags(a={"n": 1}, b={"n": 1})
    wire.next("read", {}, {"EXEC": None})
    seen: list[tuple[int, int]] = []

    def read_both(tx: Tx) -> None:
        tx.get("a")
        seen.append((tx.get("b")["n"], tx.attempt))

    wire.transact(read_both)
    assert seen == [(1, 2)]
    assert len(wire.batches("proof")) == 1, "a conflict, and no reason to give up the socket"


def test_without_flags_a_change_between_exec_and_the_new_watch_condemns() -> None:
    wire = without_flags(a={"n": 1})
    fresh = {b"__version__": b"8", b"n": b"2"}
    wire.next("read", {"EXEC": [fresh, 1]})
    seen: list[tuple[int, int]] = []
    wire.transact(lambda tx: seen.append((tx.get("a")["n"], tx.attempt)))
    assert seen == [(1, 2)]
    assert len(wire.batches("read")) == 2


def test_flags_refused_after_the_proof_fall_back_on_a_new_socket() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", {"CLIENT": error("NOPERM client|info")})
    wire.next("proof", {}, {"CLIENT": error("NOPERM client|info")})
    assert wire.transact(add_one) == 2
    assert names(wire.batches("read")[1])[1] == "MULTI"
