"""Armed sockets: a snapshot that is watched already when the next transaction asks for it.

Behind its EXEC, in the same round trip, a commit watches and reads again what it had read. The reply that says
committed then holds the next transaction's reads; the reply that says conflict holds the values to try again with. So
a repeated update of the same documents is one round trip.

An armed snapshot is older than the call that uses it. A transaction that writes is validated by its EXEC. One that
doesn't, or whose function raises, is validated before its outcome leaves the library (`Attempt.prove`), the server's
role included: a demoted primary goes on serving clean, stale reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from txstate._docs import Record
from txstate._effects import ReplyError
from txstate._engine.reads import Stale, read_of
from txstate._engine.readset import FlaggedBatch, ReadSet

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from txstate._effects import Command
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

Wanted: TypeAlias = "Mapping[str, Sequence[str] | None]"


class Spare(NamedTuple):
    """A document that was read before the function asked for it.

    It is handed out to who asks for the same of it, and to nobody else: what a partial document shows must not
    depend on what was fetched on suspicion.
    """

    fields: Sequence[str] | None
    record: Record

    def suits(self, fields: Sequence[str] | None) -> bool:
        """Whether this is what is asked for."""
        if fields is None or self.fields is None:
            return fields is self.fields
        return list(fields) == list(self.fields)


class Armed:
    """A snapshot on a socket that watches it.

    Attributes:
        signature: the first thing that the transaction asked for; who asks for the same gets it.
        read_set: what was read, and is watched.
        spares: the documents, as read.
    """

    __slots__ = ("read_set", "signature", "spares")

    def __init__(self, signature: Hashable, read_set: ReadSet, spares: Mapping[str, Spare]) -> None:
        self.signature, self.read_set, self.spares = signature, read_set, spares


class Tail:
    """What follows an EXEC to arm its socket.

    Args:
        settings: the store's.
        session: where the commit goes.
        signature: what it will be found by.
        wanted: what to read.
    """

    def __init__(self, settings: Settings, session: Session, signature: Hashable, wanted: Wanted) -> None:
        self._session, self._signature, self._read_set = session, signature, ReadSet()
        self._spares = {key: Spare(fields, Record(key, NOBODY)) for key, fields in wanted.items()}
        reads = [
            read_of(record, settings.redis_key(key), record.missing(fields))
            for key, (fields, record) in self._spares.items()
        ]
        self._batch = FlaggedBatch(self._read_set, session, reads, settings, after_exec=True)
        self.commands: Sequence[Command] = self._batch.commands

    def take(self, replies: Sequence[object]) -> None:
        """Arm the session, if everything was readable and still is as it was read."""
        try:
            unreadable = self._batch.take(replies)
        except (Stale, ReplyError):
            return
        if not unreadable and not self._batch.asks_for_field_ttls(replies):
            self._session.armed = Armed(self._signature, self._read_set, self._spares)


def signature_of(settings: Settings, wanted: Wanted) -> Hashable:
    """What a transaction that begins with these reads is recognized by."""
    return (
        settings.namespace,
        *((key, fields if fields is None else tuple(fields)) for key, fields in wanted.items()),
    )


def as_read(record: Record) -> Record:
    """The same document without what a function did to it."""
    again = Record(record.key, NOBODY)
    again.load(exists=record.existed, fields=record.raw(), whole=record.whole)
    return again


class _Nobody:
    """The guard of records that no attempt has taken over yet."""

    def check_read(self) -> None:
        """Nobody asks."""
        raise AssertionError("an armed record is read before an attempt took it over")

    def check_write(self) -> None:
        """Nobody asks."""
        raise AssertionError("an armed record is written before an attempt took it over")


NOBODY: Final = _Nobody()
