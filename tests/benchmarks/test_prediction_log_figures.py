"""The benchmark of the prediction log: what it makes up is what it measures, and its bars are read right."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.prediction_log import Plan, bars_of, enter_all, predictions
from benchmarks.prediction_log_year import Roads
from serving.prediction_log.records import ForecastRecord


def test_every_made_up_prediction_is_entered(tmp_path: Path) -> None:
    found = enter_all(f"sqlite:///{tmp_path}/log.db", Plan(predictions=60, together=20))
    assert found["predictions"] == 60
    assert found["per_s"] > 0


def test_predictions_have_24_steps_and_5_levels_in_order() -> None:
    records = predictions(10, seed=1)
    forecasts = [record for record in records if isinstance(record, ForecastRecord)]
    assert len(forecasts) == len(records) - len(forecasts) == 10
    assert len({forecast.name for forecast in forecasts}) == 10
    for forecast in forecasts:
        assert forecast.value_HQ().shape == (24, 5)
        assert (np.diff(forecast.value_HQ(), axis=1) >= 0).all()


def test_the_interval_of_the_made_up_year_holds_what_it_promises() -> None:
    roads = Roads(20)
    hours = np.arange(0, 2400, 24)
    forecasts = np.stack([roads.forecasts(int(hour)) for hour in hours])
    actual = np.stack([roads.actual(hour + 1 + np.arange(24)).T for hour in hours])
    inside = (forecasts[..., 0] <= actual) & (actual <= forecasts[..., -1])
    assert inside.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("ratio", "rate", "summary_s", "met"), [(1.05, 10_000, 60.0, True), (1.06, 9_999, 61.0, False)]
)
def test_bars(ratio: float, rate: int, summary_s: float, met: bool) -> None:
    figures = {
        "latency": {"clients": {"1": {"p50_ratio": ratio}}},
        "entry": {"sqlite": {"per_s": rate}},
        "year": {"summary_s": summary_s},
    }
    assert bars_of(figures) == {"latency_1_clients": met, "entry_sqlite": met, "year_summary": met}
