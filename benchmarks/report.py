"""What every benchmark's report has in common: where it ran, on which code, and its last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console


def arguments(description: str, *, data: bool = False) -> argparse.ArgumentParser:
    """A parser with the options that benchmarks share.

    Args:
        description: What the benchmark shows.
        data: Whether it reads published files.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures mean nothing")
    if data:
        parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the published files")
    return parser


def wide_console() -> Console:
    """A console whose tables are not squeezed when the output is kept in a file."""
    return Console(width=120, soft_wrap=True)


def commit() -> str:
    """The checked-out commit, with `+changes` where files differ from it; `unknown` outside a repository."""
    root = Path(__file__).parent
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        # The results and pictures that a run renews are no change to what it measures.
        renewed = [f":(top,exclude){path}" for path in ("benchmarks/RESULTS.md", "docs/images")]
        changed = _git(root, "status", "--porcelain", "--", ":(top)", *renewed)
        return f"{name}+changes" if changed else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Processor, usable cores, memory, and versions of the system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    """Name of the processor; the kernel's table is better than `platform` where there is one."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def print_result(benchmark: str, figures: dict[str, Any]) -> None:
    """Print the last line of a benchmark: one JSON object, without line breaks."""
    result = {"benchmark": benchmark, "commit": commit(), "machine": machine(), "figures": figures}
    print(json.dumps(result, allow_nan=False), flush=True)
