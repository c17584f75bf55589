"""How many requests a caller may still make in this minute.

Minutes are those of the clock, so a caller that uses up one minute at its end and the next at its beginning makes twice
the limit within seconds. A batch counts as one request.
"""

from __future__ import annotations

from typing import Final, Protocol

MINUTE_S: Final = 60
# What `take` answers in place of a number of requests that are left.
NONE_LEFT: Final = -1
ASK: Final = -2


class Limits(Protocol):
    """Counts requests by name and minute."""

    def take(self, name: str, limit: int, now_s: float) -> int:
        """Count a request.

        Args:
            name: Who makes it.
            limit: How many they may make in a minute.
            now_s: Now [s since 1970].

        Returns:
            How many are left after it; `NONE_LEFT` if it is too many; `ASK` if `ask` must be awaited first.
        """

    async def ask(self, name: str) -> None:
        """Wait for what `take` cannot tell by itself; not for long, and never in vain: `take` then decides."""

    async def close(self) -> None:
        """Let go of what counts."""


class MemoryLimits:
    """Counts in this process alone."""

    def __init__(self) -> None:
        self._minute = 0
        self._used: dict[str, int] = {}

    def take(self, name: str, limit: int, now_s: float) -> int:
        """Count a request, see `Limits`."""
        minute = int(now_s) // MINUTE_S
        if minute != self._minute:
            # All at once: what is kept is never more than the names of one minute.
            self._minute, self._used = minute, {}
        used = self._used.get(name, 0)
        if used >= limit:
            return NONE_LEFT
        self._used[name] = used + 1
        return limit - used - 1

    async def ask(self, name: str) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """Nothing to let go of."""


def reset_s(now_s: float) -> int:
    """When the minute ends [s since 1970]."""
    return (int(now_s) // MINUTE_S + 1) * MINUTE_S
