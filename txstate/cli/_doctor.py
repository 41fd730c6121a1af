"""`txstate doctor`: which promises hold on this server, and why."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from txstate import Store, UsageError
from txstate.cli._facts import Facts
from txstate.cli._options import AsJson, Namespace, Url, prefix, print_json, target
from txstate.cli._probe import gather
from txstate.cli._verdicts import Standing, Verdict, judge_all

_STYLES = {Standing.HOLDS: "green", Standing.CONDITIONAL: "yellow", Standing.BROKEN: "bold red"}


def doctor(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", show_default=False, help="Server or folder; by default --url, $TXSTATE_URL."
        ),
    ] = None,
    *,
    as_json: AsJson = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Tell which promises hold on this server.

    And why, and what would mend it. Tries what the library needs on a key of its own, which it removes. Exit code 1: a promise does not hold.
    """
    named = server if server is not None else target(context, url)
    if named is None:
        raise UsageError(
            "no server was named: txstate doctor redis://host:6379/0 (or a folder), or set TXSTATE_URL"
        )
    with Store(named) as store:
        nodes = gather(store.url, prefix(context, namespace))
    verdicts = judge_all(nodes)
    if as_json:
        told = [asdict(facts) for facts in nodes]
        print_json({"facts": told[0], "nodes": told, "verdicts": [asdict(verdict) for verdict in verdicts]})
    else:
        _show(Console(highlight=False), nodes, verdicts)
    raise typer.Exit(any(verdict.standing is Standing.BROKEN for verdict in verdicts))


def _show(console: Console, nodes: list[Facts], verdicts: list[Verdict]) -> None:
    plain = not console.is_terminal
    for facts in nodes:
        for line in _summary(facts):
            console.print(line, soft_wrap=plain, markup=False)
    told = ""
    for verdict in verdicts:
        console.print()
        head = Text.assemble(
            (f"{verdict.promise} {verdict.title}: ", "bold"),
            (str(verdict.standing), _STYLES[verdict.standing]),
        )
        console.print(head)
        said = [verdict.reason if verdict.reason != told else "for the same reason"]
        if verdict.remedy and verdict.reason != told:
            label = "Better" if verdict.standing is Standing.HOLDS else "To mend it"
            said.append(f"{label}: {verdict.remedy}")
        told = verdict.reason
        for text in said:
            if plain:
                console.print(f"   {text}", soft_wrap=True, markup=False)
            else:
                console.print(Padding(Text(text), (0, 0, 0, 3)))


def _summary(facts: Facts) -> list[str]:
    """The facts in a few lines."""
    roles = {"master": "primary", "slave": "replica", None: "role not shown"}
    cluster = ", node of a cluster" if facts.cluster else ""
    lines = [
        (
            f"{facts.address + ': ' if facts.address else ''}{facts.kind} {facts.version}, {roles.get(facts.role, facts.role)}{cluster}, "
            f"round trip {facts.round_trip_ms:.2f} ms"
        )
    ]
    if facts.aof is not None:
        log = f"on, appendfsync {facts.fsync or 'not shown'}" if facts.aof else "off"
        saved = {None: "not shown", "": "off"}.get(facts.snapshots, facts.snapshots)
        lines.append(f"persistence: log {log}; snapshots {saved}")
    if facts.policy is not None:
        limit = f"{facts.maxmemory:,} bytes" if facts.maxmemory else "no limit"
        lines.append(f"memory: {limit}, {facts.policy}, {facts.evicted or 0:,} keys evicted")
    for replica in facts.replicas or ():
        lag = "lag not shown" if replica.lag_s is None else f"lag {replica.lag_s} s"
        behind = "" if replica.behind_bytes is None else f", {replica.behind_bytes:,} bytes behind"
        lines.append(f"replica {replica.address}: {replica.state}, {lag}{behind}")
    if facts.min_replicas:
        lines.append(
            f"min-replicas-to-write {facts.min_replicas}, min-replicas-max-lag {facts.min_replicas_lag_s} s"
        )
    if facts.clock_ahead_s is not None:
        lines.append(f"clock: {facts.clock_ahead_s:+.3f} s from this machine's")
    if facts.field_ttls:
        lines.append(f"hashes with fields that expire one by one: {facts.field_ttls}")
    lines += [f"refused: {name}: {answer}" for name, answer in facts.refused.items()]
    return lines
