"""When a thread looks for a reply before it sleeps, and when it does not."""

from __future__ import annotations

import itertools

import pytest

from txstate._drivers import spin
from txstate._drivers.spin import Spin

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
    assert [machine.reply(looking, 2.5 * LOOK) for _ in range(9)] == [0] * 8 + [4]


@pytest.mark.parametrize("arrives", [None, 0.0], ids=["never", "at once"])
def test_where_it_does_not_pay_it_rests_for_longer_and_longer(
    machine: Machine, arrives: float | None
) -> None:
    longer = [0, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]
    assert rests(machine, machine.spin(), arrives, len(longer)) == longer


def test_once_it_has_paid_again_it_rests_for_a_short_time(machine: Machine) -> None:
    looking = machine.spin()
    assert rests(machine, looking, None, 3) == [0, 8, 16]
    rest(machine, looking)
    assert machine.reply(looking, LOOK / 2) == 2
    assert rests(machine, looking, None, 2) == [0, 8]


def test_who_loses_the_processor_to_others_leaves_it_to_them_for_longer_and_longer(machine: Machine) -> None:
    looking = machine.spin()
    found = []
    for _ in range(9):
        assert machine.reply(looking, 2.5 * LOOK) == 4
        machine.switches += 1
        assert machine.reply(looking, 2.5 * LOOK) == 0, "it did not look"
        found.append(looking.rest)
        rest(machine, looking)
    assert found == [8, 16, 32, 64, 128, 256, 512, 1024, 1024]


def test_who_rarely_loses_the_processor_rests_for_a_short_time(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(5):
        assert {machine.reply(looking, 2.5 * LOOK) for _ in range(256)} == {4}
        machine.switches += 1
        machine.reply(looking, 2.5 * LOOK)
        assert looking.rest == 8
        rest(machine, looking)


def test_a_late_reply_now_and_then_is_no_sign_that_others_wait(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(16):
        assert {machine.reply(looking, 2.5 * LOOK) for _ in range(16)} == {4}
        machine.reply(looking, None)
        rest(machine, looking)
    machine.switches += 1
    machine.reply(looking, 2.5 * LOOK)
    assert looking.rest == 8, "256 looks have paid since others had the processor"


def turn(machine: Machine, looking: Spin, *arrives: float | None) -> list[int]:
    """How often it looked for each reply of a turn."""
    looking.begin_turn()
    return [machine.reply(looking, each) for each in arrives]


def test_in_a_turn_it_looks_but_for_the_first_replies(machine: Machine) -> None:
    looking = machine.spin()
    looking.rest = 1024
    for _ in range(3):
        assert turn(machine, looking, *[2.5 * LOOK] * 12) == [0, 0] + [4] * 10


def test_what_the_processor_was_taken_for_before_a_turn_says_nothing(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(3):
        machine.switches += 1
        assert turn(machine, looking, *[2.5 * LOOK] * 12) == [0, 0] + [4] * 10


def test_a_look_in_vain_does_not_spoil_a_turn_in_which_others_paid(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(3):
        replies = [2.5 * LOOK] * 11 + [None] + [2.5 * LOOK] * 9
        assert turn(machine, looking, *replies)[12:] == [0] * 8 + [4]


@pytest.mark.parametrize("arrives", [None, 0.0], ids=["never", "at once"])
def test_where_it_does_not_pay_it_sits_out_more_and_more_turns(
    machine: Machine, arrives: float | None
) -> None:
    looking, looked = machine.spin(), list[int]()
    for number in range(500):
        if any(turn(machine, looking, *[arrives] * 4)):
            looked.append(number)
    between = [after - before - 1 for before, after in itertools.pairwise(looked)]
    assert between[:7] == [1, 3, 7, 15, 31, 63, 63]


def test_who_sat_out_turns_and_is_right_then_sits_out_none(machine: Machine) -> None:
    looking = machine.spin()
    for _ in range(50):
        turn(machine, looking, *[None] * 4)
    looked = [any(turn(machine, looking, *[2.5 * LOOK] * 4)) for _ in range(100)]
    first = looked.index(True)
    assert first > 0
    assert all(looked[first:])


def test_beside_another_thread_it_looks_no_longer_and_holds_it_against_nobody(machine: Machine) -> None:
    looking = machine.spin()
    machine.alone = False
    assert machine.reply(looking, None) == 2
    machine.alone = True
    assert machine.reply(looking, 2.5 * LOOK) == 4


def test_without_time_it_never_looks(machine: Machine) -> None:
    looking = machine.spin(0.0)
    assert {machine.reply(looking, 2.5 * LOOK) for _ in range(5000)} == {0}
    assert turn(machine, looking, *[2.5 * LOOK] * 12) == [0] * 12
