"""What is measured: cases grouped into scenarios, for the whole run and for the quick one.

Declares only; nothing runs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
LARGE: Final = 100_000
"""Fields of the large hash."""
BIG: Final = Workload(name="1 MB document, read", fields=101, width=10_000, reads=1.0)

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


def scenarios(placements: Sequence[str], *, quick: bool, targets_only: bool) -> list[Scenario]:
    """All scenarios of a run.

    Args:
        placements: the ones that this machine has.
        quick: shorter, fewer rounds, fewer points; for a look, not for a claim.
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
    ]
    if not targets_only:
        found += [
            _hash_size(pinned[-1], quick=quick),
            _processes(quick=quick),
            _delay(pinned[-1], quick=quick),
            _mix(quick=quick),
        ]
    return found


def _uncontended(places: Sequence[tuple[str, str]], *, quick: bool, targets_only: bool) -> Scenario:
    peers = ("txstate", "redis-py-transaction", "lua-script") if targets_only else ALL
    cases = _everywhere("uncontended", (*peers, "redis-py-ping"), places, workload=COUNTER)
    title = "One process updates a hash of 10 fields"
    return Scenario("uncontended", title, cases, 0.12 if quick else 0.6, 2 if quick else 5)


def _hot(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    cases: list[Case] = []
    for processes, where in ((16, places), (32, places[:1] if quick else places)):
        cases += _everywhere(
            "hot", ("txstate", "redis-py-transaction"), where, workload=COUNTER, processes=processes
        )
    cases += _everywhere("hot", ("txstate",), places, workload=COUNTER)
    title = "Many processes update one hash"
    return Scenario("hot", title, tuple(cases), 0.4 if quick else 3.0, 1 if quick else 3)


def _think(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    places = [places[0], places[-1]] if quick else places
    peers = ("txstate", "redis-py-transaction", "redis-py-lock")
    cases = _everywhere("think", peers, places, workload=COUNTER, processes=7, thoughts=8, thinking=THINKING)
    title = "8 transactions of 30 ms, beside 6 processes that hammer the same hash"
    return Scenario("think", title, cases, 2.0 if quick else 8.0, 1)


def _tasks(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    peers = ("txstate-async", "redis-py-async-transaction")
    cases = _everywhere("tasks", peers, places, workload=COUNTER, tasks=64)
    title = "64 tasks of one process update one hash"
    return Scenario("tasks", title, cases, 0.4 if quick else 2.0, 1 if quick else 3)


def _read_only(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    cases = _everywhere("read-only", ("txstate-read-only", "redis-py-ping"), places, workload=BIG)
    title = "A read-only transaction on the same 1 MB document, again and again"
    return Scenario("read-only", title, cases, 0.25 if quick else 0.6, 1 if quick else 5)


def _fields(places: Sequence[tuple[str, str]], *, quick: bool) -> Scenario:
    cases: list[Case] = []
    for fields in (10, LARGE):
        cases += _everywhere("fields", ("txstate-fields",), places, workload=_counter_in(fields))
    title = "One process updates one field of a hash, fetching only that"
    return Scenario("fields", title, tuple(cases), 0.15 if quick else 0.6, 2 if quick else 5)


def _hash_size(placement: str, *, quick: bool) -> Scenario:
    cases = []
    for fields in (10, 1000, LARGE) if quick else (10, 100, 1000, 10_000, LARGE):
        cases += [
            _case("hash-size", peer, "tcp", placement, workload=_counter_in(fields))
            for peer in ("txstate-fields", "txstate", "redis-py-transaction", "lua-script")
        ]
    title = "One process updates one field of a hash"
    return Scenario("hash-size", title, tuple(cases), 0.2 if quick else 0.6, 1 if quick else 5)


def _processes(*, quick: bool) -> Scenario:
    cases = tuple(
        _case("processes", peer, "tcp", "any", workload=COUNTER, processes=processes)
        for processes in ((1, 4, 16) if quick else (1, 2, 4, 8, 16, 32))
        for peer in ALL
    )
    title = "Processes that update one hash, on all CPUs"
    return Scenario("processes", title, cases, 0.2 if quick else 1.5, 1 if quick else 3)


def _mix(*, quick: bool) -> Scenario:
    cases = tuple(
        _case("mix", peer, "tcp", "any", workload=workload, processes=4 if quick else 8)
        for workload in MIX
        for peer in ALL
        if not workload.think or PEERS[peer].thinks
    )
    return Scenario(
        "mix", f"{4 if quick else 8} processes, on all CPUs", cases, 0.1 if quick else 0.6, 1 if quick else 3
    )


def _delay(placement: str, *, quick: bool) -> Scenario:
    peers = ("txstate", "redis-py-transaction", "redis-py-lock", "lua-script", "redis-py-ping")
    cases = tuple(
        _case("delay", peer, "proxy", placement, workload=COUNTER, delay=delay)
        for delay in ((0.0, 1.0, 2.0) if quick else (0.0, 0.25, 0.5, 1.0, 2.0, 5.0))
        for peer in peers
    )
    title = "One process updates a hash of 10 fields, through a proxy that delays"
    return Scenario("delay", title, cases, 0.2 if quick else 0.6, 1 if quick else 5)


def _counter_in(fields: int) -> Workload:
    return Workload(name=f"counter in {fields:,} fields", fields=fields)


def _everywhere(
    scenario: str, peers: Sequence[str], places: Sequence[tuple[str, str]], **how: object
) -> tuple[Case, ...]:
    """Each peer by each transport in each placement. A file has no transport: it is measured once a placement."""
    cases: dict[Case, None] = {}
    for transport, placement in places:
        for peer in peers:
            case = _case(scenario, peer, transport, placement, **how)
            cases[case] = None
    return tuple(cases)


def _case(scenario: str, peer: str, transport: str, placement: str, **how: object) -> Case:
    if PEERS[peer].server == "file":
        transport = "file"
    return Case(scenario=scenario, peer=peer, transport=transport, placement=placement, **how)  # type: ignore[arg-type]  # checked by its callers' tests
