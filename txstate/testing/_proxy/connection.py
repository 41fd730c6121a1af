"""One proxied connection: which reply belongs to which command, and carrying out what a rule says.

Owns both endpoints of the connection and the order of its commands. Which rule is for which command, the script
decides. All of it runs in the loop's thread.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from txstate.testing._proxy.endpoint import Cut, Endpoint, Gate
from txstate.testing._proxy.faults import (
    Command,
    CutReply,
    CutRequest,
    Delay,
    DropReply,
    DropRequest,
    Event,
    HoldReply,
    HoldRequest,
    Late,
)
from txstate.testing._proxy.resp import PUSH, ProtocolError, Scanner, command_of, value_of
from txstate.testing._proxy.rules import Armed, Held

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from txstate.testing._proxy.loop import Loop
    from txstate.testing._proxy.script import Script

# What they are answered with is no longer one reply per command.
_STREAMING: Final = {
    *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"),
    *("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"),
    *("MONITOR", "SYNC", "PSYNC"),
}


@dataclass(slots=True)
class _Asked:
    """A command whose reply is still to come."""

    command: Command
    armed: Armed | None = None  # a rule that acts on the reply
    delay: float = 0.0  # of the reply, in seconds
    streaming: bool = False


@dataclass(slots=True)
class _Budget:
    """How many bytes may still pass in one direction before a cut."""

    armed: Armed
    command: Command
    left: int
    by: Cut


class Connection:
    """A client's connection, together with its own connection to the upstream.

    Args:
        loop: whose thread it lives in.
        script: what shall happen.
        ordinal: 1, 2, ...
        client: the accepted socket.
        upstream: the socket to the server.
        connecting: the upstream's `connect` is still under way.
        gone: called when both sockets are closed.
    """

    def __init__(
        self,
        loop: Loop,
        script: Script,
        ordinal: int,
        client: socket.socket,
        upstream: socket.socket,
        *,
        connecting: bool,
        gone: Callable[[Connection], None],
    ) -> None:
        self.ordinal = ordinal
        self._loop, self._script, self._gone = loop, script, gone
        self._over = False  # cut: what still comes is read and thrown away
        self._silent = False  # cut, and the client is not told
        self._held: Held | None = None
        self._answers: list[object] = []  # to what was held
        self._requests, self._replies = Scanner(inline=True), Scanner()
        self._asked: collections.deque[_Asked] = collections.deque()
        self._counts: collections.Counter[str] = collections.Counter()
        self._asks_stream = self._gets_stream = False  # replies can't be told apart any more
        self._request_budget: _Budget | None = None
        self._reply_budget: _Budget | None = None
        self._client = Endpoint(loop, client, self)
        self._upstream = Endpoint(loop, upstream, self, connecting=connecting)

    @property
    def is_live(self) -> bool:
        """Whether bytes still pass."""
        return not self._over

    def kill(self, by: Cut) -> bool:
        """Cut both sides at once; what is on its way is lost. A request that is late is left alone.

        Returns:
            Whether there was something to kill.
        """
        if self._held is not None or (self._over and not self._silent):
            return False
        self._over, self._silent = True, by is Cut.SILENCE
        if not self._silent:
            self._client.end(by, at_once=True)
            self._upstream.end(by, at_once=True)
        return True

    def close(self) -> None:
        """Close both sides without ceremony."""
        self._client.close()
        self._upstream.close()

    def received(self, endpoint: Endpoint, data: bytes) -> None:
        """Bytes came from one side: hand them to the other."""
        try:
            if endpoint is self._client:
                if not self._over:
                    self._take_requests(data)
            elif self._held is not None or not self._over:
                self._take_replies(data)
        except ProtocolError as error:
            self._record("failed", note=str(error))
            self._lose_held(error)
            self._cut(Cut.RST)
        self._client.flush()
        self._upstream.flush()

    def ended(self, endpoint: Endpoint, error: OSError | None) -> None:
        """One side ended: so does the other, after what is still on its way."""
        if endpoint is self._client:
            if not self._over:
                self._to_upstream(self._requests.rest())
            else:
                self._client.end(Cut.FIN)
            if self._held is None:
                self._upstream.end(Cut.FIN, linger=None)
            return
        if endpoint.is_connecting:
            self._record("unreachable", note=str(error))
        self._lose_held(error)
        if not self._over:
            self._to_client(self._replies.rest())
            self._client.end(Cut.FIN if error is None else Cut.RST)
        self._upstream.end(Cut.FIN)

    def closed(self, endpoint: Endpoint) -> None:
        """One socket is closed; with both of them, the connection is gone."""
        if endpoint is self._upstream:
            self._lose_held(None)
        if not (self._client.is_closed and self._upstream.is_closed):
            return
        self._over = True
        for owed in [*self._asked, self._request_budget, self._reply_budget]:
            if owed is not None and owed.armed is not None:
                owed.armed.give_back()
        self._asked.clear()
        self._request_budget = self._reply_budget = None
        self._gone(self)

    def _take_requests(self, data: bytes) -> None:
        if self._asks_stream:
            self._to_upstream(data)
            return
        self._requests.feed(data)
        while not self._over and (frame := self._requests.next()) is not None:
            words = command_of(frame)
            if not words:
                self._to_upstream(frame)
                continue
            self._take_command(self._script.meet(words, self.ordinal, self._counts), frame)
            if self._asks_stream and not self._over:
                self._to_upstream(self._requests.rest())

    def _take_command(self, command: Command, frame: bytes) -> None:
        armed = self._script.claim(command)
        asked = _Asked(command, streaming=_streams(command))
        delay, gate = 0.0, None
        if armed is not None:
            match armed.action:
                case DropReply() | CutReply() | HoldReply():
                    asked.armed = armed
                case DropRequest(by):
                    self._script.fire(armed, command)
                    self._cut(by, upstream_by=Cut.FIN)
                    return
                case Late(by):
                    self._make_late(armed, command, frame, by)
                    return
                case CutRequest(at, by):
                    self._request_budget = self._replaced(
                        self._request_budget, _Budget(armed, command, at, by)
                    )
                case Delay(delay, later):
                    asked.delay = later
                    self._script.fire(armed, command)
                case HoldRequest():
                    gate = armed.gate
                    self._script.fire(armed, command)
                case unknown:
                    assert_never(unknown)
        self._asks_stream = asked.streaming
        self._asked.append(asked)
        self._to_upstream(frame, delay, gate)

    def _take_replies(self, data: bytes) -> None:
        if self._gets_stream:
            self._to_client(data)
            return
        self._replies.feed(data)
        while self._held is not None or not self._over:
            if self._asked and self._asked[0].streaming:
                if rest := self._replies.rest():
                    self._gets_stream = True
                    self._take_reply(self._asked.popleft(), rest)
                return
            frame = self._replies.next()
            if frame is None:
                return
            if self._replies.kind == PUSH or not self._asked:
                self._to_client(frame)
            else:
                self._take_reply(self._asked.popleft(), frame)

    def _take_reply(self, asked: _Asked, frame: bytes) -> None:
        armed, command = asked.armed, asked.command
        if self._held is not None:
            self._answer_held(self._held, asked, frame)
            return
        gate = None
        if armed is not None and armed.active:
            match armed.action:
                case DropReply(by):
                    self._script.fire(armed, command)
                    self._cut(by)
                    return
                case CutReply(at, by):
                    self._reply_budget = self._replaced(self._reply_budget, _Budget(armed, command, at, by))
                case _:
                    gate = armed.gate
                    self._script.fire(armed, command)
        self._to_client(frame, asked.delay, gate)

    def _to_upstream(self, data: bytes, delay: float = 0.0, gate: Gate | None = None) -> None:
        delay += self._script.request_latency
        self._pass(self._upstream, self._request_budget, data, delay, gate)

    def _to_client(self, data: bytes, delay: float = 0.0, gate: Gate | None = None) -> None:
        if not self._over:
            delay += self._script.reply_latency
            self._pass(self._client, self._reply_budget, data, delay, gate)

    def _pass(
        self, to: Endpoint, budget: _Budget | None, data: bytes, delay: float, gate: Gate | None
    ) -> None:
        """Queue bytes for one side, and cut where a budget ends."""
        cut = False
        if budget is not None and budget.armed.active:
            cut = len(data) >= budget.left
            data = data[: budget.left]
            budget.left -= len(data)
        to.send(data, due=time.monotonic() + delay if delay else 0.0, gate=gate)
        if budget is not None and cut:
            if budget is self._request_budget:
                self._request_budget = None
            else:
                self._reply_budget = None
            self._script.fire(budget.armed, budget.command)
            self._cut(budget.by)

    def _replaced(self, old: _Budget | None, new: _Budget) -> _Budget:
        """Count for one cut at a time: the first one goes on, the later one waits for another command."""
        if old is None or not old.armed.active:
            return new
        new.armed.give_back()
        return old

    def _cut(self, by: Cut, *, upstream_by: Cut | None = None) -> None:
        """End both sides, after what is on its way to them."""
        self._over, self._silent = True, by is Cut.SILENCE
        if not self._silent:
            self._client.end(by)
            self._upstream.end(upstream_by or by)

    def _make_late(self, armed: Armed, command: Command, frame: bytes, by: Cut) -> None:
        """Take the command and all that came after it out of the stream, and cut the client."""
        commands, data = [command], [frame]
        while (frame_after := self._requests.next()) is not None:
            data.append(frame_after)
            if words := command_of(frame_after):
                commands.append(self._script.meet(words, self.ordinal, self._counts))
        data.append(self._requests.rest())
        self._asked.extend(map(_Asked, commands))
        self._held = held = Held(
            self._loop, tuple(commands), b"".join(data), send=self._send_held, discard=self._discard_held
        )
        self._over, self._silent = True, by is Cut.SILENCE
        if not self._silent:
            self._client.end(by)
        self._script.fire(armed, command, held)

    def _send_held(self) -> None:
        if self._held is not None:
            self._upstream.send(self._held.data)
            self._upstream.flush()
            self._record("delivered", self._held.commands[0])

    def _discard_held(self) -> None:
        if self._held is not None:
            self._record("discarded", self._held.commands[0])
            self._held = None
            self._upstream.end(Cut.FIN)

    def _answer_held(self, held: Held, asked: _Asked, frame: bytes) -> None:
        if asked.armed is not None:  # its reply went nowhere without its doing
            asked.armed.give_back()
        if asked.command in held.commands:
            self._answers.append(value_of(frame))
        if len(self._answers) == len(held.commands):
            self._held = None
            held.answer.set_result(tuple(self._answers))
            self._upstream.end(Cut.FIN)

    def _lose_held(self, error: Exception | None) -> None:
        if self._held is not None:
            lost = ConnectionError(
                f"the server's side of connection {self.ordinal} ended before {self._held.commands[0].name} was answered"
            )
            lost.__cause__ = error
            self._held.answer.set_exception(lost)
            self._held = None

    def _record(self, kind: str, command: Command | None = None, note: str = "") -> None:
        self._script.record(Event(kind, time.monotonic(), self.ordinal, command, note=note))


def _streams(command: Command) -> bool:
    return command.name in _STREAMING or (
        command.name == "CLIENT" and [arg.upper() for arg in command.args[:1]] == [b"REPLY"]
    )
