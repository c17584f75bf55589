import dataclasses
import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from features.domains import DOMAINS
from features.errors import DataError, InvalidParameterError, UnknownNameError
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from pipelines.commands.rehearsal import forget_rehearsal, render_rehearsed
from pipelines.rehearsal.diary import (
    Diary,
    Event,
    Harm,
    Recovery,
    Rehearsed,
    SiteWeek,
    read_diary,
    read_rehearsed,
)
from pipelines.rehearsal.jobs import cause_of
from pipelines.rehearsal.outcome import alarms_at_untouched_sites
from pipelines.rehearsal.plot import save_plot
from pipelines.rehearsal.rehearse import RehearsalPlan, harmed_story, planned_harms, rehearse
from pipelines.rehearsal.replay import Story, domain_of
from serving.monitoring.detection_settings import DetectionSettings
from training.recipes import RECIPES, Recipe, SeasonalRecipe

BEGIN = pd.Timestamp("2016-08-01", tz="US/Central")
WEEK_S = 7 * 86400.0


def story(weeks: int = 4) -> Story:
    moments = pd.date_range("2016-08-01 01:00", periods=weeks * 168, freq="h", tz="US/Central")
    value = 1000 + 500 * np.sin(np.arange(len(moments)) / 24 * 2 * np.pi)
    sites = (Site(name="R1", timezone="US/Central"), Site(name="R2", timezone="US/Central"))
    parts = [
        make_readings(site=site.name, quantity="volume", valid_at=moments, value=value, source="sensor:test")
        for site in sites
    ]
    return Story(domain=DOMAINS["traffic"], sites=sites, readings=join_readings(parts))


def diary(**facts: object) -> Diary:
    harm = Harm(kind="level_shift", sites=("R1",), begin_s=BEGIN.timestamp(), end_s=None, size=1.5)
    usual = Diary(
        plan="p",
        begin_s=BEGIN.timestamp(),
        end_s=BEGIN.timestamp() + 4 * WEEK_S,
        harms=(harm,),
        now_s=BEGIN.timestamp() + WEEK_S,
    )
    return dataclasses.replace(usual, **facts)  # type: ignore[arg-type]


def rehearsed() -> Rehearsed:
    begin_s = BEGIN.timestamp()
    one = diary().harms[0]
    retrained = Event(at_s=begin_s + 2 * WEEK_S, kind="retrained", cause="performance", model_version="v2")
    weeks = tuple(
        SiteWeek(site=site, begin_s=begin_s + week * WEEK_S, error=10.0 + week, coverage=0.9, steps=100)
        for site in ("R1", "R2")
        for week in range(4)
    )
    return Rehearsed(
        diary=diary(events=(retrained,)),
        domain="traffic",
        target="volume",
        unit="veh/h",
        weeks=weeks,
        recoveries=(
            Recovery(
                harm=one,
                detected_s=begin_s + 2 * 86400,
                retrained_s=(begin_s + 2 * WEEK_S,),
                before=9.0,
                worst=30.0,
                last=11.0,
                unhelped=25.0,
                fresh=10.5,
            ),
        ),
        false_alarms=1,
        healthy_site_weeks=20,
        natural_alarms=2,
        natural_site_weeks=3,
        readings=1000,
        forecasts=50,
        nominal_coverage=0.95,
    )


def test_an_alarm_about_a_week_that_was_harmed_by_itself_is_not_false() -> None:
    begin_s = BEGIN.timestamp()
    errors = {"R1": [10.0] * 8, "R2": [10.0, 11.0, 9.0, 10.0, 10.0, 16.0, 10.0, 12.0]}
    weeks = [
        SiteWeek(site=site, begin_s=begin_s + number * WEEK_S, error=error, coverage=0.9, steps=100)
        for site, line in errors.items()
        for number, error in enumerate(line)
    ]

    def alarm(site: str, week: int, cause: str = "") -> Event:
        return Event(at_s=begin_s + (week + 1) * WEEK_S, kind="alarm", sites=(site,), cause=cause)

    # R1 is harmed from its first day on; of R2 the first four weeks have nothing to be compared with.
    events = (alarm("R1", 2, "level_shift"), alarm("R2", 5), alarm("R2", 7), alarm("R2", 7))
    found = alarms_at_untouched_sites(diary(events=events), weeks, settings=DetectionSettings())
    assert found == {"false_alarms": 2, "healthy_site_weeks": 3, "natural_alarms": 1, "natural_site_weeks": 1}


def test_harm_is_spread_over_the_replay_and_some_sites_stay_healthy() -> None:
    kinds = ("level_shift", "turned_day", "stuck_sensor", "sundays")
    harms = planned_harms(kinds, [f"Z{number}" for number in range(10)], begin=BEGIN, weeks=26)
    assert [harm.kind for harm in harms] == list(kinds)
    hit = [site for harm in harms for site in harm.sites]
    assert len(hit) == len(set(hit)) == 8
    assert harms[0].begin_s - BEGIN.timestamp() > 4 * WEEK_S
    assert [harm.end_s is None for harm in harms] == [True, True, False, True]


def test_where_all_share_one_site_each_injection_ends_when_the_next_begins() -> None:
    harms = planned_harms(("level_shift", "turned_day"), ["R1"], begin=BEGIN, weeks=10)
    assert harms[0].end_s == harms[1].begin_s
    assert harms[1].end_s is None
    assert planned_harms((), ["R1"], begin=BEGIN, weeks=10) == ()


def test_a_harmed_story_differs_where_it_was_planned_alone() -> None:
    before = story()
    harm = Harm(kind="level_shift", sites=("R2",), begin_s=BEGIN.timestamp() + WEEK_S, end_s=None, size=2.0)
    after = harmed_story(before, (harm,))
    changed = before.readings["value"].to_numpy() != after.readings["value"].to_numpy()
    assert set(before.readings.loc[changed, "site"]) == {"R2"}
    assert before.readings.loc[changed, "valid_at"].min() == pd.Timestamp(harm.begin_s, unit="s", tz="UTC")


def test_readings_arrive_once() -> None:
    told = story()
    moments = [BEGIN + pd.Timedelta(hours=12 * number) for number in range(9)]
    parts = [told.between(first, second) for first, second in itertools.pairwise(moments)]
    assert sum(map(len, parts)) == len(told.until(moments[-1]))


def test_an_alarm_is_due_to_the_injection_that_lasts() -> None:
    assert cause_of(diary(), "R1") == "level_shift"
    assert cause_of(diary(), "R2") == ""
    early = diary(now_s=BEGIN.timestamp() - 86400)
    assert cause_of(early, "R1") == ""


def test_a_diary_is_kept_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "diary.json"
    assert read_diary(path) is None
    kept = diary().with_event(Event(at_s=1.0, kind="alarm", sites=("R1",), words="worse"))
    kept.save(path)
    assert read_diary(path) == kept
    path.write_text("{")
    with pytest.raises(DataError, match="--anew"):
        read_diary(path)


def test_the_picture_and_the_tables_are_made_of_what_was_kept(tmp_path: Path) -> None:
    found = rehearsed()
    found.save(tmp_path / "rehearsal.json")
    assert read_rehearsed(tmp_path / "rehearsal.json") == found
    path = save_plot(found, tmp_path / "rehearsal.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_rehearsed(found))
    text = console.export_text()
    assert "2 days" in text
    assert "1 false alarms in 20 healthy site-weeks (5.0%), 2 alarms in 3 that were harmed" in text


def test_domains_and_injections_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="not rehearsed"):
        domain_of("pollution")
    plan = RehearsalPlan(domain="water", folder=tmp_path, kinds=("level_shft",))
    with pytest.raises(UnknownNameError, match="level_shift"):
        rehearse(plan, console=Console(quiet=True))


def test_only_a_rehearsal_is_removed_to_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(InvalidParameterError, match="something else"):
        forget_rehearsal(tmp_path)
    diary().save(tmp_path / "rehearsal" / "diary.json")
    forget_rehearsal(tmp_path / "rehearsal")
    assert not (tmp_path / "rehearsal").exists()
    forget_rehearsal(tmp_path / "rehearsal")


@pytest.fixture
def _profile() -> Iterator[None]:
    """A recipe that is trained at once, for these tests alone."""
    recipes = RECIPES["traffic"]
    before = dict(recipes._entries)
    recipes.register("profile", Recipe(name="profile", family="seasonal", config=SeasonalRecipe()))
    yield
    recipes._entries.clear()
    recipes._entries.update(before)


def _write_metro_like(folder: Path) -> None:
    """A file in the format of the published one: half a year of made-up traffic."""
    rng = np.random.default_rng(0)
    moments = pd.date_range("2016-01-04", periods=28 * 168, freq="h")
    shape = 3000 + 2000 * np.sin((moments.hour - 8) / 24 * 2 * np.pi) - 800 * (moments.dayofweek >= 5)
    frame = pd.DataFrame(
        {
            "holiday": "None",
            "temp": 285.0,
            "rain_1h": 0.0,
            "snow_1h": 0.0,
            "clouds_all": 40,
            "weather_main": "Clouds",
            "weather_description": "scattered clouds",
            "date_time": moments.strftime("%Y-%m-%d %H:%M:%S"),
            "traffic_volume": np.round(shape * rng.lognormal(0, 0.08, len(moments))).astype(int),
        }
    )
    frame.to_csv(folder / "Metro_Interstate_Traffic_Volume.csv", index=False)


@pytest.mark.usefixtures("_profile")
def test_a_fortnight_goes_through_the_running_api(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_metro_like(tmp_path)
    plan = RehearsalPlan(
        domain="traffic",
        folder=tmp_path / "rehearsal",
        data=tmp_path,
        weeks=2,
        kinds=("level_shift",),
        recipe="profile",
        look_days=7,
        retrain_weeks=2,
    )
    plan.folder.mkdir()
    shutil.copy(empty_store, plan.folder / "mlflow.db")
    for name, value in plan.environment().items():
        monkeypatch.setenv(name, value)
    found = rehearse(plan, console=Console(quiet=True))
    # Those that were asked for, and what the API makes ahead as it starts.
    assert 2 * 2 * 7 <= found.forecasts <= 2 * 2 * 7 + 2
    assert found.readings >= 2 * 168
    kinds = [event.kind for event in found.diary.events]
    assert kinds[0] == "trained"
    assert kinds.count("injected") == 1
    assert "failed" not in kinds
    assert {"retrained", "refused"} & set(kinds)
    assert {week.site for week in found.weeks} == {"I-94-ATR-301"}
    assert found.recoveries[0].worst > found.recoveries[0].before
    # What is over is not replayed again; another plan does not go on with it.
    again = rehearse(plan, console=Console(quiet=True))
    assert again.forecasts == found.forecasts
    with pytest.raises(InvalidParameterError, match="Another rehearsal"):
        rehearse(dataclasses.replace(plan, weeks=3), console=Console(quiet=True))
