"""Conversion to canonical units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.errors import UnitError
from features.units import convert


@pytest.mark.parametrize(
    ("value", "unit", "to", "expected"),
    [
        (0.0, "K", "degC", -273.15),
        (50.0, "F", "degC", 10.0),
        (50.0, "°F", "degC", 10.0),
        (3.0, "C", "degC", 3.0),
        (36.0, "km/h", "m/s", 10.0),
        (36.0, "kmh", "m/s", 10.0),
        (10.0, "mph", "km/h", 16.09344),
        (1.0, "mg/m3", "ug/m3", 1000.0),
        (36.0, "m3/h", "L/s", 10.0),
        (2.0, "veh/min", "veh/h", 120.0),
        (1013.25, "mbar", "hPa", 1013.25),
        (50.0, "%", "percent", 50.0),
        (0.5, "dimensionless", "percent", 50.0),
        (1.0, "inch/h", "mm/h", 25.4),
    ],
)
def test_what_people_write_becomes_canonical(value: float, unit: str, to: str, expected: float) -> None:
    assert convert([value], unit=unit, to=to)[0] == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["zork", "kg", "", "veh/", "veh(", "1 2", "m/s"])
def test_a_wrong_unit_names_the_right_one(unit: str) -> None:
    with pytest.raises(UnitError, match="converts to veh/h"):
        convert([1.0], unit=unit, to="veh/h")


def test_missing_values_stay_missing() -> None:
    np.testing.assert_array_equal(convert([np.nan, 273.15], unit="K", to="degC"), [np.nan, 0.0])


@pytest.mark.parametrize("unit", sorted({q.unit for domain in DOMAINS.values() for q in domain.quantities}))
def test_every_canonical_unit_is_known(unit: str) -> None:
    with pytest.raises(UnitError):
        convert([1.0], unit=unit, to="candela")


@settings(deadline=None)
@given(
    value=st.floats(-1e6, 1e6), pair=st.sampled_from([("K", "degC"), ("F", "degC"), ("mph", "km/h"), ("m3/h", "L/s")])
)
def test_there_and_back_is_where_it_was(value: float, pair: tuple[str, str]) -> None:
    unit, to = pair
    back = convert(convert([value], unit=unit, to=to), unit=to, to=unit)[0]
    assert back == pytest.approx(value, abs=1e-6)
