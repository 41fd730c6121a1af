"""Bank transfers: money is neither lost nor made, however many threads pay at once and whatever fails meanwhile.

With GET and SET two transfers read the same balance and one of them is forgotten. With a plain WATCH loop a lost
reply is taken for a conflict, and the money is paid twice. Look at

* `transfer`: reads both accounts in one round trip, from the same moment, and may run again after a conflict;
* `pay`: which errors mean "not applied", and what to do about the only one that means "perhaps".

    python examples/bank.py [folder or URL]
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import txstate

OPENING_BALANCE = 100
OWNERS = ["alice", "bob", "carol", "dave"]
ORDERS = [(*pair, 1 + number % 50) for number, pair in enumerate(list(permutations(OWNERS, 2)) * 20)]

receipts: list[tuple[str, str, int]] = []


class InsufficientFundsError(Exception):
    """The payer's balance is too small."""


@txstate.transactional
def transfer(tx: txstate.Tx, payer: str, payee: str, amount: int) -> None:
    """Move money from one account to another."""
    source, target = tx.get_many([f"account:{payer}", f"account:{payee}"])
    if source["balance"] < amount:
        raise InsufficientFundsError(payer)
    source["balance"] -= amount
    target["balance"] += amount
    # This function may run several times; the receipt is written once, after the attempt that was committed.
    tx.on_commit(receipts.append, (payer, payee, amount))


@txstate.transactional
def balances(tx: txstate.Tx) -> dict[str, int]:
    """What everybody has, all of it at the same moment."""
    accounts = tx.get_many(f"account:{owner}" for owner in OWNERS)
    return {owner: account["balance"] for owner, account in zip(OWNERS, accounts, strict=True)}


def pay(store: txstate.Store, payer: str, payee: str, amount: int) -> bool:
    """Whether the money was moved."""
    try:
        transfer(store, payer, payee, amount)
    except (InsufficientFundsError, txstate.ConflictError, txstate.StoreUnavailable):
        return False  # nothing was applied
    except txstate.CommitUnknown as doubt:
        # The reply to the commit was lost, and no server could be asked in time. Never just pay again: ask later.
        fate = store.resolve(doubt.token)
        if fate is txstate.Resolution.UNKNOWN:
            raise  # a human has to look at the accounts
        return fate is txstate.Resolution.COMMITTED
    return True


def main(store: txstate.Store) -> None:
    """Let 16 threads pay each other, and audit the accounts."""
    for owner in OWNERS:
        store.put(f"account:{owner}", {"balance": OPENING_BALANCE})

    with ThreadPoolExecutor(16) as threads:
        paid = list(threads.map(lambda order: pay(store, *order), ORDERS))
    print(
        f"{paid.count(True)} of {len(ORDERS)} transfers paid; {store.stats().conflicts} conflicts on the way"
    )

    expected = dict.fromkeys(OWNERS, OPENING_BALANCE)
    for payer, payee, amount in receipts:
        expected[payer] -= amount
        expected[payee] += amount
    found = balances(store)
    print(f"balances {found}, total {sum(found.values())}")
    if found != expected or len(receipts) != paid.count(True):
        sys.exit(f"but the receipts say {expected}")
    print("every balance agrees with the receipts")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:bank:") as opened:
        main(opened)
