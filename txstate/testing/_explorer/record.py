"""What happened in a run: batch by batch, and how each transaction ended. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from txstate.errors import CommitUnknown, NotDurable, TxStateError
from txstate.resolution import Resolution
from txstate.testing._explorer.batches import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._effects import Command, Lost
    from txstate.testing._explorer.schedule import Choice


@dataclass(slots=True)
class Entry:
    """One line of the record of a run: a batch of commands, and what it met.

    Attributes:
        choice: what was chosen.
        call: the number of the call on the store, of this actor.
        commands: what it sent.
        replies: what the server answered, whether the actor got to see it or not.
        error: what it saw instead.
        arrived: a request of the same actor that was held up, and arrived in the middle of this one.
    """

    choice: Choice
    call: int
    commands: Sequence[Command]
    replies: Sequence[object] | None = None
    error: Lost | None = None
    arrived: Entry | None = None

    @property
    def batch(self) -> Batch:
        """What was sent and answered, understood."""
        return Batch(self.commands, self.replies)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one transaction.

    Attributes:
        value: what it returned.
        error: what it raised, if it did.
        attempts: how many attempts its calls on the store made.
    """

    value: Any
    error: BaseException | None
    attempts: int

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.error is None

    @property
    def applied(self) -> bool | None:
        """Whether its transaction was applied, if it made one call on the store; None: that is not known."""
        error = self.error
        if error is not None and not isinstance(error, TxStateError):
            error = error.__cause__ if isinstance(error.__cause__, CommitUnknown) else error
        if isinstance(error, CommitUnknown):
            return True if error.known is Resolution.COMMITTED else None
        return error is None or isinstance(error, NotDurable)

    def __str__(self) -> str:
        what = f"returned {self.value!r}" if self.error is None else f"raised {_told(self.error)}"
        return f"{what} ({self.attempts} attempt{'' if self.attempts == 1 else 's'})"


def _told(error: BaseException) -> str:
    cause = f", caused by {_told(error.__cause__)}" if error.__cause__ is not None else ""
    return f"{type(error).__name__}({error}){cause}"
