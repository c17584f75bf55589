"""How each site does by its realised errors alone, and whether that asks for a retraining.

Each site is looked at every six hours. A look takes the error of the last day, two, four days and week over what is
usual in these hours, and the share of actuals outside the interval over what the interval promises; the strongest of
them, in units of what conspicuous healthy weeks show, is the look's score. From the limit that few healthy weeks of all
sites passed, a look is evidence; a site is harmed where the latest look has it, and another one of the last five. All
of it follows from the realised table: how often somebody looks changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import HOURS
from serving.monitoring.evidence import (
    HOUR_S,
    LOOKED_BACK,
    WEEK_S,
    Calibration,
    ErrorGrid,
    Looks,
    UsualErrors,
    calibrate,
    confirmed_scores,
    error_grid,
    looks_at,
    monday_before,
    scores,
    step_bands,
    usual_errors,
)
from serving.monitoring.realised import REALISED_KEY
from serving.monitoring.report import Assessment, Trigger

_DAY_S = 86400
NOMINAL_COVERAGE = 0.95
_SUSPECT_QUANTILE = 0.9


def champion_rows(realised: pd.DataFrame, *, now_s: float) -> pd.DataFrame:
    """The champion's steps that count: one row for each, with an actual, and none of the future.

    A row that came twice counts once, by its last joining; one whose time lies after `now_s` is of a clock that is
    wrong, and is left out.
    """
    rows = realised[(realised["role"] == "champion") & (realised["valid_s"] <= now_s)]
    rows = rows[np.isfinite(rows["actual"]) & np.isfinite(rows["median"])]
    rows = rows.sort_values(["joined_s", "made_s"], kind="stable").drop_duplicates(list(REALISED_KEY), keep="last")
    # While a release goes over, two champions may have forecast one step: the later one was answered with.
    counted: pd.DataFrame = rows.drop_duplicates(["site", "origin_s", "steps"], keep="last")
    return counted


def assess_sites(
    realised: pd.DataFrame,
    *,
    now_s: float,
    settings: DetectionSettings | None = None,
    nominal_coverage: float = NOMINAL_COVERAGE,
    sites: Sequence[str] = (),
) -> tuple[Assessment, ...]:
    """A line for each site, ordered by name.

    Args:
        realised: Columns `REALISED_COLUMNS`, of a year and a half at best; other roles than the champion's are passed
            over.
        now_s: The present, on the clock of the readings [s since 1970].
        settings: Thresholds.
        nominal_coverage: What the interval from `lower` to `upper` promises (0 to 1).
        sites: Sites that must have a line even if they have no row.
    """
    settings = settings or DetectionSettings()
    rows = champion_rows(realised, now_s=now_s)
    by_site = {str(name): part for name, part in rows.groupby("site", sort=True)}
    if not by_site:
        return tuple(_without_data(name, None, now_s) for name in sorted(set(sites)))
    end_s = float(rows["valid_s"].max())
    span = settings.calibration_weeks + settings.reference_weeks
    begin_s = max(monday_before(float(rows["valid_s"].min()) - 1), monday_before(end_s - 1) - span * WEEK_S)
    weeks = (monday_before(end_s - 1) - begin_s) // WEEK_S + 1
    bands = step_bands(rows["steps"].to_numpy(dtype=np.int64))
    seen = {name: _seen(part, begin_s, weeks, bands, nominal_coverage, settings) for name, part in by_site.items()}
    ratio_SW = np.stack([site.usual.ratio_W for site in seen.values()])
    calibration = calibrate([site.looks for site in seen.values()], ratio_SW, week=weeks - 1, settings=settings)
    conspicuous = _conspicuous_ratio(ratio_SW[:, :-1], settings)
    found = {
        name: _assess(name, site, by_site[name], calibration, conspicuous, now_s, nominal_coverage, settings)
        for name, site in seen.items()
    }
    found |= {name: _without_data(name, None, now_s) for name in sites if name not in found}
    return tuple(found[name] for name in sorted(found))


def performance_trigger(assessments: Sequence[Assessment]) -> Trigger | None:
    """What asks for a retraining because of errors or coverage: the harmed sites; None without any."""
    harmed = [line for line in assessments if line.state == "harmed"]
    if not harmed:
        return None
    worst = max(harmed, key=lambda line: np.nan_to_num(line.error / line.usual_error))
    others = f" and {len(harmed) - 1} more" if len(harmed) > 1 else ""
    return Trigger(
        kind="performance", sites=tuple(line.site for line in harmed), reason=f"{worst.site}{others}: {worst.reason}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    grid: ErrorGrid
    usual: UsualErrors
    looks: Looks


def _seen(
    rows: pd.DataFrame,
    begin_s: int,
    weeks: int,
    bands: npt.NDArray[np.int64],
    nominal_coverage: float,
    settings: DetectionSettings,
) -> _Seen:
    grid = error_grid(rows, begin_s=begin_s, weeks=weeks, bands=bands)
    usual = usual_errors(grid, settings)
    looks = looks_at(grid, usual, nominal_coverage=nominal_coverage, settings=settings)
    return _Seen(grid=grid, usual=usual, looks=looks)


def _conspicuous_ratio(ratio_SW: npt.NDArray[np.float64], settings: DetectionSettings) -> float:
    """Weekly error over the usual that one healthy week of ten passes, and at least the rise that settings say."""
    healthy = ratio_SW[ratio_SW <= settings.harm_ratio]
    shown = float(np.quantile(healthy, _SUSPECT_QUANTILE)) if len(healthy) else settings.harm_ratio
    return max(shown, 1 + settings.suspect_rise)


def _assess(
    site: str,
    seen: _Seen,
    rows: pd.DataFrame,
    calibration: Calibration,
    conspicuous: float,
    now_s: float,
    nominal_coverage: float,
    settings: DetectionSettings,
) -> Assessment:
    last_s = int(rows["valid_s"].max())
    age_days = (now_s - last_s) / _DAY_S
    if age_days > settings.stale_after_days:
        return _without_data(site, last_s, now_s)
    week, others = _last_week(rows, last_s)
    usual_error = float(seen.usual.usual_W[(last_s - 1 - seen.grid.begin_s) // WEEK_S])
    figures = _figures(week, others, nominal_coverage)
    if not np.isfinite(usual_error):
        reason = (
            f"fewer than {settings.fewest_reference_weeks} weeks with actuals before this one: nothing to compare with"
        )
        return Assessment(site=site, state="no data", usual_error=usual_error, reason=reason, **figures)
    last = _last_look(seen, last_s, settings)
    score_N = scores(seen.looks, calibration.usual_F, settings)[: last + 1]
    if last < 0 or not np.isfinite(seen.looks.recent_N[last]):
        reason = "too few actuals in the last day to compare with the usual"
        return Assessment(site=site, state="no data", usual_error=usual_error, reason=reason, **figures)
    score, limit = float(score_N[-1]), calibration.limit
    confirmed = float(confirmed_scores(score_N)[-1])
    ratio = figures["error"] / _expected(seen, last_s)
    common = {**figures, "usual_error": usual_error, "score": score if np.isfinite(score) else 0.0, "limit": limit}
    words = _words(ratio, figures, nominal_coverage)
    if confirmed >= limit:
        evidence = int((score_N[-LOOKED_BACK:] >= limit).sum())
        return Assessment(site=site, state="harmed", reason=f"{words}; evidence in {evidence} of five looks", **common)
    if score >= limit:
        return Assessment(site=site, state="suspect", reason=f"{words}; evidence not confirmed yet", **common)
    # The last signal is the coverage of the week.
    if float(seen.looks.signal_FN[-1, last] / calibration.usual_F[-1]) >= limit:
        return Assessment(site=site, state="suspect", reason=f"{words}: too many actuals are outside", **common)
    if ratio >= conspicuous:
        return Assessment(site=site, state="suspect", reason=f"{words}; seldom so in healthy weeks", **common)
    return Assessment(site=site, state="healthy", reason=words, **common)


def _last_look(seen: _Seen, last_s: int, settings: DetectionSettings) -> int:
    """Number of the latest look at or before the last actual."""
    return (last_s - seen.grid.begin_s) // (settings.look_every_h * HOUR_S) - 1


def _expected(seen: _Seen, last_s: int) -> float:
    """Error that the seven days up to a moment would usually have, given their actuals [unit]."""
    until = (last_s - 1 - seen.grid.begin_s) // HOUR_S + 1
    span = slice(max(0, until - HOURS), until)
    count, expected = seen.grid.count_PT[:, span], seen.usual.expected_PT[:, span]
    known = (count > 0) & np.isfinite(expected)
    total = float(count[known].sum())
    return float((count * expected)[known].sum()) / total if total else np.nan


def _last_week(rows: pd.DataFrame, last_s: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    recent = rows["valid_s"] > last_s - WEEK_S
    return rows[recent], rows[~recent]


def _figures(week: pd.DataFrame, before: pd.DataFrame, nominal_coverage: float) -> dict[str, Any]:
    actual = week["actual"]
    return {
        "since_s": int(week["valid_s"].min()),
        "until_s": int(week["valid_s"].max()),
        "steps": len(week),
        "error": float(np.abs(actual - week["median"]).mean()),
        "mape_percent": _mape(week),
        "usual_mape_percent": _mape(before),
        "coverage": float(((actual >= week["lower"]) & (actual <= week["upper"])).mean()),
        "nominal_coverage": nominal_coverage,
    }


def _mape(rows: pd.DataFrame) -> float:
    """Mean absolute percentage error over the actuals that are not zero [%]."""
    rows = rows[rows["actual"] != 0]
    return (
        float((np.abs(rows["actual"] - rows["median"]) / np.abs(rows["actual"])).mean() * 100) if len(rows) else np.nan
    )


def _words(ratio: float, figures: dict[str, Any], nominal_coverage: float) -> str:
    return (
        f"error of the last seven days {figures['error']:.3g}, {ratio:.2f} times the usual; "
        f"coverage {figures['coverage']:.0%} of {nominal_coverage:.0%}"
    )


def _without_data(site: str, last_s: int | None, now_s: float) -> Assessment:
    if last_s is None:
        return Assessment(
            site=site,
            state="no data",
            since_s=int(now_s),
            until_s=int(now_s),
            steps=0,
            reason="no forecast of this site has an actual",
        )
    days = (now_s - last_s) / _DAY_S
    return Assessment(
        site=site,
        state="no data",
        since_s=last_s,
        until_s=last_s,
        steps=0,
        reason=f"the last actual is {days:.0f} days old",
    )
