"""Figures of versions: sums that can be added over workers and subtracted over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import accumulate, zip_longest

# Latencies are counted in classes that grow by the eighth root of 2, 9 %: from 10 us to some 3 minutes.
_SHORTEST_S = 1e-5
_PER_OCTAVE = 8
_CLASSES = 24 * _PER_OCTAVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted of one version's answers.

    Attributes:
        requests: Answers, failed ones too.
        failures: Failed ones.
        latency: Timed answers by class of latency; shorter than all classes where the last are empty.
    """

    requests: int = 0
    failures: int = 0
    latency: tuple[int, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            latency=tuple(a + b for a, b in zip_longest(self.latency, other.latency, fillvalue=0)),
        )

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            requests=self.requests - earlier.requests,
            failures=self.failures - earlier.failures,
            latency=tuple(a - b for a, b in zip_longest(self.latency, earlier.latency, fillvalue=0)),
        )

    @property
    def timed(self) -> int:
        """Answers whose latency was measured."""
        return sum(self.latency)

    @property
    def failure_share(self) -> float:
        """Of all answers, 0 without any (0 to 1)."""
        return self.failures / self.requests if self.requests else 0.0

    def percentile_s(self, share: float) -> float:
        """The latency that a share of the timed answers does not exceed, 9 % too large at most; NaN without any [s]."""
        wanted = share * self.timed
        for index, passed in enumerate(accumulate(self.latency)):
            if passed >= wanted > 0:
                return float(_SHORTEST_S * 2 ** ((index + 1) / _PER_OCTAVE))
        return math.nan


class Tally:
    """Counts the answers of one version in one process."""

    __slots__ = ("_failures", "_latency", "_requests")

    def __init__(self) -> None:
        self._requests = 0
        self._failures = 0
        self._latency = [0] * _CLASSES

    def enter(self, seconds: float | None, *, failed: bool) -> None:
        """Count an answer, and its latency where it was measured [s]."""
        self._requests += 1
        if failed:
            self._failures += 1
        elif seconds is not None:
            exact = int(math.log2(seconds / _SHORTEST_S) * _PER_OCTAVE) if seconds > _SHORTEST_S else 0
            self._latency[min(exact, _CLASSES - 1)] += 1

    def counts(self) -> Counts:
        """What was counted so far."""
        used = max((index + 1 for index, number in enumerate(self._latency) if number), default=0)
        return Counts(requests=self._requests, failures=self._failures, latency=tuple(self._latency[:used]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Steps of forecasts of two versions whose reading has come.

    Attributes:
        steps: How many.
        champion_error: Sum of the champion's absolute errors [unit].
        rival_error: Sum of the other version's [unit].
        champion_inside: Readings inside the champion's interval.
        rival_inside: Readings inside the other's.
    """

    steps: int = 0
    champion_error: float = 0.0
    rival_error: float = 0.0
    champion_inside: int = 0
    rival_inside: int = 0

    def __add__(self, other: Matched) -> Matched:
        return Matched(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __sub__(self, earlier: Matched) -> Matched:
        return Matched(**{one.name: getattr(self, one.name) - getattr(earlier, one.name) for one in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Forecasts of two versions of the same window, side by side.

    Attributes:
        pairs: How many.
        difference: Sum of the mean differences of their medians, the rival's less the champion's [unit].
        distance: Sum of the mean absolute differences [unit].
        overlap: Sum of the shares of their intervals that both cover (0 to 1 each).
        dropped: Comparisons that were not made: too many waited, or the window changed in between.
    """

    pairs: int = 0
    difference: float = 0.0
    distance: float = 0.0
    overlap: float = 0.0
    dropped: int = 0

    def __add__(self, other: Beside) -> Beside:
        return Beside(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})
