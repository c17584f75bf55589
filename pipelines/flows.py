"""The jobs as flows of Prefect: thin, with retries, limits and times. Whoever imports this pays for Prefect.

`pipelines.prefect_server.prepare_environment` is to be called before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from prefect import flow, serve, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import Flow
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from rich.console import Console

from features.domains import DOMAINS
from features.errors import StorageError
from pipelines.retraining_outcome import RetrainOutcome
from pipelines.retraining_state import RetrainingRunningError
from pipelines.schedule import domains_of, schedule_lock
from pipelines.schedule_requests import asked_for
from pipelines.schedule_rules import in_cooldown, joined
from pipelines.schedule_settings import ScheduleSettings
from serving.monitoring.report import Trigger, TriggerKind

# Refusals that may be over when it is tried again: a full disk, a registry that is away, another one that runs.
_PASSING = (StorageError, RetrainingRunningError, ConnectionError, TimeoutError)
_RETRY_AFTER_S: list[float] = [60, 600]
_HOUR_S = 3600
Device = Literal["auto", "cpu", "gpu"]
Result = TypeVar("Result")


def may_pass(one: Any, run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure is one that trying again may mend."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, _PASSING)


@task(name="job", retries=2, retry_delay_seconds=_RETRY_AFTER_S, retry_condition_fn=may_pass, cache_policy=NO_CACHE)
def _job(job: Callable[[], Any]) -> Any:
    return job()


def run_job(job: Callable[[], Result]) -> Result:
    """What a job gives; it is tried again where its failure may pass."""
    result: Any = _job(job)
    return cast(Result, result)


@flow(name="ingest", timeout_seconds=_HOUR_S)
def ingest_flow(domain: str, data: str) -> int:
    """Read a published data set into the store; how many readings are new."""
    from pipelines.ingest import ingest_published

    settings = ScheduleSettings()
    summary = run_job(lambda: ingest_published(Path(data), DOMAINS[domain], root=settings.readings_dir))
    return summary.stored


@flow(name="simulate", timeout_seconds=12 * _HOUR_S)
def simulate_flow(kind: str = "traffic", weeks: int = 40, workers: int = 1) -> int:
    """Roll out weeks that are missing into the stores; how many readings they have."""
    from pipelines.simulate import plan_run, raise_failed, simulate

    settings = ScheduleSettings()

    def job() -> int:
        run = plan_run(kind, weeks=weeks, settings=settings)
        simulated = simulate(run, workers=workers, settings=settings, console=Console())
        raise_failed(simulated)
        return simulated.readings

    return run_job(job)


@flow(name="materialise", timeout_seconds=_HOUR_S)
def materialise_flow(domain: str) -> int:
    """Bring the online store up to what is known now; how many sites it holds."""
    import pandas as pd

    from features.feast_repository import open_repository

    repository = open_repository(ScheduleSettings(), DOMAINS[domain])

    def job() -> int:
        repository.apply()
        return repository.materialise(as_of=pd.Timestamp.now("UTC"))

    return run_job(job)


@flow(name="train", timeout_seconds=24 * _HOUR_S)
def train_flow(domain: str, recipe: str = "quick", data: str = "", device: Device = "auto") -> dict[str, str]:
    """Train, judge and register a domain's models; what became of each target's."""
    from pipelines.train import train_domain

    trained = run_job(
        lambda: train_domain(
            domain,
            settings=ScheduleSettings(),
            console=Console(),
            data=Path(data) if data else None,
            recipe_name=recipe,
            accelerator=device,
        )
    )
    return {model.target.name: str(model.outcome) for model in trained.models}


@flow(name="tune", timeout_seconds=24 * _HOUR_S)
def tune_flow(domain: str, recipe: str = "quick", trials: int = 100, workers: int = 1) -> None:
    """Search for a better recipe; it is called `tuned` then."""
    from pipelines.tune import tune_domain

    run_job(
        lambda: tune_domain(
            domain,
            settings=ScheduleSettings(),
            console=Console(),
            recipe_name=recipe,
            trials=trials,
            workers=workers,
        )
    )


@flow(name="promote", timeout_seconds=_HOUR_S)
def promote_flow(
    domain: str, target: str = "", version: int | None = None, approved_by: str = "", reason: str = ""
) -> str:
    """Make a version champion, if the gate lets it; what became of it."""
    from pipelines.promote import promote_version

    decision = run_job(
        lambda: promote_version(
            domain,
            settings=ScheduleSettings(),
            console=Console(),
            target=target or None,
            version=version,
            approved_by=approved_by,
            reason=reason,
        )
    )
    return decision.outcome


@flow(name="retrain", timeout_seconds=24 * _HOUR_S)
def retrain_flow(
    domain: str,
    kind: TriggerKind = "schedule",
    reason: str = "due by its schedule",
    data: str = "",
    recipe: str = "",
    trials: int = 0,
    device: Device = "auto",
) -> RetrainOutcome:
    """Retrain a domain and release what passes the gate; what it came to."""
    from pipelines.retrain import retrain

    return run_job(
        lambda: retrain(
            domain,
            trigger=Trigger(kind=kind, sites=(), reason=reason),
            settings=ScheduleSettings(),
            console=Console(),
            data=Path(data) if data else None,
            recipe_name=recipe,
            trials=trials,
            accelerator=device,
        )
    )


@flow(name="monitor", timeout_seconds=_HOUR_S)
def monitor_flow(domain: str, page: bool = False, and_retrain: bool = True) -> list[str]:
    """Look at a domain's champions, and retrain where a look asks for it; what asked for it."""
    import time

    from pipelines.monitor import monitor_domain

    settings = ScheduleSettings()
    reports = run_job(lambda: monitor_domain(domain, settings=settings, console=Console(), page=page))
    triggers = [trigger for report in reports for trigger in report.triggers]
    if triggers and and_retrain and not in_cooldown(domain, time.time(), settings=settings):
        trigger = joined(triggers)
        retrain_flow(domain, kind=trigger.kind, reason=trigger.reason)
    return [trigger.reason for trigger in triggers]


@flow(name="requests", timeout_seconds=24 * _HOUR_S)
def requests_flow() -> list[str]:
    """Retrain what people ask for with `towncast retrain`; which domains."""
    asked = asked_for(ScheduleSettings())
    for one in asked:
        try:
            retrain_flow(one.domain, kind="manual", reason=one.reason)
        finally:
            # The run that failed is on the server's pages, and was tried again: nobody needs it every minute.
            one.remove()
    return [one.domain for one in asked]


def deployment(
    one: Flow[..., Any], name: str, *, cron: str = "", timezone: str = "UTC", parameters: dict[str, Any] | None = None
) -> RunnerDeployment:
    """A flow that a server starts: by cron, or from its pages alone; one run of it at a time.

    Args:
        one: The flow, of a module.
        name: Of the deployment.
        cron: When, empty for by hand.
        timezone: IANA name of the clock that this follows.
        parameters: What it is called with.
    """
    made = one.to_deployment(
        name,
        schedule=Cron(cron, timezone=timezone) if cron else None,
        parameters=parameters or {},
        concurrency_limit=1,
        tags=["towncast"],
        # The flows are installed: a server's run finds them by name, wherever it is started.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)
    return made


def deployments(settings: ScheduleSettings) -> list[RunnerDeployment]:
    """All flows: looks and retrainings of each domain by cron, requests every minute, the others by hand.

    Raises:
        TowncastError: Which domains have a champion cannot be asked.
    """
    zone = settings.schedule_timezone
    found = []
    for domain in domains_of(settings):
        own = {"domain": domain}
        found.append(deployment(monitor_flow, domain, cron=settings.monitor_cron, timezone=zone, parameters=own))
        cron = settings.retrain_cron_for(domain)
        found.append(deployment(retrain_flow, domain, cron=cron, timezone=zone, parameters=own))
    found.append(deployment(requests_flow, "every-minute", cron="* * * * *"))
    by_hand = (ingest_flow, simulate_flow, materialise_flow, train_flow, tune_flow, promote_flow)
    return [*found, *(deployment(one, "by-hand") for one in by_hand)]


def serve_deployments(settings: ScheduleSettings) -> None:
    """Run what Prefect's server asks for, until it is stopped.

    Raises:
        ScheduleRunningError: Another schedule looks after this folder.
        TowncastError: Which domains have a champion cannot be asked.
    """
    with schedule_lock(settings):
        serve(*deployments(settings), limit=2)
