"""A simulation of many processes on many nodes, for what one machine can't measure.

A discrete-event model of optimistic transactions: each node serves one batch after another, in the order in which they
arrive; each process thinks of a document, reads it under watch (a round trip), works on it, and commits (another one);
a commit fails if somebody else's was served in between, and is tried again from what its reply brought along, after
a wait of full jitter. The costs that it works with are measured, by `benchmarks.scaling.measure`. What it leaves out:
claims and coalescing (so a single hot document is not its subject), failures, and the time that a node spends on
other work.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Final

_WAIT: Final = 0.0005
_LONGEST: Final = 0.1
"""Seconds: of `txstate.Retry`'s wait after a first conflict, and after many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is simulated. All times in seconds.

    Attributes:
        nodes: primaries; documents are spread over them evenly.
        documents: how many there are.
        processes: each with one transaction at a time, one after another without a pause.
        round_trip: between a process and a node, both ways, without any work.
        serving: what a node needs for one batch.
        working: what a process needs for one batch of its own, CPU of its own assumed.
        skew: of the documents' popularity, the exponent of Zipf's law; 0: all alike.
        transactions: how many committed ones are looked at.
    """

    nodes: int
    documents: int
    processes: int
    round_trip: float
    serving: float
    working: float
    skew: float = 0.0
    transactions: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        rate: committed transactions a second, over all processes.
        p50: seconds that a transaction took, the median.
        p99: the same, of a hundred the slowest.
        attempts: for each committed transaction, on average.
        busiest: the share of time in which the busiest node was at work.
    """

    rate: float
    p50: float
    p99: float
    attempts: float
    busiest: float


@dataclass(slots=True)
class _Process:
    document: int = 0
    begun: float = 0.0
    seen: int = -1  # the version that was read; -1: nothing was yet
    conflicts: int = 0


def simulate(world: World, *, seed: int) -> Outcome:
    """Run the model until enough transactions were committed.

    Args:
        world: what to simulate.
        seed: of everything that chance decides.
    """
    chance = random.Random(seed)  # noqa: S311 - a simulation is to be repeatable
    popularity = _popularity(world)
    versions = [0] * world.documents
    free, busy = [0.0] * world.nodes, [0.0] * world.nodes
    took: list[float] = []
    attempts = committed = 0
    started = 0.0
    order = itertools.count()
    warm = 2 * world.processes  # until then the queues fill up
    arrivals: list[tuple[float, int, _Process]] = []

    def send(process: _Process, at: float) -> None:
        heapq.heappush(arrivals, (at + world.round_trip / 2, next(order), process))

    def begin(process: _Process, at: float) -> None:
        process.document = bisect.bisect_left(popularity, chance.random() * popularity[-1])
        process.begun, process.seen, process.conflicts = at, -1, 0
        send(process, at + world.working)

    for _ in range(world.processes):
        begin(_Process(), chance.random() * (world.round_trip + world.serving))
    while len(took) < world.transactions:
        arrived, _, process = heapq.heappop(arrivals)
        node = process.document % world.nodes
        served = max(arrived, free[node]) + world.serving
        free[node] = served
        busy[node] += max(0.0, min(world.serving, served - started))  # nodes with short queues lag behind
        back = served + world.round_trip / 2
        version = versions[process.document]
        if process.seen == version:
            versions[process.document] += 1
            committed += 1
            attempts += 1
            if committed == warm:
                started, attempts, busy = served, 0, [0.0] * world.nodes
            elif committed > warm:
                took.append(back - process.begun)
            begin(process, back)
            continue
        if process.seen >= 0:
            attempts += 1
            process.conflicts += 1
            back += chance.uniform(0, min(_WAIT * 2 ** (process.conflicts - 1), _LONGEST))
        process.seen = version
        send(process, back + world.working)
    lasted = max(free) - started
    took.sort()
    return Outcome(
        rate=len(took) / lasted,
        p50=took[len(took) // 2],
        p99=took[len(took) * 99 // 100],
        attempts=attempts / len(took),
        busiest=max(busy) / lasted,
    )


def _popularity(world: World) -> list[float]:
    """Cumulated, by document."""
    return list(itertools.accumulate((rank + 1) ** -world.skew for rank in range(world.documents)))
