"""Plain redis-py clients, for what `stress` compares with and cleans up with, and what a server is called.

Knows nothing of documents or loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis

from txstate._drivers.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping


def client_of(url: str, **options: Any) -> redis.Redis:
    """A redis-py client with its own default settings, retries included; connects when it is used.

    Made by the constructor: `Redis.from_url` would leave redis-py's default retries out.

    Args:
        url: an address, of any scheme that a store takes.
        **options: arguments of `redis.Redis`, instead of the defaults.

    Raises:
        txstate.UsageError: the address can't be used.
    """
    source = Source.of_url(url, asynchronous=False)
    settings = dict(source.settings)
    if "path" in settings:
        settings["unix_socket_path"] = settings.pop("path")
    if issubclass(source.kind, redis.SSLConnection):
        settings["ssl"] = True
    return redis.Redis(**{**settings, **options})


def name_of(info: Mapping[str, Any], hello: object) -> tuple[str, str]:
    """A server's kind and version, from its INFO; a user without INFO has them from HELLO.

    Valkey calls itself Redis 7.2.4 in INFO unless one looks twice.

    Args:
        info: section "server" of INFO; empty when it was refused.
        hello: the reply of HELLO, as it came; None when it was refused.
    """
    if version := info.get("valkey_version"):
        return "Valkey", str(version)
    if version := info.get("redis_version"):
        return "Redis", str(version)
    if isinstance(hello, list):
        told = dict(zip(*[iter(hello)] * 2, strict=False))
        return told.get(b"server", b"redis").decode().capitalize(), told.get(b"version", b"?").decode()
    return "Redis", "of unknown version"
