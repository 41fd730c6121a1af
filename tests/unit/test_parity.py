"""The public interface: the twins are alike, and what is written down as the contract is there.

The protocols below are the contract, in the words of the type checkers, which hold the classes against them, too.
Parameters may be added to it, keyword-only and with a default; nothing may be taken away or renamed.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, get_args

import pytest
import tenacity

import txstate
from txstate import (
    JSON,
    AsyncStore,
    AsyncTx,
    Doc,
    Durability,
    Event,
    Resolution,
    Retry,
    Snapshot,
    Stats,
    Store,
    Tx,
    TxStateError,
)
from txstate._documents.doc import KEEP, Keep

if TYPE_CHECKING:
    from datetime import timedelta

P = ParamSpec("P")
R = TypeVar("R")


class StoreContract(Protocol):
    def __enter__(self) -> Self: ...
    def close(self) -> None: ...
    @property
    def url(self) -> str: ...
    def options(
        self,
        *,
        retry: Retry | None = None,
        namespace: str | None = None,
        durability: Durability | Keep | None = KEEP,
    ) -> Self: ...
    def stats(self) -> Stats: ...
    def run(self, function: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def get(self, key: str, fields: Sequence[str] | None = None) -> Snapshot | None: ...
    def get_many(
        self, keys: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot | None]: ...
    def update(
        self,
        key: str,
        function: Callable[[Doc], object],
        *,
        fields: Sequence[str] | None = None,
        if_version: int | None = None,
    ) -> Snapshot: ...
    def put(
        self,
        key: str,
        mapping: Mapping[str, JSON],
        *,
        if_version: int | None = None,
        expire: float | timedelta | Keep | None = KEEP,
    ) -> Snapshot: ...
    def delete(self, key: str, *, if_version: int | None = None) -> bool: ...
    def ttl(self, key: str) -> float | None: ...
    def keys(self, prefix: str = "") -> Iterator[str]: ...
    def resolve(self, token: str) -> Resolution: ...


class TxContract(Protocol):
    @property
    def attempt(self) -> int: ...
    def __getitem__(self, key: str) -> Doc: ...
    def get(self, key: str, fields: Sequence[str] | None = None) -> Doc: ...
    def get_many(self, keys: Iterable[str], fields: Sequence[str] | None = None) -> list[Doc]: ...
    def put(self, key: str, mapping: Mapping[str, JSON]) -> Doc: ...
    def delete(self, key: str) -> None: ...
    def ttl(self, key: str) -> float | None: ...
    def on_commit(self, callback: Callable[..., object], *args: object) -> None: ...


class DocContract(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def exists(self) -> bool: ...
    @property
    def committed_version(self) -> int: ...
    def increment(self, field: str, by: int = 1) -> int: ...
    def replace(self, mapping: Mapping[str, JSON]) -> None: ...
    def delete(self) -> None: ...
    def expire(self, seconds: float | timedelta | None) -> None: ...
    def to_dict(self) -> dict[str, JSON]: ...


class SnapshotContract(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def version(self) -> int: ...
    def to_dict(self) -> dict[str, JSON]: ...


def the_checkers_see_it(
    store: Store, tx: Tx, doc: Doc, snapshot: Snapshot
) -> tuple[StoreContract, TxContract, DocContract, SnapshotContract]:
    return store, tx, doc, snapshot


def members(kind: type) -> dict[str, Any]:
    """The public ones, without what the collection classes of the standard library bring."""
    brought = {Mapping, MutableMapping, object}
    return {
        name: member
        for base in reversed([base for base in kind.__mro__ if base not in brought])
        for name, member in vars(base).items()
        if not name.startswith("_") or name in ("__getitem__", "__init__")
    }


def required(kind: type) -> list[tuple[str, Any]]:
    return [(name, member) for name, member in vars(kind).items() if name in members(kind)]


CONTRACTS = [(StoreContract, Store), (TxContract, Tx), (DocContract, Doc), (SnapshotContract, Snapshot)]


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        pytest.param(kind, name, member, id=f"{kind.__name__}.{name}")
        for contract, kind in CONTRACTS
        for name, member in required(contract)
        if name != "__init__"
    ],
)
def test_the_contract_is_kept(kind: type, name: str, expected: Any) -> None:
    found = inspect.getattr_static(kind, name)
    assert type(found) is type(expected)
    if isinstance(found, property):
        expected, found = expected.fget, found.fget
    wanted, given = inspect.signature(expected), inspect.signature(found)
    assert given.return_annotation == wanted.return_annotation
    added = [one for one in given.parameters.values() if one.name not in wanted.parameters]
    assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in added)
    kept = [one for one in given.parameters.values() if one.name in wanted.parameters]
    assert [(one.name, one.kind, one.default) for one in kept] == [
        (one.name, one.kind, one.default) for one in wanted.parameters.values()
    ]


def test_options_of_a_store() -> None:
    for kind in (Store, AsyncStore):
        parameters = inspect.signature(kind).parameters
        target, *options = parameters.values()
        assert target.name == "target"
        assert target.kind is target.POSITIONAL_OR_KEYWORD
        assert all(option.kind is option.KEYWORD_ONLY for option in options)
        defaults = {option.name: option.default for option in options}
        wanted = {
            "client": None,
            "namespace": "",
            "timeout": 5.0,
            "max_connections": 50,
            "durability": None,
            "fsync": "everysec",
            "on_event": None,
            "spin": 0.0001,
        }
        assert {name: defaults[name] for name in wanted} == wanted
        assert isinstance(defaults["retry"], Retry)


def test_defaults_of_retry() -> None:
    assert all(field.kw_only for field in dataclasses.fields(Retry))
    retry = Retry()
    assert retry.deadline == 10.0
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.start_time = 0
    for seconds, attempts, stops in [(1.0, 1, False), (9.0, 999, False), (11.0, 1, True), (1.0, 1000, True)]:
        state.outcome_timestamp, state.attempt_number = seconds, attempts
        assert retry.stop(state) is stops
    state.attempt_number = 100
    assert all(0 <= retry.wait(state) <= 0.1 for _ in range(100))


# The twins

TWINS = [(Store, AsyncStore), (Tx, AsyncTx)]
ONLY_SYNC = {"__getitem__"}
ONLY_ASYNC = {"aclose"}
NEVER_AWAITED = {"__init__", "options", "stats", "on_commit"}


@pytest.mark.parametrize(("kind", "twin"), TWINS)
def test_twins_have_the_same_names(kind: type, twin: type) -> None:
    assert set(members(kind)) - ONLY_SYNC == set(members(twin)) - ONLY_ASYNC


@pytest.mark.parametrize(
    ("member", "twin", "name"),
    [
        pytest.param(member, members(asynchronous)[name], name, id=f"{synchronous.__name__}.{name}")
        for synchronous, asynchronous in TWINS
        for name, member in members(synchronous).items()
        if name not in ONLY_SYNC
    ],
)
def test_twins_are_alike(member: Any, twin: Any, name: str) -> None:
    if isinstance(member, property):
        member, twin = member.fget, twin.fget
    elif name in NEVER_AWAITED:
        assert not inspect.iscoroutinefunction(twin)
    elif name == "keys":
        assert inspect.isasyncgenfunction(twin)
    else:
        assert inspect.iscoroutinefunction(twin)
    assert not inspect.iscoroutinefunction(member)
    assert shape(twin) == shape(member)


def shape(function: Callable[..., Any]) -> tuple[list[tuple[Any, ...]], str]:
    """Names, kinds, defaults and annotations; those of an async function as its twin would have them."""
    signature = inspect.signature(function)
    parameters = [
        (one.name, one.kind, one.default, synchronous(one.annotation))
        for one in signature.parameters.values()
    ]
    return parameters, synchronous(signature.return_annotation)


def synchronous(annotation: str) -> str:
    return re.sub("Async|Sync", "", str(annotation).replace("Awaitable[R]", "R"))


def test_views_and_contexts() -> None:
    for synchronous_name in ("__enter__", "__exit__"):
        assert hasattr(Store, synchronous_name)
        assert not hasattr(AsyncStore, synchronous_name)
        asynchronous_name = synchronous_name.replace("__", "__a", 1)
        assert inspect.iscoroutinefunction(getattr(AsyncStore, asynchronous_name))
        assert not hasattr(Store, asynchronous_name)


# Everything that is offered


def test_everything_offered_is_documented() -> None:
    bare = []
    for name in txstate.__all__:
        offered = getattr(txstate, name)
        if not isinstance(offered, type):
            continue
        bare += [name] * (not offered.__doc__)
        bare += [
            f"{name}.{member}"
            for member, value in members(offered).items()
            if (callable(value) or isinstance(value, property)) and not member.startswith("_")
            if not inspect.getdoc(value)
        ]
    assert bare == []
    assert inspect.getdoc(txstate.transactional)


def test_names_are_what_is_offered() -> None:
    assert sorted(set(txstate.__all__)) == sorted(txstate.__all__)
    assert [name for name in txstate.__all__ if not hasattr(txstate, name)] == []
    expected = {"Store", "AsyncStore", "Tx", "AsyncTx", "Doc", "Snapshot", "transactional", "Retry", "JSON"}
    assert expected <= set(txstate.__all__)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (txstate.ConflictError(3, 1.5, {"k": 2}), {"attempts": 3, "elapsed": 1.5, "keys": {"k": 2}}),
        (txstate.VersionMismatch("k", 1, 2), {"key": "k", "expected": 1, "found": 2}),
        (txstate.StoreUnavailable("m"), {}),
        (txstate.ServerRefused("m", code="OOM"), {"code": "OOM"}),
        (txstate.WrongType("k", "list"), {"key": "k", "found": "list"}),
        (txstate.CodecError("m", key="k", field="f"), {"key": "k", "field": "f"}),
        (txstate.FieldNotLoaded("k", "f"), {"key": "k", "field": "f"}),
        (txstate.CrossSlotError("m", keys=["a", "b"]), {"keys": ("a", "b")}),
        (txstate.UsageError("m"), {}),
        (
            txstate.NotDurable("m", result=5, replicas=1, local=False),
            {"result": 5, "replicas": 1, "local": False},
        ),
        (
            txstate.CommitUnknown("m", token="t", known=Resolution.UNKNOWN, replies=[1]),  # noqa: S106 - no password
            {"token": "t", "known": Resolution.UNKNOWN, "replies": (1,)},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_and_their_attributes(error: TxStateError, attributes: Mapping[str, object]) -> None:
    assert type(error).__bases__ == (TxStateError,)
    assert {name: getattr(error, name) for name in attributes} == attributes


def test_each_error_says_whether_to_try_again() -> None:
    errors = [kind for kind in TxStateError.__subclasses__() if kind.__module__ == "txstate.errors"]
    assert len(errors) == 11
    assert {kind.__name__ for kind in errors} <= set(txstate.__all__)
    for kind in errors:
        says = {"NotDurable": "Applied, but", "CommitUnknown": "May have been applied"}
        assert says.get(kind.__name__, "Nothing was applied") in (kind.__doc__ or "")


def test_events_are_frozen() -> None:
    for kind in get_args(Event):
        assert getattr(txstate, kind.__name__) is kind
        assert kind.__dataclass_params__.frozen
    named = {kind.__name__ for kind in get_args(Event)}
    assert named >= {"Committed", "Conflicted", "InDoubt", "Resolved", "GaveUp"}


def test_small_things() -> None:
    names = {field.name for field in dataclasses.fields(Stats)}
    assert names >= {"commits", "conflicts", "attempts", "in_doubt", "round_trips"}
    assert names >= {"resolved_committed", "resolved_aborted"}
    assert {one.name for one in Resolution} == {"COMMITTED", "NOT_COMMITTED", "UNKNOWN"}
    assert issubclass(Doc, MutableMapping)
    assert issubclass(Snapshot, Mapping)
    assert not issubclass(Snapshot, MutableMapping)
    assert not issubclass(txstate.FieldNotLoaded, KeyError)
    assert JSON is Any
    assert importlib.resources.files(txstate).joinpath("py.typed").is_file()
