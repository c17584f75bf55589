"""Searches: what a trial is, how it is judged, and a study that survives whatever stops it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from features.errors import InvalidParameterError, SearchError, StorageError
from features.readings import join_readings, make_readings
from features.registry import Registry
from features.vocabulary import Domain, Forecast, Quantity, Site, Window
from features.windows import build_panel
from training.data_module import WindowDataModule
from training.folds import cross_validation
from training.models.neural import RecurrentConfig
from training.models.recurrent import FitConfig
from training.models.seasonal import SeasonalForecaster
from training.recipes import Recipe, RecurrentRecipe
from training.search_budget import FULL_BUDGET, QUICK_BUDGET, Budget, budget_of
from training.studies import (
    Progress,
    begin,
    found_recipe,
    importances,
    opened_storage,
    opened_study,
    progress_of,
    study_name,
    tuned_recipe,
)
from training.trial_processes import run_trials
from training.tune import (
    FOLD_LOSSES,
    PRESENT,
    JudgedFold,
    Search,
    judged_folds,
    relative_loss,
    run_trial,
    thinned,
)
from training.window_set import Splits, split_windows

TOWN = Domain(
    name="town",
    entity="road",
    targets=(
        Quantity(name="flow", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0),
        Quantity(name="speed", unit="km/h", aggregation="mean", lower=0.0, upper=200.0),
    ),
    covariates=(Quantity(name="temperature", unit="degC", aggregation="mean"),),
    history_steps=4 * 168,
    horizon_steps=6,
    horizons={"2h": 2, "6h": 6},
    static_names=("lanes",),
)
TINY = Budget(folds=(4, 3, 2), train_windows=64, validation_windows=64, judged_windows=64)
RECIPE = Recipe(
    name="quick",
    family="lstm",
    config=RecurrentRecipe(
        sizes=RecurrentConfig(recent_steps=12, hidden=8, layers=1, hidden_second=8, head=8, members=2),
        fitting=FitConfig(epochs=1, batch_size=64),
    ),
)


def town_data(*, weeks: int = 34) -> WindowDataModule:
    """Two roads of different size with a daily shape, and deviations from it that last for hours."""
    rng = np.random.default_rng(5)
    moments = pd.date_range("2024-01-01", periods=weeks * 168, freq="h", tz="UTC")
    rows = []
    for name, size in (("A", 1000.0), ("B", 10.0)):
        deviation = np.zeros(len(moments))
        for hour in range(1, len(moments)):
            deviation[hour] = 0.95 * deviation[hour - 1] + 0.1 * rng.normal()
        shape = 1 + 0.6 * np.sin(2 * np.pi * (moments.hour.to_numpy() - 6) / 24)
        for quantity, value in (
            ("flow", size * shape * np.exp(deviation)),
            ("speed", 60 - 20 * shape),
            ("temperature", rng.normal(10, 5, len(moments))),
        ):
            rows.append(
                make_readings(site=name, quantity=quantity, valid_at=moments, value=value, source="sensor:test")
            )
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    sites = [Site(name=name, attributes={"lanes": 2.0}) for name in ("A", "B")]
    panel = build_panel(TOWN, sites, join_readings(rows), first_origin_s=first_s, last_origin_s=last_s)
    return WindowDataModule(split_windows(panel), folds=cross_validation(panel))


def search_in(folder: Path, folds: tuple[JudgedFold, ...], **changes: object) -> Search:
    name = study_name(TOWN, TOWN.target, RECIPE, TINY, data_hash="h")
    made = Search(
        study=name,
        storage_url=f"sqlite:///{folder}/studies.db",
        recipe=RECIPE,
        folds=folds,
        budget=TINY,
        accelerator="cpu",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data() -> WindowDataModule:
    return town_data()


@pytest.fixture(scope="module")
def folds(data: WindowDataModule) -> tuple[JudgedFold, ...]:
    return judged_folds(data, TINY)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, folds: tuple[JudgedFold, ...]) -> Search:
    """A study of fourteen trials, by this process alone."""
    search = search_in(tmp_path_factory.mktemp("studies"), folds)
    with opened_study(search, sampler_seed=0) as study:
        begin(study, search)
        study.optimize(partial(run_trial, search), n_trials=14)
    return search


@pytest.fixture
def study(searched: Search) -> Iterator[optuna.Study]:
    with opened_study(searched) as study:
        yield study


def states(search: Search) -> list[str]:
    with opened_study(search) as study:
        return [trial.state.name for trial in study.trials]


def test_the_quick_recipe_searches_on_few_windows_and_others_on_all() -> None:
    assert budget_of("quick") is QUICK_BUDGET
    assert budget_of("full") is FULL_BUDGET
    assert FULL_BUDGET.train_windows is None
    assert sorted(FULL_BUDGET.folds) == [0, 1, 2, 3, 4]


def test_thinned_folds_are_part_of_the_folds_and_always_the_same(data: WindowDataModule) -> None:
    once, again = judged_folds(data, TINY), judged_folds(data, TINY)
    for number, one, other in zip(TINY.folds, once, again, strict=True):
        for name in ("train", "validation", "test"):
            thin, whole = getattr(one.splits, name), getattr(data.folds[number], name)
            assert len(thin) == 64
            pairs = set(zip(whole.site_index_B.tolist(), whole.origin_B.tolist(), strict=True))
            assert set(zip(thin.site_index_B.tolist(), thin.origin_B.tolist(), strict=True)) <= pairs
            np.testing.assert_array_equal(thin.origin_B, getattr(other.splits, name).origin_B)
        # Every hour of the day is drawn, not each so-manieth.
        assert len(np.unique(one.splits.train.origin_B % 24)) > 12
        np.testing.assert_array_equal(one.naive_S, other.naive_S)
    untouched = int(data.splits.test.origin_B.min())
    assert max(int(fold.splits.test.origin_B.max()) for fold in once) + TOWN.horizon_steps < untouched
    assert thinned(data.splits.test, None, seed=0) is data.splits.test


def test_the_loss_is_relative_to_the_profile_and_each_site_counts_the_same(folds: tuple[JudgedFold, ...]) -> None:
    fold = folds[0]
    assert fold.naive_S[0] > 20 * fold.naive_S[1]
    assert relative_loss(SeasonalForecaster(TOWN), fold) == pytest.approx(1.0)
    doubled = dataclasses.replace(fold, naive_S=fold.naive_S * np.array([1.0, 0.5], dtype=np.float32))
    assert relative_loss(SeasonalForecaster(TOWN), doubled) == pytest.approx(1.5)
    unmeasured = dataclasses.replace(fold, naive_S=np.array([fold.naive_S[0], np.nan], dtype=np.float32))
    assert relative_loss(SeasonalForecaster(TOWN), unmeasured) == pytest.approx(1.0)


def test_where_weather_is_forecast_a_trial_is_judged_with_and_without_it(folds: tuple[JudgedFold, ...]) -> None:
    told = dataclasses.replace(TOWN, known_ahead=("temperature",))
    test = folds[0].splits.test
    known = dataclasses.replace(test, panel=dataclasses.replace(test.panel, domain=told))
    fold = dataclasses.replace(folds[0], splits=dataclasses.replace(folds[0].splits, test=known))
    profile = SeasonalForecaster(told)
    seen: list[float] = []

    class Watching(SeasonalForecaster):
        def predict(self, windows: Window) -> Forecast:
            seen.append(float(np.isfinite(windows.future_BHK[:, :, -1]).mean()))
            return profile.predict(windows)

    assert relative_loss(Watching(told), fold) == pytest.approx(1.0)
    assert seen == [0.0, 1.0]


def test_trials_are_judged_fold_by_fold_and_the_laggards_are_pruned(study: optuna.Study) -> None:
    trials = study.trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        losses = trial.user_attrs[FOLD_LOSSES]
        assert list(trial.intermediate_values) == list(range(1, len(losses) + 1))
        for count, mean in trial.intermediate_values.items():
            assert mean == pytest.approx(np.mean(losses[:count]))
        assert (len(losses) == 3) == (trial.state == TrialState.COMPLETE)
    pruned = [trial.intermediate_values[1] for trial in trials if trial.state == TrialState.PRUNED]
    kept = [trial.intermediate_values[1] for trial in trials[1:] if trial.state == TrialState.COMPLETE]
    assert len(pruned) >= 4
    assert np.mean(pruned) > np.mean(kept)


def test_the_recipe_as_it_is_comes_first_and_is_never_pruned(study: optuna.Study, searched: Search) -> None:
    first = study.trials[0]
    assert first.params == searched.present_choices()
    assert first.user_attrs[PRESENT] is True
    assert first.state == TrialState.COMPLETE
    assert sum(PRESENT in trial.user_attrs for trial in study.trials) == 1
    progress = progress_of(study)
    assert progress.present == first.value
    assert progress.best == study.best_value
    assert progress.finished == 14


def test_importance_is_told_by_all_trials_once_there_are_enough(study: optuna.Study, searched: Search) -> None:
    shares = importances(study)
    assert set(shares) == set(searched.present_choices())
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    few = optuna.create_study()
    few.add_trials(study.trials[:5])
    assert importances(few) == {}


def test_the_same_search_over_the_same_readings_has_the_same_name() -> None:
    def name(recipe: Recipe = RECIPE, budget: Budget = TINY, data_hash: str = "h") -> str:
        return study_name(TOWN, TOWN.target, recipe, budget, data_hash=data_hash)

    assert name() == name()
    assert name().startswith("town-flow-quick-")
    others = {
        name(data_hash="other"),
        name(budget=QUICK_BUDGET),
        name(recipe=dataclasses.replace(RECIPE, seed=1)),
        name(recipe=dataclasses.replace(RECIPE, name="full")),
    }
    assert len(others | {name()}) == 5


def test_what_the_latest_study_found_is_the_tuned_recipe(searched: Search, study: optuna.Study) -> None:
    recipes: Registry[Recipe] = Registry("recipe")
    recipes.register("quick", RECIPE)
    url = searched.storage_url
    found = tuned_recipe(url, TOWN, TOWN.target, recipes)
    assert found == found_recipe(RECIPE, TOWN, study.best_params)
    assert found.name == "tuned"
    assert isinstance(found.config, RecurrentRecipe)
    assert found.config.sizes.hidden == study.best_params["hidden"]
    assert found.config.sizes.members == 2
    # Another target takes what was found for the first.
    assert tuned_recipe(url, TOWN, TOWN.targets[1], recipes) == found
    later = dataclasses.replace(searched, study="another-study")
    with opened_study(later) as newer:
        begin(newer, later)
        assert tuned_recipe(url, TOWN, TOWN.target, recipes) == found, "a study without a result is passed over"
        newer.add_trial(study.trials[0])
    assert tuned_recipe(url, TOWN, TOWN.target, recipes) == dataclasses.replace(RECIPE, name="tuned")


def test_without_a_study_there_is_no_tuned_recipe(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    with pytest.raises(InvalidParameterError, match="no tuned recipe of town yet") as caught:
        tuned_recipe(url, TOWN, TOWN.target, Registry("recipe"))
    assert "towncast tune town" in caught.value.remedy
    assert list(tmp_path.iterdir()) == [], "asking made a file"


def test_a_study_of_another_search_space_is_told_clearly() -> None:
    with pytest.raises(SearchError, match="of another search space") as caught:
        found_recipe(RECIPE, TOWN, {"depth": 3})
    assert "towncast tune town" in caught.value.remedy


@pytest.mark.parametrize("url", ["sqlite:///{folder}/taken/studies.db", "pigeon://coop", "nothing at all"])
def test_a_store_that_cannot_be_opened_is_told_clearly(tmp_path: Path, url: str) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError), opened_storage(url.format(folder=tmp_path)):
        pass


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, opened_storage("postgresql+none://ann:secret@host/studies"):
        pass
    assert "secret" not in str(caught.value)
    assert "TOWNCAST_OPTUNA_URL" in caught.value.remedy


def test_two_processes_share_a_study_and_it_goes_on_where_it_stopped(
    tmp_path: Path, folds: tuple[JudgedFold, ...]
) -> None:
    search = search_in(tmp_path, folds)
    seen: list[Progress] = []
    done = run_trials(search, trials=5, workers=2, seen=lambda study, progress: seen.append(progress))
    assert done.finished == 5
    assert seen[0].finished == 0
    assert seen[-1] == done
    with opened_study(search) as study:
        assert len(study.trials) == 5
        random = [tuple(trial.params.values()) for trial in study.trials]
        assert len(set(random)) == 5, "two processes tried the same"
    # Nothing to do: nothing is started.
    assert run_trials(search, trials=5, workers=2) == done
    more = run_trials(search, trials=6, workers=2)
    assert more.finished == 6
    assert more.present == done.present
    assert set(states(search)) <= {"COMPLETE", "PRUNED"}


def test_a_trial_that_breaks_stops_the_search_and_says_why(tmp_path: Path, folds: tuple[JudgedFold, ...]) -> None:
    empty = dataclasses.replace(
        folds[0], splits=dataclasses.replace(folds[0].splits, test=folds[0].splits.test.subset(np.empty(0, int)))
    )
    search = search_in(tmp_path, (empty,))
    with pytest.raises(SearchError, match="A trial broke") as caught:
        run_trials(search, trials=3)
    assert "Error" in str(caught.value.found)
    assert "goes on" in caught.value.remedy
    assert states(search) == ["FAIL"]
    # The present recipe is queued again.
    with opened_study(search) as study:
        begin(study, search)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_when_the_time_is_over_no_trial_is_left_running(tmp_path: Path, folds: tuple[JudgedFold, ...]) -> None:
    search = search_in(tmp_path, folds)
    began = time.monotonic()
    progress = run_trials(search, trials=10_000, timeout_s=1.0)
    assert time.monotonic() - began < 60
    assert progress.finished < 10_000
    assert "RUNNING" not in states(search)


def main_searching(folder: str) -> None:
    """In another process: a search without an end, which somebody stops."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Folds that take some seconds each, so that a trial is under way when it is stopped.
    folds = judged_folds(town_data(), dataclasses.replace(TINY, train_windows=1000))
    search = search_in(Path(folder), folds, heartbeat_s=1)
    try:
        run_trials(search, trials=10_000, seen=lambda study, progress: sys.stdout.write(f"{progress.finished}\n"))
    except KeyboardInterrupt:
        sys.stdout.write(json.dumps({"interrupted": True}))


def searching(folder: Path, searches: Search) -> subprocess.Popen[str]:
    """Another process that searches, once it has finished a trial and works on the next."""
    call = f"import runpy; runpy.run_path({__file__!r})['main_searching']({str(folder)!r})"
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", call],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= 1:
            break
    while "RUNNING" not in states(searches):
        assert process.poll() is None
    return process


def test_ctrl_c_leaves_a_study_that_can_be_gone_on_with(tmp_path: Path, folds: tuple[JudgedFold, ...]) -> None:
    search = search_in(tmp_path, folds)
    process = searching(tmp_path, search)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == '{"interrupted": true}'
    stopped = states(search)
    assert stopped[-1] == "FAIL"
    assert set(stopped[:-1]) <= {"COMPLETE", "PRUNED"}


def test_a_trial_of_a_process_that_was_killed_is_given_up(tmp_path: Path, folds: tuple[JudgedFold, ...]) -> None:
    search = search_in(tmp_path, folds, heartbeat_s=1)
    process = searching(tmp_path, search)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    left = states(search)
    assert left[-1] == "RUNNING"
    time.sleep(4)
    with opened_study(search) as study:
        study.optimize(partial(run_trial, search), n_trials=1)
    assert states(search)[: len(left)] == [*left[:-1], "FAIL"]


def test_splits_of_a_search_hold_no_test_window(folds: tuple[JudgedFold, ...], data: WindowDataModule) -> None:
    test_from = int(data.splits.test.origin_B.min())
    for fold in folds:
        parts: Splits = fold.splits
        for part in (parts.train, parts.validation, parts.test):
            assert int(part.origin_B.max()) + TOWN.horizon_steps < test_from
