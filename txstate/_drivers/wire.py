"""Bytes: commands packed for a whole batch at once, replies parsed by one reader."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import hiredis

from txstate._effects import NOTHING, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Command, Constant

_NOT_ENOUGH: Final = object()
_BUFFER: Final = 65536
_Push: Final = hiredis.PushNotification


_pack_command: Final[Callable[[Command], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows 1-tuples only


def pack(commands: Sequence[Command], tail: Constant = NOTHING) -> bytes:
    """A batch as it goes over the wire."""
    parts = list(map(_pack_command, commands))
    if tail:
        parts.append(tail.packed or _kept(tail))
    return b"".join(parts)


def _kept(tail: Constant) -> bytes:
    tail.packed = pack(tail)
    return tail.packed


class Replies:
    """The replies to batches on one socket, as bytes come in."""

    __slots__ = ("_gets", "_reader", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER)
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_ENOUGH)
        self._gets = self._reader.gets

    def feed(self, length: int) -> None:
        """Take in as many bytes of the buffer."""
        self._reader.feed(self.buffer, 0, length)  # type: ignore[arg-type]  # any buffer will do

    def feed_bytes(self, data: bytes) -> None:
        """Take in bytes from elsewhere."""
        self._reader.feed(data)

    def take(self, replies: list[object], wanted: int) -> bool:
        """Append what has arrived; whether there are as many as wanted now.

        A push of RESP3 may come between two replies, and is none.
        """
        missing = wanted - len(replies)
        while missing:
            # In C all the way: a loop here would cost as much as parsing does.
            arrived = list(islice(iter(self._gets, _NOT_ENOUGH), missing))
            if not arrived:
                return False
            if _Push in map(type, arrived):
                arrived = [reply for reply in arrived if type(reply) is not _Push]
            replies += arrived
            missing -= len(arrived)
        return True
