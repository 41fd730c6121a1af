"""A graph whose edges have kinds and reasons, and its strongly connected components.

Nodes are numbers; what they stand for is not known here. An edge from each of many nodes to each of many others
goes through a few *hubs*, nodes of the graph's own, so that the graph stays about as large as what it was made from.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Hashable, Iterable, Iterator, Mapping

    from txstate.testing._history.anomalies import EdgeKind

_WORTH_A_HUB: Final = 4  # a hub pays once it replaces that many times the edges that it needs

_DONE: Final = sys.maxsize  # later than any node


class Why(NamedTuple):
    """What makes a `ww`, `wr` or `rw` edge.

    Attributes:
        before: the last element that the source knew of the list, in a tuple; empty when there was none.
        after: the element that the target saw or added.
        seen: whether any read saw `after`.
    """

    key: Hashable
    before: tuple[Hashable, ...]
    after: Hashable
    seen: bool = True


class Arc(NamedTuple):
    """One edge. `why` is None for an order that the times of the two nodes explain."""

    source: int
    target: int
    kind: EdgeKind
    why: Why | None


class Graph:
    """A directed graph over the nodes 0 to `size` - 1, without edges from a node to itself."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._edges: dict[EdgeKind, dict[int, dict[int, Why | None]]] = {
            "ww": {},
            "wr": {},
            "rw": {},
            "process": {},
            "realtime": {},
        }
        self._hubs: list[dict[int, Why | None]] = []
        self._hubs_to: dict[int, list[int]] = {}
        self._orders: dict[EdgeKind, Callable[[int, int], bool]] = {}

    def add(self, kind: EdgeKind, source: int, target: int, why: Why | None = None) -> None:
        """Add an edge. Of several with the same ends and kind the first one's reason is kept."""
        if source != target:
            self._edges[kind].setdefault(source, {}).setdefault(target, why)

    def add_all(self, kind: EdgeKind, sources: Collection[int], targets: Mapping[int, Why | None]) -> None:
        """Add an edge from each source to each target other than itself, with the target's reason.

        Args:
            kind: of the edges.
            sources: distinct nodes.
            targets: nodes and reasons; may share nodes with `sources`.
        """
        if len(sources) * len(targets) <= _WORTH_A_HUB * (len(sources) + len(targets)):
            for source, (target, why) in itertools.product(sources, targets.items()):
                self.add(kind, source, target, why)
        elif targets.keys().isdisjoint(sources):
            self._add_hub(kind, sources, targets)
        else:
            # Two nodes differ in some bit, a node from itself in none: two hubs for each bit join all pairs but those.
            for bit in range(max(*sources, *targets).bit_length()):
                for side in (0, 1):
                    self._add_hub(
                        kind,
                        [source for source in sources if source >> bit & 1 == side],
                        {target: why for target, why in targets.items() if target >> bit & 1 != side},
                    )

    def _add_hub(self, kind: EdgeKind, sources: Collection[int], targets: Mapping[int, Why | None]) -> None:
        if sources and targets:
            hub = self.size + len(self._hubs)
            self._hubs.append(dict(targets))
            for target in targets:
                self._hubs_to.setdefault(target, []).append(hub)
            for source in sources:
                self._edges[kind].setdefault(source, {})[hub] = None

    def imply(self, kind: EdgeKind, precedes: Callable[[int, int], bool]) -> None:
        """Say what the edges of a kind stand for: an order, true of two nodes whenever a path of them leads there."""
        self._orders[kind] = precedes

    def arc(self, source: int, target: int, kind: EdgeKind) -> Arc | None:
        """The edge of this kind between two nodes, if there is one or it is implied."""
        leaving = self.leaving(source, kind)
        if target in leaving:
            return Arc(source, target, kind, leaving[target])
        if kind in self._orders:
            return Arc(source, target, kind, None) if self._orders[kind](source, target) else None
        hub = next((each for each in self._hubs_to.get(target, ()) if each in leaving), None)
        return None if hub is None else Arc(source, target, kind, self.through(hub)[target])

    def leaving(self, node: int, kind: EdgeKind) -> Mapping[int, Why | None]:
        """Where the node's edges of this kind lead, hubs included: from `size` on."""
        return self._edges[kind].get(node, {})

    def through(self, hub: int) -> Mapping[int, Why | None]:
        """Where a hub leads. An edge to a hub and one from it are one edge, of the first one's kind."""
        return self._hubs[hub - self.size]

    def components(self, kinds: Collection[EdgeKind], among: Container[int] | None = None) -> list[set[int]]:
        """The strongly connected components of more than one node, by these kinds of edges alone.

        Args:
            kinds: of the edges to follow.
            among: nodes and hubs to stay in; None for all.

        Returns:
            sets of nodes and of the hubs that join them.
        """

        def successors(node: int) -> Iterator[int]:
            if node >= self.size:
                found: Iterable[int] = self._hubs[node - self.size]
            else:
                found = itertools.chain.from_iterable(self.leaving(node, kind) for kind in kinds)
            return iter(found) if among is None else (each for each in found if each in among)

        roots = (node for node in range(self.size) if among is None or node in among)
        return [set(each) for each in _tarjan(roots, successors) if len(each) > 1]


def _tarjan(roots: Iterable[int], successors: Callable[[int], Iterator[int]]) -> Iterator[list[int]]:
    """Strongly connected components (Tarjan, 1972), without recursion: a history is deeper than Python's stack."""
    order: dict[int, int] = {}  # of discovery; `_DONE` once the node's component is known
    low: dict[int, int] = {}  # the earliest node of the stack that is reached from here
    stack: list[int] = []
    path: list[tuple[int, Iterator[int]]] = []

    def enter(node: int) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        path.append((node, successors(node)))

    for root in roots:
        if root not in order:
            enter(root)
        while path:
            node, rest = path[-1]
            for successor in rest:
                if successor not in order:
                    enter(successor)
                    break
                low[node] = min(low[node], order[successor])
            else:
                path.pop()
                if path:
                    above = path[-1][0]
                    low[above] = min(low[above], low[node])
                if low[node] == order[node]:
                    component = _cut(stack, node)
                    order.update(dict.fromkeys(component, _DONE))
                    yield component


def _cut(stack: list[int], node: int) -> list[int]:
    """Take the node, and all that lies above it, from the stack."""
    component = [stack.pop()]
    while component[-1] != node:
        component.append(stack.pop())
    return component
