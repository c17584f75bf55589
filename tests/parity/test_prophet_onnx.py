"""Prophet as a graph: the numbers of `Prophet.predict`, by torch and by ONNX Runtime."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from training.models.additive import (
    ProphetConfig,
    ProphetTable,
    Regressor,
    fit_prophet,
    moments_of,
    table_of,
    terms_of,
)
from training.models.onnx_graph import tensors_as_onnx

REGRESSORS = (
    Regressor(name="temperature"),
    Regressor(name="holiday"),
    Regressor(name="profile", mode="additive"),
)
HOURS = 60 * 24


def series(*, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Local days, demand with a bending trend and a daily shape, and its regressors with some gaps."""
    rng = np.random.default_rng(seed)
    day = 8_000.5 + seed * 30 + np.arange(HOURS) / 24
    columns = {
        "temperature": 15 + 8 * np.sin(day / 9) + rng.normal(size=HOURS),
        "holiday": (np.floor(day) % 17 == 0).astype(float),
        "profile": 1 + 0.3 * np.sin(2 * np.pi * day),
    }
    demand = 5 + 0.02 * np.maximum(day - day[0] - 30, 0) + 3 * columns["profile"] + 0.1 * columns["temperature"]
    demand = demand * (1 + 0.05 * rng.normal(size=HOURS))
    columns["temperature"][rng.random(HOURS) < 0.05] = np.nan
    demand[rng.random(HOURS) < 0.05] = np.nan
    return day, demand, columns


class Rows(nn.Module):
    """A table of Prophets as a graph of its own."""

    def __init__(self, table: ProphetTable) -> None:
        super().__init__()
        self.table = table

    def forward(self, site: Tensor, day: Tensor, columns: Tensor) -> Tensor:
        found: Tensor = self.table(site, day, columns)
        return found


@pytest.mark.parametrize("monthly_order", [0, 5])
def test_the_graph_says_what_prophet_says(monthly_order: int) -> None:
    config = ProphetConfig(yearly=False, monthly_order=monthly_order)
    fitted, frames = {}, []
    # The middle site has no readings and no Prophet.
    for site in (0, 2):
        day, demand, columns = series(seed=site)
        model = fit_prophet(day, demand, columns, config=config, regressors=REGRESSORS, seed=0)
        fitted[site] = terms_of(model)
        # Two weeks that were fitted, and two that follow.
        ahead = day[-1] + np.arange(-335, 337) / 24
        future = {
            "temperature": 20 + 2 * np.cos(ahead),
            "holiday": (np.floor(ahead) % 11 == 0).astype(float),
            "profile": 1 + 0.3 * np.sin(2 * np.pi * ahead),
        }
        said = model.predict(pd.DataFrame({"ds": moments_of(ahead), **future}))["yhat"].to_numpy()
        frames.append((ahead, np.stack(list(future.values()), axis=1), said))
    graph = Rows(table_of(fitted, REGRESSORS, sites=3)).eval()
    site = torch.tensor([0, 2])
    day = torch.from_numpy(np.stack([frame[0] for frame in frames]))
    columns = torch.from_numpy(np.stack([frame[1] for frame in frames])).to(torch.float32)
    expected = np.stack([frame[2] for frame in frames])
    with torch.inference_mode():
        np.testing.assert_allclose(graph(site, day, columns).numpy(), expected, rtol=1e-4)
    model = tensors_as_onnx(graph, (site, day, columns), inputs=("site", "day", "columns"), outputs=("yhat",))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"site": site.numpy(), "day": day.numpy(), "columns": columns.numpy()})
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_gap_in_a_regressor_counts_as_its_mean() -> None:
    day, demand, columns = series(seed=1)
    terms = terms_of(
        fit_prophet(day, demand, columns, config=ProphetConfig(yearly=False), regressors=REGRESSORS, seed=0)
    )
    table = table_of({0: terms}, REGRESSORS, sites=1)
    known = torch.from_numpy(np.stack([columns[regressor.name] for regressor in REGRESSORS], axis=1)).float()[None]
    filled = known.clone()
    filled[:, :, 0] = float(table.fill[0, 0])
    holed = known.clone()
    holed[:, :, 0] = torch.nan
    moments = torch.from_numpy(day)[None]
    site = torch.tensor([0])
    assert torch.equal(table(site, moments, holed), table(site, moments, filled))


def test_the_trend_does_not_run_on_for_years() -> None:
    day, demand, columns = series(seed=1)
    terms = terms_of(
        fit_prophet(day, demand, columns, config=ProphetConfig(yearly=False), regressors=REGRESSORS, seed=0)
    )
    table = table_of({0: terms}, REGRESSORS, sites=1)
    later = day[-1] + 3650 + np.arange(24 * 7) / 24
    forecast = table(
        torch.tensor([0]), torch.from_numpy(later)[None], torch.full((1, len(later), len(REGRESSORS)), torch.nan)
    )
    assert float(forecast.abs().max()) < 5 * np.nanmax(demand)
