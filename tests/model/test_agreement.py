"""`Store` and `AsyncStore` against a plain dict: the same operations, and everything that comes out must agree."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from model.reference import OF_ANOTHER_TYPE, Document, Reference, canonical
from model.steps import (
    EXPECTED,
    RolledBackError,
    Step,
    apply,
    documents,
    expiries,
    field_lists,
    keys,
    mappings,
    names,
    on_async_tx,
    on_model,
    on_tx,
    outcome,
    todos,
    transactions,
)

from txstate import AsyncStore, AsyncTx, Snapshot, Store, Tx, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from support.servers import ServerHandle

ERRORS = (*EXPECTED, VersionMismatch, RolledBackError)
KEYS = ["k1", "k2", "k3"]

few_fields = st.none() | st.lists(st.sampled_from(["a", "b"]), max_size=2)
versions = st.sampled_from(["any", "any", "current", "other", "none"])


@st.composite
def second_thoughts(draw: st.DrawFn) -> list[Step]:
    """What a function does after a conflict: most often something with the same document, or a part of it."""
    steps = draw(transactions())
    return (
        steps if draw(st.booleans()) else [("on", draw(documents), draw(few_fields), ("set", "b", 9)), *steps]
    )


class Mind:
    """A function that does something else after a conflict.

    Args:
        key: the document that it begins with.
        fields: what it wants of that.
        first: what it then does in its first attempt; None: it writes, and so it is the commit that meets the conflict.
        second: what it does in a later one.
        disturb: makes the conflict.
    """

    def __init__(
        self,
        key: str,
        fields: list[str] | None,
        first: list[Step] | None,
        second: list[Step],
        disturb: Callable[[], object],
    ) -> None:
        self.first: list[Step] = [("get", key, fields)]
        self.end: list[Step] = []
        if first is None:
            self.first.append(("on", key, fields, ("set", "a", "never stored")))
        else:
            self.first += [step for step in first if step[0] != "raise"]
            self.end.append(("get", "one that nobody has read", None))
        self.second, self.disturb = second, disturb

    def sync(self, tx: Tx) -> list[str]:
        if tx.attempt > 1:
            return on_tx(self.second)(tx)
        on_tx(self.first)(tx)
        self.disturb()
        return on_tx(self.end)(tx)

    async def asynchronous(self, tx: AsyncTx) -> Any:
        if tx.attempt > 1:
            return await on_async_tx(self.second)(tx)
        await on_async_tx(self.first)(tx)
        self.disturb()
        return await on_async_tx(self.end)(tx)


class Twins:
    """A sync and an async store on one server, and a client that knows nothing of txstate."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.sync = Store(url, max_connections=2)
        self.asynchronous = AsyncStore(url, max_connections=2)
        self.client = redis.Redis.from_url(url)
        self.numbers = itertools.count()

    def close(self) -> None:
        self.client.close()
        self.sync.close()
        self.runner.run(self.asynchronous.close())
        self.runner.close()


@pytest.fixture
def twins(valkey9: ServerHandle) -> Iterator[Twins]:
    both = Twins(valkey9.unix_url)
    try:
        yield both
    finally:
        both.close()


class Agreement(RuleBasedStateMachine):
    """Each rule does one thing three times: on the model, on a `Store`, on an `AsyncStore`."""

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        number = next(twins.numbers)
        self.namespaces = [f"s{number}:", f"a{number}:"]
        self.twins, self.model = twins, Reference()
        self.sync = twins.sync.options(namespace=self.namespaces[0])
        self.asynchronous = twins.asynchronous.options(namespace=self.namespaces[1])
        self.seen: list[dict[str, tuple[int, int]]] = [{}, {}]  # for each store and key: revision, version
        for namespace in self.namespaces:
            twins.client.set(namespace + OF_ANOTHER_TYPE, "text")

    # Transactions

    @rule(transaction=transactions())
    def run(self, transaction: list[Step]) -> None:
        self.agree(
            lambda: self.model.run(on_model(transaction)),
            lambda: self.sync.run(on_tx(transaction)),
            lambda: self.asynchronous.run(on_async_tx(transaction)),
        )

    @rule(transaction=transactions(), times=st.integers(2, 4))
    def repeat(self, transaction: list[Step], times: int) -> None:
        """What is asked for again and again finds its socket armed."""
        for _ in range(times):
            self.run(transaction)

    @rule(
        key=documents,
        fields=few_fields,
        first=st.none() | transactions(),
        second=second_thoughts(),
        following=st.sampled_from(["run", "update", "put"]),
    )
    def change_mind(
        self, key: str, fields: list[str] | None, first: list[Step] | None, second: list[Step], following: str
    ) -> None:
        """A function meets a conflict, and then does something else. The next call must find what that one asks for."""

        def model() -> object:
            self.set_in_model(key, "c", 5)
            return self.model.run(on_model(second))

        minds = [
            Mind(key, fields, first, second, partial(self.twins.client.hset, namespace + key, "c", "5"))
            for namespace in self.namespaces
        ]
        for _ in range(2):  # so that its socket is armed for what it begins with
            self.agree(
                model,
                lambda: self.sync.run(minds[0].sync),
                lambda: self.asynchronous.run(minds[1].asynchronous),
            )
            if following == "run":
                self.run([("get", key, fields), ("on", key, fields, ("dict",))])
            elif following == "update":
                self.update(key, fields, [("setdefault", "a", 1), ("dict",)], "any")
            else:
                self.put(key, {"a": 1}, "any", ...)

    @rule(key=keys, fields=field_lists, todo=todos(), version=versions)
    def update(self, key: str, fields: Sequence[str] | None, todo: list[Step], version: str) -> None:
        def function(doc: Any) -> None:
            for operation in todo:
                apply(doc, operation)

        expected = self.versions(key, version)
        self.agree(
            lambda: self.model.update(key, function, fields, expected[0]),
            lambda: self.sync.update(key, function, fields=fields, if_version=expected[1]),
            lambda: self.asynchronous.update(key, function, fields=fields, if_version=expected[2]),
        )

    @rule(key=keys, mapping=mappings, version=versions, expire=expiries | st.just(...))
    def put(self, key: str, mapping: dict[str, Any], version: str, expire: Any) -> None:
        expected = self.versions(key, version)
        options = {} if expire is ... else {"expire": expire}
        self.agree(
            lambda: self.model.put(key, mapping, expected[0], expire),
            lambda: self.sync.put(key, mapping, if_version=expected[1], **options),
            lambda: self.asynchronous.put(key, mapping, if_version=expected[2], **options),
        )

    @rule(key=keys, version=versions)
    def delete(self, key: str, version: str) -> None:
        expected = self.versions(key, version)
        self.agree(
            lambda: self.model.delete(key, expected[0]),
            lambda: self.sync.delete(key, if_version=expected[1]),
            lambda: self.asynchronous.delete(key, if_version=expected[2]),
        )

    # Reading

    @rule(key=keys, fields=field_lists)
    def get(self, key: str, fields: Sequence[str] | None) -> None:
        self.agree(
            lambda: self.model.get(key, fields),
            lambda: self.sync.get(key, fields),
            lambda: self.asynchronous.get(key, fields),
        )

    @rule(key=keys)
    def ttl(self, key: str) -> None:
        async def asynchronous() -> bool:
            return await self.asynchronous.ttl(key) is not None

        self.agree(lambda: self.model.expires(key), lambda: self.sync.ttl(key) is not None, asynchronous)

    @rule(prefix=st.sampled_from(["", "k", "k1", "k9", "a"]))
    def keys(self, prefix: str) -> None:
        async def asynchronous() -> list[str]:
            return sorted([key async for key in self.asynchronous.keys(prefix)])

        self.agree(
            lambda: sorted(key for key in self.model.documents if key.startswith(prefix)),
            lambda: sorted(self.sync.keys(prefix)),
            asynchronous,
        )

    # Other clients

    @rule(key=documents, name=names.filter(lambda name: name != "__version__"), value=st.integers(0, 5))
    def another_client_sets_a_field(self, key: str, name: str, value: int) -> None:
        for namespace in self.namespaces:
            self.twins.client.hset(namespace + key, name, str(value))
        self.set_in_model(key, name, value)

    @rule(key=documents)
    def another_client_deletes(self, key: str) -> None:
        for namespace in self.namespaces:
            self.twins.client.delete(namespace + key)
        self.model.documents.pop(key, None)

    # What must hold

    @invariant()
    def everything_agrees(self) -> None:
        expected = {key: self.model.get(key) for key in KEYS}
        found = [self.sync.get_many(KEYS), self.twins.runner.run(self.asynchronous.get_many(KEYS))]
        for snapshots, seen in zip(found, self.seen, strict=True):
            assert {key: normal(snapshot) for key, snapshot in snapshots.items()} == {
                key: normal(fields) for key, fields in expected.items()
            }
            for key, snapshot in snapshots.items():
                self.check_version(key, 0 if snapshot is None else snapshot.version, seen)

    def check_version(self, key: str, version: int, seen: dict[str, tuple[int, int]]) -> None:
        """0 exactly when missing, 1 for others' hashes, the same while nothing is committed, else greater than ever."""
        revision = self.model.revision(key)
        if revision <= 0:
            assert version == -revision
            return
        before, highest = seen.get(key, (0, 1))
        assert version == highest if revision == before else version > highest
        seen[key] = revision, version

    def set_in_model(self, key: str, name: str, value: int) -> None:
        """What another client does that knows of no versions."""
        self.model.documents.setdefault(key, Document({}, revision=-1)).fields[name] = value

    def versions(self, key: str, choice: str) -> tuple[int | None, int | None, int | None]:
        """What to pass as if_version to the model and the two stores."""
        if key == OF_ANOTHER_TYPE or choice == "any":
            return None, None, None
        if choice == "none":
            return 0, 0, 0
        if choice == "other":
            return 10**9, 10**9, 10**9
        found = self.sync.get(key), self.twins.runner.run(self.asynchronous.get(key))
        sync, asynchronous = (0 if snapshot is None else snapshot.version for snapshot in found)
        return self.model.revision(key), sync, asynchronous

    def agree(
        self,
        model: Callable[[], object],
        sync: Callable[[], object],
        asynchronous: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        expected = result_of(model)
        assert result_of(sync) == expected
        assert result_of(lambda: self.twins.runner.run(asynchronous())) == expected


def result_of(operation: Callable[[], object]) -> str:
    try:
        return normal(operation())
    except ERRORS as error:
        return outcome(error)


def normal(result: object) -> str:
    """A result, comparable; a document by its fields."""
    if isinstance(result, Snapshot):
        assert all(name in result for name in result.to_dict())
        return canonical([result.to_dict()])
    return canonical([result] if isinstance(result, dict) else result)


def check(twins: Twins, examples: int, steps: int) -> None:
    machine = cast("type[Agreement]", lambda: Agreement(twins))
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_model_sync_and_async_agree(twins: Twins) -> None:
    check(twins, 60, 15)


@pytest.mark.soak
def test_model_sync_and_async_agree_for_long(twins: Twins) -> None:
    check(twins, 2000, 30)
