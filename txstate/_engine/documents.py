"""The documents of one attempt: which are here, what the function has asked for, and what was read on suspicion."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

from txstate._documents.doc import Doc, Record
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from txstate._documents.doc import Guard
    from txstate._engine.armed import Wanted


class _Over:
    """The guard of documents whose attempt has ended."""

    def check_read(self) -> NoReturn:
        """Nobody may.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this transaction has ended: a Tx and its documents can't be used outside of the function. "
            "Return plain values, such as doc.to_dict(), or start another transaction"
        )

    check_write = check_read


OVER: Final = _Over()


class Documents:
    """One attempt's documents.

    Attributes:
        guard: says whether they may be used; None: they may, as the function runs.
        records: those that the function has asked for, by key.
        docs: the same as it gets them; there is one for each key.
        asked: what it asked for of each, the first time that it got it; None: all. A retry, or a socket that is armed, brings
            just that, so that what a partial document shows doesn't depend on either.
        widened: whether it later asked for more of one.
        spares: those read on suspicion: by a retry, or by the commit that armed the socket.
    """

    guard: Guard | None = None
    widened = False
    spares: Mapping[str, Record] = MappingProxyType({})

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.asked: dict[str, Sequence[str] | None] = {}
        self.docs: dict[str, Doc] = {}

    @property
    def untouched(self) -> bool:
        """Whether nothing is here yet."""
        return not (self.records or self.spares)

    @property
    def pending(self) -> bool:
        """Whether fields were incremented that are not here."""
        for record in self.records.values():  # noqa: SIM110 - a generator would cost as much as the rest of it
            if record.pending:
                return True
        return False

    def ready(self, wanted: Wanted) -> bool:
        """Whether all of this was read on suspicion."""
        for key, fields in wanted.items():
            spare = self.spares.get(key)
            if spare is None or not (spare.asked is fields or spare.suits(fields)):
                return False
        return True

    def local(self, key: str, fields: Sequence[str] | None) -> Doc | None:
        """The document, if what is asked for of it is here already."""
        record = self.records.get(key)
        if record is None:
            spare = self.spares.get(key)
            if spare is None:
                return None
            if not (spare.asked is fields or spare.suits(fields)):
                self.spares = {other: self.spares[other] for other in self.spares if other != key}
                return None
            self.asked[key] = fields
            return self.adopt(spare)
        return self.docs[key] if record.missing(fields) == () else None

    def hand_out(self, given: Wanted) -> bool:
        """Make these the function's, if all of them are here already; whether they are. If not, some may be."""
        for key, fields in given.items():
            spare = self.spares.get(key)
            if spare is None or not (spare.asked is fields or spare.suits(fields)):
                return False
            self.asked[key], self.records[key], self.docs[key] = fields, spare, Doc(spare)
        return True

    def hand_over(self, asked: Wanted, doc: Doc, record: Record) -> None:
        """The function has been given this document already, which just this was asked of."""
        self.asked, self.records, self.docs = dict(asked), {record.key: record}, {record.key: doc}

    def ask(self, key: str, fields: Sequence[str] | None) -> tuple[Record, Sequence[bytes] | None]:
        """The function asks for a document. Returns its record, and what has to be read of it yet."""
        if self.local(key, fields) is not None:
            return self.records[key], ()
        record = self.records.get(key) or Record(key)
        names = record.missing(fields)
        self.widened |= names != () and key in self.records
        self.asked.setdefault(key, fields)
        return record, names

    def refuse(self, keys: Iterable[str]) -> None:
        """The server did not let the function have these: if it goes on without, or with less, that is what it asked for."""
        for key in keys:
            if key not in self.records:
                self.asked.pop(key, None)

    def suspect(self, key: str, fields: Sequence[str] | None) -> tuple[Record, Sequence[bytes] | None]:
        """The same on suspicion that the function will ask."""
        spare = self.spares.get(key)
        if spare is not None and spare.suits(fields):
            return spare, ()
        record = Record(key)
        return record, record.missing(fields)

    def adopt(self, record: Record) -> Doc:
        """Make it a document of the function's."""
        doc = self.docs.get(record.key)
        if doc is None:
            record.guard = self.guard
            self.records[record.key] = record
            doc = self.docs[record.key] = Doc(record)
        return doc

    def spare(self, record: Record, asked: Sequence[str] | None) -> None:
        """It was read on suspicion that the function will ask for this of it."""
        record.asked = asked
        self.spares = {**self.spares, record.key: record}

    def latest(self, key: str) -> Record | None:
        """What was read of a document, whether or not the function has asked for it."""
        record = self.records.get(key)
        return self.spares.get(key) if record is None else record

    def as_read(self) -> dict[str, Record]:
        """What the function had asked for, without what it did to it."""
        return {key: record.as_read(self.asked[key]) for key, record in self.records.items()}

    def guard_by(self, guard: Guard) -> None:
        """Their function runs no more, or must not go on. At the end, `OVER` says so.

        Were they to know their attempt for longer, which knows them, megabytes would wait for the garbage collector.
        """
        self.guard = guard
        for record in self.records.values():
            record.guard = guard
