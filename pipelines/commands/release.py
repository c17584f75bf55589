"""`towncast release`: shadows, challengers and canaries beside the champion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipelines.release import Status
    from pipelines.settings import Settings
    from serving.releases.board import RoleEntry

release_commands = typer.Typer(
    help="Release versions beside the champion. A running API knows a change within two seconds; no request is lost.",
    no_args_is_help=True,
)
_Domain = Annotated[str, typer.Argument(help="Whose model; see `towncast domains`.", show_default=False)]
_Version = Annotated[int, typer.Argument(help="Which version; see `towncast aliases`.", min=1, show_default=False)]
_Target = Annotated[str | None, typer.Option(help="Of which quantity; by default the domain's first.")]


@release_commands.command()
def status(
    domain: Annotated[str | None, typer.Argument(help="Whose models; by default all.", show_default=False)] = None,
    target: _Target = None,
) -> None:
    """Show which versions answer for whom, and how they do.

    Figures are those of the APIs that run here on the same data folder.
    """
    with _opened() as (settings, console):
        from pipelines.release import release_status

        found = release_status(domain, settings=settings, target=target if domain else None)
        if not found:
            console.print("No model is registered yet. Train one: make train", soft_wrap=True)
        for one in found:
            console.print(render_status(one))


@release_commands.command()
def shadow(domain: _Domain, version: _Version, target: _Target = None) -> None:
    """Have a version forecast in the background what is answered, and compare; it answers nobody.

    towncast release shadow traffic 4
    """
    with _opened() as (settings, console):
        from pipelines.release import release_shadow

        name = release_shadow(domain, version, settings=settings, target=target)
        _audit("shadow_released", name, version)
        console.print(f"[green]shadow[/]: {name} version {version}")


@release_commands.command()
def challenger(
    domain: _Domain,
    version: _Version,
    share: Annotated[float, typer.Option(help="Share of the sites [%].", min=0.01, max=100)] = 20.0,
    target: _Target = None,
) -> None:
    """Have a version answer for a fixed share of the sites, each always by the same version (A/B).

    Called again, it changes the share.

    towncast release challenger traffic 4 --share 20
    """
    with _opened() as (settings, console):
        from pipelines.release import release_challenger

        name, plan = release_challenger(domain, version, share_percent=share, settings=settings, target=target)
        _audit("challenger_released", name, version, share_percent=share)
        console.print(f"[green]challenger[/]: {name} version {version}, {plan.share_percent:g} % of the sites")


@release_commands.command()
def canary(
    domain: _Domain,
    version: _Version,
    steps: Annotated[str, typer.Option(help="Shares of the sites, ascending to 100 [%].")] = "5,25,50,100",
    minutes: Annotated[float, typer.Option(help="Shortest duration of a step [min].", min=0)] = 30.0,
    requests: Annotated[int, typer.Option(help="Fewest answers in a step.", min=0)] = 200,
    target: _Target = None,
    approved_by: Annotated[str, typer.Option(help="The person who approves it; the history keeps the name.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Release it although it did not pass the gate; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")] = "",
) -> None:
    """Have a version answer for more and more sites, until it is champion.

    It is rolled back by itself when it fails more often, is slower or forecasts worse than the champion. What it fails
    to answer, the champion answers.

    towncast release canary traffic 4 --steps 5,25,50,100 --minutes 30 --requests 200
    """
    with _opened() as (settings, console):
        from pipelines.release import release_canary

        name, plan = release_canary(
            domain,
            version,
            steps=steps,
            minutes=minutes,
            requests=requests,
            settings=settings,
            target=target,
            approved_by=approved_by,
            force=force,
            reason=reason,
        )
        _audit("canary_released", name, version, steps_percent=plan.steps_percent, reason=plan.reason)
        shares = ", ".join(f"{share:g}" for share in plan.steps_percent)
        console.print(f"[green]canary[/]: {name} version {version}, {shares} % of the sites", soft_wrap=True)


@release_commands.command()
def stop(
    domain: _Domain,
    role: Annotated[str, typer.Argument(help="challenger, canary or shadow.", show_default=False)],
    target: _Target = None,
) -> None:
    """End a role; the champion answers again for the sites that its version had.

    towncast release stop traffic canary
    """
    with _opened() as (settings, console):
        from pipelines.release import release_stop

        name, version = release_stop(domain, role, settings=settings, target=target)
        _audit(f"{role}_stopped", name, version)
        console.print(f"{name} version {version} is {role} no more")


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Settings, Console]]:
    """The settings and a console, with the audit log open."""
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.settings import Settings
    from serving.security.audit import AuditLog
    from serving.security.settings import SecuritySettings

    with AuditLog(SecuritySettings().audit_file):
        yield Settings(), Console()


def _audit(event: str, name: str, version: int, **fields: object) -> None:
    from features.alias_history import who
    from serving.security.audit import audit

    audit(event, by=who(), model=name, version=version, **fields)


def render_status(status: Status) -> Table:
    """A release as a table; the canary's plan, its last decision and what is wrong below."""
    from rich.markup import escape
    from rich.table import Table

    from serving.releases.plans import ROLES

    table = Table(
        title=f"{status.standing.name}: {status.target.name} of {status.domain.name}",
        title_justify="left",
        caption=escape("\n".join(_remarks(status))),
        caption_justify="left",
    )
    for column in ("role", "version", "share", "answers", "failed", "p95", "error", "champion's", "in interval"):
        table.add_column(column, justify="left" if column in ("role", "version") else "right")
    for role in (role for role in ROLES if role in status.standing.versions):
        version = status.standing.versions[role]
        entry = status.roles.get(role)
        shown = entry if entry is not None and entry.version == str(version) else None
        name = str(version) if shown is None else f"{version} ({shown.model_version})"
        table.add_row(role, name, _share(status, role), *_figures(shown, status.target.unit))
    return table


def _share(status: Status, role: str) -> str:
    shares = {}
    for name, plan in (("canary", status.standing.canary), ("challenger", status.standing.challenger)):
        if plan is not None:
            shares[name] = plan.share_percent
    if role == "champion":
        return "all" if not shares else "the rest"
    return f"{shares[role]:g} %" if role in shares else "none"


def _figures(entry: RoleEntry | None, unit: str) -> tuple[str, ...]:
    if entry is None:
        return ("not loaded here",) + ("",) * 5
    counts, matched = entry.counts, entry.matched
    p95 = f"{counts.percentile_s(0.95) * 1e3:.3g} ms" if counts.timed else ""
    error = (
        (
            f"{matched.rival_error / matched.steps:.4g} {unit}",
            f"{matched.champion_error / matched.steps:.4g} {unit}",
            f"{matched.rival_inside / matched.steps:.0%} of {matched.steps}",
        )
        if matched.steps
        else ("", "", "")
    )
    return (str(counts.requests), f"{counts.failure_share:.2%}", p95, *error)


def _remarks(status: Status) -> list[str]:
    from datetime import UTC, datetime

    remarks, plan = list(status.standing.faults), status.standing.canary
    if plan is not None:
        since = datetime.fromtimestamp(plan.step_since_s, tz=UTC)
        remarks.append(
            f"Step {plan.step + 1} of {len(plan.steps_percent)} since {since:%Y-%m-%d %H:%M} UTC, for at least "
            f"{plan.minimum_s / 60:g} min and {plan.minimum_requests} answers."
        )
    if status.standing.decisions:
        last = status.standing.decisions[-1]
        remarks.append(f"Version {last.version} {last.outcome} at {last.at[:16].replace('T', ' ')} UTC: {last.reason}.")
    return remarks
