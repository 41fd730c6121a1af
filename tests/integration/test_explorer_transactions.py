"""Transactions hold in every order of their round trips, with any single fault at any step: explored, not sampled.

`python -m tests.report` quotes these explorations; with `--long`, or `-m soak`, the big ones as well.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from support.counting import (
    ANY_LOSS,
    Noted,
    count,
    each_exactly_once,
    increment,
    increment_async,
    increment_both,
    is_two,
    repeated,
    seed,
)
from support.evidence import EXPLORED, Explored

from txstate import TxStateError
from txstate._engine import first_read as first_read_module
from txstate._engine import pursuit, session, straight, turns
from txstate.testing import FAULTS, explore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.servers import ServerHandle

    from txstate import Store, Tx
    from txstate.testing import Outcome, Report

    Explore = Callable[..., Report]

pytestmark = pytest.mark.proof

both_twins = pytest.mark.parametrize("function", [increment, increment_async], ids=["sync", "async"])


@pytest.fixture
def explored(record_property: Callable[[str, object], None]) -> Explore:
    """`explore`, whose report is checked, and handed to the figures; `server=None` is one that can be killed."""

    def run(what: str, transactions: list[Any], *, server: ServerHandle | None, **options: Any) -> Report:
        began = time.monotonic()
        report = explore(transactions, server=None if server is None else server.unix_url, **options)
        report.check()
        name = "Valkey, embedded" if server is None else f"{server.kind} {server.version}"
        record_property(EXPLORED, Explored.of(what, name, report, time.monotonic() - began))
        return report

    return run


@both_twins
def test_two_increments_hold_in_every_order(
    function: Callable[[Any], Any], server: ServerHandle, explored: Explore
) -> None:
    report = explored("two increments", [function, function], setup=seed, invariant=is_two, server=server)
    assert report.complete
    assert report.schedules >= 6
    assert report.returned == (report.schedules, report.schedules)


def test_sync_and_async_transactions_meet(valkey9: ServerHandle, explored: Explore) -> None:
    explored(
        "a sync and an async increment",
        [increment, increment_async],
        setup=seed,
        invariant=is_two,
        server=valkey9,
    )


def test_three_increments_hold_with_three_preemptions(valkey9: ServerHandle, explored: Explore) -> None:
    report = explored(
        "three increments, 3 preemptions",
        [increment] * 3,
        setup=seed,
        invariant=lambda store: count(store) == 3,
        preemptions=3,
        server=valkey9,
    )
    assert report.schedules > 100
    assert not report.complete
    assert str(report).startswith(f"{report.schedules} schedules, cut short: no violation (")


@both_twins
def test_any_single_fault_leaves_each_applied_exactly_once(
    function: Callable[[Any], Any], server: ServerHandle, explored: Explore
) -> None:
    report = explored(
        "two increments, 1 preemption, any single fault",
        [function, function],
        setup=seed,
        invariant=each_exactly_once,
        faults=ANY_LOSS,
        preemptions=1,
        server=server,
    )
    assert report.schedules > 200
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("resolution", "late", "conflict")) > 0


def test_a_second_fault_may_hit_the_resolution(valkey9: ServerHandle, explored: Explore) -> None:
    report = explored(
        "one increment, any two faults",
        [increment],
        setup=seed,
        invariant=each_exactly_once,
        faults=ANY_LOSS,
        max_faults=2,
        server=valkey9,
    )
    assert report.complete


@both_twins
def test_repeated_transactions_use_armed_connections_and_claims(
    function: Callable[[Any], Any], valkey9: ServerHandle, explored: Explore
) -> None:
    report = explored(
        "two times three increments, each on one store",
        [repeated(function, 3), repeated(function, 3)],
        setup=seed,
        invariant=lambda store: count(store) == 6,
        server=valkey9,
    )
    assert report.complete
    assert report.reached["armed"] == report.schedules
    assert min(report.reached[name] for name in ("conflict", "claim", "claimed")) > 10


@pytest.mark.parametrize("function", [increment, increment_both], ids=["update", "run"])
def test_any_single_fault_leaves_repeated_transactions_applied_exactly_once(
    function: Callable[[Any], int], valkey9: ServerHandle, explored: Explore
) -> None:
    noted = Noted(function)
    report = explored(
        f"three increments ({function.__name__}) on one store beside one, 1 preemption, any single fault",
        [repeated(noted.increment, 3), noted.increment],
        setup=noted.seed,
        invariant=noted.each_exactly_once,
        faults=ANY_LOSS,
        preemptions=1,
        server=valkey9,
    )
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("armed", "resolution", "late")) > 0


def test_turns_that_are_kept_for_the_next_call_are_safe_under_any_single_fault(
    valkey9: ServerHandle, explored: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody is trusted from the first time: else it takes too many calls."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    noted = Noted()
    report = explored(
        "two times three increments that keep their turns, 2 preemptions, any single fault",
        [repeated(noted.increment, 3)] * 2,
        setup=noted.seed,
        invariant=noted.each_exactly_once,
        faults=ANY_LOSS,
        preemptions=2,
        limit=1000,
        server=valkey9,
    )
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("kept", "claimed", "resolution", "late")) > 0


def test_who_stands_in_line_at_once_is_safe_under_any_single_fault(
    valkey9: ServerHandle, explored: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends a turn takes it that others wait: here nobody is ever blocked while somebody else goes on."""
    came_in = 0

    def come_in(*args: Any, **more: Any) -> Any:
        nonlocal came_in
        armed = yield from real(*args, **more)
        came_in += armed is not None
        return armed

    real = turns.come_in
    monkeypatch.setattr(straight, "come_in", come_in)
    monkeypatch.setattr(turns, "awaited", lambda keys, _: list(dict.fromkeys(keys)))
    monkeypatch.setattr(pursuit, "CONFLICTS_BEFORE_CLAIM", 1)
    noted = Noted()
    report = explored(
        "four increments that line up again beside three, 2 preemptions, any single fault",
        [repeated(noted.increment, 4), repeated(noted.increment, 3)],
        setup=noted.seed,
        invariant=noted.each_exactly_once,
        faults=ANY_LOSS,
        preemptions=2,
        limit=1000,
        server=valkey9,
    )
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("claimed", "resolution", "late")) > 0
    assert came_in > 100


@pytest.fixture
def first_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that were read on the straight way, without being armed for."""

    def first_read(settings: Any, channel: Any, signature: Any, wanted: Any, timeout: Any) -> Any:
        first = yield from real(settings, channel, signature, wanted, timeout)
        if first is not None:
            read.extend(wanted)
        return first

    real, read = first_read_module.first_read, list[str]()
    for module in (straight, first_read_module):
        monkeypatch.setattr(module, "first_read", first_read)
    return read


def connected(number: int, then: Callable[[Store], object]) -> Callable[[Store], None]:
    """A transaction of a process that has a connection already, by a document of its own."""

    def play(store: Store) -> None:
        with suppress(TxStateError, KeyboardInterrupt):
            store.put(f"own {number}", {"n": 0})
        then(store)

    return play


@pytest.mark.parametrize("function", [increment, increment_both], ids=["update", "run"])
def test_a_first_read_on_the_straight_way_is_safe_under_any_single_fault(
    function: Callable[[Any], int], valkey9: ServerHandle, explored: Explore, first_reads: list[str]
) -> None:
    noted = Noted(function)
    report = explored(
        f"two increments ({function.__name__}) on connections that were used before, 1 preemption, any single fault",
        [connected(number, noted.increment) for number in range(2)],
        setup=noted.seed,
        invariant=noted.each_exactly_once,
        faults=ANY_LOSS,
        preemptions=1,
        server=valkey9,
    )
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("conflict", "resolution", "late")) > 0
    assert first_reads.count("counter") > report.schedules


def test_a_document_may_expire_or_be_created_beside_a_first_read_at_any_step(
    valkey9: ServerHandle, explored: Explore, first_reads: list[str]
) -> None:
    counted: list[int] = []

    def begin(store: Store) -> None:
        counted.clear()
        store.put("hits", {"n": 7})

    def hit(store: Store) -> None:
        counted.append(store.update("hits", lambda doc: doc.increment("n"))["n"])

    def counts_on_or_begins_anew(store: Store) -> None:
        doc = store.get("hits")
        assert (sorted(counted), doc and doc["n"]) in [([8, 9], 9), ([1, 8], 1), ([1, 2], 2)]

    report = explored(
        "two increments on connections that were used before, the document expires once",
        [connected(number, hit) for number in range(2)],
        setup=begin,
        invariant=counts_on_or_begins_anew,
        faults=["expiry"],
        preemptions=2,
        server=valkey9,
    )
    assert report.fired["expiry"] > 0
    assert first_reads.count("hits") > report.schedules


def test_an_armed_connection_shows_no_reader_the_past(valkey9: ServerHandle, explored: Explore) -> None:
    def look(store: Store) -> None:
        for _ in range(3):
            before = count(store)
            assert store.run(lambda tx: tx["counter"]["n"]) >= before

    report = explored(
        "three readings on one store beside an increment",
        [look, increment],
        setup=seed,
        invariant=lambda _, outcomes: all(outcome.ok for outcome in outcomes),
        server=valkey9,
    )
    assert min(report.reached[name] for name in ("armed", "proof", "stale")) > 0


def test_what_a_transaction_reads_as_it_goes_is_from_one_moment(
    valkey9: ServerHandle, explored: Explore
) -> None:
    def move(tx: Tx) -> None:
        a, b = tx["a"], tx["b"]
        a["n"] -= 1
        b["n"] += 1

    def look(tx: Tx) -> int:
        return int(tx["a"]["n"] + tx["b"]["n"])

    def begin(store: Store) -> None:
        store.put("a", {"n": 1})
        store.put("b", {"n": 1})

    report = explored(
        "a sum of two documents, read one by one, beside a transfer between them",
        [lambda store: store.run(move), lambda store: store.run(look)],
        setup=begin,
        invariant=lambda _, outcomes: outcomes[1].value == 2,
        server=valkey9,
    )
    assert report.complete
    assert report.reached["stale"] > 0


def test_the_server_may_be_killed_at_any_step(explored: Explore) -> None:
    report = explored(
        "one increment, the server killed once",
        [increment],
        setup=seed,
        invariant=each_exactly_once,
        faults=["restart"],
        server=None,
    )
    assert report.schedules >= 4


def test_a_key_may_expire_at_any_step(valkey9: ServerHandle, explored: Explore) -> None:
    def begin(store: Store) -> None:
        store.put("hits", {"n": 7})

    def hit(store: Store) -> int:
        n: int = store.update("hits", lambda doc: doc.increment("n"))["n"]
        return n

    def counts_on_or_begins_anew(store: Store, outcomes: Sequence[Outcome]) -> None:
        doc = store.get("hits")
        assert (outcomes[0].value, doc and doc["n"]) in [(1, 1), (8, 8)]

    report = explored(
        "one increment, the document expires once",
        [hit],
        setup=begin,
        invariant=counts_on_or_begins_anew,
        faults=["expiry"],
        server=valkey9,
    )
    assert report.schedules >= 3


# Long ones. Together they try every fault.


@pytest.mark.soak
def test_three_increments_hold_with_three_preemptions_and_every_single_fault(
    valkey9: ServerHandle, explored: Explore
) -> None:
    report = explored(
        "three increments, 3 preemptions, any single fault",
        [increment] * 3,
        setup=seed,
        invariant=each_exactly_once,
        faults=ANY_LOSS,
        preemptions=3,
        server=valkey9,
    )
    assert report.schedules > 10_000
    assert min(report.fired.values()) > 0
    assert min(report.reached[name] for name in ("resolution", "late", "conflict")) > 0


@pytest.mark.soak
def test_three_increments_hold_with_three_preemptions_and_the_server_killed_at_every_step(
    explored: Explore,
) -> None:
    report = explored(
        "three increments, 3 preemptions, the server killed once",
        [increment] * 3,
        setup=seed,
        invariant=each_exactly_once,
        faults=["restart"],
        preemptions=3,
        server=None,
    )
    assert report.fired["restart"] > 100


@pytest.mark.soak
def test_three_increments_hold_with_three_preemptions_and_an_expiry_at_every_step(
    valkey9: ServerHandle, explored: Explore
) -> None:
    assert {"expiry", "restart", "impatience", *ANY_LOSS} == set(FAULTS), (
        "impatience is for threads of one process"
    )

    def hit(store: Store) -> int:
        n: int = store.update("counter", lambda doc: doc.increment("n"))["n"]
        return n

    def counts_on_or_begins_anew(store: Store, outcomes: Sequence[Outcome]) -> None:
        doc = store.get("counter")
        results = sorted(outcome.value for outcome in outcomes)
        counted = list(range(1, 4))
        anew = [sorted([*counted[:before], *counted[: 3 - before]]) for before in range(4)]
        assert results in anew
        assert doc is None or doc["n"] in counted

    report = explored(
        "three increments, 3 preemptions, the document expires once",
        [hit] * 3,
        setup=seed,
        invariant=counts_on_or_begins_anew,
        faults=["expiry"],
        preemptions=3,
        server=valkey9,
    )
    assert report.fired["expiry"] > 100
