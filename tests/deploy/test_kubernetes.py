"""The Kubernetes manifests, by the schemas of a recent version and by what the API has."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

VERSION = "1.37"


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def manifests(deploy: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every manifest that stands by itself, patches and kustomizations left out."""
    folder = deploy / "kubernetes"
    for file in [folder / "secret.example.yaml", *sorted((folder / "base").glob("*.yaml"))]:
        if file.name != "kustomization.yaml":
            yield from ((file, one) for one in documents(file.read_text()))


def rendered(deploy: Path, overlay: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl apply -k` would send, by kind and name."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders the overlays")
    command = ["kubectl", "kustomize", str(deploy / "kubernetes" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {(one["kind"], one["metadata"]["name"]): one for one in documents(done.stdout)}


def pod_of(one: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one["spec"]["template"]["spec"]
    return spec


def test_every_manifest_is_of_its_schema(deploy: Path) -> None:
    found = list(manifests(deploy))
    kinds = {one["kind"] for _, one in found}
    assert kinds >= {
        "Deployment",
        "HorizontalPodAutoscaler",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ConfigMap",
        "Secret",
    }
    for _, one in found:
        assert kubernetes_validate.validate(one, VERSION, strict=True) == VERSION


def test_the_schemas_refuse_what_is_wrong(deploy: Path) -> None:
    one = documents((deploy / "kubernetes" / "base" / "deployment.yaml").read_text())[0]
    pod_of(one)["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_what_is_rendered_is_of_its_schema_and_hangs_together(deploy: Path, overlay: str) -> None:
    found = rendered(deploy, overlay)
    for one in found.values():
        kubernetes_validate.validate(one, VERSION, strict=True)
    deployment = found["Deployment", "towncast"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        selector = found[kind, "towncast"]["spec"][path]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    target = found["HorizontalPodAutoscaler", "towncast"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "towncast")
    assert "replicas" not in deployment["spec"]
    volumes = {volume["name"]: volume for volume in pod_of(deployment)["volumes"]}
    claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one]
    assert all(("PersistentVolumeClaim", claim) in found for claim in claims)
    for container in pod_of(deployment)["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert ":" in container["image"]
        for source in container["envFrom"]:
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in found


def test_probes_and_ports_are_those_of_the_api(deploy: Path, paths: set[str]) -> None:
    found = {one["kind"]: one for _, one in manifests(deploy)}
    (api,) = pod_of(found["Deployment"])["containers"]
    (port,) = api["ports"]
    environment = found["ConfigMap"]["data"]
    assert str(port["containerPort"]) == environment["TOWNCAST_PORT"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert api[probe]["httpGet"]["path"] in paths
        assert api[probe]["httpGet"]["port"] == port["name"]
    service = found["Service"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert service["metadata"]["annotations"]["prometheus.io/path"] in paths
    (ingress,) = found["NetworkPolicy"]["spec"]["ingress"]
    assert [one["port"] for one in ingress["ports"]] == [port["containerPort"]]


def test_variables_are_settings(deploy: Path, check_environment: Callable[[dict[str, str]], None]) -> None:
    found = {one["kind"]: one for _, one in manifests(deploy)}
    environment = {**found["ConfigMap"]["data"], **found["Secret"]["stringData"]}
    patch = yaml.safe_load((deploy / "kubernetes" / "gpu" / "torchserve.yaml").read_text())
    for container in [*pod_of(found["Deployment"])["containers"], *pod_of(patch)["containers"]]:
        environment |= {one["name"]: one.get("value", "towncast-5d8f-x7k2") for one in container.get("env", [])}
    assert environment["TOWNCAST_DEVICE"] == "cuda"
    check_environment(environment)
    # A service called towncast would else set TOWNCAST_PORT to an address.
    assert pod_of(found["Deployment"])["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_pods_have_no_rights_and_known_limits(deploy: Path, overlay: str) -> None:
    pod = pod_of(rendered(deploy, overlay)["Deployment", "towncast"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        # Everything that is written must lie in a volume.
        assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_jobs_run_one_at_a_time_and_see_what_the_api_sees(deploy: Path) -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for _, one in manifests(deploy)}
    job = found["CronJob", "towncast-jobs"]["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    template = job["jobTemplate"]["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert container["args"][0] == "schedule"
    assert {"/data", "/tmp"} == {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    # The service sends requests to pods with this name alone.
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] != "towncast"
    policy = found["NetworkPolicy", "towncast-jobs"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    api = pod_of(found["Deployment", "towncast"])["containers"][0]
    shared = {mount["mountPath"] for mount in api["volumeMounts"] if mount["name"] == "data"}
    assert {f"/data/{name}" for name in ("readings", "monitoring", "releases", "retraining")} <= shared
    assert container["image"] == "towncast-jobs"
    assert any(line.endswith(" AS jobs") for line in (deploy / "Dockerfile").read_text().splitlines())


def test_the_crontab_names_commands_and_settings_that_there_are(
    deploy: Path, check_environment: Callable[[dict[str, str]], None]
) -> None:
    lines = (deploy / "cron" / "towncast").read_text().splitlines()
    assert not [line for line in lines if len(line) > 998]  # cron cuts longer ones off
    environment = dict(line.split("=", 1) for line in lines if "=" in line.split(" ")[0] and line[0] != "#")
    check_environment(environment)
    jobs = [line.lstrip("# ") for line in lines if "towncast cd" in line]
    assert len(jobs) == 3
    for job in jobs:
        assert "&& towncast " in job
        assert "%" not in job  # cron makes a new line of it


def test_the_gpu_overlay_puts_torchserve_on_a_gpu_beside_the_api(deploy: Path) -> None:
    pod = pod_of(rendered(deploy, "gpu")["Deployment", "towncast"])
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    containers = {container["name"]: container for container in pod["containers"]}
    assert set(containers) == {"api", "torchserve"}
    assert containers["torchserve"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in containers["api"]["resources"].get("limits", {})
    own = [mount for mount in containers["api"]["volumeMounts"] if mount["mountPath"] == "/data"]
    assert [mount for mount in containers["torchserve"]["volumeMounts"] if mount["mountPath"] == "/data"] == own
    (address,) = [one["value"] for one in containers["api"]["env"] if one["name"] == "TOWNCAST_TORCHSERVE_URL"]
    assert address == "http://127.0.0.1:7070"


def test_the_template_of_the_secret_is_in_no_kustomization(deploy: Path) -> None:
    for file in (deploy / "kubernetes").rglob("kustomization.yaml"):
        assert "secret" not in file.read_text()
