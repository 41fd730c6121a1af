"""Claims, lines and turns as pure logic (design 4.7): who waits where, for how long, and when a turn goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from support.scripted import ScriptedChannel, Wire

from txstate._engine import claims
from txstate._engine.armed import Tail
from txstate._engine.attempt import Attempt
from txstate._engine.claims import Claim, Line, Turn, awaited, call_next, open_door
from txstate._engine.session import Session
from txstate._engine.settings import Settings
from txstate._engine.turns import follows, with_commit

if TYPE_CHECKING:
    from txstate._effects import Channel

SETTINGS = Settings(random_id=lambda: "me", shortest_lease=0.02)
CLAIM = Claim.suiting(SETTINGS)


def held() -> Turn:
    turn = Turn(CLAIM)
    turn.see(["a"], [CLAIM.value])
    return turn


def prompt(times: int) -> Session:
    session = Session(b"token")
    for _ in range(times):
        session.called(session.finished, late=0.01)
    return session


@pytest.mark.parametrize(("took", "lease"), [(0.0, 20), (0.03, 90), (60.0, 2000)])
def test_a_lease_suits_what_an_attempt_takes_within_bounds(took: float, lease: int) -> None:
    claim = Claim.suiting(SETTINGS, took, CLAIM)
    assert (claim.holder, claim.lease) == (b"me", lease)
    assert claim.value == b"me %d" % lease


def test_own_claims_are_told_from_those_of_others() -> None:
    turn = Turn(CLAIM)
    turn.see([*"abcde"], [b"me 90", None, b"you 50", b"somebody", b"spoilt " + 5000 * b"9"])
    assert turn.held == ["a"]
    assert turn.others == {"c": 0.05, "d": 0.1, "e": 0.1}


def waiting(*values: bytes | None, line: Line | None = None) -> Turn:
    turn = Turn(CLAIM, line)
    turn.see(sorted("abcd"[: len(values)]), values)
    return turn


def test_who_waits_keeps_earlier_claims_only_so_that_no_two_wait_for_each_other() -> None:
    line = waiting(CLAIM.value, b"you 50", CLAIM.value).queue(SETTINGS, 0.0, 1.0)
    assert (line.key, line.left) == ("b", ("c",))


def test_what_is_given_back_in_line_is_not_made_to_last_as_it_may_be_another_s_by_then() -> None:
    line = waiting(CLAIM.value, b"you 50", CLAIM.value).queue(SETTINGS, 0.0, 1.0)
    commands = list(Turn(CLAIM, line, ["a", "c"]).claiming("abc", [b"A", b"B", b"C"]))
    assert [command[:2] for command in commands if command[0] == "PEXPIRE"] == [("PEXPIRE", b"A")]


@pytest.mark.parametrize(
    ("waited", "longest", "seconds"),
    [(0.0, 1.0, 0.25), (0.1, 2.0, 0.5), (0.2, 1.0, 0.985), (0.2, 0.1, 0.085), (0.2, 0.0, 0.001)],
)
def test_a_wait_in_line_outlasts_it_but_not_the_deadline(
    waited: float, longest: float, seconds: float
) -> None:
    line = waiting(b"you 50").queue(SETTINGS, waited, longest)
    assert line.seconds == pytest.approx(seconds), "0 would be forever"
    assert line.door == pytest.approx(min(0.015, max(longest / 2, 0.001)))


def test_who_was_at_the_door_in_vain_stays_there_once_for_as_long_as_the_claim_lasts() -> None:
    first = waiting(b"you 50").queue(SETTINGS, 0.0, 1.0)
    again = waiting(b"you 50", line=first).queue(SETTINGS, 0.0, 1.0)
    assert again.seconds == 0.0
    assert again.door == pytest.approx(0.055)
    assert waiting(b"you 50", line=again).queue(SETTINGS, 0.0, 1.0) == first
    elsewhere = waiting(None, b"you 50", line=first).queue(SETTINGS, 0.0, 1.0)
    assert elsewhere.seconds == pytest.approx(0.25), "another document, another line"


def test_a_turn_goes_on_for_some_commits_of_who_comes_back_at_once() -> None:
    trusted = prompt(4)
    assert [held().lasts(trusted, share * claims.TURN) for share in (0.0, 0.9, 1.1)] == [True, True, False]
    assert not held().lasts(prompt(3), 0.0), "who is not known to come back makes others wait"
    assert claims.shortest_kept(Settings()) > 4 * claims.TURN, "it may come back a little late"


def test_a_turn_goes_on_for_longer_where_many_wait_but_not_without_end() -> None:
    trusted = prompt(4)

    def lasts(waited: float) -> float:
        trusted.waited = waited
        return next(ms / 10 for ms in range(1000) if not held().lasts(trusted, ms / 10_000))

    assert lasts(0.0) == lasts(0.06) == 1000 * claims.TURN
    assert lasts(0.1) == pytest.approx(2.5, abs=0.1)
    assert lasts(10.0) == 4.0
    assert claims.shortest_kept(Settings()) > 2 * 0.004, "it may come back a little late"


def test_a_turn_is_kept_for_a_moment_whoever_has_the_claim() -> None:
    turn = Turn(CLAIM)
    turn.see(["a", "b"], [CLAIM.value] * 2)
    assert turn.last(SETTINGS, None) == [
        ("SET", b"__txstate__:claim:a", b"me 10", "PX", b"10"),
        ("SET", b"__txstate__:claim:b", b"me 10", "PX", b"10"),
    ]
    turn.claimed = [b"me 10"] * 2
    assert turn.after(["b", "a"], [b"me 10"] * 2) is turn, "nothing has changed"
    assert turn.after(["b", "a"], [b"me 10", b"you 20"]).others == {"b": 0.02}


@pytest.mark.parametrize(("guest", "written"), [(False, 1), (True, 0)])
def test_no_turn_is_kept_where_a_slot_is_only_on_its_way_in(*, guest: bool, written: int) -> None:
    session = prompt(4)
    session.guest = guest
    attempt = Attempt(SETTINGS, 1, 10.0, None, turn=held())
    attempt.channel = cast("Channel", ScriptedChannel(Wire()))
    attempt.channel.hot, attempt.tail = True, Tail(SETTINGS, session, "", {}, timed=False)
    assert len(with_commit(follows(attempt, session))) == written


def test_trust_is_lost_bit_by_bit_and_costs_more_after_each_time_that_it_was_a_mistake() -> None:
    session = prompt(8)
    session.called(session.finished + 0.005, late=0.01)
    assert (session.prompt, session.trusted) == (4, 4), "slow, but nobody was kept waiting for long"
    session.called(session.finished + 0.02, late=0.01)
    assert (session.prompt, session.trusted) == (2, 8)
    for _ in range(20):
        session.called(session.finished + 1, late=0.01)
    assert (session.prompt, session.trusted) == (0, 8192)


@pytest.mark.parametrize(("times", "mistakes"), [(8, 1), (16, 2), (64, 3), (100_000, 3)])
def test_who_came_back_at_once_for_long_is_trusted_after_a_mistake_but_not_after_many(
    times: int, mistakes: int
) -> None:
    session = prompt(times)
    made = 0
    while held().lasts(session, 0.0):
        session.called(session.finished + 1, late=0.01)
        made += 1
    assert made == mistakes


def test_trust_is_won_back_by_who_came_back_at_once_for_long() -> None:
    session = prompt(0)
    session.called(session.finished + 1, late=0.01)
    assert session.trusted == 8
    for _ in range(8 * 64 - 1):
        session.called(session.finished, late=0.01)
    assert session.trusted == 8
    session.called(session.finished, late=0.01)
    assert session.trusted == 4
    for _ in range(1000):
        session.called(session.finished, late=0.01)
    assert session.trusted == 4, "as at the beginning, and no easier"
    assert session.prompt > session.trusted


def test_a_commit_learns_who_was_waiting() -> None:
    for wake, where in ((open_door, b"door"), (call_next, b"line")):
        commands = wake(SETTINGS, ["a", "b"], None)
        assert [command[:2] for command in commands[:4]] == [
            (verb, b"__txstate__:%b:%b" % (where, key))
            for key in (b"a", b"b")
            for verb in ("ZADD", "PEXPIRE")
        ]
    assert awaited(["a", "b"], [0, 1]) == ["a"], "what nobody took lies there for a while"
