"""What an exploration has come across: an exploration in which nothing happened has shown nothing.

Counts runs, not events. Reads the records of runs; decides nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from txstate.testing._explorer.batches import Kind
from txstate.testing._explorer.schedule import DELIVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from txstate.testing._explorer.record import Entry

REACHED: Final = {
    "conflict": "a commit met one",
    "stale": "a read showed that what had been read before was modified, and ended its attempt",
    "armed": "a transaction began with what the one before it on the same connection had read for it",
    "proof": "such a snapshot was validated on its own, as nothing was written",
    "claim": "a transaction that had lost too often claimed its documents",
    "claimed": "another one came across such a claim",
    "kept": "who had claimed its documents kept its turn for the next call",
    "resolution": "a commit whose reply was lost was looked for",
    "fence": "and could only be found by fencing it off, as its token was gone",
    "late": "a request that its sender had given up arrived",
}
"""The names, and what each means."""


class Coverage:
    """Counts, run by run.

    Args:
        faults: the names of the faults that may happen.

    Attributes:
        fired: in how many runs each fault happened.
        reached: in how many runs each of `REACHED` did.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.fired = Counter(dict.fromkeys(faults, 0))
        self.reached = Counter(dict.fromkeys(REACHED, 0))

    def add(self, record: Iterable[Entry]) -> None:
        """Count a run."""
        record = list(record)
        self.fired.update({entry.choice.event for entry in record} & self.fired.keys())
        self.reached.update(set(_reached(record)))


def _reached(record: Iterable[Entry]) -> Iterator[str]:
    own_reads: dict[int, int] = {}
    for entry in record:
        if entry.choice.event == DELIVER:
            yield "late"
            continue
        batch, actor = entry.batch, entry.choice.actor
        has_read = own_reads.pop(actor, None) == entry.call
        if batch.kind is Kind.READ:
            own_reads[actor] = entry.call
        signs = {
            "late": entry.arrived is not None,
            "armed": batch.kind in (Kind.COMMIT, Kind.PROVE) and not has_read,
            "proof": batch.kind is Kind.PROVE,
            "resolution": batch.kind is Kind.RESOLVE,
            "fence": batch.kind is Kind.FENCE,
            "conflict": batch.conflict,
            "stale": batch.stale,
            "claim": bool(batch.claims()),
            "claimed": bool(batch.claimed()),
            "kept": bool(batch.kept()) and batch.applied,
        }
        yield from (name for name, shown in signs.items() if shown)
