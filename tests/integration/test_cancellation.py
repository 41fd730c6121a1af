"""Cancelled commits: applied once or not at all, the exception tells which, and the store stays sound."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

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

    from support.servers import ServerHandle

    from txstate import AsyncTx
    from txstate.testing import Rule


@newest_and_oldest
@pytest.mark.parametrize(
    ("rounds", "seed"),
    [(300, 1), pytest.param(5000, 2, marks=pytest.mark.soak)],
)
def test_commits_cancelled_at_random_moments_are_applied_once_or_not_at_all_and_say_which(
    server: ServerHandle, rounds: int, seed: int
) -> None:
    witness, rng = Witness(Ledger(server)), random.Random(seed)

    async def main() -> None:
        async with AsyncStore(proxy.url, max_connections=2) as store:
            for _ in range(rounds):
                marker = witness.ledger.next_marker()
                task = asyncio.create_task(store.run(witness.ledger.append, marker))
                await asyncio.sleep(rng.uniform(0, 0.012))
                task.cancel()
                await witness.watch(task, marker)
            marker = witness.ledger.next_marker()
            await witness.watch(asyncio.create_task(store.run(witness.ledger.append, marker)), marker)
            assert marker in witness.returned
            assert store.stats().in_doubt > 0
            assert witness.committed

    with FaultProxy(server.url) as proxy:
        proxy.delay(requests=0.001, replies=0.001)
        asyncio.run(main())
    witness.check()
    assert len(witness.innocent) > rounds / 10
    assert not witness.unknown


@newest_and_oldest
def test_many_tasks_cancelled_at_random_moments_leave_a_sound_pool(server: ServerHandle) -> None:
    """Concurrent transactions wait for two connections, conflict, and are cancelled anywhere."""
    witness, rng = Witness(Ledger(server)), random.Random(3)

    async def one(store: AsyncStore) -> None:
        marker = witness.ledger.next_marker()
        task = asyncio.create_task(store.run(witness.ledger.append, marker))
        await asyncio.sleep(rng.uniform(0, 0.05))
        task.cancel()
        await witness.watch(task, marker)

    async def main() -> None:
        async with AsyncStore(server.url, max_connections=2) as store:
            for _ in range(10):
                await asyncio.gather(*(one(store) for _ in range(15)))
            for _ in range(4):
                marker = witness.ledger.next_marker()
                await witness.watch(asyncio.create_task(store.run(witness.ledger.append, marker)), marker)
                assert marker in witness.returned

    asyncio.run(main())
    witness.check()
    assert witness.innocent


@newest_and_oldest
@pytest.mark.parametrize("applied", [True, False])
def test_a_commit_cancelled_in_doubt_says_what_became_of_it(server: ServerHandle, *, applied: bool) -> None:
    witness = Witness(Ledger(server))

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            for _ in range(10):
                rule = proxy.inject(HoldReply() if applied else HoldRequest(), "EXEC", where=of_commit)
                marker = witness.ledger.next_marker()
                task = asyncio.create_task(store.run(witness.ledger.append, marker))
                await fired(rule)
                task.cancel()
                await witness.watch(task, marker)
                rule.release()
            assert store.stats().in_doubt == 10

    with FaultProxy(server.url) as proxy:
        asyncio.run(main())
        assert proxy.fired == 10
    witness.check()
    assert (len(witness.committed), len(witness.innocent)) == ((10, 0) if applied else (0, 10))


@newest_and_oldest
def test_a_second_cancellation_does_not_cut_the_resolution_short(server: ServerHandle) -> None:
    witness = Witness(Ledger(server))

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            lost = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            resolving = proxy.inject(HoldRequest(), "EXPIRE")
            marker = witness.ledger.next_marker()
            task = asyncio.create_task(store.run(witness.ledger.append, marker))
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

    with FaultProxy(server.url) as proxy:
        asyncio.run(main())
    witness.check()


@newest_and_oldest
def test_a_commit_cancelled_while_it_is_being_resolved_says_what_became_of_it(server: ServerHandle) -> None:
    """The reply was lost first, the cancellation comes later."""
    witness = Witness(Ledger(server))

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            for _ in range(5):
                proxy.inject(DropReply(Cut.RST), "EXEC", where=of_commit)
                resolving = proxy.inject(HoldReply(), "EXPIRE")
                marker = witness.ledger.next_marker()
                task = asyncio.create_task(store.run(witness.ledger.append, marker))
                await fired(resolving)
                task.cancel()
                await witness.watch(task, marker)
                resolving.release()
            assert store.stats().in_doubt == 5

    with FaultProxy(server.url) as proxy:
        asyncio.run(main())
        assert proxy.fired == 10
    witness.check()
    assert len(witness.committed) == 5


def test_a_cancelled_commit_does_not_wait_for_a_dead_server_beyond_one_timeout(valkey9: ServerHandle) -> None:
    witness = Witness(Ledger(valkey9))

    async def main() -> None:
        async with AsyncStore(proxy.url, timeout=0.2, retry=Retry(deadline=60)) as store:
            held = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            marker = witness.ledger.next_marker()
            task = asyncio.create_task(store.run(witness.ledger.append, marker))
            await fired(held)
            proxy.refuse()
            task.cancel()
            async with asyncio.timeout(10):  # far from the deadline of 60 s
                await witness.watch(task, marker)

    with FaultProxy(valkey9.url) as proxy:
        asyncio.run(main())
    witness.check()
    assert len(witness.unknown) == 1


@newest_and_oldest
def test_asyncio_timeout_works_around_a_transaction(server: ServerHandle) -> None:
    """It must see its own CancelledError come back, whatever was found out."""
    ledger = Ledger(server)

    async def main() -> None:
        async with AsyncStore(proxy.url) as store:
            held = proxy.inject(HoldReply(), "EXEC", where=of_commit)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.2):
                    await store.run(ledger.append, ledger.next_marker())
            assert held.fired == 1
            cancelled = caught.value.__cause__
            assert isinstance(cancelled, asyncio.CancelledError)
            assert isinstance(cancelled.__cause__, CommitUnknown)
            assert cancelled.__cause__.known is Resolution.COMMITTED
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.run(sleep_for_ever)
            async with asyncio.timeout(5):
                await store.run(ledger.append, ledger.next_marker())

    with FaultProxy(server.url) as proxy:
        asyncio.run(main())
    assert ledger.tally().applied == 2


def test_cancelled_while_waiting_for_a_connection_nothing_is_applied(valkey9: ServerHandle) -> None:
    witness = Witness(Ledger(valkey9))

    async def main() -> None:
        async with AsyncStore(valkey9.url, max_connections=1) as store:
            holder = asyncio.create_task(store.run(sleep_for_ever))
            await until(lambda: store.stats().round_trips > 1)
            waiting = []
            for _ in range(5):
                marker = witness.ledger.next_marker()
                waiting.append((asyncio.create_task(store.run(witness.ledger.append, marker)), marker))
            await asyncio.sleep(0.01)
            for task, marker in waiting[:4]:
                task.cancel()
                await witness.watch(task, marker)
            assert len(witness.innocent) == 4
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
            await witness.watch(*waiting[4])

    asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1


def test_cancelled_while_sleeping_between_attempts_nothing_is_applied(valkey9: ServerHandle) -> None:
    witness = Witness(Ledger(valkey9))

    async def conflicting(tx: AsyncTx, marker: str) -> None:
        await witness.ledger.append(tx, marker)
        with client_of(valkey9.unix_url) as other:
            other.hset(witness.ledger.keys[0], "other", "1")

    async def main() -> None:
        retry = Retry(wait=tenacity.wait_fixed(60), deadline=600, stop=tenacity.stop_never)
        async with AsyncStore(valkey9.url, retry=retry, max_connections=1) as store:
            marker = witness.ledger.next_marker()
            task = asyncio.create_task(store.run(conflicting, marker))
            await until(lambda: store.stats().conflicts == 1)
            await asyncio.sleep(0.01)
            task.cancel()
            await witness.watch(task, marker)
            assert witness.innocent == {marker}
            marker = witness.ledger.next_marker()
            await witness.watch(asyncio.create_task(store.run(witness.ledger.append, marker)), marker)

    asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1


def test_cancelled_in_on_commit_the_transaction_is_known_to_be_committed(valkey9: ServerHandle) -> None:
    witness = Witness(Ledger(valkey9))
    called = asyncio.Event()

    async def callback() -> None:
        called.set()
        await asyncio.sleep(3600)

    async def body(tx: AsyncTx, marker: str) -> None:
        await witness.ledger.append(tx, marker)
        tx.on_commit(callback)

    async def main() -> None:
        async with AsyncStore(valkey9.url, max_connections=1) as store:
            marker = witness.ledger.next_marker()
            task = asyncio.create_task(store.run(body, marker))
            await called.wait()
            task.cancel()
            await witness.watch(task, marker)
            assert witness.committed == {marker}
            marker = witness.ledger.next_marker()
            await witness.watch(asyncio.create_task(store.run(witness.ledger.append, marker)), marker)

    asyncio.run(main())
    witness.check()
    assert len(witness.returned) == 1


async def sleep_for_ever(tx: AsyncTx) -> None:
    await tx.get("elsewhere")
    await asyncio.sleep(3600)


async def fired(rule: Rule) -> None:
    await asyncio.to_thread(rule.wait)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition)
