"""The reporting job over a real store: what a training leaves in its run, and the report of a registered version."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from features.card import TRAINED_UNTIL, load_card
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, NotEnoughDataError, UnknownNameError
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from pipelines.cli import app
from pipelines.report import report_models, report_run
from pipelines.settings import Settings
from training.models.seasonal import SeasonalForecaster
from training.registry import ModelRegistry, Registered
from training.tracking import Tracking
from training.train import Judgement, export_with_card, judge_forecaster
from training.window_set import Splits, split_windows

TRAFFIC = DOMAINS["traffic"]
QUIET = Console(quiet=True)
WEEKS = 26


@dataclasses.dataclass(frozen=True)
class Town:
    """An installation with readings and one registered model, whose run holds a report."""

    settings: Settings
    registry: ModelRegistry
    registered: Registered
    judgement: Judgement


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("a town")
    settings = Settings(data_dir=folder / "var", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    store = ReadingStore(settings.readings_dir, TRAFFIC)
    rng = np.random.default_rng(3)
    moments = pd.date_range("2024-01-01", periods=WEEKS * 168, freq="h", tz="UTC")
    parts = []
    for site, size in (("R1", 1000.0), ("R2", 300.0)):
        value = size * (1 + 0.5 * np.sin(2 * np.pi * moments.hour / 24)) * np.exp(0.1 * rng.normal(size=len(moments)))
        parts.append(
            make_readings(site=site, quantity="volume", valid_at=moments, value=value, source="sensor:mndot-atr-301")
        )
    sites = [Site(name=name, attributes={"zone": zone}) for name, zone in (("R1", 1.0), ("R2", 2.0))]
    store.append(check_readings(join_readings(parts), TRAFFIC), sites)
    repository = FeatureRepository(settings.feast_dir, store)
    repository.apply()
    splits: Splits = split_windows(repository.panel(sites=["R1", "R2"]))
    forecaster = SeasonalForecaster(TRAFFIC)
    judgement = judge_forecaster(forecaster, splits.test)
    last = splits.train.panel.moments_s[int(splits.train.origin_B.max()) + TRAFFIC.horizon_steps]
    tracking = Tracking(settings.tracking_uri)
    registry = ModelRegistry(tracking)
    with tracking.run(TRAFFIC, name="seasonal", tags={}) as run_id:
        trained = {"readings": "measured", "recipe": "quick", TRAINED_UNTIL: str(int(last))}
        card = export_with_card(forecaster, splits, judgement, folder / "artifact", speeds={}, trained=trained)
        registered = registry.register(run_id, folder / "artifact", card, TRAFFIC)
        report_run(tracking, run_id, forecaster, judgement, card, verdict=None, seed=0)
    registry.promote(registered, reason="the first")
    return Town(settings=settings, registry=registry, registered=registered, judgement=judgement)


def test_a_training_leaves_its_report_table_and_attribution_in_the_run(town: Town) -> None:
    client = town.registry.tracking.connect()
    run_id = town.registered.run_id
    found = {one.path for one in client.list_artifacts(run_id, "report")}
    assert found == {"report/report.html", "report/report.csv", "report/attribution.json"}
    metrics = client.get_run(run_id).data.metrics
    assert metrics["cost_per_hour/median"] > 0
    assert metrics["fairness/flags"] == 0
    assert metrics["fairness/site_error_ratio"] >= 1


def test_the_report_of_the_champion_repeats_the_figures_of_its_training(town: Town, tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    (made,) = report_models("traffic", settings=town.settings, console=QUIET, model_cards=cards)
    assert made.registered == town.registered
    assert made.remark == ""
    assert made.report == town.settings.data_dir / "reports" / "traffic-seasonal-v1.html"
    assert made.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    mean, found = town.judgement.by_horizon["mean"], made.evaluation.judgement.by_horizon["mean"]
    # The graph rounds to float32 where the module does, but not to the last digit. Intervals adapt from nothing here.
    adapted = {"pinball", "coverage_90", "coverage_95", "width_90"}
    assert {name: value for name, value in found.items() if name not in adapted} == pytest.approx(
        {name: value for name, value in mean.items() if name not in adapted}, rel=1e-4
    )
    assert abs(found["coverage_90"] - 0.9) < abs(mean["coverage_90"] - 0.9)
    assert made.evaluation.attribution is not None
    assert made.evaluation.attribution.features == ("seasonal profile",)
    assert made.evaluation.verdict is None
    assert made.model_card == cards / "traffic.md"
    assert "Metro Interstate Traffic Volume" in made.model_card.read_text(encoding="utf-8")
    zones = made.evaluation.fairness.zones
    assert zones is not None
    assert {group.name for group in zones.groups} == {"1", "2"}


def test_windows_that_the_model_may_have_learnt_from_are_left_out(town: Town, tmp_path: Path) -> None:
    tracking = town.registry.tracking
    test = town.judgement.windows
    moments = test.panel.moments_s[test.origin_B]
    middle, end = int(np.median(moments)), int(moments.max())
    folder = town.registry.fetch(town.registered, tmp_path)
    numbers = []
    for until in (str(middle), str(end + 3600), None):
        trained = {"readings": "measured"} | ({} if until is None else {TRAINED_UNTIL: until})
        card = dataclasses.replace(load_card(folder), trained=trained)
        with tracking.run(TRAFFIC, name="later", tags={}) as run_id:
            numbers.append(town.registry.register(run_id, folder, card, TRAFFIC).version)
    asked = {"settings": town.settings, "console": QUIET, "output": tmp_path / "report.html"}
    (half,) = report_models("traffic", version=str(numbers[0]), **asked)
    judged = half.evaluation.judgement.windows
    assert middle < int(judged.panel.moments_s[judged.origin_B].min()) <= middle + 3600
    # Its run holds no attribution.
    assert half.evaluation.attribution is None
    with pytest.raises(NotEnoughDataError, match="trained on all readings"):
        report_models("traffic", version=str(numbers[1]), **asked)
    (unknown,) = report_models("traffic", version=str(numbers[2]), **asked)
    assert "does not tell until when" in unknown.remark


def test_what_is_not_there_is_answered_with_what_is(town: Town) -> None:
    def ask(version: str = "champion", target: str | None = None) -> None:
        report_models("traffic", settings=town.settings, console=QUIET, version=version, target=target)

    with pytest.raises(ArtifactError, match="There is no version 77 of towncast-traffic"):
        ask(version="77")
    with pytest.raises(ArtifactError, match="There is no candidate of towncast-traffic"):
        ask(version="candidate")
    with pytest.raises(InvalidParameterError, match="does not forecast this quantity"):
        ask(target="temperature")
    with pytest.raises(ArtifactError, match="Train one, with `towncast train demand`"):
        report_models("demand", settings=town.settings, console=QUIET)
    with pytest.raises(UnknownNameError):
        report_models("trafic", settings=town.settings, console=QUIET)


def test_the_command_takes_prices_and_says_where_the_report_is(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(town.settings.data_dir))
    monkeypatch.setenv("TOWNCAST_TRACKING_URI", town.settings.tracking_uri)
    output = tmp_path / "out.html"
    words = ["report", "traffic", "--output", str(output), "--version", "1"]
    prices = ["--cost-under", "4", "--cost-over", "1", "--currency", "EUR"]
    done = CliRunner().invoke(app, [*words, *prices])
    assert done.exit_code == 0, done.output
    said = done.output.replace("\n", "")
    assert "EUR" in said
    assert str(output) in said
    assert "4.00 EUR for each veh/h" in output.read_text(encoding="utf-8")
    everywhere = CliRunner().invoke(app, ["report", "all", "--output", str(tmp_path / "all.html")])
    assert everywhere.exit_code == 0, everywhere.output
    assert (tmp_path / "all.html").exists()
    refused = CliRunner().invoke(app, ["report", "all", "--currency", "EUR"])
    assert isinstance(refused.exception, InvalidParameterError)
    refused = CliRunner().invoke(app, [*words, "--cost-under", "0", "--cost-over", "0"])
    assert isinstance(refused.exception, InvalidParameterError)
