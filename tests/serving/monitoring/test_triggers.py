"""Sites are called harmed by their errors, soon, and seldom for nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.evidence import NOTHING, confirmed_scores, step_bands
from serving.monitoring.realised import REALISED_COLUMNS
from serving.monitoring.report import Assessment
from serving.monitoring.triggers import assess_sites, performance_trigger

HOUR_S, DAY_S, WEEK_S = 3600, 86400, 7 * 86400
WEEKS = 30
# A Wednesday, 09:00 UTC.
END_S = int(pd.Timestamp("2026-02-04T09:00:00Z").timestamp())
SETTINGS = DetectionSettings()


def realised(*sites: str, weeks: int = WEEKS, seed: int = 0) -> pd.DataFrame:
    """Hourly forecasts one and 24 steps ahead, with errors of 4 on average that are three times as large on Sundays."""
    rng = np.random.default_rng(seed)
    parts = []
    for site in sites:
        for steps in (1, 24):
            valid_s = np.arange(END_S - weeks * WEEK_S, END_S, HOUR_S) + HOUR_S
            sunday = pd.to_datetime(valid_s - 1, unit="s").dayofweek == 6
            error = rng.normal(0, 5, len(valid_s)) * np.where(sunday, 3.0, 1.0)
            half = 1.96 * 5 * np.where(sunday, 3.0, 1.0)
            parts.append(
                pd.DataFrame(
                    {
                        "site": site,
                        "model_version": "v1",
                        "role": "champion",
                        "origin_s": valid_s - steps * HOUR_S,
                        "steps": steps,
                        "valid_s": valid_s,
                        "actual": 100.0,
                        "median": 100.0 - error,
                        "lower": 100.0 - error - half,
                        "upper": 100.0 - error + half,
                        "made_s": valid_s - steps * HOUR_S,
                        "joined_s": valid_s,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)[list(REALISED_COLUMNS)]


def moved(table: pd.DataFrame, site: str, *, by: float, hours: int) -> pd.DataFrame:
    """A table whose last hours at a site have other actuals."""
    changed = table.copy()
    changed.loc[(table["site"] == site) & (table["valid_s"] > END_S - hours * HOUR_S), "actual"] += by
    return changed


def by_site(table: pd.DataFrame, *, now_s: float = END_S, **others: object) -> dict[str, Assessment]:
    return {line.site: line for line in assess_sites(table, now_s=now_s, **others)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def town() -> pd.DataFrame:
    return realised("A", "B", "C", "D")


def test_healthy_sites_are_not_called_harmed_at_any_hour(town: pd.DataFrame) -> None:
    states = [
        line.state
        for back in range(0, 14 * 24, 66)
        for line in assess_sites(town[town["valid_s"] <= END_S - back * HOUR_S], now_s=END_S - back * HOUR_S)
    ]
    assert states.count("harmed") == 0
    assert states.count("healthy") > 0.8 * len(states)


def test_bad_sundays_are_usual_where_sundays_always_are(town: pd.DataFrame) -> None:
    sunday_evening = int(pd.Timestamp("2026-02-01T21:00:00Z").timestamp())
    found = by_site(town[town["valid_s"] <= sunday_evening], now_s=sunday_evening)
    assert {line.state for line in found.values()} == {"healthy"}
    assert all(line.score == 0.0 for line in found.values())


@pytest.mark.parametrize(("by", "hours"), [(40.0, 24), (15.0, 48)])
def test_a_level_shift_is_found_within_two_days_where_it_is(town: pd.DataFrame, by: float, hours: int) -> None:
    found = by_site(moved(town, "B", by=by, hours=hours))
    assert found["B"].state == "harmed"
    assert found["B"].score >= found["B"].limit
    assert found["B"].error > found["B"].usual_error
    assert {found[site].state for site in "ACD"} == {"healthy"}
    trigger = performance_trigger(tuple(found.values()))
    assert trigger is not None
    assert (trigger.kind, trigger.sites) == ("performance", ("B",))
    assert "times the usual" in trigger.reason


def test_an_alarm_ends_soon_after_the_harm(town: pd.DataFrame) -> None:
    was_bad = (town["site"] == "B") & (town["valid_s"] > END_S - 5 * DAY_S) & (town["valid_s"] <= END_S - 30 * HOUR_S)
    over = town.assign(actual=town["actual"].where(~was_bad, 140.0))
    found = by_site(over)["B"]
    assert found.state == "suspect"
    assert performance_trigger((found,)) is None


def test_intervals_that_miss_without_larger_errors_are_suspect_not_harm(town: pd.DataFrame) -> None:
    narrow = town.copy()
    late = (narrow["site"] == "A") & (narrow["valid_s"] > END_S - 3 * DAY_S)
    for bound, off in (("lower", -0.5), ("upper", 0.5)):
        narrow.loc[late, bound] = narrow.loc[late, "median"] + off
    found = by_site(narrow)["A"]
    assert (found.state, found.coverage < 0.7) == ("suspect", True)


def test_evidence_counts_once_it_is_confirmed() -> None:
    once = np.array([0.0, 0.0, 0.0, 0.0, 3.0])
    twice = np.array([0.0, 2.0, 0.0, 0.0, 3.0])
    ended = np.array([0.0, 2.0, 3.0, 3.0, 0.0])
    long_ago = np.array([2.0, 0.0, 0.0, 0.0, 0.0, 3.0])
    assert [confirmed_scores(found)[-1] for found in (once, twice, ended, long_ago)] == [0.0, 2.0, 0.0, 0.0]
    assert confirmed_scores(np.array([3.0]))[0] == NOTHING


def test_no_row_at_all_is_no_data() -> None:
    nothing = realised("A").iloc[:0]
    assert assess_sites(nothing, now_s=END_S) == ()
    (line,) = assess_sites(nothing, now_s=END_S, sites=["A"])
    assert (line.state, line.steps) == ("no data", 0)


def test_too_few_weeks_are_no_data() -> None:
    (line,) = assess_sites(realised("A", weeks=3), now_s=END_S)
    assert line.state == "no data"
    assert "weeks" in line.reason
    assert line.error == pytest.approx(5.0, abs=2.5)


def test_a_site_that_vanished_is_no_data_and_others_go_on(town: pd.DataFrame) -> None:
    gone = town[(town["site"] != "C") | (town["valid_s"] < END_S - 9 * DAY_S)]
    found = by_site(gone)
    assert (found["C"].state, found["C"].reason) == ("no data", "the last actual is 9 days old")
    assert found["A"].state == "healthy"


def test_a_day_almost_without_actuals_is_no_data(town: pd.DataFrame) -> None:
    last_day = (town["site"] == "A") & (town["valid_s"] > END_S - 30 * HOUR_S)
    kept = (town["valid_s"] > END_S - HOUR_S) | (town["valid_s"] <= END_S - 30 * HOUR_S)
    found = by_site(town[~last_day | kept])["A"]
    assert (found.state, "last day" in found.reason) == ("no data", True)


def test_actuals_of_the_future_other_roles_and_doubles_change_nothing(town: pd.DataFrame) -> None:
    wrong_clock = moved(town, "A", by=500.0, hours=1).tail(5)
    wrong_clock = wrong_clock.assign(valid_s=END_S + 40 * WEEK_S, actual=900.0)
    shadow = town.assign(role="shadow", median=0.0)
    crowded = pd.concat([town, wrong_clock, shadow, town.sample(500, random_state=1)])
    assert assess_sites(crowded, now_s=END_S) == assess_sites(town, now_s=END_S)


def test_a_revised_actual_replaces_the_first(town: pd.DataFrame) -> None:
    first = moved(town, "B", by=60.0, hours=48)
    revision = town.assign(joined_s=town["joined_s"] + DAY_S)
    assert by_site(pd.concat([revision, first]))["B"].state == "healthy"


def test_a_new_champion_is_compared_with_what_was_usual_before(town: pd.DataFrame) -> None:
    new = town["valid_s"] > END_S - 3 * DAY_S
    changed = moved(town, "B", by=40.0, hours=60).assign(model_version=np.where(new, "v2", "v1"))
    assert by_site(changed)["B"].state == "harmed"


def test_how_often_somebody_looks_changes_nothing(town: pd.DataFrame) -> None:
    harmed = moved(town, "B", by=40.0, hours=30)
    assert assess_sites(harmed, now_s=END_S) == assess_sites(harmed.sample(frac=1.0, random_state=3), now_s=END_S)


@pytest.mark.parametrize("factor", [0.001, 3.6])
def test_units_do_not_matter(town: pd.DataFrame, factor: float) -> None:
    table = moved(town, "B", by=40.0, hours=30)
    measured = ["actual", "median", "lower", "upper"]
    other = table.assign(**{name: factor * table[name] for name in measured})
    for line, same in zip(assess_sites(table, now_s=END_S), assess_sites(other, now_s=END_S), strict=True):
        assert (same.site, same.state) == (line.site, line.state)
        assert (same.score, same.limit) == pytest.approx((line.score, line.limit))
        assert same.error == pytest.approx(factor * line.error)


def test_one_site_alone_is_calibrated_on_its_own_weeks() -> None:
    alone = realised("A")
    assert by_site(alone)["A"].state in {"healthy", "suspect"}
    assert by_site(moved(alone, "A", by=60.0, hours=36))["A"].state == "harmed"


def test_many_steps_are_taken_together_in_bands() -> None:
    assert step_bands(np.array([24, 1, 24])).tolist() == [1, 24]
    bands = step_bands(np.arange(1, 169))
    assert (len(bands), bands[-1]) == (8, 168)
