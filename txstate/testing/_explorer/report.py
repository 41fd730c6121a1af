"""What an exploration found: counts, and for each schedule that broke the invariant a timeline to read and to replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txstate.testing._explorer.record import Outcome
    from txstate.testing._explorer.schedule import Schedule
    from txstate.testing._explorer.timeline import Timeline


class InvariantViolated(AssertionError):  # noqa: N818 - named for what happened, as txstate's errors are
    """A schedule led to a state that the invariant does not allow. Its text has the timeline, and how to replay it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A schedule that broke the invariant. `str` is its timeline.

    Attributes:
        schedule: for `replay`, itself or its text.
        number: its place in the exploration, counted from 1.
        outcomes: what came of each transaction; None for one that did not end.
        error: what the invariant raised; None if it returned what is false.
        timeline: who did what, what went wrong, which value was lost.
        recipe: the call that does it again, but for what every call of `explore` or `replay` has.
    """

    schedule: Schedule
    number: int
    outcomes: tuple[Outcome | None, ...]
    error: BaseException | None
    timeline: Timeline
    recipe: str

    def exception(self) -> InvariantViolated:
        """What to raise for it."""
        return InvariantViolated(
            f"the invariant does not hold; {self.recipe} does this again:\n{self.timeline}"
        )

    def __str__(self) -> str:
        return f"schedule {str(self.schedule)!r}\n{self.timeline}"


@dataclass(frozen=True, slots=True)
class Report:
    """What an exploration found.

    Attributes:
        schedules: how many were tried.
        steps: how many batches of commands were sent in them.
        violations: the schedules that broke the invariant, in the order in which they were found.
        complete: whether all schedules were tried; False when `preemptions`, `limit` or `violations` cut the search.
        stopped: whether `limit` or `violations` did.
        returned: for each transaction, in how many schedules it returned rather than raised.
        fired: for each fault, in how many schedules it happened.
        reached: for each of `txstate.testing.REACHED`, in how many schedules it came about: conflicts, resolutions,
            armed connections, claims, ...
    """

    schedules: int
    steps: int
    violations: tuple[Violation, ...]
    complete: bool
    stopped: bool
    returned: tuple[int, ...]
    fired: Mapping[str, int]
    reached: Mapping[str, int]

    @property
    def first(self) -> Violation | None:
        """The simplest violation: with the fewest faults, then steps, then switches between transactions."""
        return min(self.violations, key=lambda violation: violation.schedule.weight, default=None)

    def check(self) -> None:
        """Raise unless all is well.

        Raises:
            InvariantViolated: the simplest violation.
            UsageError: nothing was shown: no transaction ever returned, or a fault that was asked for never happened,
                though the search was not stopped.
        """
        __tracebackhide__ = True  # pytest shows the caller's line
        first = self.first
        if first is not None:
            raise first.exception() from first.error
        if not any(self.returned):
            raise UsageError(
                f"nothing was shown: in {self.schedules} schedules no transaction ever returned. To see what they "
                "raise, let the invariant take the outcomes as well: invariant(store, outcomes)"
            )
        unfired = [] if self.stopped else [name for name, count in self.fired.items() if count == 0]
        if unfired:
            raise UsageError(
                f"nothing was shown of {', '.join(unfired)}: in {self.schedules} schedules there was no step at which "
                "it could happen"
            )

    def __str__(self) -> str:
        found = f"{len(self.violations)} violations" if self.violations else "no violation"
        counted = [f"{count} with {name}" for name, count in {**self.fired, **self.reached}.items() if count]
        extent = "all there are" if self.complete else "cut short"
        return f"{self.schedules} schedules, {extent}: {found}" + (
            f" ({', '.join(counted)})" if counted else ""
        )
