"""A commit from EXEC's first byte on: it is in doubt until its own reply has been parsed, or its fate was looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from txstate._effects import Acquire, ReplyError
from txstate._engine.confirm import confirm
from txstate._engine.outcome import Committed, Conflict, Outage, Partial, Refused
from txstate._engine.resolve import Evidence, Finding, resolve
from txstate._engine.state import COMMITTED
from txstate.errors import CommitUnknown
from txstate.events import InDoubt, Resolved
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._effects import Lost, Steps
    from txstate._engine.attempt import Attempt


def settle(attempt: Attempt, outcome: Committed | Conflict | Outage | Refused | Partial) -> None:
    """Enter the server's verdict into the attempt: nothing is in doubt any more."""
    if isinstance(outcome, Committed):
        attempt.state = COMMITTED
        written = []
        for record, _, version in attempt.writes:
            record.committed_version = version
            written.append(record.key)
        attempt.written = tuple(written)
        return
    attempt.doubt = None
    if isinstance(outcome, Partial):
        attempt.in_part = _applied_in_part(outcome.replies)
    if not isinstance(outcome, Conflict) and attempt.channel is not None:
        attempt.channel.drop()


def in_doubt(attempt: Attempt, lost: Lost) -> Steps[Committed | Outage]:
    """Resolve a commit whose reply was lost."""
    evidence, finding = attempt.doubt, Finding()
    assert evidence is not None  # noqa: S101 - set by the callers
    yield from _resolve(attempt, evidence, finding)
    if finding.interruption is not None:
        raise finding.interruption
    if finding.resolution is Resolution.UNKNOWN and not attempt.writes:
        return Outage(lost)  # what is unknown are others' writes
    if finding.resolution is Resolution.UNKNOWN:
        raise _unknown(evidence, finding.resolution, finding.reason or lost)
    if finding.resolution is Resolution.NOT_COMMITTED:
        attempt.doubt = None
        return Outage(lost)
    settle(attempt, Committed())
    assert attempt.channel is not None  # noqa: S101 - it was resolved on it
    return Committed((yield from confirm(attempt.channel, evidence, attempt.settings, attempt.left())))


def interrupted(attempt: Attempt, interruption: BaseException) -> Steps[NoReturn]:
    """Raise the interruption; its cause says so if the write may have happened.

    Raises:
        BaseException: always the interruption.
    """
    if attempt.in_part is not None:
        raise interruption from attempt.in_part
    evidence = attempt.doubt
    if evidence is None:
        raise interruption
    if attempt.state is COMMITTED:
        if not attempt.writes:
            raise interruption  # what was applied are others' writes
        raise interruption from _unknown(evidence, Resolution.COMMITTED, None)
    if attempt.finding is None:
        yield from _resolve(attempt, evidence, Finding(interruption=interruption))
    finding = attempt.finding
    assert finding is not None  # noqa: S101 - resolved now or before
    if finding.resolution is Resolution.NOT_COMMITTED or not attempt.writes:
        raise interruption
    raise interruption from _unknown(evidence, finding.resolution, finding.reason)


def explain(
    attempt: Attempt | None, interruption: BaseException, committed: tuple[bytes, bytes] | None = None
) -> None:
    """Say in an interruption's cause that the transaction was applied, if it struck after that was known.

    Args:
        attempt: the latest one; None: none was needed.
        interruption: what struck.
        committed: of a commit for which none was needed, the token and the number in it.
    """
    evidence = None if committed is None else Evidence(*committed)
    if attempt is not None and attempt.written:
        evidence = attempt.doubt
    if evidence is not None and interruption.__cause__ is None:
        interruption.__cause__ = _unknown(evidence, Resolution.COMMITTED, None)


def _resolve(attempt: Attempt, evidence: Evidence, finding: Finding) -> Steps[None]:
    settings = attempt.settings
    report_doubt(attempt, evidence)
    until = attempt.deadline
    if finding.interruption is not None:
        until = min(until, settings.clock() + settings.timeout)
    if attempt.channel is None:
        yield from _acquire(attempt, finding, until)
    if attempt.channel is not None:
        attempt.channel.drop()
        yield from resolve(attempt.channel, evidence, settings, until, finding)
    attempt.finding = finding
    report_finding(attempt, evidence, finding)


def _acquire(attempt: Attempt, finding: Finding, until: float) -> Steps[None]:
    """Take a channel for a call that was carried by another one's attempt."""
    try:
        attempt.channel = yield Acquire(
            max(0.0, until - attempt.settings.clock()), None, attempt.slot, first=True
        )
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - like any other failure to find out, it is a part of the finding
        finding.reason = error
        if not isinstance(error, Exception) and finding.interruption is None:
            finding.interruption = error


def report_doubt(attempt: Attempt, evidence: Evidence) -> None:
    """Count and report a commit whose reply was lost."""
    attempt.settings.counters.add(in_doubt=1)
    attempt.settings.emit(InDoubt(token=str(evidence), attempt=attempt.number))


def report_finding(attempt: Attempt, evidence: Evidence, finding: Finding) -> None:
    """Count and report what became of it."""
    counter = {
        Resolution.COMMITTED: "resolved_committed",
        Resolution.NOT_COMMITTED: "resolved_aborted",
        Resolution.UNKNOWN: "unknown",
    }[finding.resolution]
    attempt.settings.counters.add(**{counter: 1})
    attempt.settings.emit(Resolved(token=str(evidence), resolution=finding.resolution))


def _applied_in_part(replies: Sequence[object]) -> CommitUnknown:
    answers = [answer for reply in replies for answer in (reply if isinstance(reply, list) else [reply])]
    errors = ", ".join(str(answer) for answer in answers if isinstance(answer, ReplyError)) or repr(
        answers[-1]
    )
    return CommitUnknown(
        f"the server executed only a part of the transaction, or not as one ({errors}): were this user's rights "
        "changed while it was connected? Look at the documents; it was not, and will not be, tried again",
        token=None,
        known=Resolution.UNKNOWN,
        replies=replies,
    )


def _unknown(evidence: Evidence, known: Resolution, reason: BaseException | None) -> CommitUnknown:
    if known is Resolution.COMMITTED:
        message = "interrupted, but the transaction was applied (once)"
    else:
        message = (
            "no answer to the commit, and what became of it could not be found out: it was applied once or not at "
            f"all. Ask store.resolve({str(evidence)!r}) before doing it again"
        )
        message += (
            f" ({type(reason).__name__}: {reason})" if reason is not None else " (the evidence is gone)"
        )
    error = CommitUnknown(message, token=str(evidence), known=known)
    error.__cause__ = reason
    return error
