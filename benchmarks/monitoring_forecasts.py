"""A champion served over the later part of a real series, as realised tables: undisturbed, and with harm done to it.

The recipe `quick` is fitted once on the earlier part; then forecasts start every three hours, with adaptive intervals
that are renewed daily. An episode is one week of one site with an injected harm: the sensor's readings change, so both
what the champion sees from then on and what it is compared with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from features.adaptive_intervals import AdaptiveIntervals
from features.readings import make_readings
from features.sources import find_published
from features.vocabulary import CALENDAR_CHANNELS, Domain, Float32Array, Int64Array, Quantity
from features.windows import Panel, Revisions, make_windows
from pipelines.rehearsal.injections import Injection, inject
from serving.monitoring.realised import REALISED_COLUMNS
from training.calibrate import start_intervals, walk_intervals
from training.families import Workplace, make_forecaster
from training.forecaster import Forecaster, predict_set
from training.recipes import Recipe
from training.window_set import split_windows

DAY_S, WEEK_S = 86400, 7 * 86400
NOMINAL = 0.95
_STRIDE = 3
_WALKED_SHARE = 0.6
_YARDSTICK_WEEKS = 26
_BATCH = 512
# Kind and size; each is drawn as often as the others.
HARMS: tuple[tuple[str, float | None], ...] = (
    *(("level_shift", factor) for factor in (0.6, 0.8, 1.15, 1.3, 1.6)),
    ("stuck_sensor", None),
    *(("shifted_clock", hours) for hours in (-2.0, 3.0, 6.0)),
    ("sundays", None),
    ("turned_day", 0.5),
    ("turned_day", 1.0),
    ("new_peak", 0.3),
    ("new_peak", 0.8),
    ("weather_effect", 0.15),
    ("weather_effect", 0.4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One harmed week of one site.

    Attributes:
        kind: Of the injection.
        size: Of it, None for its kind's usual one.
        site: Where.
        onset_s: When it begins, a midnight of UTC [s since 1970].
        realised: Forecasts of that week beside what was then measured.
        value_T: What was measured in that week, on the domain's grid from the step after `onset_s` on.
    """

    kind: str
    size: float | None
    site: str
    onset_s: int
    realised: pd.DataFrame
    value_T: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSeries:
    """What a champion forecast, and what was measured.

    Attributes:
        data_set: Of which published set.
        panel: All readings.
        target: What is forecast.
        trained_until_s: End of what the champion was fitted on [s since 1970].
        begin_s: First midnight from which the walk counts [s since 1970].
        end_s: Midnight at which it ends.
        realised: The undisturbed forecasts.
        episodes: The harmed weeks.
    """

    data_set: str
    panel: Panel
    target: Quantity
    trained_until_s: int
    begin_s: int
    end_s: int
    realised: pd.DataFrame
    episodes: tuple[Episode, ...]


def serve(
    recipe: Recipe, data: Path, panel: Panel, console: Console, *, episodes: int, weeks: int | None
) -> ServedSeries:
    """Fit a domain's champion on the earlier part of its series, and serve it over the rest.

    Args:
        recipe: How its champion is fitted.
        data: Folder with the published files.
        panel: The domain's readings; its first target is forecast.
        console: Where progress is shown.
        episodes: How many harmed weeks there are.
        weeks: How many weeks are walked at most, None for all.
    """
    domain, published = panel.domain, find_published(panel.domain, data)
    counted = None if published.reliable_from is None else int(published.reliable_from.timestamp())
    splits = split_windows(panel, test_share=_WALKED_SHARE, counted_from_s=counted)
    forecaster = make_forecaster(domain, recipe, Workplace(), target=domain.target)
    with console.status(f"{published.name}: fitting on {splits.train.span()}"):
        forecaster.fit(splits, seed=0)
    first = int(panel.moments_s[int(splits.test.origin_B.min())])
    begin_s = -(-first // DAY_S) * DAY_S
    last_s = int(panel.moments_s[panel.last_origin])
    end_s = begin_s + (last_s - begin_s) // WEEK_S * WEEK_S
    end_s = end_s if weeks is None else min(end_s, begin_s + weeks * WEEK_S)
    intervals = start_intervals(splits.validation, forecaster.levels)
    validation = splits.validation.subset(np.arange(0, len(splits.validation), 5))
    walk_intervals(intervals, validation, predict_set(forecaster, validation))
    walk = _Walk(forecaster, panel, begin_s, end_s)
    chosen = _choose(panel, walk.target_ST, begin_s, end_s, episodes)
    realised, found = walk.run(intervals, chosen, console, published.name)
    return ServedSeries(
        data_set=published.name,
        panel=panel,
        target=domain.target,
        trained_until_s=first,
        begin_s=begin_s,
        end_s=end_s,
        realised=realised,
        episodes=found,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    kind: str
    size: float | None
    site: int
    onset_s: int


def _choose(panel: Panel, target_ST: Float32Array, begin_s: int, end_s: int, episodes: int) -> dict[int, list[_Chosen]]:
    """Harms in random weeks that have half a year before them, by their onset."""
    rng = np.random.default_rng(0)
    first_day, last_day = begin_s // DAY_S + 7 * _YARDSTICK_WEEKS, end_s // DAY_S - 7
    chosen: dict[int, list[_Chosen]] = {}
    for number in range(episodes if last_day > first_day else 0):
        kind, size = HARMS[number % len(HARMS)]
        site, onset_s = int(rng.integers(len(panel.sites))), int(rng.integers(first_day, last_day)) * DAY_S
        at = (onset_s - panel.start_s) // panel.domain.step_s
        known = np.isfinite(target_ST[site, at - 168 : at + 169]).mean()
        if known > 0.8:
            chosen.setdefault(onset_s, []).append(_Chosen(kind=kind, size=size, site=site, onset_s=onset_s))
    return chosen


class _Walk:
    def __init__(self, forecaster: Forecaster, panel: Panel, begin_s: int, end_s: int) -> None:
        self.forecaster, self.panel, self.domain = forecaster, panel, forecaster.domain
        self.begin_s, self.end_s = begin_s, end_s
        self.target_ST = panel.target_ST(forecaster.target)
        self.hour_ST = panel.value_STK[:, :, _hour_channel(self.domain)]
        self.names = tuple(site.name for site in panel.sites)
        # Forecasts that reach into the first day start one horizon before it.
        self.reach = self.domain.horizon_steps // _STRIDE

    def run(
        self, intervals: AdaptiveIntervals, chosen: dict[int, list[_Chosen]], console: Console, title: str
    ) -> tuple[pd.DataFrame, tuple[Episode, ...]]:
        per_day = DAY_S // self.domain.step_s // _STRIDE
        first = self._index(self.begin_s)
        days = (self.end_s - self.begin_s) // DAY_S
        origin_N = first + _STRIDE * np.arange(days * per_day)
        sites = len(self.names)
        raw_SNHQ = np.stack(
            [
                self._predict(self.panel, site, origin_N, f"{title}: {name}", console)
                for site, name in enumerate(self.names)
            ]
        )
        served_SNHQ = np.empty_like(raw_SNHQ)
        episodes: list[Episode] = []
        with console.status(f"{title}: days and episodes") as status:
            for day in range(days):
                rows = np.arange(day * per_day, (day + 1) * per_day)
                now_s = self.begin_s + day * DAY_S
                for harm in chosen.get(now_s, []):
                    before = slice(max(0, day * per_day - self.reach), day * per_day)
                    episodes.append(
                        self._episode(
                            harm,
                            copy.deepcopy(intervals),
                            origin_N[before],
                            raw_SNHQ[harm.site, before],
                            served_SNHQ[harm.site, before],
                        )
                    )
                for site in range(sites):
                    served_SNHQ[site, rows] = self._adjust(intervals, site, origin_N[rows], raw_SNHQ[site, rows])
                reaching = np.arange(max(0, (day + 1) * per_day - self.reach - per_day), (day + 1) * per_day)
                self._learn(intervals, origin_N[reaching], raw_SNHQ[:, reaching], self.target_ST, now_s)
                if day % 50 == 0:
                    status.update(f"{title}: day {day} of {days}, {len(episodes)} episodes")
        parts = [self._realised(site, origin_N, served_SNHQ[site], self.target_ST[site]) for site in range(sites)]
        return pd.concat(parts, ignore_index=True), tuple(episodes)

    def _predict(self, panel: Panel, site: int, origin_N: Int64Array, title: str, console: Console) -> Float32Array:
        parts = []
        for begin in range(0, len(origin_N), _BATCH):
            console.print(f"{title}: {begin} of {len(origin_N)}", end="\r", highlight=False)
            origins = origin_N[begin : begin + _BATCH]
            windows = make_windows(panel, np.full(len(origins), site), origins)
            parts.append(self.forecaster.predict(windows).value_BHQ)
        return np.concatenate(parts)

    def _adjust(
        self, intervals: AdaptiveIntervals, site: int, origin_N: Int64Array, raw_NHQ: Float32Array
    ) -> Float32Array:
        target = self.forecaster.target
        names = (self.names[site],) * len(origin_N)
        return intervals.adjust(raw_NHQ, names, self._hours(site, origin_N), lower=target.lower, upper=target.upper)

    def _learn(
        self,
        intervals: AdaptiveIntervals,
        origin_N: Int64Array,
        raw_SNHQ: Float32Array,
        target_ST: Float32Array,
        now_s: int,
        sites: tuple[int, ...] | None = None,
    ) -> None:
        """Take in the readings of the day that begins at `now_s`."""
        for row, site in enumerate(sites or range(len(self.names))):
            ahead_NH = origin_N[:, None] + np.arange(1, self.domain.horizon_steps + 1)
            moment_NH = self.panel.start_s + ahead_NH * self.domain.step_s
            came = (moment_NH >= now_s) & (moment_NH < now_s + DAY_S)
            actual = np.where(came, target_ST[site][ahead_NH], np.nan).astype(np.float32)
            intervals.update(raw_SNHQ[row], actual, (self.names[site],) * len(origin_N), self._hours(site, origin_N))

    def _hours(self, site: int, origin_N: Int64Array) -> Float32Array:
        hours: Float32Array = self.hour_ST[site][origin_N[:, None] + np.arange(1, self.domain.horizon_steps + 1)]
        return hours

    def _episode(
        self,
        harm: _Chosen,
        intervals: AdaptiveIntervals,
        before_N: Int64Array,
        raw_NHQ: Float32Array,
        served_NHQ: Float32Array,
    ) -> Episode:
        site, step_s = harm.site, self.domain.step_s
        onset, week = self._index(harm.onset_s), WEEK_S // step_s
        target_ST = self.target_ST.copy()
        target_ST[site, onset + 1 : onset + 1 + week] = self._harmed(harm, onset, week)
        begin, end = onset - self.domain.history_steps - 1, onset + week + self.domain.horizon_steps + 1
        panel = self._one_site(site, begin, end, target_ST[site])
        origin_N = onset + _STRIDE * np.arange(week // _STRIDE)
        windows = make_windows(panel, np.zeros(len(origin_N), dtype=np.int64), origin_N - begin)
        new_NHQ = self.forecaster.predict(windows).value_BHQ
        per_day = len(origin_N) // 7
        all_origins, all_raw = np.concatenate([before_N, origin_N]), np.concatenate([raw_NHQ, new_NHQ])
        all_served = [served_NHQ]
        for day in range(7):
            until = len(before_N) + (day + 1) * per_day
            rows = slice(until - per_day, until)
            all_served.append(self._adjust(intervals, site, all_origins[rows], all_raw[rows]))
            reaching = slice(max(0, until - per_day - self.reach), until)
            self._learn(
                intervals,
                all_origins[reaching],
                all_raw[None, reaching],
                target_ST,
                harm.onset_s + day * DAY_S,
                sites=(site,),
            )
        realised = self._realised(site, all_origins, np.concatenate(all_served), target_ST[site])
        inside = (realised["valid_s"] > harm.onset_s) & (realised["valid_s"] <= harm.onset_s + WEEK_S)
        return Episode(
            kind=harm.kind,
            size=harm.size,
            site=self.names[site],
            onset_s=harm.onset_s,
            realised=realised[inside].reset_index(drop=True),
            value_T=target_ST[site, onset + 1 : onset + 1 + week],
        )

    def _harmed(self, harm: _Chosen, onset: int, week: int) -> Float32Array:
        """Readings of the harmed week."""
        site, target = self.panel.sites[harm.site], self.forecaster.target
        around = slice(max(0, onset - 8 * 168), onset + week + 25)
        moments = pd.to_datetime(self.panel.moments_s[around], unit="s", utc=True)
        quantities = [target.name, "temperature"]
        channels = [self.domain.measured_channels.index(name) for name in quantities]
        frame = pd.concat(
            make_readings(
                site=site.name,
                quantity=name,
                valid_at=moments,
                source="sensor:injected",
                value=self.panel.value_STK[harm.site, around, channel],
            )
            for name, channel in zip(quantities, channels, strict=True)
        )
        begin = pd.Timestamp(harm.onset_s + self.domain.step_s, unit="s", tz="UTC")
        changed = inject(
            frame.reset_index(drop=True),
            Injection(
                kind=harm.kind,
                sites=(site.name,),
                quantity=target.name,
                begin=begin,
                size=harm.size,
                timezone=site.timezone,
            ),
        )
        changed = changed[changed["quantity"] == target.name].set_index("valid_at")["value"]
        wanted = moments[onset + 1 - around.start : onset + 1 + week - around.start]
        value: npt.NDArray[np.float64] = changed.reindex(wanted).to_numpy(dtype=np.float64)
        return np.clip(value, target.lower, target.upper).astype(np.float32)

    def _one_site(self, site: int, begin: int, end: int, target_T: Float32Array) -> Panel:
        value = self.panel.value_STK[site : site + 1, begin:end].copy()
        value[0, :, self.domain.targets.index(self.forecaster.target)] = target_T[begin:end]
        nothing = np.empty(0, dtype=np.int64)
        return replace(
            self.panel,
            sites=(self.panel.sites[site],),
            start_s=self.panel.start_s + begin * self.domain.step_s,
            value_STK=value,
            delay_STM=self.panel.delay_STM[site : site + 1, begin:end],
            static_SS=self.panel.static_SS[site : site + 1],
            revisions=Revisions(
                flat=nothing, channel=nothing, available_at_s=nothing, value=nothing.astype(np.float32)
            ),
        )

    def _index(self, moment_s: int) -> int:
        return (moment_s - self.panel.start_s) // self.domain.step_s

    def _realised(
        self, site: int, origin_N: Int64Array, served_NHQ: Float32Array, target_T: Float32Array
    ) -> pd.DataFrame:
        """The rows of the steps that a log keeps: the first, and those that horizons name."""
        steps = np.array(sorted({1, *self.domain.horizons.values()}))
        levels = self.forecaster.levels
        origin_s = self.panel.start_s + origin_N * self.domain.step_s
        kept = served_NHQ[:, steps - 1]
        origin_NP, steps_NP = np.broadcast_arrays(origin_s[:, None], steps[None, :])
        valid = origin_NP + steps_NP * self.domain.step_s
        frame = pd.DataFrame(
            {
                "site": self.names[site],
                "model_version": "quick",
                "role": "champion",
                "origin_s": origin_NP.ravel(),
                "steps": steps_NP.ravel(),
                "valid_s": valid.ravel(),
                "actual": target_T[origin_N[:, None] + steps].ravel(),
                "median": kept[:, :, levels.index(0.5)].ravel(),
                "lower": kept[:, :, 0].ravel(),
                "upper": kept[:, :, -1].ravel(),
                "made_s": origin_NP.ravel().astype(np.float64),
                "joined_s": valid.ravel().astype(np.float64),
            },
            columns=list(REALISED_COLUMNS),
        )
        return frame[frame["actual"].notna()].reset_index(drop=True)


def _hour_channel(domain: Domain) -> int:
    return len(domain.measured_channels) + CALENDAR_CHANNELS.index("hour_of_day")
