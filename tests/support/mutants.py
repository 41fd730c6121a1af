"""The mutants: the engine and the drivers with one mechanism broken each, and what finds that out.

A mutant replaces functions at a seam, for one test. `MUTANTS` is the catalogue. To add one: write a function that takes
a `pytest.MonkeyPatch`, mark it with `@mutant`, and name the killers (`killers`) that catch it; what brings a mechanism
brings its mutant, and takes it off `MISSING`.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff
from support import killers

from txstate import store
from txstate._documents.doc import Record
from txstate._drivers.aio import AsyncChannel
from txstate._drivers.cluster import SyncClusterChannel
from txstate._drivers.source import Source
from txstate._drivers.sync import SyncChannel
from txstate._effects import Constant, Lost, Send
from txstate._engine import (
    armed,
    carried,
    commit,
    doubt,
    readset,
    repeated,
    resolve,
    session,
    shared,
    straight,
    straight_run,
    transaction,
)
from txstate._engine.armed import Tail
from txstate._engine.attempt import Attempt
from txstate._engine.documents import Documents
from txstate._engine.group import Groups, Member
from txstate._engine.outcome import Committed, Conflict, Outage, verdict
from txstate._engine.readset import FlaggedBatch, ReadSet
from txstate._engine.resolve import Evidence
from txstate._engine.writeset import write_set
from txstate.resolution import Resolution
from txstate.testing._explorer.driver import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest
    from support.servers import ServerHandle

    from txstate._effects import Command, Steps

    Mutate = Callable[[pytest.MonkeyPatch], None]
    Killer = Callable[[ServerHandle], killers.Found]

MISSING: Final[dict[str, str]] = {}
"""Mutants whose mechanism the engine does not have yet, and what will bring it."""


@dataclass(frozen=True)
class Mutant:
    """One of the catalogue.

    Attributes:
        name: what it does wrong.
        breaks: the promise that falls with it.
        mutate: applies it.
        killers: each of them catches it.
    """

    name: str
    breaks: str
    mutate: Mutate
    killers: tuple[Killer, ...]

    def __str__(self) -> str:
        return self.mutate.__name__


MUTANTS: Final[list[Mutant]] = []


def mutant(name: str, breaks: str, *killed_by: Killer) -> Callable[[Mutate], Mutate]:
    """Enter a function into the catalogue."""

    def enter(mutate: Mutate) -> Mutate:
        MUTANTS.append(Mutant(name, breaks, mutate, killed_by))
        return mutate

    return enter


# What is watched.


@mutant(
    "no WATCH",
    "P1",
    killers.increments,
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
)
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead_of(monkeypatch, "WATCH", lambda _: ("WATCH", b"nothing"))


@mutant("one key of two watched", "P1", killers.withdrawals)
def one_key_of_two_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead_of(monkeypatch, "WATCH", lambda command: tuple(command[:3]))


@mutant(
    "the token is not watched",
    "P2",
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
)
def token_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead_of(monkeypatch, "WATCH", lambda command: ("WATCH", b"nothing", *command[2:]))


@mutant("an armed snapshot is not watched", "P1", killers.increments_on_armed_connections)
def armed_snapshot_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tail.__init__

    def init(tail: Tail, *args: Any, **options: Any) -> None:
        real(tail, *args, **options)
        tail.commands = Constant(
            ("WATCH", b"nothing") if command[0] == "WATCH" else command for command in tail.commands
        )

    monkeypatch.setattr(Tail, "__init__", init)


@mutant("who has claimed a document commits without WATCH", "P1", killers.increments_on_armed_connections)
def claim_trusted_for_safety(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Attempt.exchange

    def exchange(attempt: Attempt, commands: Sequence[Command], *rest: Any, **more: Any) -> Steps[list[Any]]:
        if not commands or commands[0] != ("MULTI",) or not attempt.read_set.turn.held:
            return (yield from real(attempt, commands, *rest, **more))
        replies = yield from real(attempt, [("UNWATCH",), *commands], *rest, **more)
        return replies[1:]

    monkeypatch.setattr(Attempt, "exchange", exchange)


# What is read.


@mutant("reads are not validated", "P3, P4", killers.audit)
def read_only_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readset, "client_flags", lambda _: b"N")


@mutant("who only reads is sent after the token of its connection", "P4", killers.a_slot_that_moves)
def read_where_the_token_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any, reads: bool) -> Steps[Any]:
        assert reads
        return (yield from real(*args))

    real = session.connect
    monkeypatch.setattr(repeated, "connect", connect)


@mutant(
    "an armed snapshot is used without validation where nothing is written",
    "P4",
    killers.watching_a_counter,
    killers.a_slot_that_moved_since,
)
def armed_snapshot_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def prove(_attempt: Attempt) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(Attempt, "prove", prove)


@mutant("expired keys are not looked for", "P3, P7", killers.a_session_that_expires)
def expiry_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FlaggedBatch.take

    def take(batch: FlaggedBatch, replies: Sequence[object]) -> Any:
        seen = list(replies)
        before = sum(batch.known.present.values())
        new = sum(bool(reply) for reply in replies[batch._start : batch._start + len(batch.reads)])
        seen[batch._marks["exists"]] = before + new + 1
        return real(batch, seen)

    _instead_of(monkeypatch, "EXISTS", lambda _: ("EXISTS", b"nothing"))
    monkeypatch.setattr(FlaggedBatch, "take", take)


# What is written.


@mutant("HINCRBY is sent on a field that was not read", "P5", killers.payments_to_a_broken_account)
def hincrby_on_an_unread_field(monkeypatch: pytest.MonkeyPatch) -> None:
    real, pending = commit._commands, dict[bytes, list[tuple[bytes, int]]]()

    def read_pending(attempt: Attempt) -> Steps[None]:
        yield from ()
        for record in attempt.documents.records.values():
            pending[attempt.settings.redis_key(record.key)] = list(record.pending_increments().items())
            record.pending = {}

    def writes(*args: Any) -> list[Command]:
        increments = [
            ("HINCRBY", key, name, b"%d" % by) for key, items in pending.items() for name, by in items
        ]
        return [*real(*args), *increments]

    monkeypatch.setattr(commit, "_read_pending", read_pending)
    monkeypatch.setattr(commit, "_commands", writes)


@mutant("errors inside of EXEC's array are ignored", "P5", killers.payments_that_return)
def errors_in_the_array_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real engine sends nothing that could fail there; so this one comes together with the one above.
    hincrby_on_an_unread_field(monkeypatch)

    def blind(replies: Sequence[object], keys: Sequence[str]) -> Any:
        return Committed() if isinstance(replies[-1], list) else verdict(replies, keys)

    monkeypatch.setattr(commit, "verdict", blind)


@mutant("a repeated transaction takes a conflict for a commit", "P2", killers.increments_on_armed_connections)
def repeated_conflict_taken_for_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = "answer != _APPLIED and verdict(came[:size], (key,)) is not APPLIED"
    monkeypatch.setattr(store, "change", _rewritten(straight.change, judged, "False"))


@mutant(
    "a repeated transaction on two documents takes a conflict for a commit",
    "P2",
    killers.increments_of_two_on_armed_connections,
)
def repeated_conflict_on_two_taken_for_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight_run, "applied", lambda *_: True)


def _rewritten(function: Any, old: str, new: str) -> Any:
    """The function with another expression in it: what costs a call to be told apart is written out."""
    source = inspect.getsource(function)
    assert source.count(old) == 1
    names: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.replace(old, new), function.__globals__, names)  # noqa: S102 - it is our own
    return names[function.__name__]


# What becomes of a lost reply.


@mutant(
    "a lost reply is taken for a conflict, as WatchError is where it is caught as a class",
    "P2",
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
    killers.lost_replies,
)
def lost_reply_taken_for_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_doubt(_attempt: Attempt, _lost: Lost) -> Steps[Conflict]:
        yield from ()
        return Conflict()

    monkeypatch.setattr(commit, "in_doubt", in_doubt)


@mutant(
    "a cancelled commit is tried again",
    "P2",
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
)
def cancelled_commit_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doubt.in_doubt

    def in_doubt(attempt: Attempt, lost: Lost) -> Steps[Any]:
        if isinstance(lost.cause, Exception):
            return (yield from real(attempt, lost))
        return Outage(lost)

    monkeypatch.setattr(Lost, "interruption", None)
    monkeypatch.setattr(commit, "in_doubt", in_doubt)


@mutant(
    "those that share a commit are told that it was applied, whatever EXEC says", "P2", killers.shared_appends
)
def committed_whatever_exec_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Member.settle

    def settle(member: Member, finding: Any, _outcome: Any) -> None:
        real(member, finding, Committed())

    monkeypatch.setattr(Member, "settle", settle)


@mutant(
    "a leader whose commit is in doubt lets those that it carries try again", "P2", killers.shared_appends
)
def doubt_kept_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Member.settle

    def settle(member: Member, finding: Any, outcome: Any) -> None:
        real(member, None, outcome if finding is None else Conflict())

    monkeypatch.setattr(Member, "settle", settle)


@mutant("what one has changed that then raised is passed on to the next", "P2", killers.shared_appends)
def changes_of_who_raised_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Groups.pass_on

    def pass_on(groups: Groups, member: Member, attempt: Attempt) -> bool:
        attempt.writes = write_set(attempt)
        return real(groups, member, attempt)

    monkeypatch.setattr(Groups, "pass_on", pass_on)


@mutant(
    "what one raises that shares a commit leaves before the commit was validated",
    "P3",
    killers.shared_appends,
)
def raised_before_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = transaction._current

    def current(attempt: Attempt) -> Steps[bool]:
        if not shared.is_carried(attempt):
            return (yield from real(attempt))
        attempt.member.leave()  # type: ignore[union-attr]  # who is carried is a member
        return True

    monkeypatch.setattr(transaction, "_current", current)


@mutant(
    "one that joins a reader is shown what was read before it began",
    "P1, P4",
    killers.one_that_joins_a_reader,
    killers.shared_reads,
)
def shared_reading_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shared.carry_others

    def carry_others(attempt: Attempt, leader: Member, evidence: Any) -> Steps[Any]:
        before = attempt.read_set.unproven
        relay = yield from real(attempt, leader, evidence)
        attempt.read_set.unproven = before
        return relay

    monkeypatch.setattr(commit, "carry_others", carry_others)


@mutant(
    "a later attempt's reads are handed to others as what the first one had asked for",
    "P1",
    killers.one_after_an_attempt_that_read_a_part,
)
def armed_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armed, "_as_at_first", lambda _: True)


@mutant(
    "what a function goes on with counts as what it was refused",
    "P1",
    killers.one_after_a_function_that_was_refused_the_whole,
)
def part_got_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Documents, "refuse", lambda *_: None)


@mutant(
    "one that joins a later attempt gets what that has read as all that there is",
    "P1",
    killers.one_that_joins_an_attempt_that_read_a_part,
)
def part_carried_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Record.missing

    def missing(record: Record, fields: Sequence[str] | None) -> tuple[bytes, ...] | None:
        carries = sys._getframe(1).f_code is shared.carry_others.__code__
        return () if carries else real(record, fields)

    monkeypatch.setattr(Record, "missing", missing)


@mutant(
    "readers that met a conflict together are together again",
    "P6",
    killers.readers_who_meet_while_others_write,
)
def readers_never_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_others(attempt: Attempt, leader: Member) -> Steps[Any]:
        evidence = Evidence(attempt.session.token, attempt.session.next_id())
        return (yield from shared.carry_others(attempt, leader, lambda: evidence))

    real = carried._for_who_wrote_nothing
    monkeypatch.setattr(commit, "_carry_others", carry_others)
    monkeypatch.setattr(
        carried,
        "_for_who_wrote_nothing",
        lambda outcome: outcome if isinstance(outcome, Conflict) else real(outcome),
    )


@mutant("one whose turn was taken back is taken for carried", "P2", killers.shared_appends_that_lose_patience)
def turn_taken_back_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Groups.pass_on

    def pass_on(groups: Groups, member: Member, attempt: Attempt) -> bool:
        if not real(groups, member, attempt):
            member.outcome = Committed()
        return True

    monkeypatch.setattr(Groups, "pass_on", pass_on)


@mutant(
    "a leader goes on with a token that one who left it may ask for", "P2", killers.one_that_leaves_its_leader
)
def token_used_again_though_one_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Groups, "desert", lambda _groups, member: member.outcome)


@mutant(
    "the resolver looks at the token without touching it",
    "P2",
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
)
def resolver_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        replies = yield Send(channel, [("GET", evidence.token)], 5.0)
        value: bytes | None = replies[0]
        return value

    _ask_by(monkeypatch, ask)


@mutant("the resolver asks by SET NX GET", "P2", killers.increments_under_any_fault)
def resolver_sets_if_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        replies = yield Send(channel, [("SET", evidence.token, b"fence", "NX", "GET")], 5.0)
        value: bytes | None = replies[0]
        return value

    _ask_by(monkeypatch, ask)


@mutant(
    "the resolver overwrites the token: MULTI GET SET EXEC", "P2", killers.increments_with_two_lost_replies
)
def resolver_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        look = [("MULTI",), ("GET", evidence.token), ("SET", evidence.token, b"fence"), ("EXEC",)]
        replies = yield Send(channel, look, 5.0)
        value: bytes | None = replies[-1][0]
        return value

    _ask_by(monkeypatch, ask)


@mutant(
    "a token that is gone is taken for a commit that was not applied",
    "P2",
    killers.lost_replies_whose_token_is_gone,
)
def absent_token_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fence(*_: object) -> Steps[Resolution]:
        yield from ()
        return Resolution.NOT_COMMITTED

    monkeypatch.setattr(resolve, "_fence", fence)


# Connections.


@mutant(
    "the driver reconnects in silence between WATCH and EXEC",
    "P1",
    killers.increments_under_any_fault,
    killers.three_increments_under_any_fault,
    killers.cuts_between_watch_and_exec,
)
def silent_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Channel.exchange

    def exchange(channel: Channel, commands: Sequence[Command], timeout: float, *rest: Any) -> list[object]:
        if channel.link is None:
            session = channel.session
            channel.connect(timeout)
            channel.session = session
        return real(channel, commands, timeout, *rest)

    monkeypatch.setattr(Channel, "exchange", exchange)
    _sends_again(monkeypatch, lambda lost: not lost.replies)


@mutant("redis-py's retries are left on while sending", "P1", killers.lost_replies_beside_another_client)
def sent_again_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    _sends_again(monkeypatch, lambda _: True)


@mutant("redis-py's retries are left on while connecting", "P6", killers.connecting_in_vain)
def redis_py_retries_left_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Source.connection

    def connection(source: Source, timeout: float) -> Any:
        made = real(source, timeout)
        kind = redis.asyncio.retry.Retry if source.asynchronous else redis.retry.Retry
        made.retry = kind(NoBackoff(), 3)
        return made

    monkeypatch.setattr(Source, "connection", connection)


@mutant("EXEC alone is sent again after a redirection", "P1", killers.a_slot_that_moves_away)
def exec_alone_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SyncClusterChannel.exchange

    def exchange(
        channel: SyncClusterChannel, commands: Sequence[Command], timeout: float, *rest: Any
    ) -> list[object]:
        replies = real(channel, commands, timeout, *rest)
        if commands[0] == ("MULTI",) and any("MOVED" in str(reply) for reply in replies):
            session = channel.session
            channel.drop()
            channel._driver._connect(channel, timeout)
            channel.session = session
            return real(channel, commands, timeout, *rest)
        return replies

    monkeypatch.setattr(SyncClusterChannel, "exchange", exchange)


@mutant(
    "WAIT is sent on another connection than the one that wrote", "P8", killers.a_replica_that_stands_still
)
def wait_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sync, aio = SyncChannel.exchange, AsyncChannel.exchange

    def waits_in(channel: Any, commands: Sequence[Command]) -> dict[int, object]:
        """The answers to each WAIT of a batch, by its place."""
        with redis.Redis.from_url(channel._driver._source.url()) as other:
            return {
                place: other.execute_command(*command)
                for place, command in enumerate(commands)
                if command[0] == "WAIT"
            }

    def without(commands: Sequence[Command]) -> list[Command]:
        return [("PING",) if command[0] == "WAIT" else command for command in commands]

    def exchange(channel: SyncChannel, commands: Sequence[Command], *rest: Any) -> list[object]:
        replies = sync(channel, without(commands), *rest)
        for place, answer in waits_in(channel, commands).items():
            replies[place] = answer
        return replies

    async def exchange_later(channel: AsyncChannel, commands: Sequence[Command], *rest: Any) -> list[object]:
        replies = await aio(channel, without(commands), *rest)
        for place, answer in waits_in(channel, commands).items():
            replies[place] = answer
        return replies

    monkeypatch.setattr(SyncChannel, "exchange", exchange)
    monkeypatch.setattr(AsyncChannel, "exchange", exchange_later)


# How they are made.


def _instead_of(monkeypatch: pytest.MonkeyPatch, name: str, replaced: Callable[[Command], Command]) -> None:
    """Send another command in place of one in batches of reads."""
    real = ReadSet.batch

    def batch(*args: Any) -> Any:
        made = real(*args)
        made.commands = [replaced(command) if command[0] == name else command for command in made.commands]
        return made

    monkeypatch.setattr(ReadSet, "batch", batch)


def _ask_by(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any, Any], Steps[bytes | None]]) -> None:
    """Resolve by a look at the token that `ask` returns."""

    def resolution(channel: Any, evidence: Any, settings: Any, timeout: float) -> Steps[Resolution]:
        value = yield from ask(channel, evidence)
        return Resolution.COMMITTED if value == evidence.number else Resolution.NOT_COMMITTED

    monkeypatch.setattr(resolve, "_ask", resolution)


def _sends_again(monkeypatch: pytest.MonkeyPatch, which: Callable[[Lost], bool]) -> None:
    """Make both drivers send a batch again, on a new connection, when the one that it was sent on broke."""
    sync, aio = SyncChannel.exchange, AsyncChannel.exchange

    def exchange(
        channel: SyncChannel, commands: Sequence[Command], timeout: float, *rest: Any
    ) -> list[object]:
        session = channel.session
        try:
            return sync(channel, commands, timeout, *rest)
        except Lost as lost:
            if lost.interruption is not None or not which(lost):
                raise
        channel.drop()
        channel.connect(channel._driver._source, timeout)
        channel.session = session
        return sync(channel, commands, timeout, *rest)

    async def exchange_later(
        channel: AsyncChannel, commands: Sequence[Command], timeout: float, *rest: Any
    ) -> list[object]:
        session = channel.session
        try:
            return await aio(channel, commands, timeout, *rest)
        except Lost as lost:
            if lost.interruption is not None or not which(lost):
                raise
        channel.drop()
        await channel.connect(channel._driver._source, timeout)
        channel.session = session
        return await aio(channel, commands, timeout, *rest)

    monkeypatch.setattr(SyncChannel, "exchange", exchange)
    monkeypatch.setattr(AsyncChannel, "exchange", exchange_later)
