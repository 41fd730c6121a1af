"""A proxy that breaks connections to Redis or Valkey on purpose, at a chosen command or byte.

Owns the listening sockets and what a test can order. How a connection carries it out is `_proxy.connection`'s business.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import selectors
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from txstate._checks import check_count
from txstate.errors import UsageError
from txstate.testing._proxy.address import bind, parse, path_of, release
from txstate.testing._proxy.connection import Connection
from txstate.testing._proxy.endpoint import Cut
from txstate.testing._proxy.faults import (
    Action,
    CutReply,
    CutRequest,
    Delay,
    DropReply,
    DropRequest,
    Event,
    Late,
    check_cut,
)
from txstate.testing._proxy.loop import Loop
from txstate.testing._proxy.random_cuts import RandomCuts
from txstate.testing._proxy.rules import Armed, Rule
from txstate.testing._proxy.script import Script

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from txstate.testing._proxy.address import Address
    from txstate.testing._proxy.faults import Command

_BACKLOG: Final = 512
_Cutting: TypeAlias = DropReply | DropRequest | CutRequest | CutReply | Late
_CUTS: Final = (DropReply(Cut.FIN), DropReply(Cut.RST), CutReply(1), DropRequest(Cut.FIN), Late(Cut.RST))


class FaultProxy:
    """A proxy for tests, in front of one server.

    Clients connect to `url` instead of to the server. Bytes pass unchanged until a fault is ordered::

        with FaultProxy("redis://127.0.0.1:6379/0") as proxy:
            rule = proxy.inject(DropReply(Cut.RST), "EXEC")
            ...                                   # run a transaction against proxy.url
            rule.wait()                           # a test whose fault did not fire has shown nothing

    It understands RESP2 and RESP3, so it knows which reply belongs to which command. A connection that subscribes,
    monitors, replicates or sends CLIENT REPLY has no such order any more: from that command on its bytes pass, and
    no rule matches. TLS can't be looked into. All methods may be called from any thread, but not in a forked child.

    Args:
        upstream: the server: ``redis://host:port/db``, ``valkey://...`` or ``unix:///path?db=0``, with credentials
            or not. It need not run yet.
        unix_path: listen on this unix socket as well.

    Attributes:
        url: for clients, on a free port of 127.0.0.1. Database, credentials and options are the upstream's.
        unix_url: the same by the unix socket, or None.

    Raises:
        UsageError: it can't forward to the upstream, or can't listen on the unix path.
        OSError: it can't listen.
    """

    def __init__(self, upstream: str, *, unix_path: str | os.PathLike[str] | None = None) -> None:
        self._upstream = parse(upstream)
        path = None if unix_path is None else path_of(unix_path)
        self._script = Script()
        self._connections: dict[int, Connection] = {}
        self._accepted = 0
        tcp = bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        self._addresses: list[Address] = [("127.0.0.1", port)]
        self._listeners = [tcp]
        self.url = self._upstream.tcp_url(port)
        self.unix_url: str | None = None
        if path is not None:
            try:
                self._listeners.append(bind(path))
            except OSError:
                tcp.close()
                raise
            self._addresses.append(path)
            self.unix_url = self._upstream.unix_url(path)
        self._refusing = self._closed = False
        self._loop = Loop(f"fault-proxy-{port}")
        self._loop.call(self._watch_listeners)

    def inject(
        self,
        action: Action,
        command: str | None = None,
        *,
        connection: int | None = None,
        nth: int | None = None,
        where: Callable[[Command], bool] | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Rule:
        """Order a fault. Where several rules match a command, the first one made decides, alone.

        A match whose connection ends before the action took effect does not count as one of `times`.

        Args:
            action: what to do.
            command: to which command, by its name in any case (``"EXEC"``); None: to any.
            connection: on which connection only: 1 is the first that the proxy accepted.
            nth: only the nth command of this name on its connection, counted from 1 since it was accepted.
            where: what else must hold. Called in the proxy's thread, so it must be fast and not call the proxy.
            skip: how many matches pass unharmed first, counted from now.
            times: how often it may fire; None: always.

        Returns:
            The rule, to wait for and to cancel.

        Raises:
            UsageError: an argument is out of range, or the proxy is closed.
        """
        _check_match(action, command, where)
        for name, value in (("connection=", connection), ("nth=", nth), ("times=", times)):
            check_count(name, 1 if value is None else value, 1)
        check_count("skip=", skip, 0)
        armed = Armed(
            action,
            command=None if command is None else command.upper(),
            connection=connection,
            nth=nth,
            where=where,
            skip=skip,
            times=times,
        )
        self._loop.call(lambda: self._script.add(armed))
        return Rule(armed, self._loop)

    def cut_randomly(self, *, per_second: float, seed: int, kinds: Sequence[Action] = _CUTS) -> RandomCuts:
        """Go on cutting connections at random, preferably where a commit is then in doubt: at an EXEC.

        Where no EXEC comes along for a quarter of a second, some live connection is killed. What a `Late` holds is
        delivered up to 50 ms later.

        Args:
            per_second: how many faults, on average; fewer when there are fewer EXECs.
            seed: of the choices. Which commands meet them still depends on timing.
            kinds: what to choose from, with equal chances. `Delay`, `HoldRequest` and `HoldReply` cut nothing.

        Returns:
            The handle, to count and to stop them.

        Raises:
            UsageError: an argument is out of range, or the proxy is closed.
        """
        _check_cuts(per_second, kinds)
        return RandomCuts(
            self._loop, self._script, self._kill_one, per_second=per_second, seed=seed, kinds=kinds
        )

    def delay(self, *, requests: float = 0.0, replies: float = 0.0) -> None:
        """Make the network slow: delay all bytes that arrive from now on, in order. Not counted as a fault.

        Args:
            requests: seconds from client to server.
            replies: seconds from server to client.

        Raises:
            UsageError: negative, or the proxy is closed.
        """
        latency = Delay(requests, replies)

        def change() -> None:
            self._script.request_latency, self._script.reply_latency = latency.request, latency.reply

        self._loop.call(change)

    def kill(self, connection: int | None = None, *, by: Cut = Cut.FIN) -> int:
        """Cut connections now, on both sides; what is on its way is lost.

        A request that is late stays: it is the test's to deliver.

        Args:
            connection: which one, by its ordinal; None: all.
            by: how.

        Returns:
            How many were cut. 0 is not an error: a connection may have ended by itself.
        """
        check_cut(by)

        def kill() -> int:
            chosen = (
                list(self._connections.values())
                if connection is None
                else [self._connections.get(connection)]
            )
            return sum(each is not None and self._kill(each, by) for each in chosen)

        return self._loop.call(kill)

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED), until `accept`."""
        self._loop.call(self._refuse)

    def accept(self) -> None:
        """Accept new connections again.

        Raises:
            OSError: another program took the port meanwhile.
        """
        self._loop.call(self._accept_again)

    def pause(self) -> None:
        """Stop everything, as SIGSTOP would: connections are accepted by the kernel, and nothing moves."""
        self._loop.call(lambda: self._set_paused(paused=True))

    def resume(self) -> None:
        """Go on after `pause`."""
        self._loop.call(lambda: self._set_paused(paused=False))

    @property
    def connections(self) -> tuple[int, ...]:
        """The ordinals of the connections on which bytes still pass."""
        return self._loop.call(
            lambda: tuple(ordinal for ordinal, each in self._connections.items() if each.is_live)
        )

    @property
    def log(self) -> tuple[Event, ...]:
        """What happened, oldest first; the last 10,000 events. Readable after `close`."""
        return self._script.events()

    @property
    def fired(self) -> int:
        """How many faults took effect: rules that fired, and connections killed. Readable after `close`."""
        return self._script.fired

    def close(self) -> None:
        """End all connections and the proxy's thread. May be called again.

        Raises:
            UsageError: a `where` raised meanwhile; the cause is chained.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.call(self._close_all)
        finally:
            self._loop.stop()
            for address in self._addresses:
                release(address)
        if self._script.error is not None:
            raise UsageError(
                "a rule's predicate raised, and so the rule was given up"
            ) from self._script.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # From here on: the loop's thread only.

    def _watch_listeners(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            self._loop.sockets.add(listener)
            self._loop.watch(listener, selectors.EVENT_READ, functools.partial(self._connect, listener))

    def _connect(self, listener: socket.socket, _events: int) -> None:
        """Accept one client and connect it to the upstream."""
        try:
            client, _ = listener.accept()
        except OSError as error:  # gone again already, or no descriptor left for it
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                self._record("failed", note=f"accept: {error}")
            return
        self._accepted += 1
        ordinal = self._accepted
        self._record("connected", ordinal)
        upstream = socket.socket(self._upstream.family)
        for sock in client, upstream:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = upstream.connect_ex(self._upstream.address)
        connection = Connection(
            self._loop,
            self._script,
            ordinal,
            client,
            upstream,
            connecting=code == errno.EINPROGRESS,
            gone=self._forget,
        )
        self._connections[ordinal] = connection
        if code not in {0, errno.EINPROGRESS}:
            self._record("unreachable", ordinal, os.strerror(code))
            connection.kill(Cut.RST)

    def _forget(self, connection: Connection) -> None:
        if self._connections.pop(connection.ordinal, None) is not None:
            self._record("closed", connection.ordinal)

    def _kill(self, connection: Connection, by: Cut) -> bool:
        if not connection.kill(by):
            return False
        self._script.fired += 1
        self._record("killed", connection.ordinal, by.value)
        return True

    def _kill_one(self, rng: random.Random) -> bool:
        live = [each for each in self._connections.values() if each.is_live]
        return bool(live) and self._kill(rng.choice(live), rng.choice([Cut.FIN, Cut.RST]))

    def _refuse(self) -> None:
        if self._refusing:
            return
        self._refusing = True
        for listener in self._listeners:
            self._loop.discard(listener)
        # Bound without listening, a socket refuses and keeps the port. A unix socket's file alone refuses.
        self._listeners = [bind(self._addresses[0])]
        self._loop.sockets.update(self._listeners)
        self._record("refusing")

    def _accept_again(self) -> None:
        if not self._refusing:
            return
        for path in self._addresses[1:]:
            release(path)
            self._listeners.append(bind(path))
        self._watch_listeners()
        self._refusing = False
        self._record("accepting")

    def _set_paused(self, *, paused: bool) -> None:
        if paused != self._loop.paused:
            self._loop.paused = paused
            self._record("paused" if paused else "resumed")

    def _close_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()

    def _record(self, kind: str, connection: int = 0, note: str = "") -> None:
        self._script.record(Event(kind, time.monotonic(), connection, note=note))


def _check_match(action: object, command: object, where: object) -> None:
    if not isinstance(action, Action):
        raise UsageError(f"a rule does one of the actions, such as DropReply(), not {action!r}")
    if command is not None and not (
        isinstance(command, str) and command.isascii() and len(command.split()) == 1
    ):
        raise UsageError(f"command must be one word: {command!r}. Tell subcommands apart with where=")
    if where is not None and not callable(where):
        raise UsageError(f"where= takes a function that is called with a Command, not {where!r}")


def _check_cuts(per_second: object, kinds: object) -> None:
    if not isinstance(per_second, int | float) or not 0 < per_second < math.inf:
        raise UsageError(f"per_second must be a finite number above 0: {per_second!r}")
    if not (isinstance(kinds, Sequence) and kinds and all(isinstance(kind, _Cutting) for kind in kinds)):
        raise UsageError(f"kinds must be one or more actions that cut a connection: {kinds!r}")
