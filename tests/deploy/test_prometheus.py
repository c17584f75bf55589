"""Prometheus' configuration, its alerts and the Grafana dashboards ask for series and labels that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import BREAKER_STATES, RETRAINING_STATES, SITE_STATES, STAGES, Metrics
from serving.service import ForecastResult

_SELECTOR = re.compile(r"\b(towncast_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
# What Prometheus adds by itself.
_ADDED = {"job", "instance"}


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of each series, `le` among them."""
    metrics = Metrics()
    target = ("water", "inflow")
    metrics.count_request("/predict/water", 200)
    metrics.observe("/predict/water", dict.fromkeys(STAGES, 0.01))
    result = SimpleNamespace(
        quality=SimpleNamespace(runtime="in_process", lowered_by=("stale",)),
        card=SimpleNamespace(domain="water", target="inflow"),
        forecast=SimpleNamespace(model="water-prophet-v1"),
    )
    metrics.count_forecast(cast(ForecastResult, result))
    metrics.count_kept(*target, "kept")
    metrics.observe_run("in_process", 1)
    metrics.count_readings("http", "water", "stored")
    metrics.observe_reading_delay("http", "water", 1.0)
    metrics.observe_arrival("http", 0.1)
    metrics.count_refusal("rate")
    metrics.set_version(*target, "champion", "water-prophet-v1")
    metrics.set_share(*target, "champion", 1.0)
    metrics.count_rollback(*target, "errors")
    metrics.set_runtime(*target, "in_process", up=True)
    metrics.set_breaker(*target, "torchserve", "open")
    metrics.set_reading_age("water", newest_s=1, median_s=2, oldest_s=3)
    metrics.set_realised(*target, "24h", mae=1.0, bias=0.0, mape_percent=2.0, coverage=0.9)
    metrics.count_realised(*target, {"joined": 1}, waiting=1)
    metrics.count_join_failure(*target)
    metrics.set_realised(*target, "24h", mae=1.0, bias=0.0, mape_percent=5.0, coverage=0.9)
    metrics.count_realised(*target, {"joined": 1}, waiting=1)
    metrics.count_join_failure(*target)
    metrics.set_site_states(*target, {"harmed": 1})
    metrics.set_drifted(*target, "feature", 1)
    metrics.set_asks_retraining(*target, "performance", asks=True)
    metrics.set_reported(*target, 1.0)
    metrics.set_retraining("water", "failed", 1.0)
    metrics.count_update("water")
    metrics.count_dropped_client("slow")
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def alerts(deploy: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted((deploy / "prometheus").glob("*alerts.yml")):
        content = yaml.safe_load(file.read_text())
        assert set(content) == {"groups"}
        found += [rule for group in content["groups"] for rule in group["rules"]]
    return found


def boards(deploy: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((deploy / "grafana").glob("*.json"))]


def panels(deploy: Path) -> list[dict[str, Any]]:
    return [panel for board in boards(deploy) for panel in board["panels"]]


def expressions(deploy: Path) -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts(deploy))
    yield from (target["expr"] for panel in panels(deploy) for target in panel.get("targets", []))
    yield from (annotation["expr"] for board in boards(deploy) for annotation in board["annotations"]["list"])


def test_every_series_that_is_asked_for_is_told_by_a_live_app(deploy: Path, told: str) -> None:
    families = dict(line.split()[2:4] for line in told.splitlines() if line.startswith("# TYPE"))
    ends = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    series = {f"{name}{end}" for name, kind in families.items() for end in ends[kind]}
    asked = {name for text in expressions(deploy) for name, _ in _SELECTOR.findall(text) if name != "up"}
    assert len(asked) > 20
    assert not asked - series


def test_every_series_is_on_a_dashboard(deploy: Path, labels: dict[str, set[str]]) -> None:
    targets = [target["expr"] for panel in panels(deploy) for target in panel.get("targets", [])]
    shown = {name for text in targets for name, _ in _SELECTOR.findall(text)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels}
    assert families == {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_labels_are_those_of_the_series(deploy: Path, labels: dict[str, set[str]]) -> None:
    for text in expressions(deploy):
        used: set[str] = set()
        for name, matchers in _SELECTOR.findall(text):
            own = _ADDED if name == "up" else labels[name] | _ADDED
            used |= own
            for label, value in _MATCHER.findall(matchers):
                assert label in own, (text, label)
                if label == "stage":
                    assert value in STAGES
                if label == "state":
                    assert set(value.split("|")) <= {*BREAKER_STATES, *SITE_STATES, *RETRAINING_STATES}
        grouped = {label.strip() for found in _GROUPED.findall(text) for label in found.split(",") if label.strip()}
        assert grouped <= used, text


def test_expressions_are_whole_and_rates_are_of_counters(deploy: Path, labels: dict[str, set[str]]) -> None:
    for text in expressions(deploy):
        promql_parser.parse(text)
        for name in re.findall(r"(?:rate|increase)\((towncast_\w+)", text):
            assert name.endswith(("_total", "_bucket", "_sum", "_count")), text
        for name in re.findall(r"histogram_quantile\([^,]+, sum by \([^)]*\) \(rate\((towncast_\w+)", text):
            assert name.endswith("_bucket")


@pytest.mark.parametrize("text", ["sum by (le) (rate(towncast_requests_total[5m])", "rate(towncast_requests_total)"])
def test_the_parser_refuses_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"unclosed|expected"):
        promql_parser.parse(text)


def test_alerts_say_what_is_wrong_and_what_to_do(deploy: Path, labels: dict[str, set[str]]) -> None:
    rules = alerts(deploy)
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names) > 8
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}
        known = set().union(*(labels.get(name, _ADDED) | _ADDED for name, _ in _SELECTOR.findall(rule["expr"])))
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known


def test_prometheus_reads_the_api_with_a_key_and_finds_its_rules(deploy: Path, paths: set[str]) -> None:
    content = yaml.safe_load((deploy / "prometheus" / "prometheus.yml").read_text())
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    assert sorted(content["rule_files"]) == sorted(file.name for file in (deploy / "prometheus").glob("*alerts.yml"))
    (job,) = [job for job in content["scrape_configs"] if job["job_name"] == "towncast"]
    assert job["metrics_path"] in paths
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    assert "api" in compose["services"]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"


def test_panels_stand_beside_each_other_and_read_the_provisioned_source(deploy: Path) -> None:
    assert len({board["uid"] for board in boards(deploy)}) == len(boards(deploy)) == 2
    for board in boards(deploy):
        check_places(board["panels"])
    provisioning = deploy / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "towncast.yaml").read_text())["providers"]
    for file in (deploy / "grafana").glob("*.json"):
        mount = f"./grafana/{file.name}:{provider['options']['path']}/{file.name}:ro"
        assert mount in compose["grafana"]["volumes"]


def check_places(found: list[dict[str, Any]]) -> None:
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${source}"}
