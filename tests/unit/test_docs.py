"""Documents against a plain dict, and the changes that a commit would send against the fields in Redis."""

from __future__ import annotations

import copy
import json
import pickle
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from txstate._documents.codec import INT_MAX, INT_MIN, VERSION_FIELD, decode_name
from txstate._documents.doc import KEEP, Changes, Doc, Record
from txstate.errors import CodecError, FieldNotLoaded, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Guard:
    """Lets everything pass until told otherwise."""

    def __init__(self) -> None:
        self.reads = self.writes = True

    def check_read(self) -> None:
        if not self.reads:
            raise UsageError("over")

    def check_write(self) -> None:
        if not self.writes:
            raise UsageError("over")


def stored(**fields: Any) -> dict[bytes, bytes]:
    """A hash as txstate writes it."""
    raw = {name.encode(): json.dumps(value, separators=(",", ":")).encode() for name, value in fields.items()}
    return {VERSION_FIELD: b"7", **raw}


def opened(raw: Mapping[bytes, bytes], fields: Sequence[str] | None = None) -> tuple[Record, Doc]:
    """A document that was read, wholly or in part, from a hash; an empty hash is a missing document."""
    record = Record("acct:1")
    record.guard = Guard()
    fetch(record, raw, fields)
    return record, Doc(record)


def fetch(record: Record, raw: Mapping[bytes, bytes], fields: Sequence[str] | None = None) -> None:
    """What the engine does to read."""
    names = record.missing(fields)
    if names is None:
        record.load(exists=bool(raw), fields=dict(raw), whole=True)
    elif names:
        wanted = {name: raw.get(name) for name in (VERSION_FIELD, *names)}
        record.load(exists=bool(raw), fields=wanted, whole=False)


def fetch_pending(record: Record, raw: Mapping[bytes, bytes]) -> None:
    """What the engine does before a commit."""
    if pending := record.pending_increments():
        fetch(record, raw, [decode_name(name) for name in pending])


def applied(raw: Mapping[bytes, bytes], changes: Changes | None) -> dict[bytes, bytes]:
    """The hash after the commit, without its version."""
    if changes is None:
        after = dict(raw)
    elif not changes.exists:
        after = {}
    else:
        after = {} if changes.delete_first else dict(raw)
        after.update(changes.set)
        for name in changes.unset:
            after.pop(name, None)
    after.pop(VERSION_FIELD, None)
    return after


def change(
    *pairs: bytes, unset: tuple[bytes, ...] = (), delete_first: bool = False, ttl: Any = KEEP
) -> Changes:
    names_and_values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return Changes(delete_first=delete_first, set=names_and_values, unset=unset, exists=True, ttl=ttl)


# Reading


def test_reads_like_a_dict() -> None:
    _, doc = opened(stored(a=1, b=[1, 2], c=None))
    assert (doc.key, doc.version, doc.exists) == ("acct:1", 7, True)
    assert doc == {"c": None, "a": 1, "b": [1, 2]}
    assert list(doc) == ["a", "b", "c"]
    assert len(doc) == 3
    assert (doc["a"], doc.get("c", 5), doc.get("d"), doc.get("d", 5)) == (1, None, None, 5)
    assert "a" in doc
    for name in ("d", "__version__", 5, b"a", "\ud800", ["a"]):
        assert name not in doc
    with pytest.raises(KeyError, match="d"):
        doc["d"]
    for name in (5, "__version__"):
        with pytest.raises(CodecError):
            doc[name]  # type: ignore[index]


def test_a_missing_document_is_empty() -> None:
    for fields in (None, ["a"]):
        record, doc = opened({}, fields)
        assert (doc.version, doc.exists, len(doc), dict(doc)) == (0, False, 0, {})
        assert record.whole
        assert record.missing(None) == ()
        assert doc.get("other", 1) == 1
        assert record.changes() is None


def test_versions() -> None:
    foreign, _ = opened({b"a": b"1"})
    assert (foreign.version, foreign.has_version) == (1, False)
    partial, _ = opened({b"a": b"1"}, ["a"])
    assert (partial.version, partial.has_version) == (1, False)
    own, _ = opened(stored())
    assert (own.version, own.has_version) == (7, True)
    with pytest.raises(CodecError, match="'acct:1', field '__version__'"):
        opened({VERSION_FIELD: b"seven"})


def test_what_is_handed_out_is_live_and_the_same_each_time() -> None:
    _, doc = opened(stored(cart={"items": [1]}))
    cart = doc["cart"]
    assert cart is doc["cart"] is doc.get("cart") is doc.setdefault("cart", {}) is dict(doc.items())["cart"]
    doc["cart"]["items"] += [2]
    doc["cart"] = doc["cart"]
    cart["items"].append(3)
    assert doc["cart"] == {"items": [1, 2, 3]}


def test_to_dict_is_independent() -> None:
    record, doc = opened(stored(a=[1], b=[2]))
    doc["b"].append(3)
    copy = doc.to_dict()
    assert copy == {"a": [1], "b": [2, 3]}
    copy["a"].append(9)
    copy["b"].append(9)
    assert doc == {"a": [1], "b": [2, 3]}
    assert record.changes() == change(b"b", b"[2,3]")


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda doc: pickle.loads(pickle.dumps(doc))],  # noqa: S301 - our own bytes
    ids=["copy", "deep", "pickle"],
)
@pytest.mark.parametrize("fields", [None, ["a"]], ids=["whole", "partial"])
def test_copies_are_plain_dicts_and_no_part_of_the_transaction(
    copied: Callable[[Doc], dict[str, Any]], fields: Sequence[str] | None
) -> None:
    record, doc = opened(stored(a=[1]), fields)
    doc["n"] = 1
    other = copied(doc)
    assert type(other) is dict
    assert other == {"a": [1], "n": 1}
    other["a"].append(2)
    other["n"] = 2
    assert record.changes() == change(b"n", b"1")


def test_is_merged_like_a_dict() -> None:
    record, doc = opened(stored(a=1, b=2))
    for merged in (doc | {"b": 3}, {"a": 0, "c": 4} | doc):
        assert type(merged) is dict
    assert doc | {"b": 3} == {"a": 1, "b": 3}
    assert {"a": 0, "c": 4} | doc == {"a": 1, "b": 2, "c": 4}
    assert record.changes() is None
    same = doc
    same |= {"b": 3, "c": [4]}
    assert same is doc
    assert record.changes() == change(b"b", b"3", b"c", b"[4]")
    partial, part = opened(stored(a=1, b=2), ["a"])
    part |= {"c": 3}
    assert partial.changes() == change(b"c", b"3")
    with pytest.raises(FieldNotLoaded):
        part | {}
    with pytest.raises(FieldNotLoaded):
        {} | part
    for operator in ("__or__", "__ror__", "__ior__"):
        with pytest.raises(TypeError):
            getattr(doc, operator)(5)


def test_what_is_no_json_hurts_only_who_reads_it() -> None:
    record, doc = opened({b"bad": b"hello", b"n": b"1", b"worse": b"{"})
    assert doc["n"] == 1
    assert "bad" in doc
    assert list(doc) == ["bad", "n", "worse"]
    for use in (lambda: doc["bad"], doc.to_dict, lambda: doc.increment("bad"), lambda: doc == {}):
        with pytest.raises(CodecError, match="'acct:1', field 'bad'"):
            use()
    assert repr(doc) == "Doc('acct:1', version=1, {'bad': b'hello', 'n': 1, 'worse': b'{'})"
    doc["bad"] = 5
    del doc["worse"]
    assert record.changes() == change(b"bad", b"5", unset=(b"worse",))


# Writing


def test_values_are_stored_by_value() -> None:
    record, doc = opened({})
    items = [(1, 2)]
    doc["items"] = items
    items.append((3, 4))
    assert doc["items"] == [[1, 2]]
    assert type(doc["items"][0]) is list
    assert record.changes() == change(b"items", b"[[1,2]]")


@pytest.mark.parametrize("bad", [{1}, float("nan"), [object()], {"a": {1: 2}}])
def test_a_refused_value_leaves_the_old_one(bad: Any) -> None:
    record, doc = opened(stored(a=1))
    for use in (
        lambda: doc.__setitem__("a", bad),
        lambda: doc.replace({"b": 2, "a": bad}),
        lambda: doc.setdefault("c", bad),
        lambda: doc.update(a=bad),
    ):
        with pytest.raises(CodecError):
            use()
    assert doc == {"a": 1}
    assert record.changes() is None


@pytest.mark.parametrize("name", ["__version__", 5, None, "\ud800"])
def test_refused_names(name: Any) -> None:
    record, doc = opened(stored(a=1))
    for use in (
        lambda: doc.__setitem__(name, 1),
        lambda: doc.increment(name),
        lambda: doc.replace({name: 1}),
    ):
        with pytest.raises(CodecError, match="'acct:1'"):
            use()
    with pytest.raises(KeyError):
        del doc[name]
    assert record.changes() is None


def test_replace_takes_a_mapping() -> None:
    _, doc = opened(stored(a=1))
    with pytest.raises(UsageError, match="pass a dict"):
        doc.replace([("a", 1)])  # type: ignore[arg-type]
    doc.replace(doc)
    assert doc == {"a": 1}


NOTHING: list[Callable[[Doc], object]] = [
    lambda doc: doc["cart"],
    lambda doc: doc.to_dict(),
    lambda doc: doc.__setitem__("a", 1),
    lambda doc: [doc.update(a=2, cart={"items": [1, 2]}), doc.update(a=1)],
    lambda doc: [doc["cart"]["items"].append(3), doc["cart"]["items"].pop()],
    lambda doc: doc.replace({"b": True, "cart": {"items": (1, 2)}, "a": 1}),
    lambda doc: doc.increment("a", 0),
    lambda doc: doc.increment("a", 5) + doc.increment("a", -5),
    lambda doc: doc.setdefault("new", 1) + doc.pop("new"),
    lambda doc: doc.__setitem__("a", doc.pop("a")),
    lambda doc: doc.setdefault("a", 7),
]


@pytest.mark.parametrize("use", NOTHING)
@pytest.mark.parametrize("foreign", [False, True])
def test_what_ends_equal_writes_nothing(use: Callable[[Doc], object], foreign: bool) -> None:  # noqa: FBT001 - both
    raw = stored(a=1, b=True, cart={"items": [1, 2]})
    if foreign:
        raw = {VERSION_FIELD: b"7", b"a": b" 1", b"b": b"true\n", b"cart": b'{ "items": [1, 2] }'}
    record, doc = opened(raw)
    use(doc)
    assert record.changes() is None
    assert record.snapshot(record.version) == {"a": 1, "b": True, "cart": {"items": [1, 2]}}


@pytest.mark.parametrize("new", [1.0, True, "1"])
def test_another_type_is_a_change(new: Any) -> None:
    record, doc = opened(stored(a=1))
    doc["a"] = new
    assert record.changes() == change(b"a", json.dumps(new).encode())


MUTATIONS: list[Callable[[Doc], object]] = [
    lambda doc: doc["cart"]["items"].append(3),
    lambda doc: doc.get("cart")["items"].append(3),
    lambda doc: doc.setdefault("cart")["items"].append(3),
    lambda doc: dict(doc.items())["cart"]["items"].append(3),
    lambda doc: list(doc.values())[1]["items"].append(3),
    lambda doc: doc["cart"].update(items=[1, 2, 3]),
]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_nested_mutation_is_found(mutate: Callable[[Doc], object]) -> None:
    record, doc = opened(stored(a=1, cart={"items": [1, 2]}))
    mutate(doc)
    assert record.changes() == change(b"cart", b'{"items":[1,2,3]}')


def test_nested_mutation_of_something_assigned_is_found() -> None:
    record, doc = opened(stored(a=1))
    doc["new"] = []
    doc["new"].append(1)
    doc.setdefault("newer", []).append(2)
    assert record.changes() == change(b"new", b"[1]", b"newer", b"[2]")


def test_nested_mutation_with_what_can_not_be_stored() -> None:
    record, doc = opened(stored(a=[1]))
    doc["a"].append({2})
    for use in (record.changes, doc.to_dict, lambda: doc.__setitem__("a", doc["a"])):
        with pytest.raises(
            CodecError, match=re.escape("'acct:1', field 'a': found a value of type set at [1]")
        ):
            use()


def test_only_what_changed_is_written() -> None:
    record, doc = opened(stored(a=1, b=2, c=[3], d=4))
    doc.update(a=1, b=3)
    doc["c"].append(4)
    del doc["d"]
    doc["e"] = None
    assert record.changes() == change(b"b", b"3", b"c", b"[3,4]", b"e", b"null", unset=(b"d",))


def test_replace_keeps_the_hash_and_drops_the_rest() -> None:
    record, doc = opened(stored(a=1, b=2, c=3))
    doc.replace({"b": 2, "c": 4, "d": 5})
    doc["e"] = 6
    del doc["d"]
    assert list(doc) == ["b", "c", "e"]
    assert record.changes() == change(b"c", b"4", b"e", b"6", unset=(b"a",))


def test_an_empty_document_exists() -> None:
    record, doc = opened({})
    doc.replace({})
    assert doc.exists
    assert record.changes() == change()
    snapshot = record.snapshot(8)
    assert (dict(snapshot), snapshot.version) == ({}, 8)


@pytest.mark.parametrize(
    "empty", [Doc.clear, lambda doc: doc.replace({}), lambda doc: [doc.popitem() for _ in "ab"]]
)
def test_removing_all_fields_keeps_it_existing(empty: Callable[[Doc], object]) -> None:
    record, doc = opened(stored(a=1, b=2))
    empty(doc)
    assert doc.exists
    assert len(doc) == 0
    changes = record.changes()
    assert changes is not None
    assert (changes.exists, changes.delete_first, sorted(changes.unset)) == (True, False, [b"a", b"b"])


def test_clearing_a_missing_document_creates_nothing() -> None:
    record, doc = opened({})
    doc.clear()
    with pytest.raises(KeyError):
        doc.popitem()
    assert not doc.exists
    assert record.changes() is None


def test_popitem_takes_the_last() -> None:
    _, doc = opened(stored(a=1, b=[2]))
    doc["c"] = 3
    assert [doc.popitem(), doc.popitem(), doc.pop("a"), doc.pop("a", 9)] == [("c", 3), ("b", [2]), 1, 9]


def test_delete() -> None:
    record, doc = opened(stored(a=1))
    doc["a"] = 2
    doc.expire(5)
    doc.delete()
    assert (doc.exists, dict(doc), doc.version) == (False, {}, 7)
    assert record.changes() == Changes(delete_first=True, set={}, unset=(), exists=False, ttl=KEEP)
    snapshot = record.snapshot(8)
    assert (dict(snapshot), snapshot.version) == ({}, 0)


def test_delete_and_create_anew_writes_everything() -> None:
    record, doc = opened(stored(a=1, b=2))
    doc.delete()
    assert doc.increment("a") == 1
    assert doc == {"a": 1}
    assert record.changes() == change(b"a", b"1", delete_first=True)
    assert record.snapshot(8) == {"a": 1}


def test_delete_of_what_never_was() -> None:
    record, doc = opened({})
    doc["a"] = 1
    doc.delete()
    assert record.changes() is None
    doc["a"] = 1
    assert record.changes() == change(b"a", b"1")


# Increments


def test_increment() -> None:
    record, doc = opened(stored(a=1))
    assert (doc.increment("a"), doc.increment("a", -5), doc.increment("b", 0)) == (2, -3, 0)
    assert record.changes() == change(b"a", b"-3", b"b", b"0")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1]])
def test_increment_needs_an_integer(value: Any) -> None:
    record, doc = opened(stored(a=value))
    with pytest.raises(CodecError, match=f"'acct:1', field 'a': is no integer but {type(value).__name__}"):
        doc.increment("a")
    with pytest.raises(CodecError, match="is incremented by an int"):
        doc.increment("b", value)
    assert record.changes() is None


@pytest.mark.parametrize(("value", "by"), [(INT_MAX, 1), (INT_MIN, -1), (0, 2**63), (-1, INT_MIN)])
def test_increment_stays_in_64_bits(value: int, by: int) -> None:
    record, doc = opened(stored(a=value))
    with pytest.raises(CodecError, match="64 bits"):
        doc.increment("a", by)
    partial, doc = opened(stored(a=value), [])
    doc.increment("a", by)
    fetch_pending(partial, stored(a=value))
    with pytest.raises(CodecError, match="64 bits"):
        partial.changes()
    assert record.changes() is None


def test_increment_reaches_the_edges() -> None:
    record, doc = opened(stored(a=INT_MAX - 1, b=INT_MIN + 1, c=-1))
    doc.increment("a")
    doc.increment("b", -1)
    doc.increment("c", 2**63)
    assert record.changes() == change(
        b"a", b"9223372036854775807", b"b", b"-9223372036854775808", b"c", b"9223372036854775807"
    )


# Expiry


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (5, 5000),
        (0.001, 1),
        (1.2345, 1234),
        (timedelta(minutes=1), 60000),
        (timedelta(microseconds=1500), 2),
        (2**53 // 1000, 2**53 // 1000 * 1000),
        (None, None),
    ],
)
def test_expire_alone_is_a_change(seconds: Any, milliseconds: int | None) -> None:
    record, doc = opened(stored(a=1))
    doc.expire(seconds)
    assert record.changes() == change(ttl=milliseconds)
    assert record.ttl_after(7) == milliseconds


@pytest.mark.parametrize(
    "seconds",
    [
        0,
        -1,
        0.0001,
        True,
        float("nan"),
        float("inf"),
        1e308,
        2**53,
        10**400,
        "5",
        timedelta(0),
        timedelta.max,
    ],
)
def test_times_that_are_refused(seconds: Any) -> None:
    record, doc = opened(stored(a=1))
    with pytest.raises(UsageError, match="expire"):
        doc.expire(seconds)
    assert record.changes() is None


def test_expire_counts_for_what_exists_in_the_end() -> None:
    record, doc = opened({})
    doc.expire(5)
    assert record.changes() is None
    assert record.ttl_after(None) is None
    doc["a"] = 1
    assert record.changes() == change(b"a", b"1", ttl=5000)
    doc.delete()
    doc["a"] = 1
    assert record.changes() == change(b"a", b"1")


def test_ttl_after() -> None:
    record, doc = opened(stored(a=1))
    assert record.ttl_after(9) == 9
    doc.delete()
    assert record.ttl_after(9) is None
    doc["a"] = 1
    assert record.ttl_after(9) is None
    doc.expire(5)
    assert record.ttl_after(9) == 5000


# Partial documents


def test_partial_documents_say_what_they_do_not_know() -> None:
    record, doc = opened(stored(a=1, b=2), ["a", "gone"])
    assert not record.whole
    assert record.known_names() == ["a", "gone"]
    assert doc["a"] == 1
    assert "gone" not in doc
    assert doc.get("gone", 3) == 3
    uses: list[tuple[Callable[[], object], str | None]] = [
        (lambda: doc["b"], "b"),
        (lambda: "b" in doc, "b"),
        (lambda: doc.get("b"), "b"),
        (lambda: doc.pop("b"), "b"),
        (lambda: doc.pop("b", None), "b"),
        (lambda: doc.setdefault("b"), "b"),
        (lambda: doc.__delitem__("b"), "b"),
        (lambda: list(doc), None),
        (lambda: len(doc), None),
        (lambda: doc == {}, None),
        (lambda: doc.items() == {}.items(), None),
        (doc.clear, None),
        (doc.popitem, None),
        (lambda: doc.replace({}), None),
    ]
    for use, field in uses:
        with pytest.raises(FieldNotLoaded) as caught:
            use()
        assert (caught.value.key, caught.value.field) == ("acct:1", field)
    assert record.changes() is None
    assert doc.to_dict() == {"a": 1}
    assert repr(doc) == "Doc('acct:1', version=7, partial, {'a': 1})"


def test_partial_documents_can_be_written() -> None:
    raw = stored(a=1, b=2, c=3)
    record, doc = opened(raw, ["a"])
    doc["b"] = 5
    doc["c"] = 6
    doc["c"] = 3
    del doc["a"]
    assert doc["b"] == 5
    assert record.missing(["a", "b", "d"]) == (b"d",)
    assert record.changes() == change(b"b", b"5", b"c", b"3", unset=(b"a",))
    snapshot = record.snapshot(8)
    assert snapshot.to_dict() == {"b": 5, "c": 3}
    assert "a" not in snapshot
    with pytest.raises(FieldNotLoaded):
        len(snapshot)


def test_assigned_then_removed_without_being_read() -> None:
    record, doc = opened(stored(a=1, b=2), ["a"])
    doc["b"] = 3
    del doc["b"]
    assert "b" not in doc
    assert record.changes() == change(unset=(b"b",))


def test_a_later_read_adds_fields_and_keeps_own_writes() -> None:
    raw = stored(a=[1], b=2, c=3, d=4)
    record, doc = opened(raw, ["a"])
    doc["a"].append(2)
    doc["b"] = 5
    fetch(record, raw, ["b", "c"])
    assert [doc["a"], doc["b"], doc["c"]] == [[1, 2], 5, 3]
    assert record.raw() == {VERSION_FIELD: b"7", b"a": b"[1]", b"c": b"3"}
    fetch(record, raw)
    assert record.whole
    assert doc == {"a": [1, 2], "b": 5, "c": 3, "d": 4}
    assert record.missing(None) == record.missing(["e"]) == ()
    assert record.known_names() is None
    assert record.changes() == change(b"a", b"[1,2]", b"b", b"5")


def test_a_partial_document_deleted_is_known() -> None:
    raw = stored(a=1, b=2)
    record, doc = opened(raw, ["a"])
    doc.increment("b")
    doc.delete()
    assert len(doc) == 0
    assert record.missing(None) == ()
    assert record.pending_increments() == {}
    doc.replace({"b": 2})
    assert record.changes() == change(b"b", b"2", delete_first=True)
    assert record.snapshot(8) == {"b": 2}


def test_increments_of_fields_not_loaded_wait() -> None:
    raw = stored(a=1, n=10, m=5)
    record, doc = opened(raw, ["a"])
    assert [doc.increment("n"), doc.increment("n", 4), doc.increment("new", 2), doc.increment("m")] == [
        1,
        5,
        2,
        1,
    ]
    doc["m"] = 7
    assert record.pending_increments() == {b"n": 5, b"new": 2}
    with pytest.raises(FieldNotLoaded):
        doc["n"]
    with pytest.raises(AssertionError, match="increments wait"):
        record.changes()
    fetch_pending(record, raw)
    assert record.pending_increments() == {}
    assert doc["n"] == 15
    assert record.changes() == change(b"m", b"7", b"n", b"15", b"new", b"2")


def test_a_waiting_increment_of_no_integer() -> None:
    raw = stored(n="x", m=1)
    for remedy in (
        None,
        lambda doc: doc.pop("n"),
        lambda doc: doc.update(n=2),
        lambda doc: doc.replace({"n": 2, "m": 4}),
    ):
        record, doc = opened(raw, [])
        doc.increment("n")
        doc.increment("m", 3)
        record.load(exists=True, fields=raw, whole=True)
        assert doc == {"n": "x", "m": 4}  # it can be read, and mended
        if remedy is None:
            with pytest.raises(CodecError, match="'acct:1', field 'n'"):
                record.changes()
        else:
            remedy(doc)
            assert record.pending_increments() == {}
            assert record.changes() is not None
            assert doc.get("n", 2) == 2


def test_reading_again_changes_no_state() -> None:
    record, doc = opened(stored(a=1, b=2))
    record.load(exists=True, fields=dict(stored(a=1)), whole=False)
    assert record.whole
    assert doc == {"a": 1, "b": 2}
    doc.delete()
    record.load(exists=True, fields=dict(stored(a=1, b=2)), whole=True)
    assert (doc.exists, record.existed, dict(doc)) == (False, True, {})


def test_missing() -> None:
    record = Record("acct:1")
    record.guard = Guard()
    assert not record.loaded
    assert record.missing(None) is None
    assert record.missing(["a", "b", "a"]) == (b"a", b"b")
    assert record.missing([]) == (VERSION_FIELD,)
    with pytest.raises(UsageError, match=re.escape("fields=['balance']")):
        record.missing("balance")
    for name in ("__version__", 5):
        with pytest.raises(CodecError):
            record.missing([name])  # type: ignore[list-item]
    fetch(record, stored(a=1), [])
    assert record.loaded
    assert record.missing([]) == ()
    assert record.missing(["a"]) == (b"a",)


def test_raw_tells_whether_two_attempts_read_the_same() -> None:
    reads = [
        opened(raw, ["a"])[0].raw() for raw in ({}, stored(), stored(a=1), stored(a=2), stored(a=1, b=1))
    ]
    assert reads[2] == reads[4]
    assert len({repr(read) for read in reads}) == 4


# The end


def test_committed_version() -> None:
    record, doc = opened(stored(a=1))
    with pytest.raises(UsageError, match="on_commit"):
        doc.committed_version  # noqa: B018 - reading it raises
    record.committed_version = 8
    assert doc.committed_version == 8


def test_the_snapshot_shows_what_was_committed() -> None:
    raw = stored(a=[1], b=2)
    record, doc = opened(raw)
    items = doc["a"]
    items.append(2)
    doc["c"] = 3
    del doc["b"]
    assert record.changes() is not None
    items.append(3)
    snapshot = record.snapshot(8)
    items.append(4)
    assert snapshot == {"a": [1, 2], "c": 3}
    assert (snapshot.key, snapshot.version) == ("acct:1", 8)
    assert raw == stored(a=[1], b=2)


READS: list[Callable[[Doc], object]] = [
    lambda doc: doc["a"],
    lambda doc: doc.get("a"),
    lambda doc: "a" in doc,
    list,
    len,
    Doc.to_dict,
    lambda doc: doc == {},
    lambda doc: doc.version,
    lambda doc: doc.exists,
]
WRITES: list[Callable[[Doc], object]] = [
    lambda doc: doc.__setitem__("a", 2),
    lambda doc: doc.__delitem__("a"),
    lambda doc: doc.increment("a"),
    lambda doc: doc.replace({}),
    lambda doc: doc.update(a=2),
    lambda doc: doc.pop("a"),
    lambda doc: doc.setdefault("b", 2),
    lambda doc: doc.expire(None),
    Doc.popitem,
    Doc.clear,
    Doc.delete,
]


def test_the_guard_is_asked() -> None:
    record, doc = opened(stored(a=1))
    guard = record.guard
    assert isinstance(guard, Guard)
    guard.writes = False
    for read in READS:
        read(doc)
    for write in WRITES:
        with pytest.raises(UsageError, match="over"):
            write(doc)
    guard.reads = False
    for read in READS:
        with pytest.raises(UsageError, match="over"):
            read(doc)
    record.committed_version = 8
    assert (doc.key, doc.committed_version, repr(doc)) == ("acct:1", 8, "Doc('acct:1', version=7, {'a': 1})")
    assert record.changes() is None


def test_repr_never_raises() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise ValueError

    _, doc = opened(stored(a=[1]))
    doc["a"].append(Rude())
    assert repr(doc) == "Doc('acct:1', version=7, <ValueError>)"
    assert repr(Doc(Record("k"))) == "Doc('k', version=0, partial, {})"


# Against a model

NAMES = st.sampled_from(["a", "b", "c", "d", "é", "\udcff"])
SCALARS = st.integers(-3, 3) | st.sampled_from([None, True, 1.5, "x", INT_MAX])
VALUES = (
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("xy"), SCALARS | st.just([1]))
)


def as_field(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


class DocMachine(RuleBasedStateMachine):
    """A document, wholly or partly read, must do as a dict does, and its changes must lead to that dict."""

    @initialize(
        content=st.none() | st.dictionaries(NAMES, VALUES),
        fields=st.none() | st.lists(NAMES),
        indent=st.sampled_from([None, 1]),
    )
    def open(self, content: dict[str, Any] | None, fields: list[str] | None, indent: int | None) -> None:
        self.raw: dict[bytes, bytes] = {}
        if content is not None:
            fields_raw = {
                as_field(name): json.dumps(value, indent=indent).encode() for name, value in content.items()
            }
            self.raw = {VERSION_FIELD: b"7", **fields_raw}
        self.record, self.doc = opened(self.raw, fields)
        self.before = content
        self.model: dict[str, Any] = json.loads(json.dumps(content or {}))
        self.exists = content is not None
        self.deleted = False
        self.unknown = set() if fields is None or content is None else set("abcdé\udcff") - set(fields)
        self.complete = fields is None or content is None

    @rule(name=NAMES, value=VALUES)
    def assign(self, name: str, value: Any) -> None:
        self.doc[name] = value
        self.model[name] = json.loads(json.dumps(value))
        self.unknown.discard(name)
        self.exists = True

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        if name in self.unknown:
            with pytest.raises(FieldNotLoaded):
                self.doc[name]
        else:
            assert (name in self.doc) == (name in self.model)
            assert self.doc.get(name, "none") == self.model.get(name, "none")

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name in self.unknown:
            with pytest.raises(FieldNotLoaded):
                del self.doc[name]
        else:
            assert self.doc.pop(name, "none") == self.model.pop(name, "none")

    @rule(name=NAMES, value=VALUES)
    def mutate(self, name: str, value: Any) -> None:
        if name in self.unknown:
            return
        for document in (self.doc, self.model):
            target = document.get(name)
            if isinstance(target, list):
                target.append(value)
            elif isinstance(target, dict):
                target["x"] = value
        self.model = json.loads(json.dumps(self.model))

    @rule(name=NAMES, by=st.integers(-2, 2))
    def increment(self, name: str, by: int) -> None:
        value = self.model.get(name, 0)
        if name in self.unknown:
            if type(value) is int and value < INT_MAX - 100:  # what others do fails at commit
                self.doc.increment(name, by)
                self.model[name] = value + by
        elif type(value) is not int or value + by > INT_MAX:
            with pytest.raises(CodecError):
                self.doc.increment(name, by)
        else:
            assert self.doc.increment(name, by) == value + by
            self.model[name] = value + by
            self.exists = True

    @rule(content=st.dictionaries(NAMES, VALUES))
    def replace(self, content: dict[str, Any]) -> None:
        if not self.complete:
            with pytest.raises(FieldNotLoaded):
                self.doc.replace(content)
            return
        self.doc.replace(content)
        self.model = json.loads(json.dumps(content))
        self.exists = True

    @precondition(lambda self: self.complete)
    @rule()
    def replace_with_the_same(self) -> None:
        self.doc.replace(self.model)
        self.exists = True

    @rule()
    def delete(self) -> None:
        self.doc.delete()
        self.model = {}
        self.deleted = self.complete = True
        self.unknown = set()
        self.exists = False

    @rule(fields=st.none() | st.lists(NAMES))
    def read_more(self, fields: list[str] | None) -> None:
        fetch(self.record, self.raw, fields)
        self.unknown -= self.unknown if fields is None else set(fields)
        self.complete = self.complete or fields is None

    @rule()
    def clear(self) -> None:
        if self.complete:
            self.doc.clear()
            self.model = {}
        else:
            with pytest.raises(FieldNotLoaded):
                self.doc.clear()

    @invariant()
    def reads_as_the_model(self) -> None:
        if self.complete:
            assert self.doc == self.model
            assert len(self.doc) == len(self.model)
        else:
            known = {name: value for name, value in self.model.items() if name not in self.unknown}
            assert self.doc.to_dict() == known
        assert self.doc.exists == self.exists

    def teardown(self) -> None:
        if not hasattr(self, "record"):
            return
        fetch_pending(self.record, self.raw)
        changes = self.record.changes()
        after = applied(self.raw, changes)
        assert {name: json.dumps(json.loads(value)) for name, value in after.items()} == {
            as_field(name): json.dumps(value) for name, value in self.model.items()
        }
        assert (changes.exists if changes else bool(self.raw)) == self.exists
        if changes is None:
            assert self.before == (self.model if self.exists else None)
        elif not (self.deleted or self.before is None):
            assert not changes.delete_first
            read = self.record.raw()
            for name, value in changes.set.items():
                old = read.get(name)  # what was never read can't be compared
                assert old is None or json.dumps(json.loads(old)) != json.dumps(json.loads(value))
            assert all(name in self.raw or name not in read for name in changes.unset)
        snapshot = self.record.snapshot(8)
        if self.complete:
            assert snapshot == self.model
        else:
            assert snapshot.to_dict().items() <= self.model.items()


TestDocMachine = DocMachine.TestCase
