"""What a runtime promises, and the way from a window to a graph's input and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from features.card import Card
from features.errors import ArtifactError, InvalidParameterError, RuntimeUnavailableError
from features.vocabulary import Float32Array, Forecast, Window
from serving.artifacts import Artifact


class ModelNotHostedError(RuntimeUnavailableError):
    """A runtime is there, but has not this version of this model; that is no outage of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A forecast, and how it came about.

    Attributes:
        forecast: One for each window.
        runtime: What made it.
        queue_s: Time that the windows waited for their batch [s].
        inference_s: Time that the batch ran [s].
        batch: Windows in that batch.
    """

    forecast: Forecast
    runtime: str
    queue_s: float = 0.0
    inference_s: float = 0.0
    batch: int = 1


class Runtime(Protocol):
    """Answers windows with forecasts, from one artifact."""

    @property
    def name(self) -> str:
        """What replies call it."""
        ...

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        """Quantiles of the target for each window, all levels of the model by default.

        Raises:
            RuntimeUnavailableError: It cannot answer now; another runtime may.
            InvalidParameterError: The model has no such level.
        """
        ...

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """The forecast of `answer`."""
        ...

    async def ready(self) -> bool:
        """Whether it can answer now.

        Raises:
            ModelNotHostedError: It is there, and has not this model.
        """
        ...

    async def close(self) -> None:
        """Let go of everything it holds."""
        ...


def static_width(card: Card) -> int:
    """Number of static values in the graph's input; a graph has at least one."""
    return max(1, len(card.static_channels))


def graph_inputs(card: Card, window: Window) -> dict[str, Float32Array]:
    """The window as the graph's named inputs, checked against the card.

    Raises:
        ArtifactError: The window is of another layout than the model was trained on.
    """
    static = window.static_BS
    if static.shape[1] == 0:
        static = np.full((len(window), 1), np.nan, dtype=np.float32)
    inputs = {"history": window.history_BLK, "future": window.future_BHK, "static": static}
    expected = {
        "history": (len(window), card.history_steps, len(card.history_channels)),
        "future": (len(window), card.horizon_steps, len(card.future_channels)),
        "static": (len(window), static_width(card)),
    }
    for name, array in inputs.items():
        if array.shape != expected[name]:
            raise ArtifactError(
                f"The {name} of a window does not fit the model {card.model}",
                found=f"{array.shape}, the model takes {expected[name]}",
                remedy="The domain has changed since: train the model again, with `make train`.",
            )
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in inputs.items()}


def forecast_of(
    artifact: Artifact, window: Window, quantiles_BHQ: Float32Array, *, levels: Sequence[float] | None = None
) -> Forecast:
    """The graph's output as a forecast.

    Args:
        artifact: The model.
        window: What it was given.
        quantiles_BHQ: What it gave, all levels [the card's unit].
        levels: The levels to keep, ascending; all by default.

    Raises:
        ArtifactError: The output has another shape than the card says, or a value is not finite.
        InvalidParameterError: The model has no such level.
    """
    card = artifact.card
    expected = (len(window), card.horizon_steps, len(card.levels))
    if quantiles_BHQ.shape != expected or not np.isfinite(quantiles_BHQ).all():
        raise ArtifactError(
            f"The graph of {artifact.model_version} gave no usable forecast",
            found=f"shape {quantiles_BHQ.shape} for {expected}, or a value that is not finite",
            remedy="Check the readings of this site, and train the model again with `make train`.",
        )
    # Sorting quantiles that cross never makes them worse: Chernozhukov et al. 2010, doi:10.3982/ECTA7880.
    ordered: Float32Array = np.sort(quantiles_BHQ, axis=2)
    kept = tuple(card.levels)
    if levels is not None:
        ordered, kept = ordered.take(_positions(tuple(card.levels), tuple(levels), card.model), axis=2), tuple(levels)
    return Forecast(
        quantity=card.target,
        unit=card.unit,
        sites=window.sites,
        origins=window.origins,
        step_s=card.step_s,
        levels=kept,
        value_BHQ=ordered,
        model=artifact.model_version,
    )


@lru_cache(maxsize=256)
def _positions(known: tuple[float, ...], levels: tuple[float, ...], model: str) -> tuple[int, ...]:
    return tuple([_position(known, level, model) for level in levels])


def _position(known: tuple[float, ...], level: float, model: str) -> int:
    for index, own in enumerate(known):
        if abs(own - level) < 1e-9:
            return index
    raise InvalidParameterError(
        parameter="level",
        provided=level,
        allowed=list(known),
        fact=f"The model {model} has no such level",
        remedy=f"Use one of {', '.join(map(str, known))}.",
    )
