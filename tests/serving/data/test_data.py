"""`GET /data/...`: stored readings as the document shows them."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from features.domains import DOMAINS
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from serving.data.answers import DataAnswers
from serving.data.lookup import StoredReadings
from serving.errors import install_error_replies
from serving.metrics import Metrics
from serving.routes.data import data_routes

NOW = pd.Timestamp("2026-02-06T09:20:00Z")
Get = Callable[..., httpx.Response]


def store_values(root: Path, site: str, quantity: str, values: Any, *, end: pd.Timestamp, known: Any = None) -> None:
    domain = next(one for one in DOMAINS.values() if quantity in [entry.name for entry in one.quantities])
    moments = pd.date_range(end=end, periods=len(values), freq="h")
    rows = make_readings(
        site=site,
        quantity=quantity,
        valid_at=moments,
        value=values,
        source="sensor:test",
        available_at=pd.DatetimeIndex([known] * len(values)) if known is not None else None,
    )
    place = Site(name=site, latitude=23.0225, longitude=72.5714) if site.endswith("1") else Site(name=site)
    ReadingStore(root, domain).append(check_readings(join_readings([rows]), domain), [place])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    root, end = tmp_path_factory.mktemp("readings"), NOW.floor("h")
    store_values(root, "R001", "volume", np.arange(400.0, 640.0), end=end)
    store_values(root, "R001", "speed", [41.26, 42.0], end=end - pd.Timedelta("1h"))
    store_values(root, "R001", "volume", [999.0], end=end, known=NOW)
    store_values(root, "R002", "speed", [30.0], end=end)
    store_values(root, "P001", "pm2_5", np.full(72, 85.5), end=end)
    store_values(root, "P001", "pm2_5", [45.2, 125.8], end=end + pd.Timedelta("15min"))
    store_values(root, "Z001", "inflow", [10.0, 12.0], end=end)
    store_values(root, "Z001", "tank_level", [3.5], end=end)
    store_values(root, "ramp_1", "trips", [7.0], end=end)
    made = FastAPI()
    install_error_replies(made)
    answers = DataAnswers(readings=StoredReadings(root), now=NOW.to_pydatetime)
    made.include_router(data_routes(answers, Metrics()))
    return made


@pytest.fixture
def client(app: FastAPI, open_api: Any) -> Iterator[Any]:
    with open_api(app) as opened:
        yield opened


@pytest.fixture
def get(client: Any) -> Get:
    return lambda path, **params: client.request("GET", path, params=params)


def test_traffic_is_as_the_document_shows(get: Get) -> None:
    reply = get("/data/traffic", location="R001", start="2026-02-06T00:00:00Z", end="2026-02-06T23:59:59Z")
    assert reply.status_code == 200
    content = reply.json()
    assert sorted(content) == ["data", "pagination"]
    assert content["pagination"] == {"total": 10, "page": 1, "per_page": 100}
    assert content["data"][0] == {
        "timestamp": "2026-02-06T00:00:00Z",
        "location": {"road_id": "R001", "coordinates": [23.0225, 72.5714]},
        "metrics": {
            "vehicle_count": 630,
            "average_speed": 60.0,
            "congestion_level": 18,
            "speed": "derived, assumed",
        },
    }
    eight, nine = (entry["metrics"] for entry in content["data"][-2:])
    assert (eight["average_speed"], eight["speed"]) == (42.0, "measured")
    # The revision of 9:20 counts.
    assert nine["vehicle_count"] == 999


def test_pages_hold_each_moment_once(get: Get) -> None:
    pages = [get("/data/traffic", location="R001", hours=240, page=page, per_page=100).json() for page in (1, 2, 3, 4)]
    stamps = [entry["timestamp"] for page in pages for entry in page["data"]]
    assert [len(page["data"]) for page in pages] == [100, 100, 40, 0]
    assert stamps == sorted(set(stamps))
    assert {page["pagination"]["total"] for page in pages} == {240}


def test_a_speed_without_a_volume_and_a_place_without_coordinates(get: Get) -> None:
    (entry,) = get("/data/traffic", location="R002").json()["data"]
    assert entry["location"] == {"road_id": "R002"}
    assert entry["metrics"] == {"average_speed": 30.0, "speed": "measured"}


def test_pollution_is_as_the_document_shows(get: Get) -> None:
    content = get("/data/pollution", station="P001", parameter="PM2.5", hours=24).json()
    assert (content["station_id"], content["location"]) == ("P001", [23.0225, 72.5714])
    assert (content["parameter"], content["unit"]) == ("PM2.5", "μg/m³")
    # 85.5 over 24 hours lies in 60 to 90, which India's standard puts at 100 to 200.
    eight = next(entry for entry in content["data"] if entry["timestamp"] == "2026-02-06T08:00:00Z")
    assert eight == {"timestamp": "2026-02-06T08:00:00Z", "value": 85.5, "aqi": 185, "category": "Moderate"}
    assert content["pagination"]["total"] == 26
    assert content["statistics"]["min"] == 45.2
    assert get("/data/pollution", station="P001", aqi_standard="US").json()["data"][0]["aqi"] == 172
    empty = get("/data/pollution", station="P001", parameter="CO").json()
    assert (empty["data"], "statistics" in empty) == ([], False)


def test_the_first_hours_look_back_on_those_before(get: Get) -> None:
    content = get("/data/pollution", station="P001", hours=2).json()
    assert content["data"][0]["aqi"] == 185
    first = get("/data/pollution", station="P001", start="2026-02-03T00:00:00Z", end="2026-02-04T00:00:00Z").json()
    assert first["data"][0]["aqi"] is None
    assert first["data"][0]["category"] is None


def test_water_and_demand_answer_in_the_same_manner(get: Get) -> None:
    water = get("/data/water", zone="Z001").json()
    assert [entry["metrics"] for entry in water["data"]] == [{"inflow": 10.0}, {"inflow": 12.0, "tank_level": 3.5}]
    assert water["statistics"]["inflow"] == {"min": 10.0, "max": 12.0, "mean": 11.0, "std": 1.0}
    demand = get("/data/demand", control_point="ramp_1").json()
    assert demand["data"][0]["metrics"] == {"trips": 7.0}
    assert demand["data"][0]["location"]["control_point_id"] == "ramp_1"


def test_the_nearest_place_answers(get: Get) -> None:
    content = get("/data/traffic", coordinates="23.03,72.58").json()
    assert content["data"][0]["location"]["road_id"] == "R001"
    assert get("/data/traffic", coordinates="0.0,0.0").json()["error"]["details"]["parameter"] == "coordinates"


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({}, "location"),
        ({"location": "R001", "start": "yesterday"}, "start"),
        ({"location": "R001", "start": "2026-02-06T00:00:00"}, "start"),
        ({"location": "R001", "end": "0001-01-01T00:00:00+14:00"}, "end"),
        ({"location": "R001", "start": "2026-02-07T00:00:00Z"}, "start"),
        ({"location": "R001", "start": "2020-01-01T00:00:00Z"}, "start"),
        ({"location": "R001", "start": "2026-02-06T00:00:00Z", "hours": "3"}, "hours"),
        ({"location": "R001", "hours": "0"}, "hours"),
        ({"location": "R001", "hours": "nan"}, "hours"),
        ({"location": "R001", "page": "0"}, "page"),
        ({"location": "R001", "per_page": "1001"}, "per_page"),
        ({"location": "R001", "page": "9" * 400}, "page"),
        ({"location": "R" * 201}, "location"),
        ({"coordinates": "23"}, "coordinates"),
        ({"coordinates": "999,0"}, "coordinates"),
        ({"location": "R001", "station": "P001"}, "station"),
    ],
)
def test_what_is_not_documented_is_refused(get: Get, params: dict[str, str], parameter: str) -> None:
    reply = get("/data/traffic", **params)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["details"]["parameter"] == parameter


def test_an_unknown_place_names_near_ones(get: Get) -> None:
    error = get("/data/traffic", location="R01").json()["error"]
    assert (error["code"], error["details"]["nearest"]) == ("UNKNOWN_NAME", ["R001", "R002"])
    assert get("/data/pollution", station="P001", parameter="XY").status_code == 400


def test_moments_have_their_zone(get: Get) -> None:
    content = get(
        "/data/traffic",
        location="R001",
        start="2026-02-06T13:30:00+05:30",
    ).json()
    assert content["data"][0]["timestamp"] == "2026-02-06T08:00:00Z"
    assert datetime.fromisoformat(content["data"][0]["timestamp"]).tzinfo is not None


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/data/traffic", "/data/pollution", "/data/water", "/data/demand"])
def test_generated_requests_meet_the_openapi_document(client: Any, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(client.app.openapi())[path]["GET"]

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def check(case: Any) -> None:
        arguments = case.as_transport_kwargs("http://town")
        arguments["content"] = arguments.pop("data", None)
        arguments = {key: value for key, value in arguments.items() if value is not None}
        reply = client.request(arguments.pop("method"), arguments.pop("url"), **arguments)
        assert reply.status_code < 500, reply.text
        case.validate_response(reply, excluded_checks=[schemathesis.checks.positive_data_acceptance])

    check()
