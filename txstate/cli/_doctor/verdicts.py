"""What a server's settings mean for the promises P1 to P8, numbered as in the documentation. Pure code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from txstate.cli._doctor.standing import Condition, Finding, Standing, Verdict, under

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from txstate.cli._doctor.facts import Facts


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
_FAILED_NODES: Final = "bring the failed nodes back, or give their slots to others (see CLUSTER SLOTS)"
_REMEDIES: Final = {
    "OOM": "CONFIG SET maxmemory to more, or remove data",
    "MISCONF": "mend what keeps the server from saving (see its log)",
    "NOREPLICAS": "bring the replicas back, or lower min-replicas-to-write",
    "READONLY": "give the address of the primary",
    "CLUSTERDOWN": _FAILED_NODES,
}


def promises(facts: Facts) -> list[Verdict]:
    """Judge every promise, in order."""
    return [
        _verdict("P1", _blocked(facts, (*_TRANSACTION, *_READ)) or _one_order(facts)),
        _verdict("P2", _blocked(facts, (*_TRANSACTION, *_TOKEN)) or _exactly_once(facts)),
        _verdict("P3", _blocked(facts, (*_TRANSACTION, *_READ)) or _no_zombie(facts)),
        _verdict("P4", _blocked(facts, (*_TRANSACTION, *_READ)) or _read_only(facts)),
        _verdict("P5", _blocked(facts, (*_TRANSACTION, *_WRITE)) or _all_or_nothing(facts)),
        _verdict("P6", _blocked(facts, _TRANSACTION) or _progress(facts)),
        _verdict("P7", _blocked(facts, _TRANSACTION) or _other_writers(facts)),
        _verdict("P8", (Standing.HOLDS, " ".join(_said(facts)), "")),
    ]


def without(silent: Mapping[str, str], progress: Verdict) -> Verdict:
    """The verdict on progress where nodes that serve slots can't be asked, and why."""
    gone = ", ".join(f"{address} can't be reached ({why})" for address, why in silent.items())
    reason = f"{gone}: transactions on the keys that it serves end in StoreUnavailable"
    if progress.standing is Standing.BROKEN:
        reason = f"{reason}; {progress.reason}"
    remedy = "bring it back, or have a replica take over: CLUSTER FAILOVER TAKEOVER, sent to that"
    return replace(progress, standing=Standing.BROKEN, reason=reason, remedy=remedy)


def _verdict(promise: str, finding: Finding) -> Verdict:
    standing, reason, remedy = finding
    return Verdict(promise=promise, title=TITLES[promise], standing=standing, reason=reason, remedy=remedy)


def _blocked(facts: Facts, needed: tuple[str, ...]) -> Finding | None:
    """What keeps the library from working here at all, if something does."""
    if facts.role not in (None, "master"):
        return _no_primary(facts)
    if facts.cluster and facts.named_as != "cluster":
        return (
            Standing.BROKEN,
            "this is one node of a cluster, and was named as a server of its own: it refuses the keys of other nodes",
            "name the cluster: redis+cluster://host:port",
        )
    if not any(name in facts.refused for name in needed):
        return _not_passed_through(facts)
    missing = [name for name in _NEEDED if name in facts.refused]
    by_code: dict[str, list[str]] = {}
    for name in missing:
        by_code.setdefault(_code(facts.refused[name]), []).append(name)
    answers = "; ".join(facts.refused[first] for first, *_ in by_code.values())
    remedies = [
        _rights(facts, names) if code == "NOPERM" else _REMEDIES.get(code, "let the server accept it again")
        for code, names in by_code.items()
    ]
    return (
        Standing.BROKEN,
        f"the server refuses {', '.join(missing)}, and so the library refuses to work ({answers})",
        "; ".join(remedies),
    )


def _code(answer: str) -> str:
    """Of a refusal; an EXEC that is refused alone says behind its own code why."""
    return answer.rpartition("because of: ")[2].partition(" ")[0]


def _no_primary(facts: Facts) -> Finding:
    if facts.role == "sentinel":
        return (
            Standing.BROKEN,
            "this is a sentinel, not a primary: the library refuses to work on it",
            "name the service that it watches: redis+sentinel://host:port/mymaster/0",
        )
    if facts.named_as == "sentinel":
        return (
            Standing.BROKEN,
            "the sentinels name it, but it is a replica: the library refuses to work on it",
            "wait for the failover to end, or see what the sentinels log",
        )
    return (
        Standing.BROKEN,
        "this is a replica, not a primary: the library refuses to work on it",
        "give the address of the primary",
    )


def _not_passed_through(facts: Facts) -> Finding | None:
    """What was accepted as a transaction, and is not one."""
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


def _one_order(facts: Facts) -> Finding:
    return under(_orders(facts), "one primary without replicas orders all transactions")


def _orders(facts: Facts) -> Iterator[Condition]:
    if facts.cluster:
        yield Condition(
            "all keys of a transaction lie in one slot: this is a cluster",
            "give keys that belong together the same {tag}",
        )
    if facts.replicas is None:
        yield Condition(
            "this server stays the primary: whether it has replicas is not shown to this user",
            "let the user run INFO replication",
        )
    if facts.replicas:
        yield Condition(
            "this server stays the primary: replication is asynchronous, and a failover can undo updates that were "
            "acknowledged",
            "durability=Replicas(1) says so when a commit was not confirmed (see D3)",
        )
        writable = [each.address for each in facts.replicas if each.read_only is False]
        if facts.replica_read_only is False:
            writable.append("this server, once it is one")
        if writable:
            yield Condition(
                f"nobody writes to replicas: {', '.join(writable)} would take it (replica-read-only no), and a failover "
                "would bring it in",
                "CONFIG SET replica-read-only yes, on each of them",
            )


def _exactly_once(facts: Facts) -> Finding:
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


def _no_zombie(facts: Facts) -> Finding:
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


def _read_only(facts: Facts) -> Finding:
    if "ROLE" in facts.refused and "HELLO" in facts.refused:
        return (
            Standing.CONDITIONAL,
            "this server is not demoted: ROLE is refused, so reads can't tell",
            "ACL SETUSER <user> +role",
        )
    return Standing.HOLDS, "they are checked like writing ones, and that the server is still the primary", ""


def _all_or_nothing(facts: Facts) -> Finding:
    return under(
        [*_no_script(facts), *_cut_log(facts)],
        "MULTI and EXEC are allowed, and nothing that could fail is sent between them",
    )


def _other_writers(facts: Facts) -> Finding:
    reason = "WATCH sees every other client's writes, expiries and evictions"
    if facts.field_ttls:
        reason += "; fields that expire on their own are checked by a script within the commit"
    return under([*_no_script(facts), *_swapped(facts)], reason)


def _no_script(facts: Facts) -> Iterator[Condition]:
    if facts.field_ttls and "EVAL" in facts.refused:
        yield Condition(
            f"no document whose fields expire one by one is written (there are {facts.field_ttls}): that takes EVAL, which is "
            "refused",
            "ACL SETUSER <user> +eval",
        )


def _cut_log(facts: Facts) -> Iterator[Condition]:
    """Seen in Redis 6.2.14 and 8.2.3, but not in Valkey 9.1.2 (valkey-io/valkey#4342)."""
    mended = facts.kind == "Valkey" and _number(facts.version) >= (9, 1, 2)
    if facts.aof is not False and facts.loads_truncated is not False and not mended:
        yield Condition(
            "no power cut ends the log inside a transaction: this server leaves its first half in the log then, and "
            "applies that at the second start (aof-load-truncated yes)",
            'run BGREWRITEAOF after a start that logs "Truncating the AOF"; or CONFIG SET aof-load-truncated no, and '
            "redis-check-aof --fix when it does not start",
        )


def _swapped(facts: Facts) -> Iterator[Condition]:
    """Seen in Redis 6.2.14."""
    if facts.kind != "Redis" or _number(facts.version) >= (7,):
        return
    loads = {
        "this server": facts.diskless_load,
        **{each.address: each.diskless_load for each in facts.replicas or ()},
    }
    swapping = [address for address, how in loads.items() if how == "swapdb"]
    if swapping:
        yield Condition(
            f"nobody is demoted and promoted again under open connections: {', '.join(swapping)} then swaps the data in "
            "without a conflict (repl-diskless-load swapdb)",
            "CONFIG SET repl-diskless-load disabled, on each of them",
        )


def _number(version: str) -> tuple[int, ...]:
    """A version, to compare; (0,) if it is not one."""
    return tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,)


def _progress(facts: Facts) -> Finding:
    if facts.slots_unserved:
        return (
            Standing.BROKEN,
            (
                f"{facts.slots_unserved:,} of the cluster's slots are served by no node: transactions on their keys end in "
                "StoreUnavailable"
            ),
            _FAILED_NODES,
        )
    return (
        Standing.HOLDS,
        "every loop is bounded by attempts and by time",
        "",
    )


def _said(facts: Facts) -> list[str]:
    """What is told nowhere else."""
    said = ["What an acknowledged commit survives: D1 to D5."]
    if facts.replicas:
        said.append("A deposed primary that doesn't know it serves stale reads.")
    if facts.clock_ahead_s is not None and abs(facts.clock_ahead_s) > _CLOCK_OFF:
        said.append(
            f"The server's clock is {abs(facts.clock_ahead_s):,.0f} s {'ahead of' if facts.clock_ahead_s > 0 else 'behind'} "
            "this machine's: when it is set back, the version of a document that is deleted and made again may be one "
            "that it had before."
        )
    said.append("Don't change this user's rights while it is connected. A plain HSET doesn't bump a version.")
    return said


def _bytes(number: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"
