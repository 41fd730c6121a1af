"""A proxy that adds network: what goes through it arrives later, in order, with nothing else changed.

Runs in a process of its own, so that it takes no time from the client's interpreter. Unlike `txstate.testing`'s
proxy it delays bytes rather than commands: a batch is late once, as on a real network.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_CHUNK: Final = 65536
_START: Final = 20.0
_END: Final = 2.0


class DelayProxy:
    """Listens on a free port of 127.0.0.1. A context manager that ends it.

    Args:
        port: of the server, on 127.0.0.1.
        delay: seconds that each direction takes longer; 0: the proxy alone.

    Attributes:
        port: to connect to.

    Raises:
        TimeoutError: its process does not start.
    """

    def __init__(self, port: int, delay: float) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._pipe = ours
        self._process = context.Process(target=_serve, args=(theirs, port, delay), daemon=True)
        self._process.start()
        theirs.close()
        if not ours.poll(_START):
            self._process.kill()
            raise TimeoutError("the delaying proxy does not start")
        self.port: int = ours.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, port: int, delay: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        pipe.send(listener.getsockname()[1])
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", port))
            except ConnectionError:  # the client learns of it by the end of its connection
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _carry(client, server, delay)
            _carry(server, client, delay)


def _end_with(pipe: Connection) -> None:
    """Outlive nobody: the parent never writes, so what comes is its end, however it came."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(0)


def _carry(source: socket.socket, target: socket.socket, delay: float) -> None:
    """One direction: one thread notes when bytes came, another hands them on when their time has come."""
    pending: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        with contextlib.suppress(OSError):  # the other direction has closed it
            while data := source.recv(_CHUNK):
                pending.put((time.perf_counter() + delay, data))
        pending.put((0.0, b""))

    def give() -> None:
        with contextlib.suppress(OSError):  # as above
            while (late := pending.get())[1]:
                time.sleep(max(0.0, late[0] - time.perf_counter()))
                target.sendall(late[1])
        for end in (source, target):
            with contextlib.suppress(OSError):  # it may not be connected any more
                end.shutdown(socket.SHUT_RDWR)

    for work in (take, give):
        threading.Thread(target=work, daemon=True).start()
