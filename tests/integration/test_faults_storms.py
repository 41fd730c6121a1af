"""Eight processes on shared documents while everything goes wrong: the whole history must be strictly serializable."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from support.hammer import Hammers
from support.wire import client_of
from support.workloads import judge

from txstate.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.figures import Figures
    from support.servers import ServerHandle
    from support.workloads import Entry

PROCESSES = 8


@pytest.mark.fault(number=1)
@pytest.mark.parametrize(
    ("server", "seconds", "seed"),
    [
        ("valkey9", 3, 1),
        *(pytest.param(name, 60, 2, marks=pytest.mark.soak) for name in ("valkey9", "redis6", "redis8")),
    ],
    indirect=["server"],
)
def test_processes_whose_connections_are_cut_six_times_a_second_have_a_serializable_history(
    server: ServerHandle, seconds: int, seed: int, tmp_path: Path, figures: Figures
) -> None:
    with FaultProxy(server.url) as proxy:
        with Hammers(proxy.url, processes=PROCESSES, seed=seed, folder=tmp_path) as hammers:
            storm = proxy.cut_randomly(per_second=6, seed=seed)
            time.sleep(seconds)
            storm.stop()
            entries = hammers.stop()
        assert proxy.fired >= 3 * seconds
    with client_of(server.unix_url) as client:
        tally, verdict = judge(entries, client)
    figures(server, fired=proxy.fired, seed=seed, tally=tally, verdict=verdict)
    assert tally.failed == 0
    assert_nobody_starved(entries)


def assert_nobody_starved(entries: Sequence[Entry]) -> None:
    commits = Counter(entry.process for entry in entries if entry.type == "ok")
    counts = [commits[process] for process in {entry.process for entry in entries}]
    assert min(counts) > statistics.mean(counts) / 10, commits
