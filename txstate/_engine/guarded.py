"""Commits of documents whose fields expire one by one.

WATCH does not see a field expire: EXEC would commit what was computed from a field that is gone. So for such documents
the transaction is one script, which checks that these fields are still there and then writes. Time stands still
while a script runs, and nothing in it fails once its checks have passed: it is all or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txstate._effects import ReplyError
from txstate._engine.outcome import Committed, Conflict, Outage, Partial, Refused, failure, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from txstate._effects import Command
    from txstate._engine.reads import FieldTTLsRead

_CHUNK: Final = 1000
"""Arguments of one command inside the script; Lua's stack ends at 8,000."""

_SCRIPT: Final = b"""
local function chunk(at)
  local length = tonumber(ARGV[at])
  local items = {}
  for i = 1, length do items[i] = ARGV[at + i] end
  return items, at + length + 1
end
local at, checks, commands = 2, {}, {}
for i = 1, tonumber(ARGV[1]) do
  checks[i], at = chunk(at)
end
while ARGV[at] do
  commands[#commands + 1], at = chunk(at)
end
for _, check in ipairs(checks) do
  local now = redis.call('HPEXPIRETIME', check[1], 'FIELDS', 1, check[2])
  if now[1] ~= tonumber(check[3]) then return 'stale' end
end
for _, command in ipairs(commands) do
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then
    return 'NOPERM this user may not run ' .. command[1] .. ' on ' .. command[2]
  end
end
for i, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if i == 1 and type(reply) == 'table' and reply.err then return reply.err end
end
return 'written'
"""


def guarded_write(volatile: Sequence[FieldTTLsRead], writes: Sequence[Command]) -> list[Command]:
    """The transaction as one command.

    Args:
        volatile: the fields that expire, with their times, of all documents that were read.
        writes: what a plain transaction would send. Fields that they set keep their time, but for those of a document
            that is deleted first: what is made in its place has none.
    """
    checks = [
        (read.name, field, b"%d" % time) for read in volatile for field, time in (read.volatile or {}).items()
    ]
    gone = {write[1] for write in writes if write[0] == "DEL"}
    expiring: dict[tuple[bytes | str, bytes | str], bytes] = {
        (name, field): time for name, field, time in checks if name not in gone
    }
    commands = [part for write in writes for part in _parts(write)]
    commands += [
        ("HPEXPIREAT", write[1], expiring[write[1], field], "FIELDS", "1", field)
        for write in writes
        if write[0] == "HSET"
        for field in write[2::2]
        if (write[1], field) in expiring
    ]
    names = list(dict.fromkeys([*(write[1] for write in writes), *(read.name for read in volatile)]))
    arguments: list[bytes | str] = [b"%d" % len(checks)]
    for chunk in (*checks, *commands):
        arguments += [b"%d" % len(chunk), *chunk]
    return [("EVAL", _SCRIPT, b"%d" % len(names), *names, *arguments)]


def guarded_verdict(
    replies: Sequence[object], keys: Sequence[str]
) -> Committed | Conflict | Outage | Refused | Partial:
    """The same as `verdict`; the script's answer, alone in EXEC's array, has a say in it."""
    outcome, answer = verdict(replies, keys), replies[-1]
    if not isinstance(outcome, Committed):
        return outcome
    text = answer[0] if isinstance(answer, list) else answer
    if text == b"written":
        return Committed()
    if text == b"stale":
        return Conflict()
    return failure(ReplyError(text.decode() if isinstance(text, bytes) else repr(text)), "committing", keys)


def _parts(write: Command) -> Iterator[Command]:
    """The same write in commands that Lua can unpack."""
    if write[0] not in ("HSET", "HDEL"):
        yield write
        return
    for start in range(2, len(write), _CHUNK):
        yield (*write[:2], *write[start : start + _CHUNK])
