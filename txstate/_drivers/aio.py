"""The asyncio driver: one task, one transaction; the pool is shared by all tasks of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from txstate._drivers.fork import forget_in_children
from txstate._drivers.pool import Place, Pool, closed
from txstate._drivers.source import failed
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
    advance,
)
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Hashable, Sequence

    from txstate._drivers.mailbox import AsyncMailbox
    from txstate._drivers.source import Source
    from txstate._effects import Command, Constant, Effect, Patience, Sleep, Steps

    _Waiter = asyncio.Future["AsyncChannel"]

T = TypeVar("T")

_BUFFER: Final = 65536
_INTERRUPTIONS: Final = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""Not every `BaseException`: the engine has one of its own, after which a call goes on in its task as before."""
_abandoned: Final[list[object]] = []
"""What a forked child inherited of the parent's event loop. Kept, because finalizers would talk to the peer."""


class AsyncChannel(Place):
    """One place in the pool, and its stream."""

    def __init__(self, driver: AsyncDriver) -> None:
        super().__init__()
        self._driver = driver
        self._connection: Any = None
        self._reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self._replies = Replies()
        self._abandoned = False

    @property
    def connected(self) -> bool:
        """Whether there is a stream."""
        return self.writer is not None

    async def connect(self, source: Source, timeout: float) -> None:
        """Connect and authenticate, by redis-py; from then on the stream is ours."""
        connection = source.connection(timeout)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelled = task.cancelling()
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()
                if task.cancelling() > cancelled:
                    # redis-py awaits by wait_for, which in Python 3.11 may swallow a cancellation (gh-86296).
                    raise asyncio.CancelledError
        except BaseException as error:
            connection._close()  # noqa: SLF001 - its public disconnect() waits, and clean-up must not
            if isinstance(error, Exception):
                raise failed(error) from error
            raise
        if self._abandoned:
            connection._close()  # noqa: SLF001 - as above
            raise Unreachable("the attempt that connected has ended")
        self._replies, self.session = Replies(), None
        self._connection, self.peer = connection, source.peer(connection)
        self._reader, self.writer = connection._reader, connection._writer  # noqa: SLF001 - shown nowhere else

    async def exchange(
        self, commands: Sequence[Command], timeout: float, tail: Constant = NOTHING, patience: Patience = ()
    ) -> list[object]:
        """Send a batch and read its replies. See `Send`."""
        replies: list[object] = []
        # Bound here: a read that its attempt left behind must not meet the next connection of this place.
        reader, writer, incoming = self._reader, self.writer, self._replies
        if reader is None or writer is None or writer.is_closing():
            raise Lost(replies, sent=False, cause=ConnectionError("there is no connection"))
        sent, received, complete = False, 0, False
        wanted = len(commands) + len(tail)
        # Not `asyncio.timeout`, which costs several times as much: who is late is dropped anyway, its stream included.
        limit = asyncio.get_running_loop().call_later(timeout, _end, reader)
        try:
            data, more = pack(commands, tail)
            sent = True
            writer.write(data)
            if more:
                async with asyncio.timeout(timeout):
                    for piece in more:
                        await _write_slowly(writer, piece)
            for due, seconds in enumerate(patience, 1):
                while len(replies) < due:
                    chunk = await _comes_in_time(reader, seconds)
                    if not chunk:
                        writer.write(NUDGE)
                        wanted += 1
                        chunk = await reader.read(_BUFFER)
                    received += len(chunk)
                    complete = incoming.take(_checked(chunk), len(chunk), replies, wanted)
            while not complete:
                chunk = _checked(await reader.read(_BUFFER))
                received += len(chunk)
                complete = incoming.take(chunk, len(chunk), replies, wanted)
            del replies[len(commands) + len(tail) :]
            if received >= LARGE:
                incoming.shrink()
        except BaseException as error:
            raise Lost(replies, sent=sent, cause=error) from error
        finally:
            limit.cancel()
        return replies

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for."""
        reader, writer = self._reader, self.writer
        return reader is not None and writer is not None and not writer.is_closing() and not reader.at_eof()

    def drop(self) -> None:
        """Close the stream, without waiting."""
        self.session = self._reader = self.writer = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection._close()  # noqa: SLF001 - its public disconnect() waits, and clean-up must not

    def send_off(self, data: bytes) -> None:
        """Send, without waiting for anything. See `Place`."""
        if self.writer is not None:
            self.writer.write(data)

    def release(self) -> None:
        """Give the place back, or hand it to who has waited longest."""
        waiter = self._driver.pool.give(self)
        if waiter is not None:
            waiter.set_result(self)

    def abandon(self) -> None:
        """Give the place back with another channel in it."""
        self._abandoned = True
        self.drop()
        self._driver.pool.replace(self).release()

    def forget(self) -> None:
        """Let go in a forked child; closing would reach the parent's event loop."""
        _abandoned.append((self._connection, self._reader, self.writer))
        self.let_go()

    def let_go(self) -> None:
        """Leave the stream to the garbage collector: its event loop is closed, and can't close it any more."""
        self.session = self._connection = self._reader = self.writer = None


class AsyncDriver:
    """Performs effects under asyncio.

    Args:
        source: where connections come from.
        max_connections: how many there may be at once.

    Attributes:
        pool: the connections.
    """

    def __init__(self, source: Source, max_connections: int) -> None:
        self._source, self._limit = source, max_connections
        self.pool = self._new_pool()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settling: set[asyncio.Task[Any]] = set()
        self._peer: object = None
        forget_in_children(self)

    def take_idle(self, signature: Hashable) -> AsyncChannel | None:
        """See `Pool.take_idle`."""
        return self.pool.take_idle(signature)

    async def run(self, steps: Steps[T]) -> T:
        """Run a generator of the engine to its end. Whatever fails enters it by `throw`.

        If it goes on after an interruption, it resolves a commit in doubt: that is shielded from further
        cancellation, and bounded by the engine.
        """
        self._bind()
        try:
            steps, effect = advance(steps, None, None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        return cast("T", await self._drive(steps, effect, shield=True))

    async def _drive(self, steps: Steps[T], effect: Effect, *, shield: bool) -> Any:
        argument: Any
        interrupted = False
        while True:
            try:
                try:
                    if isinstance(effect, Send):  # here, as most of them are, and a coroutine costs
                        channel, commands, timeout, tail, patience = effect
                        argument = await cast("AsyncChannel", channel).exchange(
                            commands, timeout, tail, patience
                        )
                    else:
                        argument = await self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the engine decides about every one of them
                    interrupted = shield and _interrupts(error)
                    effect = steps.throw(error)
                else:
                    effect = steps.send(argument)
            except StopIteration as stop:
                if not isinstance(stop.value, Onward):
                    return stop.value
                steps, effect = stop.value
            if interrupted:
                return await self._shielded(self._drive(steps, effect, shield=False))

    async def _shielded(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the work come to its end, whatever is cancelled meanwhile."""
        task = asyncio.ensure_future(_outcome(work))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        result, error = task.result()
        if error is not None:
            raise error
        return result

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise UsageError(
                "an AsyncStore belongs to the event loop that used it first, and is closed there; open one for each loop"
            )

    async def _perform(self, effect: Acquire | Connect | Call | Sleep | Park) -> Any:
        if isinstance(effect, Call):
            result = effect.function(*effect.args)
            return await result if inspect.isawaitable(result) else result
        if isinstance(effect, Acquire):
            return await self._acquire(effect)
        if isinstance(effect, Connect):
            return await self._connect(cast("AsyncChannel", effect.channel), effect.timeout)
        if isinstance(effect, Park):
            return await cast("AsyncMailbox", effect.mailbox).wait(effect.timeout)
        return await asyncio.sleep(effect.seconds)

    async def _connect(self, channel: AsyncChannel, timeout: float) -> None:
        try:
            await channel.connect(self._source, timeout)
        except Unreachable:
            if self._source.revive is None:
                raise
            await asyncio.to_thread(self._source.revive, timeout)
            await channel.connect(self._source, timeout)
        if channel.peer != self._peer:
            self._peer = channel.peer
            self.pool.drop_others(channel.peer)

    async def _acquire(self, wanted: Acquire) -> AsyncChannel:
        channel = self.pool.take(wanted.signature, wanted.slot)
        if channel is not None:
            return channel
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self.pool.wait(waiter, first=wanted.first)
        try:
            async with asyncio.timeout(max(0.0, wanted.timeout)):
                channel = await asyncio.shield(waiter)
        except BaseException as error:
            if not self.pool.leave(waiter) and waiter.done() and waiter.exception() is None:
                waiter.result().release()
            if isinstance(error, TimeoutError):
                raise Exhausted(f"no connection was free within {wanted.timeout:.2f} s") from None
            raise
        self.pool.note(channel, wanted.signature)
        return channel

    def _new_pool(self) -> Pool[AsyncChannel, _Waiter]:
        return Pool(self._limit, lambda: AsyncChannel(self))

    def close(self) -> None:
        """Close all connections; those in use when they are given back."""
        for waiter in self.pool.close():
            waiter.set_exception(closed())

    async def aclose(self) -> None:
        """Close, and wait until commits that were cancelled are resolved and the streams are closed.

        Raises:
            UsageError: another event loop runs it, which can't close them.
        """
        if self._loop is not None and self._loop.is_closed():
            for channel in self.pool.all():
                channel.let_go()
            self._loop, self._settling = None, set()
        self._bind()
        if self._settling:
            await asyncio.wait(list(self._settling))
        writers = [channel.writer for channel in self.pool.all() if channel.writer is not None]
        self.close()
        for writer in writers:
            if writer.is_closing():
                with contextlib.suppress(OSError):  # the peer may be gone already: closed is closed
                    await writer.wait_closed()

    def forget(self) -> None:
        """Start anew in a forked child."""
        for channel in self.pool.all():
            channel.forget()
        was_closed = self.pool.closed
        self.pool = self._new_pool()
        self.pool.closed = was_closed
        self._loop, self._settling = None, set()


def _end(reader: asyncio.StreamReader) -> None:
    """Whoever waits for more than has come waits in vain."""
    reader.set_exception(TimeoutError("no complete reply in time"))


def _checked(chunk: bytes) -> bytes:
    """What was received.

    Raises:
        ConnectionError: the end of the stream.
    """
    if not chunk:
        raise ConnectionError(CLOSED)
    return chunk


async def _comes_in_time(reader: asyncio.StreamReader, patience: float) -> bytes:
    """What is received before the time of a command that blocks is up; empty: nothing, or the end of the stream."""
    try:
        async with asyncio.timeout(patience + LATE):
            return await reader.read(_BUFFER)
    except TimeoutError:
        return b""


async def _write_slowly(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Write no more than the transport soon sends: it copies what it can't send at once."""
    view = memoryview(piece)
    for start in range(0, len(view), _BUFFER):
        writer.write(view[start : start + _BUFFER])
        await writer.drain()


async def _outcome(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """The result or the error as a value: a task that raises CancelledError would lose its cause."""
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001 - handed on, to be raised where it is awaited
        return None, error


def _interrupts(error: BaseException) -> bool:
    """Whether an error is an interruption, or a batch that was cut short by one."""
    return isinstance(error.interruption if isinstance(error, Lost) else error, _INTERRUPTIONS)
