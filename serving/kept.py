"""Forecasts that are kept: one depends on its site, the version of its window and the version of its model alone.

So it is made once, for whoever asks first or as soon as a reading arrives, and a request after that is a look-up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from features.vocabulary import Forecast
from serving.artifacts import Artifact
from serving.explanation import ShapleyValues
from serving.memory import Prepared
from serving.quality import WeatherAhead

# How an answer came by its forecast: it was there, it was being made for somebody else, or it was made for it.
Came = Literal["kept", "joined", "made"]
WindowKey = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a run says about one horizon.

    Attributes:
        forecast: Over the steps of the horizon.
        weather_ahead: Whether the weather that the model reads was there for them.
    """

    forecast: Forecast
    weather_ahead: WeatherAhead


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a model made of one window.

    Attributes:
        name: Names the forecast, the same in every process: of site, window and model.
        prepared: The window.
        forecast: Over the whole horizon, at the levels of the service.
        runtime: What ran the model.
        queue_s: Time that the window waited for its batch [s].
        inference_s: Time that its batch ran [s].
        batch: Windows in that batch.
        values: Explanation, None where none was asked for.
        cuts: What was said about horizons already, by their steps.
        told: The last result of `ForecastService.kept`, by horizon, and when it was told [s, monotonic].
        written: Parts of replies that were written already, see `serving.predictions.answering`.
    """

    name: str
    prepared: Prepared
    forecast: Forecast
    runtime: str
    queue_s: float = 0.0
    inference_s: float = 0.0
    batch: int = 1
    values: ShapleyValues | None = None
    cuts: dict[int, Cut] = field(default_factory=dict, compare=False)
    told: dict[str, tuple[float, Any]] = field(default_factory=dict, compare=False)
    written: dict[Hashable, Any] = field(default_factory=dict, compare=False)


def forecast_name(artifact: Artifact, prepared: Prepared) -> str:
    """The name of the forecast that a model makes of a window (16 hexadecimal digits).

    The artifact's folder is in it, because a registry that was made anew counts its versions from 1 again.
    """
    parts = (artifact.name, artifact.version, artifact.folder.name, prepared.window.sites[0], prepared.version)
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest()


class KeptRuns:
    """The last run of each site, for as long as its window is the same and it is not too old.

    Args:
        keep_s: How long a run is kept [s]; 0 keeps none.
        clock: Seconds that never go back.
    """

    def __init__(self, *, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keep_s = keep_s
        self._clock = clock
        self._runs: dict[str, tuple[WindowKey, float, Run]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def find(self, site: str, key: WindowKey) -> Run | None:
        """The run of a site's window, if it is kept."""
        held = self._runs.get(site)
        if held is None or held[0] != key or held[1] < self._clock():
            return None
        return held[2]

    def keep(self, site: str, key: WindowKey, run: Run) -> None:
        """Keep a run in place of the site's last one."""
        if self.keep_s > 0:
            self._runs[site] = (key, self._clock() + self.keep_s, run)
