"""No function ever sees two documents from different moments, and no exception that it raises over one gets out."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest
from support import pair_writer
from support.faults import field_ttl_servers, newest_and_oldest, proxied
from support.twins import both_twins, open_twin
from support.users import url_of
from support.wire import client_of, eventually

from txstate import ServerRefused
from txstate.testing import FaultProxy, HoldRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate import AsyncTx

KEYS: Final = pair_writer.KEYS

rights = pytest.mark.parametrize("rights", ["+@all", "-client"])  # without CLIENT INFO, EXEC has to tell
lengths = pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.soak)])


torn: Final[list[tuple[object, object]]] = []
"""What functions have seen that was never true, also in attempts that were discarded afterwards."""


@pytest.fixture(autouse=True)
def nothing_torn() -> Iterator[None]:
    torn.clear()
    yield
    assert torn == []


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
        # It is no quiet time: some attempts meet a change between their reads, and are run again.
        for _ in until(seconds, lambda: functions.calls > 500 and twin.stats.conflicts > 100):
            twin.run(functions.read_one_by_one)
            twin.run(functions.read_at_once)
            twin.run(functions.read_fields)
            compare_snapshots(twin)
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
    functions, rounds = Functions(pause=0.001), 100
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


# One foreign change, at each place


@both_twins
@newest_and_oldest
@rights
def test_a_change_before_any_command_of_a_transaction_counts(
    kind: str, server: ServerHandle, rights: str
) -> None:
    """Each command in turn is held back while another client changes both documents."""
    with proxied(kind, url_of(server, rights)) as (proxy, twin):
        assert change_before_each_command(server, proxy, twin) > 10


@both_twins
@field_ttl_servers
def test_a_change_before_any_command_of_a_transaction_over_expiring_fields_counts(
    kind: str, server: ServerHandle
) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        assert change_before_each_command(server, proxy, twin, expiring=True) > 10


@both_twins
@newest_and_oldest
@rights
@pytest.mark.parametrize("at_once", [True, False])
def test_each_of_several_documents_is_watched(
    kind: str, server: ServerHandle, rights: str, *, at_once: bool
) -> None:
    keys = ["a", "b", "c"]

    async def total(tx: AsyncTx, changed: str) -> int:
        docs = await tx.get_many(keys) if at_once else [await tx.get(key) for key in keys]
        if tx.attempt == 1:
            admin.hincrby(changed, "n", 1)
        (await tx.get("total"))["n"] = sum(doc.get("n", 0) for doc in docs)
        return tx.attempt

    with client_of(server.unix_url) as admin, open_twin(kind, url_of(server, rights)) as twin:
        for expected, changed in enumerate(keys, 1):
            assert twin.run(total, changed) == 2
            assert admin.hget("total", "n") == b"%d" % expected


@both_twins
@rights
def test_a_document_that_expired_unnoticed_is_not_seen_together_with_what_came_later(
    kind: str, server: ServerHandle, rights: str
) -> None:
    """Nobody touches it after its time, so the server itself has not noticed."""
    seen: list[tuple[bool, bool]] = []

    async def body(tx: AsyncTx, number: int, end: int) -> None:
        there = (await tx.get(f"brief{number}")).exists
        if there:
            eventually(lambda: clock_of(admin) > end)
            admin.hset(f"later{number}", "n", "1")
        seen.append((there, (await tx.get(f"later{number}")).exists))

    with client_of(server.unix_url) as admin, open_twin(kind, url_of(server, rights)) as twin:
        # A machine that is busy may read it too late, and then there is nothing to be seen.
        lives = itertools.chain([20] * 5, [50, 100, 200, 500, 1000] * 2)
        for number, life in enumerate(lives):  # new keys: those read before would be fetched at once
            admin.hset(f"brief{number}", "n", "1")
            end = clock_of(admin) + life
            admin.pexpireat(f"brief{number}", end)
            twin.run(body, number, end)
            assert seen[-1] != (True, True)
            if seen.count((False, True)) == 5:
                break
    assert seen.count((False, True)) == 5


def clock_of(client: redis.Redis) -> int:
    """The server's, in milliseconds."""
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


@both_twins
@rights
def test_what_was_committed_before_a_call_is_seen_by_it(kind: str, server: ServerHandle, rights: str) -> None:
    """A connection that has just committed holds the next transaction's reads already: they are never served stale."""

    async def add_one(tx: AsyncTx) -> None:
        for doc in await tx.get_many(KEYS):
            doc.increment("n")

    async def read(tx: AsyncTx) -> object:
        return [doc["n"] for doc in await tx.get_many(KEYS)]

    async def insist(tx: AsyncTx, wanted: int) -> None:
        for doc in await tx.get_many(KEYS):
            assert doc["n"] == wanted

    with client_of(server.unix_url) as admin, open_twin(kind, url_of(server, rights)) as twin:
        for number in range(10, 300, 10):
            twin.run(add_one)
            twin.run(add_one)
            with admin.pipeline() as pipeline:
                for key in KEYS:
                    pipeline.hset(key, "n", str(number))
                pipeline.execute()
            if number % 20:
                assert twin.run(read) == [number, number]
            else:
                twin.run(insist, number)


@both_twins
@pytest.mark.parametrize("writes", [True, False], ids=["writes", "reads"])
@pytest.mark.parametrize("second", [("doc", ("a",)), ("other", None)], ids=["a part", "another document"])
def test_a_later_attempt_that_asks_for_something_else_leaves_the_next_call_what_that_asks_for(
    kind: str, server: ServerHandle, second: tuple[str, tuple[str, ...] | None], *, writes: bool
) -> None:
    """The next one is recognized by what the first attempt had asked for, and must not get a part for the whole."""

    async def narrow(tx: AsyncTx) -> None:
        if tx.attempt == 1:
            doc = await tx.get("doc")
            admin.hincrby("doc", "b", 1)
            doc["a"] += 1
            return
        doc = await tx.get(*second)
        doc["a"] += writes

    async def whole(tx: AsyncTx) -> dict[str, int]:
        return (await tx.get("doc")).to_dict()

    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        for following in ("run", "update", "put"):
            twin.put("doc", {"a": 1, "b": 2})
            twin.put("other", {"a": 1})
            for _ in range(3):
                twin.update("doc", lambda doc: doc.increment("b"))
            twin.run(narrow)
            expected = {"a": 1 + (writes and second[0] == "doc"), "b": 6}
            if following == "run":
                assert twin.run(whole) == expected
            elif following == "update":
                twin.update("doc", lambda doc: doc.setdefault("c", len(doc)))
                assert twin.get("doc") == {**expected, "c": 2}
            else:
                twin.put("doc", {"z": 1})
                assert twin.get("doc") == {"z": 1}


@both_twins
@pytest.mark.parametrize("following", ["run", "put"])
def test_who_goes_on_with_a_part_after_the_whole_was_refused_leaves_no_part_for_the_whole(
    kind: str, following: str, server: ServerHandle
) -> None:
    """The next call is recognized by what was refused to the first one, and is to be refused the same."""

    async def part(tx: AsyncTx) -> int:
        with suppress(ServerRefused):
            await tx.get("doc")
        found: int = (await tx.get("doc", ["a"]))["a"]
        return found

    async def whole(tx: AsyncTx) -> dict[str, int]:
        return (await tx.get("doc")).to_dict()

    with client_of(server.unix_url) as admin, open_twin(kind, url_of(server, "-hgetall")) as twin:
        admin.hset("doc", mapping={"a": 1, "b": 2})
        for _ in range(3):
            assert twin.run(part) == 1
            with pytest.raises(ServerRefused):
                _ = twin.run(whole) if following == "run" else twin.put("doc", {"z": 1})
        assert admin.hkeys("doc") == [b"a", b"b"]


@both_twins
def test_who_goes_on_without_a_document_that_was_refused_does_so_after_a_conflict_too(
    kind: str, server: ServerHandle
) -> None:
    """The next attempt fetches at once what the last one had asked for, but not what that did not get."""

    async def without(tx: AsyncTx) -> int:
        with suppress(ServerRefused):
            await tx.get("secret")
        doc = await tx.get("doc")
        doc["a"] += 1
        if tx.attempt < 3:
            admin.hincrby("doc", "b", 1)
        return tx.attempt

    rights = "resetkeys", "~doc", "~__txstate__:*"
    with client_of(server.unix_url) as admin, open_twin(kind, url_of(server, *rights)) as twin:
        admin.hset("doc", mapping={"a": 1, "b": 2})
        assert [twin.run(without) for _ in range(3)] == [3] * 3
        assert admin.hmget("doc", "a", "b") == [b"4", b"8"]


def change_before_each_command(
    server: ServerHandle, proxy: FaultProxy, twin: Twin, *, expiring: bool = False
) -> int:
    """Add 1 to both documents of the pair in a transaction, while another client adds 10 to both: all must count.

    Returns:
        How many commands were held back, one in each transaction.
    """

    async def add_one(tx: AsyncTx) -> None:
        first, second = await tx.get(KEYS[0]), await tx.get(KEYS[1])
        compare(first["n"], second["n"])
        first["n"] = second["n"] = first["n"] + 1

    with client_of(server.unix_url) as admin, ThreadPoolExecutor(1) as pool:
        for number in range(1000):
            for key in KEYS:
                admin.delete(key)
                admin.hset(key, mapping={"n": "0", "other": "1"})
                if expiring:
                    admin.hpexpire(key, 3_600_000, "other")
            twin.get(KEYS[0])
            held = proxy.inject(HoldRequest(), skip=number)
            call = pool.submit(twin.run, add_one)
            eventually(lambda held=held, call=call: held.fired > 0 or call.done())  # type: ignore[misc]  # bound here
            if not held.fired:
                call.result()
                held.cancel()
                return number
            with admin.pipeline() as pipeline:
                for key in KEYS:
                    pipeline.hincrby(key, "n", 10)
                pipeline.execute()
            held.release()
            call.result()
            assert [admin.hget(key, "n") for key in KEYS] == [b"11", b"11"], f"command {number}"
    raise AssertionError("the transaction has no end")


def compare(first: object, second: object) -> None:
    if first != second:
        torn.append((first, second))
        raise AssertionError("a function has seen two moments at once")


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


def until(seconds: float, enough: Callable[[], bool]) -> Iterator[None]:
    """Yield until so many seconds have passed, and there is enough."""
    end = time.monotonic() + seconds
    while time.monotonic() < end or not enough():
        assert time.monotonic() < end + 60, "there is not enough"
        yield


def until_conflicts(twin: Twin, count: int) -> Iterator[None]:
    """Yield until so many attempts have met a conflict."""
    for _ in range(10_000):
        yield
        if twin.stats.conflicts >= count:
            return
    raise AssertionError(f"there were only {twin.stats.conflicts} conflicts")
