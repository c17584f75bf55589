"""Quality checks: what fails goes to quarantine with its reason, nothing is dropped silently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.readings import KEY_COLUMNS, READING_COLUMNS, epoch_s
from features.vocabulary import Domain

# Distance from the hour-of-week median, in robust standard deviations, at which a reading is flagged (never removed).
OUTLIER_DEVIATIONS = 8.0
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution; Rousseeuw and Croux 1993, doi:10.2307/2291267
_HOUR_S, _WEEK_HOURS = 3600, 168


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Readings after the checks.

    Attributes:
        accepted: Good rows, with a column `outlier` [bool].
        quarantined: Bad rows, with a column `reason`.
    """

    accepted: pd.DataFrame
    quarantined: pd.DataFrame

    def reasons(self) -> dict[str, int]:
        """How many rows each reason sent to quarantine, most first."""
        return {str(reason): int(count) for reason, count in self.quarantined["reason"].value_counts().items()}


# What a row is refused for that says no more than one before it.
REPEATED = "repeated row"


def check_readings(readings: pd.DataFrame, domain: Domain) -> Checked:
    """Sort readings into accepted and quarantined ones, by `refusal_reasons`.

    Args:
        readings: Columns as in `READING_COLUMNS`, values in canonical units.
        domain: Names the quantities and their bounds.

    Returns:
        Both parts; together they hold each row of `readings` once.
    """
    frame = readings[list(READING_COLUMNS)].reset_index(drop=True)
    reason = refusal_reasons(frame, domain)
    accepted = frame[reason == ""].reset_index(drop=True)
    quarantined = frame[reason != ""].assign(reason=reason[reason != ""]).reset_index(drop=True)
    return Checked(accepted=accepted.assign(outlier=flag_outliers(accepted)), quarantined=quarantined)


def refusal_reasons(readings: pd.DataFrame, domain: Domain) -> pd.Series:
    """Why each row is refused; empty where it is not.

    Checked are, in this order: a quantity that the domain knows, a finite value, the quantity's bounds, clocks that are
    in order (not available before it was true, unless it is of a kind that is forecast), exact repetition, and two
    values for one key.

    Args:
        readings: Columns as in `READING_COLUMNS`, values in canonical units, rows numbered from 0.
        domain: Names the quantities and their bounds.
    """
    frame = readings
    reason = pd.Series("", index=frame.index, dtype=object)

    def mark(bad: pd.Series, text: pd.Series | str) -> None:
        chosen = bad & (reason == "")
        reason[chosen] = text[chosen] if isinstance(text, pd.Series) else text

    by_name = {quantity.name: quantity for quantity in domain.quantities}
    mark(~frame["quantity"].isin(list(by_name)), "unknown quantity")
    mark(~np.isfinite(frame["value"]), "not a number")
    lower = frame["quantity"].map({name: quantity.lower for name, quantity in by_name.items()})
    upper = frame["quantity"].map({name: quantity.upper for name, quantity in by_name.items()})
    bounds = {name: f"outside {q.lower:g} to {q.upper:g} {q.unit} ({name})" for name, q in by_name.items()}
    mark((frame["value"] < lower) | (frame["value"] > upper), frame["quantity"].map(bounds))
    early = (frame["available_at"] < frame["valid_at"]) & ~frame["quantity"].isin(domain.known_ahead)
    mark(early, "available before it was true")
    good = frame[reason == ""]
    mark(good.duplicated([*KEY_COLUMNS, "value"]).reindex(frame.index, fill_value=False), REPEATED)
    good = frame[reason == ""]
    mark(good.duplicated(KEY_COLUMNS).reindex(frame.index, fill_value=False), "second value for the same moment")
    return reason


def flag_outliers(readings: pd.DataFrame) -> pd.Series:
    """True for each reading far from the median of its site, quantity and hour of the week."""
    if readings.empty:
        return pd.Series(dtype=bool)
    hour_of_week = epoch_s(readings["valid_at"]) // _HOUR_S % _WEEK_HOURS
    groups = [readings["site"], readings["quantity"], pd.Series(hour_of_week, index=readings.index)]
    distance = (readings["value"] - readings["value"].groupby(groups).transform("median")).abs()
    deviation = _MAD_TO_DEVIATION * distance.groupby(groups).transform("median")
    # An hour of the week that hardly varies (rain is mostly none) would flag everything: half of the quantity's own
    # standard deviation is the floor.
    floor = 0.5 * readings["value"].groupby([readings["site"], readings["quantity"]]).transform("std").fillna(0.0)
    return distance > OUTLIER_DEVIATIONS * np.maximum(deviation, floor)
