"""The command line, `txstate`. Needs the extra `cli` (typer, rich), which nothing else of the package does."""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command that ``sys.argv`` names, and end the process with its exit code.

    Without the extra's packages: one line that says what to install, and exit code 2.
    """
    try:
        from txstate.cli._app import run  # noqa: PLC0415 - the extra may be missing, and that is to be said kindly
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print("txstate: the command line needs typer and rich: pip install 'txstate[cli]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    run()
