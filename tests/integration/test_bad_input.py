"""What can't work is refused with a typed error that names the culprit, and nothing at all is applied."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.faults import field_ttl_servers, of_commit
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.users import change_rights, url_of
from support.wire import client_of

from txstate import (
    CodecError,
    CommitUnknown,
    Resolution,
    ServerRefused,
    StoreUnavailable,
    TxStateError,
    UsageError,
    WrongType,
)
from txstate.testing import FaultProxy, HoldReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle, StartServer
    from support.twins import Twin

    from txstate import AsyncTx, Doc

GOOD: Final = "good"
BAD: Final = "bad"


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
    with client_of(server.unix_url) as client:
        client.hset(GOOD, mapping={"n": "1", "list": "[1]"})
        client.hset(BAD, mapping={"n": "1", "text": '"one"', "list": "[1]"})
        yield client


def refused(
    twin: Twin, admin: redis.Redis, error: type[TxStateError], spoil: Callable[[Doc], object]
) -> TxStateError:
    """Change a document, spoil the other one, and see that none was written, nor before nor after."""
    calls = 0

    async def body(tx: AsyncTx) -> None:
        nonlocal calls
        calls += 1
        (await tx.get(GOOD)).increment("n")
        spoil(await tx.get(BAD))

    before = state(admin)
    with pytest.raises(error) as caught:
        twin.run(body)
    assert type(caught.value) is error
    assert state(admin) == before
    assert calls == 1
    assert twin.update(GOOD, lambda doc: doc.update(n=1)).to_dict() == {"n": 1, "list": [1]}  # still usable
    return caught.value


def nothing(_: Doc) -> None:
    """Spoil nothing: reading the document must fail already."""


def state(admin: redis.Redis) -> dict[str, Any]:
    """All keys but the library's own, with their contents."""
    names = (name.decode() for name in admin.scan_iter())
    return {name: admin.dump(name) for name in names if not name.startswith("__txstate__:")}


# Values and fields


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
            assert isinstance(error, CodecError)
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
        assert isinstance(error, CodecError)
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
        assert isinstance(error, CodecError)
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
        assert isinstance(error, CodecError)
        assert error.key == BAD


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
        assert [(each.key, each.found) for each in errors if isinstance(each, WrongType)] == [
            (BAD, found)
        ] * 6
        assert admin.type(BAD) == found.encode()


# What the server refuses


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis6", "redis8"])
@pytest.mark.parametrize("connected", [True, False])
def test_out_of_memory_applies_nothing_and_still_reads(
    kind: str, name: str, start_server: StartServer, *, connected: bool
) -> None:
    server = start_server(name, maxmemory_policy="noeviction")
    ledger = Ledger(server)
    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        if connected:
            ledger.commit(twin)
        admin.config_set("maxmemory", 1)
        ledger.commit(twin)
        (error,) = ledger.failed.values()
        assert isinstance(error, ServerRefused)
        assert error.code == "OOM"
        assert (twin.get(ledger.keys[0]) is not None) == connected
        admin.config_set("maxmemory", 0)
        ledger.commit(twin)
    commits = 1 + connected
    assert ledger.tally() == Tally(attempted=commits + 1, acknowledged=commits, applied=commits, failed=1)


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis6", "redis8"])
def test_a_lost_reply_is_resolved_by_a_server_that_is_out_of_memory(
    kind: str, name: str, start_server: StartServer
) -> None:
    server = start_server(name, maxmemory_policy="noeviction")
    ledger = Ledger(server)
    with (
        client_of(server.unix_url) as admin,
        FaultProxy(server.url) as proxy,
        open_twin(kind, proxy.url) as twin,
        ThreadPoolExecutor(1) as pool,
    ):
        executed = proxy.inject(HoldReply(), "EXEC", where=of_commit)
        call = pool.submit(ledger.commit, twin)
        executed.wait()
        admin.config_set("maxmemory", 1)
        assert proxy.kill() == 1
        call.result()
        assert twin.stats.resolved_committed == 1
        admin.config_set("maxmemory", 0)
    assert ledger.tally() == all_once(1)


@both_twins
@pytest.mark.parametrize("command", ["multi", "exec", "watch"])
def test_a_user_without_transactions_is_refused_before_anything_is_sent(
    kind: str, server: ServerHandle, command: str
) -> None:
    ledger = Ledger(server)
    with open_twin(kind, url_of(server, f"-{command}")) as twin:
        ledger.commit(twin)
    (error,) = ledger.failed.values()
    assert isinstance(error, ServerRefused)
    assert error.code == "NOPERM"
    assert ledger.tally() == Tally(attempted=1, failed=1)


@both_twins
@pytest.mark.parametrize("command", ["hset", "set", "exec"])
def test_a_right_lost_while_connected_applies_nothing(kind: str, server: ServerHandle, command: str) -> None:
    ledger = Ledger(server)
    with open_twin(kind, url_of(server)) as twin:
        ledger.commit(twin)
        change_rights(server, f"-{command}")
        ledger.commit(twin)
        (error,) = ledger.failed.values()
        assert isinstance(error, ServerRefused)
        assert error.code == "NOPERM"
        change_rights(server, f"+{command}")
        ledger.commit(twin)
    assert ledger.tally() == Tally(attempted=3, acknowledged=2, applied=2, failed=1)


@both_twins
def test_a_key_that_the_user_may_not_read_is_named_and_applies_nothing(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    with open_twin(kind, url_of(server, "resetkeys", f"~{GOOD}", "~__txstate__:*")) as twin:
        error = refused(twin, admin, ServerRefused, nothing)
        assert isinstance(error, ServerRefused)
        assert error.code == "NOPERM"
        assert repr(BAD) in str(error)


@both_twins
@field_ttl_servers
@pytest.mark.parametrize("expiring", [False, True])
def test_a_key_that_the_user_may_not_write_is_named_and_applies_nothing(
    kind: str, server: ServerHandle, admin: redis.Redis, *, expiring: bool
) -> None:
    if expiring:  # such a commit is a script
        assert admin.hpexpire(GOOD, 3_600_000, "list") == [1]
    rules = "resetkeys", f"~{GOOD}", f"%R~{BAD}", "~__txstate__:*"
    with open_twin(kind, url_of(server, *rules)) as twin:
        error = refused(twin, admin, ServerRefused, lambda doc: doc.increment("n"))
        assert isinstance(error, ServerRefused)
        assert error.code == "NOPERM"


@both_twins
def test_a_user_without_client_info_can_do_everything(kind: str, server: ServerHandle) -> None:
    ledger = Ledger(server)
    with (
        FaultProxy(url_of(server, "-client")) as proxy,
        open_twin(kind, proxy.url) as twin,
    ):
        for _ in range(5):
            ledger.commit(twin)
            proxy.kill()
        assert twin.get(ledger.keys[0]) is not None
        assert len(twin.get_many(ledger.keys)) == 2
        assert twin.delete("absent") is False
    assert ledger.tally() == all_once(5)


@both_twins
@pytest.mark.parametrize(
    ("server", "expiring"),
    [("valkey9", False), ("redis6", False), ("redis8", False), ("valkey9", True), ("redis8", True)],
    indirect=["server"],
)
def test_multi_revoked_while_connected_is_unknown_and_never_run_again(
    kind: str, server: ServerHandle, admin: redis.Redis, *, expiring: bool
) -> None:
    """The commands behind a refused MULTI run one by one: what came of them is for a human to see."""
    calls = 0

    async def body(tx: AsyncTx) -> None:
        nonlocal calls
        calls += 1
        (await tx.get(GOOD)).increment("n")

    if expiring:
        admin.hpexpire(GOOD, 3_600_000, "list")
    with open_twin(kind, url_of(server)) as twin:
        twin.run(body)
        change_rights(server, "-multi")
        with pytest.raises(CommitUnknown) as caught:
            twin.run(body)
        assert caught.value.known is Resolution.UNKNOWN
        assert any("NOPERM" in str(reply) for reply in caught.value.replies)
        assert calls == 2
        assert admin.hget(GOOD, "n") == b"3"
        change_rights(server, "+multi")
        twin.run(body)
        assert admin.hget(GOOD, "n") == b"4"


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis6", "redis8"])
def test_a_replica_is_no_server_to_work_on(kind: str, name: str, start_server: StartServer) -> None:
    primary = start_server(name)
    replica = start_server(name, replicaof=f"127.0.0.1 {primary.port}")
    with open_twin(kind, replica.url, deadline=0.2) as twin:
        calls: list[Callable[[], object]] = [lambda: twin.put(GOOD, {"n": 1}), lambda: twin.get(GOOD)]
        for call in calls:
            with pytest.raises(StoreUnavailable, match="READONLY"):
                call()
    with open_twin(kind, primary.url) as twin:
        assert twin.get(GOOD) is None


@both_twins
def test_an_address_without_a_server_is_unavailable(kind: str) -> None:
    with open_twin(kind, "redis://127.0.0.1:1/0", deadline=0.1) as twin, pytest.raises(StoreUnavailable):
        twin.put(GOOD, {"n": 1})


@both_twins
def test_a_wrong_password_is_refused_and_not_waited_for(kind: str, server: ServerHandle) -> None:
    url = url_of(server).replace("secret", "wrong")
    with open_twin(kind, url) as twin, pytest.raises(ServerRefused) as caught:
        twin.put(GOOD, {"n": 1})
    assert caught.value.code == "WRONGPASS"
