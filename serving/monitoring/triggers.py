"""How each site does by its realised errors alone, and whether that asks for a retraining.

Each site is looked at every six hours. A look takes the error of the last day, two, four days and week over what is
usual in these hours, and the share of actuals outside the interval over what the interval promises; the strongest of
them, in units of what conspicuous healthy weeks show, is the look's score. From the limit that few healthy weeks of all
sites passed, a look is evidence; a site is harmed where the latest look has it, and another one of the last five. All
of it follows from the realised table: how often somebody looks changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import HOURS
from serving.monitoring.evidence import (
    HOUR_S,
    LOOKED_BACK,
    WEEK_S,
    Calibration,
    ErrorGrid,
    Float64Array,
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
    rows = rows.sort_values(["valid_s", "steps", "joined_s", "made_s"], kind="stable")
    rows = rows.drop_duplicates(list(REALISED_KEY), keep="last")
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
    evidence = gather_evidence(rows, now_s=now_s, nominal_coverage=nominal_coverage, settings=settings)
    return judge_sites(evidence, now_s=now_s, sites=sites, settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvidence:
    """What one site's errors say, before it is known what healthy weeks of all sites show.

    Attributes:
        shown: Figures of the last seven days as `no data`, without a reason where a verdict is possible.
        ratio: Error of the last seven days over what these hours usually have.
        ratio_W: Error of each week over its usual.
        looks: All looks.
        last: Number of the latest look.
        week: Number of the week of the last actual.
    """

    shown: Assessment
    ratio: float
    ratio_W: Float64Array
    looks: Looks
    last: int
    week: int


def gather_evidence(
    rows: pd.DataFrame, *, now_s: float, nominal_coverage: float, settings: DetectionSettings
) -> list[SiteEvidence]:
    """Evidence of each site in a table; sites may come in several tables, which is what a large town needs.

    Args:
        rows: As `champion_rows` gives them.
        now_s: The present; the same for all tables [s since 1970].
        nominal_coverage: What the interval promises (0 to 1).
        settings: Thresholds.
    """
    span = settings.calibration_weeks + settings.reference_weeks
    begin_s = monday_before(now_s - 1) - span * WEEK_S
    rows = rows[rows["valid_s"] > begin_s]
    return [
        _evidence(str(site), part, begin_s, span + 1, now_s, nominal_coverage, settings)
        for site, part in rows.groupby("site", sort=True, observed=True)
    ]


def judge_sites(
    evidence: Sequence[SiteEvidence],
    *,
    now_s: float,
    sites: Sequence[str] = (),
    settings: DetectionSettings,
) -> tuple[Assessment, ...]:
    """A line for each site, ordered by name: calibrated on the healthy weeks of all of them.

    Args:
        evidence: Of all sites.
        now_s: The present [s since 1970].
        sites: Sites that must have a line even without evidence.
        settings: Thresholds.
    """
    found = {name: _without_data(name, None, now_s) for name in sites}
    if evidence:
        week = max(one.week for one in evidence)
        ratio_SW = np.stack([one.ratio_W for one in evidence])
        calibration = calibrate([one.looks for one in evidence], ratio_SW, week=week, settings=settings)
        conspicuous = _conspicuous_ratio(ratio_SW[:, :week], settings)
        found |= {one.shown.site: _verdict(one, calibration, conspicuous, settings) for one in evidence}
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


def _evidence(
    site: str,
    rows: pd.DataFrame,
    begin_s: int,
    weeks: int,
    now_s: float,
    nominal_coverage: float,
    settings: DetectionSettings,
) -> SiteEvidence:
    bands = step_bands(rows["steps"].to_numpy(dtype=np.int64))
    grid = error_grid(rows, begin_s=begin_s, weeks=weeks, bands=bands)
    usual = usual_errors(grid, settings)
    looks = looks_at(grid, usual, nominal_coverage=nominal_coverage, settings=settings)
    last_s = int(rows["valid_s"].max())
    week = (last_s - 1 - begin_s) // WEEK_S
    # The latest look at or before the last actual.
    last = (last_s - begin_s) // (settings.look_every_h * HOUR_S) - 1
    shown = _figures(site, rows, last_s, nominal_coverage, float(usual.usual_W[week]))
    if (now_s - last_s) / _DAY_S > settings.stale_after_days:
        shown = _without_data(site, last_s, now_s)
    elif not np.isfinite(shown.usual_error):
        few = settings.fewest_reference_weeks
        shown = replace(shown, reason=f"fewer than {few} weeks with actuals before this one: nothing to compare with")
    elif last < 0 or not np.isfinite(looks.recent_N[last]):
        shown = replace(shown, reason="too few actuals in the last day to compare with the usual")
    ratio = shown.error / _expected(grid, usual, last_s)
    return SiteEvidence(shown=shown, ratio=ratio, ratio_W=usual.ratio_W, looks=looks, last=last, week=week)


def _verdict(
    one: SiteEvidence, calibration: Calibration, conspicuous: float, settings: DetectionSettings
) -> Assessment:
    if one.shown.reason:
        return one.shown
    score_N = scores(one.looks, calibration.usual_F, settings)[: one.last + 1]
    score, limit = float(score_N[-1]), calibration.limit
    shown = replace(one.shown, score=score if np.isfinite(score) else 0.0, limit=limit)
    words = (
        f"error of the last seven days {shown.error:.3g}, {one.ratio:.2f} times the usual; "
        f"coverage {shown.coverage:.0%} of {shown.nominal_coverage:.0%}"
    )
    if float(confirmed_scores(score_N)[-1]) >= limit:
        evidence = int((score_N[-LOOKED_BACK:] >= limit).sum())
        return replace(shown, state="harmed", reason=f"{words}; evidence in {evidence} of five looks")
    # The last signal is the coverage of the week.
    coverage = float(one.looks.signal_FN[-1, one.last] / calibration.usual_F[-1])
    for suspicious, why in (
        (score >= limit, "evidence not confirmed yet"),
        (coverage >= limit, "too many actuals are outside"),
        (one.ratio >= conspicuous, "seldom so in healthy weeks"),
    ):
        if suspicious:
            return replace(shown, state="suspect", reason=f"{words}; {why}")
    return replace(shown, state="healthy", reason=words)


def _conspicuous_ratio(ratio_SW: Float64Array, settings: DetectionSettings) -> float:
    """Weekly error over the usual that one healthy week of ten passes, and at least the rise that settings say."""
    healthy = ratio_SW[ratio_SW <= settings.harm_ratio]
    shown = float(np.quantile(healthy, _SUSPECT_QUANTILE)) if len(healthy) else settings.harm_ratio
    return max(shown, 1 + settings.suspect_rise)


def _expected(grid: ErrorGrid, usual: UsualErrors, last_s: int) -> float:
    """Error that the seven days up to a moment would usually have, given their actuals [unit]."""
    until = (last_s - 1 - grid.begin_s) // HOUR_S + 1
    span = slice(max(0, until - HOURS), until)
    count, expected = grid.count_PT[:, span], usual.expected_PT[:, span]
    known = (count > 0) & np.isfinite(expected)
    total = float(count[known].sum())
    return float((count * expected)[known].sum()) / total if total else np.nan


def _figures(site: str, rows: pd.DataFrame, last_s: int, nominal_coverage: float, usual_error: float) -> Assessment:
    """The last seven days up to the last actual."""
    recent = rows["valid_s"] > last_s - WEEK_S
    week, before = rows[recent], rows[~recent]
    actual = week["actual"]
    return Assessment(
        site=site,
        state="no data",
        since_s=int(week["valid_s"].min()),
        until_s=last_s,
        steps=len(week),
        error=float((actual - week["median"]).abs().mean()),
        usual_error=usual_error,
        mape_percent=_mape(week),
        usual_mape_percent=_mape(before),
        coverage=float(((actual >= week["lower"]) & (actual <= week["upper"])).mean()),
        nominal_coverage=nominal_coverage,
    )


def _mape(rows: pd.DataFrame) -> float:
    """Mean absolute percentage error over the actuals that are not zero [%]."""
    rows = rows[rows["actual"] != 0]
    if rows.empty:
        return np.nan
    return float(((rows["actual"] - rows["median"]).abs() / rows["actual"].abs()).mean() * 100)


def _without_data(site: str, last_s: int | None, now_s: float) -> Assessment:
    if last_s is None:
        return Assessment(
            site=site,
            state="no data",
            since_s=int(now_s),
            until_s=int(now_s),
            steps=0,
            reason="no forecast of this site has an actual in the time that is looked at",
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
