"""txstate, as its README shows it, with default settings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import SPIN, AsyncPeer, Peer
from benchmarks.peers.redis_py import OnHashes
from txstate import AsyncStore, Store, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Op
    from txstate import AsyncTx, Doc, Tx


class Update(OnHashes, Peer):
    """`update` for one document, `run` for several."""

    title = "txstate"
    form = "store.update(key, function), store.run(function), store.get(key); default settings"
    module = "txstate"
    spin: ClassVar[float] = SPIN

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store = Store(place.address, spin=self.spin)

    def change(self, op: Op) -> None:
        """Add in a transaction."""
        if len(op.keys) > 1:
            self._store.run(self._add_to_many, op)
            return

        def add(doc: Doc) -> None:
            self.attempts += 1
            value = doc[op.field]
            if op.think:
                time.sleep(op.think)
            doc[op.field] = value + op.by[0]

        self._store.update(op.keys[0], add, fields=self._fields(op))

    def read(self, op: Op) -> None:
        """A snapshot."""
        if len(op.keys) == 1:
            found = [self._store.get(op.keys[0], self._fields(op))]
        else:
            found = [*self._store.get_many(op.keys, self._fields(op)).values()]
        for snapshot in found:
            assert snapshot is not None  # noqa: S101 - it was put there
            snapshot[op.field]

    def close(self) -> None:
        """Disconnect."""
        self._store.close()

    def _fields(self, _op: Op) -> Sequence[str] | None:
        return None

    def _add_to_many(self, tx: Tx, op: Op) -> None:
        self.attempts += 1
        docs = tx.get_many(op.keys)
        if op.think:
            time.sleep(op.think)
        for doc, amount in zip(docs, op.by, strict=True):
            doc[op.field] += amount


class SleepingUpdate(Update):
    """The same, by threads that sleep until a reply comes, as every peer's do."""

    title = "txstate, spin=0"
    form = "the same with Store(address, spin=0)"
    spin = 0.0


class FieldsUpdate(Update):
    """The same, fetching only the field that it changes."""

    title = "txstate, fields="
    form = "store.update(key, function, fields=[name])"

    def _fields(self, op: Op) -> Sequence[str] | None:
        return [op.field]


class ReadOnly(Update):
    """Reads in a transaction rather than by a snapshot."""

    title = "txstate, read-only transaction"
    form = "store.run(function) whose function only reads"

    def read(self, op: Op) -> None:
        """A transaction that writes nothing."""
        self._store.run(self._look, op)

    def _look(self, tx: Tx, op: Op) -> None:
        for doc in tx.get_many(op.keys):
            doc[op.field]


class Put(Update):
    """Writes whole documents, if nobody has since they were read: HTTP's If-Match."""

    title = "txstate, put"
    form = "store.get(key), then store.put(key, document, if_version=...), again after VersionMismatch"
    holds = 2  # what it has read, and what it makes of that

    def change(self, op: Op) -> None:
        """Replace the document, until nobody was faster. Several documents have no version in common."""
        if len(op.keys) > 1:
            super().change(op)
            return
        while True:
            self.attempts += 1
            snapshot = self._store.get(op.keys[0])
            assert snapshot is not None  # noqa: S101 - it was put there
            document = snapshot.to_dict()
            document[op.field] += op.by[0]
            with contextlib.suppress(VersionMismatch):
                self._store.put(op.keys[0], document, if_version=snapshot.version)
                return


class AsyncUpdate(OnHashes, AsyncPeer):
    """The asyncio twin."""

    title = "txstate, asyncio"
    form = "await store.run(function) on one AsyncStore; default settings"
    module = "txstate"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store = AsyncStore(place.address)

    async def change(self, op: Op) -> None:
        """Add in a transaction."""
        await self._store.run(self._add, op)

    async def read(self, op: Op) -> None:
        """A snapshot."""
        await self._store.get_many(op.keys)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._store.aclose()

    async def _add(self, tx: AsyncTx, op: Op) -> None:
        self.attempts += 1
        docs = await tx.get_many(op.keys)
        if op.think:
            await asyncio.sleep(op.think)
        for doc, amount in zip(docs, op.by, strict=True):
            doc[op.field] += amount
