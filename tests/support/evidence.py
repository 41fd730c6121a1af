"""What explorations and mutants hand to the report: `python -m tests.report` writes it into docs/reliability.md.

A test marked `proof` calls ``record_property(EXPLORED, ...)`` or ``record_property(CAUGHT, ...)``; the catalogue's own test
tells with ``MISSING`` which mutants there can't be yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from txstate.testing import Report

EXPLORED: Final = "explored"
CAUGHT: Final = "caught"
MISSING: Final = "missing"


@dataclass(frozen=True)
class Explored:
    """One exploration without a violation.

    Attributes:
        what: was explored.
        server: on which.
        schedules: how many.
        requests: how many batches were sent in them.
        seconds: how long that took, starting and stopping included.
        fired: schedules with a fault.
        reached: what came about, in how many schedules.
    """

    what: str
    server: str
    schedules: int
    requests: int
    seconds: float
    fired: int
    reached: str

    @classmethod
    def of(cls, what: str, server: str, report: Report, seconds: float) -> Explored:
        """Of a report that was checked."""
        reached = ", ".join(f"{name} {count}" for name, count in report.reached.items() if count)
        fired = sum(report.fired.values())
        return cls(what, server, report.schedules, report.steps, seconds, fired, reached)


@dataclass(frozen=True)
class Caught:
    """One mutant that was caught.

    Attributes:
        mutant: what it does wrong.
        breaks: the promise that fell with it.
        killer: what caught it.
        told: at which schedule, or how often.
    """

    mutant: str
    breaks: str
    killer: str
    told: str
