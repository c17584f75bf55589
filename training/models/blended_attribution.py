"""What the blend looks at: the terms of its sum, and within its networks the groups of their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.vocabulary import Float32Array, Int64Array, Window
from training.explain import Attribution, additive_shap, coalition_shap
from training.models.additive_attribution import prophet_terms
from training.models.blended_graph import BlendGraph, Days
from training.models.day_networks import DayInputs
from training.models.local_days import WEEK_DAYS
from training.models.onnx_graph import window_tensors
from training.models.site_table import site_place

PROFILE, NOWCAST, USUAL = "seasonal profile", "errors since midnight", "networks, whatever their inputs"
GROUPS = ("networks: recent days", "networks: profile", "networks: day of week", "networks: holiday",
          "networks: weather", "networks: site")  # fmt: skip
_HOLIDAY_FLAGS = 3


def attribute(graph: BlendGraph, windows: Window, *, unit: str, rng: np.random.Generator) -> Attribution:
    """Shapley values of the blend's parts for the median at the domain's horizons.

    The forecast is a sum: the profile, the networks' residual, the Prophet's terms with its weight, and the correction
    by the errors since midnight, with which what the target's bounds cut off is counted. The networks' part is shared
    out among the groups of their inputs.

    Args:
        graph: Fitted.
        windows: What is explained, each against the others.
        unit: Of the forecast.
        rng: Source of all draws.
    """
    domain = graph.domain
    steps = [steps - 1 for steps in domain.horizons.values()]
    with torch.inference_mode():
        history, future, static = window_tensors(windows)
        days, site = graph.days(history, future), site_place(static, graph.site_code)
        weight = graph.weight_of_prophet(site)

        def at_horizons(ahead: Tensor) -> npt.NDArray[np.float64]:
            """Values of the hours of the days ahead, relative to the scale (B, A, 24), to (N, B) [unit]."""
            values: npt.NDArray[np.float64] = (
                (graph.local.steps(ahead, days.places) * days.state.scale)[:, steps].T.numpy().astype(np.float64)
            )
            return values

        inputs = graph.inputs(days, site)

        def residual(coalition: Sequence[bool], other: Int64Array) -> npt.NDArray[np.float64]:
            mixed = _mixed(graph, inputs, coalition, torch.from_numpy(other))
            with torch.inference_mode():
                parts = [share * net(mixed) for share, net in zip(graph.shares, graph.networks, strict=True)]
                found = torch.stack(parts).sum(dim=0).reshape(days.state.profile.shape)
                return at_horizons((1 - weight) * found * days.state.spread[:, :, None])

        usual, value_NBF = coalition_shap(residual, groups=len(GROUPS), rows=len(windows), rng=rng)
        terms = {PROFILE: at_horizons((1 - weight) * days.state.profile), USUAL: usual}
        terms |= {name: at_horizons(weight * term) for name, term in _prophet(graph, days, site).items()}
        median = graph.corrected(graph.from_midnight(history, future, static))[:, steps].T.numpy().astype(np.float64)
    terms[NOWCAST] = median - sum(terms.values()) - value_NBF.sum(axis=2)
    names, others = additive_shap(terms)
    value = np.concatenate([value_NBF, others], axis=2)
    return Attribution(
        explains="the median forecast",
        method="Shapley values of the networks' groups of inputs over all coalitions, and the other terms of the sum",
        unit=unit,
        features=(*GROUPS, *names),
        horizons=tuple(domain.horizons),
        value_NBF=value,
        level_BF=_levels(len(windows), (*GROUPS, *names), terms),
    )


def _prophet(graph: BlendGraph, days: Days, site: Tensor) -> dict[str, Tensor]:
    """The Prophet's terms by name, each (B, A, 24), relative to the scale."""
    if graph.prophet is None:
        return {}
    row = torch.where(site < len(graph.site_code), site, torch.zeros_like(site))
    terms = prophet_terms(graph.prophet, row, days.day, graph.columns(days).flatten(1, 2))
    return {f"Prophet: {name}": term.reshape(days.state.profile.shape) for name, term in terms.items()}


def _mixed(graph: BlendGraph, inputs: DayInputs, coalition: Sequence[bool], other: Tensor) -> DayInputs:
    """Inputs of the networks, those of groups outside the coalition from other windows on the same day ahead."""
    recent, profile, weekday, holiday, weather, site = coalition
    count = graph.local.ahead
    rows = (other[:, None] * count + torch.arange(count)[None]).flatten()
    channels, days = inputs.channels.clone(), inputs.days.clone()
    past = days.shape[1] - WEEK_DAYS - graph.profile.leads - _HOLIDAY_FLAGS
    if not recent:
        channels[:, :-1], days[:, :past] = inputs.channels[rows, :-1], inputs.days[rows, :past]
    if not profile:
        channels[:, -1] = inputs.channels[rows, -1]
    if not weekday:
        days[:, past : past + WEEK_DAYS] = inputs.days[rows, past : past + WEEK_DAYS]
    if not holiday:
        days[:, -_HOLIDAY_FLAGS:] = inputs.days[rows, -_HOLIDAY_FLAGS:]
    return DayInputs(
        channels=channels,
        days=days,
        weather=inputs.weather if weather else inputs.weather[rows],
        known=inputs.known if weather else inputs.known[rows],
        site=inputs.site if site else inputs.site[rows],
    )


def _levels(rows: int, names: Sequence[str], terms: dict[str, npt.NDArray[np.float64]]) -> Float32Array:
    """A term's own size is its value; the networks' groups have none."""
    unknown = np.full(rows, np.nan)
    levels = [terms[name][-1] if name in terms else unknown for name in names]
    found: Float32Array = np.stack(levels, axis=1).astype(np.float32)
    return found
