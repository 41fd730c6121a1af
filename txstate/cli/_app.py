"""The command `txstate`: its subcommands, the options before them, and what errors look like."""

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

import txstate
from txstate.cli._doctor.command import doctor
from txstate.cli._documents import delete, get, put
from txstate.cli._edit import edit
from txstate.cli._options import CommandError, Common, say
from txstate.cli._stress.command import stress

app = typer.Typer(
    name="txstate",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (stress, doctor, get, put, edit, delete):
    app.command()(command)


def run() -> NoReturn:
    """Run the command line, and end the process; errors that are expected become one line on stderr and an exit code."""
    _open_what_is_closed()
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at the end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and error.errno != errno.EPIPE:
            say(f"the output can't be written: {error}")
        code = code or 1
    sys.exit(code)


def _run() -> int | str | None:
    try:
        app(prog_name="txstate")
    except SystemExit as ended:
        return ended.code
    except txstate.UsageError as error:
        say(str(error))
        return 2
    except (txstate.TxStateError, CommandError, OSError) as error:
        say(str(error))
        return 1
    return 0


def _open_what_is_closed() -> None:
    """Let standard streams that were closed lead to nowhere; else the next connection would be standard output to a child."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - the form of typer's callbacks
    if wanted:
        print(f"txstate {txstate.__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="TXSTATE_URL",
            metavar="URL",
            help="Server, or folder of an embedded one, for all commands.",
        ),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Prefix of every key, for all commands.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shared state on Redis and Valkey as transactions.

    The options --url and --namespace may stand before or after the command.
    """
    del version
    context.obj = Common(url, namespace)
