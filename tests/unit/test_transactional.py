"""What `transactional` makes of functions of every shape. The stores here only hand on a Tx; no server is needed."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import types
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

import txstate as t
from txstate import AsyncStore, AsyncTx, Store, Tx, UsageError, transactional
from txstate import Tx as Renamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from txstate import AsyncTx as OnlyForCheckers

T = TypeVar("T")


class OwnTx(Tx):
    """A subclass, as tests and libraries make them."""


class OneTx(Store):
    """Runs a function once, with a Tx that can't do anything."""

    def __init__(self) -> None:
        self.made: list[Tx] = []

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.made.append(OwnTx(cast("Any", None), cast("Any", None)))
        return function(self.made[-1], *args, **kwargs)


class OneAsyncTx(AsyncStore):
    """The same for coroutine functions."""

    def __init__(self) -> None:
        self.made: list[AsyncTx] = []

    async def run(self, function: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        self.made.append(AsyncTx(cast("Any", None), cast("Any", None)))
        return await function(self.made[-1], *args, **kwargs)


@pytest.fixture
def store() -> OneTx:
    return OneTx()


@pytest.fixture
def astore() -> OneAsyncTx:
    return OneAsyncTx()


def a_tx() -> Tx:
    return Tx(cast("Any", None), cast("Any", None))


def an_async_tx() -> AsyncTx:
    return AsyncTx(cast("Any", None), cast("Any", None))


def wait(work: Awaitable[T]) -> T:
    async def waiting() -> T:
        return await work

    return asyncio.run(waiting())


@transactional
def module_level(tx: Tx, key: str, *, by: int = 1) -> tuple[Tx, str, int]:
    """Says what it got."""
    return tx, key, by


@transactional
async def module_level_async(tx: AsyncTx, key: str, *, by: int = 1) -> tuple[AsyncTx, str, int]:
    """Says what it got."""
    return tx, key, by


class Bank:
    @transactional
    def plain(self, tx: Tx, key: str = "k") -> tuple[object, ...]:
        return self, tx, key

    @transactional
    def bare(self, tx, key="k"):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - that is what is tested
        return self, tx, key

    @transactional
    def odd(this, tx: Tx, key: str = "k") -> tuple[object, ...]:  # noqa: N805 - that is what is tested
        return this, tx, key

    @transactional
    def odd_and_bare(this, tx, key="k"):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, N805 - same
        return this, tx, key

    @transactional
    async def slow(self, tx: AsyncTx, key: str = "k") -> tuple[object, ...]:
        return self, tx, key

    @staticmethod
    @transactional
    def static(tx: Tx, key: str = "k") -> tuple[object, ...]:
        return tx, key

    @staticmethod
    @transactional
    async def slow_static(tx: AsyncTx, key: str = "k") -> tuple[object, ...]:
        return tx, key

    @classmethod
    @transactional
    def of_class(cls, tx: Tx, key: str = "k") -> tuple[object, ...]:
        return cls, tx, key

    @classmethod
    @transactional
    async def slow_of_class(cls, tx: AsyncTx, key: str = "k") -> tuple[object, ...]:
        return cls, tx, key


# A store makes a transaction, a Tx is joined


def test_a_store_runs_the_function(store: OneTx) -> None:
    assert module_level(store, "k", by=2) == (store.made[0], "k", 2)
    assert module_level(store, key="k") == (store.made[1], "k", 1)


def test_a_tx_is_joined() -> None:
    tx, own = a_tx(), OwnTx(cast("Any", None), cast("Any", None))
    assert module_level(tx, "k", by=2) == (tx, "k", 2)
    assert module_level(own, "k") == (own, "k", 1)


def test_async_functions_take_the_async_twins(astore: OneAsyncTx) -> None:
    assert wait(module_level_async(astore, "k", by=2)) == (astore.made[0], "k", 2)
    tx = an_async_tx()
    assert wait(module_level_async(tx, key="k")) == (tx, "k", 1)


def test_store_run_takes_a_decorated_function(store: OneTx, astore: OneAsyncTx) -> None:
    assert store.run(module_level, "k", by=3) == (store.made[0], "k", 3)
    assert wait(astore.run(module_level_async, "k", by=3)) == (astore.made[0], "k", 3)
    assert store.run(Bank().static) == (store.made[1], "k")
    assert len(store.made) == 2  # joined, not begun a second time


def test_decorating_twice_is_decorating_once(store: OneTx) -> None:
    twice = transactional(module_level)
    assert twice(store, "k") == (store.made[0], "k", 1)
    assert len(store.made) == 1


def test_what_it_raises_comes_out_unchanged(store: OneTx) -> None:
    error = ValueError("mine")

    @transactional
    def failing(tx: Tx) -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        failing(store)
    assert caught.value is error


# Methods, of whatever kind


@pytest.mark.parametrize("name", ["plain", "bare", "odd", "odd_and_bare"])
def test_methods(name: str, store: OneTx) -> None:
    bank, tx = Bank(), a_tx()
    method = getattr(bank, name)
    assert method(store) == (bank, store.made[0], "k")
    assert method(store, key="other") == (bank, store.made[1], "other")
    assert method(tx, "other") == (bank, tx, "other")
    assert getattr(Bank, name)(bank, store) == (bank, store.made[2], "k")
    assert store.run(method, "run") == (bank, store.made[3], "run")


def test_async_methods(astore: OneAsyncTx) -> None:
    bank, tx = Bank(), an_async_tx()
    assert wait(bank.slow(astore, key="other")) == (bank, astore.made[0], "other")
    assert wait(bank.slow(tx)) == (bank, tx, "k")
    assert wait(bank.slow_static(astore)) == (astore.made[1], "k")
    assert wait(bank.slow_of_class(astore)) == (Bank, astore.made[2], "k")


def test_static_and_class_methods(store: OneTx) -> None:
    class Branch(Bank):
        pass

    tx = a_tx()
    assert Bank.static(store) == (store.made[0], "k")
    assert Bank().static(tx, "other") == (tx, "other")
    assert Branch.of_class(store) == (Branch, store.made[1], "k")
    assert Branch().of_class(tx, "other") == (Branch, tx, "other")


def test_a_store_may_have_transactional_methods(store: OneTx) -> None:
    class Shop(OneTx):
        @transactional
        def sell(self, tx: Tx, key: str) -> tuple[object, ...]:
            return self, tx, key

    shop = Shop()
    assert shop.sell(shop, "k") == (shop, shop.made[0], "k")
    assert shop.sell(store, "k") == (shop, store.made[0], "k")


def test_static_and_class_method_stand_above() -> None:
    kinds: list[Any] = [staticmethod, classmethod]
    for kind in kinds:
        with pytest.raises(UsageError, match=f"put @{kind.__name__} above @transactional"):
            transactional(kind(lambda tx: tx))


# Everything that can be called


def test_lambdas_partials_and_bound_methods(store: OneTx) -> None:
    class Plain:
        def method(self, tx: Tx, key: str) -> tuple[object, ...]:
            return self, tx, key

    def three(tx: Tx, key: str, by: int) -> tuple[object, ...]:
        return tx, key, by

    plain = Plain()
    nameless: Callable[[Tx, str], object] = lambda tx, key: (tx, key)  # noqa: E731 - that is what is tested
    assert transactional(nameless)(store, "k") == (store.made[0], "k")
    assert transactional(functools.partial(three, by=5))(store, "k") == (store.made[1], "k", 5)
    assert transactional(functools.partial(Plain.method, plain))(store, "k") == (plain, store.made[2], "k")
    assert transactional(plain.method)(store, key="k") == (plain, store.made[3], "k")


def test_async_partials_and_bound_methods(astore: OneAsyncTx) -> None:
    async def two(tx: AsyncTx, key: str) -> tuple[object, ...]:
        return tx, key

    decorated = transactional(functools.partial(two, key="k"))
    assert inspect.iscoroutinefunction(decorated)
    assert wait(decorated(astore)) == (astore.made[0], "k")


def test_callable_objects(store: OneTx, astore: OneAsyncTx) -> None:
    class Add:
        def __call__(self, tx: Tx, by: int) -> tuple[object, ...]:
            return self, tx, by

    class AddAsync:
        async def __call__(self, tx: AsyncTx, by: int) -> tuple[object, ...]:
            return self, tx, by

    add, add_async = Add(), AddAsync()
    assert transactional(add)(store, by=2) == (add, store.made[0], 2)
    decorated = transactional(add_async)
    assert inspect.iscoroutinefunction(decorated)
    assert wait(decorated(astore, 2)) == (add_async, astore.made[0], 2)


def test_parameters_of_every_kind(store: OneTx) -> None:
    @transactional
    def every(
        tx: Tx, /, a: int, b: int = 2, *rest: int, c: int, d: int = 4, **more: object
    ) -> tuple[object, ...]:
        return tx, a, b, rest, c, d, more

    got = every(store, 1, 2, 3, c=3, tx="mine", function="f", store="s", self="me")
    more = {"tx": "mine", "function": "f", "store": "s", "self": "me"}
    assert got == (store.made[0], 1, 2, (3,), 3, 4, more)


def test_only_star_args(store: OneTx) -> None:
    def stars(*args: Any) -> tuple[object, ...]:
        return args

    decorated: Callable[..., object] = transactional(stars)
    assert decorated(store, 1) == (store.made[0], 1)


def test_missing_arguments_are_a_type_error_as_ever(store: OneTx) -> None:
    with pytest.raises(TypeError, match="key"):
        cast("Any", module_level)(store)


def test_wrapped_async_functions_stay_async(astore: OneAsyncTx) -> None:
    def logged(function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Coroutine[Any, Any, T]:
            return function(*args)

        return wrapper

    @transactional
    @logged
    async def wrapped(tx: AsyncTx, key: str) -> tuple[object, ...]:
        return tx, key

    assert inspect.iscoroutinefunction(wrapped)
    assert wait(cast("Any", wrapped)(astore, "k")) == (astore.made[0], "k")


# What is kept


def test_metadata_is_kept() -> None:
    for function in (module_level, module_level_async):
        assert function.__doc__ == "Says what it got."
        assert function.__module__ == __name__
        assert list(inspect.signature(function).parameters) == ["tx", "key", "by"]
        assert callable(cast("Any", function).__wrapped__)
    assert module_level.__name__ == "module_level"
    assert Bank.plain.__qualname__ == "Bank.plain"


def test_only_async_functions_are_coroutine_functions() -> None:
    assert inspect.iscoroutinefunction(module_level_async)
    assert inspect.iscoroutinefunction(Bank().slow)
    assert inspect.iscoroutinefunction(Bank.slow_static)
    assert not inspect.iscoroutinefunction(module_level)


def test_decorated_functions_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shop")
    module.__dict__["module_level"] = module_level
    monkeypatch.setitem(__import__("sys").modules, "shop", module)
    monkeypatch.setattr(module_level, "__module__", "shop")
    assert pickle.loads(pickle.dumps(module_level)) is module_level  # noqa: S301 - our own pickle


# Refused when decorating


def generator(tx: Tx) -> Iterator[int]:
    yield 1


async def async_generator(tx: AsyncTx) -> AsyncIterator[int]:
    yield 1


class Generator:
    def __call__(self, tx: Tx) -> Iterator[object]:
        yield tx


@pytest.mark.parametrize("function", [generator, async_generator, Generator(), functools.partial(generator)])
def test_generators_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="is a generator"):
        transactional(function)


async def async_with_tx(tx: Tx) -> None: ...
async def async_with_renamed(tx: Renamed) -> None: ...
async def async_with_dotted(tx: t.Tx) -> None: ...
async def async_with_own(tx: OwnTx) -> None: ...
async def async_with_quoted(tx: "Tx") -> None: ...  # noqa: UP037 - that is what is tested
async def async_with_unknown(tx: t.Tx, other: OnlyForCheckers) -> None: ...
async def async_method(self: object, tx: Tx) -> None: ...
async def async_unusual(this: object, tx: Tx) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        async_with_tx,
        async_with_renamed,
        async_with_dotted,
        async_with_own,
        async_with_quoted,
        async_with_unknown,
        async_method,
        async_unusual,
        functools.partial(async_with_tx),
    ],
)
def test_async_functions_of_a_sync_tx_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="it gets an AsyncTx, but it declares a Tx"):
        transactional(function)


def with_async_tx(tx: AsyncTx) -> None: ...
def with_unknown(tx: OnlyForCheckers, key: str) -> None: ...
def with_dotted(tx: t.AsyncTx) -> None: ...


def test_an_alias_that_only_checkers_know_is_no_obstacle(astore: OneAsyncTx) -> None:
    function: Any = with_unknown
    decorated: Any = transactional(function)
    with pytest.raises(UsageError, match="not with OneAsyncTx"):
        decorated(astore, "k")


@pytest.mark.parametrize("function", [with_async_tx, with_dotted])
def test_plain_functions_of_an_async_tx_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="must be `async def`"):
        transactional(function)


def no_parameters() -> None: ...
def keyword_only(*, tx: Tx) -> None: ...
def keyword_only_after(key: str, *, tx: Tx) -> None: ...
def third(key: str, by: int, tx: Tx) -> None: ...
def only_keywords(**kwargs: Any) -> None: ...
def method_without(self: object) -> None: ...


@pytest.mark.parametrize(
    "function", [no_parameters, keyword_only, keyword_only_after, third, only_keywords, method_without]
)
def test_functions_without_a_tx_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="takes no Tx where it is passed"):
        transactional(function)


def test_what_is_no_function_is_refused() -> None:
    for thing in (None, 5, "function", Bank, property()):
        with pytest.raises(UsageError, match="takes a function"):
            transactional(cast("Any", thing))
    with pytest.raises(UsageError, match="can't be looked at"):
        transactional(cast("Any", min))


# Refused when calling


@pytest.mark.parametrize(
    ("args", "got"),
    [
        ((), "nothing"),
        ((None, "k"), "NoneType"),
        (("k",), "str"),
        (("k", OneTx()), "str"),
        ((OneAsyncTx(), "k"), "OneAsyncTx"),
        ((an_async_tx(), "k"), "AsyncTx"),
    ],
)
def test_sync_functions_refuse_everything_else(args: tuple[Any, ...], got: str) -> None:
    message = f"module_level is called with a Store or a Tx, by position, not with {got}; nothing"
    with pytest.raises(UsageError, match=message):
        cast("Any", module_level)(*args)


def test_a_tx_passed_by_keyword_is_refused(store: OneTx) -> None:
    with pytest.raises(UsageError, match="by position, not with nothing"):
        cast("Any", module_level)(tx=store, key="k")


@pytest.mark.parametrize(
    ("args", "got"),
    [((), "nothing"), ((None, "k"), "NoneType"), ((OneTx(), "k"), "OneTx"), ((a_tx(), "k"), "Tx")],
)
def test_async_functions_refuse_everything_else(args: tuple[Any, ...], got: str) -> None:
    message = f"called with an AsyncStore or an AsyncTx, by position, not with {got}; nothing"
    with pytest.raises(UsageError, match=message):
        wait(cast("Any", module_level_async)(*args))


def test_methods_refuse_everything_else(store: OneTx, astore: OneAsyncTx) -> None:
    bank = Bank()
    for args in ((), (None,), (astore,), ("k", store)):
        for method in (bank.plain, bank.bare, bank.odd, bank.odd_and_bare):
            with pytest.raises(UsageError, match="is called with a Store or a Tx"):
                cast("Any", method)(*args)
    with pytest.raises(UsageError, match="is called with an AsyncStore"):
        wait(cast("Any", bank.slow)(store))


def test_the_tx_is_never_looked_for_behind_a_declared_one(store: OneTx) -> None:
    with pytest.raises(UsageError, match="not with NoneType"):
        cast("Any", module_level)(None, store)
