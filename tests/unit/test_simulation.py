"""The simulation of many nodes, held against what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling.simulation import World, simulate

WORLD = World(
    nodes=1, documents=10_000, processes=1, round_trip=500e-6, serving=20e-6, working=80e-6, transactions=5000
)


def test_one_process_takes_its_two_round_trips() -> None:
    outcome = simulate(WORLD, seed=1)
    alone = 2 * (WORLD.round_trip + WORLD.serving + WORLD.working)
    assert outcome.p50 == pytest.approx(alone)
    assert outcome.rate == pytest.approx(1 / alone, rel=0.01)
    assert outcome.attempts == 1


@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_nodes_that_are_always_busy_set_the_rate(nodes: int) -> None:
    world = replace(WORLD, nodes=nodes, processes=400 * nodes, documents=1_000_000, transactions=50_000)
    outcome = simulate(world, seed=1)
    assert outcome.busiest > 0.97
    assert outcome.rate == pytest.approx(nodes / (2 * WORLD.serving), rel=0.05)


def test_no_node_is_at_work_for_more_than_all_of_the_time() -> None:
    world = replace(WORLD, nodes=6, processes=1000, documents=1_000_000, serving=50e-6, transactions=20_000)
    assert 0.97 < simulate(world, seed=1).busiest <= 1 + 1e-9


def test_few_processes_never_wait_for_each_other() -> None:
    one, ten = (simulate(replace(WORLD, processes=processes), seed=1) for processes in (1, 10))
    assert ten.rate == pytest.approx(10 * one.rate, rel=0.02)


def test_conflicts_are_as_many_as_chance_makes_them() -> None:
    world = replace(WORLD, documents=200, processes=8, transactions=50_000)
    # Between a read and its commit, each of the others commits to one of the documents about half of a time.
    gap = (WORLD.round_trip + WORLD.working + WORLD.serving) / (
        2 * (WORLD.round_trip + WORLD.working + WORLD.serving)
    )
    expected = 7 * gap / 200
    assert simulate(world, seed=1).attempts - 1 == pytest.approx(expected, rel=0.25)


def test_popular_documents_cost_attempts() -> None:
    even, skewed = (simulate(replace(WORLD, processes=50, skew=skew), seed=1) for skew in (0.0, 1.2))
    assert skewed.attempts > 2 * even.attempts - 1
    assert skewed.rate < even.rate


def test_the_same_seed_gives_the_same_outcome() -> None:
    world = replace(WORLD, processes=20, documents=50)
    assert simulate(world, seed=3) == simulate(world, seed=3)
    assert simulate(world, seed=3) != simulate(world, seed=4)
