"""Names on the broker: what the twin reads, and what it writes.

A subject that is read is the prefix and one word. The broker's filter `prefix.*` finds no prediction: those have two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from features.errors import InvalidParameterError

_TOKENS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """The subjects of one reactor.

    Attributes:
        prefix: Such as `enterprise.site.area.line.reactor`.
    """

    prefix: str

    @property
    def everything(self) -> str:
        """All that the reactor's stream keeps."""
        return f"{self.prefix}.>"

    @property
    def consumed(self) -> str:
        """What the consumer filters by; dead letters and alerts match too and are passed over."""
        return f"{self.prefix}.*"

    @property
    def temp(self) -> str:
        """Measured temperature in the reactor [K]."""
        return f"{self.prefix}.temp"

    @property
    def flow(self) -> str:
        """Measured feed flow."""
        return f"{self.prefix}.flow"

    @property
    def coolant(self) -> str:
        """Measured coolant temperature [K]."""
        return f"{self.prefix}.coolant"

    @property
    def predicted_temp(self) -> str:
        """What the living model expected the temperature to be, before it was told [K]."""
        return f"{self.prefix}.temp.predicted"

    @property
    def predicted_concentration(self) -> str:
        """The concentration that goes with it, which nobody measures."""
        return f"{self.prefix}.concentration.predicted"

    @property
    def ideal_temp(self) -> str:
        """What a reactor without a fault would have, from flow and coolant alone [K]."""
        return f"{self.prefix}.temp.ideal"

    @property
    def deviation(self) -> str:
        """Measured minus ideal temperature [K]."""
        return f"{self.prefix}.temp.deviation"

    @property
    def alert(self) -> str:
        """That the deviation is too large, and that it is not any more."""
        return f"{self.prefix}.alert"

    @property
    def deadletter(self) -> str:
        """Messages that cannot be used, with the reason in a header."""
        return f"{self.prefix}.deadletter"

    @property
    def written(self) -> tuple[str, ...]:
        """Every subject that the twin publishes on."""
        return (
            self.predicted_temp,
            self.predicted_concentration,
            self.ideal_temp,
            self.deviation,
            self.alert,
            self.deadletter,
        )


def checked_prefix(prefix: str) -> str:
    """`prefix`, where the broker takes it as the beginning of a subject.

    Raises:
        InvalidParameterError: It holds wildcards, spaces or an empty part.
    """
    if _TOKENS.fullmatch(prefix):
        return prefix
    raise InvalidParameterError(
        parameter="prefix",
        provided=prefix,
        allowed="letters, digits, _ and -, in parts with dots between",
        fact="The prefix is no beginning of a subject",
        remedy="Name it like enterprise.site.area.line.reactor.",
    )
