"""`txstate doctor` on what an acknowledged commit survives, by level of durability, and on Sentinel: a test a verdict."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import pytest
from support.commands import printed, refused, run
from support.diagnosis import ALL, BROKEN, CONDITIONAL, HOLDS, broken, standing, verdicts
from support.poolers import Pooler
from support.replication import Replication, stopped
from support.sentinels import SERVICE, SentinelHandle, Watched
from support.servers import start_as
from support.users import url_of
from support.wire import client_of, eventually

from txstate import Replicas, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers import ServerHandle, StartServer

LOGGED = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(scope="module")
def pair() -> Iterator[Replication]:
    """A primary and a replica, both with a log that is synced at each write."""
    with Replication("valkey9", 1, **LOGGED) as replication:
        yield replication


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A primary, two replicas, three sentinels."""
    with Watched() as group:
        yield group


def configure(server: ServerHandle, setting: str, value: str | int) -> None:
    with client_of(server.unix_url) as client:
        client.config_set(setting, value)


# D1 a power cut, D4 Fsync()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LOGGED, {"D1": (HOLDS, "before it is acknowledged"), "D4": (HOLDS, "when WAITAOF answered")}),
        (
            {"appendonly": "yes"},
            {"D1": (BROKEN, "the last second or so"), "D4": (CONDITIONAL, "it gets time")},
        ),
        (
            {"appendonly": "yes", "appendfsync": "no"},
            {"D1": (BROKEN, "had not written yet"), "D4": (BROKEN, "within 1.5 s (appendfsync no)")},
        ),
        ({}, {"D1": (BROKEN, "nothing is persisted"), "D4": (BROKEN, "appendonly is disabled")}),
        ({"save": "3600 1"}, {"D1": (BROKEN, "last snapshot (3600 1)")}),
    ],
)
def test_d1_and_d4_go_by_the_log(
    start_server: StartServer, options: dict[str, str], expected: dict[str, tuple[str, str]]
) -> None:
    found = verdicts(start_server(**options).url)
    assert not broken(found)
    for level, (told, said) in expected.items():
        assert (found[level]["standing"], said in found[level]["reason"]) == (told, True)
        assert bool(found[level]["remedy"]) == (told != HOLDS)


def test_d1_is_conditional_where_the_user_may_not_see_when_the_log_is_synced(pair: Replication) -> None:
    told, reason, remedy = standing(url_of(pair.primary, "-config"), "D1")
    assert (told, "appendfsync is always: this user is not shown" in reason) == (CONDITIONAL, True)
    assert "CONFIG GET appendfsync" in remedy


def test_d4_is_broken_on_a_server_that_is_too_old(redis6: ServerHandle) -> None:
    told, reason, remedy = standing(redis6.url, "D4")
    assert (told, "WAITAOF was refused: ERR unknown command" in reason) == (BROKEN, True)
    assert remedy == "Redis 7.2 or later, or Valkey"


# D2 a failover, D3 Replicas(1), D5 Fsync(replicas=1)


def test_d2_d3_and_d5_are_broken_without_a_replica(start_server: StartServer) -> None:
    found = verdicts(start_server(**LOGGED).url)
    assert {found[level]["standing"] for level in ("D2", "D3", "D5")} == {BROKEN}
    assert "if the disk is lost" in found["D2"]["reason"]
    assert "there is no replica: each commit would raise NotDurable" in found["D3"]["reason"]
    assert "REPLICAOF" in found["D5"]["remedy"]


def test_d2_is_broken_with_replicas_as_they_follow_later(pair: Replication) -> None:
    told, reason, remedy = standing(pair.primary.url, "D2")
    assert (told, "a failover costs" in reason, "min-replicas-to-write" in remedy) == (BROKEN, True, True)
    configure(pair.primary, "min-replicas-to-write", 1)
    try:
        _, reason, remedy = standing(pair.primary.url, "D2")
    finally:
        configure(pair.primary, "min-replicas-to-write", 0)
    assert "Writes are refused without 1 replicas" in reason
    assert "min-replicas-to-write" not in remedy


def test_d3_and_d5_are_conditional_where_a_replica_confirms(pair: Replication) -> None:
    found = verdicts(pair.primary.url)
    assert {found[level]["standing"] for level in ("D3", "D5")} == {CONDITIONAL}
    assert "promoted that has confirmed it" in found["D3"]["reason"]
    assert "started again" not in found["D3"]["reason"]
    assert "replica-priority" not in found["D3"]["reason"]
    told = printed("doctor", pair.primary.url, "--json")["facts"]
    assert told["waited"] == {"replicas": 1, "local": 1, "disks": 1}
    assert [(each["read_only"], each["priority"]) for each in told["replicas"]] == [(True, 100)]


def test_d3_is_conditional_where_the_primary_could_come_back_with_less() -> None:
    """Then what a replica had confirmed is gone from both: this shows the verdict, and that it is true."""
    with Replication("valkey9", 1) as unlogged, Store(unlogged.primary.url) as store:
        told, reason, remedy = standing(unlogged.primary.url, "D3")
        assert (told, "is not started again before that" in reason) == (CONDITIONAL, True)
        assert "appendonly yes" in remedy
        assert "min-replicas-to-write 0" in run("doctor", unlogged.primary.url).stdout
        store.options(durability=Replicas(1, timeout=5.0)).put("k", {"n": 1})
        unlogged.primary.stop(kill=True)
        unlogged.primary.launch()
        unlogged.wait_for_sync()
        with client_of(unlogged.replicas[0].unix_url) as client:
            assert client.keys() == []


def test_d3_and_d5_name_a_replica_that_is_never_promoted(pair: Replication) -> None:
    (replica,) = pair.replicas
    configure(replica, "replica-priority", 0)
    try:
        found = verdicts(pair.primary.url)
        assert f"127.0.0.1:{replica.port}: online" in (shown := run("doctor", pair.primary.url).stdout)
    finally:
        configure(replica, "replica-priority", 100)
    assert "never promoted" in shown
    for level in ("D3", "D5"):
        assert f"replica-priority 0 keeps 127.0.0.1:{replica.port} from it" in found[level]["reason"]
        assert "replica-priority 100" in found[level]["remedy"]


def test_d3_is_broken_where_the_replica_stands_still(pair: Replication) -> None:
    with stopped(*pair.replicas):
        told, reason, remedy = standing(pair.primary.url, "D3")
    assert (told, "no replica confirmed a commit within 0.5 s" in reason) == (BROKEN, True)
    assert "link to the primary" in remedy


def test_d5_is_broken_where_the_replica_writes_no_log(pair: Replication) -> None:
    configure(pair.replicas[0], "appendonly", "no")
    try:
        told, reason, remedy = standing(pair.primary.url, "D5")
    finally:
        configure(pair.replicas[0], "appendonly", "yes")
    assert (told, "no replica had a commit on disk within 1.5 s" in reason) == (BROKEN, True)
    assert remedy == "CONFIG SET appendonly yes, on the replica"


def test_levels_are_broken_where_waiting_is_refused(pair: Replication) -> None:
    found = verdicts(url_of(pair.primary, "-wait", "-waitaof"))
    assert {found[level]["standing"] for level in ("D3", "D4", "D5")} == {BROKEN}
    assert found["D3"]["remedy"] == "ACL SETUSER <user> +wait"
    assert found["D4"]["remedy"] == found["D5"]["remedy"] == "ACL SETUSER <user> +waitaof"
    assert not broken(found)


def test_d3_is_broken_behind_a_proxy_that_answers_wait(pair: Replication) -> None:
    with Pooler(pair.primary.port, swallowed=["WAIT"]) as pooler:
        told, reason, remedy = standing(pooler.url, "D3")
        assert "WAIT" in pooler.spoiled
    assert (told, reason) == (BROKEN, "WAIT was refused: OK")
    assert "does a proxy answer" in remedy


def test_levels_can_not_be_tried_where_nothing_can_be_written(pair: Replication) -> None:
    found = verdicts(pair.replicas[0].url)
    assert {found[level]["reason"] for level in ("D3", "D4", "D5")} == {
        "it can't be tried, as commits are refused here"
    }
    assert {found[level]["standing"] for level in ("D3", "D4", "D5")} == {BROKEN}


# S1 Sentinel


def ask_all(group: Watched, *command: str | int) -> None:
    for sentinel in group.sentinels:
        with client_of(sentinel.url) as client:
            client.execute_command("SENTINEL", *command)


def test_s1_holds_with_three_sentinels_and_two_replicas(watched: Watched) -> None:
    told, reason, _ = standing(watched.url, "S1")
    assert (told, reason.startswith("3 sentinels, of whom 2 must agree")) == (HOLDS, True)
    shown = run("doctor", watched.url).stdout
    assert shown.startswith(
        f"sentinels of {SERVICE}: 3 of 3 answer, 3 known; quorum 2, down after 1 s\n127.0.0.1:"
    )
    facts = printed("doctor", watched.url, "--json")
    assert facts["sentinels"]["primaries"] == [facts["facts"]["address"]]


def test_s1_is_conditional_where_a_sentinel_can_not_be_asked(watched: Watched) -> None:
    told, reason, _ = standing(watched.url.replace("//", "//127.0.0.1:1,"), "S1")
    assert (told, "127.0.0.1:1 (Connection refused)" in reason) == (CONDITIONAL, True)


@pytest.mark.parametrize(
    ("quorum", "expected", "said"),
    [(3, CONDITIONAL, "all of them are needed (quorum 3)"), (4, BROKEN, "NOQUORUM")],
)
def test_s1_goes_by_the_quorum(watched: Watched, quorum: int, expected: str, said: str) -> None:
    ask_all(watched, "SET", SERVICE, "quorum", quorum)
    try:
        told, reason, remedy = standing(watched.url, "S1")
    finally:
        ask_all(watched, "SET", SERVICE, "quorum", 2)
    assert (told, said in reason, bool(remedy)) == (expected, True, True)


def test_s1_is_conditional_where_a_failover_takes_longer_than_a_call(watched: Watched) -> None:
    ask_all(watched, "SET", SERVICE, "down-after-milliseconds", 30_000)
    try:
        told, reason, remedy = standing(watched.url, "S1")
    finally:
        ask_all(watched, "SET", SERVICE, "down-after-milliseconds", watched.down_after)
    assert (told, "after 30 s of silence" in reason) == (CONDITIONAL, True)
    assert "down-after-milliseconds" in remedy


def test_s1_goes_by_the_replicas_that_can_be_promoted(watched: Watched) -> None:
    replicas = watched.replication.replicas
    try:
        configure(replicas[0], "replica-priority", 0)
        eventually(lambda: standing(watched.url, "S1")[0] == CONDITIONAL)
        found = verdicts(watched.url)
        assert f"127.0.0.1:{replicas[0].port} can't be promoted" in found["S1"]["reason"]
        assert "replica-priority 0 keeps" in found["D3"]["reason"]
        configure(replicas[1], "replica-priority", 0)
        eventually(lambda: standing(watched.url, "S1")[0] == BROKEN)
        assert "all have replica-priority 0" in standing(watched.url, "S1")[1]
    finally:
        for replica in replicas:
            configure(replica, "replica-priority", 100)


class Watch(Protocol):
    """What the fixture `watch` gives."""

    def __call__(self, *primaries: ServerHandle) -> str: ...


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts a sentinel for each server, none of which knows of the others; gives the address that names them all."""
    with contextlib.ExitStack() as started:

        def watch_all(*primaries: ServerHandle) -> str:
            sentinels = [started.enter_context(start_as(SentinelHandle, "valkey9")) for _ in primaries]
            for sentinel, primary in zip(sentinels, primaries, strict=True):
                with client_of(sentinel.url) as client:
                    client.execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", primary.port, 1)
            hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
            return f"redis+sentinel://{hosts}/{SERVICE}/0"

        yield watch_all


def test_s1_is_broken_where_there_is_no_replica(watch: Watch, valkey9: ServerHandle) -> None:
    told, reason, remedy = standing(watch(valkey9), "S1")
    assert (told, "the sentinels know of none" in reason, "REPLICAOF" in remedy) == (BROKEN, True, True)


def test_s1_is_broken_where_sentinels_name_different_primaries(
    watch: Watch, valkey9: ServerHandle, redis8: ServerHandle
) -> None:
    told, reason, remedy = standing(watch(valkey9, redis8), "S1")
    assert (told, reason.startswith("the sentinels name different primaries")) == (BROKEN, True)
    assert f"127.0.0.1:{valkey9.port}, 127.0.0.1:{redis8.port}" in reason
    assert "SENTINEL RESET" in remedy


def test_everything_is_broken_where_the_sentinels_name_a_replica(watch: Watch, pair: Replication) -> None:
    found = verdicts(watch(pair.replicas[0]))
    assert broken(found) == ALL
    assert "the sentinels name it, but it is a replica" in found["P1"]["reason"]


def test_everything_is_broken_where_a_sentinel_is_named_as_a_server(
    watch: Watch, valkey9: ServerHandle
) -> None:
    url = watch(valkey9).removesuffix(f"/{SERVICE}/0").replace("+sentinel", "")
    found = verdicts(url)
    assert broken(found) == ALL
    assert "redis+sentinel://" in found["P1"]["remedy"]


def test_a_service_that_no_sentinel_knows(watch: Watch, valkey9: ServerHandle) -> None:
    said = refused(1, "doctor", watch(valkey9).replace(SERVICE, "unknown"))
    assert "no sentinel tells who is the primary 'unknown'" in said
    assert "No such master" in said
