"""Evidently's page: written whole, from few rows or many, with errors where there are forecasts."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import NotEnoughDataError
from serving.monitoring.evidently_report import MissingEvidentlyError, write_report


def table(rows: int, *, shift: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    actual = rng.normal(100.0, 10.0, rows)
    return pd.DataFrame(
        {
            "valid_at": pd.date_range("2026-01-05", periods=rows, freq="h", tz="UTC"),
            "site": rng.choice(["Z001", "Z002"], rows),
            "actual": np.where(np.arange(rows) % 10, actual, np.nan),
            "median": actual + rng.normal(shift, 3.0, rows),
            "temperature": rng.normal(15.0 + shift, 2.0, rows),
            "constant": 0.0,
            "unmeasured": np.nan,
        }
    )


def test_a_page_is_written_of_drift_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    rng = np.random.default_rng(1)
    assert write_report(table(300, shift=0.0), table(60, shift=9.0), path, rng=rng, most_rows=200) == path
    text = path.read_text(encoding="utf-8")
    for said in ("temperature", "Regression Model Performance", "Dataset Drift"):
        assert said in text
    assert "unmeasured" not in text
    assert '<script src="http' not in text
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    # Nothing is told to its makers.
    assert os.environ["DO_NOT_TRACK"]
    # Without forecasts of then there is no section on errors, and all inputs count.
    before = table(40, shift=0.0)[["site", "temperature"]].assign(actual=np.nan, median=np.nan)
    before.loc[:3, ["actual", "median"]] = 1.0
    write_report(before, table(40, shift=0.0, seed=2), path, rng=rng)
    assert "Regression Model Performance" not in path.read_text(encoding="utf-8")


def test_without_evidently_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evidently", None)
    with pytest.raises(MissingEvidentlyError, match=r"towncast\[monitor\]"):
        write_report(table(40, shift=0.0), table(40, shift=0.0), tmp_path / "page.html", rng=np.random.default_rng(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rows", "columns"), [(9, ["temperature"]), (40, ["valid_at", "unmeasured"])])
def test_too_little_is_said_and_nothing_written(tmp_path: Path, rows: int, columns: list[str]) -> None:
    with pytest.raises(NotEnoughDataError, match="at least 10 rows"):
        write_report(
            table(40, shift=0.0)[columns],
            table(rows, shift=0.0)[columns],
            tmp_path / "page.html",
            rng=np.random.default_rng(0),
        )
    assert not list(tmp_path.iterdir())
