"""Servers that are killed under load, and logs that are cut short: what was synced is kept, and nothing is there by half."""

from __future__ import annotations

import random
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from support.faults import every_server
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.figures import Figures
    from support.servers import ServerHandle, StartServer
    from support.twins import Twin

REWRITING: Final = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")


@pytest.mark.fault(number=8)
@both_twins
@every_server
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_what_was_acknowledged_survives_a_sigkill_when_every_write_is_synced(
    kind: str, name: str, start_server: StartServer, kills: int, figures: Figures
) -> None:
    server = start_server(name, appendonly="yes", appendfsync="always")
    with open_twin(kind, server.url) as twin, under_load(server, twin) as ledgers:
        for _ in range(kills):
            goal = twin.stats.commits + 10
            eventually(partial(has_committed, twin, goal))
            server.restart(kill=True)
        eventually(partial(has_committed, twin, twin.stats.commits + 1))
    assert twin.stats.disruptions > 0
    acknowledged = sum(len(ledger.acknowledged) for ledger in ledgers)
    assert acknowledged >= 10 * kills
    assert figures(server, *ledgers, fired=kills, resolved=twin.stats) == all_once(acknowledged)


@pytest.mark.fault(number=9)
@both_twins
@every_server
@pytest.mark.parametrize(("cuts", "seed"), [(1, 1), pytest.param(100, 2, marks=pytest.mark.soak)])
def test_a_power_cut_loses_the_newest_transactions_and_none_by_half_when_writes_are_synced_every_second(
    kind: str, name: str, start_server: StartServer, cuts: int, seed: int, *, figures: Figures
) -> None:
    """What a disk may lose is cut off from the log, at any byte: the server's own death alone loses nothing."""
    server = start_server(name, appendonly="yes", appendfsync="everysec", aof_load_truncated="yes")
    rng = random.Random(seed)
    with open_twin(kind, server.url) as twin, under_load(server, twin) as ledgers:
        for _ in range(cuts):
            written = log_of(server).stat().st_size
            eventually(partial(has_committed, twin, twin.stats.commits + 20))
            # A server whose disk is busy writes later.
            eventually(partial(has_grown, log_of(server), written))
            server.stop(kill=True)
            log = log_of(server)
            cut(log, rng.randrange(written, log.stat().st_size))
            server.launch()
            mend_log(server)
        eventually(partial(has_committed, twin, twin.stats.commits + 1))
    tally = figures(
        server,
        *ledgers,
        fired=cuts,
        resolved=twin.stats,
        seed=seed,
        lost_to="power cuts, synced every second",
    )
    assert tally.lost > 0, "no cut took anything away"


@pytest.mark.fault(number=10)
@every_server
@pytest.mark.parametrize("step", [53, pytest.param(1, marks=pytest.mark.soak)])
def test_a_log_cut_at_any_byte_of_the_last_transaction_holds_all_of_it_or_nothing(
    name: str, start_server: StartServer, tmp_path: Path, step: int, figures: Figures
) -> None:
    server = start_server(name, appendonly="yes", appendfsync="always", aof_load_truncated="yes")
    before, last = Ledger(server, "before"), Ledger(server, "last")
    whole = tmp_path / "whole"
    with open_twin("sync", server.url) as twin:
        before.commit(twin)
        start = log_of(server).stat().st_size
        last.commit(twin)
    end = log_of(server).stat().st_size
    assert end - start >= 300
    server.stop(kill=True)
    shutil.copytree(server.directory, whole, ignore=shutil.ignore_patterns("s"))
    tally = Tally()
    for size in sorted({*range(start, end, step), end - 1}):
        shutil.rmtree(server.directory)
        shutil.copytree(whole, server.directory)
        cut(log_of(server), size)
        server.launch()
        mend_log(server)
        with client_of(server.unix_url) as client, client.pipeline() as pipeline:
            pipeline.set("more", 1).set("still more", 1).execute()
        server.restart(kill=True)
        assert before.tally() == all_once(1)
        tally += last.tally()
        server.stop(kill=True)
    cuts = tally.attempted
    figures(server, tally=tally, fired=cuts, lost_to="a log cut short")
    assert tally == Tally(attempted=cuts, acknowledged=cuts, lost=cuts)


@contextmanager
def under_load(server: ServerHandle, twin: Twin) -> Iterator[Sequence[Ledger]]:
    """Threads that make transactions, each on a ledger of its own and one on a common one, while the block runs."""
    ledgers = [Ledger(server, f"ledger{number}") for number in range(3)]
    stopped = threading.Event()

    def write(ledger: Ledger) -> None:
        while not stopped.is_set():
            ledger.commit(twin)

    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(write, ledger) for ledger in [*ledgers, ledgers[0]]]
        try:
            yield ledgers
        finally:
            stopped.set()
        for call in calls:
            call.result()


def has_committed(twin: Twin, count: int) -> bool:
    return twin.stats.commits >= count


def mend_log(server: ServerHandle) -> None:
    """What must be done to a Redis that has found its log cut short: write a new one.

    It leaves an open MULTI in the old one, and with it half a transaction is applied at the next start. Valkey cuts
    that off, too (valkey-io/valkey#4342).
    """
    if server.kind != "Redis":
        return
    with client_of(server.unix_url) as client:
        client.bgrewriteaof()
        eventually(lambda: not any(client.info("persistence")[name] for name in REWRITING))


def has_grown(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def log_of(server: ServerHandle) -> Path:
    """The file that the server appends to. Since Redis 7 it is one of several in a folder."""
    manifest = server.directory / "appendonlydir" / "appendonly.aof.manifest"
    if not manifest.exists():
        return server.directory / "appendonly.aof"
    names = re.findall(r"^file (\S+) seq \d+ type i", manifest.read_text(), re.MULTILINE)
    return manifest.parent / str(names[-1])


def cut(log: Path, size: int) -> None:
    with log.open("r+b") as file:
        file.truncate(size)
