"""When a thread looks for a reply before it sleeps, and when it does not."""

from __future__ import annotations

import select
import socket
from typing import Any, cast

import pytest

from txstate._drivers import spin
from txstate._drivers.spin import Spin
from txstate._drivers.sync import SyncChannel, SyncDriver
from txstate._effects import Constant

SECONDS = 100e-6
LOOK = 10e-6


class Machine:
    """Time, the scheduler, and a socket on which a reply arrives.

    Attributes:
        now: seconds; each look at the socket takes some.
        switches: how often the processor was taken from the process.
        alone: whether no other thread is there.
        looks: at the socket.
        arrives: how long after the first look the reply is there; None: never.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.switches, self.alone, self.looks = 0.0, 0, True, 0
        self.arrives: float | None = None
        self._began = 0.0
        monkeypatch.setattr(spin, "perf_counter", lambda: self.now)
        monkeypatch.setattr(spin, "_switches", lambda: self.switches)

    def spin(self, seconds: float = SECONDS) -> Spin:
        return Spin(seconds, lambda: self.alone)

    def poll(self, timeout: float) -> bool:
        assert timeout == 0, "it slept"
        there = self.arrives is not None and self.now >= self._began + self.arrives
        self.now += LOOK
        self.looks += 1
        return there

    def reply(self, looking: Spin, arrives: float | None) -> int:
        """One exchange, as the driver has it. Returns how often it looked."""
        self.arrives, self._began, before = arrives, self.now, self.looks
        if looking.rest:
            looking.rest -= 1
        else:
            looking.look(self.poll)
        return self.looks - before


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def rests(machine: Machine, looking: Spin, arrives: float | None, count: int) -> list[int]:
    """How many exchanges there were between looks that did not pay."""
    found: list[int] = []
    quiet = 0
    while len(found) < count:
        if machine.reply(looking, arrives):
            found.append(quiet)
            quiet = 0
        else:
            quiet += 1
    return found


def rest(machine: Machine, looking: Spin) -> None:
    """Until it would look again."""
    while looking.rest:
        machine.reply(looking, None)


def test_it_looks_until_the_reply_is_there(machine: Machine) -> None:
    looking = machine.spin()
    assert [machine.reply(looking, 2.5 * LOOK) for _ in range(100)] == [4] * 100


def test_it_looks_no_longer_than_it_may_and_then_rests(machine: Machine) -> None:
    looking = machine.spin()
    assert machine.reply(looking, None) == pytest.approx(SECONDS / LOOK, abs=2)
    assert [machine.reply(looking, 2.5 * LOOK) for _ in range(3)] == [0] * 2 + [4]


@pytest.mark.parametrize("arrives", [None, 0.0], ids=["never", "at once"])
def test_where_it_does_not_pay_it_rests_for_longer_and_longer(
    machine: Machine, arrives: float | None
) -> None:
    longer = [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]
    assert rests(machine, machine.spin(), arrives, len(longer)) == longer


def test_once_it_has_paid_again_it_rests_for_a_short_time(machine: Machine) -> None:
    looking = machine.spin()
    assert rests(machine, looking, None, 3) == [0, 2, 4]
    rest(machine, looking)
    assert machine.reply(looking, LOOK / 2) == 2
    assert rests(machine, looking, None, 2) == [0, 2]


def test_who_loses_the_processor_to_others_leaves_it_to_them_for_longer_and_longer(machine: Machine) -> None:
    looking = machine.spin()
    found = []
    for _ in range(11):
        assert machine.reply(looking, 2.5 * LOOK) == 4
        machine.switches += 1
        assert machine.reply(looking, 2.5 * LOOK) == 0, "it did not look"
        found.append(looking.rest)
        rest(machine, looking)
    assert found == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]


def test_who_rarely_loses_the_processor_rests_for_a_short_time(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(5):
        assert {machine.reply(looking, 2.5 * LOOK) for _ in range(256)} == {4}
        machine.switches += 1
        machine.reply(looking, 2.5 * LOOK)
        assert looking.rest == 2
        rest(machine, looking)


def test_a_late_reply_now_and_then_is_no_sign_that_others_wait(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(16):
        assert {machine.reply(looking, 2.5 * LOOK) for _ in range(16)} == {4}
        machine.reply(looking, None)
        rest(machine, looking)
    machine.switches += 1
    machine.reply(looking, 2.5 * LOOK)
    assert looking.rest == 2, "256 looks have paid since others had the processor"


def test_who_lost_it_while_it_slept_for_long_looks_all_the_same(machine: Machine) -> None:
    """As who stands in line does, for its turn."""
    looking = machine.spin()
    machine.switches += 1
    looking.awoke()
    assert [machine.reply(looking, 2.5 * LOOK) for _ in range(6)] == [0, 0, 4, 4, 4, 4]


def test_beside_another_thread_it_looks_no_longer_and_holds_it_against_nobody(machine: Machine) -> None:
    looking = machine.spin()
    machine.alone = False
    assert machine.reply(looking, None) == 2
    machine.alone = True
    assert machine.reply(looking, 2.5 * LOOK) == 4


def test_without_time_it_never_looks(machine: Machine) -> None:
    looking = machine.spin(0.0)
    assert {machine.reply(looking, 2.5 * LOOK) for _ in range(5000)} == {0}


# In the blocking driver


@pytest.mark.parametrize(("wakes", "wanted"), [(False, ["look", "look"]), (True, [])])
def test_who_lets_others_go_on_leaves_the_processor_to_them(
    monkeypatch: pytest.MonkeyPatch, *, wakes: bool, wanted: list[str]
) -> None:
    told = []
    monkeypatch.setattr(Spin, "look", lambda _self, _poll: told.append("look"))
    tail = Constant([("PING",)])
    tail.wakes = wakes
    near, far = socket.socketpair()
    with near, far:
        channel = SyncChannel(SyncDriver(cast("Any", None), max_connections=1, spin=SECONDS))
        channel._socket = near
        channel._arrivals.register(near, select.POLLIN)
        for _ in range(2):
            far.sendall(b"+PONG\r\n")
            assert channel.exchange((), 5.0, tail) == [b"PONG"]
    assert told == wanted


@pytest.mark.parametrize(("threads", "looks"), [(1, 11), (2, 2)])
def test_another_connection_in_use_is_another_thread(machine: Machine, threads: int, looks: int) -> None:
    driver = SyncDriver(cast("Any", None), max_connections=2, spin=SECONDS)
    channel, *_ = [driver.pool.take() for _ in range(threads)]
    assert channel is not None
    near, far = socket.socketpair()
    with near, far:
        channel._socket, channel._arrivals = near, cast("Any", machine)
        far.sendall(b"+PONG\r\n")
        assert channel.exchange([("PING",)], 5.0) == [b"PONG"]
    assert machine.looks == pytest.approx(looks, abs=1 if threads == 1 else 0)
