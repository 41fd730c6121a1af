"""What is done to the documents: which exist, and a stream of operations on them.

Every change adds whole numbers to fields, so that what must be there in the end is known from what was acknowledged.
Knows nothing of servers or peers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Document: TypeAlias = dict[str, int | str]
Cell: TypeAlias = tuple[str, str]
"""A document's key and a field's name."""

START: Final = 1_000_000
"""Every counter begins here."""
_STREAM: Final = 997
"""Operations drawn before the start, to be repeated: drawing them costs as much time as some peers do."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    Attributes:
        keys: the documents to read, all from the same moment.
        field: which field of each to change.
        by: what to add to it, per document; empty: only read.
        think: seconds that pass between reading and writing.
    """

    keys: tuple[str, ...]
    field: str
    by: tuple[int, ...] = ()
    think: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Documents, and what happens to them.

    Attributes:
        name: for tables.
        documents: how many; 1 is the hot one.
        fields: of each document, counters included.
        counters: how many of its fields are numbers; each change picks one.
        width: characters of each other field.
        touched: documents that one operation reads and changes.
        reads: share of the operations that only read, from 0 to 1.
        think: seconds between reading and writing.
    """

    name: str
    documents: int = 1
    fields: int = 10
    counters: int = 1
    width: int = 16
    touched: int = 1
    reads: float = 0.0
    think: float = 0.0

    def initial(self) -> dict[str, Document]:
        """All documents as they are before the start."""
        numbers: Document = {f"n{index}": START for index in range(self.counters)}
        texts: Document = {f"t{index}": "x" * self.width for index in range(self.fields - self.counters)}
        return {f"doc:{index}": numbers | texts for index in range(self.documents)}

    @property
    def size(self) -> int:
        """Bytes of one document's names and values."""
        return sum(len(name) + len(str(value)) for name, value in self.initial()["doc:0"].items())

    def stream(self, seed: str) -> list[Op]:
        """Operations, to be repeated over and over; the same ones for the same seed."""
        rng = random.Random(seed)  # noqa: S311 - to be repeatable
        return [self._draw(rng) for _ in range(_STREAM)]

    def _draw(self, rng: random.Random) -> Op:
        keys = tuple(f"doc:{index}" for index in rng.sample(range(self.documents), self.touched))
        name = f"n{rng.randrange(self.counters)}"
        if rng.random() < self.reads:
            return Op(keys, name)
        return Op(keys, name, self._amounts(), self.think)

    def _amounts(self) -> tuple[int, ...]:
        """A transfer takes as much from one half of the documents as the other half gets."""
        if self.touched == 1:
            return (1,)
        return tuple(-1 if index % 2 == 0 else 1 for index in range(self.touched))


@dataclass(slots=True)
class Ledger:
    """What was acknowledged, per cell.

    Attributes:
        added: the sum of what acknowledged changes added.
    """

    added: dict[Cell, int] = field(default_factory=dict)

    def enter(self, op: Op) -> None:
        """Note an acknowledged operation."""
        for key, amount in zip(op.keys, op.by, strict=bool(op.by)):
            cell = key, op.field
            self.added[cell] = self.added.get(cell, 0) + amount

    def merge(self, other: Ledger) -> None:
        """Take in another process's."""
        for cell, amount in other.added.items():
            self.added[cell] = self.added.get(cell, 0) + amount

    def off_by(self, found: Mapping[Cell, int]) -> int:
        """How many field updates, at least, were lost or doubled: the difference to what was found, summed up."""
        return sum(abs(START + amount - found[cell]) for cell, amount in self.added.items())
