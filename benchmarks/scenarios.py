"""What is measured: cases grouped into scenarios, for the whole run and for the quick one.

Declares only; nothing runs here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers import PEERS
from benchmarks.results import Case
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL: Final = (
    "txstate", "redis-py-transaction", "redis-py-lock", "lua-script", "coredis", "pottery", "pottery-redlock",
    "python-redis-lock", "sqlite", "postgresql", "zodb",
)  # fmt: skip
COUNTER: Final = Workload(name="counter")
THINKING: Final = 0.03
"""Seconds that the slow transaction of the scenario `think` takes."""
SIZES: Final = (10, 1_000, 100_000)
"""Fields of a hash."""
BIG: Final = Workload(name="1 MB in 100 fields", fields=101, width=10_000)
BLOB: Final = Workload(name="1 MB in 1 field", fields=2, width=1_000_000)
CROWD: Final = Workload(name="counter, 100 documents", documents=100)

MIX: Final = (
    Workload(name="counter, hot"),
    Workload(name="counter, uniform", documents=1000),
    Workload(name="bank, 2 of 100", documents=100, touched=2),
    Workload(name="bank, 10 of 100", documents=100, touched=10),
    Workload(name="session, 1 of 30 fields", documents=1000, fields=30, counters=5, width=40),
    Workload(name="read-mostly, hot", reads=0.95),
    Workload(name="read-mostly, uniform", documents=1000, reads=0.95),
    Workload(name="think 2 ms, hot", think=0.002),
    Workload(name="think 2 ms, uniform", documents=1000, think=0.002),
)


ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Scenario:
    """Cases that are measured in turns.

    Attributes:
        name: of the table.
        title: for humans.
        cases: what to measure.
        seconds: of one measurement.
        rounds: how often each case has its turn.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    seconds: float
    rounds: int


def scenarios(placements: Sequence[str], *, quick: bool, targets_only: bool = False) -> list[Scenario]:
    """All scenarios of a run.

    Args:
        placements: the ones that this machine has.
        quick: shorter, one round, fewer points; for a look, not for a claim.
        targets_only: leave out what no target needs.
    """
    pinned = [name for name in ("same", "split") if name in placements] or list(placements)
    places = [(transport, placement) for transport in ("tcp", "unix") for placement in pinned]
    found = [
        _uncontended(places, quick=quick, targets_only=targets_only),
        _hot(places, quick=quick),
        _think(places, quick=quick),
        _tasks(places, quick=quick),
        _read_only(places, quick=quick),
        _fields(places, quick=quick),
        _memory(pinned[-1], quick=quick),
    ]
    if not targets_only:
        found += [
            _crowd(pinned, quick=quick),
            _hash_size(pinned[-1], quick=quick),
            _processes(quick=quick),
            _delay(pinned[-1], quick=quick),
            _mix(quick=quick),
        ]
    return found


def _scenario(
    name: str, title: str, cases: Sequence[Case], seconds: tuple[float, float], *, quick: bool
) -> Scenario:
    """With the seconds of the whole run or of the quick one."""
    return Scenario(name, title, tuple(cases), seconds[quick], 1 if quick else ROUNDS)


def _uncontended(places: Sequence[tuple[str, str]], *, quick: bool, targets_only: bool) -> Scenario:
    peers = ("txstate", "redis-py-transaction", "lua-script") if targets_only else ALL
    more = () if targets_only else ("txstate-sleeping", "bare-socket")
    beside = ("redis-py-ping", "bare-socket-looking", *more)
    cases = _everywhere("uncontended", (*peers, *beside), places, workload=COUNTER)
    title = "One process updates a hash of 10 fields"
    return _scenario("uncontended", title, cases, (0.4, 0.15), quick=quick)


def _hot(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    peers = ("txstate", "redis-py-transaction")
    cases: list[Case] = []
    for processes, where in ((16, places), (32, places[:1] if quick else places)):
        cases += _everywhere("hot", peers, where, workload=COUNTER, processes=processes)
    cases += _everywhere("hot", ("txstate",), places, workload=COUNTER)
    return _scenario("hot", "Many processes update one hash", cases, (1.5, 0.4), quick=quick)


def _think(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    """The others need the whole time, as they don't get it done: two places will do."""
    corners = [places[0], places[-1]]
    how = {"workload": COUNTER, "processes": 7, "thoughts": 8, "thinking": THINKING}
    cases = _everywhere("think", ("txstate",), corners if quick else places, **how)
    cases += _everywhere("think", ("redis-py-transaction", "redis-py-lock"), corners, **how)
    title = "8 transactions of 30 ms, beside 6 processes that hammer the same hash"
    return _scenario("think", title, cases, (6.0, 2.0), quick=quick)


def _tasks(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    peers = ("txstate-async", "redis-py-async-transaction")
    cases = _everywhere("tasks", peers, places, workload=COUNTER, tasks=64)
    return _scenario("tasks", "64 tasks of one process update one hash", cases, (1.0, 0.3), quick=quick)


def _crowd(pinned: Sequence[str], *, quick: bool) -> Scenario:
    peers = ("txstate-async", "redis-py-async-transaction")
    places = [("tcp", placement) for placement in pinned]
    cases = _everywhere("crowd", peers, places, workload=CROWD, tasks=1000)
    title = "1,000 tasks of one process update 100 documents, by 50 connections"
    return _scenario("crowd", title, cases, (3.0, 1.0), quick=quick)


def _read_only(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    peers = ("txstate-read-only", "redis-py-ping")
    cases = _everywhere("read-only", peers, places, workload=replace(BIG, reads=1.0))
    title = "A read-only transaction on the same 1 MB document, again and again"
    return _scenario("read-only", title, cases, (0.4, 0.2), quick=quick)


def _fields(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    cases: list[Case] = []
    for fields in SIZES:
        cases += _everywhere("fields", ("txstate-fields",), places, workload=_counter_in(fields))
    title = "One process updates one field of a hash, fetching only that"
    return _scenario("fields", title, cases, (0.4, 0.15), quick=quick)


def _memory(placement: str, *, quick: bool) -> Scenario:
    peers = ("txstate", "txstate-put", "redis-py-transaction")
    cases = []
    for workload in (BIG, BLOB):
        changes = [(peer, workload) for peer in peers]
        for peer, what in (*changes, ("txstate-read-only", replace(workload, reads=1.0))):
            cases.append(_case("memory", peer, "tcp", placement, workload=what, fresh=True))
    title = "One process with a document of 1 MB"
    return _scenario("memory", title, cases, (0.5, 0.2), quick=quick)


def _hash_size(placement: str, *, quick: bool) -> Scenario:
    cases = [
        _case("hash-size", peer, "tcp", placement, workload=_counter_in(fields))
        for fields in (SIZES if quick else (10, 100, 1_000, 10_000, 100_000))
        for peer in ("txstate-fields", "txstate", "redis-py-transaction", "lua-script")
    ]
    title = "One process updates one field of a hash"
    return _scenario("hash-size", title, cases, (0.4, 0.2), quick=quick)


def _processes(*, quick: bool) -> Scenario:
    cases = [
        _case("processes", peer, "tcp", "any", workload=COUNTER, processes=processes)
        for processes in ((1, 4, 16) if quick else (1, 2, 4, 8, 16, 32))
        for peer in ALL
    ]
    title = "Processes that update one hash, on all CPUs"
    return _scenario("processes", title, cases, (0.6, 0.2), quick=quick)


def _mix(*, quick: bool) -> Scenario:
    processes = 4 if quick else 8
    cases = [
        _case("mix", peer, "tcp", "any", workload=workload, processes=processes)
        for workload in MIX
        for peer in ALL
        if not workload.think or PEERS[peer].thinks
    ]
    return _scenario("mix", f"{processes} processes, on all CPUs", cases, (0.4, 0.1), quick=quick)


def _delay(placement: str, *, quick: bool) -> Scenario:
    peers = ("txstate", "redis-py-transaction", "redis-py-lock", "lua-script", "redis-py-ping")
    cases = [
        _case("delay", peer, "proxy", placement, workload=COUNTER, delay=delay)
        for delay in ((0.0, 1.0, 2.0) if quick else (0.0, 0.25, 0.5, 1.0, 2.0, 5.0))
        for peer in peers
    ]
    title = "One process updates a hash of 10 fields, through a proxy that delays"
    return _scenario("delay", title, cases, (0.4, 0.2), quick=quick)


def _counter_in(fields: int) -> Workload:
    return Workload(name=f"counter in {fields:,} fields", fields=fields)


def _everywhere(
    scenario: str, peers: Sequence[str], places: Sequence[tuple[str, str]], **how: Any
) -> list[Case]:
    """Each peer by each transport in each placement. A file has no transport: it is measured once a placement."""
    cases = [
        _case(scenario, peer, transport, placement, **how)
        for transport, placement in places
        for peer in peers
    ]
    return list(dict.fromkeys(cases))


def _case(scenario: str, peer: str, transport: str, placement: str, **how: Any) -> Case:
    if PEERS[peer].server == "file":
        transport = "file"
    return Case(scenario=scenario, peer=peer, transport=transport, placement=placement, **how)
