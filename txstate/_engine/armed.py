"""Armed sockets: a snapshot that is watched already when the next transaction asks for it.

Behind its EXEC, in the same round trip, a commit watches and reads again what it had read. The reply that says
committed then holds the next transaction's reads; the reply that says conflict holds the values to try again with. So
a repeated update of the same documents is one round trip.

An armed snapshot is older than the call that uses it. A transaction that writes is validated by its EXEC. One that
doesn't, or whose function raises, is validated before its outcome leaves the library (`Attempt.prove`), the server's
role included: a demoted primary goes on serving clean, stale reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

from txstate._codec import VERSION_FIELD
from txstate._docs import Record
from txstate._effects import LARGE, Constant, ReplyError
from txstate._engine.claims import NO_TURN, Turn, claim_names
from txstate._engine.proof import Proof
from txstate._engine.reads import pairs
from txstate._engine.readset import ReadSet, microseconds
from txstate._engine.session import DIRTY, FieldTTLs, client_flags, has_volatile_fields
from txstate.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from txstate._effects import Command
    from txstate._engine.attempt import Attempt
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

Wanted: TypeAlias = "Mapping[str, Sequence[str] | None]"


class Armed:
    """A snapshot on a socket that watches it.

    Args:
        read_set: None: it is as the tail has read it.

    Attributes:
        signature: the first thing that the transaction asked for; who asks for the same gets it.
        spares: the documents, as read.
        tail: what arms the socket again, behind a commit that asked for the same.
        until: where others were met, by the settings' clock: when the claims that it shows have ended.
        turn: whose turn it is.
    """

    __slots__ = ("_read_set", "signature", "spares", "tail", "turn", "until")

    def __init__(
        self,
        signature: Hashable,
        read_set: ReadSet | None,
        spares: dict[str, Record],
        tail: Tail | None = None,
        until: float = 0.0,
        *,
        turn: Turn = NO_TURN,
    ) -> None:
        self.signature, self._read_set, self.spares, self.tail = signature, read_set, spares, tail
        self.until, self.turn = until, turn

    @property
    def read_set(self) -> ReadSet:
        """What was read, and is watched."""
        if self._read_set is None:
            assert self.tail is not None  # noqa: S101 - then it comes from there
            self._read_set = self.tail.read_set(self.turn)
        return self._read_set


class Tail:
    """What follows an EXEC to arm its socket. The same one serves as long as the same is asked for.

    What it reads is for a later call, and is validated by that call's EXEC or by `Attempt.prove`. So it asks less than
    other batches: not for the time, as an existing document's version needs none, nor for the server's role. One
    document read by one command can't be torn; several are validated as in `FlaggedBatch`.

    Args:
        settings: the store's.
        session: where the commits go.
        signature: what it will be found by.
        wanted: what to read.
        timed: ask for the time, because there is a document without a version.

    Attributes:
        commands: what to send.
        claims: what the commit does to those that are held.
        watches: whether keys are watched behind it.
        names: of the documents' hashes.
        simple: whether it reads one document, which has a version.
    """

    claims: ClassVar[Sequence[Command]] = ()
    watches: ClassVar = True

    def __init__(
        self, settings: Settings, session: Session, signature: Hashable, wanted: Wanted, *, timed: bool
    ) -> None:
        self.session, self.wanted, self.timed = session, dict(wanted), timed
        self._settings = settings
        self._signature = signature
        self.names = {key: settings.redis_key(key) for key in wanted}
        self._all_present = dict.fromkeys(wanted, True)
        self._reads = [(key, fields, _names_of(key, fields)) for key, fields in wanted.items()]
        commands: list[Command] = [("WATCH", session.token, *self.names.values())]
        commands += [
            ("HGETALL", self.names[key]) if names is None else ("HMGET", self.names[key], *names)
            for key, _, names in self._reads
        ]
        self._present = len(commands)
        claims = claim_names(settings, wanted, session.slot)
        commands.append(("MGET", session.token, *claims))
        self._claims = len(claims)
        if timed:
            commands.append(("TIME",))
        self._counted = session.field_ttls is FieldTTLs.COUNTED
        self._calm: object = None  # what INFO last said when no field expired by itself
        if self._counted:
            commands.append(("INFO", "keyspace"))
        self._several = len(self.names) > 1
        self.simple = not (timed or self._several)
        if self._several:
            commands += [("EXISTS", *self.names.values()), ("CLIENT", "INFO")]
        self.commands = Constant(commands)
        self._proof = Proof(session, self.names.values())

    def take(self, replies: Sequence[object], turn: Turn = NO_TURN) -> None:
        """Arm the session, if everything is there, free of others' claims, and from one moment.

        Args:
            replies: to its commands.
            turn: that of the commit.
        """
        here = self._present
        found = replies[here]  # the token's value, and who claims the keys
        if type(replies[0]) is ReplyError or type(found) is not list or found[0] is None:
            return
        until, met = 0.0, NO_TURN
        if found.count(None) != self._claims:
            met, until = self._meet(found[1:], turn)
            if met.others:
                return
        if self._counted and replies[here + self.timed + 1] != self._calm:
            if has_volatile_fields(replies[here + self.timed + 1]):
                return
            self._calm = replies[here + self.timed + 1]
        if self._several and (
            replies[-2] != len(self.names) or DIRTY in (client_flags(replies[-1]) or DIRTY)
        ):
            return
        try:
            spares = {}
            for read, reply in zip(self._reads, replies[1:here], strict=True):
                spares[read[0]] = self._record(read, reply)
            time = microseconds(replies[here + 1]) if self.timed else 0
        except (ReplyError, CodecError):
            return
        read_set = self.read_set(met, time) if time else None
        self.session.armed = Armed(self._signature, read_set, spares, self, until, turn=met)

    def read_set(self, turn: Turn = NO_TURN, time: int = 0) -> ReadSet:
        """What it has read, for who takes that over."""
        read_set = ReadSet(self._all_present, self.names)
        read_set.unproven, read_set.time, read_set.proof, read_set.turn = True, time, self._proof, turn
        return read_set

    def _meet(self, holders: Sequence[object], turn: Turn) -> tuple[Turn, float]:
        """See who has claimed the keys; if others have, the next call stands in line at once."""
        met = turn.after(self.names, holders)
        self.session.finished = until = self._settings.clock()
        if met.others:
            until += max(met.others.values())
            self.session.armed = Armed(self._signature, None, {}, None, until, turn=met)
        return met, until

    def _record(
        self, read: tuple[str, Sequence[str] | None, Sequence[bytes] | None], reply: object
    ) -> Record:
        """The document as read.

        Raises:
            ReplyError: it was not, or is missing, or can't be told from a missing one.
            CodecError: its version is none.
        """
        key, fields, names = read
        if names is None:
            raw = reply if type(reply) is dict else pairs(reply)
        elif type(reply) is list:
            raw = dict(zip(names, reply, strict=True))
        else:
            raise ReplyError(f"TXSTATE HMGET answered {reply!r}")
        if raw.get(VERSION_FIELD) is None and not (self.timed and raw and names is None):
            raise ReplyError("TXSTATE there is no version")
        return Record.read(key, raw, fields, whole=names is None)


def tail_behind(attempt: Attempt, session: Session) -> Tail | None:
    """What to send behind an attempt's EXEC, if arming its socket pays."""
    channel, documents, last = attempt.channel, attempt.documents, attempt.tail
    if channel is None or not channel.hot or attempt.bulky:
        return None
    if attempt.read_set.reads and attempt.read_set.volatile():
        return None
    if last is not None and not last.timed and last.session is session and last.wanted == documents.asked:
        return last
    if not session.flags or session.field_ttls is FieldTTLs.UNCOUNTED:
        return None
    records = documents.records.values()
    if any(record.widest() >= LARGE for record in records):
        return None  # what was read, the parser's copy of what is read again, and that itself: three times the document
    timed = not all(record.has_version for record in records)
    return Tail(attempt.settings, session, attempt.signature, documents.asked, timed=timed)


def rearm(attempt: Attempt) -> None:
    """Leave an attempt's socket armed with what was read and not changed, if that pays."""
    channel, read_set, documents = attempt.channel, attempt.read_set, attempt.documents
    if channel is None or not channel.hot or read_set.unproven or attempt.ttls or documents.widened:
        return
    session = channel.session
    # Claims are the business of this call; the read set that knows of some must not become another's.
    if session is None or not session.flags or read_set.turn is not NO_TURN or read_set.volatile():
        return
    read_set.shelve()
    session.armed = Armed(attempt.signature, read_set, documents.as_read(), attempt.tail)


def _names_of(key: str, fields: Sequence[str] | None) -> Sequence[bytes] | None:
    """The names to fetch; None: all of them."""
    names = Record(key).missing(fields)
    return None if names is None else tuple(dict.fromkeys((VERSION_FIELD, *names)))


def signature_of(settings: Settings, wanted: Wanted) -> Hashable:
    """What a transaction that begins with these reads is recognized by.

    Raises:
        UsageError, CodecError: what is wanted are no fields' names.
    """
    signature: list[Hashable] = [settings.namespace]
    for key, fields in wanted.items():
        if fields is not None:
            Record(key).missing(fields)
        signature.append((key, fields if fields is None else tuple(fields)))
    return tuple(signature)
