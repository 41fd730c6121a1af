"""Evidence: what an anomaly looks like when it is shown to someone.

Owns names and words. How anomalies are found is the business of `versions` and `cycles`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable

EdgeKind: TypeAlias = Literal["ww", "wr", "rw", "process", "realtime"]

LEVELS: Final = ("G0", "G1c", "G-single", "G-nonadjacent", "G2-item")
"""Cycles of the transactions' reads and writes, the one that breaks the weakest promise first."""

ORDERS: Final = ("", "-process", "-realtime")
"""What else a cycle needs: nothing, the order within processes, the order of real time."""

LOCAL: Final = ("internal", "duplicate-elements", "garbage", "G1a", "G1b", "incompatible-order")
"""Anomalies that need no cycle."""

NAMES: Final = LOCAL + tuple(level + order for order in ORDERS for level in LEVELS)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """An anomaly that shows without any cycle.

    Attributes:
        transactions: ids; first the one whose read gives it away, then the others concerned.
        key: the list that was read.
        text: what is wrong.
    """

    transactions: tuple[Hashable, ...]
    key: Hashable
    text: str

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """Why one transaction must come before another.

    Attributes:
        source: the id of the earlier one.
        target: the id of the later one.
        kind: `ww` overwrote, `wr` was read by, `rw` was overwritten by, `process` and `realtime` ended before.
        key: the list concerned; None for `process` and `realtime`.
        text: the evidence, with elements or times.
    """

    source: Hashable
    target: Hashable
    kind: EdgeKind
    key: Hashable
    text: str

    def __str__(self) -> str:
        return f"{self.source!r} -{self.kind}-> {self.target!r}: {self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Cycle:
    """Transactions each of which must come before the next, and the last before the first.

    Attributes:
        name: the weakest level that it breaks, such as ``"G-single-realtime"``.
        edges: in order; each one's target is the next one's source.
    """

    name: str
    edges: tuple[Edge, ...]

    @property
    def transactions(self) -> tuple[Hashable, ...]:
        """The ids, each once, in the order of the cycle."""
        return tuple(edge.source for edge in self.edges)

    @property
    def lost_update(self) -> bool:
        """Whether two transactions read one list and then both wrote it, neither knowing of the other."""
        return (
            {edge.kind for edge in self.edges} in ({"ww", "rw"}, {"rw"})
            and len(self.edges) == len(("one", "other"))
            and self.edges[0].key == self.edges[1].key
        )

    def __str__(self) -> str:
        note = f" (lost update of {self.edges[0].key!r})" if self.lost_update else ""
        path = " -> ".join(repr(each) for each in (*self.transactions, self.edges[0].source))
        return "\n".join([f"{self.name}{note}: {path}", *(f"  {edge}" for edge in self.edges)])


Evidence: TypeAlias = Finding | Cycle
