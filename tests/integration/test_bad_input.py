"""Values, fields and keys that can't be are refused with an error that names them, and nothing at all is applied."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.spoiled import BAD, GOOD, good_and_bad, nothing, refused, state
from support.twins import both_twins, open_twin

from txstate import CodecError, UsageError, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle

    from txstate import AsyncTx, Doc


class Colour(enum.Enum):
    RED = 1


VALUES: Final[dict[str, Any]] = {
    "nan": math.nan,
    "infinity": -math.inf,
    "64 unsigned bits": 2**63,
    "70 bits": 2**70,
    "too negative": -(2**63) - 1,
    "date": dt.date(2024, 2, 29),
    "datetime": dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    "decimal": decimal.Decimal(1),
    "set": {1},
    "bytes": b"raw",
    "enum": Colour.RED,
    "int keys": {1: "one"},
    "None as a key": {None: 1},
    "no Unicode": "\ud800",
    "nan inside": {"list": [1, (2, math.nan)]},
    "object": object(),
}


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    with good_and_bad(server) as client:
        yield client


@both_twins
@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_that_is_no_json_names_key_and_field_and_applies_nothing(
    kind: str, server: ServerHandle, admin: redis.Redis, value: object
) -> None:
    def assign(doc: Doc) -> None:
        doc["field"] = value

    def assign_and_catch(doc: Doc) -> None:
        with pytest.raises(CodecError):
            assign(doc)
        assert "field" not in doc
        raise UsageError("the function's own")

    def append(doc: Doc) -> None:
        doc["list"].append(value)

    with open_twin(kind, server.url) as twin:
        for spoil, field in ((assign, "field"), (append, "list")):
            error = refused(twin, admin, CodecError, spoil)
            assert (error.key, error.field) == (BAD, field)
            assert "nothing was applied" in str(error)
        refused(twin, admin, UsageError, assign_and_catch)
        with pytest.raises(CodecError):
            twin.put(BAD, {"fine": 1, "field": value})
        assert admin.hget(BAD, "fine") is None


@both_twins
@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
@pytest.mark.parametrize("name", ["__version__", 1, None, b"n", "\ud800"])
def test_a_field_name_that_can_not_be_is_refused(
    kind: str, server: ServerHandle, admin: redis.Redis, name: Any
) -> None:
    def assign(doc: Doc) -> None:
        doc[name] = 1

    with open_twin(kind, server.url) as twin:
        error = refused(twin, admin, CodecError, assign)
        assert error.key == BAD


@both_twins
@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
@pytest.mark.parametrize(
    ("stored", "by"),
    [
        pytest.param('"one"', 1, id="text"),
        pytest.param("1.5", 1, id="float"),
        pytest.param("[1]", 1, id="list"),
        pytest.param("true", 1, id="bool"),
        pytest.param(str(2**63 - 1), 1, id="overflow"),
        pytest.param(str(-(2**63)), -1, id="underflow"),
        pytest.param("1", 2**63, id="too much"),
        pytest.param("1", 0.5, id="by a float"),
        pytest.param("1", "1", id="by text"),
        pytest.param("{not json", 1, id="undecodable"),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_an_increment_that_can_not_be_names_key_and_field_and_applies_nothing(
    kind: str, server: ServerHandle, admin: redis.Redis, stored: str, by: Any, *, partial: bool
) -> None:
    """Also of a field that was not read: it is, before the commit."""
    admin.hset(BAD, "counter", stored)

    async def body(tx: AsyncTx) -> None:
        (await tx.get(GOOD)).increment("n")
        (await tx.get(BAD, ["n"] if partial else None)).increment("counter", by)

    before = state(admin)
    with open_twin(kind, server.url) as twin:
        with pytest.raises(CodecError) as caught:
            twin.run(body)
        assert (caught.value.key, caught.value.field) == (BAD, "counter")
        assert state(admin) == before


@both_twins
def test_an_undecodable_field_is_in_nobodys_way_until_it_is_read(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    admin.hset(BAD, "broken", b"\xff{")
    with open_twin(kind, server.url) as twin:
        error = refused(twin, admin, CodecError, lambda doc: doc["broken"])
        assert (error.key, error.field) == (BAD, "broken")
        assert twin.update(BAD, lambda doc: doc.increment("n"))["n"] == 2
        assert admin.hget(BAD, "broken") == b"\xff{"


@both_twins
@pytest.mark.parametrize("version", ["x", "-1", "0", str(2**53), "1.5"])
def test_a_version_that_is_none_is_refused(
    kind: str, server: ServerHandle, admin: redis.Redis, version: str
) -> None:
    admin.hset(BAD, "__version__", version)
    with open_twin(kind, server.url) as twin:
        error = refused(twin, admin, CodecError, nothing)
        assert error.key == BAD


@both_twins
@pytest.mark.parametrize("left", [0, 1, 3])
def test_nobody_writes_a_version_beyond_the_last_one(
    kind: str, server: ServerHandle, admin: redis.Redis, left: int
) -> None:
    """Another writer has left so few: for the first commit by a first read, or by what that arms its connection with."""
    last = 2**53 - 1
    admin.hset(BAD, "__version__", last - left)
    with open_twin(kind, server.url) as twin:
        for number in range(last - left + 1, last + 1):
            assert twin.update(BAD, lambda doc: doc.increment("n")).version == number
        with pytest.raises(CodecError, match="the last version"):
            twin.update(BAD, lambda doc: doc.increment("n"))
        error = refused(twin, admin, CodecError, lambda doc: doc.increment("n"))
        assert (error.key, error.field) == (BAD, "__version__")
        assert f"holds {last}, the last version there can be; remove this field" in str(error)
        assert twin.update(BAD, lambda doc: doc["n"]).version == last
        admin.hdel(BAD, "__version__")
        assert 1 < twin.update(BAD, lambda doc: doc.increment("n")).version < last


@both_twins
@pytest.mark.parametrize("found", ["string", "list", "set", "zset", "stream"])
def test_a_key_of_another_type_is_named_with_what_it_holds(
    kind: str, server: ServerHandle, admin: redis.Redis, found: str
) -> None:
    admin.delete(BAD)
    fill: dict[str, Callable[[], object]] = {
        "string": lambda: admin.set(BAD, "1"),
        "list": lambda: admin.rpush(BAD, "1"),
        "set": lambda: admin.sadd(BAD, "1"),
        "zset": lambda: admin.zadd(BAD, {"1": 1}),
        "stream": lambda: admin.xadd(BAD, {"1": "1"}),
    }
    fill[found]()
    with open_twin(kind, server.url) as twin:
        errors = [refused(twin, admin, WrongType, nothing)]
        calls: list[Callable[[], object]] = [
            lambda: twin.get(BAD),
            lambda: twin.get(BAD, ["n"]),
            lambda: twin.get_many([GOOD, BAD]),
            lambda: twin.put(BAD, {"n": 1}),
            lambda: twin.delete(BAD),
        ]
        for call in calls:
            with pytest.raises(WrongType) as caught:
                call()
            errors.append(caught.value)
        assert [(each.key, each.found) for each in errors] == [(BAD, found)] * 6
        assert admin.type(BAD) == found.encode()
