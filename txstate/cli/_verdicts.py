"""What a server's settings mean for the promises: facts in, verdicts out. Pure code.

The promises are numbered as in the documentation. "Holds as long as" names a condition that nobody can check from
here; "does not hold" is a finding.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate.cli._facts import Facts


class Standing(enum.StrEnum):
    """How a promise stands on this server."""

    HOLDS = "holds"
    CONDITIONAL = "holds as long as"
    BROKEN = "does not hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One promise's.

    Attributes:
        promise: ``"P1"`` to ``"P8"``.
        title: what is promised.
        standing: how it stands.
        reason: why; after `CONDITIONAL`, the condition.
        remedy: what would mend it; empty when there is nothing to mend.
    """

    promise: str
    title: str
    standing: Standing
    reason: str
    remedy: str = ""


TITLES: Final = {
    "P1": "strict serializability",
    "P2": "exactly once",
    "P3": "no zombie reads",
    "P4": "consistent read-only transactions",
    "P5": "all or nothing",
    "P6": "progress",
    "P7": "other writers count",
    "P8": "what can't be promised is said",
}

_TRANSACTION: Final = ("MULTI", "EXEC", "WATCH", "UNWATCH")
_TOKEN: Final = ("SET", "GET", "EXPIRE")
_WRITE: Final = ("HSET", "HDEL", "DEL")
_READ: Final = ("HGETALL", "HMGET", "EXISTS", "TIME")
_NEEDED: Final = (*_TRANSACTION, *_TOKEN, *_WRITE, *_READ)
_CLOCK_OFF: Final = 5.0
"""Seconds between two clocks that are worth telling."""
_REMEDIES: Final = {
    "OOM": "CONFIG SET maxmemory to more, or remove data",
    "MISCONF": "mend what keeps the server from saving (see its log)",
    "NOREPLICAS": "bring the replicas back, or lower min-replicas-to-write",
    "READONLY": "give the address of the primary",
}


def judge(facts: Facts) -> list[Verdict]:
    """Judge every promise, in order."""
    return [
        _verdict("P1", _blocked(facts, (*_TRANSACTION, *_READ)) or _one_order(facts)),
        _verdict("P2", _blocked(facts, (*_TRANSACTION, *_TOKEN)) or _exactly_once(facts)),
        _verdict("P3", _blocked(facts, (*_TRANSACTION, *_READ)) or _no_zombie(facts)),
        _verdict("P4", _blocked(facts, (*_TRANSACTION, *_READ)) or _read_only(facts)),
        _verdict("P5", _blocked(facts, (*_TRANSACTION, *_WRITE)) or _all_or_nothing(facts)),
        _verdict("P6", _blocked(facts, _TRANSACTION) or _progress(facts)),
        _verdict("P7", _blocked(facts, _TRANSACTION) or _other_writers(facts)),
        _verdict("P8", (Standing.HOLDS, " ".join(_said(facts)), _durability_remedy(facts))),
    ]


def judge_all(nodes: Sequence[Facts]) -> list[Verdict]:
    """Judge every promise for several nodes: it stands as it does on the worst of them."""
    judged = [(node.address, judge(node)) for node in nodes]
    return [_worst([(address, verdicts[at]) for address, verdicts in judged]) for at in range(len(TITLES))]


def _worst(found: Sequence[tuple[str, Verdict]]) -> Verdict:
    """The worst verdict on one promise; it names its nodes, unless it is the same everywhere."""
    ranks = list(Standing)
    worst = max((verdict.standing for _, verdict in found), key=ranks.index)
    reasons: dict[str, list[str]] = {}
    for address, verdict in found:
        if verdict.standing is worst:
            reasons.setdefault(verdict.reason, []).append(address)
    first = next(verdict for _, verdict in found if verdict.standing is worst)
    if len(reasons) == 1 and len(next(iter(reasons.values()))) == len(found):
        return first
    named = "; ".join(f"{', '.join(addresses)}: {reason}" for reason, addresses in reasons.items())
    return replace(first, reason=named)


_Finding = tuple[Standing, str, str]


def _verdict(promise: str, finding: _Finding) -> Verdict:
    standing, reason, remedy = finding
    return Verdict(promise=promise, title=TITLES[promise], standing=standing, reason=reason, remedy=remedy)


def _blocked(facts: Facts, needed: tuple[str, ...]) -> _Finding | None:
    """What keeps the library from working here at all, if something does."""
    if facts.role not in (None, "master"):
        kind = "a sentinel" if facts.role == "sentinel" else "a replica"
        return (
            Standing.BROKEN,
            f"this is {kind}, not a primary: the library refuses to work on it",
            "give the address of the primary",
        )
    if facts.cluster and not facts.named_as_cluster:
        return (
            Standing.BROKEN,
            "this is one node of a cluster, and was named as a server of its own: it refuses the keys of other nodes",
            "name the cluster: redis+cluster://host:port",
        )
    if not any(name in facts.refused for name in needed):
        return _not_passed_through(facts)
    missing = [name for name in _NEEDED if name in facts.refused]
    answer = facts.refused[missing[0]]
    reason = f"the server refuses {', '.join(missing)}, and so the library refuses to work ({answer})"
    code = answer.partition(" ")[0]
    if code == "NOPERM":
        return Standing.BROKEN, reason, _rights(facts, missing)
    return Standing.BROKEN, reason, _REMEDIES.get(code, "let the server accept it again")


def _not_passed_through(facts: Facts) -> _Finding | None:
    """A transaction that was taken, and is none."""
    if facts.trial is None or (facts.trial.queued and facts.trial.stopped):
        return None
    seen = (
        "EXEC went ahead although another connection had written a watched key"
        if facts.trial.queued
        else "a command behind MULTI was run at once"
    )
    return (
        Standing.BROKEN,
        f"{seen}: a proxy or pooler before the server does not pass transactions through",
        "connect to the server itself, or by a proxy that keeps one server connection for each of a client's",
    )


def _rights(facts: Facts, missing: list[str]) -> str:
    """The rights that the user lacks; keys and commands are refused in different words."""
    keys = any("access" in facts.refused[name] for name in missing)
    commands = [f"+{name.lower()}" for name in missing if "access" not in facts.refused[name]]
    return " ".join(["ACL SETUSER <user>", *(["~<namespace>*"] if keys else []), *commands])


def _one_order(facts: Facts) -> _Finding:
    if facts.cluster:
        return (
            Standing.CONDITIONAL,
            "all keys of a transaction lie in one slot: this is a cluster",
            "give keys that belong together the same {tag}",
        )
    if facts.replicas:
        return (
            Standing.CONDITIONAL,
            (
                "this server stays the primary: replication is asynchronous, and a failover can undo updates that were "
                "acknowledged"
            ),
            "Store(durability=Replicas(1)) says so when a commit was not confirmed"
            + (
                ""
                if facts.min_replicas
                else "; CONFIG SET min-replicas-to-write 1 bounds what a lost primary takes"
            ),
        )
    return Standing.HOLDS, "one primary without replicas orders all transactions", ""


def _exactly_once(facts: Facts) -> _Finding:
    mend = "CONFIG SET maxmemory-policy noeviction"
    if facts.policy is None or facts.maxmemory is None:
        return (
            Standing.CONDITIONAL,
            "nothing is evicted; this user is not shown the memory policy",
            "let the user run INFO memory",
        )
    if facts.policy == "noeviction":
        return Standing.HOLDS, "nothing is evicted (noeviction), so a lost reply can always be resolved", ""
    if facts.evicted:
        return (
            Standing.BROKEN,
            (
                f"{facts.evicted:,} keys have been evicted ({facts.policy}): with a document go its updates, and with "
                "the library's tokens the evidence that resolves a lost reply, which then ends in CommitUnknown"
            ),
            mend,
        )
    if facts.maxmemory:
        return (
            Standing.CONDITIONAL,
            (
                f"less than {_bytes(facts.maxmemory)} are used: beyond that {facts.policy} evicts, and takes documents, or "
                "the tokens by which a lost reply is resolved"
            ),
            mend,
        )
    return (
        Standing.CONDITIONAL,
        f"maxmemory stays 0: with a limit, {facts.policy} would evict the tokens by which a lost reply is resolved",
        mend,
    )


def _no_zombie(facts: Facts) -> _Finding:
    if facts.trial is not None and facts.trial.flagged is False:
        return (
            Standing.BROKEN,
            "CLIENT INFO did not tell that a watched key had been written: does a proxy ask another connection?",
            "connect to the server itself, or ACL SETUSER <user> -client|info, so that EXEC is asked instead",
        )
    if facts.shows_flags:
        return Standing.HOLDS, "CLIENT INFO shows at once when something read has changed", ""
    return (
        Standing.HOLDS,
        (
            "CLIENT INFO is refused or shows no flags: what was read is checked by an empty MULTI/EXEC, at the cost of "
            "round trips"
        ),
        "ACL SETUSER <user> +client|info",
    )


def _read_only(facts: Facts) -> _Finding:
    if "ROLE" in facts.refused and "HELLO" in facts.refused:
        return (
            Standing.CONDITIONAL,
            "this server is not demoted: ROLE is refused, so reads can't tell",
            "ACL SETUSER <user> +role",
        )
    return Standing.HOLDS, "they are checked like writing ones, and that the server is still the primary", ""


def _all_or_nothing(facts: Facts) -> _Finding:
    if facts.field_ttls and "EVAL" in facts.refused:
        return _no_script(facts)
    return Standing.HOLDS, "MULTI and EXEC are allowed, and nothing that could fail is sent between them", ""


def _other_writers(facts: Facts) -> _Finding:
    if facts.field_ttls and "EVAL" in facts.refused:
        return _no_script(facts)
    reason = "WATCH sees every other client's writes, expiries and evictions"
    if facts.field_ttls:
        reason += "; fields that expire on their own are checked by a script within the commit"
    return Standing.HOLDS, reason, ""


def _no_script(facts: Facts) -> _Finding:
    return (
        Standing.CONDITIONAL,
        (
            f"no document whose fields expire one by one is written (there are {facts.field_ttls}): that takes EVAL, which is "
            "refused"
        ),
        "ACL SETUSER <user> +eval",
    )


def _progress(facts: Facts) -> _Finding:
    if facts.slots_unserved:
        return (
            Standing.BROKEN,
            (
                f"{facts.slots_unserved:,} of the cluster's slots are served by no node: transactions on their keys end in "
                "StoreUnavailable"
            ),
            "bring the failed nodes back, or give their slots to others (see CLUSTER SLOTS)",
        )
    return (
        Standing.HOLDS,
        (
            "every loop is bounded by attempts and by time; one key takes at most about "
            f"{1000 / max(facts.round_trip_ms, 0.001):,.0f} transactions/s from one process at this round trip"
        ),
        "",
    )


def _said(facts: Facts) -> list[str]:
    """What an acknowledged update can still be lost by, on this server."""
    said = [_power_cut(facts)]
    said += [f"Persistence is failing: {problem}." for problem in facts.persistence_failing]
    if facts.replicas is None:
        said.append("Whether there are replicas is not shown to this user (INFO replication).")
    elif facts.replicas:
        said.append(
            "Replication is asynchronous: a failover can lose what was acknowledged last, and a deposed primary that "
            "doesn't know it serves stale reads."
        )
        if facts.min_replicas:
            said.append(
                f"Writes are refused without {facts.min_replicas} replicas heard of within the last "
                f"{facts.min_replicas_lag_s} s (min-replicas-to-write)."
            )
        late = [replica for replica in facts.replicas if replica.state != "online"]
        said += [f"The replica {replica.address} is {replica.state}." for replica in late]
    else:
        said.append("There is no replica: if the disk is lost, so is everything.")
    if facts.clock_ahead_s is not None and abs(facts.clock_ahead_s) > _CLOCK_OFF:
        said.append(
            f"The server's clock is {abs(facts.clock_ahead_s):,.0f} s {'ahead of' if facts.clock_ahead_s > 0 else 'behind'} "
            "this machine's: when it is set back, the version of a document that is deleted and made again may be one "
            "that it had before."
        )
    said.append("Don't change this user's rights while it is connected. A plain HSET doesn't bump a version.")
    return said


def _power_cut(facts: Facts) -> str:
    if facts.aof is None:
        return "What a crash or a power cut costs is not shown to this user (INFO persistence)."
    if facts.aof:
        cost = {
            "always": "A crash or a power cut costs nothing that was acknowledged (appendfsync always).",
            "everysec": "A power cut costs up to about a second of acknowledged updates (appendfsync everysec).",
            "no": "A power cut costs what the operating system had not written yet (appendfsync no).",
        }
        return cost.get(
            facts.fsync or "", "What a power cut costs is not shown to this user (CONFIG GET appendfsync)."
        )
    if facts.snapshots == "":
        return "Nothing is persisted: a crash or a restart costs everything."
    when = f" ({facts.snapshots})" if facts.snapshots else ""
    return f"No log is written (appendonly no): a crash costs everything since the last snapshot{when}."


def _durability_remedy(facts: Facts) -> str:
    if facts.aof is False:
        return "CONFIG SET appendonly yes, and appendfsync always for no loss at all"
    if facts.aof and facts.fsync not in (None, "always"):
        return "CONFIG SET appendfsync always, if a second is too much"
    return ""


def _bytes(number: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"
