"""How safe a commit must be before its call returns. Knows nothing of how that is found out."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from txstate._checks import check_count, check_seconds
from txstate.errors import UsageError


@dataclass(frozen=True, slots=True)
class Replicas:
    """A commit must have reached replicas before its call returns: a failover to one of them won't lose it.

    By WAIT, in the commit's own round trip. What falls short raises `NotDurable`, and is applied all the same. WAIT is
    no consensus: a replica that has not confirmed may be promoted too, and the commit is then lost.

    Args:
        n: how many replicas, at least 1.
        timeout: seconds to wait for them, at most; the call's deadline shortens it.

    Raises:
        UsageError: an argument is out of range.
    """

    n: int
    _: KW_ONLY
    timeout: float = 0.5

    def __post_init__(self) -> None:
        check_count("Replicas(n=)", self.n, 1)
        check_seconds("Replicas(timeout=)", self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsync:
    """A commit must be on disk before its call returns: a power cut won't lose it.

    By WAITAOF (Redis 7.2 and later, Valkey), in the commit's own round trip. What falls short raises `NotDurable`, and
    is applied all the same. With ``appendfsync everysec`` the disk takes up to a second, so give it that.

    Args:
        local: on the disk of the server itself, which must have ``appendonly yes``.
        replicas: on the disks of as many replicas.
        timeout: seconds to wait for them, at most; the call's deadline shortens it.

    Raises:
        UsageError: an argument is out of range, or nothing is asked for.
    """

    local: bool = True
    replicas: int = 0
    timeout: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.local, bool):
            raise UsageError(f"Fsync(local=) takes a bool, not {self.local!r}")
        check_count("Fsync(replicas=)", self.replicas, 0)
        check_seconds("Fsync(timeout=)", self.timeout)
        if not self.local and not self.replicas:
            raise UsageError("Fsync(local=False, replicas=0) asks for nothing; for that pass durability=None")


Durability: TypeAlias = Replicas | Fsync
"""What `durability=` takes."""


def checked(durability: object) -> Durability | None:
    """The argument, if it is one.

    Raises:
        UsageError: it is something else.
    """
    if durability is None or isinstance(durability, Replicas | Fsync):
        return durability
    raise UsageError(f"durability= takes a txstate.Replicas, a txstate.Fsync or None, not {durability!r}")
