"""The folder in which a server lives: where its files are, what is on record there, and how a guard is started.

Leaves the locks to `lease` and the server's life to `guard`. Of Redis it knows an inline command and its answer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from txstate.embedded import guard
from txstate.errors import StoreUnavailable, UsageError

_PROTOCOL = 1
"""The meaning of the files and locks of a folder. Versions of txstate that agree on it can share one."""

_SOCKET_LIMIT = 100
"""Bytes of a socket's path that every platform takes (Linux 108, macOS 104, each with a final zero)."""

_LOG_LIMIT = 1_000_000
"""Bytes of log after which a new guard begins an empty one."""


class Home:
    """The folder of one server.

    Args:
        folder: its absolute path.
        binary: the server to run, should it have to be started.
        private: the folder is temporary and goes with the server; the socket is inside it.
    """

    def __init__(self, folder: Path, binary: Path, *, private: bool) -> None:
        self.folder = folder
        self.binary = binary
        self.private = private

    def path(self, name: str) -> str:
        """The path of one of the guard's files."""
        return str(self.folder / name)

    def address(self) -> str:
        """The socket on record; empty when no server was started, or the last one was ended in order.

        Raises:
            UsageError: a version of txstate keeps the folder that this one can't share it with.
        """
        socket_path: str = self._state().get("socket", "")
        return socket_path

    def spawn_guard(self, lock: int, timeout: float) -> int:
        """Put the server's address on record and start a guard. One that is killed meanwhile is as one killed later.

        Args:
            lock: the descriptor that holds the guard's lock, for the guard to inherit.
            timeout: seconds for its interpreter to come up.

        Returns:
            Where the log of this start begins.

        Raises:
            StoreUnavailable: there is no interpreter that runs it, or it didn't come up in time.
        """
        if not sys.executable or getattr(sys, "frozen", False):
            raise StoreUnavailable(
                "an embedded server needs a Python interpreter for its guard, and this program is none; "
                "start a server by other means and open its URL"
            )
        address = self._choose_address()
        record = {
            "protocol": _PROTOCOL,
            "socket": address,
            "host": socket.gethostname(),
            "file": _identity(lock),
        }
        state = json.dumps(record).encode()
        os.pwrite(lock, state, 0)
        os.ftruncate(lock, len(state))
        kind = "private" if self.private else "folder"
        command = [
            sys.executable,
            "-I",
            "-S",
            guard.__file__,
            kind,
            str(self.folder),
            address,
            str(self.binary),
        ]
        log = os.open(self.path(guard.LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if os.fstat(log).st_size > _LOG_LIMIT:
            os.ftruncate(log, 0)
        start = os.fstat(log).st_size
        try:
            started = subprocess.run(  # noqa: S603 - our own interpreter and module
                [*command, str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,  # a Ctrl-C in the user's terminal is not meant for the server
                timeout=timeout,
                check=False,
            )
            if started.returncode != -signal.SIGKILL:
                started.check_returncode()
        except (OSError, subprocess.SubprocessError) as error:
            words = self.last_words(start)
            raise StoreUnavailable(f"the embedded server's guard didn't start ({error}). {words}") from error
        finally:
            os.close(log)
        return start

    def guard_was_killed(self) -> bool:
        """Whether the last guard left its socket's directory on record, which one that ends by itself does not."""
        address = self.address()
        return bool(address) and Path(address).parent.exists()

    def last_words(self, start: int) -> str:
        """What to add to an error: the end of the log from a position on, and who else may have the folder."""
        path = Path(self.path(guard.LOG))
        lines = path.read_bytes()[start:].decode(errors="replace").splitlines() if path.exists() else []
        host = self._state().get("host", socket.gethostname())
        if host != socket.gethostname():
            lines.append(f"The folder is in use on {host!r}: other hosts and containers can't share it.")
        return "\n".join([f"The end of its log, {path}:", *lines[-6:]])

    def remove(self) -> None:
        """Remove a private folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _choose_address(self) -> str:
        """The address on record, which a killed guard leaves behind and users may still hold; else a new one."""
        if self.private:
            return self.path("socket")
        if former := self.address():
            # Where the kernel doesn't end a server with its guard, it is still there.
            ask(former, "SHUTDOWN")
            with suppress(OSError):
                guard.make_private_directory(str(Path(former).parent))
                return former
        return str(temporary_directory() / "socket")

    def _state(self) -> dict[str, Any]:
        try:
            with Path(self.path(guard.GUARD)).open("rb") as file:
                state: dict[str, Any] = json.loads(file.read())
                own = _identity(file.fileno())
        except (FileNotFoundError, ValueError):
            return {}  # not written, or not yet completely
        if state.get("file", own) != own:
            return {}  # the folder was copied while a server ran: the address is that of the original's
        if state.get("protocol") != _PROTOCOL:
            raise UsageError(
                f"{self.folder} is kept by another version of txstate, which can't share it with this one; "
                "use one version, or close the folder everywhere first"
            )
        return state


def _identity(file: int) -> list[int]:
    """What a file keeps for as long as it exists, and no copy of it has."""
    found = os.fstat(file)
    return [found.st_dev, found.st_ino]


def ask(address: str, command: str) -> str:
    """Send a server one inline command.

    Args:
        address: its socket.
        command: the command line.

    Returns:
        Its one-line answer; empty when there is no server that answers within a second.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(address)
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(512).decode(errors="replace")
        except OSError:
            return ""


def temporary_directory() -> Path:
    """Make a directory of this user's own in which a socket's path is short enough, and can be part of a URL.

    Raises:
        StoreUnavailable: no temporary directory will do.
    """
    bases = [Path(os.environ.get("TMPDIR") or "/tmp").absolute(), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp makes its own inside
    for base in bases:
        with suppress(OSError, UnicodeEncodeError):
            if len(str(base / "txstate-12345678" / "socket").encode()) <= _SOCKET_LIMIT:
                return Path(tempfile.mkdtemp(prefix="txstate-", dir=base))
    tried = ", ".join(str(base) for base in bases)
    raise StoreUnavailable(
        f"no place for the server's socket: none of {tried} is writable and short; set TMPDIR"
    )
