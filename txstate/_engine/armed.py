"""Armed sockets: a snapshot that is watched already when the next transaction asks for it.

Behind its EXEC, in the same round trip, a commit watches and reads again what it had read. The reply that says
committed then holds the next transaction's reads; the reply that says conflict holds the values to try again with. So
a repeated update of the same documents is one round trip.

An armed snapshot is older than the call that uses it. A transaction that writes is validated by its EXEC. One that
doesn't, or whose function raises, is validated before its outcome leaves the library (`Attempt.prove`), the server's
role included: a demoted primary goes on serving clean, stale reads.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, cast

from txstate._documents.codec import VERSION_FIELD, decode_version
from txstate._documents.doc import Record, Stored
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
    from txstate._engine.group import Member
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

PACKED: Final = b"listpack"
"""The encoding of small hashes, on all servers that let fields expire. None of them keeps a field's expiry in it: with its
first one, Redis turns such a hash into a listpackex, and Valkey into a hashtable, for good. To be told costs the server a
quarter of what INFO does, which is asked about others."""
FEW: Final = 3
"""How many documents are asked for it, at most."""

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

    until = 0.0
    turn = NO_TURN

    def __init__(
        self,
        signature: Hashable,
        read_set: ReadSet | None,
        spares: dict[str, Record],
        tail: Tail | None = None,
    ) -> None:
        self.signature, self._read_set, self.spares, self.tail = signature, read_set, spares, tail

    @classmethod
    def met(
        cls, signature: Hashable, spares: dict[str, Record], tail: Tail | None, turn: Turn, until: float
    ) -> Armed:
        """One that knows of claims."""
        armed = cls(signature, None, spares, tail)
        armed.turn, armed.until = turn, until
        return armed

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
        least: the least version of what is written.
        leader: of the calls that want the same, to lead again. Whoever has the connection takes it out of here.
        before: the commit that it follows: what that writes into the token, the document's version as that writes it, and
            as a number.
    """

    claims: ClassVar[Sequence[Command]] = ()
    watches: ClassVar = True
    least: ClassVar = 0
    leader: Member | None = None
    before: tuple[bytes, bytes, int] = b"", b"", 0

    def __init__(
        self, settings: Settings, session: Session, signature: Hashable, wanted: Wanted, *, timed: bool
    ) -> None:
        self.session, self.wanted, self.timed = session, dict(wanted), timed
        self._settings = settings
        self._signature = signature
        self.names = {key: settings.redis_key(key) for key in wanted}
        self._all_present = dict.fromkeys(wanted, True)
        self._reads = {key: names_of(key, fields) for key, fields in wanted.items()}
        self._first = next(iter(wanted), "")
        commands: list[Command] = [("WATCH", session.token, *self.names.values())]
        commands += [
            ("HGETALL", self.names[key]) if names is None else ("HMGET", self.names[key], *names)
            for key, names in self._reads.items()
        ]
        self._present = len(commands)
        claims = claim_names(settings, wanted, session.slot)
        commands.append(("MGET", session.token, *claims))
        self._claims = len(claims)
        if timed:
            commands.append(("TIME",))
        self._several = len(self.names) > 1
        self.simple = not (timed or self._several)
        # Of one document, the replies behind the reads when no field of it expires.
        self._calm: Sequence[object] = ()
        self._counted = session.field_ttls is FieldTTLs.COUNTED
        self._by_encoding = self._counted and len(self.names) <= FEW and signature not in session.loose
        if self._by_encoding:
            commands += [("OBJECT", "ENCODING", name) for name in self.names.values()]
        elif self._counted:
            commands.append(("INFO", "keyspace"))
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
        number, version, as_number = self.before
        here, raw = self._present, replies[1]
        if (
            replies[here:] == [[number, *turn.claimed], *self._calm]
            and replies[0] == b"OK"
            and type(raw) is dict
            and raw.get(VERSION_FIELD) == version
        ):
            # As it most often is: that commit was the last one, nobody else claims the document, and no field of it expires.
            record = Stored(self._first, raw, as_number)
            armed = self.session.armed = Armed(self._signature, None, {self._first: record}, self)
            if turn is not NO_TURN:
                armed.turn = turn
                armed.until = self.session.finished = self._settings.clock()
            return
        found = replies[here]  # the token's value, and who claims the keys
        if type(found) is not list or found[0] is None or type(replies[0]) is ReplyError:
            return
        met, until = NO_TURN, 0.0
        if found.count(None) != self._claims:
            met, until = self._meet(found[1:], turn)
            if met.others:
                return
        beside = replies[here + 1 :]
        if not self._is_calm(beside):
            return
        try:
            if self.simple:
                time, spares = 0, {self._first: self._record(self._first, replies[1])}
            else:
                time = microseconds(beside[0]) if self.timed else 0
                spares = {key: self._record(key, replies[i]) for i, key in enumerate(self._reads, 1)}
        except (ReplyError, CodecError):
            return
        read_set = self.read_set(met, time) if time else None
        armed = self.session.armed = Armed(self._signature, read_set, spares, self)
        if until:
            armed.turn, armed.until = met, until

    def expect(self, read: object) -> None:
        """What follows was others' work, and not the last commit here: the document's version is that which it shows."""
        written = read.get(VERSION_FIELD) if type(read) is dict else None
        if written is not None and self.simple:
            with suppress(CodecError):  # then `take` finds out
                self.before = self.before[0], written, decode_version(written, key=self._first)

    def _is_calm(self, beside: Sequence[object]) -> bool:
        """Whether no field expires by itself, and what was read is from one moment, by the replies behind the reads."""
        if self._by_encoding:
            encodings = beside[self.timed : self.timed + len(self.names)]
            if encodings.count(PACKED) < len(encodings):
                if None not in encodings:  # the documents are there
                    self.session.note_loose(self._signature)
                return False
        elif self._counted and has_volatile_fields(beside[self.timed]):
            return False
        if self.simple:
            self._calm = beside
        return not self._several or (
            beside[-2] == len(self.names) and DIRTY not in (client_flags(beside[-1]) or DIRTY)
        )

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
            self.session.armed = Armed.met(self._signature, {}, None, met, until)
        return met, until

    def _record(self, key: str, reply: object) -> Record:
        """The document as read.

        Raises:
            ReplyError: it was not, or is missing, or can't be told from a missing one.
            CodecError: its version is none.
        """
        names = self._reads[key]
        if names is None:
            raw = reply if type(reply) is dict else pairs(reply)
        elif type(reply) is list:
            raw = dict(zip(names, reply, strict=True))
        else:
            raise ReplyError(f"TXSTATE HMGET answered {reply!r}")
        if raw.get(VERSION_FIELD) is None and not (self.timed and raw and names is None):
            raise ReplyError("TXSTATE there is no version")
        return Record.read(key, raw, self.wanted[key], whole=names is None)


def tail_behind(attempt: Attempt, session: Session) -> Tail | None:
    """What to send behind an attempt's EXEC, if arming its socket pays."""
    channel, documents, last = attempt.channel, attempt.documents, attempt.tail
    if channel is None or not channel.hot or attempt.bulky:
        return None
    if attempt.read_set.reads and attempt.read_set.volatile():
        return None
    if last is not None and not last.timed and last.session is session and last.wanted == documents.asked:
        return last
    if not session.flags or session.field_ttls is FieldTTLs.UNCOUNTED or not _as_at_first(attempt):
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
    if not _as_at_first(attempt):
        return
    read_set.shelve()
    session.armed = Armed(attempt.signature, read_set, documents.as_read(), attempt.tail)


def _as_at_first(attempt: Attempt) -> bool:
    """Whether the function has asked for what its call is recognized by: in a later attempt it may have asked for something else."""
    documents, signature = attempt.documents, cast("tuple[Any, ...] | None", attempt.signature)
    if signature is None:
        return False  # it began with something else than reading, or was interrupted there
    for key, fields in signature[1:]:
        if key not in documents.records:
            return False
        asked = documents.asked[key]
        if fields != (asked if asked is None else tuple(asked)):
            return False
    return True


def names_of(key: str, fields: Sequence[str] | None) -> Sequence[bytes] | None:
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
