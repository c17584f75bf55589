"""The training job: readings -> Feast -> windows -> fit -> judge -> export -> register -> online store."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from features.domains import DOMAINS
from features.errors import InvalidParameterError
from features.feast_repository import FeatureRepository, training_service
from features.files import make_folder
from features.readings import epoch_s
from features.sources import find_published
from features.store import ReadingStore
from features.vocabulary import Domain, Float32Array
from features.windows import Panel
from pipelines.ingest import ingest_published, ingest_rollout, render_summary
from pipelines.settings import Settings
from sim_env import SIMULATORS
from training.recipes import RECIPES, Accelerator, Recipe
from training.tracking import Registered, Tracking
from training.train import Judgement, draw, export_with_card, judge_forecaster, make_forecaster
from training.window_set import Splits, split_windows

_GENERATOR_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training job made.

    Attributes:
        domain: What it forecasts.
        recipe: How it was trained.
        judgement: Its figures on the test.
        registered: Its version in the registry.
        champion: Whether it has the alias now.
        measured: Whether the readings are a sensor's.
        seconds: Wall time.
        peak_mib: Peak memory of the process [MiB].
    """

    domain: Domain
    recipe: Recipe
    judgement: Judgement
    registered: Registered
    champion: bool
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
    """Train, judge and register the model of a domain.

    Args:
        name: Of the domain.
        settings: Folders and addresses.
        console: Where progress is shown.
        data: Folder or file of a published data set; without it, ingested readings, and without those a generator's.
        recipe_name: `quick`, `full`, ...
        accelerator: `cpu`, `gpu` or `auto`.

    Raises:
        TowncastError: With its remedy; nothing is half-registered.
        KeyboardInterrupt: Stopped; the same call goes on from the checkpoint.
    """
    began = time.perf_counter()
    domain = DOMAINS[name]
    recipe = _recipe(domain, recipe_name, accelerator)
    steps = _Steps(console)
    store = ReadingStore(settings.readings_dir, domain)
    measured_sites = _readings(store, steps, data)
    measured = bool(measured_sites)
    sites = measured_sites or sorted(store.sites())

    with steps.step("Feast: feature views, services, point-in-time history"):
        repository = FeatureRepository(settings.feast_dir, store)
        repository.apply()
        panel = repository.panel(sites=sites)
    with steps.step("Windows: train, validation weeks, last fifth for the test") as say:
        splits = split_windows(panel, counted_from_s=_reliable_from(domain, data))
        say(f"{len(splits.train):,} / {len(splits.validation):,} / {len(splits.test):,}, test {splits.test.span()}")

    tracking = Tracking(settings.tracking_uri)
    trained_on = {
        "code": code_version(),
        "data_hash": store.data_hash(),
        "feature_service": training_service(domain),
        "recipe": recipe.name,
        "readings": "measured" if measured else "generated",
        "train": splits.train.span(),
        "test": splits.test.span(),
        "at": pd.Timestamp.now("UTC").isoformat(timespec="seconds"),
    }
    with tracking.run(domain, name=f"{recipe.family}-{recipe.name}", tags=trained_on) as run_id:
        tracking.log_parameters(run_id, {"recipe": recipe.name, "sizes": recipe.sizes, "fitting": recipe.fitting})
        tracking.log_parameters(run_id, {"seed": recipe.seed, "sites": len(sites), "train_windows": len(splits.train)})
        judgement, registered = _fit_and_register(
            domain, recipe, splits, store, tracking, run_id, settings=settings, steps=steps, trained_on=trained_on
        )
        champion = judgement.by_horizon["mean"]["skill"] > 0
        if champion:
            tracking.promote(registered)
    with steps.step("Online store: each site's last history, ready to serve") as say:
        say(f"{repository.materialise(as_of=pd.Timestamp.now('UTC'))} sites")
    return Trained(
        domain=domain,
        recipe=recipe,
        judgement=judgement,
        registered=registered,
        champion=champion,
        measured=measured,
        seconds=time.perf_counter() - began,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _recipe(domain: Domain, name: str, accelerator: Accelerator) -> Recipe:
    if domain.name not in RECIPES:
        raise InvalidParameterError(
            parameter="domain",
            provided=domain.name,
            allowed=sorted(RECIPES),
            fact="There is no trainable model for this domain yet",
            remedy=f"Its readings can be ingested; train one of: {', '.join(RECIPES)}.",
        )
    recipe = RECIPES[domain.name][name]
    return replace(recipe, fitting=replace(recipe.fitting, accelerator=accelerator))


def _readings(store: ReadingStore, steps: _Steps, data: Path | None) -> list[str]:
    """Fill the store if need be; the sites whose readings are measured."""
    if data is not None:
        with steps.step(f"Readings: {data}"):
            summary = ingest_published(data, store.domain, root=store.folder.parent)
        steps.console.print(render_summary(summary))
    elif not store.sites():
        with steps.step("Readings: none ingested, so towncast makes its own (generator 'roads')"):
            simulator = SIMULATORS[store.domain.simulators[0]]
            rng = np.random.default_rng(_GENERATOR_SEED)
            scenario = next(iter(simulator.scenarios().values()))
            summary = ingest_rollout(simulator, scenario, rng=rng, root=store.folder.parent)
        steps.console.print(render_summary(summary))
    measured_sites = store.measured_sites()
    if not measured_sites:
        steps.console.print(
            "[yellow]These readings are generated, not measured: the figures below show that the machinery works, "
            "not how well a real town is forecast.[/] Real ones: [bold]make train DATA=folder[/] or "
            f"[bold]towncast ingest {store.domain.name} --help[/]"
        )
    return measured_sites


def _reliable_from(domain: Domain, data: Path | None) -> int | None:
    if data is None:
        return None
    moment = find_published(domain, data).reliable_from
    return None if moment is None else int(moment.timestamp())


def _fit_and_register(
    domain: Domain,
    recipe: Recipe,
    splits: Splits,
    store: ReadingStore,
    tracking: Tracking,
    run_id: str,
    *,
    settings: Settings,
    steps: _Steps,
    trained_on: dict[str, str],
) -> tuple[Judgement, Registered]:
    from lightning.pytorch.loggers import MLFlowLogger

    # Only the same recipe on the same readings goes on from a checkpoint.
    same = hashlib.sha256(f"{recipe} {trained_on['data_hash']} {trained_on['train']}".encode()).hexdigest()[:12]
    checkpoints = settings.checkpoints_dir / f"{domain.name}-{recipe.name}-{same}"
    logger = MLFlowLogger(experiment_name=domain.name, tracking_uri=settings.tracking_uri, run_id=run_id)
    forecaster = make_forecaster(domain, recipe, folder=make_folder(checkpoints), logger=logger)
    resumed = ", going on from a checkpoint" if (checkpoints / "last.ckpt").exists() else ""
    with steps.step(f"Training: {recipe.family}, recipe {recipe.name}{resumed}", spinner=False):
        forecaster.fit(splits, seed=recipe.seed)
    with steps.step("Judging against the seasonal profile on the test"):
        judgement = judge_forecaster(forecaster, splits.test)
        tracking.log_metrics(run_id, judgement.by_horizon)
        tracking.log_metrics(run_id, {f"site/{site}": figures for site, figures in judgement.by_site.items()})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with steps.step("Pictures"):
            draw(judgement, folder / "plots", levels=forecaster.levels)
            tracking.log_files(run_id, folder / "plots", under="plots")
        with steps.step("ONNX: one graph, parity certificate") as say:
            card = export_with_card(
                forecaster,
                splits,
                judgement,
                folder / "artifact",
                speeds=_speeds(store, splits.train.panel),
                trained=trained_on,
            )
            say(f"largest difference {card.parity.largest_relative:.1e} of at most {card.parity.tolerance:.0e}")
        with steps.step("MLflow: registered") as say:
            registered = tracking.register(run_id, folder / "artifact", card, domain)
            say(f"{registered.name} version {registered.version}")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return judgement, registered


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


class _Steps:
    """Shows each step as it begins and how long it took."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def step(self, title: str, *, spinner: bool = True) -> Iterator[Callable[[str], None]]:
        """A step; call what it gives to add a remark to its closing line."""
        began = time.perf_counter()
        remarks: list[str] = []
        # A step with a progress bar of its own shows no spinner: a terminal has room for one live display.
        with self.console.status(title) if spinner else contextlib.nullcontext():
            yield remarks.append
        tail = f"  [dim]{'; '.join(remarks)}[/]" if remarks else ""
        self.console.print(f"[green]✓[/] {title}  [dim]{time.perf_counter() - began:.1f} s[/]{tail}")
