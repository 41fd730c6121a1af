"""Armed sockets and claims (design 4.6, 4.7), driven by a script."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import tenacity
from support.scripted import DIRTY, QUEUED, TIME, ScriptedChannel, Wire, error, lost
from support.together import Box

from txstate._effects import Lost, Park, Send, advance
from txstate._engine import claims, straight
from txstate._engine.claims import Claim, Turn
from txstate._engine.group import Groups
from txstate._engine.pursuit import first_attempt
from txstate._engine.retake import retake
from txstate._engine.transaction import transact
from txstate._running import Change, Running
from txstate.errors import (
    CommitUnknown,
    ConflictError,
    FieldNotLoaded,
    ServerRefused,
    StoreUnavailable,
    WrongType,
)
from txstate.resolution import Resolution
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._effects import Command
    from txstate.tx import Tx

TOKEN = b"__txstate__:token:id1"


def names(batch: Sequence[Command]) -> list[str]:
    return [str(command[0]) for command in batch]


def armed(**documents: dict[str, int | bytes]) -> Wire:
    """A wire on which every socket is armed that can be."""
    wire = Wire(documents or {"a": {"n": 1}})
    wire.arms = True
    return wire


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


def read_one(tx: Tx) -> int:
    return int(tx.get("a")["n"])


# Armed sockets


def test_a_repeated_transaction_is_one_round_trip() -> None:
    wire = armed()
    assert [wire.transact(add_one) for _ in range(3)] == [2, 3, 4]
    assert wire.kinds() == ["read", "commit", "commit", "commit"]
    for commit in wire.batches("commit"):
        tail = commit[names(commit).index("EXEC") + 1 :]
        assert tail[0] == ("WATCH", TOKEN, b"a")
        assert tail[1] == ("HGETALL", b"a")
        assert names(tail)[2:] == ["MGET", "OBJECT"]
    wire.assert_settled()


def test_a_conflict_brings_the_fresh_values_with_it() -> None:
    wire = armed()
    wire.next("commit", {"EXEC": None})
    runs: list[int] = []

    def counted(tx: Tx) -> int:
        runs.append(tx.attempt)
        return add_one(tx)

    assert wire.transact(counted) == 2
    assert runs == [1, 2]
    assert wire.kinds() == ["read", "commit", "commit"]


@pytest.mark.parametrize(
    "tail",
    [{"CLIENT": DIRTY}, {"EXISTS": 1}, {"HGETALL": error("NOPERM no")}, {"HGETALL": error("WRONGTYPE x")}],
    ids=["dirty", "expired", "refused", "another type"],
)
def test_a_tail_that_is_not_clean_arms_nothing(tail: dict[str, object]) -> None:
    wire = armed(a={"n": 1}, b={"n": 1})
    wire.next("commit", tail)

    def add_to_both(tx: Tx) -> None:
        for doc in tx.get_many(["a", "b"]):
            doc["n"] += 1

    wire.transact(add_to_both)
    wire.transact(add_to_both)
    assert wire.kinds() == ["read", "commit", "read", "commit"]
    assert names(wire.batches("read")[1])[0] == "UNWATCH", "the tail's watches are lifted"


def test_several_documents_are_armed_only_if_they_are_from_one_moment() -> None:
    wire = armed(a={"n": 1}, b={"n": 1})
    wire.transact(lambda tx: [doc.increment("n") for doc in tx.get_many(["a", "b"])])
    assert names(wire.batches("commit")[0])[-2:] == ["EXISTS", "CLIENT"]


@pytest.mark.parametrize(
    "tail",
    [
        {"MGET": [None, None]},
        {"MGET": [b"1", b"another"]},
        {"MGET": error("NOPERM no")},
        {"OBJECT": b"listpackex"},
        {"OBJECT": error("NOPERM no")},
        {"HGETALL": {}},
        {"HGETALL": {b"__version__": b"none", b"n": b"1"}},
    ],
    ids=["no token", "claimed", "refused", "fields expire", "encoding refused", "missing", "no version"],
)
def test_what_the_next_one_could_not_rely_on_arms_nothing(tail: dict[str, object]) -> None:
    wire = armed()
    wire.next("commit", tail)
    assert [wire.transact(add_one) for _ in range(2)] == [2, 3]
    assert wire.kinds() == ["read", "commit", "read", "commit"]


def test_a_document_that_others_made_gets_a_version_that_never_was() -> None:
    """The tail asks for the time while there is one without a version, which could not grow on its own."""
    wire = armed(a={"n": 1}, b={"n": 1})
    for name in (b"a", b"b"):
        del wire.hashes[name][b"__version__"]

    def change(tx: Tx, key: str) -> None:
        a, b = tx.get_many(["a", "b"])
        (a if key == "a" else b)["n"] += 1

    for key in ("a", "a", "b", "a"):
        wire.transact(partial(change, key=key))
    assert wire.kinds() == ["read", "commit", "commit", "commit", "commit"]
    assert ["TIME" in names(batch) for batch in wire.batches("commit")] == [True, True, True, False]
    assert [int(wire.hashes[name][b"__version__"]) for name in (b"a", b"b")] == [TIME + 2, TIME]


def test_a_document_read_after_an_armed_one_gets_the_time_of_now() -> None:
    wire = armed()
    wire.transact(add_one)

    def make(tx: Tx) -> None:
        tx.get("a")["n"] += 1
        tx.get("b")["n"] = 1

    wire.transact(make)
    assert "TIME" in names(wire.batches("read")[-1])
    assert int(wire.hashes[b"b"][b"__version__"]) == TIME


def test_what_one_call_reads_beside_an_armed_document_is_nothing_to_later_ones() -> None:
    wire = armed(a={"n": 1}, b={"n": 1})
    wire.transact(add_one)

    def look_further(tx: Tx) -> None:
        tx.get("a")
        tx.get("b")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        wire.transact(look_further)
    wire.transact(add_one)
    before = len(wire.kinds())
    assert wire.transact(read_one) == 3
    assert wire.kinds()[before:] == ["read"]
    assert wire.batches("read")[-1][0] == ("EXISTS", TOKEN, b"a")


@pytest.mark.parametrize("answer", [error("EXECABORT because of: OOM x"), [error("OOM"), 1]])
def test_an_exec_that_failed_arms_nothing(answer: object) -> None:
    wire = armed()
    wire.next("commit", {"EXEC": answer})
    with pytest.raises((ServerRefused, CommitUnknown), match="OOM"):
        wire.transact(add_one)
    assert not wire.channels[0].connected
    wire.assert_settled()


def test_the_tail_s_loss_leaves_no_doubt_about_the_commit() -> None:
    wire = armed()
    wire.next("commit", lost(b"OK", QUEUED, QUEUED, [b"OK", 1], b"OK"))
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit"]
    assert wire.settings.counters.stats().in_doubt == 0
    wire.assert_settled()


def test_a_commit_that_can_t_be_resolved_is_never_tried_again_though_its_snapshot_was_not_proved() -> None:
    wire = armed()
    wire.transact(add_one)

    def applied_and_evicted(commands: Sequence[Command]) -> Sequence[object]:
        wire.default(commands)
        wire.strings.clear()
        raise lost()

    wire.next("commit", applied_and_evicted)
    before = int(wire.hashes[b"a"][b"n"])
    with pytest.raises(CommitUnknown):
        wire.transact(add_one)
    assert int(wire.hashes[b"a"][b"n"]) == before + 1


def test_an_interruption_in_the_tail_leaves_no_doubt_about_the_commit_either() -> None:
    wire = armed()
    replies = [b"OK", QUEUED, QUEUED, [b"OK", 1], b"OK"]
    wire.next("commit", Lost(replies, sent=True, cause=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt) as raised:
        wire.transact(add_one)
    assert isinstance(raised.value.__cause__, CommitUnknown)
    assert raised.value.__cause__.known is Resolution.COMMITTED
    assert wire.kinds() == ["read", "commit"]
    wire.assert_settled()


def test_a_loss_before_the_reply_to_exec_is_in_doubt_whatever_follows_it() -> None:
    wire = armed()
    wire.next("commit", lost(b"OK", QUEUED, QUEUED))
    wire.next("ask", [1, b"1"])
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit", "ask"]


def test_an_armed_read_is_proved_before_it_leaves() -> None:
    wire = armed()
    assert wire.transact(read_one) == 1
    assert wire.transact(read_one) == 1
    assert wire.kinds() == ["read", "read"]
    proof = wire.batches("read")[1]
    assert names(proof) == ["EXISTS", "CLIENT", "ROLE"]


@pytest.mark.parametrize(
    "stale", [{"CLIENT": DIRTY}, {"EXISTS": 1}, {"ROLE": [b"slave", b"host", 1, b"connected", 1]}]
)
def test_a_stale_armed_read_is_run_again(stale: dict[str, object]) -> None:
    wire = armed()
    wire.transact(read_one)
    wire.hashes[b"a"][b"n"] = b"5"
    wire.next("read", stale)
    assert wire.transact(read_one) == 5
    wire.assert_settled()


def test_what_a_function_raises_over_a_stale_armed_snapshot_is_discarded() -> None:
    wire = armed()
    wire.transact(add_one)
    wire.hashes[b"a"][b"n"] = b"5"
    wire.next("read", {"CLIENT": DIRTY})

    def fussy(tx: Tx) -> int:
        if tx.get("a")["n"] != 5:
            raise ValueError("torn")
        return 5

    assert wire.transact(fussy) == 5


def test_what_a_function_raises_over_a_current_snapshot_comes_out() -> None:
    wire = armed()
    wire.transact(add_one)

    def fail(tx: Tx) -> None:
        raise ValueError(read_one(tx))

    with pytest.raises(ValueError, match=r"^2$"):
        wire.transact(fail)
    assert wire.kinds()[-1] == "read"


def test_a_function_that_raises_leaves_nothing_of_its_writes_in_the_armed_snapshot() -> None:
    wire = armed()

    def fail(tx: Tx) -> None:
        tx.get("a")["n"] = 99
        raise ValueError("mine")

    for _ in range(2):
        with pytest.raises(ValueError, match="mine"):
            wire.transact(fail)
    assert wire.transact(read_one) == 1
    assert wire.transact(add_one) == 2


def test_nested_values_of_an_armed_snapshot_are_not_shared_between_transactions() -> None:
    wire = armed(a={"list": b"[1]"})

    def look(tx: Tx, *, spoil: bool) -> list[int]:
        found: list[int] = tx.get("a")["list"]
        if spoil:
            found.append(2)
            raise ValueError("mine")
        return list(found)

    assert wire.transact(lambda tx: look(tx, spoil=False)) == [1]
    with pytest.raises(ValueError, match="mine"):
        wire.transact(lambda tx: look(tx, spoil=True))
    assert wire.transact(lambda tx: look(tx, spoil=False)) == [1]


@pytest.mark.parametrize("order", ["pwp", "wp", "wwp", "wpp"])
def test_a_partial_document_shows_the_same_whatever_the_socket_was_armed_with(order: str) -> None:
    """Another function began with the same read, then read all of a document of which this one wants a field."""
    wire = armed(a={"n": 1}, b={"n": 1, "m": 2})

    def whole(tx: Tx) -> None:
        tx.get("a")
        tx.get("b")

    def partial(tx: Tx) -> object:
        tx.get("a")
        doc = tx.get("b", fields=["n"])
        with pytest.raises(FieldNotLoaded):
            doc["m"]
        return doc.to_dict()

    for kind in order:
        assert wire.transact(partial if kind == "p" else whole) == ({"n": 1} if kind == "p" else None)


def test_without_flags_nothing_is_armed() -> None:
    wire = armed()
    wire.next("proof", {"CLIENT": error("NOPERM client|info")})
    assert [wire.transact(add_one) for _ in range(2)] == [2, 3]
    assert wire.kinds() == ["read", "commit", "read", "commit"]
    assert names(wire.batches("commit")[0])[-1] == "EXEC"


def test_a_transaction_that_begins_otherwise_is_not_given_the_armed_snapshot() -> None:
    wire = armed(a={"n": 1}, b={"n": 2})
    wire.transact(add_one)
    assert wire.transact(lambda tx: tx.get("b")["n"]) == 2
    batch = wire.batches("read")[1]
    assert batch[:2] == [("UNWATCH",), ("WATCH", TOKEN, b"b")]


def test_views_with_another_namespace_are_not_given_it_either() -> None:
    wire = armed()
    wire.transact(add_one)
    view = replace(wire.settings, namespace="other:")
    assert not wire.transact(lambda tx: tx.get("a").exists, settings=view)


# Claims


def contended(conflicts: int) -> Wire:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.settings = replace(wire.settings, retry=Retry(wait=tenacity.wait_none()))
    wire.next("commit", *[{"EXEC": None}] * conflicts)
    return wire


def claims_of(wire: Wire) -> list[list[Command]]:
    """What each batch of reads claims."""
    return [
        [command for command in batch if command[0] == "SET" and b":claim:" in bytes(command[1])]  # type: ignore[arg-type]  # a key's name is bytes
        for batch in wire.batches("read")
    ]


def waits_of(wire: Wire) -> list[bytes]:
    """The lines and doors at which it waited."""
    return [
        bytes(command[1])  # type: ignore[arg-type]  # a key's name is bytes
        for batch in wire.batches()
        for command in batch
        if command[0] == "BZPOPMIN"
    ]


def test_the_first_conflict_claims_nothing_and_later_ones_do() -> None:
    wire = contended(3)
    assert wire.transact(add_one) == 2
    assert [len(claims) for claims in claims_of(wire)] == [0, 0, 1, 1]
    ((_, name, holder, *options),) = claims_of(wire)[2]
    assert name == b"__txstate__:claim:a"
    assert options[:2] == ["NX", "PX"]
    assert holder == claims_of(wire)[3][0][2], "a call claims under one name"


def test_what_another_has_claimed_is_not_left_armed_by_who_only_reads() -> None:
    """Else the next call would give way to a claim that was seen before it began."""
    wire = armed()
    wire.settings = replace(wire.settings, patience=0)
    wire.strings[b"__txstate__:claim:a"] = b"another"
    assert wire.transact(read_one) == 1
    del wire.strings[b"__txstate__:claim:a"]
    assert wire.transact(read_one) == 1
    assert ["WATCH" in names(batch) for batch in wire.batches("read")] == [True, True]
    assert waits_of(wire) == [], "without patience it gives way to nobody"


def test_a_winner_takes_its_claim_back_with_its_commit() -> None:
    wire = contended(2)
    wire.transact(add_one)
    assert ("DEL", b"__txstate__:claim:a") in wire.batches("commit")[-1]
    assert b"__txstate__:claim:a" not in wire.strings


def test_several_keys_are_claimed_in_their_order() -> None:
    wire = contended(2)

    def change(tx: Tx) -> None:
        b, a = tx.get_many(["b", "a"])
        b["n"] += a["n"]

    wire.transact(change)
    assert [command[1] for command in claims_of(wire)[2]] == [b"__txstate__:claim:a", b"__txstate__:claim:b"]


def test_who_sees_another_s_claim_gives_way_a_bounded_number_of_times() -> None:
    wire = contended(0)
    wire.settings = replace(wire.settings, patience=10)
    wire.strings[b"__txstate__:claim:a"] = b"another"
    runs: list[int] = []

    def counted(tx: Tx) -> int:
        runs.append(tx.attempt)
        return add_one(tx)

    assert wire.transact(counted) == 2
    waits = waits_of(wire)
    assert waits[:4] == [b"__txstate__:line:a", *[b"__txstate__:door:a"] * 2, b"__txstate__:line:a"]
    assert waits.count(b"__txstate__:door:a") == wire.settings.patience == 10
    assert wire.slept() == [], "who waits on the server has no need to sleep"
    assert set(runs) == {1}, "giving way is no attempt"
    assert wire.strings[b"__txstate__:claim:a"] == b"another"
    assert wire.settings.counters.stats().conflicts == 0
    wire.assert_settled()


def test_who_gives_way_gives_up_its_turn_only_until_the_claim_is_gone() -> None:
    wire = contended(0)
    wire.next("read", {"MGET": [b"another"]})
    assert wire.transact(add_one) == 2
    assert waits_of(wire) == [b"__txstate__:line:a", b"__txstate__:door:a"]
    assert wire.slept() == []


def test_who_may_not_wait_on_the_server_sleeps() -> None:
    wire = contended(0)
    wire.strings[b"__txstate__:claim:a"] = b"another"
    refused: dict[str, object] = {"BZPOPMIN": error("NOPERM no")}
    wire.next("read", {}, *[refused] * 50)
    wire.settings = replace(wire.settings, patience=5)
    assert wire.transact(add_one) == 2
    assert len(wire.slept()) == 4, "but for the first time: then it did not know"


def test_nobody_gives_way_for_more_than_half_of_its_time() -> None:
    wire = contended(0)
    wire.strings[b"__txstate__:claim:a"] = b"another 600"
    wire.settings = replace(wire.settings, patience=1000)
    assert wire.transact(add_one) == 2
    assert 5.0 <= wire.now < 6.0


def test_where_a_slot_is_only_on_its_way_in_nobody_stands_in_line_but_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ScriptedChannel, "serves", lambda *_: False)
    wire = contended(0)
    wire.strings[b"__txstate__:claim:a"] = b"another"
    wire.settings = replace(wire.settings, patience=5)
    assert wire.transact(add_one) == 2
    assert waits_of(wire) == []
    assert len(wire.slept()) == 4, "but for the first time: then it did not want to wait yet"


def queued() -> Wire:
    """A wire whose next call stands in line, as somebody was waiting when the last turn ended."""
    wire = contended(2)
    wire.arms = True
    wire.next("commit", {"PEXPIRE": 0})
    wire.transact(add_one)
    return wire


def test_who_stands_in_line_again_reads_in_the_same_round_trip_by_what_armed_its_socket_before() -> None:
    wire = queued()
    before = len(wire.batches())
    assert wire.transact(add_one) == 3
    read, commit = wire.batches()[before:]
    assert names(read)[:4] == ["BZPOPMIN", "BZPOPMIN", "SET", "WATCH"]
    assert ("DEL", b"__txstate__:claim:a") in commit
    assert waits_of(wire) == [b"__txstate__:line:a", b"__txstate__:door:a"]
    wire.assert_settled()


def test_who_finds_another_s_claim_there_all_the_same_stays_at_the_door() -> None:
    wire = queued()
    wire.next("read", {"MGET": [b"1", b"another 50"]})
    assert wire.transact(add_one) == 3
    assert waits_of(wire) == [b"__txstate__:line:a", *[b"__txstate__:door:a"] * 2]
    assert wire.settings.counters.stats().conflicts == 2, "those that it was queued after"
    assert b"__txstate__:claim:a" not in wire.strings


def test_and_reads_as_always_if_that_is_not_enough_by_then() -> None:
    wire = queued()
    del wire.hashes[b"a"]
    before = len(wire.batches())
    wire.transact(lambda tx: tx.put("a", {"n": 5}))
    line, read, commit = wire.batches()[before:]
    assert names(line)[:2] == ["BZPOPMIN"] * 2
    assert names(read)[:2] == ["UNWATCH", "SET"], "the claim is its own already"
    assert ("DEL", b"__txstate__:claim:a") in commit
    assert waits_of(wire) == [b"__txstate__:line:a", b"__txstate__:door:a"], (
        "its turn has come, whatever it finds"
    )


def test_what_was_read_in_line_is_proved_before_it_leaves() -> None:
    wire = queued()
    assert wire.transact(read_one) == 2
    assert names(wire.batches()[-2])[:2] == ["EXISTS", "CLIENT"]
    assert names(wire.batches()[-1])[0] == "DEL", "the turn goes to the next"


def test_who_comes_to_its_place_in_line_after_its_deadline_is_told_in_the_library_s_own_words() -> None:
    wire = queued()

    def dawdle(_: object) -> list[object]:
        wire.now += 0.0095
        return []

    wire.next("acquire", dawdle)
    late = replace(wire.settings, retry=Retry(deadline=0.01))
    with pytest.raises(StoreUnavailable):
        wire.run(transact(late, wire.body(add_one), wanted={"a": None}))
    wire.assert_settled()


def test_the_end_of_a_turn_lets_in_who_is_at_the_door_and_calls_the_next_one_there() -> None:
    assert woken(queued(), 3) == [b"__txstate__:door:a", b"__txstate__:line:a"]


def woken(wire: Wire, commit: int) -> list[bytes]:
    """The places at which a commit wakes somebody, in this order."""
    sent = wire.batches("commit")[commit - 1]
    return [bytes(command[1]) for command in sent if command[0] == "ZADD" and "XX" not in command]  # type: ignore[arg-type]  # as above


def claims_kept(wire: Wire, commit: int) -> int:
    """How many claims a commit makes last."""
    sent = wire.batches("commit")[commit - 1]
    return sum(command[:2] == ("SET", b"__txstate__:claim:a") for command in sent)


@pytest.mark.parametrize(("handed", "calls"), [(False, [b"__txstate__:line:a"]), (True, [])])
def test_who_was_not_handed_its_turn_calls_the_next_one_to_the_door_by_its_first_commit(
    *, handed: bool, calls: list[bytes]
) -> None:
    """Else nobody would watch whether it has gone: its predecessor had no chance to call, if there was one."""
    wire = queued()
    (channel,) = wire.channels
    assert channel.session is not None
    channel.session.trusted = 0
    wire.latency = 0.0
    wire.next("read", {"BZPOPMIN": [b"door", b"turn", b"0"] if handed else None})
    before = len(wire.batches())
    assert [wire.transact(add_one) for _ in range(3)] == [3, 4, 5]
    assert len(wire.batches()) == before + 4, "one round trip each, once it is its turn"
    assert [woken(wire, commit) for commit in (4, 5, 6)] == [calls, [], []]
    assert [claims_kept(wire, commit) for commit in (4, 5, 6)] == [1, 0, 0], "for the rest of the turn"
    wire.now += claims.TURN
    wire.transact(add_one)
    assert woken(wire, 7) == [b"__txstate__:door:a", b"__txstate__:line:a"]
    assert b"__txstate__:claim:a" not in wire.strings


def test_a_turn_that_was_kept_for_longer_than_its_claim_lasts_is_over() -> None:
    """Another one may have it by now; who goes on all the same gets into its way."""
    wire = contended(2)
    wire.arms = True
    wire.transact(add_one)
    (channel,) = wire.channels
    assert channel.session is not None
    channel.session.trusted = channel.session.prompt = 0
    wire.next("commit", {"EXEC": None}, {"EXEC": None})
    assert wire.transact(add_one) == 3
    assert claims_kept(wire, len(wire.batches("commit"))) == 1
    before = len(wire.batches())
    wire.now += claims.shortest_kept(wire.settings)
    assert wire.transact(add_one) == 4
    assert names(wire.batches()[before])[0] == "UNWATCH", "it reads anew, and sees whose turn it is"


@pytest.mark.parametrize("way", ["update", "run"])
def test_a_call_that_another_thread_leads_is_no_call_to_a_turn_that_was_kept(way: str) -> None:
    """It would count twice: once more when it comes to an attempt of its own."""
    wire = armed()
    wire.settings = settings = replace(
        wire.settings, on_event=None, groups=(groups := Groups(threading.Lock, Box, lambda: wire.now))
    )
    wire.transact(add_one)
    session = wire.channels[0].session
    assert session is not None
    kept = session.armed
    assert kept is not None
    claim = Claim.suiting(settings)
    kept.until, kept.turn = wire.now + 1, Turn(claim)
    kept.turn.see(["a"], [claim.value])
    kept.turn.since = session.finished = wire.now
    assert groups.lead(groups.alone(kept.signature, {"a": None}), wire.now + 10)
    if way == "run":
        assert not retake(first_attempt(settings, wire.now), {"a": None})
    else:
        call = Change(Running(), 0, lambda doc: doc.increment("n"), (), "a")
        steps, effect = advance(straight.change(settings, call, None, lambda _, result: result), None, None)
        assert isinstance(effect, Park)
        steps.close()
    assert session.armed is kept
    assert session.prompt == 0


def increment(tx: Tx, *, key: str) -> int:
    return tx.get(key).increment("n")


def test_each_document_has_a_door_of_its_own_on_the_same_socket_too() -> None:
    wire = Wire(a={"n": 1}, b={"n": 1})
    wire.settings = replace(wire.settings, retry=Retry(wait=tenacity.wait_none()))
    wire.arms = True
    for key in ("a", "b", "a"):
        wire.next("commit", *[{"EXEC": None}] * 2)
        wire.transact(partial(increment, key=key))
        assert woken(wire, len(wire.batches("commit"))) == [
            b"__txstate__:door:%b" % key.encode(),
            b"__txstate__:line:%b" % key.encode(),
        ]


def test_who_lines_up_at_once_claims_for_as_long_as_its_last_attempt_took() -> None:
    wire = queued()

    def slowly(tx: Tx) -> int:
        result = add_one(tx)
        wire.now += 0.06
        return result

    wire.next("commit", {"PEXPIRE": 0})
    for _ in range(2):
        wire.transact(slowly)
    first, second = ([int(command[-1]) for command in claims] for claims in claims_of(wire)[-2:])
    assert first == [20], "the shortest: nothing is known yet"
    assert second == [pytest.approx(180, abs=10)]


def test_after_an_outage_a_call_does_not_wait_for_itself() -> None:
    wire = queued()
    before = len(claims_of(wire))
    wire.next("commit", lost(sent=False))
    assert wire.transact(add_one) == 3
    (first,), (second,) = claims_of(wire)[before:]
    assert first[:3] == second[:3], "a call claims under one name"
    assert waits_of(wire) == [b"__txstate__:line:a", b"__txstate__:door:a"]


def test_who_gives_up_gives_back_what_it_has_claimed() -> None:
    wire = contended(3)
    wire.settings = replace(
        wire.settings, retry=Retry(wait=tenacity.wait_none(), stop=tenacity.stop_after_attempt(3))
    )
    with pytest.raises(ConflictError):
        wire.transact(add_one)
    assert b"__txstate__:claim:a" not in wire.strings
    assert names(wire.batches()[-1]) == ["DEL", *["ZADD", "PEXPIRE", "ZADD"], *["ZADD", "PEXPIRE"]]
    wire.assert_settled()


@pytest.mark.parametrize(("serves", "sent"), [(True, 1), (False, 0)])
def test_but_opens_no_door_where_a_slot_is_only_on_its_way_in(
    monkeypatch: pytest.MonkeyPatch, *, serves: bool, sent: int
) -> None:
    """What it had claimed came along from the owner; a key that is created there could keep the slot from moving."""
    monkeypatch.setattr(ScriptedChannel, "serves", lambda *_: serves)
    wire = contended(3)
    wire.settings = replace(
        wire.settings,
        retry=Retry(wait=tenacity.wait_none(), stop=tenacity.stop_after_attempt(3)),
        patience=0,
    )
    wire.strings[b"__txstate__:claim:a"] = b"id2 20"
    with pytest.raises(ConflictError):
        wire.transact(add_one)
    assert len(wire.batches("plain")) == sent


def test_only_what_comes_first_in_a_batch_may_block() -> None:
    """The driver looks for the first replies, one by one, to notice when the time of a wait is up."""
    wire = contended(2)
    taken = b"__txstate__:claim:a"

    def by_another(commands: Sequence[Command]) -> Sequence[object]:
        wire.strings[taken] = b"another"
        return wire.default(commands)

    def until_now(commands: Sequence[Command]) -> Sequence[object]:
        del wire.strings[taken]
        return wire.default(commands)

    def change(tx: Tx) -> None:
        b, a = tx.get_many(["b", "a"])
        b["n"] += a["n"]

    wire.next("read", {}, {}, by_another, until_now)
    wire.transact(change)
    assert waits_of(wire) == [b"__txstate__:line:a", b"__txstate__:door:a"]
    for sent in wire.effects:
        if isinstance(sent, Send):
            blocking = [float(command[2]) for command in sent.commands if command[0] == "BZPOPMIN"]
            assert list(sent.patience) == blocking
            assert names(sent.commands)[: len(blocking)] == ["BZPOPMIN"] * len(blocking)
    assert ("DEL", b"__txstate__:claim:b") in [
        command for batch in wire.batches("plain") for command in batch
    ]


def test_claims_that_are_refused_do_not_matter() -> None:
    wire = contended(3)
    refused: dict[str, object] = {"MGET": error("NOPERM no")}
    wire.next("read", *[refused] * 4)
    assert wire.transact(add_one) == 2


def test_a_claim_does_not_replace_the_watch() -> None:
    wire = contended(2)
    wire.transact(add_one)
    for batch in wire.batches("read"):
        assert ("WATCH", TOKEN, b"a") in batch


def test_a_refusal_of_the_commit_is_final_with_a_claim_too() -> None:
    wire = contended(2)
    wire.next("commit", [b"OK", QUEUED, QUEUED, QUEUED, error("EXECABORT because of: OOM x"), *[1] * 5])
    with pytest.raises(ServerRefused):
        wire.transact(add_one)
    wire.assert_settled()


@pytest.mark.parametrize("caught", [False, True])
def test_a_document_that_cannot_be_read_does_not_disturb_the_arming(*, caught: bool) -> None:
    """It is watched, but there is nothing of it to hand on."""
    wire = armed()
    wrong: dict[str, object] = {"HGETALL": error("WRONGTYPE Operation against a key"), "EXISTS": 2}

    def look(tx: Tx) -> int:
        if not caught:
            tx.get("b")
        with pytest.raises(WrongType):
            tx.get("b")
        return 5

    for _ in range(3):
        wire.next("read", wrong)
        wire.next("type", [b"list"])
        if caught:
            assert wire.transact(look) == 5
        else:
            with pytest.raises(WrongType):
                wire.transact(look)
    wire.assert_settled()


def test_a_read_that_has_claimed_its_key_leaves_nobody_else_with_the_claim() -> None:
    wire = armed()
    wire.next("commit", {"EXEC": None}, {"EXEC": None})

    def writes_twice(tx: Tx) -> int:
        return add_one(tx) if tx.attempt < 3 else read_one(tx)

    wire.transact(writes_twice)
    claims = [
        command
        for batch in wire.batches()
        for command in batch
        if b":claim:" in bytes(str(command[1:2]), "utf-8")
    ]
    assert any(command[0] == "SET" for command in claims), "the third attempt claims"
    wire.transact(add_one)
    assert not any(command[0] == "DEL" for command in wire.batches("commit")[-1])
