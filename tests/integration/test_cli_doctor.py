"""`txstate doctor` on the promises P1 to P8: on servers that are set up well, and on some misconfigured on purpose.

A test a verdict. What an acknowledged commit survives: test_cli_doctor_durability.py.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.cluster import start_cluster
from support.commands import printed, refused, run
from support.diagnosis import ALL, BROKEN, CONDITIONAL, HOLDS, broken, standing, verdicts
from support.poolers import Pooler
from support.users import change_rights, url_of
from support.wire import eventually

from txstate._engine.slots import slot_of
from txstate.cli._doctor import probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cluster import Cluster
    from support.servers import ServerHandle, StartServer

REASONS = {
    "P1": "orders all transactions",
    "P2": "can always be resolved",
    "P3": "shows at once",
    "P4": "still the primary",
    "P5": "nothing that could fail",
    "P6": "bounded by attempts and by time",
    "P7": "WATCH sees every other client's",
    "P8": "A plain HSET doesn't bump a version",
}
"""Why they hold where they do."""
DURABILITY = [f"D{number}" for number in range(1, 6)]


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


def fail_to_save(server: ServerHandle) -> None:
    (server.directory / "dump.rdb").mkdir()  # in the way
    with redis.Redis.from_url(server.url) as client:
        client.set("k", "v")
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


# A server as it should be, and none.


def test_doctor(server: ServerHandle) -> None:
    done = run("doctor", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    kind = "Valkey" if server.name == "valkey9" else "Redis"
    assert done.stdout.startswith(f"{kind} {server.version}, primary, round trip ")
    promises = [f"P{number}" for number in range(1, 9)]
    assert all(f"\n{promise} " in done.stdout for promise in [*promises, *DURABILITY])
    assert (
        "tried out: a write over another connection stopped EXEC, and CLIENT INFO told of it\nrefused: nothing\n"
        in done.stdout
    )
    assert done.stdout.endswith("promises by default (P1 to P8) holds here.\n")
    assert "\x1b" not in done.stdout
    told = printed("doctor", "--json", "--url", server.url)
    standings = {verdict["promise"]: verdict["standing"] for verdict in told["verdicts"]}
    assert list(standings) == [*promises, *DURABILITY]
    assert {standings[promise] for promise in promises} == {HOLDS}
    reasons = {verdict["promise"]: verdict["reason"] for verdict in told["verdicts"]}
    assert all(said in reasons[promise] for promise, said in REASONS.items())
    facts = told["facts"]
    assert (facts["refused"], facts["shows_flags"]) == ({}, True)
    assert facts["trial"] == {"queued": True, "stopped": True, "flagged": True}
    assert abs(facts["clock_ahead_s"]) < 5
    with redis.Redis.from_url(server.url) as client:
        assert client.keys() == []


def test_a_server_that_does_not_answer() -> None:
    assert "can't be reached" in refused(1, "doctor", "redis://127.0.0.1:1")


def test_an_address_that_can_not_be_used(tmp_path: Path) -> None:
    assert "write 'redis://localhost:6379'" in refused(2, "doctor", "localhost:6379")
    assert "unknown scheme 'http'" in refused(2, "doctor", "http://localhost:6379")
    assert "there is no folder" in refused(2, "doctor", str(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


def test_a_cluster_that_is_none(valkey9: ServerHandle) -> None:
    assert "no node tells of the cluster" in refused(1, "doctor", "redis+cluster://127.0.0.1:1")
    named = f"redis+cluster://127.0.0.1:{valkey9.port}"
    assert "Cluster mode is not enabled" in refused(1, "doctor", named)


def test_what_is_refused_is_told_in_a_line_a_reason(valkey9: ServerHandle, user: str) -> None:
    allow(valkey9, "~app:*", "+@all", "-config", "-role")
    lines = run("doctor", user, "--namespace", "app:").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("refused: "))
    assert line.endswith(": NOPERM User limited has no permissions to run it")
    assert ", CONFIG GET appendfsync, " in line


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
    assert "Replicas(1)" in remedy
    assert f"replica 127.0.0.1:{replica.port}: online, lag" in run("doctor", primary.url).stdout
    assert "serves stale reads" in standing(primary.url, "P8")[1]
    with redis.Redis.from_url(replica.url) as client:
        client.config_set("replica-read-only", "no")
    _, reason, remedy = standing(primary.url, "P1")
    assert f"writes to replicas: 127.0.0.1:{replica.port} would" in reason
    assert "replica-read-only yes" in remedy
    with redis.Redis.from_url(primary.url) as client:
        client.config_set("replica-read-only", "no")
    assert f"127.0.0.1:{replica.port}, this server, once it is one" in standing(primary.url, "P1")[1]
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


@pytest.mark.parametrize("right", ["multi", "exec", "watch"])
def test_p1_is_broken_where_one_right_is_missing_and_giving_it_mends_that(
    server: ServerHandle, right: str
) -> None:
    url = url_of(server, f"-{right}")
    told, reason, remedy = standing(url, "P1")
    assert (told, right.upper() in reason) == (BROKEN, True)
    change_rights(server, *remedy.removeprefix("ACL SETUSER <user> ").split())
    assert standing(url, "P1")[0] == HOLDS


@pytest.mark.parametrize("how", ["swallowed", "elsewhere"])
def test_p1_is_broken_behind_a_proxy_that_does_not_pass_watch(valkey9: ServerHandle, how: str) -> None:
    with Pooler(valkey9.port, **{how: ["WATCH"]}) as pooler:
        found = verdicts(pooler.url)
        assert "WATCH" in pooler.spoiled
        shown = run("doctor", pooler.url)
    assert (shown.returncode, "another connection did not stop EXEC" in shown.stdout) == (1, True)
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


def test_p1_and_p2_are_conditional_where_the_server_does_not_tell(valkey9: ServerHandle, user: str) -> None:
    allow(valkey9, "~*", "+@all", "-info")
    found = verdicts(user)
    assert {found[promise]["standing"] for promise in ("P1", "P2", "D1", "D2")} == {CONDITIONAL}
    assert "whether it has replicas is not shown" in found["P1"]["reason"]
    assert "not shown the memory policy" in found["P2"]["reason"]
    assert found["D1"]["remedy"] == "let the user run INFO persistence"
    assert found["D2"]["remedy"] == "let the user run INFO replication"


def test_p2_is_broken_where_nothing_is_written_as_saving_fails(start_server: StartServer) -> None:
    server = start_server(save="3600 1")
    fail_to_save(server)
    told, reason, remedy = standing(server.url, "P2")
    assert (told, "MISCONF" in reason, "saving" in remedy) == (BROKEN, True, True)
    assert "the last snapshot" in standing(server.url, "D1")[1]
    server.stop(kill=True)  # it would not end without having saved


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
        assert "stopped EXEC, and CLIENT INFO did not tell of it" in run("doctor", pooler.url).stdout
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


@pytest.mark.parametrize("name", ["redis6", "redis8"])
def test_p5_is_conditional_where_a_cut_log_can_apply_half_a_transaction(
    start_server: StartServer, name: str
) -> None:
    server = start_server(name, appendonly="yes", appendfsync="always")
    told, reason, remedy = standing(server.url, "P5")
    assert (told, "at the second start" in reason, "BGREWRITEAOF" in remedy) == (CONDITIONAL, True, True)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("aof-load-truncated", "no")
    assert standing(server.url, "P5")[0] == HOLDS


def test_p5_holds_where_a_cut_log_is_mended_by_the_server(start_server: StartServer) -> None:
    assert standing(start_server(appendonly="yes", appendfsync="always").url, "P5")[0] == HOLDS


def test_p7_is_conditional_where_redis_6_swaps_data_in(start_server: StartServer) -> None:
    told, reason, remedy = standing(start_server("redis6", repl_diskless_load="swapdb").url, "P7")
    assert (told, "repl-diskless-load swapdb" in reason) == (CONDITIONAL, True)
    assert remedy.startswith("CONFIG SET repl-diskless-load disabled")
    assert standing(start_server("redis8", repl_diskless_load="swapdb").url, "P7")[0] == HOLDS


# P6 progress


def test_p6_is_broken_where_slots_are_served_by_nobody(start_server: StartServer) -> None:
    server = start_server(cluster_enabled="yes", cluster_require_full_coverage="no")
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16000)
        eventually(lambda: client.cluster("INFO")["cluster_state"] == "ok")
    found = verdicts(f"redis+cluster://127.0.0.1:{server.port}")
    assert broken(found) == {"P6"}
    assert "383 of the cluster's slots" in found["P6"]["reason"]


@pytest.mark.parametrize(("coverage", "expected"), [("no", {"P6"}), ("yes", ALL)])
def test_p6_is_broken_where_a_node_of_the_cluster_is_gone_and_the_others_are_asked(
    coverage: str, expected: set[str]
) -> None:
    with start_cluster(replicas=False, cluster_require_full_coverage=coverage) as cluster:
        gone, *others = reversed(cluster.nodes)
        cluster.kill(gone)
        states = {"yes": "fail", "no": "ok"}
        eventually(lambda: all(cluster_state(cluster, node) == states[coverage] for node in others))
        eventually(lambda: all(failed_slots(cluster, node) > 0 for node in others))
        found = verdicts(cluster.url)
        told = json.loads(run("doctor", cluster.url, "--json").stdout)
        shown = run("doctor", cluster.url).stdout
    address = f"127.0.0.1:{gone.port}"
    assert broken(found) == expected
    assert told["silent"] == {address: "Connection refused"}
    assert len(told["nodes"]) == len(others)
    assert f"{address}: can't be reached: Connection refused\n" in shown
    reason, remedy = found["P6"]["reason"], found["P6"]["remedy"]
    assert (f"{address} can't be reached (Connection refused)" in reason, "replica" in remedy) == (True, True)
    if coverage == "yes":
        assert ("CLUSTERDOWN" in found["P1"]["reason"], "failed nodes" in found["P1"]["remedy"]) == (
            True,
            True,
        )


def cluster_state(cluster: Cluster, node: ServerHandle) -> str:
    return str(cluster.info(node)["cluster_state"])


def failed_slots(cluster: Cluster, node: ServerHandle) -> int:
    return int(cluster.info(node)["cluster_slots_fail"])


# P8 what can't be promised is said


def test_p8_says_that_a_clock_is_off(valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = SimpleNamespace(time=lambda: time.time() + 7200, perf_counter=time.perf_counter)
    monkeypatch.setattr(probe, "time", ahead)
    assert "7,200 s behind this machine's" in standing(valkey9.url, "P8")[1]
