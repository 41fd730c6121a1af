"""A `Store` or an `AsyncStore` behind one blocking face, so that each scenario is written once for both.

A transaction's function is always written as a coroutine function. For the sync twin it runs over a `Tx` whose reads
are done by the time they are awaited, so it never really waits. Knows nothing of servers, faults and scenarios.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

import pytest

from txstate import AsyncStore, AsyncTx, Retry, Store, Tx

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from txstate import Doc, Resolution, Snapshot, Stats

P = ParamSpec("P")
R = TypeVar("R")

both_twins: Final = pytest.mark.parametrize("kind", ["sync", "async"])


class Twin(ABC):
    """What both stores can do, as blocking calls. Thread-safe."""

    store: Store | AsyncStore

    @abstractmethod
    def run(
        self,
        body: Callable[Concatenate[AsyncTx, P], Coroutine[Any, Any, R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...

    @abstractmethod
    def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None: ...

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> dict[str, Snapshot | None]: ...

    @abstractmethod
    def get_each(
        self, keys: Sequence[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]: ...

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]: ...

    @abstractmethod
    def update(
        self, key: str, function: Callable[[Doc], object], fields: Sequence[str] | None = None
    ) -> Snapshot: ...

    @abstractmethod
    def put(self, key: str, mapping: Mapping[str, Any]) -> Snapshot: ...

    @abstractmethod
    def delete(self, key: str) -> bool: ...

    @abstractmethod
    def resolve(self, token: str | None) -> Resolution: ...

    @abstractmethod
    def close(self) -> None: ...

    def hasty(self, deadline: float) -> Self:
        """A view on the same connections whose calls end after so many seconds. It is not to be closed."""
        view = copy.copy(self)
        view.store = self.store.options(retry=Retry(deadline=deadline))
        return view

    def within(self, namespace: str) -> Self:
        """A view of another namespace on the same connections. It is not to be closed."""
        view = copy.copy(self)
        view.store = self.store.options(namespace=namespace)
        return view

    @property
    def stats(self) -> Stats:
        return self.store.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncTwin(Twin):
    def __init__(self, *url: str, **options: Any) -> None:
        self.store: Store = Store(*url, **options)

    def run(
        self,
        body: Callable[Concatenate[AsyncTx, P], Coroutine[Any, Any, R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        def function(tx: Tx) -> R:
            return _finished(body(cast("AsyncTx", _DoneTx(tx)), *args, **kwargs))

        return self.store.run(function)

    def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None:
        return self.store.get(key, fields)

    def get_many(self, keys: Sequence[str]) -> dict[str, Snapshot | None]:
        return self.store.get_many(keys)

    def get_each(
        self, keys: Sequence[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        return self.store.get_each(keys, fields)

    def keys(self, prefix: str = "") -> list[str]:
        return list(self.store.keys(prefix))

    def update(
        self, key: str, function: Callable[[Doc], object], fields: Sequence[str] | None = None
    ) -> Snapshot:
        return self.store.update(key, function, fields=fields)

    def put(self, key: str, mapping: Mapping[str, Any]) -> Snapshot:
        return self.store.put(key, mapping)

    def delete(self, key: str) -> bool:
        return self.store.delete(key)

    def resolve(self, token: str | None) -> Resolution:
        assert token is not None
        return self.store.resolve(token)

    def close(self) -> None:
        self.store.close()


class AsyncTwin(Twin):
    """The store lives on an event loop of its own, in a thread of its own."""

    def __init__(self, *url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="async-twin")
        self._thread.start()
        self.store: AsyncStore = AsyncStore(*url, **options)

    def run(
        self,
        body: Callable[Concatenate[AsyncTx, P], Coroutine[Any, Any, R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        return self._wait(self.store.run(body, *args, **kwargs))

    def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None:
        return self._wait(self.store.get(key, fields))

    def get_many(self, keys: Sequence[str]) -> dict[str, Snapshot | None]:
        return self._wait(self.store.get_many(keys))

    def get_each(
        self, keys: Sequence[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]:
        return self._wait(self.store.get_each(keys, fields))

    def keys(self, prefix: str = "") -> list[str]:
        async def listed() -> list[str]:
            return [key async for key in self.store.keys(prefix)]

        return self._wait(listed())

    def update(
        self, key: str, function: Callable[[Doc], object], fields: Sequence[str] | None = None
    ) -> Snapshot:
        return self._wait(self.store.update(key, function, fields=fields))

    def put(self, key: str, mapping: Mapping[str, Any]) -> Snapshot:
        return self._wait(self.store.put(key, mapping))

    def delete(self, key: str) -> bool:
        return self._wait(self.store.delete(key))

    def resolve(self, token: str | None) -> Resolution:
        assert token is not None
        return self._wait(self.store.resolve(token))

    def close(self) -> None:
        try:
            self._wait(self.store.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def open_twin(kind: str, *url: str, deadline: float = 10.0, **options: Any) -> Twin:
    """Open one of the two, by its address or by ``client=``; `deadline` is that of its `Retry`."""
    twins: dict[str, Callable[..., Twin]] = {"sync": SyncTwin, "async": AsyncTwin}
    return twins[kind](*url, retry=Retry(deadline=deadline), **options)


class _DoneTx:
    """A `Tx` with the methods of an `AsyncTx`: each is done when it is awaited."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.attempt = tx.attempt
        self.on_commit = tx.on_commit

    async def get(self, key: str, fields: Sequence[str] | None = None) -> Doc:
        return self._tx.get(key, fields)

    async def get_many(self, keys: Sequence[str], fields: Sequence[str] | None = None) -> list[Doc]:
        return self._tx.get_many(keys, fields)

    async def put(self, key: str, mapping: Mapping[str, Any]) -> Doc:
        return self._tx.put(key, mapping)

    async def delete(self, key: str) -> None:
        self._tx.delete(key)

    async def ttl(self, key: str) -> float | None:
        return self._tx.ttl(key)


def _finished(work: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    work.close()
    raise AssertionError("a transaction's function of a scenario may await its tx, and nothing else")
