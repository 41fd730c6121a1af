"""docs/scaling.md says what was recorded, and the simulation what it said then."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks.scaling.page import PAGE, RECORD, filled, worlds
from benchmarks.scaling.simulation import simulate


def test_the_page_is_made_of_the_record() -> None:
    page = PAGE.read_text()
    assert filled(page, json.loads(RECORD.read_text())) == page


@pytest.mark.parametrize("at", [0, -1])
def test_the_simulated_part_of_the_record_can_be_simulated_again(at: int) -> None:
    record = json.loads(RECORD.read_text())
    world = list(worlds(record))[at]
    assert record["simulated"][at] == {"world": asdict(world), "outcome": asdict(simulate(world, seed=1))}
