"""What the wire alone costs: a socket that sends, over and over, the bytes that txstate sent for an armed update.

No transaction, no documents, no retry: the floor under any Python client that does the same commands.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import hiredis
import redis

from benchmarks.peers.base import SPIN, Peer
from benchmarks.peers.redis_py import OnHashes
from txstate import Store
from txstate._drivers.spin import Spin

if TYPE_CHECKING:
    from benchmarks.peers.base import Place
    from benchmarks.workloads import Op

_BUFFER: Final = 65536
_REPEATS: Final = 10
"""Updates before the one whose bytes are taken: by then the document is armed."""


class BareSocket(OnHashes, Peer):
    """Sends one batch and reads its replies. Knows one document, and changes nothing that could be checked."""

    title: ClassVar[str] = "bare socket loop"
    form = "socket.sendall of the bytes of an armed txstate update; replies parsed by one hiredis.Reader"
    module = "hiredis"
    thinks = checked = False
    spin: ClassVar[float] = 0.0

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._request = armed_update(place)
        commands = parsed(self._request)
        self._replies = len(commands)
        self._exec = [command[0].upper() for command in commands].index(b"EXEC")
        self._socket = connect(place)
        self._reader = hiredis.Reader()
        arrivals = select.poll()
        arrivals.register(self._socket, select.POLLIN)
        self._poll, self._spin = arrivals.poll, Spin(self.spin, lambda: True)
        self._ask(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", 1)  # as redis-py does, for replies of the same form

    def change(self, op: Op) -> None:
        """The round trip of one update."""
        self.read(op)

    def read(self, _op: Op) -> None:
        """The same.

        Raises:
            RuntimeError: EXEC was refused: what is measured would not be an update.
        """
        self.attempts += 1
        replies = self._ask(self._request, self._replies)
        if not isinstance(replies[self._exec], list):
            raise RuntimeError(f"EXEC answered {replies[self._exec]!r}")  # noqa: TRY004 - the server's fault

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def _ask(self, request: bytes, wanted: int) -> list[Any]:
        self._socket.sendall(request)
        if self._spin.rest:
            self._spin.rest -= 1
        else:
            self._spin.look(self._poll)
        replies: list[Any] = []
        while len(replies) < wanted:
            data = self._socket.recv(_BUFFER)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        return replies


class LookingSocket(BareSocket):
    """The same, looking for a reply before it sleeps, just as txstate does."""

    title = "bare socket loop, looking"
    form = "the same; before it sleeps it looks for a reply, when and as long as txstate does"
    spin = SPIN


def armed_update(place: Place) -> bytes:
    """What a store sends when it updates the first document of a workload again.

    Raises:
        RuntimeError: that is not one round trip.
    """
    with Relay(place) as relay, Store(relay.url) as store:
        trips = 0
        for _ in range(_REPEATS):
            relay.seen.clear()
            before = store.stats().round_trips
            store.update("doc:0", lambda doc: doc.increment("n0"))
            trips = store.stats().round_trips - before
        if trips != 1:
            raise RuntimeError(f"a repeated update is {trips} round trips, so nothing is armed")
        return b"".join(relay.seen)


def parsed(request: bytes) -> list[list[bytes]]:
    """The commands in these bytes."""
    reader = hiredis.Reader()
    reader.feed(request)
    commands: list[list[bytes]] = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    return commands


def connect(place: Place) -> socket.socket:
    """A socket to the Redis server there."""
    address: dict[str, Any] = dict(redis.connection.parse_url(place.address))  # type: ignore[no-untyped-call]  # redis-py's
    if "path" in address:
        client = socket.socket(socket.AF_UNIX)
        client.connect(address["path"])
        return client
    client = socket.create_connection((address["host"], address["port"]))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


class Relay:
    """Hands on what goes to a server and back, and keeps what was sent. A context manager.

    Attributes:
        url: to connect to.
        seen: all that came from clients since it was cleared.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.seen: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = connect(self._place)
                back: list[bytes] = []
                for way in ((client, server, self.seen), (server, client, back)):
                    threading.Thread(target=_carry, args=way, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError), source:  # the other side has gone
        while data := source.recv(_BUFFER):
            seen.append(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
