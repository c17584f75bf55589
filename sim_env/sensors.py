"""What sensors make of the truth: noise, outages, late arrivals; and the readings that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.readings import join_readings, make_readings
from sim_env.traffic.shapes import Array, episodes


def outages(rng: np.random.Generator, sites: int, hours: int, *, per_week: float) -> npt.NDArray[np.bool_]:
    """Hours (sites, hours) in which a sensor is out, for 3 to 48 hours at a time."""
    absent = episodes(rng, sites, hours, per_week=per_week, hours_low=3, hours_high=48)
    # A sensor that is out for the whole of a short run would make its site unheard of.
    absent[absent.all(axis=1), 0] = False
    return absent


def delays_h(rng: np.random.Generator, sites: int, hours: int, *, late_share: float) -> npt.NDArray[np.int64]:
    """By how much each hour's readings come late, 0 to 3 [h], (sites, hours)."""
    late = rng.random((sites, hours)) < late_share
    return np.where(late, rng.integers(1, 4, (sites, hours)), 0)


def hourly_readings(
    names: Sequence[str],
    moments: pd.DatetimeIndex,
    table: Mapping[str, Array],
    *,
    delay_h: npt.NDArray[np.int64],
    source: str,
) -> pd.DataFrame:
    """Readings from arrays by quantity, each (sites, hours) or (hours); NaN is no reading.

    Args:
        names: Of the sites.
        moments: End of each hour.
        table: Values by quantity, in its unit.
        delay_h: How much later than its moment each hour is known, (sites, hours) [h].
        source: `sim:<engine>:<scenario>@<hash>`.
    """
    shape = (len(names), len(moments))
    site = pd.Series(np.repeat(list(names), shape[1]).astype(object))
    valid_at = pd.DatetimeIndex(np.tile(moments.tz_convert("UTC").tz_localize(None).to_numpy(), shape[0]), tz="UTC")
    available_at = valid_at + pd.to_timedelta(delay_h.ravel(), unit="h")
    return join_readings(
        [
            make_readings(
                site=site,
                quantity=name,
                valid_at=valid_at,
                available_at=available_at,
                value=np.broadcast_to(values, shape).ravel(),
                source=source,
            )
            for name, values in table.items()
        ]
    )
