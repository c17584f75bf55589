"""The messages of the twin, as the design document has them, and the network that they speak of."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from serving.traffic_twin.histories import HistoryKind
from sim_env.traffic.engine import Control, Edge, FloatArray, TrafficState


def state_message(
    state: TrafficState,
    *,
    moment_s: float,
    edges: Sequence[Edge],
    controls: Sequence[Control],
    multiplier_P: FloatArray,
) -> bytes:
    """One message: JSON with exactly the keys of the design document.

    Args:
        state: The network.
        moment_s: The simulated moment of the state [s since 1970].
        edges: In the order of the state's arrays.
        controls: In the order of the multipliers.
        multiplier_P: What drove the interval that ends with the state.
    """
    moment = datetime.datetime.fromtimestamp(moment_s, datetime.UTC)
    content = {
        "ts": moment.strftime("%Y-%m-%dT%H:%M:%S"),
        "sim_time_s": float(state.sim_time_s),
        "controls": [
            {
                "control_id": control.control_id,
                "edge_id": control.edge_id,
                "baseline_veh_per_hour": float(control.baseline_veh_per_hour),
                "multiplier": round(multiplier, 4),
            }
            for control, multiplier in zip(controls, multiplier_P.tolist(), strict=True)
        ],
        "edges": [
            {"edge_id": edge.name, "veh_count": count, "mean_speed_mps": round(speed, 2)}
            for edge, count, speed in zip(
                edges, state.veh_count_E.tolist(), state.mean_speed_E_mps.tolist(), strict=True
            )
        ],
    }
    return to_json(content)


def network_message(
    *,
    edges: Sequence[Edge],
    controls: Sequence[Control],
    kinds: Sequence[HistoryKind],
    engine: str,
    model: str,
    interval_s: float,
    speed: float,
) -> bytes:
    """What the page needs to know once: JSON with the shapes of the edges, the controls, and what drives them."""
    histories: Sequence[HistoryKind | None] = kinds or [None] * len(controls)
    content: dict[str, Any] = {
        "engine": engine,
        "model": model,
        "interval_s": interval_s,
        "speed": speed,
        "edges": [
            {
                "edge_id": edge.name,
                "shape": [[round(x, 1), round(y, 1)] for x, y in edge.shape],
                "length_m": round(edge.length_m, 1),
                "lanes": edge.lanes,
                "speed_limit_mps": round(edge.speed_limit_mps, 2),
            }
            for edge in edges
        ],
        "controls": [
            {"control_id": control.control_id, "edge_id": control.edge_id, "history": history}
            for control, history in zip(controls, histories, strict=True)
        ],
    }
    return to_json(content)
