"""Where a call waits for others of its process: a thread, and a task beside it.

A mailbox that is full wakes the next wait at once, so a `put` that comes before it is not lost.
"""

from __future__ import annotations

import asyncio
import queue


class SyncMailbox:
    """One thread waits, any other one wakes it."""

    __slots__ = ("_arrived",)

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self) -> None:
        """Wake who waits, or who will wait next."""
        self._arrived.put(None)

    def wait(self, timeout: float) -> bool:
        """Wait for so many seconds at most. Returns whether something was put."""
        try:
            self._arrived.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return False
        return True


class AsyncMailbox:
    """One task waits, any other one of its event loop wakes it."""

    __slots__ = ("_full", "_waiter")

    def __init__(self) -> None:
        self._full = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self) -> None:
        """Wake who waits, or who will wait next."""
        self._full = True
        if self._waiter is not None:
            _wake(self._waiter)

    async def wait(self, timeout: float) -> bool:
        """Wait for so many seconds at most. Returns whether something was put."""
        if not self._full:
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            limit = loop.call_later(timeout, _wake, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                limit.cancel()
        full, self._full = self._full, False
        return full


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
