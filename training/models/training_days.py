"""Midnights of a training span as rows of the day networks and of the blend's Prophet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.errors import NotEnoughDataError
from features.vocabulary import CALENDAR_CHANNELS
from training.models.blended_graph import BlendGraph
from training.models.day_networks import DayInputs
from training.models.local_days import DAY_HOURS
from training.models.onnx_graph import window_tensors
from training.window_set import WindowSet

_BATCH = 512
_LARGEST_TARGET = 12.0
_LEAST_HOURS = DAY_HOURS // 2
# A profile over fewer measured hours of history is not what forecasts will be made with.
_LEAST_HISTORY = 0.4
# Steps through the days ahead from midnight to midnight, so that a Prophet sees each kind without seeing all.
_PROPHET_STRIDE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetRows:
    """Hours that the blend's Prophet is fitted on.

    Attributes:
        site: Place of each row's site in the panel.
        day: Local time [days since 2000-01-01].
        value: Demand relative to the scale of its window.
        columns: Regressors, shape (rows, R).
    """

    site: npt.NDArray[np.int64]
    day: npt.NDArray[np.float64]
    value: npt.NDArray[np.float32]
    columns: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDays:
    """Days ahead of midnights, with what became of them.

    Attributes:
        inputs: Of the networks.
        target: Residual over the profile, in units of the spread, NaN where unmeasured (N, 24).
        prophet: Rows for a Prophet.
    """

    inputs: DayInputs
    target: Tensor
    prophet: ProphetRows

    def __len__(self) -> int:
        return len(self.target)


def target_hours(windows: WindowSet) -> npt.NDArray[np.bool_]:
    """Which hours of each site are a target of some window, shape (S, T)."""
    sites, steps = windows.target_ST.shape
    edges = np.zeros((sites, steps + 1), dtype=np.int64)
    np.add.at(edges, (windows.site_index_B, windows.origin_B + 1), 1)
    np.add.at(edges, (windows.site_index_B, windows.origin_B + windows.panel.domain.horizon_steps + 1), -1)
    return np.asarray(edges.cumsum(axis=1)[:, :-1] > 0)


def midnights(windows: WindowSet, *, most: int | None, rng: np.random.Generator) -> WindowSet:
    """Windows of the same sites at every local midnight that a training target follows, with observed weather.

    Targets that no window has are hidden.

    Args:
        windows: The training windows, at any hours.
        most: At most so many midnights, drawn at random.
        rng: Of the draw.

    Raises:
        NotEnoughDataError: There is none.
    """
    panel = windows.panel
    allowed = target_hours(windows)
    target = np.where(allowed, windows.target_ST, np.nan).astype(np.float32)
    measured = np.isfinite(target)
    clock = panel.value_STK[:, :, len(panel.domain.measured_channels) + CALENDAR_CHANNELS.index("hour_of_day")]
    length, horizon = panel.domain.history_steps, panel.domain.horizon_steps
    origins = np.arange(panel.first_origin, panel.last_origin + 1)
    ahead = _sums(measured, origins + 1, origins + 1 + horizon)
    behind = _sums(np.isfinite(windows.target_ST), origins + 1 - length, origins + 1)
    at_midnight = np.floor(clock[:, origins]) == 0
    site, position = np.nonzero(at_midnight & (ahead >= _LEAST_HOURS) & (behind >= _LEAST_HISTORY * length))
    if len(site) == 0:
        raise NotEnoughDataError(
            "There is no local midnight to learn from",
            found=f"{len(windows)} training windows",
            remedy="Ingest more readings: nine weeks of history and some weeks more.",
        )
    if most is not None and len(site) > most:
        chosen = np.sort(rng.choice(len(site), size=most, replace=False))
        site, position = site[chosen], position[chosen]
    return replace(windows, target_ST=target, site_index_B=site, origin_B=origins[position]).seen("observed")


def _sums(
    flags: npt.NDArray[np.bool_], begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many flags are set from `begin` to before `end`, by row."""
    total = np.concatenate([np.zeros((len(flags), 1), dtype=np.int64), flags.cumsum(axis=1)], axis=1)
    return np.asarray(total[:, end] - total[:, begin])


def training_days(graph: BlendGraph, windows: WindowSet) -> TrainingDays:
    """Rows of all days ahead of `windows`, which are midnights, that are measured for half a day at least."""
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(windows), _BATCH):
            parts.append(_rows(graph, windows, np.arange(begin, min(begin + _BATCH, len(windows)))))
    # Tensors of the inference mode cannot take part in a training.
    inputs = DayInputs(
        *(torch.cat([part[0][field] for part in parts]).clone() for field in range(len(DayInputs._fields)))
    )
    prophet = ProphetRows(
        **{
            name: np.concatenate([getattr(part[2], name) for part in parts])
            for name in ("site", "day", "value", "columns")
        }
    )
    return TrainingDays(inputs=inputs, target=torch.cat([part[1] for part in parts]).clone(), prophet=prophet)


def _rows(
    graph: BlendGraph, windows: WindowSet, chosen: npt.NDArray[np.int64]
) -> tuple[DayInputs, Tensor, ProphetRows]:
    history, future, static = window_tensors(windows.windows(chosen))
    days, local = graph.days(history, future), graph.local
    state = days.state
    series = torch.cat([history[:, :, graph.profile.channel], torch.from_numpy(windows.targets(chosen))], dim=1)
    ahead = local.grid(series, days.places)[:, local.behind :] / state.scale[:, :, None]
    residual = torch.clamp((ahead - state.profile) / state.spread[:, :, None], -_LARGEST_TARGET, _LARGEST_TARGET)
    # From midnight the steps end with the day before the last.
    kept = torch.isfinite(residual).sum(dim=2) >= _LEAST_HOURS
    kept[:, -1] = False
    every = graph.inputs(days, graph.site(static))
    inputs = DayInputs(*(part[kept.flatten()] for part in every))
    lead = torch.from_numpy(chosen * _PROPHET_STRIDE % (local.ahead - 1))
    window = torch.arange(len(chosen))
    shape = (len(chosen), local.ahead, DAY_HOURS)
    sites = np.repeat(windows.site_index_B[chosen], DAY_HOURS)
    prophet = ProphetRows(
        site=sites,
        day=days.day.reshape(shape)[window, lead].flatten().numpy(),
        value=ahead[window, lead].flatten().numpy(),
        columns=graph.columns(days)[window, lead].flatten(0, 1).numpy(),
    )
    return inputs, residual[kept], prophet
