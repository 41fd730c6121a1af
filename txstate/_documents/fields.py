"""The fields of one document in one attempt, as its function uses them.

Owns the merge of what was read with what was written: reads see own writes, and what a function could have mutated is
remembered, to be compared with what was read at commit. Knows nothing of how anything is read, and of versions.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from txstate._documents.changes import KEEP, MISSING, NOT_LOADED, Keep
from txstate._documents.codec import (
    CONTAINERS,
    JSON,
    KNOWN_NAMES,
    LIMITED,
    VERSION_FIELD,
    decode,
    decode_name,
    encode_name,
    load,
    normalize,
    peek,
    plain_name,
)
from txstate.errors import CodecError, FieldNotLoaded

if TYPE_CHECKING:
    from collections.abc import Mapping


class Guard(Protocol):
    """Who may use a transaction's documents, and when. Asked at the beginning of each operation of a `Doc`."""

    def check_read(self) -> None:
        """Raise when values must not be read any more."""

    def check_write(self) -> None:
        """Raise when values must not be changed any more."""


class Fields:
    """What a document holds.

    Attributes:
        key: the document, without the store's namespace.
        guard: asked by the `Doc` over this record before anything is done; None: while its function runs, nobody need be.
        whole: whether all fields are known; also true for a document that did not exist.
        exists: whether it exists, own writes included.
        ttl: milliseconds to live from the commit on; None to remove the expiry; `KEEP`. Without effect when there is
            no document in the end.
        pending: increments of fields that are not loaded, or were loaded since and can't be incremented.
    """

    # A record begins with all of these; most never get another value.
    whole = exists = False
    ttl: int | Keep | None = KEEP
    guard: Guard | None = None
    pending: Mapping[str, int] = MappingProxyType({})
    _raw: Mapping[bytes, bytes | None] = MappingProxyType({})
    """As read, never changed; None: known to be missing."""
    _hidden = False  # what was read is not seen any more: deleted or replaced
    _deleted = False

    def __init__(self, key: str) -> None:
        self.key = key
        self._values: dict[str, JSON] = {}  # decoded or assigned, live; MISSING: removed
        self._touched: dict[str, None] = {}  # names whose value may differ from what was read, in order

    def look(self, name: str) -> JSON:
        """The live value of a field, decoded once, the same object each time; or `MISSING`, or `NOT_LOADED`.

        Raises:
            CodecError: it does not hold JSON, or no field can have this name.
        """
        value = self._values.get(name, NOT_LOADED)
        if value is not NOT_LOADED:
            return value
        raw = self._raw.get(KNOWN_NAMES.get(name) or encode_name(name, key=self.key))
        if raw is None or self._hidden:
            return self._stored(name)
        try:
            value = load(raw) if len(raw) < LIMITED else decode(raw, key=self.key, field=name)
        except ValueError:
            value = decode(raw, key=self.key, field=name)  # says what is wrong with it
        self._values[name] = value
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
        if copy is value or value is not values.get(name, MISSING):
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
        if self.pending:
            self._forget_pending(name)

    def increment(self, name: str, by: int) -> int:
        """Add to an integer field; a missing one counts from 0. One that is not loaded waits for `load`.

        Returns:
            The sum; for a field that is not loaded, the sum of what was added to it so far.

        Raises:
            CodecError: the field or `by` is not an integer, or the sum leaves the signed 64 bits.
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
        self.pending = {}
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
