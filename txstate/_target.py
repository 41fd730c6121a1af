"""What a store is opened on: a private server, a folder, an address, or a client's settings."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from txstate._drivers.kinds import source_of_client, source_of_url
from txstate._drivers.source import Source
from txstate.embedded import EmbeddedServer, open_folder, open_private
from txstate.errors import UsageError

Policy: TypeAlias = Literal["everysec", "always"]

_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[\w.\-]+):\d+(?:/\d+)?")


class Private(enum.Enum):
    """The default target."""

    PRIVATE = "a private embedded server"


PRIVATE: Final = Private.PRIVATE


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store's data is.

    Attributes:
        url: the address, or None when a server has to be started first.
        folder: the folder of an embedded server, absolute; None: a private one.
        source: the settings of a client, instead of all this.
        fsync: of an embedded folder.
    """

    url: str | None
    folder: str | None
    source: Source | None
    fsync: Policy

    @property
    def embedded(self) -> bool:
        """Whether a server has to be started."""
        return self.url is None and self.source is None

    @property
    def clustered(self) -> bool:
        """Whether the data is spread over the slots of a cluster."""
        if self.url is not None:
            return source_of_url(self.url, asynchronous=False).clustered
        return self.source is not None and self.source.clustered

    def start(self) -> EmbeddedServer:
        """Start, or join, the embedded server.

        Raises:
            StoreUnavailable: no server is installed, or it does not start.
            UsageError: the folder can't be used.
        """
        return open_private() if self.folder is None else open_folder(self.folder, fsync=self.fsync)

    def connections(self, server: EmbeddedServer | None, *, asynchronous: bool) -> Source:
        """Where connections come from."""
        if self.source is not None:
            return self.source
        if server is not None:
            return replace(Source.of_url(server.url, asynchronous=asynchronous), revive=server.revive)
        assert self.url is not None  # noqa: S101 - there is a server, or an address
        return source_of_url(self.url, asynchronous=asynchronous)


def target_of(
    target: str | os.PathLike[str] | Private, client: Any, fsync: Policy, *, asynchronous: bool
) -> Target:
    """Read the arguments of a store.

    Raises:
        UsageError: they name nothing that could be opened, or ask a server for an fsync that isn't ours to set.
    """
    opened = _opened(target, client, fsync, asynchronous=asynchronous)
    if fsync not in ("everysec", "always"):
        raise UsageError(f"fsync is 'everysec' or 'always', not {fsync!r}")
    if fsync == "always" and opened.folder is None:
        raise UsageError(
            "fsync='always' is for the server of a folder, Store('folder/'): any other one goes by its own appendfsync, "
            "and durability=Fsync() waits for that; a private one keeps nothing"
        )
    return opened


def _opened(
    target: str | os.PathLike[str] | Private, client: Any, fsync: Policy, *, asynchronous: bool
) -> Target:
    if client is not None:
        if target is not PRIVATE:
            raise UsageError("pass a target or client=, not both")
        return Target(None, None, source_of_client(client, asynchronous=asynchronous), fsync)
    if target is PRIVATE:
        return Target(None, None, None, fsync)
    path = os.fspath(target) if isinstance(target, os.PathLike) else None
    text = target if path is None else path
    if not isinstance(text, str) or not text:
        raise UsageError(
            f"a store opens a folder or an address, not {target!r} (is an environment variable missing?); "
            "Store() without arguments is a private server of its own"
        )
    if path is None and "://" in text:
        source_of_url(text, asynchronous=asynchronous)
        return Target(text, None, None, fsync)
    if path is None and _HOST_AND_PORT.fullmatch(text):
        raise UsageError(f"{text!r} looks like an address without a scheme: write 'redis://{text}'")
    return Target(None, str(Path(text).absolute()), None, fsync)
