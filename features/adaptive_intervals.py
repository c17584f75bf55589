"""Intervals that follow the errors of the last weeks: adaptive conformal inference, aggregated over learning rates.

Every quantile of a forecast is shifted by an offset of its own, learnt for each site, band of leads and local hour of
day from how far readings fell from that quantile. Several experts adapt the level that is read off those scores, each
with its own learning rate (adaptive conformal inference: Gibbs and Candes 2021, arXiv:2106.00170), and one leaves the
quantile as the graph gives it; their offsets are averaged with weights that follow their pinball loss (AgACI: Zaffran
et al. 2022, arXiv:2202.07282), summed over the hours of the day. Scores of the hours beside an hour count as its own.
The state is renewed once a day with the readings that have come by then, so a lead of many days needs no special care.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from features.errors import ArtifactError
from features.files import whole_file
from features.vocabulary import Float32Array

INTERVALS_FILE = "intervals.npz"
_HOURS = 24
_MEDIAN = 0.5
# Sorting all scores of a large town at once would take gigabytes.
_CELLS_AT_ONCE = 2048
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConfig:
    """How intervals adapt.

    Attributes:
        learning_rates: Of the experts, per day.
        memory: Scores that a cell keeps.
        scores_per_day: How many of a day's a cell takes in: those of one hour from many origins are nearly the same.
        hours_beside: How many hours to each side lend a cell their scores.
        sharpness: How fast weights follow the experts' losses.
        forgetting: Share of a cumulated loss that is left after a day.
    """

    learning_rates: tuple[float, ...] = (0.0, 0.005, 0.02, 0.05)
    memory: int = 120
    scores_per_day: int = 2
    hours_beside: int = 3
    sharpness: float = 2.0
    forgetting: float = 0.98


class AdaptiveIntervals:
    """Offsets of a forecaster's quantiles, and the state that renews them.

    Args:
        sites: Sites that have cells of their own (N).
        bands: Last lead of each band of leads, ascending (D).
        levels: Quantile levels, 0.5 among them, which stays as it is (Q).
        config: How fast it adapts.
    """

    def __init__(
        self,
        sites: tuple[str, ...],
        bands: tuple[int, ...],
        levels: tuple[float, ...],
        config: AdaptiveConfig | None = None,
    ) -> None:
        self.sites, self.bands, self.levels = sites, bands, levels
        self.config = config or AdaptiveConfig()
        cells = len(sites) * len(bands) * _HOURS
        rates = len(self.config.learning_rates)
        self._level_CRQ: Float64Array = np.broadcast_to(levels, (cells, rates, len(levels))).copy()
        # The last expert is the one that changes nothing.
        self._loss_CEQ: Float64Array = np.zeros((cells, rates + 1, len(levels)))
        self._score_CQM: Float32Array = np.full((cells, len(levels), self.config.memory), np.nan, dtype=np.float32)
        self._next_C = np.zeros(cells, dtype=np.int64)
        # What each expert would have shifted the last forecasts by.
        self._bound_CEQ: Float32Array = np.zeros(self._loss_CEQ.shape, dtype=np.float32)
        self.offset_CQ: Float64Array = np.zeros((cells, len(levels)))

    def adjust(
        self,
        quantiles_BHQ: Float32Array,
        sites_B: tuple[str, ...],
        hour_BH: npt.NDArray[Any],
        *,
        lower: float,
        upper: float,
    ) -> Float32Array:
        """Quantiles with the offsets of their cells.

        Args:
            quantiles_BHQ: As the graph gives them [unit].
            sites_B: Site of each forecast; one without cells gets the mean over sites.
            hour_BH: Local hour of day of each step.
            lower: Smallest possible value [unit].
            upper: Largest one [unit].

        Returns:
            Ordered by level, within the bounds; the median as it was.
        """
        offset_BHQ = self._offsets(sites_B, hour_BH, quantiles_BHQ.shape[1])
        moved = quantiles_BHQ + offset_BHQ * _spread(quantiles_BHQ)
        middle = self.levels.index(_MEDIAN)
        median = quantiles_BHQ[:, :, middle : middle + 1]
        moved[:, :, :middle] = np.minimum(moved[:, :, :middle], median)
        moved[:, :, middle + 1 :] = np.maximum(moved[:, :, middle + 1 :], median)
        result: Float32Array = np.clip(np.sort(moved, axis=2), lower, upper).astype(np.float32)
        return result

    def update(
        self,
        quantiles_BHQ: Float32Array,
        target_BH: Float32Array,
        sites_B: tuple[str, ...],
        hour_BH: npt.NDArray[Any],
    ) -> None:
        """Take in one day of readings, with the forecasts of them as the graph gave them, before any offset.

        Args:
            quantiles_BHQ: The forecasts [unit].
            target_BH: What was measured [unit], NaN where nothing was.
            sites_B: Site of each forecast; those without cells are passed over.
            hour_BH: Local hour of day of each step.
        """
        cell_BH = self._cells(sites_B, hour_BH, quantiles_BHQ.shape[1])
        taken = np.isfinite(target_BH) & (cell_BH >= 0)
        if not taken.any():
            return
        score_NQ = ((target_BH[:, :, None] - quantiles_BHQ) / _spread(quantiles_BHQ))[taken]
        cell_N = cell_BH[taken]
        order = np.argsort(cell_N, kind="stable")
        cell_N, score_NQ = cell_N[order], score_NQ[order]
        touched, first, count = np.unique(cell_N, return_index=True, return_counts=True)
        self._judge_experts(touched, first, count, score_NQ)
        self._remember(cell_N, first, count, score_NQ)
        for begin in range(0, len(touched), _CELLS_AT_ONCE):
            self._renew(touched[begin : begin + _CELLS_AT_ONCE])

    def _judge_experts(
        self, touched: npt.NDArray[np.int64], first: npt.NDArray[Any], count: npt.NDArray[Any], score_NQ: Float32Array
    ) -> None:
        """Move each expert's level by its misses, and cumulate its pinball loss."""
        bound_CEQ = self._bound_CEQ[touched]
        member = np.repeat(np.arange(len(touched)), count)
        error_NEQ = score_NQ[:, None, :] - bound_CEQ[member]
        levels = np.asarray(self.levels)
        pinball_NEQ = np.maximum(levels * error_NEQ, (levels - 1) * error_NEQ)
        below_CRQ = np.add.reduceat(error_NEQ[:, :-1] <= 0, first, axis=0, dtype=np.float64) / count[:, None, None]
        loss_CEQ = np.add.reduceat(pinball_NEQ, first, axis=0) / count[:, None, None]
        rates = np.asarray(self.config.learning_rates)[:, None]
        moved = self._level_CRQ[touched] + rates * (levels - below_CRQ)
        self._level_CRQ[touched] = np.clip(moved, 0.0, 1.0)
        # Losses are compared with the cell's own size, so that one sharpness serves all levels.
        size = np.maximum(loss_CEQ.mean(axis=1, keepdims=True), 1e-6)
        self._loss_CEQ[touched] = self.config.forgetting * self._loss_CEQ[touched] + loss_CEQ / size

    def _remember(
        self, cell_N: npt.NDArray[Any], first: npt.NDArray[Any], count: npt.NDArray[Any], score_NQ: Float32Array
    ) -> None:
        rank = np.arange(len(cell_N)) - np.repeat(first, count)
        stride = np.repeat(-(-count // self.config.scores_per_day), count)
        kept = rank % stride == 0
        cell = cell_N[kept]
        slot = (self._next_C[cell] + (rank // stride)[kept]) % self.config.memory
        self._score_CQM[cell, :, slot] = score_NQ[kept]
        np.add.at(self._next_C, cell, 1)

    def _renew(self, touched: npt.NDArray[np.int64]) -> None:
        self._bound_CEQ[touched] = bound_CEQ = self._expert_offsets(touched)
        loss_CEQ = self._loss_CEQ
        by_band = loss_CEQ.reshape(-1, _HOURS, *loss_CEQ.shape[1:]).mean(axis=1)
        loss = by_band[touched // _HOURS]
        weight = np.exp(-self.config.sharpness * (loss - loss.min(axis=1, keepdims=True)))
        offset = (weight * bound_CEQ).sum(axis=1) / weight.sum(axis=1)
        offset[:, self.levels.index(_MEDIAN)] = 0.0
        self.offset_CQ[touched] = offset

    def _expert_offsets(self, touched: npt.NDArray[np.int64]) -> Float32Array:
        """The score at each expert's level: (C, E, Q); 0 where nothing is remembered yet, and for the last one."""
        ordered = np.sort(self._scores(touched), axis=2)
        # A score is known for all levels or for none.
        known = np.isfinite(ordered[:, 0]).sum(axis=1)[:, None, None]
        last = np.maximum(known - 1, 0)
        # Conformal: the ceil(level (n + 1))-th smallest of n scores, or between two where it is no whole number.
        position = np.clip(self._level_CRQ[touched].swapaxes(1, 2) * (known + 1) - 1, 0, last)
        below = np.floor(position).astype(np.int64)
        low = np.take_along_axis(ordered, below, axis=2)
        high = np.take_along_axis(ordered, np.minimum(below + 1, last), axis=2)
        bound_CRQ = np.nan_to_num(low + (position - below) * (high - low)).swapaxes(1, 2)
        bound_CEQ: Float32Array = np.concatenate([bound_CRQ, np.zeros_like(bound_CRQ[:, :1])], axis=1, dtype=np.float32)
        return bound_CEQ

    def _scores(self, touched: npt.NDArray[np.int64]) -> Float32Array:
        """What cells and the hours beside them remember: (C, Q, M), NaN where nothing."""
        beside = np.arange(-self.config.hours_beside, self.config.hours_beside + 1)
        hour = (touched[:, None] + beside) % _HOURS
        cells = touched[:, None] // _HOURS * _HOURS + hour
        found: Float32Array = self._score_CQM[cells].swapaxes(1, 2).reshape(len(touched), len(self.levels), -1)
        return found

    def _cells(self, sites_B: tuple[str, ...], hour_BH: npt.NDArray[Any], horizon: int) -> npt.NDArray[np.int64]:
        """Cell of each forecast step, -1 for sites without cells."""
        position = {name: index for index, name in enumerate(self.sites)}
        site_B = np.array([position.get(name, -1) for name in sites_B], dtype=np.int64)
        band_H = np.searchsorted(np.asarray(self.bands), np.arange(1, horizon + 1))
        hour = np.clip(np.nan_to_num(hour_BH), 0, _HOURS - 1).astype(np.int64)
        cell: npt.NDArray[np.int64] = (site_B[:, None] * len(self.bands) + band_H[None, :]) * _HOURS + hour
        return np.where(site_B[:, None] >= 0, cell, -1)

    def _offsets(self, sites_B: tuple[str, ...], hour_BH: npt.NDArray[Any], horizon: int) -> Float64Array:
        cell_BH = self._cells(sites_B, hour_BH, horizon)
        offset = self.offset_CQ[cell_BH]
        unseen = cell_BH < 0
        if unseen.any():
            mean = self.offset_CQ.reshape(len(self.sites), -1, len(self.levels)).mean(axis=0)
            stand_in = self._cells((self.sites[0],) * len(sites_B), hour_BH, horizon)
            offset[unseen] = mean[stand_in[unseen]]
        return offset

    def save(self, folder: Path) -> None:
        """Write `intervals.npz` into `folder`.

        Raises:
            StorageError: The folder cannot be written.
        """
        head = {"sites": self.sites, "bands": self.bands, "levels": self.levels, "config": asdict(self.config)}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            head=np.array(json.dumps(head)),
            level=self._level_CRQ.astype(np.float32),
            loss=self._loss_CEQ.astype(np.float32),
            score=self._score_CQM.astype(np.float16),
            next=self._next_C,
            bound=self._bound_CEQ,
            offset=self.offset_CQ.astype(np.float32),
        )
        with whole_file(folder / INTERVALS_FILE) as path:
            path.write_bytes(buffer.getvalue())


def load_intervals(folder: Path) -> AdaptiveIntervals | None:
    """What `save` wrote into `folder`; None where there is none.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = folder / INTERVALS_FILE
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
            head = json.loads(str(saved["head"]))
            config = AdaptiveConfig(**{**head["config"], "learning_rates": tuple(head["config"]["learning_rates"])})
            found = AdaptiveIntervals(tuple(head["sites"]), tuple(head["bands"]), tuple(head["levels"]), config)
            found._level_CRQ = saved["level"].astype(np.float64)
            found._loss_CEQ = saved["loss"].astype(np.float64)
            found._score_CQM = saved["score"].astype(np.float32)
            found._next_C = saved["next"]
            found._bound_CEQ = saved["bound"]
            found.offset_CQ = saved["offset"].astype(np.float64)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ArtifactError(
            "The state of the intervals cannot be read",
            found=f"{path}: {error}",
            remedy="Register the model again, with `towncast train`.",
        ) from error
    return found


def _spread(quantiles_BHQ: Float32Array) -> Float32Array:
    """Width of each forecast's outermost levels, the scale of its scores: (B, H, 1)."""
    width = quantiles_BHQ[:, :, -1:] - quantiles_BHQ[:, :, :1]
    # A forecast without any width gets one that is small against its own size.
    result: Float32Array = np.maximum(width, 1e-3 * np.abs(quantiles_BHQ).mean(axis=2, keepdims=True) + 1e-6)
    return result
