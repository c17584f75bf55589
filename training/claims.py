"""What the town's design document claims for its models, to be printed beside what was measured here."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.breakdown import figures_by_day
from training.evaluate import Metrics
from training.train import Judgement

_FIGURES = {"mape": "MAPE %", "rmse": "RMSE {unit}", "r2": "R²"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The document's figures for one target; it does not name the data.

    Attributes:
        section: Where the document states them.
        note: What must be known to compare.
        figures: By horizon and metric, of single hours.
        by_day: By day ahead, 1 being the first, and metric, of whole days.
    """

    section: str
    note: str
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    by_day: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A claimed figure and what was measured.

    Attributes:
        ahead: Which horizon, or which day.
        figure: Its name, with its unit.
        claimed: By the document.
        here: By the model that was judged.
        naive: By the naive profile on the same hours.
    """

    ahead: str
    figure: str
    claimed: float
    here: float
    naive: float


# By the target's name, which is unique among the domains.
CLAIMS: dict[str, Claim] = {
    "volume": Claim(
        section="4.2.1",
        figures={
            "2h": {"mape": 8.5, "r2": 0.92},
            "6h": {"mape": 11.2, "r2": 0.89},
            "24h": {"mape": 14.8, "r2": 0.86},
        },
        note="On measured traffic a table of medians by hour of the week meets the figures of 24 h: skill over the "
        "naive profile says more.",
    ),
    "pm2_5": Claim(
        section="4.2.2",
        figures={"24h": {"rmse": 18.2, "r2": 0.87}, "48h": {"rmse": 23.5, "r2": 0.82}},
        note="Out of reach of an honest forecast of a single hour: on measured PM2.5 the document's own parameters "
        "give an R² of 0.13 at 24 h on a chronological split, 0.89 on a random split, and 0.93 with pollutants of the "
        "same hour as inputs. The latter two leak. Its 88.5 % of right AQI categories need PM10 too: "
        "`python -m benchmarks.accuracy` prints what is reached.",
    ),
    "inflow": Claim(
        section="4.2.3",
        by_day={
            1: {"mape": 6.8, "r2": 0.94},
            3: {"mape": 10.2, "r2": 0.90},
            7: {"mape": 13.5, "r2": 0.87},
        },
        note="Whole days that begin at a local midnight, the mean over the sites. On measured inflow copying a past "
        "day does better than the document's MAPE; its R² is that of a series that varies more from day to day.",
    ),
}


def beside_claims(judgement: Judgement, unit: str) -> list[Beside]:
    """The document's figures for a judged target, each beside what was measured; none where it claims nothing.

    Args:
        judgement: Of the model.
        unit: Of its target.
    """
    claim = CLAIMS.get(judgement.windows.target.name)
    if claim is None:
        return []
    found = [
        _beside(name, metric, claimed, judgement.by_horizon[name], unit)
        for name, figures in claim.figures.items()
        if name in judgement.by_horizon
        for metric, claimed in figures.items()
    ]
    measured = figures_by_day(judgement) if claim.by_day else {}
    return found + [
        _beside(f"day {day}", metric, claimed, measured[day], unit)
        for day, figures in claim.by_day.items()
        if day in measured
        for metric, claimed in figures.items()
    ]


def _beside(ahead: str, metric: str, claimed: float, figures: Metrics, unit: str) -> Beside:
    return Beside(
        ahead=ahead,
        figure=_FIGURES[metric].format(unit=unit),
        claimed=claimed,
        here=figures[metric],
        naive=figures.get(f"naive_{metric}", _naive_r2(figures)),
    )


def _naive_r2(figures: Metrics) -> float:
    """R2 of the naive profile: both have the same variance of the target below them."""
    if not figures["rmse"]:
        return float("nan")
    return 1 - (1 - figures["r2"]) * (figures["naive_rmse"] / figures["rmse"]) ** 2
