"""What the monitoring benchmark makes of alarms, on weeks whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.monitoring import OURS, figures_of
from benchmarks.monitoring_forecasts import DAY_S, HARMS, WEEK_S, Episode, ServedSeries
from benchmarks.monitoring_peers.detectors import dummy_alarms, raw_alarms, spread_cases
from benchmarks.monitoring_weeks import Case, cases_of, first_counted, our_alarms, score, watch, with_episode
from features.domains import DOMAINS
from features.readings import make_readings
from features.vocabulary import Site
from features.windows import build_panel
from pipelines.rehearsal.injections import KINDS
from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.realised import REALISED_COLUMNS

HOUR_S = 3600
BEGIN_S = int(pd.Timestamp("2025-01-06T00:00:00Z").timestamp())
WEEKS = 40
TRAFFIC = DOMAINS["traffic"]


def case(number: int, *, harmed: bool = False, episode: int | None = None, **others: object) -> Case:
    made = Case(
        number=number,
        data_set="town",
        site="A",
        begin_s=BEGIN_S + number * WEEK_S,
        ratio=3.0 if harmed else 1.0,
        harmed=harmed,
        after_harm=False,
        last_fifth=False,
        episode=episode,
    )
    return replace(made, **others)  # type: ignore[arg-type]


def realised(begin_s: int, weeks: int, *, off: float, seed: int) -> pd.DataFrame:
    """Hourly forecasts of 500 vehicles, with errors of some size."""
    rng = np.random.default_rng(seed)
    valid_s = begin_s + HOUR_S * (1 + np.arange(weeks * 168))
    actual = 500 + rng.normal(0, off, len(valid_s))
    frame = pd.DataFrame({"site": "A", "model_version": "v1", "role": "champion", "origin_s": valid_s - HOUR_S})
    frame = frame.assign(steps=1, valid_s=valid_s, actual=actual, median=500.0, lower=490.0, upper=510.0)
    return frame.assign(made_s=valid_s, joined_s=valid_s)[list(REALISED_COLUMNS)]


@pytest.fixture(scope="module")
def served() -> ServedSeries:
    """Forty weeks of one road, and two weeks of it in which something was done: harm, and nothing that matters."""
    moments = pd.date_range("2024-10-01", periods=60 * 168, freq="h", tz="UTC")
    rng = np.random.default_rng(0)
    readings = make_readings(
        site="A", quantity="volume", valid_at=moments, value=500 + rng.normal(0, 5, len(moments)), source="sensor:test"
    )
    last_s = BEGIN_S + WEEKS * WEEK_S
    panel = build_panel(TRAFFIC, [Site(name="A")], readings, first_origin_s=BEGIN_S, last_origin_s=last_s)
    episodes = tuple(
        Episode(
            kind="level_shift",
            size=size,
            site="A",
            onset_s=BEGIN_S + 33 * WEEK_S + 2 * DAY_S,
            realised=realised(BEGIN_S + 33 * WEEK_S + 2 * DAY_S, 1, off=5 * size, seed=9),
            value_T=np.full(168, 500 * size, dtype=np.float32),
        )
        for size in (6.0, 1.0)
    )
    return ServedSeries(
        data_set="town",
        panel=panel,
        target=TRAFFIC.target,
        trained_until_s=BEGIN_S,
        begin_s=BEGIN_S,
        end_s=last_s,
        realised=realised(BEGIN_S, WEEKS, off=5, seed=1),
        episodes=episodes,
    )


def test_weeks_are_labelled_by_what_came_not_by_what_was_done(served: ServedSeries) -> None:
    cases = cases_of(watch(served, DetectionSettings()), first_number=0)
    natural = [one for one in cases if one.episode is None]
    assert [one.begin_s for one in natural] == [BEGIN_S + week * WEEK_S for week in range(26, WEEKS)]
    assert not any(one.harmed for one in natural)
    assert [one.harmed for one in cases if one.episode is not None] == [True, False]
    assert {one.last_fifth for one in natural if one.begin_s < BEGIN_S + 26 * WEEK_S + DAY_S} == {False}
    assert natural[-1].last_fifth


def test_our_detectors_find_the_harm_within_a_day_and_nothing_else(served: ServedSeries) -> None:
    watched = watch(served, DetectionSettings())
    cases = cases_of(watched, first_number=0)
    counted, every = our_alarms(watched, cases)
    found = {one.number: counted[one.number] for one in cases if np.isfinite(counted[one.number])}
    (harmed,) = (one.number for one in cases if one.harmed)
    assert list(found) == [harmed]
    assert 0.25 <= found[harmed] <= 1.0
    assert counted == every


def test_a_harmed_week_takes_the_place_of_the_undisturbed_one(served: ServedSeries) -> None:
    watched = watch(served, DetectionSettings())
    grid, harmed = watched.grids["A"], with_episode(watched, served.episodes[0])
    changed = np.flatnonzero((grid.error_PT != harmed.error_PT)[0])
    begin = 33 * 168 + 48
    assert (changed.min(), changed.max()) == (begin, begin + 167)
    assert harmed.count_PT.sum() == grid.count_PT.sum()


def test_raw_measures_look_at_readings_every_day(served: ServedSeries) -> None:
    watched = watch(served, DetectionSettings())
    cases = cases_of(watched, first_number=0)
    found = raw_alarms(watched, cases)
    (harmed,) = (one.number for one in cases if one.harmed)
    assert {name: days[harmed] for name, days in found.items()} == dict.fromkeys(found, 1.0)


def test_the_first_day_after_harm_does_not_count() -> None:
    days = np.array([0.25, 1.0, 3.5])
    assert first_counted(case(0), days) == 0.25
    assert first_counted(case(0, after_harm=True), days) == 3.5
    assert first_counted(case(0, after_harm=True), days[:2]) == np.inf


def test_figures_say_rates_of_what_was_judged_and_delays_of_what_was_found() -> None:
    cases = [case(0), case(1), case(2), case(3, harmed=True)]
    cases += [case(4 + number, harmed=True, episode=number) for number in range(3)] + [case(7, episode=3), case(8)]
    alarms = {0: np.inf, 1: 2.0, 2: np.inf, 3: 1.0, 4: 0.5, 5: 1.5, 6: np.inf, 7: 4.0}
    assert score(cases, alarms) == {
        "false_alarm_rate": 0.3333,
        "recall": 0.6667,
        "delay_days": 1.0,
        "delay_days_all": 1.5,
        "recall_natural": 1.0,
        "false_alarm_rate_no_harm": 1.0,
        "healthy_weeks": 3,
        "harmed_weeks": 3,
        "harmed_weeks_natural": 1,
        "no_harm_weeks": 1,
    }
    nothing = score([], {})
    assert (nothing["recall"], nothing["delay_days"], nothing["healthy_weeks"]) == (None, None, 0)


def test_the_headline_is_the_last_fifth_of_all_data_sets_and_a_missing_peer_is_said() -> None:
    first = [case(0), case(1, last_fifth=True), case(5, harmed=True, episode=0, last_fifth=True)]
    second = [replace(one, data_set="city") for one in first]
    parts = [
        (first, {OURS: {0: 1.0, 1: np.inf, 5: 0.5}, "peer": "no wheel"}),
        (second, {OURS: {0: np.inf, 1: 3.0, 5: np.inf}, "other": {1: 1.0}}),
    ]
    figures = figures_of(parts)  # type: ignore[arg-type]
    assert (figures["false_alarm_rate"], figures["recall"], figures["delay_days"]) == (0.5, 0.5, 0.5)
    assert figures["peers_unavailable"] == {"peer": "no wheel"}
    assert figures["all"]["other"]["last_fifth"]["healthy_weeks"] == 1
    assert figures["town"][OURS]["before"]["false_alarm_rate"] == 1.0
    assert figures["recall_by_ratio"]["2_to_4"] == 0.5


def test_a_sample_of_weeks_has_all_kinds_and_the_dummy_its_rate() -> None:
    cases = [case(number, harmed=number % 5 == 0, episode=number if number % 2 else None) for number in range(100)]
    some = spread_cases(cases, 4)
    kinds = [(one.episode is None, one.harmed) for one in some]
    assert [kinds.count(kind) for kind in sorted(set(kinds))] == [4, 4, 4, 4]
    assert np.isfinite(list(dummy_alarms(cases, 0.04).values())).sum() == 4


def test_every_harm_is_a_known_kind() -> None:
    assert {kind for kind, _ in HARMS} <= set(KINDS)
    assert {KINDS[kind].group for kind, _ in HARMS} == {
        "level shift",
        "lost sensor",
        "changed season",
        "concept change",
    }
