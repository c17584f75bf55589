"""What drives the engine: a multiplier for each control point and control interval.

Array names carry their axes: P control points, I control intervals, H hours ahead.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from features.domains.demand import DEMAND, TRIPS
from features.errors import ArtifactError, InvalidParameterError
from features.vocabulary import Float32Array, Forecast
from features.windows import make_windows, panel_from_blocks
from serving.artifacts import Artifact
from serving.runtimes.base import Runtime
from serving.traffic_twin.histories import DemandHistory, HistoryKind, KnownDemand, history_at
from sim_env.traffic.control_points import BASELINE
from sim_env.traffic.engine import Control, FloatArray, IntArray
from sim_env.traffic.inflow import InflowPlan, plan_inflow

_LOG = logging.getLogger(__name__)
_HOUR_S = DEMAND.step_s
_TRIPS = DEMAND.inputs.index(TRIPS)


class MultiplierSource(Protocol):
    """Gives the multipliers of each control interval, and learns what became of them."""

    @property
    def model(self) -> str:
        """What they come from, for people."""

    @property
    def kinds(self) -> tuple[HistoryKind, ...]:
        """Where the history of each control comes from; empty where none is needed."""

    async def at(self, moment_s: int) -> FloatArray:
        """Multipliers (P) of the control interval that begins at a moment [s since 1970]."""

    def record(self, moment_s: int, injected_P: IntArray) -> None:
        """Take note of the vehicles injected in the interval that began at a moment [s since 1970]."""

    async def close(self) -> None:
        """Let go of everything it holds; also twice."""


class ConstantMultipliers:
    """The baseline at all times: for those who ask for no model.

    Args:
        controls: How many control points there are.
    """

    model = "none: every multiplier is 1"
    kinds: tuple[HistoryKind, ...] = ()

    def __init__(self, controls: int) -> None:
        self._ones: FloatArray = np.ones(controls)

    async def at(self, moment_s: int) -> FloatArray:
        """Ones."""
        return self._ones

    def record(self, moment_s: int, injected_P: IntArray) -> None:
        """Nothing is learnt."""

    async def close(self) -> None:
        """Nothing is held."""


class DemandMultipliers:
    """Forecasts of trips over the baseline, from the artifact of a demand model.

    A forecast depends on the hour, the histories and the model alone: the model runs once an hour, for all controls
    together, and the multiplier runs in a straight line between the middles of the hours (see `plan_inflow`). The
    hour before the origin stands before the forecast, so that no step in demand meets the engine on the hour. Vehicles
    that were injected become the history of their hour, unless a sensor knows better.

    Args:
        controls: The control points (P).
        runtime: Runs the model.
        artifact: The model, of the trips of the demand domain.
        read: Gives what is known of the demand now; called in one thread, once before every run of the model.
        interval_s: Length of a control interval, a whole part of an hour [s].
        stale_after_s: Oldest last reading that a forecast may build on [s].
    """

    def __init__(
        self,
        controls: Sequence[Control],
        *,
        runtime: Runtime,
        artifact: Artifact,
        read: Callable[[], KnownDemand],
        interval_s: float,
        stale_after_s: float,
    ) -> None:
        _check_card(artifact)
        if interval_s != int(interval_s) or _HOUR_S % int(interval_s):
            raise InvalidParameterError(
                parameter="interval",
                provided=interval_s,
                allowed=f"whole seconds that divide {_HOUR_S}",
                fact="The control interval does not divide an hour",
                remedy="Use 60 s, say.",
            )
        self.model = artifact.model_version
        self.kinds: tuple[HistoryKind, ...] = ()
        self._controls = tuple(controls)
        self._runtime = runtime
        self._read = read
        self._interval_s = int(interval_s)
        self._stale_after_s = stale_after_s
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="demand")
        self._origin_s = -1
        self._plan: InflowPlan | None = None
        # Vehicles of each hour by its end [s since 1970], and how much of the hour they were counted over [s].
        self._injected: dict[int, tuple[FloatArray, int]] = {}

    async def at(self, moment_s: int) -> FloatArray:
        """Multipliers (P) of the control interval that begins at a moment [s since 1970].

        Raises:
            NotEnoughDataError: Nothing is known of any site's demand.
            ArtifactError: The model gives no usable forecast.
        """
        origin_s = moment_s // _HOUR_S * _HOUR_S
        if self._plan is None or origin_s != self._origin_s:
            self._plan = await self._planned(origin_s)
            self._origin_s = origin_s
        row = (moment_s - int(self._plan.begins_s[0])) // self._interval_s
        multipliers: FloatArray = self._plan.multiplier_IP[row].astype(np.float64)
        return multipliers

    def record(self, moment_s: int, injected_P: IntArray) -> None:
        """Count the vehicles of an interval to its hour."""
        hour_s = (moment_s // _HOUR_S + 1) * _HOUR_S
        before_P, covered_s = self._injected.get(hour_s, (np.zeros(len(self._controls)), 0))
        self._injected[hour_s] = (before_P + injected_P, covered_s + self._interval_s)
        oldest_s = hour_s - DEMAND.history_steps * _HOUR_S
        self._injected.pop(oldest_s, None)

    async def close(self) -> None:
        """Stop the thread and close the runtime."""
        self._reader.shutdown(wait=True)
        await self._runtime.close()

    async def _planned(self, origin_s: int) -> InflowPlan:
        loop = asyncio.get_running_loop()
        history = await loop.run_in_executor(self._reader, self._history, origin_s)
        if history.kinds != self.kinds:
            self.kinds = history.kinds
            _say_kinds(self._controls, history.kinds)
        panel = panel_from_blocks(DEMAND, list(history.sites), history.value_PTK, origin_s=origin_s)
        every = np.arange(len(history.sites))
        window = make_windows(panel, every, np.full(len(every), panel.first_origin))
        forecast = await self._runtime.predict(window, levels=[0.5])
        last_P = history.value_PTK[:, DEMAND.history_steps - 1, _TRIPS]
        return plan_inflow(_with_last_hour(forecast, last_P), list(history.sites), interval_s=self._interval_s)

    def _history(self, origin_s: int) -> DemandHistory:
        began_s = min(self._injected, default=origin_s + _HOUR_S) - _HOUR_S
        history = history_at(
            self._read(), self._controls, origin_s=origin_s, began_s=began_s, stale_after_s=self._stale_after_s
        )
        for hour_s, (injected_P, covered_s) in self._injected.items():
            step = DEMAND.history_steps - 1 - (origin_s - hour_s) // _HOUR_S
            # Of less than half an hour nothing is concluded for the whole.
            if 0 <= step < DEMAND.history_steps and covered_s * 2 >= _HOUR_S:
                self._fill(history, step, injected_P * (_HOUR_S / covered_s))
        return history

    def _fill(self, history: DemandHistory, step: int, vehicles_P: FloatArray) -> None:
        for position, (control, site, kind) in enumerate(
            zip(self._controls, history.sites, history.kinds, strict=True)
        ):
            measured = kind == "measured" and np.isfinite(history.value_PTK[position, step, _TRIPS])
            if not measured and control.baseline_veh_per_hour > 0:
                share = site.attributes[BASELINE] / control.baseline_veh_per_hour
                history.value_PTK[position, step, _TRIPS] = vehicles_P[position] * share


def _with_last_hour(forecast: Forecast, last_P: Float32Array) -> Forecast:
    """A forecast that begins an hour earlier, with what was known of that hour."""
    first_P = forecast.value_BHQ[:, 0, 0]
    before_P = np.where(np.isfinite(last_P), last_P, first_P)
    return dataclasses.replace(
        forecast,
        origins=forecast.origins - forecast.step_s,
        value_BHQ=np.concatenate([before_P[:, None, None], forecast.value_BHQ], axis=1).astype(np.float32),
    )


def _check_card(artifact: Artifact) -> None:
    """Refuse a model of something else, or of another layout of the domain, at the start and not in mid-run."""
    card = artifact.card
    expected = (DEMAND.name, TRIPS.name, DEMAND.step_s, DEMAND.history_channels, DEMAND.future_channels)
    found = (card.domain, card.target, card.step_s, card.history_channels, card.future_channels)
    if found != expected or card.static_channels != DEMAND.static_channels:
        raise ArtifactError(
            "The model is not one that this demand domain can drive a twin with",
            found=f"{card.model}, of {card.target} of {card.domain}, from {len(card.history_channels)} channels",
            remedy="Name the artifact of a demand model, or train one with `towncast train demand`.",
        )


def _say_kinds(controls: Sequence[Control], kinds: Sequence[HistoryKind]) -> None:
    told = {
        "moved": "have old readings, which stand in for the last weeks",
        "assumed": "were never measured: the profile of the known sites stands in",
    }
    for kind, what in told.items():
        names = [control.control_id for control, one in zip(controls, kinds, strict=True) if one == kind]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            _LOG.warning("%d of %d control points %s: %s", len(names), len(controls), what, shown)
