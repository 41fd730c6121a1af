"""The document as a transaction's function sees it: a dict that may be written.

Owns the mapping's manners (what is asked of the guard, which error, what is returned); the state is the
`Record`'s, which the engine reads. Both are imported from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from datetime import timedelta
from math import isfinite
from typing import Self

from txstate._documents.changes import KEEP, MISSING, NOT_LOADED, Absent, Changes, Keep
from txstate._documents.codec import JSON
from txstate._documents.fields import Guard
from txstate._documents.mapping import DictLike
from txstate._documents.record import Record, Stored
from txstate.errors import FieldNotLoaded, UsageError

__all__ = ["KEEP", "Changes", "Doc", "Guard", "Keep", "Record", "Stored"]

_TTL_MAX = 2**53


class Doc(DictLike, MutableMapping[str, JSON]):
    """One document inside of a transaction: a dict of its fields, to read and to change.

    Assigning stores a copy; what ``doc["x"]`` hands out is the document's own value, so changing a list or a dict
    inside of it counts. Nothing is sent before the commit, and then only what differs from what was read.
    Assigning to a missing document creates it. What `copy` and `pickle` make of it is a plain dict, as `to_dict` does: only
    the document itself belongs to the transaction.

    A partial document (`fields=`) raises `FieldNotLoaded` where a field that was not fetched would be needed.
    """

    __slots__ = ("_record",)

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def key(self) -> str:
        """The document's key, without the store's namespace."""
        return self._record.key

    @property
    def version(self) -> int:
        """The version as read; 0 when the document was missing, 1 when other clients made it without one."""
        self._check_read()
        return self._record.version

    @property
    def exists(self) -> bool:
        """Whether the document exists, own writes included."""
        self._check_read()
        return self._record.exists

    @property
    def committed_version(self) -> int:
        """The version that the commit wrote, for `on_commit` callbacks.

        Raises:
            UsageError: not committed yet.
        """
        version = self._record.committed_version
        if version is None:
            raise UsageError(
                "committed_version is known after the commit: read it in a tx.on_commit callback"
            )
        return version

    def increment(self, field: str, by: int = 1) -> int:
        """Add to an integer field; a missing one counts from 0.

        Args:
            field: its name. One that was not fetched (`fields=`) is read at commit, and added to then.
            by: what to add; may be negative.

        Returns:
            The field's new value; of a field that was not fetched, the sum of what this transaction added so far.

        Raises:
            CodecError: the field or `by` is not an integer (nor is a bool), or the sum leaves the signed 64 bits. For a
                field that was not fetched, at commit.
        """
        record = self._record
        if record.guard is not None:
            record.guard.check_write()
        return record.increment(field, by)

    def replace(self, mapping: Mapping[str, JSON]) -> None:
        """Make these all the fields of the document. It exists afterwards; an expiry stays.

        Args:
            mapping: the fields; checked completely before anything changes.

        Raises:
            CodecError: something can't be stored; the document stays as it was.
            FieldNotLoaded: the document is partial, so that not all names are known.
            UsageError: not a mapping.
        """
        self._check_write()
        if not isinstance(mapping, Mapping):
            raise UsageError(f"a document is a mapping of fields, not {type(mapping).__name__}; pass a dict")
        self._record.replace(mapping)

    def delete(self) -> None:
        """Remove the document, its expiry included. It may be created anew by assigning to it."""
        self._check_write()
        self._record.delete()

    def expire(self, seconds: float | timedelta | None) -> None:
        """Let the document expire, counted from the commit.

        Without effect when the document does not exist in the end.

        Args:
            seconds: rounded to milliseconds, at least one; None removes the expiry.

        Raises:
            UsageError: not a number, or not from 0.001 to 2**53 / 1000 seconds.
        """
        self._check_write()
        self._record.ttl = None if seconds is None else _milliseconds(seconds)

    def to_dict(self) -> dict[str, JSON]:
        """A plain, independent copy; of a partial document, the fields that are known.

        Raises:
            CodecError: a field holds no JSON, or was given something that can't be stored.
        """
        self._check_read()
        return self._record.to_dict()

    def __getitem__(self, name: str) -> JSON:
        record = self._record
        if record.guard is not None:
            record.guard.check_read()
        value = record.look(name)
        if type(value) is Absent:
            raise KeyError(name) if value is MISSING else FieldNotLoaded(record.key, name)
        return value

    def get(self, name: str, default: JSON = None) -> JSON:
        """The field's value, or the default."""
        record = self._record
        if record.guard is not None:
            record.guard.check_read()
        value = record.look(name)
        if value is NOT_LOADED:
            raise FieldNotLoaded(record.key, name)
        return default if value is MISSING else value

    def __setitem__(self, name: str, value: JSON) -> None:
        record = self._record
        if record.guard is not None:
            record.guard.check_write()
        record.assign(name, value)

    def __delitem__(self, name: str) -> None:
        self._check_write()
        self._record.remove(name)

    def __contains__(self, name: object) -> bool:
        self._check_read()
        return self._record.has(name)

    def __iter__(self) -> Iterator[str]:
        self._check_read()
        return iter(self._record.names())

    def __len__(self) -> int:
        self._check_read()
        return len(self._record.names())

    def __bool__(self) -> bool:
        """Whether there are fields, as for a dict; of a partial one, whether there is a document."""
        self._check_read()
        return bool(self._record.names()) if self._record.whole else self._record.exists

    def __ior__(self, other: Mapping[str, JSON]) -> Self:  # type: ignore[override]  # it stays the document
        self.update(other)
        return self

    def setdefault(self, name: str, default: JSON = None) -> JSON:
        """The field's value, after storing a copy of the default if there was none."""
        if name not in self:
            self[name] = default
        return self[name]

    def popitem(self) -> tuple[str, JSON]:
        """Remove and return the last field, like a dict."""
        self._check_write()
        names = self._record.names()
        if not names:
            raise KeyError("popitem(): the document has no fields")
        return names[-1], self.pop(names[-1])

    def clear(self) -> None:
        """Remove all fields. The document goes on to exist, if it does."""
        self._check_write()
        for name in self._record.names():
            self._record.remove(name)

    def __reduce__(self) -> tuple[type[dict[str, JSON]], tuple[dict[str, JSON]]]:
        return dict, (self.to_dict(),)

    def __repr__(self) -> str:
        record = self._record
        partial = "" if record.whole else ", partial"
        try:
            content = repr(record.peek())
        except Exception as error:  # noqa: BLE001 - a repr that raises would hide the error that is looked into
            content = f"<{type(error).__name__}>"
        return f"Doc({record.key!r}, version={record.version}{partial}, {content})"

    def _check_read(self) -> None:
        guard = self._record.guard
        if guard is not None:
            guard.check_read()

    def _check_write(self) -> None:
        guard = self._record.guard
        if guard is not None:
            guard.check_write()


def _milliseconds(seconds: float | timedelta) -> int:
    if isinstance(seconds, timedelta):
        milliseconds = round(seconds / timedelta(milliseconds=1))
    elif isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UsageError(f"expire takes seconds, a timedelta or None, not {type(seconds).__name__}")
    elif isinstance(seconds, int) or isfinite(seconds * 1000):
        milliseconds = round(seconds * 1000)
    else:
        raise UsageError(f"expire({seconds}) is no time; to remove the expiry, pass None")
    if not 1 <= milliseconds <= _TTL_MAX:
        raise UsageError(
            "expire takes from 0.001 to 2**53 / 1000 seconds; to remove the document use delete(), "
            "to remove its expiry expire(None)"
        )
    return milliseconds
