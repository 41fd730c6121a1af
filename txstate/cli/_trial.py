"""A transaction tried out: two connections, one conflict. What a server does with it, a proxy before it may not.

A proxy or a pooler that answers WATCH by itself, or sends the commands of one client over several connections, refuses
nothing; it just doesn't protect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from txstate._engine.session import client_flags

if TYPE_CHECKING:
    from txstate.cli._asker import Asker


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


NEEDED = ("WATCH", "MULTI", "EXEC", "SET")
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
