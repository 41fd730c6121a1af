"""What `doctor` knows of a server: facts as it told them, without any judgement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txstate.cli._trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica, as its primary sees it.

    Attributes:
        address: host and port.
        state: ``"online"`` when it follows.
        lag_s: seconds since it was last heard of; None: not known.
        behind_bytes: how much of the replication stream it has not confirmed; None: not known.
    """

    address: str
    state: str
    lag_s: int | None
    behind_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server tells. None: it does not tell this user.

    Attributes:
        address: host and port, of a node of a cluster.
        kind: ``"Valkey"`` or ``"Redis"``.
        version: its own.
        role: ``"master"``, ``"slave"`` or ``"sentinel"``.
        replicas: those connected to it.
        min_replicas: without as many, it refuses writes; 0: it doesn't care.
        min_replicas_lag_s: seconds of silence after which a replica doesn't count there.
        cluster: whether it is a node of a cluster.
        named_as_cluster: whether its address said so.
        slots_unserved: how many slots of the cluster no node serves.
        aof: whether every write is logged.
        fsync: when the log is forced to disk: ``"always"``, ``"everysec"`` or ``"no"``.
        snapshots: when a snapshot of everything is saved; empty: never.
        persistence_failing: what went wrong with it, if something did.
        maxmemory: bytes; 0: no limit.
        policy: what happens at that limit.
        evicted: keys evicted since the start.
        field_ttls: hashes whose fields may expire one by one.
        round_trip_ms: median of some, milliseconds.
        refused: commands that the library needs and this user was refused, with the answer.
        shows_flags: whether CLIENT INFO tells if a watched key was modified.
        clock_ahead_s: seconds that its clock is ahead of this machine's.
        trial: a conflict, tried out; None: what it takes was refused.
    """

    address: str = ""
    kind: str
    version: str
    role: str | None = "master"
    replicas: tuple[Replica, ...] | None = ()
    min_replicas: int | None = 0
    min_replicas_lag_s: int | None = None
    cluster: bool | None = False
    named_as_cluster: bool = False
    slots_unserved: int | None = 0
    aof: bool | None = None
    fsync: str | None = None
    snapshots: str | None = None
    persistence_failing: tuple[str, ...] = ()
    maxmemory: int | None = None
    policy: str | None = None
    evicted: int | None = None
    field_ttls: int | None = 0
    round_trip_ms: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
    shows_flags: bool = True
    clock_ahead_s: float | None = 0.0
    trial: Trial | None = None
