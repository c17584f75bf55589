"""A circuit breaker: when a runtime is asked, when it is passed over, and when it is looked at again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]
# Why a breaker is open; "starting" until the first look.
Reason = Literal["", "starting", "error", "slow", "not_hosted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a breaker opens and how it comes back.

    Attributes:
        slow_calls: So many slow calls in a row open it; one error does.
        retry_s: Time until the first look [s]; it doubles with each look in vain.
        retry_most_s: Longest time between two looks [s].
        check_s: Time after which a closed breaker's idle runtime is looked at [s].
    """

    slow_calls: int = 5
    retry_s: float = 1.0
    retry_most_s: float = 10.0
    check_s: float = 10.0


class CircuitBreaker:
    """Closed: calls pass. Open: they do not, until a look is due. Half open: one look is under way, calls do not pass.

    Args:
        rules: When it opens and how it comes back.
        clock: Seconds that never go back.
        rng: Draws between half and all of each waiting time, so that many processes do not look at a time.
    """

    def __init__(
        self, rules: BreakerRules, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self.rules = rules
        self.state: State = "open"
        self.reason: Reason = "starting"
        self._clock = clock
        self._rng = rng or random.Random()
        self._slow = 0
        self._attempts = 0
        self._next_look_s = -float("inf")

    @property
    def due_in_s(self) -> float:
        """Time until the next look [s]; not positive where it is due."""
        return float("inf") if self.state == "half_open" else self._next_look_s - self._clock()

    def begin_look(self) -> None:
        """A look has begun; an open breaker is half open until it ends."""
        self._next_look_s = self._clock() + self.rules.check_s
        if self.state == "open":
            self.state = "half_open"

    def succeeded(self) -> bool:
        """A call or a look went well; whether that closed the breaker."""
        self._slow = self._attempts = 0
        self._next_look_s = self._clock() + self.rules.check_s
        closed = self.state != "closed"
        self.state, self.reason = "closed", ""
        return closed

    def was_slow(self) -> bool:
        """A call took too long; whether that opened the breaker."""
        self._slow += 1
        return self._slow >= self.rules.slow_calls and self.failed("slow")

    def failed(self, reason: Reason = "error") -> bool:
        """A call or a look went wrong; whether that opened the breaker."""
        opened = self.state == "closed"
        # Calls that were under way when it opened fail later: they are of the same outage, and not another attempt.
        if self.state != "open":
            wait_s = min(self.rules.retry_s * 2.0**self._attempts, self.rules.retry_most_s)
            self._next_look_s = self._clock() + wait_s * self._rng.uniform(0.5, 1.0)
            self._attempts = min(self._attempts + 1, 60)
        self._slow = 0
        self.state, self.reason = "open", reason
        return opened
