# ruff: noqa: SIM118, TC002 - keys() of a store is no dict's; users import as they like
"""User code that every type checker must accept in strict mode. Checked, never run (`test_typing.py`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_type

import redis
import redis.asyncio
from tenacity import stop_after_attempt, stop_after_delay, wait_random_exponential

import txstate
from txstate import (
    JSON,
    AsyncStore,
    AsyncTx,
    Doc,
    Resolution,
    Retry,
    Snapshot,
    Stats,
    Store,
    Tx,
    transactional,
)

T = TypeVar("T")


# Functions


@transactional
def transfer(tx: Tx, src: str, dst: str, amount: int) -> int:
    """Keeps its documentation."""
    a, b = tx.get_many([src, dst])
    balance: int = a["balance"] - amount
    if balance < 0:
        raise ValueError(src)
    a["balance"] = balance
    b["balance"] += amount
    tx.on_commit(print, "moved", amount)
    return balance


@transactional
async def transfer_async(tx: AsyncTx, src: str, dst: str, amount: int) -> int:
    a, b = await tx.get_many([src, dst])
    balance: int = a["balance"] - amount
    a["balance"] = balance
    b["balance"] += amount
    tx.on_commit(transfer_async, tx, src, dst, 0)
    return balance


def functions(store: Store, tx: Tx) -> None:
    assert_type(transfer(store, "a", "b", 5), int)
    assert_type(transfer(tx, "a", "b", amount=5), int)
    assert_type(transfer(store, dst="b", src="a", amount=5), int)
    assert_type(store.run(transfer, "a", "b", amount=5), int)
    as_callable: Callable[[Store, str, str, int], int] = transfer
    as_callable_of_tx: Callable[[Tx, str, str, int], int] = transfer
    del as_callable, as_callable_of_tx


async def functions_async(store: AsyncStore, tx: AsyncTx) -> None:
    assert_type(await transfer_async(store, "a", "b", 5), int)
    assert_type(await transfer_async(tx, "a", "b", amount=5), int)
    coroutine: Coroutine[Any, Any, int] = transfer_async(store, dst="b", src="a", amount=5)
    assert_type(await coroutine, int)
    assert_type(await store.run(transfer_async, "a", "b", amount=5), int)
    as_callable: Callable[[AsyncStore, str, str, int], Awaitable[int]] = transfer_async
    del as_callable


@transactional
def nothing(tx: Tx) -> None:
    del tx["a"]["field"]


@transactional
def defaults(tx: Tx, key: str = "k", *, by: int = 1, note: str | None = None) -> str:
    tx[key].increment(key, by)
    return note or key


@transactional
def with_kwargs(tx: Tx, /, key: str, **fields: int) -> Doc:
    return tx.put(key, fields)


@transactional
def with_args(tx: Tx, *keys: str) -> list[Doc]:
    return tx.get_many(keys)


@transactional
async def defaults_async(tx: AsyncTx, key: str = "k", *, by: int = 1) -> str:
    (await tx.get(key)).increment(key, by)
    return key


@transactional
async def with_kwargs_async(tx: AsyncTx, /, key: str, **fields: int) -> None:
    await tx.put(key, fields)


def parameters(store: Store, tx: Tx) -> None:
    nothing(store)
    assert_type(defaults(store), str)
    assert_type(defaults(tx, "k", by=2), str)
    assert_type(defaults(store, note="n", key="k"), str)
    assert_type(with_kwargs(store, "k", tx=1, by=2), Doc)
    assert_type(with_kwargs(tx, key="k"), Doc)
    assert_type(with_args(store, "a", "b"), list[Doc])
    assert_type(with_args(store), list[Doc])
    assert_type(partial(transfer, store, "a")("b", 5), int)


async def parameters_async(store: AsyncStore) -> None:
    assert_type(await defaults_async(store), str)
    assert_type(await defaults_async(store, by=2), str)
    await with_kwargs_async(store, "k", tx=1, by=2)


# Generics


@transactional
def first(tx: Tx, items: list[T]) -> T:
    tx["seen"].increment("n", len(items))
    return items[0]


@transactional
async def first_async(tx: AsyncTx, items: list[T]) -> T:
    (await tx.get("seen")).increment("n", len(items))
    return items[0]


@transactional
def apply(tx: Tx, function: Callable[[Doc], T], key: str) -> T:
    return function(tx[key])


async def generics(store: Store, astore: AsyncStore) -> None:
    assert_type(first(store, [1]), int)
    assert_type(first(store, ["a"]), str)
    assert_type(await first_async(astore, [1.5]), float)
    assert_type(store.run(first, [b""]), bytes)
    assert_type(apply(store, Doc.to_dict, "k"), dict[str, JSON])


# Methods


class Bank:
    """Methods, static methods and class methods."""

    fee = 1

    @transactional
    def transfer(self, tx: Tx, src: str, *, amount: int = 1) -> int:
        return tx[src].increment("balance", -amount - self.fee)

    @transactional
    async def transfer_async(self, tx: AsyncTx, src: str, *, amount: int = 1) -> int:
        return (await tx.get(src)).increment("balance", -amount - self.fee)

    @staticmethod
    @transactional
    def audit(tx: Tx, key: str) -> bool:
        return bool(tx[key]["balance"] >= 0)

    @staticmethod
    @transactional
    async def audit_async(tx: AsyncTx, key: str) -> bool:
        return bool((await tx.get(key))["balance"] >= 0)

    @classmethod
    @transactional
    def seed(cls, tx: Tx, key: str) -> int:
        return tx[key].increment("balance", cls.fee)

    @classmethod
    @transactional
    async def seed_async(cls, tx: AsyncTx, key: str) -> int:
        return (await tx.get(key)).increment("balance", cls.fee)

    @transactional
    def both(self, tx: Tx, /, src: str, **amounts: int) -> int:
        return self.transfer(tx, src, amount=sum(amounts.values()))


class Repository(Generic[T]):
    """Methods of a generic class."""

    def __init__(self, load: Callable[[Mapping[str, JSON]], T]) -> None:
        self._load = load

    @transactional
    def find(self, tx: Tx, key: str) -> T | None:
        doc = tx.get(key)
        return self._load(doc) if doc.exists else None

    @transactional
    async def find_async(self, tx: AsyncTx, key: str) -> T | None:
        doc = await tx.get(key)
        return self._load(doc) if doc.exists else None


async def methods(store: Store, astore: AsyncStore, bank: Bank, repository: Repository[bytes]) -> None:
    assert_type(bank.transfer(store, "a"), int)
    assert_type(bank.transfer(store, src="a", amount=5), int)
    assert_type(Bank.transfer(bank, store, "a"), int)
    assert_type(await bank.transfer_async(astore, "a", amount=5), int)
    assert_type(bank.audit(store, "a"), bool)
    assert_type(Bank.audit(store, key="a"), bool)
    assert_type(await Bank.audit_async(astore, "a"), bool)
    assert_type(bank.seed(store, "a"), int)
    assert_type(Bank.seed(store, key="a"), int)
    assert_type(await Bank.seed_async(astore, "a"), int)
    assert_type(bank.both(store, "a", tx=1, fee=2), int)
    assert_type(store.run(bank.transfer, "a", amount=5), int)
    assert_type(await astore.run(bank.transfer_async, "a", amount=5), int)
    assert_type(repository.find(store, "a"), bytes | None)
    assert_type(await repository.find_async(astore, "a"), bytes | None)


# Undecorated functions


def plain(tx: Tx, key: str, /, by: int = 1, **rest: str) -> tuple[int, dict[str, str]]:
    return tx[key].increment("n", by), rest


async def plain_async(tx: AsyncTx, key: str, /, by: int = 1) -> int:
    return (await tx.get(key)).increment("n", by)


async def run(store: Store, astore: AsyncStore) -> None:
    assert_type(store.run(plain, "k", by=2, note="x"), tuple[int, dict[str, str]])
    assert_type(store.run(lambda tx: tx.ttl("k")), float | None)
    assert_type(await astore.run(plain_async, "k", by=2), int)
    assert_type(await astore.run(lambda tx: tx.get("k")), Doc)


# Outside of transactions


def outside(store: Store) -> None:
    snapshot = store.get("k")
    assert_type(snapshot, Snapshot | None)
    if snapshot is not None:
        total: int = snapshot["total"] + snapshot.get("more", 0)
        mapping: Mapping[str, Any] = snapshot
        mapping.get(snapshot.key.upper(), snapshot.version + total)
        assert_type(snapshot.to_dict(), dict[str, JSON])
        assert_type(store.put("k", snapshot, if_version=snapshot.version), Snapshot)
    assert_type(store.get("k", ["a", "b"]), Snapshot | None)
    assert_type(store.get_many(key for key in ("a", "b")), dict[str, Snapshot | None])
    assert_type(store.get_many(["a"], fields=("a",)), dict[str, Snapshot | None])
    assert_type(store.update("k", lambda doc: doc.increment("n")), Snapshot)
    assert_type(store.update("k", change, fields=["n"], if_version=0), Snapshot)
    assert_type(store.update("k", Doc.clear), Snapshot)
    assert_type(store.put("k", {"n": 1, "tags": ["a"]}, expire=2.5), Snapshot)
    assert_type(store.put("k", {}, if_version=0, expire=timedelta(days=1)), Snapshot)
    assert_type(store.put("k", {}, expire=None), Snapshot)
    assert_type(store.delete("k", if_version=1), bool)
    assert_type(store.ttl("k"), float | None)
    assert_type(store.keys("prefix:"), Iterator[str])
    assert_type(store.resolve("token"), Resolution)
    assert_type(store.stats(), Stats)
    assert_type(store.url, str)
    assert_type(store.options(retry=Retry(deadline=1.0), namespace="app:"), Store)


async def outside_async(store: AsyncStore) -> None:
    snapshot = await store.get("k")
    assert_type(snapshot, Snapshot | None)
    assert_type(await store.get_many(["a"], fields=("a",)), dict[str, Snapshot | None])
    assert_type(await store.update("k", change, fields=["n"], if_version=0), Snapshot)
    assert_type(await store.put("k", {"n": 1}, if_version=0, expire=timedelta(days=1)), Snapshot)
    assert_type(await store.delete("k", if_version=1), bool)
    assert_type(await store.ttl("k"), float | None)
    assert_type(store.keys("prefix:"), AsyncIterator[str])
    assert_type([key async for key in store.keys()], list[str])
    assert_type(await store.resolve("token"), Resolution)
    assert_type(store.stats(), Stats)
    assert_type(store.url, str)
    assert_type(store.options(namespace="app:"), AsyncStore)


async def inside(tx: Tx, atx: AsyncTx) -> None:
    assert_type(tx.get("k", ["n"]), Doc)
    assert_type(tx["k"], Doc)
    assert_type(tx.get_many(("a", "b"), fields=["n"]), list[Doc])
    assert_type(tx.put("k", {"n": 1}), Doc)
    assert_type(tx.ttl("k"), float | None)
    assert_type(tx.attempt, int)
    tx.delete("k")
    assert_type(await atx.get("k", ["n"]), Doc)
    assert_type(await atx.get_many(("a", "b"), fields=["n"]), list[Doc])
    assert_type(await atx.put("k", {"n": 1}), Doc)
    assert_type(await atx.ttl("k"), float | None)
    assert_type(atx.attempt, int)
    await atx.delete("k")


def change(doc: Doc) -> None:
    mapping: MutableMapping[str, Any] = doc
    doc["n"] = doc.get("n", 0) + 1
    doc["cart"]["items"].append("x")
    doc.setdefault("tags", []).append("y")
    name: str = doc.pop("name", "nobody")
    assert_type(doc.increment("n", by=2), int)
    assert_type(doc.to_dict(), dict[str, JSON])
    assert_type(doc.exists, bool)
    assert_type(doc.version, int)
    assert_type(doc.key, str)
    doc.update(a=1, b="two")
    doc.replace({"name": name, "size": len(mapping)})
    doc.expire(timedelta(hours=1))
    doc.expire(60)
    doc.expire(None)
    doc.delete()


# Opening


def opening(client: redis.Redis, on_event: Callable[[txstate.Event], None]) -> None:
    retry = Retry(
        stop=stop_after_attempt(3) | stop_after_delay(2), wait=wait_random_exponential(0.001, max=1)
    )
    with Store() as store, store.options(retry=retry) as view:
        assert_type(store, Store)
        assert_type(view, Store)
    Store("redis://host:6379/0", namespace="a:", retry=retry, timeout=1, max_connections=3, on_event=on_event)
    Store(Path("state"), fsync="always").close()
    Store(client=client, on_event=listen)


def durability(store: Store, level: txstate.Durability) -> None:
    Store("redis://host:6379/0", durability=txstate.Replicas(1))
    durable = store.options(durability=txstate.Fsync(local=True, replicas=1, timeout=2))
    assert_type(durable.options(durability=None).options(durability=level), Store)
    try:
        durable.put("k", {"n": 1})
    except txstate.NotDurable as error:
        assert_type(error.replicas, int | None)
        assert_type(error.local, bool | None)


async def opening_async(client: redis.asyncio.Redis) -> None:
    async with AsyncStore("state/", fsync="everysec") as store:
        assert_type(store, AsyncStore)
    await AsyncStore(client=client).aclose()
    await AsyncStore().close()


def listen(event: txstate.Event) -> None:
    match event:
        case txstate.Committed(keys=keys, written=written, attempts=attempts):
            assert_type(keys, tuple[str, ...])
            assert_type(written, tuple[str, ...])
            assert_type(attempts, int)
        case txstate.GaveUp(error=error):
            assert_type(error, txstate.TxStateError)
        case _:
            pass


def errors(store: Store) -> None:
    try:
        nothing(store)
    except txstate.ConflictError as error:
        assert_type(error.keys, dict[str, int])
        assert_type(error.attempts, int)
        assert_type(error.elapsed, float)
    except txstate.VersionMismatch as error:
        assert_type((error.key, error.expected, error.found), tuple[str, int, int])
    except txstate.CommitUnknown as error:
        if store.resolve(error.token) is Resolution.NOT_COMMITTED:
            nothing(store)
    except txstate.CodecError as error:
        assert_type(error.field, str | None)
