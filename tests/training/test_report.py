"""The report and the model card of a judgement: complete, self-contained, and true to the figures."""

import dataclasses
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.card import Card, ParityCertificate
from features.errors import StorageError
from features.readings import join_readings, make_readings
from features.windows import build_panel
from training.claims import CLAIMS
from training.costs import CostOfError
from training.explain import Attribution, explain_forecaster
from training.gate import Check, Verdict
from training.model_card import KNOWN_SOURCES, render_model_card, write_model_card
from training.models.seasonal import SeasonalForecaster
from training.report import Evaluation, evaluate_model, number, percent, render_report, signed, write_report
from training.report_plots import plot_attribution, readable, residual_correlation
from training.train import Judgement, judge_quantiles

MakeJudgement = Callable[[dict[str, float]], Judgement]
HOSTILE = '<script>alert("x")</script>'


def card_of(judgement: Judgement, **changes: object) -> Card:
    domain = judgement.windows.panel.domain
    card = Card(
        model="town-test",
        domain=domain.name,
        family="test",
        target=domain.target.name,
        unit=domain.target.unit,
        step_s=domain.step_s,
        history_steps=domain.history_steps,
        horizon_steps=domain.horizon_steps,
        history_channels=domain.history_channels,
        future_channels=domain.future_channels,
        static_channels=domain.static_channels,
        levels=judgement.levels,
        sites=judgement.windows.panel.sites,
        input_range={},
        parity=ParityCertificate(windows=64, largest_relative=3e-7, tolerance=1e-4, batch_hash="0"),
        trained={
            "recipe": "quick",
            "readings": "measured",
            "data_hash": "abc123",
            "train": "2024-03-04T00 to 2024-05-01T00 UTC",
        },
    )
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluation(judgement_of: MakeJudgement) -> Evaluation:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})
    attribution = explain_forecaster(
        SeasonalForecaster(judgement.windows.panel.domain), judgement.windows, rng=np.random.default_rng(0), count=20
    )
    checks = (Check(name="worst site", found="C: MAE +200%", allowed="+10% at most", passed=False),)
    verdict = Verdict(model="towncast-town", candidate=2, champion=1, windows=9, checks=checks, remarks=("A remark.",))
    return evaluate_model(judgement, card_of(judgement), attribution=attribution, verdict=verdict)


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render_report(evaluation)


@pytest.fixture(scope="module")
def other(judgement_of: MakeJudgement) -> Evaluation:
    """A model of generated readings and of a target that nobody knows."""
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    card = card_of(judgement, target="crowd", trained={"readings": "generated", "recipe": HOSTILE})
    prices = CostOfError(under_per_unit=4.0, over_per_unit=1.0, currency="EUR", because="given")
    return evaluate_model(judgement, card, cost=prices)


@pytest.fixture(scope="module")
def other_page(other: Evaluation) -> str:
    return render_report(other)


class _Reader(HTMLParser):
    """Collects what a browser would fetch, ids, links, and text; checks that tags close."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: set[str] = set()
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [str(found[name]) for name in ("src", "href") if name in found]
        self.ids |= {str(found["id"])} if "id" in found else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> tuple[_Reader, str]:
    reader = _Reader()
    reader.feed(page)
    assert not reader.open, f"not closed: {reader.open}"
    return reader, re.sub(r"\s+", " ", " ".join(reader.words))


def test_the_page_needs_nothing_from_elsewhere_and_its_links_lead_somewhere(page: str) -> None:
    reader, _ = read(page)
    for source in reader.sources:
        assert source.startswith(("data:image/png;base64,", "#")), source[:80]
        if source.startswith("#"):
            assert source[1:] in reader.ids
    assert "<script" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert len(page) < 3_000_000


def test_the_page_has_the_pictures_of_every_section(page: str) -> None:
    # By lead, by hour and month, reliability, the map of sites, two of residuals, attribution, and three forecasts.
    assert page.count("<img") == 10


def test_the_page_states_the_figures_of_the_judgement(evaluation: Evaluation, page: str) -> None:
    _, text = read(page)
    mean = evaluation.judgement.by_horizon["mean"]
    low, high = evaluation.skill_90["6h"]
    for stated in (
        f"{number(mean['mae'])} veh/h",
        number(evaluation.judgement.by_horizon["2h"]["mase"]),
        f"{signed(low)} to {signed(high)}",
        percent(mean["coverage_95"]),
        "Worst site: C",
        f"naive profile {number(evaluation.business.naive)}",
        "Least covered site and month: C, 2024-0",
        "abc123",
    ):
        assert " ".join(stated.split()) in text, stated


def test_the_page_shows_flags_and_the_verdict(page: str) -> None:
    _, text = read(page)
    assert "Flag. site C: relative error" in text
    assert "Gate: failed" in text
    assert "worst site: C: MAE +200% (allowed: +10% at most)" in text
    assert "A remark." in text


def test_claims_are_printed_beside_with_their_note(page: str) -> None:
    _, text = read(page)
    assert CLAIMS["volume"].note in text
    assert "8.50" in text
    # The town has no horizon of 24 h.
    assert "24h" not in text


def test_a_target_without_claims_attribution_or_gate_is_reported(other_page: str) -> None:
    _, text = read(other_page)
    assert "claims on data" not in text
    assert "Not worked out for this version." in text
    assert "Gate: not asked for this report." in text
    assert "No flag: no difference is above its limit beyond chance." in text


def test_generated_readings_are_not_a_claim_about_a_town(other: Evaluation, other_page: str, page: str) -> None:
    assert "not how well a real town is forecast" in read(other_page)[1]
    assert "not how well a real town is" in render_model_card(other, sources=["sim:roads:plain@1"])
    assert "not how well a real town is" not in page


def test_names_from_the_data_cannot_write_into_the_page(other_page: str) -> None:
    assert "<script" not in other_page
    assert html.escape(HOSTILE, quote=False).split("(")[0] in other_page


def test_given_prices_take_the_place_of_assumed_ones(other: Evaluation, other_page: str) -> None:
    _, text = read(other_page)
    assert "4.00 EUR for each veh/h that came and was not forecast" in text
    assert "80 % quantile" in text
    assert other.figures()["cost_per_hour"]["median"] == other.business.median


def test_a_lead_that_was_never_measured_is_reported_as_undefined(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    windows = judgement.windows
    # One road that was measured at odd hours alone, and forecast at odd ones: the second lead has no target.
    chosen = (windows.site_index_B == 1) & (windows.origin_B % 2 == 1)
    target = windows.target_ST.copy()
    target[:, 1::2] = np.nan
    thin = dataclasses.replace(windows, target_ST=target).subset(chosen)
    made = evaluate_model(
        judge_quantiles(judgement.quantiles_BHQ[chosen], thin, levels=judgement.levels), card_of(judgement)
    )
    assert np.isnan(made.judgement.by_horizon["2h"]["mae"])
    assert "2h" not in made.skill_90
    _, text = read(render_report(made))
    assert "n/a" in text
    assert "nan" not in text.lower().split()
    assert "No morning was measured without a gap" in text


def test_the_report_is_written_with_the_table_behind_it(evaluation: Evaluation, tmp_path: Path) -> None:
    path = write_report(evaluation, tmp_path / "new" / "town.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    table = pd.read_csv(tmp_path / "new" / "town.csv")
    assert set(table["by"]) == {"all", "horizon", "site", "hour", "month", "site and month"}
    assert table[table["by"] == "all"]["mae"].item() == pytest.approx(evaluation.table.iloc[2]["mae"], rel=1e-5)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        write_report(evaluation, tmp_path / "taken" / "town.html")


def test_the_model_card_says_data_licence_figures_limits_and_how_to_retrain(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    path = write_model_card(evaluation, tmp_path, sources=["sensor:mndot-atr-301", "sensor:ours"])
    text = path.read_text(encoding="utf-8")
    assert path.name == "town.md"
    for heading in (
        "Intended use",
        "Data",
        "Figures",
        "Beside the design document",
        "Fairness",
        "Limits",
        "Ethics",
        "How to retrain",
    ):
        assert f"\n## {heading}\n" in text
    assert KNOWN_SOURCES["sensor:mndot-atr-301"].licence in text
    assert "**sensor:ours**: readings of this installation" in text
    assert "| 6h | " in text
    assert "**Flag**: site C" in text
    assert "towncast train town --recipe quick --data FOLDER" in text
    assert "\n\n\n" not in text


def test_each_target_of_a_domain_of_several_has_a_card_of_its_own(
    evaluation: Evaluation, judgement_of: MakeJudgement, tmp_path: Path
) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    windows = judgement.windows
    target = windows.target
    other = dataclasses.replace(target, name="lorries")
    domain = dataclasses.replace(windows.panel.domain, targets=(target, other), covariates=())
    panel = dataclasses.replace(windows.panel, domain=domain)
    several = dataclasses.replace(judgement, windows=dataclasses.replace(windows, panel=panel))
    made = dataclasses.replace(evaluation, judgement=several, card=card_of(judgement))
    path = write_model_card(made, tmp_path, sources=[])
    assert path.name == "town_volume.md"
    assert "towncast report town --target volume --model-card" in path.read_text(encoding="utf-8")


def test_the_model_card_puts_the_document_beside(evaluation: Evaluation, other: Evaluation) -> None:
    text = render_model_card(evaluation, sources=[])
    measured = number(evaluation.judgement.by_horizon["2h"]["mape"])
    assert re.search(rf"\| 2h \| MAPE % \| 8.50 \| {measured} \| ", text)
    assert CLAIMS["volume"].note in text
    assert "It claims no figure for this target." in render_model_card(other, sources=[])


def test_a_weather_forecast_that_nobody_had_is_said(evaluation: Evaluation, judgement_of: MakeJudgement) -> None:
    assert evaluation.unforeseen == ()
    windows = evaluation.judgement.windows
    domain = dataclasses.replace(windows.panel.domain, known_ahead=("temperature",))
    panel = build_panel(
        domain,
        list(windows.panel.sites),
        join_readings(
            [
                make_readings(
                    site="A",
                    quantity="volume",
                    valid_at=pd.date_range("2024-01-01", periods=5000, freq="h", tz="UTC"),
                    value=np.ones(5000),
                    source="sensor:t",
                )
            ]
        ),
        first_origin_s=int(windows.panel.moments_s[windows.panel.first_origin]),
        last_origin_s=int(windows.panel.moments_s[windows.panel.last_origin]),
    )
    blind = dataclasses.replace(evaluation.judgement, windows=dataclasses.replace(windows, panel=panel))
    blind_evaluation = dataclasses.replace(evaluation, judgement=blind)
    assert blind_evaluation.unforeseen == ("temperature",)
    assert "No forecast of temperature was at hand" in render_model_card(blind_evaluation, sources=[])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,234"),
        (99.96, "100.0"),
        (9.876, "9.88"),
        (0.012345, "0.0123"),
        (-3.0, "-3.00"),
        (np.nan, "n/a"),
        (np.inf, "n/a"),
    ],
)
def test_numbers_have_three_digits_and_no_more_than_they_need(value: float, text: str) -> None:
    assert number(value) == text


def test_names_of_features_are_for_people() -> None:
    assert readable("pm2_5_mean_3h") == "pm2.5 mean 3h"
    assert readable("neighbour_1_volume") == "neighbour 1 volume"


def test_a_feature_that_dwarfs_all_others_is_named_and_not_drawn() -> None:
    rng = np.random.default_rng(0)
    features = ("seasonal profile", "recent volume", "holiday", "rainfall")
    size = np.array([900.0, 20.0, 15.0, 0.0])
    made = Attribution(
        explains="the median forecast",
        method="a test",
        unit="veh/h",
        features=features,
        horizons=("2h", "6h"),
        value_NBF=(size * rng.normal(size=(2, 30, 4))).astype(np.float32),
        level_BF=np.full((30, 4), np.nan, dtype=np.float32),
    )
    figure = plot_attribution(made)
    drawn = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert drawn == ["holiday", "recent volume"]
    assert "not drawn: seasonal profile" in figure.get_supxlabel()
    even = plot_attribution(
        dataclasses.replace(made, value_NBF=made.value_NBF / np.maximum(size, 1).astype(np.float32))
    )
    assert "seasonal profile" in [label.get_text() for label in even.axes[0].get_yticklabels()]
    assert even.get_supxlabel() == ""


def test_residuals_that_last_are_seen_and_noise_is_not(judgement_of: MakeJudgement) -> None:
    noise = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    assert np.abs(residual_correlation(noise, lead=2, lags=24)).max() < 0.15
    # Every forecast misses by what the road was off two days ago: half of the time one way, half the other.
    windows = noise.windows
    swing = np.where((windows.origin_B // 24) % 2 == 0, 1.0, -1.0)[:, None, None].astype(np.float32)
    base = np.nan_to_num(noise.target_BH)[:, :, None] + np.zeros((1, 1, len(noise.levels)), dtype=np.float32)
    lasting = judge_quantiles(base + 50 * swing, windows, levels=noise.levels)
    correlation = residual_correlation(lasting, lead=2, lags=48)
    assert correlation[0] > 0.85
    assert correlation[23] < -0.8
    assert correlation[47] > 0.8
