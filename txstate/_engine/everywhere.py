"""Reading that is not bound to one slot of a cluster: documents each on its own, and the keys on all nodes.

Nothing here is from one moment. On a single server it is the same, with one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from txstate._effects import ReplyError
from txstate._engine.outcome import because, passing
from txstate._engine.plain import reading, snapshots, take
from txstate._engine.repeated import exchange, repeated, required
from txstate._engine.session import require_primary, role_of
from txstate._engine.slots import SLOTS, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._documents.snapshot import Snapshot
    from txstate._effects import Channel, Command, Steps
    from txstate._engine.reads import Read
    from txstate._engine.settings import Settings

_BATCH: Final = 1000
"""Documents that are asked for in one round trip, at most."""


def get_each(
    settings: Settings, keys: Sequence[str], fields: Sequence[str] | None
) -> Steps[dict[str, Snapshot | None]]:
    """Read documents, each as it was at some moment of this call, in one round trip to each node.

    Raises:
        WrongType: a key holds no hash.
        CodecError: the version in a hash is none.
        ServerRefused, StoreUnavailable: as documented there.
    """
    records, reads = reading(settings, keys, fields)
    left: dict[Read, int | None] = {
        read: slot_of(read.name) if settings.clustered else None for read in reads
    }
    deadline = settings.clock() + settings.retry.deadline
    while left:
        rest = left
        done = yield from repeated(
            settings,
            lambda channel, timeout: _some(settings, channel, rest, timeout),  # noqa: B023 - called at once
            next(iter(left.values())),
            deadline,
        )
        left = {read: slot for read, slot in left.items() if read not in done}
    settings.counters.add(reads=1)
    return snapshots(records)


def _some(
    settings: Settings, channel: Channel, left: Mapping[Read, int | None], timeout: float
) -> Steps[set[Read]]:
    """Read the first document, and what else the same node has. Returns what was read."""
    session = channel.session
    assert session is not None  # noqa: S101 - `repeated` connects
    first, *others = left
    here = [first, *(read for read in others if channel.serves(left[read]))][:_BATCH]
    commands: list[Command] = [("UNWATCH",)] if session.watching else []
    begins = []
    for read in here:
        begins.append(len(commands))
        # Several commands on one document would else see it at several moments.
        asked = read.commands()
        commands += asked if read.replies == 1 else [("MULTI",), *asked, ("EXEC",)]
    end = len(commands)
    if session.role is not None:
        commands.append(session.role)
    replies = yield from exchange(settings, channel, commands, timeout)
    role = role_of(replies[-1]) if session.role is not None else None
    if role is not None:
        require_primary(role)
    done = set()
    for read, begin, after in zip(here, begins, [*begins[1:], end], strict=True):
        answers = replies[begin:after]
        elsewhere = any(isinstance(reply, ReplyError) and passing(because(reply)) for reply in answers)
        if not elsewhere or read is first:
            # That of EXEC as well: Valkey says only there that it has moved.
            for reply in answers if read.replies > 1 else ():
                required(reply, f"reading {read.key!r}")
            yield from take(settings, channel, [read], answers if read.replies == 1 else answers[-1], timeout)
            done.add(read)
    return done


class Listing:
    """The keys of the documents, page by page: by SCAN, on one node after another.

    Args:
        settings: the store's.
        prefix: what the keys start with.
    """

    def __init__(self, settings: Settings, prefix: str) -> None:
        name = settings.redis_key(prefix)
        self._settings = settings
        self._pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in name)
        self._seen: set[str] = set()
        self._cursor = b"0"
        self._node: object = None
        self._left: set[int | None] = {None}
        if settings.clustered:
            # A hash tag in the namespace puts everything into one slot.
            self._left = {slot_of(name)} if "{" in settings.namespace else set(range(SLOTS))
        self._here: set[int | None] = set()

    @property
    def done(self) -> bool:
        """Whether there are no more pages."""
        return not self._left

    def page(self) -> Steps[list[str]]:
        """The next page: the keys on it that no page before had.

        Raises:
            ServerRefused, StoreUnavailable: as documented there.
        """
        slot = min(self._here or self._left, key=lambda each: each or 0)
        following, names = yield from repeated(
            self._settings, lambda channel, timeout: self._scan(channel, slot, timeout), slot
        )
        self._cursor = following
        if following == b"0":
            self._left -= self._here
            self._here, self._node = set(), None
        skipped = len(self._settings.namespace)
        keys = [name.decode(errors="surrogateescape")[skipped:] for name in names]
        reserved = self._settings.reserved[skipped:]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._seen and not key.startswith(reserved)]
        self._seen.update(fresh)
        return fresh

    def _scan(self, channel: Channel, slot: int | None, timeout: float) -> Steps[Any]:
        served = {each for each in self._left if channel.serves(each)}
        if channel.node != self._node or not self._here:
            # A cursor is worth nothing on another node, such as a replica that was promoted.
            self._node, self._cursor, self._here = channel.node, b"0", served
        self._here = (self._here & served) | {slot}
        commands: list[Command] = [
            ("SCAN", self._cursor, "MATCH", self._pattern + b"*", "COUNT", "500", "TYPE", "hash")
        ]
        if slot is not None:
            # SCAN names no slot; this shows that the node still serves it.
            commands.append(("EXISTS", self._settings.reserved_name("token", slot, "")))
        replies = yield from exchange(self._settings, channel, commands, timeout)
        for reply in reversed(replies):
            required(reply, "listing keys")
        return replies[0]
