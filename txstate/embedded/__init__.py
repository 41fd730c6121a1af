"""The embedded server: found, started, shared between processes, and stopped with its last user.

`opening` is what others call, `binary` finds a server, `lease` is one process's share in it, `home` the folder it
lives in, `guard` the small process that minds it. None of them knows what txstate does with the server.
"""

from txstate.embedded.binary import find_server
from txstate.embedded.lease import EmbeddedServer, Fsync
from txstate.embedded.opening import open_folder, open_private

__all__ = ["EmbeddedServer", "Fsync", "find_server", "open_folder", "open_private"]
