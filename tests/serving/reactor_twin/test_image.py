"""The image of the twin, as far as it can be checked without a container engine."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[3]
_DOCKERFILE = _ROOT / "deploy" / "reactor.Dockerfile"

# Runs with nothing but what the image installs: every other distribution's packages are not to be found.
_PROGRAM = """
import json, sys
missing = set(json.loads(sys.argv[1]))

class NotInTheImage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, NotInTheImage())
import pipelines.cli
import serving.reactor_twin.health
from serving.reactor_twin.measurements import Measurement
from serving.reactor_twin.service import ReactorService
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.twin import ReactorTwin
from sim_env.process import PROCESSES

ReactorService(ReactorSettings(), process=PROCESSES["reactor"])
twin = ReactorTwin(PROCESSES["reactor"], ReactorSettings())
twin.start()
try:
    for second in range(2):
        measured = Measurement(kind="temp", sensor_id="", value=324.0, measured_at_ns=second * 10**9, sequence=0)
        answer = twin.take_temperature(measured)
finally:
    twin.close()
print(answer.predicted_temp_k)
"""


def _instructions() -> list[str]:
    lines = [line for line in _DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def _installed_names() -> list[str]:
    """What the image installs by name, without towncast itself."""
    (command,) = [line for line in _instructions() if "-c constraints.txt" in line]
    return command.partition("-c constraints.txt")[2].split()


def _closure(names: list[str], *, own: str) -> set[str]:
    """The distributions that come with those of the given names; `own` comes without what it requires."""
    closure: set[str] = set()
    waiting = list(names)
    while waiting:
        name = _spelt(waiting.pop())
        if name in closure:
            continue
        closure.add(name)
        for text in [] if name == own else importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return closure


def _spelt(name: str) -> str:
    """A distribution's name in the spelling of indexes."""
    return re.sub(r"[-_.]+", "-", name.lower())


def test_the_image_installs_all_that_the_twin_imports() -> None:
    present = _closure([*_installed_names(), "towncast"], own="towncast")
    missing = [
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if not any(_spelt(name) in present for name in distributions)
    ]
    assert "mlflow" in missing
    words = [sys.executable, "-c", _PROGRAM, json.dumps(missing)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.splitlines()[-1]) - 324.0) < 1.0


def test_the_image_holds_what_it_copies_runs_without_rights_and_says_how_it_is() -> None:
    instructions = _instructions()
    copied = [line.split()[1:-1] for line in instructions if line.startswith("COPY") and "--from" not in line]
    assert copied
    for path in (path for paths in copied for path in paths):
        assert (_ROOT / path).exists(), path
    assert sum(line.startswith("FROM python:3.11-slim") for line in instructions) == 2
    last_user = [line for line in instructions if line.startswith("USER")][-1]
    assert last_user == "USER towncast"
    assert any("serving.reactor_twin.health" in line for line in instructions if line.startswith("HEALTHCHECK"))
    assert instructions[-1] == 'ENTRYPOINT ["towncast", "reactor"]'
