"""TLS: certificates, a relay that speaks it before servers that don't, and the system's server, which may. No pytest."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlencode

import trustme
from support.servers import SYSTEM, ServerHandle, ServerMissingError, executable, start_as

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

T = TypeVar("T")

_CHUNK = 65536


class Authority:
    """Vouches for servers and for one client.

    Args:
        folder: for its files.

    Attributes:
        options: of redis-py, for a client that it vouches for and that asks it whom to believe.
    """

    def __init__(self, folder: Path) -> None:
        self._ca, self._folder = trustme.CA(), folder
        self.path = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.path)
        client = str(self.write("client.test"))
        self.options = {"ssl_ca_certs": str(self.path), "ssl_certfile": client, "ssl_keyfile": client}

    def write(self, name: str) -> Path:
        """Vouch for somebody of this name. Returns the file with its certificate and its key."""
        path = self._folder / f"{name}.pem"
        path.unlink(missing_ok=True)
        self._ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def context(self, host: str) -> ssl.SSLContext:
        """Of a server with this name, for clients that the authority vouches for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.write(host))
        context.load_verify_locations(self.path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class TLSRelay:
    """Speaks TLS to clients, and forwards what they say to a port of 127.0.0.1. A context manager.

    Args:
        upstream: that port.
        authority: vouches for both sides.
        host: what its certificate says that it is.

    Attributes:
        port: where it listens.
    """

    def __init__(self, upstream: int, authority: Authority, host: str = "127.0.0.1") -> None:
        self._upstream = upstream
        self._open: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # failed handshakes are what the client reports
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-relay")
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=authority.context(host))
        self._server = self._wait(listening)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = self._loop.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        with contextlib.suppress(OSError):  # either side may end at any time
            answers, server = await asyncio.open_connection("127.0.0.1", self._upstream)
            writers.append(server)
            self._open.update(writers)
            pumps = {
                asyncio.ensure_future(_pump(reader, server)),
                asyncio.ensure_future(_pump(answers, writer)),
            }
            _, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in left:
                pump.cancel()
        for each in writers:
            self._open.discard(each)
            each.transport.abort()

    def close(self) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._relays)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # as above
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()


@dataclass(frozen=True)
class Secure:
    """A server behind TLS.

    Attributes:
        server: its plain side.
        port: the other one.
        authority: vouches for it and for its clients.
    """

    server: ServerHandle
    port: int
    authority: Authority

    @property
    def settings(self) -> dict[str, Any]:
        """Of a client of redis-py."""
        return {"host": "127.0.0.1", "port": self.port, "ssl": True, **self.authority.options}

    @property
    def url(self) -> str:
        """The same as an address."""
        return self.address()

    def address(self, scheme: str = "rediss", **options: str) -> str:
        """The address with another scheme or other options; an empty one is left out."""
        asked = {name: value for name, value in {**self.authority.options, **options}.items() if value}
        return f"{scheme}://127.0.0.1:{self.port}/0?{urlencode(asked)}"


@dataclass
class TLSHandle(ServerHandle):
    """The system's server, with TLS on its port."""

    def configuration(self) -> dict[str, object]:
        """TLS instead of plain TCP."""
        return {**super().configuration(), "port": 0, "tls-port": self.port}


def start_tls(authority: Authority) -> Secure:
    """Start the system's own server with TLS.

    Raises:
        ServerMissingError: there is none, or it was built without TLS.
    """
    told = subprocess.run(
        [executable(SYSTEM), "--port", "0", "--tls-port", "none"], capture_output=True, check=False, text=True
    )
    if "integer" not in told.stdout + told.stderr:  # else it does not know the option at all
        raise ServerMissingError("the system's server was built without TLS")
    certificate = str(authority.write("127.0.0.1"))
    server = start_as(
        TLSHandle,
        SYSTEM,
        tls_cert_file=certificate,
        tls_key_file=certificate,
        tls_ca_cert_file=str(authority.path),
        tls_auth_clients="yes",
    )
    return Secure(server, server.port, authority)
