"""The straight way of `run`: of a transaction whose function finds what it asks for on an armed connection, or by a first read.

What `straight` is to `update`, this is to `run`: it sends what `commit` would send, or proves what `Attempt.prove` would,
and builds nothing that such a transaction does not need. There is an attempt from the beginning, as the function asks it
for documents, and it knows all that has happened. So whatever is unusual goes on the long way (`transaction`) with
it, from where it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txstate._effects import NOTHING, Call, Lost, Onward, ReplyError, Send
from txstate._engine.armed import Armed
from txstate._engine.claims import NO_TURN
from txstate._engine.commit import EXEC, LEAST, MULTI, Sent
from txstate._engine.doubt import settle
from txstate._engine.outcome import APPLIED, applied
from txstate._engine.pursuit import first_attempt
from txstate._engine.reads import Stale
from txstate._engine.resolve import Evidence
from txstate._engine.state import COMMITTED, ENDED, RUNNING
from txstate._engine.transaction import ended, judging, onward, proving, raised, transact
from txstate._engine.turns import follows, with_commit
from txstate._engine.writeset import commands_of, write_set

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Command, Steps
    from txstate._engine.attempt import Attempt
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings
    from txstate._engine.transaction import Rest


class _UnusualError(Exception):
    """Something is not as it most often is."""


def run(  # noqa: C901, PLR0912, PLR0915 - one way, and each turn of it costs a call
    settings: Settings, body: Callable[[Attempt], Any]
) -> Steps[Any]:
    """Run a function until an attempt of it commits.

    Args:
        settings: the store's.
        body: the function; called once per attempt.

    Returns:
        What it returned in the attempt that was committed.

    Raises:
        BaseException: as `transact`.
    """
    if not settings.plain:
        return onward(transact(settings, body))
    attempt = first_attempt(settings, settings.clock())
    session: Session | None = None
    sent: Sent | None = None
    result: Any = None
    came: Sequence[object] = ()
    failed: list[Any] = [None]  # a local of its own would make a cycle with its traceback
    try:
        result = yield Call(body, (attempt,))
        channel, read_set, member = attempt.channel, attempt.read_set, attempt.member
        if (
            not read_set.reads  # all of it was read ahead, or for the first time
            and channel is not None
            and attempt.state is RUNNING
            and not attempt.busy
            and attempt.callbacks is None
            and (member is None or member.group is None)
            and not attempt.documents.pending
            and (at := channel.session) is not None
        ):
            writes = attempt.writes = write_set(attempt)
            left, proof = attempt.deadline - settings.clock(), read_set.proof
            if left > 0 and writes and at.token_error is None:
                number, turn = at.next_id(), read_set.turn
                commands: list[Command] = [MULTI, at.stamp(number, settings.token_ttl, attempt.began)]
                commands += commands_of(attempt, writes)
                # After the commands: nothing is read ahead that they show to be large.
                behind = follows(attempt, at)
                commands += with_commit(behind)
                commands.append(EXEC)
                size = len(commands)
                session, sent = at, Sent(writes, size, behind, turn)
                attempt.doubt = Evidence(at.token, number, read_set.names, writes)
                attempt.round_trips += 1
                attempt.busy = True
                came = yield Send(
                    channel,
                    commands,
                    min(settings.timeout, max(LEAST, left / 2)),
                    NOTHING if behind is None else behind.commands,
                )
                attempt.busy = False
                if applied(came, size):
                    at.stamped(attempt.began)
                    at.watching = behind is not None and behind.watches
                    settle(attempt, APPLIED)
                    if behind is not None:
                        behind.take(came[size:], turn)
            elif left > 0 and not writes and proof is not None and read_set.turn is NO_TURN:
                session = at
                attempt.round_trips += 1
                attempt.busy = True
                came = yield Send(channel, (), min(settings.timeout, left), proof.commands)
                attempt.busy = False
                proof.take(came, sum(read_set.present.values()))
                attempt.state = COMMITTED
                at.armed = Armed(attempt.signature, read_set, attempt.documents.as_read(), attempt.tail)
            elif left > 0 and not writes and not read_set.unproven and read_set.turn is NO_TURN:
                attempt.state = COMMITTED
            if attempt.state is COMMITTED:
                attempt.channel = None
                channel.release()
                if member is not None and member.groups.resign(member) and attempt.tail is not None:
                    attempt.tail.leader = member  # after the connection, as whoever leads next takes that
                attempt.member = None  # the last: who is interrupted before that has still to leave
                attempt.end()
                return result
        # Nothing falls out of here, so that all below is laid behind it: a jump back, as of Python 3.12, would be a moment
        # for an interruption that nobody takes care of.
        raise _UnusualError
    except GeneratorExit:
        _abandon(attempt, session)
        raise
    except _UnusualError:
        pass
    except BaseException as error:  # noqa: BLE001 - the long way knows what to do about each
        failed[0] = error
    if attempt.state is ENDED:
        raise failed.pop()
    rest: Any = None
    while True:  # once, and once more for each interruption that strikes here
        try:
            if rest is not None:
                return Onward(rest, rest.throw(failed[0]))
            rest = transact(
                settings, body, begun=(attempt, _rest(attempt, session, sent, came, result, failed=failed))
            )
            return Onward(rest, next(rest))
        except StopIteration as stop:
            return stop.value
        except settings.interruptions as interruption:
            if not attempt.pursued:
                rest = None  # nobody takes care of it yet
            elif rest is None or not rest.gi_suspended:
                raise
            failed[0] = interruption


def _rest(
    attempt: Attempt,
    session: Session | None,
    sent: Sent | None,
    came: Sequence[object],
    result: Any,
    *,
    failed: list[Any],
) -> Rest:
    """What is left of an attempt.

    Args:
        attempt: it tells where it stands, but for what was sent last.
        session: where that was sent; None: nothing was.
        sent: the commit; None: it was the proof.
        came: the replies.
        result: what the function returned.
        failed: what was raised, and is now the attempt's business; None: something is unusual.
    """
    error: BaseException | None = failed[0]
    failed[0] = None
    if session is not None:
        attempt.busy = False  # else it is a task that was left behind, whose reply is still to come
    if session is None or attempt.state is COMMITTED:
        return ended(attempt, result) if error is None else raised(error)
    if error is not None and attempt.channel is not None and not isinstance(error, Stale | ReplyError):
        attempt.channel.drop()  # a reply may be on its way
    if sent is None:
        return proving(attempt, error or came, result)
    if error is None or isinstance(error, Lost):
        return judging(attempt, session, sent, error or came, result)
    return raised(error)


def _abandon(attempt: Attempt, session: Session | None) -> None:
    """Nobody drives its steps any more. In this order: whoever leads next takes the connection."""
    if session is not None and attempt.channel is not None:
        attempt.channel.drop()
        attempt.busy = False
    attempt.release()
    if attempt.member is not None:
        attempt.member.leave()
    attempt.end()
