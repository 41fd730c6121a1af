"""Addresses: what a proxy forwards to, where it listens, and the URLs that its clients get.

Knows URLs as redis-py reads them, and nothing of connections.
"""

from __future__ import annotations

import os
import pathlib
import socket
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from txstate.errors import UsageError

Address: TypeAlias = str | tuple[str, int]
"""Of a socket: a path, or host and port."""

_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server's address, made by `parse`.

    Attributes:
        family: of the socket to connect with.
        address: where to connect to.
    """

    family: socket.AddressFamily
    address: Address
    _parts: SplitResult

    def tcp_url(self, port: int) -> str:
        """The URL of the same database, by a port of 127.0.0.1 instead."""
        database, query = self._options()
        return urlunsplit(("redis", f"{self._login()}127.0.0.1:{port}", f"/{database}", urlencode(query), ""))

    def unix_url(self, path: str) -> str:
        """The URL of the same database, by a unix socket instead."""
        database, query = self._options()
        query = {"db": database, **query} if database else query
        options = f"?{urlencode(query)}" if query else ""
        return f"unix://{self._login()}{quote(path)}{options}"  # urlunsplit leaves empty slashes out

    def _login(self) -> str:
        user, at, _ = self._parts.netloc.rpartition("@")
        return user + at

    def _options(self) -> tuple[str, dict[str, str]]:
        """The database, wherever it stands, and the other options."""
        query = dict(parse_qsl(self._parts.query, keep_blank_values=True))
        path = "" if self._parts.scheme == "unix" else self._parts.path.strip("/")
        return query.pop("db", path), query


def parse(url: object) -> Upstream:
    """Read the URL of a server.

    Raises:
        UsageError: it is not an address that can be forwarded to.
    """
    if not isinstance(url, str):
        raise UsageError(f"the address of a server is a str, not {url!r}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"the address of the server can't be used: {error}") from error
    if parts.scheme == "unix" and parts.path:
        return Upstream(socket.AF_UNIX, unquote(parts.path), parts)
    if parts.scheme not in {"redis", "valkey"}:
        raise UsageError(
            f"can't forward to {parts.scheme or 'an address without a scheme'}: "
            "give redis://host:port/db, valkey://host:port/db or unix:///path. TLS can't be looked into"
        )
    try:
        host, port = parts.hostname or "localhost", parts.port or _PORT
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise UsageError(f"the address of the server can't be resolved: {error}") from error
    family, _, _, _, address = found[0]
    return Upstream(family, (str(address[0]), int(address[1])), parts)


def path_of(unix_path: object) -> str:
    """The absolute path of a socket.

    Raises:
        UsageError: none can have it.
    """
    path = os.fsdecode(unix_path) if isinstance(unix_path, str | bytes | os.PathLike) else ""
    if not path or "\0" in path:
        raise UsageError(f"unix_path= takes the path of a socket to make, not {unix_path!r}")
    return str(pathlib.Path(path).absolute())


def bind(address: Address) -> socket.socket:
    """Make a socket that owns an address, and does not listen yet.

    Raises:
        OSError: the address can't be had.
    """
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        if not isinstance(address, str):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def release(address: Address) -> None:
    """Remove what a bound socket leaves in the file system."""
    if isinstance(address, str):
        pathlib.Path(address).unlink(missing_ok=True)
