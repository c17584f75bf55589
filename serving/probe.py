"""Which of the channels that are known ahead a graph reads: asked of the graph itself, for its card does not say."""

from __future__ import annotations

import numpy as np

from features.calendar import calendar_features
from features.card import Card
from features.vocabulary import CALENDAR_CHANNELS, Domain, Float32Array, Site, Window, site_code
from serving.runtimes.failover import FailoverRuntime

_DRAWS = 3
# Any moment will do; this is a Monday, 00:00 UTC.
_ORIGIN_S = 1_700_438_400


async def channels_read_ahead(domain: Domain, card: Card, runtime: FailoverRuntime) -> tuple[str, ...]:
    """Names of the channels known ahead that change the forecast of a drawn window when they change.

    Args:
        domain: Names the channels.
        card: Gives the ranges that values are drawn from.
        runtime: Runs the graph, on four windows a channel.

    Raises:
        RuntimeUnavailableError: No runtime can answer.
        ArtifactError: The graph gives no usable forecast where such a channel is missing.
    """
    if not domain.known_ahead:
        return ()
    # The forecast of the first window is what all others are compared with.
    window = _drawn_windows(domain, card, copies=1 + (1 + _DRAWS) * len(domain.known_ahead))
    answer = await runtime.answer(window)
    value_BHQ = answer.forecast.value_BHQ
    moved_B = np.abs(value_BHQ - value_BHQ[:1]).max(axis=(1, 2)) > 1e-5 * np.abs(value_BHQ[0]).max()
    by_channel = moved_B[1:].reshape(len(domain.known_ahead), 1 + _DRAWS)
    return tuple(name for name, moved in zip(domain.known_ahead, by_channel, strict=True) if moved.any())


def _drawn_windows(domain: Domain, card: Card, *, copies: int) -> Window:
    """A drawn window repeated; then, for each channel known ahead, that channel missing and drawn anew."""
    rng = np.random.default_rng(0)
    site = card.sites[0] if card.sites else Site(name="")
    steps = np.arange(1 - domain.history_steps, 1 + domain.horizon_steps, dtype=np.int64)
    calendar = calendar_features(_ORIGIN_S + steps * domain.step_s, site)
    history = np.empty((domain.history_steps, len(domain.history_channels)), dtype=np.float32)
    for channel, name in enumerate(domain.measured_channels):
        history[:, channel] = _draw(card, name, domain.history_steps, rng)
    history[:, len(domain.measured_channels) :] = calendar[: domain.history_steps]
    ahead = [_draw(card, name, domain.horizon_steps, rng)[:, None] for name in domain.known_ahead]
    future = np.concatenate([calendar[domain.history_steps :], *ahead], axis=1)
    histories, futures = (np.repeat(part[None], copies, axis=0) for part in (history, future))
    row = 1
    for position, name in enumerate(domain.known_ahead):
        channel = len(CALENDAR_CHANNELS) + position
        futures[row, :, channel] = np.nan
        for draw in range(1, 1 + _DRAWS):
            futures[row + draw, :, channel] = _draw(card, name, domain.horizon_steps, rng)
        row += 1 + _DRAWS
    static = [site_code(site.name), *(site.attributes.get(name, np.nan) for name in domain.static_names)]
    return Window(
        history_BLK=histories,
        future_BHK=futures,
        static_BS=np.repeat(np.asarray([static], dtype=np.float32), copies, axis=0),
        sites=(site.name,) * copies,
        origins=np.full(copies, _ORIGIN_S, dtype=np.int64),
    )


def _draw(card: Card, name: str, steps: int, rng: np.random.Generator) -> Float32Array:
    """Values over the range that a channel had in training; of a channel that it had not, from 0 to 1."""
    low, high = card.input_range.get(name, (0.0, 1.0))
    return rng.uniform(low, high, steps).astype(np.float32)
