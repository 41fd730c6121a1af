"""Other libraries on Redis: coredis, pottery, python-redis-lock. All optional, so imported when opened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from benchmarks.peers.base import AsyncPeer
from benchmarks.peers.redis_py import LOCK_LIFE, OnHashes, RedisPy, added

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Op


class Coredis(OnHashes, AsyncPeer):
    """coredis knows asyncio only; one task a process makes it comparable."""

    title = "coredis transaction"
    form = "await client.transaction(function, *keys), reading by the client under WATCH, as in its handbook"
    module = "coredis"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        coredis: Any = import_module("coredis")
        logging.getLogger("coredis").setLevel(
            logging.ERROR
        )  # it warns of each conflict; writing that down costs time
        self._client = coredis.Redis.from_url(place.address)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def change(self, op: Op) -> None:
        """Add in a transaction."""

        async def add(pipe: Any) -> None:
            self.attempts += 1
            documents = await self._fetch(op.keys)
            if op.think:
                await asyncio.sleep(op.think)
            for key, value in zip(op.keys, added(documents, op), strict=True):
                pipe.hset(key, {op.field: value})

        await self._client.transaction(add, *op.keys)

    async def read(self, op: Op) -> None:
        """All documents in one MULTI."""
        await self._fetch(op.keys)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._client.__aexit__(None, None, None)

    async def _fetch(self, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
        if len(keys) == 1:
            return [await self._client.hgetall(keys[0])]
        async with self._client.pipeline(transaction=True) as pipe:
            answers = [pipe.hgetall(key) for key in keys]
        return [await answer for answer in answers]


class Pottery(RedisPy):
    """A `RedisDict` a document. Each access is a command of its own, and nothing holds two of them together."""

    title = "pottery RedisDict"
    form = "document = RedisDict(redis=client, key=key); document[field] += amount, as in its README"
    module = "pottery"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pottery: Any = import_module("pottery")
        warnings.simplefilter("ignore", self._pottery.InefficientAccessWarning)
        self._open: dict[str, Any] = {}

    @classmethod
    def field_name(cls, name: str) -> str:
        """It writes the names of fields as JSON, too."""
        return json.dumps(name)

    def change(self, op: Op) -> None:
        """Add, field by field."""
        self.attempts += 1
        documents = [self._document(key) for key in op.keys]
        values = [document[op.field] for document in documents]
        if op.think:
            time.sleep(op.think)
        for document, value, amount in zip(documents, values, op.by, strict=True):
            document[op.field] = value + amount

    def read(self, op: Op) -> None:
        """The field of each document, one after the other."""
        for key in op.keys:
            self._document(key)[op.field]

    def _document(self, key: str) -> Any:
        if key not in self._open:
            self._open[key] = self._pottery.RedisDict(redis=self._client, key=key)
        return self._open[key]


class PotteryRedlock(Pottery):
    """The same, under pottery's own lock."""

    title = "pottery Redlock"
    form = f"with Redlock(key=..., masters={{client}}, auto_release_time={LOCK_LIFE}), then as RedisDict"

    def change(self, op: Op) -> None:
        """Add while holding the locks."""
        with contextlib.ExitStack() as held:
            for key in sorted(op.keys):
                lock = self._pottery.Redlock(key=key, masters={self._client}, auto_release_time=LOCK_LIFE)
                held.enter_context(lock)
            super().change(op)


class PythonRedisLock(RedisPy):
    """Who waits is woken by BLPOP."""

    title = "python-redis-lock"
    form = f"with redis_lock.Lock(client, name, expire={LOCK_LIFE}), then as redis-py"
    module = "redis_lock"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._library: Any = import_module("redis_lock")

    def change(self, op: Op) -> None:
        """Add while holding the locks."""
        with contextlib.ExitStack() as held:
            for key in sorted(op.keys):
                held.enter_context(self._library.Lock(self._client, key, expire=LOCK_LIFE))
            self.add_unguarded(op)
