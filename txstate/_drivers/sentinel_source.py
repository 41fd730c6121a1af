"""Where the connections to a primary come from that Sentinel watches: each is made to whoever is primary by then.

The sentinels are asked for the address by redis-py's clients, anew for each connection, and the one that answered last is
asked first. What it says is a hint: each connection proves by ROLE that it leads to a primary, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from txstate._drivers.source import OURS, Address, Source, address_in, parsed, reason_of, text_of
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SUFFIX: Final = "+sentinel"
_CREDENTIALS: Final = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class SentinelSource(Source):
    """Makes connection objects to a primary.

    Args:
        service: what Sentinel calls the primary.
        sentinels: whom to ask; the one that answered last comes first.
        asking: the arguments of the connections to them, but for host and port.
        demands: what redis-py's `Sentinel` asks of an answer.
    """

    service: str = ""
    sentinels: list[Address] = field(default_factory=list)
    asking: dict[str, Any] = field(default_factory=dict)
    demands: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_url(cls, url: str, *, asynchronous: bool) -> SentinelSource:
        """From ``redis+sentinel://user:password@host:port,host:port/service/db``, its options included.

        User and password are the server's. The sentinels' own are the options ``sentinel_username`` and
        ``sentinel_password``; TLS, and all that belongs to it, is for both.

        Raises:
            UsageError: it names no service, or there is something in it that can't be used.
        """
        scheme, _, rest = url.partition("://")
        where, _, query = rest.partition("?")
        login, at, path = where.rpartition("@")
        hosts, _, names = path.partition("/")
        service, _, database = names.partition("/")
        if not service or not (database or "0").isdecimal():
            raise UsageError(
                f"the address {url!r} can't be used: it is {scheme}://host:26379,host:26379/service/0, with the name that "
                "Sentinel has for the primary"
            )
        options = parse_qsl(query, keep_blank_values=True)
        own = {_CREDENTIALS[name]: value for name, value in options if name in _CREDENTIALS}
        shared = urlencode([(name, value) for name, value in options if name not in _CREDENTIALS])
        sentinels = [address_in(url, host, 26379) for host in hosts.split(",")]
        kind, settings = parsed(
            f"{scheme.removesuffix(_SUFFIX)}://{login}{at}localhost/{database}?{shared}",
            asynchronous=asynchronous,
        )
        secure = kind is not (redis.asyncio.Connection if asynchronous else redis.Connection)
        tls = {name: value for name, value in settings.items() if name.startswith("ssl_")}
        return cls._of(
            _kind(secure=secure, asynchronous=asynchronous),
            settings,
            asynchronous=asynchronous,
            service=unquote(service),
            sentinels=sentinels,
            asking={**own, **({"ssl": True, **tls} if secure else {})},
        )

    @classmethod
    def of_client(cls, client: Any, *, asynchronous: bool) -> SentinelSource:
        """From the settings of what ``master_for`` made.

        Raises:
            UsageError: it is the other twin's, or comes from ``slave_for``.
        """
        plain = Source.of_client(client, asynchronous=asynchronous)
        pool = client.connection_pool
        if not pool.is_master:
            raise UsageError(
                "client= takes what sentinel.master_for() makes: a replica takes no transactions"
            )
        manager = pool.sentinel_manager
        return cls._of(
            plain.kind,
            plain.settings,
            asynchronous=asynchronous,
            service=pool.service_name,
            sentinels=[
                (str(kwargs["host"]), int(kwargs["port"]))
                for kwargs in (each.connection_pool.connection_kwargs for each in manager.sentinels)
            ],
            asking=manager.sentinel_kwargs,
            demands={
                "min_other_sentinels": manager.min_other_sentinels,
                "force_master_ip": manager._force_master_ip,  # noqa: SLF001 - shown nowhere else
            },
        )

    @classmethod
    def _of(
        cls,
        kind: type[Any],
        settings: dict[str, Any],
        *,
        asynchronous: bool,
        asking: dict[str, Any],
        **more: Any,
    ) -> SentinelSource:
        return cls.checked(
            kind,
            {
                name: value
                for name, value in settings.items()
                if name not in ("host", "port", "connection_pool")
            },
            asynchronous=asynchronous,
            asking={name: value for name, value in asking.items() if name not in OURS},
            **more,
        )

    def arguments(self, timeout: float) -> dict[str, Any]:
        """What a connection is made with; half of the time is for asking."""
        guide = (_AsyncGuide if self.asynchronous else _Guide)(self, timeout / 2)
        return {**Source.arguments(self, timeout / 2), "connection_pool": guide}

    def peer(self, connection: Any) -> object:
        """The address of the primary that a connection was made to."""
        return connection.host, connection.port

    def url(self) -> str:
        """An address that other processes can open."""
        hosts = ",".join(map(text_of, self.sentinels))
        own = {option: self.asking[name] for option, name in _CREDENTIALS.items() if self.asking.get(name)}
        options = f"?{urlencode(own, quote_via=quote)}" if own else ""
        where = f"{hosts}/{quote(self.service, safe='')}/{self.settings.get('db') or 0}"
        return f"{self.scheme()}{_SUFFIX}://{self.login()}{where}{options}"


class _Guide:
    """Where redis-py's connection asks for an address when it connects: it takes this for its pool."""

    is_master = True
    check_connection = False

    def __init__(self, source: SentinelSource, timeout: float) -> None:
        self._source = source
        self._hosts = list(source.sentinels)
        self._each = timeout / max(1, len(self._hosts))
        self._silent: dict[Address, RedisError] = {}

    def get_master_address(self) -> Address:
        """Ask one after the other."""
        make: Callable[..., Any] = redis.sentinel.Sentinel  # untyped
        with make(**self._arguments(Retry(NoBackoff(), 0))) as asked:
            for host, sentinel in zip(self._hosts, asked.sentinels, strict=True):
                try:
                    told = sentinel.sentinel_masters()
                except RedisError as error:
                    self._silent[host] = error
                    continue
                if address := self._named(asked, told, host):
                    return address
        raise self._nobody()

    def _arguments(self, retry: object) -> dict[str, Any]:
        asking = {
            **self._source.asking,
            "retry": retry,
            "health_check_interval": 0,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "socket_timeout": self._each,
            "socket_connect_timeout": self._each,
        }
        return {"sentinels": self._hosts, "sentinel_kwargs": asking, **self._source.demands}

    def _named(self, asked: Any, told: Mapping[str, Mapping[str, Any]], host: Address) -> Address | None:
        """Whom a sentinel names, if that is good enough; it is asked first from now on."""
        state = told.get(self._source.service)
        if not state or not asked.check_master_state(state, self._source.service):
            return None
        others = [other for other in self._hosts if other != host]
        self._source.sentinels[:] = [host, *others]
        return self._source.demands.get("force_master_ip") or state["ip"], state["port"]

    def _nobody(self) -> RedisError:
        """Why no address was found. redis-py's own error shows the clients that it asked, and not what went wrong."""
        asked = len(self._hosts)
        refused = [error for error in self._silent.values() if isinstance(error, ResponseError)]
        if len(refused) == asked:
            return refused[0]
        silent = "".join(f"; {text_of(host)}: {reason_of(error)}" for host, error in self._silent.items())
        late = [error for error in self._silent.values() if isinstance(error, TimedOut)]
        return (TimedOut if len(late) == asked else MasterNotFoundError)(
            f"{asked - len(self._silent)} of {asked} sentinels answer, and none names a primary {self._source.service!r} "
            f"that is up{silent}"
        )


class _AsyncGuide(_Guide):
    """The same for redis-py's other twin."""

    async def get_master_address(self) -> Address:  # type: ignore[override]  # as redis-py's pools differ
        """Ask one after the other."""
        make: Callable[..., Any] = redis.asyncio.sentinel.Sentinel  # as above
        async with make(**self._arguments(redis.asyncio.retry.Retry(NoBackoff(), 0))) as asked:
            for host, sentinel in zip(self._hosts, asked.sentinels, strict=True):
                try:
                    told = await sentinel.sentinel_masters()
                except RedisError as error:
                    self._silent[host] = error
                    continue
                if address := self._named(asked, told, host):
                    return address
        raise self._nobody()


def _kind(*, secure: bool, asynchronous: bool) -> type[Any]:
    module: Any = redis.asyncio.sentinel if asynchronous else redis.sentinel
    kind: type[Any] = module.SentinelManagedSSLConnection if secure else module.SentinelManagedConnection
    return kind
