"""Proving what an armed socket had read before the call that uses it: that it still held during the call.

Needed where no EXEC does it: by a transaction that writes nothing, or whose function raises. The question is always the
same for one snapshot, so its bytes are packed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txstate._effects import Constant, ReplyError
from txstate._engine.outcome import passing
from txstate._engine.reads import Stale
from txstate._engine.session import DIRTY, client_flags, is_clean, require_primary, role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from txstate._effects import Command
    from txstate._engine.session import Session


_MASTER: Final = [b"master"]
"""How most answers to ROLE begin."""


class Proof:
    """One round trip that reads nothing.

    EXISTS touches what has expired, so it goes before CLIENT INFO, which then shows the flag ``d``. The role is asked for
    at the end: a demoted primary goes on serving clean, stale reads.

    Args:
        session: the socket, with its watches in place.
        names: the hashes that were read.

    Attributes:
        commands: what to send.
    """

    __slots__ = ("_session", "commands")

    def __init__(self, session: Session, names: Iterable[bytes]) -> None:
        self._session = session
        commands: list[Command] = [("EXISTS", session.token, *names), ("CLIENT", "INFO")]
        if session.role is not None:
            commands.append(session.role)
        self.commands = Constant(commands)

    def take(self, replies: Sequence[object], present: int) -> None:
        """Validate.

        Args:
            replies: to the commands.
            present: how many of the hashes existed when they were read.

        Raises:
            Stale: something that was read has been modified since, or the socket can't tell.
            ReplyError: the server refused, or is a primary no more.
        """
        existing, info, *role = replies
        expected = present + self._session.token_set
        primary = not role or (type(role[0]) is list and role[0][:1] == _MASTER)
        if primary and existing == expected and is_clean(info):
            return
        for reply in replies if ReplyError in map(type, replies) else ():
            if isinstance(reply, ReplyError) and (reply is existing or passing(reply)):
                raise reply
        flags = client_flags(info)
        if flags is not None and DIRTY in flags:
            raise Stale
        if flags is None or existing != expected:
            raise Stale(of_socket=True)
        if not primary:
            name = role_of(role[0])
            if name is not None:
                require_primary(name)
