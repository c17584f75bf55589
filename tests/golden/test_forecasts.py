"""A refactor leaves forecasts as they are.

After a change that is meant to alter them, write the file anew: `python tests/golden/test_forecasts.py`.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from features.domains import DOMAINS
from features.readings import join_readings, make_readings
from features.vocabulary import Site, Window
from features.windows import build_panel, make_windows
from training.models.neural import RecurrentConfig, ResidualRecurrent
from training.models.seasonal import SeasonalForecaster

_FILE = Path(__file__).with_name("forecasts.json")
_TRAFFIC = DOMAINS["traffic"]
_SHOWN_LEADS = (0, 5, 23)


def _windows() -> Window:
    """Three windows of two neighbouring roads, with holes, over a change of daylight saving."""
    rng = np.random.default_rng(11)
    moments = pd.date_range("2023-08-20", periods=1700, freq="h", tz="UTC")
    shape = 1200 + 700 * np.sin((moments.hour.to_numpy() - 8) / 24 * 2 * np.pi)
    parts = []
    for site, size in (("A", 1.0), ("B", 2.5)):
        volume = np.round(size * shape * rng.lognormal(0, 0.1, len(moments)))
        volume[rng.random(len(moments)) < 0.03] = np.nan
        parts.append(make_readings(site=site, quantity="volume", valid_at=moments, value=volume, source="sensor:a"))
        warm = 15 + rng.normal(0, 4, len(moments))
        parts.append(make_readings(site=site, quantity="temperature", valid_at=moments, value=warm, source="sensor:a"))
    sites = [
        Site(name="A", timezone="US/Central", country="US", subdivision="MN", neighbours=("B",)),
        Site(name="B", timezone="US/Central", country="US", subdivision="MN", neighbours=("A",)),
    ]
    first, last = (int(moments[index].timestamp()) for index in (1520, 1690))
    panel = build_panel(_TRAFFIC, sites, join_readings(parts), first_origin_s=first, last_origin_s=last)
    return make_windows(panel, [0, 1, 0], panel.first_origin + np.array([0, 60, 170]))


def _forecasts() -> dict[str, list[list[float]]]:
    """Medians and 95 % bounds at some leads, of the seasonal profile and of a network with drawn weights."""
    windows = _windows()
    torch.manual_seed(5)
    levels = (0.025, 0.5, 0.975)
    network = ResidualRecurrent(
        _TRAFFIC, _TRAFFIC.target, levels, RecurrentConfig(hidden=8, hidden_second=4, head=8, members=2)
    ).eval()
    with torch.inference_mode():
        arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
        drawn = network(*(torch.from_numpy(array) for array in arrays)).numpy()
    seasonal = SeasonalForecaster(_TRAFFIC, levels=levels).predict(windows).value_BHQ
    found = {"seasonal": seasonal, "lstm": drawn}
    return {name: values[:, _SHOWN_LEADS].reshape(len(windows), -1).tolist() for name, values in found.items()}


def test_forecasts_are_what_they_were() -> None:
    expected = json.loads(_FILE.read_text())
    for name, values in _forecasts().items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, err_msg=f"{name}: {__doc__}")


if __name__ == "__main__":
    _FILE.write_text(json.dumps(_forecasts(), indent=1) + "\n")
