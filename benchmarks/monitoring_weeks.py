"""Weeks of sites with what is true of them, what our detectors say of them, and how any detector scores on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.monitoring_forecasts import DAY_S, NOMINAL, WEEK_S, Episode, ServedSeries
from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import HOURS
from serving.monitoring.evidence import (
    HOUR_S,
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

# Days from a week's begin to the first alarm in it, by case; infinite for none.
Alarms = Mapping[int, float]
_KNOWN_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One week of one site.

    Attributes:
        number: Unique.
        data_set: Of which published set.
        site: Where.
        begin_s: Of the week [s since 1970].
        ratio: Its error over the median of the 26 weeks before.
        harmed: Whether that is above 1.5.
        after_harm: Whether the week before was harmed; alarms in the first day of such a week do not count, since every
            detector looks back.
        last_fifth: Whether it lies in the last 20 % of the series, on which nothing was chosen.
        episode: Number of the injected harm, None for an undisturbed week.
    """

    number: int
    data_set: str
    site: str
    begin_s: int
    ratio: float
    harmed: bool
    after_harm: bool
    last_fifth: bool
    episode: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A served series on the detectors' grid; by site."""

    series: ServedSeries
    settings: DetectionSettings
    begin_s: int
    weeks: int
    bands: npt.NDArray[np.int64]
    grids: dict[str, ErrorGrid]
    usual: dict[str, UsualErrors]
    looks: dict[str, Looks]

    @property
    def ratio_SW(self) -> npt.NDArray[np.float64]:
        """Error of each week over its usual."""
        return np.stack([usual.ratio_W for usual in self.usual.values()])


def watch(series: ServedSeries, settings: DetectionSettings) -> Watched:
    """Put a series on the grid of whole weeks."""
    begin_s = monday_before(series.begin_s - 1) + WEEK_S
    weeks = (series.end_s - begin_s) // WEEK_S
    bands = step_bands(series.realised["steps"].to_numpy(dtype=np.int64))
    grids = {
        str(site): error_grid(rows, begin_s=begin_s, weeks=weeks, bands=bands)
        for site, rows in series.realised.groupby("site", sort=True)
    }
    usual = {site: usual_errors(grid, settings) for site, grid in grids.items()}
    looks = {
        site: looks_at(grid, usual[site], nominal_coverage=NOMINAL, settings=settings) for site, grid in grids.items()
    }
    return Watched(
        series=series,
        settings=settings,
        begin_s=begin_s,
        weeks=weeks,
        bands=bands,
        grids=grids,
        usual=usual,
        looks=looks,
    )


def cases_of(watched: Watched, *, first_number: int) -> list[Case]:
    """All weeks with half a year before them: the undisturbed, then the injected ones among healthy weeks."""
    settings, series = watched.settings, watched.series
    test_from_s = series.begin_s + (series.end_s - series.begin_s) * 2 // 3
    found: list[Case] = []

    def add(site: str, begin_s: int, ratio: float, *, after: bool, episode: int | None) -> None:
        case = Case(
            number=first_number + len(found),
            data_set=series.data_set,
            site=site,
            begin_s=begin_s,
            ratio=ratio,
            harmed=ratio > settings.harm_ratio,
            after_harm=after,
            last_fifth=begin_s >= test_from_s,
            episode=episode,
        )
        found.append(case)

    for site, usual in watched.usual.items():
        for week in range(settings.reference_weeks, watched.weeks):
            if np.isfinite(usual.ratio_W[week]):
                after = bool(usual.ratio_W[week - 1] > settings.harm_ratio)
                add(site, watched.begin_s + week * WEEK_S, float(usual.ratio_W[week]), after=after, episode=None)
    for number, episode in enumerate(series.episodes):
        week = (episode.onset_s - watched.begin_s) // WEEK_S
        usual = watched.usual[episode.site]
        enough = len(episode.realised) >= _KNOWN_SHARE * usual.usual_count * HOURS
        # Where there is harm anyway, an alarm may stand already: nothing would be found.
        calm = bool((usual.ratio_W[max(0, week - 1) : week + 2] <= settings.harm_ratio).all())
        if settings.reference_weeks <= week < watched.weeks - 1 and enough and calm:
            error = np.abs(episode.realised["actual"] - episode.realised["median"]).mean()
            add(episode.site, episode.onset_s, float(error / usual.usual_W[week]), after=False, episode=number)
    return found


def our_alarms(watched: Watched, cases: Sequence[Case]) -> tuple[dict[int, float], dict[int, float]]:
    """First alarm in each case: with the first day after harm passed over, and with every look."""
    calibrations: dict[int, Calibration] = {}
    counted: dict[int, float] = {}
    every: dict[int, float] = {}
    sites = list(watched.looks.values())
    for case in cases:
        week = (case.begin_s - watched.begin_s) // WEEK_S
        if week not in calibrations:
            calibrations[week] = calibrate(sites, watched.ratio_SW, week=week, settings=watched.settings)
        alarms = _alarm_days(watched, case, calibrations[week])
        every[case.number] = alarms.min(initial=np.inf)
        counted[case.number] = first_counted(case, alarms)
    return counted, every


def first_counted(case: Case, alarm_days: npt.NDArray[np.float64]) -> float:
    """The first alarm that counts [days after the week's begin]."""
    return float(
        alarm_days[alarm_days > 1.0].min(initial=np.inf) if case.after_harm else alarm_days.min(initial=np.inf)
    )


def _alarm_days(watched: Watched, case: Case, calibration: Calibration) -> npt.NDArray[np.float64]:
    looks = watched.looks[case.site]
    if case.episode is not None:
        episode = watched.series.episodes[case.episode]
        grid = with_episode(watched, episode)
        looks = looks_at(grid, watched.usual[case.site], nominal_coverage=NOMINAL, settings=watched.settings)
    confirmed = confirmed_scores(scores(looks, calibration.usual_F, watched.settings))
    every_s = watched.settings.look_every_h * HOUR_S
    moment_s = watched.begin_s + every_s * np.arange(1, len(confirmed) + 1)
    inside = (moment_s > case.begin_s) & (moment_s <= case.begin_s + WEEK_S) & (confirmed >= calibration.limit)
    days: npt.NDArray[np.float64] = (moment_s[inside] - case.begin_s) / DAY_S
    return days


def with_episode(watched: Watched, episode: Episode) -> ErrorGrid:
    """A site's grid with a harmed week in place of the undisturbed one."""
    grid = watched.grids[episode.site]
    # A week from any midnight on: the part of the grid that begins there.
    harmed = error_grid(episode.realised, begin_s=episode.onset_s, weeks=1, bands=watched.bands)
    begin = (episode.onset_s - watched.begin_s) // HOUR_S

    def spliced(whole: npt.NDArray[np.float64], part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        changed = whole.copy()
        changed[:, begin : begin + HOURS] = part
        return changed

    return replace(
        grid,
        error_PT=spliced(grid.error_PT, harmed.error_PT),
        outside_PT=spliced(grid.outside_PT, harmed.outside_PT),
        count_PT=spliced(grid.count_PT, harmed.count_PT),
    )


def score(cases: Sequence[Case], alarms: Alarms) -> dict[str, Any]:
    """Figures of a detector on the cases that it judged.

    Returns:
        `false_alarm_rate` of undisturbed healthy weeks, `recall` and `delay_days` of injected weeks that were harmed
        (the median over those found; `delay_days_all` counts the others as never, null where that is most of them),
        `recall_natural` of undisturbed weeks that were harmed, `false_alarm_rate_no_harm` of injections that did none.
        Rates come with the number of weeks that they are of.
    """
    judged = [case for case in cases if case.number in alarms]
    healthy = [case for case in judged if case.episode is None and not case.harmed]
    natural = [case for case in judged if case.episode is None and case.harmed]
    harmed = [case for case in judged if case.episode is not None and case.harmed]
    harmless = [case for case in judged if case.episode is not None and not case.harmed]
    days = np.array([alarms[case.number] for case in harmed])
    return {
        "false_alarm_rate": _rate(healthy, alarms),
        "recall": _rate(harmed, alarms),
        "delay_days": _median(days[np.isfinite(days)]),
        "delay_days_all": _median(days),
        "recall_natural": _rate(natural, alarms),
        "false_alarm_rate_no_harm": _rate(harmless, alarms),
        "healthy_weeks": len(healthy),
        "harmed_weeks": len(harmed),
        "harmed_weeks_natural": len(natural),
        "no_harm_weeks": len(harmless),
    }


def _rate(cases: Sequence[Case], alarms: Alarms) -> float | None:
    return round(float(np.mean([np.isfinite(alarms[case.number]) for case in cases])), 4) if cases else None


def _median(days: npt.NDArray[np.float64]) -> float | None:
    if not len(days):
        return None
    middle = float(np.median(days))
    return round(middle, 2) if np.isfinite(middle) else None
