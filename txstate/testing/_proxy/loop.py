"""One thread that owns sockets: readiness, timers, and calls from other threads.

Everything that a proxy knows is touched in this thread alone, so nothing else needs a lock. Knows nothing of what
the sockets are for.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import selectors
import socket
import threading
import time
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SELECT_LIMIT: Final = 1024  # select() can't take descriptors from here on
_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


class Loop:
    """A selector loop in a daemon thread. It runs from construction until `stop`.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.sockets: set[socket.socket] = set()  # to close at the end, and in a forked child
        self.paused = False
        self._selector = selectors.DefaultSelector()
        self._asleep = selectors.DefaultSelector()  # sees calls only: what a paused loop listens to
        self._wake_up, self._waker = socket.socketpair()
        for end in self._wake_up, self._waker:
            end.setblocking(False)
            self.sockets.add(end)
        self._selector.register(self._wake_up, selectors.EVENT_READ, self._woken)
        self._asleep.register(self._wake_up, selectors.EVENT_READ, self._woken)
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # guards `_calls` and `_stopped`
        self._stopped = False
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _loops.add(self)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the loop's thread, also while paused.

        Returns:
            What it returned.

        Raises:
            UsageError: the loop was stopped, or belongs to the parent process.
            Exception: whatever the function raised.
        """
        if threading.current_thread() is self._thread:
            return function()
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                result.set_exception(error)

        with self._lock:
            if self._stopped:
                raise UsageError("the proxy is closed, or belongs to the parent process: open another one")
            self._calls.append(run)
        self._wake()
        return result.result()

    def call_at(self, due: float, function: Callable[[], None]) -> None:
        """Run a function at a moment of `time.monotonic`, in seconds. Only from within the loop's thread."""
        heapq.heappush(self._timers, (due, next(self._order), function))

    def watch(self, sock: socket.socket, events: int, ready: Callable[[int], None]) -> None:
        """Call `ready` with the events that happened, as of `selectors`; no events: never. Only from within."""
        known = sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, ready)
        else:
            self._selector.register(sock, events, ready)

    def discard(self, sock: socket.socket) -> None:
        """Close a socket. Only from within the loop's thread."""
        self.watch(sock, 0, lambda _: None)
        self.sockets.discard(sock)
        sock.close()

    def stop(self) -> None:
        """End the thread and close every socket. May be called again."""
        with self._lock:
            stopped, self._stopped = self._stopped, True
        if not stopped:
            self._wake()
        self._thread.join()

    def forget(self) -> None:
        """In a forked child: give up the inherited descriptors without a word to the peers."""
        self._lock = threading.Lock()  # the parent's may have been held at the fork
        self._stopped = True
        self._close()

    def _run(self) -> None:
        try:
            while not self._stopped:
                for key, events in self._ready():
                    if not self.paused or key.fileobj is self._wake_up:  # a call may pause within a round
                        key.data(events)
                if not self.paused:
                    self._run_timers()
        finally:
            with self._lock:
                self._stopped = True
            self._run_calls()  # nobody waits forever
            self._close()

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        if self.paused:
            return self._asleep.select()
        if not self._timers:
            return self._selector.select()
        timeout = max(0.0, self._timers[0][0] - time.monotonic())
        inner = self._selector.fileno()
        if timeout and inner < _SELECT_LIMIT:
            # epoll counts in milliseconds, which is too coarse for the delays of a fast network
            select.select([inner], [], [], timeout)
            timeout = 0
        return self._selector.select(timeout)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _run_calls(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            self._waker.send(b"\0")

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_up.recv(4096)
        self._run_calls()

    def _close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        self._selector.close()
        self._asleep.close()


def _forget_all() -> None:
    for loop in _loops:
        loop.forget()


os.register_at_fork(after_in_child=_forget_all)
