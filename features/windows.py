"""Readings on a regular grid (`Panel`), and the one function that cuts windows from it for training and for serving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.calendar import calendar_features
from features.errors import NotEnoughDataError
from features.readings import epoch_s
from features.vocabulary import (
    CALENDAR_CHANNELS,
    Aggregation,
    Domain,
    Float32Array,
    Int64Array,
    Quantity,
    Site,
    Window,
    site_code,
)

# An observation stands in for a forecast of the hours after it that have none, for at most so many steps.
_CARRIED_STEPS = 6
_ALWAYS_KNOWN = np.iinfo(np.int32).min


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """Cells whose value changed after it was first known, ordered by row, then by the moment of the change.

    Attributes:
        flat: Row of the cell in the flattened site x time grid.
        channel: Channel of the cell.
        available_at_s: When the new value became known [s since 1970].
        value: The new value.
    """

    flat: Int64Array
    channel: Int64Array
    available_at_s: Int64Array
    value: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Some sites' channels on one grid, each measured cell with the moment it was first known.

    The grid begins one history before the first origin and ends one horizon after the last, so that every origin
    between them has a whole window.

    Attributes:
        domain: Whose channels these are.
        sites: The sites (S).
        start_s: First moment of the grid [s since 1970, UTC].
        value_STK: First-known values, measured channels then calendar channels; NaN where missing.
        delay_STM: How long after its moment a measured cell became known [s], negative for a forecast; 0 where it is
            missing.
        static_SS: Site code and attributes, NaN where unknown.
        revisions: Later values of measured cells.
        longest_delay_steps: Steps after which every cell's first value was known.
    """

    domain: Domain
    sites: tuple[Site, ...]
    start_s: int
    value_STK: Float32Array
    delay_STM: npt.NDArray[np.int32]
    static_SS: Float32Array
    revisions: Revisions
    longest_delay_steps: int

    @property
    def moments_s(self) -> Int64Array:
        """Moments of the grid, shape (T,) [s since 1970, UTC]."""
        return self.start_s + np.arange(self.value_STK.shape[1], dtype=np.int64) * self.domain.step_s

    @property
    def first_origin(self) -> int:
        """Index of the first origin with a whole history."""
        return self.domain.history_steps - 1

    @property
    def last_origin(self) -> int:
        """Index of the last origin whose horizon is on the grid."""
        return int(self.value_STK.shape[1]) - self.domain.horizon_steps - 1

    @property
    def has_delays(self) -> bool:
        """Whether any cell became known after its moment, or was revised."""
        return self.longest_delay_steps > 0 or len(self.revisions.flat) > 0

    @property
    def channels_ahead(self) -> Int64Array:
        """Measured channels that are known ahead, in the domain's order."""
        names = [quantity.name for quantity in self.domain.inputs]
        return np.array([names.index(name) for name in self.domain.known_ahead], dtype=np.int64)

    def observed_ahead(self) -> Float32Array:
        """What the covariates that are known ahead turned out to be, shape (S, T, A).

        A forecast has no gaps where a sensor has them, and a gap may tell of the target (no trips, no row): the last
        value is carried over some hours.
        """
        channels = self.channels_ahead
        observed = np.empty((*self.value_STK.shape[:2], len(channels)), dtype=np.float32)
        for position, channel in enumerate(channels):
            table = pd.DataFrame(self.final_ST(int(channel)).T)
            observed[:, :, position] = table.ffill(limit=_CARRIED_STEPS).to_numpy().T
        return observed

    def index_of(self, origin_s: int) -> int:
        """Grid index of a moment.

        Raises:
            NotEnoughDataError: The moment is off the grid, or between two steps.
        """
        index, remainder = divmod(origin_s - self.start_s, self.domain.step_s)
        if remainder or not self.first_origin <= index <= self.last_origin:
            moments = self.moments_s
            first, last = (str(np.datetime64(int(moments[i]), "s")) for i in (self.first_origin, self.last_origin))
            raise NotEnoughDataError(
                "No window can be cut at this origin",
                found=str(np.datetime64(int(origin_s), "s")),
                remedy=f"Choose a whole step of {self.domain.step_s} s from {first} to {last} UTC.",
            )
        return index

    def target_ST(self, target: Quantity | None = None) -> Float32Array:
        """What a target, by default the first, turned out to be, all revisions applied, shape (S, T) [its unit]."""
        return self.final_ST(0 if target is None else self.domain.targets.index(target))

    def final_ST(self, channel: int) -> Float32Array:
        """What a measured channel turned out to be, all revisions applied, shape (S, T) [its unit]."""
        final: Float32Array = self.value_STK[:, :, channel].copy()
        chosen = self.revisions.channel == channel
        # Of several revisions of a cell the last one written stays.
        final.reshape(-1)[self.revisions.flat[chosen]] = self.revisions.value[chosen]
        return final


def build_panel(
    domain: Domain, sites: list[Site], readings: pd.DataFrame, *, first_origin_s: int, last_origin_s: int
) -> Panel:
    """Put readings on the grid.

    Readings inside a step (its end included) become the step's value by the quantity's aggregation. A step with several
    readings, or with revisions, changes its value each time that one of them becomes known; all of it is kept.

    Args:
        domain: Names the channels.
        sites: Sites of the panel; neighbours that are not among them stay missing.
        readings: Key columns and `value`; all revisions. Rows of other sites are passed over.
        first_origin_s: First moment at which a window can be cut [s since 1970].
        last_origin_s: Last one.

    Returns:
        The panel of `sites`.
    """
    step_s = domain.step_s
    start_s = first_origin_s - (domain.history_steps - 1) * step_s
    steps = (last_origin_s - start_s) // step_s + 1 + domain.horizon_steps
    names = [site.name for site in sites]
    inputs = [quantity.name for quantity in domain.inputs]
    value = np.full((len(sites), steps, len(inputs)), np.nan, dtype=np.float32)
    delay = np.zeros((len(sites), steps, len(inputs)), dtype=np.int32)
    chosen = readings["site"].isin(names) & readings["quantity"].isin(inputs)
    states = _cell_states(domain, readings[chosen], start_s=start_s, steps=steps)
    site_index = pd.Index(names).get_indexer(pd.Index(states["site"]))
    channel = pd.Index(inputs).get_indexer(pd.Index(states["quantity"]))
    cell = states["cell"].to_numpy(dtype=np.int64)
    known_s = states["available_at_s"].to_numpy(dtype=np.int64)
    values = states["value"].to_numpy(dtype=np.float32)
    first = ~states.duplicated(["site", "quantity", "cell"]).to_numpy()
    value[site_index[first], cell[first], channel[first]] = values[first]
    limits = np.iinfo(np.int32)
    lateness = np.clip(known_s - (start_s + cell * step_s), limits.min, limits.max)
    delay[site_index[first], cell[first], channel[first]] = lateness[first]
    later = ~first
    revisions = Revisions(
        flat=(site_index * steps + cell)[later],
        channel=channel[later],
        available_at_s=known_s[later],
        value=values[later],
    )
    return _assemble(domain, sites, start_s=start_s, inputs_STK=value, delay_STK=delay, revisions=revisions)


def panel_from_blocks(domain: Domain, sites: list[Site], blocks_STK: Float32Array, *, origin_s: int) -> Panel:
    """A panel of one origin, from what is known there already (the online store's).

    Args:
        domain: Names the channels.
        sites: The sites (S).
        blocks_STK: The inputs over the last L steps up to the origin, and as far as the H after it are given, NaN where
            nothing is known.
        origin_s: The only origin [s since 1970].
    """
    start_s = origin_s - (domain.history_steps - 1) * domain.step_s
    shape = (len(sites), domain.history_steps + domain.horizon_steps, blocks_STK.shape[2])
    whole = np.full(shape, np.nan, dtype=np.float32)
    whole[:, : blocks_STK.shape[1]] = blocks_STK
    delay = np.zeros(shape, dtype=np.int32)
    delay[:, domain.history_steps :] = _ALWAYS_KNOWN
    nothing = np.empty(0, dtype=np.int64)
    return _assemble(
        domain,
        sites,
        start_s=start_s,
        inputs_STK=whole,
        delay_STK=delay,
        revisions=Revisions(flat=nothing, channel=nothing, available_at_s=nothing, value=nothing.astype(np.float32)),
    )


def _assemble(
    domain: Domain,
    sites: list[Site],
    *,
    start_s: int,
    inputs_STK: Float32Array,
    delay_STK: npt.NDArray[np.int32],
    revisions: Revisions,
) -> Panel:
    """Add the neighbours' channels and the calendar to the inputs."""
    steps, inputs = inputs_STK.shape[1:]
    measured = len(domain.measured_channels)
    value = np.full((len(sites), steps, measured + len(CALENDAR_CHANNELS)), np.nan, dtype=np.float32)
    value[:, :, :inputs] = inputs_STK
    delay = np.zeros((len(sites), steps, measured), dtype=np.int32)
    delay[:, :, :inputs] = delay_STK
    flats, channels = [revisions.flat], [revisions.channel]
    moments, numbers = [revisions.available_at_s], [revisions.value]
    for rank, source, receiver in _neighbours(domain, sites):
        value[receiver, :, inputs + rank] = value[source, :, 0]
        delay[receiver, :, inputs + rank] = delay[source, :, 0]
        taken = (revisions.flat // steps == source) & (revisions.channel == 0)
        flats.append(revisions.flat[taken] + (receiver - source) * steps)
        channels.append(np.full(int(taken.sum()), inputs + rank, dtype=np.int64))
        moments.append(revisions.available_at_s[taken])
        numbers.append(revisions.value[taken])
    order = np.lexsort((np.concatenate(moments), np.concatenate(flats)))
    grid_s = start_s + np.arange(steps, dtype=np.int64) * domain.step_s
    for index, site in enumerate(sites):
        value[index, :, measured:] = calendar_features(grid_s, site)
    static = [
        [site_code(site.name), *(site.attributes.get(name, np.nan) for name in domain.static_names)] for site in sites
    ]
    return Panel(
        domain=domain,
        sites=tuple(sites),
        start_s=int(start_s),
        value_STK=value,
        delay_STM=delay,
        longest_delay_steps=-(-int(delay.max(initial=0)) // domain.step_s),
        static_SS=np.asarray(static, dtype=np.float32).reshape(len(sites), len(domain.static_channels)),
        revisions=Revisions(
            flat=np.concatenate(flats)[order],
            channel=np.concatenate(channels)[order],
            available_at_s=np.concatenate(moments)[order],
            value=np.concatenate(numbers)[order],
        ),
    )


def _neighbours(domain: Domain, sites: list[Site]) -> list[tuple[int, int, int]]:
    """Triples of rank, index of the neighbour, index of the site.

    A rank belongs to one neighbour whether it has readings or not: who is there differs between training and serving.
    """
    index = {site.name: position for position, site in enumerate(sites)}
    return [
        (rank, index[name], index[site.name])
        for site in sites
        for rank, name in enumerate(site.neighbours[: domain.neighbour_count])
        if name in index
    ]


def _cell_states(domain: Domain, readings: pd.DataFrame, *, start_s: int, steps: int) -> pd.DataFrame:
    """What each cell's value was from when on: rows `site, quantity, cell, available_at_s, value`, in order of time."""
    frame = pd.DataFrame(
        {
            "site": readings["site"].to_numpy(),
            "quantity": readings["quantity"].to_numpy(),
            "cell": -((start_s - epoch_s(readings["valid_at"])) // domain.step_s),
            "valid_at": readings["valid_at"].to_numpy(dtype="datetime64[us]"),
            "available_at": readings["available_at"].to_numpy(dtype="datetime64[us]"),
            "available_at_s": epoch_s(readings["available_at"]),
            "value": readings["value"].to_numpy(dtype=np.float64),
        }
    )
    frame = frame[(frame["cell"] >= 0) & (frame["cell"] < steps)]
    # By the exact moments: of two changes within one second the later has the last word.
    frame = frame.sort_values(["site", "quantity", "cell", "available_at", "valid_at"], kind="stable")
    crowded = frame.duplicated(["site", "quantity", "cell"], keep=False)
    frame = frame.drop(columns="available_at")
    if not crowded.any():
        return frame.drop(columns="valid_at")
    how: dict[str, Aggregation] = {quantity.name: quantity.aggregation for quantity in domain.inputs}
    parts = [frame[~crowded].drop(columns="valid_at")]
    for (site, quantity, cell), group in frame[crowded].groupby(["site", "quantity", "cell"], sort=False):
        known: dict[pd.Timestamp, float] = {}
        states: dict[int, float] = {}
        for valid, available, number in zip(group["valid_at"], group["available_at_s"], group["value"], strict=True):
            known[valid] = number
            states[available] = _aggregate(known, how[str(quantity)])
        parts.append(
            pd.DataFrame(
                {
                    "site": site,
                    "quantity": quantity,
                    "cell": cell,
                    "available_at_s": list(states),
                    "value": list(states.values()),
                }
            )
        )
    joined = pd.concat(parts, ignore_index=True)
    return joined.sort_values(["site", "quantity", "cell", "available_at_s"], kind="stable")


def _aggregate(known: dict[pd.Timestamp, float], how: Aggregation) -> float:
    numbers = [known[moment] for moment in sorted(known)]
    match how:
        case "sum":
            return float(sum(numbers))
        case "mean":
            return float(sum(numbers) / len(numbers))
        case "max":
            return float(max(numbers))
        case "last":
            return float(numbers[-1])


def make_windows(
    panel: Panel, site_index_B: npt.ArrayLike, origin_B: npt.ArrayLike, *, observed_STA: Float32Array | None = None
) -> Window:
    """Cut windows at given sites and origins, as they were known at each origin.

    Args:
        panel: Readings on the grid.
        site_index_B: Index of each window's site in `panel.sites`.
        origin_B: Grid index of each window's origin, between `panel.first_origin` and `panel.last_origin`.
        observed_STA: What the covariates that are known ahead turned out to be (`Panel.observed_ahead`): given in place
            of what was known of them, as if a perfect forecast had been there. For training and judging, which say so.

    Returns:
        The windows; without `observed_STA` no value with an availability after its origin is in them.
    """
    domain = panel.domain
    site_index = np.asarray(site_index_B, dtype=np.int64)
    origin = np.asarray(origin_B, dtype=np.int64)
    if len(origin) and (origin.min() < panel.first_origin or origin.max() > panel.last_origin):
        for index in (int(origin.min()), int(origin.max())):
            panel.index_of(int(panel.start_s + index * domain.step_s))
    sites, steps, channels = panel.value_STK.shape
    length, horizon, measured = domain.history_steps, domain.horizon_steps, panel.delay_STM.shape[2]

    first_row = site_index * steps + origin - length + 1
    flat = panel.value_STK.reshape(sites * steps, channels)
    # A loop of block copies: numpy's fancy indexing of a sliding view takes about twice as long.
    history = np.empty((len(origin), length, channels), dtype=np.float32)
    for position, row in enumerate(first_row):
        history[position] = flat[row : row + length]
    if panel.has_delays:
        recent = min(panel.longest_delay_steps, length)
        every = np.arange(measured)
        _hide_unknown(panel, history[:, :, :measured], first_row, origin, every, unsure_from=length - recent)
    future = np.full((len(origin), horizon, len(domain.future_channels)), np.nan, dtype=np.float32)
    future_row = site_index * steps + origin + 1
    future_rows = future_row[:, None] + np.arange(horizon)
    calendar = len(CALENDAR_CHANNELS)
    future[:, :, :calendar] = flat[future_rows, measured:]
    channels_ahead = panel.channels_ahead
    if observed_STA is not None:
        future[:, :, calendar:] = observed_STA.reshape(sites * steps, -1)[future_rows]
    elif len(channels_ahead):
        future[:, :, calendar:] = flat[future_rows[:, :, None], channels_ahead]
        _hide_unknown(panel, future[:, :, calendar:], future_row, origin, channels_ahead, unsure_from=0)
    return Window(
        history_BLK=history,
        future_BHK=future,
        static_BS=panel.static_SS[site_index],
        sites=tuple(panel.sites[index].name for index in site_index),
        origins=panel.start_s + origin * domain.step_s,
    )


def _hide_unknown(
    panel: Panel,
    values_BTK: Float32Array,
    first_row: Int64Array,
    origin: Int64Array,
    channels: Int64Array,
    *,
    unsure_from: int,
) -> None:
    """Blank the cells that were unknown at each origin, and apply the revisions that were known, in place.

    Args:
        panel: Where the cells come from.
        values_BTK: T steps of some channels.
        first_row: Row of each window's first step in the flattened grid.
        origin: Grid index of each origin.
        channels: Panel channel of each of the K.
        unsure_from: Steps before this one were all known by the origin.
    """
    step_s, steps = panel.domain.step_s, panel.delay_STM.shape[1]
    rows = first_row[:, None] + np.arange(unsure_from, values_BTK.shape[1])
    delays = panel.delay_STM.reshape(-1, panel.delay_STM.shape[2])[rows[:, :, None], channels]
    age_s = (origin[:, None] - rows % steps) * step_s
    values_BTK[:, unsure_from:][delays > age_s[:, :, None]] = np.nan
    revisions = panel.revisions
    if len(revisions.flat) == 0:
        return
    position_of = np.full(panel.delay_STM.shape[2], -1, dtype=np.int64)
    position_of[channels] = np.arange(len(channels))
    begins = np.searchsorted(revisions.flat, first_row)
    ends = np.searchsorted(revisions.flat, first_row + values_BTK.shape[1])
    origin_s = panel.start_s + origin * step_s
    for window, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        known = revisions.available_at_s[begin:end] <= origin_s[window]
        wanted = position_of[revisions.channel[begin:end]] >= 0
        chosen = begin + np.flatnonzero(known & wanted)
        step = revisions.flat[chosen] - first_row[window]
        # Of several revisions of a cell the last one written stays.
        values_BTK[window, step, position_of[revisions.channel[chosen]]] = revisions.value[chosen]
