"""A store, closed: what ends, what goes on, and what becomes of its server."""

from __future__ import annotations

import asyncio
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.stores import add_one, n_of
from support.twins import open_twin
from support.wire import eventually

from txstate import (
    AsyncStore,
    Doc,
    Retry,
    Store,
    StoreUnavailable,
    Tx,
    UsageError,
)
from txstate._drivers.spin import Spin

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from support.servers import ServerHandle


USES: list[Callable[[Store], object]] = [
    lambda store: store.get("k"),
    lambda store: store.get_many(["k"]),
    lambda store: store.put("k", {}),
    lambda store: store.update("k", Doc.clear),
    lambda store: store.delete("k"),
    lambda store: store.ttl("k"),
    lambda store: list(store.keys()),
    lambda store: store.run(lambda tx: tx.get("k")),
]


def test_a_closed_store(store: Store) -> None:
    with store as entered:
        assert entered is store
        store.put("k", {"n": 1})
        view = store.options(namespace="")
    for closed in (store, view):
        for use in USES:
            with pytest.raises(UsageError, match="the store is closed"):
                use(closed)
    store.close()
    assert store.stats().commits == 1


def test_a_closed_async_store(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:
            await store.put("k", {"n": 1})
        for use in (
            store.get("k"),
            store.put("k", {}),
            store.update("k", Doc.clear),
            store.delete("k"),
            store.ttl("k"),
            store.options(namespace="").get("k"),
        ):
            with pytest.raises(UsageError, match="the store is closed"):
                await use
        await store.close()
        await store.aclose()

    asyncio.run(scenario())


def test_closing_lets_a_running_transaction_end(store: Store, other_client: redis.Redis) -> None:
    def change(tx: Tx) -> None:
        tx["k"]["n"] = 1
        store.close()

    store.run(change)
    assert other_client.hget("k", "n") == b"1"
    with pytest.raises(UsageError, match="the store is closed"):
        store.get("k")


@pytest.mark.parametrize(
    ("kind", "spin", "looks"), [("sync", 0.0001, True), ("sync", 0, False), ("async", 0.0001, False)]
)
def test_a_thread_looks_for_a_reply_before_it_sleeps_unless_it_is_told_not_to(
    valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch, kind: str, spin: float, *, looks: bool
) -> None:
    looked = []
    look = Spin.look

    def noted(spinning: Spin, poll: Callable[[float], object]) -> None:
        looked.append(spinning)
        look(spinning, poll)

    monkeypatch.setattr(Spin, "look", noted)
    with open_twin(kind, valkey9.unix_url, spin=spin) as twin:
        for _ in range(10):
            twin.update("k", lambda doc: doc.increment("n"))
        assert dict(twin.get("k") or {}) == {"n": 10}
    assert bool(looked) is looks


def test_closing_wakes_who_waits_for_a_connection(valkey9: ServerHandle) -> None:
    with Store(valkey9.unix_url, max_connections=1) as store, ThreadPoolExecutor() as pool:

        def hold(tx: Tx) -> None:
            tx.get("k")
            waiting = pool.submit(store.get, "k")
            eventually(lambda: bool(cast("Any", store._driver).pool._waiting))
            store.close()
            with pytest.raises(UsageError, match="the store is closed"):
                waiting.result()

        store.run(hold)


def test_an_embedded_private_store() -> None:
    with Store() as store:
        url = store.url
        with Store(url) as other:
            other.put("k", {"n": 1})
        assert n_of(store) == 1
        with Store() as another:
            assert another.url != url
            assert another.get("k") is None
    with Store(url, retry=Retry(deadline=0.1)) as gone, pytest.raises(StoreUnavailable):
        gone.get("k")
    store.close()
    with pytest.raises(UsageError, match="the store is closed"):
        store.get("k")


def test_an_async_store_starts_its_server_when_it_is_awaited() -> None:
    async def scenario() -> None:
        store = AsyncStore()
        with pytest.raises(UsageError, match="no url before that"):
            _ = store.url
        with pytest.raises(UsageError, match="no url before that"):
            pickle.dumps(store)
        await asyncio.gather(*(store.update(f"k{i}", add_one) for i in range(5)))
        assert store.url.startswith("unix://")
        await store.aclose()
        with pytest.raises(UsageError, match="the store is closed"):
            await store.get("k")
        never_started = AsyncStore()
        await never_started.aclose()
        with pytest.raises(UsageError, match="the store is closed"):
            await never_started.get("k")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [Store, AsyncStore])
def test_a_store_that_nobody_closed_leaves_its_server(kind: type[Store | AsyncStore], tmp_path: Path) -> None:
    def forget() -> Path:
        store = kind(tmp_path / "state")
        if isinstance(store, AsyncStore):
            asyncio.run(store.__aenter__())  # without a connection, of which redis-py would warn as well
        else:
            store.put("k", {"n": 1})
        return Path(store.url.removeprefix("unix://"))

    socket = forget()
    with pytest.warns(ResourceWarning, match="state was not closed"):
        gc.collect()
    eventually(lambda: not socket.exists())
    with Store(tmp_path / "state") as again:
        assert n_of(again) == (1 if kind is Store else None)


def test_a_view_keeps_its_stores_server() -> None:
    view = Store().options(namespace="a:")
    gc.collect()
    view.put("k", {"n": 1})
    del view
    with pytest.warns(ResourceWarning, match="was not closed"):
        gc.collect()


def test_a_folder_is_shared_and_durable(tmp_path: Path) -> None:
    with Store(tmp_path / "state") as store, Store(str(tmp_path / "state")) as same:
        store.put("k", {"n": 1})
        assert same.url == store.url
        assert n_of(same) == 1
    with Store(tmp_path / "state") as again:
        assert n_of(again) == 1
