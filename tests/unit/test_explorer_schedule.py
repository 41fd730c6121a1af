"""Schedules as text, and the three ways to make choices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txstate import UsageError
from txstate.testing import Schedule, ScheduleDiverged
from txstate.testing._explorer.schedule import DELIVER, ByNumbers, Choice, Drawn, Exhaustive, Guide, Scripted

ZERO, ONE = Choice(0), Choice(1)


def test_a_schedule_reads_as_it_is_written() -> None:
    schedule = Schedule((ZERO, Choice(1, "drop_reply"), Choice(0, "expiry", "a b=c:d!"), Choice(0, DELIVER)))
    assert str(schedule) == "0 1:drop_reply 0:expiry=a%20b%3Dc%3Ad%21 0!"
    assert Schedule.parse(str(schedule)) == schedule


names = st.text(min_size=1).filter(lambda name: name != DELIVER)
choices = st.one_of(
    st.builds(Choice, st.integers(0, 99), st.just(""), st.just("")),
    st.builds(Choice, st.integers(0, 99), names, st.text()),
    st.builds(Choice, st.integers(0, 99), st.just(DELIVER), st.just("")),
)


@given(st.lists(choices))
def test_every_schedule_survives_its_text(made: list[Choice]) -> None:
    schedule = Schedule(tuple(made))
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize("text", ["x", "0:", "-1", "0:a=b c:", "0 1 !", "0!1", "0=a"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no step of a schedule"):
        Schedule.parse(text)


def test_fewer_faults_make_a_schedule_simpler_then_fewer_steps_then_fewer_switches() -> None:
    ordered = ["0 0 1 1", "0 1 0 1", "0 0 0 1 1", "0:cut 1", "0:cut 1!"]
    weights = [Schedule.parse(text).weight for text in ordered]
    assert weights == sorted(weights)
    assert len(set(weights)) == len(weights)


def interleave(guide: Guide, steps: int) -> str:
    """Let two actors take as many steps each."""
    guide.begin()
    left, taken = [steps, steps], ""
    while any(left):
        choice = guide.choose([Choice(actor) for actor in (0, 1) if left[actor]])
        left[choice.actor] -= 1
        taken += str(choice.actor)
    return taken


def test_depth_first_takes_each_way_once() -> None:
    guide, taken = Exhaustive(), list[str]()
    while True:
        taken.append(interleave(guide, 2))
        if not guide.advance():
            break
    assert taken == ["0011", "0101", "0110", "1001", "1010", "1100"]


def test_a_run_may_be_played_once_more() -> None:
    guide = Exhaustive()
    assert interleave(guide, 2) == interleave(guide, 2) == "0011"
    assert guide.advance()
    assert interleave(guide, 2) == interleave(guide, 2) == "0101"


def test_other_choices_than_before_are_a_divergence() -> None:
    guide = Exhaustive()
    interleave(guide, 2)
    guide.advance()
    guide.begin()
    with pytest.raises(ScheduleDiverged, match="not deterministic"):
        guide.choose([ZERO])


def test_an_earlier_end_than_before_is_a_divergence() -> None:
    guide = Exhaustive()
    interleave(guide, 2)
    guide.advance()
    guide.begin()
    guide.choose([ZERO, ONE])
    with pytest.raises(ScheduleDiverged, match="all transactions have ended"):
        guide.advance()


def test_a_script_is_followed_and_then_left_to_the_plainest_choices() -> None:
    guide = Scripted(Schedule.parse("1 0"))
    assert interleave(guide, 2) == "1001"
    guide.end()


def test_a_script_that_can_not_be_followed_says_so() -> None:
    with pytest.raises(ScheduleDiverged, match=r"at step 3 .* goes on with 1, but possible was: 0"):
        interleave(Scripted(Schedule.parse("1 1 1")), 2)


def test_a_script_that_is_too_long_says_so() -> None:
    guide = Scripted(Schedule.parse("0 1 0"))
    interleave(guide, 1)
    with pytest.raises(ScheduleDiverged, match="all transactions have ended"):
        guide.end()


def test_numbers_take_any_choice_and_zero_the_plainest() -> None:
    assert interleave(ByNumbers(Drawn(())), 2) == "0011"
    assert interleave(ByNumbers(Drawn((1, 2, 3))), 2) == "1010"
