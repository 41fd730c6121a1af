"""One connection that is asked one thing at a time, and what the server refused."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis

from txstate._drivers.source import answer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txstate._drivers.source import Source


class Asker:
    """Asks one thing at a time, and remembers what was refused.

    Attributes:
        refused: the answers, by what was asked.
        asking: what was asked and not answered yet; None: nothing.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.refused: dict[str, str] = {}
        self.asking: str | None = None

    def ask(self, *command: Any, name: str | None = None) -> Any:
        """The answer, as it came; None when it was refused.

        Args:
            *command: the command.
            name: under which a refusal is remembered; by default the command's first word.
        """
        asking = name or str(command[0])
        answer = self.try_asking(*command, name=asking)
        if isinstance(answer, redis.ResponseError):
            self.refused[asking] = answer_of(answer)
            return None
        return answer

    def try_asking(self, *command: Any, name: str) -> Any:
        """The answer, as it came, also when it is an error: such a refusal is not remembered."""
        self.asking = name
        try:
            self._connection.send_command(*command)
            answer = self._connection.read_response()
        except redis.ResponseError as error:
            answer = error
        self.asking = None
        return answer

    def info(self, section: str) -> dict[str, Any]:
        """One section of INFO; empty when it was refused."""
        answer = self.ask("INFO", section, name=f"INFO {section}")
        if not isinstance(answer, bytes):
            return {}
        lines = answer.decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def config(self, name: str) -> str | None:
        """One setting; None when it may not be seen."""
        answer = self.ask("CONFIG", "GET", name, name=f"CONFIG GET {name}")
        return answer[1].decode() if answer else None


@contextmanager
def connected(source: Source, timeout: float) -> Iterator[Asker]:
    """Connect, and ask meanwhile.

    Args:
        source: where the connection comes from.
        timeout: for connecting and for each answer, in seconds.

    Raises:
        redis.RedisError: it can't be reached, or lets nobody in.
    """
    settings = {**source.settings, "protocol": 2, "decode_responses": False}
    connection = replace(source, settings=settings).connection(timeout)
    try:
        connection.connect()
        yield Asker(connection)
    finally:
        connection.disconnect()


def code_of(error: redis.RedisError) -> str:
    """The first word of it."""
    return answer_of(error).partition(" ")[0]
