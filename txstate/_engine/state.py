"""Where an attempt stands: whether its function may go on, and how it is left when it may not."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from txstate._engine.documents import OVER
from txstate.errors import UsageError

if TYPE_CHECKING:
    from txstate._engine.documents import Documents
    from txstate._engine.outcome import Apart, Conflict, GiveWay, Outage


class State(enum.Enum):
    """Where an attempt stands."""

    RUNNING = "running"
    CONDEMNED = "condemned"
    COMMITTED = "committed"
    ENDED = "ended"


RUNNING, CONDEMNED, COMMITTED, ENDED = State
"""By themselves: before Python 3.12 a look-up in an enum costs as much as a call."""


class Condemned(BaseException):
    """Takes a condemned attempt out of the user's function. Private: callers never get to see it.

    Not an `Exception`, so that ``except Exception`` in the function does not stop it; and if something else stops
    it, the attempt's state decides all the same.
    """


class Standing:
    """What an attempt and its documents are asked before anything is done with them.

    Attributes:
        state: where it stands.
        verdict: why it was condemned.
        documents: what was read, and what the function asked for.
    """

    documents: Documents
    state = RUNNING
    verdict: Conflict | GiveWay | Outage | Apart | None = None

    @property
    def in_function(self) -> bool:
        """Whether its function may still be running: it has neither committed nor ended."""
        return self.state is RUNNING or self.state is CONDEMNED

    def check_read(self) -> None:
        """Raise unless documents may be read."""
        if self.state is not RUNNING and self.state is not COMMITTED:
            self.refuse()

    def check_write(self) -> None:
        """Raise unless documents may be changed."""
        if self.state is not RUNNING:
            self.refuse()

    def condemn(self, verdict: Conflict | GiveWay | Outage | Apart) -> Condemned:
        """End the attempt; the caller raises what is returned."""
        if self.state is RUNNING:
            self.state, self.verdict = CONDEMNED, verdict
            self.documents.guard_by(self)
        return Condemned()

    def refuse(self) -> None:
        """Raise what an attempt says to who uses it when it must not be."""
        if self.state is CONDEMNED:
            raise Condemned
        if self.state is COMMITTED:
            raise UsageError("this transaction has committed: its documents can be read, but not changed")
        OVER.check_write()
