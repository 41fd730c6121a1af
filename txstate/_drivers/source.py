"""Where connections come from: a URL, or the settings of a redis-py client.

Connections are made by redis-py (it knows TLS, ACL users, credential providers and unix sockets), but with its
retries, health checks and maintenance notifications off: each of them could send something between WATCH and EXEC,
or put another socket under the transaction's feet.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias
from urllib.parse import quote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.utils import SENTINEL

from txstate._effects import ReplyError, Unreachable
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Address: TypeAlias = tuple[str, int]
"""Host and port."""

SCHEMES: Final = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
}

_PACKER: Final[Any] = redis.connection.PythonRespSerializer(6000, Encoder("utf-8", "strict", False).encode)  # type: ignore[no-untyped-call]  # redis-py's
"""For connecting. hiredis crashes when a signal handler raises while it packs a number, such as that of the database."""

OURS: Final = frozenset(
    {
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "health_check_interval",
        "max_connections",
        "command_packer",
        "timeout",
        "socket_timeout",
        "socket_connect_timeout",
        "event_dispatcher",
        "himport_registry",
        "maint_notifications_config",
        "maint_notifications_pool_handler",
        "maintenance_state",
        "maintenance_notification_hash",
        "orig_host_address",
        "orig_socket_timeout",
        "orig_socket_connect_timeout",
        "oss_cluster_maint_notifications_handler",
    }
)
"""Settings of a client that are not taken over."""


@dataclass(frozen=True, slots=True)
class Source:
    """Makes connection objects; makes no connections.

    Args:
        kind: redis-py's connection class.
        settings: its arguments.
        asynchronous: whether it is one of `redis.asyncio`.
        revive: makes sure that an embedded server runs, within the seconds given; called when connecting fails.
    """

    clustered: ClassVar[bool] = False
    """Whether the data is spread over the slots of a cluster."""

    kind: type[Any]
    settings: dict[str, Any]
    asynchronous: bool
    revive: Callable[[float], None] | None = None

    @classmethod
    def of_url(cls, url: str, *, asynchronous: bool) -> Source:
        """From a URL, its options included.

        Raises:
            UsageError: it is none that redis-py understands.
        """
        kind, settings = parsed(url, asynchronous=asynchronous)
        return cls.checked(kind, settings, asynchronous=asynchronous)

    @classmethod
    def of_client(cls, client: object, *, asynchronous: bool) -> Source:
        """From the settings of a redis-py client.

        Raises:
            UsageError: it is no client, or the other twin's.
        """
        if isinstance(client, redis.asyncio.Redis) != asynchronous or not isinstance(
            client, redis.Redis | redis.asyncio.Redis
        ):
            wanted = "redis.asyncio.Redis" if asynchronous else "redis.Redis"
            raise UsageError(
                f"client= takes a {wanted}, not {type(client).__module__}.{type(client).__name__}"
            )
        pool: Any = client.connection_pool
        return cls.checked(pool.connection_class, dict(pool.connection_kwargs), asynchronous=asynchronous)

    @classmethod
    def checked(cls, kind: type[Any], settings: dict[str, Any], *, asynchronous: bool, **more: Any) -> Self:
        """From the arguments of a connection; those that are ours to choose are left out.

        Args:
            kind: redis-py's connection class.
            settings: its arguments.
            asynchronous: whether it is one of `redis.asyncio`.
            **more: what else such a source is made of.

        Raises:
            UsageError: no connection can be made of them.
        """
        # redis-py's placeholder for "not given" is told by identity, which pickling would not keep.
        kept = {name: value for name, value in settings.items() if name not in OURS and value is not SENTINEL}
        source = cls(kind, kept, asynchronous, **more)
        try:
            source.connection(1.0)
        except (TypeError, ValueError, RedisError) as error:
            raise UsageError(f"the connection's settings can't be used: {error}") from error
        return source

    def connection(self, timeout: float) -> Any:
        """A new connection object of redis-py's, not connected yet."""
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0) if self.asynchronous else Retry(NoBackoff(), 0)
        return self.kind(**self.arguments(timeout), retry=retry)

    def arguments(self, timeout: float) -> dict[str, Any]:
        """What a connection is made with, but for its retries."""
        settings = dict(self.settings)
        if not issubclass(self.kind, redis.connection.UnixDomainSocketConnection):
            settings["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
        if not self.asynchronous:
            settings["command_packer"] = _PACKER
        return {
            **settings,
            "health_check_interval": 0,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }

    def peer(self, connection: Any) -> object:  # noqa: ARG002 - one address serves all
        """What a connection was made to, where that can change."""
        return None

    def url(self) -> str:
        """An address that other processes can open."""
        settings = self.settings
        if "path" in settings:
            return f"unix://{self.login()}{quote(settings['path'])}?db={settings.get('db') or 0}"
        where = f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
        return f"{self.scheme()}://{self.login()}{where}/{settings.get('db') or 0}"

    def scheme(self) -> str:
        """The scheme of a URL that says how to connect."""
        return "rediss" if "SSL" in self.kind.__name__ else "redis"

    def login(self) -> str:
        """User and password, as a URL has them."""
        user = quote(self.settings.get("username") or "", safe="")
        password = quote(self.settings.get("password") or "", safe="")
        return f"{user}:{password}@" if user or password else ""


def parsed(url: str, *, asynchronous: bool) -> tuple[type[Any], dict[str, Any]]:
    """A connection class of redis-py's, and its arguments.

    Args:
        url: with one of the `SCHEMES`.
        asynchronous: whether the class is one of `redis.asyncio`.

    Raises:
        UsageError: it is none that redis-py understands.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise UsageError(
            f"the address {url!r} can't be used: it is none of a single server ({', '.join(SCHEMES)})"
        )
    module = redis.asyncio.connection if asynchronous else redis.connection
    try:
        database = "" if scheme == "unix" else urlsplit(url).path.removeprefix("/")
        if database and not (database.isascii() and database.isdecimal()):
            # redis-py would take what it can't read for database 0.
            raise ValueError(f"a database is a number, not {database!r}")
        settings: dict[str, Any] = dict(module.parse_url(SCHEMES[scheme] + separator + rest))
    except ValueError as error:
        raise UsageError(f"the address {url!r} can't be used: {error}") from error
    return settings.pop("connection_class", module.Connection), settings


def address_in(url: str, host: str, port: int) -> Address:
    """One of the addresses in a URL that has several: ``host:port``, or a host alone.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(f"//{host}")
        found = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"the address {url!r} can't be used: {error}") from error
    if not found[0]:
        raise UsageError(f"the address {url!r} can't be used: it lists hosts as host:port,host:port")
    return found[0], found[1] or port


def text_of(address: Address) -> str:
    """Host and port, as people write them."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason_of(error: RedisError) -> str:
    """Why something failed, without the address, which redis-py puts before it."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno and cause.strerror:
        # OpenSSL counts its errors by itself, as does the resolver of names.
        own = cause.errno < 0 or isinstance(cause, ssl.SSLError)
        return cause.strerror if own else os.strerror(cause.errno)
    return answer_of(error)


def answer_of(error: RedisError) -> str:
    """An error as the server sent it; redis-py takes the code off some."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code and not str(error).startswith(code) else str(error)


def failed(error: BaseException) -> Exception:
    """What a failure to connect means: the server refused (with its code), or it could not be reached."""
    code = getattr(error, "status_code", None)
    if isinstance(error, RedisError) and (code or isinstance(error, redis.ResponseError)):
        return ReplyError(f"{code or 'ERR'} {error}" if code else str(error))
    unreachable = Unreachable(f"{type(error).__name__}: {error}")
    unreachable.__cause__ = error
    unreachable.timed_out = isinstance(error, redis.TimeoutError)
    return unreachable
