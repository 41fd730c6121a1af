"""Users with other rights than the default one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from support.wire import client_of

if TYPE_CHECKING:
    from support.servers import ServerHandle

USER: Final = "limited"
_EVERYTHING: Final = ("reset", "on", ">secret", "~*", "&*", "+@all")


def url_of(server: ServerHandle, *rules: str) -> str:
    """The server's address for a user with all rights, but for these rules of ACL SETUSER."""
    change_rights(server, *_EVERYTHING, *rules)
    return server.url.replace("redis://", f"redis://{USER}:secret@")


def change_rights(server: ServerHandle, *rules: str) -> None:
    """Apply more rules to that user, also where it is connected already."""
    with client_of(server.unix_url) as admin:
        admin.execute_command("ACL", "SETUSER", USER, *rules)
