"""A process that makes transactions on a ledger's documents through a proxy: `python -m support.lone_writer URL NAME`.

It makes one for each line that it gets, and answers with the marker and what came of it. It waits inside of the
transaction's function if the line says so, until it gets another line.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from support.ledger import keys_of

from txstate import Store, TxStateError

if TYPE_CHECKING:
    from txstate import Tx


def main(url: str, name: str) -> None:
    """Serve lines until the end of the input."""

    def append(tx: Tx, marker: str, *, wait: bool) -> int:
        docs = tx.get_many(keys_of(name))
        if wait and tx.attempt == 1:
            tell("inside")
            sys.stdin.readline()
        for doc in docs:
            doc["markers"] = [*doc.get("markers", []), marker]
            doc.increment("count")
        return tx.attempt

    with Store(url, max_connections=1) as store:
        tell("ready")
        for line in sys.stdin:
            marker, _, wait = line.strip().partition(" ")
            try:
                attempts = store.run(append, marker, wait=bool(wait))
            except TxStateError as error:
                tell(repr(error))
            else:
                tell(f"committed {attempts}")


def tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the parent


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
