"""What every peer offers: open, change, read, close; and how its data is put there and looked at afterwards.

Knows no library. The load calls `change` and `read`; the runner calls `seed` and `counters`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

from txstate import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.workloads import Cell, Document, Op


SPIN: Final[float] = inspect.signature(Store).parameters["spin"].default
"""Seconds for which a txstate thread looks for a reply before it sleeps, by default."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer finds its data.

    Attributes:
        transport: ``"tcp"``, ``"unix"`` or ``"file"``.
        address: a Redis URL, a PostgreSQL connection string, ``host:port`` or a path, as the kind of server wants it.
    """

    transport: str
    address: str


class Named(ABC):
    """What is told about a peer, and its data.

    Attributes:
        title: for tables.
        form: how it is used, and where that is documented.
        server: what it runs on: ``"redis"``, ``"postgres"``, ``"zeo"`` or ``"file"``.
        module: what must be importable.
        thinks: whether Python can run between its read and its write.
        checked: whether it changes documents at all.
        holds: documents that its caller holds while it changes one: those are not the library's.
        attempts: how often a change was tried.
    """

    title: ClassVar[str]
    form: ClassVar[str]
    server: ClassVar[str] = "redis"
    module: ClassVar[str]
    thinks: ClassVar[bool] = True
    checked: ClassVar[bool] = True
    holds: ClassVar[int] = 0

    def __init__(self, place: Place) -> None:
        self.place = place
        self.attempts = 0

    @classmethod
    @abstractmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """Make these all the documents that there are."""

    @classmethod
    @abstractmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
        """The numbers in these cells."""


class Peer(Named):
    """One process's worth of a peer, for one thread. A context manager that disconnects."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def change(self, op: Op) -> None:
        """Read, think, and add; when it returns, the change is acknowledged."""

    @abstractmethod
    def read(self, op: Op) -> None:
        """Read the documents, all from the same moment."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""


class AsyncPeer(Named):
    """The same under asyncio, for any number of tasks."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @abstractmethod
    async def change(self, op: Op) -> None:
        """Read, think, and add; when it returns, the change is acknowledged."""

    @abstractmethod
    async def read(self, op: Op) -> None:
        """Read the documents, all from the same moment."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect."""
