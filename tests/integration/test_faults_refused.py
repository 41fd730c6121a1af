"""What the server refuses, or no longer allows, is told by a typed error; nothing is applied, or it is said that it may be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.faults import field_ttl_servers, of_commit
from support.ledger import Ledger, Tally, all_once
from support.spoiled import BAD, GOOD, good_and_bad, nothing, refused
from support.twins import both_twins, open_twin
from support.users import change_rights, url_of
from support.wire import client_of

from txstate import CommitUnknown, Resolution, ServerRefused, StoreUnavailable
from txstate.testing import FaultProxy, HoldReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle, StartServer

    from txstate import AsyncTx


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    with good_and_bad(server) as client:
        yield client


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
