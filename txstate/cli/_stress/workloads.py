"""The loads of `stress`: which documents there are at the beginning, and what one operation changes in them.

The same for every contender. Knows nothing of how a change is made, nor of servers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from txstate.cli._stress.tally import ROOT, Cell

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from txstate import JSON

_ACCOUNTS = 8
_BALANCE = 1000
_MOST = 50
_SESSIONS = 4
_FIELDS = 30


class Workload(enum.StrEnum):
    """What the processes do."""

    COUNTER = "counter"
    """One hot document: everybody adds 1."""
    BANK = "bank"
    """Transfers between a handful of accounts: two documents at a time, and the total stays."""
    SESSION = "session"
    """One field of one of a few sessions: what others write in the other fields stays."""


@dataclass(frozen=True, slots=True)
class Change:
    """One operation's part in one document.

    Attributes:
        key: the document.
        mark: the field that gets the write's id.
        amount: the field that is added to, if there is one.
        by: how much is added.
    """

    key: str
    mark: str
    amount: str | None = None
    by: int = 0

    @property
    def cell(self) -> str:
        """Its name in the count."""
        return f"{self.key}/{self.mark}"


def documents(workload: Workload) -> dict[str, dict[str, int]]:
    """What is there at the beginning."""
    match workload:
        case Workload.COUNTER:
            return {"counter": {"value": 0, "last": ROOT}}
        case Workload.BANK:
            return {f"account:{number}": {"balance": _BALANCE, "last": ROOT} for number in range(_ACCOUNTS)}
        case Workload.SESSION:
            fields = {f"field{number:02}": ROOT for number in range(_FIELDS)}
            return {f"session:{number}": dict(fields) for number in range(_SESSIONS)}


def operation(workload: Workload, rng: random.Random) -> list[Change]:
    """What one operation changes; drawn anew for each."""
    match workload:
        case Workload.COUNTER:
            return [Change("counter", "last", "value", 1)]
        case Workload.BANK:
            source, target = rng.sample(range(_ACCOUNTS), 2)
            amount = rng.randint(1, _MOST)
            return [
                Change(f"account:{source}", "last", "balance", -amount),
                Change(f"account:{target}", "last", "balance", amount),
            ]
        case Workload.SESSION:
            return [
                Change(f"session:{rng.randrange(_SESSIONS)}", f"field{rng.randrange(_FIELDS):02}"),
            ]


def cells(workload: Workload, found: Mapping[str, Mapping[str, JSON]]) -> dict[str, Cell]:
    """What the documents show at the end, for the count.

    Raises:
        KeyError: a document or a field is gone; nothing in this load removes one.
    """
    shown = {}
    for key, document in documents(workload).items():
        amounts = [name for name in document if name in ("value", "balance")]
        for name in document.keys() - amounts:
            gained = sum(found[key][amount] - document[amount] for amount in amounts) if amounts else None
            shown[f"{key}/{name}"] = Cell(found[key][name], gained)
    return shown


def total(workload: Workload, found: Mapping[str, Mapping[str, JSON]]) -> tuple[int, int] | None:
    """The money in the bank, at the beginning and at the end; None for other loads."""
    if workload is not Workload.BANK:
        return None
    return _ACCOUNTS * _BALANCE, sum(account["balance"] for account in found.values())
