"""The images, as far as they can be checked without a container engine."""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_FILES = ["Dockerfile", "gpu.Dockerfile"]

# Runs with nothing but what the image installs: every other distribution's packages are not to be found.
_PROGRAM = """
import importlib.machinery, json, pkgutil, sys
missing = set(json.loads(sys.argv[1]))

# Not an error but nothing found: some look first whether a package is there.
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.partition(".")[0] in missing else find(name, path, target)
)
import feast, mlflow, onnxruntime, psycopg
import pipelines.cli, serving
# These are the twins' and TorchServe's own, which have images of their own.
others = ("serving.traffic_twin", "serving.reactor_twin", "serving.messages", "serving.torchserve.handler")
for module in pkgutil.walk_packages(serving.__path__, "serving."):
    if not module.name.startswith(others):
        importlib.import_module(module.name)
from serving.app import create_app
from serving.settings import ServingSettings
app = create_app(ServingSettings(data_dir=sys.argv[2]), services=[])
print(len(app.openapi()["paths"]))
"""


def _instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction's word and the rest, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


def _stages(file: Path) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name, with those of the stages that it is made from."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for word, rest in _instructions(file):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = list(stages.get(base, []))
            stages[name or "last"] = current
        current.append((word, rest))
    return stages


def _said(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for found, rest in stage if found == word]


def _closure(requirements: Iterator[str]) -> set[str]:
    """The distributions that come with the requirements, their extras' too."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = canonicalize_name(wanted.name), extra
            if key in found:
                continue
            found.add(key)
            for text in importlib.metadata.requires(wanted.name) or []:
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({**default_environment(), "extra": extra}):
                    waiting.append(inner)
    return {name for name, _ in found}


def _list_requirements(file: Path, root: Path) -> list[str]:
    """What the image's own line makes of pyproject.toml."""
    (command,) = [rest for word, rest in _instructions(file) if "tomllib" in rest]
    found = re.search(r'python -c ("import tomllib.*?") > requirements.txt', command)
    assert found is not None
    (program,) = shlex.split(found[1])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", _FILES)
def test_what_is_copied_is_there_and_let_into_the_build(deploy: Path, root: Path, name: str) -> None:
    let_in = (deploy / f"{name}.dockerignore").read_text().splitlines()
    assert "*" in let_in
    stages = _stages(deploy / name)
    copied = {
        source: rest for stage in stages.values() for rest in _said(stage, "COPY") for source in rest.split()[:-1]
    }
    assert len(copied) > 5
    for source, rest in copied.items():
        stage = re.search(r"--from=(\S+)", rest)
        if stage is not None:
            assert stage[1] in stages
        else:
            assert (root / source).exists(), source
            assert f"!{source}" in let_in, source


@pytest.mark.parametrize("name", _FILES)
def test_images_are_pinned_without_rights_and_without_what_builds_them(deploy: Path, name: str) -> None:
    stages = _stages(deploy / name)
    outside = [rest.partition(" AS ")[0] for stage in stages.values() for rest in _said(stage, "FROM")]
    for base in outside:
        assert base in stages or re.search(r":\d+\.\d+\.\d+-", base), base
    ends = {end: stages[end] for end in (("api", "torchserve") if name == "Dockerfile" else ("last",))}
    for stage in ends.values():
        assert _said(stage, "USER")[-1] == "10001:10001"
        assert _said(stage, "HEALTHCHECK")
        assert _said(stage, "ENTRYPOINT")
        environment = " ".join(_said(stage, "ENV"))
        for variable in ("OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=PASSIVE", "TOWNCAST_DATA_DIR=/data"):
            assert variable in environment
        run = " ".join(_said(stage, "RUN"))
        assert not re.search(r"\bpip install|gcc|build-essential|-dev\b", run)
        assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists/*" in run


@pytest.mark.parametrize("name", _FILES)
def test_everything_that_is_installed_has_a_pinned_version(deploy: Path, root: Path, name: str) -> None:
    constraints = (root / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in constraints if "==" in line and line[0] != "#"}
    commands = " && ".join(rest for word, rest in _instructions(deploy / name) if word == "RUN")
    asked = [Requirement(text) for text in _list_requirements(deploy / name, root)]
    for install in re.findall(r"bin/pip install ([^&]*)", commands):
        words = shlex.split(install.replace("$TORCH_OPTIONS", ""))
        takes = {"-c", "-r"}
        names = [word for before, word in zip(["", *words], words, strict=False) if before not in takes]
        asked += [Requirement(word) for word in names if not word.startswith(("-", ".", "towncast["))]
    assert len(asked) > 20
    for requirement in asked:
        exact = [one.version for one in requirement.specifier if one.operator == "=="]
        assert exact or canonicalize_name(requirement.name) in pinned, str(requirement)
    # What pyproject.toml and the images say of the same thing is the same.
    versions = {canonicalize_name(one.name): one.specifier for one in asked if str(one.specifier).startswith("==")}
    for extra in importlib.metadata.requires("towncast") or []:
        known = Requirement(extra)
        other = versions.get(canonicalize_name(known.name))
        assert other is None or not str(known.specifier).startswith("==") or other == known.specifier, extra


def test_the_gpus_image_has_the_runtime_for_it_and_no_other(deploy: Path, root: Path) -> None:
    for_cpu = _list_requirements(deploy / "Dockerfile", root)
    for_gpu = _list_requirements(deploy / "gpu.Dockerfile", root)
    (left_out,) = set(for_cpu) - set(for_gpu)
    version = left_out.removeprefix("onnxruntime==")
    assert version != left_out
    text = (deploy / "gpu.Dockerfile").read_text()
    assert f"onnxruntime-gpu=={version}" in text
    assert "TOWNCAST_DEVICE=cuda" in text
    assert not [one for one in for_gpu if canonicalize_name(Requirement(one).name) == "onnxruntime"]


def test_the_apis_image_installs_all_that_the_api_imports(deploy: Path, root: Path, tmp_path: Path) -> None:
    requirements = [*_list_requirements(deploy / "Dockerfile", root), "psycopg[binary]"]
    present = _closure(iter(requirements)) | {"towncast"}
    missing = [
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if not any(canonicalize_name(name) in present for name in distributions)
    ]
    assert {"torch", "lightning", "xgboost"} <= set(missing)
    words = [sys.executable, "-c", _PROGRAM, json.dumps(missing), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) > 10


def test_health_checks_ask_for_paths_that_there_are(deploy: Path, paths: set[str]) -> None:
    (check,) = _said(_stages(deploy / "Dockerfile")["api"], "HEALTHCHECK")
    path = re.search(r"127\.0\.0\.1:8000(/[\w/]+)", check)
    assert path is not None
    assert path[1] in paths
