"""Far more tasks or threads than connections: nobody starves, nothing piles up, and who waits too long is told.

How long a call has waited is counted in calls of others that ended meanwhile, which no busy machine changes, and in
multiples of what the others took.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from support.wire import client_of

from txstate import (
    AsyncStore,
    AsyncTx,
    CommitUnknown,
    ConflictError,
    Doc,
    Resolution,
    Retry,
    Store,
    StoreUnavailable,
)
from txstate._engine.group import OUT, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from support.servers import ServerHandle

    from txstate import Stats

TASKS: Final = 1000
THREADS: Final = 200
CONNECTIONS: Final = 50
ROUNDS: Final = 8
FEW: Final = 10
PATIENT: Final = Retry(deadline=60)
SHARED, OWN = 100, TASKS

documents_of_each: Final = pytest.mark.parametrize("documents", [SHARED, OWN], ids=["shared", "own"])
"""Calls that share documents wait for each other, and commit together; calls with one of their own, for a connection."""


class Watch:
    """Who waited for how long.

    Attributes:
        took: seconds of each call.
        overtaken: by how many calls that ended while it ran, for each.
    """

    def __init__(self) -> None:
        self.took: list[float] = []
        self.overtaken: list[int] = []

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        began, before = time.perf_counter(), len(self.took)
        yield
        self.overtaken.append(len(self.took) - before)
        self.took.append(time.perf_counter() - began)

    def check_fairness(self, crowd: int) -> None:
        """In turn, each call would see every other member of the crowd once; a few may wait for the processor, too."""
        overtaken, took = (sorted(each)[-FEW] for each in (self.overtaken, self.took))
        assert overtaken < 5 * crowd, "some had most of their turns while others waited"
        assert took < 15 * statistics.mean(self.took)


def add_one(doc: Doc) -> None:
    doc.increment("n")


async def add(tx: AsyncTx, key: str) -> None:
    (await tx.get(key)).increment("n")


async def run(store: AsyncStore, key: str) -> object:
    return await store.run(add, key)


async def update(store: AsyncStore, key: str) -> object:
    return await store.update(key, add_one)


def check_nothing_is_left(store: Store | AsyncStore) -> None:
    """Neither who waits for a connection, nor who leads or is waited for; and every connection can be had."""
    settings, driver = store._settings, store._core.driver
    assert settings.groups is not None
    leaders = settings.groups._leaders.values()
    assert all(leader.place is OUT and leader.group is None for leader in leaders), (
        "somebody is still waited for"
    )
    assert driver is not None
    assert not driver.pool._waiting
    held = [driver.pool.take() for _ in range(CONNECTIONS)]
    assert None not in held, "connections got lost"
    assert driver.pool.take() is None, "there are more than allowed"
    for channel in held:
        channel.release()  # type: ignore[union-attr]  # none of them is None


def check_nothing_piled_up(server: ServerHandle, stats: Stats, calls: int) -> None:
    """Who gave up waiting for the others would meet them as conflicts."""
    assert stats.commits == calls
    assert stats.gave_up == 0
    assert stats.connections <= CONNECTIONS
    assert stats.conflicts < calls / 20
    with client_of(server.unix_url) as admin:
        assert len(admin.keys("__txstate__:token:*")) <= CONNECTIONS


def counted(server: ServerHandle, documents: int) -> list[int]:
    """What each document holds."""
    with client_of(server.unix_url) as admin:
        return [int(admin.hget(f"doc:{number}", "n")) for number in range(documents)]


@pytest.mark.alone
@documents_of_each
@pytest.mark.parametrize("call", [run, update])
def test_a_thousand_tasks_with_fifty_connections(
    call: Callable[[AsyncStore, str], Awaitable[object]], documents: int, valkey9: ServerHandle
) -> None:
    watch = Watch()

    async def main() -> None:
        async with AsyncStore(valkey9.unix_url, retry=PATIENT) as store:

            async def work(number: int) -> None:
                for _ in range(ROUNDS):
                    with watch.call():
                        await call(store, f"doc:{number % documents}")

            await asyncio.gather(*(work(number) for number in range(TASKS)))
            stats = store.stats()
            check_nothing_piled_up(valkey9, stats, TASKS * ROUNDS)
            if documents == SHARED:
                assert stats.round_trips < stats.commits, "each commits for itself"
            check_nothing_is_left(store)

    asyncio.run(main())
    watch.check_fairness(TASKS)
    assert counted(valkey9, documents) == [TASKS * ROUNDS // documents] * documents


@pytest.mark.alone
@pytest.mark.parametrize("documents", [10, SHARED, THREADS])
def test_two_hundred_threads_with_fifty_connections(documents: int, valkey9: ServerHandle) -> None:
    watch, together = Watch(), threading.Barrier(THREADS)

    def work(store: Store, number: int) -> None:
        together.wait(60)
        for _ in range(ROUNDS):
            with watch.call():
                store.update(f"doc:{number % documents}", add_one)

    with Store(valkey9.unix_url, retry=PATIENT) as store, ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, store, number) for number in range(THREADS)]:
            done.result()
        check_nothing_piled_up(valkey9, store.stats(), THREADS * ROUNDS)
        check_nothing_is_left(store)
    watch.check_fairness(THREADS)
    assert counted(valkey9, documents) == [THREADS * ROUNDS // documents] * documents


@pytest.mark.alone
def test_tasks_of_a_busy_event_loop_go_on_sharing_commits(valkey9: ServerHandle) -> None:
    """Each turn of the loop takes half as long as one task waits for another's function."""
    tasks, documents, rounds = 100, 10, 2

    async def main() -> None:
        async with AsyncStore(valkey9.unix_url, retry=PATIENT) as store:

            async def keep_busy() -> None:
                while True:
                    time.sleep(PATIENCE / 2)  # noqa: ASYNC251 - that is the point
                    await asyncio.sleep(0)

            async def work(number: int) -> None:
                for _ in range(rounds):
                    await store.update(f"doc:{number % documents}", add_one)

            busy = asyncio.create_task(keep_busy())
            await asyncio.gather(*(work(number) for number in range(tasks)))
            busy.cancel()
            check_nothing_piled_up(valkey9, store.stats(), tasks * rounds)

    asyncio.run(main())
    assert counted(valkey9, documents) == [tasks * rounds // documents] * documents


# Memory

SIZE: Final = 50_000
MOST: Final = 3
"""Documents that a call which is under way may take, as in test_large_documents."""
WAVES: Final = 3


class Memory:
    """What was allocated: at most, and after each wave of calls."""

    def __init__(self) -> None:
        self.peak = 0
        self.left: list[int] = []

    def note(self) -> None:
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1])
        gc.collect()
        self.left.append(tracemalloc.get_traced_memory()[0])

    def check(self, crowd: int) -> None:
        """Only who has a connection takes documents; who waits takes a task, with its frames and those of the call."""
        assert self.peak < CONNECTIONS * MOST * SIZE + crowd * 25_000, "each of them holds a document"
        assert self.left[-1] < 1.5 * self.left[0], "calls leave something behind"


@pytest.fixture
def memory() -> Iterator[Memory]:
    gc.collect()
    tracemalloc.start()
    try:
        yield Memory()
    finally:
        tracemalloc.stop()


def test_a_task_that_waits_takes_little_memory(memory: Memory, valkey9: ServerHandle) -> None:
    async def main() -> None:
        async with AsyncStore(valkey9.unix_url, retry=PATIENT) as store:
            for number in range(SHARED):
                await store.put(f"doc:{number}", {"n": 0, "text": "x" * SIZE})

            async def work(number: int) -> None:
                for _ in range(3):
                    await store.run(add, f"doc:{number % SHARED}")

            for _ in range(WAVES):
                await asyncio.gather(*(work(number) for number in range(TASKS)))
                memory.note()

    asyncio.run(main())
    memory.check(TASKS)


def test_a_thread_that_waits_takes_little_memory(memory: Memory, valkey9: ServerHandle) -> None:
    with Store(valkey9.unix_url, retry=PATIENT) as store, ThreadPoolExecutor(THREADS) as pool:
        for number in range(SHARED):
            store.put(f"doc:{number}", {"n": 0, "text": "x" * SIZE})

        def work(number: int) -> None:
            for _ in range(3):
                store.update(f"doc:{number % SHARED}", add_one)

        for _ in range(WAVES):
            list(pool.map(work, range(THREADS)))
            memory.note()
    memory.check(THREADS)


# The limit


def test_threads_that_wait_too_long_for_a_connection_are_told(valkey9: ServerHandle) -> None:
    go_on, inside = threading.Event(), threading.Barrier(CONNECTIONS + 1)

    def hold(doc: Doc) -> None:
        add_one(doc)
        if not go_on.is_set():
            inside.wait(30)
            assert go_on.wait(30)

    with Store(valkey9.unix_url, retry=PATIENT) as store, ThreadPoolExecutor(2 * THREADS) as pool:
        hasty = store.options(retry=Retry(deadline=0.2))
        holders = [pool.submit(store.update, f"held:{number}", hold) for number in range(CONNECTIONS)]
        inside.wait(30)
        for documents in (SHARED, THREADS):
            calls = [
                pool.submit(hasty.update, f"doc:{number % documents}", add_one) for number in range(THREADS)
            ]
            for call in calls:
                with pytest.raises(StoreUnavailable, match="all connections were busy"):
                    call.result()
        assert store.stats().gave_up == 2 * THREADS
        patient = [pool.submit(store.update, f"doc:{number}", add_one) for number in range(THREADS)]
        go_on.set()
        assert [call.result()["n"] for call in (*holders, *patient)] == [1] * (CONNECTIONS + THREADS)
        check_nothing_is_left(store)


def test_tasks_that_wait_too_long_for_a_connection_are_told(valkey9: ServerHandle) -> None:
    async def main() -> None:
        async with AsyncStore(valkey9.unix_url, retry=PATIENT) as store, asyncio.timeout(60):
            hasty = store.options(retry=Retry(deadline=0.2))
            go_on, held = asyncio.Event(), asyncio.Semaphore(0)

            async def hold(tx: AsyncTx, key: str) -> None:
                (await tx.get(key)).increment("n")
                held.release()
                await go_on.wait()

            holders = [
                asyncio.create_task(store.run(hold, f"held:{number}")) for number in range(CONNECTIONS)
            ]
            for _ in holders:
                await held.acquire()
            for documents in (SHARED, TASKS):
                calls = (hasty.update(f"doc:{number % documents}", add_one) for number in range(TASKS))
                for told in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(told, StoreUnavailable)
                    assert "all connections were busy" in str(told)
            assert store.stats().gave_up == 2 * TASKS
            patient = [asyncio.create_task(store.update(f"doc:{number}", add_one)) for number in range(TASKS)]
            go_on.set()
            await asyncio.gather(*holders)
            assert [(await call)["n"] for call in patient] == [1] * TASKS
            check_nothing_is_left(store)

    asyncio.run(main())


GAVE_UP, IN_DOUBT, DONE = "gave up", "in doubt", "done"


async def before_a_deadline(store: AsyncStore, key: str, seconds: float) -> tuple[str, Resolution]:
    """What the caller is told, and what was the case."""
    try:
        await store.options(retry=Retry(deadline=seconds)).update(key, add_one)
    except (StoreUnavailable, ConflictError):
        return GAVE_UP, Resolution.NOT_COMMITTED
    except CommitUnknown as error:
        return IN_DOUBT, await store.resolve(str(error.token))
    return DONE, Resolution.COMMITTED


async def until_cancelled(store: AsyncStore, key: str, seconds: float) -> tuple[str, Resolution]:
    """The same."""
    try:
        async with asyncio.timeout(seconds):
            await store.update(key, add_one)
    except TimeoutError as error:
        cancelled = error.__cause__ or error.__context__  # the latter in the first of Python 3.11
        doubt = cancelled and cancelled.__cause__
        if doubt is None:
            return GAVE_UP, Resolution.NOT_COMMITTED
        assert isinstance(doubt, CommitUnknown)
        if doubt.known is Resolution.COMMITTED:
            return DONE, doubt.known
        return IN_DOUBT, await store.resolve(str(doubt.token))
    return DONE, Resolution.COMMITTED


@documents_of_each
@pytest.mark.parametrize("end", [before_a_deadline, until_cancelled])
def test_who_gives_up_at_a_random_moment_knows_what_was_applied(
    end: Callable[[AsyncStore, str, float], Awaitable[tuple[str, Resolution]]],
    documents: int,
    valkey9: ServerHandle,
) -> None:
    """Moments from long before a task has a connection to long after its commit."""
    rng, told, waves = random.Random(5), Counter[str](), 3
    expected = [1] * documents

    async def main() -> None:
        async with AsyncStore(valkey9.unix_url, retry=PATIENT) as store, asyncio.timeout(120):
            keys = [f"doc:{number}" for number in range(documents)]
            began = time.perf_counter()
            await asyncio.gather(*(store.update(key, add_one) for key in keys))
            longest = 2 * (time.perf_counter() - began) * TASKS / documents

            async def work(number: int) -> None:
                number %= documents
                word, truth = await end(store, keys[number], rng.uniform(0.0001, longest))
                assert truth is not Resolution.UNKNOWN
                told[word] += 1
                expected[number] += truth is Resolution.COMMITTED

            for _ in range(waves):
                await asyncio.gather(*(work(number) for number in range(TASKS)))
            check_nothing_is_left(store)

    asyncio.run(main())
    assert counted(valkey9, documents) == expected
    assert min(told[DONE], told[GAVE_UP]) > 0, "all or none gave up"
