"""The end of an attempt that is shared (`group`): each call learns what the one commit came to for it.

The leader commits and tells. A call that it has carried waits for that; where the leader itself could not find out, or
says nothing until the call's deadline, the call asks the server by the same evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from txstate._effects import Lost, Park
from txstate._engine.doubt import in_doubt, report_doubt, report_finding, settle
from txstate._engine.group import OUT
from txstate._engine.outcome import Apart, Committed, Conflict, GiveWay, Outage, Partial, Refused, Unresolved
from txstate._engine.resolve import Finding
from txstate._engine.shared import leads
from txstate._engine.state import COMMITTED
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._effects import Steps
    from txstate._engine.attempt import Attempt
    from txstate._engine.group import Member
    from txstate._engine.outcome import Shared


def carried(attempt: Attempt) -> Steps[Committed | Conflict | Outage | Apart]:
    """Pass on what the function has changed, and wait for the commit of the call that carries this one.

    Raises:
        Condemned: the turn was taken back, so the function has to run again.
        CommitUnknown: it could not be resolved, or was applied in part.
        BaseException: an interruption.
    """
    member = attempt.member
    assert member is not None  # noqa: S101 - it is carried
    if not member.groups.pass_on(member, attempt):
        raise attempt.condemn(Apart(for_good=member.place is OUT))
    outcome = yield from _outcome_of(member, attempt.settings.clock, attempt.deadline)
    if not attempt.writes:
        return _for_who_wrote_nothing(outcome)
    if not _enter(attempt, member, outcome):
        lost = Lost([], sent=True, cause=TimeoutError("the call that commits for this one gave no word"))
        return (yield from in_doubt(attempt, lost))
    if attempt.in_part is not None:
        raise attempt.in_part
    return cast("Committed | Conflict | Outage | Apart", outcome)


def abide(attempt: Attempt, interruption: BaseException) -> Steps[None]:
    """An interrupted call that has passed on its changes waits a little for what becomes of them."""
    member, settings = attempt.member, attempt.settings
    if member is None or not member.aboard or not attempt.writes or attempt.doubt is not None:
        return
    until = min(attempt.deadline, settings.clock() + settings.timeout)
    try:
        outcome = yield from _outcome_of(member, settings.clock, until)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a second interruption ends the search
        outcome = None
        attempt.finding = Finding(interruption=interruption, reason=error)
    _enter(attempt, member, outcome)


def tell(
    attempt: Attempt, outcome: Committed | Conflict | GiveWay | Outage | Apart | Refused | None = None
) -> None:
    """Tell the calls that an attempt carried what its commit came to, before its connection is another's.

    Args:
        attempt: the leader's.
        outcome: how it ended; None: by an exception.
    """
    member = attempt.member
    if member is not None and member.group is not None and member.group.relay is not None and leads(attempt):
        deserted = member.settle(attempt.finding, _told(attempt, outcome))
        if deserted and attempt.channel is not None:
            # Who asks what became of this commit must not find the number of a later one in the token.
            attempt.channel.drop()


def _told(
    attempt: Attempt, outcome: Committed | Conflict | GiveWay | Outage | Apart | Refused | None
) -> Shared:
    """What it means for the others. Whether it was applied is told by the attempt's state, whatever came out of it."""
    if isinstance(outcome, Committed):
        return outcome
    if attempt.in_part is not None:
        return Partial(attempt.in_part.replies)
    if attempt.state is COMMITTED:
        # Whoever asks for durability has to look for it again.
        return Committed() if attempt.settings.durability is None else Unresolved()
    if attempt.doubt is not None:
        found = Resolution.UNKNOWN if attempt.finding is None else attempt.finding.resolution
        return Apart() if found is Resolution.NOT_COMMITTED else Unresolved()
    if isinstance(outcome, Refused):
        return Apart(for_good=True)  # the server may have refused what others wrote
    return Apart() if outcome is None or isinstance(outcome, GiveWay) else outcome


def _enter(attempt: Attempt, member: Member, outcome: Shared | None) -> bool:
    """Enter into the attempt what the commit came to. Returns whether that is known."""
    assert member.relay is not None  # noqa: S101 - it is carried
    if outcome is None:
        outcome = member.groups.desert(member)
    evidence, finding = member.relay.evidence, member.finding
    if outcome is None or isinstance(outcome, Unresolved):
        attempt.doubt = evidence
        return False
    if finding is not None:
        report_doubt(attempt, evidence)
        report_finding(attempt, evidence, finding)
    if isinstance(outcome, Committed):
        attempt.doubt = evidence
        settle(attempt, outcome)
    elif isinstance(outcome, Partial):
        settle(attempt, outcome)
    return True


def _for_who_wrote_nothing(outcome: Shared | None) -> Committed | Outage | Apart:
    """Nothing of it can have been applied: where it is not known to have seen the truth, it runs again.

    After a conflict on its own: what it reads for itself holds, however long others' functions take.
    """
    if isinstance(outcome, Committed):
        return Committed()  # how durable the others' writes are is not its business
    if isinstance(outcome, Conflict):
        return Apart(for_good=True)
    return outcome if isinstance(outcome, Outage | Apart) else Apart()


def _outcome_of(member: Member, clock: Callable[[], float], until: float) -> Steps[Shared | None]:
    """Wait for what the commit comes to, for one whose function was carried; None: not known by then."""
    assert member.mailbox is not None  # noqa: S101 - it has waited before
    while member.outcome is None and (left := until - clock()) > 0:
        yield Park(member.mailbox, left)
    return member.outcome
