"""Where the connections to a primary come from that Sentinel watches: each is made to whoever is primary by then.

redis-py's `Sentinel` is asked for the address, anew for each connection, and the one that answered last is asked first. What
it says is a hint: each connection proves by ROLE that it leads to a primary, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from txstate._drivers.source import OURS, Address, Source, address_in, parsed
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.sentinels
        )
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
        self._each = timeout / max(1, len(source.sentinels))

    def get_master_address(self) -> Address:
        """Ask one after the other."""
        retry = Retry(NoBackoff(), 0)
        make: Callable[..., Any] = redis.sentinel.Sentinel  # untyped
        with make(**self._arguments(retry)) as sentinel:
            address: Address = sentinel.discover_master(self._source.service)
            self._remember(sentinel.sentinels)
        return address

    def _arguments(self, retry: object) -> dict[str, Any]:
        asking = {
            **self._source.asking,
            "retry": retry,
            "health_check_interval": 0,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "socket_timeout": self._each,
            "socket_connect_timeout": self._each,
        }
        return {"sentinels": list(self._source.sentinels), "sentinel_kwargs": asking, **self._source.demands}

    def _remember(self, asked: Iterable[Any]) -> None:
        """Keep the order in which redis-py left them: the one that answered comes first."""
        kwargs = [each.connection_pool.connection_kwargs for each in asked]
        self._source.sentinels[:] = [(each["host"], each["port"]) for each in kwargs]


class _AsyncGuide(_Guide):
    """The same for redis-py's other twin."""

    async def get_master_address(self) -> Address:  # type: ignore[override]  # as redis-py's pools differ
        """Ask one after the other."""
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        make: Callable[..., Any] = redis.asyncio.sentinel.Sentinel  # as above
        async with make(**self._arguments(retry)) as sentinel:
            address: Address = await sentinel.discover_master(self._source.service)
            self._remember(sentinel.sentinels)
        return address


def _kind(*, secure: bool, asynchronous: bool) -> type[Any]:
    module: Any = redis.asyncio.sentinel if asynchronous else redis.sentinel
    kind: type[Any] = module.SentinelManagedSSLConnection if secure else module.SentinelManagedConnection
    return kind
