"""Stock: the last piece is sold once, and an order gets everything in its basket or nothing.

Checking the stock and then reducing it oversells as soon as two customers are between the two steps. Look at

* `reserve`: fetches one field of a large document (`fields=`), however much text the product carries;
* `place_order`: joins one `reserve` per article; the first that is sold out undoes the whole order by raising;
* `buy`: a `ConflictError` says that nothing was applied, so asking the customer to come back later is safe.

    python examples/stock.py [folder or URL]
"""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tenacity import stop_after_attempt

import txstate

STOCK = {"lamp": 60, "chair": 150, "table": 50}
BASKETS = [{"lamp": 1}, {"chair": 4, "table": 1}, {"lamp": 1, "chair": 1}, {"table": 1, "lamp": 2}]


class SoldOutError(Exception):
    """There are not enough of this article."""


@txstate.transactional
def reserve(tx: txstate.Tx, article: str, pieces: int) -> None:
    """Take some pieces of an article from the stock."""
    product = tx.get(f"product:{article}", fields=["pieces"])
    if product["pieces"] < pieces:
        raise SoldOutError(article)
    product.increment("pieces", -pieces)


@txstate.transactional
def place_order(tx: txstate.Tx, number: int, basket: dict[str, int]) -> None:
    """Reserve all of a basket and file the order."""
    for article, pieces in basket.items():
        reserve(tx, article, pieces)  # called with a Tx, it is a part of this transaction
    tx.put(f"order:{number}", {"basket": basket, "status": "reserved"})


@txstate.transactional
def count_pieces(tx: txstate.Tx) -> dict[str, int]:
    """What is left of each article, at one moment."""
    products = tx.get_many((f"product:{article}" for article in STOCK), fields=["pieces"])
    return {article: product["pieces"] for article, product in zip(STOCK, products, strict=True)}


def buy(store: txstate.Store, number: int) -> str:
    """Try to buy, and say what came of it."""
    try:
        place_order(store, number, BASKETS[number % len(BASKETS)])
    except SoldOutError:
        return "sold out"
    except txstate.ConflictError:
        return "come back later"
    return "sold"


def main(store: txstate.Store) -> None:
    """Let 200 customers in at once, let those come back who met too large a crowd, and take stock."""
    for key in store.keys("order:"):
        store.delete(key)  # it is of an earlier run
    for article, pieces in STOCK.items():
        store.put(f"product:{article}", {"pieces": pieces, "description": "A fine article. " * 1000})

    hasty = store.options(retry=txstate.Retry(stop=stop_after_attempt(3)))
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda number: buy(hasty, number), range(200)))
    print(f"in the crowd: {dict(Counter(answers))}")
    answers = [buy(store, n) if answer == "come back later" else answer for n, answer in enumerate(answers)]
    print(f"in the end: {dict(Counter(answers))}")

    orders = [order for order in store.get_many(store.keys("order:")).values() if order is not None]
    sold = sum((Counter(order["basket"]) for order in orders), Counter[str]())
    left = count_pieces(store)
    print(f"sold {dict(sold)}, left {left}")
    if len(orders) != answers.count("sold") or sold + Counter(left) != Counter(STOCK):
        sys.exit(f"that does not add up to {STOCK}")
    print("sold and left add up to the stock")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:stock:") as opened:
        main(opened)
