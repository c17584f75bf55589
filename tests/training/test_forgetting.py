from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from features.vocabulary import Domain
from features.windows import Panel
from training.breaks import Break, find_breaks
from training.export import export_graph
from training.models.forgetting import ForgettingForecaster, break_hour, breaks_of, forget_breaks
from training.models.seasonal import SeasonalForecaster
from training.window_set import Splits, WindowSet, windows_at

WEEK = 168


def late(panel: Panel, *, weeks: float, site: int = 0) -> Panel:
    """The panel with a site whose day comes eight hours late since some weeks before the last reading."""
    value = panel.value_STK.copy()
    last = panel.last_origin
    since = last - round(weeks * WEEK)
    value[site, since + 1 : last + 1, 0] = panel.value_STK[site, since - 7 : last - 7, 0]
    return replace(panel, value_STK=value)


def last_windows(panel: Panel) -> WindowSet:
    return windows_at(panel, panel.domain.target, np.arange(panel.last_origin - 2 * WEEK, panel.last_origin - 6, 5))


def test_a_town_as_ever_has_no_break(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    assert find_breaks(panel, until=panel.last_origin) == ()
    forecaster = SeasonalForecaster(panel.domain)
    assert forget_breaks(forecaster, town_splits.test) is forecaster


def test_a_break_is_found_to_the_day_once_ten_days_lie_behind_it(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    for weeks in (2.0, 3.0, 5.0):
        broken = late(panel, weeks=weeks)
        (found,) = find_breaks(broken, until=panel.last_origin)
        began_s = panel.moments_s[panel.last_origin - round(weeks * WEEK)]
        assert found.site == "A"
        assert abs(found.since_s - began_s) <= 3 * 86400
        assert found.ratio < 0.7
    assert find_breaks(late(panel, weeks=1.0), until=panel.last_origin) == ()


def test_a_sensor_that_stands_still_is_no_break(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    value = panel.value_STK.copy()
    value[0, panel.last_origin - 3 * WEEK :, 0] = 7.0
    assert find_breaks(replace(panel, value_STK=value), until=panel.last_origin) == ()


def test_forgetting_is_better_since_the_break_and_nothing_else_before(town_splits: Splits) -> None:
    panel = late(town_splits.train.panel, weeks=3.0)
    inner = SeasonalForecaster(panel.domain)
    windows = last_windows(panel)
    forecaster = forget_breaks(inner, windows)
    (kept,) = breaks_of(forecaster)
    recent = windows.subset((windows.site_index_B == 0) & (windows.origin_B > panel.last_origin - WEEK))
    errors = [
        float(np.nanmean(np.abs(one.predict(recent.windows()).at_level(0.5) - recent.targets())))
        for one in (inner, forecaster)
    ]
    assert errors[1] < 0.7 * errors[0]
    others = windows.subset(windows.site_index_B != 0)
    assert np.array_equal(inner.predict(others.windows()).value_BHQ, forecaster.predict(others.windows()).value_BHQ)
    early = windows_at(
        panel, panel.domain.target, np.arange(panel.first_origin + 5 * WEEK, panel.first_origin + 900, 9)
    )
    assert np.array_equal(inner.predict(early.windows()).value_BHQ, forecaster.predict(early.windows()).value_BHQ)
    assert kept.site == "A"


@pytest.mark.parametrize(("ratio", "days", "kept"), [(0.3, 8, True), (0.6, 8, False), (0.6, 21, True)])
def test_a_decisive_break_is_kept_at_once_another_when_enough_origins_show_it(
    town_splits: Splits, monkeypatch: pytest.MonkeyPatch, ratio: float, days: int, kept: bool
) -> None:
    panel = late(town_splits.train.panel, weeks=3.0)
    until = panel.last_origin + panel.domain.horizon_steps
    found = Break(site="A", since_s=int(panel.moments_s[until - days * 24]), ratio=ratio)
    monkeypatch.setattr("training.models.forgetting.find_breaks", lambda *given, **named: (found,))
    forecaster = forget_breaks(SeasonalForecaster(panel.domain), last_windows(panel))
    assert breaks_of(forecaster) == ((found,) if kept else ())


def test_the_graph_forgets_as_the_forecaster_does(town_splits: Splits, tmp_path: Path) -> None:
    panel = late(town_splits.train.panel, weeks=3.0)
    windows = last_windows(panel)
    forecaster = forget_breaks(SeasonalForecaster(panel.domain), windows)
    sample = windows.windows()
    touched = forecaster.forgotten(sample)  # type: ignore[attr-defined]
    assert np.isnan(touched.history_BLK).sum() > np.isnan(sample.history_BLK).sum()
    certificate = export_graph(forecaster, sample, tmp_path)
    assert certificate.largest_relative < 1e-6
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["history", "future", "static"]


def test_what_is_forgotten_is_saved(town: Domain, town_splits: Splits, tmp_path: Path) -> None:
    panel = late(town_splits.train.panel, weeks=3.0)
    windows = last_windows(panel)
    forecaster = forget_breaks(SeasonalForecaster(town), windows)
    forecaster.save(tmp_path)
    restored = ForgettingForecaster(SeasonalForecaster(town), (), ())
    restored.load(tmp_path)
    assert breaks_of(restored) == breaks_of(forecaster)
    assert restored.hours == pytest.approx([break_hour(one, windows) for one in breaks_of(forecaster)])
