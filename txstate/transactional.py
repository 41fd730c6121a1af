"""`@transactional`: one function, callable with a store (its own transaction) or with a `Tx` (joins the caller's)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, overload

from txstate.errors import UsageError
from txstate.store import AsyncStore, Store
from txstate.tx import AsyncTx, Tx

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_SELF: Final = ("self", "cls", "mcs")


@overload
def transactional(
    function: Callable[Concatenate[AsyncTx, P], Awaitable[R]],
) -> Callable[Concatenate[AsyncStore | AsyncTx, P], Coroutine[Any, Any, R]]: ...
@overload
def transactional(
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
    it becomes a part of the caller's transaction; that is no savepoint: if the caller catches an exception of it,
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
    if isinstance(function, staticmethod | classmethod):
        raise UsageError(f"put @{type(function).__name__} above @transactional, not below it")
    place = _place(function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            at, given = _given(function, args, place)
            if isinstance(given, AsyncTx):
                return await function(*args, **kwargs)
            if isinstance(given, AsyncStore):
                return await given.run(_bound(function, args[:at]), *args[at + 1 :], **kwargs)
            raise _misfit(function, given, "AsyncStore or an AsyncTx")

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        at, given = _given(function, args, place)
        if isinstance(given, Tx):
            return function(*args, **kwargs)
        if isinstance(given, Store):
            return given.run(_bound(function, args[:at]), *args[at + 1 :], **kwargs)
        raise _misfit(function, given, "Store or a Tx")

    return call


def _place(function: Callable[..., Any]) -> int:
    """Where the `Tx` stands among the parameters; checks the function's kind.

    Raises:
        UsageError: it can't be a transaction.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise UsageError(f"@transactional takes a function, not {function!r}; it has no arguments of its own")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{name} is a generator: it would run after its transaction had ended")
    parameters = list(inspect.signature(function).parameters.values())
    place = 1 if parameters and parameters[0].name in _SELF else 0
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if len(positional) <= place and not any(p.kind is p.VAR_POSITIONAL for p in positional):
        raise UsageError(f"{name} takes no Tx: it is the first parameter, or the second one of a method")
    declared = {_declared(parameter.annotation) for parameter in positional[: place + 1]}
    if inspect.iscoroutinefunction(function) and "Tx" in declared:
        raise UsageError(f"{name} is `async def`, so it gets an AsyncTx, but declares a Tx")
    if not inspect.iscoroutinefunction(function) and "AsyncTx" in declared:
        raise UsageError(f"{name} declares an AsyncTx, so it must be `async def`")
    return place


def _declared(annotation: object) -> str:
    """The name of a parameter's type, evaluated or not."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.rpartition(".")[2].strip("'\" ")


def _given(function: Callable[..., Any], args: tuple[Any, ...], place: int) -> tuple[int, Any]:
    """The store or `Tx` that was passed, and where; a method's may stand behind an unusually named self."""
    kinds = (Store, Tx, AsyncStore, AsyncTx)
    for at in (place, 1):
        if len(args) > at and isinstance(args[at], kinds):
            return at, args[at]
    given = args[place] if len(args) > place else None
    raise _misfit(function, given, "store or a Tx")


def _bound(function: Callable[..., Any], before: tuple[Any, ...]) -> Callable[..., Any]:
    """The function with what stands before its `Tx`."""
    return functools.partial(function, *before) if before else function


def _misfit(function: Callable[..., Any], given: object, wanted: str) -> UsageError:
    name = getattr(function, "__qualname__", repr(function))
    return UsageError(
        f"{name} is to be called with a {wanted}, by position, not with {type(given).__name__}; nothing was applied"
    )
