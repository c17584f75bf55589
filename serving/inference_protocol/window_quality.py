"""What is to be said about a window that came in a request, of which only its values are known."""

from __future__ import annotations

import numpy as np

from features.card import Card
from features.vocabulary import SITE_CODE, Domain, Float32Array, Window, site_code
from serving.probe import channels_read_ahead
from serving.quality import LoweredBy
from serving.service import ForecastService

_DAY_S = 86400


class WindowQuality:
    """Judges windows as `serving.quality` does, as far as their values tell.

    How old the readings are, and what gaps are farther back than the last day, whoever sent the window knows.

    Args:
        card: Of the model.
        domain: Names the channels.
        read_ahead: Channels known ahead that the model reads.
    """

    def __init__(self, card: Card, domain: Domain, *, read_ahead: tuple[str, ...]) -> None:
        self._day = max(1, _DAY_S // card.step_s)
        self._measured = len(domain.measured_channels)
        ranges = [card.input_range.get(name, (-np.inf, np.inf)) for name in domain.measured_channels]
        self._low, self._high = (np.array(ends, dtype=np.float32) for ends in zip(*ranges, strict=True))
        # Which neighbours a site has, the window does not say.
        inputs = [quantity.name for quantity in domain.inputs]
        self._target = inputs.index(card.target)
        self._inputs = np.array([name in card.input_range and name != card.target for name in inputs])
        self._ahead = [domain.future_channels.index(name) for name in read_ahead]
        self._code = card.static_channels.index(SITE_CODE) if SITE_CODE in card.static_channels else None
        self._codes = frozenset(site_code(site.name) for site in card.sites)

    @classmethod
    async def of(cls, service: ForecastService) -> WindowQuality:
        """Of a service's model; asks its runtime what the graph reads.

        Raises:
            RuntimeUnavailableError: No runtime can answer.
        """
        card, domain = service.artifact.card, service.domain
        return cls(card, domain, read_ahead=await channels_read_ahead(domain, card, service.runtime))

    def judge(self, window: Window) -> tuple[LoweredBy, ...]:
        """Names of all that makes a forecast of any of the windows less sure than the model's figures say."""
        day_BLK = window.history_BLK[:, -self._day :, : self._measured]
        reasons: dict[LoweredBy, bool] = {
            **self._missing(day_BLK[:, :, : len(self._inputs)]),
            # Comparisons with what is missing are false.
            "out_of_range": bool(((day_BLK < self._low) | (day_BLK > self._high)).any()),
            "unseen_site": self._unseen(window),
            "weather_missing": bool(self._ahead) and bool(np.isnan(window.future_BHK[:, :, self._ahead]).any()),
        }
        return tuple(name for name, holds in reasons.items() if holds)

    def _missing(self, inputs_BLK: Float32Array) -> dict[LoweredBy, bool]:
        missing_BLK = np.isnan(inputs_BLK)
        if not missing_BLK.any():
            return {}
        missing_K = np.logical_or.reduce(missing_BLK, axis=(0, 1))
        return {"missing": bool(missing_K[self._target]), "missing_inputs": bool((missing_K & self._inputs).any())}

    def _unseen(self, window: Window) -> bool:
        """Whether the site code of a window is of no site that the model was trained on."""
        if self._code is None:
            return False
        codes: list[float] = window.static_BS[:, self._code].tolist()
        return not self._codes.issuperset(codes)
