"""What `benchmarks.serving` must reach, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving_peers.peers import BASELINE

INFER, MADE, KEPT = "towncast, window in body", "towncast, site named", "towncast, site named, kept"
OURS = (INFER, MADE, KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of what must be reached.

    Attributes:
        name: What.
        found: The figure; None where it could not be measured.
        limit: The least or the most that is allowed.
        at_least: Whether more is better.
        unit: Of both.
        detail: What else is to be known.
    """

    name: str
    found: float | None
    limit: float
    at_least: bool
    unit: str = "x"
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.found is not None and (self.found >= self.limit if self.at_least else self.found <= self.limit)

    def as_json(self) -> dict[str, Any]:
        """For the last line."""
        return {"found": self.found, "at_least" if self.at_least else "at_most": self.limit, "met": self.met}


def rate_bars(servers: dict[str, dict[str, Any]], clients: Sequence[int]) -> list[Bar]:
    """The bars on rates and latencies; a ratio is the worst over the numbers of clients."""
    bars = []
    for name, least in ((INFER, 1.2), (MADE, 2.0), (KEPT, 8.0)):
        ratios = [ratio for count in clients if (ratio := _figure(servers, name, count, "ratio")) is not None]
        worst = min(ratios) if len(ratios) == len(clients) else None
        detail = ", ".join(f"{ratio:.2f} at {count}" for ratio, count in zip(ratios, clients, strict=False))
        bars.append(Bar(name=f"{name}: rate to {BASELINE}", found=worst, limit=least, at_least=True, detail=detail))
    bars.append(_ahead(servers, clients))
    for name, count, most in ((MADE, 32, 30.0), (KEPT, 128, 100.0)):
        if count in clients:
            p99 = _figure(servers, name, count, "p99_ms")
            bars.append(Bar(name=f"{name}: p99 at {count}", found=p99, limit=most, at_least=False, unit="ms"))
    return bars


def _ahead(servers: dict[str, dict[str, Any]], clients: Sequence[int]) -> Bar:
    """The window in the body against the best peer, at the number of clients where that is hardest."""
    peers = [name for name, found in servers.items() if name not in OURS and "unavailable" not in found]
    ratios = []
    for count in clients:
        own = _figure(servers, INFER, count, "requests_per_s")
        best = max(servers[name][str(count)]["requests_per_s"] for name in peers)
        if own is None:
            return Bar(name=f"{INFER}: rate to the best peer", found=None, limit=1.0, at_least=True)
        ratios.append(own / best)
    return Bar(name=f"{INFER}: rate to the best peer", found=round(min(ratios), 3), limit=1.0, at_least=True)


def _figure(servers: dict[str, dict[str, Any]], name: str, clients: int, metric: str) -> float | None:
    found = servers.get(name, {}).get(str(clients))
    return None if found is None else float(found[metric])


def show_bars(console: Console, bars: Sequence[Bar]) -> None:
    """A table of all bars."""
    table = Table("", "found", "bar", "", "", title="What must be reached (ratios: worst number of clients)")
    for bar in bars:
        colour, word = ("green", "met") if bar.met else ("red", "missed")
        found = "not measured" if bar.found is None else f"{bar.found:g} {bar.unit}"
        sign = "at least" if bar.at_least else "at most"
        table.add_row(bar.name, found, f"{sign} {bar.limit:g} {bar.unit}", f"[{colour}]{word}[/{colour}]", bar.detail)
    console.print(table)
