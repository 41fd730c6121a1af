"""What a store and its views share: where the data is, the connections, the embedded server, the counters.

Also everything of `Store` and `AsyncStore` that does no I/O, so that it is written once.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar

from txstate import durability as levels
from txstate._checks import check_count, check_seconds
from txstate._documents.doc import KEEP, Keep
from txstate._drivers.fork import forget_in_children
from txstate._engine.group import Groups
from txstate._engine.settings import Settings
from txstate._engine.slots import check_namespace
from txstate._running import Running
from txstate._target import PRIVATE, Policy, Private, Target, target_of
from txstate.errors import UsageError
from txstate.retry import Retry, checked

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Hashable

    from txstate._drivers.aio import AsyncDriver
    from txstate._drivers.sync import SyncDriver
    from txstate._effects import Channel, Mailbox
    from txstate.durability import Durability
    from txstate.embedded import EmbeddedServer
    from txstate.events import Event, Stats

D = TypeVar("D", "SyncDriver", "AsyncDriver")

_LONGEST_SPIN: Final = 0.01
"""Seconds. Longer than any server on the same host takes for a batch, and than waking up takes."""


class Core(Generic[D]):
    """The connections of one store, shared by its views.

    Attributes:
        target: what it was opened on.
        max_connections: how many there may be at once.
        spin: seconds for which a thread looks for a reply before it sleeps, at most.
        driver: None until the server is there.
        server: the embedded server, if it has one.
        opening: under asyncio, the start of that server.
        closed: under asyncio, whether the store was closed.
        running: where its transactions' functions run.
    """

    def __init__(self, target: Target, max_connections: int, spin: float) -> None:
        self.target, self.max_connections, self.spin = target, max_connections, spin
        self.driver: D | None = None
        self.server: EmbeddedServer | None = None
        self.opening: asyncio.Future[None] | None = None
        self.closed = False
        self.running = Running()

    def retake(self, signature: Hashable) -> Channel | None:
        """The idle channel that is armed for this signature, if there is one."""
        return None if self.driver is None else self.driver.pool.retake(signature)

    def take_idle(self, signature: Hashable) -> Channel | None:
        """An idle channel for a signature that nobody has asked for lately, if there is one."""
        return None if self.driver is None else self.driver.take_idle(signature)

    @property
    def url(self) -> str:
        """The address that any process can open.

        Raises:
            UsageError: the embedded server was not started yet.
        """
        if self.target.source is not None:
            return self.target.source.url()
        if self.server is not None:
            return self.server.url
        if self.target.url is None:
            raise UsageError(
                "an AsyncStore starts its server at `async with` or the first await: no url before that"
            )
        return self.target.url


class StoreBase(Generic[D]):
    """What both twins do alike."""

    _asynchronous: ClassVar[bool]
    _interruptions: ClassVar[tuple[type[BaseException], ...]]
    _mailbox: ClassVar[type[Mailbox]]

    def __init__(
        self,
        target: str | os.PathLike[str] | Private = PRIVATE,
        *,
        client: Any = None,
        namespace: str = "",
        retry: Retry = Retry(),  # noqa: B008 - immutable
        timeout: float = 5.0,
        max_connections: int = 50,
        durability: Durability | None = None,
        fsync: Policy = "everysec",
        on_event: Callable[[Event], object] | None = None,
        spin: float = 0.0001,
    ) -> None:
        """Open a store. No network I/O happens here, but an embedded server is started by a `Store`.

        Args:
            target: a folder (embedded and durable, shared by all processes that open it) or an address
                (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``, or of a cluster
                ``redis+cluster://host:port,host:port``, or watched by Sentinel
                ``redis+sentinel://host:port,host:port/service/0``, and the like); by default a private embedded server
                that is gone when the store is closed.
            client: a redis-py client whose connection settings are taken over, instead of a target. Its retries are
                not: they would apply a commit twice.
            namespace: prefix of every key, the library's own included.
            retry: how long a transaction is pursued.
            timeout: seconds for one reply of the server, and for connecting.
            max_connections: more transactions than that at once wait, until their deadline.
            durability: what a commit must have reached before its call returns (`Replicas`, `Fsync`); what falls short
                raises `NotDurable`, and is applied all the same. None: the server's memory.
            fsync: of an embedded folder: ``"everysec"`` loses at most a second at a power cut, ``"always"`` nothing. For
                anything else ``"always"`` is refused.
            on_event: called with every event (`txstate.events`), in the thread or task where it happens.
            spin: seconds, up to 0.01, for which a thread looks for a reply before it sleeps; 0: it sleeps at once. It is
                done only where it pays: the server is near, no other thread uses the store, and nobody else has use for
                the processor. An event loop has others to serve, so an `AsyncStore` never does it.

        Raises:
            UsageError: the arguments name nothing that could be opened.
            StoreUnavailable: the embedded server could not be started.
            TypeError: `retry` is not a `txstate.Retry`.
        """
        _check(namespace, timeout, max_connections, on_event, spin)
        opened = target_of(target, client, fsync, asynchronous=self._asynchronous)
        options = {
            "namespace": namespace,
            "retry": checked(retry),
            "timeout": timeout,
            "durability": levels.checked(durability),
            "on_event": on_event,
        }
        self._open(opened, max_connections, spin, options)

    def _open(self, target: Target, max_connections: int, spin: float, options: dict[str, Any]) -> None:
        self._core: Core[D] = Core(target, max_connections, spin)
        groups = Groups(threading.Lock, self._mailbox)
        forget_in_children(groups)
        self._settings = Settings(
            interruptions=self._interruptions,
            clustered=target.clustered,
            groups=groups,
            retake=self._core.retake,
            take_idle=self._core.take_idle,
            **options,
        )
        if target.clustered:
            check_namespace(self._settings.namespace)
        self._is_view = False
        self._start()

    def _start(self) -> None:
        """Begin what must be ready when the constructor returns."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The address that any other process can open.

        Raises:
            UsageError: an `AsyncStore` has not started its embedded server yet.
        """
        return self._core.url

    def options(
        self,
        *,
        retry: Retry | None = None,
        namespace: str | None = None,
        durability: Durability | Keep | None = KEEP,
    ) -> Self:
        """A view on the same connections with other settings. Closing it does nothing.

        Args:
            retry: how long a transaction is pursued; by default as in this store.
            namespace: prefix of every key, in place of this store's.
            durability: what a commit must have reached before its call returns; None: the server's memory; by default as
                in this store.

        Raises:
            TypeError: `retry` is not a `txstate.Retry`.
            UsageError: the namespace is not a str, or the durability is of no known kind.
        """
        changed: dict[str, Any] = {}
        if retry is not None:
            changed["retry"] = checked(retry)
        if namespace is not None:
            _check_namespace(namespace)
            if self._settings.clustered:
                check_namespace(namespace)
            changed["namespace"] = namespace
        if not isinstance(durability, Keep):
            changed["durability"] = levels.checked(durability)
        view = object.__new__(type(self))
        view._core, view._is_view = self._core, True
        view._settings = replace(self._settings, **changed)
        return view

    def stats(self) -> Stats:
        """Counts since the store was opened; its views share them."""
        return self._settings.counters.stats()

    def __repr__(self) -> str:
        target = self._core.target
        if target.embedded:
            where = "private" if target.folder is None else target.folder
        else:
            where = re.sub(r"//[^/@]*@", "//", self._core.url)
            where = re.sub(r"(password=)[^&]*", r"\1***", where)
        return f"<{type(self).__name__} {where} namespace={self._settings.namespace!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the target, not the connections: the other process makes its own."""
        target = self._core.target
        if target.embedded and target.folder is None:
            target = replace(target, url=self._core.url)
        options = {
            name: getattr(self._settings, name)
            for name in ("namespace", "retry", "timeout", "durability", "on_event")
        }
        return _reopened, (type(self), target, self._core.max_connections, self._core.spin, options)


def _reopened(
    kind: type[StoreBase[Any]], target: Target, max_connections: int, spin: float, options: dict[str, Any]
) -> Any:
    """Unpickle a store."""
    store = kind.__new__(kind)
    store._open(target, max_connections, spin, options)  # noqa: SLF001 - the constructor's second half
    return store


def _check_namespace(namespace: object) -> None:
    if not isinstance(namespace, str):
        raise UsageError(f"namespace= takes a str, not {namespace!r}")
    try:
        namespace.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the namespace {namespace!r} can't be encoded as UTF-8: {error.reason}") from error


def _check(
    namespace: object, timeout: object, max_connections: object, on_event: object, spin: object
) -> None:
    """Refuse what could only fail later, far from its cause."""
    _check_namespace(namespace)
    check_seconds("timeout=", timeout)
    check_count("max_connections=", max_connections, 1)
    if on_event is not None and not callable(on_event):
        raise UsageError(f"on_event= takes a function, not {on_event!r}")
    if isinstance(spin, bool) or not isinstance(spin, int | float) or not 0 <= spin <= _LONGEST_SPIN:
        raise UsageError(f"spin= takes seconds, from 0 to {_LONGEST_SPIN}, not {spin!r}")
