"""Looking for a reply again and again for a moment, before a thread sleeps until it comes.

To be woken takes longer than a server on the same host takes for a batch, most of all where a processor without work goes
to sleep as well. So a thread looks first, for about as long as waking takes: at worst it then takes twice the time that
the better of both would have (Karlin, Li, Manasse, Owicki: Empirical Studies of Competitive Spinning for a Shared-Memory
Multiprocessor, SOSP 1991). Where that does not pay, it rests for longer and longer: where the server is far away, where the
reply is there at once (the server has had the same processor), and where others have use for the processor.
"""

from __future__ import annotations

import math
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORT: Final = 2
"""Replies that are not looked for, after a look that did not pay."""

_LONG: Final = 1024
"""The same, at most: it is twice as many each time."""

_MANY: Final = 256
"""Looks that pay: more than there are between two switches where others wait for the processor all the time."""


class Spin:
    """When to look for a reply on one connection, and for how long.

    Args:
        seconds: for which to look, at most; 0: never.
        alone: tells whether no other thread of this store has anything to do; it would wait for the interpreter's lock.

    Attributes:
        rest: how many replies are not to be looked for, from now on. Who reads them counts.
    """

    __slots__ = ("_alone", "_courtesy", "_paid", "_patience", "_seconds", "_switches", "rest")

    def __init__(self, seconds: float, alone: Callable[[], bool]) -> None:
        self._seconds, self._alone = seconds, alone
        self.rest = 0 if seconds else math.inf
        self._switches, self._paid = _switches(), _MANY
        # The next rests: for others' sake, and because a reply is late.
        self._courtesy = self._patience = _SHORT

    def look(self, poll: Callable[[float], object]) -> None:
        """Look until something has arrived, or it does not pay any more.

        Args:
            poll: waits for so many milliseconds, and tells what has arrived.
        """
        # Where others wait for the processor, what looks takes it from them; but now and then it goes to others anyway.
        before, self._switches = self._switches, _switches()
        if self._switches != before:
            self._courtesy = _SHORT if self._paid >= _MANY else min(2 * self._courtesy, _LONG)
            self.rest, self._paid = self._courtesy, 0
            return
        until = perf_counter() + self._seconds
        pays = not poll(0)
        while pays and not poll(0):
            if not self._alone():
                return
            pays = perf_counter() < until
        if pays:
            self._paid, self._patience = self._paid + 1, _SHORT
        else:
            self.rest, self._patience = self._patience, min(2 * self._patience, _LONG)

    def awoke(self) -> None:
        """The thread has stood in line, and slept: what happened meanwhile tells nothing of what is to come.

        For its first replies it sleeps, too: who had the turn before lines up, and who has the next one comes to the door.
        """
        self._switches, self.rest = _switches(), max(self.rest, _SHORT)


def _switches() -> int:
    """How often others were given the processor that this process would have gone on with."""
    return getrusage(RUSAGE_SELF).ru_nivcsw
