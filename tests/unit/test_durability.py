"""Durability (design 4.9): what is asked for, what is sent for it, and what is made of the answer."""

from __future__ import annotations

import dataclasses
import math
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import CLEAN, QUEUED, Wire, error, lost

from txstate import Fsync, NotDurable, Replicas, ServerRefused, Store, UsageError, events
from txstate._effects import Lost, Send

if TYPE_CHECKING:
    from txstate import Durability
    from txstate._engine.settings import Settings
    from txstate.tx import Tx

NOWHERE = "redis://127.0.0.1:1/0"
TOKEN = b"__txstate__:token:id1"
ON_DISK = Fsync(replicas=1, timeout=0.25)
CASES = pytest.mark.parametrize(
    ("durability", "command", "enough", "short"),
    [
        (Replicas(2), ("WAIT", b"2", b"500"), 2, 1),
        (ON_DISK, ("WAITAOF", b"1", b"1", b"250"), [1, 1], [1, 0]),
        (ON_DISK, ("WAITAOF", b"1", b"1", b"250"), [1, 3], [0, 2]),
        (Fsync(local=False, replicas=2), ("WAITAOF", b"0", b"2", b"500"), [0, 2], [1, 1]),
    ],
)


def add_one(tx: Tx) -> int:
    return tx.get("a").increment("n")


def durable(wire: Wire, durability: Durability) -> Settings:
    return replace(wire.settings, durability=durability)


# What is asked for


@pytest.mark.parametrize("level", [Replicas(1), Replicas(3, timeout=2), Fsync(), ON_DISK])
def test_a_level_is_a_value(level: Any) -> None:
    assert pickle.loads(pickle.dumps(level)) == level  # noqa: S301 - our own
    assert hash(level) == hash(pickle.loads(pickle.dumps(level)))  # noqa: S301 - same
    with pytest.raises(dataclasses.FrozenInstanceError):
        level.timeout = 1.0
    with Store(NOWHERE, durability=level) as store:
        assert store._settings.durability == level
        assert pickle.loads(pickle.dumps(store))._settings.durability == level  # noqa: S301 - same


@pytest.mark.parametrize(
    "make",
    [
        lambda: Replicas(0),
        lambda: Replicas(-1),
        lambda: Replicas(True),
        lambda: Replicas(1.0),  # type: ignore[arg-type]
        lambda: Replicas("1"),  # type: ignore[arg-type]
        lambda: Replicas(1, timeout=0),
        lambda: Replicas(1, timeout=-1),
        lambda: Replicas(1, timeout=math.inf),
        lambda: Replicas(1, timeout=math.nan),
        lambda: Replicas(1, timeout=True),
        lambda: Replicas(1, timeout="1"),  # type: ignore[arg-type]
        lambda: Fsync(local=False),
        lambda: Fsync(local=1),  # type: ignore[arg-type]
        lambda: Fsync(replicas=-1),
        lambda: Fsync(replicas=True),
        lambda: Fsync(timeout=0),
        lambda: Store(NOWHERE, durability=1),  # type: ignore[arg-type]
        lambda: Store(NOWHERE, durability=Replicas),  # type: ignore[arg-type]
        lambda: Store(NOWHERE).options(durability="always"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_a_view_changes_it_takes_it_away_or_leaves_it() -> None:
    with Store(NOWHERE, durability=Replicas(1)) as store:
        assert store.options(durability=Fsync())._settings.durability == Fsync()
        assert store.options(durability=None)._settings.durability is None
        assert store.options(namespace="x:")._settings.durability == Replicas(1)
        assert store._settings.durability == Replicas(1)


# What is sent


@CASES
def test_it_follows_exec_on_the_same_connection_in_the_same_round_trip(
    durability: Durability, command: tuple[object, ...], enough: object, short: object
) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {str(command[0]): enough})
    assert wire.transact(add_one, settings=durable(wire, durability)) == 2
    (commit,) = wire.batches("commit")
    assert commit[-2:] == [("EXEC",), command]
    assert wire.kinds() == ["read", "commit"]
    assert wire.settings.counters.stats().not_durable == 0


def test_it_comes_before_the_tail_that_arms_the_socket() -> None:
    wire = Wire(a={"n": 1})
    wire.arms = True
    settings = durable(wire, Replicas(1))
    for expected in (2, 3, 4):
        assert wire.transact(lambda tx: tx.get("a").increment("n"), settings=settings) == expected
    names = [command[0] for command in wire.batches("commit")[-1]]
    assert names[names.index("EXEC") : names.index("EXEC") + 3] == ["EXEC", "WAIT", "WATCH"]


def test_who_only_reads_waits_for_nobody() -> None:
    wire = Wire(a={"n": 1})
    assert wire.transact(lambda tx: tx.get("a")["n"], settings=durable(wire, Replicas(1))) == 1
    sent = [command[0] for batch in wire.batches() for command in batch]
    assert "WAIT" not in sent


@pytest.mark.parametrize(("timeout", "patience", "wait"), [(0.5, 1.5, b"500"), (60.0, 3.5, b"2500")])
def test_the_reply_may_take_as_much_longer_and_the_deadline_bounds_both(
    timeout: float, patience: float, wait: bytes
) -> None:
    wire = Wire(a={"n": 1})
    wire.transact(add_one, settings=durable(wire, Replicas(1, timeout=timeout)))
    (commit,) = [each for each in wire.effects if isinstance(each, Send) and each.commands[-1][0] == "WAIT"]
    assert commit.timeout == pytest.approx(patience, abs=0.01)
    assert abs(int(commit.commands[-1][2]) - int(wait)) <= 3


# What is made of the answer


@CASES
def test_less_is_an_error_that_carries_the_result(
    durability: Durability, command: tuple[object, ...], enough: object, short: Any
) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {str(command[0]): short})
    called: list[str] = []

    def change(tx: Tx) -> int:
        tx.on_commit(called.append, "committed")
        return add_one(tx)

    with pytest.raises(NotDurable) as caught:
        wire.transact(change, settings=durable(wire, durability))
    replicas, local = (short, None) if isinstance(short, int) else (short[1], bool(short[0]))
    if durability == Fsync(local=False, replicas=2):
        local = None
    assert (caught.value.result, caught.value.replicas, caught.value.local) == (2, replicas, local)
    assert called == ["committed"]
    assert wire.hashes[b"a"][b"n"] == b"2"
    assert [type(event) for event in wire.events] == [events.Committed, events.FellShort]
    assert wire.events[1] == events.FellShort(keys=("a",), replicas=replicas, local=local)
    stats = wire.settings.counters.stats()
    assert (stats.commits, stats.not_durable, stats.gave_up) == (1, 1, 0)
    wire.assert_settled()


@pytest.mark.parametrize("answer", [error("ERR WAIT cannot be used with replica instances"), b"what"])
def test_no_answer_is_less_than_any(answer: object) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {"WAIT": answer})
    with pytest.raises(NotDurable, match=r"nobody could be asked") as caught:
        wire.transact(add_one, settings=durable(wire, Replicas(1)))
    assert (caught.value.result, caught.value.replicas, caught.value.local) == (2, None, None)
    assert caught.value.__cause__ is not None


def test_a_connection_that_breaks_behind_exec_leaves_a_commit_that_nobody_vouches_for() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost(b"OK", QUEUED, QUEUED, [b"OK", 1]))
    with pytest.raises(NotDurable) as caught:
        wire.transact(add_one, settings=durable(wire, Replicas(1)))
    assert (caught.value.result, caught.value.replicas) == (2, None)
    assert wire.settings.counters.stats().in_doubt == 0
    wire.assert_settled()


def test_a_connection_that_breaks_behind_the_answer_has_brought_it() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost(b"OK", QUEUED, QUEUED, [b"OK", 1], 1))
    assert wire.transact(add_one, settings=durable(wire, Replicas(1))) == 2


def test_an_interruption_behind_exec_comes_out_as_itself() -> None:
    wire = Wire(a={"n": 1})
    interruption = KeyboardInterrupt()
    broken = lost(b"OK", QUEUED, QUEUED, [b"OK", 1])
    broken.cause = interruption
    wire.next("commit", broken)
    with pytest.raises(KeyboardInterrupt) as caught:
        wire.transact(add_one, settings=durable(wire, Replicas(1)))
    assert "was applied" in str(caught.value.__cause__)


def test_a_conflict_is_tried_again_whatever_the_replicas_have() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", {"EXEC": None, "WAIT": 0})
    assert wire.transact(add_one, settings=durable(wire, Replicas(1))) == 2
    assert wire.kinds() == ["read", "commit", "read", "commit"]


# In doubt


@pytest.mark.parametrize(("answer", "replicas"), [(1, 1), (0, 0), (error("READONLY"), None), (lost(), None)])
def test_a_commit_found_by_its_token_is_asked_for_behind_a_write_of_the_same_connection(
    answer: Any, replicas: int | None
) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost())
    wire.next("ask", [1, b"1"], answer if isinstance(answer, Lost) else [1, b"1", answer])
    if answer == 1:
        assert wire.transact(add_one, settings=durable(wire, Replicas(1))) == 2
    else:
        with pytest.raises(NotDurable) as caught:
            wire.transact(add_one, settings=durable(wire, Replicas(1)))
        assert (caught.value.result, caught.value.replicas) == (2, replicas)
    confirming = wire.batches("ask")[1]
    assert confirming == [("EXPIRE", TOKEN, b"3600"), ("GET", TOKEN), ("WAIT", b"1", b"500")]
    stats = wire.settings.counters.stats()
    assert (stats.in_doubt, stats.resolved_committed) == (1, 1)
    wire.assert_settled()


@pytest.mark.parametrize("token", [[0, None], [1, b"fence"], [error("READONLY no"), None]])
def test_where_the_token_is_gone_meanwhile_nobody_vouches_for_anything(token: list[object]) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost())
    wire.next("ask", [1, b"1"], [*token, 1])
    with pytest.raises(NotDurable) as caught:
        wire.transact(add_one, settings=durable(wire, Replicas(1)))
    assert caught.value.replicas is None


def test_a_commit_that_was_not_applied_is_not_asked_for() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost())
    wire.next("ask", [1, b"0"])
    assert wire.transact(add_one, settings=durable(wire, Replicas(1))) == 2
    assert len(wire.batches("ask")) == 1


# A server that can't


@pytest.mark.parametrize(
    ("durability", "answers", "kind"),
    [
        (
            Fsync(),
            [0, error("ERR unknown command 'WAITAOF'"), error("ERR unknown command 'WAITAOF'")],
            UsageError,
        ),
        (
            Fsync(),
            [0, [0, 0], error("ERR WAITAOF cannot be used when ... appendonly is disabled")],
            UsageError,
        ),
        (Fsync(local=False, replicas=1), [0, error("ERR unknown command"), [1, 0]], UsageError),
        (
            Replicas(1),
            [error("NOPERM no permissions to run the 'wait' command"), [0, 0], [1, 0]],
            ServerRefused,
        ),
    ],
)
def test_it_is_told_at_the_first_connection_before_anything_is_read_or_written(
    durability: Durability, answers: list[object], kind: type[Exception]
) -> None:
    wire = Wire(a={"n": 1})
    wire.next("proof", [b"OK", [], b"OK", b"OK", CLEAN, [-2], b"", [b"master"], {}, *answers])
    with pytest.raises(kind, match="nothing was applied"):
        wire.transact(add_one, settings=durable(wire, durability))
    assert wire.kinds() == []
    wire.assert_settled()


def test_a_view_learns_it_on_a_connection_that_serves_others_well() -> None:
    wire = Wire(a={"n": 1})
    refused = error("ERR unknown command 'WAITAOF'")
    wire.next("proof", [b"OK", [], b"OK", b"OK", CLEAN, [-2], b"", [b"master"], {}, 0, refused, refused])
    assert wire.transact(add_one) == 2
    with pytest.raises(UsageError, match="nothing was applied"):
        wire.transact(add_one, settings=durable(wire, Fsync()))
    assert wire.transact(add_one, settings=durable(wire, Replicas(1))) == 3
    assert wire.kinds() == ["read", "commit", "read", "read", "commit"]
    wire.assert_settled()
