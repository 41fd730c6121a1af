"""The servers that peers run on: found, started on loopback in a temporary folder, pinned, and ended by their process.

Redis or Valkey comes by pip, as for the library; PostgreSQL by the system's package. Knows nothing of peers.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import redis

from benchmarks.delay import DelayProxy
from benchmarks.machine import pin
from benchmarks.peers.base import Place
from txstate.embedded.binary import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_START: Final = 20.0
_PATHS: Final = ("executable", "config_file")
_POSTGRES: Final = ("/usr/lib/postgresql", "/usr/local/lib/postgresql")
_DIE_WITH_US: Final = (
    ("setpriv", "--pdeathsig", "KILL") if sys.platform == "linux" and shutil.which("setpriv") else ()
)
"""So that not even a run that is killed leaves a server behind, where the system can do that."""
_ZEO: Final = """
<zeo>
    address {address}
</zeo>
<mappingstorage 1>
</mappingstorage>
"""


class MissingError(Exception):
    """A server can't be had here; the message says why."""


class Servers:
    """What is running, started when first asked for. A context manager that ends all of it.

    Args:
        cpus: where servers run; none: anywhere.
        binary: of Redis or Valkey; None: the one that txstate embeds.
        options: more arguments for it.

    Attributes:
        versions: what each program said of itself, by kind of server.
    """

    def __init__(self, cpus: tuple[int, ...], binary: str | None = None, options: Sequence[str] = ()) -> None:
        self._cpus, self._options = cpus, options
        self._binary = binary or str(find_server())
        self._folder = Path(
            tempfile.mkdtemp(prefix="txb-")
        )  # short: a unix socket's path has about a hundred bytes
        self._ends = contextlib.ExitStack()
        self._ends.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._places: dict[tuple[str, str, float], Place] = {}
        self._failed: dict[str, str] = {}
        self._redis_port = 0
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def place(self, server: str, transport: str, delay: float = 0.0) -> Place:
        """Where a server of this kind is, by this transport.

        Args:
            server: ``"redis"``, ``"postgres"``, ``"zeo"`` or ``"file"``.
            transport: ``"tcp"``, ``"unix"``, or ``"proxy"``: TCP through a proxy that delays.
            delay: seconds that the proxy adds in each direction.

        Raises:
            MissingError: there is none here.
        """
        key = server, transport, delay
        if key not in self._places:
            if server in self._failed:
                raise MissingError(self._failed[server])
            try:
                self._start(server, transport, delay)
            except MissingError as error:
                self._failed[server] = str(error)
                raise
        return self._places[key]

    def info(self) -> dict[str, Any]:
        """Redis's INFO, all of its default sections, but for where its files are."""
        with redis.Redis.from_url(self.place("redis", "tcp").address) as client:
            found: dict[str, Any] = client.info()
            return {name: value for name, value in found.items() if name not in _PATHS}

    def _start(self, server: str, transport: str, delay: float) -> None:
        if server == "file":
            self._places[server, transport, delay] = Place("file", str(self._folder / "file.db"))
        elif transport == "proxy":
            self.place("redis", "tcp")
            proxy = self._ends.enter_context(DelayProxy(self._redis_port, delay))
            self._places[server, transport, delay] = Place("tcp", f"redis://127.0.0.1:{proxy.port}/0")
        elif server == "redis":
            self._start_redis()
        elif server == "postgres":
            self._start_postgres()
        else:
            self._start_zeo(transport)

    def _start_redis(self) -> None:
        port, unix = free_port(), self._folder / "redis"
        self._ask("redis", self._binary)
        command = [self._binary, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(unix)]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        command += self._options
        self._launch(command, lambda: _answers(unix, b"PING\r\n"))
        self._redis_port = port
        self._places["redis", "tcp", 0.0] = Place("tcp", f"redis://127.0.0.1:{port}/0")
        self._places["redis", "unix", 0.0] = Place("unix", f"unix://{unix}?db=0")

    def _start_postgres(self) -> None:
        programs = _postgres_programs()
        self._ask("postgres", str(programs / "postgres"))
        folder = Path(tempfile.mkdtemp(prefix="txb-"))
        self._ends.callback(shutil.rmtree, folder, ignore_errors=True)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            account = _unprivileged()
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = folder / "data", free_port()
        made = subprocess.run(  # noqa: S603 - a known program
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "bench", "-E", "UTF8", "--no-sync"],
            check=False, capture_output=True, text=True, cwd=folder, **user,
        )  # fmt: skip
        if made.returncode != 0:
            raise MissingError(f"initdb failed: {made.stderr.strip()[-300:]}")
        settings = {
            "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder,
            "synchronous_commit": "off", "max_connections": 100,
        }  # fmt: skip
        command = [str(programs / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        unix = folder / f".s.PGSQL.{port}"
        self._launch(command, lambda: _connects(unix), stop=signal.SIGINT, cwd=folder, **user)
        login = f"port={port} dbname=postgres user=bench"
        self._places["postgres", "tcp", 0.0] = Place("tcp", f"host=127.0.0.1 {login}")
        self._places["postgres", "unix", 0.0] = Place("unix", f"host={folder} {login}")

    def _start_zeo(self, transport: str) -> None:
        address = str(self._folder / "zeo") if transport == "unix" else f"127.0.0.1:{free_port()}"
        settings = self._folder / f"zeo-{transport}.conf"
        settings.write_text(_ZEO.format(address=address))
        up: Callable[[], bool] = lambda: _connects(address)  # noqa: E731 - as with the others
        self._launch([sys.executable, "-m", "ZEO.runzeo", "-C", str(settings)], up, cwd=self._folder)
        self._places["zeo", transport, 0.0] = Place(transport, address)

    def _ask(self, server: str, program: str) -> None:
        told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)  # noqa: S603 - as above
        self.versions[server] = told.stdout.strip()

    def _launch(
        self, command: Sequence[str], is_up: Callable[[], bool], *, stop: int = signal.SIGTERM, **how: Any
    ) -> None:
        """Start a process, pin it before it starts others, and wait until it can be used."""
        name = Path(command[0]).name
        log = (self._folder / f"log-{len(self._places)}").open("w+")
        self._ends.callback(log.close)
        command = [*_DIE_WITH_US, *command]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **how)  # noqa: S603 - as above
        self._ends.callback(_end, process, stop)
        pin(process.pid, self._cpus)
        deadline = time.monotonic() + _START
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise MissingError(f"{name} does not start: {log.read()[-500:]}")
            time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[Any], stop: int) -> None:
    process.send_signal(stop)
    try:
        process.wait(_START)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _postgres_programs() -> Path:
    """The folder of the newest PostgreSQL."""
    found = [path for root in _POSTGRES for path in Path(root).glob("*/bin") if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.insert(0, Path(on_path).resolve().parent)
    if not found:
        raise MissingError("PostgreSQL's server is not installed (on Debian: apt install postgresql)")
    return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()])


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise MissingError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _connects(address: str | Path) -> bool:
    host, colon, port = str(address).rpartition(":")
    with contextlib.suppress(OSError):
        if colon:
            socket.create_connection((host, int(port)), 1).close()
        else:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(address))
        return True
    return False


def _answers(unix: Path, question: bytes) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(unix))
        client.sendall(question)
        return client.recv(64).startswith(b"+")
    return False
