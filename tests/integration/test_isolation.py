"""No function ever sees two documents from different moments, and no exception that it raises over one gets out."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from support import pair_writer
from support.faults import newest_and_oldest
from support.twins import both_twins, open_twin
from support.users import url_of
from support.wire import client_of, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate import AsyncTx

KEYS: Final = pair_writer.KEYS

lengths = pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.soak)])


class Functions:
    """Transactions over the pair, in different ways. Each fails if what it sees was never true.

    Args:
        pause: seconds between two reads.

    Attributes:
        calls: how often one was called.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.calls = 0
        self._pause = pause

    async def read_one_by_one(self, tx: AsyncTx) -> None:
        self.calls += 1
        first = (await tx.get(KEYS[0]))["n"]
        time.sleep(self._pause)  # noqa: ASYNC251 - the event loop has nothing else to do
        compare(first, (await tx.get(KEYS[1]))["n"])

    async def read_at_once(self, tx: AsyncTx) -> None:
        self.calls += 1
        first, second = await tx.get_many(KEYS)
        compare(first["n"], second["n"])

    async def read_fields(self, tx: AsyncTx) -> None:
        self.calls += 1
        first = (await tx.get(KEYS[0], ["n"]))["n"]
        compare(first, (await tx.get(KEYS[1], ["n"]))["n"])

    async def read_and_write(self, tx: AsyncTx) -> None:
        (await tx.get("mine")).increment("n")
        await self.read_one_by_one(tx)


@both_twins
@newest_and_oldest
@lengths
def test_no_function_and_no_read_sees_two_moments_at_once(
    kind: str, server: ServerHandle, seconds: float
) -> None:
    functions = Functions()
    with writers(server), open_twin(kind, server.url) as twin:
        for _ in until(seconds):
            twin.run(functions.read_one_by_one)
            twin.run(functions.read_at_once)
            twin.run(functions.read_fields)
            compare_snapshots(twin)
        assert functions.calls > 500
        # It was no quiet time: some attempts met a change between their reads, and were run again.
        assert twin.stats.conflicts > 100
        assert twin.stats.gave_up == 0


@both_twins
@newest_and_oldest
def test_no_function_that_writes_sees_two_moments_at_once(kind: str, server: ServerHandle) -> None:
    """Two plain writers at full speed would let no optimistic commit through, so these take a breath."""
    functions = Functions()
    with writers(server, pause=0.002), open_twin(kind, server.url) as twin:
        for _ in until_conflicts(twin, 30):
            twin.run(functions.read_and_write)
        assert twin.stats.commits == count_of(twin, "mine") > 0


@both_twins
@newest_and_oldest
def test_a_reader_that_pauses_between_two_reads_gets_through(kind: str, server: ServerHandle) -> None:
    """After a conflict the next attempt fetches both documents in its first round trip."""
    functions, rounds = Functions(pause=0.001), 200
    with writers(server), open_twin(kind, server.url) as twin:
        for _ in range(rounds):
            twin.run(functions.read_one_by_one)
        assert twin.stats.conflicts > 0
        assert (twin.stats.reads, twin.stats.gave_up) == (rounds, 0)


@both_twins
def test_without_client_info_no_function_sees_two_moments_at_once(kind: str, server: ServerHandle) -> None:
    """A server that refuses it is asked by an empty transaction."""
    functions = Functions()
    with writers(server, pause=0.001), open_twin(kind, url_of(server, "-client")) as twin:
        for _ in until_conflicts(twin, 30):
            twin.run(functions.read_one_by_one)
            twin.run(functions.read_at_once)
            compare_snapshots(twin)
            twin.run(functions.read_and_write)
        assert twin.stats.commits == count_of(twin, "mine") > 0


def compare(first: object, second: object) -> None:
    assert first == second, "a function has seen two moments at once"


def compare_snapshots(twin: Twin) -> None:
    first, second = (snapshot and snapshot["n"] for snapshot in twin.get_many(KEYS).values())
    compare(first, second)


def count_of(twin: Twin, key: str) -> int:
    snapshot = twin.get(key)
    assert snapshot is not None
    count: int = snapshot["n"]
    return count


@contextmanager
def writers(server: ServerHandle, pause: float = 0.0) -> Iterator[None]:
    """Two processes that change the pair, at full speed or with a pause in seconds, while the block runs."""
    command = [sys.executable, pair_writer.__file__, server.unix_url, str(pause)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    try:
        with client_of(server.unix_url) as client:
            eventually(lambda: int(client.hget(KEYS[1], "n") or 0) > 10)
        yield
        assert [process.poll() for process in processes] == [None, None]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(seconds: float) -> Iterator[None]:
    """Yield until so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def until_conflicts(twin: Twin, count: int) -> Iterator[None]:
    """Yield until so many attempts have met a conflict."""
    for _ in range(10_000):
        yield
        if twin.stats.conflicts >= count:
            return
    raise AssertionError(f"there were only {twin.stats.conflicts} conflicts")
