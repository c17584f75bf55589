"""The tuning job through its command: a search, what it leaves in MLflow, going on, and the recipe that it found."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from features.domains import DOMAINS
from features.errors import InvalidParameterError
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from pipelines.cli import app
from pipelines.prepare import find_recipe
from pipelines.settings import Settings
from training.recipes import RECIPES, RecurrentRecipe
from training.search_budget import Budget
from training.search_log import PARENT_TAG

TRAFFIC = DOMAINS["traffic"]
WEEKS = 36
Tune = Callable[..., Result]
TINY = Budget(folds=(4, 3), train_windows=64, windows_per_epoch=64, validation_windows=64, judged_windows=64)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two roads with a daily shape, some weeks longer than the folds need."""
    folder = tmp_path_factory.mktemp("tuning")
    settings = Settings(data_dir=folder / "var", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    rng = np.random.default_rng(6)
    moments = pd.date_range("2024-01-01", periods=WEEKS * 168, freq="h", tz="UTC")
    parts = []
    for site, size in (("R1", 900.0), ("R2", 2400.0)):
        shape = 1 + 0.6 * np.sin(2 * np.pi * (moments.hour.to_numpy() - 8) / 24)
        value = size * shape * np.exp(0.1 * rng.normal(size=len(moments)))
        parts.append(make_readings(site=site, quantity="volume", valid_at=moments, value=value, source="sensor:test"))
    store = ReadingStore(settings.readings_dir, TRAFFIC)
    store.append(check_readings(join_readings(parts), TRAFFIC), [Site(name="R1"), Site(name="R2")])
    return settings


@pytest.fixture
def tune(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Runs `towncast tune` there, with trials of a second or two."""
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(installation.data_dir))
    monkeypatch.setenv("TOWNCAST_TRACKING_URI", installation.tracking_uri)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pipelines.tune.budget_of", lambda recipe_name: TINY)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["tune", *words])

    return run


def test_a_search_is_kept_gone_on_with_and_its_recipe_found(tune: Tune, installation: Settings) -> None:
    with pytest.raises(InvalidParameterError, match="no tuned recipe of traffic yet"):
        find_recipe("traffic", "tuned", studies_url=installation.studies_url)
    first = tune("traffic", "--trials", "2", "--workers", "2", "--device", "cpu")
    assert first.exit_code == 0, first.output
    assert "2 trials" in first.output
    assert "too few trials to tell which choices matter" in first.output
    assert "towncast train traffic --recipe tuned" in first.output
    # Enough trials to tell what matters.
    second = tune("traffic", "--trials", "12", "--workers", "1", "--device", "cpu")
    assert second.exit_code == 0, second.output
    assert "12 trials" in second.output
    assert "importance of the choice" in second.output

    client = mlflow.MlflowClient(installation.tracking_uri)
    experiment = client.get_experiment_by_name("traffic").experiment_id
    runs = client.search_runs([experiment], max_results=100)
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    nested = [run for run in runs if PARENT_TAG in run.data.tags]
    # Both calls are one search, and each trial is written once.
    assert len(parents) == 1
    assert {run.data.tags[PARENT_TAG] for run in nested} == {parents[0].info.run_id}
    assert sorted(int(run.data.tags["trial"]) for run in nested) == list(range(12))
    assert {run.data.tags["state"] for run in nested} == {"complete", "pruned"}
    assert parents[0].data.metrics["finished"] == 12
    artifacts = {item.path for item in client.list_artifacts(parents[0].info.run_id, "search")}
    assert artifacts == {"search/history.png", "search/importance.png", "search/best_recipe.json"}

    found = find_recipe("traffic", "tuned", studies_url=installation.studies_url)
    path = client.download_artifacts(parents[0].info.run_id, "search/best_recipe.json")
    written = json.loads(Path(path).read_text(encoding="utf-8"))
    assert isinstance(found.config, RecurrentRecipe)
    assert found.name == "tuned"
    assert written["recipe"]["config"] == json.loads(json.dumps(dataclasses.asdict(found.config)))
    assert written["relative_loss"] == pytest.approx(parents[0].data.metrics["best"])
    # The recipe keeps what trials only took less of.
    present = RECIPES["traffic"]["quick"].config
    assert isinstance(present, RecurrentRecipe)
    assert found.config.fitting.windows_per_epoch == present.fitting.windows_per_epoch


def test_a_search_that_is_stopped_says_how_it_goes_on(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.tune.run_trials", stopped)
    done = tune("traffic", "--trials", "20")
    assert done.exit_code == 130
    assert "The same command goes on" in done.output


def test_what_cannot_be_searched_for_is_refused_with_a_remedy(tune: Tune) -> None:
    for words, fact in (
        (("traffic", "--recipe", "tuned"), "begins with a recipe that is written down"),
        (("traffic", "--target", "temperature"), "This quantity is not forecast"),
        (("traffic", "--trials", "0"), "A search needs trials"),
        (("water", "--recipe", "document"), "nothing to tune in the family prophet"),
    ):
        refused = tune(*words)
        assert isinstance(refused.exception, InvalidParameterError)
        assert fact in str(refused.exception)
