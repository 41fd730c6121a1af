"""Claims, lines and turns as pure logic (design 4.7): who waits where, for how long, and when a turn goes on."""

from __future__ import annotations

import pytest

from txstate._engine import claims
from txstate._engine.claims import Claim, Line, Turn, awaited, wake
from txstate._engine.session import Session
from txstate._engine.settings import Settings

SETTINGS = Settings(random_id=lambda: "me", shortest_lease=0.02)
CLAIM = Claim.suiting(SETTINGS)


def held(since: float = 0.0, commits: int = 0) -> Turn:
    turn = Turn(CLAIM)
    turn.see(["a"], [CLAIM.value])
    turn.since, turn.commits = since, commits
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
    turn.see(["a", "b", "c", "d"], [b"me 90", None, b"you 50", b"somebody"])
    assert turn.held == ["a"]
    assert turn.others == {"c": 0.05, "d": 0.1}


def test_who_waits_keeps_earlier_claims_only_so_that_no_two_wait_for_each_other() -> None:
    turn = Turn(CLAIM)
    turn.see(["a", "b", "c"], [CLAIM.value, b"you 50", CLAIM.value])
    assert turn.queue(0.0, 1.0) == Line("b", 0.05 + 0.005, ("c",))
    turn.line = turn.queue(0.0, 1.0)
    names = [command[:2] for command in turn.waiting(SETTINGS, None)]
    assert names == [
        ("DEL", b"__txstate__:claim:c"),
        ("ZADD", b"__txstate__:line:c"),
        ("PEXPIRE", b"__txstate__:line:c"),
        ("BZPOPMIN", b"__txstate__:line:b"),
    ]


@pytest.mark.parametrize(
    ("waited", "longest", "seconds"), [(0.0, 1.0, 0.055), (0.2, 1.0, 0.4), (0.2, 0.1, 0.1), (0.2, 0.0, 0.001)]
)
def test_a_wait_outlasts_the_lease_and_the_line_but_not_the_deadline(
    waited: float, longest: float, seconds: float
) -> None:
    turn = Turn(CLAIM)
    turn.see(["a"], [b"you 50"])
    assert turn.queue(waited, longest).seconds == pytest.approx(seconds), "0 would be forever"


def test_a_turn_goes_on_for_some_commits_of_who_comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BURST", 8)
    trusted = prompt(8)
    assert [held(commits=number).lasts(trusted, 0.001) for number in (0, 6, 7)] == [True, True, False]
    assert not held().lasts(prompt(7), 0.001), "who is not known to come back makes others wait"
    assert not held().lasts(trusted, 0.011), "half of the lease has gone"


def test_trust_costs_more_after_each_time_that_it_was_a_mistake() -> None:
    session = prompt(8)
    session.called(session.finished + 0.005, late=0.01)
    assert (session.prompt, session.trusted) == (0, 8), "slow, but nobody was kept waiting for long"
    session.called(session.finished + 0.02, late=0.01)
    assert (session.prompt, session.trusted) == (0, 32)
    for _ in range(20):
        session.called(session.finished + 1, late=0.01)
    assert session.trusted == 8192


def test_a_commit_learns_who_was_waiting() -> None:
    assert [command[0] for command in wake(SETTINGS, ["a", "b"], None)] == ["ZADD", "PEXPIRE"] * 2
    assert awaited(["a", "b"], [1, 0, 1, 1]) == ["a"], "what nobody took lies there for a while"
