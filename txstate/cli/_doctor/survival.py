"""What an acknowledged commit survives here, by level of durability, and whether Sentinel would fail over. Pure code.

None of this is promised by default: a commit is acknowledged once the primary has it in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txstate.cli._doctor.standing import Condition, Finding, Standing, Verdict, under
from txstate.cli._doctor.trial import DISKS_MS, REPLICAS_MS
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txstate.cli._doctor.facts import Facts, Replica, Sentinels

_FOLLOW: Final = "give it a replica: REPLICAOF, sent to another server"
_PROMOTABLE: Final = "CONFIG SET replica-priority 100, on the replica"
_LOG: Final = "CONFIG SET appendonly yes"


def survival(facts: Facts, sentinels: Sentinels | None) -> list[Verdict]:
    """Judge each level of durability, in order."""
    found = {
        "D1": ("by default, a commit survives a power cut", _power_cut(facts)),
        "D2": ("by default, a commit survives a failover", _failover_costs(facts)),
        "D3": ("durability=Replicas(1)", _replicas(facts, sentinels)),
        "D4": ("durability=Fsync()", _own_disk(facts)),
        "D5": ("durability=Fsync(replicas=1)", _disks(facts, sentinels)),
    }
    return [
        Verdict(promise=name, title=title, standing=standing, reason=reason, remedy=remedy)
        for name, (title, (standing, reason, remedy)) in found.items()
    ]


def failover(sentinels: Sentinels) -> Verdict:
    """Judge whether they would replace a primary that is gone."""
    standing, reason, remedy = _fails_over(sentinels)
    return Verdict(promise="S1", title="Sentinel fails over", standing=standing, reason=reason, remedy=remedy)


def _power_cut(facts: Facts) -> Finding:
    failing = "".join(f". Persistence is failing: {problem}" for problem in facts.persistence_failing)
    standing, reason, remedy = _persisted(facts)
    return standing, reason + failing, remedy


def _persisted(facts: Facts) -> Finding:
    if facts.aof is None:
        return (
            Standing.CONDITIONAL,
            "it is persisted: this user is not shown",
            "let the user run INFO persistence",
        )
    if not facts.aof:
        if facts.snapshots == "":
            lost = "nothing is persisted: a crash or a restart costs everything"
        else:
            when = f" ({facts.snapshots})" if facts.snapshots else ""
            lost = (
                f"no log is written (appendonly no): a crash costs everything since the last snapshot{when}"
            )
        return Standing.BROKEN, lost, f"{_LOG}, with appendfsync always for no loss at all"
    if facts.fsync == "always":
        return Standing.HOLDS, "it is on disk before it is acknowledged (appendfsync always)", ""
    if facts.fsync is None:
        return (
            Standing.CONDITIONAL,
            "appendfsync is always: this user is not shown",
            "let the user run CONFIG GET appendfsync, or pass durability=Fsync(timeout=1.5)",
        )
    cost = (
        "the last second or so"
        if facts.fsync == "everysec"
        else "what the operating system had not written yet"
    )
    return (
        Standing.BROKEN,
        f"a power cut costs {cost} (appendfsync {facts.fsync}); a crash of the server alone costs nothing",
        "CONFIG SET appendfsync always"
        + (
            "; or durability=Fsync(timeout=1.5) for what must not be lost"
            if facts.fsync == "everysec"
            else ""
        ),
    )


def _failover_costs(facts: Facts) -> Finding:
    if facts.replicas is None:
        return (
            Standing.CONDITIONAL,
            "this server stays: whether it has replicas is not shown to this user",
            "let the user run INFO replication",
        )
    if not facts.replicas:
        return Standing.BROKEN, "there is no replica: if the disk is lost, so is everything", _FOLLOW
    reason = (
        "replication is asynchronous: a failover costs what the promoted replica had not received, and a deposed "
        "primary that doesn't know it takes writes that will be lost"
    )
    remedy = "durability=Replicas(1), which raises NotDurable when no replica has confirmed"
    if facts.min_replicas:
        reason += (
            f". Writes are refused without {facts.min_replicas} replicas heard of within the last "
            f"{facts.min_replicas_lag_s} s (min-replicas-to-write)"
        )
    else:
        remedy += "; CONFIG SET min-replicas-to-write 1 bounds what a lost primary takes"
    late = [
        f". The replica {each.address} is {each.state}" for each in facts.replicas if each.state != "online"
    ]
    return Standing.BROKEN, reason + "".join(late), remedy


def _replicas(facts: Facts, sentinels: Sentinels | None) -> Finding:
    if facts.waited is None:
        return _NOT_TRIED
    confirmed = facts.waited.replicas
    if isinstance(confirmed, str):
        return _refused("WAIT", confirmed)
    if not confirmed:
        return _nobody(
            facts, f"confirmed a commit within {REPLICAS_MS / 1000} s", "see its link to the primary"
        )
    return under(_promotions(facts, sentinels, "Replicas({})"), "")


def _own_disk(facts: Facts) -> Finding:
    if facts.waited is None:
        return _NOT_TRIED
    synced = facts.waited.local
    if isinstance(synced, str):
        return _refused("WAITAOF", synced)
    if not synced:
        return (
            Standing.BROKEN,
            f"a commit was not on disk within {DISKS_MS / 1000} s (appendfsync {facts.fsync or 'not shown'})",
            "CONFIG SET appendfsync always, or everysec",
        )
    return under(_time(facts), "a commit was on disk when WAITAOF answered (appendfsync always)")


def _disks(facts: Facts, sentinels: Sentinels | None) -> Finding:
    if facts.waited is None:
        return _NOT_TRIED
    synced = facts.waited.disks
    if isinstance(synced, str):
        return _refused("WAITAOF", synced)
    if not synced:
        return _nobody(facts, f"had a commit on disk within {DISKS_MS / 1000} s", f"{_LOG}, on the replica")
    return under([*_promotions(facts, sentinels, "Fsync(replicas={})"), *_time(facts)], "")


_NOT_TRIED: Final = (Standing.BROKEN, "it can't be tried, as commits are refused here", "")


def _refused(command: str, answer: str) -> Finding:
    """Why a server can't wait, by what it answered."""
    if answer.startswith("NOPERM"):
        remedy = f"ACL SETUSER <user> +{command.lower()}"
    elif "appendonly" in answer:
        remedy = _LOG
    elif "unknown command" in answer:
        remedy = "Redis 7.2 or later, or Valkey" if command == "WAITAOF" else ""
    else:
        remedy = "connect to the server itself: does a proxy answer?"
    return Standing.BROKEN, f"{command} was refused: {answer.partition(', with args')[0]}", remedy


def _nobody(facts: Facts, done: str, remedy: str) -> Finding:
    if facts.replicas == ():
        return Standing.BROKEN, "there is no replica: each commit would raise NotDurable", _FOLLOW
    return Standing.BROKEN, f"no replica {done}: such commits raise NotDurable", remedy


def _promotions(facts: Facts, sentinels: Sentinels | None, level: str) -> Iterator[Condition]:
    """A commit that a replica has is safe only if that replica is promoted."""
    count = len(facts.replicas or ())
    yield Condition(
        "a replica is promoted that has confirmed it: waiting counts replicas, it chooses none",
        f"{level.format(count)} asks for all there are" if count > 1 else "",
    )
    if facts.aof is False:
        yield Condition(
            "the primary is not started again before that: without a log it comes back with less, and its replicas "
            "throw away what it lacks",
            _LOG,
        )
    never = _never_promoted(facts.replicas or (), sentinels)
    if never:
        yield Condition(
            f"one that can be promoted confirms: replica-priority 0 keeps {', '.join(never)} from it",
            _PROMOTABLE,
        )


def _never_promoted(replicas: tuple[Replica, ...], sentinels: Sentinels | None) -> tuple[str, ...]:
    known = sentinels.never_promoted if sentinels is not None else ()
    return tuple(dict.fromkeys([*known, *(each.address for each in replicas if each.priority == 0)]))


def _time(facts: Facts) -> Iterator[Condition]:
    if facts.fsync != "always":
        yield Condition(
            f"it gets time: with appendfsync {facts.fsync or 'not shown'} a disk may take a second, and Fsync() waits for half "
            "of one",
            "Fsync(timeout=1.5), or CONFIG SET appendfsync always",
        )


def _fails_over(sentinels: Sentinels) -> Finding:
    if len(sentinels.primaries) > 1:
        return (
            Standing.BROKEN,
            f"the sentinels name different primaries: {', '.join(sentinels.primaries)}",
            f"wait for the failover to end, or SENTINEL RESET {sentinels.service} on those that are wrong",
        )
    if sentinels.unready:
        return (
            Standing.BROKEN,
            f"too few sentinels are up: {sentinels.unready} (they know of {sentinels.known}, quorum {sentinels.quorum})",
            "bring the others back; SENTINEL RESET makes them forget those that are gone for good",
        )
    if len(sentinels.never_promoted) >= sentinels.replicas:
        why = "all have replica-priority 0" if sentinels.replicas else "the sentinels know of none"
        return (
            Standing.BROKEN,
            f"no replica can be promoted: {why}",
            _PROMOTABLE if sentinels.replicas else _FOLLOW,
        )
    able = sentinels.replicas - len(sentinels.never_promoted)
    return under(
        _as_long_as(sentinels),
        f"{sentinels.known} sentinels, of whom {sentinels.quorum} must agree (quorum), act after "
        f"{sentinels.down_after_s:g} s of silence; {_counted(able, 'replica')} can be promoted",
    )


def _as_long_as(sentinels: Sentinels) -> Iterator[Condition]:
    if sentinels.silent:
        silent = ", ".join(f"{address} ({why})" for address, why in sentinels.silent.items())
        yield Condition(
            f"the other sentinels live: these can't be asked: {silent}",
            "mend the address, or bring them back",
        )
    # Whoever starts a failover needs the quorum to agree, and the votes of a majority.
    if sentinels.known == max(sentinels.quorum, sentinels.known // 2 + 1):
        yield Condition(
            f"no sentinel fails: {_counted(sentinels.known, 'is', 'are')} known, and all of them are needed (quorum "
            f"{sentinels.quorum})",
            "run three or more, with a quorum of just over half",
        )
    if sentinels.never_promoted:
        yield Condition(
            f"another replica is up: {', '.join(sentinels.never_promoted)} can't be promoted (replica-priority 0)",
            _PROMOTABLE,
        )
    deadline = Retry().deadline
    if sentinels.down_after_s >= deadline:
        yield Condition(
            f"calls have more time than Retry(deadline={deadline:g}): a primary is held for dead after "
            f"{sentinels.down_after_s:g} s of silence",
            f"SENTINEL SET {sentinels.service} down-after-milliseconds 5000",
        )


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
