"""``python -m benchmarks.scaling``: measures costs on one node and on a cluster, simulates more, writes docs/scaling.md.

``python -m benchmarks.scaling page`` writes the page anew from what was recorded.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from benchmarks import machine
from benchmarks.scaling.measure import costs, held, weight
from benchmarks.scaling.nodes import Nodes
from benchmarks.scaling.page import PAGE, PRIMARIES, RECORD, filled, worlds
from benchmarks.scaling.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS: Final = 4.0
_ROUNDS: Final = 3
_CONNECTIONS: Final = 500
_DOCUMENTS: Final = (1, 3, 10, 1000)


def main() -> None:
    """Measure, simulate, write."""
    if sys.argv[1:] != ["page"]:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(_record(), indent=1) + "\n")
    record = json.loads(RECORD.read_text())
    PAGE.write_text(filled(PAGE.read_text(), record))
    print(f"wrote {RECORD.name} and {PAGE.name}")


def _record() -> dict[str, Any]:
    place = machine.placements().get("split", machine.placements()["any"])
    machine.pin(0, place.clients)
    record: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "costs": {},
    }
    with Nodes(1, place.server) as alone, Nodes(PRIMARIES, place.server) as cluster:
        record["server"] = alone.version
        for _, (name, nodes) in itertools.product(range(_ROUNDS), (("alone", alone), ("cluster", cluster))):
            found = costs(nodes.url, nodes.clients, seconds=_SECONDS, tag=lambda number: f"t{number}")
            record["costs"].setdefault(name, []).append([asdict(cost) for cost in found])
        record["held"] = {
            name: [asdict(held(nodes.url, nodes.clients, documents=count)) for count in _DOCUMENTS]
            for name, nodes in (("alone", alone), ("cluster", cluster))
        }
        record["weight"] = asdict(weight(alone.url, alone.clients[0], connections=_CONNECTIONS))
    record["simulated"] = list(_simulated(record))
    return record


def _simulated(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for world in worlds(record):
        yield {"world": asdict(world), "outcome": asdict(simulate(world, seed=1))}


if __name__ == "__main__":
    main()
