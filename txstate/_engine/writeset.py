"""The write set: what a commit does to each document, and the commands for it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from txstate._documents.codec import VERSION_FIELD, VERSION_LAST, VERSION_NAME
from txstate._documents.doc import KEEP
from txstate._effects import LARGE, Bulky
from txstate.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._documents.doc import Changes, Record
    from txstate._effects import Command
    from txstate._engine.attempt import Attempt


class Write(NamedTuple):
    """What is written to one document.

    Attributes:
        record: the document as read.
        changes: what is done to it.
        version: what it gets; 0 if it is deleted.
    """

    record: Record
    changes: Changes
    version: int


def write_set(attempt: Attempt) -> list[Write]:
    """What the function has changed.

    A version grows with every commit, and by the clock after a deletion, so that none ever comes back.

    Raises:
        CodecError: a list or dict was given something that can't be stored, or somebody else has used up the versions.
    """
    writes, time = [], attempt.read_set.time
    for record in attempt.documents.records.values():
        changes = record.changes()
        if changes is not None:
            version = max(record.version + 1, time) if changes.exists else 0
            if version > VERSION_LAST:
                message = f"holds {record.version}, the last version there can be; remove this field, then the version is 1"
                raise CodecError(message, key=record.key, field=VERSION_NAME)
            writes.append(Write(record, changes, version))
    return writes


def commands_of(attempt: Attempt, writes: Sequence[Write]) -> list[Command]:
    """What is sent for them, between MULTI and EXEC."""
    commands: list[Command] = []
    names = attempt.read_set.names
    for record, (delete_first, values, unset, exists, ttl), version in writes:
        name = names[record.key]
        if delete_first:
            commands.append(("DEL", name))
        if not exists:
            continue
        # HSET before HDEL: a hash that loses its last field is gone, and its TTL with it.
        command: tuple[bytes | str, ...] = (
            "HSET",
            name,
            VERSION_FIELD,
            b"%d" % version,
            *chain.from_iterable(values.items()),
        )
        if sum(map(len, values.values())) < LARGE:
            commands.append(command)
        else:
            commands.append(Bulky(command))
            attempt.bulky = True
        if unset:
            commands.append(("HDEL", name, *unset))
        if ttl is None:
            commands.append(("PERSIST", name))
        elif ttl is not KEEP:
            commands.append(("PEXPIRE", name, b"%d" % ttl))
    return commands
