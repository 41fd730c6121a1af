"""The command `txstate`: its subcommands, the options before them, and what errors look like."""

import sys
from typing import Annotated

import typer

import txstate
from txstate.cli._doctor import doctor
from txstate.cli._documents import delete, get, put
from txstate.cli._edit import edit
from txstate.cli._options import CommandError, Common, say
from txstate.cli._stress import stress

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


def run() -> None:
    """Run the command line; errors that are expected become one line on stderr and an exit code."""
    try:
        app(prog_name="txstate")
    except txstate.UsageError as error:
        _fail(error, 2)
    except (txstate.TxStateError, CommandError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    say(str(error))
    sys.exit(code)


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
