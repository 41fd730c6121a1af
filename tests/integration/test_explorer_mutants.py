"""The explorer finds what each broken mechanism breaks; the same exploration of the real engine finds nothing.

A mutant replaces one function of the engine, or of the driver. Errors inside of EXEC's array can't be reached in the
real engine, as nothing that could fail is sent: so that mutant comes together with one that sends HINCRBY.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from txstate._effects import Lost, Send
from txstate._engine import commit, readset, resolve
from txstate._engine.outcome import Committed, Outage, verdict
from txstate._engine.readset import FlaggedBatch, ReadSet
from txstate.resolution import Resolution
from txstate.testing import Report, explore
from txstate.testing._driver import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.servers import ServerHandle

    from txstate import Doc, Store, Tx
    from txstate._effects import Command, Steps
    from txstate._engine.attempt import Attempt
    from txstate.testing import Outcome

    Mutate = Callable[[pytest.MonkeyPatch], None]
    Exploration = Callable[[str], Report]


# What is explored.


def seed(store: Store) -> None:
    store.put("counter", {"n": 0})


def increment(store: Store) -> int:
    n: int = store.update("counter", add_one)["n"]
    return n


def add_one(doc: Doc) -> None:
    doc["n"] += 1


def each_exactly_once(store: Store, outcomes: Sequence[Outcome]) -> None:
    counter = store.get("counter")
    assert counter is not None
    certain = sum(outcome.applied is True for outcome in outcomes)
    possible = certain + sum(outcome.applied is None for outcome in outcomes)
    assert certain <= counter["n"] <= possible


def increments(url: str, *faults: str, **options: Any) -> Report:
    return explore(
        [increment, increment], setup=seed, invariant=each_exactly_once, faults=faults, server=url, **options
    )


def withdrawals(url: str) -> Report:
    """Write skew: each withdraws from one of two accounts, as long as both together have enough."""

    def withdraw(tx: Tx, key: str) -> None:
        accounts = tx.get_many(["x", "y"])
        if sum(account["balance"] for account in accounts) >= 100:
            tx.get(key)["balance"] -= 100

    def open_accounts(store: Store) -> None:
        for key in ("x", "y"):
            store.put(key, {"balance": 60})

    def not_overdrawn(store: Store) -> None:
        found = store.get_many(["x", "y"])
        assert sum(account["balance"] for account in found.values() if account is not None) >= 0

    return explore(
        [lambda store: store.run(withdraw, "x"), lambda store: store.run(withdraw, "y")],
        setup=open_accounts,
        invariant=not_overdrawn,
        server=url,
    )


def audit(url: str) -> Report:
    """A transaction that only reads, one document after the other, beside one that moves money between them."""

    def move(tx: Tx) -> None:
        a, b = tx.get_many(["a", "b"])
        a["balance"] -= 5
        b["balance"] += 5

    def total(tx: Tx) -> int:
        return int(tx["a"]["balance"] + tx["b"]["balance"])

    def open_accounts(store: Store) -> None:
        for key in ("a", "b"):
            store.put(key, {"balance": 50})

    def saw_all_the_money(store: Store, outcomes: Sequence[Outcome]) -> bool:
        return bool(outcomes[0].value == 100)

    return explore(
        [lambda store: store.run(total), lambda store: store.run(move)],
        setup=open_accounts,
        invariant=saw_all_the_money,
        server=url,
    )


def expiring(url: str) -> Report:
    """One document expires untouched, and another client then writes a second one that says so."""

    def look(tx: Tx) -> tuple[bool, bool]:
        return tx["session"].exists, tx["log"]["session_is_over"]

    def begin(store: Store) -> None:
        store.put("log", {"session_is_over": False})
        store.put("session", {"user": "ann"}, expire=0.05)

    def end_session(store: Store) -> None:
        time.sleep(0.055)
        store.put("log", {"session_is_over": True})

    def never_both(store: Store, outcomes: Sequence[Outcome]) -> bool:
        return bool(outcomes[0].value != (True, True))

    return explore(
        [lambda store: store.run(look)], setup=begin, invariant=never_both, faults=[end_session], server=url
    )


def crediting(url: str) -> Report:
    """The field to be incremented is not read by the function, and turns out to be no integer."""

    def pay(tx: Tx) -> None:
        a, b = tx.get("a"), tx.get("b", fields=["owner"])
        a["balance"] -= 5
        b.increment("balance", 5)

    def open_accounts(store: Store) -> None:
        store.put("a", {"balance": 50})
        store.put("b", {"balance": "fifty", "owner": "ann"})

    def nothing_is_debited(store: Store, outcomes: Sequence[Outcome]) -> None:
        a = store.get("a")
        assert a is not None
        assert a["balance"] == 50

    return explore(
        [lambda store: store.run(pay)], setup=open_accounts, invariant=nothing_is_debited, server=url
    )


# The mutants.


def instead_of(monkeypatch: pytest.MonkeyPatch, name: str, replaced: Callable[[Command], Command]) -> None:
    """Send another command in place of one in batches of reads."""
    real = ReadSet.batch

    def batch(*args: Any) -> Any:
        made = real(*args)
        made.commands = [replaced(command) if command[0] == name else command for command in made.commands]
        return made

    monkeypatch.setattr(ReadSet, "batch", batch)


def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, "WATCH", lambda _: ("WATCH", b"nothing"))


def one_key_of_two_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, "WATCH", lambda command: command[:3])


def token_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, "WATCH", lambda command: ("WATCH", b"nothing", *command[2:]))


def read_only_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readset, "client_flags", lambda _: b"N")


def expiry_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FlaggedBatch.take

    def take(batch: FlaggedBatch, replies: Sequence[object]) -> Any:
        seen = list(replies)
        before = sum(batch.known.present.values())
        new = sum(bool(reply) for reply in replies[batch._start : batch._start + len(batch.reads)])
        seen[batch._marks["exists"]] = before + new + 1
        return real(batch, seen)

    instead_of(monkeypatch, "EXISTS", lambda _: ("EXISTS", b"nothing"))
    monkeypatch.setattr(FlaggedBatch, "take", take)


def ask_by(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any, Any], Steps[bytes | None]]) -> None:
    """Resolve by a look at the token that `ask` returns."""

    def resolution(channel: Any, evidence: Any, settings: Any, timeout: float) -> Steps[Resolution]:
        value = yield from ask(channel, evidence)
        return Resolution.COMMITTED if value == evidence.number else Resolution.NOT_COMMITTED

    monkeypatch.setattr(resolve, "_ask", resolution)


def resolver_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        replies = yield Send(channel, [("GET", evidence.token)], 5.0)
        value: bytes | None = replies[0]
        return value

    ask_by(monkeypatch, ask)


def resolver_sets_if_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        replies = yield Send(channel, [("SET", evidence.token, b"fence", "NX", "GET")], 5.0)
        value: bytes | None = replies[0]
        return value

    ask_by(monkeypatch, ask)


def resolver_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(channel: Any, evidence: Any) -> Steps[bytes | None]:
        look = [("MULTI",), ("GET", evidence.token), ("SET", evidence.token, b"fence"), ("EXEC",)]
        replies = yield Send(channel, look, 5.0)
        value: bytes | None = replies[-1][0]
        return value

    ask_by(monkeypatch, ask)


def retried_without_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_doubt(_attempt: Attempt, lost: Lost) -> Steps[Outage]:
        yield from ()
        return Outage(lost)

    monkeypatch.setattr(commit, "_in_doubt", in_doubt)


def cancelled_commit_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lost, "interruption", None)
    retried_without_resolving(monkeypatch)


def silent_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Channel.exchange

    def exchange(channel: Channel, commands: Sequence[Command], timeout: float) -> list[object]:
        if channel.link is None:
            session = channel.session
            channel.connect(timeout)
            channel.session = session
        return real(channel, commands, timeout)

    monkeypatch.setattr(Channel, "exchange", exchange)


def hincrby_on_an_unread_field(monkeypatch: pytest.MonkeyPatch) -> None:
    real, pending = commit._writes, dict[bytes, list[tuple[bytes, int]]]()

    def read_pending(attempt: Attempt) -> Steps[None]:
        yield from ()
        for record in attempt.records.values():
            pending[attempt.settings.redis_key(record.key)] = list(record.pending_increments().items())
            record._pending.clear()

    def writes(*args: Any) -> list[Command]:
        increments = [
            ("HINCRBY", key, name, b"%d" % by) for key, items in pending.items() for name, by in items
        ]
        return [*real(*args), *increments]

    monkeypatch.setattr(commit, "_read_pending", read_pending)
    monkeypatch.setattr(commit, "_writes", writes)


def errors_in_the_array_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    hincrby_on_an_unread_field(monkeypatch)

    def blind(replies: Sequence[object], keys: Sequence[str]) -> Any:
        return Committed() if isinstance(replies[-1], list) else verdict(replies, keys)

    monkeypatch.setattr(commit, "verdict", blind)


def late(url: str) -> Report:
    return increments(url, "late_exec", preemptions=1)


def lossy(url: str) -> Report:
    return increments(url, "drop_reply", preemptions=1)


def lossy_twice(url: str) -> Report:
    return increments(url, "drop_reply", max_faults=2, preemptions=0)


def interrupting(url: str) -> Report:
    return increments(url, "interrupt", preemptions=1)


def cutting(url: str) -> Report:
    return increments(url, "cut")


@pytest.mark.parametrize(
    ("mutate", "exploration"),
    [
        (no_watch, increments),
        (one_key_of_two_watched, withdrawals),
        (token_not_watched, late),
        (read_only_without_validation, audit),
        (expiry_not_looked_for, expiring),
        (resolver_only_looks, late),
        (resolver_sets_if_missing, late),
        (resolver_overwrites, lossy_twice),
        (retried_without_resolving, lossy),
        (retried_without_resolving, late),
        (cancelled_commit_retried, interrupting),
        (silent_reconnect, cutting),
        (hincrby_on_an_unread_field, crediting),
        (errors_in_the_array_ignored, crediting),
    ],
)
def test_each_mutant_is_found(
    mutate: Mutate, exploration: Exploration, valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exploration(valkey9.unix_url)
    assert not real.violations, str(real.first)
    mutate(monkeypatch)
    # The server's own cycle of expiries may come between, which every engine would notice.
    assert any(exploration(valkey9.unix_url).violations for _ in range(10))
