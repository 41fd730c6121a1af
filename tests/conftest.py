"""The servers that tests run against: one of each kind for all tests, and private ones on demand; Hypothesis' settings."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

import pytest
import redis
from hypothesis import HealthCheck, settings
from support.cluster import Cluster, start_cluster
from support.figures import Figures, require
from support.servers import BINARIES, ServerHandle, ServerMissingError, start

from txstate import Store

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from support.servers import StartServer

pytest_plugins = ["support.beside"]

# No deadline: servers and schedulers are shared. The same examples in CI; elsewhere a failing one is printed as a blob, to
# be run again with @reproduce_failure.
settings.register_profile(
    "txstate",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("txstate")


class Clusters:
    """The clusters of a test session, started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Cluster] = {}

    def clean(self, name: str) -> Cluster:
        """A running cluster without data, whatever the last test did to it."""
        if name not in self._running:
            try:
                self._running[name] = start_cluster(name)
            except ServerMissingError as missing:
                _do_without(str(missing))
        self._running[name].clean()
        return self._running[name]

    def close(self) -> None:
        for cluster in self._running.values():
            cluster.close()


class Servers:
    """The servers of a test session, started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, ServerHandle] = {}

    def clean(self, name: str) -> ServerHandle:
        """A running server without data, whatever the last test did to it."""
        if name not in self._running:
            self._running[name] = _or_skip(name)
        server = self._running[name]
        if server.process.poll() is not None:
            server.launch()
        os.kill(server.pid, signal.SIGCONT)
        with redis.Redis.from_url(server.unix_url) as client:
            client.flushall()
        return server

    def close(self) -> None:
        for server in self._running.values():
            server.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    running = Servers()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(params=list(BINARIES))
def server(request: pytest.FixtureRequest, servers: Servers) -> ServerHandle:
    """Each kind of server in turn, without data."""
    name: str = request.param
    return servers.clean(name)


@pytest.fixture
def valkey9(servers: Servers) -> ServerHandle:
    return servers.clean("valkey9")


@pytest.fixture
def redis6(servers: Servers) -> ServerHandle:
    return servers.clean("redis6")


@pytest.fixture
def redis8(servers: Servers) -> ServerHandle:
    return servers.clean("redis8")


@pytest.fixture
def store(valkey9: ServerHandle) -> Iterator[Store]:
    with Store(valkey9.unix_url) as store:
        yield store


@pytest.fixture
def other_client(valkey9: ServerHandle) -> Iterator[redis.Redis]:
    """A plain client of the server of `store`."""
    with redis.Redis.from_url(valkey9.unix_url) as client:
        yield client


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers of the test's own, with options: `start_server("redis8", maxmemory="10mb")`."""
    started: list[ServerHandle] = []

    def start_one(name: str = "valkey9", **options: str | int) -> ServerHandle:
        started.append(_or_skip(name, **options))
        return started[-1]

    try:
        yield start_one
    finally:
        for server in started:
            server.close()


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    running = Clusters()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    """Three primaries with a replica each, without data: of Valkey 9, or of the kind that the test's parameter names."""
    return clusters.clean(getattr(request, "param", "valkey9"))


@pytest.fixture(params=["valkey9", "redis6", pytest.param("redis8", marks=pytest.mark.soak)])
def any_cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    """The same of the newest and of the oldest kind of server in turn."""
    name: str = request.param
    return clusters.clean(name)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """What a fault test states at its end: see support/figures.py."""
    return Figures(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A fault test that passes without having stated its figures fails."""
    result = yield
    require(pyfuncitem)
    return result


def _or_skip(name: str, **options: str | int) -> ServerHandle:
    try:
        return start(name, **options)
    except ServerMissingError as missing:
        _do_without(str(missing))


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must have every server. {reason}")
    pytest.skip(reason)
