"""What the files of deploy/ are compared with: the settings, the series and the paths that there really are."""

import asyncio
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic_settings import BaseSettings

import features
import pipelines
import serving
from serving.app import create_app
from serving.settings import ServingSettings


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def deploy(root: Path) -> Path:
    return root / "deploy"


@pytest.fixture(scope="session")
def settings_classes() -> list[type[BaseSettings]]:
    """Every class that reads the environment."""
    found: set[type[BaseSettings]] = set()
    for package in (features, serving, pipelines):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2].endswith("settings"):
                for value in vars(importlib.import_module(module.name)).values():
                    if isinstance(value, type) and issubclass(value, BaseSettings) and value is not BaseSettings:
                        found.add(value)
    return sorted(found, key=lambda one: one.__name__)


@pytest.fixture(scope="session")
def check_environment(settings_classes: list[type[BaseSettings]]) -> Callable[[dict[str, str]], None]:
    """Checks that every TOWNCAST variable is one that is read, with a value that its settings take."""

    def check(environment: dict[str, str]) -> None:
        ours = {name: value for name, value in environment.items() if name.startswith("TOWNCAST_")}
        known = {f"TOWNCAST_{field}".upper() for one in settings_classes for field in one.model_fields}
        assert ours
        assert not set(ours) - known
        for one in settings_classes:
            given = {
                field: ours[f"TOWNCAST_{field}".upper()]
                for field in one.model_fields
                if f"TOWNCAST_{field}".upper() in ours
            }
            one(**given)

    return check


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The API as a pod without a model has it."""
    return create_app(ServingSettings(data_dir=tmp_path_factory.mktemp("data")), services=[])


def _ask(app: FastAPI, path: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get(path)

    return asyncio.run(send())


@pytest.fixture(scope="session")
def told(app: FastAPI) -> str:
    """What the API tells Prometheus."""
    answer = _ask(app, "/metrics")
    assert answer.status_code == 200
    return answer.text


@pytest.fixture(scope="session")
def paths(app: FastAPI) -> set[str]:
    """Every path that the API documents."""
    document: dict[str, Any] = app.openapi()
    return set(document["paths"])
