"""The graph and the search for cycles, against searches that try everything."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from txstate.testing._history import cycles
from txstate.testing._history import graph as graphs
from txstate.testing._history.anomalies import LEVELS, ORDERS
from txstate.testing._history.cycles import find_cycles
from txstate.testing._history.graph import Graph
from txstate.testing._history.observed import parse
from txstate.testing._history.orders import connect_processes, connect_real_time
from txstate.testing._history.versions import connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from txstate.testing._history.anomalies import EdgeKind
    from txstate.testing._history.cycles import FoundCycle

KINDS: tuple[EdgeKind, ...] = ("ww", "wr", "rw", "process", "realtime")


def edges(graph: Graph) -> set[tuple[int, int, EdgeKind]]:
    """All edges, with those through hubs as what they stand for."""
    found = set()
    for node, kind in itertools.product(range(graph.size), KINDS):
        for target in graph.leaving(node, kind):
            ends = graph.through(target) if target >= graph.size else [target]
            found |= {(node, end, kind) for end in ends}
    return found


def all_edges(graph: Graph) -> set[tuple[int, int, EdgeKind]]:
    """The edges and what they imply."""
    pairs = itertools.permutations(range(graph.size), 2)
    return {(*pair, kind) for pair, kind in itertools.product(pairs, KINDS) if graph.arc(*pair, kind)}


def size(graph: Graph) -> int:
    direct = sum(len(graph.leaving(node, kind)) for node in range(graph.size) for kind in KINDS)
    return direct + sum(len(hub) for hub in graph._hubs)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        (range(3), range(3, 6)),
        (range(300), range(300, 600)),
        (range(300), range(300)),
        (range(100, 400), range(250)),
        (range(1), range(1000)),
        (range(1000), range(1)),
        (range(0), range(1000)),
        (range(1000), range(0)),
    ],
)
def test_many_to_many_is_all_pairs_but_the_diagonal_in_little_space(
    sources: Sequence[int], targets: Sequence[int]
) -> None:
    graph = Graph(1000)
    graph.add_all("rw", sources, dict.fromkeys(targets))
    assert edges(graph) == {(one, other, "rw") for one in sources for other in targets if one != other}
    assert size(graph) <= 10 * (len(sources) + len(targets))


@pytest.mark.parametrize("seed", range(200))
def test_components_are_the_sets_of_nodes_that_reach_each_other(seed: int) -> None:
    rng = random.Random(seed)
    nodes = rng.randint(2, 12)
    graph = Graph(nodes)
    for _ in range(rng.randint(0, 2 * nodes)):
        graph.add(rng.choice(KINDS), rng.randrange(nodes), rng.randrange(nodes))
    kinds = rng.sample(KINDS, rng.randint(1, 5))
    among = set(rng.sample(range(nodes), rng.randint(1, nodes)))
    reach = {(one, one) for one in among}
    reach |= {(one, other) for one, other, kind in edges(graph) if kind in kinds and {one, other} <= among}
    for middle, one, other in itertools.product(range(nodes), repeat=3):
        if (one, middle) in reach and (middle, other) in reach:
            reach.add((one, other))
    together = {
        frozenset(other for other in among if (one, other) in reach and (other, one) in reach)
        for one in among
    }
    assert {frozenset(each) for each in graph.components(kinds, among)} == {
        each for each in together if len(each) > 1
    }


def test_a_chain_longer_than_the_stack_of_python() -> None:
    graph = Graph(50_000)
    for node in range(49_999):
        graph.add("ww", node, node + 1)
    assert graph.components(KINDS) == []
    graph.add("ww", 49_999, 0)
    assert graph.components(KINDS) == [set(range(50_000))]


# --- cycles


def name(kinds: Sequence[EdgeKind]) -> tuple[int, int]:
    """Level and order of a cycle, straight from the definitions."""
    data = [kind for kind in kinds if kind not in ("process", "realtime")]
    anti = data.count("rw")
    if any(pair == ("rw", "rw") for pair in zip(kinds, (*kinds[1:], kinds[0]), strict=True)):
        level = "G2-item"
    else:
        level = "G-nonadjacent" if anti > 1 else "G-single" if anti else "G1c" if "wr" in data else "G0"
    order = "-realtime" if "realtime" in kinds else "-process" if "process" in kinds else ""
    return LEVELS.index(level), ORDERS.index(order)


def simple_cycles(graph: Graph) -> Iterator[tuple[tuple[int, ...], tuple[EdgeKind, ...]]]:
    leaving: dict[int, list[tuple[int, EdgeKind]]] = {}
    for source, target, kind in sorted(all_edges(graph)):
        leaving.setdefault(source, []).append((target, kind))

    def walk(
        nodes: tuple[int, ...], kinds: tuple[EdgeKind, ...]
    ) -> Iterator[tuple[tuple[int, ...], tuple[EdgeKind, ...]]]:
        for target, kind in leaving.get(nodes[-1], ()):
            if target == nodes[0]:
                yield nodes, (*kinds, kind)
            elif target > nodes[0] and target not in nodes:
                yield from walk((*nodes, target), (*kinds, kind))

    for start in range(graph.size):
        yield from walk((start,), ())


def random_graph(rng: random.Random) -> Graph:
    nodes = rng.randint(2, 6)
    now, records = [0, 0], []
    for number in range(nodes):
        process = rng.randrange(2)
        call = now[process] + rng.randint(0, 5)
        now[process] = call + rng.randint(0, 10)
        record = {"id": number, "type": rng.choice(["ok", "ok", "ok", "info"]), "process": process}
        records.append(record | {"call": call, "ret": now[process], "txn": []})
    rng.shuffle(records)
    history, graph = parse(records), Graph(nodes)
    if rng.random() < 0.7:
        connect_processes(history, graph)
    if rng.random() < 0.7:
        connect_real_time(history, graph)
    kinds = rng.sample(KINDS[:3], rng.randint(1, 3))
    for _ in range(rng.randint(1, 2 * nodes)):
        graph.add(rng.choice(kinds), rng.randrange(nodes), rng.randrange(nodes))
    if rng.random() < 0.5:
        sources, targets = (rng.sample(range(nodes), rng.randint(1, nodes)) for _ in range(2))
        graph.add_all("rw", sources, dict.fromkeys(targets))
    return graph


def check(graph: Graph, found: list[FoundCycle]) -> None:
    """Every cycle found is one and is rightly named, and each that exists is excused by one as weak or weaker."""
    there = all_edges(graph)
    for cycle in found:
        sources, targets = [arc.source for arc in cycle.arcs], [arc.target for arc in cycle.arcs]
        assert {(arc.source, arc.target, arc.kind) for arc in cycle.arcs} <= there
        assert targets == [*sources[1:], sources[0]]
        assert len(set(sources)) == len(sources)
        assert (cycle.level, cycle.order) == name([arc.kind for arc in cycle.arcs])
    components = graph.components(KINDS)
    for nodes, kinds in simple_cycles(graph):
        level, order = name(kinds)
        component = next(each for each in components if each.issuperset(nodes))
        excuses = [each for each in found if component.issuperset(arc.source for arc in each.arcs)]
        assert any(each.level <= level and each.order <= order for each in excuses)


@pytest.mark.parametrize("hub", [0, 4])
def test_cycles_against_all_simple_cycles(hub: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_WORTH_A_HUB", hub)
    seen = set()
    for seed in range(2000):
        graph = random_graph(random.Random(seed))
        found = list(find_cycles(graph))
        check(graph, found)
        seen |= {each.name for each in found}
    assert seen == {level + order for level in LEVELS for order in ORDERS}


def test_the_shortest_cycle_of_a_component_is_found() -> None:
    for seed in range(500):
        graph = random_graph(random.Random(seed))
        shortest = min((len(nodes) for nodes, _ in simple_cycles(graph)), default=None)
        assert min((len(each.arcs) for each in find_cycles(graph)), default=None) == shortest


def test_without_effort_each_component_still_shows_a_rightly_named_cycle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cycles, "_EFFORT", 0)
    for seed in range(1000):
        graph = random_graph(random.Random(seed))
        found = list(find_cycles(graph))
        shown = {frozenset(arc.source for arc in each.arcs) for each in found}
        for component in graph.components(KINDS):
            assert any(component.issuperset(each) for each in shown)
        for each in found:
            assert (each.level, each.order) == name([arc.kind for arc in each.arcs])


def test_one_long_cycle() -> None:
    graph = Graph(300)
    for node in range(299):
        graph.add("wr" if node % 2 else "ww", node, node + 1)
    graph.add("rw", 299, 0)
    (found,) = find_cycles(graph)
    assert found.name == "G-single"
    assert len(found.arcs) == 300


def test_each_name_shows_its_own_shortest_cycle() -> None:
    graph = Graph(3)
    graph.add("ww", 0, 1)
    graph.add("rw", 1, 0)
    graph.add("realtime", 0, 2)
    graph.add("rw", 2, 0)
    assert {each.name for each in find_cycles(graph)} == {"G-single", "G-single-realtime"}


def test_without_effort_the_weakest_level_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "_EFFORT", 0)
    graph = Graph(300)
    graph.add("rw", 0, 1)
    graph.add("rw", 1, 0)
    for node in range(300):
        graph.add("ww", node, (node + 1) % 300)
    assert next(find_cycles(graph)).name == "G0"


# --- what the orders and reads of a history add


def test_failed_transactions_get_no_edges() -> None:
    common = {"call": 0, "ret": 1}
    failed = {
        "id": 0,
        "type": "fail",
        "process": 0,
        "txn": [["append", "x", 1], ["append", "y", 1]],
        **common,
    }
    reader = {"id": 1, "type": "ok", "process": 1, "txn": [["r", "x", []], ["r", "y", [1]]], **common}
    graph = Graph(2)
    assert [name for name, _ in connect(parse([failed, reader]), graph)] == ["G1a"]
    assert edges(graph) == set()


@pytest.mark.parametrize("seed", range(50))
def test_real_time_is_reached_by_paths_and_nothing_else_is(seed: int) -> None:
    rng = random.Random(seed)
    records = []
    for number in range(rng.randint(1, 12)):
        call = rng.randint(0, 20)
        kind = rng.choice(["ok", "ok", "info", "fail"])
        record = {
            "id": number,
            "type": kind,
            "process": number,
            "call": call,
            "ret": call + rng.randint(0, 8),
        }
        records.append(record | {"txn": []})
    history = parse(records)
    graph = Graph(len(records))
    connect_real_time(history, graph)
    reach = {(one, other) for one, other, _ in edges(graph)}
    for middle, one, other in itertools.product(range(len(records)), repeat=3):
        if (one, middle) in reach and (middle, other) in reach:
            reach.add((one, other))
    assert reach == {
        (one.number, other.number)
        for one in history.of_kind("ok")
        for other in history.of_kind("ok", "info")
        if one.ended < other.call
    }


def test_real_time_takes_no_more_edges_than_ran_at_once() -> None:
    records = [
        {"id": at, "type": "ok", "process": at % 5, "call": 10 * at, "ret": 10 * at + 49, "txn": []}
        for at in range(2000)
    ]
    graph = Graph(2000)
    connect_real_time(parse(records), graph)
    assert size(graph) <= 2000 * 5
