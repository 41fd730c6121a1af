"""Transactions tried out: one with a conflict, over two connections, and one that waits for replicas and disks.

What a server does with them, a proxy before it may not: one that answers WATCH by itself, or sends the commands of one
client over several connections, refuses nothing; it just doesn't protect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import redis

from txstate._drivers.source import answer_of
from txstate._engine.session import client_flags

if TYPE_CHECKING:
    from txstate.cli._doctor.asker import Asker

REPLICAS_MS: Final = 500
"""How long WAIT is given, milliseconds: as long as `Replicas` gives it."""
DISKS_MS: Final = 1500
"""The same for WAITAOF: with ``appendfsync everysec`` a disk takes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a transaction fared whose watched key was written by another connection.

    Attributes:
        queued: whether a command behind MULTI waited for EXEC.
        stopped: whether EXEC did nothing, as it must.
        flagged: whether CLIENT INFO told of the conflict before; None: it shows no flags.
    """

    queued: bool
    stopped: bool
    flagged: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """Who had a commit in time. Text: the server did not say, but answered that.

    Attributes:
        replicas: how many replicas had it in memory.
        local: on how many of the server's own disks it was: 0 or 1.
        disks: on how many replicas' disks it was.
    """

    replicas: int | str
    local: int | str
    disks: int | str


NEEDED: Final = ("WATCH", "MULTI", "EXEC", "SET")
"""What can't be tried when it is refused."""


def try_out(asker: Asker, other: Asker, key: str, ttl_ms: int) -> Trial:
    """Try it.

    Args:
        asker: one connection.
        other: another one, to the same address.
        key: a throw-away key.
        ttl_ms: how long it may live, in milliseconds.
    """
    asker.ask("WATCH", key)
    other.ask("SET", key, "other", "PX", ttl_ms)
    flags = client_flags(asker.ask("CLIENT", "INFO", name="CLIENT INFO"))
    asker.ask("MULTI")
    queued = asker.ask("SET", key, "own", "PX", ttl_ms) == b"QUEUED"
    stopped = asker.ask("EXEC") is None
    asker.ask("DEL", key)
    return Trial(queued=queued, stopped=stopped, flagged=None if flags is None else b"d" in flags)


def try_waiting(asker: Asker, key: str, ttl_ms: int, *, followed: bool) -> Waited:
    """Commit something, and wait for replicas and disks on the same connection, as `Replicas` and `Fsync` do.

    Args:
        asker: the connection.
        key: a throw-away key.
        ttl_ms: how long it may live, in milliseconds.
        followed: whether there may be replicas; if not, they aren't waited for.
    """
    asker.ask("MULTI")
    asker.ask("SET", key, "waited for", "PX", ttl_ms)
    asker.ask("EXEC")
    limit = REPLICAS_MS if followed else 1
    replicas = asker.try_asking("WAIT", 1, limit, name="WAIT")
    told = asker.try_asking("WAITAOF", 1, int(followed), DISKS_MS, name="WAITAOF")
    asker.ask("DEL", key)
    counts = told if isinstance(told, list) else [told, told]
    return Waited(replicas=_count(replicas), local=_count(counts[0]), disks=_count(counts[1]))


def _count(answer: object) -> int | str:
    if isinstance(answer, int):
        return answer
    if isinstance(answer, redis.ResponseError):
        return answer_of(answer)
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
