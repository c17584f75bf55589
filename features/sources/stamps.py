"""Time stamps as people write them -> moments in UTC, each that cannot be read with its reason."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataError, InvalidParameterError
from features.registry import nearest_names

UNREADABLE = "unreadable time stamp"
EMPTY = "empty time stamp"
SKIPPED = "local time that the clocks skip"
TWICE = "local time that comes twice"

RepeatedHour = Literal["first", "in_order", "reject"]
_OFFSET = r"[Tt ]\d\d.*(?:[zZ]|[+-]\d\d(?::?\d\d)?)\s*$"
_EPOCHS: dict[str, Literal["s", "ms"]] = {"epoch_s": "s", "epoch_ms": "ms"}
_MOMENT: Final = "datetime64[us, UTC]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Stamps that were read.

    Attributes:
        moment: UTC, NaT where there is a reason.
        reason: Why a stamp was not read, empty where it was.
        repeated: How many stamps fell into an hour that the clocks run through twice.
    """

    moment: pd.Series
    reason: pd.Series
    repeated: int


def check_timezone(name: str) -> str:
    """`name`, if it is an IANA time zone.

    Raises:
        InvalidParameterError: It is not; the message names near ones.
    """
    known = zoneinfo.available_timezones()
    if name not in known:
        near = nearest_names(name, sorted(known)) or ["US/Central", "Europe/Rome", "Asia/Kolkata"]
        raise InvalidParameterError(
            parameter="tz",
            provided=name,
            allowed="IANA time zone names",
            fact="The time zone is unknown",
            remedy=f"Use an IANA name such as {', '.join(near)}.",
        )
    return name


def parse_stamps(
    raw: pd.Series, *, tz: str, stamp_format: str = "", repeated_hour: RepeatedHour, group: pd.Series | None = None
) -> Moments:
    """Read stamps; those with an offset are honoured, those without are on the clock of `tz`.

    Text is ISO 8601 unless `stamp_format` says otherwise, for a guess between 1/2 and 2/1 would be silent. In autumn
    the clocks run through an hour twice: there, `"first"` takes each stamp as the first pass (daylight time), and
    `"in_order"` takes two rows of one stamp (and group) as first and second pass, any other number as the first, and
    `"reject"` reads none of them.

    Args:
        raw: Text, numbers or datetimes.
        tz: IANA name, or empty if all stamps have offsets.
        stamp_format: A `strptime` pattern, `epoch_s` or `epoch_ms`; empty for ISO 8601.
        repeated_hour: What to make of the hour that comes twice.
        group: What tells independent series apart (the site), if there are several.

    Returns:
        Moments, on the index of `raw`.

    Raises:
        DataError: Stamps have no offset and `tz` is empty, or no stamp at all can be read.
    """
    empty = raw.isna() | (raw.astype(str).str.strip() == "") if raw.dtype == object else raw.isna()
    local, moment = _read(raw, stamp_format)
    naive = local.notna()
    skipped, rejected, repeated = pd.Series(False, index=raw.index), pd.Series(False, index=raw.index), 0
    if naive.any():
        if not tz:
            raise DataError(
                "The time stamps carry no offset, and no time zone is given",
                found=repr(str(raw[naive].iloc[0])),
                remedy="Give the IANA name of the clock that they were read from, such as --tz US/Central.",
            )
        clock = pd.DatetimeIndex(local[naive])
        twice = np.asarray(clock.tz_localize(tz, ambiguous="NaT", nonexistent="shift_forward").isna(), dtype=np.bool_)
        first = _first_pass(clock, twice, repeated_hour, None if group is None else group[naive])
        found = clock.tz_localize(tz, ambiguous=first, nonexistent="NaT")
        skipped[naive] = found.isna()
        rejected[naive] = twice & (repeated_hour == "reject")
        moment = moment.where(~naive, pd.Series(index=raw.index, dtype=_MOMENT))
        moment[naive] = found.tz_convert("UTC").as_unit("us")
        moment[rejected] = pd.NaT
        repeated = int(twice.sum())
    unreadable = moment.isna() & ~empty & ~skipped & ~rejected
    reason = pd.Series("", index=raw.index, dtype=object)
    reason[empty], reason[skipped], reason[rejected], reason[unreadable] = EMPTY, SKIPPED, TWICE, UNREADABLE
    if unreadable.any() and moment.isna().all():
        raise DataError(
            "No time stamp can be read",
            found=repr(str(raw[unreadable].iloc[0])),
            remedy="Write ISO 8601 (2024-05-01 13:00), or give its pattern: --timestamp-format '%d/%m/%Y %H:%M'.",
        )
    return Moments(moment=moment, reason=reason, repeated=repeated)


def _read(raw: pd.Series, stamp_format: str) -> tuple[pd.Series, pd.Series]:
    """Stamps without an offset as naive datetimes, and those with one in UTC; NaT where it is not of that kind."""
    none_local = pd.Series(pd.NaT, index=raw.index, dtype="datetime64[us]")
    none_utc = pd.Series(pd.NaT, index=raw.index, dtype=_MOMENT)
    if isinstance(raw.dtype, pd.DatetimeTZDtype):
        return none_local, raw.dt.tz_convert("UTC").astype(_MOMENT)
    if pd.api.types.is_datetime64_dtype(raw.dtype):
        return raw.astype("datetime64[us]"), none_utc
    if stamp_format in _EPOCHS:
        numbers = pd.to_numeric(raw, errors="coerce").astype(np.float64)
        moments = pd.to_datetime(numbers, unit=_EPOCHS[stamp_format], errors="coerce", utc=True)
        return none_local, moments.astype(_MOMENT)
    text = raw.astype(str).str.strip().where(raw.notna())
    pattern = stamp_format or "ISO8601"
    offset = text.str.contains(_OFFSET, regex=True, na=False) if not stamp_format else text.notna() & ("%z" in pattern)
    local = pd.to_datetime(text.where(~offset), format=pattern, errors="coerce")
    known = pd.to_datetime(text.where(offset), format=pattern, errors="coerce", utc=True)
    return local.astype("datetime64[us]"), known.astype(_MOMENT)


def _first_pass(
    clock: pd.DatetimeIndex, twice: npt.NDArray[np.bool_], repeated_hour: RepeatedHour, group: pd.Series | None
) -> npt.NDArray[np.bool_]:
    """For each stamp whether it is the first pass of an hour that comes twice."""
    first = np.ones(len(clock), dtype=np.bool_)
    if repeated_hour == "in_order" and twice.any():
        rows = pd.DataFrame({"stamp": clock[twice]})
        rows["group"] = "" if group is None else group.to_numpy()[twice]
        groups = rows.groupby(["stamp", "group"], dropna=False)["stamp"]
        pair = (groups.transform("size") == 2).to_numpy()
        first[twice] = ~((groups.cumcount() == 1).to_numpy() & pair)
    return first
