"""Asking a server what `doctor` wants to know. Asks and tries, judges nothing.

It tries the commands that the library needs on a throw-away key under the library's own prefix, which it removes and
which would expire by itself.
"""

from __future__ import annotations

import re
import secrets
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import redis

from txstate import ServerRefused, StoreUnavailable
from txstate._drivers.source import reason_of
from txstate._engine.session import client_flags, role_of
from txstate._engine.settings import RESERVED
from txstate._engine.slots import SLOTS, tag_for
from txstate.cli._doctor.asker import code_of, connected
from txstate.cli._doctor.facts import Facts, Replica
from txstate.cli._doctor.nodes import nodes_of, server_at
from txstate.cli._doctor.trial import NEEDED, try_out, try_waiting
from txstate.cli._servers import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txstate._drivers.source import Source
    from txstate.cli._doctor.asker import Asker
    from txstate.cli._doctor.facts import Sentinels
    from txstate.cli._doctor.nodes import Node

_PINGS: Final = 50
_TIMEOUT: Final = 5.0
_PATIENCE: Final = 1.0
"""Seconds for a replica: it may be reachable for its primary only."""
_TTL_MS: Final = 10_000
"""Life of the throw-away key, in milliseconds, should it not be removed."""
_VOLATILE: Final = ("subexpiry", "keys_with_volatile_items")


class Gathered(NamedTuple):
    """What was told.

    Attributes:
        nodes: by the server, or by each primary of a cluster that could be asked.
        silent: the other primaries, and why they could not be asked.
        sentinels: by the sentinels, if it is for them to say who the server is.
    """

    nodes: list[Facts]
    silent: dict[str, str]
    sentinels: Sentinels | None


def gather(url: str, namespace: str) -> Gathered:
    """Ask the server, or each primary of a cluster, or the sentinels and whom they name.

    Args:
        url: where.
        namespace: prefix of every key, as the application would use it.

    Raises:
        StoreUnavailable: nobody can be reached.
        ServerRefused: it does not let this user in.
    """
    nodes, sentinels = nodes_of(url, namespace)
    gathered = Gathered([], {}, sentinels)
    for node in nodes:
        try:
            gathered.nodes.append(_ask_node(node, namespace))
        except StoreUnavailable as error:
            if len(gathered.silent) == len(nodes) - 1:
                raise
            gathered.silent[node.address] = reason_of(cast("redis.RedisError", error.__cause__))
    return gathered


def _ask_node(node: Node, namespace: str) -> Facts:
    askers: list[Asker] = []
    try:
        with ExitStack() as opened:
            askers += (opened.enter_context(connected(node.source, _TIMEOUT)) for _ in range(2))
            asker, other = askers
            return _gather(asker, other, node, namespace)
    except redis.AuthenticationError as error:
        raise ServerRefused(f"the server does not let this user in: {error}", code=code_of(error)) from error
    except redis.ResponseError as error:
        raise ServerRefused(f"the server refuses the connection: {error}", code=code_of(error)) from error
    except redis.RedisError as error:
        asked = next((asker.asking for asker in askers if asker.asking), None)
        what = (
            f"the connection failed at {asked}: does a proxy refuse it?"
            if asked
            else "the server can't be reached:"
        )
        tls = (
            ""
            if asked or not issubclass(node.source.kind, redis.SSLConnection)
            else " (is TLS spoken there?)"
        )
        raise StoreUnavailable(f"{what} {error}{tls}") from error


def _gather(asker: Asker, other: Asker, node: Node, namespace: str) -> Facts:
    key = f"{namespace}{RESERVED}doctor:{tag_for(namespace, node.slot)}{secrets.token_hex(12)}"
    flags = _try_commands(asker, key)
    server, memory, persistence = asker.info("server"), asker.info("memory"), asker.info("persistence")
    replication, stats, cluster = asker.info("replication"), asker.info("stats"), asker.info("cluster")
    hello = asker.ask("HELLO")
    kind, version = name_of(server, hello)
    replicas = _replicas(replication)
    trial = waited = None
    if not asker.refused.keys() & NEEDED:
        trial = try_out(asker, other, key, _TTL_MS)
        waited = try_waiting(asker, key, _TTL_MS, followed=replicas != ())
    role = role_of(asker.ask("ROLE")) or role_of(hello)
    aof = persistence.get("aof_enabled")
    return Facts(
        address=node.address,
        kind=kind,
        version=version,
        role=role.decode() if role else replication.get("role"),
        replicas=None if replicas is None else tuple(_look_at(each, node.source) for each in replicas),
        min_replicas=_number(asker.config("min-replicas-to-write")),
        min_replicas_lag_s=_number(asker.config("min-replicas-max-lag")),
        replica_read_only=_yes(asker.config("replica-read-only")),
        diskless_load=asker.config("repl-diskless-load"),
        cluster=cluster["cluster_enabled"] == "1" if "cluster_enabled" in cluster else None,
        named_as=node.named_as,
        slots_unserved=_unserved(asker) if node.slot is not None else 0,
        aof=None if aof is None else aof == "1",
        fsync=asker.config("appendfsync"),
        loads_truncated=_yes(asker.config("aof-load-truncated")),
        snapshots=asker.config("save"),
        persistence_failing=_failing(persistence),
        maxmemory=_number(memory.get("maxmemory")),
        policy=memory.get("maxmemory_policy"),
        evicted=_number(stats.get("evicted_keys")),
        field_ttls=_field_ttls(asker.info("keyspace"), refused="INFO keyspace" in asker.refused),
        round_trip_ms=_round_trip(asker),
        clock_ahead_s=_clock_ahead(asker),
        refused=asker.refused,
        shows_flags=flags,
        trial=trial,
        waited=waited,
    )


def _try_commands(asker: Asker, key: str) -> bool:
    """Try everything that the library sends; returns whether CLIENT INFO shows flags."""
    asker.ask("MULTI")
    if "MULTI" in asker.refused:
        asker.refused.setdefault("EXEC", asker.refused["MULTI"])
    else:
        asker.ask("EXEC")
    asker.ask("WATCH", key)
    flags = client_flags(asker.ask("CLIENT", "INFO", name="CLIENT INFO")) is not None
    asker.ask("UNWATCH")
    asker.ask("SET", key, "1", "PX", _TTL_MS)
    asker.ask("EXPIRE", key, _TTL_MS // 1000)
    asker.ask("GET", key)
    asker.ask("DEL", key)
    asker.ask("HSET", key, "field", "1")
    asker.ask("PEXPIRE", key, _TTL_MS)
    asker.ask("HMGET", key, "field")
    asker.ask("HGETALL", key)
    asker.ask("EXISTS", key)
    asker.ask("PTTL", key)
    asker.ask("TYPE", key)
    asker.ask("TIME")
    asker.ask("PERSIST", key)
    asker.ask("HDEL", key, "field")
    asker.ask("DEL", key)
    asker.ask("EVAL", "return 1", 1, key)
    return flags


def _unserved(asker: Asker) -> int | None:
    """Slots of the cluster that no node serves, as this node sees it."""
    told = asker.ask("CLUSTER", "INFO", name="CLUSTER INFO")
    if not isinstance(told, bytes):
        return None
    state = dict(line.split(":", 1) for line in told.decode().split() if ":" in line)
    return SLOTS - int(state["cluster_slots_ok"])


def _replicas(replication: Mapping[str, str]) -> tuple[Replica, ...] | None:
    if not replication:
        return None
    written = _number(replication.get("master_repl_offset"))
    found = []
    for name, line in replication.items():
        if re.fullmatch(r"slave\d+", name):
            told = dict(item.split("=", 1) for item in line.split(","))
            read = _number(told.get("offset"))
            found.append(
                Replica(
                    address=f"{told.get('ip', '?')}:{told.get('port', '?')}",
                    state=told.get("state", "unknown"),
                    lag_s=_number(told.get("lag")),
                    behind_bytes=None if written is None or read is None else max(0, written - read),
                )
            )
    return tuple(found)


def _look_at(replica: Replica, source: Source) -> Replica:
    """Ask a replica itself for what its primary doesn't know; where it can't be reached, that stays unknown."""
    host, _, port = replica.address.rpartition(":")
    try:
        with connected(server_at(source, (host, int(port))), _PATIENCE) as asker:
            return replace(
                replica,
                read_only=_yes(asker.config("replica-read-only")),
                diskless_load=asker.config("repl-diskless-load"),
                priority=_number(asker.config("replica-priority")),
            )
    except (redis.RedisError, ValueError):
        return replica


def _failing(persistence: Mapping[str, str]) -> tuple[str, ...]:
    watched = {
        "rdb_last_bgsave_status": "the last snapshot",
        "aof_last_write_status": "the last write of the log",
        "aof_last_bgrewrite_status": "the last rewrite of the log",
    }
    return tuple(what for name, what in watched.items() if persistence.get(name, "ok") != "ok")


def _field_ttls(keyspace: Mapping[str, str], *, refused: bool) -> int | None:
    if refused:
        return None
    pairs = (item.partition("=") for line in keyspace.values() for item in line.split(","))
    return sum(int(number) for name, _, number in pairs if name in _VOLATILE)


def _round_trip(asker: Asker) -> float:
    """Median of some round trips, milliseconds. UNWATCH, because every user of the library may send it."""
    times = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        asker.ask("UNWATCH")
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def _clock_ahead(asker: Asker) -> float | None:
    """Seconds that the server's clock is ahead of this machine's; half a round trip is not counted."""
    before = time.time()
    told = asker.ask("TIME")
    if not isinstance(told, list):
        return None
    return int(told[0]) + int(told[1]) / 1_000_000 - (before + time.time()) / 2


def _yes(text: str | None) -> bool | None:
    return None if text is None else text == "yes"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
