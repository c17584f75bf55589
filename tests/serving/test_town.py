"""A town from its settings: a real registry, models that are missing, and models that come later."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import serving.town as town_module
from features.errors import UnknownNameError
from features.feast_repository import FeatureRepository
from serving.app import create_app
from serving.artifacts import Artifact
from serving.settings import ServingSettings

Put = Callable[[Artifact], None]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> tuple[str, Put]:
    """An empty registry, and what puts a champion into it."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def put(artifact: Artifact) -> None:
        client.create_registered_model(artifact.name)
        version = client.create_model_version(artifact.name, source=artifact.folder.as_uri())
        client.set_registered_model_alias(artifact.name, "champion", version.version)

    return uri, put


@pytest.fixture
def settings(
    tmp_path: Path,
    registry: tuple[str, Put],
    repository: FeatureRepository,
    pollution_repository: FeatureRepository,
) -> Callable[..., ServingSettings]:
    """Makes settings whose data folder holds the features of roads and of stations."""
    for made in (repository, pollution_repository):
        for part, folder in (("feast", made.folder), ("readings", made.readings.folder)):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / made.domain.name).symlink_to(folder)
    return lambda **changes: ServingSettings(data_dir=tmp_path, tracking_uri=registry[0], **changes)


def wait_until(api: Any, ready: Callable[[Any], bool]) -> Any:
    for _ in range(200):
        reply = api.request("GET", "/health/ready")
        if ready(reply):
            return reply
        api.run(asyncio.sleep(0.05))
    raise AssertionError(reply.text)


def test_what_has_a_champion_is_served_and_the_rest_says_what_to_do(
    settings: Callable[..., ServingSettings], registry: tuple[str, Put], artifact: Artifact, open_api: Any
) -> None:
    registry[1](artifact)
    app = create_app(settings())
    with open_api(app) as api:
        # Set when all that there is has been looked for.
        domains = wait_until(api, lambda reply: app.state.loaded.is_set()).json()["domains"]
        assert domains["traffic"]["models"]["volume"]["model_version"] == "traffic-lstm-v1"
        reply = api.request("POST", "/predict/demand", json={"site_id": "x", "forecast_horizon": "2h"})
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "5"
        error = reply.json()["error"]
        assert (error["code"], "towncast train demand" in error["message"]) == ("NOT_READY", True)


def test_a_domain_that_is_named_is_needed_and_one_that_is_not_is_refused(
    settings: Callable[..., ServingSettings], registry: tuple[str, Put], artifact: Artifact, open_api: Any
) -> None:
    registry[1](artifact)
    with open_api(create_app(settings(domains="traffic, pollution"))) as api:
        body = {"location": {"road_id": "R001"}, "forecast_horizon": "2h"}
        wait_until(api, lambda reply: "towncast-pollution" in reply.text)
        assert api.request("GET", "/health/ready").status_code == 503
        assert api.request("POST", "/predict/traffic", json=body).status_code == 200
        reply = api.request("POST", "/predict/water", json={"zone_id": "x", "forecast_horizon": "24h"})
        assert "not served here. Served are traffic, pollution" in reply.json()["error"]["message"]


def test_a_model_that_is_trained_later_is_found(
    settings: Callable[..., ServingSettings],
    registry: tuple[str, Put],
    make_artifact: Callable[..., Artifact],
    open_api: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOWNCAST_ALIAS_REFRESH_S", "0.05")
    coarse, fine = (make_artifact("pollution", target, family="xgb", sites=[]) for target in ("pm10", "pm2_5"))
    with open_api(create_app(settings(domains="pollution"))) as api:
        wait_until(api, lambda reply: "towncast-pollution" in reply.text)
        registry[1](coarse)
        body = {"station_id": "P001", "forecast_horizon": "6h", "parameters": ["PM10"]}
        wait_until(api, lambda reply: reply.status_code == 200)
        assert api.request("POST", "/predict/pollution", json=body).status_code == 200
        assert api.request("POST", "/predict/pollution", json={**body, "parameters": ["PM2.5"]}).status_code == 503
        registry[1](fine)
        wait_until(api, lambda reply: "reason" not in reply.text)
        assert api.request("POST", "/predict/pollution", json={**body, "parameters": ["PM2.5"]}).status_code == 200


def test_a_fault_of_one_domain_leaves_the_others(
    settings: Callable[..., ServingSettings],
    registry: tuple[str, Put],
    artifact: Artifact,
    make_artifact: Callable[..., Artifact],
    open_api: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry[1](artifact)
    # A model of demand that nothing can be loaded from; what it raises is no error of ours.
    registry[1](make_artifact("demand", "trips", family="gru", sites=[]))
    fetch = town_module.artifact_of

    def broken(given: ServingSettings, domain: str, target: str, version: int) -> Artifact:
        if domain == "demand":
            raise ValueError("unheard of")
        return fetch(given, domain, target, version)

    monkeypatch.setattr(town_module, "artifact_of", broken)
    with open_api(create_app(settings())) as api:
        domains = wait_until(api, lambda reply: reply.status_code == 200 and "See the log" in reply.text).json()
    assert "See the log" in domains["domains"]["demand"]["models"]["trips"]["reason"]
    assert "unheard of" in caplog.text


def test_domains_are_named_in_a_variable_and_near_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWNCAST_DOMAINS", "traffic,water")
    assert ServingSettings().domains == ("traffic", "water")
    monkeypatch.setenv("TOWNCAST_DOMAINS", "trafic")
    with pytest.raises(UnknownNameError, match="traffic"):
        create_app()
