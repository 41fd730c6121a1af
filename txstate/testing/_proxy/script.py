"""What shall happen at a proxy, and what did: rules, latencies, the counting of commands, and the log.

Knows no sockets. Everything but `events` and `fired` is for the loop's thread.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import TYPE_CHECKING, Final

from txstate.testing._proxy.faults import Command, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate.testing._proxy.rules import Armed, Held

_LOGGED: Final = 10_000  # events kept, so that a rule for every command does not fill the memory


class Script:
    """Consulted by all connections of one proxy."""

    def __init__(self) -> None:
        self._rules: list[Armed] = []
        self.request_latency = 0.0
        self.reply_latency = 0.0
        self._log: collections.deque[Event] = collections.deque(maxlen=_LOGGED)
        self._lock = threading.Lock()  # guards `_log`
        self.fired = 0
        self.error: Exception | None = None
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, armed: Armed) -> None:
        """Take a rule into account from now on, after all others."""
        self._rules = [rule for rule in self._rules if rule.active]
        self._rules.append(armed)

    def meet(self, words: Sequence[bytes], connection: int, counts: collections.Counter[str]) -> Command:
        """Count a command that arrived, on its connection and over all of them."""
        name = words[0].decode(errors="replace").upper()
        counts[name] += 1
        self._counts[name] += 1
        return Command(connection, name, tuple(words[1:]), counts[name], self._counts[name])

    def claim(self, command: Command) -> Armed | None:
        """Find the rule for a command, the first in the order in which they were made, and use up one of its times."""
        for armed in self._rules:
            if armed.claims(command):
                return armed
            if armed.error is not None and self.error is None:
                self.error = armed.error
                self.record(
                    Event("failed", time.monotonic(), command.connection, command, note=repr(armed.error))
                )
        return None

    def fire(self, armed: Armed, command: Command, held: Held | None = None) -> None:
        """A rule took effect."""
        self.fired += 1
        self.record(Event("fired", time.monotonic(), command.connection, command, armed.action))
        armed.fire(held)

    def record(self, event: Event) -> None:
        """Write down what happened."""
        with self._lock:
            self._log.append(event)

    def events(self) -> tuple[Event, ...]:
        """What was written down, oldest first."""
        with self._lock:
            return tuple(self._log)
