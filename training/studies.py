"""Studies: where trials are kept, so that a search goes on where it stopped, and what was found in them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import InvalidParameterError, SearchError, StorageError
from features.files import make_folder
from features.registry import Registry
from features.vocabulary import Domain, Quantity
from training.recipes import Recipe
from training.search_budget import Budget
from training.search_spaces import Choices
from training.tune import PRESENT, Search, search_space

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study, StudySummary
    from optuna.trial import FrozenTrial

TUNED = "tuned"
_SQLITE = "sqlite:///"
_STARTUP_TRIALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is.

    Attributes:
        finished: Trials that were judged, pruned ones among them.
        pruned: Those that were given up early.
        failed: Trials that broke, or were stopped; they do not count.
        best: Smallest relative loss so far, None before there is one.
        present: Relative loss of the recipe that the search began with, None before it is known.
    """

    finished: int
    pruned: int
    failed: int
    best: float | None
    present: float | None


def study_name(domain: Domain, target: Quantity, recipe: Recipe, budget: Budget, *, data_hash: str) -> str:
    """Name of a study: the same search over the same readings has the same, and is gone on with.

    Args:
        domain: What is forecast.
        target: Which of its targets.
        recipe: The recipe to begin with.
        budget: What a trial sees.
        data_hash: Of the readings.
    """
    from optuna.distributions import distribution_to_json
    from optuna.trial import FixedTrial

    present = Choices()
    space = search_space(recipe)
    space.choose(present, domain, recipe)
    trial = FixedTrial(present.present)
    space.choose(Choices(trial), domain, recipe)
    ranges = {name: distribution_to_json(asked) for name, asked in trial.distributions.items()}
    same = json.dumps([data_hash, asdict(recipe), asdict(budget), ranges], sort_keys=True)
    return f"{domain.name}-{target.name}-{recipe.name}-{hashlib.sha256(same.encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def opened_storage(url: str, *, heartbeat_s: int | None = None) -> Iterator[RDBStorage]:
    """The store of the studies, made on first use; closed at the end.

    Raises:
        StorageError: It cannot be made or opened.
    """
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url.startswith(_SQLITE):
        make_folder(Path(url.removeprefix(_SQLITE)).parent)
    # Several processes write; SQLite would give up after five seconds.
    options = {"connect_args": {"timeout": 60}} if url.startswith(_SQLITE) else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=heartbeat_s,
                grace_period=3 * heartbeat_s if heartbeat_s else None,
            )
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        raise StorageError(
            "The store of the studies cannot be opened",
            found=f"{_without_password(url)}: {str(error).splitlines()[0]}",
            remedy="Make its folder writable and install its driver, or name another store in TOWNCAST_OPTUNA_URL.",
        ) from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _without_password(url: str) -> str:
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "an address that is none"


@contextlib.contextmanager
def opened_study(search: Search, *, sampler_seed: int | None = None) -> Iterator[Study]:
    """The study of a search, begun if there is none; the recipe as it is waits as its first trial.

    Args:
        search: Which.
        sampler_seed: Of the sampler of this process: two processes with the same would try the same.
    """
    import optuna

    with opened_storage(search.storage_url, heartbeat_s=search.heartbeat_s) as storage:
        study = optuna.create_study(
            storage=storage,
            study_name=search.study,
            direction="minimize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(
                seed=sampler_seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True
            ),
            # After the first and the third fold the best third goes on (Li et al. 2020, arXiv:1810.05934). Unlike a
            # median pruner it compares latest losses, not each trial's best: folds differ more than recipes do.
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )
        yield study


def begin(study: Study, search: Search) -> None:
    """Note what a study is about, and queue the present recipe if it was not judged."""
    from optuna.trial import TrialState

    about = {"domain": search.domain.name, "target": search.target.name, "recipe": search.recipe.name}
    for name, text in {**about, "searched_at": datetime.datetime.now(datetime.UTC).isoformat()}.items():
        study.set_user_attr(name, text)
    lost = (TrialState.FAIL,)
    if not any(PRESENT in trial.user_attrs and trial.state not in lost for trial in study.get_trials(deepcopy=False)):
        study.enqueue_trial(search.present_choices(), user_attrs={PRESENT: True})


def progress_of(study: Study) -> Progress:
    """How far a study is."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    present = [trial.value for trial in complete if PRESENT in trial.user_attrs]
    return Progress(
        finished=len(complete) + pruned,
        pruned=pruned,
        failed=sum(trial.state == TrialState.FAIL for trial in trials),
        best=min((trial.value for trial in complete if trial.value is not None), default=None),
        present=present[0] if present else None,
    )


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Complete and pruned trials, in order of their numbers."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def importances(study: Study) -> dict[str, float]:
    """How much each choice matters for the loss on the first judged fold, most important first; they add up to 1.

    All finished trials have that loss, and only the better half has more: judged on the complete ones alone, what
    pruning decided would look unimportant. PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255). Empty where there are
    too few trials to tell.
    """
    import optuna

    judged = [trial for trial in finished_trials(study) if trial.intermediate_values]
    if len(judged) < _STARTUP_TRIALS:
        return {}
    first = optuna.create_study(direction="minimize")
    for trial in judged:
        first.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.intermediate_values[1]
            )
        )
    return optuna.importance.get_param_importances(first)


def found_recipe(recipe: Recipe, domain: Domain, parameters: dict[str, Any]) -> Recipe:
    """The recipe that a trial's parameters make of the one that the search began with; its name is `tuned`.

    Raises:
        SearchError: The parameters are not those of today's search space.
    """
    from optuna.trial import FixedTrial

    try:
        found = search_space(recipe).choose(Choices(FixedTrial(parameters)), domain, recipe)
    except ValueError as error:
        raise SearchError(
            "The study's parameters are of another search space",
            found=", ".join(parameters),
            remedy=f"Search again: towncast tune {domain.name}.",
        ) from error
    return replace(found, name=TUNED)


def tuned_recipe(url: str, domain: Domain, target: Quantity, recipes: Registry[Recipe]) -> Recipe:
    """What the latest study of a target found.

    A target that was not tuned itself takes what was found for the domain's first.

    Args:
        url: Where the studies are.
        domain: What is forecast.
        target: Which of its targets.
        recipes: The domain's recipes, by name.

    Raises:
        InvalidParameterError: There is no study with a complete trial.
        SearchError: Its parameters are not those of today's search space.
    """
    studies = _studies_with_results(url, domain)
    for wanted in (target, domain.target):
        of_target = [study for study in studies if study.user_attrs.get("target") == wanted.name]
        if of_target:
            latest = max(of_target, key=lambda study: str(study.user_attrs["searched_at"]))
            assert latest.best_trial is not None
            return found_recipe(recipes[latest.user_attrs["recipe"]], domain, latest.best_trial.params)
    raise InvalidParameterError(
        parameter="recipe",
        provided=TUNED,
        allowed=list(recipes),
        fact=f"There is no tuned recipe of {domain.name} yet",
        remedy=f"Search for one first: towncast tune {domain.name}.",
    )


def _studies_with_results(url: str, domain: Domain) -> list[StudySummary]:
    import optuna

    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        return []
    with opened_storage(url) as storage:
        summaries = optuna.get_all_study_summaries(storage)
    return [
        summary
        for summary in summaries
        if summary.user_attrs.get("domain") == domain.name and summary.best_trial is not None
    ]
