"""What the server's answers mean: errors sorted by their code, and the verdict on a commit.

Errors are classified by the code that the server sent, never by a client library's exception class: there LOADING
is a connection error, while BUSY and NOREPLICAS are plain response errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from txstate._effects import ReplyError
from txstate.errors import CrossSlotError, ServerRefused, TxStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._engine.confirm import Shortfall

PASSING: Final = frozenset(
    {"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "MOVED", "ASK"}
)
"""Errors that mean "not applied, and later or elsewhere it may work": the whole attempt is run again."""

_BECAUSE: Final = re.compile(r"because of: (?P<reason>.+)", re.DOTALL)
_OPEN: Final = "Open the cluster: redis+cluster://host:port, or client=redis.RedisCluster(...)"
_MAX_CLIENTS: Final = "max number of clients"


@dataclass(frozen=True, slots=True)
class Committed:
    """EXEC answered with its array: applied.

    Attributes:
        shortfall: what it lacks of the durability that was asked for, if anything.
    """

    shortfall: Shortfall | None = None


APPLIED: Final = Committed()


@dataclass(frozen=True, slots=True)
class Conflict:
    """EXEC answered nil, or the reads were found stale: not applied, and others were faster."""


@dataclass(frozen=True, slots=True)
class GiveWay:
    """Another call has claimed a key: not run, or not to its end."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Not applied, for a reason that may pass."""

    cause: Exception


@dataclass(frozen=True, slots=True)
class Refused:
    """Not applied, for a reason that will not pass by itself."""

    error: TxStateError


@dataclass(frozen=True, slots=True)
class Apart:
    """Not applied: the attempt of another call, which was to carry this one, can't.

    Attributes:
        for_good: nor will later ones: the call goes on by itself.
    """

    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Partial:
    """Some commands were executed and some were not: the server did not keep MULTI's contract."""

    replies: Sequence[object]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Whoever committed could not find out what became of it: each call that it carried has to ask for itself."""


Shared: TypeAlias = Committed | Conflict | Outage | Apart | Partial | Unresolved
"""What a commit comes to for the calls that it carried."""


def passing(error: ReplyError) -> bool:
    """Whether an error reply means that trying again, later or elsewhere, may help."""
    return error.code in PASSING or _MAX_CLIENTS in str(error)


def divided(error: Exception) -> bool:
    """Whether the documents are split up between two nodes while their slot moves: the same node is to be asked again."""
    return isinstance(error, ReplyError) and error.code == "TRYAGAIN"


def misnamed(error: Exception) -> ServerRefused | None:
    """The typed error for a node that sends a store elsewhere which knows of no other one."""
    if not isinstance(error, ReplyError) or error.code not in ("MOVED", "ASK"):
        return None
    return ServerRefused(
        f"this server is one node of a cluster, and others have what was asked for ({error}); nothing was applied. {_OPEN}",
        code=error.code,
    )


def refusal(error: ReplyError, doing: str, keys: Sequence[str] = ()) -> TxStateError:
    """The typed error for an error reply that is final."""
    if error.code == "CROSSSLOT":
        # A store that knows of the cluster has compared the slots before.
        return CrossSlotError(
            f"{doing}: this server is one node of a cluster, and refuses {', '.join(map(repr, keys))} beside the library's own "
            f"key, which is in another slot; nothing was applied. {_OPEN}",
            keys=keys,
        )
    return ServerRefused(f"{doing}: the server answered {str(error)!r}; nothing was applied", code=error.code)


def failure(error: ReplyError, doing: str, keys: Sequence[str] = ()) -> Outage | Refused:
    """An error reply as the outcome of an attempt that it kept from being applied."""
    return Outage(error) if passing(error) else Refused(refusal(error, doing, keys))


def verdict(
    replies: Sequence[object], keys: Sequence[str]
) -> Committed | Conflict | Outage | Refused | Partial:
    """What the replies to MULTI, ..., EXEC say.

    Args:
        replies: one for each command, EXEC's own the last.
        keys: what the transaction wrote, for error messages.
    """
    multi, answer = replies[0], replies[-1]
    if type(answer) is list and ReplyError not in map(type, answer) and not isinstance(multi, ReplyError):
        return APPLIED
    if isinstance(multi, ReplyError):
        # Without MULTI the commands behind it run one by one, each on its own, unless they were refused as well.
        if all(isinstance(reply, ReplyError) for reply in replies[1:-1]):
            return failure(multi, "beginning the commit", keys)
        return Partial(replies)
    if answer is None:
        return Conflict()
    if isinstance(answer, ReplyError):
        return failure(_first_error(replies[1:-1]) or because(answer), "committing", keys)
    return Partial(replies)


def applied(replies: Sequence[object], size: int) -> bool:
    """Whether the replies say so, as `verdict` would; it tells what else they say.

    Args:
        replies: to the commit, and to what followed it.
        size: commands of the transaction itself.
    """
    answer = replies[size - 1]
    return type(answer) is list and ReplyError not in map(type, answer) and type(replies[0]) is not ReplyError


def _first_error(replies: Sequence[object]) -> ReplyError | None:
    return next((reply for reply in replies if isinstance(reply, ReplyError)), None)


def because(answer: ReplyError) -> ReplyError:
    """The error that EXECABORT names as its reason, or the error itself."""
    reason = _BECAUSE.search(str(answer))
    return ReplyError(reason["reason"]) if reason else answer
