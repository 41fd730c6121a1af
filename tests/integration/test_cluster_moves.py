"""Slots that move and primaries that die while transactions run: fault 21."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support import bank
from support.bank import Clerks

from txstate import Store
from txstate._engine.slots import slot_of

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.figures import Figures

SLOT = slot_of(bank.TAG)


def shuttle(cluster: Cluster, seconds: float, pause: float) -> int:
    """Move the bank's slot to and fro, key by key and at once in turn. Returns how often."""
    here = cluster.owner(SLOT)
    there = cluster.other_primary(here)
    moves, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        move = cluster.move if moves % 4 < 2 or not cluster.version.startswith("9") else cluster.move_at_once
        move(SLOT, there if moves % 2 == 0 else here)
        moves += 1
        time.sleep(max(0.0, pause - (time.monotonic() - began)))
    return moves


@pytest.mark.fault(number=21)
@pytest.mark.parametrize(
    ("seconds", "pause", "clerks"), [(5, 0.4, 4), pytest.param(60, 1.0, 8, marks=pytest.mark.soak)]
)
def test_a_slot_moves_to_and_fro_under_transfers(
    cluster: Cluster, figures: Figures, seconds: float, pause: float, clerks: int
) -> None:
    bank.opened(cluster.url)
    with Clerks(cluster.url, clerks) as work:
        moves = shuttle(cluster, seconds, pause)
        reports = work.finish()
    with Store(cluster.url) as store:
        found = {key: dict(doc or {}) for key, doc in store.get_many(bank.ACCOUNTS).items()}
    tally = bank.audit(reports, found)
    assert moves >= seconds / pause / 3
    assert [error for report in reports for error in report.errors] == []
    assert tally.applied == tally.acknowledged > 20 * seconds
    disrupted = sum(report.stats.disruptions for report in reports if report.stats)
    figures(cluster.nodes[0], fired=min(moves, disrupted), tally=tally)
