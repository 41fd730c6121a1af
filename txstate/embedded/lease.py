"""One process's share in an embedded server: taking a lease, reaching the server, giving the lease up.

Owns the locks on the users' side, and what becomes of them in a fork. `guard` explains the locks and has the server's
life; `home` has the files.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from txstate.embedded import guard
from txstate.embedded.home import ask
from txstate.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txstate.embedded.home import Home

Fsync = Literal["everysec", "always"]

_STOP_LIMIT = 20.0
"""Seconds that `close` waits for a guard to finish; a guard needs less, even for a server that has to be killed."""

_LEGEND = b"""\
txstate keeps a server's data in this folder: appendonlydir/ or appendonly.aof, in the server's own format.
txstate.lease   locked by every process that uses the folder
txstate.guard   locked by the process that minds the server; holds the server's address
txstate.server  locked by the server
txstate.log     what the server has to say
txstate.always  there while a user asks for an fsync per write
Don't delete any of them while the folder is in use.
"""


class EmbeddedServer:
    """One process's lease on an embedded server; made by `open_private` and `open_folder`.

    May be used from any thread. A forked child shares the lease on a folder: the server runs until both have closed
    it or ended. The lease on a private server stays with the process that opened it. One that nobody refers to any more
    is given up by the garbage collector, which does not wait for the server, with a `ResourceWarning`.
    """

    def __init__(self, home: Home, *, fsync: Fsync = "everysec", timeout: float) -> None:
        self._home = home
        self._fsync = fsync
        self._process = os.getpid()
        self._address = ""
        self._lease: list[int] = []
        self._lease.append(self._take_lease(timeout))
        try:
            self._reach_server(timeout)
        except BaseException:
            self._give_up_lease()
            if home.private:
                self._settle()
            raise

    @property
    def url(self) -> str:
        """The server's address for redis-py, which any process of this user can open."""
        return f"unix://{quote(self._address)}"

    def close(self) -> None:
        """Give up this process's lease. Closing again does nothing.

        When it was the last lease, the server has stopped on return: a folder's data is synced to disk, and a private
        server's directory is gone. In a child forked since, a private server is left to its owner.

        Raises:
            StoreUnavailable: the server didn't stop in time; its guard goes on trying.
        """
        if self._give_up_lease():
            self._settle()

    def __del__(self) -> None:
        # It interrupts any thread, anywhere, so it waits for nobody. Not for who forks either, who may wait in turn for
        # a lock that this thread holds (logging's, for one): a child born between these two lines keeps the lease.
        if (lease := self._own_lease()) is not None:
            _private_leases.discard(lease)
            os.close(lease)
            warnings.warn(
                f"the embedded server of {self._home.folder} was not closed: use `with`, or close()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )

    def revive(self, timeout: float = 10.0) -> None:
        """Make sure that a folder's server runs, for a caller that can't connect to it any more.

        A server that ended is brought back by its guard; this brings back the guard, should that have been killed.

        Args:
            timeout: seconds to wait for the server.

        Raises:
            StoreUnavailable: it can't be started, its folder is no longer where it was, or it was private: its data has
                gone with it.
            UsageError: the lease was given up.
        """
        if self._home.private:
            raise StoreUnavailable("the private server ended, and its data with it; open a new one")
        lease = next(iter(self._lease), None)
        if lease is None:
            raise UsageError("this embedded server is closed; open it again")
        try:
            if not guard.is_current(lease, self._home.path(guard.LEASE)):
                raise StoreUnavailable(
                    f"{self._home.folder} can't be used any more: it was moved or removed while it was open, or its "
                    f"{guard.LEASE}. Open what is there now by a store of its own"
                )
            self._reach_server(timeout)
        except OSError as error:
            raise StoreUnavailable(f"{self._home.folder} can't be used any more: {error}") from error

    def _take_lease(self, timeout: float) -> int:
        path = self._home.path(guard.LEASE)
        for _ in _pauses(timeout):
            with _forking:
                lease = guard.open_lock(path)
                if guard.try_lock(lease, fcntl.LOCK_SH) and guard.is_current(lease, path):
                    if os.fstat(lease).st_size == 0:
                        os.pwrite(lease, _LEGEND, 0)
                    if self._home.private:
                        _private_leases.add(lease)
                    return lease
                os.close(lease)
        raise StoreUnavailable(
            f"{self._home.folder}: its former server is still stopping after {timeout:.3g} s; try again"
        )

    def _reach_server(self, timeout: float) -> None:
        """Wait until the server answers, starting its guard when there is none."""
        always = self._fsync == "always"
        if always:
            # Before the server is looked at: one that starts meanwhile sees it, one that runs already is told below.
            Path(self._home.path(guard.ALWAYS)).touch(mode=0o600)
        log_start: int | None = None
        answer, strict = "", False
        for _ in _pauses(timeout):
            with _forking:
                if (lock := self._take_guard_lock()) is not None:
                    try:
                        if log_start is not None and not self._home.guard_was_killed():
                            raise StoreUnavailable(
                                f"the embedded server ended at its start. {self._home.last_words(log_start)}"
                            )
                        log_start = self._home.spawn_guard(lock, timeout)
                    finally:
                        os.close(lock)
            if address := self._home.address():
                self._address = address
                strict = always and ask(address, "CONFIG SET appendfsync always").startswith("+OK")
                answer = ask(address, "PING")
                # Still loading its data at the deadline: it is there, and transactions wait for it on their own.
                if answer and not answer.startswith("-LOADING") and strict == always:
                    break
        if not answer or strict != always:
            raise StoreUnavailable(
                f"the embedded server didn't answer within {timeout:.3g} s. {self._home.last_words(log_start or 0)}"
            )

    def _take_guard_lock(self) -> int | None:
        """Take the guard's lock, which says that no guard lives; None when one does."""
        path = self._home.path(guard.GUARD)
        lock = guard.open_lock(path)
        if guard.try_lock(lock, fcntl.LOCK_EX) and guard.is_current(lock, path):
            return lock
        os.close(lock)
        return None

    def _give_up_lease(self) -> bool:
        """Close the lease; False when it was closed before, or is another process's."""
        with _forking:
            if (lease := self._own_lease()) is None:
                return False
            _private_leases.discard(lease)
            os.close(lease)
        return True

    def _own_lease(self) -> int | None:
        """Take the lease out, to be closed; None when it was closed before, or is another process's."""
        try:
            lease = self._lease.pop()
        except IndexError:
            return None
        return None if self._home.private and os.getpid() != self._process else lease

    def _settle(self) -> None:
        """Wait for what the guard does when the last lease ends, and do it for a guard that was killed."""
        for _ in _pauses(_STOP_LIMIT):
            if not self._home.private:
                # Exclusively first: two users that close at once must not take each other for a third.
                in_use = not self._is_free(guard.LEASE, fcntl.LOCK_EX) and self._is_free(
                    guard.LEASE, fcntl.LOCK_SH
                )
                if in_use or self._is_free(guard.GUARD, fcntl.LOCK_EX):
                    return
            elif not self._home.folder.exists():
                return
            elif self._is_free(guard.GUARD, fcntl.LOCK_EX):
                ask(self._home.address(), "SHUTDOWN NOSAVE")
                if self._is_free(guard.SERVER, fcntl.LOCK_EX):
                    self._home.remove()
        raise StoreUnavailable(f"{self._home.folder}: the server is still stopping after {_STOP_LIMIT} s")

    def _is_free(self, name: str, how: int) -> bool:
        """Whether a lock could be had just now; it isn't kept."""
        with _forking:
            try:
                lock = os.open(self._home.path(name), os.O_RDWR)
            except FileNotFoundError:
                return True
            try:
                return guard.try_lock(lock, how)
            finally:
                os.close(lock)


def _pauses(seconds: float) -> Iterator[None]:
    """Let a loop run at least once, then with growing pauses until the time is over."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    yield
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.02)
        yield


# A fork copies descriptors, and with them the locks. Nobody may fork while one is tried or handed over, and a child
# closes the leases of private servers, so that they end with their owner. Re-entrant, for a signal handler that forks.
_forking = threading.RLock()
_private_leases: set[int] = set()


def _after_fork_in_child() -> None:
    while _private_leases:
        os.close(_private_leases.pop())
    _forking.release()


os.register_at_fork(
    before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_after_fork_in_child
)
