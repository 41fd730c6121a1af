"""`txstate doctor` on servers that are set up well, and on some that are misconfigured on purpose: a test a verdict."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.commands import printed, refused, run
from support.poolers import Pooler
from support.wire import eventually

from txstate._engine.slots import slot_of
from txstate.cli import _probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cluster import Cluster
    from support.servers import ServerHandle, StartServer

HOLDS, CONDITIONAL, BROKEN = "holds", "holds as long as", "does not hold"


def verdicts(url: str, *arguments: str) -> dict[str, dict[str, str]]:
    """The verdicts by promise; the exit code says whether one is broken."""
    done = run("doctor", url, "--json", *arguments)
    found = {verdict["promise"]: verdict for verdict in json.loads(done.stdout)["verdicts"]}
    assert done.returncode == any(verdict["standing"] == BROKEN for verdict in found.values())
    return found


def standing(url: str, promise: str, *arguments: str) -> tuple[str, str, str]:
    found = verdicts(url, *arguments)[promise]
    return found["standing"], found["reason"], found["remedy"]


def broken(found: dict[str, dict[str, str]]) -> set[str]:
    return {promise for promise, verdict in found.items() if verdict["standing"] == BROKEN}


ALL = {f"P{number}" for number in range(1, 8)}
"""What can be broken; P8 is honesty."""


@pytest.fixture
def user(valkey9: ServerHandle) -> Iterator[str]:
    """The address for a user named limited, who may do nothing yet."""
    with redis.Redis.from_url(valkey9.url) as client:
        client.execute_command("ACL SETUSER limited reset on >secret")
        yield valkey9.url.replace("redis://", "redis://limited:secret@")
        client.execute_command("ACL DELUSER limited")


def allow(server: ServerHandle, *rights: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "limited", *rights)


def connected_replica(primary: ServerHandle, start_server: StartServer, **options: Any) -> ServerHandle:
    replica = start_server(replicaof=f"127.0.0.1 {primary.port}", **options)
    with redis.Redis.from_url(primary.url) as client:
        eventually(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
    return replica


# A server as it should be.


def test_doctor(server: ServerHandle) -> None:
    done = run("doctor", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    kind = "Valkey" if server.name == "valkey9" else "Redis"
    assert done.stdout.startswith(f"{kind} {server.version}, primary, round trip ")
    assert all(f"\nP{number} " in done.stdout for number in range(1, 9))
    assert "\x1b" not in done.stdout
    told = printed("doctor", "--json", "--url", server.url)
    assert [verdict["promise"] for verdict in told["verdicts"]] == [f"P{number}" for number in range(1, 9)]
    assert {verdict["standing"] for verdict in told["verdicts"]} == {HOLDS}
    facts = told["facts"]
    assert (facts["refused"], facts["shows_flags"]) == ({}, True)
    assert facts["trial"] == {"queued": True, "stopped": True, "flagged": True}
    assert abs(facts["clock_ahead_s"]) < 5
    with redis.Redis.from_url(server.url) as client:
        assert client.keys() == []


def test_a_server_that_does_not_answer() -> None:
    assert "can't be reached" in refused(1, "doctor", "redis://127.0.0.1:1")


def test_a_wrong_password(user: str) -> None:
    assert "let this user in" in refused(1, "doctor", user.replace("secret", "wrong"))


# P1 strict serializability


def test_p1_is_broken_on_a_replica_and_everything_with_it(start_server: StartServer) -> None:
    primary = start_server(repl_diskless_sync_delay=0)
    replica = connected_replica(primary, start_server)
    found = verdicts(replica.url)
    assert broken(found) == ALL
    assert "this is a replica" in found["P1"]["reason"]
    assert "address of the primary" in found["P1"]["remedy"]


def test_p1_is_conditional_with_replicas_and_their_lag_is_shown(start_server: StartServer) -> None:
    primary = start_server(repl_diskless_sync_delay=0)
    replica = connected_replica(primary, start_server)
    told, reason, remedy = standing(primary.url, "P1")
    assert (told, "failover can undo" in reason) == (CONDITIONAL, True)
    assert "min-replicas-to-write" in remedy
    assert f"replica 127.0.0.1:{replica.port}: online, lag" in run("doctor", primary.url).stdout
    with redis.Redis.from_url(primary.url) as client:
        client.config_set("min-replicas-to-write", 1)
    assert "min-replicas-to-write" not in standing(primary.url, "P1")[2]
    assert "Writes are refused without 1 replicas" in standing(primary.url, "P8")[1]
    replica.stop()  # a primary that stops would wait for it


def test_p1_is_broken_where_transactions_are_refused(valkey9: ServerHandle, user: str) -> None:
    allow(valkey9, "~app:*", "+@all", "-multi", "-info")
    found = verdicts(user, "--namespace", "app:")
    assert broken(found) == ALL
    assert found["P1"]["remedy"] == "ACL SETUSER <user> +multi +exec"
    told = json.loads(run("doctor", user, "--namespace", "app:", "--json").stdout)
    assert set(told["facts"]["refused"]) >= {"MULTI", "EXEC", "INFO memory"}
    assert told["facts"]["version"] == valkey9.version
    assert "secret" not in json.dumps(told)


@pytest.mark.parametrize("how", ["swallowed", "elsewhere"])
def test_p1_is_broken_behind_a_proxy_that_does_not_pass_watch(valkey9: ServerHandle, how: str) -> None:
    with Pooler(valkey9.port, **{how: ["WATCH"]}) as pooler:
        found = verdicts(pooler.url)
        assert "WATCH" in pooler.spoiled
    assert broken(found) == ALL
    assert "a proxy or pooler" in found["P1"]["reason"]


def test_p1_is_broken_behind_a_proxy_that_does_not_pass_multi(valkey9: ServerHandle) -> None:
    with Pooler(valkey9.port, elsewhere=["MULTI"]) as pooler:
        found = verdicts(pooler.url)
        assert "MULTI" in pooler.spoiled
    assert broken(found) == ALL
    assert "EXEC" in found["P1"]["reason"]


def test_p1_in_a_cluster_is_conditional_on_one_slot_and_each_primary_is_asked(any_cluster: Cluster) -> None:
    told, reason, remedy = standing(any_cluster.url, "P1")
    assert (told, "one slot" in reason, "same {tag}" in remedy) == (CONDITIONAL, True, True)
    told_of = json.loads(run("doctor", any_cluster.url, "--json").stdout)["nodes"]
    assert {node["address"] for node in told_of} == {
        f"127.0.0.1:{primary.port}" for primary in any_cluster.primaries()
    }
    assert all(node["refused"] == {} and node["trial"]["stopped"] for node in told_of)
    shown = run("doctor", any_cluster.url).stdout
    assert all(f"127.0.0.1:{primary.port}: " in shown for primary in any_cluster.primaries())


def test_a_namespace_with_a_hash_tag_lives_on_one_node(cluster: Cluster) -> None:
    done = run("doctor", cluster.url, "--namespace", "{app}:", "--json")
    (node,) = json.loads(done.stdout)["nodes"]
    assert node["address"] == f"127.0.0.1:{cluster.owner(slot_of(b'{app}:')).port}"


def test_what_one_node_of_a_cluster_lacks_is_told_of_that_node(cluster: Cluster) -> None:
    one = cluster.primaries()[0]
    cluster.ask(one, "CONFIG SET maxmemory-policy allkeys-lru")
    try:
        told, reason, _ = standing(cluster.url, "P2")
    finally:
        cluster.ask(one, "CONFIG SET maxmemory-policy noeviction")
    assert told == CONDITIONAL
    assert reason.startswith(f"127.0.0.1:{one.port}: maxmemory stays 0")


def test_everything_is_broken_where_a_node_of_a_cluster_is_named_as_a_server(cluster: Cluster) -> None:
    found = verdicts(cluster.nodes[0].url)
    assert broken(found) == ALL
    assert "redis+cluster://" in found["P6"]["remedy"]


# P2 exactly once


def test_p2_is_conditional_where_tokens_could_be_evicted(start_server: StartServer) -> None:
    server = start_server(maxmemory="50mb", maxmemory_policy="volatile-lru")
    told, reason, remedy = standing(server.url, "P2")
    assert (told, "50 MB" in reason, "noeviction" in remedy) == (CONDITIONAL, True, True)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 0)
    told, reason, _ = standing(server.url, "P2")
    assert (told, "stays 0" in reason) == (CONDITIONAL, True)


def test_p2_is_broken_where_keys_have_been_evicted(start_server: StartServer) -> None:
    server = start_server(maxmemory="10mb", maxmemory_policy="allkeys-lru")
    with redis.Redis.from_url(server.url) as client:
        for number in range(30):
            client.set(f"k{number}", b"x" * 1_000_000)
    told, reason, remedy = standing(server.url, "P2")
    assert (told, "CommitUnknown" in reason, "noeviction" in remedy) == (BROKEN, True, True)


def test_p2_is_broken_where_memory_is_full(start_server: StartServer) -> None:
    told, reason, remedy = standing(start_server(maxmemory="100kb").url, "P2")
    assert (told, "OOM" in reason, "maxmemory" in remedy) == (BROKEN, True, True)


# P3 no zombie reads, P4 read-only transactions


def test_p3_holds_without_client_info_at_a_cost(valkey9: ServerHandle, user: str) -> None:
    allow(valkey9, "~*", "+@all", "-client|info")
    told, reason, remedy = standing(user, "P3")
    assert (told, "empty MULTI/EXEC" in reason, remedy) == (HOLDS, True, "ACL SETUSER <user> +client|info")


def test_p3_is_broken_where_a_proxy_asks_another_connection_for_its_flags(valkey9: ServerHandle) -> None:
    with Pooler(valkey9.port, elsewhere=["CLIENT INFO"]) as pooler:
        found = verdicts(pooler.url)
        assert "CLIENT INFO" in pooler.spoiled
    assert broken(found) == {"P3"}
    assert "CLIENT INFO did not tell" in found["P3"]["reason"]


def test_p4_is_conditional_where_the_role_is_not_shown(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "renamed.conf").write_text("rename-command ROLE ''\nrename-command HELLO ''\n")
    told, reason, remedy = standing(start_server(include=str(tmp_path / "renamed.conf")).url, "P4")
    assert (told, "not demoted" in reason, remedy) == (CONDITIONAL, True, "ACL SETUSER <user> +role")


# P5 all or nothing, P7 other writers


def test_p5_and_p7_are_conditional_where_fields_expire_and_scripts_are_refused(
    valkey9: ServerHandle, user: str
) -> None:
    with redis.Redis.from_url(valkey9.url) as client:
        client.hset("h", "f", "1")
        client.execute_command("HPEXPIRE", "h", 100_000, "FIELDS", 1, "f")
    assert "script within the commit" in standing(valkey9.url, "P7")[1]
    allow(valkey9, "~*", "+@all", "-eval")
    found = verdicts(user)
    assert {found[promise]["standing"] for promise in ("P5", "P7")} == {CONDITIONAL}
    assert found["P5"]["remedy"] == "ACL SETUSER <user> +eval"


def test_fields_that_expire_are_counted(redis8: ServerHandle) -> None:
    with redis.Redis.from_url(redis8.url) as client:
        client.hset("h", "f", "1")
        client.execute_command("HPEXPIRE", "h", 100_000, "FIELDS", 1, "f")
    assert printed("doctor", "--json", redis8.url)["facts"]["field_ttls"] == 1


def test_p5_is_broken_where_replicas_are_missing(start_server: StartServer) -> None:
    server = start_server(min_replicas_to_write=1)
    found = verdicts(server.url)
    assert broken(found) >= {"P2", "P5"}
    assert "NOREPLICAS" in found["P5"]["reason"]
    assert "min-replicas-to-write" in found["P5"]["remedy"]


# P6 progress


def test_p6_is_broken_where_slots_are_served_by_nobody(start_server: StartServer) -> None:
    server = start_server(cluster_enabled="yes", cluster_require_full_coverage="no")
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16000)
        eventually(lambda: client.cluster("INFO")["cluster_state"] == "ok")
    found = verdicts(f"redis+cluster://127.0.0.1:{server.port}")
    assert broken(found) == {"P6"}
    assert "383 of the cluster's slots" in found["P6"]["reason"]


# P8 what can't be promised is said


@pytest.mark.parametrize(
    ("options", "said", "mended"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, "costs nothing that was acknowledged", ""),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "up to about a second", "appendfsync always"),
        ({"appendonly": "yes", "appendfsync": "no"}, "had not written yet", "appendfsync always"),
        ({}, "Nothing is persisted", "appendonly yes"),
        ({"save": "3600 1"}, "last snapshot (3600 1)", "appendonly yes"),
    ],
)
def test_p8_says_what_a_crash_costs(
    start_server: StartServer, options: dict[str, str], said: str, mended: str
) -> None:
    told, reason, remedy = standing(start_server(**options).url, "P8")
    assert (told, said in reason) == (HOLDS, True)
    assert mended in remedy
    assert bool(mended) == bool(remedy)


def test_p8_says_that_saving_fails(start_server: StartServer) -> None:
    server = start_server(save="3600 1", stop_writes_on_bgsave_error="no")
    (server.directory / "dump.rdb").mkdir()  # in the way
    with redis.Redis.from_url(server.url) as client:
        client.set("k", "v")
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert "Persistence is failing: the last snapshot" in standing(server.url, "P8")[1]


def test_p8_says_that_a_clock_is_off(valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = SimpleNamespace(time=lambda: time.time() + 7200, perf_counter=time.perf_counter)
    monkeypatch.setattr(_probe, "time", ahead)
    assert "7,200 s behind this machine's" in standing(valkey9.url, "P8")[1]
