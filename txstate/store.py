"""`Store`, and `AsyncStore` beside it: the library's front door.

Both hand the engine's generators to their driver. What they do alike without I/O stands in `_core`; what is left
differs only in who waits.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from threading import get_ident
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from txstate._core import StoreBase
from txstate._documents.doc import KEEP, Doc, Keep
from txstate._drivers.aio import AsyncDriver
from txstate._drivers.kinds import async_driver, sync_driver
from txstate._drivers.mailbox import AsyncMailbox, SyncMailbox
from txstate._drivers.sync import SyncDriver
from txstate._engine import everywhere, plain
from txstate._engine.doubt import explain
from txstate._engine.straight import change
from txstate._engine.straight_run import run
from txstate._running import Change, Noted, NotedCoroutine
from txstate.errors import UsageError, VersionMismatch
from txstate.tx import AsyncTx, Tx, listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta

    from txstate._documents.codec import JSON
    from txstate._documents.doc import Record
    from txstate._documents.snapshot import Snapshot
    from txstate._engine.attempt import Attempt
    from txstate.resolution import Resolution

P = ParamSpec("P")
R = TypeVar("R")

_UNFINISHED: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)


class Store(StoreBase[SyncDriver]):
    """Documents on a Redis or Valkey server, changed by transactions. Thread-safe, fork-safe, picklable.

    The constructor's arguments are documented there; an embedded server is started by it. Pickled, a store is opened
    anew on the same data in the other process. One that is dropped without `close()` lets go of its connections, and of its
    embedded server with a `ResourceWarning`, when the garbage collector finds it: as files do, but not at once.
    """

    _asynchronous = False
    _interruptions = (KeyboardInterrupt, SystemExit)
    _mailbox = SyncMailbox

    def _start(self) -> None:
        core = self._core
        if core.target.embedded:
            core.server = core.target.start()
        source = core.target.connections(core.server, asynchronous=False)
        core.driver = sync_driver(source, core.max_connections, core.spin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and leave the embedded server (a private one is stopped). Idempotent."""
        if not self._is_view:
            self._driver.close()
            if self._core.server is not None:
                self._core.server.close()

    def run(self, function: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function as a transaction: again and again, until an attempt of it commits.

        Args:
            function: gets a `Tx` first. It may run more than once: keep side effects out, or hand them to
                `tx.on_commit`. Whatever it raises leaves this call unchanged, with nothing applied.
            *args: its other arguments.
            **kwargs: the same.

        Returns:
            What the function returned in the attempt that was committed.

        Raises:
            ConflictError: others were faster, up to the limits of `Retry`. Nothing was applied.
            StoreUnavailable, ServerRefused, WrongType, CodecError, FieldNotLoaded, UsageError: nothing was applied.
            NotDurable: it was applied, and is less durable than asked.
            CommitUnknown: it may have been applied, once.
        """
        result: R = self._transact(_ran, (self._driver, function, args, kwargs))
        return result

    def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None:
        """The document as it is now, in one round trip; None if there is none.

        Args:
            key: its key, without the namespace.
            fields: fetch only these; the cost is then independent of the hash's size. None of them (``[]``): only the
                version, to see whether the document has changed.

        Raises:
            WrongType, CodecError, ServerRefused, StoreUnavailable, UsageError: as they say.
        """
        return self._driver.run(plain.get(self._settings, key, fields))

    def get_many(
        self, keys: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        """Documents by key, all from the same moment, in one round trip; None for those that don't exist.

        Args:
            keys: their keys.
            fields: fetch only these of each.

        Raises:
            CrossSlotError: they are in several slots of a cluster; `get_each` reads them, each on its own.
            WrongType, CodecError, ServerRefused, StoreUnavailable, UsageError: as they say.
        """
        return self._driver.run(plain.get_many(self._settings, listed(keys), fields))

    def get_each(
        self, keys: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        """Documents by key, each on its own: in any slots of a cluster, in one round trip to each node.

        Each is as it was at some moment of this call, and two need not be from the same one: a transfer between them may
        be seen by half. Use `get_many`, or a transaction, for what has to fit together.

        Args:
            keys: their keys.
            fields: fetch only these of each.

        Raises:
            WrongType, CodecError, ServerRefused, StoreUnavailable, UsageError: as they say.
        """
        return self._driver.run(everywhere.get_each(self._settings, listed(keys, "get_each"), fields))

    def update(
        self,
        key: str,
        function: Callable[[Doc], object],
        *,
        fields: Sequence[str] | None = None,
        if_version: int | None = None,
    ) -> Snapshot:
        """Change one document in a transaction of its own.

        Args:
            key: its key.
            function: gets the `Doc` and changes it; a plain function, whose result is ignored. It may run more than
                once.
            fields: fetch only these.
            if_version: commit only if the document has this version; 0: only if there is none.

        Returns:
            The document as committed; empty and with version 0 after `doc.delete()`.

        Raises:
            VersionMismatch: `if_version` does not hold. Nothing was applied.
            TxStateError: as `run`.
        """
        result: Snapshot = self._change(_updated, (function, if_version), key, fields, _snapshot)
        return result

    def put(
        self,
        key: str,
        mapping: Mapping[str, JSON],
        *,
        if_version: int | None = None,
        expire: float | timedelta | Keep | None = KEEP,
    ) -> Snapshot:
        """Make these all the fields of the document; creates it if need be.

        Args:
            key: its key.
            mapping: the fields.
            if_version: only if the document has this version (HTTP's If-Match); 0: only if there is none.
            expire: seconds to live from the commit on; None removes an expiry; by default it stays.

        Returns:
            The document as committed.

        Raises:
            VersionMismatch: `if_version` does not hold. Nothing was applied.
            TxStateError: as `run`.
        """
        result: Snapshot = self._change(_replaced, (mapping, if_version, expire), key, None, _snapshot)
        return result

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the document; whether there was one.

        Args:
            key: its key.
            if_version: only if the document has this version.

        Raises:
            VersionMismatch: `if_version` does not hold. Nothing was applied.
            TxStateError: as `run`.
        """
        result: bool = self._change(_removed, (if_version,), key, None, _result)
        return result

    def ttl(self, key: str) -> float | None:
        """Seconds until the document expires; None: it does not, or there is none.

        Raises:
            ServerRefused, StoreUnavailable, UsageError: as they say.
        """
        return self._driver.run(plain.ttl(self._settings, key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of the documents, each once, by SCAN. No snapshot: what comes and goes meanwhile may be missed.

        Of a cluster all primaries are asked; what moves between them meanwhile may be missed as well.

        Args:
            prefix: what they start with.

        Raises:
            ServerRefused, StoreUnavailable: as they say, while iterating.
        """
        listing = everywhere.Listing(self._settings, prefix)
        while not listing.done:
            yield from self._driver.run(listing.page())

    def resolve(self, token: str | None) -> Resolution:
        """What became of a commit that ended in `CommitUnknown`.

        Args:
            token: the error's `.token`; `UNKNOWN` for one that has none.

        Returns:
            `NOT_COMMITTED` means that it never will be, either.

        Raises:
            UsageError: it is not the token of one.
            StoreUnavailable: no connection was free.
        """
        return self._driver.run(plain.resolve_token(self._settings, token))

    @property
    def _driver(self) -> SyncDriver:
        driver = self._core.driver
        assert driver is not None  # noqa: S101 - made by `_start`
        return driver

    # Nothing is called on the way out of these: a call is a moment for a KeyboardInterrupt, whose cause must be set by
    # then.
    def _transact(self, body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        noted = Noted(self._core.running, get_ident(), body, args)
        try:
            return self._driver.run(run(self._settings, noted))
        except self._interruptions as interruption:
            explain(noted.attempt, interruption)
            raise
        except RuntimeError as error:
            if noted.stopped is None or error.__cause__ is not noted.stopped:
                raise
            raise noted.stopped from None

    def _change(
        self,
        body: Callable[..., Any],
        args: tuple[Any, ...],
        key: str,
        fields: Sequence[str] | None,
        finish: Callable[[Record, Any], Any],
    ) -> Any:
        core = self._core
        noted = Change(core.running, get_ident(), body, args, key)
        try:
            return core.driver.run(change(self._settings, noted, fields, finish))  # type: ignore[union-attr]  # made by `_start`
        except self._interruptions as interruption:
            explain(noted.attempt, interruption, noted.committed)
            raise
        except RuntimeError as error:
            if noted.stopped is None or error.__cause__ is not noted.stopped:
                raise
            raise noted.stopped from None


class AsyncStore(StoreBase[AsyncDriver]):
    """Documents on a Redis or Valkey server, changed by transactions, under asyncio; for one event loop.

    The same names, parameters and meaning as `Store`, to be awaited, but for `stats()` and `options()`; `keys()` is an
    async iterator. An embedded server is started at ``async with`` or by the first await.
    """

    _asynchronous = True
    _interruptions = (KeyboardInterrupt, SystemExit, asyncio.CancelledError)
    _mailbox = AsyncMailbox

    def _start(self) -> None:
        core = self._core
        if not core.target.embedded:
            source = core.target.connections(None, asynchronous=True)
            core.driver = async_driver(source, core.max_connections)

    async def __aenter__(self) -> Self:
        await self._driver()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def close(self) -> None:
        """Close the connections, and leave the embedded server. See `Store.close`.

        Raises:
            UsageError: another event loop is running that uses it. One that has ended does not matter.
        """
        if not self._is_view:
            core = self._core
            if core.opening is not None:
                await asyncio.wait([core.opening])
            if core.driver is not None:
                await core.driver.aclose()
            core.closed = True
            if core.server is not None:
                await asyncio.to_thread(core.server.close)

    async def aclose(self) -> None:
        """The same as `close`, by the name that asyncio's own objects use."""
        await self.close()

    async def run(
        self, function: Callable[Concatenate[AsyncTx, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a coroutine function as a transaction, until an attempt of it commits. See `Store.run`.

        Cancelling it leaves nothing applied, unless the `CancelledError` has a `CommitUnknown` as its cause, whose
        `.known` says what was found out. A `StopIteration` of the function is the cause of a `RuntimeError`, here as in
        `update`: Python lets none out of a coroutine.
        """
        result: R = await self._transact(_awaited, (await self._driver(), function, args, kwargs))
        return result

    async def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None:
        """The document as it is now, in one round trip; None if there is none. See `Store.get`."""
        driver = await self._driver()
        return await driver.run(plain.get(self._settings, key, fields))

    async def get_many(
        self, keys: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        """Documents by key, all from the same moment, in one round trip. See `Store.get_many`."""
        driver = await self._driver()
        return await driver.run(plain.get_many(self._settings, listed(keys), fields))

    async def get_each(
        self, keys: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        """Documents by key, each on its own, in any slots of a cluster. See `Store.get_each`."""
        driver = await self._driver()
        return await driver.run(everywhere.get_each(self._settings, listed(keys, "get_each"), fields))

    async def update(
        self,
        key: str,
        function: Callable[[Doc], object],
        *,
        fields: Sequence[str] | None = None,
        if_version: int | None = None,
    ) -> Snapshot:
        """Change one document in a transaction of its own, by a plain function. See `Store.update`."""
        result: Snapshot = await self._change(_updated, (function, if_version), key, fields, _snapshot)
        return result

    async def put(
        self,
        key: str,
        mapping: Mapping[str, JSON],
        *,
        if_version: int | None = None,
        expire: float | timedelta | Keep | None = KEEP,
    ) -> Snapshot:
        """Make these all the fields of the document; creates it if need be. See `Store.put`."""
        result: Snapshot = await self._change(_replaced, (mapping, if_version, expire), key, None, _snapshot)
        return result

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the document; whether there was one. See `Store.delete`."""
        result: bool = await self._change(_removed, (if_version,), key, None, _result)
        return result

    async def ttl(self, key: str) -> float | None:
        """Seconds until the document expires; None: it does not, or there is none. See `Store.ttl`."""
        driver = await self._driver()
        return await driver.run(plain.ttl(self._settings, key))

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys of the documents, each once, by SCAN. See `Store.keys`."""
        driver = await self._driver()
        listing = everywhere.Listing(self._settings, prefix)
        while not listing.done:
            for key in await driver.run(listing.page()):
                yield key

    async def resolve(self, token: str | None) -> Resolution:
        """What became of a commit that ended in `CommitUnknown`. See `Store.resolve`."""
        driver = await self._driver()
        return await driver.run(plain.resolve_token(self._settings, token))

    async def _driver(self) -> AsyncDriver:
        """The driver, once the server is there: an embedded one is started in a thread, by whoever comes first."""
        core = self._core
        if core.driver is None:
            if core.closed:
                raise UsageError("the store is closed; nothing was applied")
            if core.opening is None:
                core.opening = asyncio.ensure_future(self._start_server())
            await asyncio.shield(core.opening)
        assert core.driver is not None  # noqa: S101 - made by `_start_server`
        return core.driver

    async def _start_server(self) -> None:
        core = self._core
        try:
            core.server = await asyncio.to_thread(core.target.start)
            source = core.target.connections(core.server, asynchronous=True)
            core.driver = async_driver(source, core.max_connections)
        finally:
            core.opening = None

    async def _transact(self, body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        driver = self._core.driver or await self._driver()
        noted = NotedCoroutine(self._core.running, id(asyncio.current_task()), body, args)
        return await driver.run(run(self._settings, noted))

    async def _change(
        self,
        body: Callable[..., Any],
        args: tuple[Any, ...],
        key: str,
        fields: Sequence[str] | None,
        finish: Callable[[Record, Any], Any],
    ) -> Any:
        driver = self._core.driver or await self._driver()
        noted = Change(self._core.running, id(asyncio.current_task()), body, args, key)
        return await driver.run(change(self._settings, noted, fields, finish))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


# What an attempt runs, for `run` and its twin.


def _ran(
    attempt: Attempt,
    driver: SyncDriver,
    function: Callable[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> R:
    result = function(Tx(attempt, driver), *args, **kwargs)
    if type(result) in _UNFINISHED:
        if type(result) is not AsyncGeneratorType:
            result.close()  # type: ignore[attr-defined]  # coroutines and generators have it
        raise UsageError(
            f"{_name(function)} is a coroutine function or a generator: a Store runs plain functions. "
            "Use AsyncStore, or make it plain; nothing was applied"
        )
    return result


async def _awaited(
    attempt: Attempt,
    driver: AsyncDriver,
    function: Callable[..., Awaitable[R]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> R:
    result = function(AsyncTx(attempt, driver), *args, **kwargs)
    if isawaitable(result):
        return await result
    raise UsageError(
        f"{_name(function)} is no coroutine function: an AsyncStore runs `async def` functions. Use Store, "
        "or make it one; nothing was applied"
    )


# The same for `update`, `put` and `delete`, in both twins.


def _updated(doc: Doc, function: Callable[[Doc], object], version: int | None) -> None:
    if version is not None:
        _expect(doc, version)
    result = function(doc)
    if type(result) in _UNFINISHED:
        if not isinstance(result, AsyncGeneratorType):
            result.close()  # type: ignore[attr-defined]  # coroutines and generators have it
        raise UsageError(f"update takes a plain function in both twins, and {_name(function)} is none")


def _replaced(
    doc: Doc, mapping: Mapping[str, JSON], version: int | None, expire: float | timedelta | Keep | None
) -> None:
    if version is not None:
        _expect(doc, version)
    doc.replace(mapping)
    if not isinstance(expire, Keep):
        doc.expire(expire)


def _removed(doc: Doc, version: int | None) -> bool:
    if version is not None:
        _expect(doc, version)
    existed = doc.exists
    doc.delete()
    return existed


def _expect(doc: Doc, version: int) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        raise UsageError(
            f"if_version takes what .version shows, an int, not {type(version).__name__} ({version!r}); nothing was applied"
        )
    if doc.version != version:
        raise VersionMismatch(doc.key, version, doc.version)


# What these return.


def _snapshot(record: Record, _: None) -> Snapshot:
    """The document as the commit left it."""
    return record.snapshot(record.version if record.committed_version is None else record.committed_version)


def _result(_: Record, result: Any) -> Any:
    """What the function said."""
    return result
