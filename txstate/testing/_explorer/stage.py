"""What a run is played on: the server, its connections, and what any other client could do to it.

Between two runs the database is emptied and connections are reused, since connecting costs more than all the rest.
Knows nothing of transactions and schedules.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from txstate._drivers.source import Source
from txstate._drivers.sync import SyncChannel, SyncDriver
from txstate._effects import Lost, ReplyError, Unreachable
from txstate._engine.outcome import refusal
from txstate.embedded import EmbeddedServer, open_private
from txstate.errors import StoreUnavailable, UsageError
from txstate.retry import Retry
from txstate.store import Store
from txstate.testing._explorer.batches import fields_of
from txstate.testing._explorer.mortal import MortalServer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from txstate._effects import Command

_TIMEOUT: Final = 10.0
_LINKS: Final = 10_000
_FIRST_LEASE: Final = 0.02
_LONGEST_LEASE: Final = 2.0
_OUTSIDER: Final = b"__txstate__:token:outsider"


class HasUrl(Protocol):
    """A running server, for example the fixture `txstate_server`."""

    @property
    def url(self) -> str:
        """Its address."""


class NotYet(Exception):  # noqa: N818 - a signal, named for what happened
    """A key must expire in this run, and that has to be prepared before it begins: play it again."""


class Stage:
    """A server with an empty database, and connections to it.

    Args:
        server: a running one, or its address; None: a private one.
        mortal: whether it will be killed and restarted.

    Attributes:
        url: its address.
        store: a store of an outsider: for setup, invariants, and other clients.

    Raises:
        UsageError: the server that was passed is not one, holds data, or would have to be killed.
        StoreUnavailable: there is no server.
        ServerRefused: it lets nobody in.
    """

    def __init__(self, server: str | HasUrl | None, *, mortal: bool) -> None:
        if server is not None and mortal:
            raise UsageError(
                "the fault 'restart' kills the server, so it needs one of its own: leave out server="
            )
        self._own: EmbeddedServer | MortalServer | None = None
        if server is None:
            self._own = MortalServer() if mortal else open_private()
            server = self._own
        url = server if isinstance(server, str) else getattr(server, "url", None)
        if not isinstance(url, str):
            raise UsageError(f"server= takes an address, or something that has a .url, not {server!r}")
        self.url = url
        self._source = Source.of_url(self.url, asynchronous=False)
        self._driver = SyncDriver(self._source, _LINKS)
        self._control: SyncChannel | None = None
        self._idle: list[SyncChannel] = []
        self._used: list[SyncChannel] = []
        self._to_expire: set[str] = set()
        self._expired: set[str] = set()
        self._lease, self._leased = _FIRST_LEASE, 0.0
        # No pause after a conflict: what the last run armed its connection with was deleted since.
        self.store = Store(self.url, retry=Retry(wait=lambda _: 0.0))
        # Known by its tokens; and it gives way to nobody, as nobody moves meanwhile.
        self.store._settings = replace(self.store._settings, random_id=_outsider, patience=0)  # noqa: SLF001 - as said
        try:
            if self.ask(("DBSIZE",)) != 0:
                raise UsageError(
                    f"the database {self.url} is not empty, and exploring would empty it: name another one"
                )
        except BaseException:
            self.close()
            raise

    def ask(self, *commands: Command) -> Any:
        """The reply to the last of these commands, as an outsider."""
        try:
            if self._control is None:
                self._control = self._connected(_TIMEOUT)
            return self._control.exchange(commands, _TIMEOUT)[-1]
        except (Lost, Unreachable) as error:
            raise StoreUnavailable(f"the server to explore on can't be reached: {error}") from error
        except ReplyError as error:
            raise refusal(error, "connecting to the server to explore on") from error

    def link(self, timeout: float) -> SyncChannel:
        """A connection that looks like a new one."""
        link = self._idle.pop() if self._idle else self._connected(timeout)
        self._used.append(link)
        return link

    def clear(self) -> None:
        """Empty the database and take all connections back."""
        # All but the outsider's own tokens: without them its connection would have to be made anew.
        names = [name for name in self.ask(("KEYS", "*")) if _OUTSIDER not in name]
        if names:
            self.ask(("DEL", *names))
        used, self._used = self._used, []
        for link in used:
            try:
                # A WATCH left over would make the next transaction's own WATCH worthless.
                link.exchange([("UNWATCH",)], _TIMEOUT)
            except Lost:
                link.drop()
            else:
                self._idle.append(link)

    def distrust(self) -> None:
        """Close all connections, because a run ended midway."""
        for link in (*self._used, *self._idle):
            link.drop()
        self._used, self._idle = [], []

    def documents(self) -> dict[str, dict[str, str]]:
        """All documents as they are stored, but for their versions."""
        keys = sorted(self.store.keys())
        return {key: _fields(self.ask(("HGETALL", key))) for key in keys}

    # What others do to the data.

    def rewrite(self, key: str) -> None:
        """Another client writes the document, with the value that it has; or makes it, and deletes it again."""
        stored = _fields(self.ask(("HGETALL", key)))
        if stored:
            self.ask(("HSET", key, *next(iter(stored.items()))))
        else:
            self.ask(("HSET", key, "made_by_another_client", "1"), ("DEL", key))

    def lease(self) -> None:
        """A run begins: the keys that will expire in it have little time left from here on."""
        self._expired = set()
        self._leased = time.monotonic()
        for key in self._to_expire:
            self.ask(("PEXPIRE", key, b"%d" % int(self._lease * 1000)))

    def expire(self, key: str) -> None:
        """Let the key expire by time alone: no command touches it, as that would be seen by WATCH in another way.

        Raises:
            NotYet: its time to live was not set when the run began, or may have run out too early.
        """
        if key not in self._to_expire:
            self._to_expire.add(key)
            raise NotYet
        if self.ran_out_early():
            raise NotYet
        self._expired.add(key)
        left = cast("int", self.ask(("PTTL", key)))
        if left < 0:
            # It was deleted or made anew, without a time to live.
            self.ask(("PEXPIRE", key, "1"))
            left = 1
        time.sleep(left / 1000 + 0.002)

    def ran_out_early(self) -> bool:
        """Whether a key may have expired before its step, because the run was slow. The next one gets more time."""
        slow = time.monotonic() - self._leased > self._lease / 2
        if not slow or self._expired == self._to_expire:
            return False
        if self._lease > _LONGEST_LEASE:
            raise TimeoutError(
                f"a run took longer than {self._lease / 2:.0f} s, so no key could be made to expire"
            )
        self._lease *= 4
        return True

    def forget_expiries(self) -> None:
        """The next run is another one."""
        self._to_expire, self._lease = set(), _FIRST_LEASE

    def restart(self) -> None:
        """Kill the server, and start it again with the data that it had acknowledged."""
        cast("MortalServer", self._own).restart()
        if self._control is not None:
            self._control.drop()
            self._control = None
        for link in self._idle:
            link.drop()
        self._idle = []

    def close(self) -> None:
        """Leave an empty database behind; stop the server if it is a private one."""
        try:
            if self._own is None and self._used + self._idle:
                self.ask(("FLUSHDB",))
        finally:
            self.distrust()
            if self._control is not None:
                self._control.drop()
            self.store.close()
            if self._own is not None:
                self._own.close()

    def _connected(self, timeout: float) -> SyncChannel:
        link = SyncChannel(self._driver)
        link.connect(self._source, timeout)
        return link


def _outsider() -> str:
    return f"outsider-{secrets.token_hex(12)}"


def _fields(reply: Any) -> dict[str, str]:
    """The fields in a reply of HGETALL, of either protocol, but for the version."""
    pairs: Iterable[tuple[bytes, bytes]] = (
        reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    )
    return fields_of(pairs)
