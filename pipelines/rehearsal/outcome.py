"""What came of a rehearsal: errors by week, alarms, recoveries, and what other models make of the same weeks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from features.errors import NotEnoughDataError
from features.store import ReadingStore
from features.vocabulary import Float32Array, Quantity
from features.windows import Panel, build_panel
from pipelines.rehearsal.diary import Diary, Harm, Recovery, Rehearsed, SiteWeek
from pipelines.rehearsal.injections import KINDS
from pipelines.rehearsal.jobs import cause_of
from pipelines.rehearsal.replay import Story
from pipelines.settings import Settings
from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.realised_store import NOMINAL, RealisedStore
from training.span import splits_between, without_past
from training.window_set import WindowSet

_DAY_S, _WEEK_S = 86400, 7 * 86400
_BEFORE_WEEKS, _LAST_WEEKS = 4, 2
_COLUMNS = ("site", "origin_s", "steps", "valid_s", "actual", "median", "lower", "upper", "model_version", NOMINAL)


def rehearsed_of(diary: Diary, story: Story, *, settings: Settings, recipe: str) -> Rehearsed:
    """The figures of a rehearsal that is over.

    Args:
        diary: What happened.
        story: The readings with every injection in them.
        settings: Folders of the rehearsal.
        recipe: How models are trained.
    """
    from serving.prediction_log.settings import PredictionLogSettings
    from serving.prediction_log.store import PredictionStore

    domain, target = story.domain, story.domain.target
    store = ReadingStore(settings.readings_dir, domain)
    root = settings.data_dir / "monitoring" / "realised"
    realised = RealisedStore(root, domain, target.name, readings=store).read(
        since_s=diary.begin_s, until_s=diary.end_s + 1, roles=("champion",), columns=_COLUMNS
    )
    realised = realised.assign(error=(realised["actual"] - realised["median"]).abs())
    weeks = _site_weeks(diary, realised)
    log = PredictionStore(PredictionLogSettings(data_dir=settings.data_dir).log_url)
    forecasts = log.count()["forecasts"]
    log.close()
    return Rehearsed(
        diary=diary,
        domain=domain.name,
        target=target.name,
        unit=target.unit,
        weeks=weeks,
        recoveries=_recoveries(diary, story, realised, settings=settings, recipe=recipe),
        **alarms_at_untouched_sites(diary, weeks, settings=DetectionSettings()),
        readings=len(story.between(_moment(diary.begin_s), _moment(diary.end_s))),
        forecasts=forecasts,
        nominal_coverage=float(realised[NOMINAL].mean()),
    )


def _moment(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(seconds, unit="s", tz="UTC")


def _site_weeks(diary: Diary, realised: pd.DataFrame) -> tuple[SiteWeek, ...]:
    frame = realised.assign(
        week=((realised["valid_s"] - diary.begin_s) // _WEEK_S).astype(int),
        inside=(realised["actual"] >= realised["lower"]) & (realised["actual"] <= realised["upper"]),
    )
    return tuple(
        SiteWeek(
            site=str(site),
            begin_s=diary.begin_s + int(str(week)) * _WEEK_S,
            error=float(rows["error"].mean()),
            coverage=float(rows["inside"].mean()),
            steps=len(rows),
            model_versions=tuple(sorted(rows["model_version"].unique())),
        )
        for (site, week), rows in frame.groupby(["site", "week"])
    )


def alarms_at_untouched_sites(
    diary: Diary, weeks: Sequence[SiteWeek], *, settings: DetectionSettings
) -> dict[str, int]:
    """Alarms and weeks of sites that nothing was done to, as `Rehearsed` counts them."""
    harmed = {
        (week.site, week.begin_s): ratio > settings.harm_ratio
        for week, ratio in _ratios(weeks, settings)
        if not _was_harmed(diary, week)
    }
    alarms = [event for event in diary.events if event.kind == "alarm" and not event.cause]
    # A look at midnight is about the day before.
    places = [
        (site, diary.begin_s + (event.at_s - 1 - diary.begin_s) // _WEEK_S * _WEEK_S)
        for event in alarms
        for site in event.sites
    ]
    natural = sum(harmed.get(place, False) for place in places)
    return {
        "false_alarms": len(places) - natural,
        "healthy_site_weeks": sum(not harm for harm in harmed.values()),
        "natural_alarms": natural,
        "natural_site_weeks": sum(harmed.values()),
    }


def _ratios(weeks: Sequence[SiteWeek], settings: DetectionSettings) -> Iterator[tuple[SiteWeek, float]]:
    """Each week's error over the median of its site's weeks before, where there are enough of them."""
    before: dict[str, list[float]] = {}
    for week in sorted(weeks, key=lambda one: one.begin_s):
        errors = before.setdefault(week.site, [])
        if len(errors) >= settings.fewest_reference_weeks:
            yield week, week.error / float(np.median(errors[-settings.reference_weeks :]))
        errors.append(week.error)


def _was_harmed(diary: Diary, week: SiteWeek) -> bool:
    """Whether something was done to a site at the end of a week, or in the two weeks before."""
    return bool(cause_of(replace(diary, now_s=week.begin_s + _WEEK_S), week.site))


def _recoveries(
    diary: Diary, story: Story, realised: pd.DataFrame, *, settings: Settings, recipe: str
) -> tuple[Recovery, ...]:
    panel = panel_of(story)
    return tuple(
        _recovery(diary, harm, realised[realised["site"].isin(harm.sites)], panel, settings=settings, recipe=recipe)
        for harm in diary.harms
    )


def _recovery(
    diary: Diary, harm: Harm, realised: pd.DataFrame, panel: Panel, *, settings: Settings, recipe: str
) -> Recovery:
    end_s = diary.end_s if harm.end_s is None else min(harm.end_s, diary.end_s)
    valid = realised["valid_s"]
    before = realised[(valid >= harm.begin_s - _BEFORE_WEEKS * _WEEK_S) & (valid < harm.begin_s)]
    since = realised[(valid >= harm.begin_s) & (valid < end_s)]
    last = since[since["origin_s"] >= end_s - _LAST_WEEKS * _WEEK_S]
    by_week = since.groupby((since["valid_s"] - harm.begin_s) // _WEEK_S)["error"].mean()
    events = [event for event in diary.events if harm.begin_s <= event.at_s <= end_s + _DAY_S]
    alarms = [e.at_s for e in events if e.kind == "alarm" and set(e.sites) & set(harm.sites) and e.cause == harm.kind]
    return Recovery(
        harm=harm,
        detected_s=min(alarms, default=None),
        retrained_s=tuple(event.at_s for event in events if event.kind == "retrained"),
        before=_mean(before),
        worst=float(by_week.max()) if len(by_week) else float("nan"),
        last=_mean(last),
        unhelped=_unhelped(panel, last, settings=settings),
        fresh=_fresh(panel, harm, last, end_s=end_s, recipe=recipe),
    )


def _mean(rows: pd.DataFrame) -> float:
    return float(rows["error"].mean()) if len(rows) else float("nan")


def panel_of(story: Story) -> Panel:
    """All readings of a story on one grid."""
    domain = story.domain
    target = story.readings[story.readings["quantity"] == domain.target.name]
    step_s = domain.step_s
    first, last = (int(target["valid_at"].agg(how).timestamp()) // step_s * step_s for how in ("min", "max"))
    return build_panel(domain, list(story.sites), story.readings, first_origin_s=first, last_origin_s=last)


def _judged(panel: Panel, rows: pd.DataFrame, target: Quantity) -> WindowSet:
    """The windows from which served forecasts were made."""
    asked = rows[["site", "origin_s"]].drop_duplicates()
    origin_B = ((asked["origin_s"] - panel.start_s) // panel.domain.step_s).to_numpy(dtype=np.int64)
    inside = (origin_B >= panel.first_origin) & (origin_B <= panel.last_origin)
    sites = pd.Index([site.name for site in panel.sites])
    return WindowSet(
        panel=panel,
        target=target,
        target_ST=panel.target_ST(target),
        site_index_B=sites.get_indexer(pd.Index(asked["site"]))[inside].astype(np.int64),
        origin_B=origin_B[inside],
    )


def _error_on(windows: WindowSet, median_BH: Float32Array, rows: pd.DataFrame) -> float:
    """Mean absolute error of other forecasts on the steps that were served."""
    panel = windows.panel
    steps = np.arange(1, median_BH.shape[1] + 1)
    other = pd.DataFrame(
        {
            "site": np.repeat([panel.sites[index].name for index in windows.site_index_B], len(steps)),
            "origin_s": np.repeat(panel.moments_s[windows.origin_B], len(steps)),
            "steps": np.tile(steps, len(windows)),
            "other": median_BH.ravel(),
        }
    )
    both = rows.merge(other, on=["site", "origin_s", "steps"])
    return float((both["actual"] - both["other"]).abs().mean())


def _unhelped(panel: Panel, last: pd.DataFrame, *, settings: Settings) -> float | None:
    """What the first champion makes of the last weeks."""
    from training.graph_forecaster import open_graph
    from training.registry import ModelRegistry, model_name
    from training.tracking import Tracking

    if not len(last):
        return None
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    target = panel.domain.target
    first = registry.version(model_name(panel.domain, target), 1)
    with tempfile.TemporaryDirectory() as temporary:
        graph = open_graph(registry.fetch(first, Path(temporary)))
    windows = _judged(panel, last, target)
    return _error_on(windows, graph.median_of(windows), last)


def _fresh(panel: Panel, harm: Harm, last: pd.DataFrame, *, end_s: float, recipe: str) -> float | None:
    """What a model makes of the last weeks that knows the harmed sites since the change alone, up to these weeks."""
    if KINDS[harm.kind].group == "lost sensor" or not len(last):
        return None
    step_s = panel.domain.step_s
    learnt_s = end_s - _LAST_WEEKS * _WEEK_S
    begin, end = (int(moment_s - panel.start_s) // step_s for moment_s in (harm.begin_s, learnt_s))
    alone = without_past(panel, before=begin + 1, sites=harm.sites)
    windows = _judged(alone, last, panel.domain.target)
    try:
        return _error_on(windows, fresh_median(alone, windows, begin=begin, end=end, recipe=recipe), last)
    except NotEnoughDataError:
        return None  # too few weeks since


def fresh_median(panel: Panel, windows: WindowSet, *, begin: int, end: int, recipe: str) -> Float32Array:
    """Medians (B, H) of a model that is fitted to the targets of one span alone.

    Args:
        panel: Readings on the grid.
        windows: What is forecast.
        begin: Grid index of the first target of the span.
        end: Grid index after its last.
        recipe: How it is fitted.

    Raises:
        NotEnoughDataError: The span is too short.
    """
    from training.families import Workplace, make_forecaster
    from training.forecaster import predict_set
    from training.recipes import RECIPES

    chosen = RECIPES[panel.domain.name][recipe]
    forecaster = make_forecaster(panel.domain, chosen, Workplace(accelerator="cpu"))
    forecaster.fit(splits_between(panel, begin=begin, end=end), seed=chosen.seed)
    median: Float32Array = predict_set(forecaster, windows)[:, :, list(forecaster.levels).index(0.5)]
    return median
