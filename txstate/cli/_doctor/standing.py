"""What a verdict is: a promise, how it stands, why, and what would mend it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable


class Standing(enum.StrEnum):
    """How a promise stands on this server.

    "Holds as long as" names a condition that nobody can check from here; "does not hold" is a finding.
    """

    HOLDS = "holds"
    CONDITIONAL = "holds as long as"
    BROKEN = "does not hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One promise's.

    Attributes:
        promise: ``"P1"`` to ``"P8"``: what the library promises by default; ``"D1"`` to ``"D5"``: what becomes of an
            acknowledged commit, by default and with each `durability=`; ``"S1"``: that Sentinel fails over.
        title: what is promised.
        standing: how it stands.
        reason: why; after `CONDITIONAL`, the condition.
        remedy: what would mend it; empty when there is nothing to mend.
    """

    promise: str
    title: str
    standing: Standing
    reason: str
    remedy: str = ""

    @property
    def breach(self) -> bool:
        """Whether it says that something which the library promises by default does not hold."""
        return self.standing is Standing.BROKEN and self.promise.startswith("P")


Finding: TypeAlias = tuple[Standing, str, str]
"""Standing, reason and remedy."""


class Condition(NamedTuple):
    """What a promise hangs on.

    Attributes:
        text: what has to stay true.
        remedy: what would make it so; empty: nothing here.
    """

    text: str
    remedy: str


def under(conditions: Iterable[Condition], otherwise: str) -> Finding:
    """The finding that something holds under these conditions; if there is none, that it holds, and why."""
    found = list(conditions)
    if not found:
        return Standing.HOLDS, otherwise, ""
    remedies = dict.fromkeys(each.remedy for each in found if each.remedy)
    return Standing.CONDITIONAL, "; and ".join(each.text for each in found), "; ".join(remedies)
