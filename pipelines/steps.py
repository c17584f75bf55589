"""Progress of a job, a line per step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console


class Steps:
    """Shows each step as it begins and how long it took.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def step(self, title: str, *, spinner: bool = True) -> Iterator[Callable[[str], None]]:
        """A step; call what it gives to add a remark to its closing line."""
        began = time.perf_counter()
        remarks: list[str] = []
        # A step with a progress bar of its own shows no spinner: a terminal has room for one live display.
        with self.console.status(title) if spinner else contextlib.nullcontext():
            yield remarks.append
        tail = f"  [dim]{'; '.join(remarks)}[/]" if remarks else ""
        self.console.print(f"[green]✓[/] {title}  [dim]{time.perf_counter() - began:.1f} s[/]{tail}")
