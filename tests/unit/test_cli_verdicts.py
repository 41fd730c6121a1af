"""The judgements of `txstate doctor`, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from txstate.cli._doctor.facts import Facts, Replica, Sentinels
from txstate.cli._doctor.judge import judge, judge_all
from txstate.cli._doctor.standing import Standing, Verdict
from txstate.cli._doctor.trial import Waited

REPLICA = Replica(address="h:1", state="online")
GOOD = Facts(
    kind="Valkey",
    version="9.1.2",
    aof=True,
    fsync="always",
    snapshots="",
    maxmemory=0,
    policy="noeviction",
    evicted=0,
    round_trip_ms=0.1,
    waited=Waited(replicas=0, local=1, disks=0),
)
FOLLOWED = replace(GOOD, replicas=(REPLICA,), waited=Waited(replicas=1, local=1, disks=1))
WATCHED = Sentinels(
    service="mymaster", asked=3, primaries=("h:0",), known=3, quorum=2, down_after_s=1, replicas=2
)
PROMISES = [f"P{number}" for number in range(1, 9)]
LEVELS = [f"D{number}" for number in range(1, 6)]


def judged(**changed: Any) -> dict[str, Verdict]:
    return {verdict.promise: verdict for verdict in judge(replace(GOOD, **changed))}


def broken(**changed: Any) -> set[str]:
    return {promise for promise, verdict in judged(**changed).items() if verdict.breach}


def test_every_promise_in_order_and_all_hold_on_a_good_server() -> None:
    assert list(judged()) == [*PROMISES, *LEVELS]
    for promise in [*PROMISES, "D1", "D4"]:
        assert judged()[promise].standing is Standing.HOLDS
        assert not judged()[promise].remedy


def test_what_is_not_promised_by_default_is_no_breach() -> None:
    assert {name: judged()[name].standing for name in ("D2", "D3", "D5")} == dict.fromkeys(
        ("D2", "D3", "D5"), Standing.BROKEN
    )
    assert not broken()


@pytest.mark.parametrize("role", ["slave", "sentinel"])
def test_nothing_but_honesty_holds_on_anything_but_a_primary(role: str) -> None:
    assert broken(role=role) == {"P1", "P2", "P3", "P4", "P5", "P6", "P7"}


def test_refused_transactions_break_what_needs_them_and_the_remedy_names_the_rights() -> None:
    refusal = "NOPERM User x has no permissions to run the 'multi' command"
    found = judged(refused={"MULTI": refusal, "EXEC": refusal})
    assert found["P1"].standing is Standing.BROKEN
    assert found["P1"].remedy == "ACL SETUSER <user> +multi +exec"
    assert broken(refused={"MULTI": refusal}) == {"P1", "P2", "P3", "P4", "P5", "P6", "P7"}


def test_refused_keys_are_mended_by_keys() -> None:
    found = judged(refused={"SET": "NOPERM No permissions to access a key"})
    assert found["P2"].remedy == "ACL SETUSER <user> ~<namespace>*"


def test_a_server_that_takes_no_writes_breaks_what_writes() -> None:
    refused = {"SET": "OOM command not allowed", "HSET": "OOM command not allowed"}
    assert broken(refused=refused) == {"P2", "P5"}


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("OOM command not allowed", "CONFIG SET maxmemory"),
        ("MISCONF can't persist", "keeps the server from saving"),
        ("NOREPLICAS Not enough good replicas", "min-replicas-to-write"),
        ("READONLY You can't write", "the address of the primary"),
        ("ERR no such thing", "let the server accept it"),
    ],
)
def test_the_remedy_goes_by_the_code(answer: str, remedy: str) -> None:
    assert remedy in judged(refused={"SET": answer})["P2"].remedy


def test_an_aborted_transaction_goes_by_what_aborted_it() -> None:
    """EXEC that is refused alone is answered so."""
    answer = "EXECABORT Transaction discarded because of: NOPERM User x has no permissions to run the 'exec' command"
    assert judged(refused={"EXEC": answer})["P1"].remedy == "ACL SETUSER <user> +exec"


def test_every_reason_of_several_refusals_has_its_remedy() -> None:
    refused = {"HSET": "OOM command not allowed", "WATCH": "NOPERM not allowed to run it"}
    found = judged(refused=refused)["P1"]
    assert all(answer in found.reason for answer in refused.values())
    assert found.remedy == "ACL SETUSER <user> +watch; CONFIG SET maxmemory to more, or remove data"


def test_commands_that_it_can_do_without_break_nothing() -> None:
    assert not broken(refused={"CONFIG GET save": "NOPERM", "ROLE": "NOPERM", "EVAL": "NOPERM"})
    assert judged(refused={"ROLE": "NOPERM", "HELLO": "NOPERM"})["P4"].standing is Standing.CONDITIONAL


@pytest.mark.parametrize(
    ("policy", "maxmemory", "evicted", "standing"),
    [
        ("noeviction", 1000, 5, Standing.HOLDS),
        ("allkeys-lru", 0, 0, Standing.CONDITIONAL),
        ("volatile-ttl", 1000, 0, Standing.CONDITIONAL),
        ("volatile-ttl", 1000, 5, Standing.BROKEN),
        (None, None, None, Standing.CONDITIONAL),
    ],
)
def test_eviction_takes_the_evidence(
    policy: str | None, maxmemory: int | None, evicted: int | None, standing: Standing
) -> None:
    verdict = judged(policy=policy, maxmemory=maxmemory, evicted=evicted)["P2"]
    assert verdict.standing is standing
    assert bool(verdict.remedy) == (standing is not Standing.HOLDS)


def test_replicas_and_clusters_make_the_order_conditional() -> None:
    found = judged(replicas=(replace(REPLICA, state="wait_bgsave"),))
    assert found["P1"].standing is Standing.CONDITIONAL
    assert "failover" in found["P1"].reason
    assert "h:1 is wait_bgsave" in found["D2"].reason
    both = judged(cluster=True, named_as="cluster", replicas=(REPLICA,))["P1"]
    assert both.standing is Standing.CONDITIONAL
    assert "one slot" in both.reason
    assert "failover" in both.reason
    assert judged(replicas=None)["P1"].standing is Standing.CONDITIONAL


def test_a_replica_that_takes_writes_is_named() -> None:
    assert "read-only" not in judged(replicas=(replace(REPLICA, read_only=True),))["P1"].reason
    assert "h:1 would" in judged(replicas=(replace(REPLICA, read_only=False),))["P1"].reason
    assert "this server" not in judged(replica_read_only=False)["P1"].reason


@pytest.mark.parametrize(
    ("changed", "standing"),
    [
        ({"version": "9.1.2"}, Standing.HOLDS),
        ({"version": "9.1.1"}, Standing.CONDITIONAL),
        ({"version": "9.2"}, Standing.HOLDS),
        ({"kind": "Redis", "version": "8.2.3"}, Standing.CONDITIONAL),
        ({"kind": "Redis", "version": "of unknown version"}, Standing.CONDITIONAL),
        ({"kind": "Redis", "version": "8.2.3", "loads_truncated": False}, Standing.HOLDS),
        ({"kind": "Redis", "version": "8.2.3", "aof": False}, Standing.HOLDS),
        ({"kind": "Redis", "version": "8.2.3", "aof": None}, Standing.CONDITIONAL),
    ],
)
def test_a_cut_log_halves_transactions_but_on_servers_that_mend_it(
    changed: dict[str, Any], standing: Standing
) -> None:
    assert judged(**changed)["P5"].standing is standing


def test_redis_6_swaps_data_in_without_a_conflict() -> None:
    swapping = replace(REPLICA, diskless_load="swapdb")
    found = judged(kind="Redis", version="6.2.14", replicas=(swapping,))["P7"]
    assert (found.standing, "h:1" in found.reason) == (Standing.CONDITIONAL, True)
    assert judged(kind="Redis", version="7.0.0", replicas=(swapping,))["P7"].standing is Standing.HOLDS


def test_expiring_fields_need_a_script() -> None:
    assert judged(field_ttls=2)["P7"].standing is Standing.HOLDS
    found = judged(field_ttls=2, refused={"EVAL": "NOPERM"})
    assert found["P5"].standing is found["P7"].standing is Standing.CONDITIONAL


@pytest.mark.parametrize(
    ("changed", "standing", "said", "remedy"),
    [
        ({}, Standing.HOLDS, "before it is acknowledged", ""),
        ({"fsync": "everysec"}, Standing.BROKEN, "the last second", "appendfsync always"),
        ({"fsync": None}, Standing.CONDITIONAL, "not shown", "CONFIG GET appendfsync"),
        ({"aof": False}, Standing.BROKEN, "costs everything", "appendonly yes"),
        (
            {"aof": False, "snapshots": "3600 1"},
            Standing.BROKEN,
            "last snapshot (3600 1)",
            "appendonly yes",
        ),
        ({"aof": None}, Standing.CONDITIONAL, "not shown", "INFO persistence"),
        (
            {"persistence_failing": ("the last snapshot",)},
            Standing.HOLDS,
            "failing: the last snapshot",
            "",
        ),
    ],
)
def test_what_a_power_cut_costs(changed: dict[str, Any], standing: Standing, said: str, remedy: str) -> None:
    verdict = judged(**changed)["D1"]
    assert verdict.standing is standing
    assert said in verdict.reason
    assert remedy in verdict.remedy
    assert bool(remedy) == bool(verdict.remedy)


def test_the_condition_of_a_replica_that_has_confirmed() -> None:
    one = {verdict.promise: verdict for verdict in judge(FOLLOWED)}
    assert {one[level].standing for level in ("D3", "D5")} == {Standing.CONDITIONAL}
    assert not one["D3"].remedy
    unlogged = {verdict.promise: verdict for verdict in judge(replace(FOLLOWED, aof=False))}
    assert "is not started again before that" in unlogged["D3"].reason
    assert unlogged["D3"].remedy == "CONFIG SET appendonly yes"
    followers = (REPLICA, replace(REPLICA, address="h:2", priority=0))
    two = {verdict.promise: verdict for verdict in judge(replace(FOLLOWED, replicas=followers))}
    assert two["D3"].remedy.startswith("Replicas(2) asks for all")
    assert two["D5"].remedy.startswith("Fsync(replicas=2) asks for all")
    assert "replica-priority 0 keeps h:2 from it" in two["D3"].reason
    told = {
        verdict.promise: verdict for verdict in judge(FOLLOWED, replace(WATCHED, never_promoted=("h:1",)))
    }
    assert "replica-priority 0 keeps h:1 from it" in told["D5"].reason


@pytest.mark.parametrize(
    ("changed", "standing", "said"),
    [
        ({}, Standing.HOLDS, "3 sentinels, of whom 2"),
        ({"primaries": ("h:0", "h:9")}, Standing.BROKEN, "h:0, h:9"),
        ({"unready": "NOQUORUM 1 usable"}, Standing.BROKEN, "NOQUORUM 1 usable"),
        ({"replicas": 0}, Standing.BROKEN, "know of none"),
        ({"never_promoted": ("h:1", "h:2")}, Standing.BROKEN, "replica-priority 0"),
        ({"never_promoted": ("h:1",)}, Standing.CONDITIONAL, "another replica is up"),
        ({"silent": {"s:1": "Connection refused"}}, Standing.CONDITIONAL, "s:1 (Connection refused)"),
        ({"quorum": 3}, Standing.CONDITIONAL, "no sentinel fails"),
        ({"known": 2}, Standing.CONDITIONAL, "2 are known"),
        ({"known": 1, "quorum": 1}, Standing.CONDITIONAL, "1 is known"),
        ({"down_after_s": 30.0}, Standing.CONDITIONAL, "after 30 s of silence"),
    ],
)
def test_whether_sentinel_fails_over(changed: dict[str, Any], standing: Standing, said: str) -> None:
    *_, verdict = judge_all([GOOD], replace(WATCHED, **changed))
    assert (verdict.promise, verdict.standing) == ("S1", standing)
    assert said in verdict.reason
    assert bool(verdict.remedy) == (standing is not Standing.HOLDS)
    assert not verdict.breach


def test_a_promise_stands_as_it_does_on_the_worst_node_and_the_node_is_named() -> None:
    bad = replace(GOOD, address="h:2", policy="volatile-ttl", maxmemory=1000, evicted=5)
    nodes = [replace(GOOD, address="h:1"), bad, replace(GOOD, address="h:3")]
    found = {verdict.promise: verdict for verdict in judge_all(nodes, None)}
    assert found["P2"].standing is Standing.BROKEN
    assert found["P2"].reason.startswith("h:2: 5 keys have been evicted")
    assert "h:1" not in found["P2"].reason
    assert "h:" not in found["P1"].reason


def test_a_node_that_is_gone_breaks_progress_and_nothing_else() -> None:
    nodes = [replace(GOOD, address="h:1", cluster=True, named_as="cluster")]
    found = {verdict.promise: verdict for verdict in judge_all(nodes, None, {"h:2": "Connection refused"})}
    assert {promise for promise, verdict in found.items() if verdict.breach} == {"P6"}
    assert "h:2 can't be reached (Connection refused)" in found["P6"].reason
