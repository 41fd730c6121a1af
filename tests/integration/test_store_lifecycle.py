"""A store from opening to closing: options and views, processes, threads and loops, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
import redis
import redis.asyncio
import redis.backoff
import redis.retry
from support.twins import open_twin
from support.wire import eventually
from tenacity import stop_after_attempt, wait_none

from txstate import (
    AsyncStore,
    AsyncTx,
    CallbackFailed,
    Committed,
    Conflicted,
    ConflictError,
    Doc,
    Event,
    GaveUp,
    Retry,
    ServerRefused,
    Snapshot,
    Store,
    StoreUnavailable,
    Tx,
    UsageError,
    VersionMismatch,
    events,
    transactional,
)
from txstate._drivers.spin import Spin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from support.servers import ServerHandle, StartServer

T = TypeVar("T")

add_one = functools.partial(Doc.increment, field="n")
"""A change that another process can unpickle."""

NOWHERE = "redis://127.0.0.1:1/0"
"""Nothing listens there."""


@pytest.fixture
def store(valkey9: ServerHandle) -> Iterator[Store]:
    with Store(valkey9.unix_url) as store:
        yield store


@pytest.fixture
def other_client(valkey9: ServerHandle) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey9.unix_url) as client:
        yield client


def in_child(function: Callable[[], T], patience: int = 20) -> T:
    """What a function returns in a forked child; raises what it raises."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: that is what is tested
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(patience)  # a child that hangs ends, and the test fails
            try:
                result: tuple[Any, BaseException | None] = function(), None
            except BaseException as error:  # noqa: BLE001 - handed on to the parent
                result = None, error
            with open(writer, "wb") as pipe:  # noqa: PTH123 - a descriptor is no path
                pickle.dump(result, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - same
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert answer, f"the child ended without an answer: {os.waitstatus_to_exitcode(status)}"
    value, raised = pickle.loads(answer)  # noqa: S301 - our own child's
    if raised is not None:
        raise raised
    return cast("T", value)


def in_spawned(function: Callable[..., T], *args: object) -> T:
    """What a function returns in a process started afresh."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def copied(thing: T) -> T:
    return cast("T", pickle.loads(pickle.dumps(thing)))  # noqa: S301 - our own pickle


def n_of(store: Store, key: str = "k") -> Any:
    snapshot = store.get(key)
    return None if snapshot is None else snapshot["n"]


# Opening


@pytest.mark.parametrize("kind", [Store, AsyncStore])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "is an environment variable missing"),
        ("", "is an environment variable missing"),
        (5, "opens a folder or an address"),
        (b"redis://localhost", "opens a folder or an address"),
        ("ftp://localhost", "unknown scheme 'ftp'"),
        ("://localhost", "unknown scheme"),
        ("localhost:6379", "write 'redis://localhost:6379'"),
        ("10.0.0.1:6379/0", "write 'redis://10.0.0.1:6379/0'"),
        ("redis://localhost/x?db=one", "can't be used"),
    ],
)
def test_targets_that_name_nothing(kind: type[Store | AsyncStore], target: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(target)


@pytest.mark.parametrize("kind", [Store, AsyncStore])
@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("timeout", [0, -1, float("inf"), float("nan"), "5", True, None]),
        ("max_connections", [0, -1, 1.5, "5", True, None]),
        ("namespace", [None, b"app:", 5]),
        ("on_event", [5, "print"]),
        ("spin", [-1e-6, 0.02, 100, float("nan"), "5", True, None]),
        ("fsync", ["never", None, True]),
    ],
)
def test_options_that_can_not_work(kind: type[Store | AsyncStore], option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=option):
            kind(NOWHERE, **{option: value})


@pytest.mark.parametrize("kind", [Store, AsyncStore])
def test_another_librarys_retry(kind: type[Store | AsyncStore]) -> None:
    mistaken: Any = redis.retry.Retry(redis.backoff.NoBackoff(), 3)
    with pytest.raises(TypeError, match=r"takes a txstate\.Retry; redis-py's Retry"):
        kind(NOWHERE, retry=mistaken)
    with pytest.raises(TypeError, match=r"takes a txstate\.Retry, not int"):
        kind(NOWHERE, retry=cast("Any", 3))
    with pytest.raises(TypeError, match="redis-py's Retry"):
        kind(NOWHERE).options(retry=mistaken)


def test_clients_of_the_other_twin() -> None:
    with pytest.raises(UsageError, match=r"client= takes a redis\.Redis, not redis\.asyncio"):
        Store(client=redis.asyncio.Redis())
    with pytest.raises(UsageError, match=r"client= takes a redis\.asyncio\.Redis, not redis\.client"):
        AsyncStore(client=redis.Redis())
    with pytest.raises(UsageError, match=r"client= takes a redis\.Redis, not builtins\.str"):
        Store(client=NOWHERE)
    with pytest.raises(UsageError, match="a target or client=, not both"):
        Store(NOWHERE, client=redis.Redis())


def test_a_constructor_does_no_network_io() -> None:
    with Store(NOWHERE) as store:
        assert store.url == NOWHERE
        assert store.stats().round_trips == 0
    assert AsyncStore(NOWHERE).url == NOWHERE


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_addresses(scheme: str, server: ServerHandle) -> None:
    with Store(server.url.replace("redis:", f"{scheme}:")) as store, Store(server.unix_url) as by_socket:
        store.put("k", {"n": 1})
        assert n_of(by_socket) == 1
        with Store(store.url) as again:
            assert n_of(again) == 1


def test_a_clients_settings_are_taken_over(valkey9: ServerHandle) -> None:
    with (
        redis.Redis.from_url(valkey9.unix_url, db=3, decode_responses=True) as client,
        Store(client=client) as store,
    ):
        store.put("k", {"n": 1})
        assert client.hget("k", "n") == "1"
        with Store(store.url) as again:
            assert n_of(again) == 1


def test_an_async_clients_settings_are_taken_over(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with (
            redis.asyncio.Redis.from_url(valkey9.url, db=3) as client,
            AsyncStore(client=client) as store,
        ):
            await store.put("k", {"n": 1})
            assert await cast("Awaitable[Any]", client.hget("k", "n")) == b"1"

    asyncio.run(scenario())


def test_no_secrets_in_a_repr() -> None:
    with Store("redis://user:secret@host:6379/0", namespace="app:") as store:
        assert "secret" not in repr(store)
        assert "host:6379" in repr(store)
        assert "app:" in repr(store)


# What can't be reached, or refuses


def test_a_refused_connection() -> None:
    retry = Retry(deadline=0.2)
    calls: list[Callable[[], object]] = [
        lambda: Store(NOWHERE, retry=retry).put("k", {}),
        lambda: Store(NOWHERE, retry=retry).get("k"),
        lambda: Store(NOWHERE, retry=retry).ttl("k"),
        lambda: list(Store(NOWHERE, retry=retry).keys()),
        lambda: asyncio.run(put_and_close(AsyncStore(NOWHERE, retry=retry))),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="nothing was applied") as caught:
            call()
        assert caught.value.__cause__ is not None


async def put_and_close(store: AsyncStore) -> None:
    async with store:
        await store.put("k", {})


def test_a_wrong_password(start_server: StartServer) -> None:
    server = start_server("valkey9", requirepass="right")
    retry = Retry(deadline=5)
    with Store(server.url, retry=retry) as store:
        store.put("k", {"n": 1})
    for wrong in (server.url.replace(":right@", ":wrong@"), server.url.replace(":right@", "")):
        with Store(wrong, retry=retry) as store:
            for call in (functools.partial(store.put, "k", {}), functools.partial(store.get, "k")):
                with pytest.raises(ServerRefused) as caught:
                    call()
                assert caught.value.code in ("WRONGPASS", "NOAUTH")
        with pytest.raises(ServerRefused) as caught:
            asyncio.run(put_and_close(AsyncStore(wrong, retry=retry)))
        assert caught.value.code in ("WRONGPASS", "NOAUTH")


def test_a_wrong_database(server: ServerHandle) -> None:
    wrong = server.url.removesuffix("/0") + "/999"
    with Store(wrong, retry=Retry(deadline=5)) as store, pytest.raises(ServerRefused, match="DB index"):
        store.put("k", {})
    with pytest.raises(ServerRefused, match="DB index"):
        asyncio.run(put_and_close(AsyncStore(wrong, retry=Retry(deadline=5))))


# Closing

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


# Views


def test_a_view_shares_connections_and_counts(store: Store) -> None:
    view = store.options(namespace="app:")
    view.put("k", {"n": 1})
    assert store.get("k") is None
    assert n_of(store, "app:k") == 1
    assert list(view.keys()) == ["k"]
    assert view.options(retry=Retry(deadline=1)).get("k") == {"n": 1}
    assert view.stats() == store.stats()
    assert store.stats().connections == 1
    view.close()
    with view:
        pass
    assert n_of(view) == 1


def test_a_view_has_a_policy_of_its_own(store: Store, other_client: redis.Redis) -> None:
    once = store.options(retry=Retry(stop=stop_after_attempt(1)))
    with pytest.raises(ConflictError) as caught:
        once.update("k", lambda doc: meddled(doc, other_client))
    assert caught.value.attempts == 1
    for wrong in (5, b"app:"):
        with pytest.raises(UsageError, match="namespace"):
            store.options(namespace=cast("Any", wrong))


def meddled(doc: Doc, client: redis.Redis) -> None:
    """A change that always loses against somebody else's."""
    client.hincrby(doc.key, "theirs")
    doc["ours"] = 1


def test_closing_an_async_view_does_nothing(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:
            async with store.options(namespace="app:") as view:
                await view.put("k", {"n": 1})
            await view.aclose()
            assert await store.get("app:k") == {"n": 1}
            assert view.stats() == store.stats()

    asyncio.run(scenario())


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
            assert in_child(lambda: store.update("k", add_one)["n"], patience=5) == 2
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
        assert in_child(lambda: asyncio.run(get_n(store))) == 1
        assert loop.run_until_complete(store.update("k", add_one))["n"] == 2
        assert store.stats().connections == before
        loop.run_until_complete(store.aclose())
    finally:
        loop.close()


async def get_n(store: AsyncStore) -> Any:
    snapshot = await store.get("k")
    return snapshot and snapshot["n"]


# Threads, tasks and loops


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
            asyncio.run(get_n(store))
        assert loop.run_until_complete(get_n(store)) == 1
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
        assert loop.run_until_complete(get_n(store)) == 1
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
        asyncio.run(get_n(store))
    del store
    gc.collect()
    assert not Path(url.removeprefix("unix://")).exists()


# A transaction inside of a transaction


@transactional
def add(tx: Tx, key: str) -> int:
    return tx[key].increment("n")


@transactional
async def add_async(tx: AsyncTx, key: str) -> int:
    return (await tx.get(key)).increment("n")


NESTED: list[Callable[[Store], object]] = [
    lambda store: store.run(lambda tx: tx.get("k")),
    lambda store: store.update("other", add_one),
    lambda store: store.put("other", {}),
    lambda store: store.delete("other"),
    lambda store: add(store, "other"),
    lambda store: store.options(namespace="x:").update("other", add_one),
]


@pytest.mark.parametrize("nested", NESTED)
def test_a_nested_transaction_is_refused(nested: Callable[[Store], object], store: Store) -> None:
    def outer(tx: Tx) -> None:
        tx["k"]["n"] = 1
        nested(store)

    with pytest.raises(UsageError, match="Pass on the tx"):
        store.run(outer)
    assert list(store.keys()) == []
    assert add(store, "k") == 1  # nothing is left behind of the refusal


def test_a_nested_transaction_is_refused_in_the_same_task(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:

            async def outer(tx: AsyncTx) -> None:
                (await tx.get("k"))["n"] = 1
                await add_async(store, "other")

            with pytest.raises(UsageError, match="Pass on the tx"):
                await store.run(outer)
            assert [key async for key in store.keys()] == []  # noqa: SIM118 - no dict
            assert await add_async(store, "k") == 1

    asyncio.run(scenario())


def test_joining_is_one_transaction(store: Store) -> None:
    def both(tx: Tx) -> None:
        add(tx, "a")
        with pytest.raises(ZeroDivisionError):
            failing(tx)
        add(tx, "a")

    def failing(tx: Tx) -> None:
        add(tx, "b")
        raise ZeroDivisionError

    store.run(both)
    assert (n_of(store, "a"), n_of(store, "b")) == (2, 1)  # no savepoint
    assert store.stats().commits == 1
    with pytest.raises(ZeroDivisionError):
        store.run(failing)
    assert n_of(store, "b") == 1


def test_other_threads_and_stores_are_no_nesting(store: Store, valkey9: ServerHandle) -> None:
    with Store(valkey9.unix_url) as another, ThreadPoolExecutor(1) as pool:

        def outer(tx: Tx) -> int:
            add(another, "by another store")
            pool.submit(add, store, "by another thread").result()
            return add(tx, "k")

        assert store.run(outer) == 1
    assert {key: n_of(store, key) for key in store.keys()} == {  # noqa: SIM118 - no dict
        "k": 1,
        "by another store": 1,
        "by another thread": 1,
    }


def test_other_tasks_and_stores_are_no_nesting(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store, AsyncStore(valkey9.unix_url) as another:

            async def outer(tx: AsyncTx) -> int:
                await add_async(another, "by another store")
                await asyncio.create_task(add_async(store, "by another task"))
                return await add_async(tx, "k")

            assert await store.run(outer) == 1
            found = await store.get_many(["k", "by another store", "by another task"])
            assert [one and one["n"] for one in found.values()] == [1, 1, 1]

    asyncio.run(scenario())


def test_a_task_may_outlive_the_transaction_that_it_was_born_in(valkey9: ServerHandle) -> None:
    """And have children that Python puts where the transaction's own task was: they are no part of it."""

    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:
            gone: set[int] = set()
            over = asyncio.Event()
            born: list[asyncio.Task[None]] = []

            async def child() -> bool:
                if id(asyncio.current_task()) not in gone:
                    return False
                await add_async(store, "k")
                return True

            async def survive() -> None:
                await over.wait()
                children = [asyncio.create_task(child()) for _ in range(1000)]
                assert any(await asyncio.gather(*children)), "no memory was used again: that needs more tasks"

            async def outer(tx: AsyncTx) -> None:
                gone.add(id(asyncio.current_task()))
                born.append(asyncio.create_task(survive()))
                await tx.get("k")

            await asyncio.create_task(store.run(outer))
            over.set()
            await born[0]

    asyncio.run(scenario())


async def get_n_of(store: AsyncStore, key: str) -> Any:
    snapshot = await store.get(key)
    return snapshot and snapshot["n"]


# After the end


def test_a_tx_and_its_documents_end(store: Store) -> None:
    kept: list[Any] = []

    def change(tx: Tx) -> None:
        doc = tx.get("k")
        doc["n"] = 1
        doc["list"] = [1]
        kept.extend([tx, doc])

    store.run(change)
    tx, doc = kept
    uses: list[Callable[[], object]] = [
        lambda: tx.get("k"),
        lambda: tx["k"],
        lambda: tx.get_many(["k"]),
        lambda: tx.put("k", {}),
        lambda: tx.delete("k"),
        lambda: tx.ttl("k"),
        lambda: tx.on_commit(print),
        lambda: add(tx, "k"),
        lambda: doc["n"],
        lambda: doc.get("n"),
        lambda: "n" in doc,
        lambda: list(doc),
        lambda: doc.exists,
        lambda: doc.version,
        doc.to_dict,
        lambda: doc.update(n=2),
        lambda: doc.increment("n"),
        doc.delete,
        lambda: doc.expire(5),
    ]
    for use in uses:
        with pytest.raises(UsageError, match=r"ended|over"):
            use()
    assert store.get("k") == {"n": 1, "list": [1]}


def test_an_async_tx_ends(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:

            async def change(tx: AsyncTx) -> AsyncTx:
                await tx.put("k", {"n": 1})
                return tx

            tx = await store.run(change)
            for use in (tx.get("k"), tx.get_many(["k"]), tx.put("k", {}), tx.delete("k"), tx.ttl("k")):
                with pytest.raises(UsageError, match=r"ended|over"):
                    await use

    asyncio.run(scenario())


# What comes back


def test_snapshots_of_what_was_committed(server: ServerHandle) -> None:
    with Store(server.unix_url) as store:
        first = store.put("k", {"n": 1})
        assert first == {"n": 1}
        assert first.key == "k"
        assert store.get("k") == first
        assert cast("Snapshot", store.get("k")).version == first.version > 0
        second = store.update("k", add_one, fields=["n"])
        assert second["n"] == 2
        assert second.version > first.version
        unchanged = store.update("k", lambda doc: doc["n"])
        assert unchanged.version == second.version
        with pytest.raises(VersionMismatch) as caught:
            store.put("k", {}, if_version=first.version)
        assert (caught.value.expected, caught.value.found) == (first.version, second.version)
        gone = store.update("k", Doc.delete)
        assert gone == {}
        assert gone.version == 0
        assert store.delete("k") is False
        with pytest.raises(UsageError, match=r"an int, not str \('0'\)"):
            store.put("k", {}, if_version="0")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"an int, not bool \(False\)"):
            store.put("k", {}, if_version=False)
        again = store.put("k", {}, if_version=0)
        assert again.version > second.version
        assert store.delete("k", if_version=again.version) is True
        assert first == {"n": 1}


@pytest.mark.parametrize("repeated", [False, True])
def test_a_function_s_stop_iteration_comes_out_as_itself(store: Store, *, repeated: bool) -> None:
    """`next()` of what is empty; in a generator, as the engine's, it becomes a `RuntimeError`."""
    store.put("k", {"n": 1})
    for _ in range(4 * repeated):
        store.update("k", lambda doc: doc.increment("n"))
    before = store.get("k")
    stop = StopIteration("nobody")

    def function(doc: Doc) -> None:
        doc["n"] = 100
        raise stop

    for call in (lambda: store.update("k", function), lambda: store.run(lambda tx: function(tx.get("k")))):
        with pytest.raises(StopIteration) as caught:
            call()
        assert caught.value is stop
        assert store.get("k") == before

    def generator(doc: Doc) -> Iterator[None]:
        function(doc)
        yield

    def in_a_generator(doc: Doc) -> None:
        list(generator(doc))

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        store.update("k", in_a_generator)


@pytest.mark.parametrize("stop", [StopIteration("nobody"), StopAsyncIteration("nobody")])
def test_what_a_coroutine_can_not_raise_is_the_cause_of_what_it_raises(
    valkey9: ServerHandle, stop: Exception
) -> None:
    """Python makes a `RuntimeError` of the `StopIteration` that leaves a coroutine; `StopAsyncIteration` may."""

    def change(doc: Doc) -> None:
        doc["n"] = 100
        raise stop

    async def function(tx: AsyncTx) -> None:
        change(await tx.get("k"))

    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:
            before = await store.put("k", {"n": 1})
            for _ in range(4):  # the first by a first read, the others by what their connection is armed with
                for call in (lambda: store.update("k", change), lambda: store.run(function)):
                    with pytest.raises((RuntimeError, StopAsyncIteration)) as caught:
                        await call()
                    raised = caught.value
                    assert (raised.__cause__ if isinstance(raised, RuntimeError) else raised) is stop
                assert await store.get("k") == before
                before = await store.update("k", add_one)
            crowd = [store.update("k", change if i % 2 else add_one) for i in range(20)]
            results = await asyncio.gather(*crowd, return_exceptions=True)
            assert sum(isinstance(result, Exception) for result in results) == 10
            assert await store.get("k") == {"n": before["n"] + 10}

    asyncio.run(scenario())


def test_update_takes_plain_functions_in_both_twins(valkey9: ServerHandle, store: Store) -> None:
    async def change(doc: Doc) -> None:
        doc["n"] = 1

    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as astore:
            with pytest.raises(UsageError, match="plain function in both twins"):
                await astore.update("k", change)

    with pytest.raises(UsageError, match="plain function in both twins"):
        store.update("k", change)
    asyncio.run(scenario())
    assert store.get("k") is None


def test_functions_of_the_other_twin_are_refused(valkey9: ServerHandle, store: Store) -> None:
    async def coroutine(tx: Tx) -> None:
        tx["k"]["n"] = 1

    def generator(tx: Tx) -> Iterator[int]:
        tx["k"]["n"] = 1
        yield 1

    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as astore:
            with pytest.raises(UsageError, match="runs `async def` functions"):
                await astore.run(cast("Any", lambda tx: tx.attempt))

    for function in (coroutine, generator):
        with pytest.raises(UsageError, match="a Store runs plain functions"):
            store.run(cast("Any", function))
    asyncio.run(scenario())
    assert store.get("k") is None


# on_commit


def test_callbacks_are_called_once_and_in_order(store: Store, other_client: redis.Redis) -> None:
    called: list[object] = []

    def change(tx: Tx) -> None:
        doc = tx.get("k")
        tx.on_commit(called.append, ("first", tx.attempt))
        tx.on_commit(lambda: called.append((doc["n"], doc.committed_version)))
        tx.on_commit(called.append, "third")
        doc["n"] = tx.attempt
        if tx.attempt < 3:
            other_client.hincrby("k", "theirs")
        assert called == []

    store.run(change)
    snapshot = store.get("k")
    assert snapshot is not None
    assert called == [("first", 3), (3, snapshot.version), "third"]


def test_callbacks_of_what_fails_are_dropped(store: Store) -> None:
    called: list[object] = []

    def failing(tx: Tx) -> None:
        tx["k"]["n"] = 1
        tx.on_commit(called.append, "never")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.run(failing)
    assert called == []


def test_a_failing_callback_fails_nothing_else(
    valkey9: ServerHandle, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    called: list[object] = []

    def broken() -> None:
        raise ZeroDivisionError("mine")

    def change(tx: Tx) -> str:
        tx["k"]["n"] = 1
        tx.on_commit(broken)
        tx.on_commit(called.append, "all the same")
        return "committed"

    with Store(valkey9.unix_url, on_event=events.append) as store:
        assert store.run(change) == "committed"
        assert n_of(store) == 1
    assert called == ["all the same"]
    (failed,) = [event for event in events if isinstance(event, CallbackFailed)]
    assert "broken" in failed.callback
    assert isinstance(failed.error, ZeroDivisionError)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.name, "broken" in record.getMessage()) == ("txstate", True)


def test_async_callbacks_are_awaited(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        called: list[object] = []

        async def slow(what: str) -> None:
            await asyncio.sleep(0)
            called.append(what)

        async def broken() -> None:
            raise ZeroDivisionError

        async def change(tx: AsyncTx) -> None:
            await tx.put("k", {"n": 1})
            tx.on_commit(slow, "first")
            tx.on_commit(broken)
            tx.on_commit(called.append, "second")
            tx.on_commit(slow, "third")

        events: list[Event] = []
        async with AsyncStore(valkey9.unix_url, on_event=events.append) as store:
            await store.run(change)
        assert called == ["first", "second", "third"]
        assert [type(event) for event in events] == [Committed, CallbackFailed]

    asyncio.run(scenario())


def test_callbacks_that_nobody_could_call(store: Store) -> None:
    async def coroutine() -> None: ...

    for callback in (coroutine, 5, None):
        with pytest.raises(UsageError, match="on_commit"):
            store.run(Tx.on_commit, cast("Any", callback))


def test_a_callback_may_use_the_store(store: Store) -> None:
    def change(tx: Tx) -> None:
        tx["k"]["n"] = 1
        tx.on_commit(store.update, "log", add_one)

    store.run(change)
    assert n_of(store, "log") == 1


# Events and counts


def test_events_and_counts_add_up(server: ServerHandle) -> None:
    events: list[Event] = []
    with (
        redis.Redis.from_url(server.unix_url) as client,
        Store(server.unix_url, on_event=events.append) as store,
    ):

        def contended(tx: Tx) -> None:
            doc, other = tx.get_many(["k", "other"])
            if tx.attempt < 3:
                client.hincrby("k", "theirs")
            doc["n"] = other.get("n")

        store.put("k", {"n": 1})
        store.run(contended)
        store.run(lambda tx: tx.get_many(["k", "other"]))
        store.get("k")
        with pytest.raises(VersionMismatch) as refused:
            store.put("k", {}, if_version=0)
        gives_up = store.options(retry=Retry(stop=stop_after_attempt(2), wait=wait_none()))
        with pytest.raises(ConflictError) as caught:
            gives_up.update("k", lambda doc: meddled(doc, client))

    counts = Counter(type(event) for event in events)
    stats = store.stats()
    committed = [event for event in events if isinstance(event, Committed)]
    assert [(event.written, event.attempts) for event in committed] == [(("k",), 1), (("k",), 3), ((), 1)]
    assert set(committed[1].keys) == {"k", "other"}
    conflicted = [event for event in events if isinstance(event, Conflicted)]
    assert [(event.keys, event.attempt) for event in conflicted] == [(("k",), n) for n in (1, 2, 1, 2)]
    gave_up = [event for event in events if isinstance(event, GaveUp)]
    assert [(event.error, event.attempts) for event in gave_up] == [(refused.value, 1), (caught.value, 2)]
    assert (stats.commits, stats.reads) == (2, 2)
    assert (stats.conflicts, stats.gave_up) == (counts[Conflicted], counts[GaveUp])
    assert stats.attempts == 1 + 3 + 1 + 1 + 2
    assert (stats.in_doubt, stats.unknown, stats.disruptions) == (0, 0, 0)
    assert (stats.resolved_committed, stats.resolved_aborted) == (0, 0)
    assert stats.connections == 2  # one is armed for the documents, another one serves the plain read


def test_giving_up_says_which_key_and_how_often(
    store: Store, other_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "txstate")
    stubborn = store.options(retry=Retry(stop=stop_after_attempt(3)))

    def contended(tx: Tx) -> None:
        quiet, hot = tx.get_many(["quiet", "hot"])
        other_client.hincrby("hot", "theirs")
        quiet["n"] = hot.get("theirs", 0)

    with pytest.raises(ConflictError) as caught:
        stubborn.run(contended)
    error = caught.value
    assert error.attempts == 3
    assert next(iter(error.keys)) == "hot"
    assert error.keys["hot"] == 3
    assert error.elapsed > 0
    assert "3 attempts" in str(error)
    assert "'hot' 3 times" in str(error)
    assert store.get("quiet") is None
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_failing_listener_decides_nothing(valkey9: ServerHandle, caplog: pytest.LogCaptureFixture) -> None:
    def listener(event: Event) -> None:
        raise ZeroDivisionError(event)

    with Store(valkey9.unix_url, on_event=listener) as store:
        assert store.put("k", {"n": 1}) == {"n": 1}
    assert "on_event failed" in caplog.text
