"""The judgements of `txstate doctor`, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from txstate.cli._facts import Facts, Replica
from txstate.cli._verdicts import Standing, Verdict, judge, judge_all

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
)


def judged(**changed: Any) -> dict[str, Verdict]:
    return {verdict.promise: verdict for verdict in judge(replace(GOOD, **changed))}


def broken(**changed: Any) -> set[str]:
    return {promise for promise, verdict in judged(**changed).items() if verdict.standing is Standing.BROKEN}


def test_every_promise_in_order_and_all_hold_on_a_good_server() -> None:
    assert list(judged()) == [f"P{number}" for number in range(1, 9)]
    assert {verdict.standing for verdict in judged().values()} == {Standing.HOLDS}
    assert not any(verdict.remedy for verdict in judged().values())


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
    assert "maxmemory" in judged(refused=refused)["P2"].remedy


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
    replica = Replica(address="h:1", state="wait_bgsave", lag_s=None, behind_bytes=None)
    found = judged(replicas=(replica,))
    assert found["P1"].standing is Standing.CONDITIONAL
    assert "failover" in found["P1"].reason
    assert "h:1 is wait_bgsave" in found["P8"].reason
    assert judged(cluster=True, named_as_cluster=True)["P1"].standing is Standing.CONDITIONAL


def test_expiring_fields_need_a_script() -> None:
    assert judged(field_ttls=2)["P7"].standing is Standing.HOLDS
    found = judged(field_ttls=2, refused={"EVAL": "NOPERM"})
    assert found["P5"].standing is found["P7"].standing is Standing.CONDITIONAL


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({}, "costs nothing", ""),
        ({"fsync": "everysec"}, "about a second", "appendfsync always"),
        ({"aof": False}, "costs everything", "appendonly yes"),
        ({"aof": False, "snapshots": "3600 1"}, "last snapshot (3600 1)", "appendonly yes"),
        ({"aof": None}, "not shown", ""),
        ({"persistence_failing": ("the last snapshot",)}, "failing: the last snapshot", ""),
        ({"replicas": None}, "Whether there are replicas", ""),
    ],
)
def test_what_a_crash_costs_is_said(changed: dict[str, Any], said: str, remedy: str) -> None:
    verdict = judged(**changed)["P8"]
    assert said in verdict.reason
    assert remedy in verdict.remedy
    assert bool(remedy) == bool(verdict.remedy)


def test_a_promise_stands_as_it_does_on_the_worst_node_and_the_node_is_named() -> None:
    bad = replace(GOOD, address="h:2", policy="volatile-ttl", maxmemory=1000, evicted=5)
    nodes = [replace(GOOD, address="h:1"), bad, replace(GOOD, address="h:3")]
    found = {verdict.promise: verdict for verdict in judge_all(nodes)}
    assert found["P2"].standing is Standing.BROKEN
    assert found["P2"].reason.startswith("h:2: 5 keys have been evicted")
    assert "h:1" not in found["P2"].reason
    assert "h:" not in found["P1"].reason
