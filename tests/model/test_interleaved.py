"""A transaction into whose middle others commit: as if run one after the other, and never a torn state in between.

At drawn points of the outer transaction, between its steps or just before its end, a *rival* commits: another store's
transaction in a thread or task of its own, or a plain client that knows nothing of txstate. Then the results of all and the
final state must be those of the model, on which the outer one ran at some place between the rivals. It may have run
before, undisturbed, so that its socket is armed; rivals that commit before it begins must be seen by it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from model.reference import OF_ANOTHER_TYPE, Document, Reference, canonical
from model.steps import RolledBackError, Step, documents, on_async_tx, on_model, on_tx, outcome, transactions

from txstate import AsyncStore, AsyncTx, CodecError, Doc, Retry, Store, Tx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from support.servers import ServerHandle

Rival: TypeAlias = tuple[str, Any]

KEYS = ["k1", "k2", "k3"]
RETRY = Retry(deadline=30.0)
OUTCOMES = (RolledBackError, CodecError)
BEFORE = -1

rivals: st.SearchStrategy[Rival] = st.one_of(
    st.tuples(st.just("transaction"), transactions()),
    st.tuples(st.just("stamp"), st.integers(10, 99)),
    st.tuples(st.just("hset"), documents),
    st.tuples(st.just("del"), documents),
)


@dataclass
class Plan:
    """An example.

    Attributes:
        outer: the outer transaction, with places where others commit meanwhile.
        rivals: who commits at each of these places, by its number; at `BEFORE`, when the outer one is about to begin.
        warm: how many times the outer one has run before, undisturbed.
    """

    outer: list[Step]
    rivals: dict[int, list[Rival]]
    warm: int = 0


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """An outer transaction, and up to three rivals."""
    outer = uniform([*draw(transactions()), *draw(transactions())])
    meddlers: dict[int, list[Rival]] = defaultdict(list)
    for number, rival in enumerate(draw(st.lists(rivals, min_size=1, max_size=3))):
        if draw(st.booleans()):
            outer.insert(draw(st.integers(0, len(outer))), ("meanwhile", number))
            meddlers[number].append(rival)
        else:
            meddlers[BEFORE].append(rival)
    return Plan(outer, meddlers, draw(st.integers(0, 3)))


def uniform(outer: list[Step]) -> list[Step]:
    """The same, but each key is always read with the same fields.

    A retry fetches all at once what the last attempt asked for bit by bit, so its documents may be less partial.
    """
    wanted: dict[str, Any] = {}
    for kind, *args in outer:
        if kind in ("get", "on"):
            wanted[args[0]] = None if wanted.get(args[0], args[1]) != args[1] else args[1]
    for kind, *args in outer:
        if kind in ("put", "remove", "get_many"):
            wanted.update(dict.fromkeys(args[0] if kind == "get_many" else args[:1]))
    return [
        (step[0], step[1], wanted[step[1]], *step[3:])
        if step[0] in ("get", "on")
        else (*step[:2], None)
        if step[0] == "get_many"
        else step
        for step in outer
    ]


class Bench:
    """Two stores of each kind on one server, a client that knows nothing of txstate, and a thread."""

    def __init__(self, url: str) -> None:
        self.numbers = itertools.count()
        self.runner = asyncio.Runner()
        self.thread = ThreadPoolExecutor(1)
        self.client = redis.Redis.from_url(url)
        self.store, self.rival = Store(url), Store(url)
        self.asynchronous, self.async_rival = AsyncStore(url), AsyncStore(url)

    def close(self) -> None:
        self.client.close()
        self.thread.shutdown()
        for store in (self.store, self.rival):
            store.close()
        for asynchronous in (self.asynchronous, self.async_rival):
            self.runner.run(asynchronous.close())
        self.runner.close()


@pytest.fixture
def bench(valkey9: ServerHandle) -> Iterator[Bench]:
    made = Bench(valkey9.unix_url)
    try:
        yield made
    finally:
        made.close()


class World:
    """One namespace: who writes there, what they did, and every state that ever was."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.namespace = bench, f"w{next(bench.numbers)}:"
        self.store = bench.store.options(namespace=self.namespace, retry=RETRY)
        self.rival = bench.rival.options(namespace=self.namespace, retry=RETRY)
        self.asynchronous = bench.asynchronous.options(namespace=self.namespace, retry=RETRY)
        self.async_rival = bench.async_rival.options(namespace=self.namespace, retry=RETRY)
        bench.client.set(self.namespace + OF_ANOTHER_TYPE, "text")
        for key in KEYS:
            self.store.put(key, {"a": 1, "b": [1]})
        self.pending: dict[int, list[Rival]] = {}
        self.ran: list[tuple[Rival, str]] = []
        self.history = [self.found()]
        self.torn: list[str] = []
        self.began = 0  # how many rivals had committed when the outer one began

    def found(self) -> Reference:
        """What is on the server now."""
        snapshots = {
            key: snapshot for key, snapshot in self.store.get_many(KEYS).items() if snapshot is not None
        }
        return Reference(
            {
                key: Document(doc.to_dict(), expires=self.store.ttl(key) is not None)
                for key, doc in snapshots.items()
            }
        )

    def let(self, rivals: dict[int, list[Rival]]) -> None:
        """From now on, rivals commit; those first that do so before the outer one begins."""
        self.history, self.torn = [self.found()], []
        self.pending = {number: list(due) for number, due in rivals.items()}
        self.meddle(BEFORE)
        self.began = len(self.ran)

    def meddle(self, number: int) -> None:
        """Let the rivals of this place commit, each once, in another thread."""
        while self.pending.get(number):
            rival = self.pending[number].pop(0)
            self.note(rival, self.bench.thread.submit(self.do, rival).result())

    async def meddle_async(self, number: int) -> None:
        """Let the rivals of this place commit, each once, in another task."""
        while self.pending.get(number):
            rival = self.pending[number].pop(0)
            self.note(rival, await asyncio.ensure_future(self.do_async(rival)))

    def do(self, rival: Rival) -> str:
        kind, what = rival
        if kind == "hset":
            self.bench.client.hset(self.namespace + what, "a", "7")
        elif kind == "del":
            self.bench.client.delete(self.namespace + what)
        else:
            return result_of(lambda: self.rival.run(on_tx(transaction_of(rival))))
        return ""

    async def do_async(self, rival: Rival) -> str:
        if rival[0] in ("hset", "del"):
            return self.do(rival)
        try:
            return canonical(await self.async_rival.run(on_async_tx(transaction_of(rival))))
        except OUTCOMES as error:
            return outcome(error)

    def note(self, rival: Rival, result: str) -> None:
        self.ran.append((rival, result))
        self.history.append(self.found())

    def judge(self, outer: list[Step], result: str) -> None:
        """It must be as if all had run one after the other: the rivals in their order, the outer one somewhere."""
        assert self.torn == []
        end = result, self.found().state()
        assert end in [self.serial(outer, place) for place in range(self.began, len(self.ran) + 1)]

    def serial(self, outer: list[Step], place: int) -> tuple[str, dict[str, str]]:
        """The outer one's result and the final state, had it run after so many rivals."""
        model = self.history[0].copy()
        result = ""
        for number in range(len(self.ran) + 1):
            if number == place:
                result = result_of(lambda: model.run(on_model(outer)))
            if number < len(self.ran):
                rival, found = self.ran[number]
                if do_on(model, rival) != found:
                    return "a rival would have had another result", {}
        return result, model.state()


class Watched:
    """A `Tx` that notes what the function sees of each document at first: all of it must be from one moment."""

    def __init__(self, tx: Tx, world: World) -> None:
        self._tx, self._world = tx, world
        self._seen: dict[str, str] = {}
        self._known: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def meanwhile(self, number: int) -> None:
        self._world.meddle(number)

    def get(self, key: str, fields: Sequence[str] | None = None) -> Doc:
        doc = self._tx.get(key, fields)
        self._note([key], [doc], fields)
        return doc

    def get_many(self, keys: Sequence[str], fields: Sequence[str] | None = None) -> list[Doc]:
        docs = self._tx.get_many(keys, fields)
        self._note(keys, docs, fields)
        return docs

    def put(self, key: str, mapping: Any) -> Doc:
        self._known.add(key)
        return self._tx.put(key, mapping)

    def delete(self, key: str) -> None:
        self._known.add(key)
        self._tx.delete(key)

    def _note(self, keys: Sequence[str], docs: Sequence[Doc], fields: Sequence[str] | None) -> None:
        for key, doc in zip(keys, docs, strict=True):
            if fields is None and key not in self._known:
                self._seen[key] = canonical([doc.to_dict()]) if doc.exists else ""
            self._known.add(key)
        if not any(self._true_in(past) for past in self._world.history):
            self._world.torn.append(f"{self._seen} was never true")

    def _true_in(self, past: Reference) -> bool:
        for key, value in self._seen.items():
            document = past.documents.get(key)
            if value != ("" if document is None else canonical([document.fields])):
                return False
        return True


class AsyncWatched(Watched):
    """The same of an `AsyncTx`."""

    async def meanwhile(self, number: int) -> None:  # type: ignore[override]  # the async twin
        await self._world.meddle_async(number)

    async def get(self, key: str, fields: Sequence[str] | None = None) -> Doc:  # type: ignore[override]  # same
        doc = await cast("AsyncTx", self._tx).get(key, fields)
        self._note([key], [doc], fields)
        return doc

    async def get_many(self, keys: Sequence[str], fields: Sequence[str] | None = None) -> list[Doc]:  # type: ignore[override]  # same
        docs = await cast("AsyncTx", self._tx).get_many(keys, fields)
        self._note(keys, docs, fields)
        return docs

    async def put(self, key: str, mapping: Any) -> Doc:  # type: ignore[override]  # same
        self._known.add(key)
        return await cast("AsyncTx", self._tx).put(key, mapping)

    async def delete(self, key: str) -> None:  # type: ignore[override]  # same
        self._known.add(key)
        await cast("AsyncTx", self._tx).delete(key)


def transaction_of(rival: Rival) -> list[Step]:
    """What a rival does, as a transaction. A stamp goes into every document, so that a torn state shows."""
    kind, what = rival
    return [("on", key, None, ("set", "a", what)) for key in KEYS] if kind == "stamp" else what


def do_on(model: Reference, rival: Rival) -> str:
    """What a rival does, on the model."""
    kind, what = rival
    if kind == "hset":
        model.documents.setdefault(what, Document({})).fields["a"] = 7
    elif kind == "del":
        model.documents.pop(what, None)
    else:
        return result_of(lambda: model.run(on_model(transaction_of(rival))))
    return ""


def result_of(operation: Callable[[], object]) -> str:
    try:
        return canonical(operation())
    except OUTCOMES as error:
        return outcome(error)


def sync_example(bench: Bench, plan: Plan) -> World:
    world = World(bench)
    function = on_tx(plan.outer)

    def run() -> str:
        return result_of(lambda: world.store.run(lambda tx: function(cast("Tx", Watched(tx, world)))))

    for _ in range(plan.warm):
        run()
    world.let(plan.rivals)
    world.judge(plan.outer, run())
    return world


def async_example(bench: Bench, plan: Plan) -> World:
    world = World(bench)
    function = on_async_tx(plan.outer)

    async def watched(tx: AsyncTx) -> Any:
        return await function(cast("AsyncTx", AsyncWatched(cast("Tx", tx), world)))

    def run() -> str:
        return result_of(lambda: bench.runner.run(world.asynchronous.run(watched)))

    for _ in range(plan.warm):
        run()
    world.let(plan.rivals)
    world.judge(plan.outer, run())
    return world


Example: TypeAlias = "Callable[[Bench, Plan], World]"
both = pytest.mark.parametrize("example", [sync_example, async_example], ids=["threads", "tasks"])


def check(bench: Bench, example: Example, examples: int) -> None:
    @settings(max_examples=examples)
    @given(plans())
    def interleaved(plan: Plan) -> None:
        example(bench, plan)

    interleaved()


@both
def test_all_is_as_if_one_after_the_other(bench: Bench, example: Example) -> None:
    check(bench, example, 200)


@pytest.mark.soak
@both
def test_all_is_as_if_one_after_the_other_for_long(bench: Bench, example: Example) -> None:
    check(bench, example, 5000)


@both
def test_a_retry_shows_no_more_of_a_partial_document(bench: Bench, example: Example) -> None:
    """What a partial document refuses must not depend on whether others were faster."""
    outer: list[Step] = [("on", "k1", ["a"], ("dict",)), ("meanwhile", 0), ("get", "k1", None)]
    example(bench, Plan(outer, {0: [("hset", "k1")]}))


@both
def test_the_rivals_of_these_examples_do_conflict(bench: Bench, example: Example) -> None:
    """Else the tests above would show nothing."""
    outer: list[Step] = [
        ("get", "k1", None),
        ("meanwhile", 0),
        ("get", "k2", None),
        ("on", "k1", None, ("increment", "a", 1)),
        ("meanwhile", 1),
    ]
    before = bench.store.stats().conflicts + bench.asynchronous.stats().conflicts
    world = example(bench, Plan(outer, {0: [("stamp", 50)], 1: [("hset", "k1")]}))
    assert bench.store.stats().conflicts + bench.asynchronous.stats().conflicts == before + 2
    assert world.found().documents["k1"].fields["a"] == 8
    assert world.found().documents["k2"].fields["a"] == 50


@both
@pytest.mark.parametrize("rival", [("hset", "k1"), ("stamp", 50), ("del", "k1")], ids=lambda rival: rival[0])
@pytest.mark.parametrize("step", [("get", "k1", None), ("on", "k1", None, ("increment", "a", 1))])
def test_an_armed_socket_does_not_hide_what_happened_before_the_call(
    bench: Bench, example: Example, rival: Rival, step: Step
) -> None:
    example(bench, Plan([step], {BEFORE: [rival]}, warm=4))
