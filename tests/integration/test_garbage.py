"""Documents go with their transaction, not with the next garbage collection: a cycle would pile up megabytes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

from txstate import AsyncStore, Store, UsageError
from txstate._documents.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import ServerHandle

    from txstate import AsyncTx, Doc, Tx

TIMES = 20


@contextlib.contextmanager
def no_record_waits_for_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, Record)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def add(doc: Doc) -> None:
    doc["n"] += 1


def update(store: Store) -> None:
    store.update("doc", add)


def update_part(store: Store) -> None:
    store.update("doc", add, fields=["n"])


def read(store: Store) -> None:
    store.run(lambda tx: tx["doc"]["n"])


def conflict(store: Store) -> None:
    def change(tx: Tx) -> None:
        doc = tx["doc"]
        if tx.attempt == 1:
            with Store(store.url) as other:
                other.update("doc", add)
        add(doc)

    store.run(change)


def fail(store: Store) -> None:
    def look(tx: Tx) -> None:
        raise LookupError(tx["doc"]["n"])

    with contextlib.suppress(LookupError):
        store.run(look)


@pytest.mark.parametrize("call", [update, update_part, read, conflict, fail])
def test_a_call_leaves_no_documents(call: Callable[[Store], None], valkey9: ServerHandle) -> None:
    with Store(valkey9.url) as store:
        store.put("doc", {"n": 0, "text": "x" * 1000})
        call(store)
        with no_record_waits_for_the_collector():
            for _ in range(TIMES):
                call(store)


def test_nor_does_one_under_asyncio(valkey9: ServerHandle) -> None:
    async def change(tx: AsyncTx) -> None:
        add(await tx.get("doc"))

    async def run() -> None:
        async with AsyncStore(valkey9.url) as store:
            await store.put("doc", {"n": 0})
            await store.run(change)
            with no_record_waits_for_the_collector():
                for _ in range(TIMES):
                    await store.run(change)

    asyncio.run(run())


def test_nor_do_they_live_on_in_timers_that_were_cancelled(valkey9: ServerHandle) -> None:
    """Those of asyncio keep the context in which they were set, until their time has come."""

    async def change(tx: AsyncTx, key: str) -> None:
        (await tx.get(key)).increment("n")

    async def run() -> None:
        others = records()  # of tests before, which may keep some; they stay as long as this list
        async with AsyncStore(valkey9.url) as store:
            for number in range(TIMES):
                await store.run(change, f"doc:{number}")
            gc.collect()
            assert len(records()) == len(others)

    asyncio.run(run())


def records() -> list[Record]:
    """All that there are in this process."""
    return [each for each in gc.get_objects() if isinstance(each, Record)]


def test_documents_know_that_their_transaction_is_over(valkey9: ServerHandle) -> None:
    with Store(valkey9.url) as store:
        store.put("doc", {"n": 0})
        kept: list[Doc] = []
        store.update("doc", kept.append)
        store.run(lambda tx: kept.append(tx["doc"]))
        for doc in kept:
            with pytest.raises(UsageError, match="this transaction has ended"):
                doc["n"]
            with pytest.raises(UsageError, match="this transaction has ended"):
                doc["n"] = 1
