"""Calls of one process that share an attempt: what each sees, what is sent for all, and who is told what."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
from support.scripted import error, lost
from support.together import Box, Together

from txstate import events
from txstate._documents.changes import KEEP, Changes
from txstate._effects import Acquire, Park
from txstate._engine import relay
from txstate._engine.armed import signature_of
from txstate._engine.attempt import Attempt
from txstate._engine.group import LEADS, PATIENCE, QUEUEING, WAITS, Groups, Member
from txstate._engine.plain import resolve_token
from txstate.durability import Replicas
from txstate.errors import CodecError, CommitUnknown, ConflictError, ServerRefused, VersionMismatch
from txstate.resolution import Resolution
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.together import OneCall

    from txstate import Doc, Tx

QUEUED = b"QUEUED"


def append(value: int) -> Callable[[Doc], None]:
    def function(doc: Doc) -> None:
        doc["items"] = [*doc.get("items", []), value]

    return function


def fail(doc: Doc) -> None:
    doc["items"] = ["never"]
    raise LookupError(doc.get("items"))


def ended(*calls: OneCall) -> None:
    """Let them all come to their end, as whoever can go on does."""
    while any(not call.ended and not call.parked for call in calls):
        for call in calls:
            call.run()
    assert all(call.ended for call in calls), "somebody waits for ever"


def lose_patience(wire: Together, call: OneCall, most: float) -> None:
    """Let it wait in vain until it goes on by itself, for so many seconds at most."""
    until = wire.now + most
    while call.parked:
        assert wire.now < until, "it still waits"
        call.run_out()


def items(wire: Together) -> object:
    return wire.hashes[b"k"].get(b"items")


def test_one_commit_carries_all_that_wait_each_on_the_result_of_the_one_before() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), append(2), append(3))
    ended(*calls)
    assert items(wire) == b"[1,2,3]"
    assert [call.result["items"] for call in calls] == [[1], [1, 2], [1, 2, 3]]
    assert wire.kinds() == ["read", "commit"]
    assert [call.runs for call in calls] == [1, 1, 1]
    wire.assert_settled()


def test_each_has_a_version_of_its_own_and_the_last_one_is_stored() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), append(2), append(3))
    ended(*calls)
    versions = [call.result.version for call in calls]
    assert versions == sorted(set(versions))
    assert wire.hashes[b"k"][b"__version__"] == b"%d" % versions[-1]


def test_a_document_that_is_deleted_and_made_anew_in_between_repeats_no_version() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), lambda doc: doc.delete(), append(3), append(4))
    ended(*calls)
    first, gone, *later = (call.result.version for call in calls)
    assert gone == 0
    assert first < later[0] < later[1]
    assert items(wire) == b"[3,4]"
    assert b"n" not in wire.hashes[b"k"]
    (commit,) = wire.batches("commit")
    names = [str(command[0]) for command in commit]
    assert names.index("DEL") < names.index("HSET")


def test_if_version_is_compared_with_what_the_one_before_has_left() -> None:
    wire = Together(k={"n": 1})

    def if_seven(doc: Doc) -> None:
        if doc.version != 7:
            raise VersionMismatch(doc.key, 7, doc.version)
        append(1)(doc)

    calls = wire.all_waiting(if_seven, if_seven)
    ended(*calls)
    assert calls[0].error is None
    assert isinstance(calls[1].error, VersionMismatch)
    assert calls[1].error.found == calls[0].result.version


def test_one_that_raises_is_left_out_and_raises_only_after_the_commit() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), fail, append(3))
    calls[0].run(until="commit")
    for call in calls[1:]:
        call.run()
    calls[0].run(until="commit")
    assert calls[1].runs == 1
    assert calls[1].parked, "its exception left before what it saw was known to be true"
    ended(*calls)
    assert isinstance(calls[1].error, LookupError)
    assert items(wire) == b"[1,3]"


def test_an_exception_from_what_was_never_true_does_not_get_out() -> None:
    wire = Together(k={"n": 1})

    def odd(doc: Doc) -> None:
        if len(doc["items"]) != 2:
            raise LookupError(doc["items"])

    def foreign(_: Any) -> list[object]:
        wire.hashes[b"k"][b"items"] = b"[8]"
        return [QUEUED] * 3 + [None]

    wire.next("commit", lambda commands: [*foreign(commands)][: len(commands)])
    calls = wire.all_waiting(append(1), odd)
    ended(*calls)
    assert calls[1].error is None
    assert calls[1].runs == 2
    assert items(wire) == b"[8,1]"


def test_after_a_conflict_all_run_again_and_none_is_told_that_it_has_committed() -> None:
    wire = Together(k={"n": 1})
    wire.next("commit", {"EXEC": None})
    calls = wire.all_waiting(append(1), append(2), append(3))
    ended(*calls)
    assert [call.runs for call in calls] == [2, 2, 2]
    assert sorted(call.result["items"][-1] for call in calls) == [1, 2, 3]
    stored = items(wire)
    assert isinstance(stored, bytes)
    assert sorted(stored) == sorted(b"[1,2,3]")
    stats = wire.settings.counters.stats()
    assert (stats.commits, stats.conflicts, stats.attempts) == (3, 3, 6)


def test_each_gives_up_by_its_own_limits() -> None:
    wire = Together(k={"n": 1}, deadline=10.0)
    wire.next("commit", {"EXEC": None})
    import tenacity  # noqa: PLC0415 - for this one

    once = replace(wire.settings, retry=Retry(stop=tenacity.stop_after_attempt(1)))
    leader = wire.update(append(1))
    impatient = wire.call(lambda tx: append(2)(tx.get("k")), settings=once).run()
    ended(leader, impatient)
    assert isinstance(impatient.error, ConflictError)
    assert items(wire) == b"[1]"


def test_those_that_only_read_are_validated_once_for_all() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(lambda doc: doc["n"], lambda doc: doc["n"], lambda doc: doc["n"])
    ended(*calls)
    assert wire.kinds() == ["read", "read"]  # the second is the proof: two of them had come after the first
    assert wire.settings.counters.stats().reads == 3


def test_a_leader_that_only_reads_commits_for_the_others_and_is_told_nothing_of_their_trouble() -> None:
    wire = Together(k={"n": 1})
    wire.next("commit", lost(sent=True))
    wire.next("ask", *[lost()] * 100)
    wire.next("fence", *[lost()] * 100)
    calls = wire.all_waiting(lambda doc: doc["n"], append(2))
    ended(*calls)
    assert calls[0].error is None or not isinstance(calls[0].error, CommitUnknown)


def test_events_and_counts_are_those_of_transactions_that_ran_one_at_a_time() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), append(2), lambda doc: doc["n"])
    ended(*calls)
    committed = [event for event in wire.events if isinstance(event, events.Committed)]
    assert [event.written for event in sorted(committed, key=lambda event: event.written)] == [
        (),
        ("k",),
        ("k",),
    ]
    assert all(event.keys == ("k",) and event.attempts == 1 for event in committed)
    stats = wire.settings.counters.stats()
    assert (stats.commits, stats.reads, stats.attempts) == (2, 1, 3)


def test_callbacks_see_the_versions_of_their_own_transaction() -> None:
    wire = Together(k={"n": 1})
    seen: list[tuple[int, int]] = []

    def register(value: int) -> Callable[[Tx], None]:
        def function(tx: Tx) -> None:
            doc = tx.get("k")
            append(value)(doc)
            tx.on_commit(lambda: seen.append((value, doc.committed_version)))

        return function

    calls = [wire.call(register(value)).run(until="read") for value in (1, 2)]
    ended(*calls)
    assert sorted(seen) == [(1, calls[0].result.version), (2, calls[1].result.version)]


# Lost replies.


def test_a_lost_reply_is_resolved_once_for_all() -> None:
    wire = Together(k={"n": 1})

    def applied(commands: Any) -> list[object]:
        wire.default(commands)
        raise lost()

    wire.next("commit", applied)
    calls = wire.all_waiting(append(1), append(2), append(3))
    ended(*calls)
    assert items(wire) == b"[1,2,3]"
    assert [call.runs for call in calls] == [1, 1, 1]
    assert wire.kinds() == ["read", "commit", "ask"]
    stats = wire.settings.counters.stats()
    assert (stats.in_doubt, stats.resolved_committed, stats.commits) == (3, 3, 3)


def test_a_commit_that_never_arrived_runs_again_for_all() -> None:
    wire = Together(k={"n": 1})
    wire.next("commit", lost())
    calls = wire.all_waiting(append(1), append(2))
    ended(*calls)
    assert [call.runs for call in calls] == [2, 2]
    stored = items(wire)
    assert isinstance(stored, bytes)
    assert sorted(stored) == sorted(b"[1,2]")


def test_where_the_leader_finds_nothing_out_each_asks_for_itself() -> None:
    wire = Together(k={"n": 1}, deadline=10.0)

    def applied(commands: Any) -> list[object]:
        wire.default(commands)
        raise lost()

    wire.next("commit", applied)
    wire.next("ask", *[lost()] * 200)
    short = replace(wire.settings, retry=Retry(deadline=0.5))
    leader = wire.call(lambda tx: append(1)(tx.get("k")), settings=short)
    others = [wire.update(append(2)).run(), wire.update(lambda doc: doc["n"]).run()]
    leader.run(until="commit")
    for other in others:
        other.run()
    assert leader.run().ended
    wire.script["ask"].clear()
    ended(*others)
    assert isinstance(leader.error, CommitUnknown)
    assert others[0].error is None, "it had time left to find out"
    assert others[0].runs == 1
    assert others[1].error is None
    assert items(wire) == b"[1,2]"


def test_one_whose_time_is_over_before_the_leader_says_a_word_knows_nothing() -> None:
    wire = Together(k={"n": 1})
    short = replace(wire.settings, retry=Retry(deadline=0.5))
    leader = wire.update(append(1))
    other = wire.call(lambda tx: append(2)(tx.get("k")), settings=short).run()
    leader.run(until="commit")
    other.run()
    leader.run(until="commit")
    other.run_out()
    ended(other)
    assert isinstance(other.error, CommitUnknown)
    assert other.error.known is Resolution.UNKNOWN
    assert other.error.token is not None
    ended(leader)


@pytest.mark.parametrize("end", ["deadline", "interruptions"])
@pytest.mark.parametrize("execute", [{}, {"EXEC": None}], ids=["applied", "conflict"])
def test_what_it_asks_for_later_is_not_covered_by_what_the_leader_s_connection_did_next(
    end: str, execute: dict[str, object]
) -> None:
    wire = Together(k={"n": 1}, deadline=100.0)
    wire.next("commit", execute)
    short = replace(wire.settings, retry=Retry(deadline=0.5))
    leader = wire.update(append(1))
    other = wire.call(lambda tx: append(2)(tx.get("k")), settings=short).run()
    third = wire.update(append(3)).run()
    leader.run(until="commit")
    other.run()
    third.run()
    leader.run(until="commit")
    if end == "deadline":
        other.run_out()
    else:
        other.interrupt()
        other.interrupt()
    ended(other)
    ended(leader, third)
    for value in (4, 5):
        ended(wire.update(append(value)))
    known = other.error if end == "deadline" else other.error.__cause__  # type: ignore[union-attr]
    assert isinstance(known, CommitUnknown)
    assert known.token is not None
    found = wire.run(resolve_token(wire.settings, known.token))
    stored = orjson.loads(wire.hashes[b"k"][b"items"])
    assert found is (Resolution.NOT_COMMITTED if execute else Resolution.COMMITTED)
    assert (2 in stored) is (found is Resolution.COMMITTED)
    assert {*stored, 2} == {1, 2, 3, 4, 5}
    wire.assert_settled()


def test_what_the_server_refuses_one_is_not_refused_to_others() -> None:
    wire = Together(k={"n": 1})
    wire.next("commit", {"EXEC": error("OOM command not allowed"), "SET": error("OOM command not allowed")})
    calls = wire.all_waiting(append(1), append(2))
    ended(*calls)
    assert isinstance(calls[0].error, ServerRefused)
    assert calls[1].error is None
    assert items(wire) == b"[2]"


# Interruptions.


def test_one_that_waits_and_is_interrupted_leaves_no_trace() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(append(1), append(2), append(3))
    calls[1].interrupt()
    assert isinstance(calls[1].error, KeyboardInterrupt)
    ended(*calls)
    assert calls[1].error.__cause__ is None
    assert items(wire) == b"[1,3]"


def test_one_whose_function_is_interrupted_is_left_out_and_the_turn_passes_on() -> None:
    wire = Together(k={"n": 1})

    def interrupt(doc: Doc) -> None:
        append(2)(doc)
        raise KeyboardInterrupt

    calls = wire.all_waiting(append(1), interrupt, append(3))
    ended(*calls)
    assert isinstance(calls[1].error, KeyboardInterrupt)
    assert calls[1].error.__cause__ is None
    assert items(wire) == b"[1,3]"


@pytest.mark.parametrize("answer", ["committed", "conflict", "lost"])
@pytest.mark.parametrize("sent", [False, True])
def test_one_that_has_passed_on_its_changes_waits_for_what_becomes_of_them(
    answer: str, *, sent: bool
) -> None:
    wire = Together(k={"n": 1})
    if answer == "conflict":
        wire.next("commit", {"EXEC": None})
    if answer == "lost":
        wire.next("commit", lost())
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="commit")
    other.run()
    if sent:
        leader.run(until="commit")
    other.interrupt()
    assert not other.ended
    ended(leader, other)
    assert isinstance(other.error, KeyboardInterrupt)
    cause = other.error.__cause__
    if answer == "committed":
        assert isinstance(cause, CommitUnknown)
        assert cause.known is Resolution.COMMITTED
        assert items(wire) == b"[1,2]"
    else:
        assert cause is None
        assert items(wire) == b"[1]"


def test_a_second_interruption_ends_the_wait() -> None:
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="commit")
    other.run()
    first = KeyboardInterrupt("first")
    other.interrupt(first).interrupt(KeyboardInterrupt("second"))
    assert other.error is first
    assert isinstance(first.__cause__, CommitUnknown)
    assert first.__cause__.known is Resolution.UNKNOWN
    ended(leader)


@pytest.mark.parametrize(
    "moment", ["its function", "while others run", "before one knows of its turn", "before it has sent"]
)
def test_a_leader_that_is_interrupted_leaves_the_others_to_each_other(moment: str) -> None:
    wire = Together(k={"n": 1})

    def interrupt(doc: Doc) -> None:
        append(1)(doc)
        raise KeyboardInterrupt

    leader, *others = wire.all_waiting(
        interrupt if moment == "its function" else append(1), append(2), append(3)
    )
    if moment != "its function":
        leader.run(until="commit")
        assert leader.parked
        others[0].run()
        if moment == "while others run":
            others[1].step()
        elif moment == "before it has sent":
            others[1].run()
            leader.step()
        leader.interrupt()
    ended(leader, *others)
    assert isinstance(leader.error, KeyboardInterrupt)
    assert leader.error.__cause__ is None
    assert [other.error for other in others] == [None, None]
    stored = items(wire)
    assert isinstance(stored, bytes)
    assert sorted(stored) == sorted(b"[2,3]")
    assert not wire.groups._leaders


@pytest.mark.parametrize("applied", [True, False])
def test_a_leader_that_is_interrupted_in_doubt_tells_the_others_what_it_finds(*, applied: bool) -> None:
    wire = Together(k={"n": 1})
    wire.delivers = applied
    calls = wire.all_waiting(append(1), append(2))
    calls[0].run(until="commit")
    calls[1].run()
    calls[0].run(until="commit")
    wire.interruptions[len(wire.effects)] = KeyboardInterrupt()
    ended(*calls)
    assert isinstance(calls[0].error, KeyboardInterrupt)
    assert isinstance(calls[0].error.__cause__, CommitUnknown) is applied
    assert calls[1].error is None
    assert calls[1].runs == (1 if applied else 2)
    assert items(wire) == (b"[1,2]" if applied else b"[2]")


# Nobody waits for long.


def test_the_leader_takes_the_turn_back_from_a_function_that_takes_too_long() -> None:
    wire = Together(k={"n": 1})
    leader, slow, third = wire.all_waiting(append(1), append(2), append(3))
    leader.run(until="commit")
    slow.step()
    assert not slow.parked, "its function is about to run"
    leader.run_out()
    ended(leader)
    assert items(wire) in (b"[1]", b"[1,3]")
    ended(slow, third)
    assert slow.runs == 2, "what it had seen is not known to have been true"
    stored = items(wire)
    assert isinstance(stored, bytes)
    assert sorted(stored) == sorted(b"[1,2,3]")


def test_who_waits_for_a_slow_leader_goes_on_by_itself_and_later_ones_do_so_at_once() -> None:
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="read")
    lose_patience(wire, other, 2 * PATIENCE)
    ended(other)
    assert items(wire) == b"[2]"
    later = wire.update(append(3)).run()
    assert later.ended
    ended(leader)


def test_a_leader_that_waits_for_a_connection_is_waited_for_longer() -> None:
    """Who left it would have to wait for one as well."""
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    wire.now += PATIENCE
    assert other.run_out().parked
    later = wire.update(append(3)).run()
    assert later.parked
    leader.run(until="read")
    wire.now += PATIENCE / 2
    ended(leader, other, later)
    assert wire.kinds() == ["read", "commit"]


def test_so_is_one_that_stands_in_line_on_the_server() -> None:
    """Who left it would stand there as well, on a connection of its own."""
    wire = Together(k={"n": 1})
    wire.strings[b"__txstate__:claim:k"] = b"another"
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="read")
    leader.step()
    leader.run(until="read")
    for _ in range(3):
        assert other.run_out().parked
    del wire.strings[b"__txstate__:claim:k"]
    ended(leader, other)
    assert wire.kinds() == ["read", "read", "commit"]


def test_but_not_for_ever() -> None:
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    lose_patience(wire, other, 1.5 * QUEUEING)
    ended(other)
    ended(leader)
    assert items(wire) == b"[2,1]"


def test_where_all_wait_for_the_processor_a_leader_is_waited_for_longer() -> None:
    """A wait that ends late tells that the leader, too, gets on later than it could."""
    wire = Together(k={"n": 1})
    leader, *others = wire.all_waiting(append(1), append(2), append(3), append(4))
    leader.run(until="read")
    busy = PATIENCE / 2
    wire.now += busy
    assert others[0].run_out().parked  # not yet for too long; and it woke up too late
    wire.now += PATIENCE
    assert others[1].run_out().parked, "it left a leader that only waits for its turn"
    later = wire.update(append(5)).run()
    assert later.parked
    ended(leader, *others, later)
    assert wire.kinds() == ["read", "commit"]


def test_a_leader_that_still_connects_is_waited_for_like_one_that_waits_for_a_connection() -> None:
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="proof")
    wire.now += PATIENCE
    assert other.run_out().parked
    ended(leader, other)
    assert wire.kinds() == ["read", "commit"]


def test_one_that_reads_more_runs_again_on_a_connection_of_its_own() -> None:
    wire = Together(k={"n": 1}, other={"n": 5})

    def both(tx: Tx) -> None:
        doc = tx.get("k")
        doc["sum"] = doc["n"] + tx.get("other")["n"]

    leader = wire.update(append(1))
    reader, third = wire.call(both).run(), wire.update(append(3)).run()
    ended(leader, reader, third)
    assert wire.hashes[b"k"][b"sum"] == b"6"
    assert reader.runs == 2
    assert third.runs == 1
    assert items(wire) == b"[1,3]"


def test_one_that_gave_way_and_begins_with_more_than_at_first_does_not_wait_for_those_who_begin_with_less() -> (
    None
):
    """To give way counts as no attempt; but the next one begins with all that the last one had asked for."""
    wire = Together(k={"n": 1}, other={"n": 5})
    leader = wire.update(append(1))
    again = Attempt(wire.settings, 1, 10.0, None, signature=signature_of(wire.settings, {"k": None}))
    assert isinstance(next(iter(again.begin({"k": None, "other": None}))), Acquire)
    assert again.member is None
    alike = Attempt(wire.settings, 1, 10.0, None, signature=signature_of(wire.settings, {"k": None}))
    assert isinstance(next(iter(alike.begin({"k": None}))), Park)
    ended(leader)


def test_for_a_while_calls_like_one_that_could_not_be_carried_keep_apart() -> None:
    wire = Together(k={"n": 1}, other={"n": 5})
    leader = wire.update(append(1))
    reader = wire.call(lambda tx: [tx.get("k"), tx.get("other")]).run()
    ended(leader, reader)
    first = wire.update(append(2))
    assert wire.update(append(3)).run().ended
    ended(first)
    wire.now += 2.0
    calls = wire.all_waiting(append(4), append(5))
    ended(*calls)
    assert wire.kinds().count("commit") == 4


def test_an_attempt_takes_up_a_bounded_number() -> None:
    wire = Together(k={"n": 0})
    wire.latency = 0.0
    calls = wire.all_waiting(*[lambda doc: doc.increment("n")] * (relay.MOST + 6))
    ended(*calls)
    assert wire.hashes[b"k"][b"n"] == b"%d" % len(calls)
    assert wire.kinds().count("commit") == 2


def test_an_attempt_takes_up_others_for_a_bounded_time() -> None:
    wire = Together(k={"n": 0})

    def slow(doc: Doc) -> None:
        wire.now += relay.LONGEST / 2
        doc.increment("n")

    calls = wire.all_waiting(*[slow] * 7)
    ended(*calls)
    assert wire.hashes[b"k"][b"n"] == b"7"
    assert wire.kinds().count("commit") > 1


def test_whoever_comes_while_the_commit_is_on_its_way_is_in_the_next_one() -> None:
    wire = Together(k={"n": 1})
    leader = wire.update(append(1)).run(until="commit")
    others = [wire.update(append(value)).run() for value in (2, 3)]
    assert all(other.parked for other in others)
    ended(leader, *others)
    assert wire.kinds().count("commit") == 2
    assert items(wire) == b"[1,2,3]"


# What is shared, and what is not.


def test_a_partial_document_shows_no_more_than_was_asked_for() -> None:
    wire = Together(k={"a": 1, "b": 2, "c": 3})
    seen: list[set[str]] = []

    def add(tx: Tx) -> None:
        doc = tx.get("k", ["a"])
        seen.append(set(doc.to_dict()))
        doc.increment("a")
        doc["new"] = 1

    calls = [wire.call(add, {"k": ["a"]}) for _ in range(3)]
    ended(*calls)
    assert seen == [{"a"}] * 3
    assert wire.hashes[b"k"][b"a"] == b"4"
    assert wire.hashes[b"k"][b"new"] == b"1"


def test_calls_that_ask_for_something_else_or_for_more_durability_don_t_share() -> None:
    wire = Together(k={"a": 1})
    leader = wire.update(append(1))
    assert wire.call(lambda tx: tx.get("k", ["a"]), {"k": ["a"]}).run().ended
    durable = replace(wire.settings, durability=Replicas(1))
    assert not wire.call(lambda tx: tx.get("k"), settings=durable).parked
    ended(leader)


def test_what_can_t_be_stored_is_refused_to_who_wrote_it() -> None:
    wire = Together(k={"n": 1})

    def bad(doc: Doc) -> None:
        doc["items"] = []
        doc["items"].append(object())

    calls = wire.all_waiting(append(1), bad, append(3))
    ended(*calls)
    assert isinstance(calls[1].error, CodecError)
    assert items(wire) == b"[1,3]"


def test_expiries_of_several_add_up_to_the_last_one() -> None:
    wire = Together(k={"n": 1})
    calls = wire.all_waiting(lambda doc: doc.expire(5), append(2), lambda doc: doc.expire(None), append(4))
    ended(*calls)
    (commit,) = wire.batches("commit")
    assert ("PERSIST", b"k") in commit
    assert not any(command[0] == "PEXPIRE" for command in commit)


def test_a_forked_child_forgets_whom_it_does_not_have() -> None:
    wire = Together(k={"n": 1})
    leader, other = wire.all_waiting(append(1), append(2))
    leader.run(until="commit")
    other.step()
    wire.groups.forget()
    ended(other)
    assert other.error is None
    assert b"2" in (wire.hashes[b"k"][b"items"])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            Changes(delete_first=False, set={b"a": b"1"}, unset=(b"b",), exists=True, ttl=5),
            Changes(delete_first=False, set={b"b": b"2"}, unset=(b"a",), exists=True, ttl=KEEP),
            Changes(delete_first=False, set={b"b": b"2"}, unset=(b"a",), exists=True, ttl=5),
        ),
        (
            Changes(delete_first=False, set={b"a": b"1"}, unset=(), exists=True, ttl=5),
            Changes(delete_first=True, set={b"b": b"2"}, unset=(), exists=True, ttl=KEEP),
            Changes(delete_first=True, set={b"b": b"2"}, unset=(), exists=True, ttl=KEEP),
        ),
        (
            Changes(delete_first=True, set={}, unset=(), exists=False, ttl=KEEP),
            Changes(delete_first=False, set={b"b": b"2"}, unset=(), exists=True, ttl=None),
            Changes(delete_first=True, set={b"b": b"2"}, unset=(), exists=True, ttl=None),
        ),
    ],
)
def test_changes_add_up(first: Changes, second: Changes, expected: Changes) -> None:
    assert first.then(second) == expected


def one_more(groups: Groups) -> Member:
    """A call that goes the long way comes, and gets its place."""
    settings = SimpleNamespace(durability=None)
    attempt = SimpleNamespace(settings=settings, signature="signature", deadline=10.0)
    member = groups.enter(cast("Attempt", attempt), {})
    assert member is not None
    return member


def test_a_call_on_its_own_leads_again_and_again_until_another_has_taken_over() -> None:
    groups = Groups(threading.RLock, Box, lambda: 0.0)
    alone, rival = groups.alone("signature", {}), groups.alone("signature", {})
    for _ in range(2):
        assert groups.lead(alone, 10.0)
        assert not groups.lead(rival, 10.0), "two lead the same"
        assert groups.resign(alone)
    other = one_more(groups)
    assert other.place is LEADS, "it waits for one that has left"
    assert not groups.lead(alone, 10.0)
    groups.leave(other)
    assert groups.lead(alone, 10.0)


def test_who_waits_for_a_call_on_its_own_leads_when_that_has_left() -> None:
    groups = Groups(threading.RLock, Box, lambda: 0.0)
    alone = groups.alone("signature", {})
    groups.lead(alone, 10.0)
    other = one_more(groups)
    assert other.place is WAITS
    assert not groups.resign(alone), "it has a group now, and can't lead again without it"
    assert other.place is LEADS


def test_nobody_waits_for_a_call_that_leaves_in_the_moment_in_which_it_is_found() -> None:
    left: list[bool] = []

    def clock() -> float:
        if alone is not None and not left:  # its group is being made
            left.append(groups.resign(alone))
        return 0.0

    alone: Member | None = None
    groups = Groups(threading.Lock, Box, clock)
    alone = groups.alone("signature", {})
    groups.lead(alone, 10.0)
    other = one_more(groups)
    assert left == [True], "the moment did not come"
    assert other.place is LEADS


class Contended:
    """A lock that somebody else is quicker to take, once."""

    quicker: Callable[[], object] | None = None

    def __enter__(self) -> None:
        quicker, self.quicker = self.quicker, None
        if quicker is not None:
            quicker()

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("straight", [False, True])
def test_whoever_comes_while_a_call_on_its_own_leaves_does_not_take_the_place_of_those_who_wait(
    straight: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    lock = Contended()
    groups = Groups(lambda: lock, Box, lambda: 0.0)
    alone, rival = groups.alone("signature", {}), groups.alone("signature", {})
    groups.lead(alone, 10.0)
    waiting = one_more(groups)
    late: list[Member] = []

    def comes() -> None:
        if straight:
            assert not groups.lead(rival, 10.0)
        else:
            late.append(one_more(groups))

    lock.quicker = comes
    assert not groups.resign(alone)
    assert waiting.place is LEADS, "nobody has told it that it leads"
    assert isinstance(waiting.mailbox, Box)
    assert waiting.mailbox.full
    groups.leave(waiting)
    assert [member.place for member in late] == [LEADS] * (not straight), "it has lost its place in the line"


def test_leaders_of_what_is_asked_for_no_more_are_forgotten() -> None:
    groups = Groups(threading.Lock, Box, lambda: 0.0)
    busy = groups.alone("busy", {})
    groups.lead(busy, 10.0)
    for number in range(1000):
        member = groups.alone(f"signature {number}", {})
        assert groups.lead(member, 10.0)
        groups.resign(member)
    assert len(groups._leaders) < 300
    assert groups._leaders[busy.signature] is busy


def test_who_waits_for_a_call_that_leaves_is_not_forgotten_with_it() -> None:
    lock = Contended()
    groups = Groups(lambda: lock, Box, lambda: 0.0)
    alone = groups.alone("signature", {})
    groups.lead(alone, 10.0)
    waiting = one_more(groups)
    for number in range(256):
        member = groups.alone(f"signature {number}", {})
        groups.lead(member, 10.0)
        groups.resign(member)
    lock.quicker = lambda: groups.alone("one more", {})
    groups.resign(alone)
    assert waiting.place is LEADS
    assert len(groups._leaders) < 256, "nothing was forgotten meanwhile"
