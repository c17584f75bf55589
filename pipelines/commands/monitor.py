"""`towncast monitor`: a look at what is served, site by site, and what to do next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serving.monitoring.report import MonitoringReport

_COLOURS = {"healthy": "green", "suspect": "yellow", "harmed": "red", "no data": "dim"}
_MOST_DRIFTS = 12


def monitor(
    domain: Annotated[str | None, typer.Argument(help="What to look at; by default every domain with a model.")] = None,
    page: Annotated[bool, typer.Option("--page", help="Make Evidently's page too; it takes half a minute.")] = False,
) -> None:
    """Look at the champions: how each site does, what has drifted, and whether it asks for a retraining.

    Forecasts are put beside the readings that came since. Only errors and intervals decide; drift of inputs explains.
    Nothing is retrained by it: towncast schedule does that, or towncast retrain.

    Example: towncast monitor traffic
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.monitor import monitor_domain
    from pipelines.schedule import domains_of
    from pipelines.schedule_settings import ScheduleSettings

    settings, console = ScheduleSettings(), Console()
    names = (domain,) if domain else domains_of(settings)
    found = 0
    for name in names:
        for report in monitor_domain(name, settings=settings, console=console, page=page):
            found += 1
            for part in render_report(report):
                console.print(part)
    if not found:
        what = f"{domain} has no champion" if domain else "No domain has a champion"
        console.print(f"{what}: there is nothing to look at. Train one: towncast train {domain or 'traffic'}")


def render_report(report: MonitoringReport) -> list[RenderableType]:
    """A report as a table of its sites, the drift that was found, and what to do next."""
    from rich.markup import escape

    parts: list[RenderableType] = ["", _sites(report)]
    drifted = [line for line in report.drift if line.drifted]
    if drifted:
        lines = [f"{line.site} {line.name} {line.measure} {line.value:.2f}" for line in drifted[:_MOST_DRIFTS]]
        more = f" and {len(drifted) - _MOST_DRIFTS} more" if len(drifted) > _MOST_DRIFTS else ""
        parts.append(f"drifted (it explains, and decides nothing): {escape('; '.join(lines))}{more}")
    parts += [f"[dim]{escape(remark)}[/]" for remark in report.remarks]
    parts += [f"[red]asks for a retraining[/] ({one.kind}): {escape(one.reason)}" for one in report.triggers]
    return [*parts, *_next(report)]


def _sites(report: MonitoringReport) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    expected = {one.site: one for one in report.estimates}
    title = f"{report.domain}: {report.target} [{report.unit}] by {report.model_version}"
    table = Table(title=escape(title), title_justify="left")
    for column in ("site", "state"):
        table.add_column(column)
    for column in ("error", "usual", "expected", "MAPE %", "usual", "interval holds", "steps"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for line in report.assessments:
        estimate = expected.get(line.site)
        table.add_row(
            escape(line.site),
            f"[{_COLOURS[line.state]}]{line.state}[/]",
            _figure(line.error),
            _figure(line.usual_error),
            _figure(estimate.error) if estimate else "",
            _figure(line.mape_percent),
            _figure(line.usual_mape_percent),
            _share(line.coverage, line.nominal_coverage),
            f"{line.steps:,}",
            escape(line.reason),
        )
    return table


def _next(report: MonitoringReport) -> list[RenderableType]:
    reason = report.triggers[0].reason[:60] if report.triggers else ""
    if report.triggers:
        return [
            "Next:",
            f'  [bold]towncast retrain {report.domain} --now --reason "{reason}"[/]   or let `towncast schedule` do it',
            "  [bold]docs/runbook.md[/]   what to look for first: a sensor that is stuck needs no new model",
        ]
    if not report.assessments:
        return [
            f"Next: forecasts are needed, and readings after them: ask POST {_path(report.domain)}, then look again"
        ]
    return []


def _path(domain: str) -> str:
    from features.domains import DOMAINS

    return DOMAINS[domain].api_path


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(value: float, nominal: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:.0%}" + (f" of {nominal:.0%}" if math.isfinite(nominal) else "")
