"""The bookkeeping of a connection pool: places, who holds one, and who waits. No locks, no waiting, no sockets.

A place that is given back goes to whoever has waited longest, so that nobody starves. Before them go those who want to
find out what became of a commit: the others only wait, and these are in doubt when their time is over. Idle places are
used last in, first out, so that what is not needed stays idle.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from weakref import WeakSet

from txstate._drivers.wire import pack
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from txstate._engine.session import Session

_ARMED: Final = 8
"""How many channels are kept armed, at most: each holds the documents that it watches."""

_RECENT: Final = 64
"""How many signatures are remembered: a transaction whose signature is among them is worth arming for."""


class Place:
    """What the pool knows of a channel.

    Attributes:
        session: the engine's notes on its socket.
        hot: whether the signature that it was taken for has been asked for lately.
        origin: the pool that made it: a forked child has another one.
        peer: what it is, or was last, connected to, where that can change.
        node: of a cluster, that it is, or was last, connected to; None: there is no cluster.
    """

    node: Hashable = None

    def __init__(self) -> None:
        self.session: Session | None = None
        self.hot = False
        self.origin: object = None
        self.peer: object = None

    @property
    def connected(self) -> bool:
        """Whether there is a socket."""
        raise NotImplementedError

    def serves(self, slot: int | None) -> bool:  # noqa: ARG002 - one server has them all
        """Whether what it is connected to owns a slot, as far as is known."""
        return True

    def drop(self) -> None:
        """Close its socket."""
        raise NotImplementedError

    def leave(self) -> None:
        """Close its socket for good, and tell those who wait for a turn that was kept for the next call here."""
        farewell = () if self.session is None else self.session.farewell()
        if farewell:
            with contextlib.suppress(OSError, RuntimeError):  # then it ends by itself
                self.send_off(pack(farewell)[0])
        self.drop()

    def send_off(self, data: bytes) -> None:
        """Send, without waiting for anything.

        Raises:
            OSError, RuntimeError: it can't be sent, or not without waiting.
        """
        raise NotImplementedError

    @property
    def armed(self) -> Hashable:
        """The signature that it is armed for; None: it isn't."""
        armed = None if self.session is None else self.session.armed
        return None if armed is None else armed.signature

    def disarm(self) -> None:
        """Forget what it is armed with: who takes it next will not find its watches in place."""
        if self.session is not None:
            self.session.armed = None


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
        self._armed: OrderedDict[Hashable, C] = OrderedDict()
        self._recent: OrderedDict[Hashable, None] = OrderedDict()
        self._waiting: deque[W] = deque()
        # Weak, so that a place which an interruption dropped on its way is free again once nobody holds it.
        self._made: WeakSet[C] = WeakSet()
        self.closed = False

    def take(self, signature: Hashable = None, slot: int | None = None) -> C | None:
        """A channel, best the one armed for this signature; None: all are held, so wait.

        Args:
            signature: what it is to be armed for.
            slot: what it will be used for; one node serves all slots here.

        Raises:
            UsageError: the pool is closed.
        """
        if self.closed:
            raise closed()
        channel = self.retake(signature)
        if channel is None:
            channel = self._unarmed(slot)
            if channel is not None:
                self.note(channel, signature)
        return channel

    def retake(self, signature: Hashable) -> C | None:
        """The idle channel that is armed for this signature, if there is one.

        Other threads call it at any time, without a lock. So whoever takes a channel out of `_armed` does it in one step,
        and has it only if it was still there.
        """
        channel = self._armed.pop(signature, None)
        if channel is not None:
            channel.hot = True  # or it would not have been armed
        return channel

    def take_idle(self, signature: Hashable) -> C | None:
        """An idle channel for a signature that nobody has asked for lately; None: there is none, or who waits comes first."""
        if self.closed or self._waiting or not self._idle or signature in self._recent:
            return None
        if self._idle[-1].session is None:
            return None  # it would have to connect
        channel = self._idle.pop()
        self.note(channel, signature)
        return channel

    def note(self, channel: C, signature: Hashable) -> None:
        """Remember what a channel is taken for, and tell it whether that is asked for again and again."""
        session = channel.session
        if session is not None and session.armed is not None and session.armed.signature != signature:
            session.armed = None
        if signature is None:
            channel.hot = False
            return
        channel.hot = signature in self._recent
        if channel.hot:
            self._recent.move_to_end(signature)
        else:
            self._recent[signature] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    def _unarmed(self, slot: int | None) -> C | None:
        channel = self._fitting(slot)
        if channel is not None:
            return channel
        # Counted one by one: the length of a WeakSet counts what an interrupted finalizer left in it.
        if sum(1 for _ in self._made) < self._limit:
            channel = self._create()
            self._made.add(channel)
            return channel
        if self._idle:
            return self._idle.pop(0)
        return self._longest_armed()

    def _longest_armed(self) -> C | None:
        """Take out what was armed longest ago, if any is."""
        try:
            return self._armed.popitem(last=False)[1]
        except KeyError:
            return None

    def _fitting(self, slot: int | None) -> C | None:  # noqa: ARG002 - here all places go to one server
        """An idle channel that need not be connected to another node, if there is one."""
        return self._idle.pop() if self._idle else None

    def wait(self, waiter: W, *, first: bool = False) -> None:
        """Stand in line, at its end or at its head."""
        (self._waiting.appendleft if first else self._waiting.append)(waiter)

    def leave(self, waiter: W) -> bool:
        """Leave the line; whether one still stood in it."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            return False
        return True

    def give(self, channel: C) -> W | None:
        """Give a channel back; returns who gets it, if somebody waits."""
        session = channel.session
        if self._waiting or self.closed or channel.origin is not self:
            return self._give_otherwise(channel)
        if session is None or session.armed is None:
            self._shelve(channel)
            return None
        armed, signature = self._armed, session.armed.signature
        former = armed.pop(signature, None)
        armed[signature] = channel
        if former is None and len(armed) > _ARMED:
            former = self._longest_armed()
        if former is not None:
            former.disarm()
            self._shelve(former)
        return None

    def _give_otherwise(self, channel: C) -> W | None:
        if channel.origin is not self:
            channel.drop()
            return None
        if self.closed:
            channel.leave()
            return None
        return self._waiting.popleft()

    def drop_others(self, peer: object) -> None:
        """Close what is idle and connected to anything else: it was demoted, or is gone."""
        for channel in self._idle:
            if channel.peer != peer:
                channel.drop()
        for signature, channel in list(self._armed.items()):
            if channel.peer != peer and self._armed.pop(signature, None) is not None:
                channel.drop()  # with its socket goes what it is armed with
                self._shelve(channel)

    def replace(self, channel: C) -> C:
        """A new channel in the place of one that can't be used again."""
        fresh = self._create()
        if channel.origin is self:
            self._made.discard(channel)
            self._made.add(fresh)
        else:
            fresh.origin = None
        return fresh

    def _shelve(self, channel: C) -> None:
        self._idle.insert(len(self._idle) if channel.connected else 0, channel)

    def close(self) -> list[W]:
        """Close what is idle, and later what is given back; returns who waits in vain."""
        self.closed = True
        for channel in self._idle:
            channel.drop()
        while (armed := self._longest_armed()) is not None:
            armed.leave()
        waiting, self._waiting = list(self._waiting), deque()
        self._idle = []
        return waiting

    @property
    def in_use(self) -> int:
        """How many channels are held; without a lock, so about."""
        return len(self._made) - len(self._idle) - len(self._armed)

    def all(self) -> list[C]:
        """Every channel made, held or not."""
        return list(self._made)

    def _create(self) -> C:
        channel = self._make()
        channel.origin = self
        return channel
