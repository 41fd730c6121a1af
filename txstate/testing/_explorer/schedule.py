"""Schedules: the order in which requests reach the server and what goes wrong with them, as text and as choices.

A schedule has one choice for each batch of commands that leaves a transaction. A *guide* makes the choices: all of
them in turn, those of a text, or drawn ones. Knows nothing of transactions, faults and servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

DELIVER: Final = "deliver"
"""The event of a choice by which a request that was held back reaches the server."""

_CHOICE: Final = re.compile(r"(?P<actor>\d+)(?:(?P<deliver>!)|:(?P<event>[^\s:=!]+)(?:=(?P<detail>\S*))?)?")


class ScheduleDiverged(UsageError):  # noqa: N818 - named for what happened, as txstate's errors are
    """The transactions did not do again what they did before, so a schedule can't be followed."""


class Choice(NamedTuple):
    """What happens next.

    Attributes:
        actor: which transaction moves, by its place in the list.
        event: what goes wrong with its step; empty: nothing.
        detail: what exactly, for example the key that expires.
    """

    actor: int
    event: str = ""
    detail: str = ""

    def __str__(self) -> str:
        if self.event == DELIVER:
            return f"{self.actor}!"
        event = f":{quote(self.event, safe='')}" if self.event else ""
        return f"{self.actor}{event}={quote(self.detail, safe='')}" if self.detail else f"{self.actor}{event}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Choices in order. `str` gives a text that `parse` reads, on any machine.

    ``0 1 0:drop_reply 1 0!`` means: one step of transaction 0, one of 1, one of 0 whose reply is lost, one of 1; then
    the request of 0 that was held back arrives.
    """

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.choices))

    @property
    def weight(self) -> tuple[int, int, int]:
        """What makes one failing schedule simpler than another: fewer faults, steps and switches."""
        switches = sum(
            before.actor != after.actor for before, after in zip(self.choices, self.choices[1:], strict=False)
        )
        return sum(bool(choice.event) for choice in self.choices), len(self.choices), switches

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `str` gave.

        Raises:
            UsageError: it is not a schedule.
        """
        return cls(tuple(_parse_choice(word) for word in text.split()))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A schedule by chance: at each step the number says which of the possible choices to take, 0 the plainest.

    Once the numbers are used up, each transaction runs on to its end. So fewer and smaller numbers are a simpler
    schedule, which is what Hypothesis shrinks to.
    """

    numbers: tuple[int, ...]


class Guide(Protocol):
    """Makes the choices of one run after another."""

    def begin(self) -> None:
        """A run begins; perhaps the same one once more."""

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """Take one of these; the first is the plainest.

        Raises:
            ScheduleDiverged: none of them is what the schedule says.
        """


class Exhaustive:
    """Depth first through all schedules."""

    def __init__(self) -> None:
        self._path: list[tuple[tuple[Choice, ...], int]] = []
        self._depth = self._given = 0

    def begin(self) -> None:
        """Start again at the root."""
        self._depth = 0

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """As the path says, and past its end always the first."""
        if self._depth == len(self._path):
            self._path.append((tuple(choices), 0))
        known, index = self._path[self._depth]
        if known != tuple(choices):
            raise _diverged(self._depth, known, choices)
        self._depth += 1
        return known[index]

    def advance(self) -> bool:
        """Turn to the next schedule; False: that was all.

        Raises:
            ScheduleDiverged: the last run ended before it had done what runs before it did.
        """
        if self._depth < self._given:
            raise _diverged(self._depth, self._path[self._depth][0], [])
        del self._path[self._depth :]
        while self._path:
            choices, index = self._path.pop()
            if index + 1 < len(choices):
                self._path.append((choices, index + 1))
                self._given = len(self._path)
                return True
        return False


class Scripted:
    """Follows a schedule; one that ends early leaves the rest to the plainest choices."""

    def __init__(self, schedule: Schedule) -> None:
        self._choices = schedule.choices
        self._depth = 0

    def begin(self) -> None:
        """Start with the first choice."""
        self._depth = 0

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """The next one."""
        self._depth += 1
        if self._depth > len(self._choices):
            return choices[0]
        wanted = self._choices[self._depth - 1]
        if wanted not in choices:
            raise _diverged(self._depth - 1, [wanted], choices)
        return wanted

    def end(self) -> None:
        """The run is over.

        Raises:
            ScheduleDiverged: and the schedule is not.
        """
        if self._depth < len(self._choices):
            raise _diverged(self._depth, self._choices[self._depth :], [])


class ByNumbers:
    """Follows a `Drawn` schedule."""

    def __init__(self, drawn: Drawn) -> None:
        self._numbers = drawn.numbers
        self._depth = 0

    def begin(self) -> None:
        """Start with the first number."""
        self._depth = 0

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """By the next number; a step without an alternative takes none."""
        if len(choices) == 1 or self._depth >= len(self._numbers):
            return choices[0]
        self._depth += 1
        return choices[self._numbers[self._depth - 1] % len(choices)]


def _parse_choice(word: str) -> Choice:
    match = _CHOICE.fullmatch(word)
    if match is None:
        raise UsageError(
            f"{word!r} is no step of a schedule; steps look like 0, 1:drop_reply, 0:expiry=key or 0!"
        )
    if match["deliver"]:
        return Choice(int(match["actor"]), DELIVER)
    return Choice(int(match["actor"]), unquote(match["event"] or ""), unquote(match["detail"] or ""))


def _diverged(depth: int, wanted: Sequence[Choice], found: Sequence[Choice]) -> ScheduleDiverged:
    possible = " ".join(map(str, found)) or "nothing, as all transactions have ended"
    return ScheduleDiverged(
        f"at step {depth + 1} the schedule goes on with {' '.join(map(str, wanted))}, but possible was: {possible}. "
        "Either it belongs to other transactions, another setup, other faults or another shared=, or a transaction is not "
        "deterministic: it must do the same again when it reads the same (no clock, no randomness of the operating "
        "system, no threads, no state left over from the last run that setup does not reset)"
    )
