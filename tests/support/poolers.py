"""Proxies that spoil transactions without refusing anything, as some poolers do."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Self

import hiredis

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Pooler:
    """A proxy on loopback; one thread for each client.

    Args:
        port: of the server on loopback.
        swallowed: commands that it answers with OK and does not send on.
        elsewhere: commands that it sends over another connection than a client's others.

    Attributes:
        url: the proxy's address.
        spoiled: commands that it did that to.
    """

    def __init__(
        self, port: int, *, swallowed: Collection[str] = (), elsewhere: Collection[str] = ()
    ) -> None:
        self.spoiled: list[str] = []
        pooler = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with (
                    socket.create_connection(("127.0.0.1", port)) as own,
                    socket.create_connection(("127.0.0.1", port)) as other,
                    contextlib.suppress(OSError),
                ):
                    for name, raw in _commands(self.request):
                        if name in swallowed or name in elsewhere:
                            pooler.spoiled.append(name)
                        if name in swallowed:
                            self.request.sendall(b"+OK\r\n")
                        else:
                            self.request.sendall(_reply(other if name in elsewhere else own, raw))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"redis://127.0.0.1:{self._server.server_address[1]}/0"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _commands(client: socket.socket) -> Iterator[tuple[str, bytes]]:
    """Each command that the client sends: its name (two words of CLIENT), and its bytes."""
    reader = hiredis.Reader()
    while data := client.recv(65536):
        reader.feed(data)
        while (command := reader.gets()) is not False:
            name = b" ".join(command[: 1 + (command[0].upper() == b"CLIENT")])
            yield name.decode().upper(), hiredis.pack_command(tuple(command))


def _reply(server: socket.socket, raw: bytes) -> bytes:
    """The server's one reply to a command, as it came."""
    server.sendall(raw)
    reader, reply = hiredis.Reader(), b""
    while reader.gets() is False:
        data = server.recv(65536)
        reader.feed(data)
        reply += data
    return reply
