"""Standards of the air quality index: breakpoints, averaging times and categories, as two countries publish them.

Two standards are registered:

- `india_2014`: National Air Quality Index, Central Pollution Control Board (CPCB), New Delhi, October 2014. Means over
  24 h (CO and ozone 8 h), of which at least 16 hours must be there; the index is official with three pollutants, one
  of them PM2.5 or PM10. Bands join at their upper ends, as in CPCB's calculator (which gives 51.7 at a PM2.5 of 31,
  where the report's example says 51). The table leaves the last band open: its slope continues, and the index ends at
  500. For ozone above 208 ug/m3 CPCB turns to the 1 h mean; here it stays with 8 h.
- `us_epa_2024`: Air Quality Index of the United States, 40 CFR Part 58 Appendix G as amended on 6 March 2024 (89 FR
  16202), and Technical Assistance Document EPA-454/B-24-002, May 2024. PM2.5 and PM10 only: the gases are in ppm and
  over other periods. A day's mean needs 18 of 24 hours (three quarters, 40 CFR Part 50 Appendix N); concentrations are
  cut to 0.1 ug/m3 (PM2.5) and 1 ug/m3 (PM10); beyond 500 the last band continues.

How many of 8 hours are needed CPCB does not say: 6, the same two thirds, rounded up. Categories and who is at risk in
each follow the two documents; the wording of effects and advisories is ours. Sensitive groups are people with disease
of the lungs or the heart, children, and older adults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from features.errors import UnknownNameError
from features.registry import Registry, nearest_names


@dataclass(frozen=True, slots=True, kw_only=True)
class PollutantScale:
    """How the mean concentration of one pollutant becomes its sub-index.

    Attributes:
        quantity: Name of the quantity, as in the domain `pollution`.
        averaging_h: Hours that the mean is over [h].
        needed_h: Hours of them that must be there [h].
        concentrations: Breakpoints, ascending [ug/m3].
        indices: Sub-index at each breakpoint.
        resolution: Step to which a mean is cut first [ug/m3]; 0 for no cut.
    """

    quantity: str
    averaging_h: int
    needed_h: int
    concentrations: tuple[float, ...]
    indices: tuple[float, ...]
    resolution: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A band of the index that has a name.

    Attributes:
        name: As the standard calls it.
        upper: Last whole index of the band.
        effect: Who may feel what.
        advisory: What to do.
    """

    name: str
    upper: float
    effect: str
    advisory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AirQualityStandard:
    """One country's index.

    Attributes:
        name: Unique.
        title: What people call it.
        scales: One for each pollutant.
        categories: Ascending; the last has no upper end.
        needed_pollutants: How many sub-indices an official index takes.
        needed_any: Pollutants of which one must be among them.
        largest: Where the index ends.
    """

    name: str
    title: str
    scales: tuple[PollutantScale, ...]
    categories: tuple[Category, ...]
    needed_pollutants: int
    needed_any: tuple[str, ...]
    largest: float = math.inf

    def scale(self, quantity: str) -> PollutantScale:
        """The scale of a pollutant.

        Raises:
            UnknownNameError: The standard has none; near ones are named.
        """
        by_name = {scale.quantity: scale for scale in self.scales}
        if quantity not in by_name:
            known = list(by_name)
            raise UnknownNameError(
                kind=f"pollutant of {self.name}", name=quantity, nearest=nearest_names(quantity, known), known=known
            )
        return by_name[quantity]


def _india(quantity: str, *concentrations: float, hours: int = 24) -> PollutantScale:
    # CPCB 2014: breakpoints of the six bands, the index being 0, 50, 100, 200, 300 and 400 there.
    return PollutantScale(
        quantity=quantity,
        averaging_h=hours,
        needed_h=math.ceil(hours * 16 / 24),
        concentrations=concentrations,
        indices=(0.0, 50.0, 100.0, 200.0, 300.0, 400.0),
    )


STANDARDS: Registry[AirQualityStandard] = Registry("air quality standard")
STANDARDS.register(
    "india_2014",
    AirQualityStandard(
        name="india_2014",
        title="National Air Quality Index of India (CPCB 2014)",
        scales=(
            _india("pm2_5", 0.0, 30.0, 60.0, 90.0, 120.0, 250.0),
            _india("pm10", 0.0, 50.0, 100.0, 250.0, 350.0, 430.0),
            _india("no2", 0.0, 40.0, 80.0, 180.0, 280.0, 400.0),
            _india("o3", 0.0, 50.0, 100.0, 168.0, 208.0, 748.0, hours=8),
            # The table is in mg/m3: 1, 2, 10, 17 and 34.
            _india("co", 0.0, 1_000.0, 2_000.0, 10_000.0, 17_000.0, 34_000.0, hours=8),
            _india("so2", 0.0, 40.0, 80.0, 380.0, 800.0, 1_600.0),
            _india("nh3", 0.0, 200.0, 400.0, 800.0, 1_200.0, 1_800.0),
        ),
        categories=(
            Category(
                name="Good",
                upper=50,
                effect="Little or no effect on health",
                advisory="No restriction on outdoor activity",
            ),
            Category(
                name="Satisfactory",
                upper=100,
                effect="Sensitive people may feel slight discomfort in breathing",
                advisory="Unusually sensitive people should watch for symptoms outdoors",
            ),
            Category(
                name="Moderate",
                upper=200,
                effect="Sensitive groups may find breathing uncomfortable",
                advisory="Sensitive groups should limit outdoor activity",
            ),
            Category(
                name="Poor",
                upper=300,
                effect="Longer exposure makes breathing uncomfortable for most people",
                advisory="Sensitive groups should avoid exertion outdoors, and everyone else should limit it",
            ),
            Category(
                name="Very Poor",
                upper=400,
                effect="Longer exposure can bring on illness of the airways",
                advisory="Sensitive groups should stay indoors, and everyone else should avoid exertion outdoors",
            ),
            Category(
                name="Severe",
                upper=math.inf,
                effect="Healthy people are affected too, and people with existing disease seriously",
                advisory="Everyone should stay indoors with windows closed and avoid exertion",
            ),
        ),
        needed_pollutants=3,
        needed_any=("pm2_5", "pm10"),
        largest=500.0,
    ),
)

_EPA_INDICES = (0.0, 50.0, 51.0, 100.0, 101.0, 150.0, 151.0, 200.0, 201.0, 300.0, 301.0, 500.0)
STANDARDS.register(
    "us_epa_2024",
    AirQualityStandard(
        name="us_epa_2024",
        title="Air Quality Index of the United States (EPA 2024), particles",
        scales=(
            PollutantScale(
                quantity="pm2_5",
                averaging_h=24,
                needed_h=18,
                concentrations=(0.0, 9.0, 9.1, 35.4, 35.5, 55.4, 55.5, 125.4, 125.5, 225.4, 225.5, 325.4),
                indices=_EPA_INDICES,
                resolution=0.1,
            ),
            PollutantScale(
                quantity="pm10",
                averaging_h=24,
                needed_h=18,
                concentrations=(0.0, 54.0, 55.0, 154.0, 155.0, 254.0, 255.0, 354.0, 355.0, 424.0, 425.0, 604.0),
                indices=_EPA_INDICES,
                resolution=1.0,
            ),
        ),
        categories=(
            Category(
                name="Good",
                upper=50,
                effect="Little or no risk to health",
                advisory="No restriction on outdoor activity",
            ),
            Category(
                name="Moderate",
                upper=100,
                effect="Unusually sensitive people may have symptoms",
                advisory="Unusually sensitive people should shorten or lighten exertion outdoors",
            ),
            Category(
                name="Unhealthy for Sensitive Groups",
                upper=150,
                effect="Sensitive groups may be affected, most people are not",
                advisory="Sensitive groups should limit outdoor activity",
            ),
            Category(
                name="Unhealthy",
                upper=200,
                effect="Some healthy people may be affected, and sensitive groups more seriously",
                advisory="Sensitive groups should avoid exertion outdoors, and everyone else should limit it",
            ),
            Category(
                name="Very Unhealthy",
                upper=300,
                effect="Everyone is at a higher risk",
                advisory="Sensitive groups should stay indoors, and everyone else should avoid exertion outdoors",
            ),
            Category(
                name="Hazardous",
                upper=math.inf,
                effect="Everyone is likely to be affected",
                advisory="Everyone should stay indoors with windows closed and avoid exertion",
            ),
        ),
        needed_pollutants=1,
        needed_any=("pm2_5", "pm10"),
    ),
)
