"""Finding cycles in a graph of transactions and naming the weakest level that each one breaks.

A cycle's level depends on its edges alone: whether there is a `wr`, how many `rw` there are, and whether two of them
meet. Knows nothing of what the transactions read and wrote.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from txstate.testing._history.anomalies import LEVELS, ORDERS
from txstate.testing._history.graph import Arc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from txstate.testing._history.anomalies import EdgeKind
    from txstate.testing._history.graph import Graph, Why

_G0, _G1C, _G_SINGLE, _G_NONADJACENT, _G2_ITEM = range(len(LEVELS))
_ORDER_KINDS: Final[tuple[EdgeKind, ...]] = ("process", "realtime")
_ALL_DATA: Final[tuple[EdgeKind, ...]] = ("ww", "wr", "rw")
_DATA_KINDS: Final = (_ALL_DATA[:1], _ALL_DATA[:2], _ALL_DATA, _ALL_DATA, _ALL_DATA)  # by level

_EFFORT: Final = 20
_EFFORT_FOR_AT_LEAST: Final = 1000
"""How many edges may be walked for one name and each node on a cycle, shared out among the components by size; few
nodes count as more. Cycles are searched shortest first, so what it cuts short, in large components only, is the search
for long ones. That there is a cycle is never missed, and no cycle gets a wrong name."""


class FoundCycle(NamedTuple):
    """A cycle: its level and order are indices of `LEVELS` and `ORDERS`; no transaction is in it twice."""

    level: int
    order: int
    arcs: tuple[Arc, ...]

    @property
    def name(self) -> str:
        """The name of the anomaly, for example ``"G-single-realtime"``."""
        return LEVELS[self.level] + ORDERS[self.order]


def find_cycles(graph: Graph) -> Iterator[FoundCycle]:
    """Find, for each name and each strongly connected component, the shortest cycles that have this name.

    A cycle over transactions that already were shown to form one of a level and an order no higher is left out:
    it would say the same with more assumptions.

    Args:
        graph: of which the nodes are transactions.

    Yields:
        the cycles, none exactly when the graph has none.
    """
    suspects = graph.components(_kinds(_G2_ITEM, len(_ORDER_KINDS)))
    everyone = set().union(*suspects)
    effort = _EFFORT * max(len(everyone), _EFFORT_FOR_AT_LEAST)
    components = functools.cache(lambda kinds: graph.components(kinds, everyone))
    shown: dict[tuple[int, ...], list[FoundCycle]] = {}
    for order in range(len(ORDERS)):
        for level in range(len(LEVELS)):
            among = components(_kinds(level, order))
            for component in among:
                share = effort * len(component) / sum(map(len, among))
                for cycle in _Search(graph, component, level, order, share).run():
                    known = shown.setdefault(_identity(cycle), [])
                    if not any(each.level <= level and each.order <= order for each in known):
                        known.append(cycle)
                        yield cycle
    for component in suspects:
        if not any(component.issuperset(nodes) for nodes in shown):
            yield _any_cycle(graph, component)


class _Walk(NamedTuple):
    """What has to be remembered of a path: enough to know the level of the cycle that it closes."""

    rw: int = 0  # how many, up to 2
    first: bool | None = None  # whether the first edge was one; None before it
    last: bool = False  # whether the last one was
    adjacent: bool = False  # whether two have met
    wr: bool = False  # whether there was one; of no interest once there is an rw

    @property
    def level(self) -> int:
        """The level so far. It only rises as the walk goes on."""
        if self.adjacent:
            return _G2_ITEM
        if self.rw:
            return _G_SINGLE if self.rw == 1 else _G_NONADJACENT
        return _G1C if self.wr else _G0

    @property
    def closed_level(self) -> int:
        """The level once the walk is back at its start, where its last edge meets its first."""
        return _G2_ITEM if self.rw > 1 and self.first and self.last else self.level


_Step: TypeAlias = tuple[int, _Walk]  # a node, and what has to be remembered of the way there
_Known: TypeAlias = dict[int, tuple[_Step, Arc] | None]  # by node, whence and how; None for a hub
_Came: TypeAlias = dict[_Walk, _Known]
_STANDING: Final = _Walk()


@functools.cache  # there are a few dozen of them
def _extend(walk: _Walk, kind: EdgeKind) -> _Walk:
    is_rw = kind == "rw"
    rw = min(2, walk.rw + is_rw)
    return _Walk(
        rw=rw,
        first=is_rw if walk.first is None else walk.first,
        last=is_rw,
        adjacent=walk.adjacent or (is_rw and walk.last),
        wr=rw == 0 and (walk.wr or kind == "wr"),
    )


class _Search:
    """The search for the shortest cycles of one name in one component.

    Every cycle of a name has an edge of the last of its kinds, so a walk ends with one. One of real time is enough:
    of two, by their times, one could be left out together with all that lies between them on one side.

    `effort` is how many edges may still be walked. A search that has begun does not look at it.
    """

    def __init__(self, graph: Graph, component: set[int], level: int, order: int, effort: float) -> None:
        self.graph, self.component, self.level, self.order = graph, component, level, order
        kinds = _kinds(level, order)
        self.kinds, self.closing = tuple(kind for kind in kinds if kind != "realtime"), kinds[-1]
        self.effort = effort

    def run(self) -> list[FoundCycle]:
        """For one length after the other, try to close a cycle from each node; stop at the first length that does."""
        starts = sorted(node for node in self.component if node < self.graph.size)
        for length in range(2, len(self.component) + 1):
            found: list[FoundCycle] = []
            complete = True
            for start in starts:
                if self.effort <= 0:
                    return found or self._without_bound(starts)
                arcs, cut = self.close(start, length)
                complete = complete and not cut
                found += _if_simple(arcs)
            if found or complete:
                return found
        return []

    def _without_bound(self, starts: Iterable[int]) -> list[FoundCycle]:
        """Go on when the effort is spent, for those names where it is cheap and sure to find something soon."""
        if self.level > _G1C or self.order:
            return []
        walks = (self.close(start, len(self.component))[0] for start in starts)
        return _if_simple(next(filter(None, walks), ()))

    def close(self, start: int, length: int) -> tuple[tuple[Arc, ...], bool]:
        """Search breadth-first for the shortest walk from a node back to it that has the name.

        Returns:
            the walk, empty if there is none, and whether the bound on its length ended the search.
        """
        came: _Came = {}
        frontier: list[_Step] = [(start, _STANDING)]
        for left in reversed(range(length)):
            reached: list[_Step] = []
            for step in frontier:
                self.effort -= 1
                if _extend(step[1], self.closing).closed_level == self.level:
                    last = self.graph.arc(step[0], start, self.closing)
                    if last is not None:
                        return _path(came, step, last), False
                if left:
                    for kind in self.kinds:
                        reached += self._advance(start, step, kind, came)
            if left and not reached:
                return (), False
            frontier = reached
        return (), True

    def _advance(self, start: int, step: _Step, kind: EdgeKind, came: _Came) -> Iterator[_Step]:
        """Note, and yield, what is reached anew by the edges of one kind."""
        walk = _extend(step[1], kind)
        if walk.level > self.level:
            return
        known = came.setdefault(walk, {})
        for target, why in self.graph.leaving(step[0], kind).items():
            self.effort -= 1
            if target not in self.component or target in known:
                continue
            if target < self.graph.size:
                beyond: Mapping[int, Why | None] = {target: why}
            else:  # a hub; once it has been passed, all beyond is known
                known[target] = None
                beyond = self.graph.through(target)
                self.effort -= len(beyond)
            for end, reason in beyond.items():
                if end != start and end in self.component and end not in known:
                    known[end] = (step, Arc(step[0], end, kind, reason))
                    yield end, walk


def _any_cycle(graph: Graph, component: set[int]) -> FoundCycle:
    """Some cycle of a component: of all names the shortest from its start, so that no node is in it twice."""
    names = itertools.product(range(len(LEVELS)), range(len(ORDERS)))
    searches = [_Search(graph, component, level, order, effort=0) for level, order in names]
    for start in sorted(node for node in component if node < graph.size):
        walks = (search.close(start, len(component))[0] for search in searches)
        if shortest := min(filter(None, walks), key=len, default=None):
            return _named(shortest)
    raise AssertionError("a strongly connected component has a cycle")


def _path(came: _Came, step: _Step, last: Arc) -> tuple[Arc, ...]:
    arcs = [last]
    while entry := came.get(step[1], {}).get(step[0]):
        step, arc = entry
        if (
            arc.kind == arcs[-1].kind == "process"
        ):  # in the same process: as an order it holds from end to end
            arcs[-1] = arcs[-1]._replace(source=arc.source)
        else:
            arcs.append(arc)
    return tuple(reversed(arcs))


def _if_simple(arcs: tuple[Arc, ...]) -> list[FoundCycle]:
    """The walk as a cycle, if it is one: if it visits a node twice, a part of it has a name as weak or weaker."""
    return [_named(arcs)] if len({arc.source for arc in arcs}) == len(arcs) > 0 else []


def _named(arcs: tuple[Arc, ...]) -> FoundCycle:
    kinds = [arc.kind for arc in arcs]
    order = max((at for at, kind in enumerate(_ORDER_KINDS, 1) if kind in kinds), default=0)
    return FoundCycle(functools.reduce(_extend, kinds, _STANDING).closed_level, order, arcs)


def _identity(cycle: FoundCycle) -> tuple[int, ...]:
    """The nodes in order, from the smallest on: the same wherever the search began."""
    nodes = [arc.source for arc in cycle.arcs]
    at = nodes.index(min(nodes))
    return (*nodes[at:], *nodes[:at])


def _kinds(level: int, order: int) -> tuple[EdgeKind, ...]:
    """The kinds of edges that a cycle of this level and order may have; it has one of the last at least."""
    return _DATA_KINDS[level] + _ORDER_KINDS[:order]
