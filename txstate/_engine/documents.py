"""The documents of one attempt: which are here, what the function has asked for, and what was read on suspicion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from txstate._docs import Doc, Record
from txstate._engine.armed import NOBODY
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._docs import Guard
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

    Args:
        guard: who may use them, and when.

    Attributes:
        records: those that the function has asked for, by key.
        asked: what it asked for of each, the first time; None: all. A retry, or a socket that is armed, brings just
            that, so that what a partial document shows doesn't depend on either.
        widened: whether it later asked for more of one.
        spares: those read on suspicion: by a retry, or by the commit that armed the socket.
    """

    def __init__(self, guard: Guard) -> None:
        self.records: dict[str, Record] = {}
        self.asked: dict[str, Sequence[str] | None] = {}
        self.widened = False
        self.spares: dict[str, Record] = {}
        self._guard = guard
        self._docs: dict[str, Doc] = {}

    def __getitem__(self, key: str) -> Doc:
        """The document; there is one for each key."""
        return self._docs[key]

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
            spare = self.spares.pop(key, None)
            if spare is None or not (spare.asked is fields or spare.suits(fields)):
                return None
            self.asked[key] = fields
            return self.adopt(spare)
        return self._docs[key] if record.missing(fields) == () else None

    def hand_out(self, given: Wanted) -> bool:
        """Make these the function's, if all of them are here already; whether they are."""
        if len(given) > 1 and not self.ready(given):
            return False
        for key, fields in given.items():  # noqa: SIM110 - it is most often one, and a generator expression costs more
            if self.local(key, fields) is None:
                return False
        return True

    def ask(self, key: str, fields: Sequence[str] | None) -> tuple[Record, Sequence[bytes] | None]:
        """The function asks for a document. Returns its record, and what has to be read of it yet."""
        if self.local(key, fields) is not None:
            return self.records[key], ()
        record = self.records.get(key) or Record(key, self._guard)
        names = record.missing(fields)
        self.widened |= names != () and key in self.records
        self.asked.setdefault(key, fields)
        return record, names

    def suspect(self, key: str, fields: Sequence[str] | None) -> tuple[Record, Sequence[bytes] | None]:
        """The same on suspicion that the function will ask."""
        spare = self.spares.get(key)
        if spare is not None and spare.suits(fields):
            return spare, ()
        record = Record(key, NOBODY)
        return record, record.missing(fields)

    def adopt(self, record: Record) -> Doc:
        """Make it a document of the function's."""
        doc = self._docs.get(record.key)
        if doc is None:
            record.guard = self._guard
            self.records[record.key] = record
            doc = self._docs[record.key] = Doc(record)
        return doc

    def latest(self, key: str) -> Record | None:
        """What was read of a document, whether or not the function has asked for it."""
        spare = self.spares.get(key)
        return self.records.get(key) if spare is None else spare

    def as_read(self) -> dict[str, Record]:
        """What the function had asked for, without what it did to it."""
        return {
            key: self.records[key].as_read(NOBODY, fields)
            for key, fields in self.asked.items()
            if key in self.records
        }

    def close(self) -> None:
        """The attempt is over, and a document knows it by its new guard.

        Were it still to know the attempt, which knows its documents, megabytes would wait for the garbage collector.
        """
        self._guard = OVER
        for record in self.records.values():
            record.guard = OVER
