"""Both ends of a connection at the level of bytes, for tests of what happens to them on the way."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from txstate.testing import Cut, FaultProxy
from txstate.testing._proxy.resp import Scanner, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

SILENT = 0.5  # seconds without a byte that count as silence


class Raw:
    """A client that sees bytes, and how the connection ends."""

    def __init__(self, proxy: FaultProxy) -> None:
        host, _, port = proxy.url.removeprefix("redis://").partition("/")[0].rpartition(":")
        self.sock = socket.create_connection((host.rpartition("@")[2], int(port)), timeout=5)

    def send(self, *commands: str) -> None:
        self.sock.sendall(packed(*commands))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.sock.recv(size - len(data))):
            data += more
        return data

    def ask(self, command: str) -> object:
        """Send one command and read its reply, after skipping what was unread."""
        self.send(command)
        scanner = Scanner()
        while (frame := scanner.next()) is None:
            data = self.sock.recv(1)
            assert data, "ended"
            scanner.feed(data)
        return value_of(frame)

    def end(self) -> tuple[bytes, Cut]:
        """Read until the connection ends: what was read, and how it ended."""
        data = b""
        self.sock.settimeout(SILENT)
        while True:
            try:
                more = self.sock.recv(65536)
            except TimeoutError:
                return data, Cut.SILENCE
            except ConnectionResetError:
                return data, Cut.RST
            if not more:
                return data, Cut.FIN
            data += more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Recorder:
    """An upstream that answers nothing, and records what it gets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"

    def one(self) -> bytes:
        """All bytes of the next connection, until its end."""
        sock, _ = self.listener.accept()
        data = b""
        with sock:
            sock.settimeout(5)
            try:
                while more := sock.recv(65536):
                    data += more
            except ConnectionResetError:
                pass
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def packed(*commands: str) -> bytes:
    """Commands as a client packs them, words split at blanks."""
    out = []
    for command in commands:
        words = [word.encode() for word in command.split()]
        out.append(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    return b"".join(out)


def eventually(condition: Callable[[], object], *, patience: float = 30, pause: float = 0.002) -> None:
    """Wait until it holds; patience and pause in seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {patience} s"
        time.sleep(pause)


def client_of(url: str, **options: int) -> redis.Redis:
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
