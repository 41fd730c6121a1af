"""The loop: attempt after attempt, until one commits or the policy says stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from txstate import events
from txstate._effects import Call, Onward, Sleep
from txstate._engine.armed import rearm
from txstate._engine.carried import abide, carried, tell
from txstate._engine.commit import commit, judged
from txstate._engine.doubt import interrupted
from txstate._engine.group import OUT
from txstate._engine.outcome import APPLIED, Apart, Committed, Conflict, GiveWay, Outage, Refused
from txstate._engine.pursuit import Pursuit, first_attempt
from txstate._engine.settings import logger
from txstate._engine.shared import is_carried
from txstate._engine.state import CONDEMNED, Condemned
from txstate._engine.turns import pass_on
from txstate.errors import ConflictError, TxStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Lost, Steps
    from txstate._engine.armed import Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.commit import Sent
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

_NOTHING: Final[Wanted] = {}

Outcome: TypeAlias = Committed | Conflict | GiveWay | Outage | Apart | Refused
Rest: TypeAlias = "Steps[tuple[Outcome, Any]]"
"""What is left of an attempt: up to what it comes to, and what its function returned."""


def transact(
    settings: Settings,
    body: Callable[[Attempt], Any],
    *,
    wanted: Wanted = _NOTHING,
    plain: bool = False,
    finish: Callable[[Attempt, Any], Any] | None = None,
    begun: tuple[Attempt, Rest | None] | None = None,
) -> Steps[Any]:
    """Run a function until an attempt of it commits.

    Args:
        settings: the store's.
        body: the function; called once per attempt.
        wanted: what the first attempt is to fetch before it calls the function.
        plain: the function is about these documents, finds them in the attempt's, and is a plain one in both twins: it
            is called from here.
        finish: makes the call's result of the function's, after the commit, while its documents can still be read.
        begun: the first attempt, if it is under way already, and what is left of it; None: all but to take a connection.

    Returns:
        What `finish`, or else the function, returned in the attempt that was committed.

    Raises:
        NotDurable: it was committed, and is less durable than the settings ask for.
        TxStateError: as documented for each; only `CommitUnknown` leaves it open whether the write happened.
        BaseException: what the function raised, or an interruption.
    """
    attempt, rest = begun or (first_attempt(settings, settings.clock()), None)
    call = Pursuit(settings, attempt.deadline - settings.retry.deadline)  # its turn may have begun later
    given = wanted if plain else None
    committed: Committed | None = None
    try:
        attempt.pursued = True
        while True:
            outcome, result = yield from _once(attempt, rest or _whole(attempt, body, wanted, given, call))
            rest = None
            if isinstance(outcome, Committed):
                committed = outcome
                call.committed(attempt, outcome.shortfall)
                if finish is not None:
                    result = finish(attempt, result)
                yield from _call_back(attempt, outcome) if attempt.callbacks else ()
                break
            tell(attempt, outcome)
            pause = call.pause_after(outcome, attempt)
            wanted = attempt.wanted(wanted)
            if not isinstance(outcome, Outage):
                attempt.release()
            attempt = call.following(attempt)
            if pause > 0:
                yield Sleep(pause)
    except GeneratorExit:
        raise
    except settings.interruptions as interruption:
        yield from abide(attempt, interruption)
        yield from interrupted(attempt, interruption)
    except TxStateError as error:
        yield from _give_up(call, error, attempt)
        raise
    finally:
        _part(attempt, committed)
        attempt.end()
    if committed is not None and committed.shortfall is not None:
        raise committed.shortfall.error(result)
    return result


def _whole(
    attempt: Attempt,
    body: Callable[[Attempt], Any],
    wanted: Wanted,
    given: Wanted | None,
    call: Pursuit,
) -> Rest:
    """One attempt from its beginning on."""
    if wanted:
        if attempt.channel is None:
            yield from attempt.begin(wanted)
        if not attempt.documents.ready(wanted):
            yield from attempt.read(wanted, prefetch=True)
    call.attribute(attempt)
    if given is None:
        result = yield Call(body, (attempt,))
    else:
        if not attempt.documents.hand_out(given):
            yield from attempt.read(given)
        result = body(attempt)
    return (yield from commit(attempt)), result


def ended(attempt: Attempt, result: Any) -> Rest:
    """An attempt whose function has returned."""
    return (yield from commit(attempt)), result


def judging(
    attempt: Attempt, session: Session, sent: Sent, came: Sequence[object] | Lost, result: Any
) -> Rest:
    """An attempt whose commit was sent. See `judged`."""
    return (yield from judged(attempt, session, sent, came)), result


def proving(attempt: Attempt, came: Sequence[object] | BaseException, result: Any) -> Rest:
    """An attempt that wrote nothing, and whose proof was sent. See `Attempt.prove`."""
    yield from attempt.prove(came)
    rearm(attempt)
    return APPLIED, result


def raised(error: BaseException) -> Rest:
    """An attempt that something was raised in: by its function, or into it."""
    yield from ()
    try:
        raise error
    finally:
        del error  # the traceback keeps this frame


def onward(steps: Steps[Any]) -> Any:
    """Begin these, for the driver to go on with; or their result, if that is all there is to it."""
    try:
        return Onward(steps, next(steps))
    except StopIteration as stop:
        return stop.value


def _once(attempt: Attempt, steps: Rest) -> Steps[tuple[Outcome, Any]]:
    """One attempt, up to its outcome."""
    try:
        return (yield from steps)
    except GeneratorExit:
        raise
    except attempt.settings.interruptions:
        raise
    except BaseException:
        # The state decides, not what comes out: a condemned attempt may have seen what never was.
        if attempt.state is not CONDEMNED and (yield from _current(attempt)):
            yield from pass_on(attempt)
            raise
    assert attempt.verdict is not None  # noqa: S101 - condemned attempts have one
    return attempt.verdict, None


def _current(attempt: Attempt) -> Steps[bool]:
    """Whether what a function raised may leave: what it had read was current during this call."""
    if attempt.doubt is not None or attempt.in_part is not None:
        return True  # it is the commit that says so, and whatever was read counts no more
    try:
        if is_carried(attempt):
            outcome = yield from carried(attempt)
            if not isinstance(outcome, Committed):
                attempt.condemn(outcome)
                return False
        yield from attempt.prove()
    except Condemned:
        return False
    rearm(attempt)
    return True


def _give_up(call: Pursuit, error: TxStateError, attempt: Attempt) -> Steps[None]:
    """Report; who has lost once too often gives back what it has claimed: others may be waiting for it."""
    call.give_up(error, attempt)
    if isinstance(error, ConflictError):
        yield from pass_on(attempt)


def _part(attempt: Attempt, outcome: Committed | None) -> None:
    """The call needs neither its connection nor the others of its process any more. May be repeated.

    In this order: those that it carried may need the connection's token to stay as it is, and whoever leads next takes
    the connection.
    """
    member = attempt.member
    if member is None or member.place is OUT:
        attempt.release()
        return
    if member.group is not None:
        tell(attempt, outcome)
    attempt.release()
    member.leave()


def _call_back(attempt: Attempt, outcome: Committed) -> Steps[None]:
    """Call what was registered by `on_commit`, once and in order; nobody waits for it any more."""
    _part(attempt, outcome)
    for callback, args in attempt.callbacks or ():
        try:
            yield Call(callback, args)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the transaction is committed
            name = getattr(callback, "__qualname__", repr(callback))
            logger.exception("the on_commit callback %s failed; the transaction is committed", name)
            attempt.settings.emit(events.CallbackFailed(callback=name, error=error))
