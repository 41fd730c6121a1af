"""txstate with other contention managers than its own, to measure what that one is worth.

Each turns a part of it off from outside: the engine has one way, and no option for the others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis

from benchmarks.peers.own import Update
from txstate import Retry, Store
from txstate._engine import claims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Document

_SHORTEST: Final = 0.0002
_LONGEST: Final = 0.1


class SingleTurns(Update):
    """Every commit passes the turn on."""

    title = "turns of one commit"
    form = "the engine's lines, without keeping a turn for the next call"
    turn: ClassVar[float] = 0.0

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._before = claims.TURN, claims._LONG  # noqa: SLF001 - it is the engine's that is tried
        claims.TURN = claims._LONG = self.turn  # type: ignore[misc]  # noqa: SLF001 - not longer where many wait, either

    def close(self) -> None:
        """Disconnect, and leave the process as it was."""
        claims.TURN, claims._LONG = self._before  # type: ignore[misc]  # noqa: SLF001 - as above
        super().close()


class LongTurns(SingleTurns):
    """Turns four times as long."""

    title = "turns of 6 ms"
    form = "the engine's lines, with longer turns"
    turn = 0.0064


class SleepingClaims(Update):
    """Who sees a claim sleeps for a random time of 3 to 20 ms: what the engine does where it may not block."""

    title = "claims, sleeping"
    form = "a user without the right to BZPOPMIN"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store.close()
        self._store = Store(place.address.replace("://", "://sleeper:x@", 1))

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """Make the user as well."""
        with redis.Redis.from_url(place.address) as client:
            client.execute_command("ACL", "SETUSER", "sleeper", "on", ">x", "~*", "&*", "+@all", "-bzpopmin")
        super().seed(place, documents)


class BackOff(Update):
    """Nobody gives way: random exponential back-off alone."""

    title = "back-off alone"
    form = "claims are ignored"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store._settings = replace(self._store._settings, patience=0, **self._policy())  # noqa: SLF001 - what is measured has no option

    def _policy(self) -> dict[str, Any]:
        return {}


class Adaptive(BackOff):
    """The window of the back-off belongs to the process: doubled by a conflict, made a little smaller by a call without."""

    title = "adaptive back-off"
    form = "claims are ignored; multiplicative increase and slow decrease of the pauses, as in CSMA"

    def _policy(self) -> dict[str, Any]:
        window = _SHORTEST

        def wait(state: Any) -> float:
            nonlocal window
            window = max(_SHORTEST, window * 0.8) if state.attempt_number == 1 else min(_LONGEST, window * 2)
            return random.uniform(0, window)  # noqa: S311 - no secret

        return {"retry": Retry(wait=wait)}
