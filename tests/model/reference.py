"""The whole library as a few plain dicts: what documents and transactions mean when nobody interferes.

`Reference`, `ReferenceTx` and `View` have the methods of `Store`, `Tx` and `Doc`, and none of their mechanism.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

from txstate import CodecError, FieldNotLoaded, VersionMismatch, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

R = TypeVar("R")

OF_ANOTHER_TYPE: Final = "a-string"
"""A key that holds a Redis string."""

INT_MAX: Final = 2**63 - 1
_KEEP: Final = "keep"


@dataclass
class Document:
    """A stored document; `revision` grows whenever it must have got a new version."""

    fields: dict[str, Any]
    expires: bool = False
    revision: int = 1


@dataclass
class Reference:
    """The store."""

    documents: dict[str, Document] = field(default_factory=dict)
    _revision: int = 0

    def copy(self) -> Reference:
        return copy.deepcopy(self)

    def state(self) -> dict[str, str]:
        """Everything that another process could see, comparable."""
        return {key: canonical([doc.fields, doc.expires]) for key, doc in sorted(self.documents.items())}

    def run(self, function: Callable[[ReferenceTx], R]) -> R:
        """A transaction: all or nothing."""
        tx = ReferenceTx(self)
        result = function(tx)
        changed = [view for view in tx.views.values() if view.decide()]
        for view in changed:
            self._revision += 1
            if view.exists:
                fields = copy.deepcopy(view.fields)
                self.documents[view.key] = Document(fields, view.expires(), self._revision)
            else:
                del self.documents[view.key]
        return result

    def revision(self, key: str) -> int:
        """0 when missing."""
        document = self.documents.get(key)
        return 0 if document is None else document.revision

    def get(self, key: str, fields: Sequence[str] | None = None) -> dict[str, Any] | None:
        return self.run(lambda tx: view.to_dict() if (view := tx.get(key, fields)).exists else None)

    def update(
        self,
        key: str,
        function: Callable[[Any], object],
        fields: Sequence[str] | None,
        if_version: int | None,
    ) -> dict[str, Any]:
        def change(tx: ReferenceTx) -> View:
            view = tx.get(key, fields)
            self._expect(key, if_version)
            function(view)
            return view

        return self.run(change).to_dict()

    def put(
        self, key: str, mapping: Mapping[str, Any], if_version: int | None, expire: Any
    ) -> dict[str, Any]:
        def change(view: View) -> None:
            view.replace(mapping)
            if expire is not Ellipsis:
                view.expire(expire)

        return self.update(key, change, None, if_version)

    def delete(self, key: str, if_version: int | None) -> bool:
        existed = key in self.documents
        self.update(key, View.delete, None, if_version)
        return existed

    def expires(self, key: str) -> bool:
        document = self.documents.get(key)
        return document is not None and document.expires

    def _expect(self, key: str, revision: int | None) -> None:
        if revision is not None and self.revision(key) != revision:
            raise VersionMismatch(key, revision, self.revision(key))


class ReferenceTx:
    """A transaction on it."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.views: dict[str, View] = {}

    def get(self, key: str, fields: Sequence[str] | None = None) -> View:
        view = self.views.get(key)
        if view is None:
            for name in fields or ():
                check_name(name, key)
            if key == OF_ANOTHER_TYPE:
                raise WrongType(key, "string")
            view = View(key, self.reference.documents.get(key))
        view.load(fields)
        self.views[key] = view
        return view

    def get_many(self, keys: Sequence[str], fields: Sequence[str] | None = None) -> list[View]:
        errors: list[Exception] = []
        # What is known is looked at first: of two errors, its one is raised.
        for key in sorted(keys, key=lambda key: key not in self.views):
            try:
                self.get(key, fields)
            except (CodecError, WrongType) as error:
                errors.append(error)  # the others are loaded all the same
        if errors:
            raise errors[0]
        return [self.views[key] for key in keys]

    def meanwhile(self, _number: int) -> None:
        """Where others commit in the middle of a real transaction: nobody interferes here."""

    def put(self, key: str, mapping: Mapping[str, Any]) -> View:
        view = self.get(key)
        view.replace(mapping)
        return view

    def delete(self, key: str) -> None:
        self.get(key).delete()

    def ttl(self, key: str) -> float | None:
        expires = self.reference.expires(key)
        if key in self.views:
            expires = self.views[key].exists and self.views[key].expires()
        return 1.0 if expires else None


class View(MutableMapping[str, Any]):
    """A document in a transaction."""

    def __init__(self, key: str, stored: Document | None) -> None:
        self.key = key
        self.exists = stored is not None
        self.fields = copy.deepcopy(stored.fields) if stored else {}
        self._stored = stored
        self._known: set[str] | None = set() if stored else None  # names that may be looked at; None: all
        self._loaded: set[str] | None = set() if stored else None  # names whose stored value is known
        self._touched: set[str] = set()
        self._pending: dict[str, int] = {}
        self._deleted = False
        self._ttl: Any = _KEEP

    def load(self, fields: Sequence[str] | None) -> None:
        if self._known is not None:
            for name in fields or ():
                check_name(name, self.key)
            if fields is None:
                self._known = self._loaded = None
            elif self._loaded is not None:
                self._loaded.update(name for name in fields if name not in self._known)
                self._known.update(fields)
        for name, by in list(self._pending.items()):
            if self._knows(name):
                with suppress(CodecError):  # `decide` says so
                    self.increment(name, by)

    def decide(self) -> bool:
        """Finish, and tell whether there is anything to commit."""
        self.load(list(self._pending))
        for name, by in list(self._pending.items()):
            self.increment(name, by)  # raises, or it would not wait any more
        if not self.exists:
            return self._stored is not None
        if self._stored is None or self._deleted or self._ttl != _KEEP:
            return True
        return any(self._differs(name, self._stored.fields) for name in self._touched)

    def expires(self) -> bool:
        if self._ttl != _KEEP:
            return self._ttl is not None
        return self._stored is not None and self._stored.expires and not self._deleted

    @property
    def version(self) -> int:
        return 0 if self._stored is None else 1

    def increment(self, name: str, by: int = 1) -> int:
        check_name(name, self.key)
        if type(by) is not int:
            raise CodecError("no integer", key=self.key, field=name)
        if not self._knows(name):
            self._pending[name] = self._pending.get(name, 0) + by
            return self._pending[name]
        value = self.fields.get(name, 0)
        if type(value) is not int:
            raise CodecError("no integer", key=self.key, field=name)
        self[name] = value + by
        return value + by

    def replace(self, mapping: Mapping[str, Any]) -> None:
        if self._known is not None:
            raise FieldNotLoaded(self.key)
        for name, value in mapping.items():
            check_name(name, self.key)
            check(value, self.key)
        self._touched.update(self.fields, mapping)
        self._pending = {}
        self.fields = copy.deepcopy(dict(mapping))
        self.exists = True

    def delete(self) -> None:
        self.fields, self._pending, self._known = {}, {}, None
        self._ttl, self.exists = _KEEP, False
        self._deleted = self._stored is not None

    def expire(self, seconds: float | timedelta | None) -> None:
        self._ttl = seconds

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.fields.items() if self._knows(name)}

    def __getitem__(self, name: str) -> Any:
        check_name(name, self.key)
        self._require(name)
        value = self.fields[name]
        if isinstance(value, list | dict):
            self._touched.add(name)  # it may be changed
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        check_name(name, self.key)
        check(value, self.key)
        self.fields[name] = copy.deepcopy(value)
        self._pending.pop(name, None)
        self._touched.add(name)
        if self._known is not None:
            self._known.add(name)
        self.exists = True

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._touched.add(name)
        self._pending.pop(name, None)
        del self.fields[name]

    def __contains__(self, name: object) -> bool:
        if name == "__version__":
            return False
        self._require(str(name))
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        if self._known is not None:
            raise FieldNotLoaded(self.key)
        return iter(list(self.fields))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def clear(self) -> None:
        for name in self:
            del self[name]

    def _knows(self, name: str) -> bool:
        return self._known is None or name in self._known

    def _require(self, name: str) -> None:
        if not self._knows(name):
            raise FieldNotLoaded(self.key, name)

    def _differs(self, name: str, stored: Mapping[str, Any]) -> bool:
        if self._loaded is not None and name not in self._loaded:
            return True  # written without having been read, so that it can't be known to be the same
        if name not in self.fields or name not in stored:
            return (name in self.fields) != (name in stored)
        return canonical(self.fields[name]) != canonical(stored[name])


def check_name(name: str, key: str) -> None:
    """Refuse what no field can be called."""
    if name == "__version__":
        raise CodecError("reserved", key=key, field=name)


def check(value: Any, key: str) -> None:
    """Refuse what can't be stored."""
    if isinstance(value, list | tuple):
        for item in value:
            check(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            check(item, key)
            if not isinstance(name, str):
                raise CodecError("no str", key=key)
    elif isinstance(value, float) and not isfinite(value):
        raise CodecError("not finite", key=key)
    elif isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        raise CodecError("too big", key=key)
    elif value is not None and not isinstance(value, str | int | float):
        raise CodecError("no JSON", key=key)


def canonical(value: Any) -> str:
    """A value as text: 1, 1.0 and True differ; so do 0.0 and -0.0; the order of a document's fields doesn't count."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return canonical(value[0]) + canonical(value[1:])
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(sorted(f"{json.dumps(name)}:{json.dumps(item)}" for name, item in value.items()))
            + "}"
        )
    return json.dumps(value)
