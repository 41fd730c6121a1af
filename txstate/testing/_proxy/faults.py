"""The words of the fault proxy: what can be done to a command, and what is told about it.

Values only: nothing here acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from txstate._checks import check_count, check_seconds
from txstate.errors import UsageError
from txstate.testing._proxy.endpoint import Cut


@dataclass(frozen=True, slots=True)
class DropReply:
    """The server runs the command, but its reply is lost, and the connection with it.

    Acts when the whole reply has arrived at the proxy, so the command has run for certain. Replies of earlier
    commands of the same batch reach the client, later ones don't.

    Attributes:
        by: how the connection ends.
    """

    by: Cut = Cut.FIN

    def __post_init__(self) -> None:
        check_cut(self.by)


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The command, and what follows it on the connection, never reaches the server; the connection is lost.

    What came before it does reach the server, so the server's side ends by FIN.

    Attributes:
        by: how the client's side ends. By SILENCE, the server's side stays open until the client's ends.
    """

    by: Cut = Cut.FIN

    def __post_init__(self) -> None:
        check_cut(self.by)


@dataclass(frozen=True, slots=True)
class CutRequest:
    """Exactly `at` bytes reach the server, counted from the command's first one on; then both sides are cut.

    Counting goes on over the commands that follow, so `at` on MULTI reaches every byte of a transaction. It fires
    when byte `at` was reached: a sweep over all bytes is complete when it no longer fires.

    Attributes:
        at: how many bytes, from 0.
        by: how both sides end. By RST the server may lose bytes that it had not read yet.
    """

    at: int
    by: Cut = Cut.FIN

    def __post_init__(self) -> None:
        check_count("at=", self.at, 0)
        check_cut(self.by)


@dataclass(frozen=True, slots=True)
class CutReply:
    """Exactly `at` bytes reach the client, counted from the first one of the reply on; then both sides are cut.

    Counting goes on over whatever follows (pushes too). As with `DropReply`, the command has run. It fires when
    byte `at` was reached: a sweep over all bytes is complete when it no longer fires.

    Attributes:
        at: how many bytes, from 0.
        by: how the connection ends. By RST the client may lose bytes that it had not read yet.
    """

    at: int
    by: Cut = Cut.FIN

    def __post_init__(self) -> None:
        check_count("at=", self.at, 0)
        check_cut(self.by)


@dataclass(frozen=True, slots=True)
class Late:
    """The command, and what follows it, is held back while the client is cut; it is delivered when a test says so.

    The server's side of the connection stays open, WATCH and MULTI included, as when a packet is late. What was
    held is `Rule.held`.

    Attributes:
        by: how the client's side ends.
    """

    by: Cut = Cut.FIN

    def __post_init__(self) -> None:
        check_cut(self.by)


@dataclass(frozen=True, slots=True)
class Delay:
    """The command, or its reply, comes later. What follows on the connection waits behind it.

    Attributes:
        request: seconds that the command is late.
        reply: seconds that its reply is late.
    """

    request: float = 0.0
    reply: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("request=", self.request, zero=True)
        check_seconds("reply=", self.reply, zero=True)


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """The command, and what follows it on the connection, waits in the proxy until `Rule.release`."""


@dataclass(frozen=True, slots=True)
class HoldReply:
    """The command runs; its reply, and what follows, waits in the proxy until `Rule.release`."""


Action: TypeAlias = DropReply | DropRequest | CutRequest | CutReply | Late | Delay | HoldRequest | HoldReply
"""What a rule does to a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a client sent.

    Attributes:
        connection: which connection sent it: 1 for the first that the proxy accepted, 2 for the second, ...
        name: in upper case.
        args: its arguments, without the name.
        nth: which command of this name it is on its connection, counted from 1.
        nth_overall: the same over all connections.
    """

    connection: int
    name: str
    args: tuple[bytes, ...]
    nth: int
    nth_overall: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at the proxy.

    Attributes:
        kind: ``"connected"``, ``"closed"``, ``"unreachable"`` (the upstream, so the client was reset), ``"fired"``
            (a rule), ``"killed"``, ``"delivered"`` and ``"discarded"`` (what was late), ``"paused"``, ``"resumed"``,
            ``"refusing"``, ``"accepting"`` or ``"failed"`` (see `note`).
        at: when, in seconds of `time.monotonic`.
        connection: its ordinal, or 0 when the whole proxy is meant.
        command: the command that a rule acted on.
        action: what the rule did to it.
        note: more, for humans.
    """

    kind: str
    at: float
    connection: int = 0
    command: Command | None = None
    action: Action | None = None
    note: str = ""


def check_cut(by: object) -> None:
    """Refuse what is no `Cut`.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(by, Cut):
        raise UsageError(f"by= takes a Cut, such as Cut.RST, not {by!r}")
