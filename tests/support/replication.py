"""A primary and its replicas: started in sync, stalled, promoted. Knows nothing of pytest, or of what is shown with them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from support.servers import ServerHandle, start
from support.wire import client_of, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK: Final[dict[str, str | int]] = {
    "repl-diskless-sync": "no",
    "repl-diskless-load": "swapdb",
    "hz": 500,
}
"""So that a replica is in sync within milliseconds: by default some servers take a second, by the clock."""


class Replication:
    """A primary and replicas in sync with it. A context manager that stops them.

    Args:
        name: the kind of server.
        count: how many replicas.
        options: of every one of them.

    Attributes:
        primary: where to write at first.
        replicas: the others.
    """

    def __init__(self, name: str, count: int = 1, **options: str | int) -> None:
        self.servers: list[ServerHandle] = []
        try:
            for _ in range(count + 1):
                follow = {"replicaof": f"127.0.0.1 {self.primary.port}"} if self.servers else {}
                self.servers.append(start(name, **{**QUICK, **follow, **options}))
            self.wait_for_sync()
        except BaseException:
            self.close()
            raise

    @property
    def primary(self) -> ServerHandle:
        return self.servers[0]

    @property
    def replicas(self) -> list[ServerHandle]:
        return self.servers[1:]

    def wait_for_sync(self, primary: ServerHandle | None = None) -> None:
        """Until every replica has confirmed all that was written, to whoever is primary by now."""
        eventually(lambda: self.in_sync(primary or self.primary, len(self.replicas)), patience=60)

    def in_sync(self, primary: ServerHandle, count: int) -> bool:
        """Whether so many replicas confirm all that was written to a primary, if it still is one."""
        with client_of(primary.unix_url) as client, client.pipeline(transaction=False) as pipeline:
            # WAIT tells of the connection's own writes, and of nothing without one.
            pipeline.set("sync", "1").delete("sync").wait(count, 100)
            *_, confirmed = pipeline.execute(raise_on_error=False)
            return isinstance(confirmed, int) and confirmed >= count

    def close(self) -> None:
        for server in self.servers:
            if server.process.poll() is None:
                os.kill(server.pid, signal.SIGCONT)
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def stopped(*servers: ServerHandle) -> Iterator[None]:
    """The processes stand still meanwhile: their connections stay, and nothing is answered."""
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)


def promote(server: ServerHandle) -> None:
    """Make a replica a primary by hand."""
    with client_of(server.unix_url) as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


def replication_of(server: ServerHandle) -> dict[str, Any]:
    """What a server tells of its replication."""
    with client_of(server.unix_url) as client:
        facts: dict[str, Any] = client.info("replication")
        return facts


def follow(server: ServerHandle, port: int) -> None:
    """Make a server the replica of whoever listens there; if nobody does, it is a replica with stale data."""
    with client_of(server.unix_url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", port)
