"""The join of what was forecast with what came, as far as it has come by now; see `join_actuals` for its rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.final_values import final_values
from features.store import ReadingStore
from features.stored_files import one_writer
from serving.monitoring.join_state import JoinState, read_state, write_state
from serving.monitoring.realised import REALISED_KEY
from serving.monitoring.realised_rows import forecast_rows
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.settings import MonitoringSettings
from serving.prediction_log.store import PredictionStore
from serving.prediction_log.tallies import HOUR_S

JOIN_LOCK = ".join.lock"
STATE_FILE = "join.json"
_DAY_S = 86_400
_BATCH_FORECASTS = 20_000
_ROWS_TOGETHER = 400_000
# Beyond that many forecasts all hours of the log are counted once an hour, else those of the last two days.
_LARGE_LOG = 1_000_000
_LOOK_BACK_HOURS = 48
_MOST_EARLY = 100_000
_MOST_NAMED = 5
# A site that vanished is named for so many times the patience.
_NAMED_PATIENCES = 10
# Of two forecasts with one key the one that counts is the last of this order.
_MADE_ORDER = ["made_s", "median", "lower", "upper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinReport:
    """What a join did, in forecast steps.

    Attributes:
        domain: Of the target.
        target: What is forecast.
        at_s: The present that it took [s since 1970].
        joined: Had no actual before, and has one now.
        revised: Have another actual than before.
        remade: Were forecast anew for the same origin by the same model: the later forecast counts.
        waiting: Have none yet, and may get one.
        never: Were given up by this join: none came in the time of patience.
        late: Of those joined, had been given up before.
        vanished: Sites without actuals for longer than the patience while others have some; after ten times that they
            are not named any more.
        remarks: What else is to be known, in sentences for people.
    """

    domain: str
    target: str
    at_s: float
    joined: int = 0
    revised: int = 0
    remade: int = 0
    waiting: int = 0
    never: int = 0
    late: int = 0
    vanished: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def join_actuals(
    store: PredictionStore,
    readings: ReadingStore,
    realised: RealisedStore,
    *,
    now_s: float,
    settings: MonitoringSettings,
) -> JoinReport:
    """Put each forecast step beside its actual, as far as it is new or has changed.

    - Every kept step of every forecast in the log becomes a row of `realised`, at first without an actual. It gets one
      when readings of its step are there and the step has ended; a row without one is waited for, and after
      `actuals_patience_days` given up. One that comes later still, be it years, counts, and is said to be late.
    - An actual is what a window of the domain holds at that moment, all revisions applied. A revised one replaces the
      one before; the same readings again change nothing; an actual is never taken back.
    - Of two forecasts of one site, role, model and origin the one that was made last counts.
    - What counts is when readings and forecasts are valid, not when clocks say that they came or were made: forecasts
      that come late into the log are found by their number in each hour, readings by the files that they are in.
      Readings of the future wait for their time. Where the present runs back, what was given up waits again.
    - Simulated readings are the actuals of simulated sites, in a domain that has no others. From the first measured
      site on, simulated ones are left out of what is read, also those that were joined before.
    - A crash at any point loses and doubles nothing: what was looked at is noted after it was written.

    Args:
        store: The prediction log.
        readings: Of the domain.
        realised: Takes the rows.
        now_s: The present [s since 1970].
        settings: Steps, patience.

    Raises:
        StorageError: Something cannot be written, or another process joins for minutes.
        DataError: A stored file is damaged.
    """
    with one_writer(realised.folder, JOIN_LOCK):
        return _Join(store, readings, realised, now_s=now_s, settings=settings).run()


class _Join:
    """One join: what it found, and what the next one has to know."""

    def __init__(
        self,
        store: PredictionStore,
        readings: ReadingStore,
        realised: RealisedStore,
        *,
        now_s: float,
        settings: MonitoringSettings,
    ) -> None:
        self.store, self.readings, self.realised, self.now_s = store, readings, realised, now_s
        self.domain, self.target = realised.domain, realised.target
        self.steps_K = np.array(settings.steps_of(self.domain), dtype=np.int64)
        self.patience_s = settings.actuals_patience_days * _DAY_S
        self.path = realised.folder / STATE_FILE
        self.before = read_state(self.path)
        if self.before.steps != settings.steps_of(self.domain):
            # The steps that were not kept are still in the log.
            self.before = replace(self.before, made_by_hour={})
        self.joined_s = max(now_s, self.before.joined_s)
        self.last_s: dict[str, int] = dict(self.before.last_s)
        self.counts: Counter[str] = Counter()
        self.remarks: list[str] = []
        self.written = False
        self.given_up_s = self._given_up_before()
        self.simulated = dict(self.before.simulated)
        self.left_out = realised.left_out()
        self.had_rows = bool(realised.months())

    def run(self) -> JoinReport:
        # Asked before anything is looked at: what comes meanwhile is new for the next join.
        seen, came = self._came()
        self._tell_apart(came["site"].unique().tolist())
        made = self._made_by_hour()
        self._enter(made)
        early = self._look_again(came)
        patient_s = self.now_s - self.patience_s
        never = self.realised.waiting_count(after_s=self.given_up_s, until_s=patient_s)
        waiting = self._waiting(patient_s, never)
        state = JoinState(
            at_s=self.now_s,
            joined_s=self.joined_s,
            steps=tuple(self.steps_K.tolist()),
            made_by_hour=made,
            counted_s=self.now_s if self._counts_all() else self.before.counted_s,
            seen=seen,
            early=early,
            waiting=waiting,
            given_up_s=patient_s if self.given_up_s is None else max(self.given_up_s, patient_s),
            last_s=self.last_s,
            simulated=self.simulated,
        )
        vanished = self._vanished()
        write_state(self.path, state)
        return JoinReport(
            domain=self.domain.name,
            target=self.target.name,
            at_s=self.now_s,
            joined=self.counts["joined"],
            revised=self.counts["revised"],
            remade=self.counts["remade"],
            waiting=waiting,
            never=never,
            late=self.counts["late"],
            vanished=vanished,
            remarks=(*self.remarks, *self._said(never, vanished)),
        )

    def _given_up_before(self) -> float | None:
        """Up to when steps were given up; where the present ran back, no further than it is now."""
        before = self.before
        if before.at_s is not None and self.now_s < before.at_s - self.domain.step_s:
            self.remarks.append(
                f"The clock ran back by {_time(before.at_s - self.now_s)}: what was given up since waits again."
            )
        return None if before.given_up_s is None else min(before.given_up_s, self.now_s - self.patience_s)

    def _came(self) -> tuple[frozenset[str], pd.DataFrame]:
        """What came into the readings; at first as far as it can matter, which of years of them is little."""
        months, step_s, start_s = self.realised.months(), self.domain.step_s, None
        if not self.before.seen:
            start_s = int(self.now_s)
            if months:
                start_s = min(start_s, int(np.datetime64(months[0], "s").astype(np.int64)))
            start_s -= 2 * step_s
        start = None if start_s is None else pd.Timestamp(start_s, unit="s", tz="UTC")
        return self.readings.came_since(self.before.seen, self.target.name, start=start)

    def _tell_apart(self, sites: Sequence[str]) -> None:
        """Learn which sites are simulated; leaves those out where others are measured."""
        unknown = [site for site in sites if site not in self.simulated]
        if not unknown:
            return
        if not self.simulated:
            self.simulated.update(dict.fromkeys(self.readings.measured_sites(), False))
        self.simulated |= self.readings.simulated([site for site in unknown if site not in self.simulated])
        mixed = {site for site, simulated in self.simulated.items() if simulated} - self.left_out
        if mixed and not all(self.simulated.values()):
            self.realised.leave_out(mixed)
            self.left_out |= mixed
            self.remarks.append(
                f"Simulated sites are left out, as the domain has measured ones: {_names(sorted(mixed))}."
            )

    def _counts_all(self) -> bool:
        """Whether all of the log is counted: a large one once an hour."""
        small = sum(self.before.made_by_hour.values()) < _LARGE_LOG
        return small or not 0 <= self.now_s - self.before.counted_s < HOUR_S

    def _made_by_hour(self) -> dict[int, int]:
        asked = self.domain.name, self.target.name
        if self._counts_all():
            return self.store.made_by_hour(*asked)
        first = max(self.before.made_by_hour) - _LOOK_BACK_HOURS
        counted = self.store.made_by_hour(*asked, since_s=first * HOUR_S)
        return {hour: count for hour, count in self.before.made_by_hour.items() if hour < first} | counted

    def _enter(self, made: Mapping[int, int]) -> None:
        """Read the forecasts of the hours that have other numbers of them than before, and enter those that are new."""
        known = self.before.made_by_hour
        odd: Counter[str] = Counter()
        parts: list[pd.DataFrame] = []
        for first, last in _runs([hour for hour in sorted(made) if made[hour] != known.get(hour, 0)]):
            for batch in self.store.batches(
                self.domain.name,
                self.target.name,
                since_s=first * HOUR_S,
                until_s=(last + 1) * HOUR_S,
                limit_rows=_BATCH_FORECASTS,
            ):
                if batch.step_s != self.domain.step_s:
                    odd["step"] += len(batch)
                    continue
                parts.append(forecast_rows(batch, self.steps_K))
                if sum(map(len, parts)) >= _ROWS_TOGETHER:
                    self._enter_rows(pd.concat(parts, ignore_index=True), odd)
                    parts = []
        if parts:
            self._enter_rows(pd.concat(parts, ignore_index=True), odd)
        self._say_odd(odd)

    def _enter_rows(self, rows: pd.DataFrame, odd: Counter[str]) -> None:
        self._tell_apart(rows["site"].unique().tolist())
        rows = rows[~rows["site"].isin(self.left_out) & (rows["valid_s"] >= self.realised.kept_since_s())]
        rows = rows.sort_values(_MADE_ORDER, kind="stable").drop_duplicates(list(REALISED_KEY), keep="last")
        if not len(rows):
            return
        new = self.realised.replacing(rows)
        if not len(new):
            return
        self._count_odd(new, odd)
        for site, origin_s in new.groupby("site")["origin_s"].min().items():
            self.last_s.setdefault(str(site), int(origin_s))
        actual = self._actuals(new)
        held = np.isfinite(new["held_s"].to_numpy())
        self.counts["remade"] += int(held.sum())
        self._add(new.assign(actual=actual), new["held_s"].max(), first=np.isfinite(actual) & ~held)

    def _count_odd(self, new: pd.DataFrame, odd: Counter[str]) -> None:
        """Count forecasts whose clocks do not fit."""
        one = new.drop_duplicates(["site", "role", "model_version", "origin_s"]).sort_values("origin_s", kind="stable")
        step_s = self.domain.step_s
        odd["ahead"] += int((one["origin_s"] > self.now_s + step_s).sum())
        odd["before"] += int((one["made_s"] < one["origin_s"] - step_s).sum())
        odd["back"] += int((one.groupby(["site", "role", "model_version"])["made_s"].diff() < -step_s).sum())

    def _say_odd(self, odd: Counter[str]) -> None:
        sentences = {
            "step": "forecasts have another step than the domain: they are passed over.",
            "ahead": "forecasts start in the future: they wait for their time.",
            "before": "forecasts were made before their origin by the clock of their maker: they count.",
            "back": "forecasts were made before that of an earlier origin: a clock ran back; they count.",
        }
        self.remarks += [f"{odd[name]:,} {sentence}" for name, sentence in sentences.items() if odd[name]]

    def _look_again(self, came: pd.DataFrame) -> dict[str, tuple[int, ...]]:
        """Renew the actuals of the steps with new readings; returns those that have not ended yet."""
        step_s = self.domain.step_s
        waited = [(site, number) for site, numbers in self.before.early.items() for number in numbers]
        touched = pd.concat([came, pd.DataFrame(waited, columns=["site", "number"])], ignore_index=True)
        touched = touched.astype({"number": np.int64}).drop_duplicates()
        begin_s = touched["number"] * step_s
        future = touched[begin_s > self.now_s + step_s]
        if len(future):
            self.remarks.append(
                f"Readings of {len(future):,} steps are of the future ({_names(sorted(future['site'].unique()))}): "
                "they wait for their time."
            )
        if self.had_rows:
            # A reading belongs to the step that ends with it or after it.
            ended = pd.concat([touched, touched.assign(number=touched["number"] + 1)]).drop_duplicates()
            ended = ended[ended["number"] * step_s <= self.now_s]
            months = (ended["number"] * step_s).to_numpy(dtype="datetime64[s]").astype("datetime64[M]")
            for month in self.realised.months():
                self._renew(self.realised.of_steps(ended[months.astype(str) == month]))
        early = touched[begin_s + 2 * step_s > self.now_s].sort_values("number", kind="stable").head(_MOST_EARLY)
        return {str(site): tuple(numbers) for site, numbers in early.groupby("site")["number"].agg(list).items()}

    def _renew(self, rows: pd.DataFrame) -> None:
        """Write the rows whose actual has changed."""
        if not len(rows):
            return
        before, actual = rows["actual"].to_numpy(), self._actuals(rows)
        changed = np.isfinite(actual) & (actual.astype(np.float32) != before.astype(np.float32))
        first, rows = ~np.isfinite(before[changed]), rows.assign(actual=actual)[changed]
        self.counts["revised"] += int((~first).sum())
        if self.given_up_s is not None:
            self.counts["late"] += int((first & (rows["valid_s"] <= self.given_up_s).to_numpy()).sum())
        self._add(rows, rows["joined_s"].max(), first=first)

    def _add(self, rows: pd.DataFrame, held_s: float, *, first: npt.NDArray[np.bool_]) -> None:
        """Write rows after those that they replace.

        Args:
            rows: To be written.
            held_s: Latest `joined_s` of what they replace, NaN for nothing [s since 1970].
            first: Which of them have an actual for the first time.
        """
        if not len(rows):
            return
        # A clock may have run back, and a join may have died before it noted what it had written.
        self.joined_s = math.nextafter(max(self.joined_s, -math.inf if math.isnan(held_s) else held_s), math.inf)
        self.realised.add(rows.assign(joined_s=self.joined_s))
        self.written = True
        self.counts["joined"] += int(first.sum())
        known = rows[np.isfinite(rows["actual"].to_numpy())]
        for site, valid_s in known.groupby("site")["valid_s"].max().items():
            self.last_s[str(site)] = max(self.last_s.get(str(site), 0), int(valid_s))

    def _actuals(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """What came in the steps of rows, NaN where nothing has, or the step has not ended [unit]."""
        valid_s = rows["valid_s"].to_numpy(dtype=np.int64)
        actual: npt.NDArray[np.float64] = np.full(len(rows), np.nan)
        months = valid_s.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
        phase_s = valid_s % self.domain.step_s
        for month, phase in sorted(set(zip(months.tolist(), phase_s.tolist(), strict=True))):
            places = np.flatnonzero((months == month) & (phase_s == phase) & (valid_s <= self.now_s))
            if len(places):
                actual[places] = self._actuals_between(rows["site"].to_numpy()[places], valid_s[places], phase)
        return actual

    def _actuals_between(
        self, site_N: npt.NDArray[np.object_], valid_s_N: npt.NDArray[np.int64], phase_s: int
    ) -> npt.NDArray[np.float64]:
        """Of steps that are not far from each other, on a grid with one phase."""
        step_s = self.domain.step_s
        sites = pd.unique(site_N).tolist()
        found = self.readings.readings(
            # Each name more is looked for in each row.
            sites=sites if len(sites) <= _MOST_NAMED else None,
            quantities=[self.target.name],
            start=pd.Timestamp(int(valid_s_N.min()) - step_s, unit="s", tz="UTC"),
            end=pd.Timestamp(int(valid_s_N.max()), unit="s", tz="UTC"),
            columns=("value",),
        )
        values = final_values(self.target, found, step_s=step_s, phase_s=phase_s)
        # The first step may have more readings before the moment from which on they were asked for.
        values = values[values["moment_s"] >= valid_s_N.min()]
        wanted = pd.MultiIndex.from_arrays([site_N, valid_s_N])
        held = pd.MultiIndex.from_arrays([values["site"].to_numpy(), values["moment_s"].to_numpy()])
        place = held.get_indexer(wanted)
        number = np.append(values["value"].to_numpy(dtype=np.float64), np.nan)
        return number[place]

    def _waiting(self, patient_s: float, never: int) -> int:
        """Rows that wait; counted only where this join wrote some, or what was given up waits again."""
        before = self.before
        if before.waiting is None or self.written or self.given_up_s != before.given_up_s:
            return self.realised.waiting_count(after_s=patient_s)
        return before.waiting - never

    def _vanished(self) -> tuple[str, ...]:
        last_s = {site: at_s for site, at_s in self.last_s.items() if site not in self.left_out}
        newest, least = max(last_s.values(), default=0), self.patience_s
        return tuple(sorted(site for site, at_s in last_s.items() if least < newest - at_s <= _NAMED_PATIENCES * least))

    def _said(self, never: int, vanished: Sequence[str]) -> Iterator[str]:
        days = f"{self.patience_s / _DAY_S:g} days"
        if never:
            yield f"{never:,} forecast steps were given up: no reading came within {days}."
        if self.counts["late"]:
            yield f"{self.counts['late']:,} forecast steps had been given up when their readings came; they count."
        if vanished:
            yield f"No readings for more than {days} while others have some: {_names(vanished)}."


def _runs(hours: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of hours without a gap."""
    begin = 0
    for place in range(1, len(hours) + 1):
        if place == len(hours) or hours[place] != hours[place - 1] + 1:
            yield hours[begin], hours[place - 1]
            begin = place


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED:,} more"


def _time(seconds: float) -> str:
    return f"{seconds / HOUR_S:.1f} h" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.1f} days"
