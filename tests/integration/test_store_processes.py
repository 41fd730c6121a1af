"""A store in several processes: pickled, spawned and forked."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest
import redis
from support.forks import in_child
from support.stores import add_one, async_n_of, copied, n_of
from tenacity import stop_after_attempt

from txstate import (
    AsyncStore,
    Retry,
    Snapshot,
    Store,
    Tx,
    UsageError,
    events,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers import ServerHandle

T = TypeVar("T")


def in_spawned(function: Callable[..., T], *args: object) -> T:
    """What a function returns in a process started afresh."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


# Pickling, and other processes


def test_a_pickled_store_opens_the_same_data(valkey9: ServerHandle) -> None:
    retry = Retry(stop=stop_after_attempt(7), deadline=3.0)
    with Store(
        valkey9.url, namespace="app:", retry=retry, timeout=2.0, max_connections=3, on_event=repr, spin=0
    ) as store:
        store.put("k", {"n": 1})
        with copied(store) as copy:
            assert n_of(copy) == 1
            assert copy.url == store.url
            assert copy._core is not store._core
            assert (copy._core.max_connections, copy._core.spin) == (3, 0)
            settings = copy._settings
            assert (settings.namespace, settings.timeout, settings.on_event) == ("app:", 2.0, repr)
            assert (settings.retry.deadline, type(settings.retry.stop)) == (3.0, type(retry.stop))
            assert copy.stats().commits == 0
        assert n_of(store) == 1


def test_a_pickled_view_is_a_store_of_its_own(store: Store) -> None:
    view = store.options(namespace="app:")
    view.put("k", {"n": 1})
    copy = copied(view)
    assert n_of(copy) == 1
    copy.close()
    with pytest.raises(UsageError, match="the store is closed"):
        copy.get("k")
    assert n_of(view) == 1


def test_a_store_of_a_client_can_be_pickled(valkey9: ServerHandle) -> None:
    for url in (valkey9.url, valkey9.unix_url):
        with redis.Redis.from_url(url, db=2) as client, Store(client=client) as store:
            store.put("k", {"n": 1})
            assert in_spawned(copied(store).get, "k") == {"n": 1}


def test_a_spawned_child_uses_the_store(valkey9: ServerHandle, tmp_path: Path) -> None:
    stores = [
        Store(valkey9.url, namespace="app:", on_event=repr),
        Store(valkey9.url).options(namespace="view:"),
        Store(tmp_path / "state"),
        Store(),
    ]
    for store in stores:
        store.put("k", {"n": 1})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [pool.submit(store.update, "k", add_one).result() for store in stores]
    for store, result in zip(stores, results, strict=True):
        assert isinstance(result, Snapshot)
        assert result == {"n": 2}
        assert store.get("k") == result
        assert store.update("k", add_one)["n"] == 3
        store.close()


def test_a_pickled_async_store(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url, namespace="app:") as store:
            await store.put("k", {"n": 1})
            async with copied(store) as copy:
                assert await copy.get("k") == {"n": 1}
        async with AsyncStore() as private:
            await private.put("k", {"n": 2})
            async with copied(private) as copy:
                assert await copy.get("k") == {"n": 2}
            assert await private.get("k") == {"n": 2}

    asyncio.run(scenario())


# Forks


def test_a_forked_child_and_its_parent_both_go_on(server: ServerHandle) -> None:
    with Store(server.url) as store:
        store.update("k", add_one)
        before = store.stats()

        def child() -> int:
            for _ in range(10):
                store.update("k", add_one)
            return store.stats().connections - before.connections

        assert in_child(child) == 1
        assert store.update("k", add_one)["n"] == 12
        assert in_child(child) == 1
        assert store.update("k", add_one)["n"] == 23
        assert store.stats().connections == before.connections
        assert store.stats().disruptions == 0


def test_a_child_shares_no_connection_of_any_store(valkey9: ServerHandle) -> None:
    with Store(valkey9.url) as a, Store(valkey9.unix_url) as b, Store(valkey9.url, namespace="c:") as c:
        stores = a, b, c
        for store in stores:
            store.update("k", add_one)

        def child() -> list[int]:
            before = [store.stats().connections for store in stores]
            for store in stores:
                store.update("k", add_one)
            return [store.stats().connections - n for store, n in zip(stores, before, strict=True)]

        assert in_child(child) == [1, 1, 1]
        for store in stores:
            store.update("k", add_one)
            assert (store.stats().connections, store.stats().disruptions) == (1, 0)


def test_a_fork_in_the_midst_of_the_parents_transactions(valkey9: ServerHandle) -> None:
    threads = 4
    forked, inside = threading.Event(), threading.Barrier(threads + 1)
    with Store(valkey9.unix_url) as store, ThreadPoolExecutor(threads) as pool:

        def change(tx: Tx, key: str) -> int:
            doc = tx.get(key)
            if tx.attempt == 1:
                inside.wait()
                assert forked.wait(20)
            return doc.increment("n")

        running = [pool.submit(store.run, change, f"k{i}") for i in range(threads)]
        inside.wait()
        before = store.stats()
        assert in_child(lambda: [store.update(f"c{i}", add_one)["n"] for i in range(3)]) == [1, 1, 1]
        forked.set()
        assert [one.result() for one in running] == [1] * threads
        after = store.stats()
        assert (after.connections, after.conflicts, after.disruptions) == (before.connections, 0, 0)


def test_a_fork_while_another_thread_counts(store: Store) -> None:
    store.update("k", add_one)
    counting, forked = threading.Event(), threading.Event()

    def count() -> None:
        with events._counting:  # where another thread may just be when somebody forks
            counting.set()
            forked.wait(1)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(count)
        counting.wait()
        try:
            assert in_child(lambda: store.update("k", add_one)["n"]) == 2
        finally:
            forked.set()


def test_a_forked_child_of_a_child(store: Store) -> None:
    def child() -> int:
        store.update("k", add_one)
        in_child(lambda: store.update("k", add_one).to_dict())
        return int(store.update("k", add_one)["n"])

    store.update("k", add_one)
    assert in_child(child) == 4
    assert n_of(store) == 4


def test_random_names_differ_in_forked_children(store: Store, other_client: redis.Redis) -> None:
    store.update("k", add_one)
    names = {store._settings.random_id(), *(in_child(store._settings.random_id) for _ in range(3))}
    assert len(names) == 4
    for _ in range(3):
        in_child(lambda: store.update("k", add_one).version)
    assert len(list(other_client.scan_iter("__txstate__:token:*"))) == 4


def test_a_closed_store_stays_closed_in_a_child(store: Store) -> None:
    store.close()
    with pytest.raises(UsageError, match="the store is closed"):
        in_child(lambda: store.get("k"))


def test_closing_in_a_child_leaves_the_parent_alone() -> None:
    with Store() as store:
        store.update("k", add_one)
        in_child(store.close)
        assert store.update("k", add_one)["n"] == 2
        assert store.stats().connections == 1


def test_a_child_of_an_async_parent(valkey9: ServerHandle) -> None:
    loop = asyncio.new_event_loop()
    store = AsyncStore(valkey9.unix_url)
    try:
        loop.run_until_complete(store.update("k", add_one))
        before = store.stats().connections
        assert in_child(lambda: asyncio.run(async_n_of(store))) == 1
        assert loop.run_until_complete(store.update("k", add_one))["n"] == 2
        assert store.stats().connections == before
        loop.run_until_complete(store.aclose())
    finally:
        loop.close()
