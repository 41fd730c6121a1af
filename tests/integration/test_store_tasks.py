"""A store in several threads, tasks and event loops."""

from __future__ import annotations

import asyncio
import functools
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.stores import add_one, async_n_of

from txstate import (
    AsyncStore,
    AsyncTx,
    Retry,
    Store,
    StoreUnavailable,
    Tx,
    UsageError,
)

if TYPE_CHECKING:
    from support.servers import ServerHandle


def test_many_threads_share_one_connection(server: ServerHandle) -> None:
    with Store(server.url, max_connections=1) as store, ThreadPoolExecutor(8) as pool:
        done = [pool.submit(store.update, "k", add_one) for _ in range(80)]
        assert sorted(one.result()["n"] for one in done) == list(range(1, 81))
        assert store.stats().connections == 1
        assert store.stats().conflicts == 0


def test_many_tasks_share_one_connection(server: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(server.url, max_connections=1) as store:
            done = await asyncio.gather(*(store.update("k", add_one) for _ in range(50)))
            assert sorted(one["n"] for one in done) == list(range(1, 51))
            assert store.stats().connections == 1

    asyncio.run(scenario())


def test_more_than_max_connections_for_too_long(valkey9: ServerHandle) -> None:
    with Store(valkey9.unix_url, max_connections=1) as store, ThreadPoolExecutor(1) as pool:
        hasty = store.options(retry=Retry(deadline=0.1))

        def hold(tx: Tx) -> None:
            tx.get("k")
            for use in (functools.partial(hasty.update, "k", add_one), functools.partial(hasty.get, "k")):
                with pytest.raises(StoreUnavailable, match="max_connections"):
                    pool.submit(use).result()

        store.run(hold)
        assert store.update("k", add_one)["n"] == 1


def test_more_than_max_connections_for_too_long_under_asyncio(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url, max_connections=1) as store:
            hasty = store.options(retry=Retry(deadline=0.1))

            async def hold(tx: AsyncTx) -> None:
                await tx.get("k")
                with pytest.raises(StoreUnavailable, match="max_connections"):
                    await asyncio.create_task(hasty.update("k", add_one))

            await store.run(hold)
            assert (await store.update("k", add_one))["n"] == 1

    asyncio.run(scenario())


def test_an_async_store_belongs_to_one_loop(valkey9: ServerHandle) -> None:
    loop = asyncio.new_event_loop()
    store = AsyncStore(valkey9.unix_url)
    try:
        loop.run_until_complete(store.put("k", {"n": 1}))
        with pytest.raises(UsageError, match="belongs to the event loop that used it first"):
            asyncio.run(async_n_of(store))
        assert loop.run_until_complete(async_n_of(store)) == 1
        loop.run_until_complete(store.aclose())
    finally:
        loop.close()


def test_an_async_store_is_not_closed_in_another_loop(valkey9: ServerHandle) -> None:
    loop = asyncio.new_event_loop()
    store = AsyncStore(valkey9.unix_url)
    try:
        loop.run_until_complete(store.put("k", {"n": 1}))
        with pytest.raises(UsageError, match="is closed there"):
            asyncio.run(store.aclose())
        assert loop.run_until_complete(async_n_of(store)) == 1
        loop.run_until_complete(store.aclose())
    finally:
        loop.close()


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # the connections, which the loop has left open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_async_store_can_be_closed_after_its_loop_has_ended(tmp_path: Path) -> None:
    store = AsyncStore(tmp_path / "state")
    asyncio.run(store.put("k", {"n": 1}))
    url = store.url
    asyncio.run(store.aclose())
    asyncio.run(store.aclose())
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(async_n_of(store))
    del store
    gc.collect()
    assert not Path(url.removeprefix("unix://")).exists()
