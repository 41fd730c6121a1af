"""Eight processes on shared documents while everything goes wrong: the whole history must be strictly serializable."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from support.hammer import Hammers
from support.wire import client_of
from support.workloads import judge

from txstate.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from support.figures import Figures
    from support.servers import ServerHandle, StartServer
    from support.workloads import Entry

PROCESSES = 8


@pytest.mark.fault(number=1)
@pytest.mark.parametrize(
    ("server", "seconds", "seed"),
    [
        ("valkey9", 2, 1),
        *(pytest.param(name, 60, 2, marks=pytest.mark.soak) for name in ("valkey9", "redis6", "redis8")),
    ],
    indirect=["server"],
)
def test_processes_whose_connections_are_cut_six_times_a_second_have_a_serializable_history(
    server: ServerHandle, seconds: int, seed: int, tmp_path: Path, figures: Figures
) -> None:
    hammers = partial(Hammers, processes=PROCESSES, seed=seed, folder=tmp_path)
    entries, _ = in_a_storm(server, hammers, seconds, seed, figures)
    assert_nobody_starved(entries)


@pytest.mark.fault(number=1)
@pytest.mark.parametrize(
    ("server", "seconds", "seed"),
    [
        ("valkey9", 2, 5),
        *(pytest.param(name, 60, 6, marks=pytest.mark.soak) for name in ("valkey9", "redis6")),
    ],
    indirect=["server"],
)
def test_processes_of_several_threads_that_share_commits_have_a_serializable_history(
    server: ServerHandle, seconds: int, seed: int, tmp_path: Path, figures: Figures
) -> None:
    hammers = partial(Hammers, processes=3, threads=6, seed=seed, folder=tmp_path)
    _, shared = in_a_storm(server, hammers, seconds, seed, figures)
    assert shared >= 5 * seconds


def in_a_storm(
    server: ServerHandle, hammers_at: Callable[[str], Hammers], seconds: int, seed: int, figures: Figures
) -> tuple[list[Entry], int]:
    """Let them work while connections are cut, and judge it. What they did, and how often they shared a commit."""
    with FaultProxy(server.url) as proxy:
        with hammers_at(proxy.url) as hammers:
            storm = proxy.cut_randomly(per_second=6, seed=seed)
            time.sleep(seconds)
            storm.stop()
            entries = hammers.stop()
        assert proxy.fired >= 3 * seconds
    with client_of(server.unix_url) as client:
        tally, verdict = judge(entries, client)
    figures(server, fired=proxy.fired, seed=seed, tally=tally, verdict=verdict)
    assert tally.failed == 0
    return entries, hammers.shared


@pytest.mark.fault(number=25)
@pytest.mark.parametrize(
    ("name", "seconds", "seed"),
    [
        ("valkey9", 1, 3),
        *(pytest.param(name, 120, 4, marks=pytest.mark.soak) for name in ("valkey9", "redis6", "redis8")),
    ],
)
def test_everything_that_can_go_wrong_at_once_leaves_a_serializable_history_and_nobody_starved(
    name: str, seconds: int, seed: int, start_server: StartServer, tmp_path: Path, *, figures: Figures
) -> None:
    server, rng = start_server(name, appendonly="yes", appendfsync="always"), random.Random(seed)
    with FaultProxy(server.url) as proxy:
        with Hammers(proxy.url, processes=PROCESSES, seed=seed, folder=tmp_path) as hammers:
            scene, fired = Scene(server, proxy, hammers, rng), Counter[str]()
            storm = proxy.cut_randomly(per_second=3, seed=seed)
            until = time.monotonic() + seconds
            while time.monotonic() < until or len(fired) < len(MISCHIEF):
                for mischief in rng.sample(MISCHIEF, len(MISCHIEF)):
                    mischief(scene)
                    fired[mischief.__name__] += 1
                    time.sleep(rng.uniform(0, 0.3))
            storm.stop()
            entries = hammers.stop()
        cuts = proxy.fired
    assert cuts > seconds
    assert {entry.error for entry in entries} <= {"", "CommitUnknown", "ServerRefused"}
    with client_of(server.unix_url) as client:
        tally, verdict = judge(entries, client)
    figures(server, fired=cuts + fired.total(), seed=seed, tally=tally, verdict=verdict)
    assert_nobody_starved(entries)


@dataclass(frozen=True)
class Scene:
    """What mischief can be done to."""

    server: ServerHandle
    proxy: FaultProxy
    hammers: Hammers
    rng: random.Random

    def wait(self, most: float) -> None:
        """Let it take effect for a while, at most so many seconds."""
        time.sleep(self.rng.uniform(0, most))

    @contextmanager
    def configured(self, option: str, value: int, normal: int) -> Iterator[None]:
        """The server with another option while the block runs."""
        with client_of(self.server.unix_url) as admin:
            admin.config_set(option, value)
            yield
            admin.config_set(option, normal)


def server_killed(scene: Scene) -> None:
    scene.server.restart(kill=True)


def server_stopped(scene: Scene) -> None:
    os.kill(scene.server.pid, signal.SIGSTOP)
    scene.wait(1.5)
    os.kill(scene.server.pid, signal.SIGCONT)


def server_busy(scene: Scene) -> None:
    with client_of(scene.server.unix_url) as admin:
        admin.eval("for i = 1, 3000000 do end", 0)


def server_unreachable(scene: Scene) -> None:
    scene.proxy.refuse()
    scene.proxy.kill()
    scene.wait(0.3)
    scene.proxy.accept()


def out_of_memory(scene: Scene) -> None:
    with scene.configured("maxmemory", 1, 0):
        scene.wait(0.1)


def out_of_connections(scene: Scene) -> None:
    with scene.configured("maxclients", 1, 1000):
        scene.proxy.kill()
        scene.wait(0.2)


def clients_disconnected(scene: Scene) -> None:
    with client_of(scene.server.unix_url) as admin:
        admin.client_kill_filter(_type="normal", skipme=True)


def client_killed(scene: Scene) -> None:
    scene.hammers.replace(scene.rng.randrange(PROCESSES))


def client_stopped(scene: Scene) -> None:
    pid = scene.rng.choice(scene.hammers.pids)
    os.kill(pid, signal.SIGSTOP)
    scene.wait(1.5)
    os.kill(pid, signal.SIGCONT)


def tokens_deleted(scene: Scene) -> None:
    with client_of(scene.server.unix_url) as admin:
        admin.delete("nothing", *admin.keys("__txstate__:token:*"))


def others_writing(scene: Scene) -> None:
    with client_of(scene.server.unix_url) as admin:
        for key in admin.scan_iter("[acs]*"):
            admin.hset(key, "other", "1")


def network_slow(scene: Scene) -> None:
    scene.proxy.delay(requests=0.005, replies=0.005)
    scene.wait(0.3)
    scene.proxy.delay()


MISCHIEF: Final = (
    server_killed,
    server_stopped,
    server_busy,
    server_unreachable,
    out_of_memory,
    out_of_connections,
    clients_disconnected,
    client_killed,
    client_stopped,
    tokens_deleted,
    others_writing,
    network_slow,
)


def assert_nobody_starved(entries: Sequence[Entry]) -> None:
    """Each process has committed in its time, and not far less often than the others."""
    rates = {}
    for process in {entry.process for entry in entries}:
        own = [entry for entry in entries if entry.process == process]
        nanoseconds = (own[-1].ret or own[-1].call) - own[0].call
        if nanoseconds > 1e9:
            rates[process] = sum(entry.type == "ok" for entry in own) / nanoseconds
    assert min(rates.values()) > statistics.mean(rates.values()) / 10, rates
