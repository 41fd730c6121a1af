"""The two ways to open an embedded server. Judges what the caller gave; the rest is the lease's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import get_args

from txstate._checks import check_seconds
from txstate.embedded.binary import find_server
from txstate.embedded.home import Home, temporary_directory
from txstate.embedded.lease import EmbeddedServer, Fsync
from txstate.errors import StoreUnavailable, UsageError


def open_private(*, server: Path | None = None, timeout: float = 10.0) -> EmbeddedServer:
    """Start a server for this process, which leaves nothing behind: neither process nor file, however its owner ends.

    Other processes may connect to its URL while the owner has it open.

    Args:
        server: the binary to run; by default what `find_server` finds.
        timeout: seconds to wait until it answers.

    Returns:
        The running server; close it, or end.

    Raises:
        StoreUnavailable: there is no binary, or it didn't start; the message has the end of its log.
        UsageError: an argument can't be used.
    """
    check_seconds("timeout=", timeout)
    binary = _binary(server)
    home = Home(temporary_directory(), binary, private=True)
    try:
        return EmbeddedServer(home, timeout=timeout)
    except OSError as error:
        home.remove()
        raise StoreUnavailable(f"a private embedded server can't be started: {error}") from error


def open_folder(
    path: str | os.PathLike[str],
    *,
    fsync: Fsync = "everysec",
    server: Path | None = None,
    timeout: float = 10.0,
) -> EmbeddedServer:
    """Open the durable server of a folder, starting it unless another process has.

    All processes of one user, on one host, that open the folder share one server, and the last one to close it stops
    it. Should it be killed meanwhile, its guard brings it back, with its data, at the same address.

    Args:
        path: the folder, made when missing.
        fsync: `everysec` may lose the last second in a power cut; `always` loses nothing that was acknowledged. The
            stricter wish wins: `always` holds for all users from then on, until the folder is closed everywhere.
        server: the binary to run, if it has to be started; by default what `find_server` finds.
        timeout: seconds to wait until it answers. One that is still loading its data by then counts as open.

    Returns:
        The running server, shared with whoever else has the folder open.

    Raises:
        StoreUnavailable: there is no binary, or the server didn't start; the message has the end of its log.
        UsageError: the path is not a folder that can be written to, or another argument can't be used.
    """
    if fsync not in get_args(Fsync):
        raise UsageError(f"fsync must be 'everysec' or 'always', not {fsync!r}")
    check_seconds("timeout=", timeout)
    binary = _binary(server)
    # Resolved, so that all spellings meet in one folder, and a later chdir changes nothing.
    folder = Path(os.path.realpath(_name(path)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return EmbeddedServer(Home(folder, binary, private=False), fsync=fsync, timeout=timeout)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} can't be a folder: there is a file in its place") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise UsageError(
                f"{folder} can't be written to by this user ({error}); choose another folder, or let all its "
                "processes run as its owner"
            ) from error
        raise StoreUnavailable(f"the embedded server of {folder} can't be started: {error}") from error


def _binary(server: object) -> Path:
    """The binary to run: the caller's choice, or ours."""
    if server is None:
        return find_server()
    found = shutil.which(server) if isinstance(server, str | os.PathLike) else None
    if found is None:
        raise UsageError(f"server= takes the path of a server's binary, and {server!r} can't be run")
    return Path(found).absolute()


def _name(path: object) -> str:
    """What a folder is called, if it can be one."""
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if not name or "\0" in name or "://" in name:
        raise UsageError(f"{path!r} is no folder; name one, for example 'state/'")
    return name
