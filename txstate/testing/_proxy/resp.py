"""RESP2 and RESP3, read incrementally: where one frame ends, and what is in it.

Knows nothing of sockets, commands or faults. Frames come out as the very bytes that went in, so that whoever
forwards them can't change them. Streamed strings and aggregates (``$?``, ``*?``) are refused: no server sends them.
Grammar: https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

EOL: Final = b"\r\n"
PUSH: Final = ord(">")

_LINES: Final = frozenset(b"+-:_#,(")
_BULKS: Final = frozenset(b"$=!")
_AGGREGATES: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_ARRAY: Final = ord("*")
_ATTRIBUTE: Final = ord("|")


class ProtocolError(ValueError):
    """Bytes that are no RESP."""


class ReplyError(Exception):
    """An error that the server answered, as a value: ``str()`` of it is the server's text."""


class Scanner:
    """Splits a stream of bytes into frames, however it was cut into pieces.

    Args:
        inline: take a line that starts with no RESP type for a frame of its own (requests may be typed by hand).
    """

    __slots__ = ("_buffer", "_end", "_inline", "_kind", "_open")

    def __init__(self, *, inline: bool = False) -> None:
        self._inline = inline
        self._buffer = bytearray()
        self._end = 0  # everything before it is understood; past the buffer while a bulk string is on its way
        self._open: list[int] = []  # per aggregate around `_end`: how many elements are still to come
        self._kind = 0

    @property
    def kind(self) -> int:
        """The type byte of the last frame, attributes left aside."""
        return self._kind

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Cut off the next whole frame.

        Returns:
            Its bytes, with the attributes that precede it, or None while it is not complete.

        Raises:
            ProtocolError: it is no RESP.
        """
        buffer, remaining = self._buffer, self._open
        if not remaining and not self._end:
            remaining.append(1)
        while remaining:
            eol = buffer.find(EOL, self._end)
            if eol < 0:
                return None
            self._value(self._end, eol)
        if self._end > len(buffer):
            return None
        frame = bytes(buffer[: self._end])
        del buffer[: self._end]
        self._end = 0
        return frame

    def rest(self) -> bytes:
        """Take all bytes that were not cut off yet, and start anew after them."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._open.clear()
        self._end = 0
        return data

    def _value(self, start: int, eol: int) -> None:
        """Step over one value whose first line ends at `eol`; of an aggregate, over its header."""
        buffer, remaining = self._buffer, self._open
        kind = buffer[start]
        outermost = remaining == [1]
        if outermost:
            self._kind = kind
        self._end = eol + 2
        if kind in _LINES or (outermost and self._inline and kind != _ARRAY):
            pass
        elif kind in _BULKS:
            size = _length(buffer, start, eol)
            self._end += size + 2 if size >= 0 else 0
        elif kind in _AGGREGATES:
            if kind == _ATTRIBUTE:
                remaining[-1] += 1  # it comes before a value and is none
            remaining[-1] -= 1
            remaining.append(max(_length(buffer, start, eol), 0) * _AGGREGATES[kind])
            remaining[-1] += 1  # taken off again below, as for every value
        else:
            raise ProtocolError(f"no RESP: {bytes(buffer[start : eol + 2])!r}")
        remaining[-1] -= 1
        while remaining and remaining[-1] == 0:
            remaining.pop()


def command_of(frame: bytes) -> list[bytes]:
    """Read a request: its name and arguments; empty for an empty one.

    Raises:
        ProtocolError: it is neither an array of bulk strings nor an inline command.
    """
    if not frame.startswith(b"*"):
        return frame.split()
    words = []
    at = frame.find(EOL) + 2
    while at < len(frame):
        eol = frame.find(EOL, at)
        if frame[at] != ord("$"):
            raise ProtocolError(f"a request is an array of bulk strings: {frame[:80]!r}")
        end = eol + 2 + _length(frame, at, eol)
        words.append(frame[eol + 2 : end])
        at = end + 2
    return words


def value_of(frame: bytes) -> object:
    """Read a reply.

    Returns:
        bytes for every kind of string, int, float, bool, None, list for arrays, sets and pushes, dict for maps (keys
        made hashable), `ReplyError` for errors. Attributes are left out.

    Raises:
        ProtocolError: it is no RESP.
    """
    return _parse(frame, 0)[0]


def _parse(frame: bytes, start: int) -> tuple[object, int]:
    """Read the value that begins at `start`; also say where the next one begins."""
    eol = frame.find(EOL, start)
    kind, line, end = frame[start : start + 1], frame[start + 1 : eol], eol + 2
    if frame[start] in _AGGREGATES:
        count = _length(frame, start, eol)
        items: list[object] = []
        for _ in range(count * _AGGREGATES[frame[start]]):
            item, end = _parse(frame, end)
            items.append(item)
        if kind == b"|":
            return _parse(frame, end)
        if kind == b"%":
            return dict(zip(map(_hashable, items[::2]), items[1::2], strict=True)), end
        return (None if count < 0 else items), end
    if frame[start] in _BULKS:
        size = _length(frame, start, eol)
        if size < 0:
            return None, end
        line, end = frame[end : end + size], end + size + 2
    return _scalar(kind, line), end


def _scalar(kind: bytes, text: bytes) -> object:
    if kind not in _SCALARS:
        raise ProtocolError(f"no RESP: {kind + text!r}")
    return _SCALARS[kind](text)


def _hashable(value: object) -> Hashable:
    return repr(value) if isinstance(value, list | dict) else value


def _length(data: bytes | bytearray, start: int, eol: int) -> int:
    try:
        return int(data[start + 1 : eol])
    except ValueError as error:
        raise ProtocolError(f"no RESP length: {bytes(data[start : eol + 2])!r}") from error


_SCALARS: Final[dict[bytes, Callable[[bytes], object]]] = {
    b"+": bytes,
    b"$": bytes,
    b"-": lambda text: ReplyError(text.decode(errors="replace")),
    b"!": lambda text: ReplyError(text.decode(errors="replace")),
    b":": int,
    b"(": int,
    b"=": lambda text: text[4:],  # "txt:" or "mkd:" goes before the string
    b",": float,
    b"#": lambda text: text == b"t",
    b"_": lambda _: None,
}
