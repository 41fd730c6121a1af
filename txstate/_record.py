"""What was read of one document in one attempt, and what was written to it.

Owns the merge of the two: reads see own writes, and what a function could have mutated is remembered, to be
compared with what was read at commit. Knows nothing of commands, connections and versions to come.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from txstate._changes import KEEP, MISSING, NOT_LOADED, Changes, Keep, difference, dropped_fields
from txstate._codec import (
    CONTAINERS,
    JSON,
    VERSION_FIELD,
    VERSION_NAME,
    decode,
    decode_name,
    decode_version,
    encode_name,
    normalize,
    peek,
    plain_name,
)
from txstate._snapshot import Snapshot
from txstate.errors import CodecError, FieldNotLoaded, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Guard(Protocol):
    """Who may use a transaction's documents, and when. Asked at the beginning of each operation of a `Doc`."""

    def check_read(self) -> None:
        """Raise when values must not be read any more."""

    def check_write(self) -> None:
        """Raise when values must not be changed any more."""


class Record:
    """One document in one attempt: the read set and the write set in one.

    Attributes:
        key: the document, without the store's namespace.
        guard: asked by the `Doc` over this record before anything is done; None: while its function runs, nobody need be.
        loaded: whether anything was read yet.
        whole: whether all fields are known; also true for a document that did not exist.
        existed: whether it existed when read.
        exists: the same, own writes included.
        version: as read; 0 when missing, 1 when other clients made it without a version.
        has_version: whether a version was stored.
        ttl: milliseconds to live from the commit on; None to remove the expiry; `KEEP`. Without effect when there is
            no document in the end.
        pending: increments of fields that are not loaded.
        committed_version: the version that its commit wrote; None before.
        asked: of one that was read before the function asked for it: what was asked for on suspicion; None: all.
    """

    # A record begins with all of these; most never get another value.
    loaded = whole = existed = exists = has_version = False
    version = 0
    ttl: int | Keep | None = KEEP
    guard: Guard | None = None
    committed_version: int | None = None
    asked: Sequence[str] | None = None
    pending: Mapping[str, int] = MappingProxyType({})
    _raw: Mapping[bytes, bytes | None] = MappingProxyType(
        {}
    )  # as read, never changed; None: known to be missing
    _hidden = False  # what was read is not seen any more: deleted or replaced
    _deleted = False
    _decided: Changes | None = None

    def __init__(self, key: str) -> None:
        self.key = key
        self._values: dict[str, JSON] = {}  # decoded or assigned, live; MISSING: removed
        self._touched: dict[str, None] = {}  # names whose value may differ from what was read, in order

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
            CodecError: the version is none.
        """
        record = cls(key)
        record.loaded = record.existed = record.exists = True
        record.whole, record._raw, record.asked = whole, fields, asked
        version = fields.get(VERSION_FIELD)
        record.has_version = version is not None
        record.version = decode_version(version, key=key)
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

        Args:
            exists: whether there is a document.
            fields: names and values as stored, None for a missing field. Kept, so it must not be changed later.
                Partial reads always have `VERSION_FIELD`, whole ones if it is stored.
            whole: whether these are all fields.

        Raises:
            CodecError: the version is none, or a waiting increment can't be applied.
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
                if self.look(name) is not NOT_LOADED:
                    self._forget_pending(name)
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
            CodecError: a list or dict was given something that can't be stored.
        """
        if self.pending:
            raise AssertionError("increments wait: load their fields before asking for the changes")
        touched = self._touched or self._hidden or self.ttl is not KEEP
        decided = self._decided = self._decide() if touched else None
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

    # For the Doc over this record

    def look(self, name: str) -> JSON:
        """The live value of a field, decoded once, the same object each time; or `MISSING`, or `NOT_LOADED`.

        Raises:
            CodecError: it holds no JSON, or this is no field's name.
        """
        value = self._values.get(name, NOT_LOADED)
        if value is not NOT_LOADED:
            return value
        plain = type(name) is str and name.isascii() and name != VERSION_NAME
        raw = self._raw.get(name.encode() if plain else encode_name(name, key=self.key))
        if raw is None or self._hidden:
            return self._stored(name)
        value = self._values[name] = decode(raw, key=self.key, field=name)
        if type(value) in CONTAINERS:
            self._touched[name] = None  # it will be handed out, and may be mutated
        return value

    def has(self, name: object) -> bool:
        """Whether there is such a field, without decoding it; `FieldNotLoaded` when that is not known."""
        if not isinstance(name, str):
            return False
        value = self._values.get(name, NOT_LOADED)
        if value is not NOT_LOADED:
            return value is not MISSING
        try:
            raw = self._stored(name)
        except CodecError:  # no field can have that name
            return False
        if raw is NOT_LOADED:
            raise FieldNotLoaded(self.key, name)
        return raw is not MISSING

    def names(self) -> list[str]:
        """All field names: as read, then new ones.

        Raises:
            FieldNotLoaded: not all of them are known.
        """
        if not self._complete():
            raise FieldNotLoaded(self.key)
        return self._names()

    def assign(self, name: str, value: JSON) -> None:
        """Store a copy of a value; the document exists afterwards.

        Raises:
            CodecError: it can't be stored; the old value stays.
        """
        values = self._values
        if name not in values or type(name) is not str:
            encode_name(name, key=self.key)
            name = plain_name(name, key=self.key)
        copy = normalize(value, key=self.key, field=name)
        self._touched[name] = None
        # `doc["x"] += [1]` assigns the live list to itself: what was handed out must stay live
        if value is not values.get(name, MISSING):
            values[name] = copy
        if self.pending and name in self.pending:
            self._forget_pending(name)
        self.exists = True

    def remove(self, name: str) -> None:
        """Remove a field, without decoding it.

        Raises:
            KeyError: there is none.
            FieldNotLoaded: that is not known.
        """
        if not self.has(name):
            raise KeyError(name)
        name = plain_name(name, key=self.key)
        self._touched[name] = None
        self._values[name] = MISSING

    def increment(self, name: str, by: int) -> int:
        """Add to an integer field; a missing one counts from 0. One that is not loaded waits for `load`.

        Returns:
            The sum; for a field that is not loaded, the sum of what was added to it so far.

        Raises:
            CodecError: the field or `by` is no integer, or the sum leaves the signed 64 bits.
        """
        if type(by) is not int:
            by = self._integer(normalize(by, key=self.key, field=name), name, "is incremented by an int, not")
        value = self.look(name)
        if value is NOT_LOADED:
            total = self.pending.get(name, 0) + by
            self.pending = {**self.pending, name: total}
            return total
        total = by if value is MISSING else self._integer(value, name, "is no integer but") + by
        self.assign(name, total)  # refuses what does not fit
        return total

    def replace(self, mapping: Mapping[str, JSON]) -> None:
        """Make these all the fields; the document exists afterwards, with the expiry that it had.

        Raises:
            FieldNotLoaded: not all names are known.
            CodecError: something can't be stored; the document stays as it was.
        """
        if not self._complete():
            raise FieldNotLoaded(self.key)
        values: dict[str, JSON] = {}
        for name, value in mapping.items():
            encode_name(name, key=self.key)
            plain = plain_name(name, key=self.key)
            values[plain] = normalize(value, key=self.key, field=plain)
        self._values = values
        self._touched = dict.fromkeys(values)
        self._hidden = True
        self.exists = True

    def delete(self) -> None:
        """Remove the document, its expiry included."""
        self._values = {}
        self._touched = {}
        self.pending = {}
        self.ttl = KEEP
        self._hidden = self._deleted = True
        self.exists = False

    def to_dict(self) -> dict[str, JSON]:
        """A plain, independent copy of what is known.

        Raises:
            CodecError: a field holds no JSON, or was given something that can't be stored.
        """
        result: dict[str, JSON] = {}
        for name in self._names():
            if name in self._values:
                result[name] = normalize(self._values[name], key=self.key, field=name)
            else:
                result[name] = decode(self._stored(name), key=self.key, field=name)
        return result

    def peek(self) -> dict[str, JSON]:
        """What is known, for a repr: live values, and bytes where they can't be decoded."""
        return {
            name: self._values[name] if name in self._values else peek(self._stored(name))
            for name in self._names()
        }

    # Helpers

    def _forget_pending(self, name: str) -> None:
        # Replaced, not changed: `load` is going through it.
        self.pending = {waiting: by for waiting, by in self.pending.items() if waiting != name}

    def _complete(self) -> bool:
        return self.whole or self._hidden

    def _stored(self, name: str) -> JSON:
        """The bytes read, unless the document was deleted or replaced since; or MISSING, or NOT_LOADED."""
        field = encode_name(name, key=self.key)
        if self._hidden:
            return MISSING
        raw = self._raw.get(field, MISSING if self.whole else NOT_LOADED)
        return MISSING if raw is None else raw

    def _names(self) -> list[str]:
        names: dict[str, None] = {}
        if not self._hidden:
            for field, raw in self._raw.items():
                if raw is not None and field != VERSION_FIELD:
                    names[decode_name(field)] = None
        for name, value in self._values.items():
            if value is MISSING:
                names.pop(name, None)
            else:
                names[name] = None
        return list(names)

    def _integer(self, value: JSON, name: str, problem: str) -> int:
        if type(value) is not int:
            raise CodecError(f"{problem} {type(value).__name__}", key=self.key, field=name)
        return value

    def _decide(self) -> Changes | None:
        if not self._hidden and self.existed and self.ttl is KEEP:  # as it most often is
            assigned, removed = difference(
                self._raw, self._values, self._touched, key=self.key, whole=self.whole
            )
            return Changes(False, assigned, removed, True, KEEP) if assigned or removed else None
        delete_first = self._deleted and self.existed
        if not self.exists:
            return Changes(delete_first, set=(), unset=(), exists=False, ttl=KEEP) if delete_first else None
        before: Mapping[bytes, bytes | None] = {} if delete_first else self._raw
        assigned, removed = difference(before, self._values, self._touched, key=self.key, whole=self.whole)
        if self._hidden:
            removed = dropped_fields(before, self._values, key=self.key)
        if assigned or removed or delete_first or not self.existed or self.ttl is not KEEP:
            return Changes(delete_first, assigned, removed, exists=True, ttl=self.ttl)
        return None
