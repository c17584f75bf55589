"""A forecaster that passes over what a site measured before it became another, as a wrapper around any forecaster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from features.calendar import calendar_features
from features.files import whole_file
from features.vocabulary import Domain, Float32Array, Forecast, Quantity, Window, site_code
from training.breaks import Break, find_breaks
from training.forecaster import Forecaster
from training.models.onnx_graph import GRAPH_INPUTS
from training.window_set import Splits, WindowSet, windows_at

_FILE = "breaks.json"
_DAY_H = 24.0
# What a site's break is called in the graph where it has none: before every calendar.
_NEVER_H = -1e9
# A break after which the new usual week errs at most so much, as a share of the old one's error, needs no other proof.
_DECISIVE_RATIO = 0.5
# Of another, forgetting must take so much off the forecaster's own error, over so many origins at least.
_LEAST_GAIN = 0.05
_FEWEST_ORIGINS = 20
_PREFIX = "forgetting"


class ForgettingForecaster:
    """Another forecaster, to which a site's target before its break is missing.

    A window is touched if its origin lies a season and a day after the break: before that, what is left of it says less
    than what would be forgotten.

    Args:
        inner: Fitted, or to be fitted.
        breaks: By site; a site in no break is forecast as before.
        hours: Local hour of each break, in hours since the calendar's first day, in the order of `breaks` [h].
    """

    def __init__(self, inner: Forecaster, breaks: Sequence[Break], hours: Sequence[float]) -> None:
        self.inner = inner
        self.breaks = tuple(breaks)
        self.hours = tuple(hours)
        self.domain: Domain = inner.domain
        self.target: Quantity = inner.target
        self.levels = inner.levels

    @property
    def name(self) -> str:
        """Family of the forecaster inside: it is what was fitted."""
        return self.inner.name

    @property
    def saw_validation(self) -> bool:
        """As of the forecaster inside."""
        return self.inner.saw_validation

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Fit the forecaster inside; the breaks stay."""
        self.inner.fit(splits, seed=seed)

    def predict(self, windows: Window) -> Forecast:
        """What the forecaster inside makes of what is left."""
        return self.inner.predict(self.forgotten(windows))

    def forgotten(self, windows: Window) -> Window:
        """The windows without the targets of before their sites' breaks."""
        since_B = np.array([self._since(site_code(site)) for site in windows.sites], dtype=np.float32)
        clock_BL = _clock(windows, self.domain)
        touched = clock_BL[:, -1] >= since_B + _room_h(self.domain)
        before = (clock_BL <= since_B[:, None]) & touched[:, None]
        if not before.any():
            return windows
        history = windows.history_BLK.copy()
        channel = self.domain.targets.index(self.target)
        history[:, :, channel][before] = np.nan
        return replace(windows, history_BLK=history)

    def _since(self, code: float) -> float:
        found = [hour for one, hour in zip(self.breaks, self.hours, strict=True) if site_code(one.site) == code]
        return found[0] if found else _NEVER_H

    def onnx_model(self, sample: Window) -> ModelProto:
        """The graph of the forecaster inside, behind nodes that forget."""
        return _with_forgetting(self.inner.onnx_model(self.forgotten(sample)), self)

    def save(self, folder: Path) -> None:
        """Write the forecaster inside, and the breaks."""
        self.inner.save(folder)
        with whole_file(folder / _FILE) as path:
            path.write_text(json.dumps([[asdict(one) for one in self.breaks], list(self.hours)]), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self.inner.load(folder)
        breaks, hours = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        self.breaks, self.hours = tuple(Break(**one) for one in breaks), tuple(hours)


def forget_breaks(forecaster: Forecaster, windows: WindowSet) -> Forecaster:
    """A fitted forecaster that forgets what was before the breaks of the last weeks, where that makes it better.

    Breaks are looked for until the panel's last reading. One that is decisive is kept: the forecaster's own error since
    it is that of few origins with the least of history, and says little. Another must show there too: it is kept where
    forgetting takes a twentieth off the error of the origins since. Nothing is fitted to these hours, but a test that
    lies in them has been looked at.

    Args:
        forecaster: Fitted.
        windows: Name the panel and the target.

    Returns:
        The wrapper, or the forecaster itself where nothing is to be forgotten.
    """
    panel = windows.panel
    known = np.isfinite(panel.target_ST(windows.target)).any(axis=0)
    until = int(np.flatnonzero(known)[-1])
    kept = [
        one
        for one in find_breaks(panel, until=until, target=windows.target)
        if one.ratio <= _DECISIVE_RATIO or _gains(forecaster, one, windows, until=until)
    ]
    return ForgettingForecaster(forecaster, kept, [break_hour(one, windows) for one in kept]) if kept else forecaster


def _gains(forecaster: Forecaster, one: Break, windows: WindowSet, *, until: int) -> bool:
    """Whether forgetting what was before a break makes the forecaster better since."""
    panel = windows.panel
    since = int(one.since_s - panel.start_s) // panel.domain.step_s
    first = since + round(_room_h(panel.domain) * 3600 / panel.domain.step_s)
    origins = np.arange(first, min(until, panel.last_origin + 1), 3, dtype=np.int64)
    if not len(origins):
        return False
    site = next(index for index, entry in enumerate(panel.sites) if entry.name == one.site)
    judged = windows_at(panel, windows.target, origins)
    judged = judged.subset(judged.site_index_B == site)
    alone = ForgettingForecaster(forecaster, [one], [break_hour(one, windows)])
    enough = len(judged) >= _FEWEST_ORIGINS
    return enough and _error(alone, judged) <= (1 - _LEAST_GAIN) * _error(forecaster, judged)


def breaks_of(forecaster: Forecaster) -> tuple[Break, ...]:
    """The breaks that a forecaster forgets the time before, none where it forgets nothing."""
    return forecaster.breaks if isinstance(forecaster, ForgettingForecaster) else ()


def break_hour(one: Break, windows: WindowSet) -> float:
    """Local hour of a break, in hours since the calendar's first day [h]."""
    panel = windows.panel
    site = next(entry for entry in panel.sites if entry.name == one.site)
    calendar = calendar_features(np.array([one.since_s], dtype=np.int64), site)
    first = len(panel.domain.measured_channels)
    day, hour = (panel.domain.history_channels.index(name) - first for name in ("day_number", "hour_of_day"))
    return float(calendar[0, day] * _DAY_H + calendar[0, hour])


def _error(forecaster: Forecaster, windows: WindowSet) -> float:
    median = forecaster.predict(windows.windows()).value_BHQ[:, :, forecaster.levels.index(0.5)]
    return float(np.nanmean(np.abs(median - windows.targets())))


def _room_h(domain: Domain) -> float:
    """How long after a break windows are touched [h]."""
    return domain.season_steps * domain.step_s / 3600 + _DAY_H


def _clock(windows: Window, domain: Domain) -> Float32Array:
    """Local hours since the calendar's first day of each step, shape (B, L) [h]; exact in single precision."""
    day, hour = (domain.history_channels.index(name) for name in ("day_number", "hour_of_day"))
    clock: Float32Array = windows.history_BLK[:, :, day] * np.float32(_DAY_H) + windows.history_BLK[:, :, hour]
    return clock


def _with_forgetting(model: ModelProto, forecaster: ForgettingForecaster) -> ModelProto:
    """The graph with nodes before it that take readings away."""
    domain = forecaster.domain
    history, _, static = GRAPH_INPUTS
    remembered = f"{_PREFIX}_{history}"
    _rename_input(model.graph, history, remembered)
    nodes = _forgetting_nodes(history, static, remembered)
    values = _forgetting_values(domain, forecaster)
    before = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *before])
    model.graph.initializer.extend(numpy_helper.from_array(value, _named(name)) for name, value in values.items())
    return model


def _named(name: str) -> str:
    return f"{_PREFIX}_{name}"


def _forgetting_values(domain: Domain, forecaster: ForgettingForecaster) -> dict[str, npt.NDArray[np.generic]]:
    """Constants of the nodes; sites in no break add nothing to `never`."""
    day, hour = (domain.history_channels.index(name) for name in ("day_number", "hour_of_day"))
    of_target = np.zeros((1, 1, len(domain.history_channels)), dtype=np.bool_)
    of_target[0, 0, domain.targets.index(forecaster.target)] = True
    codes = np.array([[site_code(one.site) for one in forecaster.breaks]], dtype=np.float32)
    return {
        "day_index": np.array([day], dtype=np.int64),
        "hour_index": np.array([hour], dtype=np.int64),
        "code_index": np.array([0], dtype=np.int64),
        "last_index": np.array([-1], dtype=np.int64),
        "day_hours": np.array(_DAY_H, dtype=np.float32),
        "room": np.array(_room_h(domain), dtype=np.float32),
        "codes": codes,
        # Products and sums of whole hours below 2^24 are exact.
        "hours": np.array(forecaster.hours, dtype=np.float32)[:, None],
        "none": np.array(0.5, dtype=np.float32),
        "never": np.array(_NEVER_H, dtype=np.float32),
        "nan": np.array(np.nan, dtype=np.float32),
        "of_target": of_target,
    }


def _forgetting_nodes(history: str, static: str, remembered: str) -> list[NodeProto]:
    steps: tuple[tuple[str, tuple[str, ...], str, dict[str, int]], ...] = (
        ("Gather", (history, "day_index"), "day", {"axis": 2}),
        ("Gather", (history, "hour_index"), "hour", {"axis": 2}),
        ("Mul", ("day", "day_hours"), "day_h", {}),
        ("Add", ("day_h", "hour"), "clock", {}),
        ("Gather", ("clock", "last_index"), "now", {"axis": 1}),
        ("Gather", (static, "code_index"), "code", {"axis": 1}),
        ("Equal", ("code", "codes"), "same", {}),
        ("Cast", ("same",), "which", {"to": TensorProto.FLOAT}),
        ("MatMul", ("which", "hours"), "found", {}),
        ("Greater", ("found", "none"), "broke", {}),
        ("Where", ("broke", "found", "never"), "since_flat", {}),
        ("Unsqueeze", ("since_flat", "code_index_axis"), "since", {}),
        ("LessOrEqual", ("clock", "since"), "early", {}),
        ("Add", ("since", "room"), "from", {}),
        ("GreaterOrEqual", ("now", "from"), "touched", {}),
        ("And", ("early", "touched"), "before", {}),
        ("And", ("before", "of_target"), "gone", {}),
        ("Where", ("gone", "nan", history), remembered, {}),
    )
    outside = {history, static, remembered}
    nodes = [
        helper.make_node(
            kind,
            [name if name in outside else _named(name) for name in inputs],
            [output if output in outside else _named(output)],
            **options,
        )
        for kind, inputs, output, options in steps
    ]
    axis = helper.make_node(
        "Constant",
        [],
        [_named("code_index_axis")],
        value=numpy_helper.from_array(np.array([2], dtype=np.int64)),
    )
    return [axis, *nodes]


def _rename_input(graph: GraphProto, name: str, other: str) -> None:
    """Have all nodes read another value, those in branches of nodes too."""
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = other
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_input(attribute.g, name, other)
