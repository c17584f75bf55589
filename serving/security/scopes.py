"""What callers may do, and which path needs what: one table, and what is not in it needs `admin`."""

from __future__ import annotations

from typing import Final

PUBLIC: Final = "public"
ADMIN: Final = "admin"
SCOPES: Final[dict[str, str]] = {
    "predict": "forecasts: POST /predict/..., and the models of /v2",
    "data": "readings, forecasts and how they do: GET /data/..., /monitoring/..., and /ws",
    "readings": "readings to send: POST /readings",
    "sessions": "simulations: /simulate/...",
    "metrics": "figures for Prometheus: /metrics",
    ADMIN: "releases, and all of the above",
}
ALL_SCOPES: Final = frozenset(SCOPES)

# The first that fits decides. One that ends in "/" stands for all below it, any other for itself alone.
_TABLE: Final[tuple[tuple[str, str], ...]] = (
    ("/health/", PUBLIC),
    ("/v2/health/", PUBLIC),
    ("/docs", PUBLIC),
    ("/docs/", PUBLIC),
    ("/openapi.json", PUBLIC),
    ("/dashboard", PUBLIC),
    ("/dashboard/assets/", PUBLIC),
    ("/monitoring", PUBLIC),
    ("/predict/", "predict"),
    ("/v2", "predict"),
    ("/v2/", "predict"),
    ("/data/", "data"),
    ("/monitoring/", "data"),
    ("/ws", "data"),
    ("/readings", "readings"),
    ("/simulate/", "sessions"),
    ("/metrics", "metrics"),
)
_VERSION: Final = "/v1"


def needed_scope(path: str) -> str:
    """The scope that a request for a path needs; `public` where it needs none."""
    asked = path.removeprefix(_VERSION) if path.startswith(f"{_VERSION}/") else path
    # The framework sends a path with one more "/" on to the one without.
    plain = asked[:-1] if asked.endswith("/") else asked
    for known, scope in _TABLE:
        if asked.startswith(known) if known.endswith("/") else plain == known:
            return scope
    return ADMIN
