"""The traffic domain in the size of the design document's LSTM: a window of 24 hours and 50 channels."""

from __future__ import annotations

from features.domains.traffic import TRAFFIC
from features.vocabulary import CALENDAR_CHANNELS, Quantity

HISTORY_STEPS = 24
CHANNELS = 50


def _detectors(count: int) -> tuple[Quantity, ...]:
    return tuple(
        Quantity(name=f"detector_{index:02d}", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0)
        for index in range(1, count + 1)
    )


def substitute() -> None:
    """Give the traffic domain of this process a window of 24 x 50; a second call does nothing.

    The peers' bodies must hold the same window as ours, and a towncast window of nine weeks would not be theirs. The
    one object is changed in place, so that all that hold it see the same, whenever they were imported. Only processes
    of benchmarks do this.
    """
    missing = CHANNELS - len(TRAFFIC.measured_channels) - len(CALENDAR_CHANNELS)
    changes = {
        "history_steps": HISTORY_STEPS,
        "covariates": TRAFFIC.covariates + _detectors(missing),
        "static_names": (),
    }
    for name, value in changes.items():
        object.__setattr__(TRAFFIC, name, value)
