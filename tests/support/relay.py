"""A TCP relay that knows bytes only: it lets so many of them through, holds the rest, cuts, and goes elsewhere.

It stands between a primary and a replica, whose stream no RESP-aware proxy follows, and before servers that take over
from each other, as a virtual address does. Knows nothing of servers.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self, TypeAlias

_Pair: TypeAlias = tuple[socket.socket, socket.socket]
"""A client's end, and the server's."""


class Relay:
    """Forwards connections to a port of 127.0.0.1. Thread-safe; a context manager.

    Args:
        upstream: that port.
        only: holds only what comes to clients that have said this; empty: what comes to all. The others are not counted.

    Attributes:
        port: where it listens.
        arrived: bytes that came from upstream.
        passed: those of them that were let through.
        cuts: connections that it ended.
    """

    def __init__(self, upstream: int, *, only: bytes = b"") -> None:
        self._upstream, self._only = upstream, only
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.arrived = self.passed = self.cuts = 0
        self._credit: int | None = None
        self._open: list[_Pair] = []
        self._marked: set[_Pair] = set()
        self._refusing = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_after(self, count: int) -> None:
        """Let so many more bytes of upstream through, and keep what comes then."""
        self._set_credit(count)

    def let_go(self) -> None:
        """Let everything through, what was kept included."""
        self._set_credit(None)

    def wait_for(self, arrived: int, passed: int) -> None:
        """Until as many bytes have come from upstream, and were let through, in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.arrived >= arrived and self.passed >= passed, 10), (
                f"{self.arrived} of {arrived} bytes arrived, {self.passed} of {passed} passed"
            )

    def cut(self, *, refuse: bool = False) -> None:
        """End all connections, with what was kept; and refuse new ones, until `switch`."""
        with self._changed:
            self._refusing = refuse
            pairs, self._open = self._open, []
            self.cuts += len(pairs)
        for pair in pairs:
            _end(*pair)
        with self._changed:
            self._changed.notify_all()

    def redirect(self, upstream: int) -> None:
        """Forward new connections to another port; what is open stays as it is."""
        with self._changed:
            self._upstream = upstream

    def switch(self, upstream: int | None = None) -> None:
        """Forward all to another port, or again to the same one; what was open ends."""
        self.cut(refuse=True)
        with self._changed:
            self._upstream = upstream or self._upstream
            self._refusing, self._credit = False, None

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):  # nobody may be connected
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(refuse=True)

    def _set_credit(self, credit: int | None) -> None:
        with self._changed:
            self._credit = credit
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        with self._changed:
            refused, port = self._refusing, self._upstream
        try:
            if refused:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", port), timeout=1)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for sock in client, server:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (client, server)
        with self._changed:
            self._open.append(pair)
        threading.Thread(target=self._pump, args=(pair, client, server), daemon=True).start()
        threading.Thread(target=self._pump_back, args=(pair, server, client), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end may be cut at any time
            while data := source.recv(65536):
                if self._only in data:
                    self._marked.add(pair)
                sink.sendall(data)
        self._forget(pair)

    def _pump_back(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        kept = bytearray()
        threading.Thread(target=self._deliver, args=(pair, kept, sink), daemon=True).start()
        with contextlib.suppress(OSError):  # as above
            while data := source.recv(65536):
                if pair not in self._marked and self._only:
                    sink.sendall(data)
                    continue
                with self._changed:
                    self.arrived += len(data)
                    kept += data
                    self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: not kept or pair not in self._open)
        self._forget(pair)

    def _deliver(self, pair: _Pair, kept: bytearray, sink: socket.socket) -> None:
        """Let through what may pass; reading goes on meanwhile."""
        with contextlib.suppress(OSError):  # as above
            while True:
                # Sent under the lock: whoever sees that nothing is on its way must see it in the counts, too.
                with self._changed:
                    self._changed.wait_for(lambda: bool(kept and self._credit != 0) or pair not in self._open)
                    if pair not in self._open:
                        return
                    allowed = len(kept) if self._credit is None else min(len(kept), self._credit)
                    sink.sendall(kept[:allowed])
                    del kept[:allowed]
                    if self._credit is not None:
                        self._credit -= allowed
                    self.passed += allowed
                    self._changed.notify_all()

    def _forget(self, pair: _Pair) -> None:
        with self._changed:
            self._marked.discard(pair)
            if pair in self._open:
                self._open.remove(pair)
            self._changed.notify_all()
        _end(*pair)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(*socks: socket.socket) -> None:
    for sock in socks:
        with contextlib.suppress(OSError):  # it may have ended by itself
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
