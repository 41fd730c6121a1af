"""Bytes: commands packed for a whole batch at once, replies parsed by one reader."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import hiredis

from txstate._effects import NOTHING, Bulky, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from txstate._effects import Command, Constant

_NOT_ENOUGH: Final = object()
_BUFFER: Final = 65536
_Push: Final = hiredis.PushNotification

CLOSED: Final = "the server closed the connection"
NUDGE: Final = b"*1\r\n$4\r\nPING\r\n"
"""Makes a server look at the time. Its reply is one more to wait for."""
LATE: Final = 0.001
"""Seconds beyond the time for which a command was to block, in which it is sure to have ended."""


_pack_command: Final[Callable[[Command], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows 1-tuples only


def pack(commands: Sequence[Command], tail: Constant = NOTHING) -> tuple[bytes, Iterable[bytes]]:
    """A batch as it goes over the wire: what to send first, and what behind it.

    All at once if that is little. Of a `Bulky` command hiredis would hold three copies, and the joined batch would be a
    fourth; so its large arguments are sent as they are.
    """
    try:
        return b"".join(map(_pack_command, commands)) + (tail.packed or _kept(tail)), ()
    except TypeError:  # it is what hiredis says to a Bulky one
        if not any(isinstance(command, Bulky) for command in commands):
            raise
        return b"", _pieces(chain(commands, tail))


def _pieces(commands: Iterable[Command]) -> Iterator[bytes]:
    """The same in pieces, joined as long as they are small."""
    gathered, size = [], 0
    for command in commands:
        gathered.append(b"*%d\r\n" % len(command))
        for part in command:
            argument = part.encode() if isinstance(part, str) else part
            gathered.append(b"$%d\r\n" % len(argument))
            size += len(argument)
            if size >= _BUFFER:
                yield b"".join(gathered)
                gathered, size = [], 0
                yield argument
            else:
                gathered.append(argument)
            gathered.append(b"\r\n")
    yield b"".join(gathered)


def _kept(tail: Constant) -> bytes:
    tail.packed = b"".join(map(_pack_command, tail))
    return tail.packed


class Replies:
    """The replies to batches on one socket, as bytes come in."""

    __slots__ = ("_feed", "_gets", "_reader", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER)
        self._renew()

    def shrink(self) -> None:
        """Let go of what a large reply took: the parser would keep its buffer, as long as the longest value was."""
        if not self._reader.has_data():
            self._renew()

    def _renew(self) -> None:
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_ENOUGH)
        self._feed, self._gets = self._reader.feed, self._reader.gets

    def first(self, length: int, wanted: int) -> list[object]:
        """The first of so many replies: those that have arrived with so many bytes in the buffer."""
        self._feed(self.buffer, 0, length)  # type: ignore[arg-type]  # any buffer will do
        replies: list[object] = [*islice(iter(self._gets, _NOT_ENOUGH), wanted)]
        if _Push in map(type, replies):
            self._leave_out_pushes(replies, wanted)
        return replies

    def take(self, data: bytes | bytearray, length: int, replies: list[object], wanted: int) -> bool:
        """Append what has arrived with these bytes; whether there are as many replies as wanted now.

        A push of RESP3 may come between two replies, and is none.
        """
        self._feed(data, 0, length)  # type: ignore[arg-type]  # any buffer will do
        # In C all the way: a loop here would cost as much as parsing does.
        replies += islice(iter(self._gets, _NOT_ENOUGH), wanted - len(replies))
        if _Push in map(type, replies):
            self._leave_out_pushes(replies, wanted)
        return len(replies) == wanted

    def _leave_out_pushes(self, replies: list[object], wanted: int) -> None:
        while _Push in map(type, replies):
            replies[:] = [reply for reply in replies if type(reply) is not _Push]
            replies += islice(iter(self._gets, _NOT_ENOUGH), wanted - len(replies))
