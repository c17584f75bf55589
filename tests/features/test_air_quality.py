"""The air quality index: published values, edges, properties, and the index of a real file."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.air_quality import advisory, aqi_from_hourly, category, health_effect, sub_index, trailing_mean
from features.air_quality_standards import STANDARDS
from features.domains.pollution import POLLUTION
from features.errors import InvalidParameterError, UnknownNameError
from features.sources.cpcb_delhi import read_cpcb_delhi

SCALES = [(standard.name, scale.quantity) for standard in STANDARDS.values() for scale in standard.scales]


@pytest.mark.parametrize(
    ("quantity", "concentration", "index"),
    [
        # CPCB 2014, table of breakpoints and the report's example (PM2.5 of 45 and 60).
        ("pm2_5", 0.0, 0.0),
        ("pm2_5", 45.0, 75.0),
        ("pm2_5", 60.0, 100.0),
        ("pm2_5", 250.0, 400.0),
        ("pm10", 100.0, 100.0),
        ("pm10", 430.0, 400.0),
        ("no2", 180.0, 200.0),
        ("o3", 208.0, 300.0),
        ("co", 1_000.0, 50.0),
        ("co", 10_000.0, 200.0),
        ("so2", 800.0, 300.0),
        ("nh3", 1_800.0, 400.0),
        # The open band continues, and the index ends.
        ("pm2_5", 315.0, 450.0),
        ("pm2_5", 380.0, 500.0),
        ("pm10", 5_000.0, 500.0),
    ],
)
def test_india_2014_gives_the_published_values(quantity: str, concentration: float, index: float) -> None:
    assert sub_index(concentration, quantity) == pytest.approx(index)


@pytest.mark.parametrize(
    ("quantity", "concentration", "index"),
    [
        # EPA-454/B-24-002, Table 6.
        ("pm2_5", 9.0, 50.0),
        ("pm2_5", 9.09, 50.0),
        ("pm2_5", 9.1, 51.0),
        ("pm2_5", 35.4, 100.0),
        ("pm2_5", 55.4, 150.0),
        ("pm2_5", 125.4, 200.0),
        ("pm2_5", 225.4, 300.0),
        ("pm2_5", 225.5, 301.0),
        ("pm2_5", 325.4, 500.0),
        ("pm10", 54.9, 50.0),
        ("pm10", 155.0, 101.0),
        ("pm10", 604.0, 500.0),
    ],
)
def test_us_epa_2024_gives_the_published_values(quantity: str, concentration: float, index: float) -> None:
    assert sub_index(concentration, quantity, standard="us_epa_2024") == pytest.approx(index)
    single = sub_index(np.float32(concentration), quantity, standard="us_epa_2024")
    assert single == pytest.approx(index)


def test_beyond_the_scale_of_the_united_states_the_last_band_continues() -> None:
    assert sub_index(425.4, "pm2_5", standard="us_epa_2024") > 600


@given(
    chosen=st.sampled_from(SCALES),
    pair=st.tuples(st.floats(0, 5e4), st.floats(0, 5e4)),
)
def test_more_in_the_air_is_never_a_lower_index(chosen: tuple[str, str], pair: tuple[float, float]) -> None:
    low, high = sub_index(sorted(pair), chosen[1], standard=chosen[0])
    assert 0.0 <= low <= high <= STANDARDS[chosen[0]].largest


@given(quantity=st.sampled_from([name for standard, name in SCALES if standard == "india_2014"]), share=st.floats(0, 2))
def test_the_indian_index_has_no_jumps(quantity: str, share: float) -> None:
    scale = STANDARDS["india_2014"].scale(quantity)
    concentration, step = share * scale.concentrations[-1], 1e-6 * scale.concentrations[-1]
    before, after = sub_index([concentration, concentration + step], quantity)
    steepest = max(np.diff(scale.indices) / np.diff(scale.concentrations))
    assert after - before <= steepest * step * 1.001 + 1e-9


@pytest.mark.parametrize("standard", list(STANDARDS))
def test_bands_meet_at_the_edges_of_the_categories(standard: str) -> None:
    chosen = STANDARDS[standard]
    edges = [entry.upper for entry in chosen.categories]
    assert edges == sorted(edges)
    assert math.isinf(edges[-1])
    for number, entry in enumerate(chosen.categories[:-1]):
        assert category(entry.upper, standard=standard) == entry.name
        assert category(entry.upper + 0.49, standard=standard) == entry.name
        assert category(entry.upper + 0.5, standard=standard) == chosen.categories[number + 1].name
    for scale in chosen.scales:
        assert set(edges[:-1]) <= set(scale.indices)
        assert np.all(np.diff(scale.concentrations) > 0)
        assert 0 < scale.needed_h <= scale.averaging_h


@pytest.mark.parametrize("standard", list(STANDARDS))
def test_every_category_says_something_of_its_own(standard: str) -> None:
    categories = STANDARDS[standard].categories
    for texts in ([entry.name for entry in categories], [entry.effect for entry in categories]):
        assert all(texts)
        assert len(set(texts)) == len(categories)
    assert len({entry.advisory for entry in categories}) == len(categories)


def test_words_for_an_index() -> None:
    assert (category(175), advisory(175)) == ("Moderate", "Sensitive groups should limit outdoor activity")
    assert health_effect(20) == "Little or no effect on health"
    assert category(175, standard="us_epa_2024") == "Unhealthy"
    assert category(float("nan")) == advisory(float("nan")) == ""
    assert category(np.array([[10.0, 450.0], [np.nan, 100.0]])).tolist() == [["Good", "Severe"], ["", "Satisfactory"]]


def test_a_mean_needs_enough_hours() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, np.nan, np.nan])
    expected = [np.nan, 1.5, 1.5, 3.0, np.nan, np.nan]
    np.testing.assert_allclose(trailing_mean(values, hours=3, needed=2), expected)
    np.testing.assert_allclose(trailing_mean([values, values], hours=3, needed=2), [expected, expected])


def test_sixteen_of_twenty_four_hours_make_an_index() -> None:
    quality = aqi_from_hourly({"pm2_5": np.full(30, 45.0)})
    assert np.isnan(quality.index[:15]).all()
    assert (quality.index[15:] == 75.0).all()
    assert quality.pollutant.tolist() == [""] * 15 + ["pm2_5"] * 15


def test_the_worst_pollutant_decides() -> None:
    quality = aqi_from_hourly({"pm2_5": np.full(24, 30.0), "pm10": np.full(24, 80.0), "o3": np.full(24, 10.0)})
    assert quality.index[-1] == 80.0
    assert quality.pollutant[-1] == "pm10"
    assert quality.sub_indices["o3"][5] == pytest.approx(10.0)
    assert np.isnan(quality.sub_indices["o3"][4])


@pytest.mark.parametrize(
    ("pollutants", "official"),
    [
        (("pm2_5", "pm10"), False),
        (("pm2_5", "no2", "o3"), True),
        (("no2", "o3", "co", "so2"), False),
    ],
)
def test_an_official_index_takes_three_pollutants_and_particles(pollutants: tuple[str, ...], official: bool) -> None:
    quality = aqi_from_hourly({name: np.full(24, 50.0) for name in pollutants})
    assert bool(quality.official[-1]) is official
    assert not quality.official[0]
    assert np.isfinite(quality.index[-1])


def test_a_forecast_looks_back_on_measured_hours() -> None:
    rng = np.random.default_rng(5)
    whole = {name: rng.uniform(10, 200, size=(3, 96)) for name in ("pm2_5", "pm10", "co")}
    ahead = {name: values[:, 48:] for name, values in whole.items()}
    past = {name: values[:, :48] for name, values in whole.items()}
    expected = aqi_from_hourly(whole)
    found = aqi_from_hourly(ahead, history=past)
    np.testing.assert_array_equal(found.index, expected.index[:, 48:])
    np.testing.assert_array_equal(found.official, expected.official[:, 48:])
    short = {name: values[:, -24:] for name, values in past.items()}
    np.testing.assert_array_equal(aqi_from_hourly(ahead, history=short).index, found.index)


def test_one_history_serves_all_levels_of_a_forecast() -> None:
    levels = np.stack([np.full(48, value) for value in (20.0, 40.0, 80.0)])
    quality = aqi_from_hourly({"pm2_5": levels}, history={"pm2_5": np.full(30, 40.0), "no2": np.full(30, 399.0)})
    assert quality.index.shape == (3, 48)
    assert np.isfinite(quality.index).all()
    assert (np.diff(quality.index, axis=0) > 0).all()
    assert set(quality.pollutant.ravel()) == {"pm2_5"}


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(UnknownNameError, match="pm2_5"):
        sub_index(1.0, "pm25")
    with pytest.raises(UnknownNameError, match="india_2014"):
        sub_index(1.0, "pm2_5", standard="india")
    with pytest.raises(InvalidParameterError, match="no shape in common"):
        aqi_from_hourly({})
    with pytest.raises(InvalidParameterError, match="no shape in common"):
        aqi_from_hourly({"pm2_5": np.ones(3), "pm10": np.ones(4)})


def test_the_pollution_domain_measures_what_the_indices_take() -> None:
    measured = {quantity.name for quantity in POLLUTION.quantities if quantity.unit == "ug/m3"}
    assert measured <= {scale.quantity for scale in STANDARDS["india_2014"].scales}
    assert {"pm2_5", "pm10"} <= measured


@pytest.mark.skipif("TOWNCAST_DATA" not in os.environ, reason="TOWNCAST_DATA does not name the folder of real data")
def test_the_index_of_delhi_agrees_with_the_file() -> None:
    readings = read_cpcb_delhi(Path(os.environ["TOWNCAST_DATA"])).readings
    days = readings.pivot_table(index="valid_at", columns="quantity", values="value")
    # The file's index is a mean over a day of the index of trailing 24 h means: those reach half into the day before.
    means = (days + days.shift(1)) / 2
    names = [str(name) for name in means if name != "air_quality_index"]
    ours = np.fmax.reduce([sub_index(means[name], name) for name in names])
    both = np.isfinite(ours) & days["air_quality_index"].notna().to_numpy()
    theirs = days["air_quality_index"].to_numpy()[both]
    ours = ours[both]
    bands = [entry.upper for entry in STANDARDS["india_2014"].categories]
    apart = np.abs(np.searchsorted(bands, np.floor(ours + 0.5)) - np.searchsorted(bands, theirs))
    assert len(ours) > 1_900
    assert np.corrcoef(ours, theirs)[0, 1] > 0.93
    assert np.mean(apart == 0) > 0.68
    assert np.mean(apart <= 1) > 0.98
