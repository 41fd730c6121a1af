"""Threads and tasks of one process that share commits: each keeps its context, its exception, its cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from support.faults import newest_and_oldest, of_commit
from support.ledger import Ledger, all_once
from support.twins import SyncTwin
from support.users import url_of
from support.wire import client_of, eventually
from support.witness import Witness

from txstate import AsyncStore, AsyncTx, Doc, Store, Tx, UsageError
from txstate._drivers.sync import SyncChannel
from txstate._engine import group
from txstate.testing import Cut, DropReply, FaultProxy, check_history

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.servers import ServerHandle

    from txstate import Stats

request: contextvars.ContextVar[int] = contextvars.ContextVar("request")


class Held:
    """Keeps the first function that is called from ending, so that others come to wait for it."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def __call__(self, doc: Doc) -> None:
        self.inside.set()
        assert self.go_on.wait(10)
        doc.increment("n")


def while_one_is_held(store: Store, count: int, work: Callable[[int], object]) -> list[Any]:
    """Do so much work in threads that come while another one's function runs. Its results, or exceptions."""
    held = Held()
    with ThreadPoolExecutor(count + 1) as pool:
        first = pool.submit(store.update, "doc", held)
        assert held.inside.wait(10)
        calls = [pool.submit(work, number) for number in range(count)]
        groups = store._settings.groups
        assert groups is not None
        groups._lag = (
            2.0  # as where threads wait long for the processor: nobody loses patience before all have come
        )
        try:
            while (
                sum(len(leader.group.waiting) for leader in list(groups._leaders.values()) if leader.group)
                < count
            ):
                assert not any(call.done() for call in calls)
                time.sleep(0.001)
        finally:
            held.go_on.set()
        first.result()
        return [call.exception() or call.result() for call in calls]


def test_each_function_runs_in_its_own_thread_and_context(valkey9: ServerHandle) -> None:
    ran: dict[int, tuple[int, int]] = {}
    called: dict[int, int] = {}

    def work(number: int) -> int:
        request.set(number)
        called[number] = threading.get_ident()

        def function(doc: Doc) -> None:
            ran[number] = threading.get_ident(), request.get()
            doc.increment("n")

        return int(store.update("doc", function)["n"])

    with Store(valkey9.url) as store:
        results = while_one_is_held(store, 8, work)
        assert sorted(results) == list(range(2, 10))
        assert ran == {number: (called[number], number) for number in range(8)}
        assert store.stats().commits == 9
        with client_of(valkey9.unix_url) as admin:
            assert admin.hget("doc", "n") == b"9"


def test_nine_transactions_are_two_round_trips(valkey9: ServerHandle) -> None:
    with Store(valkey9.url) as store:
        store.put("doc", {"n": 0})
        before = store.stats()
        while_one_is_held(store, 8, lambda _: store.update("doc", lambda doc: doc.increment("n")))
        after = store.stats()
        assert after.commits - before.commits == 9
        assert after.round_trips - before.round_trips <= 2


def test_an_exception_reaches_its_own_caller_and_takes_nothing_with_it(valkey9: ServerHandle) -> None:
    def work(number: int) -> object:
        def function(tx: Tx) -> int:
            value = tx.get("doc").increment("n")
            if number % 2:
                raise LookupError(number)
            return value

        return store.run(function)

    with Store(valkey9.url) as store:
        results = while_one_is_held(store, 8, work)
        failed = [result for result in results if isinstance(result, LookupError)]
        assert sorted(error.args[0] for error in failed) == [1, 3, 5, 7]
        assert sorted(result for result in results if isinstance(result, int)) == [2, 3, 4, 5]


@pytest.mark.parametrize("rights", ["", "-client"], ids=["", "without CLIENT INFO"])
def test_a_reader_that_joins_another_one_sees_what_was_acknowledged_before_it_began(
    server: ServerHandle, rights: str
) -> None:
    """The one that it joins had read before: only if nothing has changed since, it is the truth for both."""

    def look(tx: Tx) -> int:
        found: int = tx.get("doc")["n"]
        return found

    def look_slowly(tx: Tx) -> int:
        found = look(tx)
        inside.set()
        assert go_on.wait(10)
        return found

    inside, go_on = threading.Event(), threading.Event()
    with (
        Store(url_of(server, rights) if rights else server.url) as store,
        Store(server.url) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        other.put("doc", {"n": 1})
        groups = store._settings.groups
        assert groups is not None
        groups._lag = 2.0  # nobody loses patience
        slow = pool.submit(store.run, look_slowly)
        assert inside.wait(10)
        other.put("doc", {"n": 2})
        late = pool.submit(store.run, look)
        try:
            eventually(lambda: any(each.group and each.group.waiting for each in [*groups._leaders.values()]))
        finally:
            go_on.set()
        assert late.result() == 2
        assert slow.result() in (1, 2)


def test_who_joins_a_later_attempt_that_asked_for_a_part_gets_the_whole(valkey9: ServerHandle) -> None:
    """They are together because of what the first attempt had asked for; a part must not be taken for the whole."""

    def narrow(tx: Tx) -> None:
        if tx.attempt == 1:
            tx.get("doc")["a"] += 1
            other.update("doc", lambda doc: doc.increment("b"))
            return
        tx.get("doc", ["a"])["a"] += 1
        inside.set()
        assert go_on.wait(10)

    inside, go_on = threading.Event(), threading.Event()
    with Store(valkey9.url) as store, Store(valkey9.url) as other, ThreadPoolExecutor(2) as pool:
        other.put("doc", {"a": 1, "b": 2})
        groups = store._settings.groups
        assert groups is not None
        groups._lag = 2.0  # nobody loses patience
        first = pool.submit(store.run, narrow)
        assert inside.wait(10)
        late = pool.submit(store.put, "doc", {"z": 1})
        try:
            eventually(lambda: any(each.group and each.group.waiting for each in [*groups._leaders.values()]))
        finally:
            go_on.set()
        first.result()
        late.result()
        assert other.get("doc") == {"z": 1}


def test_a_lock_that_a_waiting_caller_holds_delays_but_never_blocks(valkey9: ServerHandle) -> None:
    """One holds a lock while it waits for its commit, and another one's function, in the same attempt, wants it."""
    lock = threading.Lock()

    def work(number: int) -> object:
        if number == 0:
            with lock:
                return store.update("doc", lambda doc: doc.increment("n"))

        def function(doc: Doc) -> None:
            with lock:
                doc.increment("n")

        return store.update("doc", function)

    with Store(valkey9.url) as store:
        results = while_one_is_held(store, 4, work)
        assert not [result for result in results if isinstance(result, BaseException)]
        stored = store.get("doc")
        assert stored is not None
        assert stored["n"] == 5


def test_a_transaction_inside_of_another_one_s_function_stays_refused(valkey9: ServerHandle) -> None:
    def work(_: int) -> object:
        return store.update("doc", lambda _doc: store.update("doc", lambda doc: doc.increment("n")))

    with Store(valkey9.url) as store:
        assert all(isinstance(result, UsageError) for result in while_one_is_held(store, 2, work))


def test_the_store_closes_while_others_wait(valkey9: ServerHandle) -> None:
    held = Held()
    store = Store(valkey9.url)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(store.update, "doc", held)
        assert held.inside.wait(10)
        others = [pool.submit(store.update, "doc", lambda doc: doc.increment("n")) for _ in range(3)]
        store.close()
        held.go_on.set()
        assert first.result()["n"] == 1
        ended = [other.exception(10) or "done" for other in others]
    assert all(end == "done" or isinstance(end, UsageError) for end in ended)
    with client_of(valkey9.unix_url) as admin:
        assert int(admin.hget("doc", "n")) == 1 + ended.count("done")


@pytest.mark.parametrize("foreign", [False, True])
def test_tasks_of_one_loop_and_a_foreign_writer(
    valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch, *, foreign: bool
) -> None:
    """A foreign writer changes another field without a transaction; nobody's update gets lost."""
    monkeypatch.setattr(group, "PATIENCE", 5.0)  # also where a busy machine lets the loop stand still
    tasks, each = 32, 20

    async def main() -> None:
        async with AsyncStore(valkey9.url) as store, redis.asyncio.Redis.from_url(valkey9.url) as client:
            await store.put("doc", {"n": 0})
            done = asyncio.Event()

            async def write() -> None:
                while foreign and not done.is_set():
                    await client.hincrby("doc", "foreign", 1)
                    await asyncio.sleep(0.005)

            async def work(number: int) -> None:
                request.set(number)
                task = asyncio.current_task()

                async def function(tx: AsyncTx) -> None:
                    doc = await tx.get("doc")
                    assert request.get() == number
                    assert asyncio.current_task() is task
                    doc.increment("n")

                for _ in range(each):
                    await store.run(function)

            writer = asyncio.create_task(write())
            await asyncio.gather(*(work(number) for number in range(tasks)))
            done.set()
            await writer
            stored = await store.get("doc")
            assert stored is not None
            assert stored["n"] == tasks * each
            stats = store.stats()
            assert stats.commits == tasks * each + 1
            if foreign:
                assert stats.conflicts > 0
            else:
                assert stats.conflicts == 0
                assert stats.round_trips < stats.commits / 4

    asyncio.run(main())


RING: Final = 8
LAPS: Final = 40


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_transfers_whose_documents_overlap_lose_nothing_and_all_get_through(
    kind: str, valkey9: ServerHandle
) -> None:
    """Each between its account and the next one: no two begin with the same, so they can't share a commit.

    Each balance is changed by two of them, so that it shows whatever one did to the other.
    """
    attempts: list[int] = []
    ring = [f"account:{number}" for number in range(RING)]

    def transfer(tx: Tx | AsyncTx, source: Doc, target: Doc) -> None:
        source["balance"] = source.get("balance", 0) - 1
        target["balance"] = target.get("balance", 0) + 2
        tx.on_commit(attempts.append, tx.attempt)

    def work(store: Store, number: int) -> None:
        for _ in range(LAPS):
            store.run(lambda tx: transfer(tx, *tx.get_many([ring[number - 1], ring[number]])))

    async def work_async(store: AsyncStore, number: int) -> None:
        async def function(tx: AsyncTx) -> None:
            transfer(tx, *await tx.get_many([ring[number - 1], ring[number]]))

        for _ in range(LAPS):
            await store.run(function)

    async def all_tasks() -> Stats:
        async with AsyncStore(valkey9.url) as store:
            await asyncio.gather(*(work_async(store, number) for number in range(RING)))
            return store.stats()

    if kind == "tasks":
        stats = asyncio.run(all_tasks())
    else:
        with Store(valkey9.url) as store, ThreadPoolExecutor(RING) as pool:
            list(pool.map(work, [store] * RING, range(RING)))
            stats = store.stats()
    with Store(valkey9.url) as store:
        for account in store.get_many(ring).values():
            assert account == {"balance": LAPS}  # each lap of its neighbours takes 1 and brings 2
    assert stats.commits == len(attempts) == RING * LAPS
    assert stats.conflicts > 0, "they did not meet"
    assert sum(attempts) <= 2 * len(attempts)
    assert max(attempts) <= 2 * RING


@newest_and_oldest
def test_tasks_cancelled_at_random_moments_while_they_share_commits(server: ServerHandle) -> None:
    witness, rng = Witness(Ledger(server)), random.Random(11)

    async def one(store: AsyncStore, longest: float) -> None:
        task, marker = witness.begin(store)
        await asyncio.sleep(rng.uniform(0, longest))
        task.cancel()
        await witness.watch(task, marker)

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            for _ in range(25):
                started = time.perf_counter()
                await store.get(witness.ledger.keys[0])
                # A commit of several is three round trips, and those that wait have theirs behind it.
                longest = 8 * (time.perf_counter() - started)
                await asyncio.gather(*(one(store, longest) for _ in range(12)))
            assert await witness.commit(store) in witness.returned

    with FaultProxy(server.url) as proxy:
        proxy.delay(requests=0.001, replies=0.001)
        asyncio.run(main())
    witness.check()
    assert witness.committed
    assert witness.innocent


@newest_and_oldest
def test_a_shared_history_with_lost_replies_is_strictly_serializable(
    server: ServerHandle, figures: Callable[..., object]
) -> None:
    """Two stores, as of two processes, of four threads each, whose commits lose their replies until a shared one has."""
    ledger, each, threads, rounds = Ledger(server), 25, 4, 0
    with (
        FaultProxy(server.url) as proxy,
        SyncTwin(proxy.url) as one,
        SyncTwin(proxy.url) as two,
        ThreadPoolExecutor(2 * threads) as pool,
    ):

        def work(twin: SyncTwin) -> None:
            for _ in range(each):
                ledger.commit(twin)

        while one.stats.in_doubt + two.stats.in_doubt <= 20 * rounds or not rounds:
            assert rounds < 10, "no commit in doubt was shared"
            rounds += 1
            lost = proxy.inject(DropReply(Cut.RST), "EXEC", where=of_commit, times=20)
            for call in [pool.submit(work, twin) for twin in (one, two) for _ in range(threads)]:
                call.result()
            assert lost.fired == 20
    assert ledger.tally() == all_once(2 * threads * each * rounds)
    assert check_history(ledger.history()).valid


def test_who_comes_while_a_repeated_update_looks_at_its_connection_shares_it(
    valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look is a system call: other threads go on meanwhile, and are to find that somebody leads."""
    others: list[threading.Thread] = []
    quiet = SyncChannel.quiet

    def add(doc: Doc) -> None:
        doc.increment("n")

    with Store(valkey9.url) as store:
        for _ in range(4):
            store.update("counter", add)
        made, leaders = store.stats().connections, store._settings.groups._leaders  # type: ignore[union-attr]

        def look(channel: SyncChannel) -> bool:
            if not others:
                others.append(threading.Thread(target=store.update, args=("counter", add)))
                others[0].start()
                eventually(
                    lambda: not others[0].is_alive() or any(one.group is not None for one in leaders.values())
                )
            return quiet(channel)

        monkeypatch.setattr(SyncChannel, "quiet", look)
        store.update("counter", add)
        others[0].join()
        assert store.stats().connections == made
        assert store.get("counter") == {"n": 6}
