"""What a transaction's function may do and return: transactions inside of it, what is left after its end, and callbacks."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.stores import add_one, n_of

from txstate import (
    AsyncStore,
    AsyncTx,
    CallbackFailed,
    Committed,
    Doc,
    Event,
    Snapshot,
    Store,
    Tx,
    UsageError,
    VersionMismatch,
    transactional,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle


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
