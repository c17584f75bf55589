"""The retraining job: ingest, simulate, materialise, tune, train, gate, release; goes on where it died."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from features.domains import DOMAINS
from features.errors import StorageError, TowncastError
from features.feast_repository import open_repository
from features.store import ReadingStore
from features.vocabulary import Domain, Quantity
from pipelines.alerts import open_desk
from pipelines.ingest import ingest_published
from pipelines.job_errors import job_errors, refuse_missing_registry
from pipelines.prepare import Prepared, find_recipe, prepare, simulate_readings
from pipelines.promote import keep_verdict
from pipelines.retraining_outcome import RetrainOutcome, alert_of, alert_of_failure, outcome_of
from pipelines.retraining_release import fresh_verdict, release_version, rules_of
from pipelines.retraining_state import STEPS, RetrainingState, RetrainingStore, Step, TargetState, new_state
from pipelines.schedule_settings import ScheduleSettings
from pipelines.steps import Steps
from pipelines.train import train_target
from pipelines.tune import tune_domain
from serving.monitoring.report import Trigger
from serving.releases.registry import ReleaseRegistry
from sim_env.rollouts import rollouts_of
from training.families import Accelerator
from training.recipes import RECIPES
from training.registry import ModelRegistry, Registered, model_name
from training.studies import TUNED
from training.tracking import Tracking

# Tag of the runs of a retraining, by which the next attempt finds what the last one made.
RETRAINING_TAG = "retraining"
# What was left undone for so long is not gone on with: its readings are old [s].
_TAKEN_UP_S = 2 * 86400.0


def retrain(
    name: str,
    *,
    trigger: Trigger,
    settings: ScheduleSettings,
    console: Console,
    data: Path | None = None,
    recipe_name: str = "",
    trials: int = 0,
    accelerator: Accelerator = "auto",
    now_s: float | None = None,
    on_step: Callable[[Step, str], None] | None = None,
) -> RetrainOutcome:
    """Retrain a domain's models on all readings, and release what passes the gate.

    Its state is on disk after every step. Where the last one was killed, or failed, this goes on at that step, with
    that one's reason; a version that it had registered is judged, not trained again. One runs at a time for a domain.

    Args:
        name: Of the domain.
        trigger: Why.
        settings: Folders, addresses, and how versions are released.
        console: Where progress is shown.
        data: Folder or file of a published data set that is ingested first.
        recipe_name: How to train; by default as the settings say, else as the champion was, else `quick`.
        trials: Trials of a search for a better recipe that comes first; 0 for none.
        accelerator: `cpu`, `gpu` or `auto`.
        now_s: Now [s since 1970], by default this machine's clock; the replay of a year has another.
        on_step: Told each step as it begins, once that is on disk, and the target or "".

    Raises:
        RetrainingRunningError: Another one of the domain is running.
        TowncastError: With its remedy; nothing is half-registered, the champion serves on, and the next call goes on.
    """
    domain, now = DOMAINS[name], time.time() if now_s is None else now_s
    RECIPES[name]
    store = RetrainingStore(settings.retraining_dir)
    with store.alone(name, wait_s=settings.retrain_wait_s):
        with job_errors():
            _refuse_lost_models(domain, store, settings)
            state = _taken_up(store, domain, settings, data=data, recipe=recipe_name, trials=trials, now_s=now)
            resumed = state is not None
            state = state or new_state(
                name,
                _targets(domain, settings, recipe_name),
                trigger,
                now_s=now,
                data="" if data is None else str(data),
                recipe=recipe_name,
                trials=trials,
            )
        job = _Retraining(store, state, settings, console, accelerator, on_step or (lambda step, target: None))
        return job.run(resumed=resumed, now_s=now)


def _refuse_lost_models(domain: Domain, store: RetrainingStore, settings: ScheduleSettings) -> None:
    """A registry that is gone must not be made anew behind everybody's back: an empty one has no champion to beat."""
    names = [model_name(domain, target) for target in domain.targets]
    found = ReleaseRegistry(settings.tracking_uri).standings(names)
    known = [one.version for state in store.states(domain.name) for one in state.targets if one.version is not None]
    if known and not found:
        raise StorageError(
            f"The registry knows no model of {domain.name} any more",
            found=f"version {max(known)} was registered by an earlier retraining",
            remedy="Bring the registry back, see TOWNCAST_TRACKING_URI; or begin anew with `towncast train`, after "
            f"moving {store.root} away.",
        )


def _taken_up(
    store: RetrainingStore,
    domain: Domain,
    settings: ScheduleSettings,
    *,
    data: Path | None,
    recipe: str,
    trials: int,
    now_s: float,
) -> RetrainingState | None:
    """The unfinished retraining to go on with, None where there is none that is worth it."""
    state = store.latest(domain.name)
    if state is None or not state.unfinished:
        return None
    asked = ("" if data is None else str(data), recipe, trials)
    if state.attempts >= settings.retrain_attempts:
        why = f"it failed {state.attempts} times: {state.error or 'killed'}"
    elif now_s - state.began_s > _TAKEN_UP_S:
        why = "it was left for days"
    elif (state.data, state.recipe, state.trials) != asked and asked != ("", "", 0):
        why = "another was asked for"
    else:
        return state
    store.save(replace(state, given_up=why))
    return None


def _targets(domain: Domain, settings: ScheduleSettings, recipe_name: str) -> tuple[TargetState, ...]:
    asked = recipe_name or settings.retrain_recipe
    return tuple(
        TargetState(target=target.name, recipe=asked or _recipe_of_champion(domain, target, settings))
        for target in domain.targets
    )


def _recipe_of_champion(domain: Domain, target: Quantity, settings: ScheduleSettings) -> str:
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    champion = registry.champion(model_name(domain, target))
    if champion is None:
        return "quick"
    name = str(registry.tracking.connect().get_run(champion.run_id).data.tags.get("recipe", "quick"))
    try:
        find_recipe(domain.name, name, studies_url=settings.studies_url, target=target)
    except TowncastError:
        return "quick"  # its recipe is no longer in the code, or its search is gone
    return name


class _Retraining:
    """One attempt."""

    def __init__(
        self,
        store: RetrainingStore,
        state: RetrainingState,
        settings: ScheduleSettings,
        console: Console,
        accelerator: Accelerator,
        on_step: Callable[[Step, str], None],
    ) -> None:
        self._store, self._state = store, state
        self._settings, self._console, self._accelerator = settings, console, accelerator
        self._on_step = on_step
        self._domain = DOMAINS[state.domain]
        self._steps = Steps(console)

    def run(self, *, resumed: bool, now_s: float) -> RetrainOutcome:
        began = time.perf_counter()
        attempt = self._state.attempts + 1
        if resumed:
            self._console.print(f"Going on with {self._state.id} at the step {self._state.step}, attempt {attempt}")
        try:
            with job_errors():
                self._save(attempts=attempt, process=os.getpid(), error="")
                for step in STEPS[STEPS.index(self._state.step) :]:
                    self._begin(step)
                    getattr(self, f"_{step}")()
                self._save(step="done")
        except Exception as error:
            self._keep_error(error)
            raise
        outcome = outcome_of(self._state, resumed=resumed, seconds=time.perf_counter() - began)
        open_desk(self._settings).tell([alert_of(outcome)], now_s=now_s)
        return outcome

    def _save(self, **changes: Any) -> None:
        self._state = self._store.save(replace(self._state, **changes))

    def _begin(self, step: Step, target: str = "") -> None:
        if self._state.step != step:
            self._save(step=step)
        self._on_step(step, target)
        refuse_missing_registry(self._settings.tracking_uri)

    def _keep_error(self, error: Exception) -> None:
        with contextlib.suppress(StorageError):  # of a full disk too: the state of before stays
            self._save(error=str(error))
        open_desk(self._settings).tell([alert_of_failure(self._domain.name, error)])

    def _ingest(self) -> None:
        if not self._state.data:
            return
        with self._steps.step(f"Readings: {self._state.data}"):
            summary = ingest_published(Path(self._state.data), self._domain, root=self._settings.readings_dir)
        self._save(brought=self._state.brought or summary.stored > 0)

    def _simulate(self) -> None:
        store = ReadingStore(self._settings.readings_dir, self._domain)
        sites = set(store.sites())
        wanted = not sites or any(self._recipe(one).simulated_share > 0 for one in self._state.targets)
        if not wanted or (sites and sites - set(store.measured_sites())) or rollouts_of(self._domain.name) is None:
            return
        simulate_readings(self._domain, self._settings, self._steps)
        self._save(brought=True)

    def _materialise(self) -> None:
        # What the API took in, it has told the online store already.
        if not self._state.brought:
            return
        with self._steps.step("Online store: what came in") as say:
            repository = open_repository(self._settings, self._domain)
            repository.apply()
            say(f"{repository.materialise(as_of=pd.Timestamp.now('UTC'))} sites")

    def _tune(self) -> None:
        if not self._state.trials:
            return
        for one in self._state.targets:
            tune_domain(
                self._domain.name,
                settings=self._settings,
                console=self._console,
                recipe_name="quick" if one.recipe == TUNED else one.recipe,
                target_name=one.target,
                trials=self._state.trials,
                accelerator=self._accelerator,
            )
            self._save_target(replace(one, recipe=TUNED))

    def _train(self) -> None:
        tracking = Tracking(self._settings.tracking_uri)
        _end_dead_runs(tracking, self._domain, self._state.id)
        for one in self._state.targets:
            if one.version is not None:
                continue
            self._begin("train", one.target)
            target = self._domain.quantity(one.target)
            registered = _registered_by(tracking, self._domain, target, self._state.id)
            if registered is None:
                if not np.isfinite(self._prepared.panel.target_ST(target)).any():
                    continue
                registered = self._train_target(one, target)
            verdict, _ = fresh_verdict(
                ModelRegistry(tracking), registered, target, settings=self._settings, console=self._console
            )
            self._save_target(replace(one, version=registered.version, verdict=verdict.as_json()))

    def _train_target(self, one: TargetState, target: Quantity) -> Registered:
        trained = train_target(
            self._prepared,
            target,
            self._recipe(one),
            settings=self._settings,
            steps=self._steps,
            accelerator=self._accelerator,
            tags={RETRAINING_TAG: self._state.id, "trigger": self._state.trigger.kind},
            settler=keep_verdict,
            rules=rules_of(self._settings),
            test_days=self._settings.retrain_test_days,
        )
        return trained.registered

    def _release(self) -> None:
        for one in self._state.targets:
            if one.version is None or one.release is not None:
                continue
            self._begin("release", one.target)
            with self._steps.step(f"Release of version {one.version} of {one.target}", spinner=False) as say:
                released = release_version(
                    self._domain,
                    self._domain.quantity(one.target),
                    one.version,
                    settings=self._settings,
                    console=self._console,
                    reason=f"{self._state.trigger.kind}, {self._state.trigger.reason}",
                )
                say(f"{released.release}: {released.note}")
            verdict = released.verdict.as_json()
            self._save_target(replace(one, release=released.release, verdict=verdict, note=released.note))

    def _save_target(self, one: TargetState) -> None:
        self._state = self._store.save(self._state.with_target(one))

    def _recipe(self, one: TargetState) -> Any:
        target = self._domain.quantity(one.target)
        return find_recipe(self._domain.name, one.recipe, studies_url=self._settings.studies_url, target=target)

    @functools.cached_property
    def _prepared(self) -> Prepared:
        simulated = any(self._recipe(one).simulated_share > 0 for one in self._state.targets)
        return prepare(self._domain, settings=self._settings, steps=self._steps, data=None, simulated=simulated)


def _end_dead_runs(tracking: Tracking, domain: Domain, retraining: str) -> None:
    """Mark the runs that an attempt left when it was killed."""
    for run in _runs(tracking, domain, f"tags.{RETRAINING_TAG} = '{retraining}' and attributes.status = 'RUNNING'"):
        tracking.connect().set_terminated(run.info.run_id, "KILLED")


def _registered_by(tracking: Tracking, domain: Domain, target: Quantity, retraining: str) -> Registered | None:
    """The version that an attempt had registered before it was killed, the newest of several."""
    found = _runs(tracking, domain, f"tags.{RETRAINING_TAG} = '{retraining}' and tags.target = '{target.name}'")
    made_by = {run.info.run_id for run in found}
    versions = ModelRegistry(tracking).versions(model_name(domain, target))
    return next((one for one in reversed(versions) if one.run_id in made_by), None)


def _runs(tracking: Tracking, domain: Domain, query: str) -> list[Any]:
    client = tracking.connect()
    experiment = client.get_experiment_by_name(domain.name)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id], query))
