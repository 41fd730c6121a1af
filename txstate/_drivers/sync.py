"""The blocking driver: one thread, one transaction; the pool is shared by all threads."""

from __future__ import annotations

import gc
import math
import os
import queue
import select
import ssl
import threading
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from txstate._drivers.fork import forget_in_children
from txstate._drivers.pool import Place, Pool, closed
from txstate._drivers.source import failed
from txstate._drivers.spin import Spin
from txstate._drivers.wire import CLOSED, LATE, NUDGE, Replies, pack
from txstate._effects import (
    LARGE,
    NOTHING,
    Acquire,
    Call,
    Connect,
    Exhausted,
    Lost,
    Onward,
    Park,
    Send,
    Unreachable,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Hashable, Iterable, Sequence
    from types import GeneratorType

    from txstate._drivers.mailbox import SyncMailbox
    from txstate._drivers.source import Source
    from txstate._effects import Command, Constant, Patience, Sleep, Steps
    from txstate.errors import UsageError

    _Waiter: TypeAlias = queue.SimpleQueue["SyncChannel | UsageError"]

T = TypeVar("T")

_SOON: Final = 0.2
"""Seconds to wait for a place before looking for lost ones."""

_SHARE: Final = 0.01
"""Of the time, at most, that looking for them may take: it stops all threads, for as long as the program has objects."""

_ABOUT: Final = 0.98
"""How much shorter than the last one a timeout may be and still not be set: it is a system call."""


_LEAST: Final = 0.001
"""Seconds that a timeout lasts at least: 0 would mean not to wait."""


class SyncChannel(Place):
    """One place in the pool, and its socket."""

    def __init__(self, driver: SyncDriver) -> None:
        super().__init__()
        self._driver = driver
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._replies = Replies()
        self._arrivals = select.poll()
        self._spin = Spin(driver.spin, driver.alone)
        self._timeout = 0.0
        self._tls = self._abandoned = False

    @property
    def connected(self) -> bool:
        """Whether there is a socket."""
        return self._socket is not None

    def connect(self, source: Source, timeout: float) -> None:
        """Connect and authenticate, by redis-py; from then on the socket is ours."""
        connection = source.connection(timeout)
        try:
            connection.connect()
        except Exception as error:
            raise failed(error) from error
        except BaseException:
            connection.disconnect()
            raise
        if self._abandoned:
            connection.disconnect()
            raise Unreachable("the attempt that connected has ended")
        # The socket comes last: with it the channel counts as connected, and an interruption may strike in between.
        self._replies, self._timeout, self.session = Replies(), 0.0, None
        self._connection, self.peer = connection, source.peer(connection)
        sock = connection._sock  # noqa: SLF001 - redis-py shows it nowhere else
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._socket = sock

    def exchange(
        self, commands: Sequence[Command], timeout: float, tail: Constant = NOTHING, patience: Patience = ()
    ) -> list[object]:
        """Send a batch and read its replies. See `Send`."""
        replies: list[object] = []
        # Bound here: a read that its attempt left behind must not meet the next connection of this place.
        sock, incoming = self._socket, self._replies
        if sock is None:
            raise Lost(replies, sent=False, cause=ConnectionError("there is no connection"))
        sent = self._tls  # it may have sent a part before it fails
        try:
            if not _ABOUT * self._timeout <= timeout <= self._timeout:
                sock.settimeout(timeout)
                self._timeout = timeout
            data, more = pack(commands, tail)
            length = sock.send(data)
            sent = True
            if length < len(data) or more:
                _send_rest(sock, memoryview(data)[length:], more)
            until = time.monotonic() + timeout
            wanted = len(commands) + len(tail)
            if patience:
                return self._wait_in_turn(sock, patience, wanted, replies, until)
            if self._spin.rest:
                self._spin.rest -= 1
            elif not tail.wakes:
                self._spin.look(self._arrivals.poll)
            length = sock.recv_into(incoming.buffer)
            replies = incoming.first(length, wanted)
            if len(replies) < wanted:
                _receive_rest(sock, incoming, replies, wanted, length=length, due=wanted, until=until)
        except Exception as error:
            raise Lost(replies, sent=sent, cause=error) from error
        except BaseException as interruption:
            raise Lost(replies, sent=True, cause=interruption) from interruption
        return replies

    def _wait_in_turn(
        self, sock: socket.socket, patience: Patience, wanted: int, replies: list[object], until: float
    ) -> list[object]:
        """Read the replies to a batch whose first commands block; tell the server when the time of one is up."""
        incoming, expected = self._replies, wanted
        for due, seconds in enumerate(patience, 1):
            if len(replies) < due:
                if not self._arrivals.poll(1000 * min(seconds + LATE, self._timeout)):
                    sock.sendall(NUDGE)
                    expected += 1
                    # The reply has what is left of the time, and not all of it once more.
                    self._timeout = max(until - time.monotonic(), _LEAST)
                    sock.settimeout(self._timeout)
                _receive_rest(sock, incoming, replies, expected, due=due, until=until)
        if len(replies) < expected:
            _receive_rest(sock, incoming, replies, expected, due=expected, until=until)
        del replies[wanted:]
        self._spin.awoke()
        return replies

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for."""
        return self._socket is not None and not self._arrivals.poll(0)

    def drop(self) -> None:
        """Close the socket."""
        self.session, self._socket = None, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def send_off(self, data: bytes) -> None:
        """Send, without waiting for anything. See `Place`."""
        if self._socket is not None:
            self._socket.setblocking(False)
            self._socket.send(data)

    def release(self) -> None:
        """Give the place back, or hand it to who has waited longest."""
        driver = self._driver
        with driver.lock:
            waiter = driver.pool.give(self)
        if waiter is not None:
            waiter.put(self)

    def abandon(self) -> None:
        """Give the place back with another channel in it."""
        self._abandoned = True
        self.drop()
        driver = self._driver
        with driver.lock:
            fresh = driver.pool.replace(self)
        fresh.release()

    def forget(self) -> None:
        """Close this process's copy of the socket; a shutdown would reach the parent's as well."""
        sock, self._socket, self.session = self._socket, None, None
        if sock is not None:
            # Before the connection object goes: its finalizer would find the socket open, and close it by its rules.
            os.close(sock.detach())
        self._connection = None


class SyncDriver:
    """Performs effects over blocking sockets.

    Args:
        source: where connections come from.
        max_connections: how many there may be at once.
        spin: seconds for which a thread looks for a reply before it sleeps, at most.

    Attributes:
        spin: the same.
        pool: the connections.
        lock: held while it is changed.
    """

    def __init__(self, source: Source, max_connections: int, spin: float = 0.0) -> None:
        self._source, self._limit, self.spin = source, max_connections, spin
        self.lock = threading.Lock()
        self.pool = self._new_pool()
        self._peer: object = None
        self._look_after = math.inf
        forget_in_children(self)

    def alone(self) -> bool:
        """Whether one connection is in use, at most."""
        return self.pool.in_use <= 1

    def take_idle(self, signature: Hashable) -> SyncChannel | None:
        """See `Pool.take_idle`."""
        with self.lock:
            return self.pool.take_idle(signature)

    def run(self, steps: Steps[T]) -> T:
        """Run a generator of the engine to its end. Whatever fails enters it by `throw`."""
        now: list[GeneratorType[Any, Any, T]] = [steps]  # type: ignore[list-item]  # it is one
        try:
            return self._run(now, None)
        except BaseException as raised:
            if not isinstance(raised, Exception):
                self._look_after = 0.0
            if now[0].gi_frame is None:
                raise
            # A KeyboardInterrupt hit the loop just when it went around: the engine has yet to hear of it.
            return self._run(now, raised)

    def _run(self, now: list[GeneratorType[Any, Any, T]], error: BaseException | None) -> T:
        generator, first = now[0], None
        effect: Any
        while True:
            try:
                if first is not None:
                    effect, first = first, None
                else:
                    effect = generator.send(None) if error is None else generator.throw(error)
                    error = None
                # A loop of its own, so that an interruption which hits its end is inside of the `try` as well.
                while True:
                    if type(effect) is Send:  # here, as most of them are one of these, and a call costs
                        channel, commands, timeout, tail, patience = effect
                        argument = channel.exchange(commands, timeout, tail, patience)  # type: ignore[attr-defined]  # one of ours
                    else:
                        argument = self._perform(effect)
                    effect = generator.send(argument)
            except StopIteration as stop:
                if generator.gi_frame is not None:
                    error = stop
                elif stop.value.__class__ is Onward:  # no call, as below
                    generator, first = stop.value  # type: ignore[assignment]  # as above
                    now[0] = generator
                else:
                    result: T = stop.value
                    return result
            except BaseException as raised:
                # Looked up, not called: a call would be one more moment for an interruption, and here it would get lost.
                if generator.gi_frame is None:
                    error = None
                    raise
                # The generator waits: the effect failed, or a KeyboardInterrupt hit this very loop. Either is told.
                error = raised

    def _perform(self, effect: Acquire | Connect | Call | Sleep | Park) -> Any:
        if isinstance(effect, Call):
            function, args = effect
            return function(*args)
        if isinstance(effect, Acquire):
            return self._acquire(effect)
        if isinstance(effect, Connect):
            return self._connect(cast("SyncChannel", effect.channel), effect.timeout)
        if isinstance(effect, Park):
            return cast("SyncMailbox", effect.mailbox).wait(effect.timeout)
        return time.sleep(effect.seconds)

    def _connect(self, channel: SyncChannel, timeout: float) -> None:
        try:
            channel.connect(self._source, timeout)
        except Unreachable:
            if self._source.revive is None:
                raise
            self._source.revive(timeout)
            channel.connect(self._source, timeout)
        if channel.peer != self._peer:
            self._peer = channel.peer
            with self.lock:
                self.pool.drop_others(channel.peer)

    def _acquire(self, wanted: Acquire) -> SyncChannel:
        with self.lock:
            channel = self.pool.take(wanted.signature, wanted.slot)
            if channel is not None:
                return channel
            waiter: _Waiter = queue.SimpleQueue()
            self.pool.wait(waiter, first=wanted.first)
        until = time.monotonic() + wanted.timeout
        try:
            try:
                got = waiter.get(timeout=max(0.0, min(wanted.timeout, _SOON)))
            except queue.Empty:
                self._look_for_lost()
                with self.lock:
                    channel = self.pool.take(wanted.signature, wanted.slot)
                    waited = channel is not None and self.pool.leave(waiter)
                if channel is not None:
                    if waited:
                        return channel
                    channel.release()
                got = waiter.get(timeout=max(0.0, until - time.monotonic()))
        except BaseException as error:
            with self.lock:
                waited = self.pool.leave(waiter)
            if not waited:
                self._pass_on(waiter.get())
            if isinstance(error, queue.Empty):
                raise Exhausted(f"no connection was free within {wanted.timeout:.2f} s") from None
            raise
        if not isinstance(got, SyncChannel):
            raise got
        with self.lock:
            self.pool.note(got, wanted.signature)
        return got

    def _look_for_lost(self) -> None:
        """A place that a KeyboardInterrupt dropped may hang in a reference cycle, with the frames of its traceback."""
        began = time.monotonic()
        if began < self._look_after:
            return
        self._look_after = math.inf  # for the others that wait
        gc.collect()
        ended = time.monotonic()
        self._look_after = ended + (ended - began) / _SHARE

    def _pass_on(self, got: SyncChannel | UsageError) -> None:
        """What arrived in the moment in which its receiver gave up."""
        if isinstance(got, SyncChannel):
            got.release()

    def _new_pool(self) -> Pool[SyncChannel, _Waiter]:
        return Pool(self._limit, lambda: SyncChannel(self))

    def close(self) -> None:
        """Close all connections; those in use when they are given back."""
        with self.lock:
            waiting = self.pool.close()
        for waiter in waiting:
            waiter.put(closed())

    def forget(self) -> None:
        """Start anew in a forked child."""
        for channel in self.pool.all():
            channel.forget()
        was_closed = self.pool.closed
        self.lock = threading.Lock()
        self.pool = self._new_pool()
        self.pool.closed = was_closed


def _send_rest(sock: socket.socket, data: memoryview, more: Iterable[bytes]) -> None:
    """A large batch does not fit into the socket's buffer at once; each part may take as long as the reply."""
    pieces: Iterable[bytes | memoryview] = chain((data,), more)
    for piece in pieces:
        left = memoryview(piece)
        while left:
            left = left[sock.send(left) :]


def _receive_rest(
    sock: socket.socket,
    incoming: Replies,
    replies: list[object],
    wanted: int,
    *,
    length: int = 1,
    due: int,
    until: float,
) -> None:
    """Read until so many replies are there that are due now, of all that are wanted: a large one takes several turns."""
    received = 0
    while length:
        if time.monotonic() > until:
            raise TimeoutError("no complete reply in time")
        length = sock.recv_into(incoming.buffer)
        received += length
        if incoming.take(incoming.buffer, length, replies, wanted) or len(replies) >= due:
            break
    else:
        raise ConnectionError(CLOSED)
    if received >= LARGE:
        incoming.shrink()
