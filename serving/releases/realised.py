"""Realised errors: forecasts of two versions of the same window wait for the readings of what they forecast."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.vocabulary import Float32Array, Forecast, Int64Array
from serving.releases.figures import Matched


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Steps of two forecasts of one window: lower end, median and upper end of each (Q = 3)."""

    valid_at_H: Int64Array
    champion_HQ: Float32Array
    rival_HQ: Float32Array

    def at(self, chosen: npt.NDArray[np.bool_]) -> _Pair:
        return _Pair(
            valid_at_H=self.valid_at_H[chosen],
            champion_HQ=self.champion_HQ[chosen],
            rival_HQ=self.rival_HQ[chosen],
        )


class RealisedErrors:
    """Compares a version with the champion on the same sites and steps, as readings arrive.

    Args:
        limit: Most pairs of forecasts that wait; beyond that the oldest go uncompared.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self.matched = Matched()
        self._waiting: dict[str, dict[int, _Pair]] = {}
        # Oldest first, which may have been settled meanwhile.
        self._order: OrderedDict[tuple[str, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def enter(self, site: str, champion: Forecast, rival: Forecast) -> None:
        """Keep two forecasts of one window, in place of earlier ones of the same origin."""
        origin_s = int(champion.origins[0])
        steps = min(champion.value_BHQ.shape[1], rival.value_BHQ.shape[1])
        self._waiting.setdefault(site, {})[origin_s] = _Pair(
            valid_at_H=champion.valid_at()[0, :steps],
            champion_HQ=_ends(champion)[:steps],
            rival_HQ=_ends(rival)[:steps],
        )
        self._order[site, origin_s] = None
        while len(self._order) > self.limit:
            self._forget(*next(iter(self._order)))

    def waiting(self, sites: frozenset[str]) -> list[str]:
        """Those of some sites whose readings are waited for."""
        return [site for site in self._waiting if site in sites]

    def settle(self, site: str, moments_L: Int64Array, value_L: Float32Array) -> None:
        """Compare with what was measured.

        Args:
            site: Whose readings.
            moments_L: Their moments, a step apart, ascending [s since 1970].
            value_L: The readings, NaN where missing [unit].
        """
        for origin_s, pair in list(self._waiting.get(site, {}).items()):
            index_H = np.searchsorted(moments_L, pair.valid_at_H)
            inside = index_H < len(moments_L)
            index_H = np.where(inside, index_H, 0)
            known = inside & (moments_L[index_H] == pair.valid_at_H) & np.isfinite(value_L[index_H])
            if known.any():
                self.matched += _compared(pair.at(known), value_L[index_H][known])
            # What is a season late may be a gap for ever: the limit, not a clock, ends the wait.
            left = pair.at(~known)
            if len(left.valid_at_H):
                self._waiting[site][origin_s] = left
            else:
                self._forget(site, origin_s)

    def _forget(self, site: str, origin_s: int) -> None:
        self._order.pop((site, origin_s), None)
        pairs = self._waiting.get(site, {})
        pairs.pop(origin_s, None)
        if not pairs:
            self._waiting.pop(site, None)


def _ends(forecast: Forecast) -> Float32Array:
    """Lower end, median and upper end of one window's forecast, shape (H, 3)."""
    levels = (forecast.levels[0], 0.5, forecast.levels[-1])
    ends: Float32Array = np.stack([forecast.at_level(level)[0] for level in levels], axis=1)
    return ends


def _compared(pair: _Pair, value_H: Float32Array) -> Matched:
    return Matched(
        steps=len(value_H),
        champion_error=float(np.abs(pair.champion_HQ[:, 1] - value_H).sum()),
        rival_error=float(np.abs(pair.rival_HQ[:, 1] - value_H).sum()),
        champion_inside=_inside(pair.champion_HQ, value_H),
        rival_inside=_inside(pair.rival_HQ, value_H),
    )


def _inside(ends_HQ: Float32Array, value_H: Float32Array) -> int:
    return int(((ends_HQ[:, 0] <= value_H) & (value_H <= ends_HQ[:, 2])).sum())
