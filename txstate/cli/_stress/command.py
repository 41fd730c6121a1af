"""`txstate stress`: the same load for txstate and for the usual ways, on the same server, counted exactly."""

import contextlib
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, NoReturn

import redis
import typer
from rich.console import Console

from txstate import Store, StoreUnavailable, UsageError
from txstate.cli._options import AsJson, Namespace, Url, prefix, print_json, say, target
from txstate.cli._servers import client_of, name_of
from txstate.cli._stress.contenders import Name
from txstate.cli._stress.contest import Plan, Result, clean_up, compete
from txstate.cli._stress.crew import Crew
from txstate.cli._stress.report import Display, Lines, Live, show
from txstate.cli._stress.workloads import Workload


def stress(
    context: typer.Context,
    *,
    workload: Annotated[
        Workload,
        typer.Option(
            help="counter: one hot document; bank: transfers between accounts; session: one field of 30 each."
        ),
    ] = Workload.COUNTER,
    processes: Annotated[int, typer.Option(min=1, max=256, help="How many hammer at once.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long, each contender.")] = 5.0,
    faults: Annotated[bool, typer.Option("--faults", help="Cut connections while it runs.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the load and the faults; drawn by default.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Hammer shared documents, and count every update.

    Several processes do the load with txstate, with GET/SET, and with redis-py's own transaction. Without a server named, on a
    private embedded one. Only keys of the run's own are touched, and removed at the end.

    Exit code 1: txstate lost, doubled or tore an update, or acknowledged none; or --faults cut nothing.
    """
    prefixed = prefix(context, namespace)
    with _server(target(context, url), prefixed) as address:
        server, process = _identify(address)
        plan = Plan(
            url=address,
            server=server,
            namespace=f"{prefixed}txstate-stress:{secrets.token_hex(6)}:",
            workload=workload,
            processes=processes,
            seconds=seconds,
            seed=secrets.randbelow(2**32) if seed is None else seed,
            faults=faults,
        )
        console = Console(stderr=as_json, soft_wrap=False)
        results = _run(plan, _display(console, plan, silent=as_json))
        restarted = _identify(address)[1] != process
    own, *peers = results
    if as_json:
        print_json(own.as_json(plan) | {"peers": {peer.name: peer.as_json(plan) for peer in peers}})
    else:
        show(console, plan, results)
    raise typer.Exit(_judge(plan, own, restarted=restarted))


@contextlib.contextmanager
def _server(named: str | None, namespace: str) -> Iterator[str]:
    """The address for the workers; a private server lives as long as the run."""
    with Store(*[named] if named is not None else [], namespace=namespace) as store:
        if any(f"+{kind}://" in store.url for kind in ("cluster", "sentinel")):
            raise UsageError(
                "stress runs on one server, where all that it compares can run: name a primary as redis://host:port. "
                "What clusters and failovers do under load is in docs/reliability.md"
            )
        yield store.url


def _identify(url: str) -> tuple[str, str]:
    """The server's kind and version; and which run of it this is, if it tells."""
    try:
        with client_of(url, protocol=2, retry=None) as client:
            try:
                info = client.info("server")
            except redis.ResponseError:  # not allowed to this user, who may still run the load
                return " ".join(name_of({}, client.execute_command("HELLO"))), ""
            return " ".join(name_of(info, None)), str(info.get("run_id", ""))
    except redis.RedisError as error:
        raise StoreUnavailable(f"the server can't be used: {error}") from error


def _display(console: Console, plan: Plan, *, silent: bool) -> Display:
    if console.is_terminal:
        return Live(console, plan)
    return Lines((lambda _line: None) if silent else print, plan)


def _run(plan: Plan, display: Display) -> list[Result]:
    results = []
    try:
        with _told_to_end(), Crew(plan.processes) as crew, display:
            for name in Name:
                result = compete(
                    name,
                    plan,
                    crew,
                    started=lambda name=name: display.begin(name),  # type: ignore[misc]  # bound per turn on purpose
                    progress=lambda sofar, cuts, name=name: display.update(name, sofar, cuts),  # type: ignore[misc]
                )
                display.end(result)
                results.append(result)
    finally:
        clean_up(plan)
    return results


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does: the workers are to be ended, and the keys to be removed.

    One that the run was started to ignore stays ignored, as Python leaves SIGINT: nohup is asked for by who logs out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {
        name: signal.signal(name, _end)
        for name in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(name) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for name, handler in former.items():
            signal.signal(name, handler)


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _judge(plan: Plan, own: Result, *, restarted: bool) -> int:
    """The exit code; what speaks against the run is said on stderr."""
    failures = []
    if not own.exact:
        failures.append(
            "the server was restarted meanwhile, and has lost what it had acknowledged and not saved yet"
            if restarted
            else "txstate lost, doubled or tore updates: please report this, with the output of --json"
        )
    if not own.tally.acknowledged:
        failures.append("txstate acknowledged nothing")
    if plan.faults and not own.faults:
        failures.append("no connection was cut while txstate ran, so nothing was shown: try more --seconds")
    if own.total is not None and own.total[0] != own.total[1]:
        failures.append(f"money was made or destroyed: {own.total[1]} where {own.total[0]} was")
    for failure in failures:
        say(failure)
    return 1 if failures else 0
