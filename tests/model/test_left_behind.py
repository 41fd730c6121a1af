"""Reads that outlive their transaction's function: none of them may touch what a later transaction does.

`asyncio.gather` leaves the other tasks running when one of them raises; a thread may do the same to a `Store`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio.connection
import redis.connection

from txstate import AsyncStore, AsyncTx, Store, Tx

if TYPE_CHECKING:
    from support.servers import ServerHandle


class LeftBehindError(Exception):
    """Raised by the function that doesn't wait for its read."""


def test_a_connect_left_behind_by_a_task(valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(left_by_a_task(valkey9.unix_url, monkeypatch))


async def left_by_a_task(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late, connecting = asyncio.Event(), asyncio.Event()
    real: Any = redis.asyncio.connection.AbstractConnection.connect

    async def connect(self: Any, *args: Any, **kwargs: Any) -> None:
        if not connecting.is_set():
            connecting.set()
            await late.wait()
        await real(self, *args, **kwargs)

    tasks: list[asyncio.Task[object]] = []

    async def first(tx: AsyncTx) -> None:
        tasks.append(asyncio.ensure_future(tx.get("a")))
        await connecting.wait()
        raise LeftBehindError

    async def second(tx: AsyncTx) -> int:
        doc = await tx.get("a")
        if tx.attempt == 1:
            other.update("a", lambda doc: doc.increment("n", 100))
            late.set()
            await asyncio.wait(tasks)
        doc["n"] += 1
        return tx.attempt

    with Store(url) as other:
        other.put("a", {"n": 1})
        monkeypatch.setattr(redis.asyncio.connection.AbstractConnection, "connect", connect)
        async with AsyncStore(url, max_connections=1) as store:
            with pytest.raises(LeftBehindError):
                await store.run(first)
            assert await store.run(second) == 2, "the other's commit is a conflict"
        await asyncio.gather(*tasks, return_exceptions=True)
        snapshot = other.get("a")
        assert snapshot is not None
        assert snapshot["n"] == 102


def test_a_connect_left_behind_by_a_thread(valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    late, connecting = threading.Event(), threading.Event()
    real: Any = redis.connection.AbstractConnection.connect

    def connect(self: Any, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() in threads:
            connecting.set()
            late.wait(10)
        real(self, *args, **kwargs)

    threads: list[threading.Thread] = []
    raised: list[BaseException] = []

    def read(tx: Tx) -> None:
        try:
            tx.get("a")
        except BaseException as error:  # noqa: BLE001 - a condemned read leaves by a BaseException
            raised.append(error)

    def first(tx: Tx) -> None:
        threads.append(threading.Thread(target=read, args=(tx,)))
        threads[0].start()
        assert connecting.wait(10)
        raise LeftBehindError

    def second(tx: Tx) -> int:
        doc = tx.get("a")
        if tx.attempt == 1:
            other.update("a", lambda doc: doc.increment("n", 100))
            late.set()
            threads[0].join(10)
        doc["n"] += 1
        return tx.attempt

    with Store(valkey9.unix_url) as other, Store(valkey9.unix_url, max_connections=1) as store:
        other.put("a", {"n": 1})
        monkeypatch.setattr(redis.connection.AbstractConnection, "connect", connect)
        with pytest.raises(LeftBehindError):
            store.run(first)
        assert store.run(second) == 2, "the other's commit is a conflict"
        snapshot = other.get("a")
        assert snapshot is not None
        assert snapshot["n"] == 102
    assert len(raised) == 1


def test_a_reply_left_behind_is_never_another_s(valkey9: ServerHandle) -> None:
    """The reply to the first read arrives while the second transaction uses the same place of the pool."""

    async def scenario() -> None:
        async def leave(tx: AsyncTx, key: str, turns: int) -> None:
            tasks.append(asyncio.ensure_future(tx.get(key)))
            for _ in range(turns):
                await asyncio.sleep(0)
            raise LeftBehindError

        async def read(tx: AsyncTx) -> object:
            return (await tx.get("right"))["n"]

        tasks: list[asyncio.Task[object]] = []
        async with AsyncStore(valkey9.unix_url, max_connections=1) as store:
            await store.put("wrong", {"n": "wrong"})
            await store.put("right", {"n": "right"})
            for turns in range(12):
                with pytest.raises(LeftBehindError):
                    await store.run(leave, "wrong", turns)
                assert await store.run(read) == "right"
                assert await store.run(read) == "right"
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())
