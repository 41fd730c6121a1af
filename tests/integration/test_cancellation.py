"""Cancelled commits: applied once or not at all, the exception tells which, and the store stays sound."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from support.faults import newest_and_oldest, of_commit
from support.ledger import Ledger
from support.wire import client_of, eventually
from support.witness import Witness

from txstate import AsyncStore, CommitUnknown, Resolution, Retry
from txstate.testing import Cut, DropReply, FaultProxy, HoldReply, HoldRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.figures import Figures
    from support.servers import ServerHandle

    from txstate import AsyncTx, Doc, Stats
    from txstate.testing import Rule


@pytest.mark.fault(number=13)
@newest_and_oldest
@pytest.mark.parametrize(
    ("rounds", "seed"),
    [(300, 1), pytest.param(5000, 2, marks=pytest.mark.soak)],
)
def test_commits_cancelled_at_random_moments_are_applied_once_or_not_at_all_and_say_which(
    server: ServerHandle, rounds: int, seed: int, figures: Figures
) -> None:
    witness, rng = Witness(Ledger(server)), random.Random(seed)

    async def beginning() -> float:
        """The seconds of a commit that has to connect first, as they do after one that was cancelled."""
        started = time.perf_counter()
        async with AsyncStore(proxy.url) as store:
            await witness.commit(store)
        return time.perf_counter() - started

    async def main() -> Stats:
        async with AsyncStore(proxy.url, max_connections=2) as store:
            longest = 0.8 * statistics.median([await beginning() for _ in range(5)])
            for _ in range(rounds):
                task, marker = witness.begin(store)
                await asyncio.sleep(rng.uniform(0, longest))
                task.cancel()
                await witness.watch(task, marker)
            assert await witness.commit(store) in witness.returned
            assert store.stats().in_doubt > 0
            assert witness.committed
            return store.stats()

    with FaultProxy(server.url) as proxy:
        proxy.delay(requests=0.001, replies=0.001)
        stats = asyncio.run(main())
    witness.check()
    assert len(witness.innocent) > rounds / 30
    assert not witness.unknown
    figures(server, witness.ledger, fired=witness.interrupted, resolved=stats, seed=seed)


@pytest.mark.fault(number=13)
@newest_and_oldest
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("scene", ["pooled connection", "new connection", "lost reply", "conflict"])
def test_a_commit_cancelled_at_any_await_says_what_became_of_it_and_leaves_a_sound_store(
    server: ServerHandle, scene: str, figures: Figures, *, late: bool
) -> None:
    """With one connection only: if it were used again as it was left, the next commit would show it."""
    witness = Witness(Ledger(server))

    async def main() -> None:
        awaits = spared = 0
        while spared < 3:  # how many awaits there are depends on how the replies come in
            async with AsyncStore(proxy.url, max_connections=1) as store:
                if scene != "new connection":
                    assert await witness.commit(store) in witness.returned
                marker = witness.ledger.next_marker()
                lost = proxy.inject(DropReply(), "EXEC", where=of_commit) if scene == "lost reply" else None
                work = CancelledAt(awaits, store.run(append, marker), late=late)
                await witness.watch(asyncio.create_task(work), marker)
                if lost is not None:
                    lost.cancel()
                assert await witness.commit(store) in witness.returned
                spared += marker in witness.returned
            awaits += 1

    async def append(tx: AsyncTx, marker: str) -> None:
        await witness.ledger.append(tx, marker)
        if scene == "conflict" and tx.attempt == 1:
            admin.hset(witness.ledger.keys[0], "other", "1")

    with FaultProxy(server.url) as proxy, client_of(server.unix_url) as admin:
        asyncio.run(main())
    witness.check()
    assert not witness.unknown
    assert witness.interrupted >= (7 if scene == "new connection" else 2)
    figures(server, witness.ledger, fired=witness.interrupted, resolved=len(witness.committed))


@pytest.mark.fault(number=13)
@newest_and_oldest
def test_many_tasks_cancelled_at_random_moments_leave_a_sound_pool(
    server: ServerHandle, figures: Figures
) -> None:
    """Concurrent transactions wait for two connections, conflict, and are cancelled anywhere."""
    witness, rng = Witness(Ledger(server)), random.Random(3)

    async def one(store: AsyncStore) -> None:
        task, marker = witness.begin(store)
        await asyncio.sleep(rng.uniform(0, 0.05))
        task.cancel()
        await witness.watch(task, marker)

    async def main() -> Stats:
        async with AsyncStore(server.url, max_connections=2) as store:
            for _ in range(10):
                await asyncio.gather(*(one(store) for _ in range(15)))
            for _ in range(4):
                assert await witness.commit(store) in witness.returned
            return store.stats()

    stats = asyncio.run(main())
    witness.check()
    assert witness.innocent
    figures(server, witness.ledger, fired=witness.interrupted, resolved=stats, seed=3)


@pytest.mark.fault(number=13)
@newest_and_oldest
@pytest.mark.parametrize("applied", [True, False])
def test_a_commit_cancelled_in_doubt_says_what_became_of_it(
    server: ServerHandle, figures: Figures, *, applied: bool
) -> None:
    witness = Witness(Ledger(server))

    async def main() -> Stats:
        async with AsyncStore(proxy.url) as store:
            for _ in range(10):
                rule = proxy.inject(HoldReply() if applied else HoldRequest(), "EXEC", where=of_commit)
                task, marker = witness.begin(store)
                await fired(rule)
                task.cancel()
                await witness.watch(task, marker)
                rule.release()
            assert store.stats().in_doubt == 10
            return store.stats()

    with FaultProxy(server.url) as proxy:
        stats = asyncio.run(main())
        assert proxy.fired == 10
    witness.check()
    assert (len(witness.committed), len(witness.innocent)) == ((10, 0) if applied else (0, 10))
    figures(server, witness.ledger, fired=witness.interrupted, resolved=stats)


@pytest.mark.fault(number=13)
@newest_and_oldest
def test_a_second_cancellation_does_not_cut_the_resolution_short(
    server: ServerHandle, figures: Figures
) -> None:
    witness = Witness(Ledger(server))

    async def main() -> Stats:
        async with AsyncStore(proxy.url) as store:
            lost = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            resolving = proxy.inject(HoldRequest(), "EXPIRE")
            task, marker = witness.begin(store)
            await fired(lost)
            task.cancel()
            await fired(resolving)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            resolving.release()
            await witness.watch(task, marker)
            assert witness.committed == {marker}
            return store.stats()

    with FaultProxy(server.url) as proxy:
        stats = asyncio.run(main())
    witness.check()
    figures(server, witness.ledger, fired=witness.interrupted, resolved=stats)


@newest_and_oldest
def test_a_second_cancellation_does_not_cut_the_resolution_of_a_repeated_update_short(
    server: ServerHandle,
) -> None:
    """It leaves the straight way in that moment."""

    def add(doc: Doc) -> None:
        doc["n"] = doc.get("n", 0) + 1

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            for _ in range(4):
                await store.update("counter", add)
            lost = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            resolving = proxy.inject(HoldRequest(), "EXPIRE")
            task = asyncio.create_task(store.update("counter", add))
            await fired(lost)
            task.cancel()
            await fired(resolving)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            resolving.release()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert isinstance(caught.value.__cause__, CommitUnknown)
            assert caught.value.__cause__.known is Resolution.COMMITTED

    with FaultProxy(server.url) as proxy:
        asyncio.run(main())


@pytest.mark.fault(number=13)
@newest_and_oldest
def test_a_commit_cancelled_while_it_is_being_resolved_says_what_became_of_it(
    server: ServerHandle, figures: Figures
) -> None:
    """The reply was lost first, the cancellation comes later."""
    witness = Witness(Ledger(server))

    async def main() -> Stats:
        async with AsyncStore(proxy.url) as store:
            for _ in range(5):
                proxy.inject(DropReply(Cut.RST), "EXEC", where=of_commit)
                resolving = proxy.inject(HoldReply(), "EXPIRE")
                task, marker = witness.begin(store)
                await fired(resolving)
                task.cancel()
                await witness.watch(task, marker)
                resolving.release()
            assert store.stats().in_doubt == 5
            return store.stats()

    with FaultProxy(server.url) as proxy:
        stats = asyncio.run(main())
        assert proxy.fired == 10
    witness.check()
    assert len(witness.committed) == 5
    figures(server, witness.ledger, fired=witness.interrupted, resolved=stats)


@pytest.mark.fault(number=13)
def test_a_cancelled_commit_does_not_wait_for_a_dead_server_beyond_one_timeout(
    valkey9: ServerHandle, figures: Figures
) -> None:
    witness = Witness(Ledger(valkey9))

    async def main() -> Stats:
        async with AsyncStore(proxy.url, timeout=0.2, retry=Retry(deadline=60)) as store:
            held = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            task, marker = witness.begin(store)
            await fired(held)
            proxy.refuse()
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=10)  # far from the deadline of 60 s
            assert done
            await witness.watch(task, marker)
            return store.stats()

    with FaultProxy(valkey9.url) as proxy:
        stats = asyncio.run(main())
    witness.check()
    assert len(witness.unknown) == 1
    figures(valkey9, witness.ledger, fired=witness.interrupted, resolved=stats)


@pytest.mark.fault(number=13)
@newest_and_oldest
def test_asyncio_timeout_works_around_a_transaction(server: ServerHandle, figures: Figures) -> None:
    """It must see its own CancelledError come back, whatever was found out."""
    ledger = Ledger(server)

    async def main() -> Stats:
        async with AsyncStore(proxy.url) as store:
            held = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.2):
                    await store.run(ledger.append, ledger.next_marker())
            assert held.fired == 1
            cancelled = (
                caught.value.__cause__ or caught.value.__context__
            )  # the latter in the first of Python 3.11
            assert isinstance(cancelled, asyncio.CancelledError)
            assert isinstance(cancelled.__cause__, CommitUnknown)
            assert cancelled.__cause__.known is Resolution.COMMITTED
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.run(sleep_for_ever)
            async with asyncio.timeout(5):
                await store.run(ledger.append, ledger.next_marker())
            return store.stats()

    with FaultProxy(server.url) as proxy:
        stats = asyncio.run(main())
    assert ledger.tally().applied == 2
    figures(server, ledger, fired=2, resolved=stats)


@pytest.mark.fault(number=13)
def test_cancelled_while_waiting_for_a_connection_nothing_is_applied(
    valkey9: ServerHandle, figures: Figures
) -> None:
    witness = Witness(Ledger(valkey9))

    async def main() -> Stats:
        async with AsyncStore(valkey9.url, max_connections=1) as store:
            asleep = asyncio.Event()
            holder = asyncio.create_task(store.run(sleep_for_ever, asleep))
            await asleep.wait()
            waiting = [witness.begin(store) for _ in range(5)]
            await asyncio.sleep(0.01)
            for task, marker in waiting[:4]:
                task.cancel()
                await witness.watch(task, marker)
            assert len(witness.innocent) == 4
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
            await witness.watch(*waiting[4])
            return store.stats()

    stats = asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1
    figures(valkey9, witness.ledger, fired=witness.interrupted, resolved=stats)


@pytest.mark.fault(number=13)
def test_cancelled_while_sleeping_between_attempts_nothing_is_applied(
    valkey9: ServerHandle, figures: Figures
) -> None:
    witness = Witness(Ledger(valkey9))

    async def conflicting(tx: AsyncTx, marker: str) -> None:
        await witness.ledger.append(tx, marker)
        with client_of(valkey9.unix_url) as other:
            other.hset(witness.ledger.keys[0], "other", "1")

    async def main() -> Stats:
        retry = Retry(wait=tenacity.wait_fixed(60), deadline=600, stop=tenacity.stop_never)
        async with AsyncStore(valkey9.url, retry=retry, max_connections=1) as store:
            task, marker = witness.begin(store, conflicting)
            await until(lambda: store.stats().conflicts == 1)
            await asyncio.sleep(0.01)
            task.cancel()
            await witness.watch(task, marker)
            assert witness.innocent == {marker}
            await witness.commit(store)
            return store.stats()

    stats = asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1
    figures(valkey9, witness.ledger, fired=witness.interrupted, resolved=stats)


@pytest.mark.fault(number=13)
def test_cancelled_in_on_commit_the_transaction_is_known_to_be_committed(
    valkey9: ServerHandle, figures: Figures
) -> None:
    witness = Witness(Ledger(valkey9))
    called = asyncio.Event()

    async def callback() -> None:
        called.set()
        await asyncio.sleep(3600)

    async def body(tx: AsyncTx, marker: str) -> None:
        await witness.ledger.append(tx, marker)
        tx.on_commit(callback)

    async def main() -> Stats:
        async with AsyncStore(valkey9.url, max_connections=1) as store:
            task, marker = witness.begin(store, body)
            await called.wait()
            task.cancel()
            await witness.watch(task, marker)
            assert witness.committed == {marker}
            await witness.commit(store)
            return store.stats()

    stats = asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1
    figures(valkey9, witness.ledger, fired=witness.interrupted, resolved=stats)


def test_a_function_that_runs_again_does_so_in_the_caller_s_task_and_can_be_cancelled(
    valkey9: ServerHandle,
) -> None:
    """A conflict that shows while the function reads takes the attempt out of it, as an interruption would."""

    async def main() -> None:
        async with AsyncStore(valkey9.url) as store, AsyncStore(valkey9.url) as other:
            waits, tasks = asyncio.Event(), set()

            async def work(tx: AsyncTx) -> None:
                tasks.add(asyncio.current_task())
                doc = await tx.get("a")
                if tx.attempt == 1:
                    await asyncio.create_task(other.put("a", {"n": 1}))
                await tx.get("b")
                doc["done"] = True
                waits.set()
                await asyncio.sleep(2)

            task = asyncio.create_task(store.run(work))
            await waits.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), "its cancellation got lost"
            assert tasks == {task}
            assert await store.get("a") == {"n": 1}

    asyncio.run(main())


class CancelledAt(Coroutine[Any, Any, None]):
    """A coroutine whose task is cancelled at one of its awaits.

    Args:
        awaits: at which one, counted from 0.
        work: the coroutine.
        late: cancel when what it waits for has come, but before it is told so.
    """

    def __init__(self, awaits: int, work: Coroutine[Any, Any, None], *, late: bool) -> None:
        self._left, self._work, self._late = awaits, work, late

    def send(self, value: Any) -> Any:
        return self._waiting(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waiting(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()

    def _waiting(self, future: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        if self._left == 0:
            if self._late and future is not None:
                future.add_done_callback(lambda _: task.cancel())
            else:
                asyncio.get_running_loop().call_soon(task.cancel)
        self._left -= 1
        return future


async def sleep_for_ever(tx: AsyncTx, asleep: asyncio.Event | None = None) -> None:
    await tx.get("elsewhere")
    if asleep is not None:
        asleep.set()
    await asyncio.sleep(3600)


async def fired(rule: Rule) -> None:
    await asyncio.to_thread(rule.wait)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition)
