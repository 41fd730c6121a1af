"""The first read of a document on a connection that is not armed for it, for who goes the straight way (`straight`).

Most documents don't come twice in a row: a session, an account among thousands. What is asked then is less than what a
`Batch` asks: one document read by one command is from one moment, so nothing has to show that it is not torn (design 4.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from txstate._codec import VERSION_FIELD, decode_version
from txstate._docs import Record, Stored
from txstate._effects import NOTHING, Constant, ReplyError, Send
from txstate._engine.armed import PACKED, Armed, names_of
from txstate._engine.claims import claim_names
from txstate._engine.reads import pairs
from txstate._engine.readset import ReadSet, microseconds
from txstate._engine.session import FieldTTLs, has_volatile_fields, role_of
from txstate.errors import CodecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.claims import Turn
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

_CALM: Final = (PACKED, None)
"""The encoding of a small document, and of one that is not there."""


class FirstRead(Armed):
    """What was read, and what is behind a commit that arms nothing: nothing.

    Attributes:
        least: the least version of what is written: by the server's clock, so that none ever comes back.
        names: of the document's hash.
    """

    claims: ClassVar[Sequence[Command]] = ()
    commands: ClassVar = NOTHING
    watches: ClassVar = False
    simple: ClassVar = True
    before: tuple[bytes, bytes, int] = b"", b"", 0

    def __init__(self, signature: Hashable, record: Record, name: bytes, least: int) -> None:
        super().__init__(signature, None, {record.key: record})
        self.names, self.least = {record.key: name}, least

    @property
    def read_set(self) -> ReadSet:
        """What was read, and is watched."""
        if self._read_set is None:
            ((key, record),) = self.spares.items()
            self._read_set = ReadSet({key: record.existed}, self.names)
            self._read_set.time = self.least
        return self._read_set

    def take(self, replies: Sequence[object], turn: Turn) -> None:
        """Nothing was asked."""


def first_read(
    settings: Settings, channel: Channel, signature: Hashable, key: str, fields: Sequence[str] | None
) -> Steps[FirstRead | None]:
    """Watch and read one document.

    Args:
        settings: the store's.
        channel: where; connected, and armed for nothing.
        signature: of the call.
        key: of the document.
        fields: fetch only these.

    Returns:
        What was read; None: something is unusual, and to be read as always.

    Raises:
        BaseException: whatever the driver throws. The socket is not to be used again.
    """
    session: Session | None = channel.session
    if session is None or not _serves(session):
        return None
    try:
        name, names = settings.redis_key(key), None if fields is None else names_of(key, fields)
    except UsageError:
        return None
    commands: list[Command] = [("UNWATCH",)] if session.watching else []
    read = len(commands) + 1
    commands += (
        ("WATCH", session.token, name),
        ("HGETALL", name) if names is None else ("HMGET", name, *names),
        ("MGET", session.token, *claim_names(settings, (key,))),
    )
    if session.packed and session.field_ttls is FieldTTLs.COUNTED:
        commands.append(("OBJECT", "ENCODING", name))
    session.watching, session.armed = True, None
    settings.counters.add(round_trips=1)
    timeout = min(settings.timeout, settings.retry.deadline)
    replies = yield Send(channel, commands, timeout, _asked(session))
    raw, kept, *ttls, time, role = replies[read:]
    if (
        replies[read - 1] != b"OK"
        or type(kept) is not list
        or kept[0] is None  # the token is gone
        or kept[1] is not None  # it is another's turn
        or role_of(role) != b"master"
        or (ttls and not _is_calm(session, ttls[0]))
    ):
        return None
    try:
        record = _whole(key, pairs(raw)) if names is None else _partial(key, names, raw, fields)
        return FirstRead(signature, record, name, microseconds(time))
    except (ReplyError, CodecError):
        return None


def _serves(session: Session) -> bool:
    """Whether all is known that has to be known of a session."""
    return (
        session.token_set
        and session.role is not None
        and session.flags
        and session.field_ttls is not FieldTTLs.UNCOUNTED
    )


def _asked(session: Session) -> Constant:
    """What is wanted to know beside the document, in the same words each time."""
    if not session.asked:
        assert session.role is not None  # noqa: S101 - `_serves` says so
        counts = session.field_ttls is FieldTTLs.COUNTED and not session.packed
        session.asked = Constant((*((("INFO", "keyspace"),) if counts else ()), ("TIME",), session.role))
    return session.asked


def _is_calm(session: Session, told: object) -> bool:
    """Whether no field of it expires by itself."""
    if not session.packed:
        return not has_volatile_fields(told)
    if told in _CALM:
        return True
    session.packed, session.asked = False, NOTHING  # from now on by INFO, which tells of all
    return False


def _partial(key: str, names: Sequence[bytes], reply: object, fields: Sequence[str] | None) -> Record:
    """The document as read in part.

    Raises:
        ReplyError: it was not, or can't be told from a missing one.
        CodecError: its version is none.
    """
    raw = dict(zip(names, reply, strict=True)) if type(reply) is list else {}
    if raw.get(VERSION_FIELD) is None:
        raise ReplyError("TXSTATE there is no version")
    return Record.read(key, raw, fields, whole=False)


def _whole(key: str, raw: dict[bytes, bytes | None]) -> Record:
    """The document as read.

    Raises:
        CodecError: its version is none.
    """
    version = raw.get(VERSION_FIELD)
    if version is not None:
        return Stored(key, raw, decode_version(version, key=key))
    record = Record(key)
    record.load(exists=bool(raw), fields=raw, whole=True)
    return record
