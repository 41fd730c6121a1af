"""What may be stored, and how it reads back: the edges that orjson alone gets wrong."""

from __future__ import annotations

import json
import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txstate._documents.codec import (
    INT_MAX,
    INT_MIN,
    MAX_DEPTH,
    VERSION_FIELD,
    VERSION_NAME,
    decode,
    decode_name,
    decode_version,
    encode,
    encode_name,
    is_same,
    normalize,
    peek,
)
from txstate._documents.snapshot import Snapshot
from txstate.errors import CodecError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda children: st.lists(children) | st.dictionaries(TEXT, children),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Name(StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


@dataclass
class Item:
    sku: str


Point = namedtuple("Point", "x y")  # noqa: PYI024 - an untyped one is a tuple too


def keep(value: Any) -> Any:
    return normalize(value, key="k", field="f")


def write(value: Any) -> bytes:
    return encode(value, key="k", field="f")


def read(raw: bytes) -> Any:
    return decode(raw, key="k", field="f")


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def exact(value: Any) -> Any:
    """A value with its types, so that 1, 1.0 and True differ, and -0.0 from 0.0."""
    if isinstance(value, dict):
        return (type(value), [(type(name), name, exact(item)) for name, item in value.items()])
    if isinstance(value, list):
        return (type(value), [exact(item) for item in value])
    return (type(value), repr(value))


@given(VALUES)
def test_what_is_stored_reads_back_the_same(value: Any) -> None:
    assert exact(read(write(value))) == exact(value)
    assert exact(keep(value)) == exact(value)


@given(VALUES)
def test_other_clients_can_read_it(value: Any) -> None:
    assert json.loads(write(value)) == value


@pytest.mark.parametrize("value", [0, 1, -1, INT_MAX, INT_MIN, 2**53 + 1])
def test_integers_are_plain_digits(value: int) -> None:
    assert write(value) == str(value).encode()


def test_a_copy_is_independent_and_plain() -> None:
    inner = [1, (2, 3)]
    value = OrderedDict({Text("a"): inner, "b": Point(1, 2), "c": Whole(5), "d": Real(0.5), "e": Text("x")})
    copy = keep(value)
    inner.append(4)
    assert exact(copy) == exact({"a": [1, [2, 3]], "b": [1, 2], "c": 5, "d": 0.5, "e": "x"})


def test_frozen_values_become_plain() -> None:
    frozen = Snapshot("s", 1, {b"v": b'[{"a":[1]}]'})["v"]
    assert exact(keep(frozen)) == exact([{"a": [1]}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (date(2020, 1, 1), "type date; store value.isoformat()"),
        (datetime(2020, 1, 1, tzinfo=UTC), "type datetime; store value.isoformat()"),
        (timedelta(1), "type timedelta; store value.total_seconds()"),
        (UUID(int=1), "type UUID; store str(value)"),
        (Decimal("1.5"), "type Decimal; store str(value)"),
        (b"x", "type bytes; store a str"),
        ({1}, "type set; store sorted(value)"),
        (Item("a"), "type Item; store dataclasses.asdict(value)"),
        (Colour.RED, "type Colour; store its .value"),
        (Level.LOW, "type Level; store its .value"),
        (Name.A, "type Name; store its .value"),
        (Snapshot("s", 1, {}), "type Snapshot; store value.to_dict()"),
        (object(), "type object; None, bool, int, float"),
        (float("nan"), "the float nan"),
        (float("-inf"), "the float -inf"),
        (Real("inf"), "the float inf"),
        (2**63, "an integer beyond the signed 64 bits"),
        (-(2**63) - 1, "an integer beyond the signed 64 bits"),
        pytest.param(10**10000, "an integer beyond the signed 64 bits", id="no-digits"),
        (Whole(2**64), "an integer beyond the signed 64 bits"),
        ({1: 2}, "a dict key of type int"),
        ({Name.A: 2}, "a dict key of type Name"),
        ("\ud800", "lone surrogates"),
        (Text("\ud800"), "lone surrogates"),
        ({"\udcff": 1}, "lone surrogates"),
    ],
)
def test_everything_else_is_refused_with_advice(value: Any, message: str) -> None:
    for refuse in (keep, write):
        with pytest.raises(CodecError, match=re.escape(message)) as caught:
            refuse(value)
        assert (caught.value.key, caught.value.field) == ("k", "f")
        with pytest.raises(CodecError, match=re.escape('at ["items"][3]["x"]')):
            refuse({"items": [1, 2.0, None, {"x": value}]})


def test_depth_ends_where_orjson_does() -> None:
    deepest = nested(MAX_DEPTH)
    assert read(write(deepest)) == deepest
    with pytest.raises(
        CodecError, match=f"nested more than {MAX_DEPTH} deep at .*\\.\\.\\.; make it flatter"
    ):
        keep(nested(MAX_DEPTH + 1))


def test_a_value_inside_of_itself_is_refused() -> None:
    value: list[Any] = []
    value.append({"again": value})
    with pytest.raises(CodecError, match="contain itself"):
        keep(value)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"-0", 0),
        (b"-0.0", -0.0),
        (b" 1 ", 1),
        (b"1e2", 100.0),
        (b"9223372036854775807", INT_MAX),
        (b"-9223372036854775808", INT_MIN),
        (b"[-9223372036854775808,9223372036854775807]", [INT_MIN, INT_MAX]),
        (b"12345678901234567890.5", 12345678901234567890.5),
        (b"12345678901234567890e0", 12345678901234567890.0),
        (b"0.00012345678901234567", 0.00012345678901234567),
        (b'"99999999999999999999"', "99999999999999999999"),
        (b'{"99999999999999999999":[1]}', {"99999999999999999999": [1]}),
    ],
)
def test_what_others_wrote_is_read_for_what_it_is(raw: bytes, value: Any) -> None:
    assert exact(read(raw)) == exact(value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"NaN",
        b"Infinity",
        b"[1",
        b"01",
        b"1e400",
        b"[-1e400]",
        b'"\xff"',
        b'"\\ud800"',
        b"9223372036854775808",
        b"-9223372036854775809",
        b"18446744073709551615",
        b"18446744073709551616",
        b'{"a":[1,18446744073709551616]}',
        b'{"a":"","b":9223372036854775808}',
        b"1" * 5000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
)
def test_what_can_not_be_kept_is_not_read(raw: bytes) -> None:
    with pytest.raises(CodecError, match="does not hold JSON that txstate can read") as caught:
        read(raw)
    assert (caught.value.key, caught.value.field) == ("k", "f")
    assert peek(raw) == raw


@given(st.integers(-(2**66), 2**66), st.booleans())
def test_integers_are_read_exactly_or_not_at_all(number: int, alone: bool) -> None:  # noqa: FBT001 - drawn
    raw = b"%d" % number if alone else b'[{"a":%d}]' % number
    if INT_MIN <= number <= INT_MAX:
        assert exact(read(raw)) == exact(number if alone else [{"a": number}])
    else:
        with pytest.raises(CodecError):
            read(raw)


@given(VALUES)
def test_what_is_read_can_be_written(value: Any) -> None:
    foreign = json.dumps(value, indent=1).encode()
    assert exact(read(write(read(foreign)))) == exact(value)
    assert is_same(write(value), foreign)


def test_wide_values_are_not_deep_ones() -> None:
    wide = [{"a": [number]} for number in range(1000)]
    assert read(orjson.dumps(wide)) == wide


@pytest.mark.parametrize(
    ("encoded", "raw", "same"),
    [
        (b"1", b"1", True),
        (b"[1,2]", b"[1, 2]", True),
        (b"0", b"-0", True),
        (b"1", b"1.0", False),
        (b"1", b"true", False),
        (b"1", b"hello", False),
        (b"1.8446744073709552e+19", b"18446744073709551616", False),
    ],
)
def test_formatting_is_no_difference(encoded: bytes, raw: bytes, same: bool) -> None:  # noqa: FBT001 - a table
    assert is_same(encoded, raw) is same


@given(st.binary())
def test_every_name_in_redis_comes_back(raw: bytes) -> None:
    if raw != VERSION_FIELD:
        assert encode_name(decode_name(raw), key="k") == raw


@given(st.text())
def test_every_name_is_faithful_or_refused(name: str) -> None:
    try:
        raw = encode_name(name, key="k")
    except CodecError:
        assert name == VERSION_NAME or any("\ud800" <= char <= "\udfff" for char in name)
    else:
        assert decode_name(raw) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (VERSION_NAME, "library's own field; read .version"),
        (Text(VERSION_NAME), "library's own field"),
        (5, "field names are str, not int"),
        (b"a", "field names are str, not bytes"),
        ("\ud800", "lone surrogates"),
        ("\udcc3\udca9", "lone surrogates"),  # would be another name of "é"
    ],
)
def test_names_that_no_field_can_have(name: Any, message: str) -> None:
    with pytest.raises(CodecError, match=re.escape(message)):
        encode_name(name, key="k")


def test_enums_of_str_can_name_fields() -> None:
    assert encode_name(Name.A, key="k") == b"a"


def test_versions() -> None:
    assert decode_version(None, key="k") == 1
    assert decode_version(b"1", key="k") == 1
    assert decode_version(b"9007199254740991", key="k") == 2**53 - 1


@pytest.mark.parametrize(
    "raw", [b"", b"0", b"01", b"-1", b"+1", b" 1", b"1.0", b"x", b"1_0", b"9007199254740992", b"1" * 5000]
)
def test_other_versions_are_refused(raw: bytes) -> None:
    with pytest.raises(CodecError, match="not a version") as caught:
        decode_version(raw, key="k")
    assert caught.value.field == VERSION_NAME
