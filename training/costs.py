"""What errors cost whoever acts on a forecast: too little and too much are seldom equally dear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.vocabulary import Float32Array, Quantity
from training.train import Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOfError:
    """Prices of a forecast that errs, for each unit of the target during one hour.

    Attributes:
        under_per_unit: Of a unit that came and was not forecast [currency per unit and hour].
        over_per_unit: Of a unit that was forecast and did not come [currency per unit and hour].
        currency: Of both.
        because: Where the two figures come from.
    """

    under_per_unit: float
    over_per_unit: float
    currency: str
    because: str

    def __post_init__(self) -> None:
        assert self.under_per_unit >= 0, "a cost is not below 0"
        assert self.over_per_unit >= 0, "a cost is not below 0"
        assert self.under_per_unit + self.over_per_unit > 0, "one of the two costs something"

    @property
    def best_level(self) -> float:
        """Level of the quantile that costs the least on average.

        The cost is a pinball loss in disguise: Gneiting 2011, doi:10.1016/j.ijforecast.2009.12.015.
        """
        return self.under_per_unit / (self.under_per_unit + self.over_per_unit)

    def of(self, target: npt.ArrayLike, forecast: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Cost of each forecast hour [currency per hour].

        Args:
            target: What came [unit].
            forecast: What was forecast [unit].
        """
        short = np.asarray(target, dtype=np.float64) - np.asarray(forecast, dtype=np.float64)
        cost: npt.NDArray[np.float64] = self.under_per_unit * np.maximum(short, 0.0)
        return cost + self.over_per_unit * np.maximum(-short, 0.0)


# Assumptions, each with its reason, to be replaced by the town's own prices: no data set says what an error costs.
# By the target's name, which is unique among the domains.
ASSUMED_COSTS: dict[str, CostOfError] = {
    "volume": CostOfError(
        under_per_unit=5.0,
        over_per_unit=1.0,
        currency="INR",
        because="assumed: an unforeseen vehicle waits two minutes at INR 150 an hour; green time that is kept for a "
        "vehicle that does not come costs the others a fifth of that",
    ),
    "trips": CostOfError(
        under_per_unit=30.0,
        over_per_unit=10.0,
        currency="INR",
        because="assumed: a trip that finds no vehicle loses its fare; a vehicle kept for nobody is idle for a while",
    ),
    "inflow": CostOfError(
        under_per_unit=72.0,
        over_per_unit=21.6,
        currency="INR",
        because="assumed: 1 L/s during an hour is 3.6 m3; a missing m3 is bought or pumped at short notice for INR 20, "
        "one too many costs INR 6 of energy and leakage",
    ),
    "pm2_5": CostOfError(
        under_per_unit=3.0,
        over_per_unit=1.0,
        currency="points",
        because="assumed: a ug/m3 that nobody was warned of weighs as much as three that were warned of in vain",
    ),
    "pm10": CostOfError(
        under_per_unit=3.0,
        over_per_unit=1.0,
        currency="points",
        because="assumed: a ug/m3 that nobody was warned of weighs as much as three that were warned of in vain",
    ),
}


def assumed_cost(target: Quantity) -> CostOfError:
    """The assumed prices of a target; where none are assumed, both directions weigh the same."""
    return ASSUMED_COSTS.get(
        target.name,
        CostOfError(
            under_per_unit=1.0, over_per_unit=1.0, currency="points", because="no price is known: both weigh 1"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessFigure:
    """What a forecast hour costs on average.

    Attributes:
        cost: The prices.
        median: Acting on the forecast's median [currency per hour].
        naive: Acting on the naive profile [currency per hour].
        best: Acting on the forecast's quantile at `cost.best_level` [currency per hour].
        hours: Forecast hours that were measured.
    """

    cost: CostOfError
    median: float
    naive: float
    best: float
    hours: int

    @property
    def saved(self) -> float:
        """What the median saves over the naive profile [currency per hour]."""
        return self.naive - self.median

    @property
    def saved_share(self) -> float:
        """The same, as a share of what the naive profile costs; NaN where that costs nothing."""
        return self.saved / self.naive if self.naive else float("nan")


def business_figure(judgement: Judgement, cost: CostOfError) -> BusinessFigure:
    """The mean cost of a forecast hour, over all leads and windows of a judgement."""
    known = np.isfinite(judgement.target_BH)
    target = judgement.target_BH[known]
    median = judgement.quantiles_BHQ[:, :, judgement.levels.index(0.5)][known]
    best = _at_level(judgement.quantiles_BHQ[known], judgement.levels, cost.best_level)
    return BusinessFigure(
        cost=cost,
        median=float(cost.of(target, median).mean()),
        naive=float(cost.of(target, judgement.naive_BH[known]).mean()),
        best=float(cost.of(target, best).mean()),
        hours=int(known.sum()),
    )


def _at_level(quantiles_NQ: Float32Array, levels: tuple[float, ...], level: float) -> npt.NDArray[np.float64]:
    """Quantiles at any level, linear between those that there are; beyond the outermost, the outermost."""
    wanted = float(np.clip(level, levels[0], levels[-1]))
    above = int(np.clip(np.searchsorted(levels, wanted), 1, len(levels) - 1))
    share = (wanted - levels[above - 1]) / (levels[above] - levels[above - 1])
    below_N, above_N = quantiles_NQ[:, above - 1].astype(np.float64), quantiles_NQ[:, above].astype(np.float64)
    return below_N + share * (above_N - below_N)
