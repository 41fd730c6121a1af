"""Faults at random, for runs under load: mostly at an EXEC, so that commits get in doubt.

Decides when and which; how they are carried out is the rules' and connections' business.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Self

from txstate.testing._proxy.rules import Armed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate.testing._proxy.faults import Action
    from txstate.testing._proxy.loop import Loop
    from txstate.testing._proxy.rules import Held
    from txstate.testing._proxy.script import Script

_IDLE: Final = 0.25  # seconds that a fault waits for an EXEC
_LATE: Final = 0.05  # seconds that a late request is late at most


class RandomCuts:
    """Faults at random, begun by `FaultProxy.cut_randomly`. A context manager that stops them."""

    def __init__(
        self,
        loop: Loop,
        script: Script,
        kill_one: Callable[[random.Random], bool],
        *,
        per_second: float,
        seed: int,
        kinds: Sequence[Action],
    ) -> None:
        self._loop, self._script, self._kill_one = loop, script, kill_one
        self._per_second, self._kinds = per_second, tuple(kinds)
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._armed: Armed | None = None
        self._armed_at = 0.0
        self._stopped = False
        self._past = 0  # faults of the rules before `_armed`, and connections killed
        loop.call(self._begin)

    @property
    def fired(self) -> int:
        """How many faults took effect. Readable after the proxy's `close`."""
        armed = self._armed
        return self._past + (0 if armed is None else armed.fired)

    def stop(self) -> None:
        """Order no more faults; what is late is delivered still. May be called again."""
        if not self._stopped:
            self._loop.call(self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin(self) -> None:
        self._arm()
        self._next()

    def _end(self) -> None:
        self._stopped = True
        self._disarm()

    def _next(self) -> None:
        self._loop.call_at(time.monotonic() + self._random.expovariate(self._per_second), self._tick)

    def _tick(self) -> None:
        if self._stopped:
            return
        if self._armed is None or self._armed.fired:
            self._arm()
        elif time.monotonic() - self._armed_at > _IDLE and self._kill_one(self._random):
            self._past += 1
            self._armed_at = time.monotonic()
        self._next()

    def _arm(self) -> None:
        self._disarm()
        self._armed = Armed(self._random.choice(self._kinds), command="EXEC", on_held=self._deliver_later)
        self._armed_at = time.monotonic()
        self._script.add(self._armed)

    def _disarm(self) -> None:
        if self._armed is not None:
            armed, self._armed = self._armed, None
            self._past += armed.fired
            armed.cancel()

    def _deliver_later(self, held: Held) -> None:
        self._loop.call_at(time.monotonic() + self._random.uniform(0, _LATE), held.send)
