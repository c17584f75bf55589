"""Whether a twin is alive: `python -m serving.reactor_twin.health`, exit status 0 or 1; for a container's health check.

A twin that waits for its broker is alive. One whose loop hangs is not: its status file is not renewed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from serving.reactor_twin.settings import read_settings

STALE_AFTER_S = 15.0


def ailment(status_file: Path | None, *, now_s: float) -> str:
    """What is wrong with the twin that renews this file; empty where nothing is.

    Args:
        status_file: The file.
        now_s: Time since 1970 [s].
    """
    if status_file is None:
        return "TOWNCAST_REACTOR_STATUS_FILE is not set: name a file that the twin and this check can reach"
    try:
        age_s = now_s - status_file.stat().st_mtime
    except FileNotFoundError:
        return f"there is no {status_file} yet"
    return "" if age_s < STALE_AFTER_S else f"{status_file} was not renewed for {age_s:.0f} s"


def main() -> None:
    """Say what is wrong, if anything is."""
    wrong = ailment(read_settings().reactor_status_file, now_s=time.time())
    if wrong:
        sys.stderr.write(f"{wrong}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
