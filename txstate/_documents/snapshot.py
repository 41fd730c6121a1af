"""Documents outside of a transaction: immutable, decoded field by field when looked at.

Owns `Snapshot` and the frozen lists and dicts inside of it. Knows nothing of how they were read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from txstate._documents.codec import JSON, VERSION_FIELD, decode, decode_name, encode_name, peek
from txstate._documents.mapping import DictLike
from txstate.errors import CodecError, FieldNotLoaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Snapshot(DictLike):
    """An immutable mapping: what a document held at one moment.

    Nested lists and dicts are frozen; `to_dict()` gives copies to change. Equal to any mapping of the same content,
    whatever its key and version. Can be pickled. One that was read with `fields=` raises `FieldNotLoaded` where a
    field that was not fetched would be needed.

    Args:
        key: the document.
        version: its version; 0 for a missing one.
        raw: field names and values as stored; None for a field known to be missing. Must not be changed later.
        whole: whether `raw` holds all fields of the document.
    """

    __slots__ = ("_key", "_raw", "_values", "_version", "_whole")

    def __init__(
        self, key: str, version: int, raw: Mapping[bytes, bytes | None], *, whole: bool = True
    ) -> None:
        self._key = key
        self._version = version
        self._raw = raw
        self._whole = whole
        self._values: dict[str, JSON] = {}

    @property
    def key(self) -> str:
        """The document's key, without the store's namespace."""
        return self._key

    @property
    def version(self) -> int:
        """Opaque; compare with ``==``, or hand it to `if_version`. 0: the document does not exist."""
        return self._version

    def to_dict(self) -> dict[str, JSON]:
        """A plain, independent copy; of a partial snapshot, the fields that were fetched.

        Raises:
            CodecError: a field holds something other than JSON.
        """
        return {name: decode(raw, key=self._key, field=name) for name, raw in self._loaded()}

    def __getitem__(self, name: str) -> JSON:
        try:
            return self._values[name]
        except KeyError:
            value = self._values[name] = self._read(name)
            return value

    def __contains__(self, name: object) -> bool:
        try:
            return self._find(name) is not None
        except CodecError:  # nothing that could be a field's name
            return False

    def __iter__(self) -> Iterator[str]:
        self._need_all()
        return (name for name, _ in self._loaded())

    def __len__(self) -> int:
        self._need_all()
        return sum(1 for _ in self._loaded())

    def __bool__(self) -> bool:
        """Whether there are fields, as for a dict; a partial one is true: there is a document."""
        return not self._whole or len(self) > 0

    def __repr__(self) -> str:
        partial = "" if self._whole else ", partial"
        content = {name: peek(raw) for name, raw in self._loaded()}
        return f"Snapshot({self._key!r}, version={self._version}{partial}, {content!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._key, self._version, dict(self._raw), self._whole)

    def _read(self, name: str) -> JSON:
        raw = self._find(name)
        if raw is None:
            raise KeyError(name)
        return _freeze(decode(raw, key=self._key, field=name))

    def _find(self, name: object) -> bytes | None:
        field = encode_name(name, key=self._key)
        if field not in self._raw and not self._whole:
            raise FieldNotLoaded(self._key, decode_name(field))
        return self._raw.get(field)

    def _need_all(self) -> None:
        if not self._whole:
            raise FieldNotLoaded(self._key)

    def _loaded(self) -> Iterator[tuple[str, bytes]]:
        for field, raw in self._raw.items():
            if raw is not None and field != VERSION_FIELD:
                yield decode_name(field), raw


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError(
        "snapshots can't be changed; use store.update(key, function), or change a copy: .to_dict()"
    )


class FrozenList(list[JSON]):
    """A list inside a snapshot: equal to a plain one, but it can't be changed. Its copies are plain lists."""

    __slots__ = ()

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __copy__(self) -> list[JSON]:
        return list(self)

    def __deepcopy__(self, memo: object) -> list[JSON]:
        return [_thaw(item) for item in self]

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return FrozenList, (list(self),)  # the inherited way would append


class FrozenDict(dict[str, JSON]):
    """A dict inside a snapshot: equal to a plain one, but it can't be changed. Its copies are plain dicts."""

    __slots__ = ()

    pop = popitem = setdefault = update = clear = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def __copy__(self) -> dict[str, JSON]:
        return dict(self)

    def __deepcopy__(self, memo: object) -> dict[str, JSON]:
        return {name: _thaw(item) for name, item in self.items()}

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)  # the inherited way would set items


def _freeze(value: JSON) -> JSON:
    if type(value) is list:
        return FrozenList([_freeze(item) for item in value])
    if type(value) is dict:
        return FrozenDict({name: _freeze(item) for name, item in value.items()})
    return value


def _thaw(value: JSON) -> JSON:
    return value.__deepcopy__(None) if isinstance(value, FrozenList | FrozenDict) else value


def _restore(key: str, version: int, raw: dict[bytes, bytes | None], whole: bool) -> Snapshot:  # noqa: FBT001 - pickle passes by position
    return Snapshot(key, version, raw, whole=whole)
