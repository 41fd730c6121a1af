"""The tables of docs/scaling.md, from what was recorded. Computes; measures nothing."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.docs import fill
from benchmarks.scaling.measure import ONE_SLOT, TWO_OF_MANY
from benchmarks.scaling.simulation import World
from benchmarks.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE: Final = Path(__file__).parents[2] / "docs" / "scaling.md"
RECORD: Final = Path(__file__).parents[1] / "results" / "scaling.json"

_NODES: Final = (1, 3, 6, 12, 30)
PRIMARIES: Final = 3
"""Of the cluster that is measured."""
_PROCESSES: Final = 1000
_DOCUMENTS: Final = 1_000_000
_ROUND_TRIPS: Final = {"in a rack": 0.0002, "between zones": 0.001, "between regions": 0.03}
"""Seconds, as orders of magnitude; yours are told by `txstate doctor`."""
_SKEWS: Final = (0.0, 0.4, 0.6, 0.8)


def filled(page: str, record: Mapping[str, Any]) -> str:
    """The page with the tables of this record."""
    return fill(page, tables(record))


def tables(record: Mapping[str, Any]) -> list[Table]:
    """All of them."""
    return [
        _costs(record),
        _one_slot(record),
        _capacity(record),
        _held(record),
        _weights(record),
        *_simulations(record),
    ]


def worlds(record: Mapping[str, Any]) -> Iterator[World]:
    """What is simulated: with the costs of a transfer between two documents out of many, on a node of a cluster."""
    serving = _median(record, "cluster", TWO_OF_MANY, "server_us") / 2e6
    working = _median(record, "cluster", TWO_OF_MANY, "client_us") / 2e6
    near = _ROUND_TRIPS["between zones"]
    for nodes in _NODES:
        yield World(
            nodes=nodes,
            documents=_DOCUMENTS,
            processes=_PROCESSES,
            round_trip=near,
            serving=serving,
            working=working,
        )
    for round_trip in _ROUND_TRIPS.values():
        yield World(
            nodes=3,
            documents=_DOCUMENTS,
            processes=100,
            round_trip=round_trip,
            serving=serving,
            working=working,
        )
    for skew in _SKEWS:
        yield World(
            nodes=3, documents=10_000, processes=100, round_trip=near, serving=serving, working=working, skew=skew
        )  # fmt: skip


def _costs(record: Mapping[str, Any]) -> Table:
    rows = []
    for cost in record["costs"]["alone"][0]:
        load = cost["load"]
        alone, cluster = (_median(record, where, load, "server_us") for where in ("alone", "cluster"))
        client = _median(record, "alone", load, "client_us"), _median(record, "cluster", load, "client_us")
        rows.append(
            (
                load,
                f"{cost['round_trips']:.0f}",
                f"{alone:.0f} us",
                f"{cluster:.0f} us",
                f"{client[0]:.0f} us",
                f"{client[1]:.0f} us",
            )
        )
    heads = (
        "one transaction",
        "round trips",
        "server, alone",
        "server, in a cluster",
        "client, alone",
        "client, in a cluster",
    )
    return Table("costs", "CPU time of a transaction", heads, tuple(rows))


def _one_slot(record: Mapping[str, Any]) -> Table:
    """What its node could do for a slot, and what one process can: it waits for each round trip."""
    rows = []
    for cost in record["costs"]["cluster"][0]:
        load = cost["load"]
        if load == TWO_OF_MANY:
            continue
        server, client = (_median(record, "cluster", load, figure) for figure in ("server_us", "client_us"))
        at_work = (server + client) / 1e6
        alone = (1 / (at_work + cost["round_trips"] * away) for away in _ROUND_TRIPS.values())
        rows.append((load, f"{round(1e6 / server, -3):,.0f}", *(f"{rate:,.0f}" for rate in alone)))
    heads = (
        "transactions a second",
        "fill the slot's node",
        *(f"one process, {name} ({seconds * 1000:g} ms)" for name, seconds in _ROUND_TRIPS.items()),
    )
    return Table("slot", "What one slot carries", heads, tuple(rows))


def _capacity(record: Mapping[str, Any]) -> Table:
    rows = []
    for cost in record["costs"]["cluster"][0]:
        if cost["load"] == ONE_SLOT:
            continue
        full = 1e6 / _median(record, "cluster", cost["load"], "server_us")
        rows.append((cost["load"], *(f"{round(nodes * full, -3):,.0f}" for nodes in _NODES)))
    heads = (
        "transactions a second that fill",
        *(f"{nodes} nodes" if nodes > 1 else "1 node" for nodes in _NODES),
    )
    return Table("capacity", "What fills the nodes", heads, tuple(rows))


def _held(record: Mapping[str, Any]) -> Table:
    rows = []
    for alone, cluster in zip(record["held"]["alone"], record["held"]["cluster"], strict=True):
        count = alone["documents"]
        connections = alone["connections"], cluster["connections"]
        thousand = _PROCESSES * alone["connections"], _PROCESSES * cluster["connections"] // PRIMARIES
        rows.append(
            (f"{count:,} document{'s' * (count > 1)}", *(f"{number:,}" for number in connections + thousand))
        )
    heads = (
        "a process with one thread updates, in turn",
        "its connections, 1 node",
        f"{PRIMARIES} primaries",
        f"{_PROCESSES:,} processes: on 1 node",
        f"on each of {PRIMARIES} primaries",
    )
    return Table("held", "Connections", heads, tuple(rows))


def _weights(record: Mapping[str, Any]) -> Table:
    weight = record["weight"]
    rows = [
        (f"{count:,}", *(_bytes(count * weight[name]) for name in ("token", "idle", "armed")))
        for count in (1, 1000, 10_000, 50_000)
    ]
    heads = ("connections", "their tokens", "all, having committed once", "all, armed")
    return Table("weights", "Memory on the server", heads, tuple(rows))


def _simulations(record: Mapping[str, Any]) -> Iterator[Table]:
    found = record["simulated"]
    first, second = len(_NODES), len(_NODES) + len(_ROUND_TRIPS)
    heads = ("transactions/s", "p50", "p99", "attempts", "busiest node")
    parts = (
        ("nodes", f"{_PROCESSES:,} processes on", found[:first], ["1 node", *(f"{nodes} nodes" for nodes in _NODES[1:])]),
        ("network", "100 processes, 3 nodes", found[first:second], [f"{name} ({seconds * 1000:g} ms)" for name, seconds in _ROUND_TRIPS.items()]),
        ("popularity", "100 processes, 10,000 documents, Zipf's exponent", found[second:], [f"{skew:g}" for skew in _SKEWS]),
    )  # fmt: skip
    for name, head, part, labels in parts:
        rows = tuple((label, *_outcome(one["outcome"])) for label, one in zip(labels, part, strict=True))
        yield Table(name, head, (head, *heads), rows)


def _outcome(outcome: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{outcome['rate']:,.0f}",
        f"{outcome['p50'] * 1000:.2f} ms",
        f"{outcome['p99'] * 1000:.2f} ms",
        f"{outcome['attempts']:.3f}",
        f"{outcome['busiest']:.0%}",
    )


def _median(record: Mapping[str, Any], where: str, load: str, figure: str) -> float:
    rounds = record["costs"][where]
    return statistics.median([float(cost[figure]) for one in rounds for cost in one if cost["load"] == load])


def _bytes(number: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"
