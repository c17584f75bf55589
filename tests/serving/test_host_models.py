"""The container that hosts the champions in TorchServe, with a real registry and a real TorchServe."""

import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mlflow import MlflowClient

from serving.artifacts import Artifact
from serving.settings import ServingSettings
from serving.torchserve.keys import KEY_FILE, KeyFile
from serving.torchserve.server import free_ports


@pytest.fixture(scope="module")
def host_models() -> ModuleType:
    file = Path(__file__).parents[2] / "deploy" / "host_models.py"
    spec = importlib.util.spec_from_file_location("host_models", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_champion_is_hosted_as_soon_as_there_is_one(
    host_models: ModuleType, artifact: Artifact, tmp_path: Path
) -> None:
    settings = ServingSettings(
        data_dir=tmp_path / "data", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", domains=("traffic",)
    )
    client = MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri)
    client.create_registered_model("towncast-traffic")
    stop, ports = threading.Event(), free_ports()
    hosting = threading.Thread(target=lambda: host_models.host(settings, stop, ports=ports, look_every_s=0.2))
    hosting.start()
    try:
        time.sleep(1.0)
        assert hosting.is_alive()
        assert not host_models.answers(ports)
        version = client.create_model_version("towncast-traffic", source=artifact.folder.as_uri()).version
        client.set_registered_model_alias("towncast-traffic", "champion", version)
        wait_for(lambda: bool(host_models.answers(ports)))
        # Where the API looks for the keys of a TorchServe beside it.
        wait_for(lambda: KeyFile(settings.torchserve_keys).key("inference") is not None)
        assert settings.torchserve_keys == settings.torchserve_dir / KEY_FILE
    finally:
        stop.set()
        hosting.join(60)
    assert not hosting.is_alive()
    assert not host_models.answers(ports)


def test_the_check_says_that_nothing_listens(host_models: ModuleType) -> None:
    assert not host_models.answers(free_ports())


def test_the_api_is_told_the_port_that_is_listened_on(host_models: ModuleType) -> None:
    root = Path(__file__).parents[2] / "deploy"
    address = f"http://127.0.0.1:{host_models.PORTS.inference}"
    for file in ("compose.yaml", "kubernetes/gpu/torchserve.yaml"):
        assert address in (root / file).read_text()
