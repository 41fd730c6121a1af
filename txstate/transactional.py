"""`@transactional`: one function, callable with a store (its own transaction) or with a `Tx` (joins the caller's).

Owns what is known about the function: where its `Tx` stands, and whether it is async. Knows nothing of attempts.
"""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, overload

from txstate.errors import UsageError
from txstate.store import AsyncStore, Store
from txstate.tx import AsyncTx, Tx

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_SELF: Final = ("self", "cls", "mcs")
_BY_NAME: Final = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


# The overloads overlap for functions of two Txs, and for `*args`: there the first one that fits is the right one.
@overload
def transactional(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[AsyncTx, P], Awaitable[R]],
) -> Callable[Concatenate[AsyncStore | AsyncTx, P], Coroutine[Any, Any, R]]: ...
@overload
def transactional(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Tx, P], R],
) -> Callable[Concatenate[Store | Tx, P], R]: ...
@overload
def transactional(
    function: Callable[Concatenate[S, AsyncTx, P], Awaitable[R]],
) -> Callable[Concatenate[S, AsyncStore | AsyncTx, P], Coroutine[Any, Any, R]]: ...
@overload
def transactional(
    function: Callable[Concatenate[S, Tx, P], R],
) -> Callable[Concatenate[S, Store | Tx, P], R]: ...
def transactional(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function a transaction.

    The `Tx` is its first parameter, or the second one of a method, and is passed by position. Called with a store, the
    function runs as a transaction of its own, again and again until an attempt of it commits. Called with a `Tx`,
    it becomes a part of the caller's transaction; this is not a savepoint: if the caller catches an exception of it,
    what it wrote stays.

    The function may run more than once: keep side effects out, or hand them to `tx.on_commit`. Options such as `retry`
    go on `store.options()`.

    Args:
        function: plain with a `Tx`, or ``async def`` with an `AsyncTx`.

    Returns:
        The same function, that takes a store as well as a `Tx`. An ``async def`` stays one.

    Raises:
        UsageError: when decorating: a generator, or a function whose kind doesn't fit the `Tx` that it declares.
            When calling: neither a store nor a `Tx` was passed, or one of the other kind. Nothing was applied.
    """
    shape = _shape(function)
    if shape.asynchronous:

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            at, given = shape.given(args)
            if isinstance(given, AsyncTx):
                return await function(*args, **kwargs)
            if isinstance(given, AsyncStore):
                return await given.run(_bound(function, args[:at]), *args[at + 1 :], **kwargs)
            raise shape.misfit(type(given).__name__)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        at, given = shape.given(args)
        if isinstance(given, Tx):
            return function(*args, **kwargs)
        if isinstance(given, Store):
            return given.run(_bound(function, args[:at]), *args[at + 1 :], **kwargs)
        raise shape.misfit(type(given).__name__)

    return call


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known about a function.

    Args:
        name: for messages.
        asynchronous: whether what it returns is to be awaited.
        places: where its `Tx` may stand among the arguments.
    """

    name: str
    asynchronous: bool
    places: tuple[int, ...]

    def given(self, args: tuple[Any, ...]) -> tuple[int, object]:
        """The store or `Tx` that was passed, of whatever kind, and where.

        Raises:
            UsageError: there is none.
        """
        for at in self.places:
            if len(args) > at and isinstance(args[at], Store | Tx | AsyncStore | AsyncTx):
                return at, args[at]
        first = self.places[0]
        raise self.misfit(type(args[first]).__name__ if len(args) > first else "nothing")

    def misfit(self, got: str) -> UsageError:
        """The error for a call with something else."""
        wanted = "an AsyncStore or an AsyncTx" if self.asynchronous else "a Store or a Tx"
        return UsageError(
            f"{self.name} is called with {wanted}, by position, not with {got}; nothing was applied"
        )


def _shape(function: Any) -> _Shape:
    """Look at a function that is to be a transaction.

    Raises:
        UsageError: it can't be one.
    """
    name = getattr(function, "__qualname__", repr(function))
    if isinstance(function, staticmethod | classmethod):
        raise UsageError(f"put @{type(function).__name__} above @transactional, not below it")
    if not callable(function) or isinstance(function, type):
        raise UsageError(f"@transactional takes a function, not {function!r}, and no arguments of its own")
    forms = function, type(function).__call__
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms):
        raise UsageError(f"{name} is a generator: it would run after its transaction had ended")
    parameters = _parameters(function)
    declared = [_declared(parameter.annotation) for parameter in parameters]
    place = next((at for at, kind in enumerate(declared) if kind), None)
    kind = None if place is None else declared[place]
    if place is not None:
        places: tuple[int, ...] = (place,)
    elif parameters and parameters[0].name in _SELF:
        places = (1,)
    else:
        places = (0, 1)  # self may have another name
    positional = sum(parameter.kind not in _BY_NAME for parameter in parameters)
    if places[0] >= min(positional, 2):
        raise UsageError(
            f"{name} takes no Tx where it is passed: as the first argument, or the second one of a method, by position"
        )
    asynchronous = any(inspect.iscoroutinefunction(form) for form in forms)
    if kind is AsyncTx and not asynchronous:
        # Another decorator's wrapper may well hand on what an `async def` returned.
        asynchronous = inspect.iscoroutinefunction(inspect.unwrap(function))
        if not asynchronous:
            raise UsageError(f"{name} declares an AsyncTx, so it must be `async def`")
    if kind is Tx and asynchronous:
        raise UsageError(f"{name} is `async def`, so it gets an AsyncTx, but it declares a Tx")
    return _Shape(name, asynchronous, places)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters; with their annotations evaluated or, where names are known to type checkers only, as text.

    Raises:
        UsageError: it has no signature.
    """
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
        as_text: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format  # noqa: PLC0415 - not there before

        as_text["annotation_format"] = Format.STRING
    try:
        return list(inspect.signature(function, **as_text).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError(f"the parameters of {function!r} can't be looked at: {error}") from error


def _declared(annotation: object) -> type[Tx | AsyncTx] | None:
    """Which of the two a parameter is declared to be."""
    if isinstance(annotation, str):
        text = annotation.rpartition(".")[2].strip("'\" ")
        return {"Tx": Tx, "AsyncTx": AsyncTx}.get(text)
    if isinstance(annotation, type):
        return next((kind for kind in (Tx, AsyncTx) if issubclass(annotation, kind)), None)
    return None


def _bound(function: Callable[..., Any], before: tuple[Any, ...]) -> Callable[..., Any]:
    """The function with what stands before its `Tx`."""
    return functools.partial(function, *before) if before else function
