# type: ignore
# ruff: noqa: B018, PGH003, SIM118 - the lines are wrong on purpose, and all errors are meant
"""User code that is wrong, line by line. Checked, never run: see `test_typing.py`.

That test drops the first line, and expects each checker to report the lines that end in ``# wrong``, and no others.
"""

from __future__ import annotations

from typing import TypeVar

from txstate import AsyncStore, AsyncTx, Doc, Retry, Snapshot, Store, Tx, transactional

T = TypeVar("T")


@transactional
def transfer(tx: Tx, src: str, dst: str, amount: int) -> int:
    return tx[src].increment(dst, amount)


@transactional
async def transfer_async(tx: AsyncTx, src: str, dst: str, amount: int) -> int:
    return (await tx.get(src)).increment(dst, amount)


@transactional
def keywords(tx: Tx, /, key: str, *, by: int = 1, **fields: int) -> None:
    tx.put(key, fields)


@transactional
def pick(tx: Tx, items: list[T]) -> T:
    return items[0]


class Bank:
    @transactional
    def transfer(self, tx: Tx, src: str, *, amount: int = 1) -> int:
        return tx[src].increment("balance", amount)

    @transactional
    async def transfer_async(self, tx: AsyncTx, src: str) -> int:
        return (await tx.get(src)).increment("balance")

    @staticmethod
    @transactional
    def audit(tx: Tx, key: str) -> bool:
        return bool(tx[key]["balance"])

    @classmethod
    @transactional
    def seed(cls, tx: Tx, key: str) -> int:
        return tx[key].increment("balance")


# Calls of functions


def calls(store: Store, tx: Tx, astore: AsyncStore, atx: AsyncTx) -> None:
    transfer()  # wrong
    transfer("a", "b", "c", 5)  # wrong
    transfer(store, "a", "b")  # wrong
    transfer(store, "a", "b", "5")  # wrong
    transfer(store, "a", "b", 5, 6)  # wrong
    transfer(store, "a", "b", sum=5)  # wrong
    transfer(store, "a", 5, "b")  # wrong
    transfer(None, "a", "b", 5)  # wrong
    transfer(astore, "a", "b", 5)  # wrong
    transfer(atx, "a", "b", 5)  # wrong
    transfer(tx=tx, src="a", dst="b", amount=5)  # wrong
    name: str = transfer(store, "a", "b", 5)  # wrong
    keywords(store, "k", 5)  # wrong
    keywords(store, by=5)  # wrong
    keywords(store, "k", other="x")  # wrong
    number: int = pick(store, ["a"])  # wrong
    pick(store, 5)  # wrong
    del name, number


async def async_calls(store: Store, tx: Tx, astore: AsyncStore) -> None:
    transfer_async(astore, "a", "b", 5)  # wrong
    await transfer_async(store, "a", "b", 5)  # wrong
    await transfer_async(tx, "a", "b", 5)  # wrong
    await transfer_async(astore, "a", "b")  # wrong
    await transfer_async(astore, "a", "b", "5")  # wrong
    await transfer(store, "a", "b", 5)  # wrong
    number: int = transfer_async(astore, "a", "b", 5)  # wrong
    transfer_async(astore, "a", "b", 5) + 1  # wrong
    del number


async def method_calls(store: Store, astore: AsyncStore, bank: Bank) -> None:
    bank.transfer("a")  # wrong
    bank.transfer(store)  # wrong
    bank.transfer(store, 5)  # wrong
    bank.transfer(store, "a", 5)  # wrong
    bank.transfer(astore, "a")  # wrong
    bank.transfer(bank, store, "a")  # wrong
    Bank.transfer(store, "a")  # wrong
    bank.transfer_async(astore, "a")  # wrong
    await bank.transfer_async(store, "a")  # wrong
    bank.audit(store)  # wrong
    Bank.audit(astore, "a")  # wrong
    bank.seed(store, 5)  # wrong
    Bank.seed(Bank, store, "a")  # wrong


# What can't be decorated


@transactional  # wrong
def no_tx(key: str) -> None: ...
@transactional  # wrong
def nothing() -> None: ...
@transactional  # wrong
def late(key: str, by: int, tx: Tx) -> None: ...
@transactional  # wrong
def by_keyword(*, tx: Tx) -> None: ...
@transactional  # wrong
def not_async(tx: AsyncTx) -> None: ...


# Undecorated functions


def plain(tx: Tx, key: str, by: int = 1) -> int:
    return tx[key].increment("n", by)


async def plain_async(tx: AsyncTx, key: str) -> int:
    return (await tx.get(key)).increment("n")


async def run(store: Store, astore: AsyncStore) -> None:
    store.run(plain)  # wrong
    store.run(plain, 5)  # wrong
    store.run(plain, "k", by="2")  # wrong
    store.run(plain, "k", other=1)  # wrong
    store.run(plain_async, "k")  # wrong
    store.run(len)  # wrong
    await astore.run(plain, "k")  # wrong
    await astore.run(plain_async)  # wrong
    await astore.run(plain_async, 5)  # wrong
    astore.run(plain_async, "k")  # wrong
    await astore.run(transfer, "a", "b", 5)  # wrong
    text: str = store.run(plain, "k")  # wrong
    del text


# Outside of transactions


async def outside(store: Store, astore: AsyncStore) -> None:
    store.get("k")["n"]  # wrong
    store.get(5)  # wrong
    store.get_many([1])  # wrong
    store.get_many(["a"])["a"].version  # wrong
    store.update("k", {"n": 1})  # wrong
    store.update("k", plain)  # wrong
    store.update("k", lambda doc: doc.increment(1))  # wrong
    store.update("k", Doc.clear, None)  # wrong
    store.put("k", ["a"])  # wrong
    store.put("k", {1: "a"})  # wrong
    store.put("k", {}, 5)  # wrong
    store.put("k", {}, if_version="5")  # wrong
    store.put("k", {}, expire="5")  # wrong
    store.delete("k", 5)  # wrong
    store.options(durability=1)  # wrong
    astore.get("k")  # wrong
    (await astore.get("k"))["n"]  # wrong
    astore.put("k", {})  # wrong
    astore.update("k", Doc.clear)  # wrong
    astore.update("k", Doc.clear).version  # wrong
    for key in astore.keys():  # wrong
        del key
    with astore:  # wrong
        del store


def documents(doc: Doc, snapshot: Snapshot, tx: Tx, atx: AsyncTx) -> None:
    doc[1] = 5  # wrong
    doc.version = 5  # wrong
    doc.increment("n", 0.5)  # wrong
    doc.increment(1)  # wrong
    doc.replace([1])  # wrong
    doc.expire("5")  # wrong
    doc.nothing  # wrong
    snapshot["n"] = 5  # wrong
    del snapshot["n"]  # wrong
    snapshot.version = 5  # wrong
    snapshot.update(n=5)  # wrong
    tx["k"] = {}  # wrong
    tx.get(1)  # wrong
    a: Doc = tx.get_many(["a"])  # wrong
    tx.attempt = 2  # wrong
    atx["k"]  # wrong
    atx.get("k").exists  # wrong
    del a


def opening(store: Store) -> None:
    Store(None)  # wrong
    Store(5)  # wrong
    Store("state/", "app:")  # wrong
    Store(fsync="never")  # wrong
    Store(retry=3)  # wrong
    Store(durability="always")  # wrong
    Store(timeout="5")  # wrong
    Store(on_event=5)  # wrong
    Store(on_event=lambda: None)  # wrong
    Retry(5)  # wrong
    Retry(stop=5)  # wrong
    Retry(deadline="5")  # wrong
    store.options("app:")  # wrong
