"""Which transactions run around a piece of code: an inner one on the same store would commit for each attempt of the outer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import ref

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._engine.attempt import Attempt

_Running: TypeAlias = "tuple[tuple[tuple[int, int], ref[Attempt]], ...]"
_running: Final[ContextVar[_Running]] = ContextVar("txstate_running", default=())
"""The attempts around this code, each with its store and its thread or task. An entry counts while its attempt does, so
that one which an interruption left behind does no harm. Contexts live on in timers that asyncio was told to forget, for
seconds; they must not keep an attempt's documents that long."""


class Noted:
    """A transaction's function, in a context that tells of its attempt.

    Args:
        here: the store, and the thread or task.
        body: the function; gets the attempt first.
        args: its other arguments.

    Attributes:
        attempt: the latest one.

    Raises:
        UsageError: a transaction is running here. An inner one would commit once for each attempt of it.
    """

    __slots__ = ("_args", "_body", "_here", "attempt")

    def __init__(self, here: tuple[int, int], body: Callable[..., Any], args: tuple[Any, ...]) -> None:
        running = _running.get()
        if running and any(
            place == here and (attempt := kept()) is not None and attempt.in_function
            for place, kept in running
        ):
            raise UsageError(
                "a transaction of this store is running here already: an inner one would commit each time the outer "
                "one is tried again. Pass on the tx instead of the store; nothing was applied"
            )
        self._here, self._body, self._args = here, body, args
        self.attempt: Attempt | None = None

    def __call__(self, attempt: Attempt) -> Any:
        """Run it once."""
        self.attempt = attempt
        token = _running.set((*_running.get(), (self._here, ref(attempt))))
        try:
            return self._body(attempt, *self._args)
        finally:
            _running.reset(token)


class NotedCoroutine(Noted):
    """The same of a coroutine function."""

    __slots__ = ()

    async def __call__(self, attempt: Attempt) -> Any:
        """Run it once."""
        token = _running.set((*_running.get(), (self._here, ref(attempt))))
        try:
            return await self._body(attempt, *self._args)
        finally:
            _running.reset(token)
