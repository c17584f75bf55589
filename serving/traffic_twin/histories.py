"""What is known of the demand at control points before an origin, and what is assumed where nothing is.

Array names carry their axes: P control points, T steps of one history and one horizon after it, K inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from features.domains.demand import DEMAND, TRIPS
from features.errors import NotEnoughDataError
from features.feast_repository import FeatureRepository
from features.online_history import OnlineHistory
from features.vocabulary import Float32Array, Site
from sim_env.traffic.control_points import BASELINE
from sim_env.traffic.engine import Control

# `measured` is recent; `moved` is old, and stands some whole weeks later; `assumed` is the profile of other sites.
HistoryKind = Literal["measured", "moved", "assumed"]
_TRIPS = DEMAND.inputs.index(TRIPS)
_WEEK_S = DEMAND.season_steps * DEMAND.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDemand:
    """All sites of the demand domain, and their last histories."""

    sites: Mapping[str, Site]
    histories: Mapping[str, OnlineHistory]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandHistory:
    """The history of every control point up to one origin.

    Attributes:
        sites: A site for each control, with its baseline flow as an attribute; named as the control is.
        value_PTK: Its inputs, NaN where nothing is known [trip/h of that baseline].
        kinds: Where each comes from.
    """

    sites: tuple[Site, ...]
    value_PTK: Float32Array
    kinds: tuple[HistoryKind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A site with readings, cut at an origin."""

    site: Site
    value_TK: Float32Array
    moved: bool
    own_baseline: bool

    @property
    def baseline(self) -> float:
        return self.site.attributes[BASELINE]


def read_demand(repository: FeatureRepository) -> KnownDemand:
    """What the online store holds; blocks, and is to be called from one thread.

    Raises:
        NotEnoughDataError: The online store was never filled.
    """
    if not repository.exists():
        raise _nothing_known(str(repository.folder))
    sites = repository.readings.sites()
    return KnownDemand(sites=sites, histories=repository.online(list(sites)) if sites else {})


def history_at(
    known: KnownDemand, controls: Sequence[Control], *, origin_s: int, began_s: int, stale_after_s: float
) -> DemandHistory:
    """The history of every control at an origin.

    A control whose name is that of a site has that site's readings. Where these end more than `stale_after_s` before
    the run began, they are moved by as many whole weeks as it takes, without the weather, which does not repeat. A
    control that nobody has measured gets the mean profile of the known sites, scaled to its baseline.

    Args:
        known: Sites and their histories.
        controls: The control points (P).
        origin_s: The origin [s since 1970].
        began_s: The first origin of the run [s since 1970].
        stale_after_s: Oldest last reading that a forecast may build on [s].

    Raises:
        NotEnoughDataError: No site has a reading.
    """
    measured = {
        name: found
        for name, history in known.histories.items()
        if (found := _measured(known.sites[name], history, origin_s, began_s, stale_after_s)) is not None
    }
    if not measured:
        raise _nothing_known(f"{len(known.sites)} sites, none with trips")
    profile: _Measured | None = None
    sites: list[Site] = []
    values: list[Float32Array] = []
    kinds: list[HistoryKind] = []
    for control in controls:
        own = measured.get(control.control_id)
        if own is None:
            profile = profile or _profile(list(measured.values()))
            own = _scaled(profile, control)
            kinds.append("assumed")
        else:
            kinds.append("moved" if own.moved else "measured")
        sites.append(own.site)
        values.append(own.value_TK)
    return DemandHistory(sites=tuple(sites), value_PTK=np.stack(values), kinds=tuple(kinds))


def _measured(
    site: Site, history: OnlineHistory, origin_s: int, began_s: int, stale_after_s: float
) -> _Measured | None:
    """A site's history at an origin; None where it has no trips to go by."""
    step_s, length = DEMAND.step_s, DEMAND.history_steps
    present = np.flatnonzero(np.isfinite(history.value_TK[:length, _TRIPS]))
    if not len(present):
        return None
    last_s = history.valid_until_s - (length - 1 - int(present[-1])) * step_s
    moved = began_s - last_s > stale_after_s
    if moved:
        weeks = math.ceil((began_s - last_s) / _WEEK_S)
        trips_alone = np.full_like(history.value_TK, np.nan)
        trips_alone[:length, _TRIPS] = history.value_TK[:length, _TRIPS]
        history = OnlineHistory(valid_until_s=history.valid_until_s + weeks * _WEEK_S, value_TK=trips_alone)
    value = history.around(origin_s, step_s=step_s)
    own = site.attributes.get(BASELINE, 0.0)
    trips = value[:length, _TRIPS].astype(np.float64)
    baseline = own if own > 0 else float(np.nanmean(trips)) if np.isfinite(trips).any() else 0.0
    if not baseline > 0:
        return None
    named = dataclasses.replace(site, attributes={**site.attributes, BASELINE: baseline})
    return _Measured(site=named, value_TK=value, moved=moved, own_baseline=own > 0)


def _profile(measured: Sequence[_Measured]) -> _Measured:
    """The mean over sites of trips relative to the baseline; over true control points alone where there are any."""
    chosen = [one for one in measured if one.own_baseline] or list(measured)
    stacked = np.stack([one.value_TK for one in chosen]).astype(np.float64)
    stacked[:, :, _TRIPS] /= np.array([one.baseline for one in chosen])[:, None]
    number = np.isfinite(stacked).sum(axis=0)
    mean = np.where(number > 0, np.nansum(stacked, axis=0) / np.maximum(number, 1), np.nan)
    return dataclasses.replace(chosen[0], value_TK=mean.astype(np.float32))


def _scaled(profile: _Measured, control: Control) -> _Measured:
    value = profile.value_TK.copy()
    # A control without any flow has a profile all the same: its multiplier multiplies nothing.
    baseline = control.baseline_veh_per_hour or 1.0
    value[:, _TRIPS] *= baseline
    site = dataclasses.replace(profile.site, name=control.control_id, neighbours=(), attributes={BASELINE: baseline})
    return dataclasses.replace(profile, site=site, value_TK=value)


def _nothing_known(found: str) -> NotEnoughDataError:
    return NotEnoughDataError(
        "There are no readings of demand that a forecast could start from",
        found=found,
        remedy="Run `towncast train demand`, or ingest readings and run `towncast materialise demand`; "
        "`--model none` keeps every multiplier at 1.",
    )
