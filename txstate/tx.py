"""What a transaction's function gets: `Tx`, and `AsyncTx` beside it.

Both ask the attempt what is here already, and let their driver fetch the rest. They know nothing of commits.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from txstate._engine.retake import retake
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from txstate._documents.codec import JSON
    from txstate._documents.doc import Doc
    from txstate._drivers.aio import AsyncDriver
    from txstate._drivers.sync import SyncDriver
    from txstate._engine.attempt import Attempt


class _Tx:
    """What both twins have in common: everything that needs no I/O."""

    __slots__ = ("_attempt",)

    _attempt: Attempt

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1, 2, ..."""
        return self._attempt.number

    def _register(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._attempt.check_write()
        if not callable(callback):
            raise UsageError(f"on_commit takes a function, not {callback!r}")
        if self._attempt.callbacks is None:
            self._attempt.callbacks = []
        self._attempt.callbacks.append((callback, args))

    def _absent(
        self, keys: Sequence[str], fields: Sequence[str] | None
    ) -> Mapping[str, Sequence[str] | None]:
        attempt = self._attempt
        if attempt.documents.untouched:
            return dict.fromkeys(keys, fields)
        return {key: fields for key in keys if attempt.local(key, fields) is None}

    def _documents(self, keys: Sequence[str]) -> list[Doc]:
        return list(map(self._attempt.documents.docs.__getitem__, keys))


class Tx(_Tx):
    """One attempt of a transaction, inside of its function. For one thread at a time.

    The function may run several times: every attempt gets a `Tx` of its own, and what it read and wrote is forgotten
    unless the attempt commits. Using a `Tx` after its function has returned raises `UsageError`.
    """

    __slots__ = ("_driver",)

    def __init__(self, attempt: Attempt, driver: SyncDriver) -> None:
        self._attempt, self._driver = attempt, driver

    def get(self, key: str, fields: Sequence[str] | None = None) -> Doc:
        """The document, watched from now on.

        Args:
            key: its key, without the namespace.
            fields: fetch only these; the cost is then independent of the hash's size.

        Returns:
            The same `Doc` for the same key throughout the transaction, own writes included. A missing document is
            one that does not `.exists`.

        Raises:
            WrongType: the key holds something other than a hash.
            CodecError: the hash holds no valid version.
            ServerRefused: the server does not let us read.
            UsageError: the key is not a str, or this `Tx` is over.
        """
        doc = self._attempt.local(key, fields)
        if doc is None:
            attempt, absent = self._attempt, {key: fields}
            if not retake(attempt, absent):
                self._driver.run(attempt.read(absent))
            doc = attempt.documents.docs[key]
        return doc

    def __getitem__(self, key: str) -> Doc:
        """`tx[key]` is `tx.get(key)`."""
        return self.get(key)

    def get_many(self, keys: Iterable[str], fields: Sequence[str] | None = None) -> list[Doc]:
        """Several documents in one round trip, all from the same moment, in the order asked.

        Args:
            keys: their keys.
            fields: fetch only these of each.

        Raises:
            WrongType, CodecError, ServerRefused, UsageError: as `get`.
        """
        wanted = listed(keys)
        absent = self._absent(wanted, fields)
        if absent and not retake(self._attempt, absent):
            self._driver.run(self._attempt.read(absent))
        return self._documents(wanted)

    def put(self, key: str, mapping: Mapping[str, JSON]) -> Doc:
        """Make these all the fields of the document; creates it if need be. An expiry stays.

        Raises:
            CodecError: a value can't be stored; the document stays as it was.
            WrongType, ServerRefused, UsageError: as `get`.
        """
        doc = self.get(key)
        doc.replace(mapping)
        return doc

    def delete(self, key: str) -> None:
        """Remove the document, if there is one.

        Raises:
            WrongType, CodecError, ServerRefused, UsageError: as `get`.
        """
        self.get(key).delete()

    def ttl(self, key: str) -> float | None:
        """Seconds until the document expires, own writes included; None: it does not, or there is none.

        Raises:
            ServerRefused, UsageError: as `get`.
        """
        return self._driver.run(self._attempt.ttl(key))

    def on_commit(self, callback: Callable[..., object], *args: object) -> None:
        """Call this once the transaction has committed: once, in order, after the winning attempt only.

        A callback that raises is logged and reported to `on_event`; the transaction stays committed.

        Args:
            callback: a plain function. Documents can still be read in it, and have a `.committed_version`.
            *args: what to call it with.

        Raises:
            UsageError: it is a coroutine function, or this `Tx` is over.
        """
        if inspect.iscoroutinefunction(callback):
            raise UsageError("on_commit of a sync Tx takes a plain function: nobody would await this one")
        self._register(callback, args)


class AsyncTx(_Tx):
    """One attempt of a transaction, inside of its function. For one task at a time; concurrent awaits queue.

    The function may run several times: every attempt gets an `AsyncTx` of its own, and what it read and wrote is
    forgotten unless the attempt commits. Using it after its function has returned raises `UsageError`.
    """

    __slots__ = ("_driver", "_lock")

    def __init__(self, attempt: Attempt, driver: AsyncDriver) -> None:
        self._attempt, self._driver = attempt, driver
        self._lock = asyncio.Lock()

    async def get(self, key: str, fields: Sequence[str] | None = None) -> Doc:
        """The document, watched from now on. See `Tx.get`."""
        doc = self._attempt.local(key, fields)
        if doc is None:
            attempt, absent = self._attempt, {key: fields}
            async with self._lock:
                if not retake(attempt, absent):
                    await self._driver.run(attempt.read(absent))
            doc = attempt.documents.docs[key]
        return doc

    async def get_many(self, keys: Iterable[str], fields: Sequence[str] | None = None) -> list[Doc]:
        """Several documents in one round trip, all from the same moment, in the order asked. See `Tx.get_many`."""
        wanted = listed(keys)
        absent = self._absent(wanted, fields)
        if absent:
            async with self._lock:
                if not retake(self._attempt, absent):
                    await self._driver.run(self._attempt.read(absent))
        return self._documents(wanted)

    async def put(self, key: str, mapping: Mapping[str, JSON]) -> Doc:
        """Make these all the fields of the document; creates it if need be. See `Tx.put`."""
        doc = await self.get(key)
        doc.replace(mapping)
        return doc

    async def delete(self, key: str) -> None:
        """Remove the document, if there is one. See `Tx.delete`."""
        (await self.get(key)).delete()

    async def ttl(self, key: str) -> float | None:
        """Seconds until the document expires, own writes included. See `Tx.ttl`."""
        async with self._lock:
            return await self._driver.run(self._attempt.ttl(key))

    def on_commit(self, callback: Callable[..., object], *args: object) -> None:
        """Call this once the transaction has committed; a coroutine function is awaited. See `Tx.on_commit`."""
        self._register(callback, args)


def listed(keys: Iterable[str], method: str = "get_many") -> list[str]:
    """Several keys as a list, for the method that takes them.

    Raises:
        UsageError: it is a single key.
    """
    if isinstance(keys, str | bytes):
        raise UsageError(f"{method} takes several keys, not one: {method}([{keys!r}])")
    return list(keys)
