"""The bookkeeping of a connection pool: places, who holds one, and who waits. No locks, no waiting, no sockets.

A place that is given back goes to whoever has waited longest, so that nobody starves; idle places are used last in,
first out, so that what is not needed stays idle.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakSet

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


class Place(Protocol):
    """What the pool knows of a channel."""

    origin: object
    """The pool that made it: a forked child has another one."""

    @property
    def connected(self) -> bool:
        """Whether there is a socket."""

    def drop(self) -> None:
        """Close its socket."""


C = TypeVar("C", bound=Place)
W = TypeVar("W")


def closed() -> UsageError:
    """The error for using a store after its end."""
    return UsageError("the store is closed; nothing was applied")


class Pool(Generic[C, W]):
    """At most `limit` channels.

    Args:
        limit: how many there may be.
        make: makes a channel, not connected yet.
    """

    def __init__(self, limit: int, make: Callable[[], C]) -> None:
        self._limit, self._make = limit, make
        self._idle: list[C] = []
        self._waiting: deque[W] = deque()
        # Weak, so that a place which an interruption dropped on its way is free again once nobody holds it.
        self._made: WeakSet[C] = WeakSet()
        self.closed = False

    def take(self) -> C | None:
        """A channel; None: all are held, so wait.

        Raises:
            UsageError: the pool is closed.
        """
        if self.closed:
            raise closed()
        if self._idle:
            return self._idle.pop()
        if len(self._made) < self._limit:
            channel = self._create()
            self._made.add(channel)
            return channel
        return None

    def wait(self, waiter: W) -> None:
        """Stand in line."""
        self._waiting.append(waiter)

    def leave(self, waiter: W) -> bool:
        """Leave the line; whether one still stood in it."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            return False
        return True

    def give(self, channel: C) -> W | None:
        """Give a channel back; returns who gets it, if somebody waits."""
        if self.closed or channel.origin is not self:
            channel.drop()
            return None
        if self._waiting:
            return self._waiting.popleft()
        self._idle.insert(len(self._idle) if channel.connected else 0, channel)
        return None

    def replace(self, channel: C) -> C:
        """A new channel in the place of one that can't be used again."""
        fresh = self._create()
        if channel.origin is self:
            self._made.discard(channel)
            self._made.add(fresh)
        else:
            fresh.origin = None
        return fresh

    def close(self) -> list[W]:
        """Close what is idle, and later what is given back; returns who waits in vain."""
        self.closed = True
        for channel in self._idle:
            channel.drop()
        waiting, self._waiting = list(self._waiting), deque()
        self._idle = []
        return waiting

    def all(self) -> list[C]:
        """Every channel made, held or not."""
        return list(self._made)

    def _create(self) -> C:
        channel = self._make()
        channel.origin = self
        return channel
