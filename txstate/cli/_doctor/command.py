"""`txstate doctor`: which promises hold on this server, and why."""

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from txstate import Store, UsageError
from txstate.cli._doctor.facts import Facts, Sentinels
from txstate.cli._doctor.judge import judge_all
from txstate.cli._doctor.probe import Gathered, gather
from txstate.cli._doctor.standing import Standing, Verdict
from txstate.cli._doctor.trial import Trial
from txstate.cli._options import AsJson, Namespace, Url, check_folder, prefix, print_json, target

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

    And why, what would mend it, and what an acknowledged commit survives there. Tries what the library needs on a key of its own, which it removes. Exit code 1: something that is promised by default (P1 to P8) does not hold.
    """
    named = server if server is not None else target(context, url)
    if named is None:
        raise UsageError(
            "no server was named: txstate doctor redis://host:6379/0 (or a folder), or set TXSTATE_URL"
        )
    check_folder(named)
    prefixed = prefix(context, namespace)
    with Store(named, namespace=prefixed) as store:
        gathered = gather(store.url, prefixed)
    nodes, silent, sentinels = gathered
    verdicts = judge_all(nodes, sentinels, silent)
    if as_json:
        told = [asdict(facts) for facts in nodes]
        print_json(
            {
                "facts": told[0],
                "nodes": told,
                "silent": silent,
                "sentinels": None if sentinels is None else asdict(sentinels),
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
        )
    else:
        _show(Console(highlight=False), gathered, verdicts)
    raise typer.Exit(any(verdict.breach for verdict in verdicts))


def _show(console: Console, gathered: Gathered, verdicts: list[Verdict]) -> None:
    plain = not console.is_terminal
    if gathered.sentinels is not None:
        console.print(_around(gathered.sentinels), soft_wrap=plain, markup=False)
    for address, why in gathered.silent.items():
        console.print(f"{address}: can't be reached: {why}", soft_wrap=plain, markup=False)
    for facts in gathered.nodes:
        for line in _summary(facts):
            console.print(line, soft_wrap=plain, markup=False)
    told = ""
    for verdict in verdicts:
        console.print()
        head = Text.assemble((f"{verdict.promise} {verdict.title}: ", "bold"), _standing(verdict))
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
    console.print()
    console.print(_conclusion(verdicts))


def _standing(verdict: Verdict) -> tuple[str, str]:
    """How it stands, and in which style: what is not promised raises no alarm."""
    alarming = verdict.standing is not Standing.BROKEN or verdict.breach
    return str(verdict.standing), _STYLES[verdict.standing] if alarming else "yellow"


def _conclusion(verdicts: list[Verdict]) -> Text:
    broken = [verdict.promise for verdict in verdicts if verdict.breach]
    if not broken:
        return Text("What the library promises by default (P1 to P8) holds here.", "green")
    return Text(f"What the library promises by default does not hold here: {', '.join(broken)}.", "bold red")


def _around(sentinels: Sentinels) -> str:
    """The sentinels in a line."""
    answered = sentinels.asked - len(sentinels.silent)
    return (
        f"sentinels of {sentinels.service}: {answered} of {sentinels.asked} answer, {sentinels.known} known; quorum "
        f"{sentinels.quorum}, down after {sentinels.down_after_s:g} s"
    )


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
        takes = ", takes writes" if replica.read_only is False else ""
        never = ", never promoted" if replica.priority == 0 else ""
        lines.append(f"replica {replica.address}: {replica.state}, {lag}{behind}{takes}{never}")
    if facts.min_replicas or (facts.replicas and facts.min_replicas is not None):
        lines.append(
            f"min-replicas-to-write {facts.min_replicas}, min-replicas-max-lag {facts.min_replicas_lag_s} s"
        )
    if facts.clock_ahead_s is not None:
        lines.append(f"clock: {facts.clock_ahead_s:+.3f} s from this machine's")
    if facts.field_ttls:
        lines.append(f"hashes with fields that expire one by one: {facts.field_ttls}")
    if facts.trial is not None:
        lines.append(f"tried out: {_tried(facts.trial)}")
    return lines + (_refusals(facts) or ["refused: nothing"])


def _tried(trial: Trial) -> str:
    """What became of a conflict between two connections."""
    if not trial.queued:
        return "a command behind MULTI was run at once"
    stopped = "stopped EXEC" if trial.stopped else "did not stop EXEC"
    flagged = {True: ", and CLIENT INFO told of it", False: ", and CLIENT INFO did not tell of it", None: ""}
    return f"a write over another connection {stopped}{flagged[trial.flagged]}"


def _refusals(facts: Facts) -> list[str]:
    """What was refused, by the answer, which names the command in each of them."""
    found: dict[str, list[str]] = {}
    for name, answer in facts.refused.items():
        found.setdefault(re.sub("the '[^']*' command", "it", answer), []).append(name)
    return [f"refused: {', '.join(names)}: {answer}" for answer, names in found.items()]
