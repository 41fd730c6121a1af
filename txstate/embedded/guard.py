"""The guard: one small process per embedded server, which starts the server, minds it and ends it.

It owns the server's life and the files around it. It refuses to know the protocol of Redis and the rest of txstate:
it is run by path in a bare interpreter (``python -I -S``), so that it starts in milliseconds and no site-packages,
environment variable or working directory of its opener can break it.

Everything rests on three locks (flock) in the server's folder. The kernel drops a lock when its last holder ends,
however it ends, and no recorded process id has to be trusted.

- `LEASE`: shared by every user of the server. The guard waits for it exclusively: got it, nobody uses the server any
  more, and nobody can begin to until the guard has ended.
- `GUARD`: held by the guard, taken by the opener that starts it and inherited from there. One guard at a time.
- `SERVER`: inherited by the server and by the children that rewrite its files; the guard keeps no copy. One server
  at a time, even after a guard was killed.

A guard that is killed takes its server along: the server holds the read end of a pipe, for whose end of file the
kernel sends it SIGTERM (F_SETSIG, Linux). Unlike PR_SET_PDEATHSIG this is bound to a process, not to a thread.
Elsewhere the next opener finds the orphan by its socket and shuts it down.
"""

# pathlib would add half again to the time that the guard needs to start:
# ruff: noqa: PTH102, PTH108, PTH110, PTH116, PTH118, PTH120

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time

LEASE = "txstate.lease"
GUARD = "txstate.guard"
SERVER = "txstate.server"
LOG = "txstate.log"
ALWAYS = "txstate.always"
"""Its presence asks for an fsync per write. A file, so that a restarted server keeps what some user asked for."""

_LOCK_MODE = 0o600
_POLL = 0.1
"""Seconds between two looks at the server. The end of the last lease is noticed at once, without polling."""
_SETTLED = 3.0
"""A server that exits with a failure sooner after its start, in seconds, would do so again."""
_RESTARTS = 5
"""A server that was killed that often, without having run for `_SETTLED` seconds in between, is given up."""
_PATIENCE = 8.0
"""Seconds for a server to sync and stop, before it is killed. Its data is in the page cache by then."""
_REFRESH = 3600.0
"""Seconds between two refreshes of the socket's age, by which cleaners of temporary folders go."""


class Guard:
    """Minds the server of one folder until its last user has gone.

    Args:
        private: the folder is temporary and goes with the server; nothing is written to disk.
        folder: the absolute path of the folder with the locks and, unless private, the data.
        socket: where the server listens; its directory is made when missing.
        binary: the server's executable.
        lock: the descriptor that holds the `GUARD` lock.
    """

    def __init__(self, *, private: bool, folder: str, socket: str, binary: str, lock: int) -> None:
        self._private = private
        self._folder = folder
        self._socket = socket
        self._binary = binary
        self._lock = lock
        self._unused = threading.Event()
        self._server: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._restarts = 0
        self._started = self._refreshed = time.monotonic()

    def run(self) -> None:
        """Start the server, keep it running, and end it when nobody uses it any more."""
        threading.Thread(target=self._await_last_user, daemon=True).start()
        try:
            self._start()
            while not self._unused.wait(_POLL):
                self._mind()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._stop()
            self._tidy()

    def _await_last_user(self) -> None:
        """Wait for the exclusive lease; it is then kept until the guard ends."""
        path = os.path.join(self._folder, LEASE)
        try:
            lease = open_lock(path)
            fcntl.flock(lease, fcntl.LOCK_EX)
            # Users of a lease file that somebody deleted are gone now; those of its successor may not be.
            while not is_current(lease, path):
                os.close(lease)
                lease = open_lock(path)
                fcntl.flock(lease, fcntl.LOCK_EX)
        except OSError as error:
            _log(f"the lease can't be watched any more, ending: {error}")
        self._unused.set()

    def _start(self) -> None:
        lock = self._own()
        make_private_directory(os.path.dirname(self._socket))
        durable = "no" if self._private else "yes"
        fsync = "always" if os.path.exists(os.path.join(self._folder, ALWAYS)) else "everysec"
        lifeline, self._lifeline = os.pipe()
        fixed = "--port 0 --unixsocketperm 700 --maxmemory-policy noeviction --daemonize no --loglevel notice"
        command = [
            self._binary,
            "--unixsocket",
            self._socket,
            "--appendonly",
            durable,
            "--appendfsync",
            fsync,
        ]
        command += ["--save", "", "--logfile", "", *fixed.split()]
        # The working directory is the data directory: no path of the user's has to survive the server's parser.
        self._server = subprocess.Popen(  # noqa: S603 - the binary is the opener's choice
            command, cwd=self._folder, stdin=subprocess.DEVNULL, pass_fds=(lock, lifeline)
        )
        if hasattr(fcntl, "F_SETSIG"):
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, self._server.pid)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGTERM)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        os.close(lifeline)
        os.close(lock)
        self._started = time.monotonic()

    def _own(self) -> int:
        """Take the `SERVER` lock, which an earlier server may need a moment to leave.

        Returns:
            The descriptor to hand to the server.
        """
        path = os.path.join(self._folder, SERVER)
        deadline = time.monotonic() + _PATIENCE
        while True:
            lock = open_lock(path)
            if try_lock(lock, fcntl.LOCK_EX) and is_current(lock, path):
                return lock
            os.close(lock)
            if time.monotonic() > deadline:
                sys.exit("guard: an earlier server still holds this folder and doesn't stop; end it by hand")
            time.sleep(0.01)

    def _mind(self) -> None:
        """Bring a durable server back that ended, or whose socket was removed; its address stays the same."""
        settled = time.monotonic() - self._started > _SETTLED
        if settled:
            self._restarts = 0
        exit_code = self._server.poll() if self._server else None
        if exit_code is None:
            if self._private or not settled or os.path.exists(self._socket):
                self._keep_young()
                return
        elif self._private or (not settled and exit_code > 0) or self._restarts == _RESTARTS:
            sys.exit(f"guard: the server ended by itself ({exit_code}) and isn't started again")
        if not is_current(self._lock, os.path.join(self._folder, GUARD)):
            sys.exit("guard: the folder was moved or removed, and what has its name now is another guard's")
        _log("starting the server again")
        self._restarts += 1
        self._stop()
        self._start()

    def _keep_young(self) -> None:
        if time.monotonic() - self._refreshed < _REFRESH:
            return
        self._refreshed = time.monotonic()
        home = os.path.dirname(self._socket)
        try:
            for path in (home, *(entry.path for entry in os.scandir(home))):
                os.utime(path)
        except FileNotFoundError as error:
            _log(f"gone while it was refreshed: {error.filename}")

    def _stop(self) -> None:
        """End the server: a durable one after it has synced its data, a private one at once."""
        server = self._server
        if server is None:
            return
        if not self._private:
            server.terminate()
            try:
                server.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                _log("the server doesn't stop, killing it")
        server.kill()
        server.wait()
        os.close(self._lifeline)
        self._server = None

    def _tidy(self) -> None:
        """Remove what would mislead or outlive the next user.

        After a failure the address stays on record: its users find the next server there.
        """
        import shutil  # noqa: PLC0415 - costs milliseconds that the way to a running server does not have

        if self._private:
            os.ftruncate(
                self._lock, 0
            )  # the address of a guard that was killed stays: another one is started
            os.close(self._lock)
            # An opener that waits for a server that failed still wants to read its log.
            self._unused.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        shutil.rmtree(os.path.dirname(self._socket), ignore_errors=True)
        if self._unused.is_set():
            os.ftruncate(self._lock, 0)
            if os.path.exists(marker := os.path.join(self._folder, ALWAYS)):
                os.unlink(marker)


def open_lock(path: str) -> int:
    """Open a lock file, made when missing, for the user alone whatever the umask.

    Returns:
        A descriptor that is closed on exec.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, _LOCK_MODE)
    if os.fstat(lock).st_mode & 0o777 != _LOCK_MODE:
        os.fchmod(lock, _LOCK_MODE)
    if lock <= 2:  # noqa: PLR2004 - a program without stdin gets 0, which its next child's stdin would replace
        low, lock = lock, fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(low)
    return lock


def try_lock(lock: int, how: int) -> bool:
    """Take a lock (`fcntl.LOCK_EX` or `fcntl.LOCK_SH`) without waiting; False when others are in the way."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(lock: int, path: str) -> bool:
    """Whether an open lock file is still the one at its path; a lock on a deleted one excludes nobody."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def make_private_directory(path: str) -> None:
    """Make a directory for this user alone, or accept one that is.

    Raises:
        PermissionError: somebody else made it, or can enter it.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{path} is no directory of this user's own") from None


def _log(message: str) -> None:
    sys.stderr.write(f"guard: {message}\n")  # the log is its stderr


def _main(kind: str, folder: str, socket: str, binary: str, lock: str) -> None:
    # The opener waits for its child and must not find a dead one later: the guard is its grandchild.
    if os.fork():
        os._exit(0)
    # A mask or disposition inherited from the opener could make server and guard deaf.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("guard: asked to end"))
    os.umask(0o077)
    os.chdir("/")
    guard = Guard(private=kind == "private", folder=folder, socket=socket, binary=binary, lock=int(lock))
    guard.run()


if __name__ == "__main__":
    _main(*sys.argv[1:])
