"""The first reads of documents on a connection that is not armed for them, for who goes the straight way.

Most documents don't come twice in a row: a session, an account among thousands. What is asked then is less than what a
`Batch` asks: one document read by one command is from one moment, so nothing has to show that it is not torn (design 4.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from txstate._documents.doc import Record
from txstate._effects import NOTHING, Constant, ReplyError, Send
from txstate._engine.armed import FEW, PACKED, Armed, names_of, signature_of
from txstate._engine.claims import claim_names
from txstate._engine.reads import pairs
from txstate._engine.readset import ReadSet, microseconds
from txstate._engine.session import FieldTTLs, has_volatile_fields, is_clean, is_primary
from txstate.errors import CodecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.armed import Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.claims import Turn
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

_CALM: Final = (PACKED, None)
"""The encoding of a small document, and of one that is not there."""


class FirstRead(Armed):
    """What was read, and what is behind a commit that arms nothing: nothing.

    Attributes:
        least: the least version of what is written: by the server's clock, so that none ever comes back.
        names: of the documents' hashes.
    """

    claims: ClassVar[Sequence[Command]] = ()
    commands: ClassVar = NOTHING
    watches: ClassVar = False
    simple: ClassVar = True
    before: tuple[bytes, bytes, int] = b"", b"", 0

    def __init__(
        self, signature: Hashable, spares: dict[str, Record], names: dict[str, bytes], least: int
    ) -> None:
        super().__init__(signature, None, spares)
        self.names, self.least = names, least

    @property
    def read_set(self) -> ReadSet:
        """What was read, and is watched."""
        if self._read_set is None:
            self._read_set = ReadSet({key: spare.existed for key, spare in self.spares.items()}, self.names)
            self._read_set.time = self.least
        return self._read_set

    def take(self, replies: Sequence[object], turn: Turn) -> None:
        """Nothing was asked."""


def begin_by_first_read(attempt: Attempt, wanted: Wanted) -> Steps[None]:
    """Begin an attempt, so if that will do: what was read is then among the spares.

    Args:
        attempt: what this is for.
        wanted: what its function asks for.

    Raises:
        Condemned: no channel became free.
        TooLate: the call's deadline has passed.
        CrossSlotError: the keys are in several slots of a cluster.
        BaseException: whatever the driver throws. The socket is not used again.
    """
    settings = attempt.settings
    fits = attempt.signature is None and settings.plain and len(wanted) <= FEW
    if not fits:
        return (yield from attempt.begin(wanted))
    signature, timeout = signature_of(settings, wanted), attempt.remaining()
    channel = settings.take_idle(signature)
    if channel is None:
        return (yield from attempt.begin(wanted))
    attempt.channel, attempt.signature = channel, signature
    try:
        first = yield from first_read(settings, channel, signature, wanted, timeout)
    except BaseException:
        channel.drop()
        raise
    if first is not None:
        attempt.read_set, attempt.documents.spares = first.read_set, first.spares
    return None


def first_read(
    settings: Settings, channel: Channel, signature: Hashable, wanted: Wanted, timeout: float
) -> Steps[FirstRead | None]:
    """Watch and read a few documents.

    Args:
        settings: the store's.
        channel: where; connected, and armed for nothing.
        signature: of the call.
        wanted: what to read.
        timeout: seconds that the reply may take.

    Returns:
        What was read; None: something is unusual, and to be read as always.

    Raises:
        BaseException: whatever the driver throws. The socket is not to be used again.
    """
    session: Session | None = channel.session
    if session is None or not _serves(session):
        return None
    try:
        names = {key: settings.redis_key(key) for key in wanted}
    except UsageError:
        return None
    parts = [None if fields is None else names_of(key, fields) for key, fields in wanted.items()]
    commands: list[Command] = [("UNWATCH",)] if session.watching else []
    read = len(commands) + 1
    commands.append(("WATCH", session.token, *names.values()))
    commands += [
        ("HGETALL", name) if part is None else ("HMGET", name, *part)
        for name, part in zip(names.values(), parts, strict=True)
    ]
    asked = len(commands)
    commands.append(("MGET", session.token, *claim_names(settings, wanted)))
    if session.packed and session.field_ttls is FieldTTLs.COUNTED:
        commands += [("OBJECT", "ENCODING", name) for name in names.values()]
    told, several = len(commands), len(wanted) > 1
    counts = several or parts[0] is not None  # HMGET can't tell a missing document
    if counts:
        commands.append(("EXISTS", *names.values()))
    if several:
        commands.append(("CLIENT", "INFO"))
    session.watching, session.armed = True, None
    settings.counters.add(round_trips=1)
    replies = yield Send(channel, commands, timeout, _asked(session))
    kept = replies[asked]
    if (
        replies[:read].count(b"OK") < read
        or type(kept) is not list
        or kept[0] is None  # the token is gone
        or kept.count(None) < len(wanted)  # it is another's turn
        or not is_primary(replies[-1])
        or not _is_calm(session, replies[asked + 1 : told] or replies[len(commands) : -2])
    ):
        return None
    try:
        spares = {
            key: _record(key, part, reply, wanted[key])
            for key, part, reply in zip(wanted, parts, replies[read:asked], strict=True)
        }
        first = FirstRead(signature, spares, names, microseconds(replies[-2]))
    except (ReplyError, CodecError):
        return None
    if counts and replies[told] != sum(spare.existed for spare in spares.values()):
        return None
    # Each was read by a command of its own: unchanged until the last one was read, they are from one moment.
    return first if not several or is_clean(replies[told + 1]) else None


def _serves(session: Session) -> bool:
    """Whether all is known that has to be known of a session."""
    return (
        session.token_set
        and session.role is not None
        and session.flags
        and (session.packed or session.calm)
        and session.field_ttls is not FieldTTLs.UNCOUNTED
    )


def _asked(session: Session) -> Constant:
    """What is wanted to know beside the document, in the same words each time."""
    if not session.asked:
        assert session.role is not None  # noqa: S101 - `_serves` says so
        counts = session.field_ttls is FieldTTLs.COUNTED and not session.packed
        session.asked = Constant((*((("INFO", "keyspace"),) if counts else ()), ("TIME",), session.role))
    return session.asked


def _is_calm(session: Session, told: Sequence[object]) -> bool:
    """Whether no field of them expires by itself, by the replies that tell; none: there is no such thing."""
    if not told:
        return True
    if not session.packed:
        session.calm = not has_volatile_fields(told[0])
        return session.calm
    for encoding in told:
        if encoding not in _CALM:
            session.packed, session.asked = False, NOTHING  # from now on by INFO, which tells of all
            return False
    return True


def _record(key: str, part: Sequence[bytes] | None, reply: object, fields: Sequence[str] | None) -> Record:
    """The document as read; one of which there is nothing counts as missing.

    Raises:
        ReplyError: it was not.
        CodecError: its version is none.
    """
    if part is None:
        raw = pairs(reply)
    elif type(reply) is list:
        raw = dict(zip(part, reply, strict=True)) if reply.count(None) < len(reply) else {}
    else:
        raise ReplyError(f"TXSTATE HMGET answered {reply!r}")
    if raw:
        return Record.read(key, raw, fields, whole=part is None)
    record = Record(key)
    record.load(exists=False, fields={}, whole=False)
    record.asked = fields
    return record
