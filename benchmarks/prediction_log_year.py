"""A year of hourly forecasts of many roads: logged, joined with what came, and summed up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from benchmarks.serving_subject import LEVELS, TRAFFIC
from features.quality import check_readings
from features.readings import make_readings
from features.store import ReadingStore
from features.vocabulary import Float32Array, Int64Array, Site
from serving.monitoring.realised_store import NOMINAL, RealisedStore
from serving.monitoring.settings import MonitoringSettings
from serving.prediction_log.records import ForecastRecord
from serving.prediction_log.store import PredictionStore

_STEP_S = 3600
_STEPS = 24
# 2025-01-01, hours of that year, and of what is written of it directly; then comes December.
_BEGIN_S = 1_735_689_600
_HOURS = 365 * 24
_DIRECT_HOURS = 334 * 24
_WEEK = 168
_MODEL = "traffic-lstm-v1"
# Forecasts that are entered in one transaction.
_TOGETHER = 20_000
_NOISE = 60.0
_Z = np.array([-1.96, -1.645, 0.0, 1.645, 1.96])
_NOMINAL = LEVELS[-1] - LEVELS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class YearPlan:
    """How much of a year.

    Attributes:
        roads: How many.
    """

    roads: int = 1000


class Roads:
    """What happens on roads, and what is forecast of it: a day's course, and noise that the interval knows of.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.names = np.array([f"R{number:04d}" for number in range(count)], dtype=object)
        rng = np.random.default_rng(0)
        self._phase = rng.uniform(0, 2 * np.pi, count)
        self._usual = 1500.0 + 1000.0 * np.sin(np.arange(24)[:, None] * 2 * np.pi / 24 + self._phase)
        self._noise = rng.normal(0, _NOISE, (_HOURS + _STEPS + 1, count)).astype(np.float32)

    def usual(self, hours: Int64Array) -> npt.NDArray[np.float64]:
        """What is expected at some hours of the year, shape `(*hours.shape, roads)` [veh/h]."""
        return self._usual[hours % 24]

    def actual(self, hours: Int64Array) -> npt.NDArray[np.float64]:
        """What came, likewise [veh/h]."""
        return self.usual(hours) + self._noise[hours]

    def forecasts(self, hour: int) -> Float32Array:
        """Quantiles of the 24 hours after an hour of the year, shape (roads, H, Q) [veh/h]."""
        usual = self.usual(hour + 1 + np.arange(_STEPS))
        return (usual.T[:, :, None] + _NOISE * _Z).astype("<f4")

    def sites(self) -> list[Site]:
        """All of them, on one clock."""
        return [Site(name=name, timezone="Asia/Kolkata", country="IN") for name in self.names]


def measure_year(folder: Path, plan: YearPlan, console: Console) -> dict[str, Any]:
    """All figures of a year."""
    roads = Roads(plan.roads)
    settings = MonitoringSettings(data_dir=folder)
    readings = ReadingStore(settings.readings_dir, TRAFFIC)
    readings.add_sites(roads.sites())
    realised = RealisedStore(settings.realised_dir, TRAFFIC, TRAFFIC.target.name, readings=readings)
    figures: dict[str, Any] = {"forecasts": plan.roads * _HOURS}
    with closing(PredictionStore(f"sqlite:///{folder / 'log.db'}")) as log:
        figures |= _log_and_join(log, readings, realised, roads, settings, console)
    steps = settings.steps_of(TRAFFIC)
    began = time.perf_counter()
    for frame in _realised_weeks(roads, steps):
        realised.add(frame)
        console.print(f"[dim]year: {len(frame):,} realised steps written[/dim]")
    figures["written_s"] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    realised.compact()
    figures["compacted_s"] = round(time.perf_counter() - began, 1)
    figures |= _summaries(realised, plan.roads * _HOURS * len(steps))
    figures["log_mb"] = _megabytes(folder.glob("log.db*"))
    figures["realised_mb"] = _megabytes(realised.folder.rglob("*.parquet"))
    return figures


def _log_and_join(
    log: PredictionStore,
    readings: ReadingStore,
    realised: RealisedStore,
    roads: Roads,
    settings: MonitoringSettings,
    console: Console,
) -> dict[str, Any]:
    """December, as it goes in a running town, but all at once."""
    from serving.monitoring.actuals import join_actuals

    spent_s, entered, segment = 0.0, 0, []
    for record in _december(roads):
        segment.append(record)
        if len(segment) == _TOGETHER:
            spent_s += _enter(log, segment, entered)
            entered += len(segment)
            segment = []
            console.print(f"[dim]year: {entered:,} forecasts logged[/dim]")
    spent_s += _enter(log, segment, entered)
    entered += len(segment)
    _arrive(readings, roads)
    began = time.perf_counter()
    read = sum(len(batch) for batch in log.batches(TRAFFIC.name, TRAFFIC.target.name))
    read_s = time.perf_counter() - began
    console.print("[dim]year: joining[/dim]")
    began = time.perf_counter()
    report = join_actuals(log, readings, realised, now_s=_BEGIN_S + (_HOURS + _STEPS + 1) * _STEP_S, settings=settings)
    joined_s = time.perf_counter() - began
    if read != entered:
        raise RuntimeError(f"{entered} forecasts were logged, {read} read")
    return {
        "joined_forecasts": entered,
        "entered_s": round(spent_s, 1),
        "entered_per_s": round(entered / spent_s),
        "read_per_s": round(read / read_s),
        "joined_s": round(joined_s, 1),
        "joined_per_s": round(entered / joined_s),
        "joined_steps": report.joined,
    }


def _enter(log: PredictionStore, records: list[ForecastRecord], first: int) -> float:
    began = time.perf_counter()
    log.add(f"segment-{first}", enumerate(records))
    return time.perf_counter() - began


def _december(roads: Roads) -> Iterator[ForecastRecord]:
    """Each road's forecast of each hour."""
    rng = np.random.default_rng(1)
    for hour in range(_DIRECT_HOURS, _HOURS):
        values, origin_s = roads.forecasts(hour), _BEGIN_S + hour * _STEP_S
        names = rng.bytes(8 * len(roads.names)).hex()
        for number, road in enumerate(roads.names):
            name = names[16 * number : 16 * number + 16]
            yield ForecastRecord(
                name=name,
                made_s=origin_s + 5.0,
                domain=TRAFFIC.name,
                target=TRAFFIC.target.name,
                unit=TRAFFIC.target.unit,
                site=road,
                origin_s=origin_s,
                step_s=_STEP_S,
                window=f"{name}{name}@{origin_s}",
                model_version=_MODEL,
                role="champion",
                runtime="in_process",
                levels=LEVELS,
                values=values[number].tobytes(),
            )


def _arrive(readings: ReadingStore, roads: Roads) -> None:
    """What the roads' sensors said of December, a day at a time."""
    for first in range(_DIRECT_HOURS, _HOURS + _STEPS, 24):
        hours = np.arange(first, first + 24)
        moments = pd.DatetimeIndex(((_BEGIN_S + hours * _STEP_S) * 10**9).repeat(len(roads.names))).tz_localize("UTC")
        frame = make_readings(
            site=pd.Series(np.tile(roads.names, len(hours))),
            quantity=TRAFFIC.target.name,
            valid_at=moments,
            value=roads.actual(hours).ravel(),
            source="sensor:benchmark",
        )
        readings.append(check_readings(frame, TRAFFIC), [])


def _realised_weeks(roads: Roads, steps: tuple[int, ...]) -> Iterator[pd.DataFrame]:
    """What the join writes of the months before, a week at a time."""
    ahead = np.array(steps)
    for first in range(0, _DIRECT_HOURS, _WEEK):
        hours = np.arange(first, min(first + _WEEK, _DIRECT_HOURS))
        of_hour, of_step, of_road = (
            index.ravel() for index in np.indices((len(hours), len(ahead), len(roads.names)), dtype=np.int32)
        )
        origin_s, valid = _BEGIN_S + hours * _STEP_S, hours[:, None] + ahead
        median = roads.usual(valid).ravel()
        yield pd.DataFrame(
            {
                "site": roads.names[of_road],
                "model_version": _MODEL,
                "role": "champion",
                "origin_s": origin_s[of_hour],
                "steps": ahead[of_step],
                "valid_s": _BEGIN_S + _STEP_S * valid.ravel().repeat(len(roads.names)),
                "actual": roads.actual(valid).ravel(),
                "median": median,
                "lower": median + _NOISE * _Z[0],
                "upper": median + _NOISE * _Z[-1],
                "made_s": origin_s[of_hour] + 5.0,
                "joined_s": _BEGIN_S + _STEP_S * (valid.ravel().repeat(len(roads.names)) + 1.0),
                NOMINAL: _NOMINAL,
            }
        )


def _summaries(realised: RealisedStore, expected: int) -> dict[str, Any]:
    """Two summaries, and whether they are right."""
    began = time.perf_counter()
    found = realised.summary(by=("model_version", "site", "horizon"))
    spent_s = time.perf_counter() - began
    began = time.perf_counter()
    by_hour = realised.summary()
    by_hour_s = time.perf_counter() - began
    coverage = float(np.average(found["coverage"], weights=found["count"]))
    # The interval of the made-up forecasts is that of their noise.
    if abs(coverage - _NOMINAL) > 0.01 or found["count"].sum() != by_hour["count"].sum():
        raise RuntimeError(f"coverage {coverage:.3f} in place of {_NOMINAL}, or counts differ")
    counted = int(found["count"].sum())
    return {
        "summary_s": round(spent_s, 2),
        "summary_rows": len(found),
        "summary_hour_of_week_s": round(by_hour_s, 2),
        "summary_hour_of_week_rows": len(by_hour),
        "steps_counted": counted,
        "steps_expected": expected,
        "coverage": round(coverage, 4),
        "mae": round(float(np.average(found["mae"], weights=found["count"])), 2),
    }


def _megabytes(files: Iterator[Path]) -> int:
    return round(sum(file.stat().st_size for file in files) / 1e6)
