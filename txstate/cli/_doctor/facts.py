"""What `doctor` knows of a server: facts as it told them, without any judgement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txstate.cli._doctor.trial import Trial, Waited

NamedAs: TypeAlias = Literal["server", "cluster", "sentinel"]
"""What an address says of whom it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica, as its primary sees it, and what it says itself. None: not known.

    Attributes:
        address: host and port.
        state: ``"online"`` when it follows.
        lag_s: seconds since it was last heard of.
        behind_bytes: how much of the replication stream it has not confirmed.
        read_only: whether it refuses writes of others than its primary.
        diskless_load: how it loads its primary's data: ``"swapdb"`` keeps the old one meanwhile.
        priority: the lower, the sooner it is promoted; 0: never.
    """

    address: str
    state: str
    lag_s: int | None = None
    behind_bytes: int | None = None
    read_only: bool | None = None
    diskless_load: str | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """The sentinels around a primary, as they told.

    Attributes:
        service: what they call it.
        asked: how many the address names.
        silent: those of them that can't be asked, and why.
        primaries: whom they name as primary; more than one: they disagree.
        known: how many there are, as they know each other.
        quorum: how many must agree that the primary is gone.
        unready: why there are too few of them for a failover; empty: there are enough.
        down_after_s: seconds of silence after which they hold a server for dead.
        replicas: how many they know.
        never_promoted: those whose priority is 0.
    """

    service: str
    asked: int
    silent: Mapping[str, str] = field(default_factory=dict)
    primaries: tuple[str, ...]
    known: int
    quorum: int
    unready: str = ""
    down_after_s: float
    replicas: int
    never_promoted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server tells. None: it does not tell this user.

    Attributes:
        address: host and port, where the server was not named by them.
        kind: ``"Valkey"`` or ``"Redis"``.
        version: its own.
        role: ``"master"``, ``"slave"`` or ``"sentinel"``.
        replicas: those connected to it.
        min_replicas: without as many, it refuses writes; 0: it doesn't care.
        min_replicas_lag_s: seconds of silence after which a replica doesn't count there.
        replica_read_only: whether it would refuse writes as a replica.
        diskless_load: how it would load its primary's data as a replica.
        cluster: whether it is a node of a cluster.
        named_as: what the address said that it is.
        slots_unserved: how many slots of the cluster no node serves.
        aof: whether every write is logged.
        fsync: when the log is forced to disk: ``"always"``, ``"everysec"`` or ``"no"``.
        loads_truncated: whether it starts on a log that was cut short.
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
        waited: a commit for which replicas and disks were waited; None: as for `trial`.
    """

    address: str = ""
    kind: str
    version: str
    role: str | None = "master"
    replicas: tuple[Replica, ...] | None = ()
    min_replicas: int | None = 0
    min_replicas_lag_s: int | None = None
    replica_read_only: bool | None = None
    diskless_load: str | None = None
    cluster: bool | None = False
    named_as: NamedAs = "server"
    slots_unserved: int | None = 0
    aof: bool | None = None
    fsync: str | None = None
    loads_truncated: bool | None = None
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
    waited: Waited | None = None
