"""Three sentinels that watch a primary and its replicas, and fail over when it is gone. Knows nothing of pytest."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Self

import redis
from support.relay import Relay
from support.replication import Replication, follow
from support.servers import ServerHandle, start_as
from support.wire import client_of, eventually

SERVICE: Final = "mymaster"
_QUORUM: Final = 2
_TOLD: Final = 4000
"""Characters of a sentinel's log that a failed test shows."""
_HURRY: Final[dict[str, int]] = {
    "INFO-PERIOD": 200,
    "PUBLISH-PERIOD": 200,
    "MIN-LINK-RECONNECT-PERIOD": 200,
    "TILT-PERIOD": 2000,
}
"""Milliseconds between looks at a server, words to other sentinels, tries to reconnect, and until a sentinel acts again
that stood still for a moment: seconds by default, and half a minute. They PING as rarely as by default: what they know of a
replica is good for five times as long, and without a good one a failover begins anew, only after twice its time."""
_PAUSE: Final = 0.05
"""Seconds between two questions: asking all is work for this process, which relays what the servers say to each other."""
_FAILOVER: Final = 4000
"""Milliseconds for a failover; twice that until the next one, if no leader was elected."""


@dataclass
class SentinelHandle(ServerHandle):
    """A running sentinel."""

    def command(self) -> list[str]:
        """It keeps what it learns in its configuration file, and does not start without one."""
        path = self.directory / "sentinel.conf"
        kept = ("port", "bind", "unixsocket", "dir", "logfile")
        path.write_text("".join(f"{option} {self.configuration()[option]}\n" for option in kept))
        return [super().command()[0], str(path), "--sentinel"]


class Watched:
    """A primary, its replicas, and the sentinels around them. A context manager that stops them.

    Args:
        name: the kind of server, of all of them.
        replicas: how many.
        down_after: milliseconds of silence until a sentinel holds a server for dead.
        relayed: whether a relay stands before each server, by whose address all others know it; it holds streams of
            replication only.
        options: of primary and replicas.

    Attributes:
        replication: primary and replicas, as they were at the start.
        sentinels: the three.
        relays: by the port of the server behind it.
    """

    def __init__(
        self,
        name: str = "valkey9",
        replicas: int = 2,
        *,
        down_after: int = 1000,
        relayed: bool = False,
        **options: str | int,
    ) -> None:
        self.down_after = down_after
        self.replication = Replication(name, replicas, **options)
        self.sentinels: list[ServerHandle] = []
        self.relays: dict[int, Relay] = {}
        try:
            for _ in range(3):
                self.sentinels.append(start_as(SentinelHandle, name))
            if relayed:
                self._put_relays_before()
            port = self._known_port(self.replication.primary)
            for sentinel in self.sentinels:
                with client_of(sentinel.url) as client:
                    client.execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", port, _QUORUM)
                    for setting in (
                        ("down-after-milliseconds", down_after),
                        ("failover-timeout", _FAILOVER),
                        ("parallel-syncs", replicas),
                    ):
                        client.execute_command("SENTINEL", "SET", SERVICE, *setting)
                    with contextlib.suppress(redis.ResponseError):  # Redis 6 can't be hurried
                        client.execute_command("SENTINEL", "DEBUG", *chain.from_iterable(_HURRY.items()))
            self.wait_until_settled()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """For a store."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def unix_url(self) -> str:
        """Of who is primary now: where a ledger is counted."""
        return self.primary().unix_url

    def primary(self) -> ServerHandle:
        """Who is primary, by the first sentinel."""
        port = int(self._state(self.sentinels[0])["port"])
        return next(server for server in self.replication.servers if self._known_port(server) == port)

    def kill_primary(self) -> float:
        """End it by SIGKILL, and wait until another one has been promoted. Returns when a sentinel names it."""
        victim = self.primary()
        victim.stop(kill=True)
        eventually(lambda: self.primary() is not victim, patience=60, pause=_PAUSE)
        return time.monotonic()

    def bring_back(self) -> None:
        """Start again who was killed, as a replica without data, and wait until all know each other."""
        for server in self.replication.servers:
            if server.process.poll() is not None:
                primary = self._known_port(self.primary())
                server.options = {**server.options, "replicaof": f"127.0.0.1 {primary}"}
                server.launch()
        self.wait_until_settled()

    def wait_until_replaced(self, gone: ServerHandle) -> None:
        """Until every sentinel names another primary than this one, and the other servers are in sync with it.

        Until then a replica that has nothing of the new primary's may take over from it.
        """
        eventually(lambda: self._replaced(gone), patience=60, pause=_PAUSE)

    def wait_until_settled(self) -> None:
        """Until every sentinel knows the others, and sees all replicas up and in touch with the primary."""
        eventually(self._agreed, patience=60, pause=_PAUSE)
        self.replication.wait_for_sync(self.primary())

    def close(self) -> None:
        for sentinel in self.sentinels:
            sentinel.close()
        for relay in self.relays.values():
            relay.close()
        self.replication.close()

    def _known_port(self, server: ServerHandle) -> int:
        """Where the others find a server."""
        relay = self.relays.get(server.port)
        return server.port if relay is None else relay.port

    def _put_relays_before(self) -> None:
        for server in self.replication.servers:
            relay = self.relays[server.port] = Relay(server.port, only=b"PSYNC")
            server.options = {**server.options, "replica-announce-port": relay.port}
            with client_of(server.unix_url) as client:
                client.config_set("replica-announce-port", relay.port)
        for replica in self.replication.replicas:
            follow(replica, self._known_port(self.replication.primary))

    def _replaced(self, gone: ServerHandle) -> bool:
        ports = {int(self._state(sentinel)["port"]) for sentinel in self.sentinels}
        if len(ports) > 1 or ports == {self._known_port(gone)}:
            return False
        others = [server for server in self.replication.servers if server is not gone]
        return self.replication.in_sync(self.primary(), len(others) - 1)

    def _agreed(self) -> bool:
        views = {self._view(sentinel) for sentinel in self.sentinels}
        return len(views) == 1 and None not in views

    def _view(self, sentinel: ServerHandle) -> int | None:
        """Who is primary for one of them, if it thinks that all is well."""
        state = self._state(sentinel)
        with client_of(sentinel.url) as client:
            replicas = client.sentinel_slaves(SERVICE)
        well = [(each["flags"], each["master-link-status"]) == ("slave", "ok") for each in replicas]
        expected = [True] * len(self.replication.replicas)
        agrees = (state["num-other-sentinels"], state["flags"], well) == (2, "master", expected)
        return int(state["port"]) if agrees else None

    def _state(self, sentinel: ServerHandle) -> dict[str, Any]:
        with client_of(sentinel.url) as client:
            state: dict[str, Any] = client.sentinel_master(SERVICE)
            return state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            for sentinel in self.sentinels:
                error.add_note(sentinel.log_path.read_text(errors="replace")[-_TOLD:])
        self.close()
