"""When a deviation is worth a person's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Change = Literal["raised", "cleared"]


@dataclass(slots=True, kw_only=True)
class DeviationWatch:
    """Raised by several large deviations in a row, cleared by one small one; what lies between changes nothing.

    Attributes:
        raise_k: Size that raises it [K].
        clear_k: Size below which it ends [K].
        messages: How many in a row must be as large.
        raised: Whether it is raised.
        large: How many in a row were as large.
    """

    raise_k: float
    clear_k: float
    messages: int
    raised: bool = False
    large: int = 0

    def judge(self, deviation_k: float) -> Change | None:
        """What one more deviation changes."""
        size_k = abs(deviation_k)
        self.large = self.large + 1 if size_k > self.raise_k else 0
        if not self.raised and self.large >= self.messages:
            self.raised = True
            return "raised"
        if self.raised and size_k < self.clear_k:
            self.raised = False
            return "cleared"
        return None

    def threshold_k(self, change: Change) -> float:
        """The threshold that a change crossed [K]."""
        return self.raise_k if change == "raised" else self.clear_k
