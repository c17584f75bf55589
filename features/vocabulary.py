"""The nouns that every package shares: frozen data, numpy or pandas inside, no I/O.

Array names carry their axes: B windows, L history steps, H horizon steps, K covariates, Q levels, S static values.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError, UnknownNameError
from features.registry import nearest_names

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Aggregation = Literal["sum", "mean", "max", "last"]

# What a calendar says of a moment, in the order of a window's last channels; `features.calendar` computes them.
CALENDAR_CHANNELS: tuple[str, ...] = (
    "hour_of_day",
    "day_of_week",
    "day_of_year",
    "holiday",
    "holiday_tomorrow",
    "holiday_yesterday",
    "holiday_kind",
    "utc_offset_h",
    "day_number",
)
# First value of a window's static part: which site it is, see `site_code`.
SITE_CODE = "site_code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured thing, in one canonical unit.

    Attributes:
        name: Full word, unique in its domain.
        unit: Canonical unit, as `features.units` spells it.
        aggregation: How readings inside one step become the step's value.
        lower: Smallest possible value [unit].
        upper: Largest possible value [unit].
        description: One line for people.
    """

    name: str
    unit: str
    aggregation: Aggregation
    lower: float = -math.inf
    upper: float = math.inf
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One entity of a domain: a road, a station, a zone, a control point.

    Attributes:
        name: Unique in its domain.
        latitude: [degrees north], NaN where unknown.
        longitude: [degrees east], NaN where unknown.
        timezone: IANA name of the local clock that people there live by.
        country: ISO 3166 code for the holiday calendar, empty for none.
        subdivision: Holiday subdivision (state), empty for none.
        neighbours: Sites whose readings help here, nearest first.
        attributes: Fixed numbers about the site, such as `lanes`.
    """

    name: str
    latitude: float = math.nan
    longitude: float = math.nan
    timezone: str = "UTC"
    country: str = ""
    subdivision: str = ""
    neighbours: tuple[str, ...] = ()
    attributes: dict[str, float] = field(default_factory=dict)


def site_code(name: str) -> float:
    """A number for a site's name that a graph can look up: its CRC-32 cut to 24 bits, which float32 holds exactly."""
    return float(zlib.crc32(name.encode()) & 0xFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One forecasting problem, as plain data.

    Attributes:
        name: Unique; also the end of the API path.
        entity: What a site is called here ("road").
        targets: Quantities that are forecast.
        covariates: Quantities that are measured, besides the targets.
        known_ahead: Names of covariates that somebody forecasts (weather): where such a forecast is among the readings,
            windows hold it for the steps ahead.
        auxiliaries: Quantities kept and served, but not fed to the models.
        step_s: Length of one step [s].
        history_steps: Steps of history in a window (L).
        horizon_steps: Steps ahead that are forecast (H).
        horizons: Names that a request may use, and their steps.
        season_steps: Steps of the main season (a week).
        neighbour_count: How many neighbours' targets enter a window.
        static_names: Site attributes that enter a window.
        families: Model families that serve this domain, best first; empty until there is one.
        simulators: Names of the simulators that feed this domain.
        api_path: Path of the prediction route.
    """

    name: str
    entity: str
    targets: tuple[Quantity, ...]
    covariates: tuple[Quantity, ...]
    known_ahead: tuple[str, ...] = ()
    auxiliaries: tuple[Quantity, ...] = ()
    step_s: int = 3600
    history_steps: int = 1512
    horizon_steps: int = 24
    horizons: dict[str, int] = field(default_factory=dict)
    season_steps: int = 168
    neighbour_count: int = 0
    static_names: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    simulators: tuple[str, ...] = ()
    api_path: str = ""

    @property
    def target(self) -> Quantity:
        """The first target, the one that gates a model."""
        return self.targets[0]

    @property
    def inputs(self) -> tuple[Quantity, ...]:
        """Quantities that enter a window, in the order of its first channels."""
        return self.targets + self.covariates

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Every quantity that readings of this domain may name."""
        return self.inputs + self.auxiliaries

    def quantity(self, name: str) -> Quantity:
        """The quantity called `name`.

        Raises:
            UnknownNameError: The domain has no such quantity.
        """
        by_name = {quantity.name: quantity for quantity in self.quantities}
        if name not in by_name:
            raise UnknownNameError(
                kind=f"{self.name} quantity", name=name, nearest=nearest_names(name, list(by_name)), known=list(by_name)
            )
        return by_name[name]

    @property
    def neighbour_channels(self) -> tuple[str, ...]:
        """Channel names of the neighbours' targets."""
        return tuple(f"neighbour_{rank}_{self.target.name}" for rank in range(1, self.neighbour_count + 1))

    @property
    def measured_channels(self) -> tuple[str, ...]:
        """Channels of a window's history that come from readings."""
        return tuple(quantity.name for quantity in self.inputs) + self.neighbour_channels

    @property
    def history_channels(self) -> tuple[str, ...]:
        """All channels of `Window.history_BLK`, in order: measured, then calendar."""
        return self.measured_channels + CALENDAR_CHANNELS

    @property
    def future_channels(self) -> tuple[str, ...]:
        """All channels of `Window.future_BHK`, in order: calendar, then what is known ahead."""
        return CALENDAR_CHANNELS + self.known_ahead

    @property
    def static_channels(self) -> tuple[str, ...]:
        """All values of `Window.static_BS`, in order."""
        return (SITE_CODE, *self.static_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a model sees at an origin; nothing in it was known only after the origin.

    Attributes:
        history_BLK: Readings and calendar up to and with the origin, physical units, NaN where missing.
        future_BHK: What is known ahead (calendar, weather forecasts) for the steps after the origin, NaN where nothing
            is.
        static_BS: Site code and attributes, NaN where unknown.
        sites: Site of each window (B).
        origins: Origin of each window (B) [s since 1970, UTC].
    """

    history_BLK: Float32Array
    future_BHK: Float32Array
    static_BS: Float32Array
    sites: tuple[str, ...]
    origins: Int64Array

    def __len__(self) -> int:
        return len(self.history_BLK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What comes out: quantiles in physical units, finite and ordered by level.

    Attributes:
        quantity: Name of the target.
        unit: Its unit.
        sites: Site of each forecast (B).
        origins: Origin of each forecast (B) [s since 1970, UTC].
        step_s: Length of a step [s].
        levels: Quantile levels (Q), ascending.
        value_BHQ: Quantiles [unit].
        model: Name and version of what made it.
    """

    quantity: str
    unit: str
    sites: tuple[str, ...]
    origins: Int64Array
    step_s: int
    levels: tuple[float, ...]
    value_BHQ: Float32Array
    model: str

    def __post_init__(self) -> None:
        expected = (len(self.sites), self.value_BHQ.shape[1], len(self.levels))
        assert self.value_BHQ.shape == expected, f"value_BHQ is {self.value_BHQ.shape}, not {expected}"

    def at_level(self, level: float) -> Float32Array:
        """The quantile of one level, shape (B, H) [unit].

        Raises:
            InvalidParameterError: The forecast does not hold that level.
        """
        for index, known in enumerate(self.levels):
            if math.isclose(known, level, abs_tol=1e-9):
                return self.value_BHQ[:, :, index]
        raise InvalidParameterError(
            parameter="level",
            provided=level,
            allowed=list(self.levels),
            fact="The forecast does not hold this level",
            remedy=f"Use one of {', '.join(map(str, self.levels))}.",
        )

    def valid_at(self) -> Int64Array:
        """Moments that the values are for, shape (B, H) [s since 1970, UTC]."""
        steps = np.arange(1, self.value_BHQ.shape[1] + 1, dtype=np.int64)
        moments: Int64Array = self.origins[:, None] + steps[None, :] * self.step_s
        return moments
