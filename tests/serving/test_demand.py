"""`POST /predict/demand`: trips, and the multipliers that drive a simulation."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.app import create_app
from serving.predictions.demand import DemandResponse
from serving.service import ForecastService
from serving.settings import ServingSettings


@pytest.fixture
def demand(make_demand: Callable[[], list[ForecastService]], open_api: Any) -> Iterator[Any]:
    with open_api(create_app(ServingSettings(), services=make_demand())) as opened:
        yield opened


def ask(api: Any, **fields: Any) -> Any:
    body = {"control_point_id": "ramp_1", "forecast_horizon": "2h", **fields}
    return api.request("POST", "/predict/demand", json={k: v for k, v in body.items() if v is not None})


def test_each_hour_has_its_trips_and_its_multiplier(demand: Any) -> None:
    reply = ask(demand)
    assert reply.status_code == 200, reply.text
    content = reply.json()
    assert list(content) == [
        "request_id",
        "predictions",
        "baseline_trips",
        "model_version",
        "inference_time_ms",
        "quality",
    ]
    assert DemandResponse.model_validate_json(reply.content).model_dump(exclude_none=True) == content
    # Last week at 10:00 UTC, twice the hour in Austin, and a tenth of the last value.
    trips = 600.0 + 2 * 4.0 + 59.0
    assert content["baseline_trips"] == 600.0
    assert content["predictions"][0] == {
        "timestamp": "2026-02-06T10:00:00Z",
        "trips": pytest.approx(trips),
        "multiplier": pytest.approx(trips / 600.0, abs=1e-3),
        "confidence_interval": {
            "lower": pytest.approx(trips - 20, abs=0.11),
            "upper": pytest.approx(trips + 20, abs=0.11),
            "confidence": 0.95,
        },
    }
    assert content["quality"]["control_point_id"] == "ramp_1"
    assert content["quality"]["weather_ahead"] == "missing"


def test_without_a_baseline_of_its_own_it_is_the_mean_of_the_last_weeks(demand: Any) -> None:
    content = ask(demand, control_point_id=None, site_id="dock_2").json()
    assert content["baseline_trips"] == pytest.approx(100 + 11.5, abs=0.05)
    first = content["predictions"][0]
    assert first["multiplier"] == pytest.approx(first["trips"] / 111.5, abs=2e-3)


def test_where_nobody_ever_travels_there_is_no_multiplier(demand: Any) -> None:
    content = ask(demand, control_point_id="dock_3").json()
    assert content["baseline_trips"] == 0.0
    assert [entry["multiplier"] for entry in content["predictions"]] == [None, None]
    assert content["quality"]["constant"] is True


def test_the_inputs_are_named_on_request(demand: Any) -> None:
    top = ask(demand, include_explanation=True).json()["explanation"]["top_features"]
    assert {item["feature"] for item in top} == {"historical_demand_168h", "historical_demand_24h", "hour_of_day"}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"control_point_id": None}, 400),
        ({"site_id": "dock_2"}, 400),
        ({"site_id": "ramp_1"}, 200),
        ({"control_point_id": "ramp"}, 404),
        ({"forecast_horizon": "72h"}, 400),
        ({"control_point_id": 1}, 400),
    ],
)
def test_one_control_point_is_named_by_either_field(demand: Any, fields: dict[str, Any], status: int) -> None:
    assert ask(demand, **fields).status_code == status
