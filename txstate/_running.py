"""Which transactions run around a piece of code: an inner one on the same store would commit for each attempt of the outer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import ref

from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._docs import Doc
    from txstate._engine.attempt import Attempt

_Running: TypeAlias = "tuple[tuple[tuple[int, int], ref[Noted]], ...]"
_running: Final[ContextVar[_Running]] = ContextVar("txstate_running", default=())
"""The transactions around this code, each with its store and its thread or task. An entry counts while its function
runs, so that one which an interruption left behind does no harm. Contexts live on in timers that asyncio was told to
forget, for seconds; they must not keep an attempt's documents that long."""


class Noted:
    """A transaction's function, in a context that tells of its attempt.

    Args:
        here: the store, and the thread or task.
        body: the function; gets the attempt first.
        args: its other arguments.
        key: the document that it is about, if it is about one.

    Attributes:
        attempt: the latest one; None: none was needed so far.
        committed: of a commit for which none was needed, the token and the number in it.

    Raises:
        UsageError: a transaction is running here. An inner one would commit once for each attempt of it.
    """

    __slots__ = ("__weakref__", "_args", "_around", "_body", "_here", "_runs", "attempt", "committed", "key")

    def __init__(
        self, here: tuple[int, int], body: Callable[..., Any], args: tuple[Any, ...], key: str = ""
    ) -> None:
        self._around = running = _running.get()
        if running and any(
            place == here and (noted := kept()) is not None and noted.in_function for place, kept in running
        ):
            raise UsageError(
                "a transaction of this store is running here already: an inner one would commit each time the outer "
                "one is tried again. Pass on the tx instead of the store; nothing was applied"
            )
        self._here, self._body, self._args, self.key, self._runs = here, body, args, key, False
        self.attempt: Attempt | None = None
        self.committed: tuple[bytes, bytes] | None = None

    @property
    def in_function(self) -> bool:
        """Whether the function may still be running."""
        return self._runs if self.attempt is None else self.attempt.in_function

    def on(self, subject: Attempt | Doc) -> Any:
        """Run the function once."""
        token = _running.set((*self._around, (self._here, ref(self))))
        self._runs = True
        try:
            return self._body(subject, *self._args)
        finally:
            self._runs = False
            _running.reset(token)

    def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt."""
        self.attempt = attempt
        return self.on(attempt)


class Change(Noted):
    """The same of a function that is about one document, which it gets first."""

    __slots__ = ()

    def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt, which has the document."""
        self.attempt = attempt
        return self.on(attempt.documents.docs[self.key])


class NotedCoroutine(Noted):
    """The same of a coroutine function."""

    __slots__ = ()

    async def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt."""
        self.attempt = attempt
        token = _running.set((*self._around, (self._here, ref(self))))
        try:
            return await self._body(attempt, *self._args)
        finally:
            _running.reset(token)
