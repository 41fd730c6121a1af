"""What a commit has to do to one document, and how that is found out.

Owns the difference between what was read and what a function left behind. Knows nothing of how a document is
used in between, and nothing of commands: the engine turns `Changes` into them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from txstate._documents.codec import CONTAINERS, JSON, VERSION_FIELD, dump, encode, encode_name, is_same

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Keep(Enum):
    """The type of `KEEP`."""

    KEEP = "keep"


class Absent(Enum):
    """The types of `MISSING` and `NOT_LOADED`."""

    MISSING = "missing"
    NOT_LOADED = "not loaded"


KEEP: Final = Keep.KEEP
"""The document's expiry stays as it is."""

MISSING: Final = Absent.MISSING
"""In place of a value: the document has no such field."""

NOT_LOADED: Final = Absent.NOT_LOADED
"""In place of a value: there may be one, only other fields were fetched."""


class Changes(NamedTuple):
    """What a commit has to do to one document, besides writing its version.

    Attributes:
        delete_first: the document was deleted, and perhaps created anew: DEL before everything else.
        set: names and values, for HSET; may be empty.
        unset: names, for HDEL; may be empty.
        exists: whether there is a document afterwards.
        ttl: milliseconds; None to remove the expiry; `KEEP`.
    """

    delete_first: bool
    set: Mapping[bytes, bytes]
    unset: tuple[bytes, ...]
    exists: bool
    ttl: int | Keep | None

    def apply(self, raw: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """The fields afterwards, from those before; None for those known to be missing."""
        after: dict[bytes, bytes | None] = {**self.set} if self.delete_first else {**raw, **self.set}
        if self.unset:
            after.update(dict.fromkeys(self.unset))
        return after

    def then(self, later: Changes) -> Changes:
        """Both as one: what leads where these do, and then the later ones.

        Fields that were set and then removed stay among those to remove, whether or not they are stored.
        """
        if later.delete_first:
            return later
        values = {**self.set, **later.set}
        removed = dict.fromkeys(self.unset)
        for name in later.set:
            removed.pop(name, None)
        for name in later.unset:
            values.pop(name, None)
            removed[name] = None
        return Changes(
            self.delete_first,
            set=values,
            unset=tuple(removed),
            exists=later.exists,
            ttl=self.ttl if later.ttl is KEEP else later.ttl,
        )


def difference(
    before: Mapping[bytes, bytes | None],
    values: Mapping[str, JSON],
    touched: Iterable[str],
    *,
    key: str,
    whole: bool,
) -> tuple[dict[bytes, bytes], tuple[bytes, ...]]:
    """The touched fields that differ from what is stored.

    Args:
        before: what was read.
        values: the live values.
        touched: names of those that may differ.
        key: the document, for errors.
        whole: whether `before` is all there is. If not, a field may have been assigned and then removed that was
            never read; it may be stored.

    Returns:
        Names and encoded values of fields to set; and names of fields to remove.

    Raises:
        CodecError: a list or dict was given something that can't be stored.
    """
    assigned: dict[bytes, bytes] = {}
    removed: list[bytes] = []
    for name in touched:
        # It was looked at when the field was: nothing is wrong with the name any more.
        field, value = name.encode(errors="surrogateescape"), values[name]
        old = before.get(field)
        if value is MISSING:
            if old is not None or (field not in before and not whole):
                removed.append(field)
            continue
        encoded = encode(value, key=key, field=name) if type(value) in CONTAINERS else dump(value)
        if encoded != old and (old is None or old.isdigit() or not is_same(encoded, old)):
            assigned[field] = encoded
    return assigned, tuple(removed)


def dropped_fields(
    before: Mapping[bytes, bytes | None], values: Mapping[str, JSON], *, key: str
) -> tuple[bytes, ...]:
    """The names of stored fields that a document whose fields are exactly these has no more."""
    kept = {encode_name(name, key=key) for name, value in values.items() if value is not MISSING}
    kept.add(VERSION_FIELD)
    return tuple(field for field, raw in before.items() if raw is not None and field not in kept)
