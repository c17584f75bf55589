"""The training job: readings -> Feast -> windows -> fit -> judge -> export -> register -> gate -> online store."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from features.card import FORGETS_BEFORE, INTERVALS_UNTIL, TRAINED_UNTIL
from features.domains import DOMAINS
from features.feast_repository import training_service
from features.files import make_folder
from features.readings import epoch_s
from features.store import ReadingStore
from features.vocabulary import Domain, Float32Array, Quantity
from features.windows import Panel
from pipelines.prepare import Prepared, find_recipe, prepare
from pipelines.promote import Outcome, Settler, judge_version, settle
from pipelines.report import report_run
from pipelines.retraining_state import RetrainingStore
from pipelines.settings import Settings
from pipelines.steps import Steps
from training.calibrate import adapt_to_test
from training.families import Accelerator, Workplace, make_forecaster
from training.gate import GateRules, Verdict
from training.graph_forecaster import GraphForecaster, open_graph
from training.models.forgetting import breaks_of, forget_breaks
from training.recipes import Recipe
from training.registry import ModelRegistry, Registered
from training.tracking import Tracking
from training.train import Judgement, draw, export_with_card, judge_quantiles
from training.window_set import Splits, WindowSet


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """One target's model.

    Attributes:
        target: What it forecasts.
        judgement: Its figures on the test.
        registered: Its version in the registry.
        verdict: What the gate says of it.
        outcome: What became of it.
    """

    target: Quantity
    judgement: Judgement
    registered: Registered
    verdict: Verdict
    outcome: Outcome

    @property
    def champion(self) -> bool:
        """Whether it has the alias now."""
        return self.outcome == "promoted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training job made.

    Attributes:
        domain: What is forecast.
        recipe: How it was trained.
        models: A model for each target.
        measured: Whether the readings are a sensor's.
        seconds: Wall time.
        peak_mib: Peak memory of the process [MiB].
    """

    domain: Domain
    recipe: Recipe
    models: tuple[TrainedModel, ...]
    measured: bool
    seconds: float
    peak_mib: float


def train_domain(
    name: str,
    *,
    settings: Settings,
    console: Console,
    data: Path | None = None,
    recipe_name: str = "quick",
    accelerator: Accelerator = "auto",
) -> Trained:
    """Train, judge and register the models of a domain, one for each target.

    Args:
        name: Of the domain.
        settings: Folders and addresses.
        console: Where progress is shown.
        data: Folder or file of a published data set; without it, ingested readings, and without those rollouts.
        recipe_name: `quick`, `full`, ...
        accelerator: `cpu`, `gpu` or `auto`.

    Raises:
        RetrainingRunningError: Another training or retraining of the domain is running.
        TowncastError: With its remedy; nothing is half-registered.
        KeyboardInterrupt: Stopped; the same call goes on from the checkpoint.
    """
    with RetrainingStore(settings.retraining_dir).alone(DOMAINS[name].name, wait_s=0):
        return _train_alone(name, settings, console, data, recipe_name, accelerator)


def _train_alone(
    name: str, settings: Settings, console: Console, data: Path | None, recipe_name: str, accelerator: Accelerator
) -> Trained:
    began = time.perf_counter()
    domain = DOMAINS[name]
    recipe = find_recipe(name, recipe_name, studies_url=settings.studies_url)
    steps = Steps(console)
    prepared = prepare(domain, settings=settings, steps=steps, data=data, simulated=recipe.simulated_share > 0)
    models = tuple(
        train_target(
            prepared,
            target,
            find_recipe(name, recipe_name, studies_url=settings.studies_url, target=target),
            settings=settings,
            steps=steps,
            accelerator=accelerator,
        )
        for target in domain.targets
        if np.isfinite(prepared.panel.target_ST(target)).any()
    )
    with steps.step("Online store: each site's last history, ready to serve") as say:
        say(f"{prepared.repository.materialise(as_of=pd.Timestamp.now('UTC'))} sites")
    return Trained(
        domain=domain,
        recipe=recipe,
        models=models,
        measured=prepared.measured,
        seconds=time.perf_counter() - began,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def train_target(
    prepared: Prepared,
    target: Quantity,
    recipe: Recipe,
    *,
    settings: Settings,
    steps: Steps,
    accelerator: Accelerator = "auto",
    tags: Mapping[str, str] | None = None,
    settler: Settler = settle,
    rules: GateRules | None = None,
    test_days: float | None = None,
) -> TrainedModel:
    """Train, judge and register one target's model.

    Args:
        prepared: The domain's readings.
        target: What is forecast.
        recipe: How.
        settings: Addresses, and whether a person must approve.
        steps: Shows progress.
        accelerator: `cpu`, `gpu` or `auto`.
        tags: Further tags of the run, which the card keeps too.
        settler: Keeps the gate's verdict and acts on it.
        rules: What the gate asks; by default what it asks of every training.
        test_days: Length of the test; by default the last fifth [d]. Where it is given, as by a retraining, the model
            also forgets what its sites measured before a break.

    Raises:
        TowncastError: With its remedy; nothing is half-registered.
    """
    domain = prepared.domain
    with steps.step(f"Windows of {target.name}: train, validation weeks, {_length(test_days)} for the test") as say:
        splits = prepared.splits(target, simulated_share=recipe.simulated_share, seed=recipe.seed, test_days=test_days)
        say(f"{len(splits.train):,} / {len(splits.validation):,} / {len(splits.test):,}, test {splits.test.span()}")
    tracking = Tracking(settings.tracking_uri)
    trained_on = {
        "code": code_version(),
        "data_hash": prepared.store.data_hash(),
        "feature_service": training_service(domain),
        "recipe": recipe.name,
        "readings": "measured" if prepared.measured else "generated",
        "target": target.name,
        "train": splits.train.span(),
        "test": splits.test.span(),
        TRAINED_UNTIL: str(_trained_until_s(splits)),
        "at": pd.Timestamp.now("UTC").isoformat(timespec="seconds"),
        **(tags or {}),
    }
    with tracking.run(domain, name=f"{recipe.family}-{recipe.name}-{target.name}", tags=trained_on) as run_id:
        tracking.log_parameters(run_id, {"recipe": recipe.name, "family": recipe.family, "config": recipe.config})
        sites = len(splits.train.panel.sites)
        tracking.log_parameters(run_id, {"seed": recipe.seed, "sites": sites, "train_windows": len(splits.train)})
        return _fit_and_register(
            prepared,
            recipe,
            splits,
            tracking,
            run_id,
            settings=settings,
            steps=steps,
            trained_on=trained_on,
            accelerator=accelerator,
            settler=settler,
            rules=rules or GateRules(),
            # Breaks are looked for up to the last reading: a test that judges accuracy must not have been looked at.
            forget=test_days is not None,
        )


def _day_of(moment_s: int) -> str:
    return str(np.datetime64(moment_s, "s").astype("datetime64[D]"))


def _length(test_days: float | None) -> str:
    return "last fifth" if test_days is None else f"last {test_days:g} days"


def _fit_and_register(
    prepared: Prepared,
    recipe: Recipe,
    splits: Splits,
    tracking: Tracking,
    run_id: str,
    *,
    settings: Settings,
    steps: Steps,
    trained_on: dict[str, str],
    accelerator: Accelerator,
    settler: Settler,
    rules: GateRules,
    forget: bool,
) -> TrainedModel:
    from lightning.pytorch.loggers import MLFlowLogger

    domain, target = prepared.domain, splits.train.target
    # Only the same recipe on the same readings goes on from a checkpoint.
    same = hashlib.sha256(f"{recipe} {trained_on['data_hash']} {trained_on['train']}".encode()).hexdigest()[:12]
    checkpoints = settings.checkpoints_dir / f"{domain.name}-{target.name}-{recipe.name}-{same}"
    logger = MLFlowLogger(experiment_name=domain.name, tracking_uri=settings.tracking_uri, run_id=run_id)
    place = Workplace(folder=make_folder(checkpoints), logger=logger, accelerator=accelerator)
    forecaster = make_forecaster(domain, recipe, place, target=target)
    resumed = ", going on from a checkpoint" if (checkpoints / "last.ckpt").exists() else ""
    with steps.step(f"Training: {recipe.family}, recipe {recipe.name}{resumed}", spinner=False):
        forecaster.fit(splits, seed=recipe.seed)
    fitted = forecaster
    if forget:
        with steps.step("Breaks: sites that became another, whose past is to be forgotten") as say:
            forecaster = forget_breaks(fitted, splits.test)
            say(", ".join(f"{one.site} from {_day_of(one.since_s)}" for one in breaks_of(forecaster)) or "none")
    with steps.step("Judging against the seasonal profile on the test"):
        intervals, quantiles = adapt_to_test(forecaster, splits)
        judgement = judge_quantiles(quantiles, splits.test, levels=forecaster.levels)
        tracking.log_metrics(run_id, judgement.by_horizon)
        tracking.log_metrics(run_id, {f"site/{site}": figures for site, figures in judgement.by_site.items()})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with steps.step("Pictures"):
            draw(judgement, folder / "plots")
            tracking.log_files(run_id, folder / "plots", under="plots")
        with steps.step("ONNX: one graph, parity certificate") as say:
            intervals.save(folder / "artifact")
            card = export_with_card(
                forecaster,
                splits,
                judgement,
                folder / "artifact",
                speeds=_speeds(prepared.store, splits.train.panel),
                trained={
                    **trained_on,
                    INTERVALS_UNTIL: str(_last_target_s(splits.test)),
                    **{f"{FORGETS_BEFORE}{one.site}": str(one.since_s) for one in breaks_of(forecaster)},
                },
            )
            say(f"largest difference {card.parity.largest_relative:.1e} of at most {card.parity.tolerance:.0e}")
        registry = ModelRegistry(tracking)
        with steps.step("MLflow: registered") as say:
            registered = registry.register(run_id, folder / "artifact", card, domain)
            say(f"{registered.name} version {registered.version}")
        with steps.step("Gate: against the seasonal profile and the champion, on the test") as say:
            graph = open_graph(folder / "artifact")
            trained = _judge_by_gate(
                registry, registered, graph, judgement, run_id, settings=settings, settler=settler, rules=rules
            )
            say(trained.outcome)
        with steps.step("Report: by horizon, site, hour and month; fairness, costs, what the model looks at"):
            report_run(tracking, run_id, fitted, judgement, card, verdict=trained.verdict, seed=recipe.seed)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return trained


def _judge_by_gate(
    registry: ModelRegistry,
    registered: Registered,
    graph: GraphForecaster,
    judgement: Judgement,
    run_id: str,
    *,
    settings: Settings,
    settler: Settler,
    rules: GateRules,
) -> TrainedModel:
    windows = judgement.windows
    verdict = judge_version(
        registry,
        registered,
        graph,
        windows,
        quantiles_BHQ=judgement.quantiles_BHQ,
        naive_BH=judgement.naive_BH,
        rules=rules,
    )
    approval = settings.require_approval
    outcome = settler(registry, registered, verdict, run_id=run_id, require_approval=approval)
    return TrainedModel(
        target=windows.target, judgement=judgement, registered=registered, verdict=verdict, outcome=outcome
    )


def _trained_until_s(splits: Splits) -> int:
    """Moment of the last target that weights are fitted to [s since 1970]."""
    return max(_last_target_s(part) for part in (splits.train, splits.validation))


def _last_target_s(windows: WindowSet) -> int:
    """Moment of the last target of some windows [s since 1970]."""
    panel = windows.panel
    return int(panel.moments_s[int(windows.origin_B.max()) + panel.domain.horizon_steps])


def _speeds(store: ReadingStore, panel: Panel) -> dict[str, Float32Array]:
    """Measured speeds on the panel's grid, by site [km/h]."""
    if all(quantity.name != "speed" for quantity in store.domain.auxiliaries):
        return {}
    readings = store.readings(quantities=["speed"], columns=("value",))
    found = {}
    for site, rows in readings.groupby("site"):
        index = (epoch_s(rows["valid_at"]) - panel.start_s) // panel.domain.step_s
        inside = (index >= 0) & (index < panel.value_STK.shape[1])
        series = np.full(panel.value_STK.shape[1], np.nan, dtype=np.float32)
        series[index[inside]] = rows["value"].to_numpy()[inside]
        found[str(site)] = series
    return found


def code_version() -> str:
    """Version and commit of this code."""
    folder = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=False
    )
    suffix = f"+{commit.stdout.strip()}" if commit.returncode == 0 else ""
    return f"{version('towncast')}{suffix}"
