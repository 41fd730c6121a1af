"""The entries of a read set: what each asks the server, and what it makes of the answer.

Each emits its own commands and takes its own replies. None of them knows of WATCH, or of the other entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

from txstate._documents.codec import VERSION_FIELD
from txstate._effects import ReplyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._documents.doc import Record
    from txstate._effects import Command

_NO_FIELD: Final = -2
_ALMOST: Final = 1000


class Stale(Exception):  # noqa: N818 - a signal, named for what happened
    """What was read before no longer holds.

    Attributes:
        of_socket: it can't be a modified document alone (the token may be gone): don't use this socket again.
    """

    def __init__(self, *, of_socket: bool = False) -> None:
        super().__init__()
        self.of_socket = of_socket


class Read(ABC):
    """One thing read of one key.

    Args:
        key: the user's name of the document.
        name: the hash's name on the server.
    """

    __slots__ = ("key", "name", "present")

    replies: ClassVar[int] = 1
    """How many commands it emits."""

    def __init__(self, key: str, name: bytes) -> None:
        self.key, self.name = key, name
        self.present = False

    @abstractmethod
    def commands(self) -> Sequence[Command]:
        """What to send."""

    @abstractmethod
    def take(self, replies: Sequence[object]) -> None:
        """Keep what was answered; `present` then tells whether the key existed.

        Raises:
            ReplyError: the server refused it.
            CodecError: the version that the hash holds is none.
            Stale: it was read before and no longer holds.
        """

    def same(self, before: Sequence[object], after: Sequence[object]) -> bool:
        """Whether two answers tell the same."""
        return before == after


class DocRead(Read):
    """Fields of a document, loaded into its record."""

    __slots__ = ("record",)

    def __init__(self, record: Record, name: bytes) -> None:
        super().__init__(record.key, name)
        self.record = record

    def field_names(self) -> list[bytes]:
        """The fields that were found, but for the version, which never expires."""
        return [
            name for name, value in self.record.raw().items() if value is not None and name != VERSION_FIELD
        ]


class WholeRead(DocRead):
    """All fields of a document."""

    __slots__ = ()

    def commands(self) -> Sequence[Command]:
        """HGETALL."""
        return [("HGETALL", self.name)]

    def take(self, replies: Sequence[object]) -> None:
        """Load the record."""
        fields = pairs(_checked(replies[0]))
        self.present = bool(fields)
        self.record.load(exists=self.present, fields=fields, whole=True)


class FieldsRead(DocRead):
    """Some fields of a document, and whether there is one at all: HMGET can't tell a missing hash."""

    __slots__ = ("fields",)

    replies = 2

    def __init__(self, record: Record, name: bytes, fields: Sequence[bytes]) -> None:
        super().__init__(record, name)
        self.fields = tuple(dict.fromkeys((VERSION_FIELD, *fields)))

    def commands(self) -> Sequence[Command]:
        """HMGET, then EXISTS."""
        return [("HMGET", self.name, *self.fields), ("EXISTS", self.name)]

    def take(self, replies: Sequence[object]) -> None:
        """Load the record."""
        values, exists = _checked(replies[0]), _checked(replies[1])
        if not isinstance(values, list):
            raise ReplyError(f"TXSTATE HMGET answered {values!r}")
        self.present = exists == 1
        fields = dict(zip(self.fields, values, strict=True)) if self.present else {}
        self.record.load(exists=self.present, fields=fields, whole=False)


class TTLRead(Read):
    """How long a key has to live: `left` in milliseconds, None if it does not expire or does not exist."""

    __slots__ = ("left",)

    def commands(self) -> Sequence[Command]:
        """PTTL."""
        return [("PTTL", self.name)]

    def take(self, replies: Sequence[object]) -> None:
        """Keep the time left."""
        left = _checked(replies[0])
        if not isinstance(left, int):
            raise ReplyError(f"TXSTATE PTTL answered {left!r}")
        self.present = left != _NO_FIELD
        self.left = left if left >= 0 else None

    def same(self, before: Sequence[object], after: Sequence[object]) -> bool:
        """Time passes between two answers; what matters is whether the expiry was changed."""
        first, second = before[0], after[0]
        if not isinstance(first, int) or not isinstance(second, int):
            return False
        return first == second if first < 0 or second < 0 else abs(first - second) < _ALMOST


class FieldTTLsRead(Read):
    """When the fields of a document expire, each on its own; sent again with every later batch.

    WATCH does not see a field expire, so a field once seen must be shown to be still there.

    Attributes:
        volatile: the fields that expire, with the Unix time in milliseconds; None before the first answer.
    """

    __slots__ = ("fields", "volatile")

    def __init__(self, key: str, name: bytes, fields: Sequence[bytes]) -> None:
        super().__init__(key, name)
        self.present = True
        self.fields = tuple(fields)
        self.volatile: Mapping[bytes, int] | None = None

    def commands(self) -> Sequence[Command]:
        """HPEXPIRETIME."""
        return [("HPEXPIRETIME", self.name, "FIELDS", b"%d" % len(self.fields), *self.fields)]

    def take(self, replies: Sequence[object]) -> None:
        """Keep the times at first; later see that they still hold."""
        times = _checked(replies[0])
        if not isinstance(times, list) or _NO_FIELD in times:
            raise Stale
        volatile = {field: time for field, time in zip(self.fields, times, strict=True) if time >= 0}
        if self.volatile is not None and volatile != self.volatile:
            raise Stale
        self.volatile = volatile
        self.fields = tuple(volatile)


def read_of(record: Record, name: bytes, fields: Sequence[bytes] | None) -> DocRead:
    """The read that fetches these fields of a document; None: all of them."""
    return WholeRead(record, name) if fields is None else FieldsRead(record, name, fields)


def pairs(reply: object) -> dict[bytes, bytes | None]:
    """The fields in a reply of HGETALL, which is a map in RESP3 and a flat array in RESP2."""
    if isinstance(reply, dict):
        return reply
    if isinstance(reply, list):
        return dict(zip(reply[::2], reply[1::2], strict=True))
    raise ReplyError(f"TXSTATE HGETALL answered {reply!r}")


def _checked(reply: object) -> object:
    if isinstance(reply, ReplyError):
        raise reply
    return reply
