"""An attempt among the calls of its process that want the same (`group`): it meets them, runs in its turn, or carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txstate._engine.armed import signature_of
from txstate._engine.group import LEADS, PATIENCE, RUNS, WAITS
from txstate._engine.outcome import Apart
from txstate._engine.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate._documents.doc import Record
    from txstate._effects import Steps
    from txstate._engine.armed import Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.group import Member
    from txstate._engine.resolve import Evidence


def leads(attempt: Attempt) -> bool:
    """Whether it commits for others that want the same."""
    return attempt.member is not None and attempt.member.place is LEADS


def is_carried(attempt: Attempt) -> bool:
    """Whether it runs in another call's attempt, which commits for it."""
    return attempt.member is not None and attempt.member.relay is not None


def meet(attempt: Attempt, wanted: Wanted, *, again: bool) -> Member | None:
    """Meet the other calls of this process that begin with the same.

    Args:
        attempt: it has a signature.
        wanted: what it begins with.
        again: the signature is that of an attempt before, and this one begins with all that it had asked for.

    Returns:
        The attempt's place among them, if it has to wait.

    Raises:
        Condemned: another one's attempt carries this one, and can't give it what it wants.
    """
    groups, member = attempt.settings.groups, attempt.member
    if member is not None:
        if member.relay is None:
            member.connected = False
            return None
        member.leave()
        member.groups.set_apart(member)
        raise attempt.condemn(Apart(for_good=True))
    if groups is None or not wanted or attempt.apart:
        return None
    if again and signature_of(attempt.settings, wanted) != attempt.signature:
        return None
    member = attempt.member = groups.enter(attempt, wanted)
    return None if member is None or member.mailbox is None else member  # only who waits has one


def wait_for_turn(attempt: Attempt, member: Member) -> Steps[bool]:
    """Wait to run on the result of others.

    Returns:
        True: the documents are there. False: the attempt needs a connection, because it leads, or is on its own.
    """
    group, groups, mailbox = member.group, member.groups, member.mailbox
    assert group is not None  # noqa: S101 - who waits is in one
    assert mailbox is not None  # noqa: S101 - and has one
    try:
        while member.place is WAITS:
            came = yield from groups.wait(mailbox, min(groups.patience, attempt.left() / 2))
            late = attempt.left() < PATIENCE or groups.is_stalled(group)
            if late and not came:
                member.leave()
    except BaseException:
        member.leave()
        raise
    if member.place is not RUNS or member.relay is None:
        return False
    attempt.documents.spares = member.relay.spares(member.wanted)
    attempt.read_set.present, attempt.read_set.time = member.relay.present, member.relay.time
    return True


def carry_others(attempt: Attempt, leader: Member, evidence: Callable[[], Evidence]) -> Steps[Relay | None]:
    """Let those that wait run on what the leader's function has left, one after the other.

    Returns:
        All of it; None: nobody waits, or they can't be carried.
    """
    group, groups = leader.group, leader.groups
    if group is None or leader.place is not LEADS or not group.waiting or attempt.read_set.volatile():
        return None
    read: dict[str, Record] = {}
    for key, fields in leader.wanted.items():
        record = attempt.documents.latest(key)
        if record is None or record.as_read().missing(fields) != ():
            return None  # in this attempt, its function has asked for something else
        read[key] = record
    relay = Relay(attempt, leader, evidence(), read, groups.clock())
    leader.mailbox = mailbox = groups.mailbox()
    groups.begin(group, relay)
    while (runs := relay.turn) is not leader:
        came = yield from groups.wait(mailbox, groups.patience)
        if not came and runs is not None and relay.turn is runs:
            groups.take_back(group, relay, runs)
    # They may have begun after the leader had read. EXEC shows that it still held; where nobody writes, a proof does.
    attempt.read_set.unproven = True
    return relay
