"""The straight way of `run` sends what the long way sends, and ends as it does, whatever happens on it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.scripted import DIRTY, QUEUED, Wire, error, kind_of, lost

from txstate._effects import Send
from txstate._engine.straight_run import run
from txstate._engine.transaction import transact
from txstate.errors import ServerRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scripted import Answer

    from txstate._effects import Command
    from txstate.events import Stats
    from txstate.tx import Tx


def read(tx: Tx) -> int:
    n: int = tx.get("a")["n"]
    return n


def add(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    n: int = doc["n"]
    return n


def move(tx: Tx) -> int:
    a, b = tx.get_many(["a", "b"])
    a["n"] -= 1
    b["n"] += 1
    n: int = b["n"]
    return n


def read_both(tx: Tx) -> int:
    a, b = tx.get_many(["a", "b"])
    n: int = a["n"] + b["n"]
    return n


def read_more(tx: Tx) -> int:
    """More than the connection is armed for."""
    n: int = tx.get("a")["n"] + tx.get("b")["n"]
    return n


def delete(tx: Tx) -> None:
    tx.delete("a")


def refuse(tx: Tx) -> None:
    raise ValueError(add(tx))


def add_unread(tx: Tx) -> None:
    tx.get("a", fields=[]).increment("n")


def add_and_tell(tx: Tx) -> int:
    doc = tx.get("a")
    tx.on_commit(lambda: doc.committed_version)
    return add(tx)


def add_with_ttl(tx: Tx) -> float | None:
    add(tx)
    return tx.ttl("a")


def swallow(tx: Tx) -> int:
    """Whatever it is told, it goes on."""
    with contextlib.suppress(BaseException):
        add(tx)
        tx.get("b")
    return tx.attempt


def lose(tx: Tx) -> int:
    """The first time, its connection goes, and nothing is sent that would notice."""
    n = add(tx)
    if tx.attempt == 1:
        cast("Wire", tx._driver).channels[0].drop()
    return n


def sleep(tx: Tx) -> int:
    """It takes longer than the call may."""
    n = add(tx)
    cast("Wire", tx._driver).now += 20
    return n


FUNCTIONS = [
    read,
    add,
    move,
    read_both,
    read_more,
    delete,
    refuse,
    add_unread,
    add_and_tell,
    add_with_ttl,
    swallow,
    lose,
    sleep,
]

HAPPENINGS: dict[str, tuple[str, Answer]] = {
    "nothing": ("commit", {}),
    "a conflict": ("commit", {"EXEC": None}),
    "a document that is gone": ("commit", {"EXEC": None, "HGETALL": {}}),
    "a lost reply": ("commit", lost()),
    "a lost reply, read in part": ("commit", lost(b"OK", QUEUED, QUEUED, [b"OK", 1])),
    "a request that did not leave": ("commit", lost(sent=False)),
    "a refused token": (
        "commit",
        {"SET": error("OOM command not allowed"), "EXEC": error("EXECABORT because of: OOM no")},
    ),
    "half of it applied": ("commit", {"EXEC": [b"OK", error("ERR no")]}),
    "no MULTI": ("commit", {"MULTI": error("NOPERM no")}),
    "a bug": ("commit", RuntimeError("of the driver")),
    "a changed document": ("read", {"CLIENT": DIRTY}),
    "an expired one": ("read", {"EXISTS": 0}),
    "a demoted primary": ("read", {"ROLE": [b"slave", b"h", 1, b"connected", 1]}),
    "no flags": ("read", {"CLIENT": error("NOPERM no")}),
    "a server that loads": ("read", {"EXISTS": error("LOADING")}),
    "a proof refused": ("read", {"EXISTS": error("NOPERM no")}),
    "a proof lost": ("read", lost()),
    "a proof that did not leave": ("read", lost(sent=False)),
}


@dataclass
class Played:
    """What came of a call, and of the next one.

    Attributes:
        ends: what each returned or raised, and what that says.
        sent: the batches of the first, and of the second.
    """

    ends: list[tuple[Any, ...]]
    sent: list[list[Command]]
    hashes: dict[bytes, dict[bytes, bytes]]
    stats: Stats
    straight: int


def play(
    way: Callable[..., Any], function: Callable[[Tx], Any], happens: Callable[[Wire, int], None]
) -> Played:
    """Arm a connection for a call, make it while something happens, and make it once more."""
    wire = Wire({"a": {"n": 2}, "b": {"n": 2}})
    wire.arms = True
    settings = replace(
        wire.settings, on_event=None, interruptions=(KeyboardInterrupt, SystemExit, asyncio.CancelledError)
    )

    def call() -> tuple[Any, ...]:
        try:
            return ("returned", wire.run(way(settings, wire.body(function))))
        except BaseException as raised:  # noqa: BLE001 - it is compared
            cause = raised.__cause__
            return (type(raised), str(raised), type(cause), getattr(cause, "known", None))

    for prepared in (add, move) if function in {move, read_both} else (move, add):
        for _ in range(3):
            wire.run(way(settings, wire.body(prepared)))
    before = len(wire.effects)
    happens(wire, before)
    ends = [call(), call()]
    wire.assert_settled()
    effects = wire.effects[before:]
    sent = [list(effect.commands) for effect in effects if isinstance(effect, Send)]
    return Played(ends, sent, wire.hashes, settings.counters.stats(), len(wire.effects))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_whatever_the_server_answers(function: Callable[[Tx], Any], happening: str) -> None:
    kind, answer = HAPPENINGS[happening]
    straight, long = (play(way, function, lambda wire, _: wire.next(kind, answer)) for way in (run, transact))
    assert straight == long


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("delivers", [False, True], ids=["lost", "applied"])
@pytest.mark.parametrize(
    "interruption", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
)
@pytest.mark.parametrize("at", range(6))
def test_wherever_it_is_interrupted(
    function: Callable[[Tx], Any], interruption: type[BaseException], at: int, *, delivers: bool
) -> None:
    def happens(wire: Wire, before: int) -> None:
        wire.interruptions[before + at], wire.delivers = interruption(), delivers

    straight, long = (play(way, function, happens) for way in (run, transact))
    assert straight == long


@pytest.mark.parametrize("function", [read, add, move, read_both])
def test_it_is_one_round_trip(function: Callable[[Tx], Any]) -> None:
    played = play(run, function, lambda *_: None)
    assert [kind_of(batch) for batch in played.sent] == ["commit" if function in {add, move} else "read"] * 2


def test_who_could_not_set_a_token_commits_nothing() -> None:
    """To read it needs none; so its connection may be armed."""
    wire = Wire({"a": {"n": 2}})
    wire.arms = True
    wire.next("read", {"SET": error("OOM command not allowed when used memory > 'maxmemory'")})
    settings = replace(wire.settings, on_event=None)
    assert [wire.run(run(settings, wire.body(read))) for _ in range(2)] == [2, 2]
    assert wire.channels[0].armed is not None
    with pytest.raises(ServerRefused, match="OOM"):
        wire.run(run(settings, wire.body(add)))
    assert "commit" not in wire.kinds()
    wire.assert_settled()
