"""Every error that txstate raises, and for each whether the write may have happened.

Only two of them leave a write behind: `NotDurable` (applied) and `CommitUnknown` (perhaps applied). After any
other one nothing at all was applied. This module knows nothing of the rest of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate.resolution import Resolution


class TxStateError(Exception):
    """The root of txstate's errors. Its subclasses say whether the write may have happened."""


class ConflictError(TxStateError):
    """Gave up: other writers were faster, attempt after attempt. Nothing was applied; trying again is safe.

    Attributes:
        attempts: how many times the transaction was tried.
        elapsed: seconds from the call to giving up.
        keys: how many conflicts each key is known to have caused, the busiest first.
    """

    def __init__(self, attempts: int, elapsed: float, keys: Mapping[str, int]) -> None:
        self.attempts = attempts
        self.elapsed = elapsed
        self.keys = dict(sorted(keys.items(), key=lambda item: -item[1]))
        super().__init__(attempts, elapsed, self.keys)

    def __str__(self) -> str:
        culprits = ", ".join(f"{key!r} {count} times" for key, count in self.keys.items()) or "not known"
        return (
            f"gave up after {self.attempts} attempts in {self.elapsed:.2f} s, nothing was applied; "
            f"changed by others meanwhile: {culprits}. Make the transaction shorter, spread the load over more "
            "keys, or allow more with Retry(stop=..., deadline=...)"
        )


class VersionMismatch(TxStateError):  # noqa: N818 - the name is part of the public contract
    """`if_version` did not hold. Nothing was applied; read again and decide anew.

    Attributes:
        key: the document.
        expected: the version asked for (0: must not exist).
        found: the version there is (0: there is none).
    """

    def __init__(self, key: str, expected: int, found: int) -> None:
        self.key, self.expected, self.found = key, expected, found
        super().__init__(key, expected, found)

    def __str__(self) -> str:
        found = "does not exist" if self.found == 0 else f"has version {self.found}"
        wanted = "not to exist" if self.expected == 0 else f"to have version {self.expected}"
        return f"{self.key!r} {found}, expected {wanted}; nothing was applied. Read it again and decide anew"


class StoreUnavailable(TxStateError):  # noqa: N818 - the name is part of the public contract
    """No server, or no free connection, within the deadline. Nothing was applied; try again later.

    Covers refused connections, a server that is loading, a cluster that is down, and more transactions at once
    than `max_connections` for the whole deadline. The cause is chained.
    """


class ServerRefused(TxStateError):  # noqa: N818 - the name is part of the public contract
    """The server refused a command for good (out of memory, no permission, ...). Nothing was applied.

    Trying again helps only after the server or its settings changed.

    Attributes:
        code: the server's own error code, for example ``"OOM"`` or ``"NOPERM"``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class WrongType(TxStateError):  # noqa: N818 - the name is part of the public contract
    """The key holds something other than a hash. Nothing was applied.

    Attributes:
        key: the key.
        found: the Redis type that it holds, for example ``"string"``.
    """

    def __init__(self, key: str, found: str) -> None:
        self.key, self.found = key, found
        super().__init__(key, found)

    def __str__(self) -> str:
        return (
            f"{self.key!r} holds a Redis {self.found}, not a hash; nothing was applied. "
            "Documents are hashes: use another key, or another namespace"
        )


class CodecError(TxStateError):
    """A value that can't be stored, or a stored one that can't be read. Nothing was applied.

    Attributes:
        key: the document.
        field: the field, or None when the document as a whole is meant.
    """

    def __init__(self, message: str, *, key: str, field: str | None = None) -> None:
        super().__init__(message)
        self.key, self.field = key, field

    def __str__(self) -> str:
        where = f"{self.key!r}" if self.field is None else f"{self.key!r}, field {self.field!r}"
        return f"{where}: {self.args[0]}; nothing was applied"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class FieldNotLoaded(TxStateError):  # noqa: N818 - the name is part of the public contract
    """A partial document (`fields=`) was asked for something that was not fetched. Nothing was applied.

    Not a `KeyError`: the field may well exist.

    Attributes:
        key: the document.
        field: the field asked for, or None when all of them were.
    """

    def __init__(self, key: str, field: str | None = None) -> None:
        self.key, self.field = key, field
        super().__init__(key, field)

    def __str__(self) -> str:
        what = "all fields are needed here" if self.field is None else f"field {self.field!r} was not fetched"
        return f"{self.key!r}: {what}; nothing was applied. Name it in fields=, or read without fields="


class CrossSlotError(TxStateError):
    """Keys of one transaction live in different slots of a cluster. Nothing was applied.

    Attributes:
        keys: the keys of the transaction.
    """

    def __init__(self, message: str, *, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class UsageError(TxStateError):
    """The library was called in a way that can't work. Nothing was applied; the message says what to change."""


class NotDurable(TxStateError):  # noqa: N818 - the name is part of the public contract
    """Applied, but fewer replicas or disks have it than asked, or could be asked in time. Don't apply it again.

    The transaction is committed: callbacks of `on_commit` have run, others see it. A failover or a power cut may still
    lose it, as a whole.

    Attributes:
        result: what the call would have returned.
        replicas: how many replicas confirmed it in time; None if there was no answer.
        local: whether the server's own disk has it; None if there was no answer, or it was not asked.
    """

    def __init__(
        self, message: str, *, result: Any, replicas: int | None = None, local: bool | None = None
    ) -> None:
        super().__init__(message)
        self.result, self.replicas, self.local = result, replicas, local

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class CommitUnknown(TxStateError):  # noqa: N818 - the name is part of the public contract
    """May have been applied, at most once. Ask `store.resolve(error.token)` before doing it again.

    Raised when no server could be asked until the deadline, when the evidence is gone (evicted, flushed, lost in a
    failover), or when the server applied the transaction in part.

    Attributes:
        token: hand it to `store.resolve`; None where that can tell no more: `UNKNOWN`.
        replies: what the server had answered, where that is the evidence.
        known: what was found out. As the cause of an interruption it may be `Resolution.COMMITTED`.
    """

    def __init__(
        self, message: str, *, token: str | None, known: Resolution, replies: Sequence[object] = ()
    ) -> None:
        super().__init__(message)
        self.token, self.known, self.replies = token, known, tuple(replies)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[TxStateError], args: tuple[Any, ...], state: dict[str, Any]) -> TxStateError:
    """Unpickle an error whose constructor takes more than its args."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
