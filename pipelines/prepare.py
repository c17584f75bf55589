"""From a domain's name to its panel: what every job that fits or judges a model begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.domains import DOMAINS
from features.errors import InvalidParameterError
from features.feast_repository import FeatureRepository, open_repository
from features.sources import find_published
from features.store import ReadingStore
from features.vocabulary import Domain, Quantity
from features.windows import Panel
from pipelines.ingest import ingest_published, render_summary
from pipelines.settings import Settings
from pipelines.simulate import plan_run, raise_failed, simulate, usable_cores
from pipelines.steps import Steps
from sim_env.rollouts import rollouts_of
from training.data_module import WindowDataModule
from training.folds import cross_validation
from training.recipes import RECIPES, Recipe
from training.simulated import mix_simulated
from training.studies import TUNED, tuned_recipe
from training.window_set import TEST_SHARE, Splits, first_counted_origin, split_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A domain's readings, ready to cut windows from.

    Attributes:
        store: The readings.
        repository: Feast over them.
        panel: All inputs of the sites on one grid.
        measured_sites: Sites whose readings are a sensor's; without any, all that is here is simulated.
        reliable_from_s: Moment from which the test's share of the time is counted, None for the first [s since 1970].
    """

    store: ReadingStore
    repository: FeatureRepository
    panel: Panel
    measured_sites: tuple[str, ...]
    reliable_from_s: int | None

    @property
    def domain(self) -> Domain:
        """What is forecast."""
        return self.store.domain

    @property
    def measured(self) -> bool:
        """Whether the readings are a sensor's."""
        return bool(self.measured_sites)

    def splits(
        self,
        target: Quantity | None = None,
        *,
        simulated_share: float = 0.0,
        seed: int = 0,
        test_days: float | None = None,
    ) -> Splits:
        """Train, validation and test windows of a target, by default the domain's first.

        Args:
            target: What is forecast.
            simulated_share: Share of simulated windows among those that train, beside measured ones; where all is
                simulated, it says nothing.
            seed: Of the draw of simulated windows.
            test_days: Length of the test, besides the half horizon that its last windows need; by default, and at
                most, the last fifth [d].

        Raises:
            NotEnoughDataError: A part would be empty.
        """
        share = TEST_SHARE if test_days is None else self._share_of(test_days)
        splits = split_windows(self.panel, target=target, test_share=share, counted_from_s=self.reliable_from_s)
        if not self.measured_sites:
            return splits
        return mix_simulated(splits, self.measured_sites, share=simulated_share, seed=seed)

    def _share_of(self, days: float) -> float:
        """Share of the time that leaves a test of some days."""
        domain = self.panel.domain
        counted = self.panel.last_origin + 1 - first_counted_origin(self.panel, self.reliable_from_s)
        steps = days * 86400 / domain.step_s + domain.horizon_steps // 2
        return min(TEST_SHARE, steps / max(counted, 1))

    def data_module(self, target: Quantity | None = None) -> WindowDataModule:
        """The same with the folds on which every family's recipes are chosen.

        Raises:
            NotEnoughDataError: A part would be empty.
        """
        folds = cross_validation(self.panel, target=target, counted_from_s=self.reliable_from_s)
        return WindowDataModule(self.splits(target), folds=folds)


def find_recipe(domain: str, name: str, *, studies_url: str, target: Quantity | None = None) -> Recipe:
    """A domain's recipe; the one that is called `tuned` is what the latest search found.

    Args:
        domain: What is forecast.
        name: Of the recipe.
        studies_url: Where searches are kept.
        target: Whose tuned recipe, by default the domain's first target.

    Raises:
        InvalidParameterError: Nothing can be trained for this domain, or nothing was tuned.
        SearchError: What was found is of another search space.
        UnknownNameError: There is no such domain, or no such recipe.
    """
    if DOMAINS[domain].name not in RECIPES:
        raise InvalidParameterError(
            parameter="domain",
            provided=domain,
            allowed=sorted(RECIPES),
            fact="There is no trainable model for this domain yet",
            remedy=f"Its readings can be ingested; train one of: {', '.join(RECIPES)}.",
        )
    if name == TUNED:
        return tuned_recipe(studies_url, DOMAINS[domain], target or DOMAINS[domain].target, RECIPES[domain])
    return RECIPES[domain][name]


def prepare(
    domain: Domain, *, settings: Settings, steps: Steps, data: Path | None, simulated: bool = False
) -> Prepared:
    """Fill the reading store if need be, and bring its readings through Feast onto a grid.

    Args:
        domain: What is forecast.
        settings: Folders and addresses.
        steps: Shows progress.
        data: Folder or file of a published data set; without it, ingested readings, and without those rollouts.
        simulated: Whether simulated sites are on the grid beside measured ones.

    Raises:
        TowncastError: With its remedy.
    """
    store = ReadingStore(settings.readings_dir, domain)
    measured_sites = _readings(store, settings, steps, data)
    with steps.step("Feast: feature views, services, point-in-time history"):
        repository = open_repository(settings, domain)
        repository.apply()
        others = sorted(set(store.sites()) - set(measured_sites))
        if measured_sites:
            panel = repository.panel(sites=measured_sites, beside=others if simulated else None)
        else:
            panel = repository.panel(sites=others)
    return Prepared(
        store=store,
        repository=repository,
        panel=panel,
        measured_sites=tuple(measured_sites),
        reliable_from_s=_reliable_from(domain, data),
    )


def _readings(store: ReadingStore, settings: Settings, steps: Steps, data: Path | None) -> list[str]:
    """Fill the store if need be; the sites whose readings are measured."""
    domain = store.domain
    if data is not None:
        with steps.step(f"Readings: {data}"):
            summary = ingest_published(data, domain, root=store.folder.parent)
        steps.console.print(render_summary(summary))
    elif not store.sites():
        simulate_readings(domain, settings, steps)
    measured_sites = store.measured_sites()
    if not measured_sites:
        steps.console.print(
            "[yellow]These readings are simulated, not measured: the figures below show that the machinery works, "
            "not how well a real town is forecast.[/] Real ones: [bold]make train DATA=folder[/] or "
            f"[bold]towncast ingest {domain.name} --help[/]"
        )
    return measured_sites


def simulate_readings(domain: Domain, settings: Settings, steps: Steps) -> None:
    """Fill the store with the domain's rollouts; weeks that were rolled out before are not rolled out again.

    Raises:
        InvalidParameterError: The domain has none.
        RolloutError: A week failed; the others are stored.
    """
    rollouts = rollouts_of(domain.name)
    if rollouts is None:
        raise InvalidParameterError(
            parameter="data",
            provided=None,
            allowed="a folder with a published data set, or ingested readings",
            fact=f"There are no readings of {domain.name}, and nothing here makes them",
            remedy=f"Name a folder with --data, or ingest your own: towncast ingest {domain.name} --help.",
        )
    run = plan_run(rollouts.name, weeks=settings.simulated_weeks or rollouts.weeks, settings=settings)
    title = f"Readings: none ingested, so towncast simulates {run.weeks} weeks ({rollouts.domains[domain.name]})"
    with steps.step(title, spinner=False):
        simulated = simulate(run, workers=usable_cores(), settings=settings, console=steps.console)
    raise_failed(simulated)
    for summary in simulated.summaries:
        if summary.domain == domain.name:
            steps.console.print(render_summary(summary))


def _reliable_from(domain: Domain, data: Path | None) -> int | None:
    if data is None:
        return None
    moment = find_published(domain, data).reliable_from
    return None if moment is None else int(moment.timestamp())
