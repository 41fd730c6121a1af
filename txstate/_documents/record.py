"""What was read of one document in one attempt, and what was written to it: the read set and the write set in one.

Owns what was read, and what there is to commit; how a function uses it is told in `fields`. Knows nothing of commands,
connections and versions to come.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from txstate._documents.changes import KEEP, NOT_LOADED, Changes, difference, dropped_fields
from txstate._documents.codec import VERSION_FIELD, decode_name, decode_version, encode_name
from txstate._documents.fields import Fields
from txstate._documents.snapshot import Snapshot
from txstate.errors import CodecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_new: Final = tuple.__new__
"""Makes a named tuple, without a call to its class's own `__new__`, which is Python."""


class Record(Fields):
    """One document in one attempt.

    Attributes:
        loaded: whether anything was read yet.
        existed: whether it existed when read.
        version: as read; 0 when missing, 1 when other clients made it without a version.
        has_version: whether a version was stored.
        committed_version: the version that its commit wrote; None before.
        asked: of one that was read before the function asked for it: what was asked for on suspicion; None: all.
    """

    # A record begins with all of these; most never get another value.
    loaded = existed = has_version = False
    version = 0
    committed_version: int | None = None
    asked: Sequence[str] | None = None
    _decided: Changes | None = None

    @classmethod
    def read(
        cls,
        key: str,
        fields: Mapping[bytes, bytes | None],
        asked: Sequence[str] | None,
        *,
        whole: bool,
    ) -> Record:
        """A document that exists, as `load` leaves it, for who asks for this of it.

        Raises:
            CodecError: the version is not valid.
        """
        version = fields.get(VERSION_FIELD)
        record = Stored(key, fields, decode_version(version, key=key))
        record.whole, record.asked, record.has_version = whole, asked, version is not None
        return record

    def as_read(self, asked: Sequence[str] | None = None) -> Record:
        """The same document without what a function did to it, for who asks for this of it."""
        record = Record(self.key)
        record.loaded, record.existed, record.exists = self.loaded, self.existed, self.existed
        record.whole, record._raw, record.asked = self.whole, self._raw, asked
        record.version, record.has_version = self.version, self.has_version
        return record

    def load(self, *, exists: bool, fields: Mapping[bytes, bytes | None], whole: bool) -> None:
        """Take in what was read, the first time or once more. Own writes stay; waiting increments are applied.

        One that can't be goes on waiting, for `changes` to say so: what was read can be read all the same.

        Args:
            exists: whether there is a document.
            fields: names and values as stored, None for a missing field. Kept, so it must not be changed later.
                Partial reads always have `VERSION_FIELD`, whole ones if it is stored.
            whole: whether these are all fields.

        Raises:
            CodecError: the version is not valid.
        """
        if not self.loaded:
            self.loaded = True
            self.existed = self.exists = exists
        if not exists:
            fields, whole = {}, True
        if not self.whole:
            self.whole = whole
            self._raw = fields if whole or not self._raw else {**self._raw, **fields}
        version = self._raw.get(VERSION_FIELD)
        self.has_version = version is not None
        self.version = decode_version(version, key=self.key) if exists else 0
        if self.pending:
            for name, by in self.pending.items():
                with suppress(CodecError):
                    if self.look(name) is not NOT_LOADED:
                        self.increment(name, by)

    def missing(self, fields: Sequence[str] | None) -> tuple[bytes, ...] | None:
        """What still has to be read before these fields (None: all of them) are known.

        Returns:
            Names; or None when the whole hash is needed; or nothing. A record that was not loaded needs at least
            its existence and its version, so there the answer is never nothing.

        Raises:
            UsageError: `fields` is a str.
            CodecError: a name that no field can have.
        """
        if fields is not None and isinstance(fields, str):
            raise UsageError(f"fields={fields!r} is one str; pass a list of names: fields=[{fields!r}]")
        if self.whole or self._hidden:
            return ()
        if fields is None:
            return None
        wanted = {encode_name(name, key=self.key): name for name in fields}
        names = tuple(
            field for field, name in wanted.items() if field not in self._raw and name not in self._values
        )
        return names if names or self.loaded else (VERSION_FIELD,)

    def suits(self, fields: Sequence[str] | None) -> bool:
        """Whether just this was asked for when it was read on suspicion.

        It is handed out to who asks for the same of it, and to nobody else: what a partial document shows must not
        depend on what was fetched before.
        """
        if fields is None or self.asked is None:
            return fields is self.asked
        return not isinstance(fields, str) and list(fields) == list(self.asked)

    def raw(self) -> Mapping[bytes, bytes | None]:
        """What was read, as stored; empty for a missing document. Equal for two attempts: it had not changed."""
        return self._raw

    def widest(self) -> int:
        """The bytes of the longest field that was read."""
        return max(map(len, filter(None, self._raw.values())), default=0)

    def known_names(self) -> list[str] | None:
        """The fields that were read, stored or not; None: all of them."""
        return None if self.whole else [decode_name(field) for field in self._raw if field != VERSION_FIELD]

    def ttl_after(self, left: int | None) -> int | None:
        """The milliseconds to live, own writes included, from those that were left when read; None: no expiry."""
        if not self.exists:
            return None
        if self.ttl is not KEEP:
            return self.ttl
        return None if self._deleted else left

    def pending_increments(self) -> Mapping[bytes, int]:
        """Increments of fields that are not loaded: to be loaded before `changes`, which applies them."""
        return {encode_name(name, key=self.key): by for name, by in self.pending.items()}

    def changes(self) -> Changes | None:
        """What differs from what was read; None when nothing does. `snapshot` shows the state decided here.

        Raises:
            CodecError: a list or dict was given something that can't be stored, or an increment can't be applied.
        """
        for name, by in self.pending.items():
            if self.look(name) is NOT_LOADED:
                raise AssertionError("increments wait: load their fields before asking for the changes")
            self.increment(name, by)  # raises, or it would not wait any more
        decided = None
        if self._hidden or not self.existed or self.ttl is not KEEP:
            decided = self._decide()
        elif self._touched:
            assigned, removed = difference(
                self._raw, self._values, self._touched, key=self.key, whole=self.whole
            )
            if assigned or removed:
                decided = _new(Changes, (False, assigned, removed, True, KEEP))
        self._decided = decided
        return decided

    def snapshot(self, version: int) -> Snapshot:
        """The state that the last `changes` leads to (before: as read), free from later mutation.

        Args:
            version: the one committed, or as read; a missing document's is 0 whatever is passed.
        """
        decided = self._decided
        if decided is None:
            return Snapshot(self.key, version if self.existed else 0, self._raw, whole=self.whole)
        if not decided.exists:
            return Snapshot(self.key, 0, {})
        return Snapshot(self.key, version, decided.apply(self._raw), whole=self.whole or self._hidden)

    def _decide(self) -> Changes | None:
        delete_first = self._deleted and self.existed
        if not self.exists:
            return Changes(delete_first, set={}, unset=(), exists=False, ttl=KEEP) if delete_first else None
        before: Mapping[bytes, bytes | None] = {} if delete_first else self._raw
        assigned, removed = difference(before, self._values, self._touched, key=self.key, whole=self.whole)
        if self._hidden:
            removed = dropped_fields(before, self._values, key=self.key)
        if assigned or removed or delete_first or not self.existed or self.ttl is not KEEP:
            return Changes(delete_first, assigned, removed, exists=True, ttl=self.ttl)
        return None


class Stored(Record):
    """A document that exists, as `Record.load` leaves it when it is read as a whole.

    Args:
        key: as the record's.
        raw: names and values as stored, the version among them.
        version: that.
    """

    loaded = whole = existed = exists = has_version = True

    def __init__(self, key: str, raw: Mapping[bytes, bytes | None], version: int) -> None:
        self.key, self._raw, self.version = key, raw, version
        self._values, self._touched = {}, {}
