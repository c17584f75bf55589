"""How replies write moments and identifiers."""

from __future__ import annotations

import functools
import random
import time
from datetime import UTC, datetime

_DAY_S = 86400


@functools.lru_cache(maxsize=4096)
def utc_text(moment_s: float) -> str:
    """A moment [s since 1970] as the API writes it, such as `2026-02-06T10:00:00Z`."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(prefix: str) -> str:
    """An identifier such as `pred-20260206-5f0c3a1b9e7d2c46`: unique for all purposes, and no secret."""
    return f"{prefix}-{_day_text(int(time.time()) // _DAY_S)}-{random.getrandbits(64):016x}"


@functools.lru_cache(maxsize=2)
def _day_text(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_S, UTC).strftime("%Y%m%d")
