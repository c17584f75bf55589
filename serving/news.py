"""What happens while an API serves, told to whoever listens: readings, forecasts, versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsChanged:
    """New readings, or a new step, changed the windows of some sites of a domain."""

    domain: str
    sites: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastsMade:
    """Forecasts of some sites were made anew, by the model that answers for them, and are kept."""

    domain: str
    target: str
    sites: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionChanged:
    """Another version of a model answers from now on, in a role such as `champion`; "" where none has it any more."""

    domain: str
    target: str
    role: str
    model_version: str


Event = WindowsChanged | ForecastsMade | VersionChanged


class News:
    """Calls every listener with every event, on the event loop."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Have `listener` called from now on; it must be quick, and must not raise.

        Returns:
            What ends that.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, event: Event) -> None:
        """Call all listeners."""
        for listener in tuple(self._listeners):
            listener(event)
