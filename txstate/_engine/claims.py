"""Claims: how a transaction that keeps losing gets its turn.

Optimistic commits alone starve whoever is slow: the winner commits again before the loser has looked. So after a few
conflicts an attempt leaves a claim on its keys, a key beside each that names it and expires by itself. Everybody reads
the claims along with the documents, and who sees another's gives way for a moment, a bounded number of times.

Claims serve progress only. WATCH alone keeps safety, so a claim that expired, was lost, overwritten or ignored can
slow things down but never corrupt anything. No clock is compared between hosts: leases are the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from txstate._effects import Command
    from txstate._engine.settings import Settings

CONFLICTS_BEFORE_CLAIM: Final = 2
_LEASES: Final = 3
_LONGEST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a call claims keys with.

    Attributes:
        holder: names the call.
        lease: milliseconds.
    """

    holder: bytes
    lease: int

    @classmethod
    def after(cls, holder: str, took: float, shortest: float) -> Claim:
        """A claim whose lease suits an attempt that took so many seconds, and lasts as many at least."""
        return cls(holder.encode(), round(1000 * max(min(_LEASES * took, _LONGEST), shortest)))


def claim_names(settings: Settings, keys: Iterable[str], slot: int | None = None) -> list[bytes]:
    """Where the claims on these documents are kept."""
    return [settings.reserved_name("claim", slot, key).encode() for key in sorted(keys)]


def stake(claim: Claim, names: Iterable[bytes]) -> list[Command]:
    """The commands that claim: in the order of the keys, so that two calls don't hold half of each other's."""
    return [("SET", name, claim.holder, "NX", "PX", b"%d" % claim.lease) for name in names]
