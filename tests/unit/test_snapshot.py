"""Snapshots can't be changed, and are otherwise as good as dicts."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest

from txstate._documents.snapshot import FrozenDict, FrozenList, Snapshot
from txstate.errors import CodecError, FieldNotLoaded

RAW = {
    b"__version__": b"7",
    b"n": b"5",
    b"cart": b'{"items":[{"sku":"a"}],"total":1.5}',
    b"tags": b'["x","y"]',
}
PLAIN = {"n": 5, "cart": {"items": [{"sku": "a"}], "total": 1.5}, "tags": ["x", "y"]}


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot("acct:1", 7, RAW)


@pytest.fixture
def partial() -> Snapshot:
    return Snapshot("acct:1", 7, {b"__version__": b"7", b"n": b"5", b"gone": None}, whole=False)


def test_is_a_mapping(snapshot: Snapshot) -> None:
    assert (snapshot.key, snapshot.version) == ("acct:1", 7)
    assert isinstance(snapshot, Mapping)
    assert list(snapshot) == ["n", "cart", "tags"]
    assert len(snapshot) == 3
    assert dict(snapshot) == PLAIN
    assert snapshot.get("nope", 1) == 1
    assert "n" in snapshot
    for name in ("nope", "__version__", 5, "\ud800"):
        assert name not in snapshot
    with pytest.raises(KeyError):
        snapshot["nope"]
    with pytest.raises(CodecError, match=r"read \.version"):
        snapshot["__version__"]


def test_equals_any_mapping_of_the_same_content(snapshot: Snapshot) -> None:
    assert snapshot == PLAIN
    assert snapshot == Snapshot("another", 1, {name: RAW[name] for name in reversed(RAW)})
    assert snapshot != {**PLAIN, "n": 6}
    with pytest.raises(TypeError, match="unhashable"):
        hash(snapshot)


def test_values_are_decoded_once(snapshot: Snapshot) -> None:
    assert snapshot["cart"] is snapshot["cart"]


def test_to_dict_is_plain_and_independent(snapshot: Snapshot) -> None:
    result = snapshot.to_dict()
    assert result == PLAIN
    assert type(result["cart"]) is dict
    assert type(result["cart"]["items"]) is list
    result["cart"]["items"].append(1)
    assert snapshot == PLAIN
    assert snapshot.to_dict() == PLAIN


LIST_MUTATIONS: list[Callable[[Any], object]] = [
    lambda value: value.append(1),
    lambda value: value.extend([1]),
    lambda value: value.insert(0, 1),
    lambda value: value.pop(),
    lambda value: value.remove("x"),
    lambda value: value.clear(),
    lambda value: value.sort(key=str),
    lambda value: value.reverse(),
    lambda value: value.__setitem__(0, 1),
    lambda value: value.__setitem__(slice(None), []),
    lambda value: value.__delitem__(0),
    lambda value: value.__iadd__([1]),
    lambda value: value.__imul__(2),
]
DICT_MUTATIONS: list[Callable[[Any], object]] = [
    lambda value: value.__setitem__("a", 1),
    lambda value: value.__delitem__("total"),
    lambda value: value.clear(),
    lambda value: value.pop("total", None),
    lambda value: value.popitem(),
    lambda value: value.setdefault("a", 1),
    lambda value: value.update(a=1),
    lambda value: value.__ior__({"a": 1}),
]


@pytest.mark.parametrize(
    ("field", "mutate"),
    [("tags", mutate) for mutate in LIST_MUTATIONS] + [("cart", mutate) for mutate in DICT_MUTATIONS],
)
def test_no_mutator_works(snapshot: Snapshot, field: str, mutate: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=re.escape("store.update(")):
        mutate(snapshot[field])
    assert snapshot == PLAIN


def test_every_mutator_of_list_and_dict_is_known() -> None:
    """A Python that adds one makes this fail."""
    reading = {"copy", "count", "index", "get", "items", "keys", "values", "fromkeys"}
    for plain, frozen in ((list, FrozenList), (dict, FrozenDict)):
        public = {name for name in vars(plain) if not name.startswith("_")} - reading
        assert all(name in vars(frozen) for name in public)


def test_deep_inside_too(snapshot: Snapshot) -> None:
    with pytest.raises(TypeError, match="snapshots can't be changed"):
        snapshot["cart"]["items"][0]["sku"] = "b"
    with pytest.raises(TypeError):
        snapshot["cart"] = {}  # type: ignore[index]


def test_serializes(snapshot: Snapshot) -> None:
    assert json.loads(json.dumps(snapshot["cart"])) == PLAIN["cart"]
    assert orjson.loads(orjson.dumps(snapshot["cart"])) == PLAIN["cart"]
    assert json.loads(json.dumps(dict(snapshot))) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(snapshot: Snapshot, partial: Snapshot, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(snapshot, protocol))  # noqa: S301 - our own bytes
    assert (again, again.key, again.version) == (snapshot, "acct:1", 7)
    cart = pickle.loads(pickle.dumps(snapshot["cart"], protocol))  # noqa: S301 - our own bytes
    assert cart == PLAIN["cart"]
    assert type(cart) is FrozenDict
    assert type(cart["items"]) is FrozenList
    with pytest.raises(FieldNotLoaded):
        len(pickle.loads(pickle.dumps(partial, protocol)))  # noqa: S301 - our own bytes


def test_copies_of_values_are_plain_and_can_be_changed(snapshot: Snapshot) -> None:
    deep = copy.deepcopy(snapshot["cart"])
    deep["items"][0]["sku"] = "b"
    deep["items"].append(1)
    shallow = copy.copy(snapshot["tags"])
    shallow.append("z")
    snapshot["tags"].copy().append("z")
    snapshot["cart"].copy()["total"] = 2
    assert snapshot == PLAIN
    assert copy.deepcopy(snapshot) == PLAIN
    assert copy.copy(snapshot) == PLAIN


def test_is_merged_like_a_dict(snapshot: Snapshot, partial: Snapshot) -> None:
    assert snapshot | {"n": 6} == {**PLAIN, "n": 6}
    assert {"n": 6, "new": 1} | snapshot == {**PLAIN, "new": 1}
    assert type(snapshot | {}) is type({} | snapshot) is dict
    assert snapshot == PLAIN
    with pytest.raises(FieldNotLoaded):
        partial | {}
    with pytest.raises(FieldNotLoaded):
        {} | partial


def test_partial_tells_what_it_does_not_know(partial: Snapshot) -> None:
    assert partial["n"] == 5
    assert partial.get("gone", 1) == 1
    assert "gone" not in partial
    assert partial.to_dict() == {"n": 5}
    for use in (
        lambda: partial["other"],
        lambda: partial.get("other"),
        lambda: "other" in partial,
        lambda: list(partial),
        lambda: len(partial),
        lambda: partial == {"n": 5},
        lambda: dict(partial.items()),
    ):
        with pytest.raises(FieldNotLoaded):
            use()


def test_what_is_no_json_is_said_on_access() -> None:
    snapshot = Snapshot("acct:1", 1, {b"bad": b"hello", b"n": b"5"})
    assert snapshot["n"] == 5
    assert list(snapshot) == ["bad", "n"]
    for use in (lambda: snapshot["bad"], snapshot.to_dict):
        with pytest.raises(CodecError, match="'acct:1', field 'bad'"):
            use()
    assert repr(snapshot) == "Snapshot('acct:1', version=1, {'bad': b'hello', 'n': 5})"


def test_repr(snapshot: Snapshot, partial: Snapshot) -> None:
    assert repr(snapshot) == f"Snapshot('acct:1', version=7, {PLAIN!r})"
    assert repr(partial) == "Snapshot('acct:1', version=7, partial, {'n': 5})"


def test_a_truth_test_asks_for_fields_and_of_a_partial_one_for_the_document() -> None:
    assert Snapshot("k", 1, {b"a": b"1"})
    assert not Snapshot("k", 1, {})
    assert Snapshot("k", 1, {b"a": None}, whole=False)
