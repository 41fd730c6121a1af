"""redis-py's own ways, on hashes whose fields hold JSON: the layout that txstate uses, too.

Each reads whole documents, as an application does that decides by what it reads; a script does not leave the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import orjson
import redis
import redis.asyncio

from benchmarks.peers.base import AsyncPeer, Named, Peer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Cell, Document, Op

LOCK_LIFE: Final = 10
"""Seconds after which the lock of a dead process is free again: each library's documentation advises to set it."""
_POLL: Final = 0.01
"""Seconds between a lock's tries. With the default of 0.1 all but one of 16 processes starve; with 0.001 their polling
takes the server's time."""

CONNECTIONS: Final = 50
"""Of one asyncio client: txstate's default. redis-py's plain pool raises errors where tasks outnumber connections."""

_SCRIPT: Final = """
local field = ARGV[1]
local values = {}
for index, key in ipairs(KEYS) do
    local value = tonumber(redis.call('HGET', key, field)) + tonumber(ARGV[index + 1])
    values[index] = string.format('%.0f', value)
    redis.call('HSET', key, field, values[index])
end
return values
"""


def connect(place: Place) -> Any:
    """A client with default settings."""
    return redis.Redis.from_url(place.address)


class OnHashes(Named):
    """Documents as Redis hashes."""

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """Empty the server, and put these there."""
        with connect(place) as client:
            client.flushall()
            with client.pipeline(transaction=False) as pipe:
                for key, document in documents.items():
                    fields = {cls.field_name(name): orjson.dumps(value) for name, value in document.items()}
                    pipe.hset(key, mapping=fields)
                pipe.execute()

    @classmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
        """The numbers in these cells."""
        with connect(place) as client, client.pipeline(transaction=False) as pipe:
            for key, name in cells:
                pipe.hget(key, cls.field_name(name))
            return [int(value) for value in pipe.execute()]

    @classmethod
    def field_name(cls, name: str) -> str:
        """How a field is called in the hash."""
        return name


class RedisPy(OnHashes, Peer):
    """A client with its default settings."""

    module = "redis"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = connect(place)

    def read(self, op: Op) -> None:
        """All documents in one MULTI."""
        for document in self._fetch(op.keys, transaction=len(op.keys) > 1):
            int(document[op.field.encode()])

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def _fetch(self, keys: Sequence[str], *, transaction: bool) -> list[dict[bytes, bytes]]:
        if len(keys) == 1:
            return [self._client.hgetall(keys[0])]
        with self._client.pipeline(transaction=transaction) as pipe:
            for key in keys:
                pipe.hgetall(key)
            found: list[dict[bytes, bytes]] = pipe.execute()
            return found

    def add_unguarded(self, op: Op) -> None:
        """Read, think, write: for whoever holds the locks."""
        self.attempts += 1
        documents = self._fetch(op.keys, transaction=False)
        if op.think:
            time.sleep(op.think)
        sums = added(documents, op)
        if len(sums) == 1:
            self._client.hset(op.keys[0], op.field, sums[0])
            return
        with self._client.pipeline(transaction=True) as pipe:
            for key, value in zip(op.keys, sums, strict=True):
                pipe.hset(key, op.field, value)
            pipe.execute()


class Transaction(RedisPy):
    """WATCH, read, MULTI, write, EXEC; again after a WatchError, at once and for ever."""

    title = "redis-py transaction"
    form = "Redis.transaction(function, *keys), as in redis-py's documentation of pipelines"

    def change(self, op: Op) -> None:
        """Add in a transaction."""

        def add(pipe: Any) -> None:
            self.attempts += 1
            documents = [pipe.hgetall(key) for key in op.keys]
            if op.think:
                time.sleep(op.think)
            sums = added(documents, op)
            pipe.multi()
            for key, value in zip(op.keys, sums, strict=True):
                pipe.hset(key, op.field, value)

        self._client.transaction(add, *op.keys)


class Lock(RedisPy):
    """One lock a document, taken in the order of their keys."""

    title = "redis-py Lock"
    form = f"with client.lock(name, timeout={LOCK_LIFE}, sleep={_POLL})"

    def change(self, op: Op) -> None:
        """Add while holding the locks."""
        with contextlib.ExitStack() as held:
            for key in sorted(op.keys):
                held.enter_context(self._client.lock(f"lock:{key}", timeout=LOCK_LIFE, sleep=_POLL))
            self.add_unguarded(op)


class Script(RedisPy):
    """The whole change on the server; no Python decides anything between reading and writing."""

    title = "Lua script"
    form = "client.register_script(...)(keys, args): HGET and HSET in Lua"
    thinks = False

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._script = self._client.register_script(_SCRIPT)

    def change(self, op: Op) -> None:
        """Add on the server."""
        self.attempts += 1
        self._script(keys=op.keys, args=(op.field, *op.by))


class Ping(RedisPy):
    """One round trip and nothing else: what redis-py's cheapest call costs here."""

    title = "redis-py PING"
    form = "client.ping(), for comparison: it changes nothing"
    thinks = checked = False

    def change(self, op: Op) -> None:
        """Ask the server for a PONG."""
        self.read(op)

    def read(self, _op: Op) -> None:
        """Ask the server for a PONG."""
        self.attempts += 1
        self._client.ping()


class AsyncTransaction(OnHashes, AsyncPeer):
    """`Redis.transaction` of redis.asyncio."""

    title = "redis-py transaction, asyncio"
    form = "await redis.asyncio.Redis.transaction(function, *keys), from a BlockingConnectionPool of 50 connections"
    module = "redis"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        pool = redis.asyncio.BlockingConnectionPool.from_url(place.address, max_connections=CONNECTIONS)
        self._client: Any = redis.asyncio.Redis.from_pool(pool)

    async def change(self, op: Op) -> None:
        """Add in a transaction."""

        async def add(pipe: Any) -> None:
            self.attempts += 1
            documents = [await pipe.hgetall(key) for key in op.keys]
            if op.think:
                await asyncio.sleep(op.think)
            sums = added(documents, op)
            pipe.multi()
            for key, value in zip(op.keys, sums, strict=True):
                pipe.hset(key, op.field, value)

        await self._client.transaction(add, *op.keys)

    async def read(self, op: Op) -> None:
        """All documents in one MULTI."""
        async with self._client.pipeline(transaction=True) as pipe:
            for key in op.keys:
                pipe.hgetall(key)
            await pipe.execute()

    async def aclose(self) -> None:
        """Disconnect."""
        await self._client.aclose()


def added(documents: Sequence[Mapping[bytes, bytes]], op: Op) -> list[int]:
    """The changed field of each document, as it is to be written."""
    name = op.field.encode()
    return [int(document[name]) + amount for document, amount in zip(documents, op.by, strict=True)]
