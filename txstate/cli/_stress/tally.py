"""Counting what became of acknowledged updates: how many are lost, how many are there twice. Pure code.

Every write that `stress` makes carries an id of its own, which it leaves in the cell that it changes, beside the
amount; and the worker notes which id it had read there. So each write names the one that it was built on, like a
commit names its parent. From the id that is left in the store at the end, these notes lead back, write by write, to
the beginning: the writes on this path had an effect that is still there, each as often as it is met; all others were
overwritten, or never arrived.

The count is exact because the path is a fact about single writes, not a difference of totals: a loss and a double,
even of the same worker, stand there side by side and can't make up for each other. Each run of a transaction's
function takes a new id, so an operation that was applied by two of its runs is met twice. The amounts along the path
are added up and compared with the amount in the store, which would tell if an id and its amount had parted.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = 0
"""The id that a cell holds before the first write."""


class Fate(enum.Enum):
    """What the caller of an operation was told."""

    ACKNOWLEDGED = enum.auto()
    """It returned: to be applied once."""
    UNKNOWN = enum.auto()
    """Nobody could tell: may be applied once, or not at all."""
    FAILED = enum.auto()
    """It raised: must not be applied."""


class Write(NamedTuple):
    """One cell's part of one run of a transaction's function.

    Attributes:
        operation: which operation of the worker, from 0.
        cell: what it changes.
        id: its id, unique over all workers.
        parent: the id that was read in the cell.
        amount: what it adds to the cell's amount.
    """

    operation: int
    cell: str
    id: int
    parent: int
    amount: int


@dataclass(slots=True)
class Log:
    """What one worker did to one contender's documents.

    Attributes:
        operations: for each operation its fate, and the cells that it had to change.
        writes: everything that it may have written.
    """

    operations: list[tuple[Fate, tuple[str, ...]]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cell:
    """What the store shows at the end.

    Attributes:
        id: of the last write.
        amount: how much it has gained since the beginning; None where there is no amount.
    """

    id: int
    amount: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The result. ``applied == acknowledged - lost + doubled`` plus those of `unknown` that were applied.

    Attributes:
        acknowledged: operations that returned.
        applied: how often operations are in the store, in all their cells.
        lost: acknowledged ones that are not, or not in all their cells.
        doubled: how often operations are there beyond what their caller was told.
        unknown: operations of which nobody could tell.
        failed: operations that raised something else.
        torn: operations of which one cell shows more than another, and cells whose amount is not what its writes add
            up to.
    """

    acknowledged: int
    applied: int
    lost: int
    doubled: int
    unknown: int
    failed: int
    torn: int


def count(logs: Sequence[Log], final: Mapping[str, Cell]) -> Tally:
    """Count.

    Args:
        logs: of all workers; one that is missing makes the count impossible.
        final: all cells, as they were found when everything had come to rest.

    Raises:
        ValueError: the store shows a write that is in no log.
    """
    written = {
        (write.cell, write.id): (worker, write) for worker, log in enumerate(logs) for write in log.writes
    }
    met: Counter[tuple[int, int, str]] = Counter()
    torn = 0
    for name, cell in final.items():
        amount, identity = 0, cell.id
        while identity != ROOT:
            found = written.get((name, identity))
            if found is None:
                raise ValueError(f"{name} shows the write {identity}, which no worker made")
            worker, write = found
            met[worker, write.operation, name] += 1
            amount += write.amount
            identity = write.parent
        torn += cell.amount is not None and cell.amount != amount
    fates: Counter[Fate] = Counter()
    applied = lost = doubled = 0
    for worker, log in enumerate(logs):
        for number, (fate, cells) in enumerate(log.operations):
            least, most = _range(met[worker, number, cell] for cell in cells)
            fates[fate] += 1
            applied += least
            lost += fate is Fate.ACKNOWLEDGED and least == 0
            doubled += max(0, most - (fate is not Fate.FAILED))
            torn += least != most
    return Tally(
        acknowledged=fates[Fate.ACKNOWLEDGED],
        applied=applied,
        lost=lost,
        doubled=doubled,
        unknown=fates[Fate.UNKNOWN],
        failed=fates[Fate.FAILED],
        torn=torn,
    )


def _range(counts: Iterable[int]) -> tuple[int, int]:
    found = list(counts)
    return min(found), max(found)
