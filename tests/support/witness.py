"""What interrupted calls have said about their transactions, and whether that is what happened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from txstate import CommitUnknown, Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from support.ledger import Ledger

    from txstate import AsyncStore, AsyncTx


class Witness:
    """Interrupted transactions on a ledger, sorted by what their exception said.

    Attributes:
        returned: markers whose call returned.
        innocent: those whose interruption had no cause: nothing was applied.
        committed: those whose cause says that the transaction was applied.
        unknown: those whose cause says that it could not be found out.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.returned: set[str] = set()
        self.innocent: set[str] = set()
        self.committed: set[str] = set()
        self.unknown: set[str] = set()

    def begin(
        self, store: AsyncStore, body: Callable[[AsyncTx, str], Coroutine[Any, Any, None]] | None = None
    ) -> tuple[asyncio.Task[None], str]:
        """Begin a transaction, by default one that appends to the ledger: its task, and its marker."""
        marker = self.ledger.next_marker()
        return asyncio.create_task(store.run(body or self.ledger.append, marker)), marker

    async def commit(self, store: AsyncStore) -> str:
        """Make a transaction, and note how it ended. Returns its marker."""
        task, marker = self.begin(store)
        await self.watch(task, marker)
        return marker

    async def watch(self, task: asyncio.Task[None], marker: str) -> None:
        """Wait for a transaction, and note how it ended."""
        try:
            await task
        except asyncio.CancelledError as interruption:
            self.sort(marker, interruption.__cause__)
        else:
            self.ledger.acknowledge(marker)
            self.returned.add(marker)

    def sort(self, marker: str, cause: BaseException | None) -> None:
        if cause is None:
            self.innocent.add(marker)
        else:
            assert isinstance(cause, CommitUnknown)
            assert cause.known is not Resolution.NOT_COMMITTED
            assert cause.token is not None
            (self.committed if cause.known is Resolution.COMMITTED else self.unknown).add(marker)

    @property
    def interrupted(self) -> int:
        """How many calls were interrupted."""
        return len(self.innocent) + len(self.committed) + len(self.unknown)

    def check(self) -> None:
        """What was said is what happened."""
        applied = self.ledger.applied()
        tally = self.ledger.tally()
        assert (tally.doubled, tally.torn) == (0, 0)
        assert tally.attempted == sum(map(len, (self.returned, self.innocent, self.committed, self.unknown)))
        assert self.returned | self.committed <= set(applied)
        assert not self.innocent & set(applied)
