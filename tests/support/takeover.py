"""A primary and a replica that takes over from it: the stream between them is a relay's, and so is their common address."""

from __future__ import annotations

import contextlib
from typing import Final, Self

from support.relay import Relay
from support.replication import QUICK, follow, promote, replication_of
from support.servers import start
from support.wire import client_of, eventually

# Silent but for what is written, so that bytes can be counted.
_SILENT: Final[dict[str, str | int]] = {"repl-ping-replica-period": 3600}


class Takeover:
    """A primary, and a replica in sync with it. A context manager that stops them.

    Args:
        name: the kind of both.
        options: of both.

    Attributes:
        stream: what the primary sends to the replica.
        address: where clients connect; it leads to the primary at first.
    """

    def __init__(self, name: str, **options: str | int) -> None:
        settings = {**QUICK, **_SILENT, **options}
        self._all = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            self.primary = started.enter_context(start(name, **settings))
            self.replica = started.enter_context(start(name, **settings))
            self.stream = started.enter_context(Relay(self.primary.port))
            self.address = started.enter_context(Relay(self.primary.port))
            follow(self.replica, self.stream.port)
            self.wait_for_sync()
            self._all = started.pop_all()

    @property
    def url(self) -> str:
        """By the common address."""
        return f"redis://127.0.0.1:{self.address.port}/0"

    def wait_for_sync(self) -> None:
        """Until the replica has all that the primary has."""

        def in_sync() -> bool:
            replica, primary = replication_of(self.replica), replication_of(self.primary)
            return bool(
                replica["master_link_status"] == "up"
                and replica["slave_repl_offset"] == primary["master_repl_offset"]
            )

        eventually(in_sync, patience=60)

    def push(self, arrived: int) -> None:
        """Write something else if as many bytes do not arrive from the primary by themselves.

        Redis 8.2 keeps what stands behind the end of one of its replication buffers until the next write.
        """
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.stream.arrived >= arrived, patience=0.5)
            return
        with client_of(self.primary.unix_url) as client:
            client.set("push", "1")

    def part(self) -> None:
        """Cut the stream, with what it holds, and make the replica a primary: now there are two."""
        self.stream.cut(refuse=True)
        eventually(lambda: bool(replication_of(self.replica)["master_link_status"] == "down"))
        promote(self.replica)

    def take_over(self) -> None:
        """The replica becomes primary with what it has, and the address leads to it; connections end."""
        self.part()
        self.address.switch(self.replica.port)

    def start_over(self) -> None:
        """The replica becomes one again: it forgets what only it has."""
        self.stream.switch(self.primary.port)
        follow(self.replica, self.stream.port)
        self.wait_for_sync()
        self.address.switch(self.primary.port)

    def rejoin(self) -> None:
        """The old primary becomes the new one's replica: it forgets what only it has."""
        follow(self.primary, self.replica.port)

        def in_sync() -> bool:
            old, new = replication_of(self.primary), replication_of(self.replica)
            return bool(
                old["master_link_status"] == "up" and old["slave_repl_offset"] == new["master_repl_offset"]
            )

        eventually(in_sync, patience=60)

    def close(self) -> None:
        self._all.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
