"""What the server refuses, or no longer allows, is told by a typed error; nothing is applied, or it is said that it may be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis
from support.faults import every_server, field_ttl_servers, proxied
from support.ledger import Ledger, Tally, all_once
from support.spoiled import BAD, GOOD, good_and_bad, nothing, refused
from support.twins import both_twins, open_twin
from support.users import change_rights, url_of
from support.wire import client_of, eventually

from txstate import CommitUnknown, Resolution, ServerRefused, StoreUnavailable, WrongType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.figures import Figures
    from support.servers import ServerHandle, StartServer

    from txstate import AsyncTx


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    with good_and_bad(server) as client:
        yield client


@pytest.mark.fault(number=23)
@both_twins
@pytest.mark.parametrize("command", ["multi", "exec", "watch"])
def test_a_user_without_transactions_is_refused_before_anything_is_sent(
    kind: str, server: ServerHandle, command: str, figures: Figures
) -> None:
    ledger = Ledger(server)
    with open_twin(kind, url_of(server, f"-{command}")) as twin:
        ledger.commit(twin)
    assert ledger.refusals() == ["NOPERM"]
    assert figures(server, ledger, fired=1) == Tally(attempted=1, failed=1)


@pytest.mark.fault(number=23)
@both_twins
@pytest.mark.parametrize("command", ["hset", "set", "exec"])
def test_a_right_lost_while_connected_applies_nothing(
    kind: str, server: ServerHandle, command: str, figures: Figures
) -> None:
    ledger = Ledger(server)
    with open_twin(kind, url_of(server)) as twin:
        ledger.commit(twin)
        change_rights(server, f"-{command}")
        ledger.commit(twin)
        assert ledger.refusals() == ["NOPERM"]
        change_rights(server, f"+{command}")
        ledger.commit(twin)
    assert figures(server, ledger, fired=1) == Tally(attempted=3, acknowledged=2, applied=2, failed=1)


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
    with proxied(kind, url_of(server, "-client")) as (proxy, twin):
        for _ in range(5):
            ledger.commit(twin)
            proxy.kill()
        assert twin.get(ledger.keys[0]) is not None
        assert len(twin.get_many(ledger.keys)) == 2
        assert twin.delete("absent") is False
    assert ledger.tally() == all_once(5)


@pytest.mark.fault(number=23)
@both_twins
@pytest.mark.parametrize(
    ("server", "expiring"),
    [("valkey9", False), ("redis6", False), ("redis8", False), ("valkey9", True), ("redis8", True)],
    indirect=["server"],
)
def test_multi_revoked_while_connected_is_unknown_and_never_run_again(
    kind: str, server: ServerHandle, admin: redis.Redis, *, expiring: bool, figures: Figures
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
        tally = Tally(attempted=3, acknowledged=2, unknown=1, applied=3)
        figures(server, fired=1, resolved=twin.stats, tally=tally)


@pytest.mark.fault(number=23)
@both_twins
@every_server
@pytest.mark.parametrize(("code", "stale"), [("READONLY", "yes"), ("MASTERDOWN", "no")])
def test_a_replica_is_no_server_to_work_on(
    kind: str, name: str, start_server: StartServer, code: str, stale: str, *, figures: Figures
) -> None:
    primary = start_server(name)
    replica = start_server(name, replicaof=f"127.0.0.1 {primary.port}", replica_serve_stale_data="yes")
    ledger = Ledger(primary)
    with open_twin(kind, primary.url) as twin:
        ledger.commit(twin)
    if code == "MASTERDOWN":
        with client_of(replica.unix_url) as client:
            client.replicaof("127.0.0.1", 1)
            client.config_set("replica-serve-stale-data", stale)
    with open_twin(kind, replica.url, deadline=0.5) as twin:
        ledger.commit(twin)
        with pytest.raises(StoreUnavailable, match=code):
            twin.get(GOOD)
    (error,) = ledger.failed.values()
    assert isinstance(error, StoreUnavailable)
    assert code in str(error)
    tally = figures(primary, ledger, fired=2)
    assert tally == Tally(attempted=2, acknowledged=1, applied=1, failed=1)


@pytest.mark.fault(number=23)
@both_twins
@every_server
@pytest.mark.parametrize("trouble", ["BUSY", "LOADING"])
def test_a_server_that_refuses_for_a_while_is_waited_for(
    kind: str, name: str, start_server: StartServer, trouble: str, figures: Figures
) -> None:
    server = start_server(name, lua_time_limit=5, key_load_delay=500, rdbcompression="no")
    ledger = Ledger(server)
    with open_twin(kind, server.url) as twin, ThreadPoolExecutor(2) as pool:
        ledger.commit(twin)
        with (busy if trouble == "BUSY" else loading)(server, pool):
            call = pool.submit(ledger.commit, twin)
            eventually(lambda: twin.stats.disruptions > 0)
        call.result()
        assert figures(server, ledger, fired=twin.stats.disruptions, resolved=twin.stats) == all_once(2)


@pytest.mark.fault(number=23)
@both_twins
def test_a_server_that_misses_its_replicas_refuses_and_applies_nothing(
    kind: str, server: ServerHandle, admin: redis.Redis, figures: Figures
) -> None:
    ledger = Ledger(server)
    with open_twin(kind, server.url) as twin:
        for missing in (0, 1, 0):
            admin.config_set("min-replicas-to-write", missing)
            ledger.commit(twin)
    assert ledger.refusals() == ["NOREPLICAS"]
    assert figures(server, ledger, fired=1) == Tally(attempted=3, acknowledged=2, applied=2, failed=1)


@pytest.mark.fault(number=23)
@both_twins
def test_a_key_of_another_type_is_named_and_applies_nothing(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = Ledger(server)
    with open_twin(kind, server.url) as twin, client_of(server.unix_url) as client:
        client.set(ledger.keys[1], "no hash")
        ledger.commit(twin)
        (error,) = ledger.failed.values()
        assert isinstance(error, WrongType)
        assert (error.key, error.found) == (ledger.keys[1], "string")
        client.delete(ledger.keys[1])
        ledger.commit(twin)
    assert figures(server, ledger, fired=1) == Tally(attempted=2, acknowledged=1, applied=1, failed=1)


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


@contextmanager
def busy(server: ServerHandle, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Keep the server busy with a script that never ends, while the block runs."""
    with client_of(server.unix_url) as endless, client_of(server.unix_url) as admin:
        script = pool.submit(endless.eval, "while true do end", 0)

        def refuses() -> bool:
            try:
                return not admin.ping()
            except redis.ResponseError as error:
                return "busy" in str(error).lower()

        eventually(refuses)
        yield
        admin.script_kill()
        assert "script" in str(script.exception()).lower()


@contextmanager
def loading(server: ServerHandle, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Have the server load its data slowly; the block begins when it has begun."""
    with client_of(server.unix_url) as admin:
        # Enough that it looks up from loading now and then: every 2 MB.
        admin.mset({f"filler:{number}": "x" * 5000 for number in range(1000)})
        admin.save()
    server.stop(kill=True)
    launched = pool.submit(server.launch)
    yield
    launched.result()
