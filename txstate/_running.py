"""Which transactions' functions run in which thread or task: an inner one would commit for each attempt of the outer."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from txstate._drivers.fork import forget_in_children
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._documents.doc import Doc
    from txstate._engine.attempt import Attempt


class Running:
    """Where functions of one store's transactions run.

    Attributes:
        here: those transactions, by thread or task. An entry counts while its function runs, so that one which an
            interruption left behind does no harm.
    """

    def __init__(self) -> None:
        self.here: dict[int, Noted] = {}
        forget_in_children(self)

    def forget(self) -> None:
        """Start anew in a forked child, which has only this one of the parent's threads."""
        thread = get_ident()
        self.here = {here: noted for here, noted in self.here.items() if here == thread}


class Noted:
    """A transaction's function, and where it runs.

    Args:
        running: where the others of its store do.
        here: the thread or task.
        body: the function; gets the attempt first.
        args: its other arguments.
        key: the document that it is about, if it is about one.

    Attributes:
        attempt: the latest one; None: none was needed so far.
        committed: of a commit for which none was needed, the token and the number in it.
        stopped: the `StopIteration` that the function has raised; a generator, as the engine's, makes a `RuntimeError` of it.

    Raises:
        UsageError: a transaction is running here. An inner one would commit once for each attempt of it.
    """

    attempt: Attempt | None = None
    committed: tuple[bytes, bytes] | None = None
    stopped: StopIteration | None = None
    _runs = False

    def __init__(
        self, running: Running, here: int, body: Callable[..., Any], args: tuple[Any, ...], key: str = ""
    ) -> None:
        if here in running.here and running.here[here].in_function:
            raise UsageError(
                "a transaction of this store is running here already: an inner one would commit each time the outer "
                "one is tried again. Pass on the tx instead of the store; nothing was applied"
            )
        self._running, self._here, self._body, self._args, self.key = running.here, here, body, args, key

    @property
    def in_function(self) -> bool:
        """Whether the function may still be running."""
        return self._runs if self.attempt is None else self.attempt.in_function

    def on(self, subject: Attempt | Doc) -> Any:
        """Run the function once."""
        self._running[self._here] = self
        self._runs = True
        try:
            return self._body(subject, *self._args)
        except StopIteration as stop:
            self.stopped = stop
            raise
        finally:
            self._runs = False
            self._running.pop(self._here, None)

    def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt."""
        self.attempt = attempt
        return self.on(attempt)


class Change(Noted):
    """The same of a function that is about one document, which it gets first."""

    def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt, which has the document."""
        self.attempt = attempt
        return self.on(attempt.documents.docs[self.key])


class NotedCoroutine(Noted):
    """The same of a coroutine function."""

    async def __call__(self, attempt: Attempt) -> Any:
        """Run it once, in this attempt."""
        self.attempt = attempt
        self._running[self._here] = self
        try:
            return await self._body(attempt, *self._args)
        finally:
            self._running.pop(self._here, None)
