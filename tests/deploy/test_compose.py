"""The compose file, by its schema and by what it names."""

import importlib.resources
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
EXPECTED = {"api", "jobs", "torchserve", "redis", "postgres", "mlflow", "prometheus", "grafana", "mosquitto", "nats"}


@pytest.fixture(scope="module")
def text(deploy: Path) -> str:
    return (deploy / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


@pytest.fixture(scope="module")
def schema() -> Any:
    """The schema of the Compose specification that check-jsonschema brings."""
    package = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(package.read_text())


def test_it_is_of_the_schema_and_the_schema_refuses_what_is_wrong(text: str, schema: Any) -> None:
    content = yaml.safe_load(text)
    jsonschema.validate(content, schema)
    content["services"]["api"]["prots"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_all_services_are_there_pinned_and_look_after_themselves(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == EXPECTED
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        if not service["image"].startswith("towncast"):
            assert re.search(r":v?\d+\.\d+", service["image"]), name
            assert "healthcheck" in service, name


def test_only_what_people_look_at_is_published_and_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"api", "mlflow", "grafana"}
    for ports in published.values():
        for port in ports:
            assert port.startswith(("127.0.0.1:", "${BIND_ADDRESS:-127.0.0.1}:"))


def test_what_is_named_is_there(text: str, services: dict[str, dict[str, Any]], deploy: Path) -> None:
    content = yaml.safe_load(text)
    for name, service in services.items():
        waits = service.get("depends_on", {})
        assert set(waits) <= set(services)
        for other, condition in waits.items() if isinstance(waits, dict) else ():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (deploy / source).exists() if source.startswith(".") else source in content["volumes"], mount
        assert set(service.get("networks", [])) <= set(content["networks"])
        if "build" in service:
            file = deploy.parent / service["build"]["dockerfile"]
            assert re.search(rf"^FROM .* AS {service['build']['target']}$", file.read_text(), re.MULTILINE)
    assert content["networks"]["back"]["internal"] is True


def test_every_password_is_asked_for_and_none_is_written_down(text: str, deploy: Path) -> None:
    example = dict(
        line.split("=", 1) for line in (deploy / ".env.example").read_text().splitlines() if line and line[0] != "#"
    )
    used = {name for name, _, _ in _VARIABLE.findall(text)}
    assert used == set(example)
    for name in used:
        if name.endswith("PASSWORD"):
            # Once is enough to stop a start without it.
            assert re.search(rf"\$\{{{name}:\?", text), name
            assert example[name] == ""
    assert "/.env" in (deploy / ".gitignore").read_text().splitlines()


def test_variables_are_settings(
    text: str, services: dict[str, dict[str, Any]], check_environment: Callable[[dict[str, str]], None]
) -> None:
    values = {"WORKERS": "2", "JWT_SECRET": "x" * 40, "OTLP_ENDPOINT": "http://collector:4318"}
    for name in ("api", "jobs", "torchserve"):
        environment = {
            key: _VARIABLE.sub(lambda found: values.get(found[1], "secret"), value)
            for key, value in services[name]["environment"].items()
        }
        check_environment(environment)


def test_the_parts_agree_on_names_and_databases(services: dict[str, dict[str, Any]], deploy: Path) -> None:
    environment = {name: _VARIABLE.sub("secret", value) for name, value in services["api"]["environment"].items()}
    addresses = [value for value in environment.values() if "://" in value]
    for address in addresses:
        host = re.search(r"://(?:[^@/]*@)?([\w.]+)", address)
        assert host is not None
        assert host[1] in {*services, "127.0.0.1"}, address
    databases = (deploy / "postgres" / "databases.sql").read_text()
    backend = services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert f"CREATE DATABASE {backend.rpartition('/')[2]} " in databases
    redis = [value.rpartition("/")[2] for value in addresses if value.startswith("redis://")]
    assert len(set(redis)) == len(redis) == 4
    hosts = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert environment["TOWNCAST_TRACKING_URI"].removeprefix("http://") in hosts
    assert services["torchserve"]["network_mode"] == "service:api"
    data = [mount for mount in services["api"]["volumes"] if mount.endswith(":/data")]
    assert services["torchserve"]["volumes"] == data
