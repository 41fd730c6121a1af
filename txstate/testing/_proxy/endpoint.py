"""One end of a proxied connection: a socket whose output is ordered, delayable and ended on purpose.

Knows sockets and time, not what the bytes mean. All methods are for the loop's thread only.
"""

from __future__ import annotations

import collections
import enum
import os
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate.testing._proxy.loop import Loop

_RECEIVE: Final = 65536
_LINGER: Final = 1.0  # seconds that an ended socket goes on reading, see `Endpoint.end`


class Cut(enum.Enum):
    """How a connection ends, as its peer sees it."""

    FIN = "fin"
    """Closed in order: the peer reads the end of the stream."""
    RST = "rst"
    """Reset: the peer's next call fails, and may overtake bytes that it has not read yet. A unix socket knows no
    reset, so it is closed as by FIN."""
    SILENCE = "silence"
    """Nothing more comes or is taken, and nobody is told: a dead network. Only a timeout ends it."""


class Gate:
    """Holds back what is queued behind it until it is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.waiting: set[Endpoint] = set()

    def open(self) -> None:
        """Let everything through, from now on."""
        self.is_open = True
        for endpoint in self.waiting:
            endpoint.flush()
        self.waiting.clear()


class Listener(Protocol):
    """Who is told what an endpoint meets."""

    def received(self, endpoint: Endpoint, data: bytes) -> None:
        """Bytes arrived."""

    def ended(self, endpoint: Endpoint, error: OSError | None) -> None:
        """The peer sends nothing more; with an error, takes nothing more either."""

    def closed(self, endpoint: Endpoint) -> None:
        """The socket is gone. Told once."""


class Endpoint:
    """A non-blocking socket, connected or just connecting, of which it takes ownership.

    Args:
        loop: whose thread runs it.
        sock: the socket.
        listener: who is told.
        connecting: the socket's `connect` is still under way.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, listener: Listener, *, connecting: bool = False
    ) -> None:
        self._loop, self._sock, self._listener = loop, sock, listener
        self.is_connecting = connecting
        self._queue: collections.deque[tuple[float, Gate | None, bytes | Callable[[], None]]] = (
            collections.deque()
        )
        self._timer = 0.0  # when `flush` will be called for the head of the queue, if that is to come
        self._out = bytearray()
        self._last: Callable[[], None] | None = None  # how it ends once `_out` is empty
        self._events = 0
        self._input_ended = self._output_ended = self.is_closed = False
        loop.sockets.add(sock)
        self._watch()

    def send(self, data: bytes, *, due: float = 0.0, gate: Gate | None = None) -> None:
        """Queue bytes behind all earlier ones; `flush` sends what may go.

        Args:
            data: the bytes.
            due: not before this moment of `time.monotonic`, in seconds.
            gate: not before it is open.
        """
        if data and not self.is_closed:
            self._queue.append((due, gate, data))

    def end(self, by: Cut, *, linger: float | None = _LINGER, at_once: bool = False) -> None:
        """End the connection after all that was queued before. Nothing may be queued after it.

        Closing a socket that holds unread bytes resets the connection. So that FIN is FIN, it goes on reading (and
        telling its listener) until the peer ends too.

        Args:
            by: FIN or RST.
            linger: seconds that it reads at most; None: as long as the peer likes.
            at_once: drop what was queued before.
        """
        if self.is_closed:
            return
        if at_once:
            self._queue.clear()
            self._out.clear()
        self._queue.append((0.0, None, self._reset if by is Cut.RST else lambda: self._finish(linger)))
        self.flush()

    def flush(self) -> None:
        """Send what is due and not held back, as far as the socket takes it."""
        now = time.monotonic()
        while self._queue and not self.is_closed:
            due, gate, item = self._queue[0]
            if gate is not None and not gate.is_open:
                gate.waiting.add(self)
                break
            if due > now:
                self._flush_at(due)
                break
            self._queue.popleft()
            if isinstance(item, bytes):
                self._out += item
            else:
                self._last = item
        self._write()

    def close(self) -> None:
        """Close the socket at once; what is queued is lost."""
        if self.is_closed:
            return
        self.is_closed = True
        self._queue.clear()
        self._out.clear()
        self._loop.discard(self._sock)
        self._listener.closed(self)

    def _flush_at(self, due: float) -> None:
        if self._timer != due:
            self._timer = due
            self._loop.call_at(due, self.flush)

    def _write(self) -> None:
        if self.is_closed or self.is_connecting:
            return
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                break
            except OSError as error:
                self._fail(error)
                return
            del self._out[:sent]
        if self._last is not None and not self._out:
            last, self._last = self._last, None
            last()
        self._watch()

    def _watch(self) -> None:
        if self.is_closed:
            return
        events = 0 if self._input_ended or self.is_connecting else selectors.EVENT_READ
        if self.is_connecting or self._out:
            events |= selectors.EVENT_WRITE
        if events != self._events:
            self._events = events
            self._loop.watch(self._sock, events, self._ready)

    def _ready(self, events: int) -> None:
        if self.is_closed:  # by what happened to another socket in the same round
            return
        if self.is_connecting:
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(OSError(code, os.strerror(code)))
                return
            self.is_connecting = False
            self._watch()
        if events & selectors.EVENT_WRITE:
            self._write()
        if events & selectors.EVENT_READ and not self.is_closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if data:
            self._listener.received(self, data)
            return
        self._input_ended = True
        self._watch()
        self._listener.ended(self, None)
        if self._output_ended:
            self.close()

    def _fail(self, error: OSError) -> None:
        self.close()
        self._listener.ended(self, error)

    def _finish(self, linger: float | None) -> None:
        self._output_ended = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer is gone already, which is what was wanted
            self.close()
            return
        if self._input_ended:
            self.close()
        elif linger is not None:
            self._loop.call_at(time.monotonic() + linger, self.close)

    def _reset(self) -> None:
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
