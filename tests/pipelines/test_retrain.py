"""Retraining, with real trainings of a small town: two at once, killed at every step, MLflow away, a full disk."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from rich.console import Console

from features.errors import StorageError, UnknownNameError
from pipelines.retraining_state import RetrainingRunningError, RetrainingStore
from pipelines.settings import Settings
from pipelines.train import train_domain
from training.registry import ModelRegistry
from training.tracking import Tracking

Begin = Callable[..., ForkServerProcess]
NAMES = ("towncast-town", "towncast-town-queue")
DEATHS = (
    "ingest",
    "simulate",
    "materialise",
    "tune",
    "train",
    "train:flow",
    "registered",
    "train:queue",
    "release",
    "release:flow",
    "written in the history",
    "release:queue",
)


@pytest.fixture(scope="module", autouse=True)
def _town() -> Iterator[None]:
    """The town is in the registries for these tests alone."""
    from features.domains import DOMAINS
    from tests.pipelines.small_town import enter_town
    from training.families import FAMILIES
    from training.recipes import RECIPES

    registries = (DOMAINS, FAMILIES, RECIPES)
    before = [dict(registry._entries) for registry in registries]
    enter_town()
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture(scope="module")
def begin() -> Begin:
    """Begins a retraining in a process of its own; the imports are paid for once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipelines.small_town"])

    def start(folder: Path, die_at: str = "") -> ForkServerProcess:
        from tests.pipelines.small_town import run

        process = context.Process(target=run, args=(str(folder), die_at))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Twenty weeks of readings, and an empty MLflow store."""
    from tests.pipelines.small_town import fill, settings_at

    folder = tmp_path_factory.mktemp("town")
    shutil.copy(empty_store, folder / "mlflow.db")
    fill(settings_at(folder))
    return folder


def registry(folder: Path) -> ModelRegistry:
    return ModelRegistry(Tracking(f"sqlite:///{folder / 'mlflow.db'}"))


def champions(folder: Path) -> list[int | None]:
    found = [registry(folder).champion(name) for name in NAMES]
    return [None if one is None else one.version for one in found]


def told(folder: Path, process: ForkServerProcess) -> dict[str, object]:
    process.join(timeout=120)
    assert process.exitcode == 0
    content: dict[str, object] = json.loads((folder / f"told-{process.pid}.json").read_text(encoding="utf-8"))
    return content


def test_of_two_at_once_one_is_refused_and_the_other_makes_one_champion(folder: Path, begin: Begin) -> None:
    answers = [told(folder, process) for process in (begin(folder), begin(folder))]
    refused = [answer for answer in answers if "error" in answer]
    (done,) = [answer for answer in answers if "error" not in answer]
    assert [answer["error"] for answer in refused] == ["RetrainingRunningError"]
    assert "Another training or retraining of town is running" in str(refused[0]["text"])
    assert done == {"flow": [1, "champion"], "queue": [1, "champion"], "resumed": False}
    assert champions(folder) == [1, 1]
    assert [len(registry(folder).versions(name)) for name in NAMES] == [1, 1]


def test_killed_at_every_step_it_goes_on_and_registers_nothing_twice(folder: Path, begin: Begin) -> None:
    store = RetrainingStore(folder / "var" / "retraining")
    for death in DEATHS:
        process = begin(folder, death)
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL, f"it was to die at {death}"
        state = store.latest("town")
        assert state is not None
        assert state.unfinished
        # The champion of before serves on, until the new one is released whole.
        assert champions(folder) == ([1, 1] if death != "release:queue" else [2, 1])
    assert told(folder, begin(folder)) == {"flow": [2, "champion"], "queue": [2, "champion"], "resumed": True}
    assert champions(folder) == [2, 2]
    assert [len(registry(folder).versions(name)) for name in NAMES] == [2, 2]
    client = registry(folder).tracking.connect()
    experiment = client.get_experiment_by_name("town").experiment_id
    assert client.search_runs([experiment], "attributes.status = 'RUNNING'") == []
    # The line that was written when it died did not take, and the next one did.
    lines = [(line.from_version, line.to_version, line.took) for line in registry(folder).history(NAMES[0])]
    assert lines[-1] == (1, 2, True)


def test_mlflow_that_goes_away_is_a_clear_error_and_the_next_run_completes(
    folder: Path, begin: Begin, empty_store: Path
) -> None:
    database, aside = folder / "mlflow.db", folder / "aside.db"
    answer = told(folder, begin(folder, "train:queue, without MLflow"))
    assert (answer["error"], "registry of models is gone" in str(answer["text"])) == ("StorageError", True)
    answer = told(folder, begin(folder))
    assert (answer["error"], "registry of models cannot be asked" in str(answer["text"])) == (
        "RegistryMissingError",
        True,
    )
    assert not database.exists()
    # An empty one in its place knows no champion to beat.
    shutil.copy(empty_store, database)
    answer = told(folder, begin(folder))
    assert (answer["error"], "knows no model of town any more" in str(answer["text"])) == ("StorageError", True)
    aside.replace(database)
    assert told(folder, begin(folder)) == {"flow": [3, "champion"], "queue": [3, "champion"], "resumed": True}
    assert [len(registry(folder).versions(name)) for name in NAMES] == [3, 3]


def test_a_full_disk_is_a_clear_error_and_the_next_run_completes(folder: Path, tmp_path: Path) -> None:
    from tests.pipelines import small_town

    small, before = tmp_path / "small", champions(folder)
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may make a disk that is full")
    try:
        shutil.copytree(folder / "var", small / "var")
        settings = small_town.settings_at(folder).model_copy(update={"data_dir": small / "var"})
        _resize(small, shutil.disk_usage(small).used + 64 * 1024)
        with pytest.raises(StorageError, match="disk is full"):
            small_town.retrain_town(settings)
        assert champions(folder) == before
        _resize(small, 64 * 2**20)
        outcome = small_town.retrain_town(settings)
        assert [one.release for one in outcome.targets] == ["champion", "champion"]
        assert champions(folder) == [one.version for one in outcome.targets]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def test_an_unknown_domain_or_one_without_recipe_is_refused(folder: Path) -> None:
    from tests.pipelines import small_town

    with pytest.raises(UnknownNameError, match="domain"):
        small_town.retrain(
            "tawn", trigger=small_town.BY_HAND, settings=small_town.settings_at(folder), console=small_town.QUIET
        )


def test_no_training_begins_beside_a_retraining(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with (
        RetrainingStore(settings.retraining_dir).alone("traffic", wait_s=0),
        pytest.raises(RetrainingRunningError, match="traffic"),
    ):
        train_domain("traffic", settings=settings, console=Console(quiet=True))


def test_a_second_one_waits_for_the_first_where_it_may(tmp_path: Path) -> None:
    store = RetrainingStore(tmp_path)
    with store.alone("town", wait_s=0):
        began = time.monotonic()
        with pytest.raises(RetrainingRunningError, match="--wait"), RetrainingStore(tmp_path).alone("town", wait_s=0.2):
            raise AssertionError("two are in it")
        assert time.monotonic() - began >= 0.2
        with RetrainingStore(tmp_path).alone("water", wait_s=0):
            pass
    with RetrainingStore(tmp_path).alone("town", wait_s=0):
        pass
