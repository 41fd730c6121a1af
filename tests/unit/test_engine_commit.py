"""The commit (design 4.3, 4.4, 4.8): what is sent, and what the server's answers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import QUEUED, TIME, Wire, error, lost

from txstate import events
from txstate._effects import ReplyError
from txstate._engine.outcome import Committed, Conflict, Outage, Partial, Refused, verdict
from txstate.errors import CodecError, CommitUnknown, CrossSlotError, ServerRefused, UsageError
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Command
    from txstate.tx import Tx

TOKEN = b"__txstate__:token:id1"
VERSION = (b"__version__", b"%d" % TIME)


def writes(wire: Wire) -> list[Command]:
    """What stands between MULTI and EXEC, but for the token."""
    (batch,) = wire.batches("commit")
    assert batch[0] == ("MULTI",)
    assert batch[1] == ("SET", TOKEN, b"1", "EX", b"3600")
    assert batch[-1] == ("EXEC",)
    return list(batch[2:-1])


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


# What is sent


def test_a_transaction_is_two_round_trips() -> None:
    wire = Wire(a={"n": 1})
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit"]
    assert wire.hashes[b"a"][b"n"] == b"2"
    wire.assert_settled()


def test_only_changed_fields_are_written() -> None:
    wire = Wire(a={"n": 1, "same": 2, "untouched": 3})

    def change(tx: Tx) -> None:
        doc = tx.get("a")
        doc["n"] = 5
        doc["same"] = 2

    wire.transact(change)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"n", b"5")]


def test_nested_mutation_is_found() -> None:
    wire = Wire(a={"cart": b'{"items":[1]}', "other": b"[1]"})

    def change(tx: Tx) -> None:
        doc = tx.get("a")
        doc["cart"]["items"].append(2)
        assert doc["other"] == [1]

    wire.transact(change)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"cart", b'{"items":[1,2]}')]


@pytest.mark.parametrize(
    "function",
    [
        lambda tx: tx.get("a")["n"],
        lambda tx: tx.get("a").update(n=1),
        lambda tx: tx.get("a").increment("n", 0),
        lambda tx: tx.put("a", {"n": 1}),
        lambda tx: tx.get("missing"),
        lambda tx: tx.delete("missing"),
        lambda tx: tx.get("missing").expire(5),
        lambda _tx: None,
    ],
)
def test_nothing_is_sent_when_nothing_changed(function: Callable[[Tx], Any]) -> None:
    wire = Wire(a={"n": 1})
    wire.transact(function)
    assert "commit" not in wire.kinds()
    assert wire.settings.counters.stats().reads == 1
    wire.assert_settled()


def test_hset_goes_before_hdel() -> None:
    wire = Wire(a={"n": 1})

    def rename(tx: Tx) -> None:
        doc = tx.get("a")
        doc["m"] = doc.pop("n")

    wire.transact(rename)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"m", b"1"), ("HDEL", b"a", b"n")]


@pytest.mark.parametrize(
    "function", [lambda tx: tx.put("a", {"m": 2}), lambda tx: tx.get("a").replace({"m": 2})]
)
def test_put_and_replace_never_delete_the_key(function: Callable[[Tx], Any]) -> None:
    wire = Wire(a={"n": 1, "o": 3})
    wire.transact(function)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"m", b"2"), ("HDEL", b"a", b"n", b"o")]


def test_a_document_without_fields_goes_on_to_exist() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: tx.get("a").clear())
    assert writes(wire) == [("HSET", b"a", *VERSION), ("HDEL", b"a", b"n")]
    assert list(wire.hashes[b"a"]) == [b"__version__"]


def test_delete_and_delete_with_a_new_beginning() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})

    def change(tx: Tx) -> None:
        tx.delete("a")
        b = tx.get("b")
        b.delete()
        b["m"] = 2

    wire.transact(change)
    assert writes(wire) == [("DEL", b"a"), ("DEL", b"b"), ("HSET", b"b", *VERSION, b"m", b"2")]


def test_increments_are_added_up_here_and_never_sent() -> None:
    wire = Wire(a={"n": 1})

    def change(tx: Tx) -> None:
        assert tx.get("a").increment("n", 5) == 6
        assert tx.get("a").increment("new") == 1

    wire.transact(change)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"n", b"6", b"new", b"1")]
    assert not any(command[0] == "HINCRBY" for batch in wire.batches() for command in batch)


def test_an_unread_field_is_read_at_commit_before_it_is_incremented() -> None:
    wire = Wire(a={"n": 1, "m": 41})
    wire.transact(lambda tx: tx.get("a", fields=["n"]).increment("m"))
    assert wire.kinds() == ["read", "read", "commit"]
    assert wire.batches("read")[1][0] == ("HMGET", b"a", b"__version__", b"m")
    assert writes(wire) == [("HSET", b"a", *VERSION, b"m", b"42")]


def test_a_conflict_found_when_an_unread_field_is_read_at_commit_is_retried() -> None:
    wire = Wire(a={"n": 1, "m": 41})
    wire.next("read", {}, {"CLIENT": b"flags=d"})
    wire.transact(lambda tx: tx.get("a", fields=["n"]).increment("m"))
    assert wire.hashes[b"a"][b"m"] == b"42"
    assert len(wire.batches("commit")) == 1


@pytest.mark.parametrize(
    ("value", "by"), [(b'"text"', 1), (b"%d" % (2**63 - 1), 1), (b"1.5", 1), (b"-0.0", 1)]
)
def test_an_increment_that_could_fail_inside_exec_fails_before(value: bytes, by: int) -> None:
    for fields in (None, ["other"]):
        wire = Wire(a={"n": value}, b={"n": 1})
        with pytest.raises(CodecError) as refused:
            wire.transact(lambda tx, fields=fields: [add_to(tx, "b", None), add_to(tx, "a", fields)])  # type: ignore[misc]  # mypy can't infer a default's type here
        assert (refused.value.key, refused.value.field) == ("a", "n")
        assert "commit" not in wire.kinds()
        wire.assert_settled()


def add_to(tx: Tx, key: str, fields: Sequence[str] | None) -> int:
    return tx.get(key, fields).increment("n")


def test_a_value_that_went_bad_after_it_was_assigned_is_found_before_anything_is_sent() -> None:
    wire = Wire(a={"n": b"[1]"}, b={"n": 1})

    def spoil(tx: Tx) -> None:
        tx.get("b")["n"] = 2
        tx.get("a")["n"].append(float("nan"))

    with pytest.raises(CodecError):
        wire.transact(spoil)
    assert "commit" not in wire.kinds()


@pytest.mark.parametrize(
    ("seconds", "command"),
    [(1.5, ("PEXPIRE", b"a", b"1500")), (0.0011, ("PEXPIRE", b"a", b"1")), (None, ("PERSIST", b"a"))],
)
def test_an_expiry_is_sent_in_whole_milliseconds_behind_the_fields(
    seconds: float | None, command: Command
) -> None:
    wire = Wire(a={"n": 1})
    wire.transact(lambda tx: tx.get("a").expire(seconds))
    assert writes(wire) == [("HSET", b"a", *VERSION), command]


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("nan"), float("inf"), 2.0**53, True, "5"])
def test_an_expiry_that_could_fail_inside_exec_is_refused_at_the_call(seconds: Any) -> None:
    wire = Wire(a={"n": 1})
    with pytest.raises(UsageError):
        wire.transact(lambda tx: tx.get("a").expire(seconds))
    assert "commit" not in wire.kinds()


@pytest.mark.parametrize(
    ("before", "after"), [(b"7", TIME), (b"%d" % (TIME + 5), TIME + 6), (b"%d" % TIME, TIME + 1)]
)
def test_the_version_grows_by_the_clock_or_by_one(before: bytes, after: int) -> None:
    wire = Wire(a={"n": 1})
    wire.hashes[b"a"][b"__version__"] = before
    versions: list[int] = []

    def change(tx: Tx) -> None:
        doc = tx.get("a")
        doc["n"] = 2
        tx.on_commit(lambda: versions.append(doc.committed_version))

    wire.transact(change)
    assert writes(wire) == [("HSET", b"a", b"__version__", b"%d" % after, b"n", b"2")]
    assert versions == [after]


def test_a_hash_that_others_made_gets_a_version() -> None:
    wire = Wire()
    wire.hashes[b"a"] = {b"n": b"1"}

    def change(tx: Tx) -> None:
        assert tx.get("a").version == 1
        add_one(tx)

    wire.transact(change)
    assert writes(wire) == [("HSET", b"a", *VERSION, b"n", b"2")]


def test_every_commit_of_a_connection_has_a_number_of_its_own() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {"EXEC": None})
    wire.transact(add_one)
    wire.transact(add_one)
    assert [batch[1][2] for batch in wire.batches("commit")] == [b"1", b"2", b"3"]


# What the answers mean


def test_nil_is_a_conflict_and_the_retry_fetches_everything_at_once() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1}, c={"n": 1, "m": 2})
    wire.next("commit", {"EXEC": None})

    def change(tx: Tx) -> None:
        tx.get("a")["n"] += tx.get("b")["n"] + tx.get("c", fields=["n"])["n"]

    wire.transact(change)
    assert wire.kinds() == ["read", "read", "read", "commit", "read", "commit"]
    retry = wire.batches("read")[3]
    assert retry[0] == ("WATCH", TOKEN, b"a", b"b", b"c")
    assert retry[3][:2] == ("HMGET", b"c")
    assert wire.settings.counters.stats().conflicts == 1


def test_a_retry_does_not_call_back_for_the_losing_attempt() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {"EXEC": None})
    called: list[int] = []

    def change(tx: Tx) -> None:
        add_one(tx)
        tx.on_commit(called.append, tx.attempt)

    wire.transact(change)
    assert called == [2]


@pytest.mark.parametrize(
    ("queued", "answer", "code"),
    [
        (error("OOM command not allowed"), error("EXECABORT Transaction discarded"), "OOM"),
        (
            error("NOPERM no rights"),
            error("EXECABORT Transaction discarded because of previous errors."),
            "NOPERM",
        ),
        (QUEUED, error("EXECABORT Transaction discarded because of: OOM command not allowed"), "OOM"),
        (QUEUED, error("EXECABORT Transaction discarded because of: NOREPLICAS Not enough"), "NOREPLICAS"),
        (QUEUED, error("EXECABORT Transaction discarded because of: MISCONF Errors writing"), "MISCONF"),
        (QUEUED, error("EXECABORT what"), "EXECABORT"),
    ],
)
def test_execabort_is_classified_by_its_reason(queued: object, answer: object, code: str) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", [b"OK", QUEUED, queued, answer])
    with pytest.raises(ServerRefused) as refused:
        wire.transact(add_one)
    assert refused.value.code == code
    assert wire.kinds() == ["read", "commit"]
    assert not wire.channels[0].connected
    wire.assert_settled()


def test_the_first_queue_error_counts() -> None:
    replies = [
        b"OK",
        QUEUED,
        error("OOM first"),
        error("NOPERM second"),
        error("EXECABORT because of: BUSY third"),
    ]
    outcome = verdict(replies, ["a"])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, ServerRefused)
    assert outcome.error.code == "OOM"


def test_crossslot_names_the_keys() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", [b"OK", QUEUED, error("CROSSSLOT Keys in request"), error("EXECABORT discarded")])
    with pytest.raises(CrossSlotError) as refused:
        wire.transact(add_one)
    assert refused.value.keys == ("a",)


@pytest.mark.parametrize(
    "replies",
    [
        [b"OK", QUEUED, QUEUED, [b"OK", error("WRONGTYPE Operation")]],
        [b"OK", QUEUED, QUEUED, [error("OOM"), 1]],
        [error("NOPERM multi"), b"OK", 1, error("ERR EXEC without MULTI")],
        [error("NOPERM multi"), b"OK", error("NOPERM hset"), error("ERR EXEC without MULTI")],
        [b"OK", QUEUED, QUEUED, b"OK"],
    ],
    ids=["error in the array", "token refused", "MULTI refused", "MULTI and one more refused", "no array"],
)
def test_what_was_applied_in_part_is_unknown_and_never_tried_again(replies: list[object]) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", replies)
    with pytest.raises(CommitUnknown) as unknown:
        wire.transact(add_one)
    assert unknown.value.replies == tuple(replies)
    assert unknown.value.known is Resolution.UNKNOWN
    for reply in (*replies, *(replies[-1] if isinstance(replies[-1], list) else ())):
        assert not isinstance(reply, ReplyError) or str(reply) in str(unknown.value)
    assert wire.kinds() == ["read", "commit"]
    assert [type(event) for event in wire.events] == [events.GaveUp]
    wire.assert_settled()


def test_a_refused_multi_leaves_no_watches_behind_in_the_pool() -> None:
    """Outside of MULTI the watches of the attempt stay, so the connection needs an UNWATCH, or to be dropped."""
    wire = Wire(a={"n": 1})
    wire.next("commit", [error("NOPERM multi"), b"OK", 1, error("ERR EXEC without MULTI")])
    with pytest.raises(CommitUnknown):
        wire.transact(add_one)
    session = wire.channels[0].session
    assert session is None or session.watching


@pytest.mark.parametrize("code", ["NOPERM", "READONLY"])
def test_a_multi_refused_with_all_its_followers_was_not_applied(code: str) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", [error(f"{code} no")] * 4)
    if code == "NOPERM":
        with pytest.raises(ServerRefused):
            wire.transact(add_one)
    else:
        assert wire.transact(add_one) == 2
        assert wire.kinds() == ["read", "commit", "read", "commit"]
    wire.assert_settled()


def test_the_verdicts() -> None:
    assert verdict([b"OK", QUEUED, []], ["a"]) == Committed()
    assert verdict([b"OK", QUEUED, None], ["a"]) == Conflict()
    assert isinstance(verdict([b"OK", QUEUED, error("LOADING Redis is loading")], ["a"]), Outage)
    assert isinstance(verdict([b"OK", QUEUED, [error("LOADING")]], ["a"]), Partial)


def test_a_token_that_could_not_be_set_lets_read_but_not_commit() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", *[{"SET": error("OOM command not allowed"), "EXISTS": 1}] * 2)
    assert wire.transact(lambda tx: tx.get("a")["n"]) == 1
    with pytest.raises(ServerRefused) as refused:
        wire.transact(add_one)
    assert refused.value.code == "OOM"
    assert wire.kinds() == ["read", "read"]
    assert wire.transact(add_one) == 2
    wire.assert_settled()


# Fields that expire one by one (4.8)


VOLATILE = {"INFO": b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0,subexpiry=1\r\n"}


def test_documents_with_volatile_fields_are_asked_for_their_times() -> None:
    wire = Wire(a={"n": 1, "m": 2})
    wire.next("read", VOLATILE)
    wire.transact(lambda tx: tx.get("a"))
    assert wire.batches("read")[1][0] == ("HPEXPIRETIME", b"a", "FIELDS", b"2", b"n", b"m")


def test_without_volatile_fields_nothing_more_is_asked() -> None:
    wire = Wire(a={"n": 1})
    wire.transact(add_one)
    assert wire.kinds() == ["read", "commit"]


def test_volatile_documents_are_committed_by_a_script_that_checks() -> None:
    wire = Wire(a={"n": 1, "m": 2})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [5000, -1]})
    wire.transact(add_one)
    (batch,) = wire.batches("commit")
    assert [command[0] for command in batch] == ["MULTI", "EVAL", "EXEC"]
    script = batch[1]
    assert script[2:5] == (b"2", TOKEN, b"a")
    arguments = list(script[5:])
    assert arguments[:5] == [b"1", b"3", b"a", b"n", b"5000"]
    assert arguments[5:11] == [b"5", "SET", TOKEN, b"1", "EX", b"3600"]
    assert arguments[11:18] == [b"6", "HSET", b"a", *VERSION, b"n", b"2"]
    assert arguments[18:] == [b"6", "HPEXPIREAT", b"a", b"5000", "FIELDS", b"1", b"n"]


def test_a_volatile_field_that_is_gone_at_commit_is_a_conflict() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [5000]})
    wire.next("commit", {"EXEC": [b"stale"]})
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "read", "commit", "read", "commit"]


@pytest.mark.parametrize("answer", [b"NOPERM this user may not", b"OOM command not allowed"])
def test_a_script_that_wrote_nothing_says_why(answer: bytes) -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [5000]})
    wire.next("commit", {"EXEC": [answer]})
    with pytest.raises(ServerRefused) as refused:
        wire.transact(add_one)
    assert refused.value.code == answer.split()[0].decode()


@pytest.mark.parametrize("times", [[-2], [4000], [-1]])
def test_a_volatile_field_is_looked_at_again_with_every_later_read(times: list[int]) -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [5000]}, {"HPEXPIRETIME": times})
    seen: list[tuple[int, int]] = []

    def read_both(tx: Tx) -> None:
        tx.get("a")
        seen.append((tx.get("b")["n"], tx.attempt))

    wire.transact(read_both)
    assert seen == [(1, 2)]
    assert ("HPEXPIRETIME", b"a", "FIELDS", b"1", b"n") in wire.batches("read")[2]


def test_a_field_that_expired_before_its_time_was_asked_for_condemns() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [-2]})
    seen: list[tuple[int, int]] = []
    wire.transact(lambda tx: seen.append((tx.get("a")["n"], tx.attempt)))
    assert seen == [(1, 2)]


def test_where_the_count_is_not_shown_every_document_is_asked() -> None:
    wire = Wire(a={"n": 1})
    wire.next("proof", {"INFO": error("NOPERM info")})
    wire.transact(add_one)
    assert wire.kinds() == ["read", "read", "commit"]


def test_a_server_without_field_ttls_is_not_asked_at_all() -> None:
    wire = Wire(a={"n": 1})
    wire.next("proof", {"HPEXPIRETIME": error("ERR unknown command 'HPEXPIRETIME'")})
    wire.transact(add_one)
    assert not any(command[0] in ("INFO", "HPEXPIRETIME") for batch in wire.batches() for command in batch)


def test_a_lost_commit_of_a_script_is_resolved_like_any_other() -> None:
    wire = Wire(a={"n": 1})
    wire.next("read", VOLATILE, {"HPEXPIRETIME": [5000]})
    wire.next("commit", lost())
    wire.next("ask", [1, b"1"])
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "read", "commit", "ask"]
