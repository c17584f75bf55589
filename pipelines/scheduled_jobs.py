"""The jobs as a schedule calls them; heavy imports are paid for when the first one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.schedule import Monitor, Retrain
from pipelines.schedule_settings import ScheduleSettings

if TYPE_CHECKING:
    from serving.monitoring.report import MonitoringReport, Trigger


def jobs_of(settings: ScheduleSettings, console: Console) -> tuple[Monitor, Retrain]:
    """The two jobs, by the settings."""

    def monitor(domain: str, page: bool) -> tuple[MonitoringReport, ...]:
        from pipelines.monitor import monitor_domain

        return monitor_domain(domain, settings=settings, console=console, page=page)

    def retrain(domain: str, trigger: Trigger) -> Any:
        from pipelines.commands.retrain import render_outcome
        from pipelines.retrain import retrain as run

        outcome = run(domain, trigger=trigger, settings=settings, console=console)
        for part in render_outcome(outcome):
            console.print(part)
        return outcome

    return monitor, retrain
