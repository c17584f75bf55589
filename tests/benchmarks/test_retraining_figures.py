import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.retraining import Subject, run
from features.domains import DOMAINS
from features.readings import make_readings
from features.vocabulary import Site
from pipelines.rehearsal.replay import Story
from training.recipes import Recipe, SeasonalRecipe

ZONE = "US/Central"


def subject() -> Subject:
    """A road whose week is always the same, but for noise, over fifty weeks; its world changes in the thirtieth."""
    moments = pd.date_range("2016-01-04 01:00", periods=50 * 168, freq="h", tz="UTC")
    local = moments.tz_convert(ZONE)
    hour = local.hour.to_numpy()
    morning, evening = (np.exp(-((hour - peak) ** 2) / 8) for peak in (7, 17))
    usual = 800 + 2500 * morning + 1200 * evening - 300 * (local.dayofweek.to_numpy() >= 5)
    value = usual * np.random.default_rng(0).lognormal(0, 0.05, len(moments))
    readings = make_readings(site="R1", quantity="volume", valid_at=moments, value=value, source="sensor:test")
    story = Story(domain=DOMAINS["traffic"], sites=(Site(name="R1", timezone=ZONE),), readings=readings)
    recipe = Recipe(name="profile", family="seasonal", config=SeasonalRecipe())
    return Subject(story=story, recipe=recipe, change=pd.Timestamp("2016-08-01", tz=ZONE))


def test_two_cycles_bring_the_error_back_and_the_figures_say_so() -> None:
    figures = run(subject(), ("turned_day",), Console(quiet=True))["turned_day"]
    assert figures["never_retrained_mae"] > 3 * figures["unchanged_mae"]
    assert figures["without_forgetting_mae"] == figures["never_retrained_mae"]
    assert figures["week_after_second_cycle_mae"] < 0.5 * figures["week_after_first_cycle_mae"]
    assert figures["ratio"] < figures["bar"] == 1.1
    assert (figures["sites_that_forget"], figures["sites"]) == (1, 1)
    assert all(np.isfinite(value) for value in figures.values())
