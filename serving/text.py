"""How replies write moments and identifiers."""

from __future__ import annotations

import functools
import uuid
from datetime import UTC, datetime


@functools.lru_cache(maxsize=4096)
def utc_text(moment_s: float) -> str:
    """A moment [s since 1970] as the API writes it, such as `2026-02-06T10:00:00Z`."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(prefix: str) -> str:
    """An identifier such as `pred-20260206-0a1b2c3d`."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d}-{uuid.uuid4().hex[:8]}"
