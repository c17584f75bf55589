"""Harm that is done to readings on purpose: each kind takes a frame of readings and returns a changed copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InvalidParameterError
from features.registry import Registry

_DAY = pd.Timedelta(days=1)
# A peak where neither water nor traffic has one.
_PEAK_HOUR, _PEAK_WIDTH_H = 10.5, 1.5
_LEAST_FACTOR = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One harm to one quantity.

    Attributes:
        kind: Name of an entry of `KINDS`.
        sites: Where.
        quantity: Whose readings change, as a domain's target.
        begin: First moment that is changed, with a time zone; compared with `valid_at`.
        end: First moment that is not, None for never.
        size: How much, in the kind's own measure; None for its usual size.
        timezone: Local clock of the sites.
        driver: The quantity that a new weather effect follows.
    """

    kind: str
    sites: tuple[str, ...]
    quantity: str
    begin: pd.Timestamp
    end: pd.Timestamp | None = None
    size: float | None = None
    timezone: str = "UTC"
    driver: str = "temperature"

    def amount(self) -> float:
        """Its size, or its kind's usual one."""
        return KINDS[self.kind].usual_size if self.size is None else self.size


Change = Callable[[pd.DataFrame, pd.DataFrame, Injection], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of harm.

    Attributes:
        words: What it does, for people.
        group: Which of the four harms of the document it stands for.
        usual_size: Where none is given.
        size_words: What the size says.
        change: New values of the rows that are hit, in their order; NaN takes a row away. It is given all rows of the
            sites, then those that are hit.
    """

    words: str
    group: str
    usual_size: float
    size_words: str
    change: Change


def inject(readings: pd.DataFrame, injection: Injection) -> pd.DataFrame:
    """Readings with a harm in them.

    Args:
        readings: Columns as in `features.readings.READING_COLUMNS`; further ones stay.
        injection: What is done, where and when.

    Returns:
        A copy in the same order; rows that a lost sensor would not have sent are left out. Both clocks of a row stay:
        only values change.

    Raises:
        UnknownNameError: There is no such kind; near names are in the message.
        InvalidParameterError: No reading is hit.
    """
    kind = KINDS[injection.kind]
    here = readings["site"].isin(injection.sites)
    hit = here & (readings["quantity"] == injection.quantity) & (readings["valid_at"] >= injection.begin)
    if injection.end is not None:
        hit &= readings["valid_at"] < injection.end
    if not hit.any():
        raise InvalidParameterError(
            parameter="injection",
            provided=f"{', '.join(injection.sites)}: {injection.quantity} from {injection.begin}",
            allowed="sites, quantity and time of some readings",
            fact="An injection hits no reading",
            remedy="Name sites that have this quantity, and a time within their readings.",
        )
    changed = readings.copy()
    changed.loc[hit, "value"] = kind.change(readings[here], readings[hit], injection)
    return changed[changed["value"].notna()].reset_index(drop=True)


def _level_shift(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    return hit["value"].to_numpy() * injection.amount()


def _stuck(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    before = _before(around, injection).sort_values("valid_at", kind="stable").groupby("site")["value"].last()
    first = hit.sort_values("valid_at", kind="stable").groupby("site")["value"].first()
    values: npt.NDArray[np.float64] = hit["site"].map(before.combine_first(first)).to_numpy(dtype=np.float64)
    return values


def _silent(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    return np.full(len(hit), np.nan)


def _shifted_clock(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    return _values_of(around, hit, injection, hit["valid_at"] - pd.Timedelta(hours=injection.amount()))


def _sundays(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    # The end of a day's last step is the next midnight: it belongs to the day before.
    weekday = (_local(hit, injection) - pd.Timedelta(microseconds=1)).dt.dayofweek
    return _values_of(around, hit, injection, hit["valid_at"] - ((weekday + 1) % 7) * _DAY)


def _turned_day(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    local = _local(hit, injection)
    mirrored = hit["valid_at"] + (_DAY - 2 * (local - local.dt.floor("D")))
    share = injection.amount()
    return (1 - share) * hit["value"].to_numpy() + share * _values_of(around, hit, injection, mirrored)


def _new_peak(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    local = _local(hit, injection)
    hours = (local - local.dt.floor("D")) / pd.Timedelta(hours=1)
    bump = np.exp(-0.5 * ((hours.to_numpy() - _PEAK_HOUR) / _PEAK_WIDTH_H) ** 2)
    usual = _before(around, injection).groupby("site")["value"].mean()
    level = hit["site"].map(usual).fillna(hit["value"].mean()).to_numpy(dtype=np.float64)
    raised: npt.NDArray[np.float64] = hit["value"].to_numpy() + injection.amount() * level * bump
    return raised


def _weather_effect(around: pd.DataFrame, hit: pd.DataFrame, injection: Injection) -> npt.NDArray[np.float64]:
    driver = around[around["quantity"] == injection.driver]
    before = driver[driver["valid_at"] < injection.begin].groupby("site")["value"].agg(["mean", "std"])
    if before.empty:
        raise InvalidParameterError(
            parameter="driver",
            provided=injection.driver,
            allowed="a quantity with readings at the sites before the injection",
            fact="There is no weather for a target to follow",
            remedy="Name a measured quantity, or choose another kind of injection.",
        )
    spread = hit["site"].map(before["std"]).to_numpy(dtype=np.float64)
    deviation = (_looked_up(driver, hit, hit["valid_at"]) - hit["site"].map(before["mean"]).to_numpy()) / spread
    factor = 1 + injection.amount() * np.nan_to_num(deviation, posinf=0.0, neginf=0.0)
    followed: npt.NDArray[np.float64] = hit["value"].to_numpy() * np.maximum(factor, _LEAST_FACTOR)
    return followed


def _before(around: pd.DataFrame, injection: Injection) -> pd.DataFrame:
    return around[(around["quantity"] == injection.quantity) & (around["valid_at"] < injection.begin)]


def _local(rows: pd.DataFrame, injection: Injection) -> pd.Series:
    """Local wall clock without a zone."""
    local: pd.Series = rows["valid_at"].dt.tz_convert(injection.timezone).dt.tz_localize(None)
    return local


def _values_of(
    around: pd.DataFrame, hit: pd.DataFrame, injection: Injection, moments: pd.Series
) -> npt.NDArray[np.float64]:
    """What the same sites measured at other moments; NaN where nothing."""
    return _looked_up(around[around["quantity"] == injection.quantity], hit, moments)


def _looked_up(rows: pd.DataFrame, hit: pd.DataFrame, moments: pd.Series) -> npt.NDArray[np.float64]:
    latest = rows.sort_values("available_at", kind="stable").drop_duplicates(["site", "valid_at"], keep="last")
    asked = pd.MultiIndex.from_arrays([hit["site"], moments])
    return latest.set_index(["site", "valid_at"])["value"].reindex(asked).to_numpy(dtype=np.float64)


KINDS: Registry[Kind] = Registry("kind of injection")
for _name, _words, _group, _usual, _size_words, _change in (
    ("level_shift", "every value times a factor", "level shift", 1.5, "factor", _level_shift),
    ("stuck_sensor", "the sensor repeats its last value", "lost sensor", 1.0, "unused", _stuck),
    ("silent_sensor", "the sensor sends nothing more", "lost sensor", 1.0, "unused", _silent),
    ("shifted_clock", "the day comes later", "changed season", 6.0, "hours, negative for earlier", _shifted_clock),
    ("sundays", "weekdays go as the Sunday before", "changed season", 1.0, "unused", _sundays),
    ("turned_day", "evening takes the morning's place", "concept change", 1.0, "share of the new day", _turned_day),
    ("new_peak", "a new peak in the late morning", "concept change", 0.6, "height, as a share of the mean", _new_peak),
    (
        "weather_effect",
        "values rise with the weather",
        "concept change",
        0.3,
        "share by which they rise with each standard deviation of the driver",
        _weather_effect,
    ),
):
    KINDS.register(_name, Kind(words=_words, group=_group, usual_size=_usual, size_words=_size_words, change=_change))
