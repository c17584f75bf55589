"""`towncast promote`, `rollback` and `aliases`: which version is champion, and how it came to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from features.alias_history import AliasChange
    from pipelines.promote import Outcome
    from training.gate import Verdict
    from training.registry import Registered

_Domain = Annotated[str, typer.Argument(help="Whose model; see `towncast domains`.")]
_Target = Annotated[str | None, typer.Option(help="Of which quantity; by default the domain's first.")]


def promote(
    domain: _Domain = "traffic",
    target: _Target = None,
    version: Annotated[
        int | None,
        typer.Option(help="Which version; by default the one that awaits approval, or else the newest.", min=1),
    ] = None,
    approved_by: Annotated[str, typer.Option(help="The person who approves it; the history keeps the name.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Promote it whatever the gate says; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")] = "",
) -> None:
    """Make a version champion, if it passes the gate.

    Training does this by itself. By hand it is for a version that awaits approval, and for an older version: one that
    was judged against another champion is judged again, on the newest readings that it has not learnt from.

    Example: towncast promote traffic --version 3 --approved-by "Asha Rao"
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.promote import promote_version
    from pipelines.settings import Settings

    console = Console()
    decision = promote_version(
        domain,
        settings=Settings(),
        console=console,
        target=target,
        version=version,
        approved_by=approved_by,
        force=force,
        reason=reason,
    )
    if decision.verdict is not None:
        console.print(render_verdict(decision.verdict))
    console.print(outcome_line(domain, target, decision.registered, decision.verdict, decision.outcome))
    if decision.outcome != "promoted":
        raise typer.Exit(1)


def rollback(
    domain: _Domain = "traffic",
    target: _Target = None,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")] = "",
) -> None:
    """Make the champion before the present one champion again; once more goes one further back.

    Example: towncast rollback traffic --reason "too high since the bridge closed"
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.promote import roll_back
    from pipelines.settings import Settings

    console = Console()
    change, warning = roll_back(domain, settings=Settings(), target=target, reason=reason)
    if warning:
        console.print(f"[yellow]{warning}[/]")
    console.print(f"[green]champion[/]: version {change.to_version} again, before: {change.from_version or 'none'}")


def aliases(domain: _Domain = "traffic", target: _Target = None) -> None:
    """Show who made which version champion, when and why."""
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.promote import alias_history
    from pipelines.settings import Settings

    history = alias_history(domain, settings=Settings(), target=target)
    if history:
        Console().print(render_history(history))
    else:
        Console().print(f"No alias of {domain} was ever set. Train a model: towncast train {domain}")


def render_verdict(verdict: Verdict) -> Table:
    """A verdict as a table, its remarks below."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Gate: {verdict.title}", caption=escape("\n".join(verdict.remarks)), caption_justify="left")
    for column in ("check", "found", "allowed", ""):
        table.add_column(column)
    for check in verdict.checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        table.add_row(check.name, escape(check.found), check.allowed, mark)
    return table


def outcome_line(
    domain: str, target: str | None, registered: Registered, verdict: Verdict | None, outcome: Outcome
) -> str:
    """What became of a version, and what to type next."""
    which = f"{registered.name} version {registered.version}"
    if outcome == "promoted":
        return f"[green]champion[/]: {which}"
    option = f" --target {target}" if target else ""
    command = f"towncast promote {domain}{option} --version {registered.version}"
    if outcome == "awaiting approval":
        return f"[yellow]awaiting approval[/]: {which}; a person promotes it: [bold]{command} --approved-by NAME[/]"
    failed = "" if verdict is None else ", ".join(check.name for check in verdict.checks if not check.passed)
    return f"[red]not promoted[/]: {which} fails the gate ({failed})"


def render_history(history: tuple[AliasChange, ...]) -> Table:
    """The history of aliases as a table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Aliases, oldest change first", title_justify="left")
    for column in ("when (UTC)", "alias", "from", "to", "what", "by", "approved by", "reason", "verdict in run"):
        table.add_column(column)
    for change in history:
        table.add_row(
            change.at[:19].replace("T", " "),
            change.alias,
            str(change.from_version or ""),
            str(change.to_version or ""),
            change.action if change.took else f"[red]{change.action}, did not take[/]",
            escape(change.by),
            escape(change.approved_by),
            escape(change.reason),
            change.verdict_run_id[:8],
        )
    return table
